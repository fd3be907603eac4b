/**
 * Callers who change the memory they gave before a call has ended, run an effect twice, or bring a disk that throws:
 * at worst their own call fails. The log stays whole, and the index what the log says.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, type Scope, Stream } from "effect"
import { vi } from "vitest"
import * as Disk from "../src/Disk.ts"
import { Keydir } from "../src/internal/keydir.ts"
import { Projection } from "../src/internal/projection.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import { FaultyDisk, over, overInTurns, text } from "./support/faultyDisk.ts"
import { temporaryDirectory } from "./support/stores.ts"

const large = Disk.blocking_bytes_max + 1

const records = (directory: string) =>
  Effect.scoped(Effect.flatMap(Log.make({ directory, policy: "strict" }), ({ stream }) => Stream.runCollect(stream)))

const raw = (payload: string) => ({ type: "Raw", payload }) as const

/** Bytes that can be taken away, or be made more or less. */
const resizable = (length: number, most = length) => {
  // Of ES2024, which Node 20 has already.
  const buffer: ArrayBuffer & { readonly resize: (length: number) => void } = Reflect.construct(ArrayBuffer, [
    length,
    { maxByteLength: most }
  ])
  return { bytes: new Uint8Array(buffer).fill(7), buffer }
}

describe("memory that is resized while its record waits", () => {
  const waits = [
    { name: "a small one", length: 1_000 },
    { name: "a large one", length: large }
  ]
  for (const { length, name } of waits) {
    it.live(`${name}, to less: a whole record is written, or none`, () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        yield* Effect.scoped(Effect.gen(function*() {
          const kv = yield* Kv.make({ directory, segmentSize: 4_096 })
          yield* kv.put("first", new Uint8Array(4_000))
          const { buffer, bytes } = resizable(length)
          // It needs a rotation first.
          const put = yield* Effect.forkChild(kv.put("key", bytes), { startImmediately: true })
          buffer.resize(100)
          assert.strictEqual((yield* Fiber.join(put)).len, 100 + 28 + 3)
          yield* kv.put("later", "acknowledged")
          yield* kv.sync
        }))
        assert.deepStrictEqual((yield* records(directory)).map(({ payload }) => payload.length), [4_000, 100, 12])
      }))
  }

  it.live("a key that is taken away leaves a record without one", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory, segmentSize: 4_096 })
        yield* log.append(new Uint8Array(4_060))
        const key = new Uint8Array(20)
        const append = yield* Effect.forkChild(log.appendRecord({ type: "Raw", key, payload: "one" }), {
          startImmediately: true
        })
        structuredClone(key.buffer, { transfer: [key.buffer] })
        assert.strictEqual((yield* Fiber.join(append)).len, 31)
        yield* log.append("later")
        yield* log.sync
      }))
      assert.deepStrictEqual((yield* records(directory)).map(({ payload }) => payload.length), [4_060, 3, 5])
    }))

  it.live("to more than a record may have: that call is refused, alone or in a batch", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const directory = yield* temporaryDirectory
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        const held = disk.holdNext("append")
        const first = yield* Effect.forkChild(log.append(new Uint8Array(large)), { startImmediately: true })
        yield* held.reached
        const { buffer, bytes: key } = resizable(20, 100_000)
        const record = { type: "Raw", key, payload: "" } as const
        const waiting = yield* Effect.forkChild(
          Effect.all([
            Effect.exit(Effect.asVoid(log.appendRecord(record))),
            Effect.exit(Effect.asVoid(log.appendAll([raw("before"), record, raw("behind")])))
          ], { concurrency: "unbounded" }),
          { startImmediately: true }
        )
        buffer.resize(100_000)
        yield* held.release
        yield* Fiber.join(first)
        for (const exit of yield* Fiber.join(waiting)) {
          assert.isTrue(Exit.isFailure(exit))
          assert.deepInclude(Exit.isFailure(exit) ? Cause.squash<unknown>(exit.cause) : undefined, {
            _tag: "LimitExceeded",
            limit: "key",
            actual: 100_000
          })
        }
        yield* log.append("later")
        yield* log.sync
      })))
      const found = yield* records(directory)
      assert.deepStrictEqual(found.slice(1).map(({ payload }) => text(payload)), ["before", "later"])
    }))
})

