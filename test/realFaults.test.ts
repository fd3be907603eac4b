/**
 * Faults that the system itself makes, on real files: an fsync that cannot keep what it was given, file systems and
 * files that must not be written, no descriptor left, a file that may not grow. (A full disk: `fullDisk.test.ts`.)
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, References, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import { fileURLToPath } from "node:url"
import * as Errors from "../src/Errors.ts"
import * as Export from "../src/Export.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import { run } from "./support/child.ts"
import { command } from "./support/cli.ts"
import { descriptors, text, tree } from "./support/faultyDisk.ts"
import {
  because,
  fillUp,
  free,
  mountAgain,
  refusal,
  remount,
  type SmallDisk,
  smallDisk,
  succeed,
  thinDisk
} from "./support/smallDisk.ts"
import { largeDirectory, temporaryDirectory } from "./support/stores.ts"

const size = { bytes: 4_194_304, names: 40 }

const filled = (letter: string, length: number): string => letter.repeat(length)

const payloads = (log: { readonly stream: Stream.Stream<{ readonly payload: Uint8Array }, Error> }) =>
  Effect.map(Stream.runCollect(log.stream), (records) => records.map((record) => text(record.payload)!))

const reading = (directory: string) => Effect.scoped(Effect.flatMap(Reader.make({ directory }), payloads))

const segment = (directory: string, id: number): string =>
  NodePath.join(directory, `${String(id).padStart(8, "0")}.dwal`)

const opening = (directory: string) => Effect.scoped(Effect.asVoid(Log.make({ directory })))

const refused = (error: unknown) =>
  error instanceof Errors.IoError
    ? { operation: error.operation, path: error.path, code: error.code }
    : assert.fail(error instanceof Error ? `${error.name} ${error.message}` : "it has no error")

const assertNothingOpen = (directory: string): void => {
  if (process.platform !== "linux") return
  assert.deepStrictEqual(descriptors().filter((path) => path.includes(directory)), [])
}

const quietly = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(effect, References.MinimumLogLevel, "None")

/** Two closed segments and an active one, a record in each. */
const threeSegments = Effect.fnUntraced(function*(directory: string) {
  const log = yield* Log.make({ directory })
  for (const payload of ["one", "two", "three"]) {
    if (payload !== "one") yield* log.rotate
    yield* log.append(payload)
  }
  yield* log.sync
}, Effect.scoped)

const entriesOf = (kv: Kv.KvRead) =>
  Effect.map(
    Stream.runCollect(kv.entries({ ordered: true })),
    (entries) => entries.map(({ key, value }) => [text(key), text(value)])
  )

const fourKeys = Effect.fnUntraced(function*(directory: string) {
  const kv = yield* Kv.make({ directory, segmentSize: 100 })
  yield* kv.putMany([["a", "1"], ["b", "2"], ["c", "3"], ["d", "4"]])
  yield* kv.sync
  return yield* entriesOf(kv)
}, Effect.scoped)

// -- an fsync that fails ----------------------------------------------------------------------------------------------

const whyNotThin = refusal.ext4

