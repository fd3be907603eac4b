/**
 * The walk over a frozen set of the keydir's records, in any order or in key order.
 *
 * A step of a walk passes, sorts, merges and copies a bounded amount, whatever the keys and the range. A walk in key
 * order takes 12 bytes an entry.
 *
 * Indexed reads are `as number`: a heap or run index is bounded by the loop that counts it.
 */
import { key_bytes_max } from "../Frame.ts"
import {
  compareAt,
  compareEntries,
  header_words,
  isLiveAt,
  keyLenAt,
  keyWords,
  packAt,
  slab_words,
  slabOf,
  type Slabs,
  writePlaceAt
} from "./keyRecord.ts"

/** Words of records that one step passes by while it looks for those in range: eight slabs, ~0.5 ms. */
const scan_words_max = 8 * slab_words
/** Entries that one step sorts: ~1 ms. Their numbers fit beside 32 bits in a double. */
const run_bits = 12
const run_entries = 2 ** run_bits
/** The first runs are shorter: until it is compiled, the code takes ten times. */
const first_run_entries = 256
/** Entries in one array: ~2 ms of merging, and of copying their keys. */
const step_entries_max = 2_048
/** Key words after which a step ends early: 128 KiB, so that long keys cannot stretch it. */
const step_key_words = 32_768
/** Keys of no more words do not end a step early: they need not be looked at for their length, a memory miss each. */
const short_key_words = step_key_words / step_entries_max

/** Which keys to walk: all conditions must hold; one that is left out holds for every key. */
export interface KeyRange {
  readonly prefix?: Uint8Array | undefined
  /** The lowest key, inclusive. */
  readonly from?: Uint8Array | undefined
  /** The upper end, exclusive. */
  readonly to?: Uint8Array | undefined
}

/** How to walk a snapshot. */
export interface WalkOptions {
  /** Ascending unsigned byte order of keys; otherwise any order. */
  readonly ordered: boolean
  readonly range?: KeyRange | undefined
}

/** The keydir as it was at one moment. It needs no release: garbage collection frees it. */
export interface KeydirSnapshot {
  /** Keys at that moment. */
  readonly size: number
  /** What the entries are in. */
  readonly slabs: Slabs
  /**
   * The ids of the entries in range, 2,048 at most in an array, which holds until the next step and may be empty
   * ("still sorting"). Each `next()` does a bounded amount of work, and the keys of an array are a bounded amount to
   * copy, so a caller that yields to the event loop between them never blocks it for more than a few milliseconds.
   */
  readonly entries: (options: WalkOptions) => Generator<Uint32Array, void, undefined>
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
  /** Words of the longest key taken. */
  longest = 0
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
          if (keyed > this.longest) this.longest = keyed
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

/** Sorts entries by whole keys. */
const sortAlike = (slabs: Slabs, entries: Uint32Array, from: number, to: number): void => {
  if (to - from > 1) entries.subarray(from, to).sort((a, b) => compareEntries(slabs, a, b))
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
  let start = 0
  let head = -1
  for (let i = 0; i < entries.length; i++) {
    // Not with `%`, which for doubles is a call.
    const next = Math.floor((numbers[i] as number) / run_entries)
    sorted[i] = entries[(numbers[i] as number) - next * run_entries] as number
    if (next === head) continue
    sortAlike(slabs, sorted, start, i)
    start = i
    head = next
  }
  sortAlike(slabs, sorted, start, entries.length)
  return sorted
}

/**
 * What of a key decides most comparisons, as a number: 53 bits from a word on. Numbers compare as their keys do, except
 * that those of different keys can be equal.
 */
const numberAt = (slabs: Slabs, entry: number, common: number): number => {
  const words = slabOf(slabs, entry)
  const at = entry & (slab_words - 1)
  const behind = keyWords(keyLenAt(words, at)) - common
  const first = at + header_words + common
  return behind < 1
    ? 0
    : (words[first] as number) * 2 ** 21 + (behind < 2 ? 0 : (words[first + 1] as number) >>> 11)
}

/** Sorted entries, and the numbers of their keys from the word `common` on, so that a merge need not look them up. */
interface Run {
  readonly entries: Uint32Array
  readonly numbers: Float64Array
  common: number
}

/** A heap of sorted runs, the one whose next entry has the lowest key on top. */
class Merge {
  private readonly slabs: Slabs
  private readonly runs: Array<Run> = []
  /** By run: how many entries were passed on, the next one, and the number of its key. */
  private taken = new Uint32Array(0)
  private nexts = new Uint32Array(0)
  private numbers = new Float64Array(0)
  /** The words that all keys begin with. */
  private common = key_bytes_max
  /** Indexes of runs. The next entry of a parent is below those of its children. */
  private heap = new Uint32Array(0)
  private size = 0

