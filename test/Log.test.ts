import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Deferred, Effect, Exit, Fiber, Layer, References, Scope, Stream } from "effect"
import * as Logger from "effect/Logger"
import { TestClock } from "effect/testing"
import * as Tracer from "effect/Tracer"
import { execFileSync } from "node:child_process"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import type * as Errors from "../src/Errors.ts"
import * as Export from "../src/Export.ts"
import * as Frame from "../src/Frame.ts"
import { logParts } from "../src/internal/logParts.ts"
import { open_max } from "../src/internal/segmentFiles.ts"
import * as Kv from "../src/Kv.ts"
import * as Lock from "../src/Lock.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import * as Salvage from "../src/Salvage.ts"
import { descriptors, FaultyDisk, over, text, tree } from "./support/faultyDisk.ts"
import { copyFixture, frame, parseWhole, readSegment, temporaryDirectory, utf8 } from "./support/stores.ts"

const large = 300_000
const raw = (payload: Log.Bytes): Log.RecordInput => ({ type: "Raw", payload })
const numbers = (count: number): ReadonlyArray<number> => Array.from({ length: count }, (_, at) => at)

const collected = (log: Pick<Log.Log["Service"], "stream">) => Stream.runCollect(log.stream)
const payloads = (log: Pick<Log.Log["Service"], "stream">) =>
  Effect.map(collected(log), (records) => records.map((record) => text(record.payload)!))

const reopen = <A, E, R>(options: Log.Options, use: (log: Log.Log["Service"]) => Effect.Effect<A, E, R>) =>
  Effect.scoped(Effect.flatMap(Log.make(options), use))

/** Turns of the real event loop, for what happens in the pool while the clock stands. */
const untilTrue = Effect.fnUntraced(function*(condition: () => boolean) {
  for (let turn = 0; turn < 2_000; turn++) {
    if (condition()) return
    yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 1)))
  }
  assert.fail("it did not happen")
})

const someTurns = Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 20)))

