/** Reading many values at once: in the order of the files, handed out in the order asked for. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as V8 from "node:v8"
import * as VM from "node:vm"
import * as Disk from "../src/Disk.ts"
import { IoError } from "../src/Errors.ts"
import * as Export from "../src/Export.ts"
import * as Frame from "../src/Frame.ts"
import type { PutFrames } from "../src/internal/frames.ts"
import { logParts } from "../src/internal/logParts.ts"
import { nodeDisk } from "../src/internal/nodeDisk.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import { FaultyDisk, over, overInTurns, text } from "./support/faultyDisk.ts"
import { put, segmentName, temporaryDirectory } from "./support/stores.ts"

const numbers = (count: number): ReadonlyArray<number> => Array.from({ length: count }, (_, at) => at)

/** In an order that has nothing to do with that of the numbers. */
const scattered = (at: number): string => (Math.imul(at + 1, 0x9e3779b1) >>> 0).toString(16).padStart(8, "0")

const valueOf = (at: number, length: number): Buffer => Buffer.alloc(length, `${at} `)

/** Keys by their bytes, and what each has. */
const sorted = (model: ReadonlyMap<string, Buffer>): ReadonlyArray<readonly [string, Buffer]> =>
  [...model].sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))

/** A store in small segments, some of its keys written twice and some deleted. */
const filled = Effect.fnUntraced(function*(directory: string, count: number, lengthOf: (at: number) => number) {
  const kv = yield* Kv.make({ directory, segmentSize: 3_000_000, checkpoint: "never" })
  const model = new Map<string, Buffer>()
  const putAll = Effect.fnUntraced(function*(all: ReadonlyArray<number>, salt: number) {
    for (let from = 0; from < all.length; from += 500) {
      const pairs = all.slice(from, from + 500).map((at) => [scattered(at), valueOf(at + salt, lengthOf(at))] as const)
      for (const [key, value] of pairs) model.set(key, value)
      yield* kv.putMany(pairs)
    }
  })
  yield* putAll(numbers(count), 0)
  yield* putAll(numbers(count).filter((at) => at % 7 === 3), 1)
  for (const at of numbers(count).filter((at) => at % 31 === 0)) {
    model.delete(scattered(at))
    yield* kv.delete(scattered(at))
  }
  return { kv, model }
})

const assertHolds = Effect.fnUntraced(function*(kv: Kv.KvRead, model: ReadonlyMap<string, Buffer>) {
  const expected = sorted(model)
  for (const ordered of [true, false]) {
    const found = yield* Stream.runCollect(kv.entries({ ordered }))
    if (!ordered) found.sort((a, b) => Buffer.compare(a.key, b.key))
    assert.strictEqual(found.length, expected.length)
    for (const [index, { key, value }] of found.entries()) {
      const [expectedKey, expectedValue] = expected[index]!
      assert.strictEqual(text(key), expectedKey)
      assert.isTrue(expectedValue.equals(value), expectedKey)
    }
  }
})

const assertOuts = Effect.fnUntraced(function*(kv: Kv.KvRead, model: ReadonlyMap<string, Buffer>, root: string) {
  const lines = sorted(model).map(([key, value]) =>
    `{"key_b64":"${Buffer.from(key).toString("base64")}","value_b64":"${value.toString("base64")}"}\n`
  )
  const file = NodePath.join(root, "out.jsonl")
  const exported = yield* Export.toFile(kv, file)
  const expected = lines.join("")
  assert.deepStrictEqual(exported, { records_written: model.size, bytes_written: expected.length })
  assert.isTrue(NFS.readFileSync(file).equals(Buffer.from(expected)))
  const target = NodePath.join(root, "target")
  const { bytes_written, live_keys } = yield* kv.compactTo(target)
  assert.strictEqual(live_keys, model.size)
  const copy = yield* Kv.make({ directory: target, policy: "strict" })
  const { deadBytes, liveBytes, records } = yield* copy.statistics
  assert.deepStrictEqual([records, liveBytes, deadBytes], [model.size, bytes_written, 0])
  yield* assertHolds(copy, model)
  assert.strictEqual((yield* copy.put("next", "")).txid, model.size + 1)
})

