/**
 * The simulated disk itself: that it answers as the real one does, and that a crash leaves what its header says, rule
 * by rule.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Stream } from "effect"
import fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import { constants } from "node:os"
import * as NodePath from "node:path"
import { vi } from "vitest"
import * as Disk from "../src/Disk.ts"
import { nodeDisk } from "../src/internal/nodeDisk.ts"
import * as Kv from "../src/Kv.ts"
import * as Lock from "../src/Lock.ts"
import * as Log from "../src/Log.ts"
import * as Testing from "../src/testing.ts"
import { temporaryDirectory } from "./support/stores.ts"

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text)
const textOf = (bytes: Uint8Array | undefined): string | undefined =>
  bytes === undefined ? undefined : new TextDecoder().decode(bytes)

// -- the contract -----------------------------------------------------------------------------------------------------

const readAll = (file: Disk.DiskFile): Effect.Effect<string | undefined, unknown> =>
  Effect.gen(function*() {
    const into = new Uint8Array(100)
    return textOf(into.subarray(0, yield* Disk.readFully(file, into, 0, into.length, 0)))
  })

/** What a call came to: its value, or its error's code. */
const outcome = <A>(effect: Effect.Effect<A, { readonly _tag: string; readonly code?: string }>) =>
  Effect.match(effect, { onFailure: (error) => error.code ?? error._tag, onSuccess: (value) => value })

const opened = (disk: Disk.DiskService, path: string, mode: Disk.OpenMode) =>
  outcome(Effect.flatMap(disk.open(path, mode), (file) => Effect.as(file.close, "opened")))

