import { assert, describe, it } from "@effect/vitest"
import {
  Config,
  ConfigProvider,
  Context,
  Deferred,
  Effect,
  Exit,
  Fiber,
  Layer,
  References,
  Schema,
  Scope,
  Stream
} from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Disk from "../src/Disk.ts"
import * as Export from "../src/Export.ts"
import * as Frame from "../src/Frame.ts"
import { nodeDisk } from "../src/internal/nodeDisk.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import { descriptors, FaultyDisk, leftovers, over, text, tree } from "./support/faultyDisk.ts"
import { copyFixture, fixtures_directory, frame, put, store, temporaryDirectory, utf8 } from "./support/stores.ts"

const large = 300_000
const numbers = (count: number): ReadonlyArray<number> => Array.from({ length: count }, (_, at) => at)
const many = { concurrency: "unbounded" } as const

const entriesOf = (kv: Kv.KvRead, range: Kv.Range = { ordered: true }) =>
  Effect.map(
    Stream.runCollect(kv.entries(range)),
    (entries) => entries.map(({ key, value }) => [text(key)!, text(value)!] as const)
  )

const keysOf = (kv: Kv.KvRead, range?: Kv.Range) =>
  Effect.map(Stream.runCollect(kv.keys(range)), (keys) => keys.map((key) => Buffer.from(key).toString("hex")))

/** The fold of what is in the files, by a reader that shares nothing with the store in memory. */
const folded = (directory: string) =>
  Effect.scoped(Effect.gen(function*() {
    const reader = yield* Reader.make({ directory })
    const values = new Map<string, string>()
    yield* Stream.runForEach(reader.stream, (record) =>
      Effect.sync(() => {
        if (record.type === "Put") values.set(text(record.key)!, text(record.payload)!)
        else if (record.type === "Delete") values.delete(text(record.key)!)
      }))
    return values
  }))

const sorted = (values: Iterable<readonly [string, string]>) =>
  [...values].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))

const filesBytes = (directory: string): number =>
  NFS.readdirSync(directory).filter((name) => name.endsWith(".dwal"))
    .reduce((sum, name) => sum + NFS.statSync(NodePath.join(directory, name)).size, 0)

describe("opening", () => {
  it.effect("with what is a log's own to be told of its records is refused: the index would be without them", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.flatMap(Kv.make({ directory }), (kv) => kv.put("a", "1")))
      const options: object = { directory, replay: () => {} }
      assert.strictEqual((yield* Effect.flip(Kv.make(options as Kv.Options)))._tag, "InvalidOptions")
      const kv = yield* Kv.make({ directory })
      assert.strictEqual(text(yield* kv.get("a")), "1")
    }))
})

