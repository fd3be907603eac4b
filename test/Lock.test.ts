/**
 * The directory lock, between fibers, between processes, and against a program that is not ours: whoever opens the
 * sentinel and calls `flock(2)`, as the Rust program does.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Duration, Effect, Exit, Fiber, Result, Schedule, Scope } from "effect"
import { TestClock } from "effect/testing"
import { spawn } from "node:child_process"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import { fileURLToPath } from "node:url"
import * as Disk from "../src/Disk.ts"
import { IoError, LockHeld } from "../src/Errors.ts"
import * as Kv from "../src/Kv.ts"
import * as Lock from "../src/Lock.ts"
import * as Log from "../src/Log.ts"
import { type Child, isInstalled, run, start, startNode } from "./support/child.ts"
import { largeDirectory, temporaryDirectory } from "./support/stores.ts"

const sentinel = (directory: string): string => NodePath.join(directory, Lock.lockFileName)

const contents = (directory: string): string => NFS.readFileSync(sentinel(directory), "utf8")

/** The lock is free: it can be had at once. */
const assertFree = (directory: string) => Effect.scoped(Effect.orDie(Lock.acquire(directory)))

/** The lock is held: by this pid, if the sentinel tells. */
const assertHeld = (directory: string, pid: number | undefined) =>
  Effect.gen(function*() {
    const error = yield* Effect.flip(Effect.scoped(Lock.acquire(directory)))
    assert.instanceOf(error, LockHeld)
    assert.strictEqual(error.directory, directory)
    assert.strictEqual(error.pid, pid)
    return error
  })

interface Refusal {
  readonly tag: string
  readonly message: string
  readonly code?: string
  readonly command?: string
  readonly directory?: string
  readonly operation?: string
  readonly path?: string
  readonly pid?: number
}

const startHolder = (directory: string, ...args: ReadonlyArray<string>) =>
  startNode("lockChild.mjs", [directory, ...args])

const refusalOf = (child: Child) =>
  Effect.map(child.until("refused "), (line) => JSON.parse(line.slice("refused ".length)) as Refusal)

const descriptors = (): ReadonlyArray<string> =>
  NFS.readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      return [NFS.readlinkSync(`/proc/self/fd/${fd}`)]
    } catch {
      return []
    }
  })

const descriptorsIn = (directory: string): number => descriptors().filter((path) => path.startsWith(directory)).length

