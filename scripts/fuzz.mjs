// npm run fuzz -- --minutes N --seed S [--target NAME] [--runs R]
// npm run fuzz -- --target NAME --input BASE64
//
// Hostile inputs (test/support/fuzz.ts), for as long as one likes, or one of them again.
//
// V8 counts which blocks of src/ have run, and an input that reaches a new one is kept, to be mutated now and then. An
// input that fails is made small and printed with the way to see it again, and ends it with status 1. Each target runs
// in a process of its own, with a limit on its memory, so that one that hangs or dies is known by its last input.
import { fork } from "node:child_process"
import { openSync, readFileSync, rmSync, symlinkSync, writeSync } from "node:fs"
import { Session } from "node:inspector/promises"
import { dirname, join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { parseArgs } from "node:util"
import { compile } from "./compile.mjs"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const work = join(root, ".tmp", "fuzz")
const out = join(work, "out")

// What the kernel and Node need beside the cases, which are small.
const heap_mebibytes_max = 512
// No case takes a second.
const silence_ms_max = 60_000
// How often a file or a pipe is told of the progress.
const told_ms_min = 10_000
// Asking for the coverage costs as much as some cases.
const batch = 32
// Measured on planted faults: inputs made afresh find more of them, sooner, than those made of kept ones.
const mutated_percent = 25

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "1" },
    seed: { type: "string", default: "1000000" },
    runs: { type: "string", default: "Infinity" },
    target: { type: "string" },
    input: { type: "string" },
    worker: { type: "boolean", default: false }
  }
})
const [minutes, seed, runs] = [values.minutes, values.seed, values.runs].map(Number)

const load = (file) => import(pathToFileURL(join(out, file)).href)
const lastInput = (target) => join(work, `last-${target}`)

// -- one target, in a process of its own ------------------------------------------------------------------------------

/** The blocks of the compiled sources that have run since it was asked last, but not before. */
const watchBlocks = async () => {
  const session = new Session()
  session.connect()
  await session.post("Profiler.enable")
  await session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true })
  const known = new Set()
  return {
    known,
    fresh: async () => {
      const { result } = await session.post("Profiler.takePreciseCoverage")
      return result.filter(({ url }) => url.includes("/.tmp/fuzz/out/src/")).flatMap(({ functions, url }) =>
        functions.flatMap(({ ranges }) =>
          ranges.filter(({ count }) => count > 0).map(({ endOffset, startOffset }) =>
            `${url} ${startOffset} ${endOffset}`
          )
        )
      ).filter((block) => !known.has(block))
    }
  }
}

const runTarget = async () => {
  const blocks = await watchBlocks()
  const { Counts, explain, problemOf, targets } = await load("test/support/fuzz.js")
  const { mutated, seededInput } = await load("test/support/fuzzSource.js")
  const { seeded } = await load("src/internal/simulatedRandom.js")
  const target = targets.find(({ name }) => name === values.target)
  const descriptor = openSync(lastInput(target.name), "w")
  const pick = seeded(seed)
  const counts = new Counts()
  const kept = []
  const started = performance.now()
  let done = 0
  let told = 0
  process.on("unhandledRejection", (reason) => {
    throw reason
  })

  const check = async (input, tally) => {
    // Read by the parent when this process does not come back.
    writeSync(descriptor, `${Buffer.from(input).toString("base64url").padEnd(6_000)}\n`, 0)
    const problem = await problemOf(target, input, tally)
    if (performance.now() - told > 1_000) {
      told = performance.now()
      process.send({ done, kept: kept.length, blocks: blocks.known.size })
    }
    return problem
  }
  const nextInput = () =>
    kept.length === 0 || pick(100) >= mutated_percent
      ? seededInput(seed + done)
      : mutated(kept[pick(kept.length)], kept[pick(kept.length)], pick)
  const keep = async (inputs) => {
    const all = await blocks.fresh()
    if (all.length === 0) return
    for (const input of inputs) {
      await check(input, () => {})
      const reached = await blocks.fresh()
      if (reached.length > 0) kept.push(input)
      for (const block of reached) blocks.known.add(block)
    }
    for (const block of all) blocks.known.add(block)
  }

  let failed
  while (failed === undefined && done < runs && performance.now() - started < minutes * 60_000) {
    const inputs = []
    while (failed === undefined && inputs.length < batch && done < runs) {
      const input = nextInput()
      inputs.push(input)
      done++
      if ((await check(input, counts.add)) !== undefined) failed = input
    }
    await keep(inputs)
  }
  const failure = failed && await explain(target, failed, `case ${done} of seed ${seed}`)
  process.send({ done, kept: kept.length, blocks: blocks.known.size, counts: counts.toString(), failure })
  process.disconnect()
}

