/**
 * The small frames that were read last, so that a value which is asked for again takes no call of the system.
 *
 * It is below the check, where the kernel's own cache is: what it gives is checked as what a file gives. A log's bytes
 * do not change, so nothing in it is ever out of date: a key that is put again has its frame elsewhere.
 *
 * Frames, of at most 32,767 bytes, stand in chunks of 64 KiB, each behind three words:
 *
 * | word | holds |
 * | --- | --- |
 * | 0 | segment |
 * | 1 | offset, low 32 bits |
 * | 2 | offset, bits 32 to 47, in the upper half; in the lower, whether it was used (bit 15) and its length |
 *
 * They are found through a table of sets, eight slots each, which is one line of the processor's cache: a slot is a
 * place in the chunks and a hash. What finds no slot in its set takes one of another's.
 *
 * Sixteen chunks are made at a time, but for the first, which stands alone until it is full; the table has its whole
 * size when the second sixteen are made. Most stores are small, and memory that is asked for calls the collector, used
 * or not. Where there is no more, the cache goes on with what it has.
 *
 * When all chunks are full, the hand moves on to the next, keeps what was used since the hand last came by, up to half
 * of the chunk, and forgets the rest: the clock of F. J. Corbató (A paging experiment with the Multics system, 1969),
 * by the chunk. From then on only one of eight frames is kept: where more is asked for than finds room, keeping costs
 * more than it wins, and what is asked for often gets in all the same.
 *
 * Invariants: a slot names a frame that is there, so a frame goes together with its slot; a place has one length.
 *
 * Indexed reads are `as number` or `as` an array: slots are masked by the table's length, and a slot's place was in
 * range when it was written.
 */
import { copyBytes } from "./bytes.ts"

/** What a cache may be at least and at most, in bytes, unless it is none. */
export const cache_bytes_min = 131_072
export const cache_bytes_max = 4_294_967_296
export const cache_bytes_default = 33_554_432

const chunk_bits = 14
const chunk_words = 2 ** chunk_bits
const block_chunks = 16
const block_bits = chunk_bits + Math.log2(block_chunks)
const block_mask = 2 ** block_bits - 1
const kept_words_max = chunk_words / 2
const header_words = 3
const used_bit = 1 << 15
const len_mask = used_bit - 1

/** Slots of a set, in words. */
const set_words = 16
/** Of the cache for each slot, at most: smaller frames, of a few bytes of key and value, may find none. */
const bytes_per_slot = 64
/** As many slots as that for twice so many chunks, in words. */
const slotWords = (chunks: number): number => 2 * 2 * 4 * chunk_words * chunks / bytes_per_slot
/** One of so many frames is kept once all chunks have been full. */
const admitted_of = 8

const nothing = new Int32Array(0)

const highHalf = (offset: number): number => ((offset / 2 ** 32) << 16) | 0

/** With the mixing of MurmurHash3 (Austin Appleby): places follow each other in steps of like lengths. */
const hashOf = (segment: number, low: number, high: number): number => {
  const hash = Math.imul(low ^ Math.imul(segment ^ high, 0x9e3779b1), 0x85ebca6b)
  const mixed = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return mixed ^ (mixed >>> 16)
}

/** Chunks that stand in one piece of memory. */
interface Block {
  readonly words: Int32Array
  readonly bytes: Uint8Array
  readonly view: DataView
}

export class FrameCache {
  readonly #allocate: (words: number) => Int32Array
  readonly #slot_words_max: number
  #chunks_max: number
  #slots: Int32Array = nothing
  #setMask = 0
  readonly #blocks: Array<Block> = []
  /** By chunk: where its frames end, in words of its own. */
  readonly #ends: Array<number> = []
  /** The chunk that takes frames. */
  #hand = 0
  #hasBeenFull = false
  #passed = 0

  /** Takes at most so many bytes, from `cache_bytes_min` on. `allocate` throws a `RangeError` where there are none. */
  constructor(bytes: number, allocate = (words: number): Int32Array => new Int32Array(words)) {
    this.#allocate = allocate
    this.#slot_words_max = 2 * 2 ** Math.ceil(Math.log2(bytes / bytes_per_slot))
    this.#chunks_max = Math.floor((bytes - 4 * this.#slot_words_max) / (4 * chunk_words))
  }

