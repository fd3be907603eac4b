/**
 * The lines of many records at once, without an object for each.
 *
 * The keys and values of a batch are put behind each other, each filled up with zeros to a multiple of three
 * bytes, so that one call of Node's own encoder gives the Base64 of them all. The filling shows as `A`s at the end of
 * each, which become the padding. Memory: three buffers of as much as a batch of frames takes, and a third more.
 */
import * as Frame from "../Frame.ts"
import { copyBytes } from "./bytes.ts"
import type { PutFrames } from "./frames.ts"
import { line_end, line_middle, line_start } from "./recordLine.ts"
import { viewed } from "./viewed.ts"

const start = viewed(Buffer.from(line_start))
const middle = viewed(Buffer.from(line_middle))
const end = viewed(Buffer.from(`${line_end}\n`))
const nothing = viewed(Buffer.alloc(0))

const equalsSign = 0x3D

const thirds = (length: number): number => Math.ceil(length / 3)

/** Writes the lines of one batch after the other into the same memory. */
export class LineWriter {
  #filled = nothing
  #encoded = nothing
  #lines = nothing

  /** The lines of these frames. They hold until the next call. */
  linesOf(frames: PutFrames): Uint8Array {
    const { from, starts, to } = frames
    this.#reserve((starts[to] as number) - (starts[from] as number))
    const filled = this.#fill(frames)
    this.#encoded.bytes.write(this.#filled.bytes.toString("base64", 0, filled), "latin1")
    return this.#lines.bytes.subarray(0, this.#assemble(frames))
  }

  // A frame is longer by 28 bytes than what is in it: enough for the filling of both parts, and, a third larger, for
  // all of the line.
  #reserve(frameBytes: number): void {
    if (frameBytes <= this.#filled.bytes.length) return
    const bytes = 4 * thirds(frameBytes)
    this.#filled = viewed(Buffer.allocUnsafeSlow(frameBytes))
    this.#encoded = viewed(Buffer.allocUnsafeSlow(bytes))
    this.#lines = viewed(Buffer.allocUnsafeSlow(bytes))
  }

  /** Puts all keys and values behind each other, and says how many bytes that takes. */
  #fill({ bytes, from, starts, to, view }: PutFrames): number {
    const { bytes: filled, view: filledView } = this.#filled
    let at = 0
    for (let index = from; index < to; index++) {
      const frame = starts[index] as number
      const keyLength = Frame.keyLengthAt(view, frame)
      const valueLength = Frame.payloadLengthAt(view, frame)
      const key = frame + Frame.header_bytes
      copyBytes(bytes, view, key, keyLength, filled, filledView, at)
      at = fillUp(filled, at, keyLength)
      copyBytes(bytes, view, key + keyLength, valueLength, filled, filledView, at)
      at = fillUp(filled, at, valueLength)
    }
    return at
  }

  #assemble({ from, starts, to, view }: PutFrames): number {
    const { bytes: lines, view: linesView } = this.#lines
    let at = 0
    let encoded = 0
    for (let index = from; index < to; index++) {
      const frame = starts[index] as number
      const keyLength = Frame.keyLengthAt(view, frame)
      const valueLength = Frame.payloadLengthAt(view, frame)
      copyBytes(start.bytes, start.view, 0, line_start.length, lines, linesView, at)
      at = this.#copyEncoded(encoded, keyLength, at + line_start.length)
      encoded += 4 * thirds(keyLength)
      copyBytes(middle.bytes, middle.view, 0, line_middle.length, lines, linesView, at)
      at = this.#copyEncoded(encoded, valueLength, at + line_middle.length)
      encoded += 4 * thirds(valueLength)
      copyBytes(end.bytes, end.view, 0, line_end.length + 1, lines, linesView, at)
      at += line_end.length + 1
    }
    return at
  }

  /** Copies the Base64 of so many bytes, with its padding: up to where it reaches. */
  #copyEncoded(from: number, decodedLength: number, at: number): number {
    const groups = thirds(decodedLength)
    const end = at + 4 * groups
    copyBytes(this.#encoded.bytes, this.#encoded.view, from, 4 * groups, this.#lines.bytes, this.#lines.view, at)
    for (let filling = 3 * groups - decodedLength; filling > 0; filling--) this.#lines.bytes[end - filling] = equalsSign
    return end
  }
}

/** Fills up what stands at `at` with zeros: up to where that reaches. */
const fillUp = (bytes: Uint8Array, at: number, length: number): number => {
  const end = at + 3 * thirds(length)
  for (let zero = at + length; zero < end; zero++) bytes[zero] = 0
  return end
}