const contract = (
  name: string,
  make: Effect.Effect<{ readonly disk: Disk.DiskService; readonly root: string }>,
  run: <A>(effect: Effect.Effect<A, unknown>) => Effect.Effect<A, unknown> = (effect) => effect
) => {
  const test = (
    title: string,
    body: (disk: Disk.DiskService, at: (name: string) => string) => Effect.Effect<unknown, unknown>
  ) =>
    it.live(title, () => run(Effect.flatMap(make, ({ disk, root }) => body(disk, (name) => NodePath.join(root, name)))))
  const write = (disk: Disk.DiskService, path: string, text: string) =>
    Effect.acquireUseRelease(
      disk.open(path, "create"),
      (file) => Disk.appendFully(file, bytesOf(text), 0, text.length),
      (file) => file.close
    )

  describe(`the contract of a disk: ${name}`, () => {
    test("a file is opened, made, read and appended to", (disk, at) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* opened(disk, at("f"), "read"), "ENOENT")
        assert.strictEqual(yield* opened(disk, at("f"), "append"), "ENOENT")
        assert.strictEqual(yield* opened(disk, at("f"), "update"), "ENOENT")
        assert.strictEqual(yield* opened(disk, at("no/f"), "create"), "ENOENT")
        const file = yield* disk.open(at("f"), "create")
        assert.strictEqual(yield* opened(disk, at("f"), "create"), "EEXIST")
        assert.strictEqual(yield* opened(disk, at("f/g"), "create"), "ENOTDIR")
        assert.strictEqual(file.path, at("f"))
        assert.strictEqual(yield* file.size, 0)
        assert.strictEqual(file.appendNow(bytesOf("xabcx"), 1, 4), 3)
        assert.strictEqual(yield* file.append(bytesOf("de"), 0, 2), 2)
        assert.strictEqual(yield* file.size, 5)
        const into = bytesOf("........")
        assert.strictEqual(file.readNow(into, 1, 4, 1), 3)
        assert.strictEqual(textOf(into), ".bcd....")
        assert.strictEqual(yield* file.read(into, 0, 8, 3), 2)
        assert.strictEqual(yield* file.read(into, 0, 8, 9), 0)
        yield* file.sync
        yield* file.close
        const again = yield* disk.open(at("f"), "append")
        yield* again.append(bytesOf("f"), 0, 1)
        assert.strictEqual(yield* readAll(again), "abcdef")
        yield* again.close
      }))

    test("a file is truncated, and grows with zeros", (disk, at) =>
      Effect.gen(function*() {
        yield* write(disk, at("f"), "abcdef")
        const file = yield* disk.open(at("f"), "append")
        yield* file.truncate(3)
        assert.strictEqual(yield* readAll(file), "abc")
        yield* file.truncate(5)
        assert.strictEqual(yield* readAll(file), "abc\0\0")
        yield* file.append(bytesOf("x"), 0, 1)
        assert.strictEqual(yield* readAll(file), "abc\0\0x")
        yield* file.close
        const reader = yield* disk.open(at("f"), "read")
        assert.strictEqual(yield* outcome(reader.truncate(0)), "EINVAL")
        assert.strictEqual(yield* outcome(reader.append(bytesOf("y"), 0, 1)), "EBADF")
        yield* reader.close
      }))

    test("a file is overwritten in place", (disk, at) =>
      Effect.gen(function*() {
        yield* write(disk, at("f"), "abcdef")
        const file = yield* disk.open(at("f"), "update")
        assert.strictEqual(yield* file.overwrite(bytesOf(".XY."), 1, 3, 2), 2)
        assert.strictEqual(yield* readAll(file), "abXYef")
        assert.strictEqual(yield* file.overwrite(bytesOf("Z"), 0, 1, 7), 1)
        assert.strictEqual(yield* readAll(file), "abXYef\0Z")
        yield* file.close
      }))

    test("an open file outlives its name", (disk, at) =>
      Effect.gen(function*() {
        yield* write(disk, at("f"), "abc")
        const file = yield* disk.open(at("f"), "read")
        yield* disk.rename(at("f"), at("g"))
        assert.strictEqual(yield* readAll(file), "abc")
        assert.strictEqual(yield* file.sync, "elsewhere")
        yield* disk.rename(at("g"), at("f"))
        assert.strictEqual(yield* file.sync, "here")
        yield* disk.remove(at("f"))
        assert.strictEqual(yield* readAll(file), "abc")
        assert.strictEqual(yield* file.sync, "nowhere")
        yield* file.close
        assert.strictEqual(yield* opened(disk, at("f"), "read"), "ENOENT")
      }))

    test("directories are made with their parents, and listed", (disk, at) =>
      Effect.gen(function*() {
        yield* disk.makeDirectory(at("a/b/c"))
        yield* disk.makeDirectory(at("a/b/c"))
        yield* disk.makeDirectory(at("a/d"))
        yield* write(disk, at("a/f"), "")
        assert.strictEqual(yield* outcome(disk.makeDirectory(at("a/f"))), "EEXIST")
        assert.strictEqual(yield* outcome(disk.makeDirectory(at("a/f/g"))), "ENOTDIR")
        const names = Array.from(yield* disk.list(at("a"))).sort((x, y) => x.name < y.name ? -1 : 1)
        assert.deepStrictEqual(names, [
          { name: "b", isFile: false, isLink: false },
          { name: "d", isFile: false, isLink: false },
          { name: "f", isFile: true, isLink: false }
        ])
        assert.strictEqual(yield* outcome(disk.list(at("none"))), "ENOENT")
        assert.strictEqual(yield* outcome(disk.list(at("a/f"))), "ENOTDIR")
        yield* disk.syncDirectory(at("a"))
        assert.strictEqual(yield* outcome(disk.syncDirectory(at("none"))), "ENOENT")
        assert.strictEqual(yield* opened(disk, at("a/b"), "append"), "EISDIR")
      }))

    test("names are changed and taken away", (disk, at) =>
      Effect.gen(function*() {
        yield* disk.makeDirectory(at("full/inner"))
        yield* disk.makeDirectory(at("empty"))
        yield* write(disk, at("f"), "abc")
        yield* write(disk, at("g"), "old")
        yield* disk.rename(at("f"), at("g"))
        assert.strictEqual(yield* opened(disk, at("f"), "read"), "ENOENT")
        assert.strictEqual(yield* outcome(disk.rename(at("f"), at("h"))), "ENOENT")
        assert.strictEqual(yield* outcome(disk.rename(at("g"), at("empty"))), "EISDIR")
        assert.strictEqual(yield* outcome(disk.rename(at("empty"), at("g"))), "ENOTDIR")
        assert.strictEqual(yield* outcome(disk.rename(at("empty"), at("full"))), "ENOTEMPTY")
        assert.strictEqual(yield* outcome(disk.rename(at("full"), at("full/inner/x"))), "EINVAL")
        yield* disk.rename(at("full"), at("empty"))
        assert.strictEqual(yield* outcome(disk.remove(at("none"))), "ENOENT")
        assert.strictEqual(yield* outcome(disk.remove(at("empty"))), "EISDIR")
        yield* write(disk, at("empty/inner/deep"), "x")
        yield* disk.removeTree(at("empty"))
        yield* disk.removeTree(at("empty"))
        assert.deepStrictEqual(yield* disk.list(NodePath.dirname(at("x"))), [{
          name: "g",
          isFile: true,
          isLink: false
        }])
      }))

    test("whoever is busy for long enough is told that others should have their turn, and then that they had it", (disk) =>
      Effect.gen(function*() {
        yield* Effect.yieldNow
        let asked = 1
        while (!disk.isTurnOver()) asked++
        assert.isAtLeast(asked, 2)
        assert.isTrue(disk.isTurnOver(), "it is the same for the next one who asks")
        yield* Effect.yieldNow
        assert.isFalse(disk.isTurnOver())
      }))

    test("one open file holds the lock, until it is closed", (disk, at) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* outcome(disk.openLock(at("none/.lock"))), "ENOENT")
        const first = yield* disk.openLock(at(".lock"))
        const second = yield* disk.openLock(at(".lock"))
        assert.isTrue(yield* first.tryLock)
        assert.isTrue(yield* first.tryLock)
        assert.isFalse(yield* second.tryLock)
        yield* first.writeText("a longer text\n")
        yield* first.writeText("123\n")
        assert.strictEqual(yield* second.readText, "123\n")
        assert.isTrue(yield* first.isCurrent)
        yield* disk.remove(at(".lock"))
        assert.isFalse(yield* first.isCurrent)
        const third = yield* disk.openLock(at(".lock"))
        assert.isTrue(yield* third.tryLock)
        yield* first.close
        assert.isTrue(yield* second.tryLock)
        yield* second.close
        yield* third.close
      }))
  })
}

