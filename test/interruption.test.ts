/**
 * A fiber is interrupted, or its scope closed, while the disk holds one of its calls: each call of each operation in turn.
 *
 * A call that has begun goes on to its end, as the kernel would; the test only chooses when. Then: whole frames or none,
 * an answer for everyone who waits, the lock free, every descriptor closed, and no temporary file.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Pull, References, Scope, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Disk from "../src/Disk.ts"
import * as Export from "../src/Export.ts"
import type * as Frame from "../src/Frame.ts"
import { mix, seeded } from "../src/internal/simulatedRandom.ts"
import * as Kv from "../src/Kv.ts"
import * as Lock from "../src/Lock.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import * as Salvage from "../src/Salvage.ts"
import { makeDisk } from "../src/testing.ts"
import { type Call, descriptors, FaultyDisk, leftovers, over, text, tree } from "./support/faultyDisk.ts"
import { temporaryDirectory } from "./support/stores.ts"

const large = 300_000
const raw = (payload: string): Log.RecordInput => ({ type: "Raw", payload })
const many = (count: number, length: number): ReadonlyArray<string> =>
  Array.from({ length: count }, (_, at) => String.fromCharCode(97 + at).repeat(length))

const payloads = (log: Pick<Log.Log["Service"], "stream">) =>
  Effect.map(Stream.runCollect(log.stream), (records) => records.map((record) => text(record.payload)!))

/** Nothing here may hang: a promise of an answer is a claim of every test. */
const soon = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.timeoutOrElse(effect, { duration: "10 seconds", orElse: () => Effect.die(new Error("it hangs")) })

/** Long enough that what can run has run. */
const settle = Effect.sleep("2 millis")

const holdable = (call: Call): boolean => call.kind !== "readNow" && call.kind !== "appendNow"

/** Interrupts `run` while the call at `index` from now on is held; what became of it, or `undefined` if it never came. */
const interruptAt = Effect.fnUntraced(function*<A, E, R>(
  disk: FaultyDisk,
  index: number,
  run: Effect.Effect<A, E, R>,
  meanwhile: Effect.Effect<unknown> = Effect.void
) {
  const held = disk.holdCall(disk.calls.length + index)
  const fiber = yield* Effect.forkChild(run, { startImmediately: true })
  yield* soon(Effect.raceFirst(held.reached, Effect.asVoid(Fiber.await(fiber))))
  yield* meanwhile
  const interrupting = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
  yield* settle
  yield* held.release
  yield* soon(Fiber.join(interrupting))
  return yield* soon(Fiber.await(fiber))
})

interface Operation {
  readonly name: string
  readonly options?: Partial<Log.Options>
  readonly attempts: ReadonlyArray<string>
  readonly run: (log: Log.Log["Service"]) => Effect.Effect<unknown, Log.WriteError>
}

const operations: ReadonlyArray<Operation> = [
  { name: "a large append", attempts: ["x".repeat(large)], run: (log) => log.append("x".repeat(large)) },
  { name: "a large batch", attempts: many(24, 100_000), run: (log) => log.appendAll(many(24, 100_000).map(raw)) },
  {
    name: "a batch over several segments",
    options: { segmentSize: 1_000 },
    attempts: many(9, 300),
    run: (log) => log.appendAll(many(9, 300).map(raw))
  },
  {
    name: "an append that rotates",
    options: { segmentSize: 120 },
    attempts: ["y".repeat(100)],
    run: (log) => log.append("y".repeat(100))
  },
  { name: "a rotation", attempts: [], run: (log) => log.rotate },
  { name: "a sync", attempts: [], run: (log) => log.sync },
  {
    name: "a large append that is synced",
    options: { durability: "always" },
    attempts: ["z".repeat(large)],
    run: (log) => log.append("z".repeat(large))
  }
]

const started = Effect.fnUntraced(function*(operation: Operation, root: string) {
  const log = yield* Log.make({ directory: NodePath.join(root, "store"), ...operation.options })
  yield* log.append("one")
  return log
})

const callsOf = (operation: Operation) =>
  Effect.scoped(Effect.gen(function*() {
    const disk = new FaultyDisk()
    return yield* over(disk)(Effect.gen(function*() {
      const log = yield* started(operation, yield* temporaryDirectory)
      const from = disk.calls.length
      yield* operation.run(log)
      return disk.calls.slice(from)
    }))
  }))