describe("reading and writing", () => {
  it.effect("the last write of a key wins, and a deleted key has no value", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const check = Effect.fnUntraced(function*(kv: Kv.KvRead) {
        assert.strictEqual(kv.directory, directory)
        assert.strictEqual(text(yield* kv.get("a")), "3")
        assert.isUndefined(yield* kv.get("b"))
        assert.isUndefined(yield* kv.get("never"))
        assert.strictEqual(text(yield* kv.get("")), "empty key")
        assert.deepStrictEqual(yield* kv.get("empty value"), new Uint8Array(0))
        assert.strictEqual((yield* kv.get("large"))?.length, large)
        assert.isTrue(yield* kv.has("a"))
        assert.isTrue(yield* kv.has(new Uint8Array(0)))
        assert.isFalse(yield* kv.has("b"))
        assert.strictEqual(yield* kv.size, 4)
        assert.isFalse(yield* kv.isEmpty)
        assert.deepStrictEqual(yield* kv.refOf("a"), { segment: 1, offset: 60, len: 30 })
        assert.isUndefined(yield* kv.refOf("b"))
        assert.deepStrictEqual(
          (yield* kv.getMany(["b", "a", utf8("a"), "never", "", "a"])).map((value) => text(value)),
          [undefined, "3", "3", undefined, "empty key", "3"]
        )
        assert.deepStrictEqual(yield* kv.getMany([]), [])
        assert.deepStrictEqual((yield* keysOf(kv)).sort(), ["", "61", "656d7074792076616c7565", "6c61726765"])
        assert.deepStrictEqual((yield* entriesOf(kv)).map(([key, value]) => `${key}=${value.length}`), [
          "=9",
          "a=1",
          "empty value=0",
          `large=${large}`
        ])
      })
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        assert.isTrue(yield* kv.isEmpty)
        assert.strictEqual((yield* kv.put("a", "1")).txid, 1)
        yield* kv.put("b", "2")
        const ref = yield* kv.put("a", "3")
        assert.deepStrictEqual(ref, { segment: 1, offset: 60, len: 30, txid: 3 })
        yield* kv.delete("b")
        yield* kv.put("", "empty key")
        yield* kv.put("empty value", "")
        yield* kv.put(utf8("large"), new Uint8Array(large))
        yield* kv.sync
        yield* check(kv)
        // A reader beside the writer, and a store opened anew, see the same.
        yield* check(yield* Kv.makeReader({ directory }))
      }))
      yield* check(yield* Kv.make({ directory, chunkSize: 10 }))
    }))

  it.effect("deleting an absent key writes its tombstone", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        assert.deepStrictEqual(yield* kv.delete("missing"), { segment: 1, offset: 0, len: 35, txid: 1 })
        assert.strictEqual(yield* kv.size, 0)
      }))
      const log = yield* Log.make({ directory })
      const [record] = yield* Stream.runCollect(log.stream)
      assert.deepInclude(record, { type: "Delete", txid: 1, payloadLength: 0 })
    }))

  it.live("getMany answers for each key in its place, however many and however long they are", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory })
      const longest = "k".repeat(65_536)
      const there = [
        ...numbers(700).map((at) => `${at}`.padStart(1 + at % 90, "-")),
        "",
        longest,
        `${longest.slice(1)}m`
      ]
      yield* kv.putMany(there.map((key) => [key, `value of ${key}`]))
      const asked = [
        `${longest}k`,
        ...there,
        ...there.map((key) => `not ${key}`),
        `${longest}k`,
        longest,
        "",
        `${longest}kk`
      ]
      const values = yield* kv.getMany(asked)
      const found = new Set(there)
      assert.strictEqual(values.length, asked.length)
      for (const [at, key] of asked.entries()) {
        assert.strictEqual(
          text(values[at]),
          found.has(key) ? `value of ${key}` : undefined,
          `${at}: ${key.slice(0, 20)}`
        )
      }
    }))

  it.effect("putMany sets in order, the last of a key wins, and if one passes a limit none is set", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
        assert.deepStrictEqual(yield* kv.putMany([]), [])
        const refs = yield* kv.putMany(new Map([["a", "1"], ["b", "2"]]))
        assert.deepStrictEqual(refs.map((ref) => ref.txid), [1, 2])
        yield* kv.putMany([["c", "3"], ["c", "4"], ["d", "d".repeat(large)], ["c", "5"]])
        assert.strictEqual(text(yield* kv.get("c")), "5")
        const calls = disk.calls.length
        const error = yield* Effect.flip(kv.putMany([["e", "6"], [new Uint8Array(65_537), "7"], ["f", "8"]]))
        assert.strictEqual(error._tag, "LimitExceeded")
        assert.strictEqual(disk.calls.length, calls)
        assert.isFalse(yield* kv.has("e"))
        yield* kv.put("e", "9")
        assert.strictEqual(yield* kv.size, 5)
      }))
    }))

  it.effect("deleteMany removes in order, writes a tombstone for each, and if one passes a limit removes none", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const kv = yield* Kv.make({ directory, durability: "always" })
        yield* kv.putMany(["a", "b", "c"].map((key) => [key, key]))
        const syncs = () => disk.calls.filter(({ kind }) => kind === "sync").length
        const before = syncs()
        const refs = yield* kv.deleteMany(new Set(["c", "nobody", "a"]))
        assert.deepStrictEqual(refs.map((ref) => ref.txid), [4, 5, 6])
        assert.strictEqual(syncs(), before + 1)
        assert.deepStrictEqual((yield* kv.getMany(["a", "b", "c"])).map((value) => text(value)), [
          undefined,
          "b",
          undefined
        ])
        const calls = disk.calls.length
        assert.strictEqual((yield* Effect.flip(kv.deleteMany(["b", new Uint8Array(65_537)])))._tag, "LimitExceeded")
        assert.strictEqual(disk.calls.length, calls)
        assert.deepStrictEqual(yield* kv.deleteMany([]), [])
        const reader = yield* Kv.makeReader({ directory })
        assert.strictEqual(yield* reader.size, 1)
      }))
    }))

  it.effect("a store and its log are one, by constructor and by layer", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const program = Effect.gen(function*() {
        const [kv, log] = [yield* Kv.Kv, yield* Log.Log]
        yield* kv.put("a", "1")
        yield* log.append("an event")
        yield* log.appendRecord({ type: "Put", key: "b", payload: "2" })
        assert.strictEqual(text(yield* kv.get("b")), "2")
        return (yield* Stream.runCollect(log.stream)).map(({ type }) => type)
      })
      const types = ["Put", "Raw", "Put"]
      assert.deepStrictEqual(yield* Effect.provide(program, Kv.layerWithLog({ directory })), types)
      const { kv, log } = yield* Kv.makeWithLog({ directory, checkpoint: "always" })
      assert.strictEqual(yield* kv.size, 2)
      assert.strictEqual(log.directory, kv.directory)
      assert.strictEqual((yield* log.end).txid, 3)
    }))

  it.effect("a key or value beyond its limit is refused before any I/O, whatever the way", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
        yield* kv.put(new Uint8Array(65_536).fill(255), "longest")
        assert.strictEqual(text(yield* kv.get(new Uint8Array(65_536).fill(255))), "longest")
        const long = new Uint8Array(65_537).fill(255)
        const calls = disk.calls.length
        const attempts: ReadonlyArray<Effect.Effect<unknown, { readonly _tag: string }>> = [
          kv.put(long, "x"),
          kv.delete(long),
          kv.modify(long, () => [0, "x"]),
          kv.put("x", new Uint8Array(Frame.payload_bytes_max + 1)),
          kv.modify("x", () => [0, new Uint8Array(Frame.payload_bytes_max + 1)])
        ]
        for (const attempt of attempts) assert.strictEqual((yield* Effect.flip(attempt))._tag, "LimitExceeded")
        // A key that cannot be is not there.
        assert.isUndefined(yield* kv.get(long))
        assert.isFalse(yield* kv.has(long))
        assert.isUndefined(yield* kv.refOf(long))
        assert.strictEqual(disk.calls.length, calls)
        yield* kv.put("x", "fine")
        assert.strictEqual(yield* kv.size, 2)
      }))
    }))

  it.effect("what a caller does to its bytes after a call, or to those it was given, changes nothing", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      const key = utf8("key")
      const value = utf8("value")
      yield* kv.put(key, value)
      key[0] = 0
      value[0] = 0
      assert.strictEqual(text(yield* kv.get("key")), "value")
      ;(yield* kv.get("key"))![0] = 0
      assert.strictEqual(text(yield* kv.get("key")), "value")
      for (const each of yield* Stream.runCollect(kv.keys())) each[0] = 0
      assert.isTrue(yield* kv.has("key"))
    }))

  it.effect("Raw records are not seen, with a key or without", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const program = Effect.gen(function*() {
        const log = yield* Log.Log
        const kv = yield* Kv.Kv
        yield* kv.put("a", "1")
        yield* log.append("raw")
        yield* log.appendRecord({ type: "Raw", key: "a", payload: "not a value" })
        assert.strictEqual(text(yield* kv.get("a")), "1")
        assert.strictEqual(yield* kv.size, 1)
        assert.deepInclude(yield* kv.statistics, { keys: 1, records: 3, liveBytes: 30 })
      })
      yield* Effect.provide(program, Layer.provideMerge(Kv.layerLog, Log.layer({ directory })))
      const kv = yield* Kv.make({ directory })
      assert.strictEqual(text(yield* kv.get("a")), "1")
    }))

  it.effect("after its scope has closed every call that needs the disk fails typed, and nothing is written", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const scope = yield* Scope.make()
      const kv = yield* Scope.provide(Kv.make({ directory }), scope)
      yield* kv.put("a", "1")
      yield* kv.put("large", "l".repeat(large))
      yield* Scope.close(scope, Exit.void)
      const before = tree(directory)
      const attempts: ReadonlyArray<Effect.Effect<unknown, object>> = [
        kv.put("a", "2"),
        kv.putMany([["a", "2"]]),
        kv.delete("a"),
        kv.modify("a", () => [0, "2"]),
        kv.sync,
        kv.get("a"),
        kv.get("large"),
        Stream.runDrain(kv.entries()),
        kv.compactTo(NodePath.join(directory, "..", `${NodePath.basename(directory)}-none`))
      ]
      for (const [at, attempt] of attempts.entries()) {
        assert.deepInclude(yield* Effect.flip(attempt), { _tag: "IoError", code: "EBADF" }, `${at}`)
      }
      assert.deepStrictEqual(tree(directory), before)
      assert.strictEqual(descriptors().filter((path) => path.startsWith(directory)).length, 0)
    }))

  const closedStores: ReadonlyArray<
    readonly [string, (directory: string) => Effect.Effect<Kv.KvRead, object, Scope.Scope>]
  > = [
    ["a store", (directory) => Kv.make({ directory })],
    ["a reader", (directory) => Kv.makeReader({ directory })],
    ["a store over a log", (directory) => Effect.flatMap(Log.make({ directory }), Kv.fromLog)]
  ]
  for (const [name, open] of closedStores) {
    it.effect(`${name} that was empty when its scope closed does not say so for ever, and makes no empty copy`, () =>
      Effect.gen(function*() {
        const root = yield* temporaryDirectory
        const directory = NodePath.join(root, "store")
        yield* Effect.scoped(Log.make({ directory }))
        const kv = yield* Effect.scoped(open(directory))
        const backup = NodePath.join(root, "backup")
        NFS.writeFileSync(backup, "yesterday's")
        const attempts: ReadonlyArray<Effect.Effect<unknown, object>> = [
          kv.get("none"),
          kv.getMany(["none"]),
          Stream.runDrain(kv.entries()),
          Export.toFile(kv, backup),
          Stream.runDrain(Export.toLines(kv)),
          kv.compactTo(NodePath.join(root, "copy"))
        ]
        for (const [at, attempt] of attempts.entries()) {
          assert.deepInclude(yield* Effect.flip(attempt), { _tag: "IoError", code: "EBADF" }, `${at}`)
        }
        assert.strictEqual(NFS.readFileSync(backup, "utf8"), "yesterday's")
        assert.deepStrictEqual(NFS.readdirSync(root).sort(), ["backup", "store"])
      }))
  }
})

