/**
 * The fsync itself: that the system is told of it, that it answers those only who came before it began, that the next
 * writer would know of it whatever becomes of this process, that nobody closes the file under it, and that nothing is
 * written over a cut that has had none.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Latch, References, Scope, Stream } from "effect"
import NFS from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import * as NodePath from "node:path"
import * as Disk from "../src/Disk.ts"
import * as Log from "../src/Log.ts"
import { makeDisk, type SimulatedDisk } from "../src/testing.ts"
import { eventLoopTurn } from "./support/crashModel.ts"
import { FaultyDisk, over } from "./support/faultyDisk.ts"
import { concat, noise, raw, temporaryDirectory, zeroed } from "./support/stores.ts"

const inodeOf = (path: string): number => NFS.statSync(path).ino

/**
 * The inodes that `fdatasync` and `fsync` have flushed since. No reading of a file shows whether it was flushed, so the
 * system's own calls are watched as they come back.
 */
const watchFlushes = Effect.acquireRelease(
  Effect.sync(() => {
    const { fdatasync, fsync } = NFS
    const flushed: Array<number> = []
    const watched = (call: typeof NFS.fsync | typeof NFS.fdatasync) => (fd: number, done: NFS.NoParamCallback) => {
      const { ino } = NFS.fstatSync(fd)
      call(fd, (error) => {
        if (error === null) flushed.push(ino)
        done(error)
      })
    }
    Object.assign(NFS, { fdatasync: watched(fdatasync), fsync: watched(fsync) })
    syncBuiltinESMExports()
    return { flushed, real: { fdatasync, fsync } }
  }),
  ({ real }) =>
    Effect.sync(() => {
      Object.assign(NFS, real)
      syncBuiltinESMExports()
    })
)

describe("over the disk of Node", () => {
  it.live("a sync is answered once the system has flushed the segment", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { flushed } = yield* watchFlushes
      const log = yield* Log.make({ directory })
      assert.include(flushed, inodeOf(directory), "the name of the first segment")
      yield* log.append("one")
      flushed.length = 0
      yield* log.sync
      assert.deepStrictEqual(flushed, [inodeOf(NodePath.join(directory, "00000001.dwal"))])
    }))

  it.live("a rotation is answered once the system has flushed the old segment and the directory", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { flushed } = yield* watchFlushes
      const log = yield* Log.make({ directory })
      yield* log.append("one")
      flushed.length = 0
      yield* log.rotate
      assert.deepStrictEqual(flushed, [inodeOf(NodePath.join(directory, "00000001.dwal")), inodeOf(directory)])
    }))
})

const directory = "/s"
const onSimulated = (disk: SimulatedDisk) => Effect.provideService(Disk.Disk, disk.service)

/** What a store on the simulated disk holds. */
const shown = (disk: SimulatedDisk) =>
  Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory })
    const records = yield* Stream.runCollect(log.stream)
    return records.map(({ payload }) => new TextDecoder().decode(payload).replaceAll(".", ""))
  })).pipe(onSimulated(disk))

describe("a sync that comes while an fsync runs", () => {
  it.live("is answered when a power loss takes nothing that was appended before it", () =>
    Effect.gen(function*() {
      // Later in the course of the fsync each time: before it takes effect, and between that and its answer.
      for (let turns = 0; turns < 6; turns++) {
        const disk = makeDisk({ directories: [directory], shuffle: true })
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          yield* log.append("first".padEnd(700, "."))
          const syncing = yield* Effect.forkChild(log.sync, { startImmediately: true })
          for (let turn = 0; turn < turns; turn++) yield* eventLoopTurn
          yield* log.append("second".padEnd(700, "."))
          yield* log.sync
          for (const survivor of disk.survivors(20)) {
            assert.deepStrictEqual(yield* shown(survivor), ["first", "second"], `after ${turns} turns`)
          }
          yield* Fiber.join(syncing)
        })).pipe(onSimulated(disk))
      }
    }))
})

