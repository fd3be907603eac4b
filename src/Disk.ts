/**
 * The port to the operating system: every byte the store reads or writes goes through it.
 *
 * `Disk` is a narrow interface of the bare calls, with Node's file system as its default, so that a program can run the
 * whole store over a disk that fails on purpose. Most programs never mention it. The functions below the interface
 * (`readFully`, `appendFully` …) hold the rules that every implementation shares.
 *
 * Rules of the room:
 *
 * - A call that has begun is never abandoned: no effect of a `Disk` can be interrupted halfway, so no byte lands
 *   after its caller went on.
 * - `appendNow` and `readNow` run on the calling thread and are for at most `blocking_bytes_max`; everything larger,
 *   every sync and every scan goes to the thread pool, so nothing holds the event loop for long; nor do many calls,
 *   each of them short, since `isTurnOver` says when others should have their turn.
 * - A short read or write is not an error, and `EINTR` is not one either: the functions below go on where it stopped.
 *   An fsync is never repeated.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Path from "node:path"
import { IoError, type LockUnavailable } from "./Errors.ts"
import { nodeDisk } from "./internal/nodeDisk.ts"

/**
 * The most bytes that are read or written on the calling thread. At about 3 GB/s of page cache this holds the event
 * loop for under a tenth of a millisecond, a fraction of what handing them to the thread pool and back takes.
 *
 * @category constants
 * @since 0.1.0
 */
export const blocking_bytes_max = 262_144

/**
 * An open file. Offsets and sizes are bytes.
 *
 * @category models
 * @since 0.1.0
 */
export interface DiskFile {
  readonly path: string
  /** Reads into `into[start, end)` from `position`, on this thread: the count, less at the end of the file. */
  readonly readNow: (into: Uint8Array, start: number, end: number, position: number) => number | IoError
  /** The same in the thread pool. */
  readonly read: (into: Uint8Array, start: number, end: number, position: number) => Effect.Effect<number, IoError>
  /** Writes `bytes[start, end)` behind the end of the file, on this thread: the count the kernel took. */
  readonly appendNow: (bytes: Uint8Array, start: number, end: number) => number | IoError
  /** The same in the thread pool. */
  readonly append: (bytes: Uint8Array, start: number, end: number) => Effect.Effect<number, IoError>
  /** Writes `bytes[start, end)` over what stands at `position`, in the thread pool. For files opened to `update`. */
  readonly overwrite: (
    bytes: Uint8Array,
    start: number,
    end: number,
    position: number
  ) => Effect.Effect<number, IoError>
  readonly size: Effect.Effect<number, IoError>
  readonly truncate: (size: number) => Effect.Effect<void, IoError>
  /**
   * Makes everything written to the file durable, with its size (`fdatasync`, a full flush on macOS). Says where the
   * file was when that began.
   */
  readonly sync: Effect.Effect<Whereabouts, IoError>
  /** Never fails: there is nothing left to do about it. */
  readonly close: Effect.Effect<void>
}

/**
 * Of an open file: its path leads to it (`here`), only another name does (`elsewhere`), or none (`nowhere`).
 *
 * @category models
 * @since 0.1.0
 */
export type Whereabouts = "here" | "elsewhere" | "nowhere"

/**
 * The lock's sentinel, opened.
 *
 * @category models
 * @since 0.1.0
 */
export interface LockFile {
  /** Takes the exclusive lock without waiting: `false` when another open file holds it. */
  readonly tryLock: Effect.Effect<boolean, IoError | LockUnavailable>
  /** Whether the path still names this very file. */
  readonly isCurrent: Effect.Effect<boolean, IoError>
  readonly readText: Effect.Effect<string, IoError>
  /** Replaces the text. The old one is never gone before the new one is there. */
  readonly writeText: (text: string) => Effect.Effect<void, IoError>
  /** Closes it, which releases the lock. */
  readonly close: Effect.Effect<void>
}