  /** Copies the frame that stands there to `to[toAt, toAt + len)`, if it is here. */
  copyTo(segment: number, offset: number, len: number, to: Uint8Array, toView: DataView, toAt: number): boolean {
    if (this.#slots === nothing) return false
    const slot = this.#slotOf(segment | 0, offset | 0, highHalf(offset))
    if (slot < 0) return false
    const word = this.#slots[slot] as number
    const at = word & block_mask
    const { bytes, view, words } = this.#blocks[word >>> block_bits] as Block
    const last = words[at - 1] as number
    if ((last & len_mask) !== len) return false
    if ((last & used_bit) === 0) words[at - 1] = last | used_bit
    copyBytes(bytes, view, 4 * at, len, to, toView, toAt)
    return true
  }

  /** Keeps the frame that stands there, which is in `from[at, at + len)` and was not here; or passes it by. */
  keep(segment: number, offset: number, len: number, from: Uint8Array, fromView: DataView, at: number): void {
    if (this.#hasBeenFull && ++this.#passed < admitted_of) return
    this.#passed = 0
    const size = header_words + ((len + 3) >>> 2)
    const room = this.#roomFor(size)
    if (room < 0) return
    const word = room + header_words
    const start = word & block_mask
    const { bytes, view, words } = this.#blocks[word >>> block_bits] as Block
    const high = highHalf(offset)
    words[start - 3] = segment
    words[start - 2] = offset
    words[start - 1] = high | len
    copyBytes(from, fromView, at, len, bytes, view, 4 * start)
    this.#name(word, hashOf(segment | 0, offset | 0, high))
  }

  /** The slot of the frame, or -1. */
  #slotOf(segment: number, low: number, high: number): number {
    const slots = this.#slots
    const hash = hashOf(segment, low, high)
    const first = (hash << 1) & this.#setMask
    for (let slot = first; slot < first + set_words; slot += 2) {
      if (slots[slot + 1] !== hash) continue
      const word = slots[slot] as number
      if (word === 0) continue
      const at = word & block_mask
      const { words } = this.#blocks[word >>> block_bits] as Block
      if (words[at - 3] === segment && words[at - 2] === low && ((words[at - 1] as number) & 0xffff_0000) === high) {
        return slot
      }
    }
    return -1
  }

  /** Gives a frame a slot. */
  #name(word: number, hash: number): void {
    const first = (hash << 1) & this.#setMask
    let slot = first
    while (slot < first + set_words && this.#slots[slot] !== 0) slot += 2
    if (slot === first + set_words) slot = first + (this.#hand * 2) % set_words
    this.#slots[slot] = word
    this.#slots[slot + 1] = hash
  }

  /** Takes room for so many words; -1 where there is no memory at all. */
  #roomFor(size: number): number {
    if (this.#ends.length === 0 && !this.#grow()) return -1
    if ((this.#ends[this.#hand] as number) + size > chunk_words && !this.#grow()) {
      this.#hand = (this.#hand + 1) % this.#chunks_max
      this.#hasBeenFull = true
      this.#empty(this.#hand)
    }
    const end = this.#ends[this.#hand] as number
    this.#ends[this.#hand] = end + size
    return this.#hand * chunk_words + end
  }

  /** Takes another chunk into use, if there may be one and there is memory for it. */
  #grow(): boolean {
    const chunk = this.#ends.length
    if (chunk === this.#chunks_max) return false
    try {
      if (chunk < 2 || chunk % block_chunks === 0) this.#addBlock(chunk)
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause
      this.#chunks_max = chunk
      return false
    }
    this.#ends.push(0)
    this.#hand = chunk
    return true
  }

  /** Makes the block that begins with a chunk; the second one needs another for the first. */
  #addBlock(chunk: number): void {
    const chunks = chunk === 0 ? 1 : Math.min(block_chunks, this.#chunks_max - chunk + chunk % block_chunks)
    const words = this.#allocate(chunks * chunk_words)
    const [first] = this.#blocks
    if (chunk === 1 && first !== undefined) words.set(first.words)
    if (chunk <= block_chunks) this.#setTable(chunk < block_chunks ? slotWords(chunks) : this.#slot_words_max)
    this.#blocks[chunk >>> (block_bits - chunk_bits)] = {
      words,
      bytes: new Uint8Array(words.buffer),
      view: new DataView(words.buffer)
    }
  }

  /** A table of so many words, with what was in the one before. */
  #setTable(words: number): void {
    const before = this.#slots
    this.#slots = this.#allocate(Math.min(words, this.#slot_words_max))
    this.#setMask = this.#slots.length - set_words
    for (let slot = 0; slot < before.length; slot += 2) {
      const word = before[slot] as number
      if (word !== 0) this.#name(word, before[slot + 1] as number)
    }
  }

  /** Forgets what was not used, and moves the rest together at the chunk's beginning. */
  #empty(chunk: number): void {
    const first = chunk * chunk_words
    const base = first & ~block_mask
    const { words } = this.#blocks[first >>> block_bits] as Block
    const start = first & block_mask
    const end = start + (this.#ends[chunk] as number)
    let to = start
    for (let from = start; from < end;) {
      const last = words[from + 2] as number
      const size = header_words + (((last & len_mask) + 3) >>> 2)
      const slot = this.#slotOf(words[from] as number, words[from + 1] as number, last & 0xffff_0000)
      // Not so if another has taken its slot.
      if (slot >= 0 && this.#slots[slot] === base + from + header_words) {
        if ((last & used_bit) !== 0 && to + size <= start + kept_words_max) {
          words[from + 2] = last & ~used_bit
          words.copyWithin(to, from, from + size)
          this.#slots[slot] = base + to + header_words
          to += size
        } else this.#slots[slot] = 0
      }
      from += size
    }
    this.#ends[chunk] = to - start
  }
}
