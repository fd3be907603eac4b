/**
 * Every call that an operation makes of the disk is failed in turn: what the caller is told, what stays usable, what is
 * left behind, and what the next open finds.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Cause, Deferred, Effect, Exit, Fiber, References, Schema, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Disk from "../src/Disk.ts"
import * as Errors from "../src/Errors.ts"
import * as Export from "../src/Export.ts"
import * as Frame from "../src/Frame.ts"
import { logParts } from "../src/internal/logParts.ts"
import { nodeDisk } from "../src/internal/nodeDisk.ts"
import * as Kv from "../src/Kv.ts"
import * as Lock from "../src/Lock.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import * as Salvage from "../src/Salvage.ts"
import {
  type Call,
  FaultyDisk,
  type Kind,
  type Landed,
  leftovers,
  operationOf,
  over,
  text,
  tree
} from "./support/faultyDisk.ts"
import { temporaryDirectory } from "./support/stores.ts"

const large = 300_000
const filled = (letter: string, length: number): string => letter.repeat(length)

const acknowledged = ["one", "two", "three"]

interface Operation {
  readonly name: string
  readonly options?: Partial<Log.Options>
  /** Appended, but not synced, before the operation. */
  readonly before?: ReadonlyArray<string>
  readonly attempts: ReadonlyArray<string>
  readonly run: (log: Log.Log["Service"]) => Effect.Effect<unknown, Log.WriteError>
}

const many = (count: number, length: number): ReadonlyArray<string> =>
  Array.from({ length: count }, (_, at) => filled(String.fromCharCode(97 + at), length))

const raw = (payload: string): Log.RecordInput => ({ type: "Raw", payload })

const operations: ReadonlyArray<Operation> = [
  { name: "a small append", attempts: ["four"], run: (log) => log.append("four") },
  { name: "a large append", attempts: [filled("x", large)], run: (log) => log.append(filled("x", large)) },
  { name: "a small batch", attempts: many(5, 100), run: (log) => log.appendAll(many(5, 100).map(raw)) },
  { name: "a large batch", attempts: many(24, 100_000), run: (log) => log.appendAll(many(24, 100_000).map(raw)) },
  {
    name: "a batch over several segments",
    options: { segmentSize: 1_000 },
    attempts: many(9, 300),
    run: (log) => log.appendAll(many(9, 300).map(raw))
  },
  { name: "a sync", before: ["loose"], attempts: [], run: (log) => log.sync },
  { name: "a rotation", before: ["loose"], attempts: [], run: (log) => log.rotate },
  {
    name: "an append that rotates",
    options: { segmentSize: 150 },
    before: ["loose"],
    attempts: [filled("y", 100)],
    run: (log) => log.append(filled("y", 100))
  },
  {
    name: "an append that is synced",
    options: { durability: "always" },
    attempts: ["four"],
    run: (log) => log.append("four")
  },
  {
    name: "a large append that is synced",
    options: { durability: "always" },
    attempts: [filled("z", large)],
    run: (log) => log.append(filled("z", large))
  }
]

const payloads = (log: Pick<Log.Log["Service"], "stream">) =>
  Effect.map(Stream.runCollect(log.stream), (records) => records.map((record) => text(record.payload)!))

const started = Effect.fnUntraced(function*(operation: Operation, root: string) {
  const log = yield* Log.make({ directory: NodePath.join(root, "store"), ...operation.options })
  const refs = yield* log.appendAll(acknowledged.map(raw))
  yield* log.sync
  for (const payload of operation.before ?? []) yield* log.append(payload)
  return { log, refs }
})

/** The calls that the operation makes when nothing fails. */
const callsOf = (operation: Operation) =>
  Effect.scoped(Effect.gen(function*() {
    const disk = new FaultyDisk()
    return yield* over(disk)(Effect.gen(function*() {
      const { log } = yield* started(operation, yield* temporaryDirectory)
      const from = disk.calls.length
      yield* operation.run(log)
      return disk.calls.slice(from)
    }))
  }))

const isMutation = (kind: Kind): boolean => kind !== "close" && kind !== "writeText"

const landings = (kind: Kind): ReadonlyArray<Landed> =>
  kind === "append" || kind === "appendNow" || kind === "overwrite"
    ? ["nothing", "half", "all"]
    : kind === "sync" || kind === "syncDirectory" || kind === "create"
    ? ["nothing", "all"]
    : ["nothing"]

const later: ReadonlyArray<readonly [string, (log: Log.Log["Service"]) => Effect.Effect<unknown, Log.WriteError>]> = [
  ["append", (log) => log.append("later")],
  ["a large append", (log) => log.append(filled("l", large))],
  ["appendAll", (log) => log.appendAll([raw("later")])],
  ["rotate", (log) => log.rotate],
  ["sync", (log) => log.sync],
  ["write", (log) => Effect.flatMap(logParts(log), ({ write }) => write(raw("later")))],
  ["settled nothing", (log) => log.appendAll([])]
]

const assertPoisoned = Effect.fnUntraced(function*(log: Log.Log["Service"], first: Errors.IoError) {
  for (const [name, run] of later) {
    const error = yield* Effect.flip(run(log))
    if (!(error instanceof Errors.WriterPoisoned)) return assert.fail(`${name}: ${error._tag}`)
    assert.deepStrictEqual(
      { operation: error.operation, path: error.path, code: error.code, directory: error.directory },
      { operation: first.operation, path: first.path, code: first.code, directory: log.directory },
      name
    )
  }
  assert.strictEqual((yield* log.refusal)?._tag, "WriterPoisoned")
})

