/** Writing the live values into a new store. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { CompactError } from "../Kv.ts"
import type { Gathered } from "./gather.ts"
import { type NewLog, newStore, sound } from "./newStore.ts"

export interface Compacted {
  readonly live_keys: number
  readonly records_written: number
  readonly bytes_written: number
}

/** Writes what is in `frames`, of the store in `source`, which must be in ascending order of the keys. */
export const compact = (
  target: string,
  source: string,
  frames: Effect.Effect<Gathered, never, Scope.Scope>,
  onProgress: ((keys: number) => void) | undefined
): Effect.Effect<Compacted, CompactError> =>
  Effect.withSpan(newStore(target, source, (store) => write(store, frames, onProgress)), "Kv.compactTo", {
    attributes: { target },
    captureStackTrace: false
  })

const write = Effect.fnUntraced(function*(
  { parts }: NewLog,
  frames: Effect.Effect<Gathered, never, Scope.Scope>,
  onProgress: ((keys: number) => void) | undefined
) {
  let records = 0
  let bytes = 0
  const take = yield* frames
  for (let next = yield* take; next !== undefined; next = yield* take) {
    if ("bytes" in next) {
      yield* sound(parts.writeFrames(next))
      records += next.to - next.from
      bytes += (next.starts[next.to] as number) - (next.starts[next.from] as number)
    } else {
      const refs = yield* sound(parts.writeAll(next.map(({ key, value }) => ({ type: "Put", key, payload: value }))))
      records += refs.length
      for (const ref of refs) bytes += ref.len
    }
    onProgress?.(records)
  }
  return { live_keys: records, records_written: records, bytes_written: bytes }
})
