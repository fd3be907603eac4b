/**
 * HalfSipHash-1-3 with a 32-bit result, by Aumasson and Bernstein (github.com/veorq/SipHash), the keyed hash that the
 * Linux kernel uses for its own hash tables: whoever chooses the keys without the seed cannot make them collide.
 */
import { keyWords } from "./keyRecord.ts"

/**
 * The hash of a record's key. The words hold its bytes the other way round, and zeros fill the last; that costs
 * nothing, because the length is fed too.
 */
export const halfSipHash = (
  words: Uint32Array,
  at: number,
  length: number,
  seed0: number,
  seed1: number
): number => {
  const end = at + keyWords(length)
  let v0 = seed0
  let v1 = seed1
  let v2 = 0x6c796765 ^ seed0
  let v3 = 0x74656462 ^ seed1
  // One round for each word, one for the length, and three to finish.
  for (let i = at; i < end + 4; i++) {
    let word = 0
    if (i < end) word = words[i] as number
    else if (i === end) word = length << 24
    else if (i === end + 1) v2 ^= 0xff
    v3 ^= word
    v0 = (v0 + v1) | 0
    v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0
    v0 = (v0 << 16) | (v0 >>> 16)
    v2 = (v2 + v3) | 0
    v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2
    v0 = (v0 + v3) | 0
    v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0
    v2 = (v2 + v1) | 0
    v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2
    v2 = (v2 << 16) | (v2 >>> 16)
    v0 ^= word
  }
  return v1 ^ v3
}
