/**
 * A record as a line of an export, and back. What an export writes is read directly; every other JSON that says the
 * same is left to the schema, which takes ten times as long and can tell what is wrong.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { InvalidLine } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import type { Lines } from "./lines.ts"

const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64")

const fromBase64 = (text: string): Uint8Array => Buffer.from(text, "base64")

// Strict, as the Rust program's decoder is: padding, and no bits left over.
const Base64 = Schema.String.check(
  Schema.makeFilter((text: string) => base64(fromBase64(text)) === text, { expected: "canonical standard Base64" })
)

export const Line = Schema.fromJsonString(Schema.Struct({ key_b64: Base64, value_b64: Base64 }))

export const line_start = `{"key_b64":"`
export const line_middle = `","value_b64":"`
export const line_end = `"}`

/** The line of a record, with its line feed. */
export const toLine = (key: Uint8Array, value: Uint8Array): string =>
  `${line_start}${base64(key)}${line_middle}${base64(value)}${line_end}\n`

/** The longest line that can hold a record: both in Base64, and room for the rest. */
export const line_bytes_max = 4 * Math.ceil(Frame.key_bytes_max / 3) + 4 * Math.ceil(Frame.payload_bytes_max / 3) +
  1_024

const decodeLine = Schema.decodeUnknownResult(Line)

// What is wrong with a line may quote it, and a line may have megabytes.
const detail_characters_max = 200

// `JSON.parse` takes some fifty bytes of memory for two bytes of `[]`: a long line of them would take gigabytes.
const json_values_max = 1_000

const quote = 0x22
const backslash = 0x5C
const comma = 0x2C
const openBracket = 0x5B
const openBrace = 0x7B

/** Whether a line holds more JSON values than one with two strings, and some others to ignore, can need. */
const hasTooManyValues = ({ bytes, end, start }: Lines): boolean => {
  let values = 0
  let isString = false
  for (let at = start; at < end; at++) {
    const byte = bytes[at]
    if (byte === quote) isString = !isString
    else if (isString) at += byte === backslash ? 1 : 0
    else if ((byte === comma || byte === openBracket || byte === openBrace) && ++values > json_values_max) return true
  }
  return false
}

/**
 * Decodes canonical Base64 into `target` from `at` on, where there is room for it: how many bytes, or -1 if it is not
 * canonical. The text is Latin-1. Node's decoder skips what it does not know, so that fewer bytes come out than the
 * characters stand for; it takes the two characters of the other alphabet; and it drops the bits left over.
 */
export const decodeCanonical = (text: string, target: Buffer, at: number): number => {
  const { length } = text
  if (length % 4 !== 0) return -1
  if (length === 0) return 0
  const padding = !text.endsWith("=") ? 0 : text.charAt(length - 2) === "=" ? 2 : 1
  // The characters whose last two, or four, bits are zeros.
  if (padding === 1 && !"AEIMQUYcgkosw048".includes(text.charAt(length - 2))) return -1
  if (padding === 2 && !"AQgw".includes(text.charAt(length - 3))) return -1
  const count = length / 4 * 3 - padding
  const isDecoded = target.write(text, at, "base64") === count && !text.includes("-") && !text.includes("_")
  return isDecoded ? count : -1
}

/** The lengths of a key and its value. */
export type Lengths = readonly [key: number, value: number]

/**
 * Decodes the line at hand, if it is as an export writes it, into `target` from `at` on: first the key, then the value.
 * There must be room for as many bytes as the line has. `undefined` for every other line.
 */
export const decodeExported = (
  { bytes, end, isTooLong, start }: Lines,
  target: Buffer,
  at: number
): Lengths | undefined => {
  if (isTooLong) return undefined
  const text = bytes.toString("latin1", start, end)
  const keyEnd = text.indexOf("\"", line_start.length)
  const valueStart = keyEnd + line_middle.length
  const valueEnd = text.length - line_end.length
  const isExported = text.startsWith(line_start) && text.startsWith(line_middle, keyEnd) && text.endsWith(line_end) &&
    valueStart <= valueEnd
  if (!isExported) return undefined
  const key = decodeCanonical(text.slice(line_start.length, keyEnd), target, at)
  if (key < 0) return undefined
  const value = decodeCanonical(text.slice(valueStart, valueEnd), target, at + key)
  return value < 0 ? undefined : [key, value]
}

/** A key and its value. */
export type Pair = readonly [key: Uint8Array, value: Uint8Array]

/** What was decoded to `at`. */
export const pairIn = (bytes: Uint8Array, at: number, [key, value]: Lengths): Pair => [
  bytes.subarray(at, at + key),
  bytes.subarray(at + key, at + key + value)
]

/** Why the record of the line at hand cannot be stored, if it cannot. */
export const limitError = ({ number: line }: Lines, [key, value]: Lengths): InvalidLine | undefined =>
  key > Frame.key_bytes_max
    ? new InvalidLine({ line, detail: `the key has ${key} bytes, the limit is ${Frame.key_bytes_max}` })
    : value > Frame.payload_bytes_max
    ? new InvalidLine({ line, detail: `the value has ${value} bytes, the limit is ${Frame.payload_bytes_max}` })
    : undefined

/** The record of the line at hand, whatever JSON it is. */
export const parse = (line: Lines): Result.Result<Pair, InvalidLine> => {
  const refuse = (detail: string) => Result.fail(new InvalidLine({ line: line.number, detail }))
  if (line.isTooLong) return refuse("it is longer than any record")
  if (hasTooManyValues(line)) return refuse(`it holds more than ${json_values_max} JSON values`)
  const decoded = decodeLine(line.bytes.toString("utf8", line.start, line.end))
  return Result.isFailure(decoded)
    ? refuse(decoded.failure.message.replaceAll(/\s+/g, " ").slice(0, detail_characters_max))
    : Result.succeed([fromBase64(decoded.success.key_b64), fromBase64(decoded.success.value_b64)])
}
