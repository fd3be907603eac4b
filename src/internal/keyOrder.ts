/**
 * The keydir's records as they lie in memory, and the walk over a frozen set of them, in any order or in key order.
 *
 * A slab is an array of 32-bit words with records back to back. An entry id is `slab * slab_words + word`. A record:
 *
 * | word | holds |
 * | --- | --- |
 * | 0 | segment |
 * | 1 | offset, low 32 bits |
 * | 2 | offset, bits 32 to 47, in the upper half; the key's length, low 16 bits, in the lower |
 * | 3 | len in bits 0 to 26, the key length's bit 16 in bit 27, live in bit 28 |
 * | 4… | the key, four bytes a word, the first byte highest, the last word filled up with zeros |
 *
 * Invariants:
 *
 * - Words compare in the order in which their bytes compare.
 * - A step of a walk passes, sorts and copies a bounded amount, whatever the keys and the range.
 *
 * Indexed reads are `as number`: a record's words are inside its slab because a record is written whole before its
 * entry or its slab's end is published, and a heap or run index is bounded by the loop that counts it.
 */

/** Bits of an entry id that count words: slabs of 64 KiB, small enough that a copy-on-write clone takes ~10 µs. */
export const slab_bits = 14
/** Words in an ordinary slab. */
export const slab_words = 2 ** slab_bits
/** Words of a record before its key. */
export const header_words = 4
/** The format's limit on a key; the record has 17 bits for it. */
export const key_bytes_max = 65_536
/** What bits 0 to 26 hold: more than a frame of the longest key and the longest payload. */
export const len_max = 2 ** 27 - 1

const key_len_high_shift = 11
const live_bit = 1 << 28

/** Words of records that one step passes by while it looks for those in range: eight slabs, ~0.5 ms. */
const scan_words_max = 8 * slab_words
/** Entries that one step sorts: ~1 ms, a few while the code is cold. Their numbers fit beside 32 bits in a double. */
const run_bits = 12
const run_entries = 2 ** run_bits
/** Entries in one batch, whatever was asked for: ~2 ms of merging and copying. */
const batch_entries_max = 2_048
/** Key words after which a step ends early: 128 KiB, so that long keys cannot stretch it. */
const step_key_words = 32_768

/** Which keys to walk: all conditions must hold; one that is left out holds for every key. */
export interface KeyRange {
  readonly prefix?: Uint8Array | undefined
  /** The lowest key, inclusive. */
  readonly from?: Uint8Array | undefined
  /** The upper end, exclusive. */
  readonly to?: Uint8Array | undefined
}

/** A key and the place of its record. The key is the reader's own copy. */
export interface Located {
  readonly key: Uint8Array
  readonly segment: number
  readonly offset: number
  readonly len: number
}

/** How to walk a snapshot. */
export interface BatchOptions {
  /** Ascending unsigned byte order of keys; otherwise any order. */
  readonly ordered: boolean
  readonly range?: KeyRange | undefined
  /** Most entries in one array; 1,024 unless given, never more than 2,048. */
  readonly batch?: number | undefined
}

/** The keydir as it was at one moment. It needs no release: garbage collection frees it. */
export interface KeydirSnapshot {
  /** Keys at that moment. */
  readonly size: number
  /**
   * The entries in range, in arrays that may be empty ("still sorting"). Each `next()` does a bounded amount of work,
   * so a caller that yields to the event loop between them never blocks it for more than a few milliseconds.
   */
  readonly batches: (options: BatchOptions) => Generator<ReadonlyArray<Located>, void, undefined>
}

/** Slabs and how many words of each are records. Nothing below those ends ever changes. */
export interface Slabs {
  readonly words: ReadonlyArray<Uint32Array>
  readonly ends: ReadonlyArray<number>
}

export const keyWords = (keyLen: number): number => (keyLen + 3) >>> 2

export const segmentAt = (words: Uint32Array, at: number): number => words[at] as number

export const offsetAt = (words: Uint32Array, at: number): number =>
  ((words[at + 2] as number) >>> 16) * 2 ** 32 + (words[at + 1] as number)

export const lenAt = (words: Uint32Array, at: number): number => (words[at + 3] as number) & len_max

export const keyLenAt = (words: Uint32Array, at: number): number =>
  ((words[at + 2] as number) & 0xffff) | (((words[at + 3] as number) >>> key_len_high_shift) & 0x10000)

