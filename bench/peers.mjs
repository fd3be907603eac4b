/** Which of the peers' packages are there, and in which version. */
import { spawnSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { packages } from "./contenders/index.mjs"

const require = createRequire(import.meta.url)

const versionOf = (name) => {
  let directory = dirname(require.resolve(name))
  while (!existsSync(join(directory, "package.json")) || !directory.endsWith(name)) directory = dirname(directory)
  return JSON.parse(readFileSync(join(directory, "package.json"), "utf8")).version
}

// In a process of its own: an addon that was built for another Node may end it.
const uses = {
  "better-sqlite3": "new (require('better-sqlite3'))(':memory:').close()"
}

const look = (name) => {
  try {
    require.resolve(name)
  } catch {
    return { missing: "not installed" }
  }
  const script = uses[name] ?? `require(${JSON.stringify(name)})`
  const { status, stderr } = spawnSync(process.execPath, ["-e", script], { cwd: import.meta.dirname, encoding: "utf8" })
  if (status === 0) return { version: versionOf(name) }
  return { missing: /^\w*Error: .*$/m.exec(stderr)?.[0] ?? "it does not load" }
}

/** By name: a version, or why it is missing. */
export const findPeers = () => Object.fromEntries(packages.map((name) => [name, look(name)]))