const failAt = Effect.fnUntraced(function*(
  operation: Operation,
  call: Call,
  index: number,
  code: string,
  landed: Landed
) {
  const context = `${operation.name}, call ${index} (${call.kind}), ${code}, ${landed} landed`
  const root = yield* temporaryDirectory
  const disk = new FaultyDisk()
  yield* over(disk)(Effect.scoped(Effect.gen(function*() {
    const { log, refs } = yield* started(operation, root)
    disk.failCall(disk.calls.length + index, code, landed)
    const exit = yield* Effect.exit(Effect.flip(operation.run(log)))
    if (!Exit.isSuccess(exit)) return assert.fail(`${context}: it succeeded or died`)
    const error = exit.value
    if (!(error instanceof Errors.IoError)) return assert.fail(`${context}: ${error._tag}`)
    assert.strictEqual(error.code, code, context)
    assert.strictEqual(error.operation, operationOf(call.kind), context)
    assert.strictEqual(NodePath.basename(error.path), NodePath.basename(call.path), context)
    yield* assertPoisoned(log, error)
    for (const [at, ref] of refs.entries()) {
      assert.strictEqual(text((yield* log.read(ref)).payload), acknowledged[at], context)
    }
    assert.deepStrictEqual((yield* payloads(log)).slice(0, 3), acknowledged, context)
  })))
  assert.strictEqual(disk.openDescriptors, 0, context)
  assert.deepStrictEqual(disk.misuse, [], context)
  const before = operation.before ?? []
  yield* Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory: NodePath.join(root, "store"), ...operation.options })
    const found = yield* payloads(log)
    const written = [...acknowledged, ...before, ...operation.attempts]
    assert.isAtLeast(found.length, acknowledged.length + before.length, context)
    assert.deepStrictEqual(found, written.slice(0, found.length), context)
    assert.strictEqual((yield* log.append("after")).txid, found.length + 1, context)
    yield* log.sync
  }))
  yield* Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory: NodePath.join(root, "store"), policy: "strict" })
    assert.strictEqual((yield* payloads(log)).at(-1), "after", context)
  }))
})

