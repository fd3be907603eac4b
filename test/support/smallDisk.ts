/**
 * Small file systems of a test's own, really mounted: in a mount namespace that one process holds, so that nobody else
 * sees them and nothing of them is left when that process has ended, however the tests end. This process reaches them
 * through `/proc/PID/root`, other programs by entering the namespace. Linux only, as root or where the system allows
 * user namespaces.
 */
import { Effect } from "effect"
import type { Scope } from "effect"
import * as NodeChildProcess from "node:child_process"
import * as NFS from "node:fs"
import * as NodeOS from "node:os"
import * as NodePath from "node:path"
import { type Ended, run, start } from "./child.ts"

const isRoot = process.getuid?.() === 0

const unshareFlags = isRoot ? ["--mount"] : ["--user", "--map-root-user", "--mount"]

const enterFlags = isRoot ? ["--mount"] : ["--user", "--preserve-credentials", "--mount"]

/** `tmpfs`, or an ext4 in a file of such a one: it allocates late and in blocks, as the disks of servers do. */
export type Kind = "tmpfs" | "ext4"

interface Size {
  readonly bytes: number
  /** How many files and directories it takes. */
  readonly names: number
}

// $1 is the mount point. The image of an ext4 is a file with holes: it takes room of the tmpfs around it as it fills.
const scripts: { readonly [K in Kind | "thin"]: (size: Size) => string } = {
  tmpfs: ({ bytes, names }) => `mount -t tmpfs -o size=${bytes},nr_inodes=${names} none "$1"`,
  ext4: ({ bytes, names }) =>
    `mount -t tmpfs none "$1" && truncate -s ${bytes} "$1/image" && mkdir "$1/disk" && ${ext4(names)}`,
  thin: ({ bytes, names }) =>
    `mount -t tmpfs -o size=${bytes} none "$1" && truncate -s ${4 * bytes} "$1/image" && mkdir "$1/disk" && ` +
    ext4(names, "-O ^has_journal")
}

// Without blocks kept for root, and on error as servers have it: no more writing.
const ext4 = (names: number, features = ""): string =>
  `mke2fs -t ext4 -q -m 0 -b 1024 -N ${names} -e remount-ro ${features} "$1/image" && ` +
  `mount -o loop "$1/image" "$1/disk"`

const probe = (script: string): string | undefined => {
  const point = NFS.mkdtempSync(NodePath.join(NodeOS.tmpdir(), "datawal-probe-"))
  const tried = NodeChildProcess.spawnSync("unshare", [...unshareFlags, "sh", "-c", script, "sh", point], {
    encoding: "utf8"
  })
  NFS.rmdirSync(point)
  if (tried.error !== undefined) return tried.error.message
  return tried.status === 0 ? undefined : tried.stderr.trim().replaceAll(/\s+/g, " ") || `exit code ${tried.status}`
}

const smallest = { bytes: 2_097_152, names: 16 }

/** Why this machine cannot mount, if it cannot. */
export const refusal: { readonly [K in Kind]: string | undefined } = (() => {
  if (process.platform !== "linux") {
    const why = `mounting without a trace needs Linux, not ${process.platform}`
    return { tmpfs: why, ext4: why }
  }
  const tmpfs = probe(scripts.tmpfs(smallest))
  if (tmpfs !== undefined) return { tmpfs, ext4: tmpfs }
  return { tmpfs, ext4: isRoot ? probe(scripts.ext4(smallest)) : "only root mounts a file system in a file" }
})()

/** What to add to the name of a test that is skipped, so that its report says why. It is said aloud as well. */
export const because = (what: string, why: string | undefined): string => {
  if (why === undefined) return ""
  process.stderr.write(`SKIPPED: ${what}: ${why}\n`)
  return ` (SKIPPED: ${why})`
}

export interface SmallDisk {
  /** Where it is for this process. */
  readonly path: string
  /** Where it is for what `run` starts. */
  readonly inside: string
  /** What it stands on, as `path` and `inside`, if that is another file system. */
  readonly below: string
  readonly run: (command: string, args: ReadonlyArray<string>) => Effect.Effect<Ended>
}

