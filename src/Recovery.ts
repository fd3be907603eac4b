/**
 * From the bytes of a directory to its records, and the verdict on bytes that are none. Written once: opening for
 * write, reading without the lock, verifying, rebuilding an index and repairing all consume the Stream of this
 * module.
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
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Pull from "effect/Pull"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as NodePath from "node:path"
import * as Disk from "./Disk.ts"
import { CorruptSegment, CorruptTail, DamageReason, type IoError } from "./Errors.ts"
import * as Frame from "./Frame.ts"
import { roomFor, sharedBytes } from "./internal/bytes.ts"
import { classify, type Damage, type Damaged } from "./internal/damage.ts"
import { firstTxid, type Frames, recordsOf, verified } from "./internal/frames.ts"

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

// Below this part of a chunk it does not matter that the record at its end is read again with the next one.
const small_fraction = 32

// In a longer chunk than that there is but one record, and two of them are enough in memory.
const ahead_bytes_max = 4_194_304

// Small records in so many bytes are checked and folded into an index in two milliseconds.
const fold_bytes_max = 524_288

// The first chunk is this part of one, and each is that much longer than the last.
const warm_steps = 32
const warm_growth = 1.25

// A file that changes under the reader is read again this often before the verdict stands.
const changes_max = 16

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

/** What is read into, how much at once, and how many reads may be under way while one is looked at. */
interface Memory {
  readonly chunkSize: () => number
  readonly reads: number
  readonly bytes: (length: number) => Uint8Array<ArrayBuffer>
}

const ownMemory = (chunkSize: number): Memory => ({ chunkSize: () => chunkSize, reads: 2, bytes: sharedBytes })

/**
 * One to read into while the other is looked at. What is longer than a chunk has memory of its own. The first chunks
 * are small: until the compiler is warm a record takes ten times as long, and others want their turn.
 */
const twoInTurn = (wanted: number): Memory => {
  const two: Array<Uint8Array<ArrayBuffer>> = []
  const chunkSize = Math.min(wanted, fold_bytes_max)
  let turn = 0
  let size = chunkSize / warm_steps
  return {
    chunkSize: () => {
      size = Math.min(chunkSize, size * warm_growth)
      return Math.ceil(size)
    },
    reads: 1,
    bytes: (length) => {
      if (length > chunkSize) return sharedBytes(length)
      turn = 1 - turn
      let bytes = two[turn]
      if (bytes === undefined || bytes.length < length) two[turn] = bytes = sharedBytes(roomFor(length, chunkSize))
      return bytes.subarray(0, length)
    }
  }
}

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

/** The txid of the last valid record, which makes a frame behind damage a later one; looked for when it is needed. */
interface Progress {
  txid: number | undefined
  readonly before: Effect.Effect<number, IoError>
}

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

interface SegmentScan {
  readonly id: number
  readonly start: number
  readonly end: number | undefined
  readonly closed: boolean
  readonly memory: Memory
}

interface Chunk {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly view: DataView
  readonly base: number
  /** The file ended before the chunk was full. */
  readonly short: boolean
}

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

const readChunk = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  base: number,
  bytes: Uint8Array<ArrayBuffer>
): Effect.fn.Return<Chunk, IoError> {
  const { length } = bytes
  const count = yield* Disk.readFully(file, bytes, 0, length, base)
  return { bytes: bytes.subarray(0, count), view: new DataView(bytes.buffer, 0, count), base, short: count < length }
})

/** A chunk on its way: the bytes from `at` to before `end`. */
interface Ahead {
  readonly at: number
  readonly end: number
  readonly fiber: Fiber.Fiber<Chunk, IoError>
}

/**
 * Reads one segment, a chunk a pull. Each chunk starts at a frame: the headers are walked first, which says where the
 * next chunk starts, so that it can be on its way while the checksums of this one are verified, and no byte is ever
 * copied. Large records are checked faster than they are read, so while they are of one size the chunk after the next
 * is on its way too, from where it starts if the next one is of that size as well.
 */
class SegmentReader {
  readonly #file: Disk.DiskFile
  readonly #scan: SegmentScan
  readonly #progress: Progress
  readonly #scope: Scope.Scope
  /** Where the file ended when it was opened: what a live writer adds later is not looked at. */
  #size: number
  #position: number
  #ahead: Array<Ahead> = []
  /** How many bytes the last record of the chunk before took. */
  #lastBytes = 0
  #damage: Damage | undefined
  #changes = 0

  constructor(
    file: Disk.DiskFile,
    scan: SegmentScan,
    size: number,
    progress: Progress,
    scope: Scope.Scope
  ) {
    this.#file = file
    this.#scan = scan
    this.#size = size
    this.#progress = progress
    this.#scope = scope
    this.#position = scan.start
  }