/**
 * How a file is opened: `read` an existing one, `append` to an existing one, `create` one to append to, which must not
 * exist, or `update` an existing one in place. All but the first can be read as well.
 *
 * @category models
 * @since 0.1.0
 */
export type OpenMode = "read" | "append" | "create" | "update"

/**
 * A name in a directory. `isFile` says whether it names a regular file, if need be through a symbolic link.
 *
 * @category models
 * @since 0.1.0
 */
export interface DiskEntry {
  readonly name: string
  readonly isFile: boolean
  readonly isLink: boolean
}

/**
 * The calls the store makes.
 *
 * @category models
 * @since 0.1.0
 */
export interface DiskService {
  /**
   * A directory can be opened as well, with mode `read`, to keep it: or fails with `EISDIR`, where a disk cannot. What
   * is created to replace what is at `like` has no more rights (the mode) than that, from the start.
   */
  readonly open: (path: string, mode: OpenMode, like?: string) => Effect.Effect<DiskFile, IoError>
  readonly openLock: (path: string) => Effect.Effect<LockFile, IoError>
  /**
   * Makes a directory and its missing parents; one that is there is fine. `syncAncestors` makes them durable. `like` is
   * as for `open`.
   */
  readonly makeDirectory: (path: string, like?: string) => Effect.Effect<void, IoError>
  /**
   * The path from the root and without symbolic links, where such a path leads there: it still does when those are
   * changed. Otherwise the nearest to it that does.
   */
  readonly realPath: (path: string) => Effect.Effect<string, IoError>
  /** Makes the entries of a directory durable. */
  readonly syncDirectory: (path: string) => Effect.Effect<void, IoError>
  /** What is in a directory. */
  readonly list: (path: string) => Effect.Effect<ReadonlyArray<DiskEntry>, IoError>
  /**
   * What is replaced, a file or an empty directory, leaves its rights (the mode) to what replaces it; a file its owner
   * and its group as well, as far as the system lets this process give them.
   */
  readonly rename: (from: string, to: string) => Effect.Effect<void, IoError>
  readonly remove: (path: string) => Effect.Effect<void, IoError>
  /**
   * A text that changes with every change of the file at a path, whoever makes it, and with another file in its place;
   * of a directory, only with another in its place. It is compared, never read; a copy has another one.
   */
  readonly identity: (path: string) => Effect.Effect<string, IoError>
  /** Removes a directory with all that is in it; one that is missing is fine. */
  readonly removeTree: (path: string) => Effect.Effect<void, IoError>
  /**
   * Whether this thread has kept the event loop waiting for long enough: whoever could go on yields first. To be asked
   * between any two of many calls on this thread, or `records` handled on it. How long that takes is known only
   * afterwards: a page that is not in memory takes a thousand times as long as one that is.
   */
  readonly isTurnOver: (records?: number) => boolean
}

/**
 * The disk in use. The default is Node's file system; provide another to run the store over it.
 *
 * @category services
 * @since 0.1.0
 */
export const Disk: Context.Reference<DiskService> = Context.Reference<DiskService>("effect-datawal/Disk", {
  defaultValue: () => nodeDisk
})

/**
 * Opens a file for as long as the scope lasts.
 *
 * @internal
 */
export const openScoped = (
  disk: DiskService,
  path: string,
  mode: OpenMode
): Effect.Effect<DiskFile, IoError, Scope.Scope> => Effect.acquireRelease(disk.open(path, mode), (file) => file.close)

/**
 * Reads `into[start, end)` from `position` in the thread pool: the count, which is less only at the end of the file.
 *
 * @internal
 */
export const readFully = Effect.fnUntraced(function*(
  file: DiskFile,
  into: Uint8Array,
  start: number,
  end: number,
  position: number
): Effect.fn.Return<number, IoError> {
  let at = start
  let size_then = -1
  while (at < end) {
    const here = position + at - start
    const count = yield* retryInterrupted(file.read(into, at, end, here))
    at += count
    if (count > 0) {
      size_then = -1
      continue
    }
    const size = yield* file.size
    if (size <= here) break
    // Nothing, twice, of what the file had both times, and no growth between them: taken for its end, it would be a
    // tail to cut, or a log without records.
    if (size === size_then) return yield* new IoError({ operation: "read", path: file.path, code: "EIO" })
    size_then = size
  }
  return at - start
})

