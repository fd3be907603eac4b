/** Following a writer: each record, or many at once, in the step that writes them. */
import * as Effect from "effect/Effect"
import type { Log } from "../Log.ts"
import { recordsOf } from "./frames.ts"
import type { Writer } from "./writer.ts"

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
