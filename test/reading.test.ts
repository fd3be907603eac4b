/**
 * Reading: the same records in chunks of any size, in bounded memory, beside a live writer, and from any position there
 * is; and from none that there is not.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Data, Effect, Fiber, Latch, Stream } from "effect"
import type { Scope } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import { fileURLToPath } from "node:url"
import * as Disk from "../src/Disk.ts"
import { IoError } from "../src/Errors.ts"
import * as Frame from "../src/Frame.ts"
import { besideIdleFiles } from "../src/internal/idleFiles.ts"
import { nodeDisk } from "../src/internal/nodeDisk.ts"
import * as Lock from "../src/Lock.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import { between, kinds, segmentsOf } from "./support/arbitraries.ts"
import { run, startNode } from "./support/child.ts"
import { FaultyDisk, over } from "./support/faultyDisk.ts"
import { judge } from "./support/oracle.ts"
import {
  collect,
  concat,
  errorFields,
  fieldsOf,
  flipped,
  frame,
  head,
  largeDirectory,
  later,
  noise,
  openWith,
  parse,
  parseWhole,
  type Plain,
  plain,
  put,
  raw,
  readAll,
  segmentName,
  type Segments,
  store,
  temporaryDirectory,
  utf8
} from "./support/stores.ts"

type Read = Disk.DiskFile["read"]

const openFiles = () => NFS.existsSync("/proc/self/fd") ? NFS.readdirSync("/proc/self/fd").length : 0

/** Reads all of a store over a disk whose files are read so. */
const readAllBy = Effect.fnUntraced(function*(
  directory: string,
  chunkSize: number | undefined,
  read: (file: Disk.DiskFile, ...args: Parameters<Read>) => ReturnType<Read>
) {
  const disk = yield* Disk.Disk
  const watched: Disk.DiskService = {
    ...disk,
    open: (path, mode) =>
      Effect.map(disk.open(path, mode), (file) => ({ ...file, read: (...args) => read(file, ...args) }))
  }
  return yield* Effect.provideService(readAll(directory, chunkSize), Disk.Disk, watched)
})

// -- reading ------------------------------------------------------------------------------------------------------------