describe("ranges", () => {
  const edges = [
    "",
    "00",
    "0000",
    "0001",
    "00ff",
    "01",
    "61",
    "6100",
    "6162",
    "61ff",
    "62",
    "7f",
    "80",
    "80ff",
    "fe",
    "ff",
    "ff00",
    "ffff",
    "ffffff"
  ]
  const bound = (hex: string | undefined) => hex === undefined ? undefined : Buffer.from(hex, "hex")

  it.effect("keys and entries cover exactly those of a range, with every edge byte in it", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory })
      const longest = "ff".repeat(65_536)
      const all = [...edges, longest].sort()
      yield* kv.putMany(all.map((hex) => [Buffer.from(hex, "hex"), `v${hex.slice(0, 20)}`]))
      const bounds = [undefined, ...edges, "6161", "ffffffff"]
      for (const prefix of [undefined, ...edges]) {
        for (const from of bounds) {
          for (const to of bounds) {
            const expected = all.filter((hex) =>
              hex.startsWith(prefix ?? "") && hex >= (from ?? "") && (to === undefined || hex < to)
            )
            const range = { prefix: bound(prefix), from: bound(from), to: bound(to) }
            const context = `prefix ${prefix} from ${from} to ${to}`
            assert.deepStrictEqual(yield* keysOf(kv, { ...range, ordered: true }), expected, context)
            if (prefix !== undefined) continue
            assert.deepStrictEqual((yield* keysOf(kv, range)).sort(), expected, context)
            const entries = yield* Stream.runCollect(kv.entries({ ...range, ordered: true }))
            assert.deepStrictEqual(entries.map(({ key }) => Buffer.from(key).toString("hex")), expected, context)
            for (const { key, value } of entries) {
              assert.strictEqual(text(value), `v${Buffer.from(key).toString("hex").slice(0, 20)}`)
            }
          }
        }
      }
    }))

  it.effect("bounds may be strings, and longer than any key", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* kv.putMany(["a", "é", "éa", "z", "𝄞"].map((key) => [key, key]))
      assert.deepStrictEqual((yield* entriesOf(kv, { prefix: "é", ordered: true })).map(([key]) => key), ["é", "éa"])
      assert.deepStrictEqual((yield* entriesOf(kv, { from: "b", to: "é", ordered: true })).map(([key]) => key), ["z"])
      assert.deepStrictEqual((yield* entriesOf(kv, { ordered: true })).map(([key]) => key), ["a", "z", "é", "éa", "𝄞"])
      const beyond = new Uint8Array(70_000).fill(0x61)
      assert.strictEqual((yield* keysOf(kv, { from: beyond })).length, 4)
      assert.strictEqual((yield* keysOf(kv, { to: beyond })).length, 1)
      assert.strictEqual((yield* keysOf(kv, { prefix: beyond })).length, 0)
    }))

  it.live("entries are those at the moment the stream starts, while everything is overwritten and deleted", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory, segmentSize: 20_000 })
      const name = (at: number) => `key ${String(at).padStart(5, "0")}`
      yield* kv.putMany(numbers(3_000).map((at) => [name(at), `${at}`]))
      for (const ordered of [true, false]) {
        yield* kv.putMany(numbers(3_000).map((at) => [name(at), `${at}`]))
        const seen = new Map<string, string>()
        yield* Stream.runForEach(kv.entries({ ordered }), ({ key, value }) => {
          seen.set(text(key)!, text(value)!)
          const at = seen.size - 1
          return at % 3 === 0
            ? kv.put(name(2_999 - at), "overwritten")
            : at % 3 === 1
            ? kv.delete(name((at * 7) % 3_000))
            : kv.put(`new ${ordered} ${at}`, "new")
        })
        const old = sorted(seen).filter(([key]) => key.startsWith("key"))
        assert.deepStrictEqual(old, numbers(3_000).map((at) => [name(at), `${at}`]))
        assert.strictEqual(seen.size - old.length, ordered ? 0 : 1_000)
      }
      const now = yield* folded(kv.directory)
      assert.deepStrictEqual(yield* entriesOf(kv), sorted(now))
    }))
})

describe("modify", () => {
  const counted = (value: Uint8Array | undefined): number => Number.parseInt(text(value) ?? "0", 10)

  for (const durability of ["manual", "always"] as const) {
    for (const width of [1, large]) {
      it.live(`100 fibers that count up lose nothing (${durability}, values of ${width} bytes)`, () =>
        Effect.gen(function*() {
          const kv = yield* Kv.make({ directory: yield* temporaryDirectory, durability, segmentSize: 5_000_000 })
          const answers = yield* Effect.forEach(
            numbers(100),
            () => kv.modify("counter", (value) => [counted(value), `${counted(value) + 1} `.padEnd(width, "x")]),
            many
          )
          assert.deepStrictEqual(answers.sort((a, b) => a - b), [...numbers(100)])
          assert.strictEqual(counted(yield* kv.get("counter")), 100)
          assert.strictEqual(counted(utf8((yield* folded(kv.directory)).get("counter")!)), 100)
        }))
    }
  }

  it.live("counts right through two stores over one log, too", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      const make = Effect.provideService(Kv.makeLog, Log.Log, log)
      const stores = [yield* make, yield* make]
      yield* Effect.forEach(
        Array.from({ length: 100 }, (_, at) => stores[at % 2] as Kv.KvService),
        // A value that is not read in the same step, so that others run in between.
        (kv) => kv.modify("counter", (value) => [0, `${counted(value) + 1} `.padEnd(300_000, "x")]),
        { concurrency: "unbounded" }
      )
      for (const kv of stores) assert.strictEqual(counted(yield* kv.get("counter")), 100)
    }))

  it.live("with puts, deletes and batches of the same key around it, each modify saw what stands before its own record", () =>
    Effect.gen(function*() {
      for (const durability of ["manual", "always"] as const) {
        const directory = yield* temporaryDirectory
        const kv = yield* Kv.make({ directory, durability, segmentSize: 2_000_000 })
        // By the value that a modify wrote: what it was given.
        const given = new Map<string, string | undefined>()
        const wide = (at: number, name: string) => at % 11 === 0 ? name.padEnd(large, ".") : name
        yield* Effect.forEach(numbers(300), (at): Effect.Effect<unknown, unknown> => {
          switch (at % 6) {
            case 0:
              return kv.put("k", wide(at, `p${at}`))
            case 1:
              return kv.delete("k")
            case 2:
              return kv.putMany([["other", "x"], ["k", wide(at, `b${at}`)]])
            default:
              return Effect.andThen(
                at % 4 === 0 ? Effect.yieldNow : Effect.void,
                kv.modify("k", (value) => {
                  const written = wide(at, `m${at}`)
                  given.set(written, text(value))
                  return [0, written]
                })
              )
          }
        }, many)
        const reader = yield* Reader.make({ directory })
        let before: string | undefined
        let checked = 0
        yield* Stream.runForEach(reader.stream, (record) =>
          Effect.sync(() => {
            if (text(record.key) !== "k") return
            const value = record.type === "Put" ? text(record.payload) : undefined
            if (value?.startsWith("m") === true) {
              checked++
              assert.strictEqual(given.get(value)?.slice(0, 9), before?.slice(0, 9))
              assert.strictEqual(given.get(value)?.length, before?.length)
            }
            before = value
          }))
        assert.strictEqual(checked, 150)
        assert.deepStrictEqual(yield* entriesOf(kv), sorted(yield* folded(directory)))
      }
    }))

  it.live("a write that has resolved is seen by the next read, through modifies and large writes of others", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* Effect.forEach(numbers(60), (fiber) =>
        Effect.gen(function*() {
          for (let at = 0; at < 10; at++) {
            const value = `${fiber}:${at}`.padEnd((fiber + at) % 9 === 0 ? large : 8, ".")
            if (at % 2 === 0) yield* kv.put(`own ${fiber}`, value)
            else yield* kv.modify(`own ${fiber}`, () => [0, value])
            assert.strictEqual(text(yield* kv.get(`own ${fiber}`)), value)
          }
        }), many)
      assert.strictEqual(yield* kv.size, 60)
    }))

  it.effect("the very bytes given change nothing, undefined removes, and removing what is absent writes nothing", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory })
      yield* kv.put("k", "v")
      const before = tree(directory)
      assert.strictEqual(yield* kv.modify("k", (value) => ["kept" as const, value]), "kept")
      assert.strictEqual(yield* kv.modify("absent", (value) => [value === undefined, value]), true)
      assert.deepStrictEqual(tree(directory), before)
      assert.strictEqual(text(yield* kv.modify("k", (value) => [value, undefined])), "v")
      assert.isFalse(yield* kv.has("k"))
      assert.strictEqual((yield* kv.statistics).records, 2)
      yield* kv.modify("k", () => [0, ""])
      assert.deepStrictEqual(yield* kv.get("k"), new Uint8Array(0))
    }))

  it.effect("a value that is changed in place is a new value", () =>
    Effect.gen(function*() {
      const log = yield* Effect.flatMap(temporaryDirectory, (directory) => Log.make({ directory }))
      const kv = yield* Kv.fromLog(log)
      for (const length of [8, large]) {
        yield* kv.put("k", new Uint8Array(length))
        const count = kv.modify("k", (value) => {
          const counter = value!
          counter[0]! += 1
          return [0, counter]
        })
        const { records } = yield* kv.statistics
        yield* Effect.repeat(count, { times: 2 })
        assert.strictEqual((yield* kv.get("k"))?.[0], 3)
        assert.strictEqual((yield* kv.statistics).records, records + 3)
        // What was put into the log itself meanwhile is not taken for such a change.
        yield* kv.modifyEffect("k", (value) =>
          Effect.as(log.appendRecord({ type: "Put", key: "k", payload: "between" }), [0, value] as const))
        assert.strictEqual(text(yield* kv.get("k")), "between")
      }
    }))

  it.effect("equal bytes that are not the same ones are written", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* kv.put("k", "v")
      yield* kv.modify("k", (value) => [0, value!.slice()])
      assert.strictEqual((yield* kv.statistics).records, 2)
    }))

  it.effect("a function that throws is a defect that writes nothing and leaves the store working", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* kv.put("k", "v")
      const exits = yield* Effect.forEach(numbers(10), (at) =>
        Effect.exit(kv.modify("k", (value) => {
          if (at % 2 === 0) throw new Error("mine")
          return [0, `${text(value)}+`]
        })), many)
      assert.deepStrictEqual(exits.map(Exit.isSuccess), numbers(10).map((at) => at % 2 === 1))
      assert.strictEqual(text(yield* kv.get("k")), "v+++++")
      yield* kv.put("k", "w")
      assert.strictEqual(yield* kv.modify("k", (value) => [text(value), undefined]), "w")
    }))

  it.live("modifies of different keys and small puts do not wait for ever on each other", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* Effect.forEach(
        numbers(200),
        (at) =>
          Effect.all([kv.modify(`${at % 5}`, (value) => [0, `${counted(value) + 1}`]), kv.put(`p${at}`, "x")], many),
        many
      )
      const counts = yield* kv.getMany(numbers(5).map(String))
      assert.deepStrictEqual(counts.map(counted), [40, 40, 40, 40, 40])
    }).pipe(Effect.timeout("10 seconds")))
})