describe("one writer per directory", () => {
  it.live("of two who ask in one step the one who comes late is told that this very process has it", () =>
    Effect.gen(function*() {
      for (let round = 0; round < 20; round++) {
        const directory = yield* temporaryDirectory
        const asks = [1, 2].map(() => Effect.result(Lock.acquire(directory)))
        const failures = (yield* Effect.all(asks, { concurrency: "unbounded" })).filter(Result.isFailure)
        assert.deepStrictEqual(failures.map(({ failure }) => failure._tag === "LockHeld" && failure.isOwn), [true])
      }
    }))

  it.live("the second writer of this process gets LockHeld at once, with the directory and the pid", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const held = yield* Lock.acquire(directory)
      assert.strictEqual(held.directory, directory)
      assert.strictEqual(held.path, sentinel(directory))
      const before = yield* Clock.currentTimeMillis
      const error = yield* assertHeld(directory, process.pid)
      assert.isBelow((yield* Clock.currentTimeMillis) - before, 1_000)
      assert.isTrue(error.isOwn)
      assert.include(
        error.message,
        `${directory} is open in this process already (its .lock names process ${process.pid})`
      )
    }))

  it.live("a holder in another container may have this one's number: it is not taken for this one", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const child = yield* startHolder(directory)
      yield* child.until("held")
      NFS.writeFileSync(sentinel(directory), `${process.pid}\n`)
      const error = yield* assertHeld(directory, process.pid)
      assert.isFalse(error.isOwn)
      assert.include(error.message, `is locked by another writer (its .lock names process ${process.pid})`)
    }))

  it.live("one that is let go of writes no more to whatever has its descriptor now", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const lock = yield* Effect.scoped(Lock.acquire(directory))
      const file = NodePath.join(directory, "innocent")
      const descriptor = NFS.openSync(file, "w+")
      NFS.writeSync(descriptor, "bytes")
      assert.deepInclude(yield* Effect.flip(lock.noteUnsynced(undefined)), { _tag: "IoError", code: "EBADF" })
      assert.deepInclude(yield* Effect.flip(lock.isCurrent), { _tag: "IoError", code: "EBADF" })
      NFS.closeSync(descriptor)
      assert.strictEqual(NFS.readFileSync(file, "utf8"), "bytes")
    }))

  it.live("it is known when its path leads to something else", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const lock = yield* Lock.acquire(directory)
      assert.isTrue(yield* lock.isCurrent)
      NFS.renameSync(sentinel(directory), `${sentinel(directory)}.old`)
      assert.isFalse(yield* lock.isCurrent)
      NFS.writeFileSync(sentinel(directory), "1\n")
      assert.isFalse(yield* lock.isCurrent)
    }))

  it.live("a log, a store and a bare lock keep each other out", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const openers = [
        Effect.asVoid(Lock.acquire(directory)),
        Effect.asVoid(Log.make({ directory })),
        Effect.asVoid(Kv.make({ directory }))
      ]
      for (const holder of openers) {
        yield* Effect.scoped(Effect.gen(function*() {
          yield* holder
          for (const second of openers) {
            const error = yield* Effect.flip(Effect.scoped(second))
            assert.strictEqual(error._tag, "LockHeld")
          }
        }))
      }
    }))

  it.live("two directories have two locks", () =>
    Effect.gen(function*() {
      yield* Lock.acquire(yield* temporaryDirectory)
      yield* Lock.acquire(yield* temporaryDirectory)
    }))

  it.live("the same directory by another path has the same lock", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const link = NodePath.join(yield* temporaryDirectory, "link")
      NFS.symlinkSync(directory, link)
      yield* Lock.acquire(directory)
      yield* assertHeld(link, process.pid)
      yield* assertHeld(`${directory}/../${NodePath.basename(directory)}`, process.pid)
    }))

  it.live("a lock held by another process refuses this one, by its pid", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const child = yield* startHolder(directory)
      assert.strictEqual(yield* child.until("held"), `held ${child.pid}`)
      yield* assertHeld(directory, child.pid)
      const error = yield* Effect.flip(Effect.scoped(Log.make({ directory })))
      assert.strictEqual(error._tag, "LockHeld")
    }))

  it.live("a lock held by this process refuses another, by its pid", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Lock.acquire(directory)
      const refusal = yield* refusalOf(yield* startHolder(directory))
      assert.strictEqual(refusal.tag, "LockHeld")
      assert.strictEqual(refusal.directory, directory)
      assert.strictEqual(refusal.pid, process.pid)
    }))

  it.live.skipIf(!isInstalled("flock"))(
    "a program that takes the flock itself is kept out, and keeps us out",
    () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        yield* Effect.scoped(Effect.gen(function*() {
          yield* Lock.acquire(directory)
          const refused = yield* run("flock", ["--nonblock", "--conflict-exit-code", "75", sentinel(directory), "true"])
          assert.strictEqual(refused.code, 75)
        }))
        const free = yield* run("flock", ["--nonblock", sentinel(directory), "true"])
        assert.strictEqual(free.code, 0)
        const child = yield* start("flock", ["--exclusive", sentinel(directory), "sh", "-c", "echo held; read line"])
        yield* child.until("held")
        // It wrote no pid of its own: the one in the file is the last holder's that did.
        yield* assertHeld(directory, process.pid)
        NFS.writeFileSync(sentinel(directory), "")
        yield* assertHeld(directory, undefined)
        NFS.writeFileSync(sentinel(directory), "nobody knows\n")
        yield* assertHeld(directory, undefined)
        yield* child.send("")
        yield* child.ended
        yield* assertFree(directory)
      })
  )

  it.live.skipIf(process.platform !== "linux")(
    "is free when its scope has closed, though a child process that is being started has its descriptor still",
    () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const scope = yield* Scope.make()
        yield* Scope.provide(Lock.acquire(directory), scope)
        const leadsToLock = (fd: string): boolean => {
          try {
            return NFS.readlinkSync(`/proc/self/fd/${fd}`) === sentinel(directory)
          } catch {
            return false
          }
        }
        const [descriptor] = NFS.readdirSync("/proc/self/fd").filter(leadsToLock)
        const child = spawn("sleep", ["60"], { stdio: ["ignore", "ignore", "ignore", Number(descriptor)] })
        yield* Effect.addFinalizer(() => Effect.sync(() => child.kill("SIGKILL")))
        yield* assertHeld(directory, process.pid)
        yield* Scope.close(scope, Exit.void)
        assert.isNull(child.exitCode)
        yield* assertFree(directory)
      })
  )

  it.live.skipIf(!isInstalled("python3"))("so does fcntl.flock of Python", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const child = yield* start("python3", [
        "-c",
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB); " +
        "f.write('4711\\n'); f.flush(); print('held', flush=True); sys.stdin.readline()",
        sentinel(directory)
      ])
      yield* child.until("held")
      yield* assertHeld(directory, 4_711)
      yield* child.send("")
      yield* child.ended
      yield* assertFree(directory)
    }))
})