describe("reading in chunks", () => {
  it.effect.prop(
    "gives the same records whatever the size of a chunk",
    [Arbitrary.array(kinds, { minLength: 1, maxLength: 3 }), between(1, 2000)],
    ([kinds, chunkSize]) =>
      Effect.scoped(Effect.gen(function*() {
        const segments = segmentsOf(kinds)
        const wanted = Object.entries(segments).flatMap(([id, bytes]) => parseWhole(bytes, Number(id)))
        const directory = yield* store(segments)
        assert.deepStrictEqual(yield* readAll(directory, chunkSize), { records: wanted, error: undefined })
        const opened = yield* openWith(directory, { chunkSize })
        assert.deepStrictEqual(opened.records, wanted)
      })),
    { arbitrary: { runs: 100, size: 12 } }
  )

  it.effect("gives the same records for every size of a chunk around the sizes of the frames", () =>
    Effect.gen(function*() {
      const bytes = concat(raw(1, "one"), raw(2, noise(100)), raw(3, ""), put(4, "key", noise(60)), raw(5, "five"))
      const directory = yield* store({ 1: bytes })
      const wanted = parseWhole(bytes, 1)
      for (let chunkSize = 1; chunkSize <= bytes.length + 2; chunkSize++) {
        assert.deepStrictEqual(yield* readAll(directory, chunkSize), { records: wanted, error: undefined })
      }
    }))

  it.effect("takes records larger than a chunk, of any chunk", () =>
    Effect.gen(function*() {
      const payloads = [
        noise(3_000_000, 1),
        noise(10, 2),
        noise(1_048_576, 3),
        noise(1_048_576 - 28, 4),
        noise(2_500_000, 5)
      ]
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        for (const payload of payloads) yield* log.append(payload)
      }))
      for (const chunkSize of [1, 1000, 65_536, undefined, 5_000_000]) {
        const reader = yield* Reader.make({ directory, chunkSize })
        let index = 0
        yield* Stream.runForEach(reader.stream, (record) =>
          Effect.sync(() => {
            assert.isTrue(Buffer.from(payloads[index]!).equals(record.payload))
            assert.strictEqual(record.txid, ++index)
          }))
        assert.strictEqual(index, payloads.length)
      }
    }))

  it.effect("keeps each record what it is, however many are read after it", () =>
    Effect.gen(function*() {
      const bytes = concat(...Array.from({ length: 200 }, (_, index) => raw(index + 1, noise(index, index))))
      const directory = yield* store({ 1: bytes })
      const reader = yield* Reader.make({ directory, chunkSize: 300 })
      const records = yield* Stream.runCollect(reader.stream)
      assert.deepStrictEqual(Array.from(records, plain), parseWhole(bytes, 1))
    }))

  it.effect("asks the disk for no more than a chunk and a frame at once", () =>
    Effect.gen(function*() {
      const chunkSize = 1000
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.flatMap(
        Log.make({ directory }),
        (log) => Effect.forEach([1, 2, 3, 4], (n) => log.append(noise(100_000, n)))
      ))
      let most = 0
      const { error, records } = yield* readAllBy(directory, chunkSize, (file, into, start, end, position) => {
        most = Math.max(most, end - start)
        return file.read(into, start, end, position)
      })
      assert.isUndefined(error)
      assert.strictEqual(records.length, 4)
      assert.isAtMost(most, chunkSize + 100_028)
    }))

  it.effect("of large records has two chunks on their way, and one that began within a record matters to nobody", () =>
    Effect.gen(function*() {
      const sizes = [2000, 2000, 2000, 1500, 1500, 3000, 2000, 2000, 2000, 2000]
      const bytes = concat(...sizes.map((size, index) => raw(index + 1, noise(size, index))))
      const wanted = parseWhole(bytes, 1)
      const starts = new Set(wanted.map(({ offset }) => offset))
      const directory = yield* store({ 1: bytes })
      let running = 0
      let most = 0
      let misplaced = 0
      const read = yield* readAllBy(directory, 1000, (file, into, start, end, position) =>
        Effect.suspend(() => {
          if (!starts.has(position)) {
            misplaced++
            return Effect.fail(new IoError({ operation: "read", path: file.path, code: "EIO", cause: undefined }))
          }
          most = Math.max(most, ++running)
          return Effect.ensuring(file.read(into, start, end, position), Effect.sync(() => running--))
        }))
      assert.deepStrictEqual(read, { records: wanted, error: undefined })
      assert.strictEqual(most, 2)
      assert.isAbove(misplaced, 0)
    }))

  it.effect("many times at once gives everyone the same, and whoever stops early leaves no file open", () =>
    Effect.gen(function*() {
      const bytes = concat(...Array.from({ length: 300 }, (_, index) => raw(index + 1, noise(index * 3, index))))
      const directory = yield* store({ 1: bytes, 2: raw(301, "active"), 3: concat(raw(302, "last"), noise(5)) })
      const reader = yield* Reader.make({ directory, chunkSize: 1000 })
      const wanted = yield* collect(reader.stream)
      assert.strictEqual(wanted.records.length, 302)
      const before = openFiles()
      const reads = yield* Effect.forEach(
        Array.from({ length: 24 }, (_, index) => index),
        (index) => collect(index % 2 === 0 ? reader.stream : Stream.take(reader.stream, index)),
        { concurrency: "unbounded" }
      )
      for (const [index, read] of reads.entries()) {
        assert.deepStrictEqual(read.records, index % 2 === 0 ? wanted.records : wanted.records.slice(0, index))
      }
      assert.strictEqual(openFiles(), before)
    }))

  it.effect("needs a directory, and a chunk of at least one byte", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: head })
      const fails = (options: Reader.Options) => Effect.map(Effect.flip(Reader.make(options)), fieldsOf)
      assert.strictEqual((yield* fails({ directory: `${directory}/missing` })).code, "ENOENT")
      assert.strictEqual((yield* fails({ directory: `${directory}/${segmentName(1)}` })).code, "ENOTDIR")
      for (const chunkSize of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 30 + 1]) {
        assert.strictEqual((yield* fails({ directory, chunkSize }))._tag, "InvalidOptions")
      }
      assert.strictEqual((yield* fails({ directory: "" }))._tag, "InvalidOptions")
      assert.strictEqual((yield* fails({ directory: undefined as unknown as string }))._tag, "InvalidOptions")
    }))

  it.effect("that could not be made keeps no descriptor, however long the scope lives on", () => {
    const disk = new FaultyDisk()
    return Effect.gen(function*() {
      const directory = yield* store({ 1: head })
      disk.failNext("identity", "EIO")
      assert.strictEqual((yield* Effect.flip(Reader.make({ directory })))._tag, "IoError")
      assert.strictEqual(disk.openDescriptors, 0)
      yield* Reader.make({ directory })
      assert.isAbove(disk.openDescriptors, 0)
    }).pipe(over(disk))
  })

  it.effect("reads on in the file that a writer has put in the place of one whose fsync had failed", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const first = yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("one")))
      const reader = yield* Reader.make({ directory })
      assert.strictEqual((yield* reader.read(first)).txid, 1)
      NFS.writeFileSync(`${directory}/${Lock.lockFileName}`, "1\nunsynced 1 0\nfailed\n")
      const log = yield* Log.make({ directory })
      const second = yield* log.append("two")
      assert.strictEqual((yield* reader.read(second)).txid, 2)
      assert.strictEqual((yield* reader.read(first)).txid, 1)
      // Damage is damage, in a file that was opened anew as well.
      yield* log.append("three")
      const file = NFS.openSync(`${directory}/${segmentName(1)}`, "r+")
      NFS.writeSync(file, "x", second.offset + 24)
      NFS.closeSync(file)
      assert.strictEqual((yield* Effect.flip(reader.read(second)))._tag, "CorruptSegment")
    }))

  it.effect("keeps no descriptor of the file that was replaced", () => {
    const disk = new FaultyDisk()
    return Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const write = (payload: string) =>
        Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append(payload))).pipe(
          Effect.provideService(Disk.Disk, nodeDisk)
        )
      const first = yield* write("one")
      const reader = yield* Reader.make({ directory })
      yield* reader.read(first)
      const before = disk.openDescriptors
      NFS.writeFileSync(`${directory}/${Lock.lockFileName}`, "1\nunsynced 1 0\nfailed\n")
      const second = yield* write("two")
      assert.strictEqual((yield* reader.read(second)).txid, 2)
      assert.strictEqual(disk.openDescriptors, before)
    }).pipe(over(disk))
  })

  it.effect("of the segment that is written to is whole, also when a first look finds nothing there", () => {
    const disk = new FaultyDisk()
    return Effect.gen(function*() {
      const log = yield* Log.make({ directory: yield* temporaryDirectory })
      const ref = yield* log.append("whole")
      disk.shorten("readNow", 0, 1)
      assert.strictEqual((yield* log.read(ref)).txid, ref.txid)
      disk.shorten("readNow", 0, 1)
      const reads = disk.calls.length
      disk.emptyRead(reads, 2)
      assert.deepInclude(yield* Effect.flip(log.read(ref)), { _tag: "IoError", operation: "read", code: "EIO" })
    }).pipe(over(disk))
  })

  it.effect.runIf(openFiles() > 0)(
    "lets go of the files that it has open, for one more, where the process or the system can have no more",
    () =>
      Effect.gen(function*() {
        const bytes = raw(1, "one")
        const directory = yield* store({ 1: bytes, 2: raw(2, "two") })
        const reader = yield* Reader.make({ directory })
        const none = openFiles()
        for (const code of ["EMFILE", "ENFILE", "EACCES"]) {
          yield* reader.read({ segment: 1, offset: 0, len: bytes.length })
          assert.strictEqual(openFiles(), none + 1)
          let tries = 0
          const opening = Effect.suspend(() =>
            tries++ === 0
              ? Effect.fail(new IoError({ operation: "open", path: directory, code, cause: undefined }))
              : Effect.succeed(openFiles())
          )
          const opened = yield* Effect.exit(besideIdleFiles(opening))
          assert.deepStrictEqual(opened._tag === "Success" ? opened.value : tries, code === "EACCES" ? 1 : none)
        }
      })
  )

  it.live.runIf(openFiles() > 0)(
    "closes all of them though it is interrupted, and once for all who wait for one",
    () =>
      Effect.gen(function*() {
        const ids = [1, 2, 3, 4, 5, 6, 7, 8]
        const directory = yield* store(Object.fromEntries(ids.map((id) => [id, raw(id, "v")])))
        const none = openFiles()
        const opened = yield* Effect.scoped(Effect.gen(function*() {
          const reader = yield* Reader.make({ directory })
          const base = openFiles()
          const place = { offset: 0, len: raw(1, "v").length }
          const readEach = Effect.forEach(ids, (segment) => reader.read({ segment, ...place }), { discard: true })
          const full = new IoError({ operation: "open", path: directory, code: "EMFILE", cause: undefined })
          const opening = Effect.suspend(() => openFiles() > base ? Effect.fail(full) : Effect.succeed("opened"))
          yield* readEach
          const fiber = yield* Effect.forkChild(besideIdleFiles(opening), { startImmediately: true })
          while (openFiles() === base + ids.length) yield* Effect.promise(() => new Promise(setImmediate))
          yield* Fiber.interrupt(fiber)
          assert.strictEqual(openFiles(), base)
          yield* readEach
          return yield* Effect.all(ids.map(() => besideIdleFiles(opening)), { concurrency: "unbounded" })
        }))
        assert.deepStrictEqual(opened, ids.map(() => "opened"))
        assert.strictEqual(openFiles(), none)
      })
  )

  it.effect("reads on in it also where large records are read at once from the file that it has open", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const first = yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("one")))
      const before = openFiles()
      yield* Effect.scoped(Effect.gen(function*() {
        const reader = yield* Reader.make({ directory })
        yield* reader.read(first)
        NFS.writeFileSync(`${directory}/${Lock.lockFileName}`, "1\nunsynced 1 0\nfailed\n")
        const refs = yield* Effect.scoped(
          Effect.flatMap(Log.make({ directory }), (log) => log.appendAll([noise(300_000), noise(300_000), noise(10)]))
        )
        const records = yield* Effect.all([...refs, ...refs].map(reader.read), { concurrency: "unbounded" })
        assert.deepStrictEqual(records.map(({ txid }) => txid), [2, 3, 4, 2, 3, 4])
      }))
      assert.strictEqual(openFiles(), before)
    }))

  it.effect("of one segment at once opens it once, and closes what was opened beside that", () => {
    const disk = new FaultyDisk()
    return Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const ref = yield* Effect.scoped(
        Effect.flatMap(Log.make({ directory }), (log) => log.append(noise(300_000)))
      )
      yield* Effect.scoped(Effect.gen(function*() {
        const reader = yield* Reader.make({ directory })
        const before = disk.openDescriptors
        yield* Effect.all([1, 2, 3].map(() => reader.read(ref)), { concurrency: "unbounded" })
        assert.strictEqual(disk.openDescriptors, before + 1)
      }))
      assert.strictEqual(disk.openDescriptors, 0)
    }).pipe(over(disk))
  })

  it.live("from what closes while two read a segment keeps it open until the last of them has ended", () => {
    const disk = new FaultyDisk()
    return Effect.gen(function*() {
      const directory = yield* store({ 1: raw(1, noise(300_000)) })
      const place = { segment: 1, offset: 0, len: 300_028 }
      const held = [disk.holdNext("read"), disk.holdNext("read")] as const
      const second = yield* Effect.scoped(Effect.gen(function*() {
        const reader = yield* Reader.make({ directory })
        const first = yield* Effect.forkDetach(reader.read(place))
        yield* held[0].reached
        const second = yield* Effect.forkDetach(reader.read(place))
        yield* held[1].reached
        yield* held[0].release
        assert.strictEqual((yield* Fiber.join(first)).txid, 1)
        return second
      }))
      assert.strictEqual(disk.openDescriptors, 1)
      yield* held[1].release
      assert.strictEqual((yield* Fiber.join(second)).txid, 1)
      assert.strictEqual(disk.openDescriptors, 0)
      assert.deepStrictEqual(disk.misuse, [])
    }).pipe(over(disk))
  })

  it.live("from what is opened while it closes fails, and leaves no file open", () => {
    const disk = new FaultyDisk()
    return Effect.gen(function*() {
      const directory = yield* store({ 1: head })
      const [reading, held] = yield* Effect.scoped(Effect.gen(function*() {
        const reader = yield* Reader.make({ directory })
        const held = disk.holdNext("openRead", { path: segmentName(1) })
        const reading = yield* Effect.forkDetach(reader.read({ segment: 1, offset: 0, len: 31 }))
        yield* held.reached
        return [reading, held] as const
      }))
      yield* held.release
      assert.deepInclude(yield* Effect.flip(Fiber.join(reading)), { _tag: "IoError", code: "EBADF" })
      assert.strictEqual(disk.openDescriptors, 0)
      assert.deepStrictEqual(disk.misuse, [])
    }).pipe(over(disk))
  })

  it.effect("fails as the disk does where a segment cannot be opened: that it is there is not denied", () => {
    const disk = new FaultyDisk()
    return Effect.gen(function*() {
      const reader = yield* Reader.make({ directory: yield* store({ 1: head }) })
      for (const code of ["EACCES", "EIO"]) {
        disk.failNext("openRead", code, { path: segmentName(1) })
        const error = yield* Effect.flip(reader.read({ segment: 1, offset: 0, len: 31 }))
        assert.deepInclude(error, { _tag: "IoError", code })
      }
    }).pipe(over(disk))
  })

  it.effect("looks into a store with an Effect that has the disk of whoever asked", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: head })
      const own = { ...(yield* Disk.Disk) }
      const reader = yield* Reader.make({ directory })
      const seen: Array<Disk.DiskService> = []
      yield* Effect.provideService(
        reader.inspect(() => Effect.map(Disk.Disk, (disk) => seen.push(disk))),
        Disk.Disk,
        own
      )
      assert.deepStrictEqual(seen.map((disk) => disk === own), [true])
    }))

  it.effect("is given its batches one after another, with whatever their Effect needs or fails with", () =>
    Effect.gen(function*() {
      const bytes = concat(...Array.from({ length: 300 }, (_, index) => raw(index + 1, noise(index * 3, index))))
      const reader = yield* Reader.make({ directory: yield* store({ 1: bytes }), chunkSize: 5_000 })
      class Enough extends Data.TaggedError("Damage")<{ readonly at: number }> {}
      let running = 0
      let seen = 0
      const until = (count: number) =>
        reader.inspect((records) =>
          Effect.gen(function*() {
            assert.strictEqual(++running, 1)
            yield* Effect.sleep(0)
            for (const record of records) assert.deepStrictEqual(record.payload, noise(3 * seen, seen++))
            running--
            if (seen >= count) return yield* new Enough({ at: seen })
          })
        )
      // One of the caller's own is no damage, whatever its name.
      assert.isAtLeast((yield* Effect.flip(until(100)) as Effect.Effect<Enough, unknown>).at, 100)
      seen = running = 0
      assert.strictEqual((yield* until(301)).records_replayed, 300)
    }))

  const child = fileURLToPath(new URL("support/recoveryChild.mjs", import.meta.url))

  it.live("takes memory for a chunk and a frame, not for a segment of 128 MiB", () =>
    Effect.gen(function*() {
      const directory = yield* largeDirectory
      const records = 131_072
      const block = concat(...Array.from({ length: 1024 }, (_, index) => raw(index + 1, noise(1024 - 28))))
      const descriptor = NFS.openSync(NodePath.join(directory, segmentName(1)), "w")
      for (let blocks = 0; blocks < records / 1024; blocks++) NFS.writeSync(descriptor, block)
      NFS.closeSync(descriptor)
      const measure = (directory: string) =>
        Effect.map(
          run(process.execPath, ["--max-old-space-size=48", child, "memory", directory]),
          ({ code, stderr, stdout }) => {
            assert.strictEqual(code, 0, stderr)
            return JSON.parse(stdout) as {
              readonly read: number
              readonly recovered: number
              readonly rss_bytes: number
            }
          }
        )
      const idle = yield* measure(yield* store({ 1: raw(1, "one") }))
      const { read, recovered, rss_bytes } = yield* measure(directory)
      assert.deepStrictEqual({ read, recovered }, { read: records, recovered: records })
      assert.isBelow(rss_bytes - idle.rss_bytes, 96 * 1024 * 1024)
    }))
})