describe("modifyEffect", () => {
  it.effect("that changes nothing is answered when the log says that all before it is durable", () =>
    Effect.gen(function*() {
      const log = yield* Effect.flatMap(temporaryDirectory, (directory) => Log.make({ directory }))
      const batches: Array<number> = []
      const kv = yield* Kv.fromLog({
        ...log,
        appendAll: (records) => {
          const all = [...records]
          batches.push(all.length)
          return log.appendAll(all)
        }
      })
      yield* kv.put("a", "1")
      batches.length = 0
      yield* kv.modifyEffect("a", (current) => Effect.succeed([0, current]))
      assert.deepStrictEqual(batches, [0])
    }))

  it.live("dies of a write of its own, which would wait for itself, and holds up nobody behind it", () =>
    Effect.gen(function*() {
      const { kv, log } = yield* Effect.flatMap(temporaryDirectory, (directory) => Kv.makeWithLog({ directory }))
      const other = yield* Kv.fromLog(log)
      const writes: ReadonlyArray<Effect.Effect<unknown, object>> = [
        kv.put("b", "1"),
        kv.delete("b"),
        kv.putMany([["b", "1"]]),
        kv.deleteMany(["b"]),
        kv.modify("b", () => [0, "1"]),
        other.put("b", "1"),
        Export.fromLines(kv, Stream.make("{\"key_b64\":\"Yg==\",\"value_b64\":\"MQ==\"}\n"))
      ]
      for (const write of writes) {
        const dies = Effect.map(
          Effect.exit(kv.modifyEffect("a", () => Effect.as(write, [0, "1"] as const))),
          (exit) => assert.isTrue(Exit.hasDies(exit))
        )
        yield* dies
        // And behind another who had the turn before it.
        const before = yield* Effect.forkChild(
          kv.modifyEffect("c", () => Effect.as(Effect.yieldNow, [0, "1"] as const)),
          {
            startImmediately: true
          }
        )
        yield* dies
        yield* Fiber.join(before)
        yield* kv.modify("a", (current) => [0, `${text(current) ?? ""}+`])
      }
      assert.strictEqual(text(yield* kv.get("a")), "+++++++")
      assert.isFalse(yield* kv.has("b"))
      // One that it does not wait for is let in behind it.
      const after = yield* kv.modifyEffect(
        "a",
        () =>
          Effect.map(Effect.forkDetach(kv.put("b", "2"), { startImmediately: true }), (fiber) => [fiber, "1"] as const)
      )
      yield* Fiber.join(after)
      assert.strictEqual(text(yield* kv.get("b")), "2")
    }).pipe(Effect.timeout("10 seconds")))

  it.effect("dies of what is no Effect, and holds up nobody behind it", () =>
    Effect.gen(function*() {
      const kv = yield* Effect.flatMap(temporaryDirectory, (directory) => Kv.make({ directory }))
      // @ts-expect-error A program in JavaScript has forgotten its `return`.
      const exit = yield* Effect.exit(kv.modifyEffect<void, never, never>("a", () => undefined))
      assert.isTrue(Exit.hasDies(exit))
      yield* kv.put("a", "1")
      assert.strictEqual(text(yield* kv.get("a")), "1")
    }))

  const Count = Schema.fromJsonString(Schema.Struct({ n: Schema.Number }))
  const decode = Schema.decodeUnknownEffect(Count)
  const encode = Schema.encodeEffect(Count)

  /** Counts up, and lets others run in between. */
  const countUp = (kv: Kv.KvService) =>
    kv.modifyEffect("count", (current) =>
      Effect.gen(function*() {
        const { n } = current === undefined ? { n: 0 } : yield* decode(text(current))
        yield* Effect.yieldNow
        return [n, yield* encode({ n: n + 1 })] as const
      }))

  it.effect("100 fibers that count up through a schema lose nothing, whatever else is put meanwhile", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      const counted = yield* Effect.forEach(
        numbers(100),
        (at) => Effect.tap(countUp(kv), () => kv.put(`${at}`, "x")),
        many
      )
      assert.deepStrictEqual(counted.sort((a, b) => a - b), [...numbers(100)])
      assert.strictEqual(text(yield* kv.get("count")), `{"n":100}`)
    }))

  it.effect("a failure comes out typed, writes nothing, and lets the next one in", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* kv.put("count", "not json")
      const failed = yield* Effect.flip(countUp(kv))
      assert.strictEqual(failed._tag, "SchemaError")
      assert.strictEqual(text(yield* kv.get("count")), "not json")
      assert.strictEqual((yield* kv.statistics).records, 1)
      assert.strictEqual(
        yield* kv.modifyEffect("count", () => Effect.succeed(["removed", undefined] as const)),
        "removed"
      )
      assert.strictEqual(yield* countUp(kv), 0)
    }))

  it.effect("one that is interrupted in the middle writes nothing, and those who wait go on", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      const begun = yield* Deferred.make<void>()
      const waiting = yield* Effect.forkChild(
        kv.modifyEffect("count", () => Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)),
        { startImmediately: true }
      )
      yield* Deferred.await(begun)
      const next = yield* Effect.forkChild(countUp(kv), { startImmediately: true })
      const put = yield* Effect.forkChild(kv.put("other", "x"), { startImmediately: true })
      assert.isUndefined(put.pollUnsafe())
      assert.isFalse(yield* kv.has("other"))
      yield* Fiber.interrupt(waiting)
      assert.strictEqual(yield* Fiber.join(next), 0)
      yield* Fiber.join(put)
      assert.strictEqual((yield* kv.statistics).records, 2)
    }))
})

describe("a store that another has to himself", () => {
  /** Begins to change a key, and does not end. */
  const hold = (kv: Kv.KvService) =>
    Effect.gen(function*() {
      const begun = yield* Deferred.make<void>()
      yield* Effect.forkDetach(
        kv.modifyEffect("held", () => Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)),
        { startImmediately: true }
      )
      yield* Deferred.await(begun)
    })

  it.live("fails who waits when it closes, and who comes then", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const scope = yield* Scope.make()
      const kv = yield* Scope.provide(Kv.make({ directory }), scope)
      yield* hold(kv)
      const writes = (): ReadonlyArray<Effect.Effect<unknown, object>> => [
        kv.put("a", "1"),
        kv.delete("a"),
        kv.putMany([["a", "1"]]),
        kv.deleteMany(["a"]),
        kv.modify("a", () => [0, "1"])
      ]
      const waiting = yield* Effect.forEach(
        writes(),
        (write) => Effect.forkChild(Effect.flip(write))
      )
      yield* Effect.sleep(5)
      yield* Scope.close(scope, Exit.void)
      for (const fiber of waiting) assert.deepInclude(yield* Fiber.join(fiber), { _tag: "IoError", code: "EBADF" })
      for (const write of writes()) {
        assert.deepInclude(yield* Effect.flip(write), { _tag: "IoError", code: "EBADF" })
      }
    }))

  it.live("refuses at once what would be refused later", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
        yield* kv.put("a", "1")
        yield* hold(kv)
        assert.strictEqual((yield* Effect.flip(kv.put("x".repeat(65_537), "1")))._tag, "LimitExceeded")
        disk.failNext("sync", "EIO")
        yield* Effect.flip(kv.sync)
        assert.strictEqual((yield* Effect.flip(kv.put("a", "2")))._tag, "WriterPoisoned")
        assert.strictEqual((yield* Effect.flip(kv.modify("a", () => [0, "2"])))._tag, "WriterPoisoned")
      }))
    }))
})