/** What is found is what was acknowledged, and whole records of what was attempted, in order. */
const assertKept = (
  found: ReadonlyArray<string>,
  kept: ReadonlyArray<string>,
  operation: Operation,
  exit: Exit.Exit<unknown, unknown>,
  context: string
): void => {
  for (const payload of kept) assert.include(found, payload, context)
  const attempted = found.filter((payload) => !kept.includes(payload))
  assert.deepStrictEqual(attempted, operation.attempts.slice(0, attempted.length), context)
  if (Exit.isSuccess(exit)) assert.strictEqual(attempted.length, operation.attempts.length, context)
}

describe("an interrupted fiber", () => {
  for (const operation of operations) {
    it.live(`${operation.name} that is interrupted anywhere leaves whole frames, and those who wait get their answer`, () =>
      Effect.gen(function*() {
        for (const [index, call] of (yield* callsOf(operation)).entries()) {
          if (!holdable(call)) continue
          const context = `${operation.name}, call ${index} (${call.kind})`
          yield* Effect.scoped(Effect.gen(function*() {
            const root = yield* temporaryDirectory
            const disk = new FaultyDisk()
            const result = yield* over(disk)(Effect.scoped(Effect.gen(function*() {
              const log = yield* started(operation, root)
              const waiting: Array<Fiber.Fiber<unknown, unknown>> = []
              const join = Effect.gen(function*() {
                for (const payload of ["w1", "w2", "w3"]) {
                  waiting.push(yield* Effect.forkChild(log.append(payload), { startImmediately: true }))
                }
                waiting.push(yield* Effect.forkChild(log.sync, { startImmediately: true }))
              })
              const exit = yield* interruptAt(disk, index, operation.run(log), join)
              for (const fiber of waiting) yield* soon(Fiber.join(fiber))
              assert.isUndefined(yield* log.refusal, context)
              yield* log.append("after")
              yield* log.sync
              const found = yield* payloads(log)
              assertKept(found, ["one", "w1", "w2", "w3", "after"], operation, exit, context)
              return found
            })))
            assert.strictEqual(disk.openDescriptors, 0, context)
            assert.deepStrictEqual(disk.misuse, [], context)
            const log = yield* Log.make({ directory: NodePath.join(root, "store"), policy: "strict" })
            assert.deepStrictEqual(yield* payloads(log), result, context)
          }))
        }
      }))
  }

  it.live("an append that is interrupted while it waits for its turn is never written", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        const held = disk.holdNext("append")
        const first = yield* Effect.forkChild(log.append("f".repeat(large)), { startImmediately: true })
        yield* held.reached
        const second = yield* Effect.forkChild(log.append("never"), { startImmediately: true })
        const third = yield* Effect.forkChild(log.append("third"), { startImmediately: true })
        yield* settle
        yield* Fiber.interrupt(second)
        yield* held.release
        yield* soon(Fiber.join(first))
        assert.strictEqual((yield* soon(Fiber.join(third))).txid, 2)
        assert.deepStrictEqual((yield* payloads(log)).slice(1), ["third"])
      }))
    }))

  it.live("one who waits for a shared fsync may leave: the others, and the next, get theirs", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory, durability: "always" })
        const held = disk.holdNext("sync")
        const starter = yield* Effect.forkChild(log.append("starter"), { startImmediately: true })
        yield* held.reached
        const waiting: Array<Fiber.Fiber<Log.RecordRef, Log.WriteError>> = []
        for (let at = 0; at < 6; at++) {
          waiting.push(yield* Effect.forkChild(log.append(`${at}`), { startImmediately: true }))
        }
        yield* settle
        // Waiting is not a call to the disk: these go at once, while the fsync is still held.
        yield* soon(Fiber.interrupt(starter))
        yield* soon(Fiber.interrupt(waiting[0]!))
        yield* soon(Fiber.interrupt(waiting[5]!))
        yield* held.release
        for (const at of [1, 2, 3, 4]) yield* soon(Fiber.join(waiting[at]!))
        assert.strictEqual(disk.count("sync"), 2)
        yield* log.append("last")
        assert.deepStrictEqual(yield* payloads(log), ["starter", "0", "1", "2", "3", "4", "5", "last"])
      }))
    }))

  it.live("syncs are answered however often the fibers yield", () =>
    Effect.gen(function*() {
      // Below 3 no fiber gets anywhere. Which number meets a gap depends on how many steps the code before it takes.
      for (let ops = 3; ops < 20; ops++) {
        yield* Effect.gen(function*() {
          const log = yield* Log.make({ directory: yield* temporaryDirectory, durability: "always" })
          yield* Effect.forEach(
            Array.from({ length: 20 }, (_, fiber) => fiber),
            (fiber) =>
              Effect.forEach(Array.from({ length: 10 }, (_, at) => at), (at) => log.append(`${fiber}-${at}`), {
                discard: true
              }),
            { concurrency: "unbounded", discard: true }
          )
          assert.strictEqual((yield* log.end).txid, 200)
        }).pipe(Effect.scoped, Effect.provideService(References.MaxOpsBeforeYield, ops))
      }
    }))

  it.live("a modify that is interrupted while it writes or waits leaves the store working", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
        const held = disk.holdNext("append")
        const first = yield* Effect.forkChild(kv.modify("k", () => [0, "m".repeat(large)]), { startImmediately: true })
        yield* held.reached
        const second = yield* Effect.forkChild(kv.modify("k", () => [0, "second"]), { startImmediately: true })
        const third = yield* Effect.forkChild(kv.put("other", "third"), { startImmediately: true })
        const fourth = yield* Effect.forkChild(kv.modify("other", (value) => [text(value), "fourth"]), {
          startImmediately: true
        })
        yield* settle
        const interrupting = yield* Effect.forkChild(Fiber.interruptAll([first, second]), { startImmediately: true })
        yield* settle
        yield* held.release
        yield* soon(Fiber.join(interrupting))
        yield* soon(Fiber.join(third))
        assert.strictEqual(yield* soon(Fiber.join(fourth)), "third")
        assert.strictEqual((yield* kv.get("k"))?.length, large)
        assert.strictEqual(text(yield* kv.get("other")), "fourth")
        yield* kv.put("k", "v")
        assert.strictEqual(text(yield* kv.get("k")), "v")
      }))
    }))
})

