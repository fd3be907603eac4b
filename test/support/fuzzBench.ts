/** Where a fuzzed directory stands while it is opened: in memory, or in a directory of the real disk. */
import { Effect } from "effect"
import * as NodeAssert from "node:assert/strict"
import * as NodeChildProcess from "node:child_process"
import * as NFS from "node:fs"
import * as NodeOS from "node:os"
import * as NodePath from "node:path"
import * as Disk from "../../src/Disk.ts"
import { type DiskOptions, FuzzDisk } from "./fuzzDisk.ts"
import type { Entry, Tree } from "./fuzzReference.ts"

/** What a case met, by name. */
export type Tally = (what: string) => void

export interface Bench {
  readonly directory: string
  /** What is in the directory now. */
  readonly look: () => Tree
  /** Nothing was changed, not even in a way that leaves no trace. */
  readonly expectUntouched: () => void
  /** Everything that was opened was closed, and nothing was used after that. */
  readonly expectClosed: () => void
}

/** Gives a directory of these names to `use`, and the disk it is on to what `use` opens. */
export type MakeBench = <A>(
  tree: Tree,
  options: DiskOptions,
  use: (bench: Bench) => Effect.Effect<A>
) => Effect.Effect<A>

export const inMemory: MakeBench = (tree, options, use) =>
  Effect.suspend(() => {
    const disk = new FuzzDisk(tree, options)
    const bench: Bench = {
      directory: disk.directory,
      look: () => disk.tree,
      expectUntouched: () => NodeAssert.deepEqual(disk.changes, []),
      expectClosed: () => {
        NodeAssert.deepEqual(disk.misuse, [])
        NodeAssert.equal(disk.openFiles, 0, "files are left open")
      }
    }
    return Effect.provideService(use(bench), Disk.Disk, disk.service)
  })

const root = NFS.existsSync("/dev/shm") ? "/dev/shm" : NodeOS.tmpdir()

const lay = (directory: string, name: string, entry: Entry): void => {
  const path = NodePath.join(directory, name)
  if (entry.kind === "file") NFS.writeFileSync(path, entry.bytes)
  else if (entry.kind === "directory") NFS.mkdirSync(path)
  else if (entry.kind === "link") NFS.symlinkSync(entry.to, path)
  else NodeChildProcess.execFileSync("mkfifo", [path])
}

const seen = (directory: string): Tree =>
  new Map(
    NFS.readdirSync(directory, { withFileTypes: true }).map((entry): [string, Entry] => {
      const path = NodePath.join(directory, entry.name)
      if (entry.isSymbolicLink()) return [entry.name, { kind: "link", to: NFS.readlinkSync(path) }]
      if (entry.isDirectory()) return [entry.name, { kind: "directory" }]
      if (entry.isFIFO()) return [entry.name, { kind: "pipe" }]
      return [entry.name, { kind: "file", bytes: NFS.readFileSync(path) }]
    })
  )

// A pipe is not left to a stat, which would not show a byte that was written to it.
const traces = (directory: string): ReadonlyArray<string> =>
  NFS.readdirSync(directory).sort().map((name) => {
    const { ctimeMs, ino, size } = NFS.lstatSync(NodePath.join(directory, name))
    return `${name} ${ino} ${size} ${ctimeMs}`
  })

const descriptors = (): ReadonlyArray<string> =>
  NFS.readdirSync("/proc/self/fd").flatMap((descriptor) => {
    try {
      return [NFS.readlinkSync(`/proc/self/fd/${descriptor}`)]
    } catch {
      // The one that the listing itself had open.
      return []
    }
  })

export const onDisk: MakeBench = (tree, _, use) =>
  Effect.acquireUseRelease(
    Effect.sync(() => NFS.mkdtempSync(NodePath.join(root, "datawal-fuzz-"))),
    (directory) => {
      for (const [name, entry] of tree) lay(directory, name, entry)
      const before = traces(directory)
      return use({
        directory,
        look: () => seen(directory),
        expectUntouched: () => NodeAssert.deepEqual(traces(directory), before),
        expectClosed: () => {
          if (!NFS.existsSync("/proc/self/fd")) return
          NodeAssert.deepEqual(descriptors().filter((path) => path.startsWith(directory)), [], "files are left open")
        }
      })
    },
    (directory) => Effect.sync(() => NFS.rmSync(directory, { recursive: true, force: true }))
  )
