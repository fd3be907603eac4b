/**
 * The directory lock: one writer per directory, in this process or any other, this program or the Rust one.
 *
 * `Log` and `Kv` take it themselves; use it alone to keep writers out of a store while you copy it.
 *
 * The lock is an exclusive `flock(2)` on the open file `.lock`, not the file's existence: the kernel lets go of it
 * when the process dies, however it dies, so a leftover file is no obstacle. It is released when the scope closes, on
 * success, failure, defect and interruption. Advisory: a program that does not ask for it is not kept out.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as NodePath from "node:path"
import * as Disk from "./Disk.ts"
import { type InvalidOptions, IoError, LockHeld, type LockUnavailable } from "./Errors.ts"
import * as Frame from "./Frame.ts"
import { closedError } from "./internal/closed.ts"
import { lockOptionsError } from "./internal/options.ts"

/** The sentinel's name in the directory. @category constants @since 0.1.0 */
export const lockFileName = ".lock"

/**
 * A held lock, for as long as its scope.
 *
 * @category models
 * @since 0.1.0
 */
export interface Lock {
  /** The directory's own path: without symbolic links, from the root. */
  readonly directory: string
  readonly path: string
  /** What an earlier writer noted with `noteUnsynced`. @internal */
  readonly unsynced: Unsynced | undefined
  /**
   * Notes for the next writer that what stands from a place on may not be durable though the system says so, or that
   * it is durable again.
   *
   * @internal
   */
  readonly noteUnsynced: (unsynced: Unsynced | undefined) => Effect.Effect<void, IoError>
  /**
   * Whether `path` still leads to what was locked. If not, the directory, or its sentinel, has been moved or replaced,
   * and a second writer may hold the lock of what is there now.
   */
  readonly isCurrent: Effect.Effect<boolean, IoError>
}

/**
 * The place from which on a writer that met a failed fsync, or was not closed, left it open what is durable.
 *
 * @internal
 */
export interface Unsynced {
  readonly segment: number
  readonly offset: number
  /** Set when an fsync is known to have failed: it is not only that nobody knows. */
  readonly failed?: true | undefined
}

/**
 * How long to wait for a lock that is held: a time limit (asked again every few milliseconds at first, then every
 * 100), or a schedule of the attempts. Without it `LockHeld` comes at once.
 *
 * @category options
 * @since 0.1.0
 */
export type Wait = Duration.Input | Schedule.Schedule<unknown, LockHeld>

// Removing the sentinel between our open and our lock is a mistake, not a habit: give up rather than spin.
const replaced_attempts_max = 100

