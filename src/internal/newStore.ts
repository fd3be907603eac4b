/**
 * Building a new store in a directory of its own beside the target (`beside.ts`): the target is absent or whole.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as NodePath from "node:path"
import * as Disk from "../Disk.ts"
import { IoError, LockUnavailable, TargetRefused } from "../Errors.ts"
import type { LogService, WriteError } from "../Log.ts"
import { absolutePath, targetPath, temporaryPath } from "./beside.ts"
import type { LogParts } from "./logParts.ts"
import { openLog } from "./openLog.ts"

/** Why there is no new store. */
export type NewStoreError = IoError | TargetRefused | LockUnavailable

/** The log of a store that nobody else knows of. */
export interface NewLog {
  readonly log: LogService
  readonly parts: LogParts
}

/**
 * Makes a store at `target` of what is written into it, and makes it durable before it has its name; `source` is the
 * directory of the one it is made of.
 */
export const newStore = Effect.fnUntraced(function*<A, E>(
  target: string,
  source: string,
  write: (store: NewLog) => Effect.Effect<A, E, Scope.Scope>
): Effect.fn.Return<A, E | NewStoreError> {
  if (target === "") return yield* new TargetRefused({ target, found: "an empty path" })
  const disk = yield* Disk.Disk
  yield* refuseUsed(disk, yield* absolutePath(target), target)
  const path = yield* targetPath(disk, target, source)
  // It would be another one, and the process in none.
  if (path === workingDirectory()) return yield* new TargetRefused({ target, found: "the working directory" })
  const building = temporaryPath(path)
  let state: "building" | "named" | "durable" = "building"
  return yield* Effect.gen(function*() {
    const written = yield* Effect.scoped(Effect.gen(function*() {
      yield* disk.makeDirectory(building, path)
      const store = yield* openNew(building, path)
      const answer = yield* write(store)
      yield* sound(store.log.sync)
      return answer
    }))
    // The kernel refuses to rename over a directory that has been filled in the meantime.
    const rename = Effect.catch(
      disk.rename(building, path),
      (error) =>
        Effect.flatMap(
          refuseUsed(disk, path, target),
          () => Effect.fail(error.code === "ENOTDIR" ? new TargetRefused({ target, found: "a symbolic link" }) : error)
        )
    )
    // An interruption must not come between the steps and the knowledge of them.
    yield* Effect.uninterruptible(Effect.gen(function*() {
      yield* rename
      state = "named"
      yield* disk.syncDirectory(NodePath.dirname(path))
      state = "durable"
    }))
    return written
  }).pipe(
    // One that is durable stays, whatever comes then: others may have found it, and written to it.
    Effect.onError(() =>
      state === "durable"
        ? Effect.void
        : Effect.ignore(state === "named" ? takeBack(disk, path, building) : disk.removeTree(building))
    )
  )
})

const workingDirectory = (): string | undefined => {
  try {
    return process.cwd()
  } catch {
    // It has been removed.
    return undefined
  }
}

// As long as a crash can bring the target's name back, nothing may be taken out of it: it must be whole.
const takeBack = (
  disk: Disk.DiskService,
  path: string,
  building: string
): Effect.Effect<void, IoError> =>
  disk.rename(path, building).pipe(
    Effect.andThen(disk.syncDirectory(NodePath.dirname(path))),
    Effect.andThen(disk.removeTree(building))
  )

// The directory is new and nobody else knows its name: nobody holds its lock, and nothing in it can be damaged.
const openNew = (building: string, path: string): Effect.Effect<NewLog, IoError | LockUnavailable, Scope.Scope> =>
  openLog({ directory: building }).pipe(
    Effect.catchTag("LockHeld", () => Effect.fail(new IoError({ operation: "flock", path, code: "EAGAIN" }))),
    Effect.catchTag(["CorruptTail", "CorruptSegment", "InvalidOptions"], Effect.die),
    // The temporary directory is nobody's business.
    Effect.catchTag(
      "LockUnavailable",
      ({ cause, command }) => Effect.fail(new LockUnavailable({ directory: path, command, cause }))
    )
  )

/** What comes from a store has passed the limits, and the first failure is the last: no call follows it. */
export const sound = <A>(write: Effect.Effect<A, WriteError>): Effect.Effect<A, IoError> =>
  Effect.catchTag(write, ["LimitExceeded", "WriterPoisoned"], Effect.die)

const refuseUsed = (
  disk: Disk.DiskService,
  path: string,
  target: string
): Effect.Effect<void, IoError | TargetRefused> =>
  disk.list(path).pipe(
    Effect.catch((error) =>
      error.code === "ENOENT"
        ? Effect.succeed([])
        : Effect.fail(error.code === "ENOTDIR" ? new TargetRefused({ target, found: "a file" }) : error)
    ),
    Effect.flatMap(([first]) =>
      first === undefined ? Effect.void : Effect.fail(new TargetRefused({ target, found: first.name }))
    )
  )