describe("beside a live writer in another process", () => {
  /** The writer's rule for the record of a number; the checksum has vouched for what is not looked at. */
  const check = (record: Frame.LogRecord, txid: number): void => {
    assert.strictEqual(record.txid, txid)
    const size = txid % 40 === 0 ? 1_500_000 + txid * 1009 : txid % 10 === 0 ? 100_000 : (txid * 37) % 2000
    assert.strictEqual(record.payload.length, size)
    if (size > 0) assert.strictEqual(record.payload[size - 1], txid % 251 + 1)
  }

  /** Calls `look` until it has seen enough and a while has passed, and once when the writer has ended; how much was written. */
  const whileWriting = Effect.fnUntraced(function*<E>(
    mode: string,
    look: (reader: Reader.Reader["Service"]) => Effect.Effect<void, E>,
    isEnough: () => boolean
  ) {
    const directory = yield* largeDirectory
    const writer = yield* startNode("recoveryChild.mjs", [mode, directory])
    yield* writer.until("open")
    const reader = yield* Reader.make({ directory })
    const started = performance.now()
    let passes = 0
    const ending = yield* Effect.forkScoped(writer.ended, { startImmediately: true })
    const writes = () => ending.pollUnsafe() === undefined
    const goesOn = () => passes < 4 || performance.now() - started < 1_500 || !isEnough()
    for (; writes() && goesOn(); passes++) yield* look(reader)
    yield* writer.send("enough")
    const done = () => writer.lines.find((line) => line.startsWith("done"))
    while (writes() && done() === undefined) yield* look(reader)
    const ended = yield* writer.ended
    assert.strictEqual(ended.code, 0, ended.stderr)
    yield* look(reader)
    return Number(done()!.slice(5))
  })

  for (const mode of ["write", "pieces"]) {
    it.live(`a reader never fails and sees whole records only, in order, and never fewer than before (${mode})`, () =>
      Effect.gen(function*() {
        let read = 0
        let torn = 0
        const look = (reader: Reader.Reader["Service"]) =>
          Effect.gen(function*() {
            let txid = 0
            let last: Plain | undefined
            yield* Stream.runForEach(reader.stream, (record) =>
              Effect.sync(() => {
                check(record, ++txid)
                if (record.len < 2000) last = plain(record)
              }))
            assert.isAtLeast(txid, read)
            read = txid
            if (last !== undefined) assert.deepStrictEqual(plain(yield* reader.read(last)), last)
            const report = yield* reader.inspect()
            assert.isAtLeast(report.records_replayed, read)
            torn += report.tail_truncated
          })
        // That one writes a record in one call, or a few; the other is in the middle of one most of the time.
        const written = yield* whileWriting(mode, look, () => read > 20 && (mode === "write" || torn > 0))
        assert.strictEqual(read, written)
      }))
  }

  it.live("a reader that follows the log from where it was sees each record once (pieces)", () =>
    Effect.gen(function*() {
      let txid = 0
      let from = { segment: 1, offset: 0 }
      const written = yield* whileWriting(
        "pieces",
        (reader) =>
          Stream.runForEach(reader.streamFrom(from), (record) =>
            Effect.sync(() => {
              check(record, ++txid)
              from = { segment: record.segment, offset: record.offset + record.len }
            })),
        () => txid > 20
      )
      assert.strictEqual(txid, written)
    }))
})