describe("a failing disk under the log", () => {
  for (const operation of operations) {
    it.live(`${operation.name} that fails anywhere stops the writer, and reopening recovers`, () =>
      Effect.gen(function*() {
        const calls = yield* callsOf(operation)
        assert.isAtLeast(calls.length, 1)
        for (const [index, call] of calls.entries()) {
          if (!isMutation(call.kind)) continue
          for (const [at, landed] of landings(call.kind).entries()) {
            const code = ["EIO", "ENOSPC", "EMFILE"][(index + at) % 3]!
            yield* Effect.scoped(failAt(operation, call, index, code, landed))
          }
        }
      }))
  }

  it.live("a write that fails halfway leaves a torn tail, if that cannot be taken back, which reopening cuts and keeps", () =>
    Effect.gen(function*() {
      for (const length of [100, large]) {
        const directory = yield* temporaryDirectory
        const disk = new FaultyDisk()
        const offset = yield* over(disk)(Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          yield* log.append("whole")
          disk.failNext(length > 262_144 ? "append" : "appendNow", "ENOSPC", { landed: "half" })
          disk.failNext("truncate", "EIO", { times: 2 })
          yield* Effect.flip(log.append(filled("t", length)))
          return (yield* log.end).offset
        })))
        const tail = NFS.readFileSync(NodePath.join(directory, "00000001.dwal")).subarray(offset)
        assert.strictEqual(tail.length, Math.floor((length + 28) / 2))
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          assert.deepInclude(log.report, {
            tail_truncated: 1,
            tail_bytes_discarded: tail.length,
            tail_segment: 1,
            tail_offset: offset,
            tail_reason: "Truncated",
            torn_file: NodePath.join(directory, `00000001-${offset}.torn`)
          })
          assert.deepStrictEqual(yield* payloads(log), ["whole"])
        }))
        assert.isTrue(NFS.readFileSync(NodePath.join(directory, `00000001-${offset}.torn`)).equals(tail))
      }
    }))

  it.live("a program goes on after a failed write or sync when it is run again, as the README has it", () =>
    Effect.gen(function*() {
      for (const [kind, durability] of [["appendNow", "manual"], ["sync", "always"]] as const) {
        const directory = yield* temporaryDirectory
        const disk = new FaultyDisk()
        let runs = 0
        const program = Effect.gen(function*() {
          const log = yield* Log.Log
          runs++
          yield* log.append(`${runs}`)
          if (runs === 1) disk.failNext(kind, "EIO", { landed: "half" })
          yield* log.append("work")
          yield* log.append("done")
        })
        yield* program.pipe(
          Effect.provide(Log.layer({ directory, durability })),
          Effect.retry({ times: 3, while: ({ _tag }) => _tag === "IoError" || _tag === "WriterPoisoned" }),
          over(disk)
        )
        assert.strictEqual(runs, 2)
        const reader = yield* Reader.make({ directory })
        const written = (yield* Stream.runCollect(reader.stream)).map(({ payload }) => text(payload))
        assert.deepStrictEqual(written.filter((payload) => payload !== "work"), ["1", "2", "done"])
      }
    }))

  it.live("a small write that fails halfway is taken back when the writer closes, and of a batch what is no whole record", () =>
    Effect.gen(function*() {
      const writes: ReadonlyArray<readonly [ReadonlyArray<string>, number]> = [
        [["half"], 0],
        [["half", "of", "these"], 1],
        [many(5, 1_000), 2]
      ]
      for (const [batch, whole] of writes) {
        const directory = yield* temporaryDirectory
        const path = NodePath.join(directory, "00000001.dwal")
        const disk = new FaultyDisk()
        const end = yield* over(disk)(Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          yield* log.append("whole")
          disk.failNext("appendNow", "ENOSPC", { landed: "half" })
          yield* Effect.flip(log.appendAll(batch))
          const { offset } = yield* log.end
          assert.isAbove(NFS.statSync(path).size, offset)
          return offset
        })))
        const kept = batch.slice(0, whole)
        assert.strictEqual(NFS.statSync(path).size, kept.reduce((at, { length }) => at + length + 28, end))
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory, policy: "strict" })
          assert.deepStrictEqual(yield* payloads(log), ["whole", ...kept])
        }))
      }
    }))

  it.live("what a reader has seen of a batch that fails keeps its place: no other record comes there", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      const seen: Array<string> = []
      yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("one")))
      const reader = yield* Reader.make({ directory })
      const following = yield* Effect.forkChild(
        Stream.runForEach(
          Stream.take(reader.follow({ segment: 1, offset: 0 }, { every: "2 millis" }), 5),
          ({ payload, txid }) => Effect.sync(() => seen.push(`${txid} ${text(payload)}`))
        ),
        { startImmediately: true }
      )
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        disk.failNext("appendNow", "ENOSPC", { landed: "half" })
        yield* Effect.flip(log.appendAll(["ghost a", "ghost b", "ghost c", "ghost d"]))
        // It sees what is there before the writer closes.
        while (seen.length < 3) yield* Effect.sleep("1 millis")
        // The log has not taken it.
        const ghost = { ...(yield* log.end), len: Frame.encodedLength(0, "ghost a".length), txid: 2 }
        assert.strictEqual((yield* reader.read(ghost)).txid, 2)
        assert.deepInclude(yield* Effect.flip(log.read(ghost)), { _tag: "InvalidPosition", offset: ghost.offset })
      })))
      const log = yield* Log.make({ directory })
      yield* log.appendAll(["1st new", "2nd new"])
      yield* Fiber.join(following)
      assert.deepStrictEqual(seen, ["1 one", "2 ghost a", "3 ghost b", "4 1st new", "5 2nd new"])
      assert.deepStrictEqual(yield* payloads(log), ["one", "ghost a", "ghost b", "1st new", "2nd new"])
    }))

  it.live("a large write that fails halfway is taken back, or frames in its payload would keep the log from opening", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        yield* log.append("whole")
        // As another log holds them.
        const frame = new Uint8Array(Frame.encodedLength(0, 1_000))
        Frame.encodeInto(frame, 0, "Raw", 1_000, new Uint8Array(0), new Uint8Array(1_000))
        disk.failNext("append", "ENOSPC", { landed: "half" })
        const error = yield* Effect.flip(log.append(Buffer.concat(Array.from({ length: 400 }, () => frame))))
        assert.deepInclude(error, { _tag: "IoError", operation: "write", code: "ENOSPC" })
        // Before it closes: it may be killed.
        const { size } = NFS.statSync(NodePath.join(directory, "00000001.dwal"))
        assert.strictEqual(size, (yield* log.end).offset)
        assert.deepInclude(yield* Effect.flip(log.append("later")), { _tag: "WriterPoisoned", code: "ENOSPC" })
        assert.deepStrictEqual(yield* payloads(log), ["whole"])
      })))
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        assert.strictEqual(log.report.tail_truncated, 0)
        assert.deepStrictEqual(yield* payloads(log), ["whole"])
      }))
    }))

  it.live("a failed batch leaves a prefix of its records, each of them readable at the next open", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        disk.failNext("appendNow", "EIO", { skip: 5 })
        yield* Effect.flip(log.appendAll(many(24, 100_000).map(raw)))
        // What the first writes handed over, two records each, is in the log and can be read, though the batch failed.
        assert.deepStrictEqual(yield* payloads(log), many(24, 100_000).slice(0, 10))
      })))
      const log = yield* Log.make({ directory })
      assert.deepStrictEqual(yield* payloads(log), many(24, 100_000).slice(0, 10))
    }))

  it.live("a batch of many small records takes a write for each 1,024, so that no step is long", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        yield* log.appendAll(Array.from({ length: 3_000 }, (_, at) => raw(`${at}`)))
        assert.strictEqual(disk.count("appendNow"), 3)
        assert.strictEqual((yield* payloads(log)).length, 3_000)
      })))
    }))

  it.live("nothing is written any more once a sync has failed, not even the rest of a batch under way", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        yield* log.append("first")
        const write = disk.holdNext("append")
        disk.failNext("sync", "EIO")
        const batch = yield* Effect.forkChild(Effect.exit(log.appendAll([filled("a", large), "b", "c"].map(raw))))
        yield* write.reached
        assert.strictEqual((yield* Effect.flip(log.sync))._tag, "IoError")
        yield* write.release
        const exit = yield* Fiber.join(batch)
        assert.isTrue(Exit.isFailure(exit), "the batch says that it is written, though the writer had stopped")
        assert.strictEqual(disk.count("append"), 1)
        assert.strictEqual(disk.count("appendNow"), 1, "writes after the failed sync")
      })))
    }))

  it.live("nothing is written any more once a sync has failed, not even what let others run first", () =>
    Effect.gen(function*() {
      const held = Deferred.makeUnsafe<() => void>()
      let writes = 0
      let isTurnOver = false
      const wrapped = (file: Disk.DiskFile): Disk.DiskFile => ({
        ...file,
        appendNow: (bytes, start, end) => {
          writes++
          return file.appendNow(bytes, start, end)
        },
        sync: Effect.callback<"here", Errors.IoError>((resume) => {
          const error = new Errors.IoError({ operation: "sync", path: file.path, code: "EIO", cause: undefined })
          Deferred.doneUnsafe(held, Effect.succeed(() => resume(Effect.fail(error))))
        })
      })
      const disk: Disk.DiskService = {
        ...nodeDisk,
        open: (path, mode) => Effect.map(nodeDisk.open(path, mode), wrapped),
        isTurnOver: () => isTurnOver
      }
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        yield* log.append("x")
        const sync = yield* Effect.forkChild(Effect.exit(log.sync), { startImmediately: true })
        const fail = yield* Deferred.await(held)
        isTurnOver = true
        const before = writes
        const late = yield* Effect.forkChild(Effect.exit(log.append("late")), { startImmediately: true })
        assert.strictEqual(writes, before, "it has not waited")
        fail()
        assert.isTrue(Exit.isFailure(yield* Fiber.join(sync)))
        assert.isTrue(Exit.isFailure(yield* Fiber.join(late)), "it says that it is written")
        assert.strictEqual(writes, before)
      })).pipe(Effect.provideService(Disk.Disk, disk))
    }))

  it.live("all who waited for the fsync that failed are told so, and it is not repeated", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory, durability: "always" })
        const held = disk.holdNext("sync")
        disk.failNext("sync", "EIO")
        const first = yield* Effect.forkChild(log.append("first"), { startImmediately: true })
        yield* held.reached
        const waiting = yield* Effect.forEach(
          Array.from({ length: 20 }, (_, at) => at),
          (at) => Effect.forkChild(Effect.flip(log.append(`${at}`)), { startImmediately: true })
        )
        yield* held.release
        yield* Fiber.join(first)
        const errors = yield* Fiber.joinAll(waiting)
        assert.deepStrictEqual([...new Set(errors.map((error) => error._tag))], ["IoError"])
        assert.strictEqual((yield* Effect.flip(log.append("x")))._tag, "WriterPoisoned")
        assert.strictEqual(disk.count("sync"), 2)
      })))
      assert.strictEqual(disk.count("sync"), 2)
      assert.deepStrictEqual(disk.misuse, [])
    }))

  it.live("short writes and EINTR are invisible", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      const written = ["tiny", filled("a", 1_000), filled("b", large), ...many(5, 500)]
      const kinds = ["appendNow", "append", "readNow", "read"] as const
      // First, or what takes a part of every call would leave none to be interrupted.
      for (const kind of kinds) for (let skip = 0; skip < 4; skip++) disk.failNext(kind, "EINTR", { skip, times: 2 })
      disk.shorten("appendNow", 7, 100)
      disk.shorten("append", 10_001, 40)
      disk.shorten("readNow", 11)
      disk.shorten("read", 5_003)
      yield* over(disk)(Effect.gen(function*() {
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          const refs = [yield* log.append(written[0]!), yield* log.append(written[1]!), yield* log.append(written[2]!)]
          refs.push(...yield* log.appendAll(written.slice(3).map(raw)))
          for (const [at, ref] of refs.entries()) {
            assert.strictEqual(text((yield* log.read(ref)).payload), written[at])
          }
        }))
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory, policy: "strict", chunkSize: 100 })
          assert.deepStrictEqual(yield* payloads(log), written)
        }))
      }))
      assert.strictEqual(disk.openDescriptors, 0)
    }))

  it.live("a disk that takes nothing and says nothing is a full one, not an endless loop", () =>
    Effect.gen(function*() {
      for (const length of [10, large]) {
        const disk = new FaultyDisk()
        const error = yield* over(disk)(Effect.gen(function*() {
          const log = yield* Log.make({ directory: yield* temporaryDirectory })
          disk.shorten(length > 262_144 ? "append" : "appendNow", 0)
          return yield* Effect.flip(log.append(filled("n", length)))
        }))
        assert.deepInclude(error, { _tag: "IoError", operation: "write", code: "ENOSPC" })
      }
    }))

  it.live("a read that fails is told, and stops neither reads nor writes", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        const small = yield* log.append("small")
        const big = yield* log.append(filled("b", large))
        disk.failNext("readNow", "EIO")
        assert.deepInclude(yield* Effect.flip(log.read(small)), { _tag: "IoError", operation: "read", code: "EIO" })
        disk.failNext("read", "EIO")
        assert.deepInclude(yield* Effect.flip(log.read(big)), { _tag: "IoError", operation: "read", code: "EIO" })
        disk.failNext("openRead", "EMFILE")
        assert.deepInclude(yield* Effect.flip(payloads(log)), { _tag: "IoError", operation: "open", code: "EMFILE" })
        disk.failNext("read", "EIO", { skip: 0 })
        assert.deepInclude(yield* Effect.flip(payloads(log)), { _tag: "IoError", operation: "read", code: "EIO" })
        yield* log.append("still")
        yield* log.sync
        assert.strictEqual((yield* payloads(log)).length, 3)
      })))
      assert.strictEqual(disk.openDescriptors, 0)
    }))
})