describe("appending", () => {
  it.effect("txids ascend from 1 across batches, segments and reopens, and each ref says where its frame is", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const refs: Array<Log.RecordRef> = []
      for (let round = 0; round < 3; round++) {
        yield* reopen({ directory }, (log) =>
          Effect.gen(function*() {
            refs.push(yield* log.append(`append ${round}`))
            refs.push(yield* log.appendRecord({ type: "Put", key: "k", payload: `put ${round}` }))
            refs.push(...yield* log.appendAll([raw("a"), { type: "Delete", key: "gone" }]))
            yield* log.rotate
            const appended = yield* Stream.run(Stream.fromIterable([raw("s1"), raw("s2")]), log.sink)
            assert.strictEqual(appended.records, 2)
            assert.strictEqual(appended.bytes, 60)
            refs.push(appended.last!)
          }))
      }
      assert.deepStrictEqual(refs.map((ref) => ref.txid), [1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 18])
      assert.deepStrictEqual(refs[0], { segment: 1, offset: 0, len: 36, txid: 1 })
      assert.deepStrictEqual(refs[5], { segment: 2, offset: 60, len: 36, txid: 7 })
      yield* reopen({ directory, policy: "strict" }, (log) =>
        Effect.gen(function*() {
          const records = yield* collected(log)
          assert.deepStrictEqual(records.map((record) => record.txid), numbers(18).map((at) => at + 1))
          for (const ref of refs) {
            const record = records[ref.txid - 1]!
            assert.deepInclude(record, ref)
            assert.deepStrictEqual((yield* log.read(ref)).payload.slice(), record.payload.slice())
          }
        }))
    }))

  it.effect("the bytes are those of the format", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* reopen({ directory }, (log) =>
        log.appendAll([
          raw("alpha"),
          { type: "Put", key: "ключ", payload: "значение" },
          { type: "Delete", key: new Uint8Array([0, 255]) },
          { type: "Raw", key: "tagged", payload: "" }
        ]))
      assert.deepStrictEqual(
        Buffer.from(readSegment(directory, 1)).toString("hex"),
        Buffer.concat([
          frame({ type: "Raw", txid: 1, key: new Uint8Array(0), payload: utf8("alpha") }),
          frame({ type: "Put", txid: 2, key: utf8("ключ"), payload: utf8("значение") }),
          frame({ type: "Delete", txid: 3, key: new Uint8Array([0, 255]), payload: new Uint8Array(0) }),
          frame({ type: "Raw", txid: 4, key: utf8("tagged"), payload: new Uint8Array(0) })
        ]).toString("hex")
      )
    }))

  it.effect("strings are stored as UTF-8, bytes as they are, an empty payload too", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      const text = "é €   𝄞 \0"
      const bytes = Uint8Array.from(numbers(256))
      yield* log.appendAll([raw(text), raw(bytes), raw(""), raw(bytes.subarray(100, 110))])
      const found = (yield* collected(log)).map((record) => Buffer.from(record.payload))
      assert.deepStrictEqual(found, [
        Buffer.from(text, "utf8"),
        Buffer.from(bytes),
        Buffer.alloc(0),
        Buffer.from(numbers(10).map((at) => at + 100))
      ])
    }))

  it.effect("a key of 65,536 bytes is taken; one byte more is refused before any I/O, and the store goes on", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const directory = yield* temporaryDirectory
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        yield* log.appendRecord({ type: "Put", key: new Uint8Array(65_536).fill(7), payload: "v" })
        const before = tree(directory)
        const calls = disk.calls.length
        const attempts: ReadonlyArray<Effect.Effect<unknown, Log.WriteError>> = [
          log.appendRecord({ type: "Put", key: new Uint8Array(65_537), payload: "v" }),
          log.appendRecord({ type: "Delete", key: new Uint8Array(65_537) }),
          log.appendRecord({ type: "Raw", key: "k".repeat(65_537), payload: "v" }),
          log.appendAll([raw("fine"), { type: "Put", key: "é".repeat(32_769), payload: "v" }, raw("fine")]),
          Stream.run(Stream.make({ type: "Delete", key: new Uint8Array(65_538) } as const), log.sink)
        ]
        for (const attempt of attempts) {
          const error = yield* Effect.flip(attempt)
          assert.deepInclude(error, { _tag: "LimitExceeded", limit: "key", maximum: 65_536 })
        }
        assert.strictEqual(disk.calls.length, calls)
        assert.deepStrictEqual(tree(directory), before)
        assert.strictEqual((yield* log.append("after")).txid, 2)
      }))
    }))

  it.effect(
    "a payload of 64 MiB is taken; one byte more is refused before any I/O, and the store goes on",
    () =>
      Effect.gen(function*() {
        const disk = new FaultyDisk()
        const directory = yield* temporaryDirectory
        yield* over(disk)(Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          const most = new Uint8Array(Frame.payload_bytes_max).fill(0x61)
          const first = yield* log.append("first")
          const ref = yield* log.appendRecord({ type: "Put", key: new Uint8Array(65_536), payload: most })
          assert.deepStrictEqual(ref, { segment: 2, offset: 0, len: Frame.frame_bytes_max, txid: 2 })
          const calls = disk.calls.length
          const over = new Uint8Array(Frame.payload_bytes_max + 1)
          const attempts: ReadonlyArray<Effect.Effect<unknown, Log.WriteError>> = [
            log.append(over),
            log.appendAll([raw("fine"), raw(over)])
          ]
          for (const attempt of attempts) {
            const error = yield* Effect.flip(attempt)
            assert.deepInclude(error, { _tag: "LimitExceeded", limit: "payload", actual: most.length + 1 })
          }
          assert.strictEqual(disk.calls.length, calls)
          assert.deepStrictEqual(yield* log.append("after"), { segment: 3, offset: 0, len: 33, txid: 3 })
          const read = yield* log.read(ref)
          assert.isTrue(Buffer.from(read.payload.buffer, read.payload.byteOffset, most.length).equals(most))
          assert.strictEqual(text((yield* log.read(first)).payload), "first")
        })))
        yield* reopen({ directory, policy: "strict" }, (log) =>
          Effect.sync(() =>
            assert.deepInclude(log.report, { records_replayed: 3, files_scanned: 3, last_txid_seen: 3 })
          ))
      }),
    30_000
  )

  it.effect("the last txid of all is given, and behind it nothing is written", () =>
    Effect.gen(function*() {
      const directory = yield* copyFixture("large_txid")
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        const two = yield* Effect.flip(log.appendAll([raw("a"), raw("b")]))
        assert.deepInclude(two, { _tag: "LimitExceeded", limit: "txid", actual: 2 ** 53, maximum: 2 ** 53 - 1 })
        assert.strictEqual((yield* log.end).txid, 2 ** 53 - 2)
        // Two that both wait for their turn while there is room for one.
        const exits: ReadonlyArray<Exit.Exit<unknown, unknown>> = yield* Effect.all([
          Effect.exit(log.append("x".repeat(large))),
          Effect.exit(log.append("y".repeat(large))),
          Effect.exit(log.appendAll([raw("z".repeat(large))])),
          Effect.exit(log.append("small"))
        ], { concurrency: "unbounded" })
        assert.strictEqual(exits.filter(Exit.isSuccess).length, 1)
        for (const attempt of [log.append("x"), log.appendRecord({ type: "Delete", key: "k" })]) {
          assert.deepInclude(yield* Effect.flip(attempt), { _tag: "LimitExceeded" as const, limit: "txid" })
        }
        yield* log.sync
        assert.strictEqual((yield* log.end).txid, 2 ** 53 - 1)
        assert.isUndefined(yield* log.refusal)
      }))
      yield* reopen({ directory, policy: "strict" }, (log) =>
        Effect.gen(function*() {
          assert.deepInclude(log.report, { records_replayed: 3, last_txid_seen: 2 ** 53 - 1 })
          assert.strictEqual((yield* Effect.flip(log.append("x")))._tag, "LimitExceeded")
          assert.strictEqual((yield* collected(log)).length, 3)
        }))
    }))

  it.effect("behind the last segment id nothing more is rotated, and what fits still is written", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      NFS.writeFileSync(NodePath.join(directory, "99999999.dwal"), "")
      const log = yield* Log.make({ directory, segmentSize: 150 })
      yield* log.append("x".repeat(60))
      assert.deepInclude(yield* Effect.flip(log.append("y".repeat(60))), { _tag: "LimitExceeded", limit: "segment" })
      assert.deepInclude(yield* Effect.flip(log.rotate), { _tag: "LimitExceeded", limit: "segment" })
      assert.isUndefined(yield* log.refusal)
      assert.strictEqual((yield* log.append("z".repeat(10))).txid, 2)
    }))

  it.live("many fibers that append at once: each ref reads back its own, and the file is in the order of the txids", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const log = yield* Log.make({ directory, segmentSize: 1_000_000 })
      const observed: Array<number> = []
      yield* log.observe(({ txid }) => {
        observed.push(txid)
      })
      // Every size and every way in: small ones must not overtake what holds the gate, nor mix into it.
      const written = yield* Effect.forEach(numbers(400), (at) => {
        const payload = `${at}:`.padEnd(at % 40 === 0 ? large : at % 13 === 0 ? 20_000 : 20, "x")
        const append = at % 7 === 0
          ? Effect.map(log.appendAll([raw(payload)]), ([ref]) => ref!)
          : at % 50 === 3
          ? Effect.andThen(Effect.ignore(log.rotate), log.append(payload))
          : log.append(payload)
        return Effect.map(append, (ref) => ({ payload, ref }))
      }, { concurrency: "unbounded" })
      assert.deepStrictEqual(written.map(({ ref }) => ref.txid).sort((a, b) => a - b), numbers(400).map((at) => at + 1))
      for (const { payload, ref } of written) assert.strictEqual(text((yield* log.read(ref)).payload), payload)
      assert.deepStrictEqual(observed, numbers(400).map((at) => at + 1))
      const records = yield* collected(log)
      assert.deepStrictEqual(records.map((record) => record.txid), observed)
      let end = 0
      for (const { bytes, id } of yield* log.segments) {
        const parsed = parseWhole(readSegment(directory, id), id)
        assert.strictEqual(readSegment(directory, id).length, bytes)
        for (const record of parsed) assert.strictEqual(record.txid, ++end)
      }
    }))

  it.live("appends in the pool and on the thread keep the order in which they were asked for", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      const fibers = []
      for (const at of numbers(40)) {
        fibers.push(
          yield* Effect.forkChild(log.append(`${at}:`.padEnd(at % 4 === 0 ? large : 10, "x")), {
            startImmediately: true
          })
        )
      }
      const refs = yield* Fiber.joinAll(fibers)
      assert.deepStrictEqual(refs.map((ref) => ref.txid), numbers(40).map((at) => at + 1))
      assert.deepStrictEqual((yield* payloads(log)).map((each) => Number.parseInt(each, 10)), [...numbers(40)])
    }))

  it.effect("a sink appends an array at a time and tells what it wrote", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        assert.deepStrictEqual(yield* Stream.run(Stream.empty, log.sink), { records: 0, bytes: 0, last: undefined })
        const calls = disk.count("appendNow")
        const appended = yield* Stream.run(Stream.fromArray(numbers(500).map((at) => raw(`${at}`))), log.sink)
        assert.strictEqual(disk.count("appendNow") - calls, 1)
        assert.deepStrictEqual({ ...appended, last: appended.last?.txid }, {
          records: 500,
          bytes: 500 * 28 + 1_390,
          last: 500
        })
        const failing = Stream.concat(Stream.make(raw("kept")), Stream.fail("no more" as const))
        assert.strictEqual(yield* Effect.flip(Stream.run(failing, log.sink)), "no more")
        assert.strictEqual((yield* payloads(log)).at(-1), "kept")
      }))
    }))
})

