/**
 * An append-only log of records with one writer: append, make durable, rotate, read back as a Stream.
 *
 * Reach for it where you would append JSON lines to a file: an event log, an outbox, a journal. Each record is framed
 * and checked, a torn tail is mended when the log is opened, and two writers cannot meet.
 *
 * What is promised, and when:
 *
 * - When `append` has resolved, the record survives the death of this process, and the next read sees it.
 * - When `sync` has resolved, everything appended before it survives the loss of power too.
 * - A synced record is never lost, never put behind damage and never read twice, through any number of crashes and
 *   reopens.
 * - What cannot be told from damage to synced data is never cut: opening fails and changes nothing.
 *
 * The limits of the promise: the disk must do what it says when it is told to flush, and no other program may write
 * into the directory. After a write or sync has failed, the writer takes nothing more (`WriterPoisoned`); reopening
 * recovers.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type * as Sink from "effect/Sink"
import type * as Stream from "effect/Stream"
import type {
  CorruptSegment,
  CorruptTail,
  InvalidOptions,
  InvalidPosition,
  IoError,
  LockHeld,
  LockUnavailable,
  WriterPoisoned
} from "./Errors.ts"
import type * as Frame from "./Frame.ts"
import type { Bytes } from "./internal/bytes.ts"
import { openLog } from "./internal/openLog.ts"
import type { From } from "./internal/reading.ts"
import type { Policy } from "./internal/repair.ts"
import type { RecordRef, WriteError } from "./internal/writer.ts"
import type * as Lock from "./Lock.ts"
import type * as Recovery from "./Recovery.ts"

export type {
  /** Bytes, or a string that is stored as UTF-8. @category models @since 0.1.0 */
  Bytes
} from "./internal/bytes.ts"

export type {
  /** Where a stream starts: a position that this log gave, or the first record whose txid is not below a given one.
   * @category models @since 0.1.0 */
  From
} from "./internal/reading.ts"

export type {
  /**
   * What opening does with damage: `repair` cuts a torn tail and keeps a copy; `strict` refuses any damage; `prefix`
   * also cuts what `repair` refuses in the active segment (but never a newer version's frames).
   *
   * @category options
   * @since 0.1.0
   */
  Policy
} from "./internal/repair.ts"

export type {
  /**
   * Where a record stands: segment, byte offset and length of its frame, and its txid.
   *
   * @category models
   * @since 0.1.0
   */
  RecordRef,
  /** What an append can fail with. @category errors @since 0.1.0 */
  WriteError
} from "./internal/writer.ts"

/**
 * A record to append: what `append` takes, or one of any type. Keys are at most 65,536 bytes, payloads 64 MiB; strings
 * are stored as UTF-8. The bytes must not be changed until the append has resolved: until then it is open which ones
 * are written.
 *
 * @category models
 * @since 0.1.0
 */
export type RecordInput =
  | Bytes
  | { readonly type: "Raw"; readonly key?: Bytes | undefined; readonly payload: Bytes }
  | { readonly type: "Put"; readonly key: Bytes; readonly payload: Bytes }
  | { readonly type: "Delete"; readonly key: Bytes }

/**
 * What opening for write can fail with.
 *
 * @category errors
 * @since 0.1.0
 */
export type OpenError = LockHeld | LockUnavailable | IoError | CorruptTail | CorruptSegment | InvalidOptions

/**
 * When appends are made durable: `manual`, only by `sync`; `always`, each append resolves when it is durable
 * (concurrent ones share an fsync); or an interval, after which whatever is new is synced in the background.
 *
 * @category options
 * @since 0.1.0
 */
export type Durability = "manual" | "always" | Duration.Input