describe("a store over a log that the application provides", () => {
  it.effect("is the store of that log, where a program provides it over two", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      class Users extends Context.Service<Users, Kv.KvService>()("Users") {}
      class Orders extends Context.Service<Orders, Kv.KvService>()("Orders") {}
      const over = (directory: string) =>
        Layer.provide(Kv.layerLog, Log.layer({ directory: NodePath.join(root, directory) }))
      const both = Layer.merge(
        Layer.provide(Layer.effect(Users, Kv.Kv), over("users")),
        Layer.provide(Layer.effect(Orders, Kv.Kv), over("orders"))
      )
      yield* Effect.provide(
        Effect.gen(function*() {
          yield* (yield* Users).put("user", "1")
          yield* (yield* Orders).put("order", "1")
        }),
        both
      )
      for (const [directory, key] of [["users", "user"], ["orders", "order"]] as const) {
        const kv = yield* Kv.makeReader({ directory: NodePath.join(root, directory) })
        assert.deepStrictEqual((yield* Stream.runCollect(kv.keys())).map(text), [key])
      }
    }))

  it.live("that closes before its log has the writes that had begun end first", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const log = yield* over(disk)(Effect.flatMap(temporaryDirectory, (directory) => Log.make({ directory })))
      const start = <A, E>(write: Effect.Effect<A, E>) => Effect.forkChild(write, { startImmediately: true })
      for (const length of [1, large]) {
        const scope = yield* Scope.make()
        const kv = yield* over(disk)(Scope.provide(Kv.fromLog(log), scope))
        // It holds the writer, and so whoever comes behind it.
        const rotating = yield* start(log.rotate)
        const put = yield* start(kv.put("k", new Uint8Array(length)))
        const leaving = yield* start(kv.put("l", new Uint8Array(length)))
        yield* Fiber.interrupt(leaving)
        yield* Scope.close(scope, Exit.void)
        const { txid } = yield* log.end
        assert.strictEqual((yield* Fiber.join(put)).txid, txid)
        yield* Fiber.join(rotating)
        yield* Effect.yieldNow
        assert.strictEqual((yield* log.end).txid, txid)
      }
    }))

  it.live("that closes before its log has nothing land behind, wherever its writers are by then", () =>
    Effect.gen(function*() {
      const log = yield* Effect.flatMap(temporaryDirectory, (directory) => Log.make({ directory }))
      const writes: ReadonlyArray<(kv: Kv.KvService) => Effect.Effect<unknown, object>> = [
        (kv) => kv.putMany([["a", "1"]]),
        (kv) => kv.modify("a", () => [0, "1"])
      ]
      for (const write of writes) {
        const landed = new Set<boolean>()
        for (
          const [ops, closing] of [[3, 2_048], [5, 2_048], [6, 2_048], [3, 3]] as const
        ) {
          for (let turns = 0; turns < 17; turns++) {
            const scope = yield* Scope.make()
            const kv = yield* Scope.provide(Kv.fromLog(log), scope)
            const before = (yield* log.end).txid
            const fiber = yield* Effect.forkChild(
              Effect.provideService(write(kv), References.MaxOpsBeforeYield, ops)
            )
            for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
            yield* Effect.provideService(Scope.close(scope, Exit.void), References.MaxOpsBeforeYield, closing)
            const { txid } = yield* log.end
            const exit = yield* Fiber.await(fiber)
            assert.strictEqual((yield* log.end).txid, txid, `${ops} and ${closing} operations a turn, ${turns} turns`)
            assert.strictEqual(Exit.isSuccess(exit), txid > before)
            landed.add(txid > before)
          }
        }
        assert.strictEqual(landed.size, 2, "some came before the close, some behind it")
      }
    }))

  it.effect("answers no call for values, and writes nothing, when its scope has closed before the log's", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      const scope = yield* Scope.make()
      const kv = yield* Scope.provide(Kv.fromLog(log), scope)
      yield* kv.put("a", "1")
      const begun = yield* Deferred.make<void>()
      const late = yield* Deferred.make<void>()
      const modifying = yield* Effect.forkChild(
        kv.modifyEffect("a", () =>
          Deferred.succeed(begun, undefined).pipe(
            Effect.andThen(Deferred.await(late)),
            Effect.as([0, "2"] as const)
          )),
        { startImmediately: true }
      )
      yield* Deferred.await(begun)
      const waiting = yield* Effect.forkChild(kv.modify("a", () => [0, "3"]), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      yield* Deferred.succeed(late, undefined)
      const attempts: ReadonlyArray<Effect.Effect<unknown, object>> = [
        Fiber.join(modifying),
        Fiber.join(waiting),
        kv.put("a", "4"),
        kv.putMany([["a", "4"]]),
        kv.delete("a"),
        kv.deleteMany(["a"]),
        kv.modify("a", () => [0, "4"]),
        kv.get("a"),
        kv.get("never put"),
        kv.getMany(["a"]),
        Stream.runDrain(kv.entries()),
        kv.compactTo(NodePath.join(log.directory, "..", "target"))
      ]
      for (const [at, attempt] of attempts.entries()) {
        assert.deepInclude(yield* Effect.flip(attempt), { _tag: "IoError", code: "EBADF" }, `${at}`)
      }
      assert.strictEqual((yield* log.end).txid, 1)
      yield* log.append("goes on")
      assert.strictEqual(text(yield* (yield* Kv.fromLog(log)).get("a")), "1")
    }))

  it.effect("direct appends show, in the order of the file", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.flatMap(Kv.make({ directory }), (kv) => kv.put("old", "1")))
      const program = Effect.gen(function*() {
        const log = yield* Log.Log
        const kv = yield* Kv.Kv
        assert.strictEqual(text(yield* kv.get("old")), "1")
        yield* log.appendRecord({ type: "Put", key: "direct", payload: "2" })
        yield* log.appendRecord({ type: "Delete", key: "old" })
        yield* log.appendAll([
          { type: "Put", key: "batch", payload: "3" },
          { type: "Put", key: "batch", payload: "b".repeat(large) }
        ])
        yield* log.rotate
        yield* kv.put("put", "4")
        assert.deepStrictEqual((yield* entriesOf(kv)).map(([key, value]) => `${key} ${value.length}`), [
          `batch ${large}`,
          "direct 1",
          "put 1"
        ])
      })
      yield* Effect.provide(program, Layer.provideMerge(Kv.layerLog, Log.layer({ directory })))
    }))

  it.effect("what is written just before it reads the log is counted once", () =>
    Effect.gen(function*() {
      for (const ops of numbers(12)) {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        const put = Effect.suspend(() => log.appendRecord({ type: "Put", key: "k", payload: "v" }))
        const writing = yield* Effect.forkChild(Effect.repeat(Effect.andThen(put, Effect.yieldNow), { times: 30 }))
        const kv = yield* Effect.provideService(Kv.fromLog(log), References.MaxOpsBeforeYield, 3 + ops)
        yield* Fiber.join(writing)
        const { liveBytes, records } = yield* kv.statistics
        assert.deepStrictEqual({ liveBytes, records }, { liveBytes: 30, records: 31 })
      }
    }))

  it.live("appends made while it is being built show once, and in order", () =>
    Effect.gen(function*() {
      for (const reads of numbers(4)) {
        const directory = yield* temporaryDirectory
        const disk = new FaultyDisk()
        yield* over(disk)(Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory, segmentSize: 400, chunkSize: 100 })
          yield* log.appendAll(numbers(40).map((at) => ({ type: "Put", key: `k${at % 10}`, payload: `before ${at}` })))
          const held = disk.holdNext("read", { skip: reads })
          const building = yield* Effect.forkChild(
            Scope.provide(Effect.provideService(Kv.makeLog, Log.Log, log), yield* Effect.scope),
            { startImmediately: true }
          )
          yield* held.reached
          yield* log.appendRecord({ type: "Put", key: "k1", payload: "during" })
          yield* log.appendRecord({ type: "Delete", key: "k2" })
          yield* log.appendRecord({ type: "Put", key: "k3", payload: "l".repeat(large) })
          yield* log.rotate
          yield* log.appendRecord({ type: "Put", key: "k2", payload: "again" })
          yield* log.appendRecord({ type: "Delete", key: "k4" })
          for (const [one, other] of [["k6", "k7"], ["k8", "k9"]] as const) {
            yield* log.appendAll([one, other].map((key) => ({ type: "Put", key, payload: `of ${key}` })))
          }
          yield* held.release
          const kv = yield* Fiber.join(building)
          yield* log.appendRecord({ type: "Put", key: "k5", payload: "after" })
          assert.deepStrictEqual(yield* entriesOf(kv), sorted(yield* folded(directory)))
          const { deadBytes, keys, liveBytes, records } = yield* kv.statistics
          assert.deepStrictEqual({ keys, records, bytes: liveBytes + deadBytes }, {
            keys: 9,
            records: 50,
            bytes: filesBytes(directory)
          })
        })))
        assert.strictEqual(disk.openDescriptors, 0)
      }
    }))

  it.effect("layer, layerConfig and layerReader give the store", () =>
    Effect.gen(function*() {
      const directory = NodePath.join(yield* temporaryDirectory, "kv")
      const put = Effect.flatMap(Kv.Kv, (kv) => kv.put("a", "1"))
      assert.strictEqual((yield* Effect.provide(put, Kv.layer({ directory }))).txid, 1)
      const config = Layer.provide(
        Kv.layerConfig({ directory: Config.String("DIR") }),
        ConfigProvider.layer(ConfigProvider.fromEnv({ env: { DIR: directory } }))
      )
      assert.strictEqual((yield* Effect.provide(put, config)).txid, 2)
      const get = Effect.flatMap(Kv.KvReader, (kv) => kv.get("a"))
      assert.strictEqual(text(yield* Effect.provide(get, Kv.layerReader({ directory }))), "1")
    }))
})

