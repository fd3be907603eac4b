/**
 * Hand-made stores on real disks, and an encoder and a parser of frames that share nothing with `src/`: written from
 * the format's table alone, with the checksum a bit at a time. What they and the library agree on, two programs agree
 * on.
 */
import { assert } from "@effect/vitest"
import { Effect, Stream } from "effect"
import type { Scope } from "effect"
import * as NFS from "node:fs"
import * as NodeOS from "node:os"
import * as NodePath from "node:path"
import { fileURLToPath } from "node:url"
import type { CorruptSegment, CorruptTail, IoError } from "../../src/Errors.ts"
import type { LogRecord } from "../../src/Frame.ts"
import * as Reader from "../../src/Reader.ts"

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

/** CRC-32C from its definition: the reflected polynomial, one bit at a time. */
export const crc32cBitwise = (bytes: Uint8Array): number => {
  let crc = 0xFFFFFFFF
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82F63B78 : crc >>> 1
  }
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

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64")

export const plain = (record: LogRecord): Plain => ({
  segment: record.segment,
  offset: record.offset,
  len: record.len,
  type: record.type,
  txid: record.txid,
  key_b64: base64(record.key),
  payload_b64: base64(record.payload)
})

/** The whole valid frames that `bytes` starts with, and where they end. */
export const parse = (bytes: Uint8Array, segment = 1): { readonly records: Array<Plain>; readonly end: number } => {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const records: Array<Plain> = []
  let at = 0
  while (validAt(buffer, at)) {
    const keyLength = buffer.readUInt32LE(at + 16)
    const payloadLength = buffer.readUInt32LE(at + 20)
    const len = 28 + keyLength + payloadLength
    records.push({
      segment,
      offset: at,
      len,
      type: (["Raw", "Put", "Delete"] as const)[buffer[at + 6]!]!,
      txid: Number(buffer.readBigUInt64LE(at + 8)),
      key_b64: buffer.toString("base64", at + 24, at + 24 + keyLength),
      payload_b64: buffer.toString("base64", at + 24 + keyLength, at + len - 4)
    })
    at += len
  }
  return { records, end: at }
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

/** A whole segment of frames, and a failed assertion for anything else in it. */
export const parseWhole = (bytes: Uint8Array, segment: number): Array<Plain> => {
  const { end, records } = parse(bytes, segment)
  assert.strictEqual(end, bytes.length, `segment ${segment} is not frames to its end`)
  return records
}

// -- directories ------------------------------------------------------------------------------------------------------

export const segmentName = (id: number): string => `${String(id).padStart(8, "0")}.dwal`

export const tornName = (id: number, offset: number): string => `${String(id).padStart(8, "0")}-${offset}.torn`

// Tests open stores thousands of times, and an fsync on a real disk takes milliseconds. What it makes durable no test
// in this process can tell; the calls are the same.
const memory_directory = "/dev/shm"

const root = ((): string => {
  try {
    NFS.accessSync(memory_directory, NFS.constants.W_OK)
    return memory_directory
  } catch {
    return NodeOS.tmpdir()
  }
})()

const directoryIn = (parent: string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => NFS.mkdtempSync(NodePath.join(parent, "datawal-"))),
    (directory) => Effect.sync(() => NFS.rmSync(directory, { recursive: true, force: true }))
  )

/** A directory for as long as the scope, where an fsync is cheap. */
export const temporaryDirectory: Effect.Effect<string, never, Scope.Scope> = directoryIn(root)

/** A directory for as long as the scope, with room for hundreds of megabytes. */
export const largeDirectory: Effect.Effect<string, never, Scope.Scope> = directoryIn(NodeOS.tmpdir())

export type Segments = Readonly<Record<number, Uint8Array>>

/** Puts segments into a directory, and takes out every one that is not named. */
export const fill = (directory: string, segments: Segments): void => {
  for (const name of NFS.readdirSync(directory)) NFS.rmSync(NodePath.join(directory, name), { recursive: true })
  for (const [id, bytes] of Object.entries(segments)) {
    NFS.writeFileSync(NodePath.join(directory, segmentName(Number(id))), bytes)
  }
}