/**
 * `readFully` on the calling thread, for at most `blocking_bytes_max`.
 *
 * @internal
 */
export const readFullyNow = (
  file: DiskFile,
  into: Uint8Array,
  start: number,
  end: number,
  position: number
): number | IoError => {
  let at = start
  while (at < end) {
    const count = file.readNow(into, at, end, position + at - start)
    if (typeof count !== "number") {
      if (count.code === "EINTR") continue
      return count
    }
    if (count === 0) break
    at += count
  }
  return at - start
}

/**
 * Appends `bytes[start, end)` in the thread pool. When it fails, some of them may be in the file.
 *
 * @internal
 */
export const appendFully = Effect.fnUntraced(function*(
  file: DiskFile,
  bytes: Uint8Array,
  start: number,
  end: number
): Effect.fn.Return<void, IoError> {
  let at = start
  while (at < end) {
    const count = yield* retryInterrupted(file.append(bytes, at, end))
    if (count === 0) return yield* tookNothing(file)
    at += count
  }
}, Effect.uninterruptible)

/**
 * Writes `bytes[start, end)` over what stands at `position`, in the thread pool.
 *
 * @internal
 */
export const overwriteFully = Effect.fnUntraced(function*(
  file: DiskFile,
  bytes: Uint8Array,
  start: number,
  end: number,
  position: number
): Effect.fn.Return<void, IoError> {
  let at = start
  while (at < end) {
    const count = yield* retryInterrupted(file.overwrite(bytes, at, end, position + at - start))
    if (count === 0) return yield* tookNothing(file)
    at += count
  }
}, Effect.uninterruptible)

/**
 * `appendFully` on the calling thread, for at most `blocking_bytes_max`: `undefined` when all is written.
 *
 * @internal
 */
export const appendFullyNow = (
  file: DiskFile,
  bytes: Uint8Array,
  start: number,
  end: number
): IoError | undefined => {
  let at = start
  try {
    while (at < end) {
      const count = file.appendNow(bytes, at, end)
      if (typeof count !== "number") {
        if (count.code === "EINTR") continue
        return count
      }
      if (count === 0) return tookNothing(file)
      at += count
    }
  } catch (cause) {
    return defectError(file.path, cause)
  }
  return undefined
}

/**
 * The failure that a disk's defect is to whoever was writing: some of the bytes may be in the file.
 *
 * @internal
 */
export const defectError = (path: string, cause: unknown): IoError =>
  new IoError({ operation: "write", path, code: "UNKNOWN", cause })

/**
 * Makes a directory's own entry durable, and those of all directories above it, whoever made them: a process that died
 * at once may have. One that may not be opened, or that cannot be synced, is passed over.
 *
 * @internal
 */
export const syncAncestors = Effect.fnUntraced(function*(
  disk: DiskService,
  path: string
): Effect.fn.Return<void, IoError> {
  let directory = Path.resolve(path)
  while (directory !== Path.dirname(directory)) {
    directory = Path.dirname(directory)
    yield* Effect.catch(
      disk.syncDirectory(directory),
      (error) => unsyncable.has(error.code) ? Effect.void : Effect.fail(error)
    )
  }
})

const unsyncable: ReadonlySet<string> = new Set(["EACCES", "EPERM", "EROFS", "EINVAL"])

// A regular file that takes no byte and reports no error would be asked for ever.
const tookNothing = (file: DiskFile): IoError => new IoError({ operation: "write", path: file.path, code: "ENOSPC" })

const retryInterrupted = <A>(effect: Effect.Effect<A, IoError>): Effect.Effect<A, IoError> =>
  Effect.catch(effect, (error) => error.code === "EINTR" ? retryInterrupted(effect) : Effect.fail(error))