describe("rotation", () => {
  it.effect("an empty segment takes a record however large: none is left empty", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const log = yield* Log.make({ directory, segmentSize: 100 })
      for (const length of [500, 300_000, 500]) yield* log.append("x".repeat(length))
      yield* log.rotate
      yield* log.append("x".repeat(500))
      assert.deepStrictEqual((yield* log.segments).map(({ bytes }) => bytes), [528, 300_028, 528, 528])
      assert.strictEqual(NFS.readdirSync(directory).filter((name) => name.endsWith(".dwal")).length, 4)
    }))

  it.effect("a segment takes records up to its size, and at least one however large", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      // Frames of 50 bytes: two fill a segment to the byte.
      const log = yield* Log.make({ directory, segmentSize: 100 })
      const places: Array<string> = []
      for (const length of [22, 22, 22, 23, 22, 500, large, 1, 44, 45]) {
        const ref = yield* log.append("x".repeat(length))
        places.push(`${ref.segment}:${ref.offset}+${ref.len}`)
      }
      assert.deepStrictEqual(places, [
        "1:0+50",
        "1:50+50",
        "2:0+50",
        "3:0+51",
        "4:0+50",
        "5:0+528",
        `6:0+${large + 28}`,
        "7:0+29",
        "8:0+72",
        "9:0+73"
      ])
      assert.deepStrictEqual(
        (yield* log.segments).map(({ active, bytes, id }) => `${id} ${bytes} ${active}`),
        ["1 100", "2 50", "3 51", "4 50", "5 528", `6 ${large + 28}`, "7 29", "8 72"].map((each) => `${each} false`)
          .concat("9 73 true")
      )
    }))

  it.effect("a batch is split at the segment's size as single appends would be", () =>
    Effect.gen(function*() {
      for (const segmentSize of [1, 50, 99, 100, 101, 149, 150, 1_000]) {
        const single = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize })
        const batch = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize })
        const records = [22, 22, 1, 70, 22, 0, 200, 22, 22, 22, 5].map((length) => raw("x".repeat(length)))
        const refs: Array<Log.RecordRef> = []
        for (const record of records) refs.push(yield* single.appendRecord(record))
        assert.deepStrictEqual(yield* batch.appendAll(records), refs, `${segmentSize}`)
        assert.deepStrictEqual(tree(batch.directory), tree(single.directory))
        assert.deepStrictEqual(yield* batch.segments, yield* single.segments)
      }
    }))

  it.effect("a batch takes records of any size in any order", () =>
    Effect.gen(function*() {
      for (const segmentSize of [100, 3_000_000, undefined]) {
        const directory = yield* temporaryDirectory
        const written = [10, 1_048_576, 1_048_576 - 28, 5, 0, 2_500_000, 262_144, 262_116, 7, 700_000, 700_000, 3]
          .map((length, at) => String.fromCharCode(97 + at).repeat(length))
        yield* reopen({ directory, segmentSize }, (log) =>
          Effect.gen(function*() {
            const refs = yield* log.appendAll(written.map(raw))
            for (const [at, ref] of refs.entries()) {
              assert.strictEqual(ref.txid, at + 1)
              assert.strictEqual(text((yield* log.read(ref)).payload), written[at])
            }
          }))
        yield* reopen({ directory, policy: "strict" }, (log) =>
          Effect.map(payloads(log), (found) => assert.isTrue(found.join() === written.join())))
      }
    }))

  it.effect("rotate goes on in a new segment, also behind an empty one, and the txids go on", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        assert.deepStrictEqual(yield* log.rotate, { segment: 2, offset: 0 })
        assert.deepStrictEqual(yield* log.rotate, { segment: 3, offset: 0 })
        assert.strictEqual((yield* log.append("one")).txid, 1)
        assert.deepStrictEqual(yield* log.rotate, { segment: 4, offset: 0 })
        assert.deepStrictEqual(yield* log.end, { segment: 4, offset: 0, txid: 1 })
      }))
      const log = yield* Log.make({ directory, policy: "strict" })
      assert.deepStrictEqual(yield* log.end, { segment: 4, offset: 0, txid: 1 })
      assert.strictEqual(log.report.files_scanned, 4)
      assert.deepStrictEqual(yield* log.append("two"), { segment: 4, offset: 0, len: 31, txid: 2 })
      assert.deepStrictEqual(yield* payloads(log), ["one", "two"])
    }))

  it.effect("a segment is durable before the next one exists, and the next one's name before anything is in it", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize: 50 })
        yield* log.append("one")
        const from = disk.calls.length
        yield* log.append("x".repeat(40))
        assert.deepStrictEqual(
          disk.calls.slice(from).map(({ kind, path }) =>
            `${kind} ${NodePath.basename(path).replace(/^datawal.*/, "")}`
          ),
          [
            // A note for the next writer, should the sync fail.
            "writeText .lock",
            "sync 00000001.dwal",
            // The next one must come into the directory that is locked.
            "isCurrent .lock",
            "create 00000002.dwal",
            "syncDirectory ",
            "appendNow 00000002.dwal"
          ]
        )
      }))
    }))

  it.effect("ids with gaps go on behind the highest", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* copyFixture("sparse_segments") })
      assert.deepStrictEqual(yield* log.append("four"), { segment: 7, offset: 33, len: 32, txid: 4 })
      assert.deepStrictEqual(yield* log.rotate, { segment: 8, offset: 0 })
      assert.deepStrictEqual((yield* log.segments).map(({ bytes, id }) => [id, bytes]), [
        [1, 31],
        [2, 0],
        [3, 31],
        [7, 65],
        [8, 0]
      ])
      assert.deepStrictEqual(yield* payloads(log), ["one", "two", "three", "four"])
    }))
})

describe("durability", () => {
  it.effect("sync with nothing new does no I/O, but the first one after a reopen does", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* reopen({ directory }, (log) => log.append("one"))
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        assert.strictEqual(disk.count("sync"), 0)
        yield* log.sync
        assert.strictEqual(disk.count("sync"), 1)
        const calls = disk.calls.length
        yield* log.sync
        yield* log.appendAll([])
        yield* log.sync
        assert.strictEqual(disk.calls.length, calls)
        yield* log.append("two")
        yield* log.sync
        assert.strictEqual(disk.count("sync"), 2)
      }))
    }))

  it.effect("manual syncs when asked, and when the scope closes", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        yield* Effect.forEach(numbers(100), (at) => log.append(`${at}`), { concurrency: "unbounded" })
        assert.strictEqual(disk.count("sync"), 0)
      })))
      assert.strictEqual(disk.count("sync"), 1)
    }))

  it.live("always: an append resolves when it is durable, and 64 at once share a few fsyncs", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory, durability: "always" })
        yield* log.append("alone")
        assert.strictEqual(disk.count("sync"), 1)
        const held = disk.holdNext("sync")
        const fibers = []
        for (const at of numbers(64)) {
          const append = at % 3 === 0
            ? log.appendAll([raw(`${at}`), raw("and one more")])
            : at % 3 === 1
            ? log.appendRecord({ type: "Delete", key: `${at}` })
            : log.append(`${at}`)
          fibers.push(
            yield* Effect.forkChild(append as Effect.Effect<unknown, Log.WriteError>, { startImmediately: true })
          )
        }
        yield* held.reached
        yield* someTurns
        for (const fiber of fibers) assert.isUndefined(fiber.pollUnsafe(), "it resolved before it was durable")
        yield* held.release
        yield* Fiber.joinAll(fibers)
        assert.isAtMost(disk.count("sync"), 3)
        const syncs = disk.count("sync")
        yield* log.sync
        assert.strictEqual(disk.count("sync"), syncs)
      }))
    }))

  it.live("always: appends that rotate are durable when they resolve", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Log.make({
          directory: yield* temporaryDirectory,
          durability: "always",
          segmentSize: 200
        })
        yield* Effect.forEach(numbers(50), (at) => log.append("x".repeat(at)), { concurrency: "unbounded" })
        for (const { id } of yield* log.segments) {
          const name = `${String(id).padStart(8, "0")}.dwal`
          const wrote = disk.calls.findLastIndex(({ kind, path }) => kind.startsWith("append") && path.endsWith(name))
          const synced = disk.calls.findLastIndex(({ kind, path }) => kind === "sync" && path.endsWith(name))
          assert.isAbove(synced, wrote, name)
        }
      }))
    }))

  it.live("concurrent syncs share one fsync, and none is answered by one that began before it came", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        yield* log.append("one")
        const first = disk.holdNext("sync")
        const second = disk.holdNext("sync", { skip: 0 })
        const early = yield* Effect.forkChild(log.sync, { startImmediately: true })
        yield* first.reached
        yield* log.append("two")
        const late = []
        for (const _ of numbers(20)) late.push(yield* Effect.forkChild(log.sync, { startImmediately: true }))
        yield* first.release
        yield* Fiber.join(early)
        yield* second.reached
        yield* someTurns
        for (const fiber of late) assert.isUndefined(fiber.pollUnsafe())
        yield* second.release
        yield* Fiber.joinAll(late)
        assert.strictEqual(disk.count("sync"), 2)
      }))
    }))

  it.effect("an interval syncs what is new in the background, and nothing when nothing is", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory, durability: "1 second" })
        yield* log.append("one")
        yield* TestClock.adjust("999 millis")
        yield* someTurns
        assert.strictEqual(disk.count("sync"), 0)
        yield* TestClock.adjust("1 millis")
        yield* untilTrue(() => disk.count("sync") === 1)
        yield* someTurns
        yield* TestClock.adjust("10 seconds")
        yield* someTurns
        assert.strictEqual(disk.count("sync"), 1)
        yield* log.append("two")
        yield* TestClock.adjust("1 second")
        yield* untilTrue(() => disk.count("sync") === 2)
        yield* someTurns
      })))
      assert.strictEqual(disk.count("sync"), 2)
    }))

  it.effect("an interval whose sync fails stops the writer, and the next append says so", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory, durability: 1_000 })
        yield* log.append("one")
        disk.failNext("sync", "EIO")
        yield* TestClock.adjust("1 second")
        yield* untilTrue(() => disk.count("sync") === 1)
        yield* someTurns
        assert.deepInclude(yield* Effect.flip(log.append("two")), {
          _tag: "WriterPoisoned",
          operation: "sync",
          code: "EIO"
        })
        yield* TestClock.adjust("10 seconds")
        yield* someTurns
      })))
      assert.strictEqual(disk.count("sync"), 1)
      assert.deepStrictEqual(disk.misuse, [])
    }))
})

