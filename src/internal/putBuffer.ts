/** Frames of Puts that are gathered in one buffer, as many as one blocking write takes, to be numbered and written. */
import * as Disk from "../Disk.ts"
import * as Frame from "../Frame.ts"
import type { PutFrames } from "./frames.ts"

const buffer_bytes = Disk.blocking_bytes_max
const frames_max = Math.floor(buffer_bytes / Frame.overhead_bytes)

export class PutBuffer implements PutFrames {
  readonly bytes: Buffer = Buffer.from(new ArrayBuffer(buffer_bytes))
  readonly view: DataView = new DataView(this.bytes.buffer)
  readonly starts: Uint32Array = new Uint32Array(frames_max + 1)
  readonly from = 0
  to = 0

  /** Where the key of the next frame stands; its value follows it. */
  get keyStart(): number {
    return this.length + Frame.header_bytes
  }

  /** Bytes of the frames. */
  get length(): number {
    return this.starts[this.to] ?? 0
  }

  /** Whether there is room for so many bytes, overhead included. */
  hasRoom(bytes: number): boolean {
    return this.length + bytes <= buffer_bytes
  }

  /** Makes a frame of the key and value that were written to `keyStart` and behind it. */
  add(keyLength: number, valueLength: number): void {
    const at = this.length
    Frame.writePutHeader(this.bytes, this.view, at, keyLength, valueLength)
    this.starts[++this.to] = at + Frame.encodedLength(keyLength, valueLength)
  }

  /** A frame of that key and value, if there is room for it. */
  put(key: Uint8Array, value: Uint8Array): boolean {
    if (!this.hasRoom(Frame.encodedLength(key.length, value.length))) return false
    this.bytes.set(key, this.keyStart)
    this.bytes.set(value, this.keyStart + key.length)
    this.add(key.length, value.length)
    return true
  }

  clear(): void {
    this.to = 0
  }
}
