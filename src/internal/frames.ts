/** Many frames at once, without an object for each: what recovery reads, checks and hands on. */
import type * as Arr from "effect/Array"
import * as Frame from "../Frame.ts"
import { crc32c, Sealed } from "./crc32c.ts"

/** Whole valid frames of a segment, one behind the other from the start of `bytes`; at least one. */
export interface Frames {
  readonly segment: number
  /** Where `bytes` stands in the segment. */
  readonly base: number
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly view: DataView
  /** The frames take `bytes[0, length)`. */
  readonly length: number
  readonly count: number
  /** The highest txid, and the last one's. */
  readonly highest: number
  readonly last: number
}

/**
 * Frames of Puts back to back in memory, to be written or looked at: that of entry `i`, from `from` to before `to`, is
 * `bytes[starts[i], starts[i + 1])`. Their txids and checksums are those of wherever they come from. They hold until
 * the next are asked for, and are the caller's to change until then.
 */
export interface PutFrames {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly view: DataView
  readonly starts: Uint32Array
  readonly from: number
  readonly to: number
}

/** Views on the key and the value of each. */
export const pairsOf = ({ bytes, from, starts, to, view }: PutFrames): Array<readonly [Uint8Array, Uint8Array]> => {
  const pairs: Array<readonly [Uint8Array, Uint8Array]> = []
  for (let index = from; index < to; index++) {
    const at = starts[index] ?? 0
    const keyStart = at + Frame.header_bytes
    const keyEnd = keyStart + Frame.keyLengthAt(view, at)
    pairs.push([bytes.subarray(keyStart, keyEnd), bytes.subarray(keyEnd, (starts[index + 1] ?? 0) - Frame.crc_bytes)])
  }
  return pairs
}

/** Bytes of all their keys. */
export const keyBytesOf = ({ from, starts, to, view }: PutFrames): number => {
  let bytes = 0
  for (let index = from; index < to; index++) bytes += Frame.keyLengthAt(view, starts[index] ?? 0)
  return bytes
}

/** An object for each of them. */
export const recordsOf = ({ base, bytes, length, segment, view }: Frames): Arr.NonEmptyArray<Frame.LogRecord> => {
  const first = Frame.recordAt(bytes, view, 0, segment, base)
  const records: Arr.NonEmptyArray<Frame.LogRecord> = [first]
  for (let at = first.len; at < length;) {
    const record = Frame.recordAt(bytes, view, at, segment, base)
    records.push(record)
    at += record.len
  }
  return records
}

/** Checksums of frames are tried together up to this many bytes, and from a quarter of that on. */
const together_bytes = 65_536

/** Where the frames end that are tried together with the one at `from`. */
const togetherFrom = (view: DataView, from: number, length: number): number => {
  let end = from
  do end += Frame.lengthAt(view, end)
  while (end < length && end - from < together_bytes)
  return end
}

/**
 * Whether the checksums of all frames in `bytes[from, to)` hold, with one call. A frame ends in its own checksum, so
 * that of all of them is known beforehand. Damage within one frame shows exactly as in that frame's own checksum.
 * Damage to several shows as if they were one message of that length: two flipped bits, and any odd number of them,
 * always; anything else goes unseen with a chance of one in 2^31.
 */
const allHold = (bytes: Uint8Array, view: DataView, from: number, to: number): boolean => {
  const sealed = new Sealed(to - from)
  for (let at = from; at < to;) {
    at += Frame.lengthAt(view, at)
    sealed.end(to - at)
  }
  return crc32c(bytes, from, to, 0) === sealed.checksum
}

/**
 * The frames at the start of `bytes[0, length)`, whose headers are sound, up to the first one whose checksum does not
 * hold; `undefined` if that is the first of all.
 */
export const verified = (
  segment: number,
  base: number,
  bytes: Uint8Array<ArrayBuffer>,
  view: DataView,
  length: number
): Frames | undefined => {
  let at = 0
  let count = 0
  let highest = 0
  let last = 0
  let tried = 0
  let hold = false
  while (at < length) {
    const len = Frame.lengthAt(view, at)
    if (at === tried) {
      tried = togetherFrom(view, at, length)
      // One alone would be tried twice.
      const areMany = tried > at + len && tried - at >= together_bytes / 4
      hold = areMany && allHold(bytes, view, at, tried)
    }
    if (!hold && !Frame.checksumHolds(bytes, view, at, len)) break
    last = Frame.txidAt(view, at)
    if (last > highest) highest = last
    count++
    at += len
  }
  return count === 0 ? undefined : { segment, base, bytes, view, length: at, count, highest, last }
}
