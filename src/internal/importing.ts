/** Putting the lines of an export into a store, many at once. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { type InvalidLine, LimitExceeded } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import type { KvService } from "../Kv.ts"
import type { WriteError } from "../Log.ts"
import { LineBatch } from "./importLines.ts"
import type { KvParts } from "./kvParts.ts"
import { type Line, Lines } from "./lines.ts"
import { PutBuffer } from "./putBuffer.ts"
import { limitError, type Pair, parse } from "./recordLine.ts"
import { ofStore } from "./storeLogs.ts"

const left_out = "an import was interrupted while another had the store to itself: its last lines are not stored"

export class Import {
  readonly #kv: KvService
  readonly #parts: KvParts
  readonly #onProgress: ((records: number) => void) | undefined
  readonly #lines = new Lines()
  /** Lines that are to be decoded together. */
  readonly #batch = new LineBatch()
  /** One by itself; most imports need it for none. */
  #single: LineBatch | undefined
  /** What is decoded and not handed over yet. */
  readonly #frames = new PutBuffer()
  #mayWrite = true
  #records = 0
  #bytes = 0

  constructor(kv: KvService, parts: KvParts, onProgress: ((records: number) => void) | undefined) {
    this.#kv = kv
    this.#parts = parts
    this.#onProgress = onProgress
  }

  /** Of what is stored. */
  get records(): number {
    return this.#records
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Stores the lines that end in the chunks. */
  readonly feed = Effect.fnUntraced(function*(
    this: Import,
    chunks: ReadonlyArray<Uint8Array | string>
  ): Effect.fn.Return<void, InvalidLine | WriteError> {
    for (const chunk of chunks) {
      this.#lines.feed(typeof chunk === "string" ? Buffer.from(chunk) : chunk)
      yield* this.#add
    }
    yield* this.flush
  }).bind(this)

  /** Takes what is behind the last line feed for a line. */
  readonly end: Effect.Effect<void, InvalidLine | WriteError> = Effect.suspend(() => {
    this.#lines.finish()
    return this.#add
  })

  /**
   * Makes durable what came before whatever ended the lines, unless it was a write that failed. What an interruption
   * has left to be stored waits for nobody who has the store alone: then it is not.
   */
  readonly sync: Effect.Effect<void, WriteError> = Effect.suspend(() => {
    if (!this.#mayWrite) return Effect.void
    return Effect.andThen(this.#flush(ofStore(this.#kv.directory, Effect.logWarning(left_out))), this.#kv.sync)
  })

  readonly #add: Effect.Effect<void, InvalidLine | WriteError> = Effect.gen({ self: this }, function*() {
    const lines = this.#lines
    const batch = this.#batch
    while (lines.next()) {
      if (this.#parts.disk.isTurnOver()) yield* Effect.yieldNow
      if (batch.add(lines)) continue
      yield* this.#decode()
      if (!batch.add(lines)) yield* this.#addParsed(lines)
    }
    // The memory of a chunk may be used again.
    yield* this.#decode()
  })

  readonly #decode = Effect.fnUntraced(function*(this: Import): Effect.fn.Return<void, InvalidLine | WriteError> {
    const batch = this.#batch
    const areSound = batch.decode()
    for (let index = 0; index < batch.count; index++) {
      if (areSound) {
        if (!batch.putInto(this.#frames, index)) yield* this.#addPair(batch.line(index), batch.pair(index))
      } else {
        const line = batch.line(index)
        yield* batch.count === 1 ? this.#addParsed(line) : this.#addAlone(line)
      }
    }
    batch.clear()
  }).bind(this)

  /** A line that is as an export writes it, unless its Base64 is not. */
  #addAlone(line: Line): Effect.Effect<void, InvalidLine | WriteError> {
    const single = this.#single ??= new LineBatch()
    single.clear()
    if (!single.add(line) || !single.decode()) return this.#addParsed(line)
    return single.putInto(this.#frames, 0) ? Effect.void : this.#addPair(line, single.pair(0))
  }

  #addParsed(line: Line): Effect.Effect<void, InvalidLine | WriteError> {
    const parsed = parse(line)
    return Result.isFailure(parsed) ? Effect.fail(parsed.failure) : this.#addPair(line, parsed.success)
  }

  readonly #addPair = Effect.fnUntraced(function*(
    this: Import,
    line: Line,
    pair: Pair
  ): Effect.fn.Return<void, InvalidLine | WriteError> {
    if (this.#parts.disk.isTurnOver()) yield* Effect.yieldNow
    const refused = limitError(line, pair)
    if (refused !== undefined) return yield* refused
    if (this.#frames.put(...pair)) return
    yield* this.flush
    if (this.#frames.put(...pair)) return
    const [key, value] = pair
    const stored = () => this.#stored(1, Frame.encodedLength(key.length, value.length))
    yield* this.#writing(this.#parts.putPair(key, value, stored))
  }).bind(this)

  /** Stores what is decoded. */
  readonly flush: Effect.Effect<void, WriteError> = Effect.suspend(() => this.#flush())

  #flush(otherwise?: Effect.Effect<void>): Effect.Effect<void, WriteError> {
    const frames = this.#frames
    const stored = () => {
      const { length, to } = frames
      frames.clear()
      this.#stored(to, length)
    }
    return frames.to === 0 ? Effect.void : this.#writing(this.#parts.putFrames(frames, stored, otherwise))
  }

  #writing(write: Effect.Effect<void, WriteError>): Effect.Effect<void, WriteError> {
    return Effect.onError(write, (cause) =>
      Effect.sync(() => {
        // Interrupted, it has waited and written nothing, or knows what it has written.
        if (Cause.hasInterruptsOnly(cause)) return
        // What an observer has thrown at may be written, and is not to be written again.
        this.#frames.clear()
        const error = Cause.squash(cause)
        // A limit stops these records, not the store.
        if (Cause.hasFails(cause) && !(error instanceof LimitExceeded)) this.#mayWrite = false
      }))
  }

  #stored(records: number, bytes: number): void {
    this.#records += records
    this.#bytes += bytes
    this.#onProgress?.(this.#records)
  }
}