describe("reading", () => {
  it.live("a stream gives what was there when it started, however much is written meanwhile", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize: 500, chunkSize: 64 })
      yield* log.appendAll(numbers(50).map((at) => raw(`before ${at}`)))
      let seen = 0
      yield* Stream.runForEach(log.stream, (record) => {
        seen++
        assert.strictEqual(text(record.payload), `before ${record.txid - 1}`)
        return seen % 5 === 0
          ? Effect.andThen(log.append(`during ${seen}`), seen % 10 === 0 ? log.rotate : Effect.void)
          : Effect.void
      })
      assert.strictEqual(seen, 50)
      assert.strictEqual((yield* payloads(log)).length, 60)
    }))

  it.effect("a stream can be run again, and starts anew each time", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      const { stream } = log
      assert.strictEqual((yield* Stream.runCollect(stream)).length, 0)
      yield* log.append("one")
      assert.strictEqual((yield* Stream.runCollect(stream)).length, 1)
      yield* log.append("two")
      assert.strictEqual((yield* Stream.runCollect(stream)).length, 2)
    }))

  it.effect("streamFrom starts at any record's place and at any txid", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const log = yield* Log.make({ directory, segmentSize: 120, chunkSize: 50 })
      yield* log.rotate
      const refs = yield* log.appendAll(numbers(12).map((at) => raw(`record ${at}`)))
      yield* log.rotate
      yield* log.rotate
      refs.push(...yield* log.appendAll(numbers(5).map((at) => raw(`record ${at + 12}`))))
      const txids = (from: Log.From) =>
        Effect.map(Stream.runCollect(log.streamFrom(from)), (records) => records.map((record) => record.txid))
      const rest = (txid: number) => numbers(17).map((at) => at + 1).filter((each) => each >= txid)
      for (const ref of refs) assert.deepStrictEqual(yield* txids(ref), rest(ref.txid), `${ref.txid}`)
      for (const ref of refs) {
        assert.deepStrictEqual(yield* txids({ segment: ref.segment, offset: ref.offset }), rest(ref.txid))
      }
      for (let txid = 0; txid <= 20; txid++) assert.deepStrictEqual(yield* txids({ txid }), rest(txid), `${txid}`)
      assert.deepStrictEqual(yield* txids(yield* log.end), [])
      const end = yield* log.end
      assert.deepStrictEqual(yield* txids({ segment: end.segment, offset: end.offset }), [])
      for (const { bytes, id } of yield* log.segments) {
        const next = refs.find((ref) => ref.segment > id)?.txid ?? 18
        assert.deepStrictEqual(yield* txids({ segment: id, offset: bytes }), rest(next), `the end of segment ${id}`)
      }
    }))

  it.effect("streamFrom refuses a place where no record starts", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize: 100 })
      yield* log.appendAll(numbers(6).map((at) => raw(`record ${at}`)))
      const places: ReadonlyArray<readonly [number, number]> = [
        [1, 1],
        [1, 35],
        [1, 73],
        [2, 5],
        [1, 1_000],
        [3, 500],
        [9, 10],
        [1, -1],
        [1, 0.5],
        [1, Number.NaN]
      ]
      for (const [segment, offset] of places) {
        const error = yield* Effect.flip(Stream.runCollect(log.streamFrom({ segment, offset })))
        assert.deepInclude(error, { _tag: "InvalidPosition" }, `${segment}:${offset}`)
      }
    }))

  it.effect("streams and follows from no txid that is no number, as of a spoilt cursor", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      yield* log.append("one")
      const reader = yield* Reader.make(log)
      const from = { txid: Number.NaN }
      for (const stream of [log.streamFrom(from), log.follow(from), reader.streamFrom(from), reader.follow(from)]) {
        const error = yield* Effect.flip(Stream.runCollect(stream))
        assert.deepInclude(error, { _tag: "InvalidPosition", txid: Number.NaN })
        assert.include(error.message, "has no record from the txid NaN on")
      }
    }))

  it.effect("read refuses a reference that is none of its own, and a wrong txid", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize: 100 })
      const refs = yield* log.appendAll(numbers(6).map((at) => raw(`record ${at}`)))
      const ref = refs[1]!
      const wrong: ReadonlyArray<Log.RefLike> = [
        { ...ref, offset: ref.offset + 1 },
        { ...ref, offset: ref.offset - 1 },
        { ...ref, offset: 1_000 },
        { ...ref, offset: -1 },
        { ...ref, offset: 0.5 },
        { ...ref, segment: 0 },
        { ...ref, segment: 99 },
        { ...ref, segment: 1.5 },
        { ...ref, len: 0 },
        { ...ref, len: -5 },
        { ...ref, len: ref.len + 0.5 },
        { ...ref, len: 2 ** 40 },
        { ...ref, len: Number.NaN },
        { ...ref, txid: 1 }
      ]
      for (const each of wrong) {
        const error = yield* Effect.flip(log.read(each))
        assert.strictEqual(error._tag, "InvalidPosition", JSON.stringify(each))
      }
      const { txid: _, ...bare } = ref
      assert.strictEqual(text((yield* log.read(bare)).payload), "record 1")
    }))

  it.effect("read finds damage done behind its back", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const log = yield* Log.make({ directory })
      const [small, big] = [yield* log.append("small payload"), yield* log.append("b".repeat(large))]
      const path = NodePath.join(directory, "00000001.dwal")
      const bytes = NFS.readFileSync(path)
      for (const [ref, at] of [[small, small.offset + 30], [big, big.offset + 1_000]] as const) {
        const damaged = Buffer.from(bytes)
        damaged[at]! ^= 1
        NFS.writeFileSync(path, damaged)
        assert.deepInclude(yield* Effect.flip(log.read(ref)), {
          _tag: "CorruptSegment",
          segment: 1,
          offset: ref.offset,
          reason: "CrcMismatch"
        })
        const streamed = yield* Effect.flip(Stream.runDrain(log.stream))
        assert.deepInclude(streamed, { _tag: "CorruptSegment", segment: 1, offset: ref.offset, reason: "CrcMismatch" })
      }
      NFS.truncateSync(path, big.offset + 100)
      assert.deepInclude(yield* Effect.flip(log.read(big)), { _tag: "CorruptSegment", reason: "Truncated" })
      // Whole frames are known to have been there: for the writer a cut file is damage, not a torn tail.
      assert.deepInclude(yield* Effect.flip(Stream.runDrain(log.stream)), {
        _tag: "CorruptSegment",
        reason: "Truncated"
      })
    }))

  it.effect("a record whose segment somebody has removed is missing, and no mistake of who asks for it", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const ref = yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        const ref = yield* log.append("one")
        yield* log.rotate
        yield* log.append("two")
        return ref
      }))
      const log = yield* Log.make({ directory })
      const path = NodePath.join(directory, "00000001.dwal")
      NFS.rmSync(path)
      assert.deepInclude(yield* Effect.flip(log.read(ref)), { _tag: "IoError", code: "ENOENT", path })
      assert.deepInclude(yield* Effect.flip(Stream.runDrain(log.stream)), { _tag: "IoError", code: "ENOENT", path })
    }))

  it.effect("end, segments, report and refusal say what is", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        assert.strictEqual(log.directory, directory)
        assert.deepStrictEqual(log.report, {
          files_scanned: 1,
          records_replayed: 0,
          tail_truncated: 0,
          tail_bytes_discarded: 0,
          mid_stream_errors: 0,
          unsupported_versions: 0,
          last_txid_seen: 0
        })
        assert.deepStrictEqual(yield* log.end, { segment: 1, offset: 0, txid: 0 })
        assert.deepStrictEqual(yield* log.segments, [{ id: 1, bytes: 0, active: true }])
        yield* log.append("one")
        assert.deepStrictEqual(yield* log.end, { segment: 1, offset: 31, txid: 1 })
        assert.isUndefined(yield* log.refusal)
      }))
      const log = yield* Log.make({ directory })
      assert.deepInclude(log.report, { files_scanned: 1, records_replayed: 1, last_txid_seen: 1 })
    }))

  it.effect("a log reads through the disk it was opened over", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const log = yield* over(disk)(Log.make({ directory: yield* temporaryDirectory }))
      const ref = yield* log.append("one")
      yield* log.read(ref)
      assert.strictEqual(disk.count("readNow"), 1)
      const opened = disk.count("openRead")
      yield* Stream.runDrain(log.stream)
      assert.strictEqual(disk.count("openRead"), opened + 1, "the stream read another disk")
    }))
})

