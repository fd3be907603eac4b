/** A store stays the directory it was opened in, whatever becomes of the process's own directory and of links. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, References, Stream } from "effect"
import { spawnSync } from "node:child_process"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import { pathToFileURL } from "node:url"
import { Output } from "../src/cli/output.ts"
import { readRecords } from "../src/cli/store.ts"
import * as Disk from "../src/Disk.ts"
import * as Export from "../src/Export.ts"
import { nodeDisk } from "../src/internal/nodeDisk.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import * as Recovery from "../src/Recovery.ts"
import { run } from "./support/child.ts"
import { descriptors, text } from "./support/faultyDisk.ts"
import { largeDirectory, temporaryDirectory } from "./support/stores.ts"

/** Relative names then mean something else; back at the end of the scope. */
const workIn = (directory: string) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const before = process.cwd()
      process.chdir(directory)
      return before
    }),
    (before) => Effect.sync(() => process.chdir(before))
  )

const small = { segmentSize: 100, checkpoint: "always" } as const
const long = (value: string): string => value.padEnd(60, "-")

const valuesIn = (directory: string, keys: ReadonlyArray<string>) =>
  Effect.scoped(
    Effect.flatMap(Kv.make({ directory }), (kv) =>
      Effect.map(kv.getMany(keys), (values) => values.map((value) => text(value))))
  )

const twoPlaces = Effect.gen(function*() {
  const root = yield* temporaryDirectory
  const [a, b] = [NodePath.join(root, "a"), NodePath.join(root, "b")]
  NFS.mkdirSync(a)
  NFS.mkdirSync(b)
  return { root, a, b }
})

const withoutLogs = Effect.provideService(References.CurrentLoggers, new Set())

describe("a store that was opened by a relative name", () => {
  it.effect("goes on in its own directory when the process goes to another one that has such a store, too", () =>
    Effect.gen(function*() {
      const { a, b } = yield* twoPlaces
      yield* workIn(b)
      yield* Effect.scoped(Effect.flatMap(Kv.make({ directory: "store", ...small }), (kv) => kv.put("k", "other")))
      const other = NFS.readdirSync("store").sort()
      process.chdir(a)
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: "store", ...small })
        assert.strictEqual(kv.directory, NodePath.join(a, "store"))
        yield* kv.put("first", long("1"))
        process.chdir(b)
        for (let at = 0; at < 5; at++) yield* kv.put(`later ${at}`, long("2"))
        yield* kv.sync
        assert.strictEqual(text(yield* kv.get("first")), long("1"))
        const log = yield* Reader.make({ directory: kv.directory })
        assert.strictEqual(yield* Stream.runCount(log.stream), 6)
      }))
      assert.deepStrictEqual(NFS.readdirSync(NodePath.join(b, "store")).sort(), other)
      assert.deepStrictEqual(yield* valuesIn(NodePath.join(b, "store"), ["k", "first"]), ["other", undefined])
      assert.deepStrictEqual(yield* valuesIn(NodePath.join(a, "store"), ["k", "first", "later 4"]), [
        undefined,
        long("1"),
        long("2")
      ])
    }))

  it.effect("is read where it was opened, by readers as well, and so are the targets written from it", () =>
    Effect.gen(function*() {
      const { a, b } = yield* twoPlaces
      yield* workIn(a)
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: "store", ...small })
        for (let at = 0; at < 5; at++) yield* kv.put(`${at}`, long("1"))
      }))
      const log = yield* Log.make({ directory: "store" })
      const reader = yield* Reader.make({ directory: "store" })
      const kv = yield* Kv.makeReader({ directory: "store" })
      process.chdir(b)
      for (const stream of [log.stream, reader.stream]) assert.strictEqual(yield* Stream.runCount(stream), 5)
      assert.strictEqual(text(yield* kv.get("0")), long("1"))
      process.chdir(a)
      yield* Export.toFile(kv, "out.jsonl", { onProgress: () => process.chdir(b) })
      process.chdir(a)
      yield* kv.compactTo("target", { onProgress: () => process.chdir(b) })
      assert.deepStrictEqual(NFS.readdirSync(b), [])
      assert.deepStrictEqual(NFS.readdirSync(a).sort(), ["out.jsonl", "store", "target"])
    }))
})

