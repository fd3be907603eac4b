/**
 * Reading many values at once: in the order of the files, handed out in the order asked for.
 *
 * The entries come in windows, each as large as memory for it allows. The places of a window are sorted by file and
 * offset, and read in blocks that take in what lies between, since a call costs as much as reading some KiB that nobody
 * asked for. Each frame is checked (a Put of just that key, its checksum) and copied to its place in an arena.
 *
 * Memory: an arena of 16 MiB, 33 bytes for each of at most 131,072 entries and 4 for each of 65,536 buckets, and a
 * block of 128 KiB; in key order 12 bytes for each key of the store (`keyOrder.ts`). Long values stay out of the arena
 * and are read when it is their turn, a MiB at once or a longer one alone. Whatever could not be read with others is
 * read by itself then; so its error is that of a single read, and everything before it has been handed out.
 *
 * A step that holds the event loop sorts some of a window's places (1 ms), or reads and checks blocks until the disk
 * says that others should have their turn.
 *
 * Indexed reads are `as number`: every index is below the number of entries in the window, or of buckets.
 */
import * as Effect from "effect/Effect"
import * as Disk from "../Disk.ts"
import type { CorruptSegment, IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { copyBytes, freshBytes, sharedBytes } from "./bytes.ts"
import type { PutFrames } from "./frames.ts"
import type { KeydirSnapshot, WalkOptions } from "./keyOrder.ts"
import {
  keyLenAt,
  keyStandsAt,
  lenAt,
  locate,
  type Located,
  offsetAt,
  segmentAt,
  slab_words,
  slabOf,
  type Slabs
} from "./keyRecord.ts"
import type { Place, SegmentReads } from "./segmentFiles.ts"

/** What frames are read through. */
interface FrameSource {
  readonly files: SegmentReads
  /** Whether others should have their turn. */
  readonly isTurnOver: (records: number) => boolean
  /** The value of a key's Put, with the error that says why there is none. */
  readonly value: (key: Uint8Array, place: Place) => Effect.Effect<Uint8Array<ArrayBuffer>, IoError | CorruptSegment>
}

/** A key and its value. */
export interface KeyValue {
  readonly key: Uint8Array<ArrayBuffer>
  readonly value: Uint8Array<ArrayBuffer>
}

/** The next of what was asked for, and `undefined` at the end. Long values come as entries, in memory of their own. */
export type Gathered = Effect.Effect<PutFrames | ReadonlyArray<KeyValue> | undefined, IoError | CorruptSegment>

const arena_bytes = 16_777_216
const window_entries_max = 131_072
/** The first window of a reader who may not want all. Each one after it is four times as large. */
const first_entries = 256
const growth = 4

/** A longer frame is read in the order asked for, right into memory of its own: copying it would take longer. */
const joined_bytes_max = 2_048
/** Bytes nobody asked for that are read along: what a call costs. */
const gap_bytes_max = 8_192
/** Of one read. A longer block leaves less room beside it in the processor's cache. */
const block_bytes_max = 131_072
/** Of the sort: nearly as many as entries, so that most have one or two. */
const buckets_max = 65_536
/** Entries of a bucket that are moved to their places one by one; of more, the engine's own sort is faster. */
const moved_entries_max = 16
/** Counted, put into buckets, or sorted in one step, unless a bucket has more: less than 1 ms. */
const step_entries = 16_384
/** An index in a window, beside an offset in a bucket, in a double. */
const index_span = 2 ** 17
const within_max = 2 ** 36 - 1

/** Taken from a block before the clock is looked at. */
const taken_entries = 64

const piece_bytes_max = 65_536
const piece_entries_max = 512
/** Of long values in one piece. */
const long_bytes_max = 1_048_576

class Window {
  readonly limit: number
  readonly #slabs: Slabs
  /** By index, in the order asked for: the entry, where its frame starts in the arena, and whether it is there. */
  readonly #entries: Uint32Array
  readonly #starts: Uint32Array
  readonly #isSound: Uint8Array
  /** By index: where the record is. */
  readonly #segments: Uint32Array
  readonly #offsets: Float64Array
  /** Indexes in the order of the files, and numbers to sort those of a bucket by. */
  readonly #order: Uint32Array
  readonly #numbers: Float64Array
  readonly #failures = new Map<number, IoError>()
  #count = 0
  #handedOut = 0
  #isFull = false
  #lowestSegment = 0
  #highestSegment = 0
  #highestOffset = 0
  #arena = new Uint8Array(0)
  #arenaView = new DataView(this.#arena.buffer)
  #block = new Uint8Array(0)
  #blockView = new DataView(this.#block.buffer)

  constructor(slabs: Slabs, limit: number) {
    this.limit = limit
    this.#slabs = slabs
    this.#entries = new Uint32Array(limit)
    this.#starts = new Uint32Array(limit + 1)
    this.#isSound = new Uint8Array(limit)
    this.#segments = new Uint32Array(limit)
    this.#offsets = new Float64Array(limit)
    this.#order = new Uint32Array(limit)
    this.#numbers = new Float64Array(limit)
  }

  get isFull(): boolean {
    return this.#isFull
  }

  get isPassed(): boolean {
    return this.#handedOut === this.#count
  }

  clear(): void {
    this.#isSound.fill(0, 0, this.#count)
    this.#failures.clear()
    this.#count = this.#handedOut = 0
    this.#isFull = false
    this.#lowestSegment = Infinity
    this.#highestSegment = this.#highestOffset = 0
  }

  /** Takes entries from `from` on, as many as there is room for: up to which. */
  add(entries: Uint32Array, from: number): number {
    for (let at = from; at < entries.length; at++) {
      const index = this.#count
      const entry = entries[at] as number
      const words = slabOf(this.#slabs, entry)
      const word = entry & (slab_words - 1)
      const len = lenAt(words, word)
      const end = (this.#starts[index] as number) + (len > joined_bytes_max ? 0 : len)
      if (index === this.limit || end > arena_bytes) {
        this.#isFull = true
        return at
      }
      const segment = segmentAt(words, word)
      const offset = offsetAt(words, word)
      this.#entries[index] = entry
      this.#segments[index] = segment
      this.#offsets[index] = offset
      this.#starts[index + 1] = end
      if (segment < this.#lowestSegment) this.#lowestSegment = segment
      if (segment > this.#highestSegment) this.#highestSegment = segment
      if (offset > this.#highestOffset) this.#highestOffset = offset
      this.#count++
    }
    return entries.length
  }

  /**
   * Reads the frames, in steps. A step that ends in a segment needs that to be opened before the next, which is told
   * what came of it.
   */
  *read(source: FrameSource): Generator<number | undefined, void, IoError | undefined> {
    const bytes = this.#starts[this.#count] as number
    if (bytes === 0) return
    if (bytes > this.#arena.length) {
      this.#arena = freshBytes(Math.min(arena_bytes, 2 * bytes))
      this.#arenaView = new DataView(this.#arena.buffer)
    }
    const span = this.#highestOffset + 1
    const width = span * (this.#highestSegment - this.#lowestSegment + 1) / Math.min(buckets_max, this.#count)
    const ends = yield* this.#countBuckets(span, width)
    yield* this.#fillBuckets(ends, span, width)
    yield* this.#sortBuckets(ends)
    const to = ends.at(-1) as number
    let closed = 0
    let refusal: IoError | undefined
    for (let from = 0; from < to;) {
      const first = this.#order[from] as number
      const segment = this.#segments[first] as number
      const offset = this.#offsets[first] as number
      const next = this.#runEnd(from, to)
      const last = this.#order[next - 1] as number
      const length = (this.#offsets[last] as number) + this.#lenOf(last) - offset
      if (length > this.#block.length) {
        this.#block = freshBytes(length)
        this.#blockView = new DataView(this.#block.buffer)
      }
      let count: number | IoError | undefined
      if (segment !== closed) {
        count = source.files.bytesNow(segment, this.#block, length, offset)
        if (count === undefined) {
          refusal = yield segment
          if (refusal === undefined) count = source.files.bytesNow(segment, this.#block, length, offset)
          if (count === undefined) closed = segment
        }
      }
      if (segment === closed) this.#fail(from, next, refusal)
      // Of several it may be another's failure, or that of what lies between them.
      else if (typeof count !== "number" && next === from + 1) this.#fail(from, next, count)
      while (from < next) {
        const end = Math.min(next, from + taken_entries)
        if (typeof count === "number") this.#take(from, end, offset, count)
        if (source.isTurnOver(end - from)) yield
        from = end
      }
    }
  }

  /** The next frames that are in the arena; `undefined` if the next one is not. */
  frames(): PutFrames | undefined {
    const from = this.#handedOut
    const base = this.#starts[from] as number
    const end = Math.min(this.#count, from + piece_entries_max)
    let to = from
    while (to < end && this.#isSound[to] === 1 && (this.#starts[to + 1] as number) - base <= piece_bytes_max) to++
    this.#handedOut = to
    return to === from ? undefined : { bytes: this.#arena, view: this.#arenaView, starts: this.#starts, from, to }
  }

  /** The next entries that stay out of the arena, as many as can be read in this step and are sound. */
  longOnes(source: FrameSource): Array<KeyValue> {
    const entries: Array<KeyValue> = []
    let bytes = 0
    while (bytes < long_bytes_max && this.#isLong(this.#handedOut)) {
      const places = this.#neighbours()
      const first = places[0] as Located
      const last = places.at(-1) as Located
      const length = last.offset + last.len - first.offset
      if (length > Disk.blocking_bytes_max) break
      const shared = sharedBytes(length)
      const view = new DataView(shared.buffer)
      if (source.files.bytesNow(first.segment, shared, length, first.offset) !== length) break
      for (const { key, len, offset } of places) {
        const at = offset - first.offset
        if (!Frame.isPutOf(key, shared, view, at, len)) return entries
        const value = shared.subarray(at + Frame.header_bytes + key.length, at + len - Frame.crc_bytes)
        entries.push({ key, value })
        this.#handedOut++
      }
      bytes += length
    }
    return entries
  }

  /** The next long entry, and those behind it that one read reaches. */
  #neighbours(): Array<Located> {
    const first = this.#located(this.#handedOut)
    const places = [first]
    for (let end = first.offset + first.len; this.#isLong(this.#handedOut + places.length);) {
      const next = this.#located(this.#handedOut + places.length)
      const gap = next.offset - end
      end = next.offset + next.len
      const joins = gap >= 0 && gap <= gap_bytes_max && end - first.offset <= Disk.blocking_bytes_max
      if (!joins || next.segment !== first.segment) break
      places.push(next)
    }
    return places
  }

  #isLong(index: number): boolean {
    return index < this.#count && this.#lenOf(index) === 0
  }

  #located(index: number): Located {
    return locate(this.#slabs, this.#entries[index] as number)
  }

  /** The next entry, to be read by itself, and what has come of that if it was tried. */
  peek(): { readonly place: Located; readonly failure: IoError | undefined } {
    const index = this.#handedOut
    return { place: this.#located(index), failure: this.#failures.get(index) }
  }

  pass(): void {
    this.#handedOut++
  }

  #lenOf(index: number): number {
    return (this.#starts[index + 1] as number) - (this.#starts[index] as number)
  }

  /** Where a record is if the segments stand behind each other, as near as a double has it. */
  #positionOf(index: number, span: number): number {
    return ((this.#segments[index] as number) - this.#lowestSegment) * span + (this.#offsets[index] as number)
  }

  /** Where the indexes of each bucket will start. */
  *#countBuckets(span: number, width: number): Generator<undefined, Uint32Array> {
    const buckets = Math.floor(span * (this.#highestSegment - this.#lowestSegment + 1) / width) + 1
    const starts = new Uint32Array(buckets + 1)
    for (let index = 0; index < this.#count; index++) {
      if (this.#lenOf(index) === 0) continue
      const bucket = Math.floor(this.#positionOf(index, span) / width) + 1
      starts[bucket] = (starts[bucket] as number) + 1
      if (index % step_entries === step_entries - 1) yield
    }
    yield
    for (let bucket = 1; bucket <= buckets; bucket++) {
      starts[bucket] = (starts[bucket] as number) + (starts[bucket - 1] as number)
    }
    return starts.subarray(0, buckets)
  }

  /**
   * Puts numbers into their buckets, that sort as the places of a bucket do and tell the index. Turns where each bucket
   * starts into where it ends.
   */
  *#fillBuckets(starts: Uint32Array, span: number, width: number): Generator<undefined, void> {
    const scale = Math.max(1, width / within_max)
    for (let index = 0; index < this.#count; index++) {
      if (this.#lenOf(index) === 0) continue
      const position = this.#positionOf(index, span)
      const bucket = Math.floor(position / width)
      const within = Math.floor((position - bucket * width) / scale)
      const at = starts[bucket] as number
      this.#numbers[at] = Math.max(0, Math.min(within_max, within)) * index_span + index
      starts[bucket] = at + 1
      if (index % step_entries === step_entries - 1) yield
    }
    yield
  }

  /** Sorts the numbers of each bucket, and puts what they are of in that order. */
  *#sortBuckets(ends: Uint32Array): Generator<undefined, void> {
    let from = 0
    let sorted = 0
    for (let bucket = 0; bucket < ends.length; bucket++) {
      const to = ends[bucket] as number
      if (to - from > moved_entries_max) this.#numbers.subarray(from, to).sort()
      else if (to - from > 1) this.#sortFew(from, to)
      from = to
      if (from - sorted < step_entries) continue
      this.#orderOf(sorted, from)
      sorted = from
      yield
    }
    this.#orderOf(sorted, from)
  }

  /** Moves each number down to its place. */
  #sortFew(from: number, to: number): void {
    const numbers = this.#numbers
    for (let next = from + 1; next < to; next++) {
      const number = numbers[next] as number
      let at = next
      for (; at > from && (numbers[at - 1] as number) > number; at--) numbers[at] = numbers[at - 1] as number
      numbers[at] = number
    }
  }

  /** Takes the indexes out of the numbers: not with `%`, which for doubles is a call. */
  #orderOf(from: number, to: number): void {
    for (let at = from; at < to; at++) {
      const number = this.#numbers[at] as number
      this.#order[at] = number - Math.floor(number / index_span) * index_span
    }
  }

  /** Up to where one read reaches: over small gaps, and no further than one is allowed to. */
  #runEnd(from: number, to: number): number {
    const first = this.#order[from] as number
    const offset = this.#offsets[first] as number
    let end = offset + this.#lenOf(first)
    let at = from + 1
    for (; at < to; at++) {
      const index = this.#order[at] as number
      const start = this.#offsets[index] as number
      const next = start + this.#lenOf(index)
      const joins = start >= end && start - end <= gap_bytes_max && next - offset <= block_bytes_max
      if (!joins || this.#segments[index] !== this.#segments[first]) break
      end = next
    }
    return at
  }

  /** What the records of a run are to fail with; without an error it is for a read of each to say. */
  #fail(from: number, to: number, error: IoError | undefined): void {
    if (error === undefined) return
    for (let at = from; at < to; at++) this.#failures.set(this.#order[at] as number, error)
  }

  /** Copies the frames of a run that are in the block and sound to the arena. */
  #take(from: number, to: number, base: number, count: number): void {
    const block = this.#block
    const view = this.#blockView
    for (let at = from; at < to; at++) {
      const index = this.#order[at] as number
      const entry = this.#entries[index] as number
      const words = slabOf(this.#slabs, entry)
      const word = entry & (slab_words - 1)
      const start = (this.#offsets[index] as number) - base
      const len = this.#lenOf(index)
      const isSound = start + len <= count && Frame.isPut(block, view, start, len, keyLenAt(words, word)) &&
        keyStandsAt(words, word, block, view, start + Frame.header_bytes)
      if (!isSound) continue
      copyBytes(block, view, start, len, this.#arena, this.#arenaView, this.#starts[index] as number)
      this.#isSound[index] = 1
    }
  }
}

// Of a file that is gone a read of the value has more to say.
const refusalOf = (error: IoError): IoError | undefined => error.code === "ENOENT" ? undefined : error

/** Takes what a snapshot holds, and checks it. `all` says that it will be asked for to the end. */
export const gather = (
  source: FrameSource,
  snapshot: KeydirSnapshot,
  { all, ...walk }: WalkOptions & { readonly all: boolean }
): Gathered => {
  const steps = snapshot.entries(walk)
  const most = Math.max(1, Math.min(snapshot.size, window_entries_max))
  let window = new Window(snapshot.slabs, Math.min(most, all ? most : first_entries))
  let entries: Uint32Array = new Uint32Array(0)
  let used = 0
  let isDone = false
  // What asks may be interrupted wherever it waits, and ask again: it goes on there.
  let isFilling = false
  let reading: ReturnType<Window["read"]> | undefined
  let read: IteratorResult<number | undefined, void> | undefined
  const fill = Effect.fnUntraced(function*() {
    if (!isFilling) {
      const limit = Math.min(most, window.limit * growth)
      if (window.isFull && limit > window.limit) window = new Window(snapshot.slabs, limit)
      window.clear()
      isFilling = true
    }
    if (reading === undefined) {
      for (;;) {
        used = window.add(entries, used)
        if (window.isFull || isDone) break
        const step = steps.next()
        isDone = step.done === true
        if (step.done !== true) entries = step.value
        used = isDone ? entries.length : 0
        yield* Effect.yieldNow
      }
      reading = window.read(source)
    }
    read ??= reading.next()
    while (read.done !== true) {
      const refusal = read.value === undefined
        ? yield* Effect.as(Effect.yieldNow, undefined)
        : yield* Effect.match(source.files.open(read.value), { onFailure: refusalOf, onSuccess: () => undefined })
      read = reading.next(refusal)
    }
    reading = read = undefined
    isFilling = false
  })
  const mustFill = (): boolean => isFilling || window.isPassed
  const isAtEnd = (): boolean => !isFilling && isDone && used === entries.length
  return Effect.gen(function*() {
    while (mustFill()) {
      if (isAtEnd()) return undefined
      yield* fill()
    }
    const frames = window.frames()
    if (frames !== undefined) return frames
    const longOnes = window.longOnes(source)
    if (longOnes.length > 0) return longOnes
    const { failure, place } = window.peek()
    if (failure !== undefined) return yield* failure
    const value = yield* source.value(place.key, place)
    window.pass()
    return [{ key: place.key, value }]
  })
}