describe("statistics", () => {
  it.effect("of a reader are those of when it was opened, however far the writer has come", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory, segmentSize: 100 })
      yield* kv.put("a", "1")
      const reader = yield* Kv.makeReader({ directory })
      const before = yield* reader.statistics
      for (let at = 0; at < 10; at++) yield* kv.put("a", "x".repeat(60))
      assert.deepStrictEqual(yield* reader.statistics, before)
      assert.deepInclude(before, { keys: 1, records: 1, segments: 1 })
      assert.isAbove((yield* kv.statistics).segments, 5)
    }))

  it.effect("live and dead bytes are all bytes of the files", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const check = Effect.fnUntraced(function*(kv: Kv.KvRead, records: number, live: number) {
        const found = yield* kv.statistics
        assert.deepStrictEqual(found, {
          keys: yield* kv.size,
          records,
          liveBytes: live,
          deadBytes: filesBytes(directory) - live,
          segments: NFS.readdirSync(directory).filter((name) => name.endsWith(".dwal")).length
        })
      })
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory, segmentSize: 200 })
        yield* check(kv, 0, 0)
        yield* kv.put("a", "12345")
        yield* check(kv, 1, 34)
        yield* kv.put("a", "1")
        yield* check(kv, 2, 30)
        yield* kv.delete("b")
        yield* check(kv, 3, 30)
        yield* kv.delete("a")
        yield* check(kv, 4, 0)
        yield* kv.delete("a")
        yield* check(kv, 5, 0)
        yield* kv.put("a", "x".repeat(large))
        yield* kv.putMany([["c", "1"], ["d", "2"], ["c", "3"]])
        yield* check(kv, 9, 29 + large + 60)
      }))
      yield* check(yield* Kv.make({ directory }), 9, 29 + large + 60)
      yield* check(yield* Kv.makeReader({ directory }), 9, 29 + large + 60)
    }))
})

describe("damage done behind its back", () => {
  it.effect("a get of a flipped byte is CorruptSegment, and the other keys are still read", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory })
      yield* kv.putMany([["a", "first value"], ["b", "second value"], ["large", "l".repeat(large)]])
      const path = NodePath.join(directory, "00000001.dwal")
      const bytes = NFS.readFileSync(path)
      for (const key of ["b", "large"]) {
        const place = (yield* kv.refOf(key))!
        const flips = key === "b" ? numbers(place.len) : [0, 4, 6, 7, 20, 30, 100_000, place.len - 1]
        for (const at of flips) {
          const damaged = Buffer.from(bytes)
          damaged[place.offset + at]! ^= 0x10
          NFS.writeFileSync(path, damaged)
          const error = yield* Effect.flip(kv.get(key))
          assert.deepInclude(error, { _tag: "CorruptSegment", segment: 1, offset: place.offset }, `${key}, byte ${at}`)
          assert.strictEqual((yield* Effect.flip(kv.modify(key, () => [0, "x"])))._tag, "CorruptSegment")
          assert.strictEqual((yield* Effect.flip(entriesOf(kv)))._tag, "CorruptSegment")
          assert.strictEqual(text(yield* kv.get("a")), "first value")
          assert.isTrue(yield* kv.has(key))
        }
        NFS.writeFileSync(path, bytes)
      }
      NFS.truncateSync(path, bytes.length - 1)
      assert.deepInclude(yield* Effect.flip(kv.get("large")), { _tag: "CorruptSegment", reason: "Truncated" })
    }))

  it.effect("two whole records that have changed places are RecordMismatch", () =>
    Effect.gen(function*() {
      const directory = yield* store({
        1: Buffer.concat([put(1, "a", "va"), put(2, "b", "vb"), put(3, "c", "longer")])
      })
      const kv = yield* Kv.make({ directory, cacheSize: 0 })
      const path = NodePath.join(directory, "00000001.dwal")
      NFS.writeFileSync(path, Buffer.concat([put(2, "b", "vb"), put(1, "a", "va"), put(3, "c", "longer")]))
      for (const key of ["a", "b"]) {
        assert.deepInclude(yield* Effect.flip(kv.get(key)), { _tag: "CorruptSegment", reason: "RecordMismatch" })
      }
      assert.strictEqual(text(yield* kv.get("c")), "longer")
      // Other lengths, so that another frame, or none, starts where one did.
      NFS.writeFileSync(path, Buffer.concat([put(3, "c", "longer"), put(1, "a", "va"), put(2, "b", "vb")]))
      for (const key of ["a", "b", "c"]) {
        assert.deepInclude(yield* Effect.flip(kv.get(key)), { _tag: "CorruptSegment", reason: "RecordMismatch" }, key)
      }
      // The same key and length, but not a Put.
      for (const type of ["Raw", "Delete"] as const) {
        const other = frame({ type, txid: 1, key: utf8("a"), payload: utf8("va") })
        NFS.writeFileSync(path, Buffer.concat([other, put(2, "b", "vb"), put(3, "c", "longer")]))
        assert.deepInclude(yield* Effect.flip(kv.get("a")), { _tag: "CorruptSegment", reason: "RecordMismatch" })
      }
    }))

  it.effect("a segment that is gone is an error, not a missing key", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory, segmentSize: 10 })
        yield* kv.putMany([["a", "1"], ["b", "2"]])
      }))
      const kv = yield* Kv.make({ directory })
      NFS.rmSync(NodePath.join(directory, "00000001.dwal"))
      const error = yield* Effect.flip(kv.get("a"))
      assert.include(["IoError", "CorruptSegment"], error._tag)
      assert.strictEqual(text(yield* kv.get("b")), "2")
    }))
})