  constructor(slabs: Slabs) {
    this.slabs = slabs
  }

  add(entries: Uint32Array): void {
    const first = this.runs[0]?.entries[0] ?? entries[0] as number
    this.common = commonWords(this.slabs, entries, first, this.common)
    const run = { entries, numbers: new Float64Array(entries.length), common: -1 }
    this.runs.push(run)
    this.number(run)
  }

  /** To be called when all runs are in. A step for each run that came when more words seemed alike. */
  *start(): Generator<void> {
    const count = this.runs.length
    this.taken = new Uint32Array(count)
    this.nexts = new Uint32Array(count)
    this.numbers = new Float64Array(count)
    this.heap = new Uint32Array(count)
    let words = 0
    for (const [index, run] of this.runs.entries()) {
      if (run.common !== this.common) {
        this.number(run)
        yield
      }
      const first = run.entries[0] as number
      this.nexts[index] = first
      this.numbers[index] = run.numbers[0] as number
      this.rise(this.size++, index)
      words += keyWords(keyLenAt(slabOf(this.slabs, first), first & (slab_words - 1)))
      if (words > step_key_words) {
        words = 0
        yield
      }
    }
  }

  /** Takes the entry with the lowest key; 0 when there is none. */
  next(): number {
    if (this.size === 0) return 0
    const top = this.heap[0] as number
    const entry = this.nexts[top] as number
    const { entries, numbers } = this.runs[top] as Run
    const taken = (this.taken[top] as number) + 1
    if (taken < entries.length) {
      this.taken[top] = taken
      this.nexts[top] = entries[taken] as number
      this.numbers[top] = numbers[taken] as number
      this.sink(top)
    } else if (--this.size > 0) {
      this.sink(this.heap[this.size] as number)
    }
    return entry
  }

  private number(run: Run): void {
    const { entries, numbers } = run
    for (let i = 0; i < entries.length; i++) numbers[i] = numberAt(this.slabs, entries[i] as number, this.common)
    run.common = this.common
  }

  /** Puts a run where it belongs, from the top. One that goes on below all others stays, as when keys came in order. */
  private sink(run: number): void {
    const { heap, size } = this
    let at = 0
    for (let child = 1; child < size; child = 2 * at + 1) {
      if (child + 1 < size && this.before(heap[child + 1] as number, heap[child] as number)) child++
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
    const x = this.numbers[a] as number
    const y = this.numbers[b] as number
    return x !== y ? x < y : compareEntries(this.slabs, this.nexts[a] as number, this.nexts[b] as number) < 0
  }
}

function* unorderedEntries(scan: Scan): Generator<Uint32Array, void, undefined> {
  const entries = new Uint32Array(step_entries_max)
  while (!scan.done) yield entries.subarray(0, scan.fill(entries))
}

function* orderedEntries(slabs: Slabs, scan: Scan): Generator<Uint32Array, void, undefined> {
  const merge = new Merge(slabs)
  const entries = new Uint32Array(run_entries)
  const none = entries.subarray(0, 0)
  for (let length = first_run_entries; !scan.done; length = Math.min(run_entries, 2 * length)) {
    const count = scan.fill(entries.subarray(0, length))
    if (count > 0) merge.add(sortRun(slabs, entries.slice(0, count)))
    yield none
  }
  for (const _ of merge.start()) yield none
  const areShort = scan.longest <= short_key_words
  for (let entry = merge.next(); entry !== 0;) {
    let count = 0
    for (let words = 0; entry !== 0 && count < step_entries_max && words <= step_key_words; entry = merge.next()) {
      entries[count++] = entry
      if (!areShort) words += keyWords(keyLenAt(slabOf(slabs, entry), entry & (slab_words - 1)))
    }
    yield entries.subarray(0, count)
  }
}

/** A snapshot over slabs that the caller no longer changes below their ends. */
export const snapshotOf = (slabs: Slabs, size: number): KeydirSnapshot => ({
  size,
  slabs,
  entries: ({ ordered, range }) => {
    const scan = new Scan(slabs, range)
    return ordered ? orderedEntries(slabs, scan) : unorderedEntries(scan)
  }
})