interface Outing {
  readonly name: string
  readonly run: (kv: Kv.Kv["Service"], target: string) => Effect.Effect<unknown, unknown>
  readonly whole: (target: string) => Effect.Effect<void, unknown, Scope.Scope>
}

const pairs: ReadonlyArray<readonly [string, string]> = [["a", "1"], ["b", "b".repeat(large)], ["c", "3"]]

const line = ([key, value]: readonly [string, string]): string =>
  `{"key_b64":"${Buffer.from(key).toString("base64")}","value_b64":"${Buffer.from(value).toString("base64")}"}\n`

const outings: ReadonlyArray<Outing> = [
  {
    name: "a compaction",
    run: (kv, target) => kv.compactTo(target),
    whole: Effect.fnUntraced(function*(target) {
      const kv = yield* Kv.makeReader({ directory: target })
      for (const [key, value] of pairs) assert.strictEqual(text(yield* kv.get(key)), value)
    })
  },
  {
    name: "an export",
    run: (kv, target) => Export.toFile(kv, target),
    whole: (target) => Effect.sync(() => assert.strictEqual(NFS.readFileSync(target, "utf8"), pairs.map(line).join("")))
  }
]

/** Three segments, two of them not yet open for reading. */
const filledKv = Effect.fnUntraced(function*(root: string) {
  const directory = NodePath.join(root, "store")
  yield* Effect.scoped(Effect.gen(function*() {
    const kv = yield* Kv.make({ directory, segmentSize: 1_000 })
    yield* kv.putMany(pairs)
  }))
  return yield* Kv.make({ directory, segmentSize: 1_000 })
})