describe("the highest txid", () => {
  it.effect("is not passed by a batch that has waited for others", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const bytes = new Uint8Array(29)
      Frame.encodeInto(bytes, 0, "Raw", Frame.txid_max - 3, new Uint8Array(0), Uint8Array.of(1))
      NFS.writeFileSync(NodePath.join(directory, "00000001.dwal"), bytes)
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        const large = yield* Effect.forkChild(log.append(new Uint8Array(300_000)), { startImmediately: true })
        const error = yield* Effect.flip(log.appendAll(["a", "b", "c"]))
        assert.strictEqual(error._tag, "LimitExceeded")
        yield* Fiber.join(large)
      }))
      yield* Effect.scoped(Log.make({ directory }))
    }))
})

describe("a name of a segment that is none", () => {
  it.effect("is passed by at the first opening", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      NFS.mkdirSync(NodePath.join(directory, "00000001.dwal"))
      const write = Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory, policy: "strict" })
        yield* log.append("one")
        return (yield* collected(log)).map(({ segment, txid }) => [segment, txid])
      }))
      assert.deepStrictEqual(yield* write, [[2, 1]])
      assert.deepStrictEqual(yield* write, [[2, 1], [2, 2]])
    }))

  it.effect("is passed by at a rotation, and a file is not", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const log = yield* Log.make({ directory })
      yield* log.append("one")
      NFS.mkdirSync(NodePath.join(directory, "00000002.dwal"))
      NFS.symlinkSync("nowhere", NodePath.join(directory, "00000003.dwal"))
      assert.strictEqual((yield* log.rotate).segment, 4)
      yield* log.append("four")
      NFS.writeFileSync(NodePath.join(directory, "00000005.dwal"), "somebody's")
      assert.deepInclude(yield* Effect.flip(log.rotate), { _tag: "IoError", code: "EEXIST" })
      assert.strictEqual((yield* collected(log)).length, 2)
      NFS.rmSync(NodePath.join(directory, "00000005.dwal"))
      const reader = yield* Reader.make({ directory })
      assert.deepStrictEqual((yield* Stream.runCollect(reader.stream)).map(({ segment }) => segment), [1, 4])
    }))
})

describe("a store that must be there", () => {
  it.effect("is not made, with createIfMissing: false, and is opened where it is", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const missing = NodePath.join(root, "deep", "missing")
      const open = (directory: string) => Effect.scoped(Log.make({ directory, createIfMissing: false }))
      assert.deepInclude(yield* Effect.flip(open(missing)), { _tag: "IoError", code: "ENOENT" })
      NFS.writeFileSync(NodePath.join(root, "lost+found"), "")
      const empty = yield* Effect.flip(open(root))
      assert.deepInclude(empty, { _tag: "IoError", code: "ENOENT", path: root })
      assert.match(empty.message, /it holds no segments/)
      const kv = Kv.make({ directory: root, createIfMissing: false })
      assert.deepInclude(yield* Effect.flip(Effect.scoped(kv)), { _tag: "IoError", code: "ENOENT" })
      assert.deepStrictEqual(NFS.readdirSync(root), ["lost+found"])
      yield* Effect.scoped(Log.make({ directory: root }))
      yield* open(root)
      yield* kv
    }))
})

describe("many records at once", () => {
  it.effect("are payloads, or records of any type, in an array or a stream", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      yield* log.appendAll(["one", Buffer.from("two"), { type: "Put", key: "k", payload: "three" }])
      yield* Stream.run(Stream.make("four", new Uint8Array([53])), log.sink)
      yield* log.appendRecord("six")
      assert.deepStrictEqual(
        (yield* collected(log)).map(({ key, payload, type }) => [type, text(key), text(payload)]),
        [
          ["Raw", "", "one"],
          ["Raw", "", "two"],
          ["Put", "k", "three"],
          ["Raw", "", "four"],
          ["Raw", "", "5"],
          ["Raw", "", "six"]
        ]
      )
    }))

  it.effect("are no string, whose characters would be taken for them", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* kv.putMany([["k", "1"], ["e", "2"]])
      const { log } = yield* Kv.makeWithLog({ directory: yield* temporaryDirectory })
      for (const run of [kv.deleteMany("key"), kv.getMany("key"), log.appendAll("key")]) {
        const exit = yield* Effect.exit(Effect.asVoid<unknown, object, never>(run))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof TypeError)
      }
      assert.strictEqual(yield* kv.size, 2)
      assert.strictEqual((yield* log.end).txid, 0)
    }))
})