describe.skipIf(whyNotThin !== undefined)(
  `an fsync that the system fails${because("an fsync that the system fails", whyNotThin)}`,
  () => {
    // Its record ends with a page. A loop device calls a write good of which it could do the beginning.
    const synced = filled("s", 25 * 4_096 - 28)

    /** A store whose sync of `unsynced` has failed, for want of room below its file system. */
    const failedSync = Effect.fnUntraced(function*(disk: SmallDisk, directory: string, unsynced: string) {
      const log = yield* Log.make({ directory })
      yield* log.append(synced)
      yield* log.sync
      const ballast = fillUp(disk.below)
      yield* log.append(unsynced)
      const error = yield* Effect.flip(log.sync)
      assert.include(["ENOSPC", "EIO"], refused(error).code)
      assert.deepInclude(refused(error), { operation: "sync", path: segment(directory, 1) })
      assert.strictEqual((yield* Effect.flip(log.sync))._tag, "WriterPoisoned")
      assert.strictEqual((yield* Effect.flip(log.append("more")))._tag, "WriterPoisoned")
      // The system still has it in memory, and gives it to whoever reads.
      assert.strictEqual((yield* payloads(log)).length, 2)
      return ballast
    }, Effect.scoped)

    it.live("is told once by the system, which then says that all is durable, and it is not", () =>
      Effect.gen(function*() {
        const disk = yield* thinDisk(size)
        const path = NodePath.join(disk.path, "file")
        const descriptor = NFS.openSync(path, "w+")
        NFS.fsyncSync(descriptor)
        fillUp(disk.below)
        NFS.writeSync(descriptor, Buffer.alloc(200_000, 1))
        const answers = Array.from({ length: 3 }, () => {
          try {
            return NFS.fdatasyncSync(descriptor)
          } catch (cause) {
            return cause instanceof Error && "code" in cause ? cause.code : "no code"
          }
        })
        NFS.closeSync(descriptor)
        // What the store's care is for. Should a system tell of it every time, the better.
        assert.include(["ENOSPC", "EIO"], answers[0])
        assert.strictEqual(NFS.readFileSync(path).filter((byte) => byte === 1).length, 200_000)
        yield* mountAgain(disk)
        assert.isBelow(NFS.readFileSync(path).filter((byte) => byte === 1).length, 200_000)
      }))

    for (const length of [200_000, 600_000]) {
      it.live(`what it covered (${length} bytes) is durable when a later writer's sync says so`, () =>
        Effect.gen(function*() {
          const disk = yield* thinDisk(size)
          const directory = NodePath.join(disk.path, "store")
          const unsynced = filled("u", length)
          const ballast = yield* failedSync(disk, directory, unsynced)
          assert.include(NFS.readFileSync(NodePath.join(directory, ".lock"), "utf8"), "unsynced 1 ")
          // There is still no room: the next writer cannot mend it, and leaves the note to the one after.
          assert.strictEqual((yield* Effect.flip(opening(directory)))._tag, "IoError")
          assert.include(NFS.readFileSync(NodePath.join(directory, ".lock"), "utf8"), "unsynced 1 ")
          assertNothingOpen(directory)
          free(ballast)
          const all = [synced, unsynced, "later"]
          yield* Effect.scoped(Effect.gen(function*() {
            const log = yield* Log.make({ directory })
            assert.deepStrictEqual(yield* payloads(log), all.slice(0, 2))
            yield* log.append("later")
            yield* log.sync
          }))
          assert.notInclude(NFS.readFileSync(NodePath.join(directory, ".lock"), "utf8"), "unsynced")
          yield* mountAgain(disk)
          const log = yield* Log.make({ directory, policy: "strict" })
          assert.deepStrictEqual(yield* payloads(log), all)
        }))
    }

    it.live("loses nothing that was synced before, whatever a loss of memory leaves of the rest", () =>
      Effect.gen(function*() {
        const disk = yield* thinDisk(size)
        const directory = NodePath.join(disk.path, "store")
        const ballast = yield* failedSync(disk, directory, filled("u", 200_000))
        free(ballast)
        yield* mountAgain(disk)
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          const found = yield* payloads(log)
          assert.deepStrictEqual(found, [synced, filled("u", 200_000)].slice(0, found.length))
          assert.isAtLeast(found.length, 1)
          yield* log.append("after")
          yield* log.sync
        }))
        yield* mountAgain(disk)
        const log = yield* Log.make({ directory, policy: "strict" })
        assert.strictEqual((yield* payloads(log)).at(-1), "after")
      }))
  }
)

// -- file systems that are only read ----------------------------------------------------------------------------------

const whyNotReadOnly = refusal.tmpfs

