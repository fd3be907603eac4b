/**
 * The oracle of the crash tests: what a store was asked to write, what it has said about it, and whether what a store
 * that was opened again shows is what the promises allow.
 *
 * The model knows three things of a record: `asked` (a call that writes it has begun), `written` (it was handed to the
 * kernel, seen through `Log.observe`, or in the file itself where there is only a `Kv`), and synced (it was written
 * before a `sync` began that has resolved, or its own call has promised so). A record's place in `written` is its txid.
 */
import { Effect, Stream } from "effect"
import type { Scope } from "effect"
import * as Disk from "../../src/Disk.ts"
import type { CorruptSegment, CorruptTail, IoError, WriterPoisoned } from "../../src/Errors.ts"
import * as Kv from "../../src/Kv.ts"
import * as Log from "../../src/Log.ts"
import type { SimulatedDisk } from "../../src/testing.ts"
import { framesIn } from "./frames.ts"

/** What is on a disk. */
export type Files = SimulatedDisk["files"]

type KvOptions = Parameters<typeof Kv.make>[0]

export const over = (disk: SimulatedDisk) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(effect, Disk.Disk, disk.service)

export const eventLoopTurn = Effect.callback<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

/**
 * The same disk with listings that take a while: of the names that are made meanwhile they have some and miss others,
 * as readdir(3) may.
 */
export const listingSlowly = (
  disk: SimulatedDisk,
  pick: (count: number) => number,
  turns_max: number
): Disk.DiskService => ({
  ...disk.service,
  list: (path) =>
    Effect.gen(function*() {
      const before = new Set((yield* disk.service.list(path)).map(({ name }) => name))
      for (let turns = pick(turns_max + 1); turns > 0; turns--) yield* eventLoopTurn
      const after = yield* disk.service.list(path)
      return after.filter(({ name }) => before.has(name) || pick(2) === 1)
    })
})