describe("a store that can be reached by its relative name only", () => {
  it.effect.skipIf(process.getuid?.() !== 0)("is opened, written and read by that name", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      NFS.chmodSync(root, 0o700)
      const work = NodePath.join(root, "work")
      const store = NodePath.join(work, "store")
      yield* Effect.scoped(Effect.flatMap(Kv.make({ directory: store }), (kv) => kv.put("a", "1")))
      for (const directory of [work, store]) NFS.chmodSync(directory, 0o777)
      for (const name of NFS.readdirSync(store)) NFS.chmodSync(NodePath.join(store, name), 0o666)
      const effect = import.meta.resolve("effect")
      const library = pathToFileURL(NodePath.resolve("dist/index.js")).href
      const { code, stderr, stdout } = yield* run(process.execPath, [
        "--input-type=module",
        "-e",
        `
        const { Effect } = await import(${JSON.stringify(effect)})
        const { Kv } = await import(${JSON.stringify(library)})
        process.chdir(${JSON.stringify(work)})
        process.setgroups([])
        process.setgid(65534)
        process.setuid(65534)
        const open = (use) =>
          Effect.runPromise(Effect.scoped(Effect.flatMap(Kv.make({ directory: "store", segmentSize: 100 }), use)))
        await open((kv) => Effect.forEach(["b", "c"], (key) => kv.put(key, "x".repeat(60))))
        console.log(await open((kv) => kv.size))
      `
      ])
      assert.strictEqual(code, 0, stderr)
      assert.strictEqual(stdout.trim(), "3")
      assert.deepStrictEqual(NFS.readdirSync(work), ["store"])
    }))
})

describe("a store that was opened through a symbolic link", () => {
  it.effect("goes on where it is when the link is turned to another, and two writers do not meet there", () =>
    Effect.gen(function*() {
      const { a, b, root } = yield* twoPlaces
      const link = NodePath.join(root, "current")
      NFS.symlinkSync("a", link)
      yield* Effect.scoped(Effect.gen(function*() {
        const first = yield* Kv.make({ directory: link, ...small })
        yield* first.put("a1", long("1"))
        NFS.unlinkSync(link)
        NFS.symlinkSync("b", link)
        const second = yield* Kv.make({ directory: link, ...small })
        yield* second.put("b1", long("1"))
        yield* first.put("a2", long("2"))
        yield* second.put("b2", long("2"))
      }))
      const keys = ["a1", "a2", "b1", "b2"]
      assert.deepStrictEqual(yield* valuesIn(a, keys), [long("1"), long("2"), undefined, undefined])
      assert.deepStrictEqual(yield* valuesIn(b, keys), [undefined, undefined, long("1"), long("2")])
    }))
})

/** Two stores of many segments that differ in nothing but the values, and the second in the place of the first. */
const replaced = <A, E, R>(open: (directory: string) => Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const { a, b, root } = yield* twoPlaces
    for (const [directory, value] of [[a, "ours"], [b, "else"]] as const) {
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory, ...small })
        for (let at = 0; at < 9; at++) yield* kv.put(`${at}`, long(value))
      }))
    }
    const opened = yield* open(a)
    NFS.renameSync(a, NodePath.join(root, "moved"))
    NFS.renameSync(b, a)
    return { opened, moved: NodePath.join(root, "moved"), root }
  })

const isStale = <A, E extends object, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(effect), (error) => assert.deepInclude<object>(error, { _tag: "IoError", code: "ESTALE" }))