interface State {
  readonly name: string
  readonly policy?: Log.Policy
  readonly directory: string
  readonly prepare: (directory: string) => Effect.Effect<void, unknown>
  readonly records: ReadonlyArray<string>
  /** What a copy of the cut tail must hold. */
  readonly torn?: Buffer
}

const twoSegments = Effect.fnUntraced(function*(directory: string) {
  yield* Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory })
    yield* log.append("one")
    yield* log.rotate
    yield* log.append("two")
    yield* log.append("three")
  }))
})

// The start of a header, as a write that was cut short leaves it.
const noteOf = (directory: string): string | undefined =>
  NFS.readFileSync(NodePath.join(directory, ".lock"), "utf8").split("\n").find((line) => line.startsWith("unsynced"))

const damagedTail = Buffer.from("DWAL\x01\x00\x00\x00\x04\x00\x00")

const states: ReadonlyArray<State> = [
  { name: "a directory that is missing", directory: "a/b/store", prepare: () => Effect.void, records: [] },
  { name: "a store", directory: "store", prepare: twoSegments, records: acknowledged },
  {
    name: "a store with a torn tail",
    directory: "store",
    prepare: (directory) =>
      Effect.tap(
        twoSegments(directory),
        Effect.sync(() => NFS.appendFileSync(NodePath.join(directory, "00000002.dwal"), damagedTail))
      ),
    records: acknowledged,
    torn: damagedTail
  },
  {
    name: "a store with a tail of zeros",
    directory: "store",
    prepare: (directory) =>
      Effect.tap(
        twoSegments(directory),
        Effect.sync(() => NFS.appendFileSync(NodePath.join(directory, "00000002.dwal"), Buffer.alloc(3_000)))
      ),
    records: acknowledged
  }
]

const tornFiles = (directory: string): ReadonlyArray<Buffer> =>
  NFS.existsSync(directory)
    ? NFS.readdirSync(directory).filter((name) => name.endsWith(".torn")).map((name) =>
      NFS.readFileSync(NodePath.join(directory, name))
    )
    : []

