/**
 * Frames of entries, made for one blocking write: on the bench (`crc32c.ts`), or where that does not pay or is lent, in
 * memory that is kept for the next.
 */
import * as Disk from "../Disk.ts"
import type { IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { roomFor } from "./bytes.ts"
import { type Bench, onBench } from "./crc32c.ts"
import type { Entry } from "./entries.ts"

/** Of frames that take `bytes[0, length)`. They hold until it returns. */
export type Write = (bytes: Uint8Array<ArrayBuffer>, length: number) => IoError | undefined

type Place = Pick<Bench, "bytes" | "view">

export class FrameBuffer {
  /** As large as what was made in it so far. */
  #own: Place = { bytes: new Uint8Array(0), view: new DataView(new ArrayBuffer(0)) }

  /** Makes the frame of an entry, which takes so many bytes, too few for the bench to pay. */
  short({ key, payload, type }: Entry, length: number, txid: number): Uint8Array<ArrayBuffer> {
    const { bytes, view } = this.#room(length)
    Frame.encodeWithView(bytes, view, 0, type, txid, key, payload)
    return bytes
  }

  /** Makes a longer one. */
  long({ key, payload, type }: Entry, length: number, txid: number, write: Write): IoError | undefined {
    return onBench(length, (bench) => {
      const { bytes, view } = bench ?? this.#room(length)
      encoderFor(bench)(bytes, view, 0, type, txid, key, payload)
      bench?.seal(1)
      return write(bytes, length)
    })
  }

  /**
   * Makes those of the entries from `from` to before `to`, which take so many bytes; not on the bench if others are to
   * look at them.
   */
  many(
    entries: ReadonlyArray<Entry>,
    { from, isTold, length, to, txid }: {
      readonly from: number
      readonly to: number
      readonly length: number
      /** Of the first. */
      readonly txid: number
      readonly isTold: boolean
    },
    write: Write
  ): IoError | undefined {
    return onBench(isTold ? 0 : length, (bench) => {
      const { bytes, view } = bench ?? this.#room(length)
      const encode = encoderFor(bench)
      let at = 0
      for (let index = from; index < to; index++) {
        const { key, payload, type } = entries[index] as Entry
        at = encode(bytes, view, at, type, txid + index - from, key, payload)
      }
      bench?.seal(to - from)
      return write(bytes, at)
    })
  }

  #room(length: number): Place {
    if (length > this.#own.bytes.length) {
      const bytes = new Uint8Array(roomFor(length, Disk.blocking_bytes_max))
      this.#own = { bytes, view: new DataView(bytes.buffer) }
    }
    return this.#own
  }
}

const encoderFor = (bench: Bench | undefined): typeof Frame.encodeWithView =>
  bench === undefined ? Frame.encodeWithView : Frame.encodeUnsealed