describe("compaction", () => {
  it.effect("writes one Put per live key in ascending order, with txids from 1: the bytes of the fixture", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory: NodePath.join(root, "source"), segmentSize: 100 })
      yield* kv.putMany([["other", "value"], ["keep", "old"], ["gone", "x"], ["keep", "final"]])
      yield* kv.delete("gone")
      const before = tree(kv.directory)
      const target = NodePath.join(root, "missing", "nested", "target")
      const progress: Array<number> = []
      const compacted = yield* kv.compactTo(target, { onProgress: (keys) => progress.push(keys) })
      assert.deepStrictEqual(compacted, { live_keys: 2, records_written: 2, bytes_written: 75 })
      assert.deepStrictEqual(progress.at(-1), 2)
      assert.deepStrictEqual(
        NFS.readFileSync(NodePath.join(target, "00000001.dwal")),
        NFS.readFileSync(NodePath.join(fixtures_directory, "compacted", "00000001.dwal"))
      )
      assert.deepStrictEqual(NFS.readdirSync(target).filter((name) => name !== ".lock"), ["00000001.dwal"])
      assert.deepStrictEqual(tree(kv.directory), before)
      assert.deepStrictEqual(leftovers(root), [])
      const copy = yield* Kv.make({ directory: target, policy: "strict" })
      assert.deepStrictEqual(yield* entriesOf(copy), yield* entriesOf(kv))
      assert.strictEqual((yield* copy.put("next", "1")).txid, 3)
    }))

  it.effect("an empty directory is a target, one with anything in it is not", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory: NodePath.join(root, "source") })
      yield* kv.put("a", "1")
      const target = NodePath.join(root, "target")
      NFS.mkdirSync(target)
      yield* kv.compactTo(target)
      const before = tree(root)
      assert.deepInclude(yield* Effect.flip(kv.compactTo(target)), { _tag: "TargetRefused", target })
      assert.deepInclude(yield* Effect.flip(kv.compactTo(kv.directory)), { _tag: "TargetRefused" })
      assert.deepStrictEqual(tree(root), before)
      const hidden = NodePath.join(root, "hidden")
      NFS.mkdirSync(hidden)
      NFS.writeFileSync(NodePath.join(hidden, ".keep"), "mine")
      assert.deepInclude(yield* Effect.flip(kv.compactTo(hidden)), { _tag: "TargetRefused", found: ".keep" })
      NFS.writeFileSync(NodePath.join(root, "file"), "mine")
      yield* Effect.flip(kv.compactTo(NodePath.join(root, "file")))
      assert.strictEqual(NFS.readFileSync(NodePath.join(root, "file"), "utf8"), "mine")
      assert.deepStrictEqual(leftovers(root), [])
    }))

  it.effect("an empty store compacts to an empty store", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory: NodePath.join(root, "source") })
      yield* kv.put("a", "1")
      yield* kv.delete("a")
      const target = NodePath.join(root, "target")
      assert.deepStrictEqual(yield* kv.compactTo(target), { live_keys: 0, records_written: 0, bytes_written: 0 })
      assert.isTrue(yield* (yield* Kv.make({ directory: target, policy: "strict" })).isEmpty)
    }))

  it.live("is a snapshot, while writes go on", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: NodePath.join(root, "source"), segmentSize: 100_000 })
        yield* kv.putMany(numbers(2_000).map((at) => [`${at}`, `before ${at}`]))
        yield* kv.put("large", "l".repeat(large))
        const before = yield* entriesOf(kv)
        const target = NodePath.join(root, "target")
        const held = disk.holdNext("append", { path: ".tmp" })
        const compacting = yield* Effect.forkChild(kv.compactTo(target), { startImmediately: true })
        yield* held.reached
        yield* kv.putMany(numbers(2_000).map((at) => [`${at}`, "during"]))
        yield* kv.delete("large")
        yield* kv.put("new", "during")
        yield* held.release
        const { live_keys } = yield* Fiber.join(compacting)
        assert.strictEqual(live_keys, 2_001)
        const copy = yield* Kv.make({ directory: target })
        assert.deepStrictEqual(yield* entriesOf(copy), before)
        assert.strictEqual(text(yield* kv.get("7")), "during")
      }))
    }))

  it.effect("two compactions to one target: one wins, the other is refused, and both leave nothing beside it", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory: NodePath.join(root, "source") })
      yield* kv.put("a", "1")
      const target = NodePath.join(root, "target")
      const exits = yield* Effect.forEach(numbers(5), () => Effect.exit(kv.compactTo(target)), many)
      assert.strictEqual(exits.filter(Exit.isSuccess).length, 1)
      assert.deepStrictEqual(leftovers(root), [])
      assert.deepStrictEqual(yield* entriesOf(yield* Kv.make({ directory: target })), [["a", "1"]])
    }))

  it.effect("an observer of progress that throws is a defect that leaves nothing behind", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory: NodePath.join(root, "source") })
      yield* kv.put("a", "1")
      const target = NodePath.join(root, "target")
      const onProgress = () => {
        throw new Error("mine")
      }
      assert.isTrue(Exit.isFailure(yield* Effect.exit(kv.compactTo(target, { onProgress }))))
      assert.deepStrictEqual(NFS.readdirSync(root), ["source"])
      assert.strictEqual(descriptors().filter((path) => path.includes(".tmp")).length, 0)
    }))

  it.effect("a damaged value fails it, and no target appears", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory: NodePath.join(root, "source") })
      yield* kv.putMany([["a", "1"], ["b", "2"]])
      const path = NodePath.join(kv.directory, "00000001.dwal")
      const bytes = NFS.readFileSync(path)
      bytes[55]! ^= 1
      NFS.writeFileSync(path, bytes)
      assert.strictEqual((yield* Effect.flip(kv.compactTo(NodePath.join(root, "target"))))._tag, "CorruptSegment")
      assert.deepStrictEqual(NFS.readdirSync(root), ["source"])
    }))

  it.effect("a reader without the lock compacts too", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory: NodePath.join(root, "source") })
      yield* kv.putMany([["b", "2"], ["a", "1"]])
      const reader = yield* Kv.makeReader({ directory: kv.directory })
      yield* kv.put("c", "later")
      yield* reader.compactTo(NodePath.join(root, "target"))
      assert.deepStrictEqual(yield* entriesOf(yield* Kv.make({ directory: NodePath.join(root, "target") })), [
        ["a", "1"],
        ["b", "2"]
      ])
    }))

  it.effect("the directory that a target replaces leaves it its rights, and stays what it is where it is refused", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory: NodePath.join(root, "store") })
      yield* kv.put("a", "1")
      const own = NodePath.join(root, "own")
      NFS.mkdirSync(own, { mode: 0o700 })
      const building: Array<number> = []
      yield* kv.compactTo(own, {
        onProgress: () => {
          for (const name of NFS.readdirSync(root).filter((name) => name.endsWith(".tmp"))) {
            building.push(NFS.statSync(NodePath.join(root, name)).mode & 0o7777)
          }
        }
      })
      assert.deepStrictEqual(building, [0o700], "while it is written, too")
      assert.strictEqual(NFS.statSync(own).mode & 0o7777, 0o700)
      yield* Kv.make({ directory: own, policy: "strict" })
      const empty = NodePath.join(root, "empty")
      NFS.mkdirSync(empty)
      NFS.symlinkSync(empty, NodePath.join(root, "link"))
      NFS.symlinkSync(kv.directory, NodePath.join(root, "way"))
      const inStore = NFS.readdirSync(kv.directory)
      const refused = [
        [NodePath.join(root, "link"), "a symbolic link"],
        [NodePath.join(kv.directory, "00000002.dwal"), "the directory of the store"],
        [NodePath.join(kv.directory, "deep", "down"), "the directory of the store"],
        [NodePath.join(root, "way", "in"), "the directory of the store"]
      ] as const
      for (const [target, found] of refused) {
        assert.deepInclude(yield* Effect.flip(kv.compactTo(target)), { _tag: "TargetRefused", target, found })
        assert.deepInclude(yield* Effect.flip(Export.toFile(kv, target)), { _tag: "TargetRefused", target, found })
      }
      assert.deepStrictEqual(NFS.readdirSync(kv.directory), inStore)
      // Beside it, under a name that begins like one that leads up.
      yield* kv.compactTo(NodePath.join(root, "..store"))
      const home = process.cwd()
      process.chdir(empty)
      const error = yield* Effect.ensuring(Effect.flip(kv.compactTo(".")), Effect.sync(() => process.chdir(home)))
      assert.deepInclude(error, { _tag: "TargetRefused", found: "the working directory" })
      assert.deepStrictEqual(leftovers(root), [])
      assert.deepStrictEqual(NFS.readdirSync(empty), [])
    }))
})