const openFailsAt = Effect.fnUntraced(function*(
  state: State,
  index: number,
  call: Call,
  code: string,
  landed: Landed
) {
  const context = `${state.name}, call ${index} (${call.kind} ${NodePath.basename(call.path)}), ${code}, ${landed}`
  const root = yield* temporaryDirectory
  const directory = NodePath.join(root, state.directory)
  yield* state.prepare(directory)
  const disk = new FaultyDisk()
  disk.failCall(index, code, landed)
  // The scope outlives the attempt: nothing may be held that only its end would let go of.
  yield* Effect.scoped(Effect.gen(function*() {
    const error = yield* Effect.flip(over(disk)(Log.make({ directory })))
    if (!(error instanceof Errors.IoError)) return assert.fail(`${context}: ${error._tag}`)
    assert.strictEqual(error.code, code, context)
    assert.strictEqual(error.operation, operationOf(call.kind), context)
    assert.strictEqual(disk.openDescriptors, 0, context)
    assert.deepStrictEqual(disk.misuse, [], context)
    for (const copy of tornFiles(directory)) assert.deepStrictEqual(copy, state.torn, context)
    yield* Effect.scoped(Lock.acquire(directory))
    const log = yield* over(disk)(Log.make({ directory }))
    assert.deepStrictEqual(yield* payloads(log), state.records, context)
    assert.strictEqual((yield* log.append("next")).txid, state.records.length + 1, context)
    const copies = tornFiles(directory)
    for (const copy of copies) assert.deepStrictEqual(copy, state.torn, context)
    if (state.torn !== undefined) assert.isAtLeast(copies.length, 1, context)
  }))
  assert.deepStrictEqual(leftovers(root), [], context)
})