  readonly pull: Pull.Pull<Frames, IoError | Damage> = Effect.suspend(() =>
    this.#damage !== undefined
      ? Effect.fail(this.#damage)
      : this.#position >= this.#size
      ? Cause.done()
      : Effect.flatMap(this.#next(), (frames) => frames === undefined ? this.pull : Effect.succeed(frames))
  )

  readonly #next = Effect.fnUntraced(function*(
    this: SegmentReader
  ): Effect.fn.Return<Frames | undefined, IoError> {
    const ahead = this.#ahead.shift()
    let chunk = ahead === undefined
      ? yield* this.#read(this.#position, this.#scan.memory.chunkSize())
      : yield* Fiber.join(ahead.fiber)
    let walked = this.#walk(chunk)
    while (walked.wanted > 0) {
      chunk = yield* this.#read(this.#position, walked.wanted)
      walked = this.#walk(chunk)
    }
    this.#position += walked.length
    if (walked.damaged === undefined && this.#position < this.#size) yield* this.#readAhead(walked.last)
    const frames = verified(this.#scan.id, chunk.base, chunk.bytes, chunk.view, walked.length)
    if (frames !== undefined) this.#progress.txid = frames.last
    const sound = frames?.length ?? 0
    const damaged: Damaged | undefined = sound === walked.length
      ? walked.damaged
      : { reason: "CrcMismatch", offset: chunk.base + sound, length: Frame.lengthAt(chunk.view, sound) }
    if (damaged !== undefined) yield* this.#judge(damaged)
    return frames
  })

  #read(at: number, length: number): Effect.Effect<Chunk, IoError> {
    return Effect.suspend(() => readChunk(this.#file, at, this.#scan.memory.bytes(Math.min(length, this.#size - at))))
  }

  /**
   * How many bytes the frames take whose headers are sound and which are wholly in the chunk, how many the last of them
   * takes, and either what is wrong behind them, or how many bytes the first frame wants when the chunk holds less than
   * one.
   */
  #walk(chunk: Chunk): {
    readonly length: number
    readonly last: number
    readonly wanted: number
    readonly damaged: Damaged | undefined
  } {
    const { base, bytes, view } = chunk
    // Somebody cut the file: it ends here now, unless whole frames are known to have been behind.
    if (chunk.short && this.#scan.end === undefined) this.#size = base + bytes.length
    let at = 0
    let last = 0
    const stop = (wanted: number, damaged?: Damaged) => ({ length: at, last, wanted, damaged })
    while (at < bytes.length) {
      const length = Frame.inspect(view, at, bytes.length)
      if (length < Frame.headerTruncated) {
        return stop(0, { ...Frame.damaged(view, at, length), offset: base + at, length: 0 })
      }
      if (length === Frame.headerTruncated || at + length > bytes.length) {
        const needed = Math.max(length, Frame.header_bytes)
        if (chunk.short || base + at + needed > this.#size) {
          return stop(0, { reason: "Truncated", offset: base + at, length: 0 })
        }
        return stop(at === 0 ? needed : 0)
      }
      at += length
      last = length
    }
    return chunk.short && base + at < this.#size
      ? stop(0, { reason: "Truncated", offset: base + at, length: 0 })
      : stop(0)
  }

  // Records tend to be of a size: whole ones of the last one's are read, so that little is read twice.
  readonly #readAhead = Effect.fnUntraced(function*(
    this: SegmentReader,
    last_bytes: number
  ): Effect.fn.Return<void> {
    const chunkSize = this.#scan.memory.chunkSize()
    const isSmall = last_bytes * small_fraction < chunkSize
    const length = isSmall ? chunkSize : Math.ceil(chunkSize / last_bytes) * last_bytes
    const isSteady = !isSmall && length <= ahead_bytes_max && last_bytes === this.#lastBytes
    const reads = isSteady ? this.#scan.memory.reads : 1
    this.#lastBytes = last_bytes
    // Those that start elsewhere were of memory of their own: only what is certain is read into memory used in turn.
    if (this.#ahead[0]?.at !== this.#position) this.#ahead = []
    let at = this.#ahead.at(-1)?.end ?? this.#position
    while (this.#ahead.length < reads && at < this.#size) {
      const fiber = yield* Effect.forkIn(this.#read(at, length), this.#scope, { startImmediately: true })
      this.#ahead.push({ at, end: at + length, fiber })
      at += length
    }
  })

  /**
   * Settles what the damage is. Without the lock the bytes may have been a writer's half-written frame, or a tail under
   * repair: if the file has changed since, it is read again from the damaged place.
   */
  readonly #judge = Effect.fnUntraced(function*(
    this: SegmentReader,
    damaged: Damaged
  ): Effect.fn.Return<void, IoError> {
    const { closed, id } = this.#scan
    const txid = closed ? 0 : this.#progress.txid ?? (yield* this.#progress.before)
    const where = { segment: id, size: this.#size, closed, txid }
    const damage = yield* classify(this.#file, where, damaged)
    if (!closed && damage.verdict !== "Torn" && this.#changes < changes_max) {
      const size = yield* this.#file.size
      if (size !== this.#size) {
        this.#changes++
        this.#size = size
        this.#position = damaged.offset
        // What it reads into may be wanted again.
        for (const { fiber } of this.#ahead) yield* Fiber.await(fiber)
        this.#ahead = []
        return
      }
    }
    this.#damage = damage
  })
}

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

/** A segment whose txids do not go on where those before it end: one is missing there, or is there twice. @internal */
export interface Gap {
  readonly segment: number
  readonly after: number
  readonly txid: number
}

/** What a report is made of. @internal */
export interface Counted {
  records: number
  txid: number
  /** The first there is. */
  gap?: Gap
}

/** Adds frames to what a report is made of. @internal */
export const count = (counted: Counted, frames: Frames): void => {
  if (frames.base === 0) countGap(counted, frames.segment, firstTxid(frames))
  counted.records += frames.count
  counted.txid = Math.max(counted.txid, frames.highest)
}

/** Looks whether a segment that begins with that txid goes on where those before it end. @internal */
export const countGap = (counted: Counted, segment: number, txid: number): void => {
  // A log may begin with any.
  if (txid === counted.txid + 1 || (segment === 1 && counted.records === 0)) return
  counted.gap ??= { segment, after: counted.txid, txid }
}

/** @internal */
export const describeGap = (directory: string, { after, segment, txid }: Gap): string =>
  `${directory}: in ${segmentName(segment)} the txids go on with ${txid} after ${after}; ` +
  (txid > after
    ? "records before it are missing: was a segment lost?"
    : "records are there twice: was a segment copied?")

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