describe("release", () => {
  it.live("the lock is free again when the scope has closed on success", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Lock.acquire(directory))
      yield* assertFree(directory)
      yield* assertFree(directory)
    }))

  it.live("the lock is free again after a failure, and after a defect", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (const end of [Effect.fail("no"), Effect.die("no")]) {
        const exit = yield* Effect.exit(Effect.scoped(Effect.andThen(Lock.acquire(directory), end)))
        assert.isTrue(Exit.isFailure(exit))
        yield* assertFree(directory)
      }
    }))

  it.live("the lock is free again after an interruption", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const held = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(
        Effect.scoped(
          Effect.andThen(Lock.acquire(directory), Effect.andThen(Deferred.succeed(held, undefined), Effect.never))
        ),
        { startImmediately: true }
      )
      yield* Deferred.await(held)
      yield* assertHeld(directory, process.pid)
      yield* Fiber.interrupt(fiber)
      yield* assertFree(directory)
    }))

  it.live("an interruption that comes while the lock is being taken leaves nothing held", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (let round = 0; round < 100; round++) {
        const fiber = yield* Effect.forkChild(
          Effect.scoped(Effect.andThen(Lock.acquire(directory), Effect.never)),
          { startImmediately: true }
        )
        for (let turn = 0; turn < round % 10; turn++) yield* Effect.promise(() => new Promise(setImmediate))
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(descriptorsIn(directory), 0)
        yield* assertFree(directory)
      }
    }))

  it.live("the lock is free again when its holder was killed with SIGKILL", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const child = yield* startHolder(directory)
      yield* child.until("held")
      yield* assertHeld(directory, child.pid)
      const { signal } = yield* child.kill
      assert.strictEqual(signal, "SIGKILL")
      assert.strictEqual(contents(directory), `${child.pid}\n`)
      yield* Lock.acquire(directory)
      assert.strictEqual(contents(directory), `${process.pid}\n`)
    }))

  it.live("a leftover sentinel with another's pid is no obstacle, and is written over whole", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (const left of ["1\n", "99999999999\n", "", "not a number\n", "x".repeat(4_096)]) {
        NFS.writeFileSync(sentinel(directory), left)
        yield* Effect.scoped(Effect.gen(function*() {
          yield* Lock.acquire(directory)
          assert.strictEqual(contents(directory), `${process.pid}\n`)
        }))
        assert.isTrue(NFS.existsSync(sentinel(directory)))
      }
    }))

  it.live("a log that fails to open holds no lock, however long the caller's scope lives on", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      NFS.writeFileSync(
        NodePath.join(directory, "00000001.dwal"),
        "this is not a log, and long enough to be sure of it"
      )
      const scope = yield* Scope.make()
      const error = yield* Effect.flip(Scope.provide(Log.make({ directory }), scope))
      assert.strictEqual(error._tag, "CorruptSegment")
      yield* assertFree(directory)
      yield* Scope.close(scope, Exit.void)
    }))

  it.live.skipIf(process.platform !== "linux")(
    "two hundred refusals leave no descriptor behind",
    () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        yield* Lock.acquire(directory)
        assert.strictEqual(descriptorsIn(directory), 1)
        for (let round = 0; round < 200; round++) yield* assertHeld(directory, process.pid)
        assert.strictEqual(descriptorsIn(directory), 1)
      })
  )
})

