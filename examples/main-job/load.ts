/** Step 1: every file of a directory into the store, one put each, with an event for each. */
import type { Kv, Log } from "effect-datawal"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as Events from "./events.ts"
import { files, Skipped, type SourceFile } from "./source.ts"

/** Where a file's bytes are in the store. */
export const keyOf = (file: SourceFile): string => `file/${file.path}`

/** After so many bytes everything is made durable: what is loaded is at most this far ahead of what is safe. */
const unsynced_bytes_max = 8_388_608

export const load = Effect.fnUntraced(function*(
  source: string,
  except: string,
  kv: Kv.Kv["Service"],
  events: Log.Log["Service"]
) {
  const started = yield* Clock.currentTimeMillis
  const loaded: Array<SourceFile> = []
  const skipped = new Skipped()
  let bytes = 0
  let unsynced = 0
  let syncs = 0
  // The store first: the event log never tells of something that a crash could take back.
  const sync = Effect.suspend(() => {
    unsynced = 0
    syncs++
    return Effect.andThen(kv.sync, events.sync)
  })
  yield* Stream.runForEach(
    files(source, except, skipped),
    Effect.fnUntraced(function*({ bytes: content, file }) {
      yield* kv.put(keyOf(file), content)
      yield* Events.record(events, "loaded", { key: keyOf(file), bytes: content.length })
      loaded.push(file)
      bytes += content.length
      unsynced += content.length
      if (unsynced >= unsynced_bytes_max) yield* sync
    })
  )
  yield* sync
  return { files: loaded, bytes, syncs, ms: (yield* Clock.currentTimeMillis) - started, skipped }
})
