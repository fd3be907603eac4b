/**
 * When a checkpoint is written: at a rotation, of all the segments closed by then, beside the writes that go on; and
 * when the store is closed, of everything. Only if it is worth it: if reading what came after the last checkpoint would
 * take longer than writing a new one takes. So neither opening nor closing is ever much slower than without.
 *
 * A checkpoint that cannot be written is no error: the log has everything.
 */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import type { DiskService } from "../Disk.ts"
import type { Lock } from "../Lock.ts"
import type { LogService, Segment } from "../Log.ts"
import { save } from "./checkpoint.ts"
import type { FrozenProjection, Projection } from "./projection.ts"
import { ofStore } from "./storeLogs.ts"

/** `auto` when it is worth it, `always` at every rotation and close, or `never`; then none is read either. */
export type CheckpointPolicy = "auto" | "always" | "never"

/** Measured (docs/performance.md), in microseconds; writing begins with the fsyncs. */
const read_us_per_record = 0.5
const read_us_per_byte = 1 / 2_500
const write_us_min = 20_000
const write_us_per_key = 0.2

/** The first record of a write. */
export interface Written {
  readonly segment: number
  readonly txid: number
}

interface Extent {
  readonly records: number
  readonly bytes: number
}

interface Due {
  readonly state: FrozenProjection
  /** What is below it is covered. */
  readonly segment: number
  readonly txid: number
}

/**
 * Keeps a store's checkpoint up to date until the scope closes; call what it gives with the first record of each write
 * before that is applied.
 */
export const keepCheckpoint = Effect.fnUntraced(function*(
  { disk, lock, log }: { readonly disk: DiskService; readonly lock: Lock; readonly log: LogService },
  projection: Projection,
  options: { readonly policy: CheckpointPolicy; readonly covered: Extent }
): Effect.fn.Return<(first: Written) => void, never, Scope.Scope> {
  if (options.policy === "never") return () => {}
  const queue = yield* Queue.sliding<Due>(1)
  // What is on disk, and what will be when all that is due is written.
  let saved = options.covered
  let frozen = saved
  let { segment } = yield* log.end
  const isDue = (since: Extent): boolean => {
    const { bytes, records } = projection.counts
    const reading = (records - since.records) * read_us_per_record + (bytes - since.bytes) * read_us_per_byte
    return options.policy === "always"
      ? records > since.records
      : reading > write_us_min + projection.size * write_us_per_key
  }
  const write = (
    state: FrozenProjection,
    segments: ReadonlyArray<Segment>,
    txid: number
  ): Effect.Effect<void> => {
    const { bytes, keydir, liveBytes, records } = state
    const checkpoint = { covered: { segments, records, txid }, liveBytes, keydir }
    return Effect.matchEffect(
      // It goes by the files' names, and would be taken for sound beside the files of another store.
      Effect.flatMap(
        lock.isCurrent,
        (isCurrent) => isCurrent ? save(disk, log.directory, checkpoint) : Effect.fail("the lock file was replaced")
      ),
      {
        onSuccess: () =>
          Effect.sync(() => {
            saved = { records, bytes }
          }),
        onFailure: (why) =>
          ofStore(log.directory, Effect.logWarning("no checkpoint was written, the next opening reads the log", why))
      }
    )
  }
  // A state that is not of all the bytes it is to cover would hide what is missing in it for good.
  const writeWhole = (state: FrozenProjection, segments: ReadonlyArray<Segment>, txid: number): Effect.Effect<void> =>
    state.bytes === segments.reduce((sum, { bytes }) => sum + bytes, 0) ? write(state, segments, txid) : Effect.void
  const writeClosed = ({ segment, state, txid }: Due) =>
    Effect.flatMap(log.segments, (segments) => writeWhole(state, segments.filter(({ id }) => id < segment), txid))
  const writeAll = Effect.gen(function*() {
    const { records } = projection.counts
    yield* log.sync
    const { txid } = yield* log.end
    const segments = yield* log.segments
    const state = projection.freeze()
    // Otherwise somebody is still writing, and the rest is not durable.
    if (state.records === records) yield* writeWhole(state, segments, txid)
  })
  // In this order, so that at the end of the scope the fiber is stopped first.
  yield* Effect.addFinalizer(() =>
    Effect.catch(Effect.suspend(() => isDue(saved) ? writeAll : Effect.void), (error) =>
      error._tag === "IoError"
        ? ofStore(log.directory, Effect.logWarning("the last records may not be durable", error))
        : Effect.void)
  )
  yield* Effect.forkScoped(Effect.forever(Effect.flatMap(Queue.take(queue), writeClosed)))
  return (first) => {
    if (first.segment === segment) return
    segment = first.segment
    if (!isDue(frozen)) return
    frozen = projection.counts
    Queue.offerUnsafe(queue, { state: projection.freeze(), segment, txid: first.txid - 1 })
  }
})