describe("a key whose memory is used again", () => {
  for (const checkpoint of ["always", "never"] as const) {
    it.live(`while its large value is written: the index has what the log has, checkpoint ${checkpoint}`, () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const check = (kv: Kv.KvService) =>
          Effect.gen(function*() {
            assert.strictEqual((yield* kv.get("key-A"))?.length, large)
            assert.strictEqual(text(yield* kv.get("key-B")), "of B")
          })
        yield* Effect.scoped(Effect.gen(function*() {
          const kv = yield* Kv.make({ directory, checkpoint })
          yield* kv.put("key-B", "of B")
          const scratch = Buffer.from("key-A")
          const put = yield* Effect.forkChild(kv.put(scratch, new Uint8Array(large)), { startImmediately: true })
          scratch.write("key-B")
          yield* Fiber.join(put)
          yield* check(kv)
        }))
        yield* Effect.scoped(Effect.flatMap(Kv.make({ directory, checkpoint }), check))
      }))
  }

  it.live("while its large value is read, or about to be modified: it is the key that was asked for", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* kv.putMany([["key-A", new Uint8Array(large)], ["key-B", "of B"]])
      const scratch = Buffer.from("key-A")
      const used = <A, E>(effect: Effect.Effect<A, E>) =>
        Effect.gen(function*() {
          scratch.write("key-A")
          const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
          scratch.write("key-B")
          return yield* Fiber.join(fiber)
        })
      assert.strictEqual((yield* used(kv.get(scratch)))?.length, large)
      assert.strictEqual((yield* used(kv.getMany([scratch])))[0]?.length, large)
      yield* used(kv.modify(scratch, (value) => [value?.length, "less"]))
      assert.strictEqual(text(yield* kv.get("key-A")), "less")
      assert.strictEqual(text(yield* kv.get("key-B")), "of B")
    }))
})

describe("a Buffer that is written", () => {
  it.live("and used again: what an observer has copied of it stays, and so does a new index", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize: 1_000 })
      yield* log.appendAll(Array.from({ length: 200 }, (_, at) => ({ type: "Put", key: `${at}`, payload: "1" })))
      const kept: Array<Uint8Array> = []
      yield* log.observe(({ key, payload }) => {
        kept.push(key.slice(), payload.slice())
      })
      const scratch = Buffer.from("early")
      const making = yield* Effect.forkChild(Effect.provideService(Kv.makeLog, Log.Log, log), {
        startImmediately: true
      })
      // The index is still being built of what was there before.
      assert.isUndefined(making.pollUnsafe())
      yield* log.appendRecord({ type: "Put", key: scratch, payload: scratch })
      scratch.write("later")
      assert.deepStrictEqual(kept.map((bytes) => text(bytes)), ["early", "early"])
      assert.strictEqual(text(yield* (yield* Fiber.join(making)).get("early")), "early")
    }))
})

describe("an effect that is run twice", () => {
  it.live("dies of what an iterator throws, each time", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      const put = kv.putMany(function*() {
        yield ["a", "1"] as const
        throw new Error("no more")
      }())
      for (let run = 0; run < 2; run++) {
        const exit = yield* Effect.exit(put)
        assert.isTrue(Exit.hasDies(exit))
      }
      assert.isTrue(yield* kv.isEmpty)
    }))

  it.live("does the same for an iterator, which can be gone through once", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      const entries = new Map([["a", "1"], ["b", "2"]])
      const put = kv.putMany(entries.entries())
      assert.strictEqual((yield* put).length, 2)
      assert.strictEqual((yield* put).length, 2)
      const get = kv.getMany(entries.keys())
      for (let run = 0; run < 2; run++) {
        assert.deepStrictEqual((yield* get).map((value) => text(value)), ["1", "2"])
      }
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      const append = log.appendAll(function*() {
        yield { type: "Raw" as const, payload: "one" }
      }())
      yield* append
      yield* append
      assert.strictEqual((yield* Stream.runCollect(log.stream)).length, 2)
    }))

  it.live("sees what a collection has by then", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      const entries = new Map([["a", "1"]])
      const put = kv.putMany(entries)
      yield* put
      entries.set("b", "2")
      assert.strictEqual((yield* put).length, 2)
    }))
})

