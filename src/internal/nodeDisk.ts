/**
 * The `Disk` of Node: `node:fs`, and for the lock `flock(2)`. Where that cannot be bound only locking fails: reading
 * needs no native code.
 */
import * as Effect from "effect/Effect"
import * as NFS from "node:fs"
import { constants } from "node:os"
import * as Path from "node:path"
// Not the global one: what a test puts in its place, and takes away again, would never be called.
import { setImmediate } from "node:timers"
import type { DiskFile, DiskService, LockFile, OpenMode, Whereabouts } from "../Disk.ts"
import { IoError, LockUnavailable } from "../Errors.ts"
import { flock } from "./flock.ts"
import { besideIdleFiles } from "./idleFiles.ts"

const ioError = (operation: string, path: string, cause: unknown): IoError =>
  new IoError({ operation, path, code: codeOf(cause), cause })

const codeOf = (cause: unknown): string => {
  if (typeof cause !== "object" || cause === null) return "UNKNOWN"
  const code = "code" in cause && typeof cause.code === "string" ? cause.code : "UNKNOWN"
  if (!/^unknown/i.test(code)) return code
  // Node has no name of its own for some, such as that of a disk quota.
  const errno = "errno" in cause ? cause.errno : undefined
  const named = Object.entries(constants.errno).find(([, number]) => typeof errno === "number" && number === -errno)
  return named?.[0] ?? code
}

type Callback<A> = (error: NodeJS.ErrnoException | null, value: A) => void

/** One call in the thread pool. It cannot be interrupted: Node would go on with it behind the caller's back. */
const pooled = <A>(
  operation: string,
  path: string,
  call: (done: Callback<A>) => void
): Effect.Effect<A, IoError> =>
  Effect.uninterruptible(Effect.callback<A, IoError>((resume) => {
    const done: Callback<A> = (error, value) =>
      resume(error === null ? Effect.succeed(value) : Effect.fail(ioError(operation, path, error)))
    try {
      call(done)
    } catch (cause) {
      resume(Effect.fail(ioError(operation, path, cause)))
    }
  }))

const pooledVoid = (
  operation: string,
  path: string,
  call: (done: (error: NodeJS.ErrnoException | null) => void) => void
): Effect.Effect<void, IoError> => pooled<void>(operation, path, (done) => call((error) => done(error, undefined)))

const { O_APPEND, O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR } = NFS.constants

const openFlags: { readonly [Mode in OpenMode]: number } = {
  read: O_RDONLY,
  // Never through a link: the file is another directory's, whose lock is another.
  append: O_RDWR | O_APPEND | O_NOFOLLOW,
  create: O_RDWR | O_APPEND | O_CREAT | O_EXCL,
  // Not O_APPEND, with which Linux ignores the position of a write.
  update: O_RDWR | O_NOFOLLOW
}

/** Whether the path still names that very file. */
const leadsTo = (path: string, fd: number): boolean => isSame(NFS.fstatSync(fd, { bigint: true }), path)

const isSame = ({ dev, ino }: NFS.BigIntStats, path: string): boolean => {
  const there = NFS.statSync(path, { bigint: true, throwIfNoEntry: false })
  return there !== undefined && there.ino === ino && there.dev === dev
}

// While the disk is at work this thread looks where the path leads: that takes a twentieth of an fsync. What it cannot
// find out is as it was. There are file systems that count no links.
const sync = (path: string, fd: number): DiskFile["sync"] => {
  let own: NFS.BigIntStats | undefined
  let named: Whereabouts = "here"
  const look = (): void => {
    try {
      own ??= NFS.fstatSync(fd, { bigint: true })
      named = isSame(own, path) ? "here" : NFS.fstatSync(fd).nlink > 0 ? "elsewhere" : "nowhere"
    } catch {
      named = "here"
    }
  }
  const synced = pooledVoid("sync", path, (done) => {
    NFS.fdatasync(fd, done)
    look()
  })
  return Effect.map(synced, () => named)
}