const simulated = (options: Testing.Options) =>
  Effect.sync(() => ({ disk: Testing.makeDisk({ directories: ["/d"], ...options }).service, root: "/d" }))

// The real directory lasts as long as one test.
const realDirectory: { path: string } = { path: "" }
contract(
  "of Node",
  Effect.sync(() => ({ disk: nodeDisk, root: realDirectory.path })),
  (effect) =>
    Effect.scoped(Effect.flatMap(temporaryDirectory, (path) => {
      realDirectory.path = path
      return effect
    }))
)

describe("calls of the system that do less than they were asked for, or say what Node has no name for", () => {
  const patched = <A, E, R>(patch: Partial<typeof fs>, run: Effect.Effect<A, E, R>) =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        const own = Object.fromEntries(Object.entries(fs).filter(([name]) => name in patch))
        Object.assign(fs, patch)
        syncBuiltinESMExports()
        return own
      }),
      () => run,
      (own) =>
        Effect.sync(() => {
          Object.assign(fs, own)
          syncBuiltinESMExports()
        })
    )
  const failure = (code: string, errno: number) => Object.assign(new Error("failed"), { code, errno })

  it.live("the text of a lock is read whole, a byte at a time, past an interruption", () =>
    Effect.gen(function*() {
      const file = yield* nodeDisk.openLock(NodePath.join(yield* temporaryDirectory, ".lock"))
      yield* file.writeText("123\nunsynced 1 0\n")
      const { readSync } = fs
      let calls = 0
      const byte = (fd: number, into: Uint8Array, start: number, _length: number, position: number) => {
        if (calls++ === 1) throw failure("EINTR", -4)
        return readSync(fd, into, start, 1, position)
      }
      const text = yield* patched({ readSync: byte as typeof readSync }, file.readText)
      assert.strictEqual(text, "123\nunsynced 1 0\n")
      assert.isAbove(calls, text.length)
      // Nothing, once, behind a part of it.
      const gaps = (fd: number, into: Uint8Array, start: number, length: number, position: number) =>
        calls++ % 2 === 0 ? readSync(fd, into, start, Math.min(length, 3), position) : 0
      calls = 0
      assert.strictEqual(yield* patched({ readSync: gaps as typeof readSync }, file.readText), text)
      const none = yield* Effect.flip(patched({ readSync: () => 0 }, file.readText))
      assert.deepInclude(none, { operation: "read", code: "EIO" })
      yield* file.close
    }))

  it.live("the text of a lock is written whole, a byte at a time, and what fails does not cut off the old one", () =>
    Effect.gen(function*() {
      const file = yield* nodeDisk.openLock(NodePath.join(yield* temporaryDirectory, ".lock"))
      yield* file.writeText("123\nunsynced 1 0\nfailed\n")
      const { write } = fs
      let calls = 0
      type Done = (error: Error | null, count: number) => void
      const byte = (fd: number, bytes: Uint8Array, at: number, _length: number, position: number, done: Done) => {
        calls++
        write(fd, bytes, at, 1, position, done)
      }
      const half = (fd: number, bytes: Uint8Array, at: number, length: number, position: number, done: Done) => {
        if (at > 0) done(failure("ENOSPC", -28), 0)
        else write(fd, bytes, at, Math.floor(length / 2), position, done)
      }
      const error = yield* Effect.flip(patched({ write: half as typeof write }, file.writeText("123\n")))
      assert.deepInclude(error, { operation: "write", code: "ENOSPC" })
      assert.strictEqual(yield* file.readText, "123\nunsynced 1 0\nfailed\n")
      yield* patched({ write: byte as typeof write }, file.writeText("45\n"))
      assert.deepStrictEqual([yield* file.readText, calls], ["45\n", 3])
      yield* file.close
    }))

  it.live("a file that grows while it is read has not failed where a read came just before", () =>
    Effect.gen(function*() {
      const file = yield* nodeDisk.open(NodePath.join(yield* temporaryDirectory, "file"), "create")
      // Two reads of three find nothing.
      const asked = (grows: boolean): Disk.DiskFile => {
        let size = 1
        let reads = 0
        return {
          ...file,
          read: (_into, _start, _end, position) => Effect.sync(() => ++reads % 3 === 0 && position < size ? 1 : 0),
          size: Effect.sync(() => grows ? ++size : size)
        }
      }
      const read = (of: Disk.DiskFile) => Disk.readFully(of, new Uint8Array(10), 0, 10, 0)
      assert.strictEqual(yield* read(asked(true)), 10)
      assert.deepInclude(yield* Effect.flip(read(asked(false))), { operation: "read", code: "EIO" })
      yield* file.close
    }))

  it.live("an error that Node has no name for has the system's", () =>
    Effect.gen(function*() {
      const path = NodePath.join(yield* temporaryDirectory, "file")
      const file = yield* nodeDisk.open(path, "create")
      for (
        const [code, said] of [["UNKNOWN", "EDQUOT"], ["Unknown system error -122", "EDQUOT"], ["EIO", "EIO"]] as const
      ) {
        const writeSync = () => {
          throw failure(code, -constants.errno.EDQUOT)
        }
        const error = yield* patched({ writeSync }, Effect.sync(() => file.appendNow(new Uint8Array(1), 0, 1)))
        assert.deepInclude(error, { _tag: "IoError", code: said })
      }
      yield* file.close
    }))
})