describe.skipIf(whyNotReadOnly !== undefined)(
  `a file system mounted to be read${because("a file system mounted to be read", whyNotReadOnly)}`,
  () => {
    it.live("can be read, verified and copied elsewhere; whoever wants to write is told EROFS and where", () =>
      Effect.gen(function*() {
        const disk = yield* smallDisk("tmpfs", size)
        const [store, keys] = [NodePath.join(disk.path, "store"), NodePath.join(disk.path, "keys")]
        yield* threeSegments(store)
        const entries = yield* fourKeys(keys)
        NFS.writeFileSync(NodePath.join(disk.path, "older"), "older")
        const elsewhere = yield* temporaryDirectory
        yield* remount(disk, "ro")
        const before = tree(disk.path)
        const refusals: ReadonlyArray<readonly [Effect.Effect<unknown, Error>, string, path: string]> = [
          [opening(store), "open", NodePath.join(store, ".lock")],
          [opening(NodePath.join(disk.path, "new")), "create directory", NodePath.join(disk.path, "new")]
        ]
        for (const [attempt, operation, path] of refusals) {
          assert.deepStrictEqual(refused(yield* Effect.flip(attempt)), { operation, path, code: "EROFS" })
        }
        assert.deepStrictEqual(yield* reading(store), ["one", "two", "three"])
        const kv = yield* Kv.makeReader({ directory: keys })
        assert.strictEqual(text(yield* kv.get("c")), "3")
        assert.deepStrictEqual(yield* entriesOf(kv), entries)
        for (const target of ["older", "new"]) {
          const exported = refused(yield* Effect.flip(Export.toFile(kv, NodePath.join(disk.path, target))))
          assert.deepInclude(exported, { operation: "create", code: "EROFS" })
          assert.include(exported.path, NodePath.join(disk.path, `.${target}.`))
        }
        const compacted = refused(yield* Effect.flip(kv.compactTo(NodePath.join(disk.path, "compacted"))))
        assert.deepInclude(compacted, { operation: "create directory", code: "EROFS" })
        yield* Export.toFile(kv, NodePath.join(elsewhere, "keys.jsonl"))
        yield* kv.compactTo(NodePath.join(elsewhere, "keys"))
        assert.deepStrictEqual(yield* entriesOf(yield* Kv.makeReader({ directory: `${elsewhere}/keys` })), entries)
        const inside = NodePath.join(disk.inside, "store")
        const [verified, put] = yield* Effect.all([
          disk.run(process.execPath, [command, "verify", inside, "--json"]),
          disk.run(process.execPath, [command, "put", inside, "--key", "k", "v"])
        ], { concurrency: 2 })
        assert.deepInclude(JSON.parse(verified.stdout), { frames_checked: 3, crc_failures: 0 })
        assert.deepStrictEqual([verified.code, verified.stderr], [0, ""])
        assert.deepStrictEqual([put.code, put.stderr], [
          1,
          `datawal: error: open ${inside}/.lock: EROFS, read-only file system\n`
        ])
        assert.deepStrictEqual(tree(disk.path), before)
        assertNothingOpen(store)
        yield* remount(disk, "rw")
        const log = yield* Log.make({ directory: store })
        assert.strictEqual((yield* log.append("four")).txid, 4)
      }))
  }
)

describe.skipIf(whyNotThin !== undefined)(
  `a file system that stops taking writes${because("a file system that stops taking writes", whyNotThin)}`,
  () => {
    // What ext4 does when it meets an error of its own, with files open to be written.
    const stopWriting = Effect.fnUntraced(function*(disk: SmallDisk) {
      const source = yield* succeed(disk.run("findmnt", ["--noheadings", "--output", "SOURCE", disk.inside]))
      const device = NodePath.basename(source.stdout.trim())
      NFS.writeFileSync(`/sys/fs/ext4/${device}/trigger_fs_error`, "a test")
    })

    const meets: ReadonlyArray<
      readonly [name: string, run: (log: Log.Log["Service"]) => Effect.Effect<unknown, Error>]
    > = [
      ["an append", (log) => log.append("loose")],
      ["a large append", (log) => log.append(filled("l", 300_000))],
      ["a rotation", (log) => log.rotate]
    ]

    for (const [name, meet] of meets) {
      it.live(`under a writer: ${name} fails, reads go on, and all that was synced is there when it is mended`, () =>
        quietly(Effect.gen(function*() {
          const disk = yield* smallDisk("ext4", size)
          const directory = NodePath.join(disk.path, "store")
          yield* Effect.scoped(Effect.gen(function*() {
            const log = yield* Log.make({ directory })
            yield* log.append("one")
            yield* log.append(filled("2", 300_000))
            yield* log.sync
            yield* stopWriting(disk)
            const { code, path } = refused(yield* Effect.flip(meet(log)))
            assert.include(["EROFS", "EIO"], code)
            assert.isTrue(path === directory || NodePath.dirname(path) === directory, path)
            for (const run of [log.append("more"), log.sync, log.rotate]) {
              assert.strictEqual((yield* Effect.flip(run))._tag, "WriterPoisoned")
            }
            assert.deepStrictEqual(yield* payloads(log), ["one", filled("2", 300_000)])
            assert.deepStrictEqual(yield* reading(directory), ["one", filled("2", 300_000)])
          }))
          const { code, path } = refused(yield* Effect.flip(opening(directory)))
          assert.deepStrictEqual([code, path], ["EROFS", NodePath.join(directory, ".lock")])
          assertNothingOpen(directory)
          yield* mountAgain(disk)
          const log = yield* Log.make({ directory })
          const found = yield* payloads(log)
          assert.deepStrictEqual(found, ["one", filled("2", 300_000), "loose"].slice(0, Math.max(2, found.length)))
          yield* log.append("after")
          yield* log.sync
        })))
    }
  }
)

