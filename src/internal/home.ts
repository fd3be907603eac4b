/** A store stays the directory it was opened in: what is read by name is read there, or not at all. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { Disk, type DiskFile, type DiskService, type LockFile, openScoped } from "../Disk.ts"
import { IoError } from "../Errors.ts"

/**
 * The disk, but a file that is in that directory is opened or renamed, and the directory listed, only while the path
 * still leads to the directory that it leads to now; else that is `ESTALE`. A file of another store may well hold a
 * sound record of that key and length at that place. A writer's lock tells as well, also where a directory's inode gets
 * another number in time.
 *
 * The directory is kept open as long as the scope: while it is, no directory that is made in its place gets its number.
 */
export const withinHome = (
  disk: DiskService,
  directory: string,
  lock?: { readonly isCurrent: Effect.Effect<boolean, IoError> }
): Effect.Effect<DiskService, IoError, Scope.Scope> =>
  Effect.map(Effect.andThen(keepOpen(disk, directory), disk.identity(directory)), (home) => {
    const isHome = disk.identity(directory).pipe(
      Effect.flatMap((identity) =>
        identity === home || lock === undefined ? Effect.succeed(identity === home) : lock.isCurrent
      ),
      Effect.catch((error) =>
        error.code === "ENOENT" || error.code === "ENOTDIR" ? Effect.succeed(false) : Effect.fail(error)
      )
    )
    const stale = (operation: string, path: string) =>
      new IoError({
        operation,
        path,
        code: "ESTALE",
        cause: "the store has been moved, or replaced by another"
      })
    return {
      ...disk,
      open: (path, mode, like) =>
        mode === "create" ?
          disk.open(path, mode, like) :
          Effect.uninterruptible(Effect.matchEffect(disk.open(path, mode), {
            onFailure: (error) => Effect.flatMap(isHome, (is) => Effect.fail(is ? error : stale("open", path))),
            onSuccess: (file) =>
              isHome.pipe(
                Effect.flatMap((is) => is ? Effect.succeed(file) : Effect.fail(stale("open", path))),
                Effect.tapError(() => file.close)
              )
          })),
      // What has been made beside a segment, to take its place.
      rename: (from, to) =>
        Effect.flatMap(isHome, (is) => is ? disk.rename(from, to) : Effect.fail(stale("rename", from))),
      list: (path) =>
        Effect.matchEffect(disk.list(path), {
          onFailure: (error) => Effect.flatMap(isHome, (is) => Effect.fail(is ? error : stale("list", path))),
          onSuccess: (entries) =>
            Effect.flatMap(isHome, (is) => is ? Effect.succeed(entries) : Effect.fail(stale("list", path)))
        })
    }
  })

/** Fails with `ESTALE` where the path leads to another directory by now than the one whose lock this is. */
export const atHome = (
  lock: Pick<LockFile, "isCurrent">,
  operation: string,
  path: string
): Effect.Effect<void, IoError> =>
  Effect.flatMap(lock.isCurrent, (isCurrent) =>
    isCurrent
      ? Effect.void
      : Effect.fail(new IoError({ operation, path, code: "ESTALE", cause: "its lock file was replaced" })))

/**
 * Syncs a file, and fails with `ESTALE` where the lock is the directory's still and the file is not: it was moved,
 * removed or replaced, and what is durable in it will be found by nobody. A directory that was moved as a whole has its
 * file.
 */
export const syncInPlace = (file: DiskFile, lock: Pick<LockFile, "isCurrent">): Effect.Effect<void, IoError> =>
  Effect.flatMap(file.sync, (named) => {
    if (named === "here") return Effect.void
    const isLost = named === "nowhere" ? Effect.succeed(true) : Effect.orElseSucceed(lock.isCurrent, () => false)
    return Effect.flatMap(isLost, (isLost) =>
      isLost
        ? Effect.fail(
          new IoError({ operation: "sync", path: file.path, code: "ESTALE", cause: "the file was removed or replaced" })
        )
        : Effect.void)
  })

/**
 * The directory that a reader is given, by its own path: it is this one from here on, wherever the process goes and
 * links lead.
 */
export const findHome = Effect.fnUntraced(function*(
  path: string
): Effect.fn.Return<{ readonly directory: string; readonly home: DiskService }, IoError, Scope.Scope> {
  const disk = yield* Disk
  // What is wrong with it is said of the path as it was given.
  yield* disk.list(path)
  const directory = yield* disk.realPath(path)
  return { directory, home: yield* withinHome(disk, directory) }
})

const keepOpen = (disk: DiskService, directory: string): Effect.Effect<unknown, IoError, Scope.Scope> =>
  Effect.catch(
    openScoped(disk, directory, "read"),
    // Not every disk opens directories.
    (error) => error.code === "EISDIR" ? Effect.void : Effect.fail(error)
  )