describe("a failing disk while the store is opened", () => {
  for (const state of states) {
    it.live(`opening ${state.name} fails whole wherever it fails, and the second open loses nothing`, () =>
      Effect.gen(function*() {
        const disk = new FaultyDisk()
        yield* Effect.scoped(Effect.gen(function*() {
          const directory = NodePath.join(yield* temporaryDirectory, state.directory)
          yield* state.prepare(directory)
          yield* over(disk)(Log.make({ directory }))
          disk.calls.push({ kind: "close", path: "the end of the opening" })
        }))
        const calls = disk.calls.slice(0, disk.calls.findIndex((call) => call.path.startsWith("the end")))
        for (const [index, call] of calls.entries()) {
          if (!isMutation(call.kind)) continue
          for (const [at, landed] of landings(call.kind).entries()) {
            // No file system reports a failure for a file that it has made.
            if (call.kind === "create" && landed !== "nothing") continue
            const code = ["EIO", "ENOSPC", "EMFILE"][(index + at) % 3]!
            yield* Effect.scoped(openFailsAt(state, index, call, code, landed))
          }
        }
      }))
  }

  it.live("the note of what is not durable stands from the first fsync to a clean close, and is never far behind", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        assert.isUndefined(noteOf(directory))
        yield* log.append("one")
        yield* log.sync
        assert.strictEqual(noteOf(directory), "unsynced 1 0")
        const large = yield* log.append("x".repeat(1_048_577))
        yield* log.sync
        assert.strictEqual(noteOf(directory), "unsynced 1 0")
        yield* log.append("three")
        yield* log.sync
        assert.strictEqual(noteOf(directory), `unsynced 1 ${large.offset + large.len}`)
        yield* log.rotate
        yield* log.append("four")
        yield* log.sync
        assert.strictEqual(noteOf(directory), "unsynced 2 0")
      }))
      assert.isUndefined(noteOf(directory))
    }))

  it.live("a note that cannot be written keeps nothing from being synced, and is written when the sync has failed", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        yield* log.append("one")
        disk.failNext("writeText", "ENOSPC")
        yield* log.sync
        assert.isUndefined(noteOf(directory))
        yield* log.append("two")
        disk.failNext("writeText", "ENOSPC")
        disk.failNext("sync", "EIO")
        yield* Effect.flip(log.sync)
        assert.strictEqual(noteOf(directory), "unsynced 1 31")
      })))
      assert.strictEqual(noteOf(directory), "unsynced 1 31")
    }))

  it.live("after a failed fsync the next open writes those bytes again, or leaves it to the one after", () =>
    Effect.gen(function*() {
      const prepare = Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const disk = new FaultyDisk()
        yield* over(disk)(Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          yield* log.append("one")
          yield* log.rotate
          yield* log.append("two")
          yield* log.sync
          yield* log.append("three")
          disk.failNext("sync", "EIO")
          yield* Effect.flip(log.sync)
        })))
        return directory
      })
      // The note that stood before the last sync that succeeded: all behind it is written again.
      const noted = (directory: string) => noteOf(directory)?.startsWith("unsynced 2 31") === true
      const dry = new FaultyDisk()
      yield* Effect.gen(function*() {
        const directory = yield* prepare
        assert.isTrue(noted(directory))
        yield* over(dry)(Log.make({ directory }))
        assert.isFalse(noted(directory))
      }).pipe(Effect.scoped)
      const written = dry.calls.findIndex((call) => call.kind === "append")
      const synced = dry.calls.findIndex((call, at) => call.kind === "sync" && at > written)
      const cleared = dry.calls.findIndex((call, at) => call.kind === "writeText" && at > synced)
      assert.isTrue(written >= 0 && synced > written && cleared > synced)
      for (const [index, call] of dry.calls.entries()) {
        // The pid may fail to be written, and what comes behind has been mended.
        if (call.kind === "close" || index > cleared || (call.kind === "writeText" && index < cleared)) continue
        for (const landed of landings(call.kind)) {
          if (call.kind === "create" && landed !== "nothing") continue
          const context = `call ${index} (${call.kind}), ${landed}`
          yield* Effect.scoped(Effect.gen(function*() {
            const directory = yield* prepare
            const bytes = tree(directory)
            const disk = new FaultyDisk()
            disk.failCall(index, "EIO", landed)
            assert.strictEqual((yield* Effect.flip(over(disk)(Log.make({ directory }))))._tag, "IoError", context)
            assert.isTrue(noted(directory), context)
            assert.deepStrictEqual(tree(directory), bytes, context)
            assert.strictEqual(disk.openDescriptors, 0, context)
            const log = yield* Log.make({ directory })
            assert.isFalse(noted(directory), context)
            assert.deepStrictEqual(yield* payloads(log), acknowledged, context)
          }))
        }
      }
    }))

  it.live("a disk too full for the copy of a torn tail leaves the tail where it was, and no part of a copy", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* twoSegments(directory)
      const path = NodePath.join(directory, "00000002.dwal")
      NFS.appendFileSync(path, damagedTail)
      const before = tree(directory)
      for (const kind of ["create", "append", "sync", "syncDirectory"] as const) {
        for (const landed of ["nothing", "half"] as const) {
          if (kind === "create" && landed === "half") continue
          const disk = new FaultyDisk()
          // The first sync of the directory is that of the segments' names.
          const skip = kind === "syncDirectory" ? 1 : 0
          disk.failNext(kind, "ENOSPC", { landed, skip, path: kind === "sync" ? ".torn" : "" })
          const error = yield* Effect.flip(over(disk)(Effect.scoped(Log.make({ directory }))))
          assert.deepInclude(error, { _tag: "IoError", code: "ENOSPC" })
          assert.deepStrictEqual(tree(directory), before, `${kind}, ${landed}`)
        }
      }
    }))

  it.live("a read that finds nothing where there is something is asked again, and is then an error: it is no end of a file", () =>
    Effect.gen(function*() {
      let refused = 0
      for (const state of states) {
        const attempt = (disk: FaultyDisk) =>
          Effect.gen(function*() {
            const root = yield* temporaryDirectory
            const directory = NodePath.join(root, state.directory)
            yield* state.prepare(directory)
            const before = tree(root)
            const opened = yield* Effect.exit(over(disk)(Effect.scoped(Log.make({ directory }))))
            assert.strictEqual(disk.openDescriptors, 0)
            if (Exit.isFailure(opened)) {
              refused++
              assert.deepInclude(Cause.squash(opened.cause), { _tag: "IoError", code: "EIO", operation: "read" })
              // What it had begun, it may have ended: the lock's text, a copy. Never is anything of a log gone.
              const after = tree(root)
              for (const [name, bytes] of Object.entries(before)) {
                if (name.endsWith(".dwal")) assert.deepStrictEqual(after[name], bytes, state.name)
              }
            }
            const log = yield* Log.make({ directory })
            assert.deepStrictEqual(yield* payloads(log), state.records, state.name)
            for (const copy of tornFiles(directory)) assert.deepStrictEqual(copy, state.torn, state.name)
            if (state.torn !== undefined) assert.isNotEmpty(tornFiles(directory), state.name)
            return opened
          }).pipe(Effect.scoped)
        const dry = new FaultyDisk()
        yield* attempt(dry)
        const reads = dry.calls.flatMap(({ kind }, index) => kind === "read" ? [index] : [])
        for (const index of reads) {
          const once = new FaultyDisk()
          once.emptyRead(index)
          assert.isTrue(Exit.isSuccess(yield* attempt(once)), `${state.name}, read ${index}`)
          const twice = new FaultyDisk()
          twice.emptyRead(index, 2)
          yield* attempt(twice)
        }
      }
      assert.isAbove(refused, 10)
    }))

  it.live("a directory under way that somebody else has locked is an IoError of the target, and leaves nothing", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const kv = yield* filledKv(root)
      const before = tree(root)
      const locked: Disk.DiskService = {
        ...nodeDisk,
        openLock: (path) =>
          Effect.map(
            nodeDisk.openLock(path),
            (file) => path.includes(".tmp") ? { ...file, tryLock: Effect.succeed(false) } : file
          )
      }
      const target = NodePath.join(root, "target")
      const salvage = Salvage.toStore(kv.directory, target).pipe(Effect.provideService(Disk.Disk, locked))
      const error = yield* Effect.flip(salvage)
      assert.deepInclude(error, { _tag: "IoError", operation: "flock", path: target, code: "EAGAIN" })
      assert.deepStrictEqual(tree(root), before)
    }).pipe(Effect.scoped))

  it.live("a reader that cannot read fails typed and keeps no descriptor", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* twoSegments(directory)
      const attempt = Effect.flatMap(Reader.make({ directory }), (reader) => Stream.runDrain(reader.stream))
      const dry = new FaultyDisk()
      yield* over(dry)(Effect.scoped(attempt))
      for (const [index, call] of dry.calls.entries()) {
        if (call.kind === "close") continue
        const disk = new FaultyDisk()
        disk.failCall(index, "EIO")
        const error = yield* Effect.flip(over(disk)(Effect.scoped(attempt)))
        assert.deepInclude(error, { _tag: "IoError", code: "EIO" }, call.kind)
        assert.strictEqual(disk.openDescriptors, 0)
      }
    }))
})

interface Outing {
  readonly name: string
  readonly run: (kv: Kv.Kv["Service"], target: string) => Effect.Effect<unknown, Error>
}

const outings: ReadonlyArray<Outing> = [
  { name: "a compaction", run: (kv, target) => kv.compactTo(target) },
  { name: "a salvage", run: (kv, target) => Salvage.toStore(kv.directory, target) },
  { name: "an export", run: (kv, target) => Export.toFile(kv, target) }
]

/** Two segments, the first of which is read through a descriptor of its own, and one value read in the pool. */
const filledKv = Effect.fnUntraced(function*(root: string) {
  const directory = NodePath.join(root, "store")
  yield* Effect.scoped(Effect.gen(function*() {
    const kv = yield* Kv.make({ directory, segmentSize: 1_000 })
    yield* kv.put("a", "1")
    yield* kv.put("b", filled("b", large))
    yield* kv.put("c", "3")
  }))
  return yield* Kv.make({ directory, segmentSize: 1_000 })
})

const outingCalls = (outing: Outing) =>
  Effect.scoped(Effect.gen(function*() {
    const disk = new FaultyDisk()
    const root = yield* temporaryDirectory
    return yield* over(disk)(Effect.gen(function*() {
      const kv = yield* filledKv(root)
      const from = disk.calls.length
      yield* outing.run(kv, NodePath.join(root, "out", "deep", "target"))
      return disk.calls.slice(from)
    }))
  }))

