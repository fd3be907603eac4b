/**
 * A record as a line of an export, and back. What an export writes is read directly (`importLines.ts`); every other
 * JSON that says the same is left to the schema, which takes ten times as long and can tell what is wrong.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { InvalidLine } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { base64 } from "./bytes.ts"
import { recordLimit } from "./entries.ts"
import type { Line } from "./lines.ts"

const fromBase64 = (text: string): Uint8Array => Buffer.from(text, "base64")

// Strict, as the Rust program's decoder is: padding, and no bits left over.
const Base64 = Schema.String.check(
  Schema.makeFilter((text: string) => base64(fromBase64(text)) === text, { expected: "canonical standard Base64" })
)

export const RecordLine = Schema.fromJsonString(Schema.Struct({ key_b64: Base64, value_b64: Base64 }))

export const line_start = `{"key_b64":"`
export const line_middle = `","value_b64":"`
export const line_end = `"}`

/** The line of a record, with its line feed. */
export const toLine = (key: Uint8Array, value: Uint8Array): string =>
  `${line_start}${base64(key)}${line_middle}${base64(value)}${line_end}\n`

/** The longest line that can hold a record: both in Base64, and room for the rest. */
export const line_bytes_max = 4 * Math.ceil(Frame.key_bytes_max / 3) + 4 * Math.ceil(Frame.payload_bytes_max / 3) +
  1_024

const decodeLine = Schema.decodeUnknownResult(RecordLine)

// What is wrong with a line may quote it, and a line may have megabytes.
const detail_characters_max = 200

// `JSON.parse` takes some fifty bytes of memory for two bytes of `[]`: a long line of them would take gigabytes.
const json_values_max = 1_000

const byteOrderMark = "\uFEFF"

const quote = 0x22
const backslash = 0x5C
const comma = 0x2C
const openBracket = 0x5B
const openBrace = 0x7B

/** Whether a line holds more JSON values than one with two strings, and some others to ignore, can need. */
const hasTooManyValues = ({ bytes, end, start }: Line): boolean => {
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

/** A key and its value. */
export type Pair = readonly [key: Uint8Array, value: Uint8Array]

/** Why the record of the line at hand cannot be stored, if it cannot. */
export const limitError = ({ number: line }: Line, [key, payload]: Pair): InvalidLine | undefined => {
  const exceeded = recordLimit({ key, payload })
  if (exceeded === undefined) return undefined
  const { actual, limit, maximum } = exceeded
  return new InvalidLine({
    line,
    detail: `the ${limit === "key" ? limit : "value"} has ${actual} bytes, the limit is ${maximum}`
  })
}

/** The record of the line at hand, whatever JSON it is. */
export const parse = (line: Line): Result.Result<Pair, InvalidLine> => {
  const refuse = (detail: string) => Result.fail(new InvalidLine({ line: line.number, detail }))
  if (line.isTooLong) return refuse("it is longer than any record")
  if (hasTooManyValues(line)) return refuse(`it holds more than ${json_values_max} JSON values`)
  const text = line.bytes.toString("utf8", line.start, line.end)
  if (text.startsWith(byteOrderMark)) return refuse("it begins with a byte order mark, which is no part of JSON")
  const decoded = decodeLine(text)
  return Result.isFailure(decoded)
    ? refuse(decoded.failure.message.replaceAll(/\s+/g, " ").slice(0, detail_characters_max))
    : Result.succeed([fromBase64(decoded.success.key_b64), fromBase64(decoded.success.value_b64)])
}
