/**
 * Random lives of a store: rounds of steps with faults among them, each ended by a power loss, the death of the
 * process, or a close. A life is made from a seed as data, so that it can be printed, replayed, and made smaller while
 * it fails.
 */
import { Effect, Exit, Fiber, References } from "effect"
import * as Disk from "../../src/Disk.ts"
import * as Export from "../../src/Export.ts"
import * as Frame from "../../src/Frame.ts"
import { mix, seeded } from "../../src/internal/simulatedRandom.ts"
import type * as Log from "../../src/Log.ts"
import { type Fault, makeDisk, type Mode, type SimulatedDisk } from "../../src/testing.ts"
import { fold, inputOf, Model, type Rec, recover, type Subject } from "./crashModel.ts"
import { Counts } from "./crashPoints.ts"

interface Spec {
  readonly id: number
  readonly type: Rec["type"]
  readonly key: string
  readonly length: number
  readonly fill: "text" | "zeros" | "log"
}

type Step =
  | { readonly do: "append" | "put" | "modify"; readonly record: Spec }
  | { readonly do: "appendAll"; readonly records: ReadonlyArray<Spec> }
  | { readonly do: "sync" | "rotate" | "export" }
  | { readonly do: "together"; readonly steps: ReadonlyArray<Step> }
  | { readonly do: "interrupt"; readonly step: Step }

interface Round {
  readonly faults: ReadonlyArray<Fault>
  readonly steps: ReadonlyArray<Step>
  readonly end: "power loss" | "process death" | "close"
}

/** One life, as data. */
export interface Life {
  readonly seed: number
  readonly mode: Mode
  readonly shuffle: boolean
  readonly options: Log.Options
  readonly rounds: ReadonlyArray<Round>
}

type Pick = (count: number) => number

const oneOf = <A>(pick: Pick, values: readonly [A, ...ReadonlyArray<A>]): A => values[pick(values.length)] ?? values[0]

