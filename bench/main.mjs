/**
 * npm run bench [-- NAME…] [--quick] [--only CONTENDER] [--json FILE] [--strict] …; `--help` tells the rest.
 *
 * A whole run keeps its results in bench/results/ and writes docs/performance.md and its plots from them.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs"
import { availableParallelism, cpus, loadavg, totalmem } from "node:os"
import { dirname, join, resolve } from "node:path"
import { parseArgs } from "node:util"
import { isOurs, modes } from "./contenders/index.mjs"
import { outdated, writeDocument } from "./document.mjs"
import { findPeers } from "./peers.mjs"
import { perform, planOf, stop } from "./rounds.mjs"
import { ratiosOf, regressions, summaryOf } from "./summary.mjs"
import { columns, costCells, duration, oursIn, times } from "./table.mjs"
import { behind, growthSizes, targets } from "./targets.mjs"
import { workloads } from "./workloads/index.mjs"

const usage = `npm run bench [-- NAME… options]

NAME            only workloads whose names start so (--list shows them)
--quick         fewer rounds, shorter, and nothing above a million records
--smoke         only whether each of our own works: tiny, in one process
--only NAME     only contenders whose names start so
--rounds N      so many rounds
--json FILE     keep the results there
--profile DIR   a CPU profile of each process there
--directory DIR where the stores are made and removed (on a disk, not in memory)
--docs          no run: docs/performance.md and its plots from the results that are kept
--check         no run: whether they are what those results give
--baseline      keep the ratios of this run for later ones to be compared with
--strict        end with status 1 when a ratio is worse than the baseline's
--list          no run: the workloads and their contenders
`

const forms = {
  full: {
    rounds: 3,
    budget_ms: 800,
    warm_operations: 4_000,
    delay_ms: 500,
    filling_ms: 4_000,
    idle_ms: 100,
    operations_max: 400_000,
    warm_laps: 3,
    shrink: 1,
    records_max: 10_000_000
  },
  quick: {
    rounds: 1,
    budget_ms: 200,
    warm_operations: 2_000,
    delay_ms: 200,
    filling_ms: 2_000,
    idle_ms: 50,
    operations_max: 200_000,
    warm_laps: 3,
    shrink: 1,
    records_max: 1_000_000
  },
  smoke: {
    rounds: 1,
    budget_ms: 1,
    warm_operations: 0,
    delay_ms: 1,
    filling_ms: 1,
    idle_ms: 1,
    warm_laps: 0,
    operations_max: 64,
    shrink: 10_000,
    records_max: 1_000_000
  }
}

const here = import.meta.dirname
const root = dirname(here)
const kept = join(here, "results", "latest.json")
const baseline_file = join(here, "baseline.json")
const tolerance = 0.3
const busy_load = 0.7

const say = (text) => process.stdout.write(`${text}\n`)
const fail = (text) => {
  process.stderr.write(`bench: error: ${text}\n`)
  process.exit(1)
}

const argumentsOf = () => {
  const flag = { type: "boolean", default: false }
  const text = { type: "string" }
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        quick: flag,
        smoke: flag,
        docs: flag,
        check: flag,
        baseline: flag,
        strict: flag,
        list: flag,
        help: flag,
        only: text,
        rounds: text,
        json: text,
        profile: text,
        directory: text
      }
    })
  } catch (error) {
    return fail(error.message)
  }
}

const filesystems = {
  0xef53: "ext4",
  0x58465342: "xfs",
  0x9123683e: "btrfs",
  0x01021994: "tmpfs",
  0x794c7630: "overlayfs"
}

const machineOf = (directory) => ({
  node: process.versions.node,
  platform: `${process.platform} ${process.arch}`,
  processor: cpus()[0]?.model.trim() ?? "unknown",
  cores: availableParallelism(),
  memory_gib: Math.round(totalmem() / 2 ** 30),
  filesystem: filesystems[statfsSync(directory).type] ?? "unknown",
  load: Number(loadavg()[0].toFixed(1))
})

const onStep = ({ answer, contender, failed, workload }, index, of) => {
  const place = `${String(index + 1).padStart(String(of).length)}/${of}`
  const told = failed !== undefined
    ? `FAILED: ${failed}`
    : answer.cost_ns !== undefined
    ? `${duration(answer.cost_ns).padStart(9)}, ${times(answer.ratio)} F`
    : answer.held_bytes !== undefined
    ? `${times(answer.held_bytes)} B a key`
    : "done"
  say(`${place}  ${workload.name.padEnd(13)} ${contender.padEnd(18)} ${told}`)
}

const tableOf = (results) => {
  const rows = [[
    "workload",
    "contender",
    "median",
    "mean",
    "F",
    "ours",
    "F is",
    "an acknowledged call survives power loss"
  ]]
  for (const [workload, contenders] of Object.entries(results.workloads)) {
    const ours = oursIn(contenders)
    for (const [contender, figures] of Object.entries(contenders)) {
      if (figures.series !== undefined) continue
      const { survives } = modes[contender]
      const power = survives.power ? "yes" : survives.kill ? "no" : "no, nor a kill"
      rows.push([workload, contender, ...costCells(figures, ours), power])
    }
  }
  return columns(rows, [false, false, true, true, true, true, true, false]).join("\n")
}

const growthOf = (results) => {
  const sizes = growthSizes(results)
  if (sizes.length === 0) return ""
  const rows = Object.keys(sizes[0].series).map((name) => [name, ...sizes.map(({ series }) => duration(series[name]))])
  const head = ["a record, at", ...sizes.map(({ records }) => records.toLocaleString("en"))]
  return `\n${columns([head, ...rows], head.map((_, column) => column > 0)).join("\n")}\n`
}

const report = (results) => {
  say(`\n${tableOf(results)}`)
  say(growthOf(results))
  if (results.form !== "smoke") reportTargets(results)
  for (const [name, { missing }] of Object.entries(results.peers)) {
    if (missing !== undefined) say(`\n! ${name} was NOT MEASURED: ${missing}`)
  }
  for (const [workload, contenders] of Object.entries(results.workloads)) {
    for (const [contender, { failed }] of Object.entries(contenders)) {
      if (failed !== undefined) say(`! ${workload}, ${contender}: a process FAILED: ${failed}`)
    }
  }
}

const reportTargets = (results) => {
  const rows = targets.flatMap(({ ask, target, what }) => {
    const asked = ask(results)
    return asked === undefined ? [] : [[asked.reached ? "reached" : "MISSED", what, asked.measured, target]]
  })
  if (rows.length > 0) say(columns([["target", "what", "measured", "to reach"], ...rows], []).join("\n"))
  for (const line of behind(results)) say(`BEHIND: ${line}`)
}

/** Warns of every ratio that is worse than the one that is kept: how many there are. */
const warn = (results) => {
  if (!existsSync(baseline_file)) return 0
  const worse = regressions(results, JSON.parse(readFileSync(baseline_file, "utf8")))
  for (const { before, name, ratio } of worse) {
    say(`WARNING: ${name}: ${times(ratio)} F, the baseline is ${times(before)} F`)
  }
  return worse.length
}

