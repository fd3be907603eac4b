/** Opening a directory for reading: what becomes of it for users, and for an index. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Disk from "../Disk.ts"
import { type CorruptSegment, type CorruptTail, type InvalidOptions, type InvalidPosition, IoError } from "../Errors.ts"
import type * as Frame from "../Frame.ts"
import type { RefLike } from "../Log.ts"
import type { Options, ReaderService } from "../Reader.ts"
import * as Recovery from "../Recovery.ts"
import { closedError } from "./closed.ts"
import { count, type Counted, warnOfJumps } from "./counted.ts"
import { type Damage, isDamage } from "./damage.ts"
import { type Frames, recordsOf } from "./frames.ts"
import { findHome } from "./home.ts"
import { readerOptionsError } from "./options.ts"
import { type Bounds, framesFrom, type From, invalidPosition, locate, readRef } from "./reading.ts"
import { SegmentFiles, type SegmentReads } from "./segmentFiles.ts"
import { tailOfReader } from "./tail.ts"

interface OpenReader {
  readonly reader: ReaderService
  readonly disk: Disk.DiskService
  readonly files: SegmentReads
  /** `inspect` that gives the records of a chunk together. */
  readonly fold: (
    each: (frames: Frames) => void
  ) => Effect.Effect<Recovery.RecoveryReport, IoError | CorruptTail | CorruptSegment>
}

export const openReader = Effect.fnUntraced(function*(
  options: Options,
  cacheSize?: number
): Effect.fn.Return<OpenReader, IoError | InvalidOptions, Scope.Scope> {
  const invalid = readerOptionsError(options)
  if (invalid !== undefined) return yield* invalid
  const { chunkSize = Recovery.chunk_bytes_default } = options
  const disk = yield* Disk.Disk
  const { directory, home } = yield* findHome(options.directory)
  const files = new SegmentFiles(home, directory, cacheSize)
  let isClosed = false
  yield* Effect.addFinalizer(() => {
    isClosed = true
    return files.closeAll
  })
  const onDisk = Effect.provideService(Disk.Disk, home)
  const ids = onDisk(
    Effect.suspend(() =>
      isClosed ? Effect.fail(closedError("read", directory)) : Recovery.listGrowingSegments(directory)
    )
  )
  const bounds = Effect.map(ids, (segments) => ({ segments, chunkSize }))
  const stream = <E extends IoError | InvalidPosition>(
    frames: (bounds: Bounds) => Stream.Stream<Frame.LogRecord, E | Damage>
  ) => Stream.unwrap(Effect.map(bounds, frames)).pipe(endTorn(directory), Stream.provideService(Disk.Disk, home))
  const streamFrom = (from: From) => stream((bounds) => framesFrom(directory, from, bounds))
  const watched = {
    read: streamFrom,
    locate: (txid: number) => onDisk(Effect.flatMap(bounds, ({ segments }) => locate(directory, segments, txid))),
    version: Effect.flatMap(ids, (ids) => versionOf(disk, directory, ids.at(-1))),
    isClosed: () => isClosed
  }
  const reader: ReaderService = {
    directory,
    stream: stream<IoError>((bounds) => Recovery.frames(directory, bounds)),
    streamFrom,
    follow: (from, options) =>
      Stream.suspend(() =>
        isClosed ? Stream.fail(closedError("read", directory)) : tailOfReader(watched, from, options?.every)
      ),
    read: (ref) => Effect.suspend(() => orInvalid(directory, ref)(readRef(home, directory, files, ref, chunkSize))),
    segments: onDisk(
      Effect.flatMap(ids, (ids) =>
        Effect.forEach(
          ids,
          (id) => Effect.map(Recovery.segmentSize(directory, id), (bytes) => ({ id, bytes, active: id === ids.at(-1) }))
        ))
    ),
    inspect: (each) =>
      Effect.flatMap(
        onDisk(bounds),
        (bounds) =>
          inspect(directory, home, bounds, (frames) => each === undefined ? Effect.void : each(recordsOf(frames)))
      )
  }
  return {
    reader,
    disk,
    files,
    fold: (each) =>
      Effect.flatMap(
        onDisk(bounds),
        (bounds) => inspect(directory, home, bounds, (frames) => Effect.sync(() => each(frames)))
      )
  }
})

// A reader does not know which segments there were.
const orInvalid =
  (directory: string, ref: RefLike) =>
  <A, E>(read: Effect.Effect<A, E | IoError>): Effect.Effect<A, E | IoError | InvalidPosition> =>
    Effect.mapError(
      read,
      (error) => error instanceof IoError && error.code === "ENOENT" ? invalidPosition(directory, ref) : error
    )

const versionOf = (
  disk: Disk.DiskService,
  directory: string,
  last: number | undefined
): Effect.Effect<string, IoError> =>
  last === undefined
    ? Effect.succeed("")
    : Effect.map(disk.identity(Recovery.segmentPath(directory, last)), (identity) => `${last} ${identity}`)

// A torn tail is where the records end; anything else is an error.
const endTorn =
  (directory: string, found: (torn: Damage) => void = () => {}) =>
  <A, E extends IoError | InvalidPosition>(
    records: Stream.Stream<A, E | Damage>
  ): Stream.Stream<A, E | CorruptTail | CorruptSegment> =>
    Stream.catchIf<E | Damage, Damage, A, CorruptTail | CorruptSegment, never>(isDamage, (damage) => {
      if (damage.verdict !== "Torn") return Stream.fail(Recovery.damageError(directory, damage))
      found(damage)
      return Stream.empty
    })(records)

const inspect = Effect.fnUntraced(function*<E, R>(
  directory: string,
  home: Disk.DiskService,
  bounds: Bounds,
  each: (frames: Frames) => Effect.Effect<void, E, R>
): Effect.fn.Return<Recovery.RecoveryReport, IoError | CorruptTail | CorruptSegment | E, R> {
  const counted: Counted = { records: 0, txid: 0, jumps: [] }
  let torn: Damage | undefined
  const frames = Recovery.chunks(directory, bounds).pipe(
    endTorn(directory, (damage) => {
      torn = damage
    }),
    Stream.provideService(Disk.Disk, home)
  )
  yield* Stream.runForEach(frames, (frames) => {
    count(counted, frames)
    return each(frames)
  })
  yield* warnOfJumps(directory, counted.jumps)
  return Recovery.makeReport(bounds.segments.length, counted, torn)
})