const make = Effect.fnUntraced(function*(
  script: string,
  disk: string
): Effect.fn.Return<SmallDisk, Error, Scope.Scope> {
  const point = yield* Effect.acquireRelease(
    Effect.sync(() => NFS.mkdtempSync(NodePath.join(NodeOS.tmpdir(), "datawal-disk-"))),
    (point) => Effect.sync(() => NFS.rmdirSync(point))
  )
  const lines = `${script} && echo mounted && exec cat`
  const holder = yield* start("unshare", [...unshareFlags, "sh", "-c", lines, "sh", point])
  yield* holder.until("mounted")
  const root = `/proc/${holder.pid}/root`
  const inside = NodePath.join(point, disk)
  return {
    path: NodePath.join(root, inside),
    inside,
    below: NodePath.join(root, point),
    run: (command, args) => run("nsenter", ["--target", String(holder.pid), ...enterFlags, command, ...args])
  }
})

/** A file system of the given size, for as long as the scope. */
export const smallDisk = (kind: Kind, size: Size): Effect.Effect<SmallDisk, Error, Scope.Scope> =>
  make(scripts[kind](size), kind === "tmpfs" ? "" : "disk")

/**
 * An ext4 that believes to have four times the room that there is: when `below` is full, it still takes writes, and
 * cannot keep them when it is told to sync. It has no journal, so that its own notes do not fail first.
 */
export const thinDisk = (size: Size): Effect.Effect<SmallDisk, Error, Scope.Scope> => make(scripts.thin(size), "disk")

/** Ends what has gone wrong in `run`. */
export const succeed = (run: Effect.Effect<Ended>): Effect.Effect<Ended, Error> =>
  Effect.flatMap(
    run,
    (ended) =>
      ended.code === 0 ? Effect.succeed(ended) : Effect.fail(new Error(`exit code ${ended.code}: ${ended.stderr}`))
  )

/** Forgets what the system has of it in memory, as a restart would. Nothing on it may be open. */
export const mountAgain = ({ inside, run }: SmallDisk): Effect.Effect<unknown, Error> => {
  const image = NodePath.join(NodePath.dirname(inside), "image")
  return Effect.andThen(succeed(run("umount", [inside])), succeed(run("mount", ["-o", "loop", image, inside])))
}

/** Lets nobody write there any more, or again. The system refuses that while a file is open to be written. */
export const remount = (disk: SmallDisk, how: "ro" | "rw"): Effect.Effect<unknown, Error> =>
  succeed(disk.run("mount", ["-o", `remount,bind,${how}`, disk.inside]))

/** Fills a file system but for `room` bytes: the path of the file that takes it all. */
export const fillUp = (path: string, room = 0): string => {
  const ballast = NodePath.join(path, "ballast")
  const fd = NFS.openSync(ballast, "a")
  try {
    let size = NFS.fstatSync(fd).size
    for (const piece of [65_536, 1_024, 1]) {
      const bytes = Buffer.alloc(piece, 0xBA)
      for (let full = false; !full;) {
        const written = write(fd, bytes)
        size += written
        full = written < piece
      }
    }
    if (room > 0) NFS.ftruncateSync(fd, Math.max(0, size - room))
    // Whoever counts its free blocks late must have counted these.
    NFS.fsyncSync(fd)
  } finally {
    NFS.closeSync(fd)
  }
  return ballast
}

const isFull = (cause: unknown): boolean =>
  cause instanceof Error && "code" in cause && (cause.code === "ENOSPC" || cause.code === "EDQUOT")

const write = (fd: number, bytes: Buffer): number => {
  try {
    return NFS.writeSync(fd, bytes)
  } catch (cause) {
    if (isFull(cause)) return 0
    throw cause
  }
}

/** Uses up the names of a file system but for `left` of them: the directory that holds them. */
export const useUpNames = (path: string, left = 0): string => {
  const directory = NodePath.join(path, "names")
  NFS.mkdirSync(directory)
  let made = 0
  while (makeName(NodePath.join(directory, String(made)))) made++
  for (let name = made - left; name < made; name++) NFS.unlinkSync(NodePath.join(directory, String(name)))
  return directory
}

const makeName = (path: string): boolean => {
  try {
    NFS.closeSync(NFS.openSync(path, "wx"))
    return true
  } catch (cause) {
    if (isFull(cause)) return false
    throw cause
  }
}

export const free = (...paths: ReadonlyArray<string>): void => {
  for (const path of paths) NFS.rmSync(path, { recursive: true, force: true })
}
