/**
 * Bytes to lines, numbered from 1. A line may span any number of chunks; blank ones are counted and skipped; the last
 * one need not end in a line feed.
 */
import { roomFor } from "./bytes.ts"
import { line_bytes_max } from "./recordLine.ts"

const lineFeed = 0x0A

const nothing = Buffer.alloc(0)
const lastLineFeed = Buffer.of(lineFeed)

/** A line: `bytes[start, end)`. */
export interface Line {
  readonly number: number
  /** It is longer than any record's; its end may not have been seen. */
  readonly isTooLong: boolean
  readonly bytes: Buffer
  readonly start: number
  readonly end: number
}

/**
 * After each `feed`, and after `finish`, call `next` until it is false: the line at hand is `bytes[start, end)`, not
 * copied where it lies in one chunk.
 */
export class Lines implements Line {
  number = 0
  /** Then it is the last one given. */
  isTooLong = false
  bytes: Buffer = nothing
  start = 0
  end = 0
  #chunk: Buffer = nothing
  #at = 0
  /** The start of a line that goes on in the next chunk: a copy, since a chunk's memory may be used again. */
  #room: Buffer = nothing
  #held = 0

  feed(chunk: Uint8Array): void {
    this.#chunk = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    this.#at = 0
  }

  finish(): void {
    this.feed(this.#held === 0 ? nothing : lastLineFeed)
  }

  next(): boolean {
    if (this.isTooLong) return false
    const chunk = this.#chunk
    for (;;) {
      const from = this.#at
      const to = chunk.indexOf(lineFeed, from)
      const length = this.#held + (to < 0 ? chunk.length : to) - from
      // Refused before its end is seen: a line without end must not fill the memory.
      if (length > line_bytes_max) {
        this.number++
        this.#room = nothing
        return this.isTooLong = true
      }
      if (to < 0) {
        this.#hold(chunk, from, chunk.length)
        this.#chunk = nothing
        this.#at = 0
        return false
      }
      this.number++
      this.#at = to + 1
      if (this.#held === 0) this.#point(chunk, from, to)
      else {
        this.#hold(chunk, from, to)
        this.#point(this.#room, 0, length)
        this.#room = nothing
        this.#held = 0
      }
      if (!this.#isBlank()) return true
    }
  }

  #hold(chunk: Buffer, from: number, to: number): void {
    const held = this.#held + to - from
    if (held > this.#room.length) {
      const room = Buffer.allocUnsafeSlow(roomFor(held, line_bytes_max))
      this.#room.copy(room, 0, 0, this.#held)
      this.#room = room
    }
    chunk.copy(this.#room, this.#held, from, to)
    this.#held = held
  }

  #point(bytes: Buffer, start: number, end: number): void {
    this.bytes = bytes
    this.start = start
    this.end = end
  }

  #isBlank(): boolean {
    for (let at = this.start; at < this.end; at++) {
      const byte = this.bytes[at]
      if (byte !== 0x20 && byte !== 0x09 && byte !== 0x0D) return false
    }
    return true
  }
}