// -- files that are only read -----------------------------------------------------------------------------------------

const isRoot = process.getuid?.() === 0
const nobody = 65_534

/** Without the power of root over every file, as most programs run. */
const asNobody = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  isRoot
    ? Effect.acquireUseRelease(
      Effect.sync(() => process.seteuid?.(nobody)),
      () => effect,
      () => Effect.sync(() => process.seteuid?.(0))
    )
    : effect

/** A directory that this user may work in when it is not root any more. */
const ownDirectory = Effect.gen(function*() {
  const parent = yield* largeDirectory
  NFS.chmodSync(parent, 0o755)
  const directory = NodePath.join(parent, "own")
  NFS.mkdirSync(directory)
  if (isRoot) NFS.chownSync(directory, nobody, nobody)
  // So that it can be removed again.
  yield* Effect.addFinalizer(() => Effect.sync(() => NFS.chmodSync(directory, 0o755)))
  return directory
})

describe.skipIf(!isRoot)("a file of another user's", () => {
  it.live("keeps its owner, its group and its rights where this one writes a new one in its place", () =>
    Effect.gen(function*() {
      const own = yield* ownDirectory
      const directory = NodePath.join(own, "store")
      const lines = NodePath.join(own, "out.jsonl")
      yield* asNobody(Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        yield* kv.put("key", "value")
        yield* Export.toFile(kv, lines)
      })))
      for (const path of [segment(directory, 1), lines]) {
        NFS.chownSync(path, nobody, nobody)
        NFS.chmodSync(path, 0o640)
      }
      NFS.writeFileSync(NodePath.join(directory, ".lock"), "1\nunsynced 1 0\nfailed\n")
      const before = [segment(directory, 1), lines].map((path) => NFS.statSync(path))
      yield* Effect.scoped(Effect.flatMap(Kv.make({ directory }), (kv) => Export.toFile(kv, lines)))
      for (const [index, path] of [segment(directory, 1), lines].entries()) {
        const { gid, ino, mode, uid } = NFS.statSync(path)
        assert.notStrictEqual(ino, before[index]?.ino)
        assert.deepStrictEqual([uid, gid, mode & 0o777], [nobody, nobody, 0o640])
      }
      // Who may not give it away leaves it to its group.
      NFS.chownSync(lines, 0, nobody)
      yield* Effect.acquireUseRelease(
        Effect.sync(() => {
          const groups = process.getgroups?.() ?? []
          process.setgroups?.([nobody])
          return groups
        }),
        () => asNobody(Effect.scoped(Effect.flatMap(Kv.makeReader({ directory }), (kv) => Export.toFile(kv, lines)))),
        (groups) => Effect.sync(() => process.setgroups?.(groups))
      )
      const { gid, uid } = NFS.statSync(lines)
      assert.deepStrictEqual([uid, gid], [nobody, nobody])
    }))
})

