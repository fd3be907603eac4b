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
  while (size - base >= Frame.overhead_bytes) {
    const bytes = Buffer.allocUnsafe(Math.min(chunk_bytes, size - base))
    const length = yield* Disk.readFully(file, bytes, 0, bytes.length, base)
    const last = length < bytes.length || base + length >= size
    // A header, and a checksum, must lie in one chunk: the next one starts a little before this one ends.
    const until = last ? length : length - Frame.header_bytes
    crc = pass(candidates, bytes.subarray(0, length), base, until, crc, size, txid)
    if (last) break
    base += until
  }
  return candidates.finish()
})

/**
 * Visits, in order, each frame start and each candidate's checksum in `bytes[0, until)`; returns the running
 * checksum.
 */
const pass = (
  candidates: Candidates,
  bytes: Buffer,
  base: number,
  until: number,
  crc: number,
  size: number,
  txid: number
): number => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 0
  let start = nextStart(bytes, 0, until)
  for (;;) {
    const check = candidates.nextCheck() - base
    const event = Math.min(start, check, until)
    crc = crc32c(bytes, at, event, crc)
    at = event
    if (event === until) return crc
    if (check === event) candidates.resolve(crc, view.getUint32(event, true))
    if (start === event) {
      const length = Frame.inspect(view, event, bytes.length)
      if (length > 0 && base + event + length <= size && Frame.txidAt(view, event) > txid) {
        candidates.open(base + event, length, crc)
      }
      start = nextStart(bytes, event + 1, until)
    }
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

  /** Decides every candidate whose checksum stands here. */
  resolve(crc: number, stored: number): void {
    const check = this.nextCheck()
    for (let first = this.#heap[0]; first !== undefined && first.check === check; first = this.#heap[0]) {
      first.valid = ((crc ^ shift(first.crc, check - first.start)) >>> 0) === stored
      this.#pop()
    }
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
