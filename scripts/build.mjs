// Compiles src/ into dist/ unless that is fresh already. With --clean, into an empty one, so that nothing stale is
// packed.
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const dist = join(root, "dist")
const stamp = join(root, ".tmp", "built")

const hash = createHash("sha256").update(process.versions.node)
for (const name of ["tsconfig.base.json", "tsconfig.build.json", "package-lock.json"]) {
  hash.update(readFileSync(join(root, name)))
}
for (const entry of readdirSync(join(root, "src"), { recursive: true, withFileTypes: true })) {
  if (entry.isFile()) hash.update(entry.name).update(readFileSync(join(entry.parentPath ?? entry.path, entry.name)))
}
const sources = hash.digest("hex")

const clean = process.argv.includes("--clean")
const fresh = existsSync(stamp) && readFileSync(stamp, "utf8") === sources && existsSync(join(dist, "index.js"))
if (!clean && fresh) process.exit(0)

if (clean) rmSync(dist, { recursive: true, force: true })
const tsc = join(root, "node_modules", "typescript", "bin", "tsc")
const { status } = spawnSync(process.execPath, [tsc, "-p", "tsconfig.build.json"], { cwd: root, stdio: "inherit" })
if (status !== 0) process.exit(status ?? 1)

const bin = join(dist, "bin.js")
if (existsSync(bin)) chmodSync(bin, 0o755)
mkdirSync(dirname(stamp), { recursive: true })
writeFileSync(stamp, sources)