describe("a file that changes while it is read", () => {
  /** Reads a store over a disk that calls `after` with every finished read of a segment, counted from 1. */
  const readWhile = (directory: string, after: (read: number) => void) => {
    let reads = 0
    return readAllBy(
      directory,
      undefined,
      (file, into, start, end, position) =>
        Effect.tap(file.read(into, start, end, position), () => Effect.sync(() => after(++reads)))
    )
  }

  const rewrite = (directory: string, bytes: Uint8Array) =>
    NFS.writeFileSync(NodePath.join(directory, segmentName(1)), bytes)

  it.effect("is read again: a record that was half there, and looked damaged, is whole a moment later", () =>
    Effect.gen(function*() {
      // Half of it holds a whole frame with a newer txid.
      const whole = concat(head, raw(3, concat(raw(70, "nested"), noise(50))))
      const directory = yield* store({ 1: whole.subarray(0, -20) })
      assert.strictEqual((yield* readAll(directory)).error?._tag, "CorruptTail")
      const read = yield* readWhile(directory, (reads) => {
        if (reads === 1) rewrite(directory, whole)
      })
      assert.deepStrictEqual(read, { records: parseWhole(whole, 1), error: undefined })
    }))

  it.effect("is read again as often as it has grown: a record that comes in many pieces is no damage", () =>
    Effect.gen(function*() {
      const whole = concat(head, raw(3, concat(raw(70, "nested"), noise(50))))
      const directory = yield* store({ 1: whole.subarray(0, -20) })
      const read = yield* readWhile(directory, (reads) => {
        if (reads <= 20) rewrite(directory, whole.subarray(0, whole.length - 20 + reads))
      })
      assert.deepStrictEqual(read, { records: parseWhole(whole, 1), error: undefined })
    }))

  it.effect("is read again: a torn tail that is being cut, and written over, is no damage", () =>
    Effect.gen(function*() {
      const mended = concat(head, raw(3, "new"), raw(4, "newer"), raw(5, "newest"), raw(6, noise(90)))
      const directory = yield* store({ 1: concat(head, raw(3, noise(150)).subarray(0, -1)) })
      const read = yield* readWhile(directory, (reads) => {
        if (reads === 1) rewrite(directory, mended)
      })
      // Whatever it saw of it, in order, and no error.
      assert.deepStrictEqual(read, { records: parseWhole(mended, 1).slice(0, read.records.length), error: undefined })
      assert.isAtLeast(read.records.length, 2)
    }))

  it.effect("is read again: what was read before as many bytes were written in its place is no damage", () =>
    Effect.gen(function*() {
      const mended = concat(head, raw(3, noise(90, 1)), raw(4, noise(90, 2)))
      const torn = concat(head, flipped(raw(3, noise(90, 3)), 40), flipped(raw(4, noise(90, 4)), 40))
      const directory = yield* store({ 1: torn })
      const read = yield* readWhile(directory, (reads) => {
        if (reads === 1) rewrite(directory, mended)
      })
      assert.deepStrictEqual(read, { records: parseWhole(mended, 1), error: undefined })
    }))

  it.effect("gets its verdict in the end, even when it never stops changing", () =>
    Effect.gen(function*() {
      let bytes = concat(head, noise(30))
      const directory = yield* store({ 1: bytes })
      const read = yield* readWhile(directory, () => {
        bytes = concat(bytes, noise(1))
        rewrite(directory, bytes)
      })
      assert.deepStrictEqual(read.records, parse(head).records)
      assert.strictEqual(read.error?._tag, "CorruptSegment")
    }))

  it.effect("that gets shorter ends where it ends now", () =>
    Effect.gen(function*() {
      const bytes = concat(...Array.from({ length: 40 }, (_, index) => raw(index + 1, noise(60_000, index))))
      for (const length of [0, 10, 60_028, 1_000_000, 1_048_576, 1_100_000]) {
        const directory = yield* store({ 1: bytes })
        const read = yield* readWhile(directory, (reads) => {
          if (reads === 1) NFS.truncateSync(NodePath.join(directory, segmentName(1)), length)
        })
        assert.isUndefined(read.error)
        assert.deepStrictEqual(read.records, parseWhole(bytes, 1).slice(0, read.records.length))
      }
    }))

  it.effect("that is cut where a record ends has no torn tail", () =>
    Effect.gen(function*() {
      const records = Array.from({ length: 40 }, (_, index) => raw(index + 1, noise(60_000, index)))
      const directory = yield* store({ 1: concat(...records) })
      const reader = yield* Reader.make({ directory })
      const report = yield* reader.inspect(() =>
        Effect.sync(() => NFS.truncateSync(NodePath.join(directory, segmentName(1)), 20 * 60_028))
      )
      assert.deepInclude(report, { last_txid_seen: 20, tail_truncated: 0, tail_bytes_discarded: 0 })
    }))

  it.live("is read again only when nothing is read any more into the memory for that", () =>
    Effect.gen(function*() {
      const records = Array.from({ length: 300 }, (_, index) => raw(index + 1, noise(20 + index % 70, index)))
      const directory = yield* store({ 1: concat(...records) })
      const damaged = parseWhole(concat(...records), 1)[150]!
      const disk = yield* Disk.Disk
      const release = yield* Latch.make()
      const landed = yield* Latch.make()
      // That one is seen as it was when half of it was written; the read that is begun next takes a while.
      let state: "sound" | "damaged" | "late" = "sound"
      const slow = (file: Disk.DiskFile): Disk.DiskFile => ({
        ...file,
        read: (into, start, end, position) => {
          const read = file.read(into, start, end, position)
          if (state === "damaged") {
            state = "late"
            return Effect.ensuring(Effect.andThen(release.await, read), landed.open)
          }
          return Effect.tap(read, (count) =>
            Effect.sync(() => {
              const at = damaged.offset - position
              if (state === "late" || at < 0 || at + damaged.len > count) return
              state = "damaged"
              into[start + at + 40]! ^= 1
            }))
        },
        // Asked for when all that is looked at has been read.
        size: Effect.tap(file.size, () =>
          state === "late" ? Effect.forkDetach(Effect.delay(release.open, 20)) : Effect.void)
      })
      const reader = yield* Effect.provideService(Reader.make({ directory, chunkSize: 4_000 }), Disk.Disk, {
        ...disk,
        open: (path, mode) =>
          Effect.map(disk.open(path, mode), slow)
      })
      const seen: Array<number> = []
      yield* reader.inspect((records) => {
        seen.push(...records.map(({ txid }) => txid))
        // What comes next is in that memory by then.
        return seen.length > 150 ? Effect.andThen(Effect.delay(release.open, 2), landed.await) : Effect.void
      })
      assert.deepStrictEqual(seen, records.map((_, index) => index + 1))
    }))
})