describe("a turn on Node's disk", () => {
  // What ends a turn is an immediate, too, and was put in the queue before.
  const nextTurn = Effect.promise(() => new Promise(setImmediate))

  it.live("ends after a few milliseconds, however few calls those were", () =>
    Effect.gen(function*() {
      yield* nextTurn
      assert.isFalse(nodeDisk.isTurnOver(1_000))
      const started = performance.now()
      while (performance.now() - started < 20) { /* as a slow call */ }
      assert.isTrue(nodeDisk.isTurnOver(1_000))
    }))

  it.live("ends with the event loop's, also when it began while a test had put timers of its own in place", () =>
    Effect.gen(function*() {
      yield* nextTurn
      const isOver = yield* Effect.acquireUseRelease(
        Effect.sync(() => vi.useFakeTimers()),
        () => Effect.sync(() => nodeDisk.isTurnOver(1_000)),
        () => Effect.sync(() => vi.useRealTimers())
      )
      assert.isFalse(isOver)
      const started = performance.now()
      while (performance.now() - started < 5) { /* longer than a turn */ }
      yield* nextTurn
      assert.isFalse(nodeDisk.isTurnOver(1_000))
    }))

  it.live("begins anew when the event loop went round, whatever a program did meanwhile", () =>
    Effect.gen(function*() {
      yield* nextTurn
      for (let round = 0; round < 20; round++) {
        yield* Effect.sleep(5)
        assert.isFalse(nodeDisk.isTurnOver(1_000))
      }
    }))
})

contract("simulated", simulated({}))
contract("simulated, completions shuffled", simulated({ shuffle: true }))

// -- the fault model --------------------------------------------------------------------------------------------------

