// Compiles src/ into dist/. With --clean, into an empty one, so that nothing stale is packed.
import { spawnSync } from "node:child_process"
import { chmodSync, existsSync, rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
if (process.argv.includes("--clean")) rmSync(join(root, "dist"), { recursive: true, force: true })

const tsc = join(root, "node_modules", "typescript", "bin", "tsc")
const { status } = spawnSync(process.execPath, [tsc, "-p", "tsconfig.build.json"], { cwd: root, stdio: "inherit" })
if (status !== 0) process.exit(status ?? 1)

const bin = join(root, "dist", "bin.js")
if (existsSync(bin)) chmodSync(bin, 0o755)
