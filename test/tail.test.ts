/** Following a log: every record once and in order, those that are there and those that come. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, type Duration, Effect, Exit, Fiber, Queue, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Disk from "../src/Disk.ts"
import type * as Errors from "../src/Errors.ts"
import { nodeDisk } from "../src/internal/nodeDisk.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import { startNode } from "./support/child.ts"
import { eventLoopTurn } from "./support/crashModel.ts"
import { FaultyDisk, over, text } from "./support/faultyDisk.ts"
import { numberOf } from "./support/payloads.mjs"
import { temporaryDirectory } from "./support/stores.ts"

const numbers = (count: number, from = 0): ReadonlyArray<number> => Array.from({ length: count }, (_, at) => from + at)

const raw = (payload: string): Log.RecordInput => ({ type: "Raw", payload })

const txids = (records: ReadonlyArray<{ readonly txid: number }>): ReadonlyArray<number> =>
  records.map(({ txid }) => txid)

const large = "x".repeat(Disk.blocking_bytes_max)

describe("of a log that is open for write", () => {
  it.live("gives what is there and what comes, over batches, rotations and large records", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize: 2_000 })
      yield* log.appendAll(numbers(100).map((at) => raw(`${at}`)))
      const following = yield* Effect.forkChild(
        Stream.runCollect(Stream.take(log.follow({ segment: 1, offset: 0 }), 1_202)),
        { startImmediately: true }
      )
      for (const at of numbers(50)) {
        yield* Effect.all(
          [log.append(`${at}`), log.appendAll(numbers(20).map(() => raw("batch"))), log.append(`${at}`)],
          { concurrency: "unbounded" }
        )
        if (at % 7 === 0) yield* log.rotate
        if (at % 5 === 0) yield* Effect.sleep("1 millis")
        if (at === 20 || at === 30) yield* log.append(large)
      }
      assert.deepStrictEqual(txids(yield* Fiber.join(following)), numbers(1_202, 1))
    }))

  // The clock of the test stands still: nothing here waits for time to go by.
  it.effect("from the end on, gives what comes, at once", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      yield* log.append("before")
      const seen = yield* Queue.unbounded<string | undefined>()
      const following = yield* Effect.forkChild(
        Stream.runForEach(log.follow(yield* log.end), ({ payload }) => Queue.offer(seen, text(payload))),
        { startImmediately: true }
      )
      for (const each of ["one", "two", "three"]) {
        yield* log.append(each)
        assert.strictEqual(yield* Queue.take(seen), each)
      }
      yield* Fiber.interrupt(following)
      assert.strictEqual(yield* Queue.size(seen), 0)
    }))

  it.live("from a txid that is still to come, gives that one and what comes behind it", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      const following = yield* Effect.forkChild(Stream.runCollect(Stream.take(log.follow({ txid: 4 }), 2)), {
        startImmediately: true
      })
      for (const at of numbers(6)) {
        yield* log.append(`${at}`)
        yield* Effect.sleep("2 millis")
      }
      assert.deepStrictEqual(txids(yield* Fiber.join(following)), [4, 5])
    }))

  it.live("a reader that is slow misses nothing, and holds no writer up", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize: 10_000 })
      const gate = yield* Deferred.make<void>()
      const following = yield* Effect.forkChild(
        log.follow({ segment: 1, offset: 0 }).pipe(
          Stream.mapEffect((record) => Effect.as(Deferred.await(gate), record)),
          Stream.take(2_001),
          Stream.runCollect
        ),
        { startImmediately: true }
      )
      yield* log.append("first")
      yield* Effect.sleep("10 millis")
      for (const at of numbers(20)) yield* log.appendAll(numbers(100).map(() => raw(`${at}`)))
      yield* Deferred.succeed(gate, undefined)
      assert.deepStrictEqual(txids(yield* Fiber.join(following)), numbers(2_001, 1))
    }))

  it.live("ends when the log is closed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const log = yield* Scope.provide(Log.make({ directory: yield* temporaryDirectory }), scope)
      yield* log.append("one")
      const seen = yield* Queue.unbounded<number>()
      const following = yield* Effect.forkChild(
        Stream.runForEach(log.follow({ segment: 1, offset: 0 }), ({ txid }) => Queue.offer(seen, txid)),
        { startImmediately: true }
      )
      assert.strictEqual(yield* Queue.take(seen), 1)
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(following)
      assert.strictEqual(yield* Queue.size(seen), 0)
      assert.deepInclude(yield* Effect.flip(log.append("late")), { _tag: "IoError", code: "EBADF" })
    }))

  it.live("sees a new segment that ends where the one before it did", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const log = yield* Scope.provide(Log.make({ directory: yield* temporaryDirectory }), scope)
      const seen = yield* Queue.unbounded<number>()
      const following = yield* Effect.forkChild(
        Stream.runForEach(log.follow({ segment: 1, offset: 0 }), ({ txid }) => Queue.offer(seen, txid)),
        { startImmediately: true }
      )
      yield* log.append("one")
      assert.strictEqual(yield* Queue.take(seen), 1)
      yield* log.rotate
      yield* log.append("two")
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(following)
      assert.deepStrictEqual(yield* Queue.clear(seen), [2])
    }))

  it.live("a slow one is given all that was written before the close, and then ends", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const log = yield* Scope.provide(Log.make({ directory: yield* temporaryDirectory, segmentSize: 400 }), scope)
      const gate = yield* Deferred.make<void>()
      const arrived = yield* Deferred.make<void>()
      const following = yield* Effect.forkChild(
        log.follow({ segment: 1, offset: 0 }).pipe(
          Stream.mapEffect((record) =>
            Effect.as(Effect.andThen(Deferred.succeed(arrived, undefined), Deferred.await(gate)), record)
          ),
          Stream.runCollect
        ),
        { startImmediately: true }
      )
      yield* log.append("0")
      yield* Deferred.await(arrived)
      for (const at of numbers(50, 1)) yield* log.append(`${at}`)
      yield* Scope.close(scope, Exit.void)
      yield* Deferred.succeed(gate, undefined)
      assert.deepStrictEqual(txids(yield* Fiber.join(following)), numbers(51, 1))
      const late = yield* Effect.flip(Stream.runDrain(log.follow({ segment: 1, offset: 0 })))
      assert.deepInclude(late, { _tag: "IoError", code: "EBADF" })
      assert.deepInclude(yield* Effect.flip(Stream.runDrain(log.follow(yield* log.end))), { code: "EBADF" })
    }))

  it.live("a place that is none of this log's is refused, and a damaged record is an error", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const log = yield* Log.make({ directory })
      yield* log.appendAll([raw("one"), raw("two"), raw("three")])
      for (const from of [{ segment: 1, offset: 5 }, { segment: 2, offset: 0 }]) {
        assert.strictEqual((yield* Effect.flip(Stream.runDrain(log.follow(from))))._tag, "InvalidPosition")
      }
      const segment = NodePath.join(directory, "00000001.dwal")
      const descriptor = NFS.openSync(segment, "r+")
      NFS.writeSync(descriptor, "?", 31 + 26)
      NFS.closeSync(descriptor)
      const seen: Array<number> = []
      const error = yield* Effect.flip(
        Stream.runForEach(log.follow({ segment: 1, offset: 0 }), ({ txid }) =>
          Effect.sync(() => {
            seen.push(txid)
          }))
      )
      assert.strictEqual(error._tag, "CorruptSegment")
      assert.deepStrictEqual(seen, [1])
    }))
})

describe("of a reader beside a writer", () => {
  const fast = { every: "1 millis" } as const

  it.live("gives every record once over rotations, the writer's end, a torn tail and the next writer", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const seen: Array<number> = []
      const write = (count: number) =>
        Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory, segmentSize: 1_000 })
          for (const at of numbers(count)) {
            yield* at % 3 === 0 ? log.appendAll([raw("a"), raw("b")]) : log.append(`${at}`)
            if (at % 10 === 0) yield* Effect.sleep("2 millis")
          }
          return { txid: (yield* log.end).txid, segment: (yield* log.end).segment }
        }))
      const until = (txid: number) =>
        Effect.repeat(Effect.sleep("2 millis"), { until: () => (seen.at(-1) ?? 0) >= txid }).pipe(
          Effect.timeout("10 seconds")
        )
      let { segment, txid } = yield* write(1)
      const reader = yield* Reader.make({ directory })
      yield* Effect.forkScoped(
        Stream.runForEach(reader.follow({ txid: 1 }, fast), (record) =>
          Effect.sync(() => {
            seen.push(record.txid)
          })),
        { startImmediately: true }
      )
      for (const torn of ["", "DWAL", "DWAL\u0001\u0000\u0000"]) {
        ;({ segment, txid } = yield* write(60))
        yield* until(txid)
        const path = NodePath.join(directory, `${String(segment).padStart(8, "0")}.dwal`)
        NFS.appendFileSync(path, torn)
        yield* Effect.sleep("10 millis")
      }
      assert.deepStrictEqual(seen, numbers(txid, 1))
    }))

  for (
    const [what, from] of [["a place", { segment: 1, offset: 0 }], ["a txid still to come", { txid: 51 }]] as const
  ) {
    it.effect(`from ${what}, reads nothing again once the files have stayed as they are, until they change`, () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        yield* Effect.scoped(
          Effect.flatMap(Log.make({ directory }), (log) => log.appendAll(numbers(50).map(() => raw("x"))))
        )
        const disk = new FaultyDisk()
        const reader = yield* over(disk)(Reader.make({ directory }))
        const seen = yield* Queue.unbounded<number>()
        // A look has ended when what follows goes to sleep until the next.
        const clock = yield* Clock.Clock
        let sleeps = 0
        const counting = Object.assign(Object.create(clock) as Clock.Clock, {
          sleep: (duration: Duration.Duration) => Effect.suspend(() => (sleeps++, clock.sleep(duration)))
        })
        const following = yield* Effect.forkChild(
          Effect.provideService(
            Stream.runForEach(reader.follow(from), ({ txid }) => Queue.offer(seen, txid)),
            Clock.Clock,
            counting
          ),
          { startImmediately: true }
        )
        const asleep = (times: number) => Effect.repeat(eventLoopTurn, { until: () => sleeps >= times })
        const looks = (count: number) =>
          Effect.forEach(
            numbers(count),
            () => Effect.suspend(() => Effect.andThen(TestClock.adjust("100 millis"), asleep(sleeps + 1)))
          )
        yield* asleep(1)
        const opened = () => disk.count("openRead")
        yield* looks(10)
        const early = opened()
        yield* looks(10)
        assert.isAbove(opened(), early)
        yield* looks(30)
        const settled = opened()
        yield* looks(20)
        assert.strictEqual(opened(), settled)
        assert.strictEqual(yield* Queue.size(seen), "segment" in from ? 50 : 0)
        yield* Queue.clear(seen)
        yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("51")))
        yield* looks(5)
        assert.strictEqual(yield* Queue.take(seen), 51)
        yield* Fiber.interrupt(following)
      }))
  }

  it.live("ends when the reader is closed; then every call of it fails typed with EBADF", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const log = yield* Log.make({ directory })
      const ref = yield* log.append("one")
      const scope = yield* Scope.make()
      const reader = yield* Scope.provide(Reader.make({ directory }), scope)
      const seen = yield* Queue.unbounded<number>()
      const following = yield* Effect.forkChild(
        Stream.runForEach(reader.follow({ txid: 1 }, fast), ({ txid }) => Queue.offer(seen, txid)),
        { startImmediately: true }
      )
      assert.strictEqual(yield* Queue.take(seen), 1)
      yield* Scope.close(scope, Exit.void)
      yield* Effect.timeout(Fiber.join(following), "10 seconds")
      const late: ReadonlyArray<
        Effect.Effect<unknown, Errors.IoError | Errors.CorruptTail | Errors.CorruptSegment | Errors.InvalidPosition>
      > = [
        Stream.runDrain(reader.stream),
        Stream.runDrain(reader.streamFrom({ txid: 1 })),
        Stream.runDrain(reader.follow({ txid: 1 }, fast)),
        Stream.runDrain(reader.follow({ segment: 1, offset: 0 }, fast)),
        reader.read(ref),
        reader.segments,
        reader.inspect()
      ]
      for (const [at, call] of late.entries()) {
        assert.deepInclude(yield* Effect.flip(call), { _tag: "IoError", code: "EBADF" }, `${at}`)
      }
    }))

  for (const kind of ["list", "identity", "openRead", "size"] as const) {
    it.live(`ends when the reader is closed in the middle of a look: ${kind}`, () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const log = yield* Log.make({ directory })
        yield* log.append("one")
        const disk = new FaultyDisk()
        const scope = yield* Scope.make()
        const reader = yield* over(disk)(Scope.provide(Reader.make({ directory }), scope))
        const seen = yield* Queue.unbounded<number>()
        const following = yield* Effect.forkChild(
          Stream.runForEach(reader.follow({ segment: 1, offset: 0 }, fast), ({ txid }) => Queue.offer(seen, txid)),
          { startImmediately: true }
        )
        assert.strictEqual(yield* Queue.take(seen), 1)
        const held = disk.holdNext(kind)
        yield* held.reached
        yield* Scope.close(scope, Exit.void)
        yield* held.release
        yield* Effect.timeout(Fiber.join(following), "10 seconds")
      }))
  }

  it.live("sees what another process writes, while it does", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const child = yield* startNode("busyChild.mjs", [root, "small=0"])
      yield* child.until("small written")
      const directory = NodePath.join(root, "small")
      const reader = yield* Reader.make({ directory })
      const found = yield* Stream.runCollect(Stream.take(reader.follow({ txid: 1 }, fast), 5_000))
      assert.deepStrictEqual(txids(found), numbers(5_000, 1))
      assert.deepStrictEqual(found.map(({ payload }) => numberOf(payload)), numbers(5_000))
    }))
})

describe("a reader that looks again after no time at all", () => {
  it.effect("waits a millisecond all the same, and leaves others their turn", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("a record")))
      let looks = 0
      const counting: Disk.DiskService = {
        ...nodeDisk,
        list: (path) => Effect.suspend(() => (looks++, nodeDisk.list(path)))
      }
      yield* Effect.gen(function*() {
        const reader = yield* Reader.make({ directory })
        for (const every of [0, Number.NaN]) {
          const before = looks
          const follow = Stream.runDrain(reader.follow({ segment: 1, offset: 0 }, { every }))
          const following = yield* Effect.forkChild(follow, { startImmediately: true })
          yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 100)))
          // The clock of the test stands still. A look lists the segments a few times.
          assert.isAtMost(looks - before, 10)
          yield* Fiber.interrupt(following)
        }
      }).pipe(Effect.provideService(Disk.Disk, counting))
    }))
})
