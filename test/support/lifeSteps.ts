/** The steps of a life (`life.ts`), and what is checked of each: the table is in `torture.ts`. */
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Disk from "../../src/Disk.ts"
import { LockHeld } from "../../src/Errors.ts"
import * as Export from "../../src/Export.ts"
import { mix, seeded } from "../../src/internal/simulatedRandom.ts"
import * as Kv from "../../src/Kv.ts"
import * as Lock from "../../src/Lock.ts"
import * as Log from "../../src/Log.ts"
import * as Reader from "../../src/Reader.ts"
import type { SimulatedDisk } from "../../src/testing.ts"
import {
  eventLoopTurn,
  fold,
  foldProblem,
  inputOf,
  kvProblem,
  listingSlowly,
  type Model,
  type Rec,
  recOf,
  recordsIn,
  segmentsIn,
  type Store
} from "./crashModel.ts"
import type { Counts } from "./crashPoints.ts"
import { interval_ms, type Life, recordOf, type Round, type Spec, type Step } from "./life.ts"
import type { Targets } from "./targets.ts"

/** What is known in a round, beside the model. */
export interface Living {
  readonly life: Life
  readonly round: Round
  readonly disk: SimulatedDisk
  readonly counts: Counts
  readonly targets: Targets
  /** What was found wrong. */
  readonly problems: Array<string>
  /** A step has no other beside it. */
  readonly alone: boolean
}

type Doing<D extends Step["do"]> = Extract<Step, { readonly do: D }>

/** Until the disk has been asked for nothing for a while. */
export const quiet = ({ disk, life }: Living) =>
  Effect.gen(function*() {
    let calls = -1
    for (let still = 0; still < (life.shuffle ? 12 : 3);) {
      yield* eventLoopTurn
      still = disk.operations.length === calls ? still + 1 : 0
      calls = disk.operations.length
    }
  })

export const tagOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "_tag" in error ? String(error._tag) : String(error)

/** Whether a failure is one that the disk was told to make, or what follows from it. */
export const isPlanned = ({ disk, round }: Living, error: unknown): boolean =>
  (disk.stopped || round.faults.length > 0) && ["IoError", "WriterPoisoned"].includes(tagOf(error))