describe("many values at once", () => {
  it.live("come in the order of the keys, over many windows, segments and sizes", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const sizes = [0, 1, 2, 3, 100, 500, 484, 485, 1_000]
      const { kv, model } = yield* filled(NodePath.join(root, "store"), 12_000, (at) => sizes[at % sizes.length] ?? 0)
      yield* assertHolds(kv, model)
      yield* assertOuts(kv, model, root)
      const reader = yield* Kv.makeReader({ directory: kv.directory })
      yield* assertHolds(reader, model)
    }))

  it.live("may take more than a window holds, and some more than one read does", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const sizes = [1_900, 2_010, 2_011, 2_012, 2_013, 1_500, 20, 1_800]
      const large = [300_000, 40_000, 9_000]
      // 18 MB of short values, where a window has 16 MiB for them, and a few long ones between.
      const { kv, model } = yield* filled(
        NodePath.join(root, "store"),
        11_000,
        (at) => at % 199 === 9 ? large[at % large.length] ?? 0 : sizes[at % sizes.length] ?? 0
      )
      yield* assertHolds(kv, model)
      yield* assertOuts(kv, model, root)
    }))

  it.effect("take one read for many neighbours in the files, in whatever order their keys are", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const root = yield* temporaryDirectory
        const { kv, model } = yield* filled(NodePath.join(root, "store"), 5_000, () => 100)
        for (const [work, most] of [[assertHolds(kv, model), 300], [assertOuts(kv, model, root), 300]] as const) {
          const before = disk.calls.length
          yield* work
          const reads = disk.calls.slice(before).filter(({ kind, path }) =>
            path.startsWith(kv.directory) && (kind === "readNow" || kind === "read")
          )
          assert.isBelow(reads.length, most, `reads for ${model.size} values`)
        }
      }))
    }))

  it.effect("all come before the first that is damaged, and that is named", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const { kv, model } = yield* filled(NodePath.join(root, "store"), 3_000, () => 100)
      const keys = sorted(model).map(([key]) => key)
      for (const damaged of [2_000, 1_999, 700]) {
        const place = yield* kv.refOf(keys[damaged] ?? "")
        assert.isDefined(place)
        const path = NodePath.join(kv.directory, segmentName(place.segment))
        const bytes = NFS.readFileSync(path)
        bytes[place.offset + Frame.header_bytes + 20]! ^= 1
        NFS.writeFileSync(path, bytes)
        const seen: Array<string | undefined> = []
        const error = yield* Effect.flip(
          Stream.runForEach(kv.entries({ ordered: true }), ({ key }) => Effect.sync(() => seen.push(text(key))))
        )
        assert.deepInclude(error, { _tag: "CorruptSegment", segment: place.segment, offset: place.offset })
        assert.deepStrictEqual(seen, keys.slice(0, damaged))
        for (
          const work of [Export.toFile(kv, NodePath.join(root, "out")), kv.compactTo(NodePath.join(root, "target"))]
        ) {
          assert.deepStrictEqual(yield* Effect.flip(work), error)
        }
        assert.deepStrictEqual(NFS.readdirSync(root), ["store"])
      }
    }))

  it.effect("all come before the first that is damaged, and no other behind it, also where one read has several long ones", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory })
      const refs = yield* kv.putMany(["a", "b", "c", "d"].map((key) => [key, valueOf(1, 4_000)] as const))
      const offset = refs[2]?.offset ?? 0
      const file = NFS.openSync(NodePath.join(directory, segmentName(1)), "r+")
      NFS.writeSync(file, "?", offset + 100)
      NFS.closeSync(file)
      const seen: Array<string> = []
      const entries = kv.entries({ ordered: true })
      const error = yield* Effect.flip(
        Stream.runForEach(entries, ({ key }) => Effect.sync(() => void seen.push(text(key) ?? "")))
      )
      assert.deepInclude(error, { _tag: "CorruptSegment", offset })
      assert.deepStrictEqual(seen, ["a", "b"])
    }))

  it.live("of no window comes what the one before it had in its place", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const directory = NodePath.join(root, "store")
      const count = 20_000
      const kv = yield* Kv.make({ directory, checkpoint: "never" })
      for (let from = 0; from < count; from += 500) {
        yield* kv.putMany(
          Array.from(
            { length: 500 },
            (_, at) => [String(from + at).padStart(6, "0"), valueOf(from + at, 2_000)] as const
          )
        )
      }
      // Two windows of 16 MiB and a part of a third: one in the second.
      const place = yield* Effect.map(kv.refOf("012000"), (place) => place ?? assert.fail())
      const path = NodePath.join(directory, segmentName(1))
      const file = NFS.openSync(path, "r+")
      NFS.writeSync(file, "x", place.offset + 1_000)
      NFS.closeSync(file)
      const error = yield* Effect.flip(kv.compactTo(NodePath.join(root, "compacted")))
      assert.deepInclude(error, { _tag: "CorruptSegment", segment: 1, offset: place.offset })
    }))

  it.effect("of whole records that have changed places none is given out", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = NodePath.join(directory, segmentName(1))
      const frames = ["a", "b", "c"].map((key, at) => put(at + 1, key, `v${key}`))
      NFS.writeFileSync(path, Buffer.concat(frames))
      const kv = yield* Kv.make({ directory })
      NFS.writeFileSync(path, Buffer.concat([frames[1]!, frames[0]!, frames[2]!]))
      for (const ordered of [true, false]) {
        const error = yield* Effect.flip(Stream.runDrain(kv.entries({ ordered })))
        assert.deepInclude(error, { _tag: "CorruptSegment", reason: "RecordMismatch", offset: 0 })
      }
    }))

  it.effect("are read one by one where reading them together failed, and fail with what their own read says", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const root = yield* temporaryDirectory
        const { kv, model } = yield* filled(NodePath.join(root, "store"), 500, () => 100)
        disk.failNext("readNow", "EIO")
        yield* assertHolds(kv, model)
        disk.failNext("readNow", "EIO", { times: 1_000 })
        disk.failNext("read", "EIO", { times: 1_000 })
        const error = yield* Effect.flip(Stream.runDrain(kv.entries()))
        assert.deepInclude(error, { _tag: "IoError", code: "EIO", operation: "read" })
        disk.clear()
        disk.shorten("readNow", 1_000)
        yield* assertHolds(kv, model)
        disk.clear()
        yield* assertOuts(kv, model, root)
      }))
    }))

  it.effect("fail as the opening of their segment does", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const root = yield* temporaryDirectory
        const directory = NodePath.join(root, "store")
        const { model } = yield* Effect.scoped(filled(directory, 100, () => 100_000))
        const kv = yield* Kv.makeReader({ directory })
        disk.failNext("openRead", "EACCES")
        assert.deepInclude(yield* Effect.flip(Stream.runDrain(kv.entries())), { _tag: "IoError", code: "EACCES" })
        yield* assertHolds(kv, model)
      }))
    }))

  it.live("leave others their turn while they are read", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const { kv } = yield* filled(NodePath.join(root, "store"), 60_000, () => 100)
      let turns = 0
      const timer = setInterval(() => turns++, 0)
      yield* Effect.addFinalizer(() => Effect.sync(() => clearInterval(timer)))
      const turnsOf = (work: Effect.Effect<unknown, unknown>) =>
        Effect.map(Effect.andThen(Effect.sync(() => turns = 0), work), () => turns)
      assert.isAtLeast(yield* turnsOf(Stream.runDrain(kv.entries({ ordered: true }))), 20)
      assert.isAtLeast(yield* turnsOf(Export.toFile(kv, NodePath.join(root, "out.jsonl"))), 20)
      assert.isAtLeast(yield* turnsOf(kv.compactTo(NodePath.join(root, "target"))), 20)
    }))

  it.live("leave others their turn also where no read succeeds", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        // So far from each other that each takes a read of its own.
        for (const at of numbers(300)) {
          yield* kv.putMany([["between", valueOf(at, 10_000)], [`${at}`, valueOf(at, 100)]])
        }
      }))
      let turns = 0
      const kv = yield* Effect.provideService(Kv.makeReader({ directory }), Disk.Disk, {
        ...nodeDisk,
        open: (path, mode) =>
          Effect.map(nodeDisk.open(path, mode), (file) => ({
            ...file,
            readNow: () => new IoError({ operation: "read", path, code: "EIO", cause: undefined })
          })),
        isTurnOver: () => true
      })
      let immediate = setImmediate(function turn() {
        turns++
        immediate = setImmediate(turn)
      })
      yield* Effect.addFinalizer(() => Effect.sync(() => clearImmediate(immediate)))
      assert.strictEqual((yield* Effect.flip(Stream.runDrain(kv.entries())))._tag, "IoError")
      assert.isAtLeast(turns, 250)
    }))

  it.live("take memory for one window only, whatever the store holds", () =>
    Effect.gen(function*() {
      V8.setFlagsFromString("--expose-gc")
      const collect = VM.runInNewContext("gc") as () => void
      const used = () => {
        collect()
        const { arrayBuffers, heapUsed } = process.memoryUsage()
        return arrayBuffers + heapUsed
      }
      const root = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory: NodePath.join(root, "store"), checkpoint: "never" })
      // 80 MB in values, 1 MB in keys.
      for (let from = 0; from < 40_000; from += 500) {
        yield* kv.putMany(numbers(500).map((at) => [scattered(from + at), valueOf(at, 2_000)]))
      }
      // What tests before this one have left takes more than one turn to go.
      for (let before = Infinity; used() < before;) {
        before = used()
        yield* Effect.sleep("50 millis")
      }
      const start = used()
      let peak = 0
      let calls = 0
      const onProgress = () => {
        if (calls++ % 80 === 0) peak = Math.max(peak, used() - start)
      }
      yield* Export.toFile(kv, NodePath.join(root, "out.jsonl"), { onProgress })
      yield* kv.compactTo(NodePath.join(root, "target"), { onProgress })
      yield* Stream.runForEachArray(kv.entries({ ordered: true }), () => Effect.sync(onProgress))
      assert.isAbove(calls, 400)
      assert.isAbove(peak, 10_000_000)
      // What is no longer used may take a while to be given back.
      assert.isAtMost(peak, 60_000_000)
    }))
})

