/** Bytes as callers give them, and memory that many of them share. */
import { markAsUntransferable } from "node:worker_threads"

/** Keys and values as a caller gives them. */
export type Bytes = Uint8Array | string

const encoder = new TextEncoder()

/** The bytes themselves, or a string's UTF-8. What the types forbid must throw before anything is made of it. */
export const toBytes = (value: Bytes): Uint8Array => {
  if (typeof value === "string") return encoder.encode(value)
  if (value?.BYTES_PER_ELEMENT !== 1 || value instanceof Int8Array) {
    throw new TypeError("a key or a value is a Uint8Array or a string")
  }
  return value
}

/** Of `toBytes`. */
export const byteLength = (value: Bytes): number =>
  typeof value === "string" ? Buffer.byteLength(value) : toBytes(value).length

/** A copy of what may be the caller's memory, and a Buffer, whose `slice` is none. */
export const ownBytes = (bytes: Uint8Array): Uint8Array => new Uint8Array(bytes)

/** The same memory as no Buffer: whoever is told to copy it with `slice` must get a copy. */
export const plainBytes = (bytes: Uint8Array): Uint8Array =>
  bytes.constructor === Uint8Array ? bytes : new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** Whether `bytes[from, to)` holds nothing but zeros. */
export const areZeros = (bytes: Uint8Array, from: number, to: number): boolean => {
  for (let at = from; at < to; at++) if (bytes[at] !== 0) return false
  return true
}

export const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64")

/** Below this many bytes a loop is faster than a view and a copy by V8. */
const looped_bytes_max = 512

/**
 * Copies `from[at, at + length)` to `to`, four words of four bytes a step: one word a step takes nearly twice as long.
 * The views are on the whole of the arrays.
 */
export const copyBytes = (
  from: Uint8Array,
  fromView: DataView,
  at: number,
  length: number,
  to: Uint8Array,
  toView: DataView,
  toAt: number
): void => {
  if (length > looped_bytes_max) return to.set(from.subarray(at, at + length), toAt)
  let done = 0
  for (; done + 16 <= length; done += 16) {
    const a = fromView.getInt32(at + done, true)
    const b = fromView.getInt32(at + done + 4, true)
    const c = fromView.getInt32(at + done + 8, true)
    const d = fromView.getInt32(at + done + 12, true)
    toView.setInt32(toAt + done, a, true)
    toView.setInt32(toAt + done + 4, b, true)
    toView.setInt32(toAt + done + 8, c, true)
    toView.setInt32(toAt + done + 12, d, true)
  }
  for (; done + 4 <= length; done += 4) toView.setInt32(toAt + done, fromView.getInt32(at + done, true), true)
  for (; done < length; done++) to[toAt + done] = from[at + done] as number
}

const room_bytes_min = 4_096

/** How large a buffer should be in which so many bytes find room now, and perhaps more later, up to `most`. */
export const roomFor = (bytes: number, most: number): number =>
  Math.min(most, 2 ** Math.ceil(Math.log2(Math.max(bytes, room_bytes_min))))

/** Memory, not cleared, that nothing else is a view on. */
export const freshBytes = (length: number): Uint8Array<ArrayBuffer> =>
  new Uint8Array(Buffer.allocUnsafeSlow(length).buffer)

/**
 * Memory, not cleared, that several values will be views on. It cannot be transferred to another thread, which would
 * empty them all; it can be cloned.
 */
export const sharedBytes = (length: number): Uint8Array<ArrayBuffer> => {
  const bytes = freshBytes(length)
  markAsUntransferable(bytes.buffer)
  return bytes
}

const isUnshared = (bytes: Uint8Array): bytes is Uint8Array<ArrayBuffer> => bytes.buffer instanceof ArrayBuffer

/** The same bytes in memory that no other thread can change. */
export const unshared = (bytes: Uint8Array): Uint8Array<ArrayBuffer> => isUnshared(bytes) ? bytes : bytes.slice()