// -- all of them ------------------------------------------------------------------------------------------------------

/** Runs a target for its share of the time: what it came to, and what is wrong, if anything is. */
const watch = (name, share) =>
  new Promise((resolve) => {
    const started = Date.now()
    const args = [
      "--worker",
      "--target",
      name,
      "--minutes",
      String(share),
      "--seed",
      values.seed,
      "--runs",
      values.runs
    ]
    const child = fork(fileURLToPath(import.meta.url), args, {
      execArgv: [`--max-old-space-size=${heap_mebibytes_max}`]
    })
    let last = { done: 0, kept: 0, blocks: 0 }
    let told = started
    let silence
    const listen = () => {
      clearTimeout(silence)
      silence = setTimeout(() => child.kill("SIGKILL"), silence_ms_max)
    }
    listen()
    child.on("message", (message) => {
      listen()
      last = message
      const seconds = ((Date.now() - started) / 1_000).toFixed(0)
      const { blocks, done, kept } = message
      const line = `${name}: ${done.toLocaleString("en")} cases in ${seconds} s, ${kept} kept for ${blocks} blocks`
      if (process.stderr.isTTY) process.stderr.write(`\r${line} `)
      else if (message.counts !== undefined || Date.now() - told >= told_ms_min) {
        told = Date.now()
        process.stderr.write(`${line}\n`)
      }
    })
    child.on("exit", (code, signal) => {
      clearTimeout(silence)
      if (process.stderr.isTTY) process.stderr.write("\n")
      if (code === 0 && last.counts !== undefined) return resolve(last)
      const input = readFileSync(lastInput(name), "latin1").trim()
      const failure = `${name}: it ended with ${signal ?? `status ${code}`}, or said nothing for ` +
        `${silence_ms_max / 1_000} s, in case ${last.done} or soon after it\n` +
        `replay with: npm run fuzz -- --target ${name} --input ${input}`
      resolve({ ...last, failure })
    })
  })

const again = async () => {
  const { problemOf, targets } = await load("test/support/fuzz.js")
  const target = targets.find(({ name }) => name === values.target)
  const input = new Uint8Array(Buffer.from(values.input, "base64url"))
  console.log(target.describe(input))
  const problem = await problemOf(target, input, () => {})
  console.log(problem ?? "nothing is wrong")
  process.exit(problem === undefined ? 0 : 1)
}

if (values.worker) await runTarget()
else {
  const isNumber = minutes > 0 && Number.isSafeInteger(seed) && seed >= 0 && runs > 0
  compile(work, "fuzz.ts")
  rmSync(join(out, "test", "fixtures"), { force: true })
  symlinkSync(join(root, "test", "fixtures"), join(out, "test", "fixtures"))
  const { targets } = await load("test/support/fuzz.js")
  const names = targets.map(({ name }) => name).filter((name) => name === (values.target ?? name))
  if (!isNumber || names.length === 0 || (values.input !== undefined && values.target === undefined)) {
    console.error(
      "usage: npm run fuzz -- --minutes N --seed S [--target NAME] [--runs R]\n" +
        "       npm run fuzz -- --target NAME --input BASE64\n" +
        `targets: ${targets.map(({ name }) => name).join(", ")}`
    )
    process.exit(1)
  }
  if (values.input !== undefined) await again()
  let total = 0
  for (const name of names) {
    const { counts, done, failure } = await watch(name, minutes / names.length)
    total += done
    if (counts !== undefined) console.log(counts)
    if (failure === undefined) continue
    console.log(failure)
    process.exit(1)
  }
  console.log(`${total.toLocaleString("en")} cases, and nothing is wrong`)
}