describe("a store whose directory is replaced while it is read", () => {
  it.effect("gives its own values or none: what is not open yet is not read from the other", () =>
    withoutLogs(Effect.gen(function*() {
      const { moved, opened: kv, root } = yield* replaced((directory) => Kv.make({ directory, ...small }))
      // The open segment is its own still.
      assert.strictEqual(text(yield* kv.get("8")), long("ours"))
      yield* isStale(kv.get("0"))
      yield* isStale(kv.modify("0", (value) => [0, value?.slice()]))
      yield* isStale(Stream.runDrain(kv.entries()))
      yield* isStale(Export.toFile(kv, NodePath.join(root, "out")))
      yield* isStale(kv.compactTo(NodePath.join(root, "target")))
      // Back in its place it is read again.
      NFS.renameSync(kv.directory, NodePath.join(root, "other"))
      yield* isStale(kv.get("1"))
      NFS.renameSync(moved, kv.directory)
      assert.strictEqual(text(yield* kv.get("1")), long("ours"))
    })))

  it.effect("gives its own records or none, to the command that looks at them", () =>
    Effect.gen(function*() {
      const { opened } = yield* replaced(Effect.fnUntraced(function*(directory) {
        const pull = yield* Stream.toPull(readRecords(directory))
        yield* pull
        return pull
      }))
      const seen = yield* Effect.flip(Effect.forever(Effect.map(opened, (records) => {
        for (const { payload } of records) assert.strictEqual(text(payload), long("ours"))
      })))
      assert.deepInclude<object>(seen, { _tag: "IoError", code: "ESTALE" })
    }).pipe(Effect.provideService(Output, { isTerminal: false, write: () => Effect.void, note: () => Effect.void })))

  it.effect("gives its own records or none, from a log and from a reader", () =>
    withoutLogs(Effect.gen(function*() {
      const { opened } = yield* replaced((directory) =>
        Effect.all({
          log: Log.make({ directory }),
          reader: Reader.make({ directory }),
          kv: Kv.makeReader({ directory })
        })
      )
      const { kv, log, reader } = opened
      const place = { segment: 2, offset: 0, len: 89 }
      for (const each of [log, reader]) {
        yield* isStale(Stream.runDrain(each.stream))
        yield* isStale(Stream.runDrain(each.streamFrom(place)))
        yield* isStale(Stream.runDrain(each.follow({ txid: 1 })))
        yield* isStale(each.read(place))
      }
      yield* isStale(reader.inspect())
      yield* isStale(kv.get("0"))
    })))
})

describe("a directory that is replaced by an empty one", () => {
  it.live("is not told to readers as an empty log", () =>
    withoutLogs(Effect.gen(function*() {
      const { a: directory, root } = yield* twoPlaces
      yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("one")))
      const reader = yield* Reader.make({ directory })
      const following = yield* Effect.forkChild(
        Stream.runDrain(reader.follow({ segment: 1, offset: 0 }, { every: "1 millis" })),
        { startImmediately: true }
      )
      yield* Effect.sleep("5 millis")
      NFS.renameSync(directory, NodePath.join(root, "moved"))
      yield* isStale(reader.segments)
      NFS.mkdirSync(directory)
      yield* isStale(reader.segments)
      yield* isStale(reader.inspect())
      yield* isStale(Stream.runDrain(reader.stream))
      yield* isStale(Stream.runDrain(reader.streamFrom({ segment: 2, offset: 0 })))
      yield* isStale(Fiber.join(following))
    })))
})

describe("a working directory that was removed", () => {
  it.effect("is no obstacle to what has a path from the root, and a relative one is ENOENT", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const { code, stderr, stdout } = yield* run(process.execPath, [
        "--input-type=module",
        "-e",
        `
        import { mkdirSync, rmdirSync } from "node:fs"
        const { Effect } = await import(${JSON.stringify(import.meta.resolve("effect"))})
        const library = ${JSON.stringify(pathToFileURL(NodePath.resolve("dist/index.js")).href)}
        const { Export, Kv, Salvage } = await import(library)
        const root = ${JSON.stringify(root)}
        mkdirSync(root + "/gone")
        process.chdir(root + "/gone")
        await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
          const kv = yield* Kv.make({ directory: root + "/store" })
          yield* kv.put("a", "1")
          rmdirSync(root + "/gone")
          for (const place of [root + "/", ""]) {
            const runs = [
              kv.compactTo(place + "compacted"),
              Salvage.toStore(root + "/store", place + "salvaged"),
              Export.toFile(kv, place + "exported")
            ]
            for (const run of runs) {
              console.log(yield* Effect.match(run, { onSuccess: () => "done", onFailure: ({ code }) => code }))
            }
          }
        })))
      `
      ])
      assert.strictEqual(code, 0, stderr)
      assert.deepStrictEqual(stdout.trim().split("\n"), ["done", "done", "done", "ENOENT", "ENOENT", "ENOENT"])
    }))
})

