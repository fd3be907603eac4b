/**
 * The oracle of the crash tests: what a store was asked to write, what it has said about it, and whether what a store
 * that was opened again shows is what the promises allow.
 *
 * The model knows three things of a record: `asked` (a call that writes it has begun), `written` (it was handed to the
 * kernel, seen through `Log.observe`), and synced (it was written before a `sync` began that has resolved).
 */
import { Effect, Stream } from "effect"
import type { Scope } from "effect"
import * as Disk from "../../src/Disk.ts"
import type { CorruptSegment, CorruptTail, IoError } from "../../src/Errors.ts"
import * as Kv from "../../src/Kv.ts"
import * as Log from "../../src/Log.ts"
import type { SimulatedDisk } from "../../src/testing.ts"

export const over = (disk: SimulatedDisk) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(effect, Disk.Disk, disk.service)

/** A record as text, so that two can be compared. */
export interface Rec {
  readonly type: "Raw" | "Put" | "Delete"
  readonly key: string
  readonly payload: string
}

const latin1 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1")

export const recOf = (
  record: { readonly type: Rec["type"]; readonly key: Uint8Array; readonly payload: Uint8Array }
): Rec => ({
  type: record.type,
  key: latin1(record.key),
  payload: latin1(record.payload)
})

const same = (a: Rec | undefined, b: Rec | undefined): boolean =>
  a !== undefined && b !== undefined && a.type === b.type && a.key === b.key && a.payload === b.payload

export class Model {
  asked: Array<Rec> = []
  written: Array<Rec> = []
  synced = 0
  /** How many of the written the machine still sees: all, but after a power loss only those that the store shows
   * again. */
  alive = 0
  /** What else has been promised, for the check of a workload. */
  notes: Array<string> = []

  fork(): Model {
    const copy = new Model()
    copy.asked = this.asked.slice()
    copy.written = this.written.slice()
    copy.synced = this.synced
    copy.alive = this.alive
    copy.notes = this.notes.slice()
    return copy
  }

  /** What has been asked for and not written, in no order that is promised. */
  get underWay(): Array<Rec> {
    const rest = this.asked.slice()
    for (const record of this.written) {
      const at = rest.findIndex((other) => same(other, record))
      if (at >= 0) rest.splice(at, 1)
    }
    return rest
  }

  /** What is wrong with what a store shows, or `undefined`. `kept` is how many of the written must be there. */
  check(shown: ReadonlyArray<Rec>, kept: number): string | undefined {
    if (shown.length < kept) return `${shown.length} records, ${kept} are owed`
    const common = Math.min(shown.length, this.written.length)
    for (let at = 0; at < common; at++) {
      if (!same(shown[at], this.written[at])) {
        return `record ${at} is ${brief(shown[at])}, and ${brief(this.written[at])} was written`
      }
    }
    const { underWay } = this
    for (const record of shown.slice(common)) {
      const at = underWay.findIndex((other) => same(other, record))
      if (at < 0) return `${brief(record)} was never written, or is there twice`
      underWay.splice(at, 1)
    }
    return undefined
  }

  /** Goes on from what a reopened store shows. */
  accept(shown: ReadonlyArray<Rec>): void {
    this.written = shown.slice()
    this.asked = shown.slice()
    this.alive = shown.length
  }
}

const brief = (record: Rec | undefined): string =>
  record === undefined
    ? "nothing"
    : `${record.type} ${record.key} ${record.payload.slice(0, 12)}(${record.payload.length})`

export const fold = (records: ReadonlyArray<Rec>): Map<string, string> => {
  const live = new Map<string, string>()
  for (const { key, payload, type } of records) {
    if (type === "Put") live.set(key, payload)
    else if (type === "Delete") live.delete(key)
  }
  return live
}