const create = (disk: Testing.SimulatedDisk, path: string, bytes: Uint8Array | string, durable = true) =>
  Effect.gen(function*() {
    const file = yield* disk.service.open(path, "create")
    const all = typeof bytes === "string" ? bytesOf(bytes) : bytes
    if (all.length > 0) yield* file.append(all, 0, all.length)
    if (durable) {
      yield* file.sync
      yield* disk.service.syncDirectory(NodePath.dirname(path))
    }
    return file
  })

const append = (file: Disk.DiskFile, text: string) => file.append(bytesOf(text), 0, text.length)

/** Every text that a file can have after a power loss, `undefined` where it is gone. */
const outcomes = (disk: Testing.SimulatedDisk, path = "/d/f") =>
  new Set(disk.survivors(10_000).map((survivor) => textOf(survivor.files.get(path))))

const disks = (mode: Testing.Mode, faults: ReadonlyArray<Testing.Fault> = []) =>
  Testing.makeDisk({ mode, faults, directories: ["/d"] })

const sectors = (...letters: ReadonlyArray<string>): string => letters.map((letter) => letter.repeat(512)).join("")

describe("what a power loss leaves", () => {
  for (const mode of ["adversarial", "ordered"] as const) {
    it.live(`is all that was synced, and only that when all was (${mode})`, () =>
      Effect.gen(function*() {
        const disk = disks(mode)
        const file = yield* create(disk, "/d/f", "")
        yield* append(file, "abc")
        yield* file.sync
        assert.isFalse(disk.isDirty)
        assert.deepStrictEqual(outcomes(disk), new Set(["abc"]))
      }))

    it.live(`is no file whose directory was not synced, or that file (${mode})`, () =>
      Effect.gen(function*() {
        const disk = disks(mode)
        const file = yield* create(disk, "/d/f", "abc", false)
        yield* file.sync
        assert.deepStrictEqual(outcomes(disk), new Set([undefined, "abc"]))
        yield* disk.service.syncDirectory("/d")
        assert.deepStrictEqual(outcomes(disk), new Set(["abc"]))
      }))

    it.live(`is the old name or the new one, never none and never half (${mode})`, () =>
      Effect.gen(function*() {
        const disk = disks(mode)
        yield* create(disk, "/d/f", "old")
        yield* create(disk, "/d/g", "new")
        yield* disk.service.rename("/d/g", "/d/f")
        const trees = disk.survivors(100).map(({ files }) => [textOf(files.get("/d/f")), textOf(files.get("/d/g"))])
        assert.deepStrictEqual(trees, [["old", "new"], ["new", undefined]])
      }))

    it.live(`has removed names again until their directory is synced (${mode})`, () =>
      Effect.gen(function*() {
        const disk = disks(mode)
        yield* create(disk, "/d/f", "abc")
        yield* disk.service.remove("/d/f")
        assert.deepStrictEqual(outcomes(disk), new Set(["abc", undefined]))
        yield* disk.service.syncDirectory("/d")
        assert.deepStrictEqual(outcomes(disk), new Set([undefined]))
      }))

    it.live(`needs every directory above to be synced (${mode})`, () =>
      Effect.gen(function*() {
        const disk = disks(mode)
        yield* disk.service.makeDirectory("/d/a/b")
        yield* create(disk, "/d/a/b/f", "abc")
        yield* disk.service.syncDirectory("/d/a")
        assert.isTrue(outcomes(disk, "/d/a/b/f").has(undefined))
        yield* disk.service.syncDirectory("/d")
        assert.deepStrictEqual(outcomes(disk, "/d/a/b/f"), new Set(["abc"]))
      }))

    it.live(`has the length before a truncation or the one behind it (${mode})`, () =>
      Effect.gen(function*() {
        const disk = disks(mode)
        const file = yield* create(disk, "/d/f", sectors("a", "b"))
        yield* file.truncate(512)
        const found = outcomes(disk)
        assert.isTrue(found.has(sectors("a", "b")))
        assert.isTrue(found.has(sectors("a")))
        assert.strictEqual(found.has(sectors("a", "\0")), mode === "adversarial")
        yield* file.sync
        assert.deepStrictEqual(outcomes(disk), new Set([sectors("a")]))
      }))
  }

  it.live("in adversarial mode each sector on its own, with any length", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial")
      const file = yield* create(disk, "/d/f", "")
      yield* append(file, sectors("a", "b"))
      assert.deepStrictEqual(
        outcomes(disk),
        new Set([
          "",
          sectors("\0"),
          sectors("a"),
          sectors("\0", "\0"),
          sectors("a", "\0"),
          sectors("\0", "b"),
          sectors("a", "b")
        ])
      )
    }))

  it.live("in adversarial mode a sector holds any content it had since the sync", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial")
      const file = yield* create(disk, "/d/f", "1")
      yield* append(file, "2")
      yield* append(file, "3")
      assert.deepStrictEqual(
        outcomes(disk),
        new Set(["1", "1\0", "12", "1\0\0", "12\0", "123"])
      )
    }))

  it.live("in adversarial mode any subset of a directory's changes", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial")
      yield* create(disk, "/d/f", "", false)
      yield* create(disk, "/d/g", "", false)
      const names = disk.survivors(100).map(({ files }) => Array.from(files.keys()).join(" "))
      assert.deepStrictEqual(new Set(names), new Set(["/d", "/d /d/f", "/d /d/g", "/d /d/f /d/g"]))
    }))

  it.live("in ordered mode everything up to one point, which may lie in a write", () =>
    Effect.gen(function*() {
      const disk = disks("ordered")
      const file = yield* create(disk, "/d/f", "")
      const other = yield* create(disk, "/d/g", "")
      yield* append(file, "ab")
      yield* append(other, "c")
      yield* append(file, "d")
      const found = disk.survivors(100).map(({ files }) =>
        [textOf(files.get("/d/f")), textOf(files.get("/d/g"))].join("|")
      )
      assert.deepStrictEqual(new Set(found), new Set(["|", "a|", "ab|", "ab|c", "abd|c"]))
    }))

  it.live("in ordered mode what was synced, though what was done before it was not", () =>
    Effect.gen(function*() {
      const disk = disks("ordered")
      const file = yield* create(disk, "/d/f", "")
      const other = yield* create(disk, "/d/g", "")
      yield* append(file, "a")
      yield* append(other, "b")
      yield* other.sync
      for (const { files } of disk.survivors(100)) assert.strictEqual(textOf(files.get("/d/g")), "b")
      assert.deepStrictEqual(outcomes(disk), new Set(["", "a"]))
    }))

  it.live("is decided by the seed", () =>
    Effect.gen(function*() {
      const left = (seed: number) =>
        Effect.gen(function*() {
          const disk = Testing.makeDisk({ seed, directories: ["/d"] })
          const file = yield* create(disk, "/d/f", "")
          for (const letter of "abcdefgh") yield* append(file, sectors(letter))
          const { files, script } = disk.crash()
          return [textOf(files.get("/d/f")), script]
        })
      assert.deepStrictEqual(yield* left(7), yield* left(7))
      const all = yield* Effect.forEach(Array.from({ length: 20 }, (_, seed) => seed), left)
      assert.isAbove(new Set(all.map(([text]) => text)).size, 10)
    }))
})

