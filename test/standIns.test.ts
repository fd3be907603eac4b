/** Services that stand in for those of this library, wrapped or made up: they are used through their public members. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Disk from "../src/Disk.ts"
import * as Export from "../src/Export.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Recovery from "../src/Recovery.ts"
import { makeDisk } from "../src/testing.ts"
import { text } from "./support/faultyDisk.ts"
import { temporaryDirectory } from "./support/stores.ts"

/** Counts the records of each call that appends. */
const counting = (log: Log.LogService, counts: Array<number>): Log.LogService => {
  const counted = <A, E>(records: number, append: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      counts.push(records)
      return append
    })
  return {
    ...log,
    append: (payload) => counted(1, log.append(payload)),
    appendRecord: (record) => counted(1, log.appendRecord(record)),
    appendAll: (records) => {
      const all = Array.from(records)
      return counted(all.length, log.appendAll(all))
    }
  }
}

const numbers = (count: number): ReadonlyArray<number> => Array.from({ length: count }, (_, at) => at)

describe("a store over a log that is wrapped", () => {
  it.effect("writes everything through the wrapping, and does all that a store does", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const directory = NodePath.join(root, "store")
      const counts: Array<number> = []
      const layer = Layer.effect(Log.Log, Effect.map(Log.make({ directory }), (log) => counting(log, counts)))
      yield* Effect.gen(function*() {
        const kv = yield* Kv.Kv
        yield* kv.put("a", "1")
        yield* kv.putMany([["b", "2"], ["c", "3"], ["long", "x".repeat(300_000)]])
        yield* kv.delete("c")
        assert.strictEqual(
          yield* kv.modify("a", (value) => [text(value), `${text(value)}+`]),
          "1"
        )
        assert.deepStrictEqual(counts, [1, 3, 1, 1])
        assert.deepStrictEqual((yield* kv.getMany(["a", "b", "c"])).map((value) => text(value)), [
          "1+",
          "2",
          undefined
        ])
        assert.strictEqual((yield* kv.get("long"))?.length, 300_000)
        const keys = yield* Stream.runCollect(kv.keys({ ordered: true }))
        assert.deepStrictEqual(keys.map((key) => text(key)), ["a", "b", "long"])
        const values = yield* Stream.runCollect(kv.entries({ ordered: true }))
        assert.deepStrictEqual(values.map(({ value }) => value.length), [2, 1, 300_000])
        const compacted = yield* kv.compactTo(NodePath.join(root, "smaller"))
        assert.strictEqual(compacted.live_keys, 3)
        const file = NodePath.join(root, "out.jsonl")
        assert.strictEqual((yield* Export.toFile(kv, file)).records_written, 3)
        counts.length = 0
        const imported = yield* Export.fromLines(kv, Stream.make(NFS.readFileSync(file)))
        assert.strictEqual(imported.records_written, 3)
        assert.strictEqual(counts.reduce((sum, count) => sum + count, 0), 3)
        // Many writers at once, and one that must not be mixed with.
        counts.length = 0
        yield* Effect.all([
          Effect.forEach(numbers(50), (at) => kv.put(`${at}`, "x"), { concurrency: "unbounded" }),
          Effect.forEach(numbers(50), () => kv.modify("n", (n) => [undefined, `${Number(text(n) ?? "0") + 1}`]), {
            concurrency: "unbounded"
          })
        ], { concurrency: "unbounded" })
        assert.strictEqual(text(yield* kv.get("n")), "50")
        assert.strictEqual(counts.length, 100)
      }).pipe(Effect.provide(Layer.provide(Kv.layerLog, layer)))
    }))
})

describe("what modify finds done by another", () => {
  it.live("is durable when it is answered, where all is to be durable, over a wrapped log as well", () =>
    Effect.gen(function*() {
      for (const wrap of [(log: Log.LogService) => log, (log: Log.LogService) => counting(log, [])]) {
        const disk = makeDisk({ shuffle: true, directories: ["/s"] })
        yield* Effect.scoped(Effect.gen(function*() {
          const kv = yield* Kv.fromLog(wrap(yield* Log.make({ directory: "/s", durability: "always" })))
          const claim = kv.modify("job", (current) => current === undefined ? ["mine", "taken"] : ["taken", current])
          const first = yield* Effect.forkChild(claim, { startImmediately: true })
          assert.strictEqual(yield* kv.size, 1)
          yield* Fiber.interrupt(first)
          assert.strictEqual(yield* claim, "taken")
          for (const survivor of disk.survivors(50)) {
            const has = Effect.scoped(Effect.flatMap(Kv.make({ directory: "/s" }), (kv) => kv.has("job")))
            assert.isTrue(yield* Effect.provideService(has, Disk.Disk, survivor.service), survivor.script)
          }
        })).pipe(Effect.provideService(Disk.Disk, disk.service))
      }
    }))
})

describe("two stores over a log that is wrapped", () => {
  it.effect("each see what the other has modified before they modify it", () =>
    Effect.gen(function*() {
      const log = counting(yield* Log.make({ directory: yield* temporaryDirectory }), [])
      const stores = [yield* Kv.fromLog(log), yield* Kv.fromLog(log)]
      yield* Effect.forEach(
        numbers(100),
        (at) => (stores[at % 2] as Kv.KvService).modify("n", (n) => [undefined, `${Number(text(n) ?? "0") + 1}`]),
        { concurrency: "unbounded", discard: true }
      )
      for (const kv of stores) assert.strictEqual(text(yield* kv.get("n")), "100")
    }))
})

describe("a store that is made up", () => {
  it.effect("needs only what is used of it, and is exported from and imported into", () =>
    Effect.gen(function*() {
      const file = NodePath.join(yield* temporaryDirectory, "out.jsonl")
      const stored: Array<string> = []
      const layer = Layer.mock(Kv.Kv)({
        directory: "nowhere",
        report: Recovery.makeReport(1, { records: 0, txid: 0 }),
        entries: () =>
          Stream.fromIterable(["a", "b"].map((key) => ({ key: Buffer.from(key), value: Buffer.from("v") }))),
        putMany: (entries) =>
          Effect.sync(() =>
            Array.from(entries, ([key]) => {
              stored.push(Buffer.from(key).toString())
              return { segment: 1, offset: 0, len: 30, txid: stored.length }
            })
          ),
        sync: Effect.void
      })
      yield* Effect.gen(function*() {
        const kv = yield* Kv.Kv
        assert.strictEqual((yield* Export.toFile(kv, file)).records_written, 2)
        assert.strictEqual((yield* Export.fromLines(kv, Stream.make(NFS.readFileSync(file)))).records_written, 2)
      }).pipe(Effect.provide(layer))
      assert.deepStrictEqual(stored, ["a", "b"])
    }))
})
