// npm run bench [-- …]: installs what the benchmark is measured against, if that is missing, and runs bench/main.mjs.
// A peer that cannot be installed or built is left out, and the results say so.
import { spawn, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const bench = join(root, "bench")
const marker = join(bench, "node_modules", ".installed-lock")
const args = process.argv.slice(2)

// What was built for one Node does not load in another.
const wanted = createHash("sha256").update(process.versions.modules).update(readFileSync(join(bench, "package.json")))
  .update(readFileSync(join(bench, "package-lock.json"))).digest("hex")

// Not `npm ci`: that refuses a lock file without the optional binaries of other platforms that a registry has not got.
const install = () => {
  // npm runs this script inside a command of its own; its variables must not steer the inner one.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^npm_(package|lifecycle|command)/.test(name))
  )
  // Node's own headers, where they lie beside it: the addons are then built without fetching any.
  const home = dirname(dirname(process.execPath))
  if (env.npm_config_nodedir === undefined && existsSync(join(home, "include", "node", "node_api.h"))) {
    env.npm_config_nodedir = home
  }
  console.error("> npm install, in bench/: an addon may have to be compiled, which takes some minutes, once")
  const npm = ["install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
  const { status } = spawnSync("npm", npm, { cwd: bench, env, stdio: ["ignore", 2, 2] })
  if (status !== 0) {
    console.error("the peers could not be installed: the benchmark goes on without them")
    return
  }
  mkdirSync(dirname(marker), { recursive: true })
  writeFileSync(marker, wanted)
}

const needless = ["--smoke", "--docs", "--check", "--list", "--help"].some((flag) => args.includes(flag))
if (!needless && (!existsSync(marker) || readFileSync(marker, "utf8") !== wanted)) install()

const child = spawn(process.execPath, [join(bench, "main.mjs"), ...args], { cwd: root, stdio: "inherit" })
// It removes what it has made; the terminal sends it an interrupt by itself.
process.on("SIGTERM", () => child.kill("SIGTERM"))
process.on("SIGINT", () => {})
child.on("close", (status) => process.exit(status ?? 1))
