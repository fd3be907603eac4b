/**
 * Compiles `dist/` before the first test, and puts the command into one file: a process that loads 250 modules takes
 * half a second to start, and the tests of the command start hundreds.
 */
import { execFileSync } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { build } from "vite"

export const setup = async (): Promise<void> => {
  execFileSync(process.execPath, ["scripts/build.mjs"], { stdio: "inherit" })
  const sources = readFileSync(join(".tmp", "built"), "utf8")
  const target = join(".tmp", "command")
  const stamp = join(target, "built")
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === sources) return
  // Aside, for another run may be using the old one. As deep as in `dist/cli`, from where it looks for the package.
  const aside = join(".tmp", `command-${process.pid}`)
  await build({
    configFile: false,
    logLevel: "warn",
    // All of it, as it is: nothing the command does may depend on what a bundler has left out.
    build: {
      ssr: join("dist", "bin.js"),
      outDir: aside,
      minify: false,
      target: "node20",
      rolldownOptions: { treeshake: false, output: { entryFileNames: "bin.js", codeSplitting: false } }
    },
    ssr: { noExternal: true, external: ["koffi", "@node-rs/crc32", "cli-progress"] }
  })
  writeFileSync(join(aside, "built"), sources)
  mkdirSync(target, { recursive: true })
  for (const name of ["bin.js", "built"]) renameSync(join(aside, name), join(target, name))
  rmSync(aside, { recursive: true })
}