describe("waiting", () => {
  /** Runs with a clock that tells how long each delay is. How long it takes is the machine's affair, too. */
  const withDelays = Effect.fnUntraced(function*<A, E, R>(run: Effect.Effect<A, E, R>) {
    const clock = yield* Clock.Clock
    const delays: Array<number> = []
    const telling = Object.assign(Object.create(clock) as Clock.Clock, {
      sleep: (duration: Duration.Duration) =>
        Effect.suspend(() => {
          delays.push(Duration.toMillis(duration))
          return clock.sleep(duration)
        })
    })
    const before = performance.now()
    const value = yield* Effect.provideService(run, Clock.Clock, telling)
    const waited = performance.now() - before
    return { value, delays, waited, delayed: delays.reduce((sum, delay) => sum + delay, 0) }
  })

  it.live("with a time limit the lock is had when it is released in time", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const scope = yield* Scope.make()
      yield* Scope.provide(Lock.acquire(directory), scope)
      yield* Effect.forkChild(Effect.andThen(Effect.sleep("150 millis"), Scope.close(scope, Exit.void)))
      const { delays, waited } = yield* withDelays(Lock.acquire(directory, { wait: "50 seconds" }))
      assert.isAtLeast(waited, 100)
      assert.isNotEmpty(delays)
      assert.isAtMost(Math.max(...delays), 100, "it is asked for again soon")
    }))

  it.live("with a time limit LockHeld comes when it has passed, and nothing is waited for then", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Lock.acquire(directory)
      const waiting = Effect.flip(Lock.acquire(directory, { wait: "300 millis" }))
      const { delayed, value, waited } = yield* withDelays(waiting)
      assert.strictEqual(value._tag, "LockHeld")
      assert.isAtLeast(waited, 295)
      assert.isAtMost(delayed, 300)
    }))

  it.live("the last attempt is at the limit: what is left of the time is not overrun by a whole delay", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Lock.acquire(directory)
      // By a clock that only delays move.
      let now_ms = 0
      const delays: Array<number> = []
      const clock = yield* Clock.Clock
      const still: Clock.Clock = Object.assign(Object.create(clock) as Clock.Clock, {
        monotonicTimeNanosUnsafe: () => BigInt(now_ms * 1_000_000),
        monotonicTimeNanos: Effect.sync(() => BigInt(now_ms * 1_000_000)),
        sleep: (duration: Duration.Duration) =>
          Effect.sync(() => {
            delays.push(Duration.toMillis(duration))
            now_ms += Duration.toMillis(duration)
          })
      })
      const waiting = Effect.flip(Lock.acquire(directory, { wait: "320 millis" }))
      assert.strictEqual((yield* Effect.provideService(waiting, Clock.Clock, still))._tag, "LockHeld")
      assert.deepStrictEqual(delays, [5, 10, 20, 40, 80, 100, 65])
    }))

  it.live("a wait that is neither a time nor a schedule is refused, though the lock is free", () =>
    Effect.gen(function*() {
      const directory = NodePath.join(yield* temporaryDirectory, "never")
      for (const wait of ["5 secs", null, -5, Number.NaN, "-1 millis", "soon"]) {
        const error = yield* Effect.flip(Lock.acquire(directory, { wait: wait as Lock.Wait }))
        assert.strictEqual(error._tag, "InvalidOptions", JSON.stringify(wait))
        const options = { directory, waitForLock: wait } as Log.Options
        assert.strictEqual((yield* Effect.flip(Log.make(options)))._tag, "InvalidOptions", JSON.stringify(wait))
      }
      assert.isFalse(NFS.existsSync(directory))
      yield* Effect.scoped(Lock.acquire(directory, { wait: 0 }))
    }))

  it.effect("a wait goes by the clock of the program, and is over at its limit", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Lock.acquire(directory)
      const waiting = yield* Effect.forkChild(Effect.flip(Lock.acquire(directory, { wait: "1 second" })))
      yield* TestClock.adjust("999 millis")
      // Each attempt goes through the thread pool: it is not over as soon as the clock is set.
      yield* TestClock.withLive(Effect.sleep("50 millis"))
      assert.isUndefined(waiting.pollUnsafe())
      for (let at = 0; at < 20; at++) {
        yield* TestClock.adjust("100 millis")
        yield* TestClock.withLive(Effect.sleep("5 millis"))
      }
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "LockHeld")
    }))

  it.live("a wait is not longer when somebody sets the time back", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Lock.acquire(directory)
      const clock = yield* Clock.Clock
      let now = Date.now()
      const setBack: Clock.Clock = Object.create(clock, {
        currentTimeMillisUnsafe: { value: () => now -= 1_000 },
        currentTimeMillis: { value: Effect.sync(() => now -= 1_000) }
      })
      const error = yield* Effect.flip(Lock.acquire(directory, { wait: "50 millis" })).pipe(
        Effect.provideService(Clock.Clock, setBack),
        Effect.timeout("10 seconds")
      )
      assert.strictEqual(error._tag, "LockHeld")
    }))

  it.effect("an empty directory is refused, and one that is none", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(Lock.acquire("")))._tag, "InvalidOptions")
      // As JavaScript has it, and a variable of the environment that is not set.
      const unset = undefined as unknown as string
      assert.strictEqual((yield* Effect.flip(Lock.acquire(unset)))._tag, "InvalidOptions")
    }))

  it.live("a schedule says how often it is tried", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Lock.acquire(directory)
      let opened = 0
      const disk = yield* Disk.Disk
      const counting: Disk.DiskService = {
        ...disk,
        openLock: (path) =>
          Effect.suspend(() => {
            opened++
            return disk.openLock(path)
          })
      }
      const error = yield* Lock.acquire(directory, { wait: Schedule.recurs(3) }).pipe(
        Effect.provideService(Disk.Disk, counting),
        Effect.flip
      )
      assert.strictEqual(error._tag, "LockHeld")
      assert.strictEqual(opened, 4)
    }))

  it.live("a store waits as long as waitForLock says", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const child = yield* startHolder(directory)
      yield* child.until("held")
      yield* Effect.forkChild(Effect.andThen(Effect.sleep("100 millis"), child.send("release")))
      const kv = yield* Kv.make({ directory, waitForLock: "20 seconds" })
      yield* kv.put("mine", "now")
      assert.strictEqual((yield* child.ended).code, 0)
    }))

  it.live("waiting is for a held lock, and every other failure comes at once", () =>
    Effect.gen(function*() {
      const file = NodePath.join(yield* temporaryDirectory, "file")
      NFS.writeFileSync(file, "")
      const { delays, value } = yield* withDelays(Effect.flip(Lock.acquire(file, { wait: "20 seconds" })))
      assert.strictEqual(value._tag, "IoError")
      assert.deepStrictEqual(delays, [])
    }))

  it.live("waiting can be interrupted, and what was waited for is not taken later", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const scope = yield* Scope.make()
      yield* Scope.provide(Lock.acquire(directory), scope)
      const waiter = yield* Effect.forkChild(Effect.scoped(
        Effect.andThen(Lock.acquire(directory, { wait: "1 hour" }), Effect.never)
      ))
      yield* Effect.sleep("60 millis")
      yield* Fiber.interrupt(waiter)
      const exit = yield* Fiber.await(waiter)
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      yield* Scope.close(scope, Exit.void)
      yield* Effect.sleep("150 millis")
      yield* assertFree(directory)
    }))

  it.live("of many that wait one has it at a time, and every one gets it", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      let inside = 0
      let entered = 0
      const turn = Effect.scoped(Effect.gen(function*() {
        yield* Lock.acquire(directory, { wait: "50 seconds" })
        assert.strictEqual(++inside, 1)
        entered++
        yield* Effect.sleep("2 millis")
        inside--
      }))
      yield* Effect.all(Array.from({ length: 12 }, () => turn), { concurrency: "unbounded" })
      assert.strictEqual(entered, 12)
    }))
})

