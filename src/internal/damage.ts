/**
 * The verdict on bytes that are not a frame (`docs/recovery.md`): whether a crash can have left them so.
 *
 * A disk writes whole sectors, in any order, and a sector that was never written reads as zeros. So an unsynced frame
 * can be cut short, can be zeros from some place on, or can have whole sectors of zeros in it, whatever stands behind
 * it. Anything else with valid frames behind it is damage to data that may have been acknowledged, and is not cut.
 */
import * as Effect from "effect/Effect"
import * as Disk from "../Disk.ts"
import type { DamageReason, IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { areZeros } from "./bytes.ts"
import { countLaterFrames } from "./laterFrames.ts"

/** The unit in which a disk writes, or does not write. */
export const sector_bytes = 512

// A multiple of the sector, small enough to keep the event loop free.
const chunk_bytes = 65_536

/** What a decoder found at `offset`. `length` is the frame's where only its checksum is wrong, else 0. */
export interface Damaged {
  readonly reason: DamageReason
  readonly found?: number | undefined
  readonly offset: number
  readonly length: number
}

/** The verdict. `bytes` is the distance from the damage to the end of the file. */
export interface Damage {
  readonly _tag: "Damage"
  readonly verdict: "Torn" | "CorruptTail" | "CorruptSegment"
  readonly segment: number
  readonly offset: number
  readonly bytes: number
  readonly reason: DamageReason
  readonly found: number | undefined
  readonly laterFrames: number
}

export const isDamage = (error: { readonly _tag: string }): error is Damage => error._tag === "Damage"

interface Where {
  readonly segment: number
  readonly size: number
  readonly closed: boolean
  /** The txid of the last valid record before the damage. */
  readonly txid: number
}

export const classify = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  where: Where,
  damaged: Damaged
): Effect.fn.Return<Damage, IoError> {
  const { found, offset, reason } = damaged
  const verdict = (verdict: Damage["verdict"], laterFrames = 0): Damage => ({
    _tag: "Damage",
    verdict,
    segment: where.segment,
    offset,
    bytes: where.size - offset,
    reason,
    found,
    laterFrames
  })
  if (where.closed) return verdict("CorruptSegment")
  if (reason !== "Truncated" && reason !== "CrcMismatch") {
    const header = yield* unwrittenHeader(file, offset, where.size)
    if (header !== "cut") return verdict(header === "unwritten" ? "Torn" : "CorruptSegment")
  }
  if (reason === "CrcMismatch" && (yield* hasUnwrittenSector(file, offset, offset + damaged.length, where.size))) {
    return verdict("Torn")
  }
  const laterFrames = yield* countLaterFrames(file, offset + 1, where.size, where.txid)
  return laterFrames === 0 ? verdict("Torn") : verdict("CorruptTail", laterFrames)
})

const nextSector = (offset: number): number => (Math.floor(offset / sector_bytes) + 1) * sector_bytes

/**
 * Whether a header that fails its checks fails them because a sector was never written, or not to its end.
 * `unwritten`: zeros up to the boundary, or a part of a frame's opening up to it and a whole sector of zeros behind it.
 * `cut`: zeros up to the boundary behind a part of the opening, as a write leaves them that was done in two pieces; but
 * they may be few, and then as well be damage.
 */
const unwrittenHeader = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  offset: number,
  size: number
): Effect.fn.Return<"written" | "cut" | "unwritten", IoError> {
  const boundary = Math.min(nextSector(offset), size)
  const bytes = new Uint8Array(boundary - offset)
  yield* Disk.readFully(file, bytes, 0, bytes.length, offset)
  let written = 0
  while (written < bytes.length && bytes[written] === Frame.opening[written]) written++
  // All of the opening is there: what is wrong stands behind it, and was written.
  if (written >= Frame.opening.length) return "written"
  if (written < bytes.length) {
    return !areZeros(bytes, written, bytes.length) ? "written" : written === 0 ? "unwritten" : "cut"
  }
  return (yield* isZeros(file, boundary, Math.min(nextSector(boundary), size))) ? "unwritten" : "written"
})

/** Whether `file[start, end)` holds nothing but zeros. */
export const isZeros = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  start: number,
  end: number
): Effect.fn.Return<boolean, IoError> {
  const bytes = new Uint8Array(Math.min(chunk_bytes, end - start))
  // A tail can have gigabytes of them: a byte at a time they would take as long as many reads of it.
  const zeros = new Uint8Array(bytes.length)
  for (let at = start; at < end; at += bytes.length) {
    const count = yield* Disk.readFully(file, bytes, 0, Math.min(bytes.length, end - at), at)
    if (Buffer.compare(bytes.subarray(0, count), zeros.subarray(0, count)) !== 0) return false
  }
  return true
})

/**
 * Whether a sector that the frame `file[start, end)` reaches into was never written: its bytes are zeros from the
 * frame's start, or the sector's, to the sector's end, or the file's. A sector whose other half belongs to a sound
 * record was written, so zeros in the frame's own share of it prove nothing.
 */
const hasUnwrittenSector = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  start: number,
  end: number,
  size: number
): Effect.fn.Return<boolean, IoError> {
  const bytes = new Uint8Array(chunk_bytes)
  let at = start
  while (at < end) {
    const until = Math.min(Math.floor(at / sector_bytes) * sector_bytes + chunk_bytes, nextSector(end - 1), size)
    const count = yield* Disk.readFully(file, bytes, 0, until - at, at)
    if (count === 0) return false
    for (let sector = at; sector < at + count; sector = nextSector(sector)) {
      if (areZeros(bytes, sector - at, Math.min(nextSector(sector), at + count) - at)) return true
    }
    at += count
  }
  return false
})