/** The life of a seed. */
export const makeLife = (seed: number): Life => {
  const pick = seeded(mix(seed, 77))
  const chance = (percent: number) => pick(100) < percent
  const mode = chance(50) ? "ordered" : "adversarial"
  let id = 0
  const record = (types: readonly [Rec["type"], ...ReadonlyArray<Rec["type"]>]): Spec => {
    const type = oneOf(pick, types)
    const key = type === "Raw" ? "" : `k${pick(6)}`
    const length = type === "Delete" ? 0 : oneOf(pick, [0, 3, 40, 200, 450, 484, 600, 1_500]) + pick(8)
    // A log inside a record can be taken for later frames where the record is cut short: allowed, but only refused so.
    const fill = chance(70) ? "text" : chance(70) || mode === "ordered" ? "zeros" : "log"
    return { id: ++id, type, key, length, fill }
  }
  const step = (depth: number): Step => {
    const kind = pick(depth === 0 ? 12 : 8)
    if (kind < 4) return { do: "append", record: record(["Raw", "Put", "Put", "Delete"]) }
    if (kind < 5) {
      return { do: "appendAll", records: Array.from({ length: 1 + pick(5) }, () => record(["Raw", "Put", "Delete"])) }
    }
    if (kind < 7) return { do: "sync" }
    if (kind < 8) return { do: "rotate" }
    if (kind < 9) return { do: chance(50) ? "put" : "modify", record: record(["Put", "Put", "Delete"]) }
    if (kind < 10) return { do: "export" }
    if (kind < 11) return { do: "interrupt", step: step(1) }
    return { do: "together", steps: Array.from({ length: 2 + pick(4) }, () => step(1)) }
  }
  const rounds = Array.from({ length: 3 + pick(4) }, (): Round => ({
    faults: makeFaults(pick),
    steps: Array.from({ length: 1 + pick(14) }, () => step(0)),
    end: oneOf(pick, ["power loss", "power loss", "process death", "process death", "close"])
  }))
  // The last one is calm: whatever came before, the store is to work.
  const calm: Round = { faults: [], steps: [step(0), { do: "sync" }, step(0)], end: "power loss" }
  const options: Log.Options = {
    directory: "/stores/one",
    segmentSize: oneOf(pick, [150, 700, 2_000, 8_000]),
    chunkSize: chance(30) ? 64 + pick(600) : 1_048_576,
    durability: chance(20) ? "always" : "manual"
  }
  return { seed, mode, shuffle: chance(30), options, rounds: [...rounds, calm, { ...calm, steps: [] }] }
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

// -- running ----------------------------------------------------------------------------------------------------------

const nested = ((): string => {
  const payload = Buffer.from("a log inside a record")
  const bytes = new Uint8Array(Frame.encodedLength(0, payload.length))
  Frame.encodeInto(bytes, 0, "Raw", 1_000_000, new Uint8Array(0), payload)
  return Buffer.from(bytes).toString("latin1")
})()

const recOf = ({ fill, id, key, length, type }: Spec): Rec => {
  if (type === "Delete") return { type, key, payload: "" }
  const start = `${id}:`
  return {
    type,
    key,
    payload: fill === "log" ? `${start}${nested}` : start.padEnd(length, fill === "zeros" ? "\0" : "x")
  }
}

/** What an export may have left: what was promised last, or what has been tried since. */
interface Exports {
  promised: string | undefined
  tried: Array<string | undefined>
}

const exported = "/stores/export.jsonl"

const linesOf = (records: ReadonlyArray<Rec>): string =>
  Array.from(fold(records)).sort(([a], [b]) => a < b ? -1 : 1)
    .map(([key, value]) =>
      `{"key_b64":"${btoa(key)}","value_b64":"${Buffer.from(value, "latin1").toString("base64")}"}\n`
    ).join("")

const take = (
  step: Step,
  subject: Subject,
  exports: Exports,
  counts: Counts
): Effect.Effect<unknown, unknown> => {
  counts.add(`step: ${step.do}`)
  const { kv, log, model } = subject
  switch (step.do) {
    case "append":
      return subject.ask([recOf(step.record)], log.appendRecord(inputOf(recOf(step.record))))
    case "appendAll":
      return subject.ask(step.records.map(recOf), log.appendAll(step.records.map((spec) => inputOf(recOf(spec)))))
    case "put": {
      const { key, payload, type } = recOf(step.record)
      const value = Buffer.from(payload, "latin1")
      return subject.ask([{ key, payload, type }], type === "Delete" ? kv.delete(key) : kv.put(key, value))
    }
    case "modify": {
      const { key, payload, type } = recOf(step.record)
      const value = type === "Delete" ? undefined : Buffer.from(payload, "latin1")
      // What has no value and is to have none is left as it is.
      return Effect.flatMap(
        kv.has(key),
        (has) =>
          subject.ask(has || value !== undefined ? [{ key, payload, type }] : [], kv.modify(key, () => [0, value]))
      )
    }
    case "sync":
      return subject.sync
    case "rotate":
      return log.rotate
    case "export":
      return Effect.suspend(() => {
        const lines = linesOf(model.written)
        exports.tried.push(lines)
        return Effect.map(Export.toFile(kv, exported), () => {
          exports.promised = lines
          exports.tried = [lines]
        })
      })
    case "together":
      return Effect.forEach(step.steps, (step) => Effect.exit(take(step, subject, exports, counts)), {
        concurrency: "unbounded"
      })
    case "interrupt":
      return Effect.flatMap(
        Effect.forkChild(take(step.step, subject, exports, counts), { startImmediately: true }),
        Fiber.interrupt
      )
  }
}

export interface Outcome {
  readonly problem: string | undefined
  /** The calls of the last disk. */
  readonly script: string
}

const exportProblem = (disk: SimulatedDisk, exports: Exports): string | undefined => {
  const bytes = disk.files.get(exported)
  const found = bytes === undefined ? undefined : Buffer.from(bytes).toString("latin1")
  if (found === exports.promised || exports.tried.includes(found)) return undefined
  return `the export holds ${found?.length ?? "no"} bytes that nobody exported`
}

/** Lives a life, and says what was wrong in it. */
export const live = (life: Life, counts: Counts): Effect.Effect<Outcome> =>
  Effect.gen(function*() {
    const { mode, options, seed, shuffle } = life
    let disk = makeDisk({ seed, mode, shuffle })
    let kept = 0
    const model = new Model()
    const exports: Exports = { promised: undefined, tried: [] }
    counts.add(`lives: ${mode}`)
    for (const [index, round] of life.rounds.entries()) {
      const now = disk
      for (const fault of round.faults) now.fail(fault)
      const recovered = yield* recover(now, options, model, kept, mode === "adversarial", (subject) =>
        Effect.forEach(round.steps, (step) =>
          now.stopped ? Effect.void : Effect.provideService(
            Effect.exit(take(step, subject, exports, counts)),
            Disk.Disk,
            now.service
          )))
      counts.add("openings")
      counts.add("calls of the disk", now.operations.length)
      for (const { kind, outcome } of now.operations) {
        if (/^E|^stop/.test(outcome)) {
          counts.add(`fault: ${kind} ${outcome}`)
        }
      }
      if (recovered.refused !== undefined) {
        counts.add(`refused by repair: ${recovered.refused._tag}`)
      }
      const excused = now.stopped || (recovered.isIo && round.faults.length > 0)
      const problem = (excused && !recovered.accepted ? undefined : recovered.problem) ?? now.misuse[0] ??
        (!now.stopped && now.openFiles > 0 ? `${now.openFiles} files were left open` : undefined) ??
        exportProblem(now, exports)
      if (problem !== undefined) {
        return { problem: `round ${index}: ${problem}`, script: now.script }
      }
      if (recovered.accepted) {
        kept = model.written.length
      }
      counts.add(`end: ${round.end}${now.stopped ? ", at a call" : ""}`)
      if (round.end === "power loss") {
        disk = now.crash()
        kept = model.synced
        exports.tried = [exports.promised, ...exports.tried]
      } else disk = now.kill()
    }
    return { problem: undefined, script: "" }
  }).pipe(Effect.provideService(References.MinimumLogLevel, "None"))

/** Leaves out of a failing life what it fails without, and gives the smallest one found. */
export const shrink = (life: Life): Effect.Effect<Life> =>
  Effect.gen(function*() {
    let smallest = life
    for (let progress = true; progress;) {
      progress = false
      for (const smaller of smallerLives(smallest)) {
        const { problem } = yield* live(smaller, new Counts())
        if (problem === undefined) continue
        smallest = smaller
        progress = true
        break
      }
    }
    return smallest
  })

const without = <A>(values: ReadonlyArray<A>): Array<Array<A>> =>
  values.map((_, leave) => values.filter((_, at) => at !== leave))

function* smallerLives(life: Life): Generator<Life> {
  for (const rounds of without(life.rounds)) yield { ...life, rounds }
  if (life.shuffle) yield { ...life, shuffle: false }
  for (const [at, round] of life.rounds.entries()) {
    const replace = (changes: Partial<Round>) => ({ ...life, rounds: life.rounds.with(at, { ...round, ...changes }) })
    for (const steps of without(round.steps)) yield replace({ steps })
    for (const faults of without(round.faults)) yield replace({ faults })
  }
}

/** What to print of a seed that failed: the life, made small, and what the disk saw last. */
export const explain = (seed: number): Effect.Effect<string> =>
  Effect.gen(function*() {
    const life = yield* shrink(makeLife(seed))
    const { problem, script } = yield* live(life, new Counts())
    return `seed ${seed}: ${problem}\nreplay with: npm run torture -- --seed ${seed} --runs 1\n` +
      `${JSON.stringify(life, undefined, 1)}\n${script}`
  })

/** Lives the lives of `runs` seeds from `seed` on, until one fails: what to print of it. */
export const torture = (seed: number, runs: number, counts: Counts): Effect.Effect<string | undefined> =>
  Effect.gen(function*() {
    for (let at = seed; at < seed + runs; at++) {
      const exit = yield* Effect.exit(live(makeLife(at), counts))
      if (Exit.isFailure(exit)) return `seed ${at} ended the test itself: ${String(exit.cause)}`
      if (exit.value.problem !== undefined) return yield* explain(at)
    }
    return undefined
  })
