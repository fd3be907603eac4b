/**
 * A disk in memory that fails as disks do, to find out what a program over this library has lost after a crash.
 * Everything is deterministic: one seed is one run.
 *
 * | it keeps apart | what it is |
 * | --- | --- |
 * | live | what the program sees: every call takes effect at once |
 * | durable | what a power loss cannot take: what the last `sync` of a file or `syncDirectory` of a directory covered |
 * | pending | every change since, in order: of it, some survives |
 *
 * **What a power loss leaves** of the pending changes, by `mode`:
 *
 * - `adversarial`: each 512-byte sector of a file holds any one of the contents it had since the last sync (or the
 *   durable one; never written reads as zeros), and the file has any length it had, independently. Of the names made,
 *   renamed and removed in a directory any subset survives, whether what they lead to does or not.
 * - `ordered`: everything up to one point in the order of the calls survives, and beyond it only what its own sync
 *   has made durable. The write at that point may be cut at any sector or byte.
 *
 * A rename within one directory survives whole or not at all; from one directory to another it is two changes. In
 * both modes a crash in the middle of a call is one of its possible outcomes, since a call that has not been synced
 * is pending.
 *
 * **What the death of the process leaves**: everything live. It loses the locks, and nothing becomes durable by it.
 *
 * **Faults**, at the n-th call of a kind: an error code, with nothing, half or all of the call done; a short read or
 * write; and a failed sync that has *dropped* what it could not write, as Linux does: the program still sees those
 * bytes, the disk takes them for written, later syncs report success, and the power loss takes them. Lengths and
 * names are metadata, which file systems keep in a journal: a failed sync leaves them pending, it does not drop them.
 *
 * **Not in it**: a disk that lies about a sync that succeeded, sectors that change by themselves, symbolic links,
 * permissions (but `EACCES` can be planned), and a page cache that writes a neighbouring sector along (which would
 * only mend things).
 *
 * @since 0.1.0
 */
import type * as Disk from "./Disk.ts"
import { makeDirectory, treeOf } from "./internal/simulatedFiles.ts"
import { Machine } from "./internal/simulatedMachine.ts"
import { everyChoice, leaning, mix, seeded } from "./internal/simulatedRandom.ts"
import { State } from "./internal/simulatedState.ts"

/**
 * The calls that can fail. `read` and `write` are those on the calling thread and those in the pool; finding the real
 * path of a directory is a `list`, and its identity a `size`.
 *
 * @category models
 * @since 0.1.0
 */
export type Kind =
  | "open"
  | "create"
  | "openLock"
  | "read"
  | "write"
  | "size"
  | "truncate"
  | "sync"
  | "close"
  | "tryLock"
  | "isCurrent"
  | "readText"
  | "writeText"
  | "makeDirectory"
  | "syncDirectory"
  | "list"
  | "rename"
  | "remove"
  | "removeTree"

/**
 * One call, as the disk saw it. `outcome` is `ok`, a number (of bytes), an error code, or `stopped`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Operation {
  /** Its place in the order of all calls, from 1. */
  readonly index: number
  readonly kind: Kind
  readonly path: string
  readonly detail: string
  outcome: string
}

/**
 * What goes wrong, and where: at the `nth` call (1 unless given) of a kind (any unless given) on a path that contains
 * `path`, and at the `times - 1` such calls behind it.
 *
 * - `code`: the call fails so; `landed` says how much of it has happened all the same. `dropped` is for a `sync`, and
 *   `half` of a `sync` drops some sectors and leaves others dirty.
 * - `bytes`: a read or write takes at most that many.
 * - `stop`: the machine stops before, in or after the call, and every call from it on fails without effect.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault =
  & {
    readonly kind?: Kind | undefined
    readonly path?: string | undefined
    readonly nth?: number | undefined
    readonly times?: number | undefined
  }
  & (
    | { readonly code: string; readonly landed?: "nothing" | "half" | "all" | "dropped" | undefined }
    | { readonly bytes: number }
    | { readonly stop: "before" | "half" | "after" }
  )

/**
 * What a power loss may leave: see the module's header.
 *
 * @category models
 * @since 0.1.0
 */
export type Mode = "adversarial" | "ordered"

/**
 * How a simulated disk is made.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options {
  /** Decides everything that is left to chance; 1 unless given. */
  readonly seed?: number | undefined
  /** `adversarial` unless given. */
  readonly mode?: Mode | undefined
  readonly faults?: ReadonlyArray<Fault> | undefined
  /** Directories that are there, durably. */
  readonly directories?: ReadonlyArray<string> | undefined
  /** Calls in the pool end in an order of the seed's, after other fibers have run; otherwise each ends at once. */
  readonly shuffle?: boolean | undefined
  /**
   * Told of every call, before and after it takes effect. A `fork` of the disk taken here is a crash at this very
   * point.
   */
  readonly onOperation?: ((operation: Operation, phase: "before" | "after") => void) | undefined
}

/**
 * A disk, and the machine it is in.
 *
 * @category models
 * @since 0.1.0
 */
