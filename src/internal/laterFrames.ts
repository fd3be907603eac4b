/**
 * Finds the whole valid frames behind a damaged place, in one pass.
 *
 * Any byte may start a frame, and a hostile or unlucky file can hold a frame start every few bytes, each claiming up
 * to 64 MiB. Checking each by itself would take quadratic time. Instead one running checksum passes over the file; a
 * candidate remembers its value at its own start, and at its end the checksum of just its bytes falls out of the two
 * (`crc32c.shift`). So the time is linear in the bytes. At most a million candidates are open at once, 26 MB of them,
 * half as much again while they grow: a file with more has the rest tried in another pass over those bytes. Frame
 * starts stand sixteen bytes apart on average at the closest, so no byte is passed more than six times.
 *
 * A frame inside one that was found is that record's payload, and is none.
 */
import * as Effect from "effect/Effect"
import * as Disk from "../Disk.ts"
import type { IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { crc32c, shift } from "./crc32c.ts"

// Small, so that even a chunk full of frame starts holds the event loop for a few milliseconds only.
const chunk_bytes = 65_536

// Candidates tried or decided in one step, a few milliseconds of work, before other fibers get their turn.
const step_events_max = 2_048

const open_max_default = 1_048_576

/** Where a frame starts and ends, in the order of the file. */
type OnFrame = (start: number, end: number) => void

/** How many there are. */
export const countLaterFrames = (
  file: Disk.DiskFile,
  from: number,
  size: number,
  txid: number,
  open_max?: number
): Effect.Effect<number, IoError> =>
  Effect.suspend(() => {
    let count = 0
    const found = eachLaterFrame(file, from, size, txid, () => {
      count++
    }, open_max)
    return Effect.map(found, () => count)
  })

/** Tells of the frames in `bytes[from, size)` whose txid is above `txid`. */
export const eachLaterFrame = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  from: number,
  size: number,
  txid: number,
  onFrame: OnFrame,
  open_max: number = open_max_default
): Effect.fn.Return<void, IoError> {
  const candidates = new Candidates(open_max, onFrame)
  let base = Math.min(from, size)
  let crc = 0
  for (;;) {
    const bytes = Buffer.allocUnsafe(Math.min(chunk_bytes, size - base))
    const length = yield* Disk.readFully(file, bytes, 0, bytes.length, base)
    const last = length < bytes.length || base + length >= size
    // A header, and a checksum, must lie in one chunk: the next one starts a little before this one ends.
    const until = last ? length : length - Frame.header_bytes
    const pass = new Pass(candidates, bytes.subarray(0, length), { base, until, crc, size, txid })
    while (!pass.step()) yield* Effect.yieldNow
    crc = pass.crc
    base += until
    // The running checksum goes on as it is: a candidate's own is what two of its values differ by.
    const deferred = last ? candidates.end() : candidates.nextPass()
    if (deferred !== undefined) base = deferred
    else if (last) return
  }
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
      // The file has become shorter than that frame.
      if (check === event && event + Frame.crc_bytes > this.#bytes.length) return true
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
  const at = bytes.indexOf(Frame.magicText, from, "latin1")
  return at < 0 || at >= until ? Number.POSITIVE_INFINITY : at
}

const undecided = 0
const valid = 1
const invalid = 2

/**
 * The candidates that are not decided yet, in columns: a ring in order of their starts, and `heap`, the slots of those
 * whose checksum has not been met, in order of where it stands. Only the first of the ring is ever told of, so that a
 * frame found inside another is known to be inside.
 */
class Candidates {
  readonly #open_max: number
  readonly #onFrame: OnFrame
  #covered = 0
  #capacity: number
  #starts: Float64Array
  /** Where its checksum stands. */
  #checks: Float64Array
  /** The running checksum at its start. */
  #crcs: Uint32Array
  #states: Uint8Array
  #first = 0
  #length = 0
  #heap: Uint32Array
  #heapLength = 0
  /** Where the first that found no room starts: from there on, all wait for the next pass. */
  #deferred: number | undefined

  constructor(open_max: number, onFrame: OnFrame) {
    this.#open_max = open_max
    this.#onFrame = onFrame
    this.#capacity = Math.min(1_024, open_max)
    this.#starts = new Float64Array(this.#capacity)
    this.#checks = new Float64Array(this.#capacity)
    this.#crcs = new Uint32Array(this.#capacity)
    this.#states = new Uint8Array(this.#capacity)
    this.#heap = new Uint32Array(this.#capacity)
  }

  open(start: number, length: number, crc: number): void {
    if (start < this.#covered || this.#deferred !== undefined) return
    if (this.#length === this.#capacity && !this.#grow()) {
      this.#deferred = start
      return
    }
    const slot = (this.#first + this.#length++) % this.#capacity
    this.#starts[slot] = start
    this.#checks[slot] = start + length - Frame.crc_bytes
    this.#crcs[slot] = crc
    this.#states[slot] = undecided
    this.#push(slot)
  }

  nextCheck(): number {
    return this.#heapLength === 0 ? Number.POSITIVE_INFINITY : this.#checkOf(this.#heap[0])
  }

  /** Decides the candidate whose checksum stands here: one of them, if there are more. */
  resolve(crc: number, stored: number): void {
    if (this.#heapLength === 0) return
    const slot = this.#heap[0] ?? 0
    const covered = this.#checkOf(slot) - (this.#starts[slot] ?? 0)
    this.#states[slot] = ((crc ^ shift(this.#crcs[slot] ?? 0, covered)) >>> 0) === stored ? valid : invalid
    this.#pop()
    this.#drain(false)
  }

  /** Where to go back to, once all that were open are decided, if one was deferred. */
  nextPass(): number | undefined {
    if (this.#heapLength > 0) return undefined
    const deferred = this.#deferred
    this.#deferred = undefined
    return deferred
  }

  /** The same behind the last byte: what is not decided there is no frame. */
  end(): number | undefined {
    this.#drain(true)
    this.#heapLength = 0
    return this.nextPass()
  }

  #drain(ended: boolean): void {
    while (this.#length > 0) {
      const slot = this.#first
      // Also one inside a frame that was told of: its slot is still in the heap.
      if (this.#states[slot] === undecided && !ended) break
      const start = this.#starts[slot] ?? 0
      if (this.#states[slot] === valid && start >= this.#covered) {
        this.#covered = this.#checkOf(slot) + Frame.crc_bytes
        this.#onFrame(start, this.#covered)
      }
      this.#first = (slot + 1) % this.#capacity
      this.#length--
    }
  }

  #grow(): boolean {
    const capacity = Math.min(this.#capacity * 2, this.#open_max)
    if (capacity <= this.#capacity) return false
    // The ring starts at slot 0 again, and the heap's slots move with it.
    const first = this.#first
    const old = this.#capacity
    const unrolled = <Column extends Float64Array | Uint32Array | Uint8Array>(from: Column, to: Column): Column => {
      to.set(from.subarray(first))
      to.set(from.subarray(0, first), old - first)
      return to
    }
    this.#starts = unrolled(this.#starts, new Float64Array(capacity))
    this.#checks = unrolled(this.#checks, new Float64Array(capacity))
    this.#crcs = unrolled(this.#crcs, new Uint32Array(capacity))
    this.#states = unrolled(this.#states, new Uint8Array(capacity))
    const heap = new Uint32Array(capacity)
    for (let at = 0; at < this.#heapLength; at++) heap[at] = ((this.#heap[at] ?? 0) - first + old) % old
    this.#heap = heap
    this.#first = 0
    this.#capacity = capacity
    return true
  }

  #checkOf(slot: number | undefined): number {
    return this.#checks[slot ?? 0] ?? 0
  }

  #push(slot: number): void {
    const heap = this.#heap
    const check = this.#checkOf(slot)
    let at = this.#heapLength++
    while (at > 0) {
      const above = (at - 1) >> 1
      const parent = heap[above] ?? 0
      if (this.#checkOf(parent) <= check) break
      heap[at] = parent
      at = above
    }
    heap[at] = slot
  }

  #pop(): void {
    const heap = this.#heap
    const length = --this.#heapLength
    if (length === 0) return
    const last = heap[length] ?? 0
    const check = this.#checkOf(last)
    let at = 0
    for (;;) {
      const left = 2 * at + 1
      if (left >= length) break
      const right = left + 1
      const below = right < length && this.#checkOf(heap[right]) < this.#checkOf(heap[left]) ? right : left
      if (this.#checkOf(heap[below]) >= check) break
      heap[at] = heap[below] ?? 0
      at = below
    }
    heap[at] = last
  }
}