describe("a failing disk under a compaction, a salvage or an export", () => {
  for (const outing of outings) {
    it.live(`${outing.name} that fails anywhere leaves nothing behind, and its source works on`, () =>
      Effect.gen(function*() {
        const calls = yield* outingCalls(outing)
        const renamed = calls.findIndex((call) => call.kind === "rename")
        for (const [index, call] of calls.entries()) {
          if (!isMutation(call.kind) || index > renamed) continue
          for (const landed of landings(call.kind)) {
            if (call.kind === "create" && landed !== "nothing") continue
            const context = `${outing.name}, call ${index} (${call.kind} ${NodePath.basename(call.path)}), ${landed}`
            yield* Effect.scoped(Effect.gen(function*() {
              const root = yield* temporaryDirectory
              const disk = new FaultyDisk()
              yield* over(disk)(Effect.scoped(Effect.gen(function*() {
                const kv = yield* filledKv(root)
                const before = tree(NodePath.join(root, "store"))
                const target = NodePath.join(root, "out", "deep", "target")
                disk.failCall(disk.calls.length + index, "EIO", landed)
                const error = yield* Effect.flip(outing.run(kv, target))
                assert.deepInclude(error as Errors.IoError, {
                  _tag: "IoError",
                  code: "EIO",
                  operation: operationOf(call.kind)
                }, context)
                assert.deepStrictEqual(leftovers(root), [], context)
                assert.isFalse(NFS.existsSync(target), context)
                assert.deepStrictEqual(tree(NodePath.join(root, "store")), before, context)
                // The lock, the directory, and each of the three segments at most once.
                assert.isAtMost(disk.openDescriptors, 5, context)
                yield* kv.put("d", "4")
                yield* kv.sync
                yield* outing.run(kv, target)
                assert.isTrue(NFS.existsSync(target), context)
              })))
              assert.strictEqual(disk.openDescriptors, 0, context)
              assert.deepStrictEqual(disk.misuse, [], context)
            }))
          }
        }
      }))
  }

  it.live("a compaction that fails at its last step leaves no target that the next attempt would refuse", () =>
    Effect.gen(function*() {
      const last = (yield* outingCalls(outings[0]!)).findLastIndex((call) => call.kind === "syncDirectory")
      const root = yield* temporaryDirectory
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* filledKv(root)
        const target = NodePath.join(root, "out", "deep", "target")
        disk.failCall(disk.calls.length + last, "EIO")
        const error = yield* Effect.flip(kv.compactTo(target))
        assert.deepInclude(error, { _tag: "IoError", code: "EIO", operation: "sync directory" })
        // To its name, and away from it again before anything in it is removed.
        assert.strictEqual(disk.count("rename"), 2)
        assert.isFalse(NFS.existsSync(target))
        yield* kv.compactTo(target)
      }))
    }))

  it.live("an export that fails keeps the older file as it was", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* filledKv(root)
        const target = NodePath.join(root, "target")
        NFS.writeFileSync(target, "older")
        for (const kind of ["create", "appendNow", "sync", "rename"] as const) {
          disk.failNext(kind, "ENOSPC", { landed: kind === "appendNow" ? "half" : "nothing" })
          assert.deepInclude(yield* Effect.flip(Export.toFile(kv, target)), {
            _tag: "IoError",
            code: "ENOSPC"
          })
          assert.strictEqual(NFS.readFileSync(target, "utf8"), "older")
          assert.deepStrictEqual(leftovers(root), [])
        }
      }))
    }))
})

const line = (key: string, value: string): string =>
  `{"key_b64":"${Buffer.from(key).toString("base64")}","value_b64":"${Buffer.from(value).toString("base64")}"}\n`

describe("a failing disk under the key/value store", () => {
  const writes: ReadonlyArray<
    readonly [
      string,
      (kv: Kv.Kv["Service"]) => Effect.Effect<unknown, Log.WriteError | Errors.CorruptSegment | Errors.InvalidLine>
    ]
  > = [
    ["put", (kv) => kv.put("a", "2")],
    ["a large put", (kv) => kv.put("a", filled("2", large))],
    ["putMany", (kv) => kv.putMany([["a", "2"], ["b", "2"]])],
    ["delete", (kv) => kv.delete("a")],
    ["modify", (kv) => kv.modify("a", () => [undefined, "2"])],
    ["a deleting modify", (kv) => kv.modify("a", () => [undefined, undefined])],
    ["import", (kv) => Export.fromLines(kv, Stream.make(Buffer.from(line("a", "2") + line("b", "2"))))]
  ]
  for (const [name, write] of writes) {
    for (const durability of ["manual", "always"] as const) {
      it.live(`${name} (${durability}) that fails says IoError, then WriterPoisoned, and reads go on`, () =>
        Effect.gen(function*() {
          for (const kind of ["appendNow", "append", "sync"] as const) {
            const disk = new FaultyDisk()
            yield* over(disk)(Effect.scoped(Effect.gen(function*() {
              const kv = yield* Kv.make({ directory: yield* temporaryDirectory, durability })
              yield* kv.put("a", "1")
              yield* kv.sync
              disk.failNext(kind, "EIO")
              const from = disk.calls.length
              const exit = yield* Effect.exit(Effect.flip(write(kv)))
              disk.clear()
              // Not every write makes every call.
              if (!disk.calls.slice(from).some((call) => call.kind === kind)) return
              if (!Exit.isSuccess(exit)) return assert.fail(`${kind}: it succeeded or died`)
              assert.deepInclude(exit.value, { _tag: "IoError", code: "EIO", operation: operationOf(kind) }, kind)
              for (const [later, again] of writes) {
                assert.strictEqual((yield* Effect.flip(again(kv)))._tag, "WriterPoisoned", `${kind}, ${later}`)
              }
              assert.strictEqual((yield* Effect.flip(kv.sync))._tag, "WriterPoisoned")
              if (kind !== "sync") assert.strictEqual(text(yield* kv.get("a")), "1")
              yield* Stream.runDrain(kv.entries())
              assert.isAtMost(yield* kv.size, 2)
            })))
            assert.strictEqual(disk.openDescriptors, 0)
            assert.deepStrictEqual(disk.misuse, [])
          }
        }))
    }
  }

  it.live("an import that fails keeps what was written before, and says where the writer stopped", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = new FaultyDisk()
      const input = Stream.fromIterable(many(26, 100_000).map((value, at) => Buffer.from(line(`${at}`, value))))
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        disk.failNext("appendNow", "ENOSPC", { skip: 12, landed: "half" })
        const error = yield* Effect.flip(Export.fromLines(kv, input))
        assert.deepInclude(error, { _tag: "IoError", code: "ENOSPC", operation: "write" })
      })))
      const kv = yield* Kv.make({ directory })
      const size = yield* kv.size
      assert.isAtLeast(size, 10)
      assert.isAtMost(size, 25)
    }))

  it.live("a get that fails stops nothing", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
        yield* kv.put("a", "1")
        disk.failNext("readNow", "EIO")
        assert.strictEqual((yield* Effect.flip(kv.get("a")))._tag, "IoError")
        disk.failNext("readNow", "EIO")
        assert.strictEqual((yield* Effect.flip(kv.modify("a", () => [0, "2"])))._tag, "IoError")
        yield* kv.put("a", "3")
        assert.strictEqual(text(yield* kv.get("a")), "3")
      }))
    }))
})

