// Runs examples/main-job, compiled unless that is fresh already. It imports the library by name, as any program
// would, so the library must be built (`npm run build`).
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const out = join(root, ".tmp", "examples")
const main = join(out, "main-job", "main.js")
const stamp = join(out, ".built")

const hash = createHash("sha256").update(process.versions.node)
for (const name of ["tsconfig.base.json", "tsconfig.examples.json"]) hash.update(readFileSync(join(root, name)))
const sources = join(root, "examples", "main-job")
for (const name of readdirSync(sources).sort()) hash.update(name).update(readFileSync(join(sources, name)))
const wanted = hash.digest("hex")

if (!existsSync(main) || !existsSync(stamp) || readFileSync(stamp, "utf8") !== wanted) {
  const tsc = join(root, "node_modules", "typescript", "bin", "tsc")
  const { status } = spawnSync(process.execPath, [tsc, "-p", "tsconfig.examples.json"], { cwd: root, stdio: "inherit" })
  if (status !== 0) process.exit(status ?? 1)
  writeFileSync(stamp, wanted)
}

// Whoever reads along, as `head` does, may have seen enough.
process.stdout.on("error", (error) => {
  if (error.code !== "EPIPE") throw error
  process.exit(0)
})

await import(main)
