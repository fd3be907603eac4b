/** Bytes as callers give them, and memory that many of them share. */
import { markAsUntransferable } from "node:worker_threads"

/** Keys and values as a caller gives them. */
export type Bytes = Uint8Array | string

const encoder = new TextEncoder()

/** The bytes themselves, or a string's UTF-8. */
export const toBytes = (value: Bytes): Uint8Array => typeof value === "string" ? encoder.encode(value) : value

/**
 * Memory, not cleared, that several values will be views on. It cannot be transferred to another thread, which would
 * empty them all; it can be cloned.
 */
export const sharedBytes = (length: number): Uint8Array<ArrayBuffer> => {
  const { buffer } = Buffer.allocUnsafeSlow(length)
  markAsUntransferable(buffer)
  return new Uint8Array(buffer)
}
