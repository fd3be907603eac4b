/** Frames of Puts that are gathered in one buffer, as many as one blocking write takes, to be numbered and written. */
import * as Disk from "../Disk.ts"
import * as Frame from "../Frame.ts"
import { copyBytes } from "./bytes.ts"
import type { PutFrames } from "./frames.ts"
import type { Viewed } from "./viewed.ts"

const buffer_bytes = Disk.blocking_bytes_max
const frames_max = Math.floor(buffer_bytes / Frame.overhead_bytes)

export class PutBuffer implements PutFrames {
  // No Buffer: observers are given views on it, and copy what they keep with `slice`.
  readonly bytes: Uint8Array<ArrayBuffer> = new Uint8Array(buffer_bytes)
  readonly view: DataView = new DataView(this.bytes.buffer)
  readonly starts: Uint32Array = new Uint32Array(frames_max + 1)
  readonly from = 0
  to = 0

  /** Bytes of the frames. */
  get length(): number {
    return this.starts[this.to] ?? 0
  }

  /** A frame of a key and a value that stand in `from`, if there is room for it and they pass no limit. */
  putFrom(
    { bytes, view }: Viewed,
    { keyAt, keyLength, valueAt, valueLength }: {
      readonly keyAt: number
      readonly keyLength: number
      readonly valueAt: number
      readonly valueLength: number
    }
  ): boolean {
    if (keyLength > Frame.key_bytes_max || !this.#hasRoom(keyLength, valueLength)) return false
    const at = this.length + Frame.header_bytes
    copyBytes(bytes, view, keyAt, keyLength, this.bytes, this.view, at)
    copyBytes(bytes, view, valueAt, valueLength, this.bytes, this.view, at + keyLength)
    this.#add(keyLength, valueLength)
    return true
  }

  /** A frame of that key and value, if there is room for it. */
  put(key: Uint8Array, value: Uint8Array): boolean {
    if (!this.#hasRoom(key.length, value.length)) return false
    const at = this.length + Frame.header_bytes
    this.bytes.set(key, at)
    this.bytes.set(value, at + key.length)
    this.#add(key.length, value.length)
    return true
  }

  #hasRoom(keyLength: number, valueLength: number): boolean {
    return this.length + Frame.encodedLength(keyLength, valueLength) <= buffer_bytes
  }

  /** Makes a frame of the key and the value that stand where they belong. */
  #add(keyLength: number, valueLength: number): void {
    const at = this.length
    Frame.writeHeader(this.bytes, this.view, at, "Put", keyLength, valueLength)
    this.starts[++this.to] = at + Frame.encodedLength(keyLength, valueLength)
  }

  clear(): void {
    this.to = 0
  }
}
