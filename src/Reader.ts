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
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Disk from "./Disk.ts"
import { type CorruptSegment, type CorruptTail, InvalidOptions, type InvalidPosition, type IoError } from "./Errors.ts"
import type * as Frame from "./Frame.ts"
import type { Damage } from "./internal/damage.ts"
import { type Frames, recordsOf } from "./internal/frames.ts"
import { type Bounds, framesFrom, type From, readRef } from "./internal/reading.ts"
import { count } from "./internal/repair.ts"
import { type Place, SegmentFiles } from "./internal/segmentFiles.ts"
import type { RefLike, Segment } from "./Log.ts"
import * as Recovery from "./Recovery.ts"

/**
 * A log that is only read.
 *
 * @category services
 * @since 0.1.0
 */
export class Reader extends Context.Service<Reader, {
  readonly directory: string

  /** The disk it was opened over, which every later operation uses too. */
  readonly disk: Disk.DiskService

  /**
   * Every record there is when the stream starts, in order. Fails with `CorruptTail` or `CorruptSegment` after
   * everything valid before the damage, and ends cleanly before a torn tail.
   */
  readonly stream: Stream.Stream<Frame.LogRecord, IoError | CorruptTail | CorruptSegment>

  /** The same from a place or a txid on. */
  readonly streamFrom: (
    from: From
  ) => Stream.Stream<Frame.LogRecord, IoError | CorruptTail | CorruptSegment | InvalidPosition>

  /** The record of one reference, checked against its checksum and length, and its txid if it has one. */
  readonly read: (ref: RefLike) => Effect.Effect<Frame.LogRecord, IoError | CorruptSegment | InvalidPosition>

  /** For a projection: see `Log.valueNow`. */
  readonly valueNow: (key: Uint8Array, place: Place) => Uint8Array | IoError | undefined

  /** For a projection: see `Log.bytesNow`. */
  readonly bytesNow: (segment: number, into: Uint8Array, length: number, offset: number) => number | IoError | undefined

  /** For a projection: see `Log.openSegment`. */
  readonly openSegment: (segment: number) => Effect.Effect<void, IoError>

  /** The segments there are, in order, with the bytes of their files; the last is the active one. */
  readonly segments: Effect.Effect<ReadonlyArray<Segment>, IoError>

  /**
   * Reads everything and reports what a writer's recovery would find; `each` is given every record. A torn tail is in
   * the report, not an error.
   */
  readonly inspect: (
    each?: (records: ReadonlyArray<Frame.LogRecord>) => Effect.Effect<void>
  ) => Effect.Effect<Recovery.RecoveryReport, IoError | CorruptTail | CorruptSegment>

  /** For an index: `inspect` that gives the records of a chunk together, in memory that is used again. */
  readonly fold: (
    each: (frames: Frames) => void
  ) => Effect.Effect<Recovery.RecoveryReport, IoError | CorruptTail | CorruptSegment>
}>()("effect-datawal/Reader") {}

/**
 * @category options
 * @since 0.1.0
 */
export interface Options {
  readonly directory: string
  /** Bytes asked of the disk at once; 1 MiB by default. */
  readonly chunkSize?: number | undefined
}

// A torn tail is where the records end; anything else is an error.
const endTorn = (directory: string) =>
<E extends IoError | InvalidPosition>(
  records: Stream.Stream<Frame.LogRecord, E | Damage>
): Stream.Stream<Frame.LogRecord, E | CorruptTail | CorruptSegment> =>
  Stream.catchIf(
    records,
    isDamage,
    (damage) => damage.verdict === "Torn" ? Stream.empty : Stream.fail(Recovery.damageError(directory, damage))
  )

const isDamage = (error: { readonly _tag: string }): error is Damage => error._tag === "Damage"

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
export const make = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<Reader["Service"], IoError | InvalidOptions, Scope.Scope> {
  const { chunkSize = Recovery.chunk_bytes_default, directory } = options
  if (!(Number.isSafeInteger(chunkSize) && chunkSize > 0)) {
    return yield* new InvalidOptions({ detail: `chunkSize is a whole number of bytes above 0, not ${chunkSize}` })
  }
  const disk = yield* Disk.Disk
  yield* Recovery.listSegments(directory)
  const files = new SegmentFiles(disk, directory)
  yield* Effect.addFinalizer(() => files.closeAll)
  const onDisk = Effect.provideService(Disk.Disk, disk)
  const bounds = Effect.map(Recovery.listGrowingSegments(directory), (segments) => ({ segments, chunkSize })).pipe(
    onDisk
  )
  const stream = <E extends IoError | InvalidPosition>(
    frames: (bounds: Bounds) => Stream.Stream<Frame.LogRecord, E | Damage>
  ) => Stream.unwrap(Effect.map(bounds, frames)).pipe(endTorn(directory), Stream.provideService(Disk.Disk, disk))
  return Reader.of({
    directory,
    disk,
    stream: stream<IoError>((bounds) => Recovery.frames(directory, bounds)),
    streamFrom: (from) => stream((bounds) => framesFrom(directory, from, bounds)),
    read: (ref) => readRef(disk, directory, files, ref, chunkSize),
    valueNow: (key, place) => files.valueNow(key, place),
    bytesNow: (segment, into, length, offset) => files.bytesNow(segment, into, length, offset),
    openSegment: files.open,
    segments: onDisk(
      Effect.flatMap(
        Recovery.listGrowingSegments(directory),
        (ids) =>
          Effect.forEach(
            ids,
            (id) => Effect.map(sizeOf(disk, directory, id), (bytes) => ({ id, bytes, active: id === ids.at(-1) }))
          )
      )
    ),
    inspect: (each) =>
      onDisk(Effect.flatMap(bounds, (bounds) =>
        inspect(
          directory,
          { ...bounds, kept: each !== undefined },
          (frames) => each === undefined ? Effect.void : each(recordsOf(frames))
        ))),
    fold: (each) =>
      onDisk(
        Effect.flatMap(bounds, (bounds) => inspect(directory, bounds, (frames) => Effect.sync(() => each(frames))))
      )
  })
})

const sizeOf = (disk: Disk.DiskService, directory: string, id: number): Effect.Effect<number, IoError> =>
  Effect.scoped(
    Effect.flatMap(Disk.openScoped(disk, Recovery.segmentPath(directory, id), "read"), (file) => file.size)
  )

const inspect = Effect.fnUntraced(function*(
  directory: string,
  bounds: { readonly segments: ReadonlyArray<number>; readonly chunkSize: number; readonly kept?: boolean },
  each: (frames: Frames) => Effect.Effect<void>
): Effect.fn.Return<Recovery.RecoveryReport, IoError | CorruptTail | CorruptSegment> {
  const counted = { records: 0, txid: 0 }
  const torn = yield* Recovery.chunks(directory, bounds).pipe(
    Stream.runForEach((frames) => {
      count(counted, frames)
      return each(frames)
    }),
    Effect.as(undefined),
    Effect.catchTag(
      "Damage",
      (damage) =>
        damage.verdict === "Torn" ? Effect.succeed(damage) : Effect.fail(Recovery.damageError(directory, damage))
    )
  )
  return Recovery.makeReport(bounds.segments.length, counted, torn)
})

/**
 * A layer of `make`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Reader, IoError | InvalidOptions> =>
  Layer.effect(Reader, make(options))