const makeFile = (path: string, fd: number): DiskFile => ({
  path,
  readNow: (into, start, end, position) => {
    try {
      return NFS.readSync(fd, into, start, end - start, position)
    } catch (cause) {
      return ioError("read", path, cause)
    }
  },
  read: (into, start, end, position) =>
    pooled<number>("read", path, (done) => NFS.read(fd, into, start, end - start, position, done)),
  appendNow: (bytes, start, end) => {
    try {
      return NFS.writeSync(fd, bytes, start, end - start)
    } catch (cause) {
      return ioError("write", path, cause)
    }
  },
  append: (bytes, start, end) =>
    pooled<number>("write", path, (done) => NFS.write(fd, bytes, start, end - start, null, done)),
  overwrite: (bytes, start, end, position) =>
    pooled<number>("write", path, (done) => NFS.write(fd, bytes, start, end - start, position, done)),
  size: Effect.map(pooled<NFS.Stats>("stat", path, (done) => NFS.fstat(fd, done)), (stats) => stats.size),
  truncate: (size) => pooledVoid("truncate", path, (done) => NFS.ftruncate(fd, size, done)),
  sync: sync(path, fd),
  close: close(path, fd)
})

const unclosed = (error: IoError): Effect.Effect<void> => Effect.logDebug("the descriptor could not be closed", error)

const close = (path: string, fd: number): Effect.Effect<void> =>
  Effect.catch(pooledVoid("close", path, (done) => NFS.close(fd, done)), unclosed)

const openDescriptor = (
  operation: string,
  path: string,
  flags: number,
  rights = 0o666
): Effect.Effect<number, IoError> =>
  besideIdleFiles(pooled<number>(operation, path, (done) => NFS.open(path, flags, rights, done)))

/** The rights of what is at a path, as far as they are among the usual ones. */
const rightsOf = (path: string | undefined, usual: number): Effect.Effect<number> =>
  path === undefined
    ? Effect.succeed(usual)
    : Effect.match(statOf(path), {
      onSuccess: ({ mode }) => Number(mode) & usual,
      onFailure: () => usual
    })

const open: DiskService["open"] = (path, mode, like) =>
  Effect.uninterruptible(Effect.map(
    mode === "create"
      ? Effect.flatMap(rightsOf(like, 0o666), (rights) => openDescriptor("create", path, openFlags.create, rights))
      : openDescriptor("open", path, openFlags[mode]),
    (fd) => makeFile(path, fd)
  ))

/** As much as `LockFile` has of it. */
const text_bytes_max = 64

const readTextOf = (fd: number): string => {
  const bytes = Buffer.alloc(text_bytes_max)
  for (let length = 0, misses = 0;;) {
    const count = unlessInterrupted(() => NFS.readSync(fd, bytes, length, bytes.length - length, length))
    length += count
    if (length >= Math.min(bytes.length, NFS.fstatSync(fd).size)) return bytes.toString("latin1", 0, length)
    misses = count === 0 ? misses + 1 : 0
    // Nothing, twice, of what the file has: a part of it is not what it says.
    if (misses === 2) throw Object.assign(new Error("nothing was read"), { code: "EIO" })
  }
}

const unlessInterrupted = (call: () => number): number => {
  for (;;) {
    try {
      return call()
    } catch (cause) {
      if (codeOf(cause) !== "EINTR") throw cause
    }
  }
}

/** All from `at` on: what a call wrote before it failed is told as its success, and the next one fails. */
const writeAt = (path: string, fd: number, bytes: Buffer, at: number): Effect.Effect<void, IoError> =>
  at === bytes.length ? Effect.void : Effect.flatMap(
    pooled<number>("write", path, (done) => NFS.write(fd, bytes, at, bytes.length - at, at, done)),
    (count) =>
      count === 0
        ? Effect.fail(new IoError({ operation: "write", path, code: "EIO" }))
        : writeAt(path, fd, bytes, at + count)
  )

