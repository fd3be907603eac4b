/**
 * From the bytes of a directory to its records, and the verdict on bytes that are none. Written once: opening for
 * write, reading without the lock, verifying, rebuilding an index and repairing all go by the same reading.
 *
 * | where | what is found | verdict |
 * | --- | --- | --- |
 * | closed segment | anything but a whole valid frame | `CorruptSegment` |
 * | active segment | a header that no crash explains | `CorruptSegment` |
 * | active segment | zeros up to the next sector, or to the end | torn |
 * | active segment | a frame cut short, or a bad checksum | torn, but `CorruptTail` if whole valid frames follow |
 * | active segment | a bad checksum, and a sector of the frame all zeros | torn: that sector was never written |
 *
 * Records come in the order they were written, from the lowest segment id to the highest, and every record before the
 * damage comes before the verdict. Memory is bounded by the chunk at hand and the one on its way (two on their way, of
 * at most 4 MiB, while records are large and of one size) and the largest frames, never by the size of a segment.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as NodePath from "node:path"
import * as Disk from "./Disk.ts"
import { CorruptSegment, CorruptTail, DamageReason, type IoError } from "./Errors.ts"
import type * as Frame from "./Frame.ts"
import type { Damage } from "./internal/damage.ts"
import { type Frames, recordsOf } from "./internal/frames.ts"
import {
  type Memory,
  ownMemory,
  type Progress,
  SegmentReader,
  type SegmentScan,
  twoInTurn
} from "./internal/segmentReader.ts"

/** Bytes that a reader asks the disk for at once. @category constants @since 0.1.0 */
export const chunk_bytes_default = 1_048_576

/** The highest segment id: eight decimal digits. @category constants @since 0.1.0 */
export const segment_max = 99_999_999

/**
 * What opening a store found, and what it cut. `tail_truncated` is 1 when the active segment ended in a torn tail;
 * then the `tail_…` fields say where it was cut, how many bytes went and why, and `torn_file` where a copy of them is
 * (none is made of zeros, nor by a reader, which cuts nothing).
 *
 * @category models
 * @since 0.1.0
 */
export const RecoveryReport = Schema.Struct({
  files_scanned: Schema.Number,
  records_replayed: Schema.Number,
  tail_truncated: Schema.Literals([0, 1]),
  tail_bytes_discarded: Schema.Number,
  mid_stream_errors: Schema.Literals([0]),
  unsupported_versions: Schema.Literals([0]),
  last_txid_seen: Schema.Number,
  tail_segment: Schema.optionalKey(Schema.Number),
  tail_offset: Schema.optionalKey(Schema.Number),
  tail_reason: Schema.optionalKey(DamageReason),
  torn_file: Schema.optionalKey(Schema.String)
})

/**
 * Such a report.
 *
 * @category models
 * @since 0.1.0
 */
export type RecoveryReport = typeof RecoveryReport.Type

/**
 * A place in the log: the segment's id and a byte offset in it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Position {
  readonly segment: number
  readonly offset: number
}

/** The file name of a segment. @category getters @since 0.1.0 */
export const segmentName = (id: number): string => `${String(id).padStart(8, "0")}.dwal`

/** The path of a segment. @category getters @since 0.1.0 */
export const segmentPath = (directory: string, id: number): string => NodePath.join(directory, segmentName(id))

/**
 * The ids of a directory's segments, ascending. The last one is the active segment.
 *
 * @category reading
 * @since 0.1.0
 */
export const listSegments = Effect.fnUntraced(function*(
  directory: string
): Effect.fn.Return<ReadonlyArray<number>, IoError> {
  const disk = yield* Disk.Disk
  const ids: Array<number> = []
  for (const entry of yield* disk.list(directory)) {
    const id = /^\d{8}\.dwal$/.test(entry.name) && entry.isFile ? Number.parseInt(entry.name, 10) : 0
    if (id > 0) ids.push(id)
  }
  return ids.sort((a, b) => a - b)
})

/**
 * The ids of the segments of a directory that somebody may be adding segments to. A single listing may miss one that is
 * made while it runs and yet show a later one. Whatever stands below an id of the first listing was there before the
 * second began, so that one has all of them. @internal
 */
export const listGrowingSegments = Effect.fnUntraced(function*(
  directory: string
): Effect.fn.Return<ReadonlyArray<number>, IoError> {
  const newest = (yield* listSegments(directory)).at(-1) ?? 0
  return (yield* listSegments(directory)).filter((id) => id <= newest)
})

/** The bytes of a segment's file. @internal */
export const segmentSize = (directory: string, id: number): Effect.Effect<number, IoError> =>
  Effect.scoped(
    Effect.flatMap(Disk.Disk, (disk) =>
      Effect.flatMap(Disk.openScoped(disk, segmentPath(directory, id), "read"), (file) => file.size))
  )