const keep = (file, value) => {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, `${JSON.stringify(value, null, 2)}\n`)
}

const run = async (form_name, positionals, values) => {
  const form = { ...forms[form_name], ...(values.rounds === undefined ? {} : { rounds: Number(values.rounds) }) }
  if (!Number.isSafeInteger(form.rounds) || form.rounds < 1) return fail("--rounds is a whole number above 0")
  const chosen = workloads.filter(({ name }) =>
    positionals.length === 0 || positionals.some((start) => name.startsWith(start))
  )
  if (chosen.length === 0) return fail(`no workload is named ${positionals.join(", ")}; --list shows them`)
  const peers = findPeers()
  const missing = new Map(Object.entries(peers).filter(([, { missing }]) => missing !== undefined))
  for (const [name, { missing: reason }] of missing) say(`! ${name} is NOT MEASURED: ${reason}`)
  let steps = planOf({ form, missing, only: values.only, workloads: chosen })
  if (form_name === "smoke") {
    const kinds = new Map(chosen.toReversed().map((workload) => [workload.kind, workload]))
    steps = steps.filter(({ contender, workload }) => isOurs(contender) && kinds.get(workload.kind) === workload)
  }
  if (steps.length === 0) return fail("nothing is left to measure")
  const parent = values.directory ?? join(root, ".tmp")
  mkdirSync(parent, { recursive: true })
  const machine = machineOf(parent)
  if (machine.filesystem === "tmpfs") say("! the stores are in memory, not on a disk: --directory names another place")
  if (machine.load > busy_load) say(`! the machine is busy (load ${machine.load}): times mean little, ratios to F more`)
  const directory = mkdtempSync(join(parent, "bench-"))
  for (const [signal, status] of [["SIGINT", 130], ["SIGTERM", 143]]) {
    process.once(signal, () => {
      stop()
      rmSync(directory, { recursive: true, force: true })
      process.exit(status)
    })
  }
  const execArgv = values.profile === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${resolve(values.profile)}`]
  try {
    const together = form_name === "smoke"
    const done = await perform(steps, {
      execArgv,
      form,
      onStep: together ? undefined : onStep,
      root: directory,
      together
    })
    return { schema: "effect-datawal.bench.v1", form: form_name, machine, peers, workloads: summaryOf(done) }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

const main = async () => {
  const { positionals, values } = argumentsOf()
  if (values.help) return say(usage)
  if (values.list) {
    return say(columns(workloads.map(({ contenders, name }) => [name, contenders.join(", ")]), []).join("\n"))
  }
  if (values.check) {
    const files = outdated(root, kept)
    return files.length === 0 ? undefined : fail(`not what the results give: ${files.join(", ")}`)
  }
  if (values.docs) return writeDocument(root, kept)
  const form_name = values.smoke ? "smoke" : values.quick ? "quick" : "full"
  const started = performance.now()
  const results = await run(form_name, positionals, values)
  if (values.json !== undefined) keep(resolve(values.json), results)
  report(results)
  say(`\n${Math.round((performance.now() - started) / 1_000)} s`)
  const worse = form_name === "smoke" ? 0 : warn(results)
  const whole = form_name === "full" && positionals.length === 0 && values.only === undefined
  if (whole) {
    keep(kept, results)
    writeDocument(root, kept)
    say("kept in bench/results/latest.json; docs/performance.md is written from it")
  }
  if (values.baseline) keep(baseline_file, { tolerance, ratios: ratiosOf(results) })
  const failures = Object.values(results.workloads).flatMap((contenders) =>
    Object.entries(contenders).filter(([contender, { failed }]) => failed !== undefined && isOurs(contender))
  )
  if (failures.length > 0 || (values.strict && worse > 0)) process.exitCode = 1
}

await main()
