/**
 * A simulated machine: the calls of a `DiskService` over a `State`, with what was planned to go wrong, until it
 * stops. The fault model is in the header of `testing.ts`, what is kept of the bytes in `simulatedState.ts`.
 */
import * as Effect from "effect/Effect"
import * as NodePath from "node:path"
import type { DiskFile, DiskService, LockFile, OpenMode, Whereabouts } from "../Disk.ts"
import { IoError } from "../Errors.ts"
import type { Fault, Kind, Operation } from "../testing.ts"
import * as Files from "./simulatedFiles.ts"
import type { Node, Pick, State } from "./simulatedState.ts"

/** The names that the real disk gives to its operations. */
const operationNames: { readonly [K in Kind]: string } = {
  open: "open",
  create: "create",
  openLock: "open",
  read: "read",
  write: "write",
  size: "stat",
  truncate: "truncate",
  sync: "sync",
  close: "close",
  tryLock: "flock",
  isCurrent: "stat",
  readText: "read",
  writeText: "write",
  makeDirectory: "create directory",
  syncDirectory: "sync directory",
  list: "list",
  rename: "rename",
  remove: "remove",
  removeTree: "remove"
}

/** How much of a call takes place. */
interface Extent {
  /** At most that many bytes. */
  readonly bytes: number
  /** Half of a write. */
  readonly half: boolean
  /** Of a sync: what is dirty is forgotten instead of written. */
  readonly dropped: boolean
}

const whole: Extent = { bytes: Number.POSITIVE_INFINITY, half: false, dropped: false }

interface Handle {
  readonly path: string
  readonly node: Node
  readonly mode: OpenMode | "lock"
  open: boolean
  underWay: number
  syncFailed: boolean
}

interface Planned {
  readonly fault: Fault
  skip: number
  times: number
}

/** The last two answers of so many say that the turn is over: whoever asks again before it yields is told the same. */
const asked_per_turn = 8

interface Setup {
  readonly pick: Pick
  readonly shuffle: boolean
  readonly onOperation: ((operation: Operation, phase: "before" | "after") => void) | undefined
}

const { isRefused, Refused } = Files

export class Machine {
  readonly state: State
  readonly operations: Array<Operation> = []
  readonly misuse: Array<string> = []
  readonly service: DiskService
  openFiles = 0
  stopped = false
  readonly #setup: Setup
  readonly #planned: Array<Planned> = []
  readonly #locks = new Map<number, Handle>()
  readonly #queue: Array<() => void> = []
  #asked = 0

  constructor(state: State, setup: Setup) {
    this.state = state
    this.#setup = setup
    this.service = this.#makeService()
  }

  plan(fault: Fault): void {
    this.#planned.push({ fault, skip: (fault.nth ?? 1) - 1, times: fault.times ?? 1 })
  }