describe("files that may not be written", () => {
  it.live("can be read and copied elsewhere; opening for write is told EACCES and which one", () =>
    Effect.gen(function*() {
      const own = yield* ownDirectory
      const closed = NodePath.join(NodePath.dirname(own), "closed")
      const directory = NodePath.join(closed, "store")
      yield* threeSegments(directory)
      // Whatever rights this machine gives to what is made anew.
      for (const name of NFS.readdirSync(directory)) NFS.chmodSync(NodePath.join(directory, name), 0o644)
      NFS.chmodSync(NodePath.join(directory, ".lock"), 0o444)
      NFS.chmodSync(directory, 0o555)
      NFS.chmodSync(closed, 0o555)
      const before = tree(closed)
      yield* asNobody(
        Effect.gen(function*() {
          for (
            const [place, operation, path] of [
              [directory, "open", NodePath.join(directory, ".lock")],
              [NodePath.join(closed, "new"), "create directory", NodePath.join(closed, "new")],
              [NodePath.join(closed, "new", "deep"), "create directory", NodePath.join(closed, "new")]
            ] as const
          ) {
            assert.deepStrictEqual(refused(yield* Effect.flip(opening(place))), { operation, path, code: "EACCES" })
          }
          assert.deepStrictEqual(yield* reading(directory), ["one", "two", "three"])
          const kv = yield* Kv.makeReader({ directory })
          const into = refused(yield* Effect.flip(Export.toFile(kv, NodePath.join(closed, "out.jsonl"))))
          assert.deepInclude(into, { operation: "create", code: "EACCES" })
          yield* Export.toFile(kv, NodePath.join(own, "out.jsonl"))
          yield* kv.compactTo(NodePath.join(own, "compacted"))
        }).pipe(Effect.scoped)
      )
      assert.deepStrictEqual(tree(closed), before)
      assertNothingOpen(closed)
      for (const path of [closed, directory]) NFS.chmodSync(path, 0o755)
    }))

  it.live("a link that leads where this process may not go, or nowhere, is no reason of its own", () =>
    Effect.gen(function*() {
      const own = yield* ownDirectory
      const closed = NodePath.join(NodePath.dirname(own), "closed")
      yield* threeSegments(NodePath.join(closed, "store"))
      const [link, dangling] = [NodePath.join(own, "link"), NodePath.join(own, "dangling")]
      NFS.symlinkSync(NodePath.join(closed, "store"), link)
      NFS.symlinkSync(NodePath.join(own, "nothing"), dangling)
      NFS.chmodSync(closed, 0o600)
      yield* asNobody(Effect.gen(function*() {
        assert.deepStrictEqual(refused(yield* Effect.flip(opening(link))), {
          operation: "stat",
          path: link,
          code: "EACCES"
        })
        assert.deepStrictEqual(refused(yield* Effect.flip(opening(dangling))), {
          operation: "stat",
          path: dangling,
          code: "ENOENT"
        })
      }))
      NFS.chmodSync(closed, 0o755)
    }))

  it.live("a segment that may not be written is named, the lock is let go of, and nothing is changed", () =>
    Effect.gen(function*() {
      const own = yield* ownDirectory
      const directory = NodePath.join(own, "store")
      yield* asNobody(threeSegments(directory))
      const path = segment(directory, 3)
      NFS.appendFileSync(path, "DWAL")
      NFS.chmodSync(path, 0o444)
      const before = tree(directory)
      yield* asNobody(Effect.gen(function*() {
        assert.deepStrictEqual(refused(yield* Effect.flip(opening(directory))), {
          operation: "open",
          path,
          code: "EACCES"
        })
        assertNothingOpen(directory)
        assert.deepStrictEqual(tree(directory), before)
        NFS.chmodSync(path, 0o644)
        yield* opening(directory)
      }))
    }))

  it.live("a directory that takes no new file stops a rotation or the cut of a torn tail, and loses nothing", () =>
    Effect.gen(function*() {
      const own = yield* ownDirectory
      const directory = NodePath.join(own, "store")
      const path = segment(directory, 2)
      yield* asNobody(
        Effect.gen(function*() {
          yield* Effect.scoped(Effect.gen(function*() {
            const log = yield* Log.make({ directory })
            yield* log.append("one")
            NFS.chmodSync(directory, 0o555)
            yield* log.append("two")
            yield* log.sync
            const error = refused(yield* Effect.flip(log.rotate))
            assert.deepStrictEqual(error, { operation: "create", path, code: "EACCES" })
            assert.strictEqual((yield* Effect.flip(log.append("three")))._tag, "WriterPoisoned")
            assert.deepStrictEqual(yield* payloads(log), ["one", "two"])
          }))
          yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("three")))
          NFS.appendFileSync(segment(directory, 1), "DWAL")
          const before = tree(directory)
          const copy = NodePath.join(directory, "00000001-95.torn")
          assert.deepStrictEqual(
            refused(yield* Effect.flip(opening(directory))),
            { operation: "create", path: copy, code: "EACCES" }
          )
          assert.deepStrictEqual(tree(directory), before)
          assertNothingOpen(directory)
          NFS.chmodSync(directory, 0o755)
          const log = yield* Log.make({ directory })
          assert.deepStrictEqual(yield* payloads(log), ["one", "two", "three"])
          assert.strictEqual(log.report.torn_file, copy)
        }).pipe(Effect.scoped)
      )
    }))

  it.live("a segment that may not be read is told, after all that stands before it", () =>
    Effect.gen(function*() {
      const own = yield* ownDirectory
      const directory = NodePath.join(own, "store")
      yield* asNobody(threeSegments(directory))
      const path = segment(directory, 2)
      NFS.chmodSync(path, 0)
      const error = { operation: "open", path, code: "EACCES" }
      yield* asNobody(
        Effect.gen(function*() {
          const seen: Array<string> = []
          const reader = yield* Reader.make({ directory })
          const failure = yield* Effect.flip(
            Stream.runForEach(reader.stream, ({ payload }) => Effect.sync(() => seen.push(text(payload)!)))
          )
          assert.deepStrictEqual([refused(failure), seen], [error, ["one"]])
          assert.deepStrictEqual(refused(yield* Effect.flip(Kv.makeReader({ directory }))), error)
          assert.deepStrictEqual(refused(yield* Effect.flip(opening(directory))), error)
        }).pipe(Effect.scoped)
      )
      assertNothingOpen(directory)
    }))
})