describe("a listing", () => {
  it.effect("may have any order: segments are read, and gone on with, in that of their ids", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: raw(1, "one"), 2: raw(2, "two"), 10: raw(3, "three") })
      const disk = yield* Disk.Disk
      const descending: Disk.DiskService = {
        ...disk,
        list: (path) => Effect.map(disk.list(path), (entries) => entries.toSorted((a, b) => a.name < b.name ? 1 : -1))
      }
      const records = yield* Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        assert.strictEqual((yield* log.append("four")).segment, 10)
        const reader = yield* Reader.make({ directory })
        return (yield* collect(reader.stream)).records
      }).pipe(Effect.provideService(Disk.Disk, descending))
      assert.deepStrictEqual(records.map(({ segment, txid }) => [segment, txid]), [[1, 1], [2, 2], [10, 3], [10, 4]])
    }))

  it.effect("that misses a segment which is made while it runs, and shows a later one, hides no record", () =>
    Effect.gen(function*() {
      const segments = Object.fromEntries([1, 2, 3, 4, 5].map((id) => [id, raw(id, `${id}`)]))
      const directory = yield* store(segments)
      const disk = yield* Disk.Disk
      // As readdir(3) may give them to a reader while 2 and 3 are made, and then 4 and 5.
      const shown = [[1, 3], [1, 2, 3, 5]]
      let isOpen = false
      const growing: Disk.DiskService = {
        ...disk,
        list: (path) =>
          Effect.map(disk.list(path), (entries) => {
            const ids = isOpen ? shown.shift() : undefined
            return entries.filter(({ name }) => ids === undefined || ids.some((id) => name === segmentName(id)))
          })
      }
      const reader = yield* Effect.provideService(Reader.make({ directory }), Disk.Disk, growing)
      isOpen = true
      assert.deepStrictEqual((yield* collect(reader.stream)).records.map(({ txid }) => txid), [1, 2, 3])
      assert.deepStrictEqual((yield* collect(reader.stream)).records.map(({ txid }) => txid), [1, 2, 3, 4, 5])
    }))
})