const makeLockFile = (path: string, fd: number): LockFile => ({
  tryLock: tryLock(path, fd),
  isCurrent: Effect.try({
    try: () => leadsTo(path, fd),
    catch: (cause) => ioError("stat", path, cause)
  }),
  readText: Effect.try({
    try: () => readTextOf(fd),
    catch: (cause) => ioError("read", path, cause)
  }),
  // In this order a full disk, which refuses new blocks, still lets the text be replaced. In the pool, since a write
  // can have to wait for an fsync that is under way.
  writeText: (text) =>
    Effect.uninterruptible(Effect.andThen(
      writeAt(path, fd, Buffer.from(text, "latin1"), 0),
      pooledVoid("write", path, (done) => NFS.ftruncate(fd, text.length, done))
    )),
  // Not in the pool: of a worker thread that is terminated meanwhile it would stay open, and the store locked.
  close: Effect.catch(
    Effect.try({
      try: () => {
        // A child process that another thread is starting just then has the descriptor, too, until it runs its program.
        if ("unlock" in flock) flock.unlock(fd)
        NFS.closeSync(fd)
      },
      catch: (cause) => ioError("close", path, cause)
    }),
    unclosed
  )
})

const tryLock = (path: string, fd: number): Effect.Effect<boolean, IoError | LockUnavailable> =>
  Effect.suspend((): Effect.Effect<boolean, IoError | LockUnavailable> => {
    if ("cause" in flock) return Effect.fail(new LockUnavailable({ directory: Path.dirname(path), ...flock }))
    for (;;) {
      const code = flock.tryExclusive(fd)
      if (code === undefined) return Effect.succeed(true)
      if (code === "EAGAIN" || code === "EWOULDBLOCK") return Effect.succeed(false)
      if (code !== "EINTR") return Effect.fail(new IoError({ operation: "flock", path, code }))
    }
  })

// Never through a link: what it leads to would be written over.
const openLock = (path: string): Effect.Effect<LockFile, IoError> =>
  Effect.map(openDescriptor("open", path, O_RDWR | O_CREAT | O_NOFOLLOW), (fd) => makeLockFile(path, fd))

// In numbers of 64 bits, as some file systems give them: rounded, two could be the same.
const statOf = (path: string): Effect.Effect<NFS.BigIntStats, IoError> =>
  pooled<NFS.BigIntStats>("stat", path, (done) => NFS.stat(path, { bigint: true }, done))

// Some links have a text that leads elsewhere, or nowhere, from here (`/proc/PID/root`); and of a directory above the
// process's own it may not be allowed to pass. So of each, the best first, it is asked whether it leads there.
const realPath: DiskService["realPath"] = Effect.fnUntraced(function*(path) {
  const { dev, ino } = yield* statOf(path)
  const leadsThere = (candidate: string): Effect.Effect<string, IoError | undefined> =>
    Effect.flatMap(
      statOf(candidate),
      (there) => there.ino === ino && there.dev === dev ? Effect.succeed(candidate) : Effect.fail(undefined)
    )
  return yield* pooled<string>("resolve", path, (done) => NFS.realpath.native(path, done)).pipe(
    Effect.flatMap(leadsThere),
    // The process's own directory may have been removed.
    Effect.catch(() =>
      Effect.flatMap(Effect.try({ try: () => Path.resolve(path), catch: () => undefined }), leadsThere)
    ),
    Effect.orElseSucceed(() => path)
  )
})

const rights = 0o7777n

// What is replaced may have been for its owner only. There are file systems that have no rights to set.
const keepRights = (from: string, to: string): Effect.Effect<void, IoError> =>
  Effect.gen(function*() {
    const there = yield* Effect.catch(
      statOf(to),
      (error) => error.code === "ENOENT" ? Effect.undefined : Effect.fail(error)
    )
    if (there === undefined) return
    const own = yield* statOf(from)
    if (there.isFile()) yield* keepOwner(from, own, there)
    if ((there.mode & rights) === (own.mode & rights)) return
    yield* pooledVoid("set the rights", from, (done) => NFS.chmod(from, Number(there.mode & rights), done))
  })

// Else a service would be shut out of what its administrator has mended. Only the administrator may give a file away;
// others still leave it to its group. Never through a link, which who owns the directory may have put there.
const keepOwner = (path: string, own: NFS.BigIntStats, { gid, uid }: NFS.BigIntStats): Effect.Effect<void> => {
  const give = (to: bigint) =>
    pooledVoid("set the owner", path, (done) => NFS.lchown(path, Number(to), Number(gid), done))
  if (own.uid === uid && own.gid === gid) return Effect.void
  return Effect.ignore(Effect.catch(give(uid), () => give(own.uid)))
}

