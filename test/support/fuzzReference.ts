/**
 * What the contract says of a directory, worked out without the product: slow, from the format's table, the verdict
 * table and `docs/decisions/004`, one byte after the other. It shares nothing with `src/`, down to the checksum.
 */
import { crc32c } from "@node-rs/crc32"

// -- directories ------------------------------------------------------------------------------------------------------

/** What a name in a directory is. A link leads to another name of the same directory, or nowhere. */
export type Entry =
  | { readonly kind: "file"; readonly bytes: Uint8Array }
  | { readonly kind: "link"; readonly to: string }
  | { readonly kind: "directory" }
  | { readonly kind: "pipe" }

export type Tree = ReadonlyMap<string, Entry>

/** The name behind a name's links: `undefined` when they lead nowhere, or round and round. */
export const behind = (tree: Tree, name: string): string | undefined => {
  const seen = new Set<string>()
  for (let at = name; !seen.has(at);) {
    seen.add(at)
    const entry = tree.get(at)
    if (entry?.kind !== "link") return entry === undefined ? undefined : at
    at = entry.to
  }
  return undefined
}

export const segmentName = (id: number): string => `${String(id).padStart(8, "0")}.dwal`

export interface SegmentBytes {
  readonly id: number
  readonly bytes: Uint8Array
}

/** The segments of a directory: regular files, or links to such, named by eight digits that are not all zero. */
export const segmentsOf = (tree: Tree): Array<SegmentBytes> => {
  const segments: Array<SegmentBytes> = []
  for (const name of tree.keys()) {
    if (!/^[0-9]{8}[.]dwal$/.test(name) || name.startsWith("00000000")) continue
    const entry = tree.get(behind(tree, name) ?? "")
    if (entry?.kind === "file") segments.push({ id: Number(name.slice(0, 8)), bytes: entry.bytes })
  }
  return segments.sort((a, b) => a.id - b.id)
}

// -- frames -----------------------------------------------------------------------------------------------------------

export interface ReferenceRecord {
  readonly segment: number
  readonly offset: number
  readonly len: number
  readonly type: "Raw" | "Put" | "Delete"
  readonly txid: number
  readonly key: Uint8Array
  readonly payload: Uint8Array
}

type ReferenceFrame =
  | { readonly ok: true; readonly record: ReferenceRecord }
  | { readonly ok: false; readonly reason: string; readonly found: number | undefined; readonly length: number }

const types = ["Raw", "Put", "Delete"] as const
const supported_txid_max = 2n ** 53n - 1n

/** The frame at `at` of `bytes[0, end)`, by section 2. `length` is known where only the checksum is wrong. */
export const frameAt = (bytes: Uint8Array, at: number, end: number = bytes.length, segment = 0): ReferenceFrame => {
  const no = (reason: string, found?: number, length = 0): ReferenceFrame => ({ ok: false, reason, found, length })
  if (end - at < 24) return no("Truncated")
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const magic = buffer.readUInt32LE(at)
  if (buffer.toString("latin1", at, at + 4) !== "DWAL") return no("BadMagic", magic)
  const version = buffer.readUInt16LE(at + 4)
  if (version !== 1) return no("UnknownVersion", version)
  const type = types[buffer.readUInt8(at + 6)]
  if (type === undefined) return no("UnknownRecordType", buffer.readUInt8(at + 6))
  const flags = buffer.readUInt8(at + 7)
  if (flags !== 0) return no("ReservedFlags", flags)
  const keyLength = buffer.readUInt32LE(at + 16)
  if (keyLength > 65_536) return no("KeyTooLarge", keyLength)
  const payloadLength = buffer.readUInt32LE(at + 20)
  if (payloadLength > 67_108_864) return no("PayloadTooLarge", payloadLength)
  const txid = buffer.readBigUInt64LE(at + 8)
  if (txid > supported_txid_max) return no("UnsupportedTxid", Number(txid))
  const len = 24 + keyLength + payloadLength + 4
  if (at + len > end) return no("Truncated")
  const body = at + len - 4
  if (crc32c(buffer.subarray(at, body)) !== buffer.readUInt32LE(body)) return no("CrcMismatch", undefined, len)
  const key = bytes.subarray(at + 24, at + 24 + keyLength)
  const payload = bytes.subarray(at + 24 + keyLength, body)
  return { ok: true, record: { segment, offset: at, len, type, txid: Number(txid), key, payload } }
}

