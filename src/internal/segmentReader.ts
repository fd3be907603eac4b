/** Reading a segment: its frames, a chunk at a time, and the verdict on what is none. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Pull from "effect/Pull"
import type * as Scope from "effect/Scope"
import * as Disk from "../Disk.ts"
import type { IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { roomFor, sharedBytes } from "./bytes.ts"
import { classify, type Damage, type Damaged } from "./damage.ts"
import { type Frames, verified } from "./frames.ts"

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

/** What is read into, how much at once, and how many reads may be under way while one is looked at. */
export interface Memory {
  readonly chunkSize: () => number
  readonly reads: number
  readonly bytes: (length: number) => Uint8Array<ArrayBuffer>
}

export const ownMemory = (chunkSize: number): Memory => ({ chunkSize: () => chunkSize, reads: 2, bytes: sharedBytes })

/**
 * One to read into while the other is looked at. What is longer than a chunk has memory of its own. The first chunks
 * are small: until the compiler is warm a record takes ten times as long, and others want their turn.
 */
export const twoInTurn = (wanted: number): Memory => {
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

/** The txid of the last valid record, which makes a frame behind damage a later one; looked for when it is needed. */
export interface Progress {
  txid: number | undefined
  readonly before: Effect.Effect<number, IoError>
}

export interface SegmentScan {
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

const readChunk = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  base: number,
  bytes: Uint8Array<ArrayBuffer>
): Effect.fn.Return<Chunk, IoError> {
  const { length } = bytes
  const count = yield* Disk.readFully(file, bytes, 0, length, base)
  return { bytes: bytes.subarray(0, count), view: new DataView(bytes.buffer, 0, count), base, short: count < length }
})

/**
 * How many bytes the frames take whose headers are sound and which are wholly in the chunk, how many the last of them
 * takes, and either what is wrong behind them, or how many bytes the first frame wants when the chunk holds less than
 * one.
 */
interface Walked {
  readonly length: number
  readonly last: number
  readonly wanted: number
  readonly damaged: Damaged | undefined
}

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
 *
 * A pull may be interrupted wherever it waits, and another may follow: nothing moves on before the frames are given.
 */
export class SegmentReader {
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
  /** What is wrong behind the frames that were given last, and still to be settled. */
  #damaged: Damaged | undefined
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
      : this.#damaged !== undefined
      ? Effect.flatMap(this.#judge(this.#damaged), () => this.pull)
      : this.#position >= this.#size
      ? Cause.done()
      : Effect.flatMap(this.#next(), (frames) => frames === undefined ? this.pull : Effect.succeed(frames))
  )

  readonly #next = Effect.fnUntraced(function*(
    this: SegmentReader
  ): Effect.fn.Return<Frames | undefined, IoError> {
    if (this.#ahead[0]?.at !== this.#position) this.#ahead = []
    const [ahead] = this.#ahead
    let chunk = ahead === undefined
      ? yield* this.#read(this.#position, this.#scan.memory.chunkSize())
      : yield* Fiber.join(ahead.fiber)
    let walked = this.#walk(chunk)
    while (walked.wanted > 0) {
      chunk = yield* this.#read(this.#position, walked.wanted)
      walked = this.#walk(chunk)
    }
    return yield* Effect.uninterruptible(this.#give(chunk, walked))
  })

  readonly #give = Effect.fnUntraced(function*(
    this: SegmentReader,
    chunk: Chunk,
    walked: Walked
  ): Effect.fn.Return<Frames | undefined> {
    this.#ahead.shift()
    this.#position += walked.length
    if (walked.damaged === undefined && this.#position < this.#size) yield* this.#readAhead(walked.last)
    const frames = verified(this.#scan.id, chunk.base, chunk.bytes, chunk.view, walked.length)
    if (frames !== undefined) this.#progress.txid = frames.last
    const sound = frames?.length ?? 0
    this.#damaged = sound === walked.length
      ? walked.damaged
      : { reason: "CrcMismatch", offset: chunk.base + sound, length: Frame.lengthAt(chunk.view, sound) }
    return frames
  })

  #read(at: number, length: number): Effect.Effect<Chunk, IoError> {
    return Effect.suspend(() => readChunk(this.#file, at, this.#scan.memory.bytes(Math.min(length, this.#size - at))))
  }

  #walk(chunk: Chunk): Walked {
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
   * repair, and may have been read a while ago: they are read again from the damaged place, once, and as often as the
   * file has another size since.
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
      if (this.#changes === 0 || size !== this.#size) {
        // What it reads into may be wanted again.
        for (const { fiber } of this.#ahead) yield* Fiber.await(fiber)
        this.#ahead = []
        this.#changes++
        this.#size = size
        this.#position = damaged.offset
        this.#damaged = undefined
        return
      }
    }
    this.#damage = damage
  })
}