describe("observing", () => {
  it.effect("an observer is given a record and nothing else, one by one or of a batch, which ends for it when it throws", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      const given: Array<number> = []
      const others: Array<number> = []
      yield* log.observe((...all) => {
        given.push(all.length)
        if (all[0].txid === 4) throw new Error("mine")
      })
      yield* log.observe(({ txid }) => void others.push(txid))
      yield* log.append("1")
      yield* log.appendAll(["2", "3"])
      assert.isTrue(Exit.hasDies(yield* Effect.exit(log.appendAll(["4", "5", "6"]))))
      yield* log.append("7")
      assert.deepStrictEqual(given, [1, 1, 1, 1, 1])
      assert.deepStrictEqual(others, [1, 2, 3, 4, 5, 6, 7])
    }))

  for (
    const { name, write } of [
      { name: "one record", write: (kv: Kv.KvService) => kv.put("k", "new") },
      { name: "many at once", write: (kv: Kv.KvService) => kv.putMany([["other", "1"], ["k", "new"], ["third", "3"]]) },
      { name: "a large record", write: (kv: Kv.KvService) => kv.put("k", "x".repeat(large)) }
    ]
  ) {
    it.live(`what is written because of ${name} comes behind it, for every observer`, () =>
      Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        const seen = yield* Deferred.make<void>()
        const told: Array<number> = []
        yield* log.observe(({ txid }) => {
          // This starts the fiber that waits for it, in this very step.
          if (txid > 1) Deferred.doneUnsafe(seen, Effect.void)
        })
        const kv = yield* Effect.provideService(Kv.makeLog, Log.Log, log)
        yield* log.observe(({ txid }) => {
          told.push(txid)
        })
        yield* kv.put("k", "old")
        const waiting = yield* Effect.forkChild(
          Effect.andThen(Deferred.await(seen), Effect.all([kv.delete("k"), kv.putMany([["late", "1"]])])),
          { startImmediately: true }
        )
        yield* write(kv)
        yield* Fiber.join(waiting)
        const records = yield* collected(log)
        assert.deepStrictEqual(told, records.map(({ txid }) => txid))
        assert.deepStrictEqual(records.slice(-2).map(({ key, type }) => [type, text(key)]), [
          ["Delete", "k"],
          ["Put", "late"]
        ])
        assert.isUndefined(yield* kv.get("k"))
        assert.strictEqual(text(yield* kv.get("late")), "1")
      }))
  }

  it.live("an observer that writes with runSync is refused by Effect, and its record comes behind for everyone", () =>
    Effect.gen(function*() {
      for (const payloads of [["one"], ["one", "two", "three"]]) {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        const caught: Array<unknown> = []
        yield* log.observe(({ txid }) => {
          if (txid > 1) return
          try {
            Effect.runSync(log.appendRecord({ type: "Put", key: "k", payload: "nested" }))
          } catch (error) {
            caught.push(error)
          }
        })
        const kv = yield* Kv.fromLog(log)
        const told: Array<string> = []
        yield* log.observe(({ payload, txid }) => {
          told.push(`${txid} ${text(payload)}`)
        })
        yield* log.appendAll(payloads.map((payload) => ({ type: "Put", key: "k", payload })))
        while ((yield* log.end).txid <= payloads.length) yield* Effect.sleep(1)
        assert.strictEqual(caught.length, 1)
        assert.deepStrictEqual(told, [...payloads, "nested"].map((payload, at) => `${at + 1} ${payload}`))
        assert.strictEqual(text(yield* kv.get("k")), "nested")
      }
    }))

  it.live("a list that an observer appends comes behind for everyone", () =>
    Effect.gen(function*() {
      for (const payloads of [["one"], ["one", "two", "three"]] as const) {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        yield* log.observe(({ txid }) => {
          if (txid === 1) Effect.runFork(log.appendAll(["x", "y"]))
        })
        const told: Array<string> = []
        yield* log.observe(({ payload, txid }) => {
          told.push(`${txid} ${text(payload)}`)
        })
        const [first] = payloads
        yield* payloads.length === 1 ? log.append(first) : log.appendAll(payloads)
        while ((yield* log.end).txid < payloads.length + 2) yield* Effect.sleep(1)
        assert.deepStrictEqual(told, [...payloads, "x", "y"].map((payload, at) => `${at + 1} ${payload}`))
      }
    }))

  for (
    const { name, write } of [
      { name: "one record", write: (kv: Kv.KvService) => kv.put("k", "new") },
      { name: "many at once", write: (kv: Kv.KvService) => kv.putMany([["k", "new"], ["other", "1"]]) },
      { name: "a large record", write: (kv: Kv.KvService) => kv.put("k", "x".repeat(large)) }
    ]
  ) {
    it.live(`an observer that throws at ${name} keeps it from no other, and what was thrown ends the call`, () =>
      Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        const mine = new Error("mine")
        let throwing = false
        yield* log.observe(() => {
          if (throwing) throw mine
        })
        yield* log.observe(() => {
          if (throwing) throw new Error("another's")
        })
        const kv = yield* Effect.provideService(Kv.makeLog, Log.Log, log)
        yield* kv.put("k", "old")
        throwing = true
        const exit = yield* Effect.exit(Effect.asVoid<unknown, Kv.WriteError, never>(write(kv)))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) === mine)
        throwing = false
        const records = yield* collected(log)
        const written = records.findLast(({ key }) => text(key) === "k")?.payload
        assert.notStrictEqual(text(written), "old")
        assert.deepStrictEqual(yield* kv.get("k"), written)
        yield* kv.put("next", "1")
        assert.strictEqual(text(yield* kv.get("next")), "1")
      }))
  }

  it.live("an observer sees every record in order, in the step that wrote it, until its scope closes", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize: 5_000 })
      yield* log.append("before")
      const seen: Array<string> = []
      yield* Effect.scoped(Effect.gen(function*() {
        const start = yield* log.observe(({ key, keyLength, payload, payloadLength, txid }) => {
          assert.deepStrictEqual([keyLength, payloadLength], [key.length, payload.length])
          seen.push(`${txid} ${payload.length}`)
        })
        assert.deepStrictEqual(start, { segment: 1, offset: 34 })
        const refs = yield* Effect.forEach(numbers(60), (at) => {
          const before = seen.length
          return Effect.map(log.append("x".repeat(at % 9 === 0 ? large : at)), (ref) => {
            assert.isAbove(seen.length, before)
            return `${ref.txid} ${ref.len - 28}`
          })
        }, { concurrency: "unbounded" })
        const order = (each: string) => Number.parseInt(each, 10)
        assert.deepStrictEqual(seen, refs.sort((a, b) => order(a) - order(b)))
        yield* log.appendAll(numbers(30).map(() => raw("y".repeat(100_000))))
        assert.deepStrictEqual(seen.map(order), numbers(90).map((at) => at + 2))
      }))
      yield* log.append("after")
      assert.strictEqual(seen.length, 90)
    }))
})

describe("a caller without types", () => {
  it.effect("who gives what is no record is told so before anything is written", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      yield* log.append("one")
      const before = yield* log.end
      const wrong = [
        5,
        null,
        undefined,
        [1, 2],
        new Float64Array(1),
        new Int8Array(4),
        new DataView(new ArrayBuffer(4)),
        {}
      ]
      for (const payload of wrong as Array<unknown> as Array<string>) {
        for (
          const append of [
            log.append(payload),
            log.appendRecord({ type: "Put", key: payload ?? 5, payload: "1" }),
            log.appendAll([raw("two"), { type: "Raw", payload }])
          ]
        ) {
          const exit = yield* Effect.exit(Effect.asVoid<unknown, Log.WriteError, never>(append))
          const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
          if (!(error instanceof TypeError)) return assert.fail(String(error))
          assert.strictEqual(error.message, "a key or a value is a Uint8Array or a string")
        }
      }
      const nameless = { type: "Nope", payload: "1" } as object as Log.RecordInput
      assert.isTrue(Exit.hasDies(yield* Effect.exit(log.appendRecord(nameless))))
      assert.deepStrictEqual(yield* log.end, before)
      yield* log.append(Buffer.from("two"))
      assert.deepStrictEqual((yield* collected(log)).map(({ payload }) => text(payload)), ["one", "two"])
    }))
})

