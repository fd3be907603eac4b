/**
 * The open descriptors through which single records are read, at most `open_max` of them: a store can have more
 * segments than a process may have open files. A descriptor in use by a read in the thread pool is pinned and never
 * closed under it.
 */
import * as Effect from "effect/Effect"
import type { DiskFile, DiskService } from "../Disk.ts"
import * as Disk from "../Disk.ts"
import { CorruptSegment, type IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { segmentPath } from "../Recovery.ts"
import { freshBytes, sharedBytes } from "./bytes.ts"
import { closedError } from "./closed.ts"
import { cache_bytes_default, FrameCache } from "./frameCache.ts"
import { Gate } from "./gate.ts"
import { idleFiles } from "./idleFiles.ts"

/** Far below the usual limit of 1,024 descriptors a process. */
export const open_max = 64

/** Where a frame stands and how long it is. */
export interface Place {
  readonly segment: number
  readonly offset: number
  readonly len: number
}

interface OpenFile {
  readonly file: DiskFile
  pins: number
  /** Another file has its name: it is closed when nobody uses it any more. */
  isForgotten: boolean
}

/**
 * Small values are views on buffers that each take some dozens of them, as Node's own small Buffers are: a buffer for
 * each would cost as much as the read itself. A value that is kept keeps no more than this alive.
 */
const pool_bytes = 8_192
/** Of a longer frame `valueNow` has nothing. */
export const pooled_bytes_max = pool_bytes / 2

/** Single reads for an index. */
export interface SegmentReads {
  /**
   * The payload of a key's Put at a place, if it is small, can be read in this very step, from the cache or the file,
   * and is sound in every way; otherwise `undefined`, and `read` says why.
   */
  readonly valueNow: (key: Uint8Array, place: Place) => Uint8Array<ArrayBuffer> | IoError | undefined
  /**
   * Reads from a segment in this very step, at most `Disk.blocking_bytes_max`: the count, or `undefined` if it is not
   * open.
   */
  readonly bytesNow: (segment: number, into: Uint8Array, length: number, offset: number) => number | IoError | undefined
  /** Opens a segment, so that `bytesNow` can read it. */
  readonly open: (segment: number) => Effect.Effect<void, IoError>
}

export class SegmentFiles implements SegmentReads {
  readonly #disk: DiskService
  readonly #directory: string
  /** In order of last use: a map keeps the order of insertion. */
  readonly #open = new Map<number, OpenFile>()
  #active: OpenFile | undefined
  #latest = 0
  #closed = false
  #pool = new Uint8Array(0)
  #poolView = new DataView(this.#pool.buffer)
  #poolUsed = 0
  #cache: FrameCache | undefined

  /** `cacheSize`, in bytes, is for the frames that `valueNow` has read. */
  constructor(disk: DiskService, directory: string, cacheSize = cache_bytes_default) {
    this.#disk = disk
    this.#directory = directory
    this.#cache = cacheSize === 0 ? undefined : new FrameCache(cacheSize)
  }

  /** Takes over the file that the writer appends to, and keeps it open until the next one comes. */
  readonly adopt = (segment: number, file: DiskFile): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (this.#active !== undefined) this.#active.pins--
      this.#active = { file, pins: 1, isForgotten: false }
      this.#add(segment, this.#active)
      return this.#evict()
    })

  /**
   * Reads the frame at a place and checks that it is whole: its header, its length and its checksum. One that is not
   * may be of a file that is no longer there: a writer that found that an fsync had failed has put a copy in its place.
   * So what has the file's name now is read before it is called corrupt.
   */
  readonly read = (place: Place): Effect.Effect<Frame.LogRecord, IoError | CorruptSegment> =>
    Effect.catchTag(this.#readOnce(place), "CorruptSegment", (error) =>
      Effect.flatMap(
        this.#forget(place.segment),
        (mayBeAnother) => mayBeAnother ? this.#readOnce(place) : Effect.fail(error)
      ))

  /**
   * Keeps a file no longer; who reads from it goes on. Not the one that this writer appends to, which nobody replaces.
   * Another fiber may have done so, and even have opened the new one.
   */
  readonly #forget = (segment: number): Effect.Effect<boolean> =>
    Effect.uninterruptible(Effect.suspend(() => {
      const entry = this.#open.get(segment)
      if (entry === undefined) return Effect.succeed(true)
      if (entry === this.#active) return Effect.succeed(false)
      this.#remove(segment)
      entry.isForgotten = true
      return Effect.as(entry.pins === 0 ? entry.file.close : Effect.void, true)
    }))

  readonly #unpin = (entry: OpenFile): Effect.Effect<void> =>
    Effect.suspend(() => {
      entry.pins--
      return entry.isForgotten && entry.pins === 0 ? entry.file.close : this.#evict()
    })

  readonly #readOnce = (place: Place): Effect.Effect<Frame.LogRecord, IoError | CorruptSegment> =>
    Effect.suspend(() =>
      this.#disk.isTurnOver() ? Effect.andThen(Effect.yieldNow, this.#readInTurn(place)) : this.#readInTurn(place)
    )

  readonly #readInTurn = (place: Place): Effect.Effect<Frame.LogRecord, IoError | CorruptSegment> =>
    Effect.suspend(() => {
      const entry = this.#touch(place.segment)
      if (entry === undefined || place.len > Disk.blocking_bytes_max) return this.#readPinned(place)
      const bytes = new Uint8Array(place.len)
      const count = Disk.readFullyNow(entry.file, bytes, 0, place.len, place.offset)
      if (typeof count !== "number") return Effect.fail(count)
      // In the pool it is asked whether the file does end there.
      return count < place.len ? this.#readPinned(place) : this.#decode(bytes, count, place)
    })

  valueNow(key: Uint8Array, { len, offset, segment }: Place): Uint8Array<ArrayBuffer> | IoError | undefined {
    if (len > pooled_bytes_max || this.#disk.isTurnOver()) return undefined
    if (this.#poolUsed + len > this.#pool.length) {
      this.#pool = sharedBytes(pool_bytes)
      this.#poolView = new DataView(this.#pool.buffer)
      this.#poolUsed = 0
    }
    const at = this.#poolUsed
    const isCached = this.#cache?.copyTo(segment, offset, len, this.#pool, this.#poolView, at) === true
    if (!isCached) {
      const entry = this.#touch(segment)
      if (entry === undefined) return undefined
      const count = Disk.readFullyNow(entry.file, this.#pool, at, at + len, offset)
      if (typeof count !== "number") return count
      if (count !== len) return undefined
    }
    if (!Frame.isPutOf(key, this.#pool, this.#poolView, at, len)) return undefined
    if (!isCached) this.#cache?.keep(segment, offset, len, this.#pool, this.#poolView, at)
    this.#poolUsed = at + len
    return this.#pool.subarray(at + Frame.header_bytes + key.length, at + len - Frame.crc_bytes)
  }

  bytesNow(segment: number, into: Uint8Array, length: number, offset: number): number | IoError | undefined {
    const entry = this.#touch(segment)
    return entry === undefined ? undefined : Disk.readFullyNow(entry.file, into, 0, length, offset)
  }

  readonly open = (segment: number): Effect.Effect<void, IoError> =>
    this.#turn.hold(Effect.uninterruptible(Effect.flatMap(this.#pin(segment), this.#unpin)))

  // However many fibers read at once, no more than this many hold a descriptor beside the cached ones.
  readonly #turn = new Gate(open_max)

  readonly #readPinned = (place: Place): Effect.Effect<Frame.LogRecord, IoError | CorruptSegment> =>
    this.#turn.hold(Effect.acquireUseRelease(
      this.#pin(place.segment),
      (entry) => {
        const bytes = freshBytes(place.len)
        return Effect.flatMap(
          Disk.readFully(entry.file, bytes, 0, place.len, place.offset),
          (count) => this.#decode(bytes, count, place)
        )
      },
      this.#unpin
    ))

  readonly closeAll: Effect.Effect<void> = Effect.suspend(() => {
    this.#closed = true
    this.#cache = undefined
    if (this.#active !== undefined) this.#active.pins--
    this.#active = undefined
    return this.#evict()
  })

  #decode(bytes: Uint8Array<ArrayBuffer>, count: number, place: Place): Effect.Effect<Frame.LogRecord, CorruptSegment> {
    const view = new DataView(bytes.buffer, bytes.byteOffset, count)
    const length = Frame.inspect(view, 0, count)
    if (length === place.len && count === place.len && Frame.checksumHolds(bytes, view, 0, length)) {
      return Effect.succeed(Frame.recordAt(bytes, view, 0, place.segment, place.offset))
    }
    const { found, reason } = length < 0 ? Frame.damaged(view, 0, length) : {
      found: undefined,
      reason: length !== place.len
        ? "RecordMismatch" as const
        : count < place.len
        ? "Truncated" as const
        : "CrcMismatch" as const
    }
    const { offset, segment } = place
    return Effect.fail(new CorruptSegment({ directory: this.#directory, segment, offset, reason, found }))
  }

  #touch(segment: number): OpenFile | undefined {
    const entry = this.#open.get(segment)
    if (entry !== undefined && segment !== this.#latest) {
      this.#latest = segment
      this.#open.delete(segment)
      this.#open.set(segment, entry)
    }
    return this.#closed ? undefined : entry
  }

  readonly #pin = (segment: number): Effect.Effect<OpenFile, IoError> =>
    Effect.suspend(() => {
      const path = segmentPath(this.#directory, segment)
      if (this.#closed) return Effect.fail(closedError("read", path))
      const entry = this.#touch(segment)
      if (entry !== undefined) {
        entry.pins++
        return Effect.succeed(entry)
      }
      return Effect.flatMap(this.#disk.open(path, "read"), (file) => this.#insert(segment, file))
    })

  readonly #release = Effect.suspend(() => this.#evict(0))

  // Another fiber may have opened the same segment, or closed the store, while this one waited.
  #insert(segment: number, file: DiskFile): Effect.Effect<OpenFile, IoError> {
    if (this.#closed) return Effect.andThen(file.close, Effect.fail(closedError("read", file.path)))
    const there = this.#touch(segment)
    const entry = there ?? { file, pins: 0, isForgotten: false }
    entry.pins++
    if (there !== undefined) return Effect.as(file.close, entry)
    this.#add(segment, entry)
    return Effect.as(this.#evict(), entry)
  }

  #add(segment: number, entry: OpenFile): void {
    this.#open.set(segment, entry)
    idleFiles.add(this.#release)
  }

  #remove(segment: number): void {
    this.#open.delete(segment)
    if (this.#open.size === 0) idleFiles.delete(this.#release)
  }

  #evict(limit = this.#closed ? 0 : open_max): Effect.Effect<void> {
    const closing: Array<DiskFile> = []
    for (const [segment, entry] of this.#open) {
      if (this.#open.size <= limit) break
      if (entry.pins > 0) continue
      this.#remove(segment)
      closing.push(entry.file)
    }
    return closing.length === 0 ? Effect.void : Effect.forEach(closing, (file) => file.close, { discard: true })
  }
}