export interface SimulatedDisk {
  /** To be provided as `Disk.Disk`. */
  readonly service: Disk.DiskService
  readonly seed: number
  readonly mode: Mode
  /** Every call so far. */
  readonly operations: ReadonlyArray<Operation>
  /** Whether it has stopped: then every call fails with `EIO`, so that the program over it comes to its end. */
  readonly stopped: boolean
  /** Descriptors open now. */
  readonly openFiles: number
  /**
   * What no correct program does: a file used after it was closed, closed twice or under a call, or synced again
   * after its sync had failed.
   */
  readonly misuse: ReadonlyArray<string>
  /**
   * Whether a power loss could take anything. While a store is open for write it could always take the lock file's
   * text: ask `survivors` about records.
   */
  readonly isDirty: boolean
  /** What the program sees: the bytes of every file by its path, `undefined` for a directory. */
  readonly files: ReadonlyMap<string, Uint8Array | undefined>
  /** The calls as lines to read: what to print when a test fails. */
  readonly script: string
  /** Plans a fault from now on. */
  readonly fail: (fault: Fault) => void
  /**
   * Loses power: this disk stops, and what a power loss leaves of it is returned, as a new one with nothing planned.
   */
  readonly crash: (options?: CrashOptions) => SimulatedDisk
  /** Ends the process: this disk stops, and the same one without locks and open files is returned. */
  readonly kill: (options?: CrashOptions) => SimulatedDisk
  /** The same disk once more, with a life of its own, and no lock held; this one goes on. */
  readonly fork: (options?: CrashOptions) => SimulatedDisk
  /**
   * What power losses now can leave: all of it, if that is at most `limit` disks, else `limit` of them. This one goes
   * on.
   */
  readonly survivors: (limit: number, options?: CrashOptions) => Array<SimulatedDisk>
}

/**
 * What is different on the disk after a crash; the rest stays as it was, but what was planned, and who is told, is
 * forgotten.
 *
 * @category options
 * @since 0.1.0
 */
export type CrashOptions = Omit<Options, "directories">

/**
 * Makes a disk with an empty root directory.
 *
 * **Example** (Nothing synced is lost)
 *
 * ```ts
 * import { Effect, Stream } from "effect"
 * import { Disk, Log } from "effect-datawal"
 * import { makeDisk, type SimulatedDisk } from "effect-datawal/testing"
 *
 * const over = (disk: SimulatedDisk) => Effect.provideService(Disk.Disk, disk.service)
 *
 * const write = Effect.scoped(Effect.gen(function*() {
 *   const log = yield* Log.make({ directory: "/orders" })
 *   yield* log.append("synced")
 *   yield* log.sync
 *   yield* log.append("only written")
 *   yield* log.append("the machine stops before this one")
 * }))
 *
 * const read = Effect.scoped(Effect.gen(function*() {
 *   const log = yield* Log.make({ directory: "/orders" })
 *   const records = yield* Stream.runCollect(log.stream)
 *   return records.map((record) => new TextDecoder().decode(record.payload))
 * }))
 *
 * const disk = makeDisk({ seed: 42, faults: [{ kind: "write", nth: 3, stop: "before" }] })
 * await Effect.runPromiseExit(write.pipe(over(disk)))
 *
 * const outcomes = new Set<string>()
 * for (const survivor of disk.survivors(100)) {
 *   outcomes.add(JSON.stringify(await Effect.runPromise(read.pipe(over(survivor)))))
 * }
 * Array.from(outcomes).sort() // => ["[\"synced\",\"only written\"]", "[\"synced\"]"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeDisk = (options: Options = {}): SimulatedDisk => {
  const state = new State()
  for (const path of options.directories ?? []) {
    makeDirectory(state, path)
    for (const node of state.nodes.values()) state.sync(node)
  }
  return over(state, options)
}

const over = (state: State, options: Options): SimulatedDisk => {
  const { faults = [], mode = "adversarial", seed = 1 } = options
  const machine = new Machine(state, {
    pick: seeded(mix(seed, 0)),
    shuffle: options.shuffle ?? false,
    onOperation: options.onOperation
  })
  for (const fault of faults) machine.plan(fault)
  // The next machine's seed is another, or it would take the same decisions again.
  const inherit = (changes: CrashOptions | undefined): Options => ({
    mode,
    seed: mix(seed, 1),
    shuffle: options.shuffle,
    ...changes
  })
  return {
    service: machine.service,
    seed,
    mode,
    operations: machine.operations,
    misuse: machine.misuse,
    get stopped() {
      return machine.stopped
    },
    get openFiles() {
      return machine.openFiles
    },
    get isDirty() {
      return state.pending.length > 0
    },
    get files() {
      return treeOf(state)
    },
    get script() {
      return [`seed ${seed}, ${mode}`, ...machine.operations.map(lineOf)].join("\n")
    },
    fail: (fault) => machine.plan(fault),
    crash: (changes) => {
      machine.stop()
      return over(state.survivors(mode, leaning(mix(changes?.seed ?? seed, 2))), inherit(changes))
    },
    kill: (changes) => {
      machine.stop()
      return over(state.fork(), inherit(changes))
    },
    fork: (changes) => over(state.fork(), inherit(changes)),
    survivors: (limit, changes) =>
      everyChoice(limit, mix(changes?.seed ?? seed, 3), (pick) => over(state.survivors(mode, pick), inherit(changes)))
  }
}

const lineOf = ({ detail, index, kind, outcome, path }: Operation): string =>
  [String(index).padStart(4), kind, path, detail, outcome === "ok" ? "" : `-> ${outcome}`].filter((part) => part !== "")
    .join(" ")