describe("what the death of the process leaves", () => {
  it.live("is everything that was written, and nothing becomes durable by it", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial")
      const file = yield* create(disk, "/d/f", "")
      yield* append(file, "abc")
      const next = disk.kill()
      assert.strictEqual(textOf(next.files.get("/d/f")), "abc")
      assert.isTrue(outcomes(next).has(""))
      assert.strictEqual(next.openFiles, 0)
    }))

  it.live("is a free lock", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial")
      const held = yield* disk.service.openLock("/d/.lock")
      assert.isTrue(yield* held.tryLock)
      assert.isTrue(yield* Effect.flatMap(disk.kill().service.openLock("/d/.lock"), (lock) => lock.tryLock))
    }))
})

describe("a disk that has stopped", () => {
  it.live("takes no call any more, so that the program over it ends", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial")
      const file = yield* create(disk, "/d/f", "abc")
      const next = disk.crash()
      assert.isTrue(disk.stopped)
      assert.strictEqual(yield* outcome(append(file, "x")), "EIO")
      assert.strictEqual(yield* opened(disk.service, "/d/f", "read"), "EIO")
      yield* file.close
      assert.strictEqual(textOf(next.files.get("/d/f")), "abc")
      assert.strictEqual(textOf(disk.files.get("/d/f")), "abc")
    }))

  it.live("stops before, in or after the call that was named", () =>
    Effect.gen(function*() {
      for (const [stop, left] of [["before", "a"], ["half", "abc"], ["after", "abcde"]] as const) {
        const disk = disks("adversarial", [{ kind: "write", nth: 2, stop }])
        const file = yield* create(disk, "/d/f", "a")
        assert.strictEqual(yield* outcome(append(file, "bcde")), "EIO")
        assert.isTrue(disk.stopped)
        assert.strictEqual(textOf(disk.kill().files.get("/d/f")), left)
      }
    }))
})

