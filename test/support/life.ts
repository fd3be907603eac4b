/**
 * A random life of a store, as data: made of a seed, printed, replayed, and made smaller while it fails. What the steps
 * do and what is checked of each is in `torture.ts`.
 */
import * as Frame from "../../src/Frame.ts"
import { mix, seeded } from "../../src/internal/simulatedRandom.ts"
import type * as Kv from "../../src/Kv.ts"
import type * as Log from "../../src/Log.ts"
import type { Fault, Mode } from "../../src/testing.ts"
import type { Rec } from "./crashModel.ts"

/** A record to write. Its payload starts with its number, so no two are the same. */
export interface Spec {
  readonly id: number
  readonly type: Rec["type"]
  readonly key: string
  readonly length: number
  readonly fill: "text" | "zeros" | "log"
}

/** In a `pause` as much time passes as `durability` names. */
export type Step =
  | { readonly do: "append"; readonly record: Spec }
  | { readonly do: "put"; readonly record: Spec }
  | { readonly do: "modify"; readonly record: Spec }
  | { readonly do: "appendAll"; readonly records: ReadonlyArray<Spec> }
  /** Lines; the one at `bad`, if any, is none. */
  | { readonly do: "import"; readonly records: ReadonlyArray<Spec>; readonly bad: number | undefined }
  | { readonly do: "sync" | "rotate" | "pause" }
  /** To one of two files, so that one is replaced now and then. */
  | { readonly do: "export"; readonly to: number }
  | { readonly do: "get"; readonly key: string }
  /** Reads without the lock: all records, or the keys and values of a snapshot. */
  | { readonly do: "read"; readonly what: "records" | "entries"; readonly meanwhile: ReadonlyArray<Step> }
  /** Reads through the writer itself, a piece at a time. */
  | { readonly do: "iterate"; readonly what: "records" | "entries"; readonly meanwhile: ReadonlyArray<Step> }
  /** Makes another `Kv` of the log that is open. */
  | { readonly do: "project"; readonly meanwhile: ReadonlyArray<Step> }
  | { readonly do: "compact"; readonly to: number; readonly meanwhile: ReadonlyArray<Step> }
  /** Another writer comes, who must be refused. */
  | { readonly do: "contend"; readonly by: "Log" | "Kv" | "Lock" }
  | { readonly do: "together"; readonly steps: ReadonlyArray<Step> }
  | { readonly do: "interrupt"; readonly step: Step; readonly after: number }

export interface Round {
  /** Opened as a log with a `Kv` over it, or as a `Kv` by itself. */
  readonly as: "Log" | "Kv"
  readonly faults: ReadonlyArray<Fault>
  readonly steps: ReadonlyArray<Step>
  /** Openers that wait for the lock meanwhile; each that gets it writes its record. */
  readonly waiting: ReadonlyArray<Spec>
  readonly end: "power loss" | "process death" | "close"
}

export interface Life {
  readonly seed: number
  readonly mode: Mode
  readonly shuffle: boolean
  readonly options: Kv.Options
  readonly rounds: ReadonlyArray<Round>
}

type Pick = (count: number) => number

const oneOf = <A>(pick: Pick, values: readonly [A, ...ReadonlyArray<A>]): A => values[pick(values.length)] ?? values[0]

/** In milliseconds, of the time that passes in a life. */
export const interval_ms = 50

/** The life of a seed. */
export const makeLife = (seed: number): Life => {
  const pick = seeded(mix(seed, 77))
  const chance = (percent: number) => pick(100) < percent
  const mode = chance(50) ? "ordered" : "adversarial"
  const durability = oneOf(pick, ["manual", "manual", "manual", "always", `${interval_ms} millis`] as const)
  const make = stepsOf(pick, mode, durability)
  const rounds = Array.from({ length: 2 + pick(4) }, (): Round => ({
    as: chance(75) ? "Log" : "Kv",
    faults: makeFaults(pick),
    steps: Array.from({ length: 1 + pick(12) }, () => make.step(0)),
    waiting: chance(12) ? Array.from({ length: 1 + pick(2) }, () => make.record(["Put", "Raw"])) : [],
    end: oneOf(pick, ["power loss", "power loss", "process death", "process death", "close"])
  }))
  // The last one is calm: whatever came before, the store is to work.
  const calm: Round = {
    as: "Log",
    faults: [],
    steps: [make.step(0), { do: "sync" }, make.step(0)],
    waiting: [],
    end: "power loss"
  }
  const options: Kv.Options = {
    directory: "/stores/one",
    segmentSize: oneOf(pick, [150, 700, 2_000, 8_000]),
    chunkSize: chance(30) ? 64 + pick(600) : 1_048_576,
    durability
  }
  return { seed, mode, shuffle: chance(30), options, rounds: [...rounds, calm, { ...calm, steps: [] }] }
}