describe("a process that dies with the news of a failed fsync", () => {
  it.live("takes nothing along that the next one syncs", () =>
    Effect.gen(function*() {
      const append = (payload: string) =>
        Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          yield* log.append(payload.padEnd(700, "."))
          yield* log.sync
        }))
      let dead: SimulatedDisk | undefined
      const disk = makeDisk({
        directories: [directory],
        faults: [{ kind: "sync", nth: 2, code: "EIO", landed: "dropped" }],
        onOperation: ({ outcome }, phase) => {
          if (phase === "after" && outcome === "EIO") dead ??= disk.kill()
        }
      })
      yield* append("first").pipe(onSimulated(disk))
      yield* Effect.flip(append("second")).pipe(onSimulated(disk))
      if (dead === undefined) return assert.fail("no fsync has failed")
      yield* append("third").pipe(onSimulated(dead))
      for (const survivor of dead.survivors(20)) {
        assert.deepStrictEqual(yield* shown(survivor), ["first", "second", "third"], survivor.script)
      }
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None")))
})

describe("a cut", () => {
  it.live("is durable before anything is written where the tail was", () =>
    Effect.gen(function*() {
      // A record that lost a sector, and a whole one behind it, which must not come back behind what is appended now.
      const [first, second] = [raw(1, noise(700)), raw(2, noise(1_100))]
      const lost = 1_024 - first.length
      const bytes = concat(first, zeroed(second, lost, lost + 512), raw(3, noise(20)))
      const disk = makeDisk({ directories: [directory] })
      const file = yield* disk.service.open(`${directory}/00000001.dwal`, "create")
      yield* Disk.appendFully(file, bytes, 0, bytes.length)
      yield* file.sync
      yield* file.close
      yield* disk.service.syncDirectory(directory)
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        assert.strictEqual(log.report.tail_truncated, 1)
        yield* log.append(noise(1_100))
        for (const survivor of disk.survivors(200)) {
          assert.include([1, 2], (yield* shown(survivor)).length, survivor.script)
        }
      })).pipe(onSimulated(disk))
    }))
})