/** The disk, with something that happens between the opening of the sentinel and its locking. */
const meddled = (between: (path: string, opened: number) => Effect.Effect<void>) => {
  const counts = { opened: 0, closed: 0 }
  const service = Effect.map(Disk.Disk, (disk): Disk.DiskService => ({
    ...disk,
    openLock: (path) =>
      Effect.gen(function*() {
        const file = yield* disk.openLock(path)
        yield* between(path, ++counts.opened)
        return {
          ...file,
          close: Effect.andThen(
            Effect.sync(() => {
              counts.closed++
            }),
            file.close
          )
        }
      })
  }))
  return { counts, service }
}

const replace = (path: string): void => {
  NFS.unlinkSync(path)
  NFS.writeFileSync(path, "somebody\n")
}

describe("the sentinel", () => {
  it.live("a sentinel that is replaced between opening and locking is not the lock: it starts over", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (const end of [replace, NFS.unlinkSync]) {
        const { counts, service } = meddled((path, opened) => Effect.sync(() => opened === 1 ? end(path) : undefined))
        yield* Effect.scoped(Effect.gen(function*() {
          yield* Effect.provideService(Lock.acquire(directory), Disk.Disk, yield* service)
          assert.deepStrictEqual(counts, { opened: 2, closed: 1 })
          // What is locked is what the path names now: others meet it.
          yield* assertHeld(directory, process.pid)
        }))
        assert.deepStrictEqual(counts, { opened: 2, closed: 2 })
      }
    }))

  it.live("when the replacement is locked already, that is LockHeld", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const other = yield* Effect.scope
      const disk = yield* Disk.Disk
      const { counts, service } = meddled((path, opened) =>
        opened > 1 ? Effect.void : Effect.orDie(Effect.asVoid(Effect.andThen(
          Effect.sync(() => NFS.unlinkSync(path)),
          Scope.provide(Effect.provideService(Lock.acquire(directory), Disk.Disk, disk), other)
        )))
      )
      const error = yield* Effect.scoped(Effect.provideService(Lock.acquire(directory), Disk.Disk, yield* service))
        .pipe(
          Effect.flip
        )
      assert.instanceOf(error, LockHeld)
      assert.deepStrictEqual(counts, { opened: 2, closed: 2 })
    }))

  it.live("a sentinel that is replaced every time ends in IoError, and leaves nothing open", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { counts, service } = meddled((path) => Effect.sync(() => replace(path)))
      const error = yield* Effect.scoped(Effect.provideService(Lock.acquire(directory), Disk.Disk, yield* service))
        .pipe(
          Effect.flip
        )
      assert.instanceOf(error, IoError)
      assert.strictEqual(error.code, "ESTALE")
      assert.strictEqual(counts.closed, counts.opened)
      yield* assertFree(directory)
    }))

  // The lock is on the file, not on its name. There is no defence against this, for us or for the Rust program.
  it.live("removing the sentinel of a held lock lets a second writer in: the two lock two files", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const first = yield* Scope.make()
      yield* Scope.provide(Lock.acquire(directory), first)
      NFS.unlinkSync(sentinel(directory))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* Lock.acquire(directory)
        // A third meets the second, and goes on doing so when the first has gone.
        yield* assertHeld(directory, process.pid)
        yield* Scope.close(first, Exit.void)
        yield* assertHeld(directory, process.pid)
      }))
      yield* assertFree(directory)
    }))

  it.live("what a holder notes as unsynced the next one is told, until it is taken back", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const hold = <A>(use: (lock: Lock.Lock) => Effect.Effect<A, IoError>) =>
        Effect.scoped(Effect.flatMap(Lock.acquire(directory), use))
      const told = () => hold((lock) => Effect.succeed(lock.unsynced))
      assert.isUndefined(yield* told())
      for (const place of [{ segment: 12_345_678, offset: 9_007_199_254_740 }, { segment: 1, offset: 0 }]) {
        yield* hold((lock) => lock.noteUnsynced(place))
        assert.deepStrictEqual(yield* told(), place)
        // Being told does not take it back, and the pid is still there to be read.
        assert.deepStrictEqual(yield* told(), place)
        yield* hold(() => Effect.orDie(assertHeld(directory, process.pid)))
      }
      yield* hold((lock) => lock.noteUnsynced(undefined))
      assert.isUndefined(yield* told())
      assert.strictEqual(contents(directory), `${process.pid}\n`)
    }))

  it.live("a pid that cannot be written does not keep the lock from being had", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const disk = yield* Disk.Disk
      const full: Disk.DiskService = {
        ...disk,
        openLock: (path) =>
          Effect.map(disk.openLock(path), (file) => ({
            ...file,
            writeText: () => Effect.fail(new IoError({ operation: "write", path, code: "ENOSPC", cause: undefined }))
          }))
      }
      yield* Effect.provideService(Lock.acquire(directory), Disk.Disk, full)
      yield* assertHeld(directory, undefined)
    }))
})

