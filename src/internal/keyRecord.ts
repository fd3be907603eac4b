/**
 * The keydir's records as they lie in memory.
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
 * Words compare in the order in which their bytes compare. Indexed reads are `as number`: a record's words are inside
 * its slab because a record is written whole before its entry or its slab's end is published.
 */

/** Bits of an entry id that count words: slabs of 64 KiB, small enough that a copy-on-write clone takes ~10 µs. */
export const slab_bits = 14
/** Words in an ordinary slab. */
export const slab_words = 2 ** slab_bits
/** Words of a record before its key. */
export const header_words = 4
/** What bits 0 to 26 hold: more than a frame of the longest key and the longest payload. */
export const len_max = 2 ** 27 - 1

const key_len_high_shift = 11
const live_bit = 1 << 28

/** A key and the place of its record. The key is the reader's own copy. */
export interface Located {
  readonly key: Uint8Array<ArrayBuffer>
  readonly segment: number
  readonly offset: number
  readonly len: number
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
export const keyAt = (words: Uint32Array, at: number): Uint8Array<ArrayBuffer> => {
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
export const compareAt = (a: Uint32Array, aAt: number, b: Uint32Array, bAt: number): number => {
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

/** Whether a record's key is those bytes, as many as it has. The view is on the whole of the array. */
export const keyStandsAt = (
  words: Uint32Array,
  at: number,
  bytes: Uint8Array,
  view: DataView,
  from: number
): boolean => {
  const keyLen = keyLenAt(words, at)
  const whole = keyLen & ~3
  let word = at + header_words
  let i = from
  for (; i < from + whole; i += 4) if (view.getUint32(i) !== words[word++]) return false
  for (let shift = 24; i < from + keyLen; i++, shift -= 8) {
    if (bytes[i] !== (((words[word] as number) >>> shift) & 0xff)) return false
  }
  return true
}

export const slabOf = (slabs: Slabs, entry: number): Uint32Array => slabs.words[entry >>> slab_bits] as Uint32Array

export const compareEntries = (slabs: Slabs, a: number, b: number): number =>
  compareAt(slabOf(slabs, a), a & (slab_words - 1), slabOf(slabs, b), b & (slab_words - 1))

export const locate = (slabs: Slabs, entry: number): Located => {
  const words = slabOf(slabs, entry)
  const at = entry & (slab_words - 1)
  return { key: keyAt(words, at), segment: segmentAt(words, at), offset: offsetAt(words, at), len: lenAt(words, at) }
}