/** Notes a failure that nobody has planned. */
const expected = <A, E, R>(living: Living, what: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.tapError(effect, (error) =>
    Effect.sync(() => {
      if (!isPlanned(living, error)) living.problems.push(`${what} failed with ${tagOf(error)}`)
    }))

const note = (living: Living, what: string, problem: string | undefined): void => {
  if (problem !== undefined) living.problems.push(`${what}: ${problem}`)
}

/** How many records are written, as far as can be seen. */
const lengthOf = (store: Store): number => {
  store.look()
  return store.model.written.length
}

/** Takes the steps one after the other while something else runs: what that came to. */
const beside = <A, E, R>(
  steps: ReadonlyArray<Step>,
  store: Store,
  living: Living,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  steps.length === 0 ? effect : Effect.flatMap(
    Effect.all([
      Effect.exit(effect),
      Effect.forEach(steps, (step) =>
        Effect.andThen(Effect.yieldNow, Effect.exit(take(step, store, { ...living, alone: false }))))
    ], { concurrency: "unbounded" }),
    ([exit]) =>
      exit
  )

/** What is wrong at every moment between two, if there is none at which all is well. */
const atSomeMoment = (
  { doubtful, written }: Model,
  from: number,
  to: number,
  problemAt: (written: ReadonlyArray<Rec>) => string | undefined
): string | undefined => {
  let problem: string | undefined
  for (let at = Math.max(0, from - doubtful); at <= to; at++) {
    problem = problemAt(written.slice(0, at))
    if (problem === undefined) return undefined
  }
  return problem
}

// -- writing ----------------------------------------------------------------------------------------------------------

const bytesOf = (text: string): Uint8Array => Buffer.from(text, "latin1")
const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1")

/** The record that a spec stands for; a store that has no log takes no `Raw`. */
const recordIn = (store: Store, spec: Spec): Rec => {
  const record = recordOf(spec)
  return store.log === undefined && record.type === "Raw" ? { ...record, type: "Put" } : record
}

/** In a file that is all that is seen of a store, some of a batch may stand though it failed. */
const failing = <A, E>(records: ReadonlyArray<Rec>, store: Store, call: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  store.log !== undefined ? call : Effect.tapError(call, () =>
    Effect.sync(() => {
      store.look()
      store.model.doubt(records)
    }))

/** Writes, and checks the references. */
const write = (
  records: ReadonlyArray<Rec>,
  store: Store,
  living: Living,
  call: Effect.Effect<ReadonlyArray<Log.RecordRef>, Log.WriteError>
) =>
  Effect.map(expected(living, "a write", failing(records, store, store.ask(records, call))), (refs) => {
    store.look()
    for (const [at, ref] of refs.entries()) {
      const record = records[at]
      note(living, "a reference", record === undefined ? "one too many" : store.model.refProblem(record, ref))
      if (living.life.options.durability === "always") store.model.promise(ref.txid)
    }
  })

const writeOne = (record: Rec, store: Store, living: Living, log: Store["log"]) => {
  const { key, payload, type } = record
  const call = log !== undefined
    ? log.appendRecord(inputOf(record))
    : type === "Delete"
    ? store.kv.delete(bytesOf(key))
    : store.kv.put(bytesOf(key), bytesOf(payload))
  return write([record], store, living, Effect.map(call, (ref) => [ref]))
}

const appendAll = (step: Doing<"appendAll">, store: Store, living: Living) => {
  const { kv, log } = store
  const records = step.records.map((spec) => recordIn(store, spec))
  if (log !== undefined) return write(records, store, living, log.appendAll(records.map(inputOf)))
  const puts = records.filter(({ type }) => type === "Put")
  const pairs = puts.map(({ key, payload }) => [bytesOf(key), bytesOf(payload)] as const)
  return write(puts, store, living, kv.putMany(pairs))
}

const modify = (step: Doing<"modify">, store: Store, living: Living) =>
  Effect.gen(function*() {
    const { kv, model } = store
    const record = recordIn(store, step.record)
    const key = bytesOf(record.key)
    const value = record.type === "Delete" ? undefined : bytesOf(record.payload)
    // What has no value and is to have none is left as it is.
    const records = (yield* kv.has(key)) || value !== undefined ? [record] : []
    yield* expected(living, "modify", store.ask(records, kv.modify(key, () => [0, value])))
    store.look()
    if (living.life.options.durability === "always" && value !== undefined) model.promise(model.txidOf(record))
  })

const importLines = (step: Doing<"import">, store: Store, living: Living) =>
  Effect.gen(function*() {
    const { model } = store
    const good = step.records.slice(0, step.bad).map((spec) => recordIn(store, spec))
    const lines = good.map(({ key, payload }) =>
      `{"key_b64":"${btoa(key)}","value_b64":"${Buffer.from(payload, "latin1").toString("base64")}"}\n`
    )
    const all = step.bad === undefined ? lines : [...lines, "{}\n", ...lines]
    const input = Stream.map(Stream.fromIterable(all), bytesOf)
    const result = yield* Effect.result(failing(good, store, store.ask(good, Export.fromLines(store.kv, input))))
    store.look()
    if (result._tag === "Failure" && result.failure._tag !== "InvalidLine") {
      if (!isPlanned(living, result.failure)) note(living, "import failed with", tagOf(result.failure))
      return
    }
    const line = result._tag === "Failure" && result.failure._tag === "InvalidLine" ? result.failure.line : undefined
    if (line !== (step.bad === undefined ? undefined : good.length + 1)) {
      note(living, "import", `line ${line} is named as the bad one, which is ${step.bad}`)
    }
    // In both cases everything before is stored and synced.
    for (const record of good) {
      const times = model.written.filter(({ payload }) => payload === record.payload).length
      if (times !== 1) note(living, "import", `a good line is stored ${times} times`)
      model.promise(model.txidOf(record))
    }
  })

const pause = (store: Store, living: Living) =>
  Effect.gen(function*() {
    const { disk, life, round } = living
    if (life.options.durability === "manual" || life.options.durability === "always") return
    const before = lengthOf(store)
    yield* TestClock.adjust(interval_ms)
    yield* quiet(living)
    const works = store.log === undefined ? round.faults.length === 0 : (yield* store.log.refusal) === undefined
    if (!works) return
    store.model.promise(before)
    // Few lives go on from here by a power loss before somebody syncs.
    const [worst] = disk.survivors(3)
    const survived = worst === undefined ? [] : recordsIn(worst.files, life.options.directory)
    note(
      living,
      "after the interval",
      survived.length < before ? `${survived.length} of ${before} are durable` : undefined
    )
  })

// -- reading ----------------------------------------------------------------------------------------------------------

const get = (step: Doing<"get">, store: Store, living: Living) =>
  Effect.gen(function*() {
    const from = lengthOf(store)
    const value = yield* expected(living, "get", store.kv.get(bytesOf(step.key)))
    const found = value === undefined ? undefined : latin1(value)
    const to = lengthOf(store)
    note(
      living,
      `the value of ${step.key}`,
      atSomeMoment(
        store.model,
        from,
        to,
        (written) => fold(written).get(step.key) === found ? undefined : "that of another time"
      )
    )
  })

/** Records that a reader without the lock shows, who lists the segments after this has begun. */
const readRecords = (store: Store, { life }: Living) =>
  Effect.scoped(Effect.gen(function*() {
    const { chunkSize, directory } = life.options
    const reader = yield* Reader.make({ directory, chunkSize })
    const shown: Array<Rec> = []
    const floor = lengthOf(store)
    yield* Stream.runForEachArray(reader.stream, (records) => {
      shown.push(...records.map(recOf))
      return Effect.yieldNow
    })
    return () => store.model.check(shown, floor)
  }))

const readEntries = (store: Store, { life }: Living) =>
  Effect.scoped(Effect.gen(function*() {
    const { chunkSize, directory } = life.options
    const floor = lengthOf(store)
    const kv = yield* Kv.makeReader({ directory, chunkSize })
    const { records } = yield* kv.statistics
    yield* Effect.yieldNow
    const entries = yield* Stream.runCollect(kv.entries())
    return () => {
      const { underWay, written } = store.model
      if (records < floor) return `${records} records, ${floor} had been written`
      if (records <= written.length) return foldProblem(entries, written.slice(0, records))
      return records > written.length + underWay.length ? "records that nobody wrote" : undefined
    }
  }))

const read = (step: Doing<"read">, store: Store, living: Living) =>
  Effect.gen(function*() {
    const { disk, life } = living
    const listed = listingSlowly(disk, seeded(mix(life.seed, disk.operations.length)), 4)
    const reading = step.what === "records" ? readRecords(store, living) : readEntries(store, living)
    const result = yield* Effect.result(
      beside(step.meanwhile, store, living, Effect.provideService(reading, Disk.Disk, listed))
    )
    store.look()
    if (result._tag === "Success") note(living, `a reader of ${step.what}`, result.success())
    else if (!isPlanned(living, result.failure) && !mayLookDamaged(living)) {
      note(living, `a reader of ${step.what}`, `it failed with ${tagOf(result.failure)}`)
    }
  })

// A half-written record with a log in it looks like damage with records behind it, until the next writer cuts it.
const mayLookDamaged = ({ life, round }: Living): boolean => life.mode === "adversarial" && round.faults.length > 0

/** All of a stream, and how many records were written when it started, at the least and at the most. */
const collect = <A, E>(store: Store, stream: Stream.Stream<A, E>) =>
  Effect.suspend(() => {
    const items: Array<A> = []
    const from = lengthOf(store)
    let to: number | undefined
    return Effect.map(
      Stream.runForEachArray(stream, (next) => {
        to ??= lengthOf(store)
        items.push(...next)
        return Effect.yieldNow
      }),
      () => ({ items, from, to: to ?? lengthOf(store) })
    )
  })

const iterate = (step: Doing<"iterate">, store: Store, living: Living) =>
  Effect.gen(function*() {
    const { kv, log, model } = store
    const { meanwhile, what } = step
    if (what === "entries" || log === undefined) {
      const iterating = beside(meanwhile, store, living, collect(store, kv.entries({ ordered: true })))
      const { from, items, to } = yield* expected(living, "iterating", iterating)
      note(living, "entries", atSomeMoment(model, from, to, (written) => foldProblem(items, written)))
    } else {
      const { from, items, to } = yield* expected(
        living,
        "iterating",
        beside(meanwhile, store, living, collect(store, log.stream))
      )
      note(living, "stream", items.length > to ? "it has a later record" : model.check(items.map(recOf), from))
    }
  })

const project = (step: Doing<"project">, store: Store, living: Living) =>
  Effect.scoped(Effect.gen(function*() {
    const { log, model } = store
    if (log === undefined) return
    const scope = yield* Effect.scope
    const making = Scope.provide(Effect.provideService(Kv.makeLog, Log.Log, log), scope)
    const kv = yield* expected(living, "a Kv over the log", beside(step.meanwhile, store, living, making))
    note(living, "a Kv over the log", yield* expected(living, "its values", kvProblem(kv, model.written)))
  }))

// -- elsewhere --------------------------------------------------------------------------------------------------------

const makeTarget = (
  kind: "export" | "compaction",
  path: string,
  meanwhile: ReadonlyArray<Step>,
  store: Store,
  living: Living
) =>
  Effect.suspend(() => {
    const { directory } = living.life.options
    const bytes = () =>
      segmentsIn(living.disk.files, directory).map(([path, bytes]) => `${path} ${latin1(bytes)}`).join("\n")
    const source = living.alone && meanwhile.length === 0 ? bytes() : undefined
    const ended = living.targets.begin(kind, path, lengthOf(store))
    const making: Effect.Effect<unknown, unknown> = kind === "export"
      ? Export.toFile(store.kv, path)
      : store.kv.compactTo(path)
    const made = Effect.onExit(expected(living, kind, making), (exit) =>
      Effect.sync(() => {
        store.look()
        ended(store.model, Exit.isSuccess(exit))
        if (source !== undefined && source !== bytes()) note(living, kind, "it has changed its source")
      }))
    return beside(meanwhile, store, living, made)
  })

const contend = (step: Doing<"contend">, living: Living) =>
  Effect.gen(function*() {
    const { directory } = living.life.options
    const opening: Effect.Effect<unknown, { readonly _tag: string }, Scope.Scope> = step.by === "Log"
      ? Log.make({ directory })
      : step.by === "Kv"
      ? Kv.make({ directory })
      : Lock.acquire(directory)
    const result = yield* Effect.result(Effect.scoped(opening))
    if (result._tag === "Success") return note(living, "a second writer", "it was let in")
    const { failure } = result
    if (isPlanned(living, failure)) return
    if (!(failure instanceof LockHeld)) return note(living, "a second writer", `it failed with ${tagOf(failure)}`)
    if (failure.pid !== process.pid) note(living, "a second writer", `it was told of process ${failure.pid}`)
  })

export const take = (step: Step, store: Store, living: Living): Effect.Effect<unknown, unknown> => {
  living.counts.add(`step: ${step.do}`)
  switch (step.do) {
    case "append":
      return writeOne(recordIn(store, step.record), store, living, store.log)
    case "put":
      return writeOne(recordIn(store, step.record), store, living, undefined)
    case "modify":
      return modify(step, store, living)
    case "appendAll":
      return appendAll(step, store, living)
    case "import":
      return importLines(step, store, living)
    case "sync":
      return expected(living, "sync", store.sync)
    case "rotate":
      return store.log === undefined ? Effect.void : expected(living, "rotate", store.log.rotate)
    case "get":
      return get(step, store, living)
    case "read":
      return read(step, store, living)
    case "iterate":
      return iterate(step, store, living)
    case "project":
      return project(step, store, living)
    case "export":
      return makeTarget("export", `/stores/export-${step.to}`, [], store, living)
    case "compact":
      return makeTarget("compaction", `/stores/compacted-${step.to}`, step.meanwhile, store, living)
    case "contend":
      return contend(step, living)
    case "pause":
      return pause(store, living)
    case "together":
      return Effect.forEach(
        step.steps,
        (step) => Effect.exit(take(step, store, { ...living, alone: false })),
        { concurrency: "unbounded" }
      )
    case "interrupt":
      return Effect.gen(function*() {
        const fiber = yield* Effect.forkChild(take(step.step, store, living), { startImmediately: true })
        for (let turn = 0; turn < step.after; turn++) yield* eventLoopTurn
        yield* Fiber.interrupt(fiber)
      })
  }
}
