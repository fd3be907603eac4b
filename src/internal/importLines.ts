/**
 * The records in many lines at once, without an object for each: `exportLines.ts` the other way round.
 *
 * The Base64 of a batch is put together in one text, with `A`s for its padding, so that one call of Node's own decoder
 * gives the bytes of it all. That decoder is lenient, and what is not canonical shows like this: a character that it
 * does not know it skips, so that fewer bytes come out; the two characters of the other alphabet are looked for; and
 * bits that are left over before the padding stand in the bytes that the padding gave, which are zeros otherwise.
 *
 * Memory: a text of 64 KiB, or of one longer line, in bytes and as a string, and what it stands for.
 */
import { areZeros, copyBytes } from "./bytes.ts"
import type { Line } from "./lines.ts"
import type { PutBuffer } from "./putBuffer.ts"
import { line_end, line_middle, line_start, type Pair } from "./recordLine.ts"
import { type Viewed, viewed } from "./viewed.ts"

const text_bytes = 65_536
/** As many as find room in so many bytes of a file. */
const lines_max = Math.floor(text_bytes / (line_start.length + line_middle.length + line_end.length))

const start = Buffer.from(line_start)
const middle = Buffer.from(line_middle)
const end = Buffer.from(line_end)

const quote = 0x22
const equalsSign = 0x3D
const letterA = 0x41

const decodedLength = (characters: number): number => characters / 4 * 3
/** Bytes that stand for so many, with those of the padding. */
const filledLength = (bytes: number): number => Math.ceil(bytes / 3) * 3

const room = (bytes: number): Viewed => viewed(Buffer.allocUnsafeSlow(bytes))

/** Memory of a longer text is not kept for the next. */
const kept_text_bytes_max = 1_048_576

const standsAt = (bytes: Uint8Array, at: number, what: Uint8Array): boolean => {
  for (let index = 0; index < what.length; index++) if (bytes[at + index] !== what[index]) return false
  return true
}

const nothing = viewed(Buffer.alloc(0))

/** Lines that lie in one buffer. */
export class LineBatch {
  #lines = nothing
  #text = nothing
  #decoded = nothing
  #count = 0
  #length = 0
  /** By line: where it stands, its number, the lengths of key and value, and where the key stands among the decoded. */
  readonly #starts = new Float64Array(lines_max)
  readonly #ends = new Float64Array(lines_max)
  readonly #numbers = new Float64Array(lines_max)
  readonly #keys = new Uint32Array(lines_max)
  readonly #values = new Uint32Array(lines_max)
  readonly #decodedAt = new Uint32Array(lines_max)

  get count(): number {
    return this.#count
  }

  /**
   * Takes a line that is as an export writes it, if there is room for it beside the others. For the first there is.
   * It must stay where it is until `clear`.
   */
  add({ bytes, end: lineEnd, isTooLong, number, start: lineStart }: Line): boolean {
    const isFirst = this.#count === 0
    if (isTooLong || (!isFirst && (bytes !== this.#lines.bytes || this.#count === lines_max))) return false
    const keyStart = lineStart + start.length
    const valueEnd = lineEnd - end.length
    if (valueEnd < keyStart || !standsAt(bytes, lineStart, start) || !standsAt(bytes, valueEnd, end)) return false
    let keyEnd = keyStart
    while (keyEnd < valueEnd && bytes[keyEnd] !== quote) keyEnd++
    const valueStart = keyEnd + middle.length
    if (valueStart > valueEnd || !standsAt(bytes, keyEnd, middle)) return false
    const characters = keyEnd - keyStart + valueEnd - valueStart
    if ((keyEnd - keyStart) % 4 !== 0 || (valueEnd - valueStart) % 4 !== 0) return false
    if (this.#length + characters > this.#text.bytes.length) {
      if (this.#length > 0) return false
      const length = Math.max(text_bytes, characters)
      this.#text = room(length)
      this.#decoded = room(decodedLength(length))
    }
    if (bytes !== this.#lines.bytes) this.#lines = viewed(bytes)
    const index = this.#count++
    this.#starts[index] = lineStart
    this.#ends[index] = lineEnd
    this.#numbers[index] = number
    this.#decodedAt[index] = decodedLength(this.#length)
    this.#keys[index] = this.#take(keyStart, keyEnd)
    this.#values[index] = this.#take(valueStart, valueEnd)
    return true
  }

  /** Adds a field to the text, and gives the length of what it stands for. */
  #take(from: number, to: number): number {
    const { bytes, view } = this.#lines
    const length = to - from
    const at = this.#length
    copyBytes(bytes, view, from, length, this.#text.bytes, this.#text.view, at)
    this.#length = at + length
    if (length === 0 || bytes[to - 1] !== equalsSign) return decodedLength(length)
    const padding = bytes[to - 2] === equalsSign ? 2 : 1
    for (let back = 1; back <= padding; back++) this.#text.bytes[this.#length - back] = letterA
    return decodedLength(length) - padding
  }

  /** Decodes them. False if one is not canonical. */
  decode(): boolean {
    if (this.#count === 0) return true
    const text = this.#text.bytes.toString("latin1", 0, this.#length)
    const { bytes } = this.#decoded
    if (bytes.write(text, 0, "base64") !== decodedLength(this.#length)) return false
    if (text.includes("-") || text.includes("_")) return false
    for (let index = 0; index < this.#count; index++) {
      const { keyAt, keyLength, valueAt, valueLength } = this.#fieldsOf(index)
      if (!areZeros(bytes, keyAt + keyLength, valueAt)) return false
      if (!areZeros(bytes, valueAt + valueLength, valueAt + filledLength(valueLength))) return false
    }
    return true
  }

  #fieldsOf(index: number) {
    const keyAt = this.#decodedAt[index] as number
    const keyLength = this.#keys[index] as number
    return { keyAt, keyLength, valueAt: keyAt + filledLength(keyLength), valueLength: this.#values[index] as number }
  }

  /** One of the lines. */
  line(index: number): Line {
    return {
      bytes: this.#lines.bytes,
      start: this.#starts[index] as number,
      end: this.#ends[index] as number,
      number: this.#numbers[index] as number,
      isTooLong: false
    }
  }

  /** What was decoded of a line. It holds until `clear`. */
  pair(index: number): Pair {
    const { keyAt, keyLength, valueAt, valueLength } = this.#fieldsOf(index)
    const { bytes } = this.#decoded
    return [bytes.subarray(keyAt, keyAt + keyLength), bytes.subarray(valueAt, valueAt + valueLength)]
  }

  /** Makes a frame of what was decoded of a line, if there is room for it and no limit is passed. */
  putInto(frames: PutBuffer, index: number): boolean {
    return frames.putFrom(this.#decoded, this.#fieldsOf(index))
  }

  clear(): void {
    this.#lines = nothing
    this.#count = 0
    this.#length = 0
    if (this.#text.bytes.length > kept_text_bytes_max) this.#text = this.#decoded = nothing
  }
}
