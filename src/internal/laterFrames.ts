/**
 * Counts the whole valid frames behind a damaged place, in one pass.
 *
 * Any byte may start a frame, and a hostile or unlucky file can hold a frame start every few bytes, each claiming up
 * to 64 MiB. Checking each by itself would take quadratic time. Instead one running checksum passes over the file; a
 * candidate remembers its value at its own start, and at its end the checksum of just its bytes falls out of the two
 * (`crc32c.shift`). So the time is linear in the bytes, and the memory is one small entry per candidate that is still
 * open, all of them within the longest frame's length of each other.
 *
 * A frame inside a counted frame is that record's payload and is not counted.
 */
import * as Effect from "effect/Effect"
import * as Disk from "../Disk.ts"
import type { IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { crc32c, shift } from "./crc32c.ts"

// Small, so that even a chunk full of frame starts holds the event loop for a few milliseconds only.
const chunk_bytes = 65_536

const magicBytes = Buffer.from("DWAL", "latin1")

// Candidates tried or decided in one step, a few milliseconds of work, before other fibers get their turn.
const step_events_max = 2_048

/** Of `bytes[from, size)`, the frames whose txid is above `txid`. */
export const countLaterFrames = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  from: number,
  size: number,
  txid: number
): Effect.fn.Return<number, IoError> {
  const candidates = new Candidates()
  let base = from
  let crc = 0
  while (base < size) {
    const bytes = Buffer.allocUnsafe(Math.min(chunk_bytes, size - base))
    const length = yield* Disk.readFully(file, bytes, 0, bytes.length, base)
    const last = length < bytes.length || base + length >= size
    // A header, and a checksum, must lie in one chunk: the next one starts a little before this one ends.
    const until = last ? length : length - Frame.header_bytes
    const pass = new Pass(candidates, bytes.subarray(0, length), { base, until, crc, size, txid })
    while (!pass.step()) yield* Effect.yieldNow
    crc = pass.crc
    if (last) break
    base += until
  }
  return candidates.finish()
})

/** Visits, in order, each frame start and each candidate's checksum in `bytes[0, until)`, with the running checksum. */
class Pass {
  readonly #candidates: Candidates
  readonly #bytes: Buffer
  readonly #view: DataView
  readonly #base: number
  readonly #until: number
  readonly #size: number
  readonly #txid: number
  #at = 0
  #start: number
  crc: number

  constructor(
    candidates: Candidates,
    bytes: Buffer,
    options: {
      readonly base: number
      readonly until: number
      readonly crc: number
      readonly size: number
      readonly txid: number
    }
  ) {
    this.#candidates = candidates
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#base = options.base
    this.#until = options.until
    this.#size = options.size
    this.#txid = options.txid
    this.#start = nextStart(bytes, 0, options.until)
    this.crc = options.crc
  }

  /** Does a bounded amount of work: whether all is done. */
  step(): boolean {
    const candidates = this.#candidates
    for (let events = 0; events < step_events_max; events++) {
      const check = candidates.nextCheck() - this.#base
      const event = Math.min(this.#start, check, this.#until)
      this.crc = crc32c(this.#bytes, this.#at, event, this.crc)
      this.#at = event
      if (event === this.#until) return true
      if (check === event) candidates.resolve(this.crc, this.#view.getUint32(event, true))
      else this.#tryStart(event)
    }
    return false
  }

  #tryStart(at: number): void {
    const length = Frame.inspect(this.#view, at, this.#bytes.length)
    const start = this.#base + at
    if (length > 0 && start + length <= this.#size && Frame.txidAt(this.#view, at) > this.#txid) {
      this.#candidates.open(start, length, this.crc)
    }
    this.#start = nextStart(this.#bytes, at + 1, this.#until)
  }
}

const nextStart = (bytes: Buffer, from: number, until: number): number => {
  const at = bytes.indexOf(magicBytes, from)
  return at < 0 || at >= until ? Number.POSITIVE_INFINITY : at
}

interface Candidate {
  readonly start: number
  /** Where its checksum stands. */
  readonly check: number
  /** The running checksum at its start. */
  readonly crc: number
  valid: boolean | undefined
}

/**
 * The candidates that are not decided yet: `queue` in order of their starts, `heap` in order of their ends. Only the
 * first of the queue is ever counted, so that a frame found inside another is known to be inside.
 */
class Candidates {
  #count = 0
  #covered = 0
  #queue: Array<Candidate> = []
  #head = 0
  readonly #heap: Array<Candidate> = []

  open(start: number, length: number, crc: number): void {
    if (start < this.#covered) return
    const candidate: Candidate = { start, check: start + length - Frame.crc_bytes, crc, valid: undefined }
    this.#queue.push(candidate)
    this.#push(candidate)
  }

  nextCheck(): number {
    return this.#heap[0]?.check ?? Number.POSITIVE_INFINITY
  }

  /** Decides the candidate whose checksum stands here: one of them, if there are more. */
  resolve(crc: number, stored: number): void {
    const first = this.#heap[0]
    if (first === undefined) return
    first.valid = ((crc ^ shift(first.crc, first.check - first.start)) >>> 0) === stored
    this.#pop()
    this.#drain(false)
  }

  finish(): number {
    this.#drain(true)
    return this.#count
  }

  #drain(ended: boolean): void {
    for (;;) {
      const first = this.#queue[this.#head]
      if (first === undefined) break
      if (first.start >= this.#covered) {
        if (first.valid === undefined && !ended) break
        if (first.valid === true) {
          this.#count++
          this.#covered = first.check + Frame.crc_bytes
        }
      }
      this.#head++
    }
    if (this.#head > 1024 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head)
      this.#head = 0
    }
  }

  #push(candidate: Candidate): void {
    const heap = this.#heap
    let at = heap.push(candidate) - 1
    while (at > 0) {
      const above = (at - 1) >> 1
      const parent = heap[above]
      if (parent === undefined || parent.check <= candidate.check) break
      heap[at] = parent
      at = above
    }
    heap[at] = candidate
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()
    if (last === undefined || heap.length === 0) return
    let at = 0
    for (;;) {
      const left = heap[2 * at + 1]
      const right = heap[2 * at + 2]
      if (left === undefined) break
      const below = right !== undefined && right.check < left.check ? right : left
      if (below.check >= last.check) break
      heap[at] = below
      at = 2 * at + (below === left ? 1 : 2)
    }
    heap[at] = last
  }
}
