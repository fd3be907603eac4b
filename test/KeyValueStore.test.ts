/** The adapter to Effect's KeyValueStore: what that interface says, kept on disk. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Option, Schema } from "effect"
import { KeyValueStore as Store } from "effect/persistence"
import * as Disk from "../src/Disk.ts"
import * as KeyValueStore from "../src/KeyValueStore.ts"
import * as Kv from "../src/Kv.ts"
import { makeDisk } from "../src/testing.ts"
import { FaultyDisk, over } from "./support/faultyDisk.ts"
import { temporaryDirectory } from "./support/stores.ts"

const open = Effect.gen(function*() {
  const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
  return { kv, store: yield* Effect.provideService(KeyValueStore.make, Kv.Kv, kv) }
})

/** A number below `n`, the same in every run. */
const numbersFrom = (seed: number) => (n: number): number => {
  seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7FFFFFFF
  return (seed >>> 8) % n
}

describe("KeyValueStore", () => {
  it.effect("does with strings what Effect's store in memory does, whatever the order of calls", () =>
    Effect.gen(function*() {
      const { store } = yield* open
      const memory = yield* Effect.map(Layer.build(Store.layerMemory), Context.get(Store.KeyValueStore))
      const next = numbersFrom(7)
      const names = ["", "a", "a/b", "a/é", "b", "\uFEFFmark", "日本"]
      const key = () => names[next(names.length)] as string
      const texts = ["", "one", "\uFEFFé", "x".repeat(500)]
      const step = (): (store: Store.KeyValueStore) => Effect.Effect<unknown, Store.KeyValueStoreError> => {
        const [name, value] = [key(), texts[next(texts.length)] as string]
        const calls: ReadonlyArray<(store: Store.KeyValueStore) => Effect.Effect<unknown, Store.KeyValueStoreError>> = [
          (store) => Effect.asVoid(store.set(name, value)),
          (store) => Effect.asVoid(store.set(name, value)),
          (store) => store.get(name),
          (store) => Effect.map(store.getUint8Array(name), (bytes) => bytes && [...bytes]),
          (store) => Effect.asVoid(store.remove(name)),
          (store) => store.has(name),
          (store) => store.size,
          (store) => store.isEmpty,
          (store) => Effect.map(store.keys, (keys) => [...keys].sort()),
          (store) => store.modify(name, (old) => `${old}+`)
        ]
        const at = next(40)
        if (at === 38) return (store) => Effect.asVoid(store.clearPrefix("a"))
        if (at === 39) return (store) => Effect.asVoid(store.clear)
        return calls[at % calls.length] as (typeof calls)[number]
      }
      for (let count = 0; count < 2_000; count++) {
        const call = step()
        assert.deepStrictEqual(yield* call(store), yield* call(memory), `step ${count}`)
      }
    }))

  it.effect("over the stores of two directories is two stores, in one program too", () =>
    Effect.gen(function*() {
      class Jobs extends Context.Service<Jobs, Store.KeyValueStore>()("test/Jobs") {}
      class Users extends Context.Service<Users, Store.KeyValueStore>()("test/Users") {}
      const layer = (directory: string) => KeyValueStore.layer.pipe(Layer.provide(Kv.layer({ directory })))
      const both = Layer.mergeAll(
        Layer.effect(Jobs, Store.KeyValueStore).pipe(Layer.provide(layer(yield* temporaryDirectory))),
        Layer.effect(Users, Store.KeyValueStore).pipe(Layer.provide(layer(yield* temporaryDirectory)))
      )
      yield* Effect.gen(function*() {
        yield* (yield* Jobs).set("k", "a job")
        assert.isUndefined(yield* (yield* Users).get("k"))
      }).pipe(Effect.provide(both))
    }))

  it.effect("keeps bytes as they are, and values with a schema, in the next opening", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const User = Schema.Struct({ name: Schema.String, born: Schema.Number })
      const bytes = Uint8Array.of(0, 255, 0xEF, 0xBB, 0xBF)
      const opened = Layer.provide(KeyValueStore.layer, Kv.layer({ directory }))
      yield* Effect.gen(function*() {
        const store = yield* Store.KeyValueStore
        yield* Store.toSchemaStore(Store.prefix(store, "user/"), User).set("1", { name: "Ada", born: 1815 })
        yield* store.set("bytes", bytes)
      }).pipe(Effect.provide(opened))
      yield* Effect.gen(function*() {
        const store = yield* Store.KeyValueStore
        const users = Store.toSchemaStore(Store.prefix(store, "user/"), User)
        assert.deepStrictEqual(yield* users.get("1"), Option.some({ name: "Ada", born: 1815 }))
        assert.deepStrictEqual(yield* store.getUint8Array("bytes"), bytes)
        const filled = yield* store.modifyUint8Array("bytes", (old) => old.fill(7, 1, 2))
        assert.deepStrictEqual(yield* store.getUint8Array("bytes"), filled)
        assert.strictEqual(filled?.[1], 7)
        yield* store.set("bytes", bytes)
        const reversed = yield* store.modifyUint8Array("bytes", (old) => old.toReversed())
        assert.deepStrictEqual(reversed, bytes.toReversed())
        assert.deepStrictEqual(yield* store.getUint8Array("bytes"), reversed)
      }).pipe(Effect.provide(Layer.fresh(opened)))
    }))

  it.effect("gives bytes that are no text as Base64, as the memory of Effect does, also to whoever modifies them", () =>
    Effect.gen(function*() {
      const { store } = yield* open
      const memory = yield* Effect.provide(Store.KeyValueStore, Store.layerMemory)
      const bytes = Uint8Array.of(0, 42, 255, 128)
      for (const each of [store, memory]) {
        yield* each.set("bytes", bytes)
        assert.strictEqual(yield* each.get("bytes"), "ACr/gA==")
        assert.deepStrictEqual(yield* each.getUint8Array("bytes"), bytes)
        assert.strictEqual(yield* each.modify("bytes", (text) => `${text}!`), "ACr/gA==!")
        assert.strictEqual(yield* each.get("bytes"), "ACr/gA==!")
      }
    }))

  it.effect("modifies in one step, and removes nothing that is not there", () =>
    Effect.gen(function*() {
      const { kv, store } = yield* open
      yield* store.set("count", "0")
      yield* Effect.forEach(
        Array.from({ length: 100 }),
        () => store.modify("count", (count) => String(Number(count) + 1)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(yield* store.get("count"), "100")
      const { records } = yield* kv.statistics
      yield* store.remove("nobody")
      assert.isUndefined(yield* store.modify("nobody", () => "x"))
      assert.strictEqual((yield* kv.statistics).records, records)
    }))

  it.effect("clears thousands of keys, and only those of the prefix", () =>
    Effect.gen(function*() {
      const { kv, store } = yield* open
      yield* kv.putMany(Array.from({ length: 5_000 }, (_, at) => [`${at % 2 === 0 ? "even" : "odd"}/${at}`, "x"]))
      yield* store.clearPrefix("even/")
      assert.strictEqual(yield* store.size, 2_500)
      yield* store.clear
      assert.isTrue(yield* store.isEmpty)
    }))

  it.live("acknowledges no removal that is not durable, also if another has removed it, where all is to be durable", () =>
    Effect.gen(function*() {
      const removals: ReadonlyArray<(store: Store.KeyValueStore) => Effect.Effect<void, Store.KeyValueStoreError>> = [
        (store) => store.remove("k"),
        (store) => store.clear
      ]
      for (const remove of removals) {
        const disk = makeDisk({ shuffle: true, directories: ["/s"] })
        yield* Effect.scoped(Effect.gen(function*() {
          const store = KeyValueStore.fromKv(yield* Kv.make({ directory: "/s", durability: "always" }))
          yield* store.set("k", "v")
          const first = yield* Effect.forkChild(remove(store), { startImmediately: true })
          while ((yield* store.size) > 0) yield* Effect.yieldNow
          yield* Fiber.interrupt(first)
          yield* remove(store)
          for (const survivor of disk.survivors(50)) {
            const has = Effect.scoped(Effect.flatMap(Kv.make({ directory: "/s" }), (kv) => kv.has("k")))
            assert.isFalse(yield* Effect.provideService(has, Disk.Disk, survivor.service), survivor.script)
          }
        })).pipe(Effect.provideService(Disk.Disk, disk.service))
      }
    }))

  it.effect("what fails says in which method, of which key, and why", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const { store } = yield* open
        yield* store.set("a", "1")
        const long = "k".repeat(70_000)
        const limited = yield* Effect.flip(store.set(long, "1"))
        assert.deepInclude(limited, { _tag: "KeyValueStoreError", method: "set", key: long })
        assert.deepInclude(limited.cause, { _tag: "LimitExceeded", limit: "key" })
        disk.failNext("readNow", "EIO")
        const failed = yield* Effect.flip(store.get("a"))
        assert.deepInclude(failed, { method: "get", key: "a" })
        assert.deepInclude(failed.cause, { _tag: "IoError", code: "EIO" })
        assert.include(failed.message, "EIO")
        disk.failNext("appendNow", "ENOSPC")
        const cleared = yield* Effect.flip(store.clear)
        assert.deepInclude(cleared, { method: "clear" })
        assert.deepInclude(cleared.cause, { _tag: "IoError", code: "ENOSPC" })
        const prefix = yield* Effect.flip(store.clearPrefix("a"))
        assert.deepInclude(prefix, { method: "clearPrefix", key: "a" })
        assert.deepInclude(prefix.cause, { _tag: "WriterPoisoned" })
        const modified = yield* Effect.flip(store.modifyUint8Array("a", () => new Uint8Array(1)))
        assert.deepInclude(modified, { method: "modifyUint8Array", key: "a" })
      }))
    }))
})