/** The frames that stand back to back from `at` on, and where they end. */
export const framesFrom = (
  bytes: Uint8Array,
  at: number,
  segment: number
): { readonly records: Array<ReferenceRecord>; readonly end: number } => {
  const records: Array<ReferenceRecord> = []
  let end = at
  while (end < bytes.length) {
    const frame = frameAt(bytes, end, bytes.length, segment)
    if (!frame.ok) break
    records.push(frame.record)
    end += frame.record.len
  }
  return { records, end }
}

// -- the verdict ------------------------------------------------------------------------------------------------------

export interface Verdict {
  readonly verdict: "Torn" | "CorruptTail" | "CorruptSegment"
  readonly segment: number
  readonly offset: number
  readonly reason: string
  readonly found: number | undefined
  /** From the damage to the end of the file. */
  readonly bytes: number
  readonly laterFrames: number
}

const allZeros = (bytes: Uint8Array, from: number, to: number): boolean => {
  for (let at = from; at < to && at < bytes.length; at++) if (bytes[at] !== 0) return false
  return true
}

/** Whole valid frames at any later byte, of a higher txid. What stands inside one of them is its payload. */
const laterFramesOf = (bytes: Uint8Array, offset: number, txid: number): number => {
  let count = 0
  for (let at = offset + 1; at < bytes.length; at++) {
    if (bytes[at] !== 0x44) continue
    const frame = frameAt(bytes, at)
    if (!frame.ok || frame.record.txid <= txid) continue
    count++
    at += frame.record.len - 1
  }
  return count
}

/** The bytes that every frame of this version starts with. */
const opening = [0x44, 0x57, 0x41, 0x4C, 1, 0]

/**
 * Zeros to the end of the sector, or a part of the opening that reaches the end of its sector, with a sector of zeros
 * behind it: never written. A part of the opening and zeros to the end of the sector: perhaps. Behind a whole opening
 * somebody has written.
 */
const neverWritten = (bytes: Uint8Array, offset: number): boolean | "perhaps" => {
  const boundary = Math.floor(offset / 512) * 512 + 512
  let end = offset
  while (end < boundary && end - offset < opening.length && bytes[end] === opening[end - offset]) end++
  if (end - offset === opening.length) return false
  if (end === boundary) return allZeros(bytes, boundary, boundary + 512)
  return allZeros(bytes, end, boundary) && (end === offset || "perhaps")
}

/** A sector that the frame reaches into is zeros as far as the frame, and what is behind it, could have written it. */
const lacksSector = (bytes: Uint8Array, offset: number, length: number): boolean => {
  const last = offset + length - 1
  for (let sector = Math.floor(offset / 512); sector <= Math.floor(last / 512); sector++) {
    if (allZeros(bytes, Math.max(offset, sector * 512), sector * 512 + 512)) return true
  }
  return false
}

/** The verdict on bytes of which no frame starts at `offset`; `txid` is that of the last valid record before it. */
const verdictAt = (
  bytes: Uint8Array,
  where: { readonly segment: number; readonly offset: number; readonly active: boolean; readonly txid: number }
): Verdict => {
  const { active, offset, segment, txid } = where
  const frame = frameAt(bytes, offset)
  if (frame.ok) throw new Error("a frame is no damage")
  const { found, length, reason } = frame
  const is = (verdict: Verdict["verdict"], laterFrames = 0): Verdict => ({
    verdict,
    segment,
    offset,
    reason,
    found,
    bytes: bytes.length - offset,
    laterFrames
  })
  if (!active) return is("CorruptSegment")
  if (reason === "CrcMismatch" && lacksSector(bytes, offset, length)) return is("Torn")
  const isHard = reason !== "Truncated" && reason !== "CrcMismatch"
  const unwritten = isHard && neverWritten(bytes, offset)
  if (!isHard || unwritten === "perhaps") {
    const later = laterFramesOf(bytes, offset, txid)
    return later === 0 ? is("Torn") : is("CorruptTail", later)
  }
  return is(unwritten ? "Torn" : "CorruptSegment")
}

export interface Reading {
  readonly records: ReadonlyArray<ReferenceRecord>
  readonly damage: Verdict | undefined
}