describe("a fiber that has to yield while it asks for a sync", () => {
  it.live("starts no second fsync beside one under way, which would report a success that never was", () =>
    Effect.gen(function*() {
      // Fibers yield at each 2,048th step, so one of these numbers meets each gap.
      for (let before = 1_980; before < 2_050; before++) {
        let log: Log.LogService | undefined
        let third: Promise<Exit.Exit<void, unknown>> | undefined
        const disk = makeDisk({
          directories: [directory],
          shuffle: true,
          onOperation: ({ kind, outcome }, phase) => {
            if (kind === "sync" && outcome === "EIO" && phase === "after") {
              third = Effect.runPromiseExit((log as Log.LogService).sync)
            }
          }
        })
        yield* Effect.scoped(Effect.gen(function*() {
          const opened = log = yield* Log.make({ directory })
          yield* opened.append("one")
          disk.fail({ kind: "sync", path: ".dwal", code: "EIO", landed: "dropped" })
          const busy = Effect.gen(function*() {
            for (let at = 0; at < before; at++) yield* Effect.sync(() => {})
          })
          const asks = [
            yield* Effect.forkChild(Effect.andThen(busy, opened.sync)),
            yield* Effect.forkChild(opened.sync)
          ]
          for (const fiber of asks) assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
          assert.isTrue(Exit.isFailure(yield* Effect.promise(() => third ?? Promise.reject(new Error("none")))))
        })).pipe(onSimulated(disk))
        assert.deepStrictEqual(disk.misuse, [])
      }
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None")))
})

const lockText = (disk: SimulatedDisk): string => Buffer.from(disk.files.get("/s/.lock") ?? []).toString()

/** A disk whose process has died behind a sync: the next writer writes the segment over. */
const killedBehindSync = Effect.gen(function*() {
  const disk = makeDisk({ directories: [directory] })
  const scope = yield* Scope.make()
  yield* Effect.gen(function*() {
    const log = yield* Scope.provide(Log.make({ directory }), scope)
    yield* log.append("one".padEnd(700, "."))
    yield* log.append("two".padEnd(700, "."))
    yield* log.sync
  }).pipe(onSimulated(disk))
  return disk.kill()
})

const payloadsOn = (disk: SimulatedDisk) =>
  Effect.scoped(
    Effect.flatMap(Log.make({ directory }), (log) =>
      Effect.map(Stream.runCollect(log.stream), (records) =>
        records.map(({ payload }) =>
          new TextDecoder().decode(payload).replaceAll(".", "")
        )))
  ).pipe(onSimulated(disk))

const namesOn = (disk: SimulatedDisk): Array<string> =>
  Array.from(disk.files.keys()).flatMap((path) =>
    path.startsWith(`${directory}/`) ? [path.slice(directory.length + 1)] : []
  ).sort()

describe("an opening behind an unclean end", () => {
  it.effect("writes what is open over itself, also where a write takes a part only", () =>
    Effect.gen(function*() {
      const disk = yield* killedBehindSync
      disk.fail({ kind: "write", path: ".dwal", bytes: 100 })
      assert.deepStrictEqual(yield* payloadsOn(disk), ["one", "two"])
      for (const survivor of disk.survivors(20)) assert.deepStrictEqual(yield* payloadsOn(survivor), ["one", "two"])
    }))

  it.effect("writes over what every segment has behind the place that the last writer has noted", () =>
    Effect.gen(function*() {
      const first = makeDisk({ directories: [directory] })
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory, segmentSize: 1_000 })
        yield* log.appendAll(["one", "two", "three"].map((text) => text.padEnd(700, ".")))
      })).pipe(onSimulated(first))
      yield* Effect.gen(function*() {
        const lock = yield* first.service.openLock(`${directory}/.lock`)
        yield* lock.writeText("1\nunsynced 2 100\n")
        yield* lock.close
      })
      const before = first.operations.length
      assert.deepStrictEqual(yield* payloadsOn(first), ["one", "two", "three"])
      const written = first.operations.slice(before).filter(({ kind, path }) =>
        kind === "write" && path.endsWith(".dwal")
      )
      assert.deepStrictEqual(
        written.map(({ outcome, path }) => [path, outcome]),
        [["/s/00000002.dwal", "628"], ["/s/00000003.dwal", "728"]]
      )
    }))

  it.effect("keeps every byte of what it writes again, however much that is", () =>
    Effect.gen(function*() {
      const bytes = concat(...[1, 2, 3].map((txid) => raw(txid, noise(600_000, txid))))
      for (const note of ["1\nunsynced 1 100\n", "1\nunsynced 1 0\nfailed\n"]) {
        const directory = yield* temporaryDirectory
        const segment = NodePath.join(directory, "00000001.dwal")
        NFS.writeFileSync(segment, bytes)
        NFS.writeFileSync(NodePath.join(directory, ".lock"), note)
        yield* Effect.scoped(Log.make({ directory }))
        assert.isTrue(NFS.readFileSync(segment).equals(bytes), note)
      }
    }))

  it.effect("goes on where the system interrupts it, and fails where the segment is shorter than it was", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const segment = NodePath.join(directory, "00000001.dwal")
      const lock = NodePath.join(directory, ".lock")
      NFS.writeFileSync(segment, raw(1, "one"))
      NFS.writeFileSync(lock, "1\nunsynced 1 0\n")
      const disk = new FaultyDisk()
      for (const kind of ["read", "overwrite"] as const) disk.failNext(kind, "EINTR", { times: 2 })
      yield* over(disk)(Effect.scoped(Log.make({ directory })))
      assert.strictEqual(disk.count("overwrite"), 3)
      assert.isTrue(NFS.readFileSync(segment).equals(raw(1, "one")))

      for (const truncated of [false, true]) {
        NFS.writeFileSync(lock, "1\nunsynced 1 0\n")
        const read = () => {
          if (truncated) NFS.truncateSync(segment)
          return 0
        }
        const shorter: Disk.DiskService = {
          ...disk.service,
          open: (path, mode) =>
            Effect.map(
              disk.service.open(path, mode),
              (file) => mode === "update" ? { ...file, read: () => Effect.sync(read) } : file
            )
        }
        const error = yield* Effect.flip(Effect.scoped(Log.make({ directory }))).pipe(
          Effect.provideService(Disk.Disk, shorter)
        )
        assert.deepInclude(error, { _tag: "IoError", operation: "read", code: "EIO" })
        assert.match(NFS.readFileSync(lock, "latin1"), /\nunsynced 1 0\n/)
      }
    }))

  it.effect("whose own fsync fails leaves word of that for the next one", () =>
    Effect.gen(function*() {
      const disk = yield* killedBehindSync
      assert.match(lockText(disk), /^\d+\nunsynced 1 0\n$/)
      disk.fail({ kind: "sync", path: ".dwal", code: "EIO", landed: "dropped" })
      const error = yield* Effect.flip(Effect.scoped(Log.make({ directory }))).pipe(onSimulated(disk))
      assert.strictEqual(error._tag, "IoError")
      assert.match(lockText(disk), /^\d+\nunsynced 1 0\nfailed\n$/)
    }))

  it.effect("that fails to make a cut durable leaves word of that: nothing is synced behind what the disk has dropped", () =>
    Effect.gen(function*() {
      const first = makeDisk({ directories: [directory] })
      const scope = yield* Scope.make()
      yield* Effect.gen(function*() {
        const log = yield* Scope.provide(Log.make({ directory }), scope)
        yield* log.append("one".padEnd(700, "."))
        first.fail({ kind: "write", path: ".dwal", stop: "half" })
        yield* Effect.exit(log.append("torn".padEnd(700, ".")))
      }).pipe(onSimulated(first))
      const disk = first.kill()
      // Of the segment, not of the copy of what is cut.
      disk.fail({ kind: "sync", path: "00000001.dwal", code: "EIO", landed: "dropped" })
      const error = yield* Effect.flip(Effect.scoped(Log.make({ directory }))).pipe(onSimulated(disk))
      assert.deepInclude(error, { _tag: "IoError", operation: "sync" })
      assert.match(lockText(disk), /\nfailed\n$/)
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        yield* log.append("two".padEnd(700, "."))
        yield* log.sync
        for (const survivor of disk.survivors(50)) assert.deepStrictEqual(yield* payloadsOn(survivor), ["one", "two"])
      })).pipe(onSimulated(disk))
    }))

  it.effect("that is killed again and again while it writes a segment anew leaves one file, which the next removes", () =>
    Effect.gen(function*() {
      let disk = yield* killedBehindSync
      disk.fail({ kind: "sync", path: ".dwal", code: "EIO", landed: "dropped" })
      yield* Effect.exit(payloadsOn(disk))
      for (let round = 1; round <= 3; round++) {
        disk.fail({ kind: "write", path: ".dwal", stop: "half" })
        yield* Effect.exit(payloadsOn(disk))
        disk = disk.kill()
        assert.deepStrictEqual(namesOn(disk), [".00000001.dwal.tmp", ".lock", "00000001.dwal"], `round ${round}`)
      }
      assert.deepStrictEqual(yield* payloadsOn(disk), ["one", "two"])
      assert.deepStrictEqual(namesOn(disk), [".lock", "00000001.dwal"])
    }))

  it.effect("that copies a torn tail and cannot cut it leaves no copy for each try", () =>
    Effect.gen(function*() {
      const disk = yield* killedBehindSync
      yield* Effect.scoped(Effect.gen(function*() {
        const file = yield* Disk.openScoped(disk.service, `${directory}/00000001.dwal`, "append")
        yield* Disk.appendFully(file, noise(5), 0, 5)
      }))
      disk.fail({ kind: "truncate", path: ".dwal", code: "EIO", times: 2 })
      for (const _ of [1, 2]) {
        const error = yield* Effect.flip(Effect.scoped(Log.make({ directory }))).pipe(onSimulated(disk))
        assert.deepInclude(error, { operation: "truncate", code: "EIO" })
        assert.deepStrictEqual(namesOn(disk), [".lock", "00000001.dwal"])
      }
      // One that was done all the same, whatever was said of it, has the only copy.
      disk.fail({ kind: "truncate", path: ".dwal", code: "EIO", landed: "all" })
      yield* Effect.flip(Effect.scoped(Log.make({ directory }))).pipe(onSimulated(disk))
      assert.deepStrictEqual(namesOn(disk), [".lock", "00000001-1456.torn", "00000001.dwal"])
      assert.deepStrictEqual(yield* payloadsOn(disk), ["one", "two"])
    }))
})