/** Puts with no txid yet, back to back. */
const framesOf = (pairs: ReadonlyArray<readonly [string, string]>): PutFrames => {
  const frames = pairs.map(([key, value]) => put(1, key, value))
  const starts = new Uint32Array(frames.length + 1)
  for (const [at, frame] of frames.entries()) starts[at + 1] = starts[at]! + frame.length
  const bytes = Uint8Array.from(Buffer.concat(frames))
  return { bytes, view: new DataView(bytes.buffer), starts, from: 0, to: frames.length }
}

const pairs = (count: number) => numbers(count).map((at) => [`k${at}`, `value ${at}`.repeat(at % 9)] as const)

const recordsOf = (log: Log.Log["Service"]) =>
  Effect.map(
    Stream.runCollect(log.stream),
    (records) => records.map(({ key, payload, txid, type }) => [type, txid, text(key), text(payload)])
  )

describe("writing frames", () => {
  it.effect("gives them the next txids, goes on in new segments, and tells whoever observes", () =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory, segmentSize: 1_000 })
      yield* log.append("first")
      yield* (yield* logParts(log)).writeFrames(framesOf(pairs(50)))
      const observed: Array<unknown> = []
      yield* log.observe(({ key, len, offset, payload, segment, txid, type }) => {
        observed.push([type, txid, text(key), text(payload), segment, offset, len])
      })
      const frames = framesOf([...pairs(30), ["long", "l".repeat(5_000)], ...pairs(30)])
      yield* (yield* logParts(log)).writeFrames({ ...frames, from: 10, to: 50 })
      yield* log.append("last")
      const written = [
        ...pairs(50),
        ...[...pairs(30), ["long", "l".repeat(5_000)] as const, ...pairs(30)].slice(10, 50)
      ]
      assert.deepStrictEqual(yield* recordsOf(log), [
        ["Raw", 1, "", "first"],
        ...written.map(([key, value], at) => ["Put", at + 2, key, value]),
        ["Raw", written.length + 2, "", "last"]
      ])
      const records = yield* Stream.runCollect(log.stream)
      assert.deepStrictEqual(
        observed,
        records.slice(51).map((
          { key, len, offset, payload, segment, txid, type }
        ) => [type, txid, text(key), text(payload), segment, offset, len])
      )
      for (const { active, bytes } of yield* log.segments) assert.isTrue(active || bytes <= 1_000 || bytes > 5_000)
      assert.isAbove((yield* log.segments).length, 5)
    }))

  it.live("ends where a sync fails meanwhile: nothing is written behind that", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const directory = yield* temporaryDirectory
      const still = new Int32Array(new SharedArrayBuffer(4))
      // However busy the machine is, the sync fails before all is written.
      let syncs = Infinity
      const look = () => {
        if (disk.count("sync") === syncs) Atomics.wait(still, 0, 0, 5)
      }
      yield* overInTurns(disk, look)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        yield* log.append("first")
        disk.failNext("sync", "EIO")
        syncs = disk.count("sync")
        const { writeFrames } = yield* logParts(log)
        const writing = yield* Effect.forkChild(Effect.exit(writeFrames(framesOf(pairs(60_000)))), {
          startImmediately: true
        })
        assert.deepInclude(yield* Effect.flip(log.sync), { _tag: "IoError", code: "EIO" })
        const { txid } = yield* log.end
        const exit = yield* Fiber.join(writing)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasFails(exit.cause))
        assert.strictEqual((yield* log.end).txid, txid)
        assert.isBelow(txid, 60_000)
      })))
    }))

  it.effect("that fails poisons the writer, and what is in the log is a prefix of them", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const directory = yield* temporaryDirectory
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory, segmentSize: 1_000 })
        disk.failNext("appendNow", "ENOSPC", { skip: 2, landed: "half" })
        const error = yield* Effect.flip((yield* logParts(log)).writeFrames(framesOf(pairs(50))))
        assert.deepInclude(error, { _tag: "IoError", code: "ENOSPC" })
        assert.deepInclude(yield* Effect.flip((yield* logParts(log)).writeFrames(framesOf(pairs(1)))), {
          _tag: "WriterPoisoned"
        })
        disk.clear()
      })))
      const log = yield* Log.make({ directory })
      const found = yield* recordsOf(log)
      assert.isAtLeast(found.length, 20)
      assert.isBelow(found.length, 50)
      assert.deepStrictEqual(found, pairs(found.length).map(([key, value], at) => ["Put", at + 1, key, value]))
    }))

  it.effect("is refused by a writer that is closed", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const log = yield* Effect.scoped(Log.make({ directory }))
      const exit = yield* Effect.exit((yield* logParts(log)).writeFrames(framesOf(pairs(3))))
      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(NFS.statSync(NodePath.join(directory, segmentName(1))).size, 0)
    }))
})