describe("a directory that is removed while it is open", () => {
  // ext4 gives the number of one that is gone to the next that is made, more often than not.
  it.effect("leaves its number to none that is made in its place", () =>
    withoutLogs(Effect.gen(function*() {
      const root = yield* largeDirectory
      for (const open of [Kv.makeReader, Reader.make, Log.make]) {
        const directory = NodePath.join(root, "store")
        for (let round = 0; round < 10; round++) {
          yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("one")))
          yield* Effect.scoped(Effect.gen(function*() {
            const { ino } = NFS.statSync(directory)
            yield* open({ directory })
            for (let again = 0; again < 5; again++) {
              NFS.rmSync(directory, { recursive: true })
              NFS.mkdirSync(directory)
              assert.notStrictEqual(NFS.statSync(directory).ino, ino)
            }
          }))
        }
      }
    })))
})

describe("a directory whose inode gets another number", () => {
  it.effect("is still its writer's: the lock tells it apart", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory, ...small })
        for (let at = 0; at < 5; at++) yield* kv.put(`${at}`, long("1"))
      }))
      let mounted = 1
      const renumbering: Disk.DiskService = {
        ...nodeDisk,
        identity: (path) => path === directory ? Effect.sync(() => `${mounted}`) : nodeDisk.identity(path)
      }
      yield* Effect.gen(function*() {
        const kv = yield* Kv.make({ directory, ...small })
        mounted++
        assert.strictEqual(text(yield* kv.get("0")), long("1"))
        NFS.rmSync(NodePath.join(directory, ".lock"))
        yield* isStale(kv.get("1"))
      }).pipe(Effect.provideService(Disk.Disk, renumbering), withoutLogs)
    }))
})

describe("a segment that is a symbolic link", () => {
  it.effect("is not written through by an opening behind an unclean end", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const [theirs, ours] = [NodePath.join(root, "theirs"), NodePath.join(root, "ours")]
      yield* Effect.scoped(Effect.flatMap(Log.make({ directory: theirs }), (log) => log.append("one")))
      NFS.mkdirSync(ours)
      NFS.symlinkSync(Recovery.segmentPath(theirs, 1), Recovery.segmentPath(ours, 1))
      NFS.writeFileSync(NodePath.join(ours, ".lock"), "1\nunsynced 1 0\n")
      const before = NFS.statSync(Recovery.segmentPath(theirs, 1), { bigint: true }).mtimeNs
      yield* Effect.sync(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20))
      const error = yield* Effect.flip(Effect.scoped(Log.make({ directory: ours })))
      assert.deepInclude(error, { _tag: "IoError", code: "ELOOP" })
      assert.strictEqual(NFS.statSync(Recovery.segmentPath(theirs, 1), { bigint: true }).mtimeNs, before)
    }))
})

describe("a segment that is removed or replaced under its writer", () => {
  it.effect.skipIf(process.getuid?.() !== 0)(
    "takes no target, also where it is mounted in a second place",
    () =>
      Effect.gen(function*() {
        const root = yield* temporaryDirectory
        const directory = NodePath.join(root, "store")
        const second = NodePath.join(root, "second")
        const kv = yield* Kv.make({ directory })
        yield* kv.put("a", "1")
        NFS.mkdirSync(second)
        if (spawnSync("mount", ["--bind", directory, second]).status !== 0) {
          process.stderr.write("SKIPPED: nothing can be mounted here\n")
          return
        }
        yield* Effect.gen(function*() {
          const before = NFS.readdirSync(directory)
          for (const name of ["00000002.dwal", "deep/down"]) {
            const found = "the directory of the store"
            assert.deepInclude(yield* Effect.flip(Export.toFile(kv, NodePath.join(second, name))), { found })
            assert.deepInclude(yield* Effect.flip(kv.compactTo(NodePath.join(second, name))), { found })
          }
          assert.deepStrictEqual(NFS.readdirSync(directory), before)
        }).pipe(Effect.ensuring(Effect.sync(() => spawnSync("umount", [second]))))
      })
  )

  it.effect("is called durable by no sync: nobody would find it", () =>
    withoutLogs(Effect.gen(function*() {
      for (
        const spoil of [
          NFS.rmSync,
          (path: string) => {
            NFS.writeFileSync(`${path}.new`, NFS.readFileSync(path))
            NFS.renameSync(`${path}.new`, path)
          },
          // As `cp -al` leaves it.
          (path: string) => {
            NFS.linkSync(path, `${path}.backup`)
            NFS.rmSync(path)
          },
          (path: string) => {
            NFS.renameSync(path, `${path}.aside`)
            NFS.copyFileSync(`${path}.aside`, path)
          },
          (path: string) => NFS.renameSync(path, `${path}.aside`)
        ]
      ) {
        const directory = yield* temporaryDirectory
        const kv = yield* Kv.make({ directory })
        yield* kv.put("a", "1")
        yield* kv.sync
        spoil(NodePath.join(directory, "00000001.dwal"))
        yield* kv.put("b", "2")
        yield* isStale(kv.sync)
        assert.deepInclude(yield* Effect.flip(kv.put("c", "3")), { _tag: "WriterPoisoned", code: "ESTALE" })
      }
    })))
})