export const isLiveAt = (words: Uint32Array, at: number): boolean => ((words[at + 3] as number) & live_bit) !== 0

export const markDeadAt = (words: Uint32Array, at: number): void => {
  words[at + 3] = (words[at + 3] as number) & ~live_bit
}

export const writePlaceAt = (
  words: Uint32Array,
  at: number,
  keyLen: number,
  segment: number,
  offset: number,
  len: number
): void => {
  words[at] = segment
  words[at + 1] = offset
  words[at + 2] = ((offset / 2 ** 32) << 16) | (keyLen & 0xffff)
  words[at + 3] = len | ((keyLen & 0x10000) << key_len_high_shift) | live_bit
}

/** Writes the key `bytes[start, end)` as words. */
export const packAt = (words: Uint32Array, at: number, bytes: Uint8Array, start: number, end: number): void => {
  const whole = start + ((end - start) & ~3)
  let word = at
  let i = start
  for (; i < whole; i += 4) {
    words[word++] = ((bytes[i] as number) << 24) | ((bytes[i + 1] as number) << 16) | ((bytes[i + 2] as number) << 8) |
      (bytes[i + 3] as number)
  }
  if (i === end) return
  let last = 0
  for (let shift = 24; i < end; i++, shift -= 8) last |= (bytes[i] as number) << shift
  words[word] = last
}

/** A copy of a record's key. */
export const keyAt = (words: Uint32Array, at: number): Uint8Array => {
  const keyLen = keyLenAt(words, at)
  const key = new Uint8Array(keyLen)
  const whole = keyLen & ~3
  let word = at + header_words
  let i = 0
  for (; i < whole; i += 4) {
    const bytes = words[word++] as number
    key[i] = bytes >>> 24
    key[i + 1] = bytes >>> 16
    key[i + 2] = bytes >>> 8
    key[i + 3] = bytes
  }
  for (let shift = 24; i < keyLen; i++, shift -= 8) key[i] = (words[word] as number) >>> shift
  return key
}

/**
 * Negative, zero or positive as the key of record `a` lies before, at or behind that of `b`. The zeros in a last word
 * are right: where they decide, the shorter key is a prefix of the other or has the lower byte, and comes first.
 */
const compareAt = (a: Uint32Array, aAt: number, b: Uint32Array, bAt: number): number => {
  const aLen = keyLenAt(a, aAt)
  const bLen = keyLenAt(b, bAt)
  const words = keyWords(aLen < bLen ? aLen : bLen)
  for (let i = header_words; i < header_words + words; i++) {
    const x = a[aAt + i] as number
    const y = b[bAt + i] as number
    if (x !== y) return x < y ? -1 : 1
  }
  return aLen - bLen
}

const slabOf = (slabs: Slabs, entry: number): Uint32Array => slabs.words[entry >>> slab_bits] as Uint32Array

const compareEntries = (slabs: Slabs, a: number, b: number): number =>
  compareAt(slabOf(slabs, a), a & (slab_words - 1), slabOf(slabs, b), b & (slab_words - 1))

const locate = (slabs: Slabs, entry: number): Located => {
  const words = slabOf(slabs, entry)
  const at = entry & (slab_words - 1)
  return { key: keyAt(words, at), segment: segmentAt(words, at), offset: offsetAt(words, at), len: lenAt(words, at) }
}

/** The given bounds as records, so that one comparison serves all. */
const boundsOf = (keys: ReadonlyArray<Uint8Array | undefined>): ReadonlyArray<Uint32Array> => {
  const bounds: Array<Uint32Array> = []
  for (const key of keys) {
    if (key === undefined) continue
    // What is longer than every key keeps its place among them when cut to one byte more than the longest.
    const cut = key.subarray(0, key_bytes_max + 1)
    const words = new Uint32Array(header_words + keyWords(cut.length))
    writePlaceAt(words, 0, cut.length, 0, 0, 0)
    packAt(words, header_words, cut, 0, cut.length)
    bounds.push(words)
  }
  return bounds
}

/** The lowest key above all that start with the prefix; none when it is empty or all 0xff. */
const behindPrefix = (prefix: Uint8Array): Uint8Array | undefined => {
  let end = prefix.length
  while (end > 0 && prefix[end - 1] === 0xff) end--
  if (end === 0) return undefined
  const behind = prefix.slice(0, end)
  behind[end - 1] = (behind[end - 1] as number) + 1
  return behind
}

