/**
 * The bytes of one record: layout, encoding and decoding. Pure, no I/O.
 *
 * A frame is a 24-byte header, the key, the payload and a CRC-32C of all that, little-endian (`docs/format.md`). Most
 * programs never need this module: `Log` and `Kv` read and write frames. It is for tools that look at the bytes
 * themselves.
 *
 * A decoder checks in a fixed order and names the first thing that is wrong. A length is refused before anything is
 * allocated for it, and nothing is taken for a record unless its checksum holds.
 *
 * @since 0.1.0
 */
import type { DamageReason } from "./Errors.ts"
import * as crc from "./internal/crc32c.ts"

/** The first four bytes of a frame, `DWAL` read as a little-endian number. @category constants @since 0.1.0 */
export const magic = 0x4C415744

/** The only wire version. @category constants @since 0.1.0 */
export const version = 1

/** Bytes before the key. @category constants @since 0.1.0 */
export const header_bytes = 24

/** Bytes of the checksum behind the payload. @category constants @since 0.1.0 */
export const crc_bytes = 4

/** What a frame adds to its key and payload. @category constants @since 0.1.0 */
export const overhead_bytes = header_bytes + crc_bytes

/**
 * The longest key: the format's limit, so that a damaged length cannot claim the machine.
 *
 * @category constants
 * @since 0.1.0
 */
export const key_bytes_max = 65_536

/** The longest payload: the format's limit, 64 MiB. @category constants @since 0.1.0 */
export const payload_bytes_max = 67_108_864

/** The highest txid: what a JavaScript number holds exactly, 2^53 − 1. @category constants @since 0.1.0 */
export const txid_max = Number.MAX_SAFE_INTEGER

/** The longest frame. @category constants @since 0.1.0 */
export const frame_bytes_max = overhead_bytes + key_bytes_max + payload_bytes_max

/** What every frame of this version starts with: the magic, and the version. @internal */
export const opening = Uint8Array.of(0x44, 0x57, 0x41, 0x4C, version, 0)

/** The magic as text, for a search. @internal */
export const magicText = "DWAL"

/** Where each field of the header starts. @category constants @since 0.1.0 */
export const fieldOffset = {
  magic: 0,
  version: 4,
  recordType: 6,
  flags: 7,
  txid: 8,
  keyLength: 16,
  payloadLength: 20,
  key: 24
} as const

/**
 * What a record is: `Raw` for a plain append, `Put` and `Delete` for the key/value projection.
 *
 * @category models
 * @since 0.1.0
 */
export type RecordType = "Raw" | "Put" | "Delete"

/** The record types; the index of each is its byte in the frame. @category constants @since 0.1.0 */
export const recordTypes: readonly [RecordType, RecordType, RecordType] = ["Raw", "Put", "Delete"]

/**
 * A decoded record and where it stands.
 *
 * `key` and `payload` are views on the bytes it was read from, made anew at each access: cheap, and valid for as long
 * as you hold them, but a view keeps its whole chunk (a MiB, or what `chunkSize` says) in memory. Copy what you keep
 * (`payload.slice()`). One that `Log.Options.replay` or an observer is given is valid during that call only, and one
 * that `Reader.inspect` gives until the Effect of its batch has ended: their bytes are used again. They are getters, so
 * a spread, a clone or a message to another thread has neither: name them (`{ ...record, key: record.key }`).
 *
 * @category models
 * @since 0.1.0
 */
export interface LogRecord extends Views {
  /** Id of the segment that holds it. */
  readonly segment: number
  /** Byte offset of its frame in the segment. */
  readonly offset: number
  /** Bytes of the whole frame. */
  readonly len: number
  readonly type: RecordType
  /** Its number in the log: 1 for the first record ever, then one more each. */
  readonly txid: number
  readonly keyLength: number
  readonly payloadLength: number
}