describe("what a failed write has left", () => {
  const filled = (letter: string, length: number) => letter.repeat(length)

  it.live("does not come back between records that are written there later", () =>
    Effect.gen(function*() {
      for (let seed = 1; seed <= 8; seed++) {
        const disk = makeDisk({ directories: [directory], seed })
        const open = Log.make({ directory })
        yield* Effect.gen(function*() {
          yield* Effect.scoped(Effect.flatMap(open, (log) => Effect.andThen(log.append("synced"), log.sync)))
          yield* Effect.scoped(Effect.gen(function*() {
            const log = yield* open
            disk.fail({ kind: "write", path: ".dwal", code: "ENOSPC", landed: "half" })
            yield* Effect.flip(log.append(filled("a", 3_000)))
          }))
          yield* Effect.scoped(Effect.gen(function*() {
            const log = yield* open
            for (const letter of ["x", "y", "z"]) yield* log.append(filled(letter, 600))
            for (const survivor of disk.survivors(60)) {
              assert.include(yield* shown(survivor), "synced", survivor.script)
            }
          }))
        }).pipe(onSimulated(disk))
      }
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None")))

  it.live("is taken back without another fsync on a descriptor whose fsync has failed meanwhile", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const path = yield* temporaryDirectory
      const gate = Latch.makeUnsafe()
      // A large write that waits until the fsync has failed.
      const late: Disk.DiskService = {
        ...disk.service,
        open: (path, mode) =>
          Effect.map(disk.service.open(path, mode), (file) => ({
            ...file,
            append: (...given) => Effect.andThen(gate.await, file.append(...given))
          }))
      }
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: path })
        yield* log.append("one")
        disk.failNext("append", "ENOSPC", { landed: "half" })
        disk.failNext("sync", "EIO")
        const writing = yield* Effect.forkChild(log.append(filled("x", 300_000)), { startImmediately: true })
        assert.deepInclude(yield* Effect.flip(log.sync), { _tag: "IoError", operation: "sync" })
        yield* gate.open
        assert.deepInclude(yield* Effect.flip(Fiber.join(writing)), { _tag: "IoError", operation: "write" })
        assert.strictEqual(NFS.statSync(NodePath.join(path, "00000001.dwal")).size, (yield* log.end).offset)
      })).pipe(Effect.provideService(Disk.Disk, late))
      assert.deepStrictEqual(disk.misuse, [])
      assert.strictEqual(disk.count("sync", ".dwal"), 1)
    }))

  it.live("is taken back behind an fsync under way, not beside it: the system would tell one of the two of a failure", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: yield* temporaryDirectory })
        yield* log.append("one")
        const held = disk.holdNext("sync", { path: ".dwal" })
        const syncing = yield* Effect.forkChild(log.sync, { startImmediately: true })
        yield* held.reached
        disk.failNext("append", "ENOSPC", { landed: "half" })
        const writing = yield* Effect.forkChild(Effect.flip(log.append(filled("x", 300_000))))
        while ((yield* log.refusal) === undefined) yield* eventLoopTurn
        yield* Effect.sleep("5 millis")
        const beside = [disk.count("truncate"), disk.count("sync", ".dwal")]
        yield* held.release
        yield* Fiber.join(syncing)
        assert.deepInclude(yield* Fiber.join(writing), { _tag: "IoError", operation: "write" })
        assert.deepStrictEqual([beside, disk.count("truncate"), disk.count("sync", ".dwal")], [[0, 1], 1, 2])
      })))
      assert.deepStrictEqual(disk.misuse, [])
    }))

  it.live("is taken back also when an fsync fails behind the write", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const path = yield* temporaryDirectory
      const [reached, gate] = [Latch.makeUnsafe(), Latch.makeUnsafe()]
      const late: Disk.DiskService = {
        ...disk.service,
        open: (path, mode) =>
          Effect.map(
            disk.service.open(path, mode),
            (file) => ({ ...file, sync: Effect.andThen(Effect.andThen(reached.open, gate.await), file.sync) })
          )
      }
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory: path })
        const { len } = yield* log.append("one")
        disk.failNext("sync", "EIO", { path: ".dwal" })
        const syncing = yield* Effect.forkChild(Effect.flip(log.sync), { startImmediately: true })
        yield* reached.await
        disk.failNext("appendNow", "ENOSPC", { landed: "half" })
        yield* Effect.flip(log.append("two"))
        yield* gate.open
        assert.deepInclude(yield* Fiber.join(syncing), { _tag: "IoError", operation: "sync" })
        return len
      })).pipe(
        Effect.provideService(Disk.Disk, late),
        Effect.map((len) => assert.strictEqual(NFS.statSync(NodePath.join(path, "00000001.dwal")).size, len))
      )
      assert.deepStrictEqual(disk.misuse, [])
    }))

  it.effect("and cannot be taken back durably is noted for all of the segment: nothing is synced behind what is dropped", () =>
    Effect.gen(function*() {
      const disk = makeDisk({ directories: [directory] })
      yield* Effect.gen(function*() {
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          yield* log.append("one".padEnd(700, "."))
          disk.fail({ kind: "write", path: ".dwal", code: "ENOSPC", landed: "half" })
          yield* Effect.flip(log.append("none".padEnd(700, ".")))
          disk.fail({ kind: "sync", path: ".dwal", code: "EIO", landed: "dropped" })
        }))
        assert.match(lockText(disk), /^\d+\nunsynced 1 0\nfailed\n$/)
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          yield* log.append("two".padEnd(700, "."))
          yield* log.sync
          for (const survivor of disk.survivors(5)) assert.deepStrictEqual(yield* payloadsOn(survivor), ["one", "two"])
        }))
      }).pipe(onSimulated(disk))
    }))
})