describe("an interrupted compaction or export", () => {
  for (const outing of outings) {
    it.live(`${outing.name} that is interrupted anywhere leaves its target whole or absent, and nothing beside it`, () =>
      Effect.gen(function*() {
        const dry = new FaultyDisk()
        yield* Effect.scoped(
          over(dry)(Effect.gen(function*() {
            const root = yield* temporaryDirectory
            const kv = yield* filledKv(root)
            dry.calls.length = 0
            yield* outing.run(kv, NodePath.join(root, "out", "deep", "target"))
          }))
        )
        const calls = dry.calls.slice(0, dry.calls.findLastIndex((call) => call.kind === "syncDirectory") + 2)
        const renamed = calls.findIndex((call) => call.kind === "rename")
        const left: Array<string> = []
        for (const [index, call] of calls.entries()) {
          if (!holdable(call)) continue
          const context = `${outing.name}, call ${index} (${call.kind} ${NodePath.basename(call.path)})`
          yield* Effect.scoped(Effect.gen(function*() {
            const root = yield* temporaryDirectory
            const disk = new FaultyDisk()
            const target = NodePath.join(root, "out", "deep", "target")
            yield* over(disk)(Effect.scoped(Effect.gen(function*() {
              const kv = yield* filledKv(root)
              const before = tree(NodePath.join(root, "store"))
              yield* interruptAt(disk, index, outing.run(kv, target))
              if (leftovers(root).length > 0) left.push(context)
              if (NFS.existsSync(target)) {
                assert.isAtLeast(index, renamed, context)
                yield* Effect.scoped(outing.whole(target))
              }
              assert.deepStrictEqual(tree(NodePath.join(root, "store")), before, context)
              yield* kv.put("d", "4")
            })))
            assert.strictEqual(disk.openDescriptors, 0, context)
            assert.deepStrictEqual(disk.misuse, [], context)
          }))
        }
        assert.deepStrictEqual(left, [], "interrupted here, it left a temporary file")
      }))

    it.live(`${outing.name} that is interrupted at any time leaves its target whole or absent`, () =>
      Effect.gen(function*() {
        for (let turns = 0; turns < 30; turns++) {
          yield* Effect.scoped(Effect.gen(function*() {
            const root = yield* temporaryDirectory
            const target = NodePath.join(root, "target")
            const disk = new FaultyDisk()
            yield* over(disk)(Effect.scoped(Effect.gen(function*() {
              const kv = yield* filledKv(root)
              const fiber = yield* Effect.forkChild(outing.run(kv, target), { startImmediately: true })
              for (let turn = 0; turn < turns; turn++) yield* Effect.promise(() => new Promise(setImmediate))
              yield* soon(Fiber.interrupt(fiber))
              assert.deepStrictEqual(leftovers(root), [], `after ${turns} turns`)
              if (NFS.existsSync(target)) yield* Effect.scoped(outing.whole(target))
            })))
            assert.strictEqual(disk.openDescriptors, 0)
          }))
        }
      }))
  }

  it.live("an import whose last lines wait for another's turn can leave, whatever its input ends in", () =>
    Effect.gen(function*() {
      const last = line(["a", "1"])
      const inputs = [last, last.trimEnd(), `${last}nonsense`, `${last}nonsense\n`]
      for (const input of inputs) {
        const directory = yield* temporaryDirectory
        yield* Effect.scoped(Effect.gen(function*() {
          const kv = yield* Kv.make({ directory })
          const importing = yield* Deferred.make<Fiber.Fiber<unknown, unknown>>()
          yield* soon(kv.modifyEffect("held", () =>
            Effect.gen(function*() {
              const fiber = yield* Effect.forkIn(Export.fromLines(kv, Stream.make(input)), yield* Effect.scope)
              yield* Deferred.succeed(importing, fiber)
              yield* settle
              yield* Fiber.interrupt(fiber)
              return ["answer", "value"] as const
            })))
          const exit = yield* soon(Effect.flatMap(Deferred.await(importing), Fiber.await))
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause), JSON.stringify(input))
          yield* kv.put("after", "1")
          assert.isUndefined(yield* kv.get("a"))
        }))
      }
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None")))

  it.live("an import that is interrupted anywhere leaves a prefix of its lines, whole", () =>
    Effect.gen(function*() {
      const values = many(26, 100_000).map((value, at) => [`${at}`, value] as const)
      const input = Stream.fromIterable(values.map((pair) => Buffer.from(line(pair))))
      const dry = new FaultyDisk()
      yield* Effect.scoped(
        over(dry)(Effect.gen(function*() {
          const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
          dry.calls.length = 0
          yield* Export.fromLines(kv, input)
        }))
      )
      for (const [index, call] of dry.calls.entries()) {
        if (!holdable(call) || call.kind === "close") continue
        yield* Effect.scoped(Effect.gen(function*() {
          const directory = yield* temporaryDirectory
          const disk = new FaultyDisk()
          yield* over(disk)(Effect.scoped(Effect.gen(function*() {
            const kv = yield* Kv.make({ directory })
            yield* interruptAt(disk, index, Export.fromLines(kv, input))
            yield* kv.put("after", "1")
            yield* kv.sync
          })))
          assert.strictEqual(disk.openDescriptors, 0)
          const kv = yield* Kv.make({ directory, policy: "strict" })
          const size = (yield* kv.size) - 1
          for (const [key, value] of values.slice(0, size)) assert.strictEqual(text(yield* kv.get(key)), value)
          assert.strictEqual(text(yield* kv.get("after")), "1")
        }))
      }
    }))
})

interface State {
  readonly name: string
  readonly tail: Buffer
  readonly missing?: boolean
  /** What an earlier writer left in the lock file. */
  readonly note?: string
}

const states: ReadonlyArray<State> = [
  { name: "a new directory", tail: Buffer.alloc(0), missing: true },
  { name: "a store", tail: Buffer.alloc(0) },
  { name: "a store with a torn tail", tail: Buffer.from("DWAL\x01\x00\x00\x00\x04\x00\x00") },
  { name: "a store with a tail of zeros", tail: Buffer.alloc(3_000) },
  { name: "a store whose last fsync failed", tail: Buffer.alloc(0), note: "1\nunsynced 1 0\n" }
]

const prepare = Effect.fnUntraced(function*(state: State, directory: string) {
  if (state.missing === true) return
  yield* Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory })
    yield* log.append("one")
    yield* log.rotate
    yield* log.append("two")
  }))
  NFS.appendFileSync(NodePath.join(directory, "00000002.dwal"), state.tail)
  if (state.note !== undefined) NFS.writeFileSync(NodePath.join(directory, ".lock"), state.note)
})

