// npm run torture -- --minutes N --seed S [--runs R] Random lives of a store over the simulated disk
// (test/support/torture.ts), for as long as one likes. A seed that fails is printed with its life, made small, and
// ends it with status 1.
import { spawnSync } from "node:child_process"
import { mkdirSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { parseArgs } from "node:util"

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "1" },
    seed: { type: "string", default: "1000000" },
    runs: { type: "string" }
  }
})
const [minutes, seed, runs] = [values.minutes, values.seed, values.runs ?? "Infinity"].map(Number)
if (!(minutes > 0) || !Number.isSafeInteger(seed) || seed < 0 || !(runs > 0)) {
  console.error("usage: npm run torture -- --minutes N --seed S [--runs R]")
  process.exit(1)
}

// The suite is TypeScript; Node 20 wants JavaScript.
const root = dirname(dirname(fileURLToPath(import.meta.url)))
const work = join(root, ".tmp", "torture")
mkdirSync(work, { recursive: true })
const compilerOptions = {
  rootDir: root,
  outDir: join(work, "out"),
  declaration: false,
  declarationMap: false,
  sourceMap: false
}
writeFileSync(
  join(work, "tsconfig.json"),
  JSON.stringify({
    extends: join(root, "tsconfig.base.json"),
    compilerOptions,
    files: [join(root, "test", "support", "torture.ts")]
  })
)
const tsc = join(root, "node_modules", "typescript", "bin", "tsc")
const { status } = spawnSync(process.execPath, [tsc, "-p", work], { cwd: root, stdio: "inherit" })
if (status !== 0) process.exit(status ?? 1)

const load = (file) => import(pathToFileURL(join(work, "out", "test", "support", file)).href)
const { Effect } = await import("effect")
const { torture } = await load("torture.js")
const { Counts } = await load("crashPoints.js")

const counts = new Counts()
const started = Date.now()
const end = started + minutes * 60_000
const batch = 50
let done = 0
let failure
while (failure === undefined && done < runs && (values.runs !== undefined || Date.now() < end)) {
  const size = Math.min(batch, runs - done)
  failure = await Effect.runPromise(torture(seed + done, size, counts))
  done += size
  const seconds = (Date.now() - started) / 1_000
  const line = `${done.toLocaleString("en")} lives in ${seconds.toFixed(0)} s, next seed ${seed + done}`
  process.stderr.write(process.stderr.isTTY ? `\r${line} ` : `${line}\n`)
}
if (process.stderr.isTTY) process.stderr.write("\n")
console.log(counts.toString())
if (failure !== undefined) {
  console.log(failure)
  process.exit(1)
}
