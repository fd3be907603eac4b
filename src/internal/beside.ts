/**
 * Building beside a target: under another name in its directory, made durable there, and then renamed. Under the
 * target's name stands the old one or the whole new one, whatever happens on the way. Only this process's death leaves
 * what it was building: of the files of a store one at most for each name, which the next call removes.
 */
import * as Effect from "effect/Effect"
import * as Crypto from "node:crypto"
import * as NodePath from "node:path"
import * as Disk from "../Disk.ts"
import { IoError, TargetRefused } from "../Errors.ts"

/** A path beside a target: hidden, and random, so that it can be nobody else's. */
export const temporaryPath = (target: string): string => {
  const name = Buffer.from(NodePath.basename(target)).subarray(0, 200).toString("utf8")
  const random = Crypto.randomBytes(9).toString("base64url")
  return NodePath.join(NodePath.dirname(target), `.${name}.${random}.tmp`)
}

/** Where whoever has the lock of a store builds a file of it: hidden, so that it is no copy of a user's. */
const ownTemporaryPath = (target: string): string =>
  NodePath.join(NodePath.dirname(target), `.${NodePath.basename(target)}.tmp`)

/** The path from the root. What is relative leads nowhere once the working directory has been removed. */
export const absolutePath = (path: string): Effect.Effect<string, IoError> =>
  Effect.try({
    try: () => NodePath.resolve(path),
    catch: (cause) => new IoError({ operation: "resolve", path, code: "ENOENT", cause })
  })

/**
 * Makes the directory of a target, and makes it durable: the path of the target in it, whatever becomes of links.
 * Nothing is made in the directory of the store `source`, where one name may be a segment's.
 */
export const targetPath = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  path: string,
  source: string
): Effect.fn.Return<string, IoError | TargetRefused> {
  const given = yield* absolutePath(path)
  const there = yield* realAncestor(disk, NodePath.dirname(given))
  if (yield* isWithin(disk, there, source)) {
    return yield* new TargetRefused({ target: path, found: "the directory of the store" })
  }
  yield* disk.makeDirectory(NodePath.dirname(given))
  const parent = yield* disk.realPath(NodePath.dirname(given))
  yield* Disk.syncAncestors(disk, parent)
  return NodePath.join(parent, NodePath.basename(given))
})

/** Whether a directory is another or lies in it, by whatever names: one can be mounted in a second place. */
const isWithin = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  path: string,
  directory: string
): Effect.fn.Return<boolean, IoError> {
  // One that has been moved is not there by its name.
  const home = yield* Effect.catch(
    disk.identity(directory),
    (error) => error.code === "ENOENT" ? Effect.undefined : Effect.fail(error)
  )
  for (let at = path;; at = NodePath.dirname(at)) {
    if (at === directory || (yield* disk.identity(at)) === home) return true
    if (at === NodePath.dirname(at)) return false
  }
})

/** The real path of a directory, or of the nearest above it that is there. */
const realAncestor = (disk: Disk.DiskService, path: string): Effect.Effect<string, IoError> =>
  Effect.catch(disk.realPath(path), (error) => {
    const parent = NodePath.dirname(path)
    return error.code !== "ENOENT" || parent === path ? Effect.fail(error) : realAncestor(disk, parent)
  })

/**
 * Writes a file to `building`, a name that is this call's alone, and puts it in the place of `target`, durably. What
 * fails leaves nothing under the first name.
 */
export const replaceFile = <A, E>(
  disk: Disk.DiskService,
  target: string,
  building: string,
  write: (file: Disk.DiskFile) => Effect.Effect<A, E>
): Effect.Effect<A, E | IoError> =>
  Effect.acquireUseRelease(
    disk.open(building, "create", target),
    (file) => Effect.tap(write(file), file.sync),
    (file) => file.close
  ).pipe(
    // Without a stop between: what has the target's name is to have it durably.
    Effect.tap(Effect.uninterruptible(
      Effect.andThen(disk.rename(building, target), disk.syncDirectory(NodePath.dirname(target)))
    )),
    Effect.onError(() => Effect.ignore(disk.remove(building)))
  )

/**
 * `replaceFile` for a file of a store whose lock is held: what a process that died has left of an earlier try is
 * removed.
 */
export const replaceOwn = <A, E>(
  disk: Disk.DiskService,
  target: string,
  write: (file: Disk.DiskFile) => Effect.Effect<A, E>
): Effect.Effect<A, E | IoError> => {
  const building = ownTemporaryPath(target)
  const removed = Effect.catch(
    disk.remove(building),
    (error) => error.code === "ENOENT" ? Effect.void : Effect.fail(error)
  )
  return Effect.andThen(removed, replaceFile(disk, target, building, write))
}
