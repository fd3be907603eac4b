/**
 * The open descriptors through which single records are read, at most `open_max` of them: a store can have more
 * segments than a process may have open files. A descriptor in use by a read in the thread pool is pinned and never
 * closed under it.
 */
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import type { DiskFile, DiskService } from "../Disk.ts"
import * as Disk from "../Disk.ts"
import { CorruptSegment, IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { segmentPath } from "../Recovery.ts"

/** Far below the usual limit of 1,024 descriptors a process. */
export const open_max = 64

/** Where a frame stands and how long it is. */
export interface Place {
  readonly segment: number
  readonly offset: number
  readonly len: number
}

interface Entry {
  readonly file: DiskFile
  pins: number
}

export class SegmentFiles {
  readonly #disk: DiskService
  readonly #directory: string
  /** In order of last use: a map keeps the order of insertion. */
  readonly #open = new Map<number, Entry>()
  #active: Entry | undefined
  #latest = 0
  #closed = false

  constructor(disk: DiskService, directory: string) {
    this.#disk = disk
    this.#directory = directory
  }

  /** Takes over the file that the writer appends to, and keeps it open until the next one comes. */
  readonly adopt = (segment: number, file: DiskFile): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (this.#active !== undefined) this.#active.pins--
      this.#active = { file, pins: 1 }
      this.#open.set(segment, this.#active)
      return this.#evict()
    })

  /**
   * Reads the frame at a place and checks that it is whole: its header, its length and its checksum.
   */
  readonly read = (place: Place): Effect.Effect<Frame.LogRecord, IoError | CorruptSegment> =>
    Effect.suspend(() => {
      const entry = this.#touch(place.segment)
      if (entry === undefined || place.len > Disk.blocking_bytes_max) return this.#readPooled(place)
      const bytes = new Uint8Array(place.len)
      const count = Disk.readFullyNow(entry.file, bytes, 0, place.len, place.offset)
      return typeof count === "number" ? this.#decode(bytes, count, place) : Effect.fail(count)
    })

  // However many fibers read at once, no more than this many hold a descriptor beside the cached ones.
  readonly #turn = Semaphore.makeUnsafe(open_max)

  readonly #readPooled = (place: Place): Effect.Effect<Frame.LogRecord, IoError | CorruptSegment> =>
    this.#turn.withPermit(Effect.acquireUseRelease(
      this.#pin(place.segment),
      (entry) => {
        const bytes = new Uint8Array(Buffer.allocUnsafeSlow(place.len).buffer)
        return Effect.flatMap(
          Disk.readFully(entry.file, bytes, 0, place.len, place.offset),
          (count) => this.#decode(bytes, count, place)
        )
      },
      (entry) => {
        entry.pins--
        return this.#evict()
      }
    ))

  readonly closeAll: Effect.Effect<void> = Effect.suspend(() => {
    this.#closed = true
    if (this.#active !== undefined) this.#active.pins--
    this.#active = undefined
    return this.#evict()
  })

  #decode(bytes: Uint8Array, count: number, place: Place): Effect.Effect<Frame.LogRecord, CorruptSegment> {
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

  #touch(segment: number): Entry | undefined {
    const entry = this.#open.get(segment)
    if (entry !== undefined && segment !== this.#latest) {
      this.#latest = segment
      this.#open.delete(segment)
      this.#open.set(segment, entry)
    }
    return this.#closed ? undefined : entry
  }

  readonly #pin = (segment: number): Effect.Effect<Entry, IoError> =>
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

  // Another fiber may have opened the same segment, or closed the store, while this one waited.
  #insert(segment: number, file: DiskFile): Effect.Effect<Entry, IoError> {
    if (this.#closed) return Effect.andThen(file.close, Effect.fail(closedError("read", file.path)))
    const there = this.#touch(segment)
    const entry = there ?? { file, pins: 0 }
    entry.pins++
    if (there !== undefined) return Effect.as(file.close, entry)
    this.#open.set(segment, entry)
    return Effect.as(this.#evict(), entry)
  }

  #evict(): Effect.Effect<void> {
    const limit = this.#closed ? 0 : open_max
    const closing: Array<DiskFile> = []
    for (const [segment, entry] of this.#open) {
      if (this.#open.size <= limit) break
      if (entry.pins > 0) continue
      this.#open.delete(segment)
      closing.push(entry.file)
    }
    return closing.length === 0 ? Effect.void : Effect.forEach(closing, (file) => file.close, { discard: true })
  }
}

/** What a store answers after its scope has closed. */
export const closedError = (operation: string, path: string): IoError =>
  new IoError({ operation, path, code: "EBADF", cause: undefined })