interface Task {
  readonly kind: number
  readonly size: number
  readonly leaveAfter: number | undefined
}

interface Trouble {
  readonly tasks: ReadonlyArray<Task>
  readonly failAt: number
  readonly landed: Landed
  readonly durability: "manual" | "always"
  readonly segmentSize: number
}

const between = (minimum: number, maximum: number): Arbitrary.Arbitrary<number> =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

const task = Arbitrary.map(
  Arbitrary.all([between(0, 9), between(0, 19), between(0, 30)]),
  ([kind, size, turns]): Task => ({
    kind,
    size: size === 0 ? large : size * 37,
    leaveAfter: turns < 10 ? turns : undefined
  })
)

const trouble = Arbitrary.map(
  Arbitrary.all([
    Arbitrary.array(task, { minLength: 1, maxLength: 40 }),
    between(0, 120),
    between(0, 5),
    between(1, 3_000)
  ]),
  ([tasks, failAt, mode, segmentSize]): Trouble => ({
    tasks,
    failAt,
    landed: (["nothing", "half", "all"] as const)[mode % 3]!,
    durability: mode < 3 ? "manual" : "always",
    segmentSize
  })
)

/** Tasks at once, some of which leave early, over a disk that fails once; what each of them was told. */
const inTrouble = Effect.fnUntraced(function*(directory: string, disk: FaultyDisk, trouble: Trouble) {
  const told: Array<{ readonly payload: string; readonly ref: Log.RecordRef }> = []
  const { durability, segmentSize } = trouble
  const opened = yield* Effect.result(Log.make({ directory, durability, segmentSize }))
  if (opened._tag === "Failure") return told
  const log = opened.success
  const kv = yield* Effect.provideService(Kv.makeLog, Log.Log, log)
  disk.failCall(disk.calls.length + trouble.failAt, "EIO", trouble.landed)
  yield* Effect.forEach(trouble.tasks, ({ kind, leaveAfter, size }, at) =>
    Effect.gen(function*() {
      const payload = `${at}:`.padEnd(size, "x")
      const tell = (write: Effect.Effect<Log.RecordRef, Log.WriteError>, payload: string) =>
        Effect.tap(write, (ref) => Effect.sync(() => told.push({ payload, ref })))
      const run: Effect.Effect<unknown, unknown> = kind < 3
        ? tell(log.append(payload), payload)
        : kind < 5
        ? tell(kv.put("k", payload), payload)
        : kind < 6
        ? tell(Effect.map(kv.putMany([["k", "first"], ["k", payload]]), (refs) => refs[1]!), payload)
        : kind < 8
        ? kv.modify("k", () => [0, payload])
        : kind < 9
        ? log.sync
        : log.rotate
      const fiber = yield* Effect.forkChild(Effect.exit(run), { startImmediately: true })
      if (leaveAfter !== undefined) {
        for (let turn = 0; turn < leaveAfter; turn++) yield* Effect.promise(() => new Promise(setImmediate))
        yield* Fiber.interrupt(fiber)
      }
      yield* Fiber.await(fiber)
    }), { concurrency: "unbounded" })
  return told
})

describe("everything at once", () => {
  it.live.prop(
    "whatever fails and whoever leaves, what was acknowledged is found again, whole and in order",
    { trouble },
    ({ trouble }) =>
      Effect.scoped(Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const disk = new FaultyDisk()
        const told = yield* over(disk)(Effect.scoped(inTrouble(directory, disk, trouble)))
        assert.strictEqual(disk.openDescriptors, 0)
        assert.deepStrictEqual(disk.misuse, [])
        const log = yield* Log.make({ directory })
        const records = yield* Stream.runCollect(log.stream)
        assert.deepStrictEqual(records.map((record) => record.txid), records.map((_, at) => at + 1))
        for (const { payload, ref } of told) {
          const record = records[ref.txid - 1]
          assert.deepInclude(record, { segment: ref.segment, offset: ref.offset, len: ref.len })
          assert.strictEqual(text(record?.payload), payload)
        }
        for (const record of records) {
          const payload = text(record.payload)!
          const { size } = trouble.tasks[Number.parseInt(payload, 10)] ?? { size: 0 }
          if (payload !== "first") assert.strictEqual(payload.length, Math.max(size, payload.indexOf(":") + 1))
        }
      })).pipe(Effect.provideService(References.MinimumLogLevel, "None"), Effect.timeout("20 seconds")),
    { arbitrary: { runs: 70 } }
  )
})