describe("opening", () => {
  it.effect("a value outside an option's range is refused, and nothing is made", () =>
    Effect.gen(function*() {
      const directory = NodePath.join(yield* temporaryDirectory, "never")
      const wrong: ReadonlyArray<object> = [
        { segmentSize: 0 },
        { segmentSize: -1 },
        { segmentSize: 1.5 },
        { segmentSize: Number.NaN },
        { segmentSize: Number.POSITIVE_INFINITY },
        { segmentSize: "1" },
        { chunkSize: 0 },
        { chunkSize: 0.5 },
        { policy: "mend" },
        { createIfMissing: "false" },
        { policy: "" },
        { durability: 0 },
        { durability: -5 },
        { durability: Number.POSITIVE_INFINITY },
        { durability: Number.NaN },
        { durability: "sometimes" },
        { durability: "0 seconds" },
        { durability: null },
        { directory: "" },
        { directory: undefined }
      ]
      for (const each of wrong) {
        const error = yield* Effect.flip(Log.make({ directory, ...each } as Log.Options))
        assert.strictEqual(error._tag, "InvalidOptions", JSON.stringify(each))
      }
      assert.isFalse(NFS.existsSync(directory))
    }))

  it.effect("a warning says which store it is of", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const directory = yield* temporaryDirectory
      const logged: Array<readonly [unknown, unknown]> = []
      const logger = Logger.make<unknown, void>(({ fiber, message }) => {
        logged.push([message, fiber.getRef(References.CurrentLogAnnotations).directory])
      })
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        yield* log.append("one")
        disk.failNext("sync", "EIO")
      })).pipe(over(disk), Effect.provideService(References.CurrentLoggers, new Set([logger])))
      assert.strictEqual(logged.length, 1)
      assert.include(String(logged[0]?.[0]), "the last records may not be durable")
      assert.strictEqual(logged[0]?.[1], directory)
    }))

  it.effect("an observer is given memory that no other thread shares, whatever was appended", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      const seen: Array<Uint8Array<ArrayBuffer>> = []
      yield* log.observe(({ payload }) => void seen.push(payload))
      const shared = new Uint8Array(new SharedArrayBuffer(3)).fill(7)
      yield* log.append(shared)
      yield* log.appendAll([{ type: "Raw", payload: shared }])
      assert.deepStrictEqual(seen.map((payload) => [payload.buffer instanceof ArrayBuffer, ...payload]), [
        [true, 7, 7, 7],
        [true, 7, 7, 7]
      ])
    }))

  it.effect("a segment that was lost is a warning, each time the log is opened", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* reopen({ directory }, (log) =>
        Effect.forEach([1, 2, 3], () => Effect.andThen(log.append("a record"), log.rotate)))
      const logged: Array<unknown> = []
      const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
        if (logLevel === "Warn") {
          logged.push(String(message))
        }
      })
      const open = Effect.scoped(Log.make({ directory })).pipe(
        Effect.provideService(References.CurrentLoggers, new Set([logger]))
      )
      yield* open
      assert.deepStrictEqual(logged, [])
      NFS.rmSync(NodePath.join(directory, "00000002.dwal"))
      yield* open
      yield* open
      const told = `${directory}: in 00000003.dwal the txids go on with 3 after 1; ` +
        "records before it are missing: was a segment lost?"
      assert.deepStrictEqual(logged, [told, told])
    }))

  it.effect("what is cut off is logged, and the few long calls are spans", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const directory = NodePath.join(root, "store")
      yield* reopen({ directory }, (log) => log.append("one"))
      NFS.appendFileSync(NodePath.join(directory, "00000001.dwal"), "DWAL")
      const logged: Array<readonly [string, unknown]> = []
      const logger = Logger.make<unknown, void>(({ fiber, message }) => {
        logged.push([String(message), fiber.getRef(References.CurrentLogAnnotations).directory])
      })
      const spans: Array<string> = []
      const tracer = Tracer.make({
        span: (options) => {
          spans.push(options.name)
          return new Tracer.NativeSpan(options)
        }
      })
      yield* Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        yield* kv.put("a", "1")
        yield* kv.get("a")
        yield* kv.sync
        yield* kv.compactTo(NodePath.join(root, "target"))
        yield* Export.fromLines(kv, Export.toLines(kv))
        yield* Export.toFile(kv, NodePath.join(root, "out"))
        yield* Salvage.toStore(directory, NodePath.join(root, "whole"))
      }).pipe(
        Effect.provideService(References.CurrentLoggers, new Set([logger])),
        Effect.provideService(References.MinimumLogLevel, "Debug"),
        Effect.provideService(Tracer.Tracer, tracer)
      )
      const torn = NodePath.join(directory, "00000001-31.torn")
      assert.deepStrictEqual(logged, [
        [`a torn tail of 4 bytes was cut off segment 1 at offset 31; a copy is in ${torn}`, directory]
      ])
      assert.deepStrictEqual(spans, [
        "Log.open",
        "Kv.compactTo",
        "Log.open",
        "Export.fromLines",
        "Export.toFile",
        "Salvage.toStore",
        "Log.open"
      ])
    }))

  it.effect("a directory that cannot be is an IoError", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      NFS.writeFileSync(NodePath.join(root, "file"), "")
      for (const name of ["file", "file/below", "nul\0byte", "x".repeat(300)]) {
        assert.strictEqual((yield* Effect.flip(Log.make({ directory: `${root}/${name}` })))._tag, "IoError", name)
      }
    }))

  it.effect("a failed open lets go of the lock and every descriptor at once, though the scope lives on", () =>
    Effect.gen(function*() {
      for (const name of ["bad_magic", "closed_crc_bad", "mid_active_crc_bad", "unknown_version"]) {
        const directory = yield* copyFixture(name)
        const before = tree(directory)
        yield* Effect.flip(Log.make({ directory }))
        assert.strictEqual(descriptors().filter((path) => path.startsWith(directory)).length, 0, name)
        yield* Effect.scoped(Lock.acquire(directory))
        assert.deepStrictEqual(tree(directory), before)
      }
    }))

  it.effect("replay is given every record, in order, once", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* reopen({ directory, segmentSize: 300 }, (log) => log.appendAll(numbers(50).map((at) => raw(`${at}`))))
      const seen: Array<string> = []
      yield* Log.make({
        directory,
        chunkSize: 40,
        replay: (records) => {
          for (const record of records) seen.push(text(record.payload)!)
        }
      })
      assert.deepStrictEqual(seen, numbers(50).map(String))
    }))

  it.effect("a replay that throws is a defect that leaves nothing held", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* reopen({ directory }, (log) => log.append("one"))
      const exit = yield* Effect.exit(Log.make({
        directory,
        replay: () => {
          throw new Error("mine")
        }
      }))
      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(descriptors().filter((path) => path.startsWith(directory)).length, 0)
      yield* Log.make({ directory })
    }))

  it.effect("layer gives the log, layerConfig reads its options", () =>
    Effect.gen(function*() {
      const directory = NodePath.join(yield* temporaryDirectory, "a", "b")
      const append = Effect.flatMap(Log.Log, (log) => log.append("one"))
      assert.strictEqual((yield* Effect.provide(append, Log.layer({ directory }))).txid, 1)
      const layer = Log.layerConfig({
        directory: Config.String("DIRECTORY"),
        segmentSize: Config.Int("SEGMENT"),
        policy: Config.succeed("strict" as const)
      })
      const env = (SEGMENT: string) =>
        Layer.provide(layer, ConfigProvider.layer(ConfigProvider.fromEnv({ env: { DIRECTORY: directory, SEGMENT } })))
      const segments = Effect.flatMap(Log.Log, (log) => Effect.andThen(log.append("two"), log.segments))
      assert.deepStrictEqual((yield* Effect.provide(segments, env("10"))).map((segment) => segment.id), [1, 2])
      const refused = yield* Effect.flip(Effect.provide(append, env("0")))
      assert.strictEqual(refused._tag, "InvalidOptions")
      const unread = yield* Effect.flip(Effect.provide(append, env("ten")))
      assert.strictEqual(unread._tag, "ConfigError")
    }))
})

