// npm run torture -- --minutes N --seed S [--runs R] Random lives of a store over the simulated disk
// (test/support/torture.ts), for as long as one likes. A seed that fails is printed with its life, made small, and
// ends it with status 1.
import { dirname, join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { parseArgs } from "node:util"
import { compile } from "./compile.mjs"

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "1" },
    seed: { type: "string", default: "1000000" },
    runs: { type: "string", default: "Infinity" }
  }
})
const [minutes, seed, runs] = [values.minutes, values.seed, values.runs].map(Number)
if (!(minutes > 0) || !Number.isSafeInteger(seed) || seed < 0 || !(runs > 0)) {
  console.error("usage: npm run torture -- --minutes N --seed S [--runs R]")
  process.exit(1)
}

const work = join(dirname(dirname(fileURLToPath(import.meta.url))), ".tmp", "torture")
compile(work, "torture.ts")
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
while (failure === undefined && done < runs && Date.now() < end) {
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