/**
 * Takes the lock of a directory, which is made if it is missing, until the scope closes.
 *
 * **Details**
 *
 * Fails with `LockHeld` when another writer has it, with `LockUnavailable` when the lock's native module cannot be
 * loaded, with `InvalidOptions` when the directory is empty or the wait neither a time nor a schedule, and with
 * `IoError` when the directory cannot be made or opened, its file system cannot lock, the sentinel is a segment
 * (`EINVAL`) or is replaced over and over (`ESTALE`). It never goes on without the lock.
 *
 * **Example** (Two writers)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Lock } from "effect-datawal"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   yield* Lock.acquire("state")
 *   return yield* Effect.flip(Lock.acquire("state"))
 * }))
 *
 * const refused = await Effect.runPromise(program)
 * refused._tag // => "LockHeld"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const acquire = (
  directory: string,
  options?: { readonly wait?: Wait | undefined }
): Effect.Effect<Lock, LockHeld | LockUnavailable | IoError | InvalidOptions, Scope.Scope> => {
  const wait = options?.wait
  const invalid = lockOptionsError(directory, wait)
  if (invalid !== undefined) return Effect.fail(invalid)
  const attempt = Effect.map(Effect.acquireRelease(take(directory), release), (lock): Lock => {
    const { directory, file, unsynced } = lock
    const path = NodePath.join(directory, lockFileName)
    // The number of a descriptor that is closed may be another file's by now.
    const whileHeld = <A>(effect: Effect.Effect<A, IoError>): Effect.Effect<A, IoError> =>
      Effect.suspend(() => held.has(lock) ? effect : Effect.fail(closedError("lock", path)))
    return {
      directory,
      path,
      unsynced,
      noteUnsynced: (unsynced) => whileHeld(file.writeText(sentinelText(unsynced))),
      isCurrent: whileHeld(file.isCurrent)
    }
  })
  if (wait === undefined) return attempt
  // Only a lock that is held is waited for.
  type Ended = Effect.Effect<Lock, IoError | LockUnavailable>
  const ended = Effect.matchEffect(attempt, {
    onFailure: (error): Effect.Effect<Ended, LockHeld> =>
      error._tag === "LockHeld" ? Effect.fail(error) : Effect.succeed(Effect.fail(error)),
    onSuccess: (lock) => Effect.succeed<Ended>(Effect.succeed(lock))
  })
  const schedule = Schedule.isSchedule(wait) ? Effect.succeed(wait) : within(wait)
  return Effect.flatMap(schedule, (schedule) => Effect.flatten(Effect.retry(ended, schedule)))
}

// By a clock that nobody sets; the last attempt is at the limit, not behind it.
const within = Effect.fnUntraced(function*(limit: Duration.Input): Effect.fn.Return<Schedule.Schedule<unknown>> {
  const limit_ms = Duration.toMillis(Duration.fromInputUnsafe(limit))
  const start = yield* Clock.monotonicTimeNanos
  const left_ms = Effect.map(Clock.monotonicTimeNanos, (now) => limit_ms - Number(now - start) / 1_000_000)
  return Schedule.exponential("5 millis").pipe(
    Schedule.modifyDelay(({ duration }) =>
      Effect.map(left_ms, (left) => Duration.millis(Math.max(0, Math.min(Duration.toMillis(duration), 100, left))))
    ),
    Schedule.while(() => Effect.map(left_ms, (left) => left > 0))
  )
})

const take = Effect.fnUntraced(function*(
  directory: string
): Effect.fn.Return<Held, LockHeld | LockUnavailable | IoError> {
  const disk = yield* Disk.Disk
  yield* disk.makeDirectory(directory)
  const home = yield* disk.realPath(directory)
  const path = NodePath.join(home, lockFileName)
  for (let attempt = 0; attempt < replaced_attempts_max; attempt++) {
    const file = yield* disk.openLock(path)
    const isOwn = (): boolean => [...held].some((lock) => lock.disk === disk && lock.directory === home)
    const lock: Held = { disk, directory: home, file, unsynced: undefined }
    const isOurs = yield* Effect.onError(settle(directory, lock, isOwn), () => release(lock))
    if (isOurs) return lock
    yield* release(lock)
  }
  return yield* new IoError({ operation: "flock", path, code: "ESTALE" })
})

interface Held {
  readonly disk: Disk.DiskService
  readonly directory: string
  readonly file: Disk.LockFile
  unsynced: Unsynced | undefined
}

/** The locks of this process. */
const held = new Set<Held>()

const release = (lock: Held): Effect.Effect<void> =>
  Effect.suspend(() => {
    held.delete(lock)
    return lock.file.close
  })

// Between our open and our lock somebody may have removed the sentinel, and a third may have made and locked a new one:
// then what we locked keeps nobody out, and the answer is `false`.
const settle = Effect.fnUntraced(function*(
  directory: string,
  lock: Held,
  isOwn: () => boolean
): Effect.fn.Return<boolean, LockHeld | LockUnavailable | IoError> {
  const { file } = lock
  // At once: whoever of this process comes while the text is read and written is refused by it, too.
  const isTaken = Effect.map(file.tryLock, (isOurs) => {
    if (isOurs) held.add(lock)
    return isOurs
  })
  if (!(yield* isTaken)) {
    const pid = Number.parseInt(yield* file.readText, 10)
    return yield* new LockHeld({ directory, pid: pid > 0 ? pid : undefined, isOwn: isOwn() })
  }
  if (!(yield* file.isCurrent)) return false
  const text = yield* file.readText
  // A hard link of that name to a segment: the pid would be written over its first records.
  if (text.startsWith(Frame.magicText)) {
    const path = NodePath.join(directory, lockFileName)
    return yield* new IoError({
      operation: "lock",
      path,
      code: "EINVAL",
      cause: "it is a segment, not a lock's sentinel"
    })
  }
  lock.unsynced = parseUnsynced(text)
  // The pid is for people; a full disk must not keep a store from being opened and repaired.
  yield* Effect.ignore(file.writeText(sentinelText(lock.unsynced)))
  return true
})

const sentinelText = (unsynced: Unsynced | undefined): string => {
  const note = unsynced === undefined ? "" : `unsynced ${unsynced.segment} ${unsynced.offset}\n`
  return `${process.pid}\n${note}${unsynced?.failed === true ? "failed\n" : ""}`
}

const parseUnsynced = (text: string): Unsynced | undefined => {
  const found = /^unsynced (\d{1,8}) (\d{1,15})\n(failed\n)?/m.exec(text)
  if (found === null) return undefined
  const place = { segment: Number(found[1]), offset: Number(found[2]) }
  return found[3] === undefined ? place : { ...place, failed: true }
}
