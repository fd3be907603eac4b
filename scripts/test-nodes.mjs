// Runs the suite on other Node versions: `npm run test:nodes -- 24 22` (24 unless told). Each version comes from
// npm's package `node`; each runs in a checkout of its own under .tmp/.
import { execFileSync, spawnSync } from "node:child_process"
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { delimiter, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const versions = process.argv.slice(2)
if (versions.length === 0) versions.push("24")

const outerEnv = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^npm_(package|lifecycle|command|node|config_prefix)/.test(name))
)

const run = (command, args, cwd, env) => {
  console.log(`> ${command} ${args.join(" ")}`)
  return spawnSync(command, args, { cwd, env, stdio: "inherit" }).status === 0
}

/** The folder that holds bin/ of a version. */
const install = (version) => {
  const home = join(root, ".tmp", "nodes", version)
  // The package's own install script brings the binary: a second npm install takes it for a stray, and removes it.
  rmSync(home, { recursive: true, force: true })
  mkdirSync(home, { recursive: true })
  writeFileSync(join(home, "package.json"), JSON.stringify({ private: true, allowScripts: { node: true } }))
  if (!run("npm", ["install", `node@${version}`, "--no-audit", "--no-fund"], home, outerEnv)) process.exit(1)
  const inner = join(home, "node_modules", "node", "node_modules")
  const hoisted = join(home, "node_modules")
  const folder = existsSync(inner) ? inner : hoisted
  const name = readdirSync(folder).find((name) => /^node-(linux|darwin)/.test(name))
  if (name === undefined) throw new Error(`npm's package node@${version} brought no binary for this platform`)
  return join(folder, name)
}

const checkout = (version) => {
  const target = join(root, ".tmp", "nodes", version, "checkout")
  rmSync(target, { recursive: true, force: true })
  const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
    cwd: root,
    encoding: "utf8"
  })
  for (const file of files.trim().split("\n")) {
    if (existsSync(join(root, file))) cpSync(join(root, file), join(target, file))
  }
  // The suite asks git which files are the project's.
  for (const args of [["init", "-q"], ["add", "-A"]]) execFileSync("git", args, { cwd: target })
  return target
}

for (const version of versions) {
  const node = install(version)
  const env = {
    ...outerEnv,
    PATH: `${join(node, "bin")}${delimiter}${process.env.PATH}`
  }
  const target = checkout(version)
  console.log(`> node ${execFileSync("node", ["--version"], { env, encoding: "utf8" }).trim()}`)
  if (!run("npm", ["test"], target, env)) {
    console.error(`the suite fails on Node ${version}`)
    process.exit(1)
  }
}
