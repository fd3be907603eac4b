// Compiles a program of test/support/ with all that it imports: the suite is TypeScript, and Node 20 wants JavaScript.
import { spawnSync } from "node:child_process"
import { mkdirSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** Into `work`/out, which has the folders of the project. */
export const compile = (work, program) => {
  mkdirSync(work, { recursive: true })
  const outDir = join(work, "out")
  const compilerOptions = { rootDir: root, outDir, declaration: false, declarationMap: false, sourceMap: false }
  const files = [join(root, "test", "support", program)]
  writeFileSync(
    join(work, "tsconfig.json"),
    JSON.stringify({ extends: join(root, "tsconfig.base.json"), compilerOptions, files })
  )
  const tsc = join(root, "node_modules", "typescript", "bin", "tsc")
  const { status } = spawnSync(process.execPath, [tsc, "-p", work], { cwd: root, stdio: "inherit" })
  if (status !== 0) process.exit(status ?? 1)
}
