/**
 * The program that is killed: copies the files of a store, under new names, into the same store, for as long as it
 * lives. It tells over its standard output that it begins a large copy, and of how many bytes (`writing`), how many
 * copies the kernel has (`written`) and how many are durable (`synced`).
 *
 *     node writer.js STORE ROUND
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Kv } from "effect-datawal"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as NodeFS from "node:fs"
import { copyKey, copyValue } from "./copies.ts"

/** Copies are written in batches, a large one behind each, and then all is synced. */
const batch_bytes_max = 1_048_576
const batch_copies_max = 256

/** Nobody kills it: it stops before it fills the disk. */
const total_bytes_max = 268_435_456
const total_copies_max = 50_000

const text = new TextDecoder()

const [directory = "", round = ""] = process.argv.slice(2)

// Written at once, so that what was said before the kill has been said.
const say = (what: "writing" | "written" | "synced", number: number): void => {
  NodeFS.writeSync(1, `${what} ${number}\n`)
}

interface File {
  readonly key: string
  readonly bytes: Uint8Array
}

const copyEverything = Effect.gen(function*() {
  const kv = yield* Kv.make({ directory })
  let copies = 0
  let total = 0
  const write = Effect.fnUntraced(function*(files: ReadonlyArray<File>, large: boolean) {
    const entries = files.map(({ bytes, key }, index) => {
      const copy = { index: copies + index, large, of: key }
      return [copyKey(round, copy), copyValue(copy, bytes)] as const
    })
    const bytes = entries.reduce((sum, [, value]) => sum + value.length, 0)
    if (large) say("writing", bytes)
    yield* kv.putMany(entries)
    copies += files.length
    total += bytes
    say("written", copies)
  })
  let batch: Array<File> = []
  let batched = 0
  const flush = Effect.gen(function*() {
    yield* write(batch, false)
    yield* write(batch.slice(-1), true)
    batch = []
    batched = 0
    yield* kv.sync
    say("synced", copies)
  })
  const lap = Stream.runForEach(kv.entries({ prefix: "file/", ordered: true }), ({ key, value }) => {
    batch.push({ key: text.decode(key), bytes: value })
    batched += value.length
    return batched >= batch_bytes_max || batch.length >= batch_copies_max ? flush : Effect.void
  })
  yield* Effect.repeat(lap, { until: () => total >= total_bytes_max || copies >= total_copies_max })
  yield* Effect.never
})

NodeRuntime.runMain(Effect.scoped(copyEverything))