/** What opening asks of the disk. */
const callsOfOpening = (state: State) =>
  Effect.scoped(Effect.gen(function*() {
    const disk = new FaultyDisk()
    const directory = NodePath.join(yield* temporaryDirectory, "a", "store")
    yield* prepare(state, directory)
    yield* over(disk)(Log.make({ directory }))
    return disk.calls.slice()
  }))

/** Closes the scope in which `run` opens a store while the call at `index` is held; what became of the opening. */
const closeAt = Effect.fnUntraced(function*<A, E, R>(
  disk: FaultyDisk,
  index: number,
  scope: Scope.Closeable,
  run: Effect.Effect<A, E, R>,
  meanwhile: Effect.Effect<unknown>
) {
  const held = disk.holdCall(disk.calls.length + index)
  const fiber = yield* Effect.forkChild(run, { startImmediately: true })
  yield* soon(held.reached)
  const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
  yield* settle
  yield* meanwhile
  yield* held.release
  yield* soon(Fiber.join(closing))
  return yield* soon(Fiber.await(fiber))
})

describe("an interrupted opening", () => {
  it.live("in a scope that has closed does not begin", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const scope = yield* Scope.make()
      yield* Scope.close(scope, Exit.void)
      const options = { directory: NodePath.join(root, "store") }
      for (const opening of [Log.make(options), Kv.make(options), Kv.makeReader({ directory: root })]) {
        const exit = yield* soon(Effect.exit(Scope.provide<unknown, unknown, Scope.Scope>(opening, scope)))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      }
      assert.deepStrictEqual(NFS.readdirSync(root), [])
    }))

  it.live("ends also when the scope closes just before it begins", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      // Fibers yield at each 2,048th step, so one of these numbers meets each gap.
      for (let before = 1_980; before < 2_050; before++) {
        const scope = yield* Scope.make()
        const busy = Effect.gen(function*() {
          for (let at = 0; at < before; at++) yield* Effect.sync(() => {})
        })
        const opening = yield* Effect.forkChild(Effect.andThen(busy, Scope.provide(Log.make({ directory }), scope)))
        const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
        yield* soon(Fiber.join(closing))
        assert.isTrue(Exit.isFailure(yield* soon(Fiber.await(opening))), `${before} steps`)
      }
    }))

  it.live("that waits for the lock ends with its scope", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Lock.acquire(directory)
      const closed = Effect.scoped(Effect.gen(function*() {
        const opening = yield* Effect.forkScoped(Log.make({ directory, waitForLock: "1 hour" }))
        yield* settle
        return opening
      }))
      const exit = yield* soon(Effect.flatMap(closed, Fiber.await))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
    }))

  for (const state of states) {
    it.live(`opening ${state.name}: a scope that closes anywhere in it waits for it, and lets go of the lock then`, () =>
      Effect.gen(function*() {
        const calls = yield* callsOfOpening(state)
        const locked = calls.findIndex(({ kind }) => kind === "tryLock")
        for (const [index, call] of calls.entries()) {
          if (!holdable(call)) continue
          const context = `${state.name}, call ${index} (${call.kind} ${NodePath.basename(call.path)})`
          yield* Effect.scoped(Effect.gen(function*() {
            const directory = NodePath.join(yield* temporaryDirectory, "a", "store")
            yield* prepare(state, directory)
            const disk = new FaultyDisk()
            const scope = yield* Scope.make()
            const isLocked = Effect.gen(function*() {
              const exit = yield* Effect.exit(Effect.scoped(Lock.acquire(directory)))
              if (index > locked) assert.isTrue(Exit.isFailure(exit), `${context}: the lock is free`)
            })
            const run = over(disk)(Scope.provide(Log.make({ directory }), scope))
            const exit = yield* closeAt(disk, index, scope, run, isLocked)
            assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause), context)
            assert.strictEqual(disk.openDescriptors, 0, context)
            assert.deepStrictEqual(disk.misuse, [], context)
            const log = yield* Log.make({ directory })
            assert.deepStrictEqual(yield* payloads(log), state.missing === true ? [] : ["one", "two"], context)
          }))
        }
      }))

    it.live(`opening ${state.name}, interrupted anywhere, holds nothing, and the next open finds everything`, () =>
      Effect.gen(function*() {
        const leaks: Array<string> = []
        for (const [index, call] of (yield* callsOfOpening(state)).entries()) {
          if (!holdable(call)) continue
          const context = `${state.name}, call ${index} (${call.kind} ${NodePath.basename(call.path)})`
          yield* Effect.scoped(Effect.gen(function*() {
            const root = yield* temporaryDirectory
            const directory = NodePath.join(root, "a", "store")
            yield* prepare(state, directory)
            const disk = new FaultyDisk()
            const scope = yield* Scope.make()
            const exit = yield* interruptAt(disk, index, over(disk)(Scope.provide(Log.make({ directory }), scope)))
            if (Exit.isSuccess(exit)) yield* Scope.close(scope, Exit.void)
            // Else the scope is still open, and holds nothing.
            if (disk.openDescriptors !== 0) leaks.push(context)
            assert.deepStrictEqual(disk.misuse, [], context)
            yield* Effect.scoped(Lock.acquire(directory))
            for (const name of NFS.readdirSync(directory).filter((name) => name.endsWith(".torn"))) {
              assert.deepStrictEqual(NFS.readFileSync(NodePath.join(directory, name)), state.tail, context)
            }
            const log = yield* Log.make({ directory })
            const records = state.missing === true ? [] : ["one", "two"]
            assert.deepStrictEqual(yield* payloads(log), records, context)
            assert.strictEqual((yield* log.append("next")).txid, records.length + 1, context)
            yield* Scope.close(scope, Exit.void)
          }))
        }
        assert.deepStrictEqual(leaks, [], "interrupted here, it kept a descriptor")
      }))
  }

  it.live("an opening that looks through a long tail ends at its next read", () =>
    Effect.gen(function*() {
      for (const fill of [0, 1]) {
        const directory = yield* temporaryDirectory
        yield* prepare({ name: "a long tail", tail: Buffer.alloc(20 * 262_144, fill).fill(0, 0, 1_000) }, directory)
        const path = NodePath.join(directory, "00000002.dwal")
        const before = NFS.readFileSync(path)
        const names = NFS.readdirSync(directory)
        const opening = Effect.scoped(Log.make({ directory }))
        const dry = new FaultyDisk()
        yield* Effect.scoped(Effect.gen(function*() {
          const copy = NodePath.join(yield* temporaryDirectory, "copy")
          NFS.cpSync(directory, copy, { recursive: true })
          yield* over(dry)(Effect.scoped(Log.make({ directory: copy })))
        }))
        const cut = dry.calls.findIndex((call) => call.kind === "truncate")
        const reads = dry.calls.flatMap((call, index) => call.kind === "read" && index < cut ? [index] : [])
        assert.isAtLeast(reads.length, 8, "there is a way to go")
        for (const index of reads.slice(0, -1)) {
          const disk = new FaultyDisk()
          const exit = yield* interruptAt(disk, index, over(disk)(opening))
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause), `read ${index}`)
          const after = disk.calls.slice(index + 1).filter((call) => call.kind === "read" || call.kind === "truncate")
          assert.deepStrictEqual(after, [], `read ${index}`)
          assert.deepStrictEqual(NFS.readdirSync(directory), names, `read ${index}`)
        }
        assert.isTrue(NFS.readFileSync(path).equals(before), "nothing was cut")
      }
    }))

  it.live("one who waits for the lock can leave, keeps nothing, and does not take it later", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      const holder = yield* Scope.make()
      yield* Scope.provide(Lock.acquire(directory), holder)
      const fiber = yield* Effect.forkChild(
        over(disk)(Effect.scoped(Effect.andThen(Log.make({ directory, waitForLock: "1 minute" }), Effect.never))),
        { startImmediately: true }
      )
      while (disk.count("tryLock") < 2) yield* Effect.sleep("1 millis")
      yield* soon(Fiber.interrupt(fiber))
      assert.strictEqual(disk.openDescriptors, 0)
      const asked = disk.count("tryLock")
      yield* Scope.close(holder, Exit.void)
      yield* Effect.sleep("20 millis")
      assert.strictEqual(disk.count("tryLock"), asked)
      assert.strictEqual((yield* (yield* Log.make({ directory })).append("free")).txid, 1)
    }))

  it.live("a stream that is left early, or interrupted while it reads, closes its files", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Log.make({ directory, chunkSize: 100, segmentSize: 2_000 })
        yield* log.appendAll(many(26, 150).map(raw))
        const open = disk.openDescriptors
        assert.strictEqual((yield* Stream.runCollect(Stream.take(log.stream, 2))).length, 2)
        assert.strictEqual(disk.openDescriptors, open)
        for (let index = 0; index < 12; index++) {
          yield* interruptAt(disk, index, Stream.runDrain(log.stream))
          assert.strictEqual(disk.openDescriptors, open, `call ${index}`)
        }
        const reader = yield* Reader.make({ directory })
        const both = disk.openDescriptors
        for (let index = 0; index < 8; index++) {
          yield* interruptAt(disk, index, reader.inspect())
          assert.strictEqual(disk.openDescriptors, both, `call ${index}`)
        }
      }))
      assert.deepStrictEqual(disk.misuse, [])
    }))

  it.live("a failure, a defect and an interruption in the scope all let go of the lock and of every descriptor", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const ours = () => descriptors().filter((path) => path.startsWith(directory)).length
      const use = (end: Effect.Effect<never, string>) =>
        Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          yield* log.append("one")
          assert.isAtLeast(ours(), 2)
          return yield* end
        }))
      for (const end of [Effect.fail("failed"), Effect.die("defect"), Effect.interrupt]) {
        const exit = yield* Effect.exit(use(end))
        assert.isTrue(Exit.isFailure(exit))
        assert.strictEqual(ours(), 0)
        yield* Effect.scoped(Lock.acquire(directory))
      }
      assert.strictEqual((yield* Effect.scoped(Log.make({ directory }))).report.records_replayed, 3)
    }))
})