describe("after its scope has closed", () => {
  it.effect("every call fails typed with EBADF, and nothing is written", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      const scope = yield* Scope.make()
      const log = yield* over(disk)(Scope.provide(Log.make({ directory }), scope))
      const ref = yield* log.append("one")
      const big = yield* log.append("b".repeat(large))
      const parts = yield* logParts(log)
      yield* Scope.close(scope, Exit.void)
      const before = tree(directory)
      const mutations: ReadonlyArray<
        Effect.Effect<unknown, Log.WriteError | Errors.CorruptSegment | Errors.InvalidPosition>
      > = [
        log.append("two"),
        log.append("t".repeat(large)),
        log.appendAll([raw("two")]),
        log.appendAll([]),
        parts.write(raw("two")),
        parts.writeAll([raw("t".repeat(large))]),
        log.rotate,
        log.sync,
        Stream.run(Stream.make(raw("two")), log.sink),
        log.read(ref),
        log.read(big),
        Stream.runDrain(log.stream),
        Stream.runDrain(log.streamFrom({ txid: 1 }))
      ]
      for (const [at, mutation] of mutations.entries()) {
        assert.deepInclude(yield* Effect.flip(mutation), { _tag: "IoError", code: "EBADF" }, `${at}`)
      }
      assert.isTrue(Exit.isFailure(parts.appendNow(raw("two"))!))
      assert.deepInclude(yield* log.refusal, { _tag: "IoError", code: "EBADF" })
      assert.deepStrictEqual(tree(directory), before)
      assert.deepStrictEqual(disk.misuse, [])
      assert.strictEqual(disk.openDescriptors, 0)
      yield* Log.make({ directory })
    }))
})

describe("a store of many segments", () => {
  const segmented = Effect.fnUntraced(function*(count: number, each: number) {
    const directory = yield* temporaryDirectory
    const refs = yield* reopen(
      { directory, segmentSize: 1 + 40 * each },
      (log) => log.appendAll(numbers(count * each).map((at) => raw(`${at}`.padEnd(12, "x"))))
    )
    return { directory, refs }
  })

  it.live("is read through few descriptors, which are all closed at the end", () =>
    Effect.gen(function*() {
      const { directory, refs } = yield* segmented(200, 2)
      const ours = () => descriptors().filter((path) => path.startsWith(directory)).length
      yield* reopen({ directory }, (log) =>
        Effect.gen(function*() {
          assert.strictEqual((yield* log.segments).length, 200)
          for (const _ of numbers(3)) {
            for (const ref of refs) yield* log.read(ref)
            assert.isAtMost(ours(), open_max + 2)
          }
          assert.strictEqual((yield* collected(log)).length, 400)
          assert.isAtMost(ours(), open_max + 2)
        }))
      assert.strictEqual(ours(), 0)
    }))

  it.live("a segment whose fsync still runs is not closed under it by a rotation", () =>
    Effect.gen(function*() {
      const { directory, refs } = yield* segmented(100, 1)
      const disk = new FaultyDisk()
      yield* over(disk)(reopen({ directory }, (log) =>
        Effect.gen(function*() {
          // Every other descriptor is used after the active one: that is the next to be closed.
          for (const ref of refs.slice(0, 90)) yield* log.read(ref)
          yield* log.append("new")
          const first = disk.holdNext("sync")
          const second = disk.holdNext("sync")
          const syncing = [yield* Effect.forkChild(log.sync, { startImmediately: true })]
          yield* first.reached
          syncing.push(yield* Effect.forkChild(log.sync, { startImmediately: true }))
          yield* first.release
          yield* Fiber.join(syncing[0]!)
          yield* someTurns
          const rotating = yield* Effect.forkChild(Effect.andThen(log.rotate, log.append("behind")), {
            startImmediately: true
          })
          yield* someTurns
          yield* second.release
          yield* Fiber.join(rotating)
          yield* Fiber.join(syncing[1]!)
          yield* log.sync
        })))
      assert.deepStrictEqual(disk.misuse, [])
      assert.strictEqual(disk.openDescriptors, 0)
    }))

  it.live("is read by many fibers at once through few descriptors", () =>
    Effect.gen(function*() {
      const { directory, refs } = yield* segmented(300, 4)
      const disk = new FaultyDisk()
      yield* over(disk)(reopen({ directory }, (log) =>
        Effect.gen(function*() {
          disk.peakDescriptors = 0
          const records = yield* Effect.forEach(refs, (ref) => log.read(ref), { concurrency: "unbounded" })
          assert.deepStrictEqual(records.map((record) => record.txid), refs.map((ref) => ref.txid))
        })))
      assert.strictEqual(disk.openDescriptors, 0)
      assert.isAtMost(disk.peakDescriptors, 2 * open_max + 2, "descriptors open at once")
    }))

  it.live("one closed segment that many fibers read at once is not opened once for each of them", () =>
    Effect.gen(function*() {
      const { directory, refs } = yield* segmented(2, 1_500)
      const disk = new FaultyDisk()
      yield* over(disk)(reopen({ directory }, (log) =>
        Effect.gen(function*() {
          disk.peakDescriptors = 0
          yield* Effect.forEach(refs, (ref) => log.read(ref), { concurrency: "unbounded" })
        })))
      assert.strictEqual(disk.openDescriptors, 0)
      assert.isAtMost(disk.peakDescriptors, 2 * open_max + 2, "descriptors open at once")
    }))

  it.live("no more than the usual limit of descriptors is needed to read it from many fibers", () =>
    Effect.gen(function*() {
      const { directory } = yield* segmented(2, 1_500)
      const script = `
        import { Effect, Stream } from ${JSON.stringify(NodePath.resolve("node_modules/effect/dist/index.js"))}
        import * as Log from ${JSON.stringify(NodePath.resolve("dist/Log.js"))}
        await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory: ${JSON.stringify(directory)} })
          const refs = yield* Stream.runCollect(log.stream)
          yield* Effect.forEach(refs, (ref) => log.read(ref), { concurrency: "unbounded" })
        })))
        process.stdout.write("read")`
      const output = execFileSync("sh", ["-c", "ulimit -n 1024; exec node --input-type=module"], {
        input: script,
        encoding: "utf8"
      })
      assert.strictEqual(output, "read")
    }))
})