// As getters of a class, so that the type of a spread has them no more than the spread itself.
declare abstract class Views {
  get key(): Uint8Array<ArrayBuffer>
  get payload(): Uint8Array<ArrayBuffer>
}

class RecordView implements LogRecord {
  readonly segment: number
  readonly offset: number
  readonly len: number
  readonly type: RecordType
  readonly txid: number
  readonly keyLength: number
  readonly payloadLength: number
  readonly #bytes: Uint8Array<ArrayBuffer>
  readonly #at: number

  constructor(
    bytes: Uint8Array<ArrayBuffer>,
    at: number,
    segment: number,
    offset: number,
    type: RecordType,
    txid: number,
    keyLength: number,
    payloadLength: number
  ) {
    this.segment = segment
    this.offset = offset
    this.len = overhead_bytes + keyLength + payloadLength
    this.type = type
    this.txid = txid
    this.keyLength = keyLength
    this.payloadLength = payloadLength
    this.#bytes = bytes
    this.#at = at
  }

  get key(): Uint8Array<ArrayBuffer> {
    const start = this.#at + header_bytes
    return this.#bytes.subarray(start, start + this.keyLength)
  }

  get payload(): Uint8Array<ArrayBuffer> {
    const start = this.#at + header_bytes + this.keyLength
    return this.#bytes.subarray(start, start + this.payloadLength)
  }
}

/** Bytes of the frame of a record. @category getters @since 0.1.0 */
export const encodedLength = (keyLength: number, payloadLength: number): number =>
  overhead_bytes + keyLength + payloadLength

/**
 * Writes one frame into `target` at `at` and returns where it ends.
 *
 * **Gotchas**
 *
 * The caller has checked the limits (`key_bytes_max`, `payload_bytes_max`, `txid_max`) and that `target` has room:
 * a frame that does not fit throws a `RangeError`.
 *
 * **Example** (One frame)
 *
 * ```ts
 * import { Frame } from "effect-datawal"
 *
 * const payload = new TextEncoder().encode("alpha")
 * const bytes = new Uint8Array(Frame.encodedLength(0, payload.length))
 * Frame.encodeInto(bytes, 0, "Raw", 1, new Uint8Array(0), payload) // => 33
 * const decoded = Frame.decode(bytes, 0)
 * decoded._tag // => "Frame"
 * ```
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeInto = (
  target: Uint8Array,
  at: number,
  type: RecordType,
  txid: number,
  key: Uint8Array,
  payload: Uint8Array
): number =>
  encodeWithView(
    target,
    new DataView(target.buffer, target.byteOffset, target.byteLength),
    at,
    type,
    txid,
    key,
    payload
  )

/** `encodeInto` for a buffer whose `DataView` the caller keeps. @internal */
export const encodeWithView = (
  target: Uint8Array,
  view: DataView,
  at: number,
  type: RecordType,
  txid: number,
  key: Uint8Array,
  payload: Uint8Array
): number => {
  const end = encodeUnsealed(target, view, at, type, txid, key, payload)
  view.setUint32(end - crc_bytes, crc.crc32c(target, at, end - crc_bytes, 0), true)
  return end
}

/** `encodeWithView` of all but the checksum. @internal */
export const encodeUnsealed = (
  target: Uint8Array,
  view: DataView,
  at: number,
  type: RecordType,
  txid: number,
  key: Uint8Array,
  payload: Uint8Array
): number => {
  // Looked at once: what another thread shares can grow meanwhile, and the header says where the frame ends.
  const keyLength = key.length
  const payloadLength = payload.length
  writeHeader(target, view, at, type, keyLength, payloadLength)
  writeTxid(view, at, txid)
  if (keyLength > 0) target.set(key, at + header_bytes)
  target.set(payload, at + header_bytes + keyLength)
  return at + encodedLength(keyLength, payloadLength)
}