describe("places", () => {
  it.live("a directory that is missing is made, with its parents", () =>
    Effect.gen(function*() {
      const directory = NodePath.join(yield* temporaryDirectory, "a", "b", "c")
      yield* Lock.acquire(directory)
      assert.deepStrictEqual(NFS.readdirSync(directory), [Lock.lockFileName])
    }))

  it.live("a path that is a file, or leads through one, is an IoError, and the file is not touched", () =>
    Effect.gen(function*() {
      const file = NodePath.join(yield* temporaryDirectory, "file")
      NFS.writeFileSync(file, "text")
      for (const [path, code] of [[file, "EEXIST"], [NodePath.join(file, "below"), "ENOTDIR"]] as const) {
        const error = yield* Effect.flip(Effect.scoped(Lock.acquire(path)))
        assert.instanceOf(error, IoError)
        assert.strictEqual(error.code, code)
        assert.include(error.path, file)
      }
      assert.strictEqual(NFS.readFileSync(file, "utf8"), "text")
    }))

  it.live("a sentinel that is a directory is an IoError", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      NFS.mkdirSync(sentinel(directory))
      const error = yield* Effect.flip(Effect.scoped(Lock.acquire(directory)))
      assert.instanceOf(error, IoError)
      assert.strictEqual(error.code, "EISDIR")
    }))

  it.live.skipIf(process.getuid?.() !== 0)(
    "a directory that may not be written is an IoError that names it",
    () =>
      Effect.gen(function*() {
        const parent = yield* largeDirectory
        const directory = NodePath.join(parent, "closed")
        NFS.chmodSync(parent, 0o755)
        NFS.mkdirSync(directory, { mode: 0o555 })
        const refusal = yield* refusalOf(yield* startHolder(directory, "--as-nobody"))
        assert.strictEqual(refusal.tag, "IoError")
        assert.strictEqual(refusal.code, "EACCES")
        assert.strictEqual(refusal.path, sentinel(directory))
        const below = yield* refusalOf(yield* startHolder(NodePath.join(directory, "below"), "--as-nobody"))
        assert.strictEqual(below.tag, "IoError")
        assert.strictEqual(below.code, "EACCES")
        assert.deepStrictEqual(NFS.readdirSync(directory), [])
      })
  )
})