// -- positions ----------------------------------------------------------------------------------------------------------

const three: Segments = {
  1: concat(raw(1, "one"), put(2, "two", noise(300)), frame({ txid: 3 })),
  3: concat(frame({ type: "Delete", txid: 4, key: utf8("four") }), raw(5, noise(2000)), raw(6, "six")),
  4: concat(raw(7, concat(raw(50, "nested"), raw(51, "nested too"))), raw(8, "eight"), raw(9, "nine"))
}
const all = judge(three).records
/** Where the frames inside a record's payload stand. */
const nested = { segment: 4, offsets: [24, 24 + raw(50, "nested").length] }

interface Source {
  readonly streamFrom: Log.Log["Service"]["streamFrom"] | Reader.Reader["Service"]["streamFrom"]
  readonly read: Log.Log["Service"]["read"]
}

const sources: ReadonlyArray<{
  readonly name: string
  readonly make: (directory: string, chunkSize?: number) => Effect.Effect<Source, unknown, Scope.Scope>
}> = [
  { name: "a log", make: (directory, chunkSize) => Log.make({ directory, chunkSize }) },
  { name: "a reader", make: (directory, chunkSize) => Reader.make({ directory, chunkSize }) }
]

describe.each(sources)("from a position of $name", ({ make }) => {
  it.effect("each record's own place, and its txid, gives exactly the rest", () =>
    Effect.gen(function*() {
      const directory = yield* store(three)
      for (const chunkSize of [1, 50, undefined]) {
        yield* Effect.scoped(Effect.gen(function*() {
          const source = yield* make(directory, chunkSize)
          for (const [index, { offset, segment, txid }] of all.entries()) {
            const wanted = { records: all.slice(index), error: undefined }
            assert.deepStrictEqual(yield* collect(source.streamFrom({ segment, offset })), wanted)
            assert.deepStrictEqual(yield* collect(source.streamFrom({ txid })), wanted)
          }
          // The end of each segment is the start of the rest, and the end of the log has nothing behind it.
          for (const [id, bytes] of Object.entries(three)) {
            const place = { segment: Number(id), offset: bytes.length }
            const wanted = all.filter(({ segment }) => segment > place.segment)
            assert.deepStrictEqual(yield* collect(source.streamFrom(place)), { records: wanted, error: undefined })
          }
          for (const [txid, records] of [[0, all], [10, []], [Number.MAX_SAFE_INTEGER, []]] as const) {
            assert.deepStrictEqual(yield* collect(source.streamFrom({ txid })), {
              records: [...records],
              error: undefined
            })
          }
        }))
      }
    }))

  it.effect("the start of a segment that is not there is that of the next one", () =>
    Effect.gen(function*() {
      const directory = yield* store(three)
      const source = yield* make(directory)
      for (const segment of [0, 1, 2, 3, 4]) {
        assert.deepStrictEqual(yield* collect(source.streamFrom({ segment, offset: 0 })), {
          records: all.filter((record) => record.segment >= segment),
          error: undefined
        })
      }
    }))

  it.effect("a segment behind the last is none of this log's", () =>
    Effect.gen(function*() {
      const directory = yield* store(three)
      const source = yield* make(directory)
      const { error } = yield* collect(source.streamFrom({ segment: 5, offset: 0 }))
      assert.deepInclude(error, { _tag: "InvalidPosition", segment: 5, offset: 0 })
    }))

  it.effect("no place within a frame is one to start at", () =>
    Effect.gen(function*() {
      const directory = yield* store(three)
      const source = yield* make(directory)
      const wrong: Array<string> = []
      for (const { len, offset: start, segment } of all) {
        // The header, the checksum, and a few places in between.
        for (
          let offset = start + 1;
          offset < start + len;
          offset += offset < start + 30 || offset > start + len - 8 ? 1 : 11
        ) {
          if (segment === nested.segment && nested.offsets.includes(offset)) continue
          const { error, records } = yield* collect(source.streamFrom({ segment, offset }))
          if (fieldsOf(error)._tag !== "InvalidPosition" || records.length > 0) {
            wrong.push(`${segment}:${offset} gave ${records.length} records and ${String(fieldsOf(error)._tag)}`)
          }
        }
      }
      assert.deepStrictEqual(wrong, [])
    }))

  it.effect("a log inside a record is no place to start at, and to ask for it is not damage to the store", () =>
    Effect.gen(function*() {
      const directory = yield* store(three)
      const source = yield* make(directory)
      for (const offset of nested.offsets) {
        // Its frames are sound by all that can be seen there: that they are none of this log's shows where they end.
        const { error } = yield* collect(source.streamFrom({ segment: nested.segment, offset }))
        assert.strictEqual(fieldsOf(error)._tag, "InvalidPosition")
      }
    }))

  const misplaced = [
    { segment: 1, offset: -1 },
    { segment: 1, offset: -33 },
    { segment: 1, offset: Number.NaN },
    { segment: 1, offset: 0.5 },
    { segment: 1, offset: Number.POSITIVE_INFINITY },
    { segment: 1, offset: three[1]!.length + 1 },
    { segment: 4, offset: three[4]!.length + 1 },
    { segment: 4, offset: 2 ** 40 },
    { segment: 2, offset: 31 },
    { segment: 5, offset: 31 },
    { segment: 0, offset: 31 },
    { segment: -1, offset: 31 },
    { segment: Number.NaN, offset: 31 },
    { segment: 1.5, offset: 31 }
  ]

  it.effect.each(misplaced)(
    "a place that does not exist is invalid: segment $segment, offset $offset",
    (place) =>
      Effect.gen(function*() {
        const directory = yield* store(three)
        const source = yield* make(directory)
        const { error, records } = yield* collect(source.streamFrom(place))
        assert.deepStrictEqual(records, [])
        assert.deepStrictEqual(fieldsOf(error), { _tag: "InvalidPosition", directory, ...place })
      })
  )

  it.effect.each([
    { segment: Number.NaN, offset: 0 },
    { segment: 1.5, offset: 0 }
  ])("nor is there a segment of that number: $segment", (place) =>
    Effect.gen(function*() {
      const directory = yield* store(three)
      const source = yield* make(directory)
      const { error, records } = yield* collect(source.streamFrom(place))
      assert.deepStrictEqual({ records, tag: fieldsOf(error)._tag }, { records: [], tag: "InvalidPosition" })
    }))

  it.effect("a txid that is no number is not taken for one", () =>
    Effect.gen(function*() {
      const directory = yield* store(three)
      const source = yield* make(directory)
      const { records } = yield* collect(source.streamFrom({ txid: Number.NaN }))
      assert.deepStrictEqual(records, [])
    }))

  it.effect("a reference gives the stream's record, with or without its txid", () =>
    Effect.gen(function*() {
      const directory = yield* store(three)
      const source = yield* make(directory)
      for (const record of all) {
        const { len, offset, segment, txid } = record
        assert.deepStrictEqual(plain(yield* source.read({ segment, offset, len, txid })), record)
        assert.deepStrictEqual(plain(yield* source.read({ segment, offset, len })), record)
      }
    }))

  const foreign = [
    { name: "another txid", segment: 1, offset: 0, len: 31, txid: 2 },
    { name: "a shorter length", segment: 1, offset: 0, len: 30, txid: 1 },
    { name: "the shortest length", segment: 1, offset: 0, len: 28, txid: 1 },
    { name: "a longer length", segment: 1, offset: 0, len: 90, txid: 1 },
    { name: "the length of two records", segment: 4, offset: 130, len: 65, txid: 8 },
    { name: "the middle of a record", segment: 1, offset: 5, len: 31, txid: 1 },
    { name: "the end of the log", segment: 4, offset: three[4]!.length, len: 31, txid: 10 },
    { name: "behind the end of the log", segment: 4, offset: three[4]!.length + 100, len: 31, txid: 10 },
    { name: "the end of a closed segment", segment: 1, offset: three[1]!.length, len: 31, txid: 4 },
    { name: "no bytes", segment: 1, offset: 0, len: 0, txid: 1 },
    { name: "a negative length", segment: 1, offset: 0, len: -1, txid: 1 },
    { name: "a length that is no number", segment: 1, offset: 0, len: Number.NaN, txid: 1 },
    { name: "part of a byte", segment: 1, offset: 0, len: 31.5, txid: 1 },
    { name: "a length beyond all files", segment: 1, offset: 0, len: 2 ** 40, txid: 1 },
    { name: "a length above a frame's", segment: 1, offset: 0, len: Frame.frame_bytes_max + 1, txid: 1 },
    { name: "an offset before the file", segment: 1, offset: -1, len: 31, txid: 1 },
    { name: "an offset well before the file", segment: 1, offset: -100, len: 31, txid: 1 },
    { name: "an offset that is no number", segment: 1, offset: Number.NaN, len: 31, txid: 1 },
    { name: "half an offset", segment: 1, offset: 0.5, len: 31, txid: 1 },
    { name: "an offset beyond all files", segment: 1, offset: 2 ** 52, len: 31, txid: 1 }
  ]

  it.effect.each(foreign)(
    "a reference that is not this log's is invalid, and says nothing of damage: $name",
    (ref) =>
      Effect.gen(function*() {
        const directory = yield* store(three)
        const source = yield* make(directory)
        const error = yield* Effect.flip(source.read(ref))
        assert.strictEqual(error._tag, "InvalidPosition")
      })
  )

  it.effect.each([
    { segment: 2, offset: 0, len: 31 },
    { segment: 0, offset: 0, len: 31 },
    { segment: 100, offset: 31, len: 31 }
  ])("a reference to a segment that is not there is invalid: segment $segment", (ref) =>
    Effect.gen(function*() {
      const directory = yield* store(three)
      const source = yield* make(directory)
      const error = yield* Effect.flip(source.read(ref))
      assert.deepInclude(error, { _tag: "InvalidPosition", segment: ref.segment, offset: ref.offset })
    }))

  it.effect("a damaged record is damaged, and no mistake of the caller's, also behind another one", () =>
    Effect.gen(function*() {
      const records = [1, 2, 3, 4].map((txid) => raw(txid, `record ${txid}`))
      const directory = yield* store({ 1: concat(...records) })
      const source = yield* make(directory)
      const damaged = records.map((bytes, at) => at % 3 === 0 ? bytes : flipped(bytes, 26))
      NFS.writeFileSync(NodePath.join(directory, segmentName(1)), concat(...damaged))
      const read = (at: number) => source.read({ segment: 1, offset: concat(...records.slice(0, at)).length, len: 36 })
      for (const at of [1, 2]) assert.strictEqual((yield* Effect.flip(read(at)))._tag, "CorruptSegment")
      for (const at of [0, 3]) assert.strictEqual((yield* read(at)).txid, at + 1)
      const from = Stream.runDrain(source.streamFrom({ segment: 1, offset: records[0]!.length * 2 }))
      assert.include(["CorruptSegment", "CorruptTail"], (yield* Effect.flip(from))._tag)
    }))

  it.effect("a reference to a record that was cut off, and written over, is invalid", () =>
    Effect.gen(function*() {
      const before = concat(head, raw(3, "of some length"))
      const directory = yield* store({ 1: before.subarray(0, -1) })
      const stale = { segment: 1, offset: 62, len: 42, txid: 3 }
      yield* Effect.scoped(Effect.flatMap(
        Log.make({ directory }),
        (log) => Effect.forEach(["short", "and another", "and one more"], log.append)
      ))
      const source = yield* make(directory)
      const error = yield* Effect.flip(source.read(stale))
      assert.strictEqual(error._tag, "InvalidPosition")
    }))
})