/** What is to be read from a place on, and what ends it. One must start there. */
export const readingOf = (
  segments: ReadonlyArray<SegmentBytes>,
  from: { readonly segment: number; readonly offset: number } = { segment: 0, offset: 0 }
): Reading => {
  const records: Array<ReferenceRecord> = []
  const active = segments.at(-1)?.id
  for (const { bytes, id } of segments.filter((segment) => segment.id >= from.segment)) {
    const there = framesFrom(bytes, id === from.segment ? from.offset : 0, id)
    records.push(...there.records)
    if (there.end >= bytes.length) continue
    const txid = records.at(-1)?.txid ?? txidBefore(segments, from)
    const damage = verdictAt(bytes, { segment: id, offset: there.end, active: id === active, txid })
    return { records, damage }
  }
  return { records, damage: undefined }
}

/** The txid of the last valid record before a place. */
const txidBefore = (
  segments: ReadonlyArray<SegmentBytes>,
  place: { readonly segment: number; readonly offset: number }
): number => {
  for (const { bytes, id } of segments.toReversed()) {
    if (id > place.segment) continue
    const before = framesFrom(id === place.segment ? bytes.subarray(0, place.offset) : bytes, 0, id).records.at(-1)
    if (before !== undefined) return before.txid
  }
  return 0
}

// -- what a writer makes of it ----------------------------------------------------------------------------------------

/** What is whole in a store, and what is not. */
interface Whole {
  readonly records: ReadonlyArray<ReferenceRecord>
  readonly gaps: ReadonlyArray<{ segment: number; offset: number; bytes: number; reason: string; torn: boolean }>
}

/**
 * Frames one behind the other. Where they end: on from where the damaged frame ends by its own length, if what must come
 * then is there; else from the next byte where one starts that may be of this log.
 */
export const wholeOf = (segments: ReadonlyArray<SegmentBytes>): Whole => {
  const records: Array<ReferenceRecord> = []
  const gaps: Array<Whole["gaps"][number]> = []
  let txid = 0
  for (const { bytes, id } of segments) {
    let isSure = true
    let first = txid
    let before = txid
    let torn: boolean | undefined
    for (let at = 0; at < bytes.length;) {
      const there = framesFrom(bytes, at, id)
      records.push(...there.records)
      before = there.records.at(-1)?.txid ?? before
      if (isSure) txid = before
      if (at === 0) first = txid
      if (there.end === bytes.length) break
      const active = id === segments.at(-1)?.id
      torn ??= verdictAt(bytes, { segment: id, offset: there.end, active, txid }).verdict === "Torn"
      const known = knownEnd(bytes, there.end, before)
      at = known ?? there.end + 1
      const isGoingOn = frameAt(bytes, at).ok && at === known
      if (!isGoingOn) at = nextOwn(bytes, at, first, txid)
      isSure &&= isGoingOn
      const damaged = frameAt(bytes, there.end)
      const reason = damaged.ok ? "none" : damaged.reason
      gaps.push({ segment: id, offset: there.end, bytes: at - there.end, reason, torn })
    }
  }
  return { records, gaps }
}

/** What a whole frame holds is its own: also of one that is passed, since it is too old. */
const nextOwn = (bytes: Uint8Array, from: number, first: number, txid: number): number => {
  let at = from
  while (at < bytes.length) {
    const frame = bytes[at] === 0x44 ? frameAt(bytes, at) : undefined
    const isLater = frame?.ok === true && frame.record.txid > first
    if (isLater && frame.record.txid > txid) return at
    at += isLater ? frame.record.len : 1
  }
  return at
}

/** Behind a damaged frame, and behind those that follow it whose headers have the next txids. */
const knownEnd = (bytes: Uint8Array, at: number, before: number): number | undefined => {
  const damaged = frameAt(bytes, at)
  const end = at + (damaged.ok ? 0 : damaged.length)
  if (end === at || end > bytes.length) return undefined
  if (end === bytes.length) return txidAt(bytes, at) === before + 1 ? end : undefined
  const next = frameAt(bytes, end)
  if (next.ok) return next.record.txid === before + 2 ? end : undefined
  const hasHeader = next.length > 0 || (next.reason === "Truncated" && bytes.length - end >= 24)
  if (!hasHeader || txidAt(bytes, end) !== before + 2) return undefined
  return knownEnd(bytes, end, before + 1) ?? end
}