/** Disks that fail make errors by the thousand, and the stack of each would cost a tenth of the time. */
export const withoutStacks = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    return Effect.ensuring(
      effect,
      Effect.sync(() => {
        Error.stackTraceLimit = stackTraceLimit
      })
    )
  })

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
  /** How many of the last ones stand in the file though their batch has failed: their writer does not show them. */
  doubtful = 0
  /** What else has been promised, for the check of a workload. */
  notes: Array<string> = []

  fork(): Model {
    const copy = new Model()
    copy.asked = this.asked.slice()
    copy.written = this.written.slice()
    copy.synced = this.synced
    copy.alive = this.alive
    copy.doubtful = this.doubtful
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
    if (shown.length === common) return undefined
    const { underWay } = this
    for (const record of shown.slice(common)) {
      const at = underWay.findIndex((other) => same(other, record))
      if (at < 0) return `${brief(record)} was never written, or is there twice`
      underWay.splice(at, 1)
    }
    return undefined
  }

  /** A call has said that everything up to that txid is durable. */
  promise(txid: number): void {
    this.synced = Math.max(this.synced, txid)
  }

  /** The call that was to write these has failed. */
  doubt(records: ReadonlyArray<Rec>): void {
    const sure = this.written.findLastIndex((record) => !records.some((other) => same(other, record))) + 1
    this.doubtful = Math.max(this.doubtful, this.written.length - sure)
  }

  /** Where a record stands that nobody else writes: its txid, or 0. */
  txidOf(record: Rec): number {
    return 1 + this.written.findLastIndex((other) => same(other, record))
  }

  /** What is wrong with a reference that was given for a record. */
  refProblem(record: Rec, { txid }: { readonly txid: number }): string | undefined {
    const there = this.written[txid - 1]
    return same(there, record) ? undefined : `txid ${txid} was given for ${brief(record)}, and is ${brief(there)}`
  }

  /** Goes on from what a reopened store shows. */
  accept(shown: ReadonlyArray<Rec>): void {
    this.written = shown.slice()
    this.asked = shown.slice()
    this.alive = shown.length
    this.doubtful = 0
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
export interface Store {
  /** `undefined` when the store was opened as a `Kv` of its own. */
  readonly log: Log.Log["Service"] | undefined
  readonly kv: Kv.Kv["Service"]
  readonly model: Model
  readonly ask: <A, E, R>(records: ReadonlyArray<Rec>, call: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  readonly sync: Effect.Effect<void, IoError | WriterPoisoned>
  /** Brings the model's `written` up to date. */
  readonly look: () => void
}

/** One that was opened as a log, with a key/value store over it. */
export interface Subject extends Store {
  readonly log: Log.Log["Service"]
}

const inputOf = (record: Rec): Log.RecordInput =>
  record.type === "Delete"
    ? { type: "Delete", key: Buffer.from(record.key, "latin1") }
    : { type: record.type, key: Buffer.from(record.key, "latin1"), payload: Buffer.from(record.payload, "latin1") }

export { inputOf }

const storeOf = <L extends Log.Log["Service"] | undefined>(
  log: L,
  kv: Kv.Kv["Service"],
  model: Model,
  look: () => void
) => ({
  log,
  kv,
  model,
  look,
  ask: <A, E, R>(records: ReadonlyArray<Rec>, call: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.suspend(() => {
      model.asked.push(...records)
      return call
    }),
  sync: Effect.suspend(() => {
    look()
    const before = model.written.length
    return Effect.map(kv.sync, () => model.promise(before))
  })
})

/** Opens a log with a key/value store over it, both known to the model. */
export const open = (
  options: Log.Options,
  model: Model
): Effect.Effect<Subject, Kv.OpenError, Scope.Scope> =>
  Effect.gen(function*() {
    const log = yield* Log.make(options)
    yield* log.observe((record) => {
      model.alive = model.written.push(recOf(record))
    })
    const kv = yield* Effect.provideService(Kv.makeLog, Log.Log, log)
    return storeOf(log, kv, model, () => {})
  })

/** Opens a key/value store; what it has written is read in its files. */
export const openKv = (
  options: KvOptions,
  model: Model,
  disk: SimulatedDisk
): Effect.Effect<Store, Kv.OpenError, Scope.Scope> =>
  Effect.map(Kv.make(options), (kv) => {
    let calls = -1
    return storeOf(undefined, kv, model, () => {
      if (disk.operations.length === calls) return
      calls = disk.operations.length
      model.written = recordsIn(disk.files, options.directory)
      model.alive = model.written.length
    })
  })

/** The records in a directory's files, up to the first byte that is none. */
export const recordsIn = (files: Files, directory: string): Array<Rec> => {
  const records: Array<Rec> = []
  for (const [, bytes] of segmentsIn(files, directory)) {
    let end = 0
    for (const frame of framesIn(bytes)) {
      records.push(recOf(frame))
      end = frame.offset + frame.len
    }
    if (end < bytes.length) break
  }
  return records
}

/** The segments of a store, in order. */
export const segmentsIn = (
  files: Files,
  directory: string
): Array<readonly [path: string, bytes: Uint8Array]> => {
  const segments: Array<readonly [path: string, bytes: Uint8Array]> = []
  for (const [path, bytes] of files) {
    if (bytes !== undefined && path.startsWith(`${directory}/`) && /\/\d{8}\.dwal$/.test(path)) {
      segments.push([path, bytes])
    }
  }
  return segments.sort(([a], [b]) => a < b ? -1 : 1)
}

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

/** The segments of a store and its copies of what was cut. What else is in the directory is nobody's promise. */
const filesBelow = (disk: SimulatedDisk, directory: string): Map<string, Uint8Array> => {
  const files = new Map<string, Uint8Array>()
  for (const [path, bytes] of disk.files) {
    if (bytes !== undefined && path.startsWith(`${directory}/`) && /\/\d{8}(\.dwal|-\d+(-\d+)?\.torn)$/.test(path)) {
      files.set(path, bytes)
    }
  }
  return files
}

const areSame = (a: Uint8Array | undefined, b: Uint8Array | undefined): boolean =>
  a !== undefined && b !== undefined && Buffer.compare(a, b) === 0

/** What stood in the segment behind the cut must be in the copy, and nothing else may have changed. */
const quarantineProblem = (
  before: ReadonlyMap<string, Uint8Array>,
  after: ReadonlyMap<string, Uint8Array>,
  directory: string,
  report: Log.Log["Service"]["report"]
): string | undefined => {
  const segment = `${directory}/${String(report.tail_segment ?? 0).padStart(8, "0")}.dwal`
  for (const [path, bytes] of before) {
    const now = after.get(path)
    if (report.tail_truncated === 1 && path === segment) {
      const offset = report.tail_offset ?? 0
      const tail = bytes.subarray(offset)
      if (!areSame(now, bytes.subarray(0, offset))) return `${path} was not cut at ${offset}`
      if (tail.length !== report.tail_bytes_discarded) {
        return `${report.tail_bytes_discarded} bytes reported, not ${tail.length}`
      }
      if (tail.every((byte) => byte === 0)) {
        if (report.torn_file !== undefined) return "a copy of zeros"
      } else if (!areSame(after.get(report.torn_file ?? ""), tail)) return "the quarantine does not hold what was cut"
    } else if (!areSame(now, bytes)) return `${path} was changed by opening`
  }
  return undefined
}

/** A store that has been opened, with what it shows. */
interface Opened<S extends Store> {
  readonly store: S
  readonly report: Log.Log["Service"]["report"]
  readonly shown: ReadonlyArray<Rec>
  readonly problem: string | undefined
}

/**
 * Opens with `repair`, checks everything that is promised, and goes on with `use`. `kept` as in `Model.check`. Where it
 * may refuse with a typed error, that must change nothing, and `prefix` must open.
 */
const reopen = <S extends Store>(
  disk: SimulatedDisk,
  directory: string,
  kept: number,
  mayRefuse: boolean,
  make: (policy: Log.Policy) => Effect.Effect<Opened<S>, Kv.OpenError, Scope.Scope>,
  use: (store: S) => Effect.Effect<unknown, unknown>
): Effect.Effect<Recovered> =>
  Effect.suspend(() => {
    const before = filesBelow(disk, directory)
    const attempt = (policy: Log.Policy): Effect.Effect<Recovered, Kv.OpenError> =>
      Effect.scoped(Effect.gen(function*() {
        const opened = yield* make(policy)
        const { report, shown, store } = opened
        const problem = store.model.check(shown, kept) ??
          quarantineProblem(before, filesBelow(disk, directory), directory, report) ??
          opened.problem ??
          (yield* kvProblem(store.kv, shown))
        store.model.accept(shown)
        if (problem === undefined) yield* Effect.exit(use(store))
        return { refused: undefined, shown, problem, accepted: true, isIo: false }
      })).pipe(over(disk))
    const failed = (refused: Recovered["refused"], problem: string, isIo = false) =>
      Effect.succeed<Recovered>({ refused, shown: [], problem, accepted: false, isIo })
    return attempt("repair").pipe(
      Effect.catch((error) => {
        if ((error._tag !== "CorruptTail" && error._tag !== "CorruptSegment") || !mayRefuse) {
          return failed(undefined, `opening failed: ${error.message}`, error._tag === "IoError")
        }
        const after = filesBelow(disk, directory)
        if (Array.from(before).some(([path, bytes]) => !areSame(after.get(path), bytes))) {
          return failed(error, "a refused opening has changed something")
        }
        return attempt("prefix").pipe(
          Effect.map((recovered): Recovered => ({ ...recovered, refused: error })),
          Effect.catch((again) => failed(error, `prefix does not open: ${again.message}`, again._tag === "IoError"))
        )
      })
    )
  })

/** Opens a log with a key/value store over it. */
export const recover = (
  disk: SimulatedDisk,
  options: Log.Options,
  model: Model,
  kept: number,
  mayRefuse: boolean,
  use: (subject: Subject) => Effect.Effect<unknown, unknown>
): Effect.Effect<Recovered> =>
  reopen(disk, options.directory, kept, mayRefuse, (policy) =>
    Effect.gen(function*() {
      const store = yield* open({ ...options, policy }, model)
      const records = yield* Stream.runCollect(store.log.stream)
      return {
        store,
        report: store.log.report,
        shown: records.map(recOf),
        problem: records.some((record, at) => record.txid !== at + 1) ? "the txids do not ascend by one" : undefined
      }
    }), use)

/** Opens a key/value store by itself, which may start from a saved index: it must be the fold of the files. */
export const recoverKv = (
  disk: SimulatedDisk,
  options: KvOptions,
  model: Model,
  kept: number,
  mayRefuse: boolean,
  use: (store: Store) => Effect.Effect<unknown, unknown>
): Effect.Effect<Recovered> =>
  reopen(
    disk,
    options.directory,
    kept,
    mayRefuse,
    (policy) =>
      Effect.map(openKv({ ...options, policy }, model, disk), (store) => {
        const shown = recordsIn(disk.files, options.directory)
        return { store, report: store.kv.report, shown, problem: undefined }
      }),
    use
  )

/** What is wrong with the keys and values of a store that should be the fold of some records. */
export const kvProblem = (
  kv: Kv.KvRead,
  shown: ReadonlyArray<Rec>
): Effect.Effect<string | undefined, IoError | CorruptSegment> =>
  Effect.map(Stream.runCollect(kv.entries()), (entries) => foldProblem(entries, shown))

export const foldProblem = (
  entries: ReadonlyArray<Kv.KeyValue>,
  shown: ReadonlyArray<Rec>
): string | undefined => {
  const expected = fold(shown)
  if (entries.length !== expected.size) return `${entries.length} keys, not ${expected.size}`
  for (const { key, value } of entries) {
    const name = latin1(key)
    if (expected.get(name) !== latin1(value)) return `the value of ${name} is wrong, or there twice`
    expected.delete(name)
  }
  return undefined
}