describe("faults", () => {
  it.live("come at the n-th call of a kind on a path, as often as asked for", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial", [{ kind: "write", path: "/f", nth: 2, times: 2, code: "ENOSPC" }])
      const other = yield* create(disk, "/d/g", "")
      const file = yield* create(disk, "/d/f", "")
      const codes: Array<unknown> = []
      for (const letter of "abcd") {
        yield* append(other, letter)
        codes.push(yield* outcome(append(file, letter)))
      }
      assert.deepStrictEqual(codes, [1, "ENOSPC", "ENOSPC", 1])
      assert.strictEqual(textOf(disk.files.get("/d/f")), "ad")
    }))

  it.live("may have landed in part", () =>
    Effect.gen(function*() {
      for (const [landed, left] of [["nothing", ""], ["half", "ab"], ["all", "abcd"]] as const) {
        const disk = disks("adversarial", [{ kind: "write", code: "EIO", landed }])
        const file = yield* create(disk, "/d/f", "")
        assert.strictEqual(yield* outcome(append(file, "abcd")), "EIO")
        assert.strictEqual(textOf(disk.files.get("/d/f")), left)
      }
    }))

  it.live("are short reads and writes, which are not errors", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial", [{ kind: "write", bytes: 2 }, { kind: "read", bytes: 1, times: 2 }])
      const file = yield* create(disk, "/d/f", "")
      assert.strictEqual(yield* append(file, "abcd"), 2)
      const into = new Uint8Array(9)
      assert.strictEqual(yield* file.read(into, 0, 9, 0), 1)
      assert.strictEqual(file.readNow(into, 0, 9, 0), 1)
      assert.strictEqual(yield* file.read(into, 0, 9, 0), 2)
    }))

  it.live("a failed sync that drops data is seen by no later sync, and the power loss takes it", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial", [{ kind: "sync", nth: 2, code: "EIO", landed: "dropped" }])
      const file = yield* create(disk, "/d/f", sectors("a"))
      yield* append(file, sectors("b"))
      assert.strictEqual(yield* outcome(file.sync), "EIO")
      assert.strictEqual(textOf(disk.files.get("/d/f")), sectors("a", "b"))
      const again = yield* disk.service.open("/d/f", "append")
      yield* append(again, sectors("c"))
      yield* again.sync
      assert.strictEqual(textOf(disk.files.get("/d/f")), sectors("a", "b", "c"))
      assert.deepStrictEqual(outcomes(disk), new Set([sectors("a", "\0", "c")]))
    }))

  it.live("what was dropped is written once it is written again", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial", [{ kind: "sync", nth: 2, code: "EIO", landed: "dropped" }])
      const file = yield* create(disk, "/d/f", sectors("a"))
      yield* append(file, sectors("b"))
      yield* Effect.exit(file.sync)
      const again = yield* disk.service.open("/d/f", "update")
      yield* again.overwrite(bytesOf(sectors("b")), 0, 512, 512)
      yield* again.sync
      assert.deepStrictEqual(outcomes(disk), new Set([sectors("a", "b")]))
    }))

  it.live("misuse is written down", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial", [{ kind: "sync", code: "EIO" }])
      const file = yield* disk.service.open("/d/f", "create")
      yield* Effect.exit(file.sync)
      yield* Effect.exit(file.sync)
      yield* file.close
      yield* file.close
      assert.strictEqual(yield* outcome(append(file, "x")), "EBADF")
      assert.deepStrictEqual(disk.misuse, [
        "synced again after a failed sync: /d/f",
        "closed twice: /d/f",
        "write after close: /d/f"
      ])
    }))
})