/** How `frames` reads. @internal */
export interface FramesOptions {
  readonly segments: ReadonlyArray<number>
  /** The first record to read; one must start there. */
  readonly from?: Position | undefined
  /** Where the reader itself knows that whole frames end: everything before it counts as closed. */
  readonly to?: Position | undefined
  readonly chunkSize?: number | undefined
}

/**
 * The records of the segments, failing with the `Damage` that ends them, if any. @internal
 */
export const frames = (directory: string, options: FramesOptions): Stream.Stream<Frame.LogRecord, IoError | Damage> =>
  read(directory, options, ownMemory, recordsOf)

/**
 * The same a chunk at a time, without an object for each record. The memory of one is used again when the next is
 * asked for. @internal
 */
export const chunks = (directory: string, options: FramesOptions): Stream.Stream<Frames, IoError | Damage> =>
  read(directory, options, twoInTurn, Arr.of)

const read = <A>(
  directory: string,
  options: FramesOptions,
  memory: (chunkSize: number) => Memory,
  each: (frames: Frames) => Arr.NonEmptyReadonlyArray<A>
): Stream.Stream<A, IoError | Damage> =>
  Stream.suspend(() => {
    const { chunkSize = chunk_bytes_default, from, to } = options
    const ids = options.segments.filter((id) => id >= (from?.segment ?? 0) && id <= (to?.segment ?? segment_max))
    const active = options.segments.at(-1)
    const progress: Progress = {
      txid: from === undefined ? 0 : undefined,
      before: from === undefined ? Effect.succeed(0) : lastTxidBefore(directory, options.segments, from)
    }
    const shared = memory(chunkSize)
    return Stream.flatMap(Stream.fromIterable(ids), (id) =>
      segmentFrames(
        directory,
        {
          id,
          start: from?.segment === id ? from.offset : 0,
          end: to?.segment === id ? to.offset : undefined,
          closed: to !== undefined || id !== active,
          memory: shared
        },
        progress,
        each
      ))
  })

const lastTxidBefore = Effect.fnUntraced(function*(
  directory: string,
  segments: ReadonlyArray<number>,
  place: Position
): Effect.fn.Return<number, IoError> {
  for (const id of segments.filter((id) => id <= place.segment).reverse()) {
    let txid = 0
    const to = id === place.segment ? place : undefined
    yield* Stream.runForEach(chunks(directory, { segments: [id], to }), ({ last }) =>
      Effect.sync(() => {
        txid = last
      })).pipe(
        Effect.catchTag("Damage", () => Effect.void)
      )
    if (txid > 0) return txid
  }
  return 0
})

const segmentFrames = <A>(
  directory: string,
  scan: SegmentScan,
  progress: Progress,
  each: (frames: Frames) => Arr.NonEmptyReadonlyArray<A>
): Stream.Stream<A, IoError | Damage> =>
  Stream.unwrap(Effect.gen(function*() {
    const disk = yield* Disk.Disk
    const scope = yield* Effect.scope
    const file = yield* Disk.openScoped(disk, segmentPath(directory, scan.id), "read")
    const size = scan.end ?? (yield* file.size)
    const reader = new SegmentReader(file, scan, size, progress, scope)
    return Stream.fromPull(Effect.succeed(Effect.map(reader.pull, each)))
  }))

/** What damage is to those who know that whole frames were there. @internal */
export const segmentError = (directory: string, damage: Damage): CorruptSegment => {
  const { found, offset, reason, segment } = damage
  return new CorruptSegment({ directory, segment, offset, reason, found })
}

/**
 * The public error that a `Damage` becomes: for a torn tail `CorruptTail`, which only `strict` makes of it.
 *
 * @internal
 */
export const damageError = (directory: string, damage: Damage): CorruptTail | CorruptSegment => {
  const { bytes, found, laterFrames, offset, reason, segment } = damage
  return damage.verdict === "CorruptSegment"
    ? segmentError(directory, damage)
    : new CorruptTail({ directory, segment, offset, reason, found, bytes, laterFrames })
}

/** The report on records counted so far and the torn tail behind them, if any. @internal */
export const makeReport = (
  files: number,
  counted: { readonly records: number; readonly txid: number },
  torn?: Damage,
  tornFile?: string
): RecoveryReport => ({
  files_scanned: files,
  records_replayed: counted.records,
  tail_truncated: torn === undefined ? 0 : 1,
  tail_bytes_discarded: torn?.bytes ?? 0,
  mid_stream_errors: 0,
  unsupported_versions: 0,
  last_txid_seen: counted.txid,
  ...(torn === undefined ? {} : { tail_segment: torn.segment, tail_offset: torn.offset, tail_reason: torn.reason }),
  ...(tornFile === undefined ? {} : { torn_file: tornFile })
})
