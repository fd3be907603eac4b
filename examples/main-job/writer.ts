/**
 * The program that is killed: copies the files of a store, under new names, into the same store, for as long as it lives.
 * It tells over its standard output how many copies the kernel has (`written`) and how many are durable (`synced`).
 *
 *     node writer.js STORE PREFIX
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Kv } from "effect-datawal"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as NodeFS from "node:fs"
import { copyKey } from "./copies.ts"

/** Copies are written in batches of this size: many small files or one large one are equally long in the kernel's hands. */
const batch_bytes_max = 4_194_304
const batch_copies_max = 2_048

/** Nobody kills it: it stops before it fills the disk. */
const total_bytes_max = 268_435_456
const total_copies_max = 50_000

/** Only every so many batches are synced, so that a kill also meets records that are written but not durable yet. */
const batches_a_sync = 3

const text = new TextDecoder()

const [directory = "", prefix = ""] = process.argv.slice(2)

// Written at once, so that what was said before the kill has been said.
const say = (what: "written" | "synced", copies: number): void => {
  NodeFS.writeSync(1, `${what} ${copies}\n`)
}

const copyEverything = Effect.gen(function*() {
  const kv = yield* Kv.make({ directory })
  let copies = 0
  let batches = 0
  let total = 0
  let batch: Array<readonly [string, Uint8Array]> = []
  let bytes = 0
  const flush = Effect.gen(function*() {
    yield* kv.putMany(batch)
    copies += batch.length
    total += bytes
    batch = []
    bytes = 0
    say("written", copies)
    if (++batches % batches_a_sync !== 0) return
    yield* kv.sync
    say("synced", copies)
  })
  const lap = Stream.runForEach(kv.entries({ prefix: "file/", ordered: true }), ({ key, value }) => {
    batch.push([copyKey(prefix, copies + batch.length, text.decode(key)), value])
    bytes += value.length
    return bytes >= batch_bytes_max || batch.length >= batch_copies_max ? flush : Effect.void
  })
  while (total < total_bytes_max && copies < total_copies_max) yield* lap
  yield* Effect.never
})

NodeRuntime.runMain(Effect.scoped(copyEverything))