describe("survivors", () => {
  it.live("are all there are up to the limit, and as many as the limit above it", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial")
      const file = yield* create(disk, "/d/f", "")
      for (const letter of "abcdefgh") yield* append(file, sectors(letter))
      const found = disk.survivors(50).map(({ files }) => textOf(files.get("/d/f")))
      assert.strictEqual(found.length, 50)
      assert.strictEqual(found[0], "")
      assert.strictEqual(found[1], sectors(...Array.from("abcdefgh")))
      assert.deepStrictEqual(found, disk.survivors(50).map(({ files }) => textOf(files.get("/d/f"))))
    }))

  it.live("leave the disk as it is, and each other", () =>
    Effect.gen(function*() {
      const disk = disks("adversarial")
      const file = yield* create(disk, "/d/f", "a")
      yield* append(file, "b")
      const [first, ...others] = disk.survivors(100)
      const inFirst = yield* first!.service.open("/d/f", "append")
      yield* append(inFirst, "zzz")
      yield* append(file, "c")
      assert.strictEqual(textOf(disk.files.get("/d/f")), "abc")
      for (const other of others) assert.notInclude(textOf(other.files.get("/d/f")), "z")
    }))
})

describe("the order in which calls end", () => {
  const order = (seed: number) =>
    Effect.gen(function*() {
      const disk = Testing.makeDisk({ seed, shuffle: true, directories: ["/d"] })
      const file = yield* create(disk, "/d/f", "")
      yield* Effect.forEach(Array.from("abcdefgh"), (letter) => append(file, letter), { concurrency: "unbounded" })
      return textOf(disk.files.get("/d/f"))
    })

  it.live("is the seed's when it is shuffled", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* order(3), yield* order(3))
      const all = yield* Effect.forEach([1, 2, 3, 4, 5], order)
      assert.isAbove(new Set(all).size, 2)
      for (const text of all) assert.strictEqual(Array.from(text!).sort().join(""), "abcdefgh")
    }))
})

describe("a store on the simulated disk", () => {
  const over = (disk: Testing.SimulatedDisk) => Effect.provideService(Disk.Disk, disk.service)

  it.live("closes what a failed close was of, and its lock is free", () =>
    Effect.gen(function*() {
      for (const landed of ["nothing", "half", "all"] as const) {
        const disk = Testing.makeDisk({ faults: [{ kind: "close", times: 1_000, code: "EIO", landed }] })
        for (const payload of ["one", "two"]) {
          yield* Effect.scoped(Effect.flatMap(Log.make({ directory: "/s" }), (log) => log.append(payload))).pipe(
            over(disk)
          )
          assert.strictEqual(disk.openFiles, 0)
        }
        assert.deepStrictEqual(disk.misuse, [])
      }
    }))

  it.live("counts no file as open that was made and given to nobody", () =>
    Effect.gen(function*() {
      for (const landed of ["half", "all"] as const) {
        const disk = Testing.makeDisk({ faults: [{ kind: "create", code: "EIO", landed }] })
        assert.deepInclude(yield* Effect.flip(Effect.scoped(Log.make({ directory: "/s" })).pipe(over(disk))), {
          _tag: "IoError",
          code: "EIO"
        })
        assert.strictEqual(disk.openFiles, 0)
      }
    }))

  it.live("works as on a real one, and prints what it did", () =>
    Effect.gen(function*() {
      const disk = Testing.makeDisk()
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: "/s" })
        yield* kv.put("a", "1")
        yield* kv.sync
        assert.strictEqual(textOf(yield* kv.get("a")), "1")
        assert.strictEqual((yield* Effect.flip(Lock.acquire("/s")))._tag, "LockHeld")
      })).pipe(over(disk))
      assert.strictEqual(disk.openFiles, 0)
      assert.deepStrictEqual(disk.misuse, [])
      assert.match(disk.script, /^seed 1, adversarial\n   1 makeDirectory \/s\n/)
      assert.match(disk.script, /write \/s\/00000001\.dwal 30 bytes at 0 -> 30/)
      assert.strictEqual(disk.operations.length, disk.script.split("\n").length - 1)
    }))

  it.live("is opened by the next process after the last one died with it open", () =>
    Effect.gen(function*() {
      const disk = Testing.makeDisk({ faults: [{ kind: "write", nth: 3, stop: "half" }] })
      const written = yield* Effect.exit(
        Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory: "/s" })
          for (const payload of ["one", "two", "three"]) yield* log.append(payload)
        })).pipe(over(disk))
      )
      assert.isTrue(Exit.isFailure(written))
      const payloads = yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: "/s" })
        assert.strictEqual(log.report.tail_truncated, 1)
        return (yield* Stream.runCollect(log.stream)).map(({ payload }) => textOf(payload))
      })).pipe(over(disk.kill()))
      assert.deepStrictEqual(payloads, ["one", "two"])
    }))
})
