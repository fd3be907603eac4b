/**
 * Reading a log without the lock: of a store that somebody else is writing, or that this process may not write.
 *
 * A reader takes no lock, creates nothing and changes nothing. It sees whole records only, in order, up to where the
 * file ended when it looked; it ends cleanly before a torn tail, because a live writer's half-written record looks
 * the same.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { CorruptSegment, CorruptTail, InvalidOptions, InvalidPosition, IoError } from "./Errors.ts"
import type * as Frame from "./Frame.ts"
import { closeOnFailure } from "./internal/closeOnFailure.ts"
import { openReader } from "./internal/openReader.ts"
import type { From } from "./internal/reading.ts"
import type { RefLike, Segment } from "./Log.ts"
import type * as Recovery from "./Recovery.ts"

/**
 * What can be done with a log that is only read.
 *
 * @category models
 * @since 0.1.0
 */
export interface ReaderService {
  /** The directory's own path, from the root: see `LogService.directory`. */
  readonly directory: string

  /**
   * Every record there is when the stream starts, in order. Fails with `CorruptTail` or `CorruptSegment` after
   * everything valid before the damage, and ends cleanly before a torn tail.
   */
  readonly stream: Stream.Stream<Frame.LogRecord, IoError | CorruptTail | CorruptSegment>

  /** The same from a place or a txid on. */
  readonly streamFrom: (
    from: From
  ) => Stream.Stream<Frame.LogRecord, IoError | CorruptTail | CorruptSegment | InvalidPosition>

  /**
   * `streamFrom`, but instead of ending it waits for what another process writes next, and looks for it `every` so
   * long, 100 milliseconds by default and one at least. It ends when the reader's scope has closed, at its next look.
   * At a torn tail it waits until a writer goes on, or cuts it off. While the files stay as they are it asks for their
   * size and times only. What comes from now on is `{ txid: report.last_txid_seen + 1 }`, with the report of `inspect`.
   */
  readonly follow: (
    from: From,
    options?: { readonly every?: Duration.Input | undefined }
  ) => Stream.Stream<Frame.LogRecord, IoError | CorruptTail | CorruptSegment | InvalidPosition>

  /** The record of one reference, checked against its checksum and length, and its txid if it has one. */
  readonly read: (ref: RefLike) => Effect.Effect<Frame.LogRecord, IoError | CorruptSegment | InvalidPosition>

  /** The segments there are, in order, with the bytes of their files; the last is the active one. */
  readonly segments: Effect.Effect<ReadonlyArray<Segment>, IoError>

  /**
   * Reads everything and reports what a writer's recovery would find; `each` is given every record, in order, in
   * batches. A record's key and payload hold until the Effect of its batch has ended: copy what is kept. A torn tail
   * is in the report, not an error.
   */
  readonly inspect: <E = never, R = never>(
    each?: (records: ReadonlyArray<Frame.LogRecord>) => Effect.Effect<void, E, R>
  ) => Effect.Effect<Recovery.RecoveryReport, IoError | CorruptTail | CorruptSegment | E, R>
}

/**
 * A log that is only read.
 *
 * @category services
 * @since 0.1.0
 */
export class Reader extends Context.Service<Reader, ReaderService>()("effect-datawal/Reader") {}

/**
 * How a log is read.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  readonly directory: string
  /** Bytes asked of the disk at once: 1 MiB by default, 1 GiB at most. */
  readonly chunkSize?: number | undefined
}

/**
 * Opens a directory for reading. Fails with `IoError` (`ENOENT`, `ENOTDIR`) when there is no such directory; one
 * without segments is an empty log.
 *
 * **Example** (Looking at a live store)
 *
 * ```ts
 * import { Effect, Stream } from "effect"
 * import { Log, Reader } from "effect-datawal"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const log = yield* Log.make({ directory: "watched" })
 *   const reader = yield* Reader.make({ directory: "watched" })
 *   yield* log.append("one")
 *   return yield* Stream.runCount(reader.stream)
 * }))
 *
 * await Effect.runPromise(program) // => 1
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<ReaderService, IoError | InvalidOptions, Scope.Scope> =>
  Effect.map(closeOnFailure(openReader(options)), ({ reader }) => reader)

/**
 * A layer of `make`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Reader, IoError | InvalidOptions> =>
  Layer.effect(Reader, make(options))