  /** What goes wrong in this call. Every plan counts it, also those behind the one that has its way. */
  #fault(kind: Kind, path: string): Fault | undefined {
    let found: Fault | undefined
    for (const planned of this.#planned) {
      const { fault } = planned
      if (planned.times <= 0 || (fault.kind ?? kind) !== kind || !path.includes(fault.path ?? "")) continue
      if (planned.skip-- > 0) continue
      planned.times--
      found ??= fault
    }
    return found
  }

  /** One call: whether it takes place, how much of it, and what the caller is told. */
  #call<A>(
    kind: Kind,
    path: string,
    detail: string,
    body: (extent: Extent) => A | Files.Refused
  ): A | IoError {
    if (this.stopped) return this.#error(kind, path, "EIO")
    const operation: Operation = { index: this.operations.length + 1, kind, path, detail, outcome: "" }
    this.operations.push(operation)
    this.#setup.onOperation?.(operation, "before")
    const fault = this.#fault(kind, path)
    const result = this.#perform(kind, fault, body)
    operation.outcome = isRefused(result) ? result.code : typeof result === "number" ? String(result) : "ok"
    if (fault !== undefined && "stop" in fault) {
      operation.outcome = `stopped ${fault.stop}`
      this.stop()
    }
    this.#setup.onOperation?.(operation, "after")
    return isRefused(result) ? this.#error(kind, path, result.code) : result
  }

  #perform<A>(kind: Kind, fault: Fault | undefined, body: (extent: Extent) => A | Files.Refused): A | Files.Refused {
    if (fault === undefined) return body(whole)
    if ("bytes" in fault) return body({ ...whole, bytes: fault.bytes })
    if ("stop" in fault) {
      // Half a write is a shorter one. Of anything else that has not come to its end, nothing is certain.
      if (fault.stop === "after" || (fault.stop === "half" && kind === "write")) {
        this.#unanswered(() => body({ ...whole, half: fault.stop === "half" }))
      }
      return new Refused("EIO")
    }
    const landed = fault.landed ?? "nothing"
    // As Linux does, whatever it says of it.
    if (kind === "close") body(whole)
    else if (landed !== "nothing") {
      this.#unanswered(() => body({ ...whole, half: landed === "half", dropped: landed === "dropped" }))
    }
    return new Refused(fault.code)
  }

  /** What it opens nobody gets. */
  #unanswered(body: () => unknown): void {
    const { openFiles } = this
    body()
    this.openFiles = openFiles
  }

  /** From here on every call fails without effect. */
  stop(): void {
    this.stopped = true
    this.#locks.clear()
  }

  #error(kind: Kind, path: string, code: string): IoError {
    return new IoError({ operation: operationNames[kind], path, code })
  }

  /** A call in the pool: at once, or, when completions are shuffled, in an order of the seed's. */
  #pooled<A>(
    kind: Kind,
    path: string,
    body: (extent: Extent) => A | Files.Refused,
    options?: { readonly detail?: string; readonly handle?: Handle }
  ): Effect.Effect<A, IoError> {
    const run = (): Effect.Effect<A, IoError> => {
      const result = this.#call(kind, path, options?.detail ?? "", body)
      return result instanceof IoError ? Effect.fail(result) : Effect.succeed(result)
    }
    if (!this.#setup.shuffle) return Effect.suspend(run)
    const { handle } = options ?? {}
    return Effect.uninterruptible(Effect.callback<A, IoError>((resume) => {
      if (handle !== undefined) handle.underWay++
      this.#enqueue(() => {
        if (handle !== undefined) handle.underWay--
        const result = run()
        // What comes between the call's effect and its answer happens too.
        this.#enqueue(() => resume(result))
      })
    }))
  }

  #enqueue(step: () => void): void {
    if (this.#queue.push(step) === 1) setImmediate(this.#pump)
  }

  readonly #pump = (): void => {
    const [next] = this.#queue.splice(this.#setup.pick(this.#queue.length), 1)
    if (this.#queue.length > 0) setImmediate(this.#pump)
    next?.()
  }

  #makeService(): DiskService {
    const { state } = this
    return {
      open: (path, mode) =>
        this.#pooled(mode === "create" ? "create" : "open", path, () => this.#open(path, mode), { detail: mode }),
      openLock: (path) => this.#pooled("openLock", path, () => this.#openLock(path)),
      makeDirectory: (path) => this.#pooled("makeDirectory", path, () => Files.makeDirectory(state, path)),
      syncDirectory: (path) =>
        this.#pooled("syncDirectory", path, ({ dropped }) => {
          const node = Files.find(state, path)
          if (isRefused(node)) return node
          // Entries are kept in a journal: what a failed sync could not write of them stays to be written.
          return dropped ? undefined : state.sync(node)
        }),
      list: (path) =>
        this.#pooled("list", path, () => {
          const directory = Files.findDirectory(state, path)
          return isRefused(directory)
            ? directory
            : Array.from(
              directory.live,
              ([name, id]) => ({ name, isFile: state.nodes.get(id)?._tag === "file", isLink: false })
            )
        }),
      rename: (from, to) => this.#pooled("rename", from, () => Files.rename(state, from, to), { detail: `to ${to}` }),
      // There are no links here.
      realPath: (path) =>
        this.#pooled("list", path, () => {
          const node = Files.find(state, path)
          return isRefused(node) ? node : NodePath.resolve(path)
        }, { detail: "realPath" }),
      identity: (path) =>
        this.#pooled("size", path, () => {
          const node = Files.find(state, path)
          if (isRefused(node)) return node
          return node._tag === "directory" ? String(node.id) : `${node.id} ${node.live.size} ${node.changes}`
        }, { detail: "identity" }),
      remove: (path) => this.#pooled("remove", path, () => Files.removeFile(state, path)),
      removeTree: (path) => this.#pooled("removeTree", path, () => Files.removeTree(state, path)),
      isTurnOver: () => this.#asked++ % asked_per_turn >= asked_per_turn - 2
    }
  }

  #handle(path: string, node: Node, mode: Handle["mode"]): Handle {
    this.openFiles++
    return { path, node, mode, open: true, underWay: 0, syncFailed: false }
  }

  #open(path: string, mode: OpenMode): DiskFile | Files.Refused {
    const node = mode === "create" ? Files.createFile(this.state, path) : Files.find(this.state, path)
    if (isRefused(node)) return node
    if (node._tag === "directory") return new Refused("EISDIR")
    return this.#makeFile(this.#handle(path, node, mode))
  }

  #openLock(path: string): LockFile | Files.Refused {
    const entry = Files.entryOf(this.state, path)
    if (isRefused(entry)) return entry
    const node = entry.node ?? Files.createFile(this.state, path)
    if (isRefused(node)) return node
    return node._tag === "directory" ? new Refused("EISDIR") : this.#makeLock(this.#handle(path, node, "lock"))
  }

  #use(handle: Handle, what: Kind): Files.Refused | undefined {
    if (handle.open) return undefined
    this.misuse.push(`${what} after close: ${handle.path}`)
    return new Refused("EBADF")
  }

  #close(handle: Handle): Effect.Effect<void> {
    const { path } = handle
    return Effect.ignore(this.#pooled("close", path, () => {
      if (!handle.open) this.misuse.push(`closed twice: ${path}`)
      else this.openFiles--
      if (handle.underWay > 0) this.misuse.push(`closed under a call: ${path}`)
      handle.open = false
      if (this.#locks.get(handle.node.id) === handle) this.#locks.delete(handle.node.id)
      return undefined
    }))
  }

  #read(handle: Handle, into: Uint8Array, start: number, end: number, position: number, extent: Extent) {
    const refused = this.#use(handle, "read")
    if (refused !== undefined) return refused
    if (handle.node._tag === "directory") return new Refused("EISDIR")
    const count = Math.min(end - start, extent.bytes)
    const bytes = handle.node.live.bytes.subarray(position, position + count)
    into.set(bytes, start)
    return bytes.length
  }

  /** Behind the end, unless at a position. */
  #write(handle: Handle, bytes: Uint8Array, start: number, end: number, extent: Extent, position?: number) {
    const refused = this.#use(handle, "write")
    if (refused !== undefined) return refused
    const mayWrite = position === undefined
      ? handle.mode === "append" || handle.mode === "create"
      : handle.mode === "update"
    if (!mayWrite || handle.node._tag === "directory") return new Refused("EBADF")
    const count = extent.half ? Math.floor((end - start) / 2) : Math.min(end - start, extent.bytes)
    this.state.write(handle.node, position ?? handle.node.live.size, bytes.subarray(start, start + count))
    return count
  }

  #sync(handle: Handle, extent: Extent): Whereabouts | Files.Refused {
    const refused = this.#use(handle, "sync")
    if (refused !== undefined) return refused
    const { node, path } = handle
    if (handle.syncFailed) this.misuse.push(`synced again after a failed sync: ${handle.path}`)
    if (!extent.dropped && !extent.half) this.state.sync(node)
    else if (node._tag === "file") this.state.drop(node, extent.dropped ? () => 0 : this.#setup.pick)
    return Files.find(this.state, path) === node ? "here" : this.state.isNamed(node) ? "elsewhere" : "nowhere"
  }

  #truncate(handle: Handle, size: number): undefined | Files.Refused {
    const refused = this.#use(handle, "truncate")
    if (refused !== undefined) return refused
    if (handle.mode === "read" || handle.node._tag === "directory") return new Refused("EINVAL")
    this.state.truncate(handle.node, size)
    return undefined
  }

  #makeFile(handle: Handle): DiskFile {
    const { node, path } = handle
    const size = () => node._tag === "file" ? node.live.size : 0
    const range = (start: number, end: number, at: number) => `${end - start} bytes at ${at}`
    return {
      path,
      readNow: (into, start, end, position) =>
        this.#call(
          "read",
          path,
          range(start, end, position),
          (extent) => this.#read(handle, into, start, end, position, extent)
        ),
      read: (into, start, end, position) =>
        this.#pooled("read", path, (extent) => this.#read(handle, into, start, end, position, extent), {
          handle,
          detail: range(start, end, position)
        }),
      appendNow: (bytes, start, end) =>
        this.#call(
          "write",
          path,
          range(start, end, size()),
          (extent) => this.#write(handle, bytes, start, end, extent)
        ),
      append: (bytes, start, end) =>
        this.#pooled("write", path, (extent) => this.#write(handle, bytes, start, end, extent), {
          handle,
          detail: `${end - start} bytes`
        }),
      overwrite: (bytes, start, end, position) =>
        this.#pooled("write", path, (extent) => this.#write(handle, bytes, start, end, extent, position), {
          handle,
          detail: range(start, end, position)
        }),
      size: this.#pooled("size", path, () => this.#use(handle, "size") ?? size(), { handle }),
      truncate: (size) =>
        this.#pooled("truncate", path, () => this.#truncate(handle, size), { handle, detail: `to ${size}` }),
      sync: Effect.tapError(
        this.#pooled("sync", path, (extent) => this.#sync(handle, extent), { handle }),
        () =>
          Effect.sync(() => {
            handle.syncFailed = true
          })
      ),
      close: this.#close(handle)
    }
  }

  #makeLock(handle: Handle): LockFile {
    const { node, path } = handle
    const pooled = <A>(kind: Kind, body: () => A | Files.Refused) =>
      this.#pooled(kind, path, () => this.#use(handle, kind) ?? body(), { handle })
    return {
      tryLock: pooled("tryLock", () => {
        const holder = this.#locks.get(node.id)
        if (holder === undefined) this.#locks.set(node.id, handle)
        return holder === undefined || holder === handle
      }),
      isCurrent: pooled("isCurrent", () => Files.find(this.state, path) === node),
      readText: pooled(
        "readText",
        () =>
          node._tag === "file" ? Buffer.from(node.live.bytes.subarray(0, 64)).toString("latin1") : new Refused("EISDIR")
      ),
      writeText: (text) =>
        pooled("writeText", () => {
          if (node._tag === "directory") return new Refused("EISDIR")
          const bytes = Buffer.from(text, "latin1")
          this.state.write(node, 0, bytes, { whole: true })
          this.state.truncate(node, bytes.length)
          return undefined
        }),
      close: this.#close(handle)
    }
  }
}