/** Passes through the records of all slabs, in the order in which they lie, and takes those in range. */
class Scan {
  done = false
  private readonly slabs: Slabs
  private readonly from: ReadonlyArray<Uint32Array>
  private readonly to: ReadonlyArray<Uint32Array>
  private slab = 0
  private at = 0

  constructor(slabs: Slabs, range: KeyRange = {}) {
    const { from, prefix, to } = range
    this.slabs = slabs
    this.from = boundsOf([from, prefix])
    this.to = boundsOf([to, prefix && behindPrefix(prefix)])
  }

  /** One step: writes the next entries to `into` and tells how many. */
  fill(into: Uint32Array): number {
    let count = 0
    let passed = 0
    let taken = 0
    for (; this.slab < this.slabs.words.length; this.slab++, this.at = 0) {
      const words = this.slabs.words[this.slab] as Uint32Array
      const end = this.slabs.ends[this.slab] as number
      while (this.at < end) {
        if (count === into.length || passed > scan_words_max || taken > step_key_words) return count
        const keyed = keyWords(keyLenAt(words, this.at))
        passed += header_words + keyed
        if (isLiveAt(words, this.at) && this.covers(words, this.at)) {
          into[count++] = this.slab * slab_words + this.at
          taken += keyed
        }
        this.at += header_words + keyed
      }
    }
    this.done = true
    return count
  }

  private covers(words: Uint32Array, at: number): boolean {
    for (const from of this.from) if (compareAt(words, at, from, 0) < 0) return false
    for (const to of this.to) if (compareAt(words, at, to, 0) >= 0) return false
    return true
  }
}

/** How many words the keys of all entries begin with alike. */
const commonWords = (slabs: Slabs, entries: Uint32Array, first: number, limit: number): number => {
  const a = slabOf(slabs, first)
  const aAt = (first & (slab_words - 1)) + header_words
  let common = Math.min(limit, keyWords(keyLenAt(a, aAt - header_words)))
  for (let i = 0; i < entries.length && common > 0; i++) {
    const entry = entries[i] as number
    const b = slabOf(slabs, entry)
    const bAt = (entry & (slab_words - 1)) + header_words
    const length = keyWords(keyLenAt(b, bAt - header_words))
    let word = 0
    while (word < common && word < length && a[aAt + word] === b[bAt + word]) word++
    common = word
  }
  return common
}

/** The first word in which keys that begin alike may differ; the lowest where the key ends before it. */
const headAt = (slabs: Slabs, entry: number, common: number): number => {
  const words = slabOf(slabs, entry)
  const at = entry & (slab_words - 1)
  return common < keyWords(keyLenAt(words, at)) ? words[at + header_words + common] as number : 0
}

const isSorted = (slabs: Slabs, entries: Uint32Array): boolean => {
  for (let i = 1; i < entries.length; i++) {
    if (compareEntries(slabs, entries[i - 1] as number, entries[i] as number) > 0) return false
  }
  return true
}

/**
 * Sorts a run. Numbers of a word that tells most keys apart and of the entry are sorted by the engine's own sort, which
 * for doubles needs no call per comparison; what that word leaves equal is sorted by whole keys.
 */
const sortRun = (slabs: Slabs, entries: Uint32Array): Uint32Array => {
  if (isSorted(slabs, entries)) return entries
  const common = commonWords(slabs, entries, entries[0] as number, key_bytes_max)
  const numbers = new Float64Array(entries.length)
  for (let i = 0; i < entries.length; i++) numbers[i] = headAt(slabs, entries[i] as number, common) * run_entries + i
  numbers.sort()
  const sorted = new Uint32Array(entries.length)
  for (let i = 0; i < entries.length; i++) sorted[i] = entries[(numbers[i] as number) % run_entries] as number
  let start = 0
  for (let i = 1; i <= entries.length; i++) {
    const head = Math.floor((numbers[start] as number) / run_entries)
    if (i < entries.length && Math.floor((numbers[i] as number) / run_entries) === head) continue
    if (i - start > 1) sorted.subarray(start, i).sort((a, b) => compareEntries(slabs, a, b))
    start = i
  }
  return sorted
}