/** A store under test: every call tells the model what it asks for and what it was answered. */
export interface Subject {
  readonly log: Log.Log["Service"]
  readonly kv: Kv.Kv["Service"]
  readonly model: Model
  readonly ask: <A, E, R>(records: ReadonlyArray<Rec>, call: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  readonly sync: Effect.Effect<void, unknown>
}

const inputOf = (record: Rec): Log.RecordInput =>
  record.type === "Delete"
    ? { type: "Delete", key: Buffer.from(record.key, "latin1") }
    : { type: record.type, key: Buffer.from(record.key, "latin1"), payload: Buffer.from(record.payload, "latin1") }

export { inputOf }

/** Opens a log with a key/value store over it, both known to the model. */
export const open = (
  options: Log.Options,
  model: Model
): Effect.Effect<Subject, Log.OpenError, Scope.Scope> =>
  Effect.gen(function*() {
    const log = yield* Log.make(options)
    yield* log.observe((record) => {
      model.alive = model.written.push(recOf(record))
    })
    const kv = yield* Effect.provideService(Kv.makeLog, Log.Log, log)
    return {
      log,
      kv,
      model,
      ask: (records, call) =>
        Effect.suspend(() => {
          model.asked.push(...records)
          return call
        }),
      sync: Effect.suspend(() => {
        const before = model.written.length
        return Effect.map(log.sync, () => {
          model.synced = Math.max(model.synced, before)
        })
      })
    }
  })

/** How a store was opened again, and what was wrong with what it showed. */
export interface Recovered {
  readonly refused: CorruptTail | CorruptSegment | undefined
  readonly shown: ReadonlyArray<Rec>
  readonly problem: string | undefined
  /** Whether the store was opened and read, so that the model goes on from what it showed. */
  readonly accepted: boolean
  /** Whether the problem is that the disk refused something. */
  readonly isIo: boolean
}

const filesBelow = (disk: SimulatedDisk, directory: string): Map<string, string> => {
  const files = new Map<string, string>()
  for (const [path, bytes] of disk.files) {
    if (bytes !== undefined && path.startsWith(`${directory}/`) && !path.endsWith("/.lock")) {
      files.set(path, latin1(bytes))
    }
  }
  return files
}

/** What stood in the segment behind the cut must be in the copy, and nothing else may have changed. */
const quarantineProblem = (
  before: ReadonlyMap<string, string>,
  after: ReadonlyMap<string, string>,
  directory: string,
  report: Log.Log["Service"]["report"]
): string | undefined => {
  const segment = `${directory}/${String(report.tail_segment ?? 0).padStart(8, "0")}.dwal`
  for (const [path, bytes] of before) {
    const now = after.get(path)
    if (report.tail_truncated === 1 && path === segment) {
      const offset = report.tail_offset ?? 0
      const tail = bytes.slice(offset)
      if (now !== bytes.slice(0, offset)) return `${path} was not cut at ${offset}`
      if (tail.length !== report.tail_bytes_discarded) {
        return `${report.tail_bytes_discarded} bytes reported, not ${tail.length}`
      }
      if (tail.replaceAll("\0", "") === "") {
        if (report.torn_file !== undefined) return "a copy of zeros"
      } else if (after.get(report.torn_file ?? "") !== tail) return "the quarantine does not hold what was cut"
    } else if (now !== bytes) return `${path} was changed by opening`
  }
  return undefined
}

/**
 * Opens with `repair`, checks everything that is promised, and goes on with `use`. `kept` as in `Model.check`. Where it
 * may refuse with a typed error, that must change nothing, and `prefix` must open.
 */
export const recover = (
  disk: SimulatedDisk,
  options: Log.Options,
  model: Model,
  kept: number,
  mayRefuse: boolean,
  use: (subject: Subject) => Effect.Effect<unknown, unknown>
): Effect.Effect<Recovered> =>
  Effect.suspend(() => {
    const before = filesBelow(disk, options.directory)
    const attempt = (policy: Log.Policy): Effect.Effect<Recovered, Log.OpenError> =>
      Effect.scoped(Effect.gen(function*() {
        const subject = yield* open({ ...options, policy }, model)
        const records = yield* Stream.runCollect(subject.log.stream)
        const shown = records.map(recOf)
        const problem = model.check(shown, kept) ??
          quarantineProblem(before, filesBelow(disk, options.directory), options.directory, subject.log.report) ??
          (records.some((record, at) => record.txid !== at + 1) ? "the txids do not ascend by one" : undefined) ??
          (yield* kvProblem(subject.kv, shown))
        model.accept(shown)
        if (problem === undefined) yield* Effect.exit(use(subject))
        return { refused: undefined, shown, problem, accepted: true, isIo: false }
      })).pipe(over(disk))
    const failed = (refused: Recovered["refused"], problem: string, isIo = false) =>
      Effect.succeed<Recovered>({ refused, shown: [], problem, accepted: false, isIo })
    return attempt("repair").pipe(
      Effect.catch((error) => {
        if ((error._tag !== "CorruptTail" && error._tag !== "CorruptSegment") || !mayRefuse) {
          return failed(undefined, `opening failed: ${error.message}`, error._tag === "IoError")
        }
        const after = filesBelow(disk, options.directory)
        if (Array.from(before).some(([path, bytes]) => after.get(path) !== bytes)) {
          return failed(error, "a refused opening has changed something")
        }
        return attempt("prefix").pipe(
          Effect.map((recovered): Recovered => ({ ...recovered, refused: error })),
          Effect.catch((again) => failed(error, `prefix does not open: ${again.message}`, again._tag === "IoError"))
        )
      })
    )
  })

const kvProblem = (
  kv: Kv.Kv["Service"],
  shown: ReadonlyArray<Rec>
): Effect.Effect<string | undefined, IoError | CorruptSegment> =>
  Effect.gen(function*() {
    const expected = fold(shown)
    const entries = yield* Stream.runCollect(kv.entries())
    const found = new Map(entries.map(({ key, value }) => [latin1(key), latin1(value)]))
    if (found.size !== expected.size) return `${found.size} keys, not ${expected.size}`
    for (const [key, value] of expected) if (found.get(key) !== value) return `the value of ${key} is wrong`
    return undefined
  })
