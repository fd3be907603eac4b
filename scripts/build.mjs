// Compiles src/ into dist/ unless that is fresh already, and puts the command with all it imports into one file. With
// --clean, into an empty dist/, so that nothing stale is packed.
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join, relative } from "node:path"
import { fileURLToPath } from "node:url"
import { rolldown } from "rolldown"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const dist = join(root, "dist")
const aside = join(root, ".tmp", `command-${process.pid}`)
const stamp = join(root, ".tmp", "built")

const hash = createHash("sha256").update(process.versions.node)
for (
  const name of [
    "scripts/build.mjs",
    "tsconfig.base.json",
    "tsconfig.build.json",
    "package.json",
    "package-lock.json"
  ]
) {
  hash.update(readFileSync(join(root, name)))
}
for (const entry of readdirSync(join(root, "src"), { recursive: true, withFileTypes: true })) {
  if (!entry.isFile()) continue
  const path = join(entry.parentPath ?? entry.path, entry.name)
  hash.update(relative(root, path)).update(readFileSync(path))
}
const sources = hash.digest("hex")

const clean = process.argv.includes("--clean")
const fresh = existsSync(stamp) && readFileSync(stamp, "utf8") === sources && existsSync(join(dist, "bin.js"))
if (!clean && fresh) process.exit(0)

if (clean) rmSync(dist, { recursive: true, force: true })
const tsc = join(root, "node_modules", "typescript", "bin", "tsc")
const { status } = spawnSync(process.execPath, [tsc, "-p", "tsconfig.build.json"], { cwd: root, stdio: "inherit" })
if (status !== 0) process.exit(status ?? 1)

// What a source that is gone has left would be packed.
const compiled = /(\.d)?\.[jt]s(\.map)?$/
for (const name of readdirSync(dist, { recursive: true }).filter((name) => compiled.test(name))) {
  if (!existsSync(join(root, "src", name.replace(compiled, ".ts")))) rmSync(join(dist, name))
}

/** The licences of the packages that these modules are of. */
const licencesOf = (modules) => {
  const packages = new Set(modules.flatMap((id) => /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+/.exec(id)?.[0] ?? []))
  return [...packages].map((directory) => {
    const { name, version } = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"))
    const file = readdirSync(directory).find((entry) => /^licen[cs]e/i.test(entry))
    if (file === undefined) throw new Error(`${name} ${version} is put into the command, and has no licence`)
    return `${name} ${version}\n\n${readFileSync(join(directory, file), "utf8").trim()}\n`
  })
}

// Names stay as they are, so that a stack says where it was. What is native is found beside the package.
const bundle = await rolldown({
  input: join(root, "src", "bin.ts"),
  platform: "node",
  external: ["koffi"]
})
const { output: [command] } = await bundle.write({
  file: join(aside, "bin.js"),
  codeSplitting: false,
  minify: { compress: true, mangle: false, codegen: true }
})
await bundle.close()
chmodSync(join(aside, "bin.js"), 0o755)
writeFileSync(
  join(aside, "bin.licenses.txt"),
  `dist/bin.js holds code of these packages.\n\n${licencesOf(command.moduleIds).join(`\n${"-".repeat(80)}\n\n`)}`
)
// Renamed, for another process may be about to start the old one.
for (const name of ["bin.js", "bin.licenses.txt"]) renameSync(join(aside, name), join(dist, name))
rmSync(aside, { recursive: true })

mkdirSync(dirname(stamp), { recursive: true })
writeFileSync(stamp, sources)