const syncDirectory = (path: string): Effect.Effect<void, IoError> =>
  Effect.acquireUseRelease(
    openDescriptor("open", path, O_RDONLY),
    (fd) => pooledVoid("sync directory", path, (done) => NFS.fsync(fd, done)),
    (fd) => close(path, fd)
  )

// On this thread: the kernel has the inode of a file that is in use, and a store has one for each of its segments. The
// change time is the kernel's own, nobody can set it back.
const identity: DiskService["identity"] = (path) =>
  Effect.try({
    try: () => {
      const stats = NFS.statSync(path, { bigint: true })
      const { ctimeNs, dev, ino, mtimeNs, size } = stats
      return stats.isDirectory() ? `${dev} ${ino}` : `${ino} ${size} ${mtimeNs} ${ctimeNs}`
    },
    catch: (cause) => ioError("stat", path, cause)
  })

const list: DiskService["list"] = (path) =>
  Effect.map(
    besideIdleFiles(
      pooled<Array<NFS.Dirent>>("list", path, (done) => NFS.readdir(path, { withFileTypes: true }, done))
    ),
    (entries) =>
      entries.map((entry) => ({ name: entry.name, isFile: isFile(path, entry), isLink: entry.isSymbolicLink() }))
  )

// A directory entry may not know its type, and a symbolic link to a segment counts as that segment. A link that leads
// nowhere is no file; of one that may not be followed it is for the open to say so, rather than to overlook a segment.
const isFile = (directory: string, entry: NFS.Dirent): boolean => {
  if (entry.isFile() || entry.isDirectory()) return entry.isFile()
  try {
    return NFS.statSync(Path.join(directory, entry.name), { throwIfNoEntry: false })?.isFile() === true
  } catch (cause) {
    return ioError("stat", directory, cause).code !== "ELOOP"
  }
}

/** In milliseconds. Of programs that never wait by themselves, this is how late the event loop is. */
const turn_ms = 2
/** A look at the clock takes 45 ns, a twentieth of the shortest call. */
const records_per_look = 4

let records = 0
/** Since when this thread has been busy: since the first look after the event loop went round. */
let busySince: number | undefined
let isOver = false

const beginTurn = (): void => {
  busySince = undefined
  isOver = false
}

const isTurnOver = (count = 1): boolean => {
  records += count
  if (isOver || records < records_per_look) return isOver
  records = 0
  const now = performance.now()
  if (busySince === undefined) {
    busySince = now
    setImmediate(beginTurn)
  }
  isOver = now - busySince > turn_ms
  return isOver
}

// One level at a time: Node's own recursive mkdir says ENOENT, whatever the reason (a full or a read-only disk) was.
const makeDirectory: DiskService["makeDirectory"] = (path, like) =>
  Effect.catch(makeOneDirectory(path, like), (error) => {
    const parent = Path.dirname(path)
    if (error.code !== "ENOENT" || parent === path) return Effect.fail(error)
    return Effect.andThen(makeDirectory(parent), makeOneDirectory(path, like))
  })

const makeOneDirectory: DiskService["makeDirectory"] = (path, like) =>
  Effect.catch(
    Effect.flatMap(
      rightsOf(like, 0o777),
      (rights) => pooledVoid("create directory", path, (done) => NFS.mkdir(path, rights, done))
    ),
    (error) =>
      Effect.matchEffect(statOf(path), {
        // Of a link that leads nowhere, or where this process may not go, that something is there says nothing.
        onFailure: (why) => Effect.fail(error.code === "EEXIST" ? why : error),
        onSuccess: (there) => there.isDirectory() ? Effect.void : Effect.fail(error)
      })
  )

export const nodeDisk: DiskService = {
  open,
  openLock,
  makeDirectory,
  realPath,
  syncDirectory,
  list,
  identity,
  rename: (from, to) =>
    Effect.andThen(keepRights(from, to), pooledVoid("rename", from, (done) => NFS.rename(from, to, done))),
  remove: (path) => pooledVoid("remove", path, (done) => NFS.unlink(path, done)),
  removeTree: (path) => pooledVoid("remove", path, (done) => NFS.rm(path, { recursive: true, force: true }, done)),
  isTurnOver
}
