/** What is to be reached, and whether it was: each is asked of the results, and has no answer where they are silent. */
import { aboutOf, isOurs, promisesMore } from "./contenders/index.mjs"
import { duration, times } from "./table.mjs"
import { workloads } from "./workloads/index.mjs"
import { power } from "./workloads/measured.mjs"

const of = (results, workload, contender = "datawal") => results.workloads[workload]?.[contender]

const named = (workload, contender = "datawal") => contender === "datawal" ? workload : `${workload}, ${contender}`

const ratio = (workload, most, contender) => ({
  what: named(workload, contender),
  target: `at most ${most} F`,
  ask: (results) => {
    const figures = of(results, workload, contender)
    return figures?.ratio && { measured: `${times(figures.ratio.median)} F`, reached: figures.ratio.median <= most }
  }
})

const cost = (workload, most_ns, { contender, target, show = duration }) => ({
  what: named(workload, contender),
  target,
  ask: (results) => {
    const figures = of(results, workload, contender)
    return figures?.cost_ns && {
      measured: show(figures.cost_ns.median),
      reached: figures.cost_ns.median <= most_ns
    }
  }
})

const perSecond = (value) => `${(1e9 / value / 1e6).toPrecision(3)} M records/s`
const rate = (bytes) => (value) => `${(bytes / value * 1e9 / 2 ** 30).toPrecision(3)} GiB/s`
const rateTarget = (workload, bytes, gib) =>
  cost(workload, bytes / gib / 2 ** 30 * 1e9, { target: `at least ${gib} GiB/s`, show: rate(bytes) })

const against = (workload, other, most, contender = "datawal") => ({
  what: `${workload} against ${other}`,
  target: most === 1 ? "less" : `at most ${most} times`,
  ask: (results) => {
    const [ours, theirs] = [of(results, workload, contender)?.cost_ns, of(results, other, contender)?.cost_ns]
    if (ours === undefined || theirs === undefined) return undefined
    const factor = ours.median / theirs.median
    return { measured: `${factor.toPrecision(3)} times`, reached: most === 1 ? factor < 1 : factor <= most }
  }
})

const total = (workload, contender, most_ms) => ({
  what: `${workload}, ${contender}`,
  target: `at most ${most_ms} ms`,
  ask: (results) => {
    const figures = of(results, workload, contender)
    return figures?.total_ms && {
      measured: `${Math.round(figures.total_ms.median)} ms`,
      reached: figures.total_ms.median <= most_ms
    }
  }
})

const memory = (workload, most) => ({
  what: workload,
  target: `at most ${most} B a key`,
  ask: (results) => {
    const figures = of(results, workload)
    return figures?.held_bytes && {
      measured: `${figures.held_bytes.median.toPrecision(3)} B`,
      reached: figures.held_bytes.median <= most
    }
  }
})

const delay_ms_max = 5

const responsive = {
  what: "the event loop's delay in every workload, p99.9",
  target: `at most ${delay_ms_max} ms beyond one large call`,
  ask: (results) => {
    const delays = Object.entries(results.workloads).flatMap(([workload, contenders]) =>
      Object.entries(contenders).flatMap(([contender, { delay }]) =>
        delay === undefined ? [] : [{ name: `${workload}, ${contender}`, beyond_ms: delay.beyond_ms }]
      )
    )
    if (delays.length === 0) return undefined
    const worst = delays.reduce((worst, delay) => delay.beyond_ms > worst.beyond_ms ? delay : worst)
    const late = delays.filter(({ beyond_ms }) => beyond_ms > delay_ms_max).length
    return {
      measured: `${worst.beyond_ms.toPrecision(3)} ms (${worst.name}); ${
        delays.length - late
      } of ${delays.length} reach it`,
      reached: late === 0
    }
  }
}

const added_mib_max = 64

// At the most records that were measured.
const constantMemory = {
  what: "memory added by a stream of the largest log",
  target: `at most ${added_mib_max} MiB`,
  ask: (results) => {
    const largest = growthSizes(results).at(-1)
    return largest && {
      measured: `${Math.round(largest.added_mib.stream)} MiB at ${largest.records.toLocaleString("en")} records`,
      reached: largest.added_mib.stream <= added_mib_max
    }
  }
}

/** The results of the growing stores, from the smallest on. */
export const growthSizes = (results) =>
  workloads.filter(({ kind }) => kind === "growth").flatMap(({ name }) =>
    Object.values(results.workloads[name] ?? {}).filter(({ series }) => series !== undefined)
  )

const growth_max = 1.5

