// Makes a checkout ready to run: installs the dependencies of the lock file. Uses nothing but Node and npm, and returns
// at once when everything is in place.
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const marker = join(root, "node_modules", ".installed-lock")
const wanted = createHash("sha256").update(readFileSync(join(root, "package-lock.json"))).digest("hex")

const npm = (...args) => {
  console.error(`> npm ${args.join(" ")}`)
  // npm runs this script inside a command of its own; its variables must not steer the inner one.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^npm_(package|lifecycle|command)/.test(name))
  )
  const { status } = spawnSync("npm", args, { cwd: root, env, stdio: ["ignore", 2, 2] })
  return status === 0
}

const fail = (message) => {
  console.error(message)
  process.exit(1)
}

const [major, minor] = process.versions.node.split(".").map(Number)
if (major < 20 || (major === 20 && minor < 19)) fail(`Node 20.19 or later is needed, this is ${process.versions.node}`)

if (!existsSync(marker) || readFileSync(marker, "utf8") !== wanted) {
  if (!npm("ci", "--no-audit", "--no-fund", "--loglevel=error")) fail("the dependencies could not be installed")
  writeFileSync(marker, wanted)
}
