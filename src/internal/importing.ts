/** Putting the lines of an export into a store, many at once. */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { InvalidLine } from "../Errors.ts"
import type { KvService } from "../Kv.ts"
import type { WriteError } from "../Log.ts"
import type { KvParts } from "./kvParts.ts"
import { Lines } from "./lines.ts"
import { PutBuffer } from "./putBuffer.ts"
import { decodeExported, limitError, line_bytes_max, pairIn, parse } from "./recordLine.ts"

export class Import {
  readonly #kv: KvService
  readonly #parts: KvParts
  readonly #onProgress: ((records: number) => void) | undefined
  readonly #lines = new Lines(line_bytes_max)
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
    yield* this.#flush
  }).bind(this)

  /** Takes what is behind the last line feed for a line. */
  readonly end: Effect.Effect<void, InvalidLine | WriteError> = Effect.suspend(() => {
    this.#lines.finish()
    return this.#add
  })

  /** Makes durable what came before whatever ended the lines, unless it was a write that failed. */
  readonly sync: Effect.Effect<void, WriteError> = Effect.suspend(() =>
    this.#mayWrite ? Effect.andThen(this.#flush, this.#kv.sync) : Effect.void
  )

  readonly #add: Effect.Effect<void, InvalidLine | WriteError> = Effect.gen({ self: this }, function*() {
    const lines = this.#lines
    const frames = this.#frames
    while (lines.next()) {
      if (this.#parts.disk.isTurnOver()) yield* Effect.yieldNow
      // A line is longer than the frame of its record.
      const length = lines.end - lines.start
      if (!frames.hasRoom(length)) yield* this.#flush
      const fits = frames.hasRoom(length)
      const room = fits ? frames.bytes : Buffer.allocUnsafeSlow(length)
      const at = fits ? frames.keyStart : 0
      const lengths = decodeExported(lines, room, at)
      if (fits && lengths !== undefined) {
        const refused = limitError(lines, lengths)
        if (refused !== undefined) return yield* refused
        frames.add(...lengths)
        continue
      }
      const parsed = lengths === undefined ? parse(lines) : Result.succeed(pairIn(room, at, lengths))
      if (Result.isFailure(parsed)) return yield* parsed.failure
      const [key, value] = parsed.success
      const refused = limitError(lines, [key.length, value.length])
      if (refused !== undefined) return yield* refused
      if (frames.put(key, value)) continue
      yield* this.#flush
      if (frames.put(key, value)) continue
      yield* this.#writing(this.#kv.putMany([[key, value]]), (refs) => refs.forEach(({ len }) => this.#stored(1, len)))
    }
  })

  readonly #flush: Effect.Effect<void, WriteError> = Effect.suspend(() => {
    const frames = this.#frames
    return frames.to === 0 ? Effect.void : this.#writing(this.#parts.putFrames(frames), () => {
      const { length, to } = frames
      frames.clear()
      this.#stored(to, length)
    })
  })

  // What is written must not be handed over again, nor left uncounted, when this is interrupted.
  #writing<A>(write: Effect.Effect<A, WriteError>, written: (result: A) => void): Effect.Effect<void, WriteError> {
    return Effect.uninterruptible(Effect.matchEffect(write, {
      onSuccess: (result) => Effect.sync(() => written(result)),
      onFailure: (error) => {
        this.#frames.clear()
        // A limit stops these records, not the store.
        if (error._tag !== "LimitExceeded") this.#mayWrite = false
        return Effect.fail(error)
      }
    }))
  }

  #stored(records: number, bytes: number): void {
    this.#records += records
    this.#bytes += bytes
    this.#onProgress?.(this.#records)
  }
}