const txidAt = (bytes: Uint8Array, at: number): number =>
  Number(new DataView(bytes.buffer, bytes.byteOffset + at).getBigUint64(8, true))

export type Policy = "repair" | "strict" | "prefix"

/** Whether a policy cuts the damage off; otherwise it refuses to open. */
export const cuts = (policy: Policy, damage: Verdict, active: number): boolean => {
  if (policy === "strict") return false
  if (damage.verdict === "Torn") return true
  const isNewer = damage.verdict === "CorruptSegment" && damage.reason === "UnknownVersion"
  return policy === "prefix" && damage.segment === active && !isNewer
}

/** The directory behind a cut: the segment's valid end, and what was cut in a file of its own unless it is zeros. */
export const afterCut = (tree: Tree, damage: Verdict): { readonly tree: Tree; readonly torn: string | undefined } => {
  const after = new Map(tree)
  // A link stays one, and what it leads to is cut.
  const name = behind(tree, segmentName(damage.segment)) ?? ""
  const entry = tree.get(name)
  if (entry?.kind !== "file") throw new Error("no segment to cut")
  after.set(name, { kind: "file", bytes: entry.bytes.slice(0, damage.offset) })
  const removed = entry.bytes.slice(damage.offset)
  if (allZeros(removed, 0, removed.length)) return { tree: after, torn: undefined }
  const stem = `${String(damage.segment).padStart(8, "0")}-${damage.offset}`
  let torn = `${stem}.torn`
  for (let count = 2; tree.has(torn); count++) torn = `${stem}-${count}.torn`
  after.set(torn, { kind: "file", bytes: removed })
  return { tree: after, torn }
}

/** The live keys, as latin1 text, with the record of each. */
export const foldOf = (records: ReadonlyArray<ReferenceRecord>): Map<string, ReferenceRecord> => {
  const live = new Map<string, ReferenceRecord>()
  for (const record of records) {
    const key = Buffer.from(record.key).toString("latin1")
    if (record.type === "Put") live.set(key, record)
    if (record.type === "Delete") live.delete(key)
  }
  return live
}

// -- imports ----------------------------------------------------------------------------------------------------------

interface ReferenceImport {
  readonly entries: ReadonlyArray<readonly [key: Buffer, value: Buffer]>
  /** The number of the first bad line. */
  readonly bad: number | undefined
}

/** Canonical: four characters for three bytes, padded, and no bits behind the last byte. */
const bytesOfBase64 = (text: unknown): Buffer | undefined => {
  if (typeof text !== "string" || !/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(text)) {
    return undefined
  }
  if (/[^AQgw]==$/.test(text) || /[^AEIMQUYcgkosw048]=$/.test(text.replace(/==$/, ""))) return undefined
  return Buffer.from(text, "base64")
}

const entryOf = (line: string): readonly [Buffer, Buffer] | undefined => {
  const outsideStrings = line.replaceAll(/"(?:[^"\\]|\\.)*"/gs, "")
  if ([...outsideStrings.matchAll(/[,[{]/g)].length > 1_000) return undefined
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return undefined
  }
  if (typeof value !== "object" || value === null) return undefined
  const fields = new Map<string, unknown>(Object.entries(value))
  const key = bytesOfBase64(fields.get("key_b64"))
  const payload = bytesOfBase64(fields.get("value_b64"))
  if (key === undefined || payload === undefined) return undefined
  return key.length > 65_536 || payload.length > 67_108_864 ? undefined : [key, payload]
}

/** Section 7: what is stored of a text of lines. `ended` is false when the input failed behind it. */
export const importOf = (bytes: Uint8Array, ended = true): ReferenceImport => {
  const entries: Array<readonly [Buffer, Buffer]> = []
  const lines = Buffer.from(bytes).toString("latin1").split("\n")
  if (!ended) lines.pop()
  for (const [index, latin1] of lines.entries()) {
    if (/^[ \t\r]*$/.test(latin1)) continue
    const entry = entryOf(Buffer.from(latin1, "latin1").toString("utf8"))
    if (entry === undefined) return { entries, bad: index + 1 }
    entries.push(entry)
  }
  return { entries, bad: undefined }
}
