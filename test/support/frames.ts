/**
 * An encoder and a parser of frames that share nothing with `src/`: written from the format's table alone, with the
 * checksum from its definition. What they and the library agree on, two programs agree on.
 */
import type { LogRecord } from "../../src/Frame.ts"

// -- bytes ------------------------------------------------------------------------------------------------------------

export const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

export const concat = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

export const zeros = (count: number): Uint8Array => new Uint8Array(count)

/** Bytes that are never zero and hold no magic number, the same for the same arguments. */
export const noise = (count: number, salt = 1): Uint8Array => {
  const bytes = new Uint8Array(count)
  let state = (salt * 2_654_435_761) >>> 0
  for (let at = 0; at < count; at++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    bytes[at] = 0x80 | (state >>> 24)
  }
  return bytes
}

/** A copy with one byte changed. */
export const withByte = (bytes: Uint8Array, at: number, change: (byte: number) => number): Uint8Array => {
  const copy = bytes.slice()
  copy[at] = change(copy[at]!) & 0xFF
  return copy
}

export const flipped = (bytes: Uint8Array, at: number, mask = 0xFF): Uint8Array =>
  withByte(bytes, at, (byte) => byte ^ mask)

export const zeroed = (bytes: Uint8Array, from: number, to: number): Uint8Array => bytes.slice().fill(0, from, to)

// -- frames -----------------------------------------------------------------------------------------------------------

const ofByte = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82F63B78 : crc >>> 1
  return crc
})

/** CRC-32C from its definition: the reflected polynomial, one bit at a time, once for each byte there is. */
export const crc32cBitwise = (bytes: Uint8Array, seed = 0): number => {
  let crc = ~seed
  for (let at = 0; at < bytes.length; at++) crc = (crc >>> 8) ^ ofByte[(crc ^ bytes[at]!) & 0xFF]!
  return ~crc >>> 0
}

export type Type = "Raw" | "Put" | "Delete"

/** A record to encode, with any field of its frame set to what the format forbids. */
export interface FrameSpec {
  readonly type?: Type
  readonly txid: number | bigint
  readonly key?: Uint8Array
  readonly payload?: Uint8Array
  readonly magic?: number
  readonly version?: number
  readonly typeByte?: number
  readonly flags?: number
  readonly keyLength?: number
  readonly payloadLength?: number
  readonly crc?: number
}

/** The format's table, row by row. The checksum is right for whatever the fields are, unless it is given. */
export const frame = (spec: FrameSpec): Uint8Array => {
  const key = spec.key ?? zeros(0)
  const payload = spec.payload ?? zeros(0)
  const header = Buffer.alloc(24)
  header.writeUInt32BE(spec.magic ?? 0x4457414C, 0)
  header.writeUInt16LE(spec.version ?? 1, 4)
  header.writeUInt8(spec.typeByte ?? { Raw: 0, Put: 1, Delete: 2 }[spec.type ?? "Raw"], 6)
  header.writeUInt8(spec.flags ?? 0, 7)
  header.writeBigUInt64LE(BigInt(spec.txid), 8)
  header.writeUInt32LE(spec.keyLength ?? key.length, 16)
  header.writeUInt32LE(spec.payloadLength ?? payload.length, 20)
  const body = concat(header, key, payload)
  const crc = Buffer.alloc(4)
  crc.writeUInt32LE(spec.crc ?? crc32cBitwise(body), 0)
  return concat(body, crc)
}

export const raw = (txid: number, payload: string | Uint8Array): Uint8Array =>
  frame({ txid, payload: typeof payload === "string" ? utf8(payload) : payload })

export const put = (txid: number, key: string, value: string | Uint8Array): Uint8Array =>
  frame({ type: "Put", txid, key: utf8(key), payload: typeof value === "string" ? utf8(value) : value })

/** A record as a value that `deepStrictEqual` can compare. */
export interface Plain {
  readonly segment: number
  readonly offset: number
  readonly len: number
  readonly type: Type
  readonly txid: number
  readonly key_b64: string
  readonly payload_b64: string
}

const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("base64")

export const plain = (
  record: Pick<LogRecord, "segment" | "offset" | "len" | "type" | "txid"> & {
    readonly key: Uint8Array
    readonly payload: Uint8Array
  }
): Plain => ({
  segment: record.segment,
  offset: record.offset,
  len: record.len,
  type: record.type,
  txid: record.txid,
  key_b64: base64(record.key),
  payload_b64: base64(record.payload)
})

/** A frame in some bytes; key and payload are views on them. */
interface Framed {
  readonly offset: number
  readonly len: number
  readonly type: Type
  readonly txid: number
  readonly key: Buffer
  readonly payload: Buffer
}

/** The whole valid frames that stand one behind the other from `at` on. */
export const framesIn = (bytes: Uint8Array, at = 0): Array<Framed> => {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const frames: Array<Framed> = []
  for (let offset = at; validAt(buffer, offset); offset += frames.at(-1)!.len) {
    const payload = offset + 24 + buffer.readUInt32LE(offset + 16)
    const end = payload + buffer.readUInt32LE(offset + 20)
    frames.push({
      offset,
      len: end + 4 - offset,
      type: (["Raw", "Put", "Delete"] as const)[buffer[offset + 6]!]!,
      txid: Number(buffer.readBigUInt64LE(offset + 8)),
      key: buffer.subarray(offset + 24, payload),
      payload: buffer.subarray(payload, end)
    })
  }
  return frames
}

/** The whole valid frames that `bytes` starts with, and where they end. */
export const parse = (bytes: Uint8Array, segment = 1): { readonly records: Array<Plain>; readonly end: number } => {
  const frames = framesIn(bytes)
  const last = frames.at(-1)
  return {
    records: frames.map(({ key, len, offset, payload, txid, type }) => ({
      segment,
      offset,
      len,
      type,
      txid,
      key_b64: base64(key),
      payload_b64: base64(payload)
    })),
    end: last === undefined ? 0 : last.offset + last.len
  }
}

/** Whether a whole valid frame starts at `at`. */
export const validAt = (bytes: Uint8Array, at: number): boolean => {
  if (bytes.length - at < 28 || bytes[at] !== 0x44) return false
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  if (buffer.toString("latin1", at, at + 4) !== "DWAL") return false
  if (buffer.readUInt16LE(at + 4) !== 1 || buffer[at + 6]! > 2 || buffer[at + 7] !== 0) return false
  if (buffer.readBigUInt64LE(at + 8) > 9_007_199_254_740_991n) return false
  const keyLength = buffer.readUInt32LE(at + 16)
  const payloadLength = buffer.readUInt32LE(at + 20)
  if (keyLength > 65_536 || payloadLength > 67_108_864) return false
  const end = at + 24 + keyLength + payloadLength
  return end + 4 <= buffer.length && crc32cBitwise(buffer.subarray(at, end)) === buffer.readUInt32LE(end)
}