describe("values and the memory they are in", () => {
  const filled = (at: number, length: number): Uint8Array => new Uint8Array(length).fill(at + 1)

  it.effect("each has its own bytes: changing one, or reading on, changes no other", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      const lengths = [0, 1, 64, 100, 4_000, 4_060, 4_096, 5_000, 100_000, large]
      for (const [at, length] of lengths.entries()) yield* kv.put(`k${at}`, filled(at, length))
      const keys = lengths.map((_, at) => `k${at}`)
      const first = yield* Effect.forEach(keys, (key) => kv.get(key))
      const second = yield* kv.getMany(keys)
      const third = (yield* Stream.runCollect(kv.entries({ ordered: true }))).map(({ value }) => value)
      for (const values of [first, second, third]) for (const value of values) value?.fill(255)
      // A thousand reads later the pool has gone round many times.
      for (let n = 0; n < 1_000; n++) yield* kv.get(`k${n % 5}`)
      for (const values of [first, second, third]) {
        assert.deepStrictEqual(values.map((value) => value?.length), lengths)
        assert.isTrue(values.every((value) => value?.every((byte) => byte === 255)))
      }
      for (const [at, length] of lengths.entries()) {
        assert.deepStrictEqual(yield* kv.get(`k${at}`), filled(at, length))
      }
    }))

  it.effect("what shares memory cannot be transferred away from the others", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* kv.putMany([["a", "one"], ["b", "two"]])
      const [a, b] = yield* kv.getMany(["a", "b"])
      const [entry] = yield* Stream.runCollect(kv.entries())
      const { port1, port2 } = new MessageChannel()
      for (const value of [a, entry!.value]) {
        // Newer Nodes refuse, older ones send a copy.
        yield* Effect.ignore(Effect.try(() => port1.postMessage(value, [value!.buffer])))
      }
      port1.close()
      port2.close()
      assert.deepStrictEqual([text(a), text(b), entry!.value.length], ["one", "two", 3])
      // A key has memory of its own: who keeps it keeps no values with it.
      assert.strictEqual(entry!.key.buffer.byteLength, 1)
    }))

  it.effect("neighbours are read together, across gaps, segments and sizes, and each is checked by itself", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory, segmentSize: 40_000, checkpoint: "never" })
        const name = (at: number) => `k${String(at).padStart(4, "0")}`
        const length = (at: number) => at % 97 === 0 ? 6_000 : at % 7 === 0 ? 0 : at % 300
        for (const at of numbers(1_000)) yield* kv.put(name(at), filled(at % 250, length(at)))
        // Some are dead, some stand elsewhere.
        for (const at of numbers(1_000).filter((at) => at % 11 === 0)) yield* kv.delete(name(at))
        for (const at of numbers(1_000).filter((at) => at % 50 === 1)) {
          yield* kv.put(name(at), filled(at % 250, length(at)))
        }
        const live = numbers(1_000).filter((at) => at % 11 !== 0 || at % 50 === 1)
        const before = disk.calls.length
        const entries = yield* Stream.runCollect(kv.entries({ ordered: true }))
        const reads = disk.calls.slice(before).filter(({ kind }) => kind === "readNow" || kind === "read").length
        assert.deepStrictEqual(entries.map(({ key }) => text(key)), live.map(name))
        for (const [index, { value }] of entries.entries()) {
          const at = live[index] ?? 0
          assert.deepStrictEqual(value, filled(at % 250, length(at)), name(at))
        }
        assert.isBelow(reads, 200, `reads for ${live.length} values`)

        // One bit in the middle of a run: that value and no other is refused.
        const damaged = live[500] ?? 0
        const place = yield* kv.refOf(name(damaged))
        const path = NodePath.join(directory, `${String(place!.segment).padStart(8, "0")}.dwal`)
        const bytes = NFS.readFileSync(path)
        bytes[place!.offset + 24 + 2]! ^= 1
        NFS.writeFileSync(path, bytes)
        const error = yield* Effect.flip(Stream.runDrain(kv.entries({ ordered: true })))
        assert.deepInclude(error, { _tag: "CorruptSegment", segment: place!.segment, offset: place!.offset })
        const others = yield* Effect.forEach(live.filter((at) => at !== damaged), (at) => kv.get(name(at)))
        assert.isTrue(others.every((value) => value !== undefined))
        assert.strictEqual((yield* Effect.flip(kv.getMany([name(1), name(damaged)])))._tag, "CorruptSegment")
      }))
    }))

  it.live("small values are put and read in one step also by those who keep the thread for long", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      const started = performance.now()
      while (performance.now() - started < 20) {
        Effect.runSync(kv.put("key", "value"))
        assert.strictEqual(text(Effect.runSync(kv.get("key"))), "value")
      }
    }))

  it.live("a program that reads or writes in a loop leaves others their turn", () =>
    Effect.gen(function*() {
      let isOver = false
      const kv = yield* Effect.provideService(
        Kv.make({ directory: yield* temporaryDirectory }),
        Disk.Disk,
        { ...nodeDisk, isTurnOver: () => isOver }
      )
      const value = new Uint8Array(200_000)
      let turns = 0
      let immediate = setImmediate(function turn() {
        turns++
        immediate = setImmediate(turn)
      })
      yield* Effect.addFinalizer(() => Effect.sync(() => clearImmediate(immediate)))
      const turnsIn = (each: Effect.Effect<unknown, unknown>) =>
        Effect.gen(function*() {
          turns = 0
          for (let n = 0; n < 20; n++) yield* each
          return turns
        })
      const calls = [
        kv.put("large", value),
        kv.get("large"),
        kv.putMany([["large", value]]),
        kv.put("small", "value"),
        kv.get("small"),
        kv.getMany(["small", "missing"]),
        kv.modify("small", (value) => [value, value]),
        kv.delete("small")
      ]
      for (const call of calls) {
        isOver = false
        assert.strictEqual(yield* turnsIn(call), 0)
        isOver = true
        assert.isAtLeast(yield* turnsIn(call), 10)
      }
    }))
})

describe("a reader over a live writer", () => {
  it.live("is the store as it was when it was opened, and takes no lock", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory, segmentSize: 1_000 })
      const writing = yield* Effect.forkChild(
        Effect.forEach(numbers(2_000), (at) => Effect.andThen(kv.put(`${at}`, `value ${at}`), Effect.yieldNow), {
          discard: true
        })
      )
      const sizes: Array<number> = []
      while (writing.pollUnsafe() === undefined) {
        yield* Effect.scoped(Effect.gen(function*() {
          const reader = yield* Kv.makeReader({ directory })
          const size = yield* reader.size
          sizes.push(size)
          // A prefix of what was written, every value of it readable.
          const entries = yield* entriesOf(reader)
          assert.strictEqual(entries.length, size)
          const found = new Set(entries.map(([key]) => key))
          for (const at of numbers(size)) assert.isTrue(found.has(`${at}`))
          for (const [key, value] of entries) assert.strictEqual(value, `value ${key}`)
        }))
      }
      yield* Fiber.join(writing)
      assert.deepStrictEqual(sizes, [...sizes].sort((a, b) => a - b))
      assert.strictEqual(yield* (yield* Kv.makeReader({ directory })).size, 2_000)
    }))

  it.effect("a reader of no directory fails typed, of an empty one has no keys, of a torn tail ends before it", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const missing = yield* Effect.flip(Kv.makeReader({ directory: NodePath.join(root, "missing") }))
      assert.deepInclude(missing, { _tag: "IoError", code: "ENOENT" })
      assert.isTrue(yield* (yield* Kv.makeReader({ directory: root })).isEmpty)
      assert.deepStrictEqual(NFS.readdirSync(root), [])
      const torn = yield* store({ 1: Buffer.concat([put(1, "a", "1"), put(2, "b", "2").subarray(0, 20)]) })
      const before = tree(torn)
      const reader = yield* Kv.makeReader({ directory: torn })
      assert.deepStrictEqual(yield* entriesOf(reader), [["a", "1"]])
      assert.deepStrictEqual(tree(torn), before)
      const corrupt = yield* Effect.flip(Kv.makeReader({ directory: yield* copyFixture("closed_crc_bad") }))
      assert.strictEqual(corrupt._tag, "CorruptSegment")
    }))
})
