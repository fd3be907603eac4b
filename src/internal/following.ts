/** Keeping a projection up to date with the log it is of. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { CorruptSegment, IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import type { LogService } from "../Log.ts"
import { ownBytes } from "./bytes.ts"
import type { Written } from "./checkpointing.ts"
import { recordsOf } from "./frames.ts"
import type { LogParts } from "./logParts.ts"
import { Projection } from "./projection.ts"
import type { Place } from "./segmentFiles.ts"

/** Folds in what is written from now on; `before` is called first, with the first record of each write. */
export const follow = (
  log: LogParts,
  projection: Projection,
  before: (first: Written) => void
): Effect.Effect<unknown, never, Scope.Scope> =>
  log.observe({
    record: (record, ref) => {
      before(ref)
      projection.apply(record.type, record.key, ref)
    },
    frames: (frames) => {
      before({ segment: frames.segment, txid: Frame.txidAt(frames.view, 0) })
      projection.fold(frames)
    }
  })

/** The projection of a log that is open, and may be written meanwhile; it follows the log from then on. */
export const projectionOfLog = Effect.fnUntraced(function*(
  log: LogService,
  parts: LogParts
): Effect.fn.Return<Projection, IoError | CorruptSegment, Scope.Scope> {
  const projection = new Projection()
  // What is written while the log is read waits until it has been.
  let early: Array<readonly [type: Frame.RecordType, key: Uint8Array, place: Place]> | undefined = []
  const start = yield* parts.observe({
    record: (record, ref) => {
      if (early === undefined) projection.apply(record.type, record.key, ref)
      else early.push([record.type, ownBytes(record.key), ref])
    },
    frames: (frames) => {
      if (early === undefined) projection.fold(frames)
      else for (const record of recordsOf(frames)) early.push([record.type, ownBytes(record.key), record])
    }
  })
  yield* Stream.runForEachArray(log.stream, (records) =>
    Effect.sync(() => {
      for (const record of records) {
        const before = record.segment < start.segment ||
          (record.segment === start.segment && record.offset < start.offset)
        if (before) projection.apply(record.type, record.key, record)
      }
    }))
  yield* Effect.sync(() => {
    for (const [type, key, place] of early ?? []) projection.apply(type, key, place)
    early = undefined
  })
  return projection
})