/**
 * How a log is opened.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Made, with its parents, if it is missing. */
  readonly directory: string
  /**
   * `false`: a directory that is missing, or holds no segment, is `ENOENT`, and nothing is made. For a store that must
   * be there: without it, one whose volume is not mounted begins as an empty one. `true` by default.
   */
  readonly createIfMissing?: boolean | undefined
  /** What to do with damage; `repair` by default. */
  readonly policy?: Policy | undefined
  /** `manual` by default. */
  readonly durability?: Durability | undefined
  /**
   * Bytes after which the log goes on in a new segment; 64 MiB by default. A larger record gets a segment of its own.
   */
  readonly segmentSize?: number | undefined
  /** Bytes asked of the disk at once when reading: 1 MiB by default, 1 GiB at most; when opening half a MiB at most. */
  readonly chunkSize?: number | undefined
  /** How long to wait for another writer to end; not at all by default. */
  readonly waitForLock?: Lock.Wait | undefined
  /**
   * Given every record while the log is opened, in order, in batches: an index can be built without a second reading.
   * It must not throw, and must copy what it keeps of a key or payload.
   */
  readonly replay?: ((records: ReadonlyArray<Frame.LogRecord>) => void) | undefined
}

/**
 * A segment and the bytes of the records in it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Segment {
  readonly id: number
  readonly bytes: number
  readonly active: boolean
}

/**
 * What `read` needs of a reference; a `RecordRef` is one.
 *
 * @category models
 * @since 0.1.0
 */
export interface RefLike {
  readonly segment: number
  readonly offset: number
  readonly len: number
  readonly txid?: number | undefined
}

/**
 * What a `sink` wrote: how many records, the bytes of their frames, and where the last one is.
 *
 * @category models
 * @since 0.1.0
 */
export interface Appended {
  readonly records: number
  readonly bytes: number
  readonly last: RecordRef | undefined
}

/**
 * What can be done with a log that is open for write.
 *
 * The first write, sync or rotation that fails is an `IoError`, and stops the writer: what mutates fails with
 * `WriterPoisoned` from then on, until the log is closed and opened again. Whether the records of a call that failed so
 * are there then is not known before: they may be. `LimitExceeded` has written nothing, unless a member says otherwise.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogService {
  /**
   * The path of the directory from the root, without symbolic links, as it was when the log was opened: what the
   * process does to its own directory, or anybody to a link, later does not change where records go.
   */
  readonly directory: string

  /** What opening found and cut. */
  readonly report: Recovery.RecoveryReport

  /** Appends a payload as a `Raw` record. Resolves once the kernel has all of it, or as `durability` says. */
  readonly append: (payload: Bytes) => Effect.Effect<RecordRef, WriteError>

  /** Appends a record of any type. */
  readonly appendRecord: (record: RecordInput) => Effect.Effect<RecordRef, WriteError>

  /**
   * Appends many records in one write, or few. If one passes a limit, none is written; if a write fails, or the log is
   * at its last segment (`LimitExceeded`, `segment`), the first few of them may be in the log. Once begun it goes on to
   * its end, and an interruption waits for that: what is to stop sooner comes in smaller lists, or through `sink`.
   */
  readonly appendAll: (records: Iterable<RecordInput>) => Effect.Effect<Array<RecordRef>, WriteError>

  /** Appends what a Stream emits, an array at a time. */
  readonly sink: Sink.Sink<Appended, RecordInput, never, WriteError>

  /**
   * Calls `observer` with every record as it is written, in order and in the step that writes it, until the scope
   * closes; gives the position where the log ends: there the first of them will stand, or at the start of a new
   * segment. The observer must copy what it keeps of a key or payload, and should not throw: the record is written
   * then, and all other observers are told, but the call that wrote it dies with what was thrown, and of the rest of
   * that batch this observer is not told. What it starts to write comes behind, once all have been told: with
   * `Effect.runFork`, since `runSync` cannot wait for that.
   */
  readonly observe: (
    observer: (record: Frame.LogRecord) => void
  ) => Effect.Effect<Recovery.Position, never, Scope.Scope>

  /** Makes everything appended before it durable. Concurrent calls share an fsync; nothing new costs nothing. */
  readonly sync: Effect.Effect<void, IoError | WriterPoisoned>

  /** Syncs the active segment and goes on in a new one: where that starts. */
  readonly rotate: Effect.Effect<Recovery.Position, WriteError>

  /** Every record there is when the stream starts, in order. */
  readonly stream: Stream.Stream<Frame.LogRecord, IoError | CorruptSegment>

  /**
   * Every record from a place or a txid on that is there when the stream starts. Starting at a place costs nothing; to
   * find a txid its segment is read from the start. To go on where one stopped, use the place behind the last record
   * (`{ segment, offset: offset + len }`) or an earlier `end`: both hold when the log has gone on in a new segment. Go
   * on after a crash only from what was durable: a loss of power takes what was not, and its txids are given again.
   */
  readonly streamFrom: (from: From) => Stream.Stream<Frame.LogRecord, IoError | CorruptSegment | InvalidPosition>

  /**
   * `streamFrom`, but instead of ending it waits for what is written next. A record comes as soon as it is written,
   * durable yet or not. Nothing is buffered: what a slow reader has not taken is read when it is. It ends when the log
   * is closed, behind the last record: what has not been taken by then is read from the files still. From `end` on it
   * is what comes from now on. When a write has failed nothing comes any more, and it waits for the close.
   */
  readonly follow: (from: From) => Stream.Stream<Frame.LogRecord, IoError | CorruptSegment | InvalidPosition>

  /** The record of one reference, checked against its checksum, length and txid. */
  readonly read: (ref: RefLike) => Effect.Effect<Frame.LogRecord, IoError | CorruptSegment | InvalidPosition>

  /** Where the log ends: there the next record will stand, or in a new segment; and the last txid given, 0 at first. */
  readonly end: Effect.Effect<Recovery.Position & { readonly txid: number }>

  /** The segments, in order; the last is the active one. */
  readonly segments: Effect.Effect<ReadonlyArray<Segment>>

  /** The error that mutating calls fail with since a write or sync failed, or since the log was closed. */
  readonly refusal: Effect.Effect<WriterPoisoned | IoError | undefined>
}

