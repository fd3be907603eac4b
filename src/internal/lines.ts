/**
 * Bytes to lines, numbered from 1. A line may span any number of chunks; blank ones are counted and skipped; the last
 * one need not end in a line feed.
 */
import * as Stream from "effect/Stream"

/** `text` is `undefined` for a line longer than the limit, which is also the last one given. */
export interface NumberedLine {
  readonly line: number
  readonly text: Buffer | undefined
}

const lineFeed = 0x0A

export const lines = <E, R>(
  input: Stream.Stream<Uint8Array, E, R>,
  limit_bytes: number
): Stream.Stream<NumberedLine, E, R> =>
  Stream.suspend(() => {
    const splitter = new Splitter(limit_bytes)
    return Stream.concat(
      Stream.flatMap(input, (chunk) => Stream.fromArray(splitter.push(chunk))),
      Stream.suspend(() => Stream.fromArray(splitter.end()))
    )
  })

class Splitter {
  readonly #limit: number
  #line = 0
  #pieces: Array<Buffer> = []
  #held = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  push(chunk: Uint8Array): Array<NumberedLine> {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    const found: Array<NumberedLine> = []
    let start = 0
    for (let end = bytes.indexOf(lineFeed); end >= 0; end = bytes.indexOf(lineFeed, start)) {
      this.#hold(bytes.subarray(start, end))
      this.#take(found)
      start = end + 1
    }
    this.#hold(bytes.subarray(start))
    // Refused before its end is seen: a line without end must not fill the memory.
    if (this.#held > this.#limit) found.push({ line: this.#line + 1, text: undefined })
    return found
  }

  end(): Array<NumberedLine> {
    const found: Array<NumberedLine> = []
    this.#take(found)
    return found
  }

  #hold(piece: Buffer): void {
    if (piece.length === 0) return
    this.#pieces.push(piece)
    this.#held += piece.length
  }

  #take(found: Array<NumberedLine>): void {
    this.#line++
    const text = this.#pieces.length === 1 ? this.#pieces[0] as Buffer : Buffer.concat(this.#pieces)
    const tooLong = this.#held > this.#limit
    this.#pieces = []
    this.#held = 0
    if (tooLong) found.push({ line: this.#line, text: undefined })
    else if (!isBlank(text)) found.push({ line: this.#line, text })
  }
}

const isBlank = (text: Buffer): boolean => {
  for (const byte of text) {
    if (byte !== 0x20 && byte !== 0x09 && byte !== 0x0D) return false
  }
  return true
}