const root = fileURLToPath(new URL("..", import.meta.url))

type Missing = "koffi" | "its binary" | "a binary that loads"

/** The built package beside its dependencies, as npm lays it out, but for what the lock needs. */
const installedWithout = (missing: Missing) =>
  Effect.gen(function*() {
    const modules = NodePath.join(yield* temporaryDirectory, "node_modules")
    const home = NodePath.join(modules, "effect-datawal")
    NFS.mkdirSync(home, { recursive: true })
    NFS.cpSync(NodePath.join(root, "dist"), NodePath.join(home, "dist"), { recursive: true })
    NFS.copyFileSync(NodePath.join(root, "package.json"), NodePath.join(home, "package.json"))
    NFS.symlinkSync(NodePath.join(root, "node_modules", "effect"), NodePath.join(modules, "effect"))
    const bring = (name: string): void =>
      // Not a link into what is installed: a binary in it is written over.
      NFS.cpSync(NodePath.join(root, "node_modules", name), NodePath.join(modules, name), {
        recursive: true,
        dereference: true
      })
    if (missing !== "koffi") bring("koffi")
    if (missing === "a binary that loads") {
      bring("@koromix")
      const binaries = NFS.readdirSync(modules, { recursive: true, encoding: "utf8" })
        .filter((name) => name.endsWith("koffi.node"))
      assert.isNotEmpty(binaries)
      for (const binary of binaries) NFS.writeFileSync(NodePath.join(modules, binary), "for another machine")
    }
    return NodePath.join(home, "dist", "index.js")
  })