describe("keys whose memory is used again while they are looked for", () => {
  // More than are looked for in one step.
  const numbers = Array.from({ length: 3_000 }, (_, at) => at)

  it.live("in a step that others come into: their values are those of the keys that were asked for", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* overInTurns(new FaultyDisk())(Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        yield* kv.putMany([["a", "1"], ["b", "2"]])
        const key = Uint8Array.of(97)
        const getting = yield* Effect.forkChild(kv.getMany([key]), { startImmediately: true })
        key[0] = 98
        assert.deepStrictEqual((yield* Fiber.join(getting)).map((value) => text(value)), ["1"])
      })))
    }))

  it.live("behind a large value that is read: their values are those of the keys that were asked for", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const directory = yield* temporaryDirectory
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        yield* kv.put("large", new Uint8Array(large))
        yield* kv.putMany([["a", "1"], ["b", "2"]])
        const key = Uint8Array.of(97)
        const held = disk.holdNext("read")
        const getting = yield* Effect.forkChild(kv.getMany(["large", ...numbers.map(() => key)]), {
          startImmediately: true
        })
        yield* held.reached
        key[0] = 98
        yield* held.release
        const [first, ...others] = yield* Fiber.join(getting)
        assert.strictEqual(first?.length, large)
        assert.deepStrictEqual(others.map((value) => text(value)), numbers.map(() => "1"))
      })))
    }))

  it.effect("as the prefix of a Stream: it goes on with the keys that were asked for", () =>
    Effect.gen(function*() {
      const kv = yield* Effect.flatMap(temporaryDirectory, (directory) => Kv.make({ directory }))
      const names = (letter: string) => Array.from({ length: 5_000 }, (_, at) => `${letter}${at}`)
      yield* kv.putMany([...names("a"), ...names("b")].map((name) => [name, ""] as const))
      for (const ordered of [true, false]) {
        const prefix = Uint8Array.of(97)
        const found: Array<string> = []
        yield* Stream.runForEachArray(kv.keys({ prefix, ordered }), (keys) =>
          Effect.sync(() => {
            prefix[0] = 98
            for (const key of keys) found.push(text(key) ?? "")
          }))
        assert.deepStrictEqual(found.toSorted(), names("a").toSorted())
      }
    }))
})

describe("an index without room", () => {
  it.live("is asked when the put has its turn: what it cannot take is not written", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const directory = yield* temporaryDirectory
      const hasRoom = vi.spyOn(Projection.prototype, "hasRoom").mockImplementation(function(this: Projection, keys) {
        return this.size + keys <= 3
      })
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        yield* kv.put("a", "1")
        const held = disk.holdNext("append")
        const big = yield* Effect.forkChild(kv.put("big", new Uint8Array(large)), { startImmediately: true })
        yield* held.reached
        const waiting = yield* Effect.forkChild(
          Effect.forEach(["b", "c", "d"], (key) => Effect.exit(Effect.asVoid(kv.put(key, "1"))), {
            concurrency: "unbounded"
          }),
          { startImmediately: true }
        )
        const many = yield* Effect.forkChild(Effect.exit(kv.putMany([["e", "1"], ["f", "1"]])), {
          startImmediately: true
        })
        yield* held.release
        yield* Fiber.join(big)
        assert.deepStrictEqual((yield* Fiber.join(waiting)).map(Exit.isSuccess), [true, false, false])
        assert.isTrue(Exit.isFailure(yield* Fiber.join(many)))
        assert.strictEqual(yield* kv.size, 3)
        assert.strictEqual((yield* kv.statistics).records, 3)
      }))).pipe(Effect.ensuring(Effect.sync(() => hasRoom.mockRestore())))
      assert.strictEqual((yield* records(directory)).length, 3)
    }))

  it.live("for what others have put in the log is an error of every opening, which leaves the log as it was", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const keys = [1, 2, 3, 4].map((byte) => new Uint8Array(5_000).fill(byte))
      const usual = Object.getOwnPropertyDescriptor(Keydir.prototype, "isFull")!
      const hold = (most: number) =>
        Effect.acquireRelease(
          Effect.sync(() =>
            Object.defineProperty(Keydir.prototype, "isFull", {
              configurable: true,
              get(this: Keydir) {
                return this.size >= most
              }
            })
          ),
          () => Effect.sync(() => Object.defineProperty(Keydir.prototype, "isFull", usual))
        )
      const full = <A>(opening: Effect.Effect<A, Kv.OpenError, Scope.Scope>) =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(Effect.scoped(opening))
          assert.isTrue(error._tag === "LimitExceeded" && error.limit === "keys")
          assert.include(error.message, "beside its 3")
        })
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        yield* log.appendAll(keys.map((key) => ({ type: "Put" as const, key, payload: "1" })))
        yield* hold(3)
        yield* full(Kv.fromLog(log))
        yield* full(Kv.makeReader({ directory }))
        assert.strictEqual((yield* log.append("and on")).txid, 5)
      }))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* hold(3)
        yield* full(Kv.make({ directory }))
      }))
      assert.strictEqual((yield* records(directory)).length, 5)
      assert.strictEqual(yield* (yield* Kv.make({ directory })).size, 4)
    }))

  it.live("that fails at a record is not saved: the next opening has it from the log", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory, checkpoint: "always" })
        yield* kv.put("a", "1")
        const set = vi.spyOn(Keydir.prototype, "set").mockImplementationOnce(() => {
          throw new RangeError("no memory")
        })
        const exit = yield* Effect.ensuring(Effect.exit(kv.put("b", "2")), Effect.sync(() => set.mockRestore()))
        assert.isTrue(Exit.hasDies(exit))
        yield* kv.put("c", "3")
      }))
      const kv = yield* Kv.make({ directory, checkpoint: "always" })
      assert.deepStrictEqual((yield* kv.getMany(["a", "b", "c"])).map((value) => text(value)), ["1", "2", "3"])
    }))
})