describe("a reader that starts at a position", () => {
  const tail = raw(3, concat(raw(1, "a log"), raw(2, "in a log"))).subarray(0, -1)

  it.effect("ends cleanly before a half-written record that holds an old log, wherever it starts", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: concat(head, tail) })
      const reader = yield* Reader.make({ directory })
      const records = parse(head).records
      assert.deepStrictEqual(yield* collect(reader.stream), { records, error: undefined })
      assert.deepStrictEqual(yield* collect(reader.streamFrom({ segment: 1, offset: 31 })), {
        records: records.slice(1),
        error: undefined
      })
      // Where a follower of the log goes on.
      assert.deepStrictEqual(yield* collect(reader.streamFrom({ segment: 1, offset: 62 })), {
        records: [],
        error: undefined
      })
    }))

  it.effect("ends cleanly before one that is the first of its segment", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: head, 2: tail })
      const reader = yield* Reader.make({ directory })
      assert.deepStrictEqual(yield* collect(reader.stream), { records: parse(head).records, error: undefined })
      for (const from of [{ segment: 1, offset: 62 }, { segment: 2, offset: 0 }, { txid: 3 }]) {
        assert.deepStrictEqual(yield* collect(reader.streamFrom(from)), { records: [], error: undefined })
      }
    }))

  it.effect("fails at damage behind the position as it does from the start", () =>
    Effect.gen(function*() {
      const bytes = concat(head, flipped(raw(3, "three"), 26), later)
      const directory = yield* store({ 1: bytes })
      const reader = yield* Reader.make({ directory })
      const wanted = errorFields((yield* collect(reader.stream)).error)
      assert.strictEqual(wanted._tag, "CorruptTail")
      for (const offset of [0, 31, 62]) {
        const { error } = yield* collect(reader.streamFrom({ segment: 1, offset }))
        assert.deepStrictEqual(errorFields(error), wanted)
      }
      const inside = yield* collect(reader.streamFrom({ segment: 1, offset: 70 }))
      assert.strictEqual(inside.error?._tag, "InvalidPosition")
    }))

  it.effect("gives every record from a txid on, also when the first record of a later segment is damaged", () =>
    Effect.gen(function*() {
      const first = concat(...Array.from({ length: 10 }, (_, index) => raw(index + 1, "x")))
      // One bit of its txid: 11 reads as 3. The checksum knows, and the stream from the start ends before it.
      const directory = yield* store({ 1: first, 2: flipped(raw(11, "eleven"), 8, 0x08) })
      const reader = yield* Reader.make({ directory })
      const whole = yield* collect(reader.stream)
      assert.deepStrictEqual(whole, { records: parseWhole(first, 1), error: undefined })
      assert.deepStrictEqual(yield* collect(reader.streamFrom({ txid: 5 })), {
        records: whole.records.slice(4),
        error: undefined
      })
    }))

  it.live("a log inside the last record is no place to start at, though its frames are whole", () =>
    Effect.gen(function*() {
      const nested = concat(raw(1, "nested"), raw(2, "nested too"))
      const directory = yield* store({ 1: concat(raw(1, "one"), raw(2, nested)) })
      const reader = yield* Reader.make({ directory })
      const from = { segment: 1, offset: raw(1, "one").length + Frame.header_bytes }
      const { error } = yield* collect(reader.streamFrom(from))
      assert.strictEqual(fieldsOf(error)["_tag"], "InvalidPosition")
    }))

  it.effect("allocates nothing for a length that no frame has", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("one")))
      const reader = yield* Reader.make({ directory })
      for (const len of [Frame.frame_bytes_max + 1, 2 ** 40]) {
        const error = yield* Effect.flip(reader.read({ segment: 1, offset: 0, len }))
        assert.strictEqual(error._tag, "InvalidPosition")
      }
    }))
})