// -- limits of a process ----------------------------------------------------------------------------------------------

interface Attempt {
  readonly name: string
  readonly free: number
  readonly ok?: boolean
  readonly tag?: string
  readonly code?: string
  readonly operation?: string
  readonly file?: string
  readonly half?: number
}

/** What the child says that it has met under a limit; what must hold then it has asserted itself. */
const underLimit = Effect.fnUntraced(function*(limit: string, mode: string) {
  const root = yield* temporaryDirectory
  const child = fileURLToPath(new URL("support/limitsChild.mjs", import.meta.url))
  const ended = yield* run("sh", ["-c", `ulimit ${limit} && exec "$@"`, "sh", process.execPath, child, mode, root])
  assert.strictEqual(ended.code, 0, ended.stdout + ended.stderr)
  return ended.stdout.trimEnd().split("\n").map((line): Attempt => JSON.parse(line))
}, Effect.scoped)

describe("a process without a descriptor to spare", () => {
  it.live("is told EMFILE whatever it does, has lost nothing, and goes on when there are some", () =>
    Effect.gen(function*() {
      const attempts = yield* underLimit("-n 190", "descriptors")
      const names = new Set(attempts.map(({ name }) => name))
      assert.isAtLeast(names.size, 12)
      for (const name of names) {
        const mine = attempts.filter((attempt) => attempt.name === name)
        assert.deepInclude(mine.at(-1), { ok: true })
        // A handful is enough, however many segments there are.
        assert.isAtMost(mine.length, 6, name)
        for (const failed of mine.slice(0, -1)) {
          const { code, file, operation, tag } = failed
          assert.deepStrictEqual([tag, code], ["IoError", "EMFILE"], `${name}: ${JSON.stringify(failed)}`)
          assert.include(["open", "create", "list"], operation, name)
          assert.notStrictEqual(file, "", name)
        }
      }
      const first = (name: string) => attempts.find((attempt) => attempt.name === name)
      assert.deepInclude(first("append and sync"), { ok: true }, "what is open needs no more")
      assert.deepInclude(first("rotate"), { operation: "create" })
      assert.deepInclude(first("open a store"), { operation: "open", file: ".lock" })
    }))

  it.live("closes what a store has open and nobody uses, so that another can be written to, opened and read", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* underLimit("-n 190", "idle"), [{ name: "idle", free: 0, ok: true }])
    }))

  it.live("can open its first store when there are some again, and is not told to mend the lock's addon", () =>
    Effect.gen(function*() {
      const attempts = yield* underLimit("-n 190", "first")
      assert.isAtLeast(attempts.length, 3)
      for (const { code, tag } of attempts.slice(0, -1)) assert.deepStrictEqual([tag, code], ["IoError", "EMFILE"])
    }))
})

describe("a process whose files may not grow", () => {
  it.live("is told EFBIG, has lost nothing, and goes on in another segment", () =>
    Effect.gen(function*() {
      const attempts = yield* underLimit("-f 2000", "size")
      assert.deepStrictEqual(
        attempts.map(({ code, name, operation, tag }) => [name, tag, operation, code]),
        ["small appends", "large appends", "compact", "export"].map((name) => [name, "IoError", "write", "EFBIG"])
      )
      for (const { half } of attempts.slice(0, 1)) assert.isAbove(half!, 0, "it took what fitted")
    }))
})