describe("a disk that throws", () => {
  /** The real disk, each of whose files throws at one call after half of it is done. */
  const throwing = (at: "appendNow" | "append" | "sync"): Disk.DiskService => {
    const { service } = new FaultyDisk()
    let isArmed = true
    const strike = (): void => {
      if (!isArmed) return
      isArmed = false
      throw new Error("mine")
    }
    return {
      ...service,
      open: (path, mode) =>
        Effect.map(service.open(path, mode), (file): Disk.DiskFile => ({
          ...file,
          appendNow: (bytes, start, end) => {
            if (at !== "appendNow" || !isArmed) return file.appendNow(bytes, start, end)
            file.appendNow(bytes, start, start + 10)
            strike()
            return 0
          },
          append: (bytes, start, end) =>
            at === "append"
              ? Effect.andThen(file.append(bytes, start, start + 10), Effect.sync(strike)).pipe(Effect.as(10))
              : file.append(bytes, start, end),
          sync: at === "sync" ? Effect.andThen(Effect.sync(strike), file.sync) : file.sync
        }))
    }
  }
  for (
    const { at, write } of [
      { at: "appendNow", write: (log: Log.LogService) => Effect.asVoid(log.append("torn")) },
      { at: "append", write: (log: Log.LogService) => Effect.asVoid(log.append(new Uint8Array(large))) },
      { at: "sync", write: (log: Log.LogService) => log.sync }
    ] as const
  ) {
    it.live(`at ${at} has failed: nothing is written behind what it left`, () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const log = Log.make({ directory })
        yield* Effect.scoped(Effect.andThen(log, (log) => log.append("one")))
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          if (at === "sync") yield* log.append("two")
          assert.deepInclude(yield* Effect.flip(write(log)), { _tag: "IoError", code: "UNKNOWN" })
          assert.strictEqual((yield* Effect.flip(log.append("behind")))._tag, "WriterPoisoned")
          assert.strictEqual((yield* Effect.flip(log.sync))._tag, "WriterPoisoned")
        })).pipe(Effect.provideService(Disk.Disk, throwing(at)))
        const found = yield* Effect.scoped(Effect.andThen(log, ({ stream }) => Stream.runCollect(stream)))
        assert.deepStrictEqual(found.map(({ payload }) => text(payload)), at === "sync" ? ["one", "two"] : ["one"])
      }))
  }
})