describe("a segment that a writer has made before it died", () => {
  it.live("has a durable name before the next one writes to it", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      NFS.writeFileSync(NodePath.join(directory, "00000001.dwal"), "")
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("one"))))
      const kinds = disk.calls.map(({ kind }) => kind)
      const written = kinds.indexOf("appendNow")
      assert.isAtLeast(written, 0)
      assert.include(kinds.slice(0, written), "syncDirectory")
    }))
})

describe("closing", () => {
  it.live("takes nothing more while its last sync is under way: the note is taken away behind all there is", () =>
    Effect.gen(function*() {
      for (let turns = 0; turns < 8; turns++) {
        const disk = makeDisk({ directories: [directory], shuffle: true })
        yield* Effect.gen(function*() {
          const scope = yield* Scope.make()
          const log = yield* Scope.provide(Log.make({ directory }), scope)
          yield* log.append("first")
          const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
          for (let turn = 0; turn < turns; turn++) yield* eventLoopTurn
          const late = yield* Effect.exit(log.append("late"))
          yield* Fiber.join(closing)
          assert.isTrue(Exit.isFailure(late), `after ${turns} turns`)
        }).pipe(onSimulated(disk))
      }
    }))

  it.live("waits for an fsync under way, also of a writer that has failed meanwhile", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      const scope = yield* Scope.make()
      yield* over(disk)(Effect.gen(function*() {
        const log = yield* Scope.provide(Log.make({ directory: yield* temporaryDirectory }), scope)
        yield* log.append("one")
        const held = disk.holdNext("sync")
        const syncing = yield* Effect.forkChild(log.sync, { startImmediately: true })
        yield* held.reached
        disk.failNext("appendNow", "ENOSPC")
        yield* Effect.flip(log.append("two"))
        const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
        yield* Effect.sleep("5 millis")
        assert.isUndefined(closing.pollUnsafe(), "it has closed while the fsync runs")
        yield* held.release
        yield* Fiber.join(closing)
        yield* Fiber.join(syncing)
      }))
      assert.deepStrictEqual(disk.misuse, [])
      assert.strictEqual(disk.openDescriptors, 0)
    }))
})