/** The header of a frame that is still to be numbered (`renumber`). @internal */
export const writeHeader = (
  target: Uint8Array,
  view: DataView,
  at: number,
  type: RecordType,
  keyLength: number,
  payloadLength: number
): void => {
  view.setUint32(at, magic, true)
  view.setUint16(at + fieldOffset.version, version, true)
  target[at + fieldOffset.recordType] = type === "Raw" ? 0 : type === "Put" ? 1 : 2
  target[at + fieldOffset.flags] = 0
  view.setUint32(at + fieldOffset.keyLength, keyLength, true)
  view.setUint32(at + fieldOffset.payloadLength, payloadLength, true)
}

const writeTxid = (view: DataView, at: number, txid: number): void => {
  view.setUint32(at + fieldOffset.txid, txid >>> 0, true)
  view.setUint32(at + fieldOffset.txid + 4, Math.floor(txid / 0x1_0000_0000), true)
}

/**
 * What `decode` found: a whole valid frame and where it ends, or why there is none. `found` is the offending value of a
 * version, type, flags, length or txid.
 *
 * @category models
 * @since 0.1.0
 */
export type Decoded =
  | {
    readonly _tag: "Frame"
    readonly type: RecordType
    readonly txid: number
    readonly key: Uint8Array
    readonly payload: Uint8Array
    readonly end: number
  }
  | { readonly _tag: "Damaged"; readonly reason: DamageReason; readonly found?: number | undefined }

/**
 * Decodes the frame that starts at `at` in `bytes[0, end)`. `key` and `payload` are views on `bytes`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array, at: number, end: number = bytes.length): Decoded => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const length = inspect(view, at, end)
  if (length < 0) return damaged(view, at, length)
  if (at + length > end) return { _tag: "Damaged", reason: "Truncated" }
  if (!checksumHolds(bytes, view, at, length)) return { _tag: "Damaged", reason: "CrcMismatch" }
  const keyEnd = at + header_bytes + keyLengthAt(view, at)
  return {
    _tag: "Frame",
    type: typeAt(view, at),
    txid: txidAt(view, at),
    key: bytes.subarray(at + header_bytes, keyEnd),
    payload: bytes.subarray(keyEnd, at + length - crc_bytes),
    end: at + length
  }
}

/** What `inspect` returns in place of a length, in the order of its checks. @internal */
export const headerTruncated = -1
const badMagic = -2
const unknownVersion = -3
const unknownRecordType = -4
const reservedFlags = -5
const keyTooLarge = -6
const payloadTooLarge = -7
const unsupportedTxid = -8

/**
 * The length that the header at `at` claims for its whole frame, or a negative number for what is wrong with the
 * header. Allocates nothing. The frame need not be there. @internal
 */
export const inspect = (view: DataView, at: number, end: number): number => {
  if (at + header_bytes > end) return headerTruncated
  if (view.getUint32(at, true) !== magic) return badMagic
  // Version, type and flags in one look: the common case is one comparison.
  const kind = view.getUint32(at + fieldOffset.version, true)
  if (kind !== 0x0000_0001 && kind !== 0x0001_0001 && kind !== 0x0002_0001) {
    if ((kind & 0xFFFF) !== version) return unknownVersion
    return ((kind >>> 16) & 0xFF) > 2 ? unknownRecordType : reservedFlags
  }
  const keyLength = view.getUint32(at + fieldOffset.keyLength, true)
  if (keyLength > key_bytes_max) return keyTooLarge
  const payloadLength = view.getUint32(at + fieldOffset.payloadLength, true)
  if (payloadLength > payload_bytes_max) return payloadTooLarge
  if (view.getUint32(at + fieldOffset.txid + 4, true) > 0x1F_FFFF) return unsupportedTxid
  return overhead_bytes + keyLength + payloadLength
}