const stepsOf = (pick: Pick, mode: Mode, durability: Log.Durability) => {
  const chance = (percent: number) => pick(100) < percent
  let id = 0
  const record = (types: readonly [Rec["type"], ...ReadonlyArray<Rec["type"]>]): Spec => {
    const type = oneOf(pick, types)
    const key = type === "Raw" ? "" : `k${pick(6)}`
    const length = type === "Delete" ? 0 : oneOf(pick, [0, 3, 40, 200, 450, 484, 600, 1_500]) + pick(8)
    // A log inside a record can be taken for later frames where the record is cut short: allowed, but only refused so.
    const fill = chance(70) ? "text" : chance(70) || mode === "ordered" ? "zeros" : "log"
    return { id: ++id, type, key, length, fill }
  }
  const many = (most: number, types: readonly [Rec["type"], ...ReadonlyArray<Rec["type"]>]) =>
    Array.from({ length: 1 + pick(most) }, () => record(types))
  const what = () => chance(50) ? "records" : "entries"
  const meanwhile = (depth: number) => Array.from({ length: pick(4) }, () => step(depth))
  /** The deeper, the plainer. */
  const step = (depth: number): Step => {
    const kind = pick(depth === 0 ? 26 : depth === 1 ? 19 : 14)
    if (kind < 6) return { do: "append", record: record(["Raw", "Put", "Put", "Delete"]) }
    if (kind < 7) return { do: "appendAll", records: many(5, ["Raw", "Put", "Delete"]) }
    if (kind < 10) return { do: "sync" }
    if (kind < 11) return { do: "rotate" }
    if (kind < 12) return { do: "put", record: record(["Put", "Put", "Delete"]) }
    if (kind < 13) return { do: "modify", record: record(["Put", "Put", "Delete"]) }
    if (kind < 14) return { do: "get", key: `k${pick(6)}` }
    if (kind < 15) return { do: "export", to: pick(2) }
    if (kind < 16) return { do: "contend", by: oneOf(pick, ["Log", "Kv", "Lock"]) }
    if (kind < 17) return { do: "compact", to: ++id, meanwhile: meanwhile(2) }
    if (kind < 18) return { do: "import", records: many(4, ["Put"]), bad: chance(25) ? pick(4) : undefined }
    if (kind < 19) return { do: durability === "manual" || durability === "always" ? "sync" : "pause" }
    if (kind < 21) return { do: "read", what: what(), meanwhile: meanwhile(1) }
    if (kind < 22) return { do: "iterate", what: what(), meanwhile: meanwhile(1) }
    if (kind < 23) return { do: "project", meanwhile: meanwhile(2) }
    if (kind < 24) return { do: "interrupt", step: step(1), after: chance(60) ? 0 : pick(8) }
    return { do: "together", steps: Array.from({ length: 2 + pick(4) }, () => step(1)) }
  }
  return { record, step }
}

const makeFaults = (pick: Pick): Array<Fault> => {
  const chance = (percent: number) => pick(100) < percent
  const faults: Array<Fault> = []
  if (chance(75)) faults.push({ nth: 1 + pick(chance(30) ? 40 : 200), stop: oneOf(pick, ["before", "half", "after"]) })
  while (chance(35)) {
    const nth = 1 + pick(12)
    const kind = oneOf(
      pick,
      [
        "write",
        "write",
        "sync",
        "sync",
        "read",
        "create",
        "syncDirectory",
        "open",
        "truncate",
        "list",
        "rename"
      ] as const
    )
    if ((kind === "write" || kind === "read") && chance(35)) {
      faults.push({ kind, nth, bytes: 1 + pick(40), times: 1 + pick(3) })
    } else if (kind === "sync") {
      faults.push({
        kind,
        nth,
        code: oneOf(pick, ["EIO", "ENOSPC"]),
        landed: oneOf(pick, ["nothing", "half", "dropped"])
      })
    } else {
      const code = oneOf(pick, ["EIO", "ENOSPC", "EINTR", "EMFILE", "EACCES"])
      // A call that was interrupted has done nothing.
      faults.push({ kind, nth, code, landed: kind === "write" && code !== "EINTR" && chance(50) ? "half" : "nothing" })
    }
  }
  return faults
}

const nested = ((): string => {
  const payload = Buffer.from("a log inside a record")
  const bytes = new Uint8Array(Frame.encodedLength(0, payload.length))
  Frame.encodeInto(bytes, 0, "Raw", 1_000_000, new Uint8Array(0), payload)
  return Buffer.from(bytes).toString("latin1")
})()

/** The record that a spec stands for. */
export const recordOf = ({ fill, id, key, length, type }: Spec): Rec => {
  if (type === "Delete") return { type, key, payload: "" }
  const start = `${id}:`
  return {
    type,
    key,
    payload: fill === "log" ? `${start}${nested}` : start.padEnd(length, fill === "zeros" ? "\0" : "x")
  }
}

const without = <A>(values: ReadonlyArray<A>): Array<Array<A>> =>
  values.map((_, leave) => values.filter((_, at) => at !== leave))

function* smallerStep(step: Step): Generator<Step> {
  switch (step.do) {
    case "together":
      yield* step.steps
      for (const steps of smallerSteps(step.steps)) yield { ...step, steps }
      break
    case "interrupt":
      yield step.step
      for (const inner of smallerStep(step.step)) yield { ...step, step: inner }
      break
    case "read":
    case "iterate":
    case "project":
    case "compact":
      for (const meanwhile of smallerSteps(step.meanwhile)) yield { ...step, meanwhile }
      break
    case "appendAll":
    case "import":
      if (step.records.length > 1) { for (const records of without(step.records)) yield { ...step, records } }
  }
}

function* smallerSteps(steps: ReadonlyArray<Step>): Generator<ReadonlyArray<Step>> {
  yield* without(steps)
  for (const [at, step] of steps.entries()) for (const smaller of smallerStep(step)) yield steps.with(at, smaller)
}

/** The lives that lack one thing that this one has. */
export function* smallerLives(life: Life): Generator<Life> {
  for (const rounds of without(life.rounds)) yield { ...life, rounds }
  if (life.shuffle) yield { ...life, shuffle: false }
  for (const [at, round] of life.rounds.entries()) {
    const replace = (changes: Partial<Round>) => ({ ...life, rounds: life.rounds.with(at, { ...round, ...changes }) })
    if (round.as === "Kv") yield replace({ as: "Log" })
    for (const waiting of without(round.waiting)) yield replace({ waiting })
    for (const faults of without(round.faults)) yield replace({ faults })
    for (const steps of smallerSteps(round.steps)) yield replace({ steps })
  }
}
