/**
 * The verdict table of the contract, written down a second time, for stores that are small enough to look at every
 * byte: what must be read of some segments, and what must be said about the first bytes that are no frame.
 */
import type { Plain, Segments } from "./stores.ts"
import { parse, validAt } from "./stores.ts"

const sector = 512

interface Judged {
  readonly verdict: "Torn" | "CorruptTail" | "CorruptSegment"
  readonly segment: number
  readonly offset: number
  readonly reason: string
  /** From the damage to the end of the file. */
  readonly bytes: number
  readonly laterFrames: number
}

export interface Judgement {
  readonly records: Array<Plain>
  readonly damage: Judged | undefined
}

/** Why no frame starts at `at`, in the order of the decoder's checks, and how long it would be. */
const reasonAt = (bytes: Buffer, at: number): { readonly reason: string; readonly length: number } => {
  const why = (reason: string, length = 0) => ({ reason, length })
  if (bytes.length - at < 24) return why("Truncated")
  if (bytes.toString("latin1", at, at + 4) !== "DWAL") return why("BadMagic")
  if (bytes.readUInt16LE(at + 4) !== 1) return why("UnknownVersion")
  if (bytes[at + 6]! > 2) return why("UnknownRecordType")
  if (bytes[at + 7] !== 0) return why("ReservedFlags")
  const keyLength = bytes.readUInt32LE(at + 16)
  if (keyLength > 65_536) return why("KeyTooLarge")
  const payloadLength = bytes.readUInt32LE(at + 20)
  if (payloadLength > 67_108_864) return why("PayloadTooLarge")
  if (bytes.readBigUInt64LE(at + 8) >= 2n ** 53n) return why("UnsupportedTxid")
  const length = 28 + keyLength + payloadLength
  return at + length > bytes.length ? why("Truncated") : why("CrcMismatch", length)
}

const allZeros = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0)

/** Whole valid frames behind `offset` with a txid above `txid`; what stands inside one is its payload. */
export const laterFrames = (bytes: Buffer, offset: number, txid: number): number => {
  let count = 0
  for (let at = offset + 1; at < bytes.length; at++) {
    if (!validAt(bytes, at) || Number(bytes.readBigUInt64LE(at + 8)) <= txid) continue
    count++
    at += 27 + bytes.readUInt32LE(at + 16) + bytes.readUInt32LE(at + 20)
  }
  return count
}

/** A sector that the frame reaches into and that holds nothing but zeros, from the frame's start on. */
const hasZeroSector = (bytes: Buffer, offset: number, length: number): boolean => {
  for (let at = offset; at < offset + length;) {
    const next = at - at % sector + sector
    if (allZeros(bytes.subarray(at, Math.min(next, bytes.length)))) return true
    at = next
  }
  return false
}

/**
 * Zeros to the next sector, or, where that sector starts within the first bytes of a frame, a sector of zeros behind
 * them: `whole`. Zeros to the next sector behind the first bytes of a frame: `part`.
 */
const unwrittenHeader = (bytes: Buffer, offset: number): "whole" | "part" | undefined => {
  const boundary = offset - offset % sector + sector
  const there = bytes.subarray(offset, boundary)
  const opening = Buffer.from("DWAL\u0001\0", "latin1")
  // Its last byte is a zero: behind the five before it no zero shows where a write ended.
  for (let written = 0; written < 5; written++) {
    if (!there.subarray(0, written).equals(opening.subarray(0, written))) return undefined
    if (written === there.length) return allZeros(bytes.subarray(boundary, boundary + sector)) ? "whole" : undefined
    if (allZeros(there.subarray(written))) return written === 0 ? "whole" : "part"
  }
  return undefined
}

const judgeAt = (bytes: Buffer, segment: number, offset: number, active: boolean, txid: number): Judged => {
  const { length, reason } = reasonAt(bytes, offset)
  const verdict = (verdict: Judged["verdict"], laterFrames = 0): Judged => ({
    verdict,
    segment,
    offset,
    reason,
    bytes: bytes.length - offset,
    laterFrames
  })
  if (!active) return verdict("CorruptSegment")
  if (reason !== "Truncated" && reason !== "CrcMismatch") {
    const unwritten = unwrittenHeader(bytes, offset)
    if (unwritten !== "part") return verdict(unwritten === "whole" ? "Torn" : "CorruptSegment")
  }
  if (reason === "CrcMismatch" && hasZeroSector(bytes, offset, length)) return verdict("Torn")
  const later = laterFrames(bytes, offset, txid)
  return later === 0 ? verdict("Torn") : verdict("CorruptTail", later)
}

/** What the contract says about a store of these segments. */
export const judge = (segments: Segments): Judgement => {
  const ids = Object.keys(segments).map(Number).sort((a, b) => a - b)
  const records: Array<Plain> = []
  for (const id of ids) {
    const bytes = Buffer.from(segments[id]!)
    const { end, records: there } = parse(bytes, id)
    records.push(...there)
    if (end < bytes.length) {
      return { records, damage: judgeAt(bytes, id, end, id === ids.at(-1), records.at(-1)?.txid ?? 0) }
    }
  }
  return { records, damage: undefined }
}

/** The fields that the error for a damage must have, except what it found. */
export const errorOf = (directory: string, damage: Judged, strict = false): Record<string, unknown> | undefined => {
  const { bytes, laterFrames, offset, reason, segment, verdict } = damage
  if (verdict === "Torn" && !strict) return undefined
  return verdict === "CorruptSegment"
    ? { _tag: "CorruptSegment", directory, segment, offset, reason }
    : { _tag: "CorruptTail", directory, segment, offset, reason, bytes, laterFrames }
}