/** What the negative result of `inspect` says, with the value found. @internal */
export const damaged = (
  view: DataView,
  at: number,
  code: number
): Extract<Decoded, { readonly _tag: "Damaged" }> => {
  switch (code) {
    case badMagic:
      return { _tag: "Damaged", reason: "BadMagic", found: view.getUint32(at, true) }
    case unknownVersion:
      return { _tag: "Damaged", reason: "UnknownVersion", found: view.getUint16(at + fieldOffset.version, true) }
    case unknownRecordType:
      return { _tag: "Damaged", reason: "UnknownRecordType", found: view.getUint8(at + fieldOffset.recordType) }
    case reservedFlags:
      return { _tag: "Damaged", reason: "ReservedFlags", found: view.getUint8(at + fieldOffset.flags) }
    case keyTooLarge:
      return { _tag: "Damaged", reason: "KeyTooLarge", found: view.getUint32(at + fieldOffset.keyLength, true) }
    case payloadTooLarge:
      return { _tag: "Damaged", reason: "PayloadTooLarge", found: view.getUint32(at + fieldOffset.payloadLength, true) }
    case unsupportedTxid:
      return { _tag: "Damaged", reason: "UnsupportedTxid", found: txidAt(view, at) }
    default:
      return { _tag: "Damaged", reason: "Truncated" }
  }
}

/** The length of the key, of the payload, and of the whole frame, that the sound header at `at` tells. @internal */
export const keyLengthAt = (view: DataView, at: number): number => view.getUint32(at + fieldOffset.keyLength, true)

/** @internal */
export const payloadLengthAt = (view: DataView, at: number): number =>
  view.getUint32(at + fieldOffset.payloadLength, true)

/** @internal */
export const lengthAt = (view: DataView, at: number): number =>
  overhead_bytes + keyLengthAt(view, at) + payloadLengthAt(view, at)

/** The txid in the header at `at`, exact up to `txid_max`. @internal */
export const txidAt = (view: DataView, at: number): number =>
  view.getUint32(at + fieldOffset.txid + 4, true) * 0x1_0000_0000 + view.getUint32(at + fieldOffset.txid, true)

/** Whether the checksum of the whole frame at `at` holds. @internal */
export const checksumHolds = (bytes: Uint8Array, view: DataView, at: number, length: number): boolean => {
  const end = at + length - crc_bytes
  return crc.crc32c(bytes, at, end, 0) === view.getUint32(end, true)
}

/** Whether a whole frame of that length stands at `at`, and sets a key of that length. @internal */
export const isPut = (bytes: Uint8Array, view: DataView, at: number, length: number, keyLength: number): boolean =>
  inspect(view, at, at + length) === length && bytes[at + fieldOffset.recordType] === 1 &&
  keyLengthAt(view, at) === keyLength && checksumHolds(bytes, view, at, length)

/** Whether a whole frame of that length stands at `at`, and sets that key. @internal */
export const isPutOf = (key: Uint8Array, bytes: Uint8Array, view: DataView, at: number, length: number): boolean => {
  if (!isPut(bytes, view, at, length, key.length)) return false
  for (let index = 0; index < key.length; index++) if (bytes[at + header_bytes + index] !== key[index]) return false
  return true
}

/** Gives the frame at `at` a txid, and the checksum that goes with it. @internal */
export const renumber = (bytes: Uint8Array, view: DataView, at: number, length: number, txid: number): void => {
  writeTxid(view, at, txid)
  const end = at + length - crc_bytes
  view.setUint32(end, crc.crc32c(bytes, at, end, 0), true)
}

// `inspect` has refused every other byte.
const typeAt = (view: DataView, at: number): RecordType =>
  recordTypes[view.getUint8(at + fieldOffset.recordType) as 0 | 1 | 2]

/** The record whose inspected frame starts at `at` of a chunk that starts at `base` of its segment. @internal */
export const recordAt = (
  bytes: Uint8Array<ArrayBuffer>,
  view: DataView,
  at: number,
  segment: number,
  base: number
): LogRecord =>
  new RecordView(
    bytes,
    at,
    segment,
    base + at,
    typeAt(view, at),
    txidAt(view, at),
    keyLengthAt(view, at),
    payloadLengthAt(view, at)
  )