const linear = {
  what: "the cost of a record from a tenth of the records to all, from 1e5 on",
  target: `at most ${growth_max} times`,
  ask: (results) => {
    const sizes = growthSizes(results)
    const steps = sizes.flatMap(({ records, series }, index) => {
      const before = sizes[index - 1]
      if (before === undefined || before.records < 100_000) return []
      return Object.entries(series).map(([name, value]) => ({
        name: `${name} at ${power(records)}`,
        factor: value / before.series[name]
      }))
    })
    if (steps.length === 0) return undefined
    const worst = steps.reduce((worst, step) => step.factor > worst.factor ? step : worst)
    return { measured: `${worst.factor.toPrecision(3)} times (${worst.name})`, reached: worst.factor <= growth_max }
  }
}

/**
 * Where another contender may be faster than ours only if it promises more, and how much faster at most: what an
 * acknowledged call of it survives, and for scans whether it checks what it reads.
 */
const rivals = [
  { kinds: ["append", "batch", "durable", "durable together", "put", "delete"], least: 1 },
  { kinds: ["get"], least: 0.95 },
  { kinds: ["stream"], least: 1, verifying: true }
]

/** The others of a workload that ours is to be ahead of, with their cost as a multiple of ours. */
const rivalsIn = (results, { kind, name }) => {
  const rule = rivals.find(({ kinds }) => kinds.includes(kind))
  const contenders = results.workloads[name] ?? {}
  const ours = Object.keys(contenders).find((contender) => isOurs(contender) && contenders[contender].cost_ns)
  if (rule === undefined || ours === undefined) return []
  return Object.entries(contenders).flatMap(([contender, { cost_ns }]) => {
    const fair = !isOurs(contender) && !promisesMore(contender, ours) &&
      (rule.verifying !== true || aboutOf(contender).verifies)
    if (cost_ns === undefined || !fair) return []
    const factor = cost_ns.median / contenders[ours].cost_ns.median
    return [{ workload: name, contender, factor, reached: factor >= rule.least }]
  })
}

const ahead = ({ kinds, what }) => ({
  what,
  target: "ahead of every other with a like or weaker promise",
  ask: (results) => {
    const found = workloads.filter(({ kind }) => kinds.includes(kind)).flatMap((workload) =>
      rivalsIn(results, workload)
    )
    if (found.length === 0) return undefined
    const behind = found.filter(({ reached }) => !reached).length
    const nearest = found.reduce((nearest, rival) => rival.factor < nearest.factor ? rival : nearest)
    return {
      measured: `ahead of ${found.length - behind} of ${found.length}; ${told(nearest)}`,
      reached: behind === 0
    }
  }
})

const told = ({ contender, factor, workload }) => `${workload}: ${contender} takes ${times(factor)} of ours`

/** Each contender that is ahead of ours without promising more, in words. */
export const behind = (results) =>
  workloads.flatMap((workload) => rivalsIn(results, workload)).filter(({ reached }) => !reached).map(told)

/** Every target that these results can answer. */
export const targets = [
  ratio("append-64B", 2),
  ratio("append-1KiB", 1.6),
  ratio("append-64KiB", 2),
  ...["datawal", "datawal sink"].flatMap((contender) => [
    cost("batch-64B", 300, { contender, target: "at most 300 ns" }),
    ratio("batch-1KiB", 2, contender)
  ]),
  ratio("durable-1", 1.6, "datawal always"),
  ratio("durable-64", 0.08, "datawal always"),
  ...["put", "delete"].flatMap((name) => [
    ratio(`${name}-1e5`, 2.5),
    ratio(`${name}-1e6`, 2.5),
    against(`${name}-1e6`, `${name}-1e5`, 1.3)
  ]),
  ...["1e5", "1e6"].flatMap((keys) => [
    ratio(`get-${keys}`, 2),
    against(`getMany-${keys}`, `get-${keys}`, 1)
  ]),
  ratio("get-1e6", 2, "datawal cached"),
  cost("stream-64B", 250, { target: "at least 4 M records/s", show: perSecond }),
  rateTarget("stream-1KiB", 1_024, 1.4),
  rateTarget("stream-1MiB", 1_048_576, 2.5),
  cost("open-1e6", 500, { contender: "datawal log", target: "at most 500 ns a record" }),
  total("open-1e6", "datawal checkpoint", 60),
  memory("memory-1e6", 48),
  memory("memory-1e7", 48),
  ...["export", "import", "compact"].map((name) =>
    cost(`${name}-1e6`, 1_000, { target: "at least 1 M records/s", show: perSecond })
  ),
  constantMemory,
  responsive,
  linear,
  ahead({ what: "append, one by one", kinds: ["append"] }),
  ahead({ what: "append, in batches", kinds: ["batch"] }),
  ahead({ what: "durable append", kinds: ["durable", "durable together"] }),
  ahead({ what: "put and delete", kinds: ["put", "delete"] }),
  ahead({ what: "get (level with LMDB)", kinds: ["get"] }),
  ahead({ what: "stream (of those that verify)", kinds: ["stream"] })
]