/** A directory with these segments. */
export const store = (segments: Segments): Effect.Effect<string, never, Scope.Scope> =>
  Effect.tap(temporaryDirectory, (directory) => Effect.sync(() => fill(directory, segments)))

export const readSegment = (directory: string, id: number): Uint8Array =>
  new Uint8Array(NFS.readFileSync(NodePath.join(directory, segmentName(id))))

export const readName = (directory: string, name: string): Uint8Array =>
  new Uint8Array(NFS.readFileSync(NodePath.join(directory, name)))

/** Every name but the lock's, with what is behind it: two are equal when nothing changed. */
export const snapshot = (directory: string): Record<string, string> => {
  const entries: Record<string, string> = {}
  for (const entry of NFS.readdirSync(directory, { withFileTypes: true })) {
    if (entry.name === ".lock") continue
    const path = NodePath.join(directory, entry.name)
    entries[entry.name] = entry.isSymbolicLink()
      ? `link to ${NFS.readlinkSync(path)}`
      : entry.isDirectory()
      ? "directory"
      : `file ${NFS.readFileSync(path).toString("base64")}`
  }
  return entries
}

// -- fixtures ---------------------------------------------------------------------------------------------------------

export interface Expected {
  readonly note: string
  readonly open: "ok" | "torn" | "CorruptTail" | "CorruptSegment"
  readonly records?: ReadonlyArray<Plain>
  readonly valid_prefix?: ReadonlyArray<Plain>
  readonly torn_bytes?: number
  readonly valid_end?: number
  readonly valid_behind?: number
  readonly reason?: string
  readonly segment?: number
  readonly offset?: number
  readonly found?: number
  readonly live?: ReadonlyArray<readonly [key: string, value: string]>
  readonly live_b64?: ReadonlyArray<readonly [key: string, value: string]>
}

export const fixtures_directory = fileURLToPath(new URL("../fixtures/", import.meta.url))

export const expected = JSON.parse(
  NFS.readFileSync(NodePath.join(fixtures_directory, "expected.json"), "utf8")
) as Readonly<Record<string, Expected>>

/** A fixture's directory, copied for as long as the scope. */
export const copyFixture = (name: string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.tap(
    temporaryDirectory,
    (directory) =>
      Effect.sync(() =>
        NFS.cpSync(NodePath.join(fixtures_directory, name), directory, {
          recursive: true,
          // What keeps an empty directory in a repository is no part of the store.
          filter: (path) => NodePath.basename(path) !== ".gitkeep"
        })
      )
  )

/** The live keys and values, base64, in ascending byte order of keys. */
export const expectedLive = (fixture: Expected): ReadonlyArray<readonly [string, string]> =>
  fixture.live_b64 ??
    (fixture.live ?? []).map(([key, value]) => [base64(utf8(key)), base64(utf8(value))] as const)

// -- reading ----------------------------------------------------------------------------------------------------------

export interface Collected<E> {
  readonly records: Array<Plain>
  readonly error: E | undefined
}

/** What a stream emitted, and what it failed with. */
export const collect = <E, R>(stream: Stream.Stream<LogRecord, E, R>): Effect.Effect<Collected<E>, never, R> =>
  Effect.suspend(() => {
    const records: Array<Plain> = []
    return Stream.runForEach(stream, (record) => Effect.sync(() => void records.push(plain(record)))).pipe(
      Effect.match({
        onFailure: (error): Collected<E> => ({ records, error }),
        onSuccess: () => ({ records, error: undefined })
      })
    )
  })

/** What a reader without the lock sees of a directory. */
export const readAll = (
  directory: string,
  chunkSize?: number
): Effect.Effect<Collected<IoError | CorruptTail | CorruptSegment>> =>
  Effect.scoped(Effect.flatMap(
    Effect.orDie(Reader.make({ directory, chunkSize })),
    (reader) => collect(reader.stream)
  ))

/** The fields of an error that have a value, to compare with a literal. */
export const fieldsOf = (error: object | undefined): Record<string, unknown> =>
  Object.fromEntries(Object.entries(error ?? {}).filter(([, value]) => value !== undefined))
