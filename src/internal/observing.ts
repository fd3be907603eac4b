/** Following a writer: each record, or many at once, in the step that writes them. */
import * as Effect from "effect/Effect"
import type { Log } from "../Log.ts"
import { type Frames, recordsOf } from "./frames.ts"
import type { Entry, RecordRef, Writer } from "./writer.ts"

/**
 * Called in the order of the file, in the step that wrote: with a record, or with many at once. It must not throw, and
 * must copy what it keeps.
 */
export interface Observer {
  readonly record: (entry: Entry, ref: RecordRef) => void
  readonly frames: (frames: Frames) => void
}

export const observing =
  (writer: Writer): Log["Service"]["observe"] =>
  (record, frames = (frames) =>
    recordsOf(frames).forEach((each) => record(each, each))) =>
  {
    const observer = { record, frames }
    return Effect.acquireRelease(
      Effect.sync(() => {
        writer.observe(observer)
        return { segment: writer.end.segment, offset: writer.end.offset }
      }),
      () => Effect.sync(() => writer.unobserve(observer))
    )
  }