/**
 * The log, opened for write.
 *
 * @category services
 * @since 0.1.0
 */
export class Log extends Context.Service<Log, LogService>()("effect-datawal/Log") {}

export {
  /** Where a log goes on in a new segment unless told otherwise. @category constants @since 0.1.0 */
  segment_bytes_default
} from "./internal/openLog.ts"

/**
 * Opens the log of a directory for write, until the scope closes: takes the lock, reads it, mends a torn tail.
 *
 * **Details**
 *
 * When it fails, nothing is held and, except by a cut that had begun, nothing was changed. Closing the scope syncs
 * what is new if it can, waits for what is under way, and lets go of the lock, on success, failure, defect and
 * interruption alike.
 *
 * **Example** (An event log)
 *
 * ```ts
 * import { Effect, Stream } from "effect"
 * import { Log } from "effect-datawal"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const log = yield* Log.make({ directory: "events" })
 *   yield* log.append("started")
 *   yield* log.append("stopped")
 *   yield* log.sync
 *   return yield* Stream.runCollect(log.stream)
 * }))
 *
 * const records = await Effect.runPromise(program)
 * records.map((record) => new TextDecoder().decode(record.payload)) // => ["started", "stopped"]
 * records.map((record) => record.txid) // => [1, 2]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<LogService, OpenError, Scope.Scope> =>
  Effect.map(openLog(options), ({ log }) => log)

/**
 * A layer of `make`. Bind it to a constant, and provide that once, to the whole program, or to a `ManagedRuntime` where
 * it is run in pieces: two calls are two logs, and so are two fibers that provide it side by side, or two runs. The
 * second meets the first's lock.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Log, OpenError> => Layer.effect(Log, make(options))

/**
 * A layer whose options come from configuration.
 *
 * **Example** (A directory from the environment)
 *
 * ```ts
 * import { Config, ConfigProvider, Effect, Layer } from "effect"
 * import { Log } from "effect-datawal"
 *
 * const LogLive = Log.layerConfig({
 *   directory: Config.String("EVENTS"),
 *   durability: Config.succeed("always" as const)
 * })
 *
 * const program = Effect.flatMap(Log.Log, (log) => log.append("started"))
 * const Environment = ConfigProvider.layer(ConfigProvider.fromEnv({ env: { EVENTS: "events" } }))
 * const { txid } = await Effect.runPromise(Effect.provide(program, Layer.provide(LogLive, Environment)))
 * txid // => 1
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<Log, OpenError | Config.ConfigError> =>
  Layer.effect(Log, Effect.flatMap(Config.unwrap(options), make))