describe("a scope that closes while work is in flight", () => {
  for (const operation of operations) {
    it.live(`${operation.name}: every fiber gets an answer, and no byte lands once the scope has closed`, () =>
      Effect.gen(function*() {
        for (const [index, call] of (yield* callsOf(operation)).entries()) {
          if (!holdable(call)) continue
          const context = `${operation.name}, call ${index} (${call.kind})`
          yield* Effect.scoped(Effect.gen(function*() {
            const root = yield* temporaryDirectory
            const disk = new FaultyDisk()
            const scope = yield* Scope.make()
            const log = yield* over(disk)(Scope.provide(started(operation, root), scope))
            const held = disk.holdCall(disk.calls.length + index)
            const main = yield* Effect.forkChild(Effect.exit(operation.run(log)), { startImmediately: true })
            yield* soon(Effect.raceFirst(held.reached, Effect.asVoid(Fiber.await(main))))
            const waiting: Array<Fiber.Fiber<Exit.Exit<unknown, Log.WriteError>>> = []
            for (const run of [log.append("w1"), log.append("w".repeat(large)), log.sync, log.rotate]) {
              waiting.push(
                yield* Effect.forkChild(Effect.exit(run as Effect.Effect<unknown, Log.WriteError>), {
                  startImmediately: true
                })
              )
            }
            const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
            yield* settle
            yield* held.release
            yield* soon(Fiber.join(closing))
            const left = tree(root)
            assert.strictEqual(disk.openDescriptors, 0, context)
            const exits = [yield* soon(Fiber.join(main)), ...yield* soon(Fiber.joinAll(waiting))]
            for (const exit of exits) {
              if (Exit.isSuccess(exit)) continue
              const error = Cause.squash(exit.cause) as { readonly _tag: string; readonly code: string }
              assert.deepInclude(error, { _tag: "IoError", code: "EBADF" }, context)
            }
            yield* settle
            assert.deepStrictEqual(tree(root), left, context)
            assert.deepStrictEqual(disk.misuse, [], context)
            const again = yield* Log.make({ directory: NodePath.join(root, "store"), policy: "strict" })
            const found = yield* payloads(again)
            if (Exit.isSuccess(exits[1]!)) assert.include(found, "w1", context)
            if (Exit.isSuccess(exits[2]!)) assert.include(found, "w".repeat(large), context)
            if (Exit.isSuccess(exits[0]!)) {
              for (const each of operation.attempts) assert.include(found, each, context)
            }
          }))
        }
      }))
  }

  it.live("a store that closes while values are read in the pool closes no descriptor under them", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const disk = new FaultyDisk()
      const scope = yield* Scope.make()
      const kv = yield* over(disk)(Scope.provide(filledKv(root), scope))
      const held = disk.holdNext("read")
      const reading = yield* Effect.forkChild(Effect.exit(kv.get("b")), { startImmediately: true })
      yield* held.reached
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* settle
      yield* held.release
      yield* soon(Fiber.join(closing))
      const exit = yield* soon(Fiber.join(reading))
      if (Exit.isSuccess(exit)) assert.strictEqual(exit.value?.length, large)
      yield* settle
      assert.strictEqual(disk.openDescriptors, 0)
      assert.deepStrictEqual(disk.misuse, [])
    }))

  it.live("a layer that is released while a large append runs waits for it", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      const held = disk.holdNext("append")
      const program = Effect.gen(function*() {
        const log = yield* Log.Log
        yield* Effect.forkDetach(Effect.exit(log.append("q".repeat(large))), { startImmediately: true })
        yield* held.reached
      })
      const running = yield* Effect.forkChild(
        over(disk)(Effect.provide(program, Layer.fresh(Log.layer({ directory })))),
        { startImmediately: true }
      )
      yield* held.reached
      yield* settle
      assert.isUndefined(running.pollUnsafe())
      yield* held.release
      yield* soon(Fiber.join(running))
      assert.strictEqual(disk.openDescriptors, 0)
      const log = yield* Log.make({ directory, policy: "strict" })
      assert.deepStrictEqual(yield* payloads(log), ["q".repeat(large)])
    }))
})