describe("without the native module", () => {
  for (const missing of ["koffi", "its binary", "a binary that loads"] as const) {
    it.live(`for want of ${missing}, LockUnavailable says which command mends it, and reading works`, () =>
      Effect.gen(function*() {
        const library = yield* installedWithout(missing)
        const directory = yield* temporaryDirectory
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          yield* log.append("one")
          yield* log.append("two")
        }))
        const refusal = yield* refusalOf(yield* startHolder(directory, "--library", library))
        assert.strictEqual(refusal.tag, "LockUnavailable")
        assert.strictEqual(refusal.command, "npm install --include=optional koffi")
        assert.strictEqual(refusal.directory, directory)
        assert.include(refusal.message, refusal.command ?? "no command")
        assert.match(refusal.message, /koffi cannot be loaded here: \S/)
        const reading = yield* startHolder(directory, "--library", library, "--read")
        assert.strictEqual(yield* reading.until("read"), "read 2")
        assert.strictEqual((yield* reading.ended).code, 0)
        yield* assertFree(directory)
      }))
  }
})

describe("a sentinel that is another file", () => {
  const segment = (directory: string) => NodePath.join(directory, "00000001.dwal")
  const attempt = (directory: string) => Effect.flip(Effect.scoped(Log.make({ directory, policy: "strict" })))

  it.live("by a link, is refused, and the file is left as it was", () =>
    Effect.gen(function*() {
      for (const name of ["00000001.dwal", "somebody's"]) {
        const directory = yield* temporaryDirectory
        yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("synced")))
        NFS.writeFileSync(NodePath.join(directory, "somebody's"), "a text")
        NFS.rmSync(sentinel(directory))
        NFS.symlinkSync(name, sentinel(directory))
        const before = NFS.readFileSync(NodePath.join(directory, name))
        const error = yield* attempt(directory)
        assert.strictEqual(error._tag, "IoError")
        assert.include(["ELOOP", "EMLINK"], error._tag === "IoError" ? error.code : "")
        assert.deepStrictEqual(NFS.readFileSync(NodePath.join(directory, name)), before)
      }
    }))

  it.live("by another name of a segment, is refused, and the segment is left as it was", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("synced")))
      const before = NFS.readFileSync(segment(directory))
      NFS.rmSync(sentinel(directory))
      NFS.linkSync(segment(directory), sentinel(directory))
      const error = yield* attempt(directory)
      assert.deepInclude(error, { _tag: "IoError", operation: "lock", code: "EINVAL", path: sentinel(directory) })
      assert.deepStrictEqual(NFS.readFileSync(segment(directory)), before)
    }))
})
