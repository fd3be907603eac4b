/** Steps 3 and 4: overwrite and delete, compact, export, import; each answer is compared with what it should be. */
import { Export, Kv, type Log } from "effect-datawal"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Stream from "effect/Stream"
import * as NodeCrypto from "node:crypto"
import * as Compare from "./compare.ts"
import * as Events from "./events.ts"
import { keyOf } from "./load.ts"
import type { SourceFile, SourceReader } from "./source.ts"

/** The new value of an overwritten file: its digest, as one would write it down. */
const digest = (bytes: Uint8Array): Uint8Array =>
  Buffer.from(`sha256 ${NodeCrypto.createHash("sha256").update(bytes).digest("hex")}\n`)

const fate = (index: number): "deleted" | "overwritten" | "kept" =>
  index % 10 === 1 ? "deleted" : index % 7 === 0 ? "overwritten" : "kept"

/** What the store should hold after `change`. */
export const expectedAfter = (files: ReadonlyArray<SourceFile>): ReadonlyArray<Compare.Expected> =>
  files.flatMap((file, index) => {
    const what = fate(index)
    return what === "deleted" ? [] : [{ key: keyOf(file), file, value: what === "overwritten" ? digest : undefined }]
  })

export const change = Effect.fnUntraced(function*(
  kv: Kv.Kv["Service"],
  files: ReadonlyArray<SourceFile>,
  events: Log.Log["Service"]
) {
  const counts = { overwritten: 0, deleted: 0, copies: 0 }
  for (const [index, file] of files.entries()) {
    const key = keyOf(file)
    const what = fate(index)
    if (what === "kept") continue
    if (what === "deleted") yield* kv.delete(key)
    else yield* kv.modify(key, (current) => [undefined, current === undefined ? undefined : digest(current)])
    yield* Events.record(events, what, { key })
    counts[what]++
  }
  yield* Stream.runForEach(kv.keys({ prefix: "kill-" }), (key) => {
    counts.copies++
    return kv.delete(key)
  })
  yield* Events.record(events, "deleted the copies", { note: String(counts.copies) })
  yield* kv.sync
  return counts
})

export const compact = Effect.fnUntraced(function*(
  kv: Kv.Kv["Service"],
  target: string,
  source: SourceReader,
  expected: ReadonlyArray<Compare.Expected>,
  events: Log.Log["Service"]
) {
  const before = yield* kv.statistics
  const compacted = yield* kv.compactTo(target)
  yield* Events.record(events, "compacted", { bytes: compacted.bytes_written })
  const reader = yield* Kv.makeReader({ directory: target })
  const comparison = yield* Compare.withSource(reader, source, expected)
  return {
    before,
    after: yield* reader.statistics,
    comparison: yield* Compare.andNoMore(comparison, reader, expected.length)
  }
}, Effect.scoped)

export const exportAndImport = Effect.fnUntraced(function*(
  store: string,
  file: string,
  copy: string,
  events: Log.Log["Service"]
) {
  const fs = yield* FileSystem.FileSystem
  const reader = yield* Kv.makeReader({ directory: store })
  const exported = yield* Export.toFile(reader, file)
  yield* Events.record(events, "exported", { bytes: exported.bytes_written })
  const kv = yield* Kv.make({ directory: copy })
  const imported = yield* Export.fromLines(kv, fs.stream(file))
  yield* Events.record(events, "imported", { bytes: imported.bytes_written })
  return { exported, imported, comparison: yield* Compare.stores(reader, kv) }
}, Effect.scoped)