// Of Effect's own operators none asks a source again whose answer it has interrupted; a program that times pulls does.
describe("a pull that is interrupted, and asked for again", () => {
  const count = 60
  const key = (at: number): string => `key ${String(at).padStart(3, "0")}`

  /** What all pulls give, most of which are interrupted at some step of theirs. */
  const pulled = Effect.fnUntraced(function*<A, E>(stream: Stream.Stream<A, E>, pick: (count: number) => number) {
    const pull = yield* Stream.toPull(stream)
    const given: Array<A> = []
    for (;;) {
      const fiber = yield* Effect.forkChild(pull, { startImmediately: true })
      if (pick(8) > 0) {
        for (let left = pick(12); left > 0; left--) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
      }
      const exit = yield* Fiber.await(fiber)
      if (Exit.isSuccess(exit)) given.push(...exit.value)
      else if (!Cause.hasInterrupts(exit.cause)) {
        assert.isTrue(Pull.isDoneCause(exit.cause), Cause.pretty(exit.cause))
        return given
      }
    }
  })

  it.effect("loses nothing, gives nothing twice and keeps the order, whatever is read", () =>
    Effect.gen(function*() {
      for (let seed = 1; seed <= 12; seed++) {
        const pick = seeded(mix(seed, 3))
        const disk = makeDisk({ seed, shuffle: true, directories: ["/s"] })
        const options = {
          directory: "/s",
          segmentSize: [2_000, 9_000, 10_000_000][seed % 3],
          chunkSize: 100 + pick(4_000)
        }
        yield* Effect.scoped(Effect.gen(function*() {
          const { kv, log } = yield* Kv.makeWithLog({ ...options, cacheSize: 0 })
          const reader = yield* Reader.make(options)
          yield* kv.putMany(
            Array.from({ length: count }, (_, at) =>
              [key(at), "v".repeat(at === 20 ? large : pick(4) === 0 ? 3_000 : pick(200))] as const)
          )
          const txids = Array.from({ length: count }, (_, at) =>
            at + 1)
          const records = [log.stream, log.streamFrom({ txid: 1 }), reader.stream, Salvage.records("/s")]
          const growing = [log.follow({ txid: 1 }), reader.follow({ txid: 1 })].map(Stream.take(count))
          for (const [at, stream] of [...records, ...growing].entries()) {
            const given = yield* pulled<Frame.LogRecord, unknown>(stream, pick)
            assert.deepStrictEqual(given.map(({ txid }) => txid), txids, `seed ${seed}, stream ${at}`)
          }
          const keys = txids.map((txid) => key(txid - 1))
          const entries = yield* pulled(kv.entries({ ordered: true }), pick)
          assert.deepStrictEqual(entries.map((entry) => text(entry.key)), keys, `seed ${seed}`)
          const all = yield* pulled(kv.keys({ ordered: true }), pick)
          assert.deepStrictEqual(all.map((key) => text(key)), keys, `seed ${seed}`)
          const lines = (yield* pulled(Export.toLines(kv), pick)).join("")
          assert.deepStrictEqual(
            lines.match(/"key_b64":"[^"]+"/g)?.map((line) => Buffer.from(line.slice(11, -1), "base64").toString()),
            keys,
            `seed ${seed}`
          )
        })).pipe(Effect.provideService(Disk.Disk, disk.service))
      }
    }))
})
