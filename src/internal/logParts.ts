/**
 * What this library uses of a log beside its public members: reads and writes in the calling step, and whole frames.
 * They are kept beside the service, since they would bind its users and whoever stands in for one. A log that was not
 * made here, such as one that is wrapped to count its calls, is used through its public members, and so not passed by.
 */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as Disk from "../Disk.ts"
import type { IoError, WriterPoisoned } from "../Errors.ts"
import type { LogService, RecordInput, WriteError } from "../Log.ts"
import type { Position } from "../Recovery.ts"
import { pairsOf, type PutFrames } from "./frames.ts"
import { Gate } from "./gate.ts"
import type { Observer } from "./observers.ts"
import type { SegmentReads } from "./segmentFiles.ts"
import type { RecordRef } from "./writer.ts"

export interface LogParts {
  /** The disk it was opened over, which every later operation uses too. */
  readonly disk: Disk.DiskService
  readonly files: SegmentReads
  /** Appends in this very step, or, where that would have to wait, does nothing: `undefined`. */
  readonly appendNow: (record: RecordInput) => Exit.Exit<RecordRef, WriteError> | undefined
  /** `appendRecord` and `appendAll`, but resolved once the kernel has the records, whatever `durability` says. */
  readonly write: (record: RecordInput) => Effect.Effect<RecordRef, WriteError>
  readonly writeAll: (records: Iterable<RecordInput>) => Effect.Effect<Array<RecordRef>, WriteError>
  /** `writeAll` of frames, each of which gets a txid and a checksum of its own. */
  readonly writeFrames: (frames: PutFrames) => Effect.Effect<void, WriteError>
  /** Waits after a write as `durability` demands: for a shared fsync under `always`, else for nothing. */
  readonly settled: <A, E, R>(write: Effect.Effect<A, E, R>) => Effect.Effect<A, E | WriteError, R>
  /**
   * Held by whoever needs that no store over the same log writes: then small puts wait as well. What is written to the
   * log itself does not ask for it. It refuses once the log has closed.
   */
  readonly turn: Gate<IoError>
  /** Why nothing is written any more, if so. */
  readonly refusal: () => IoError | WriterPoisoned | undefined
  /** Tells the observer of what is written until the scope closes; gives where the first of it will stand. */
  readonly observe: (observer: Observer) => Effect.Effect<Position, never, Scope.Scope>
}

const registered = new WeakMap<LogService, LogParts>()

export const registerLog = (log: LogService, parts: LogParts): void => {
  registered.set(log, parts)
}

export const logParts = (log: LogService): Effect.Effect<LogParts> =>
  Effect.map(Disk.Disk, (disk) => registered.get(log) ?? publicParts(log, disk))

/** Several stores can be over one log, whoever made it. */
const turns = new WeakMap<LogService, Gate<IoError>>()

const turnOf = (log: LogService): Gate<IoError> => {
  const turn = turns.get(log) ?? new Gate()
  turns.set(log, turn)
  return turn
}

const publicParts = (log: LogService, disk: Disk.DiskService): LogParts => ({
  disk,
  files: noFiles,
  appendNow: () => undefined,
  write: log.appendRecord,
  writeAll: log.appendAll,
  writeFrames: (frames) => Effect.suspend(() => Effect.asVoid(log.appendAll(putsOf(frames)))),
  settled: (write) => write,
  turn: turnOf(log),
  refusal: () => undefined,
  observe: ({ record }) => log.observe((written) => record(written, written))
})

/** Nothing can be read in the calling step. */
const noFiles: SegmentReads = {
  valueNow: () => undefined,
  bytesNow: () => undefined,
  open: (): Effect.Effect<void, IoError> => Effect.void
}

const putsOf = (frames: PutFrames): Array<RecordInput> =>
  pairsOf(frames).map(([key, payload]) => ({ type: "Put", key, payload }))