/** A heap of sorted runs, the one whose next entry has the lowest key on top. */
class Merge {
  private readonly slabs: Slabs
  /** By run number: the sorted entries, how many were passed on, the next one, and the head of its key. */
  private readonly runs: Array<Uint32Array> = []
  private readonly taken: Array<number> = []
  private readonly nexts: Array<number> = []
  private readonly heads: Array<number> = []
  /** The words that all keys begin with. */
  private common = key_bytes_max
  /** Run numbers. The next entry of a parent is below those of its children. */
  private readonly heap: Array<number> = []

  constructor(slabs: Slabs) {
    this.slabs = slabs
  }

  add(run: Uint32Array): void {
    const first = this.runs[0]?.[0] ?? run[0] as number
    this.common = commonWords(this.slabs, run, first, this.common)
    this.runs.push(run)
  }

  /** To be called when all runs are in. */
  start(): void {
    for (const [number, run] of this.runs.entries()) {
      this.taken.push(0)
      this.nexts.push(0)
      this.heads.push(0)
      this.point(number, run[0] as number)
      this.rise(this.heap.push(number) - 1, number)
    }
  }

  /** Takes the entry with the lowest key; 0 when there is none. */
  next(): number {
    const top = this.heap[0]
    if (top === undefined) return 0
    const entry = this.nexts[top] as number
    const run = this.runs[top] as Uint32Array
    const taken = (this.taken[top] as number) + 1
    if (taken < run.length) {
      this.taken[top] = taken
      this.point(top, run[taken] as number)
      this.sink(top)
    } else {
      const last = this.heap.pop() as number
      if (this.heap.length > 0) this.sink(last)
    }
    return entry
  }

  private point(run: number, entry: number): void {
    this.nexts[run] = entry
    this.heads[run] = headAt(this.slabs, entry, this.common)
  }

  /** Puts a run where it belongs, from the top. One that goes on below all others stays, as when keys came in order. */
  private sink(run: number): void {
    const { heap } = this
    let at = 0
    for (let child = 1; child < heap.length; child = 2 * at + 1) {
      if (child + 1 < heap.length && this.before(heap[child + 1] as number, heap[child] as number)) child++
      if (!this.before(heap[child] as number, run)) break
      heap[at] = heap[child] as number
      at = child
    }
    heap[at] = run
  }

  private rise(from: number, run: number): void {
    const { heap } = this
    let at = from
    while (at > 0) {
      const parent = (at - 1) >>> 1
      if (!this.before(run, heap[parent] as number)) break
      heap[at] = heap[parent] as number
      at = parent
    }
    heap[at] = run
  }

  private before(a: number, b: number): boolean {
    const aHead = this.heads[a] as number
    const bHead = this.heads[b] as number
    return aHead !== bHead
      ? aHead < bHead
      : compareEntries(this.slabs, this.nexts[a] as number, this.nexts[b] as number) < 0
  }
}

function* unorderedBatches(
  slabs: Slabs,
  scan: Scan,
  batch: number
): Generator<ReadonlyArray<Located>, void, undefined> {
  const entries = new Uint32Array(batch)
  while (!scan.done) {
    const count = scan.fill(entries)
    const located: Array<Located> = []
    for (let i = 0; i < count; i++) located.push(locate(slabs, entries[i] as number))
    yield located
  }
}

function* orderedBatches(slabs: Slabs, scan: Scan, batch: number): Generator<ReadonlyArray<Located>, void, undefined> {
  const merge = new Merge(slabs)
  const entries = new Uint32Array(run_entries)
  while (!scan.done) {
    const count = scan.fill(entries)
    if (count > 0) merge.add(sortRun(slabs, entries.slice(0, count)))
    yield []
  }
  merge.start()
  let entry = merge.next()
  while (entry !== 0) {
    const located: Array<Located> = []
    let copied = 0
    while (entry !== 0 && located.length < batch && copied <= 4 * step_key_words) {
      const next = locate(slabs, entry)
      located.push(next)
      copied += next.key.length
      entry = merge.next()
    }
    yield located
  }
}

/** A snapshot over slabs that the caller no longer changes below their ends. */
export const snapshotOf = (slabs: Slabs, size: number): KeydirSnapshot => ({
  size,
  batches({ batch = 1_024, ordered, range }) {
    const entries = Math.max(1, Math.min(Math.trunc(batch), batch_entries_max))
    return (ordered ? orderedBatches : unorderedBatches)(slabs, new Scan(slabs, range), entries)
  }
})