describe("a store whose directory is replaced under its writer", () => {
  it.effect("gets no checkpoint there when it is closed: the files there are another store's", () =>
    withoutLogs(Effect.gen(function*() {
      const { a, b, root } = yield* twoPlaces
      const opened = { checkpoint: "always" } as const
      yield* Effect.scoped(Effect.flatMap(Kv.make({ directory: b }), (kv) => kv.put("k", "other")))
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: a, ...opened })
        yield* kv.put("a1", "1")
        NFS.renameSync(a, NodePath.join(root, "moved"))
        NFS.renameSync(b, a)
        yield* kv.put("a2", "2")
      }))
      assert.deepStrictEqual(NFS.readdirSync(a).sort(), [".lock", "00000001.dwal"])
      assert.deepStrictEqual(yield* valuesIn(NodePath.join(root, "moved"), ["a1", "a2"]), ["1", "2"])
      assert.deepStrictEqual(yield* valuesIn(a, ["k", "a1"]), ["other", undefined])
    })))

  it.effect("is not gone on with in the one that has its name now", () =>
    withoutLogs(Effect.gen(function*() {
      const { a, b, root } = yield* twoPlaces
      yield* Effect.scoped(Effect.flatMap(Kv.make({ directory: b, ...small }), (kv) => kv.put("k", "other")))
      const moved = NodePath.join(root, "moved")
      const other = new Map(NFS.readdirSync(b).map((name) => [name, NFS.readFileSync(NodePath.join(b, name), "hex")]))
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: a, ...small })
        yield* kv.put("a1", long("1"))
        NFS.renameSync(a, moved)
        NFS.renameSync(b, a)
        // What goes into the open segment is safe; a new one would be found by its name.
        const refused = yield* Effect.flip(kv.put("a2", long("2")))
        assert.deepInclude(refused, { _tag: "IoError", operation: "rotate", code: "ESTALE" })
        assert.deepInclude(yield* Effect.flip(kv.put("a3", "3")), { _tag: "WriterPoisoned", code: "ESTALE" })
      }))
      for (const [name, bytes] of other) assert.strictEqual(NFS.readFileSync(NodePath.join(a, name), "hex"), bytes)
      assert.deepStrictEqual(NFS.readdirSync(a).sort(), [...other.keys()].sort())
      assert.deepStrictEqual(yield* valuesIn(moved, ["a1", "a2"]), [long("1"), undefined])
      assert.deepStrictEqual(yield* valuesIn(a, ["k"]), ["other"])
    })))

  it.effect("is not opened as that one, whose lock it does not have", () =>
    Effect.gen(function*() {
      for (const mode of ["read", "append"]) {
        const { a, b, root } = yield* twoPlaces
        for (const directory of [a, b]) {
          yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("one")))
        }
        let isMoved = false
        const moving: Disk.DiskService = {
          ...nodeDisk,
          open: (path, as, like) =>
            Effect.suspend(() => {
              if (as === mode && path.endsWith(".dwal") && !isMoved) {
                isMoved = true
                NFS.renameSync(a, NodePath.join(root, "moved"))
                NFS.renameSync(b, a)
              }
              return nodeDisk.open(path, as, like)
            })
        }
        const opening = Effect.scoped(Effect.flip(Log.make({ directory: a })))
        const error = yield* Effect.provideService(opening, Disk.Disk, moving)
        assert.deepInclude(error, { _tag: "IoError", operation: "open", code: "ESTALE" })
        if (process.platform !== "linux") continue
        assert.deepStrictEqual(descriptors().filter((path) => path.startsWith(root)), [])
      }
    }))
})
