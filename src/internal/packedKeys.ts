/**
 * The keys at hand as words: packed once, then hashed, compared and copied. Nothing waits while they are, so one array
 * is enough; it holds the longest key there can be, or many.
 */
import { key_bytes_max } from "../Frame.ts"
import * as keyRecord from "./keyRecord.ts"

export const packed_words = keyRecord.keyWords(key_bytes_max)
export const packed = new Uint32Array(packed_words)

/** Whether the record's key is the one at hand that begins at `from`. */
export const holdsPacked = (words: Uint32Array, at: number, from: number, keyLen: number): boolean => {
  if (keyRecord.keyLenAt(words, at) !== keyLen) return false
  const size = keyRecord.keyWords(keyLen)
  for (let i = 0; i < size; i++) if (words[at + keyRecord.header_words + i] !== packed[from + i]) return false
  return true
}
