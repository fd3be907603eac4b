/**
 * The real disk with a finger on it: it writes down every call, and fails, shortens or holds those that a test names.
 *
 * | planned | what the caller sees |
 * | --- | --- |
 * | `fail` | an `IoError` with that code; nothing, half or all of what was asked for has happened |
 * | `short` | fewer bytes read or written than asked for |
 * | `hold` | the call waits, uninterruptibly like any call of a disk, until the test lets it go on |
 *
 * It also keeps the books that no store can keep itself: descriptors opened and not closed, uses of a closed one, one closed
 * while a call on it runs, and an fsync repeated on a descriptor whose fsync has failed.
 */
import { Effect, Latch } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Disk from "../../src/Disk.ts"
import { IoError } from "../../src/Errors.ts"
import { nodeDisk } from "../../src/internal/nodeDisk.ts"

export type Kind =
  | "openRead"
  | "openAppend"
  | "openUpdate"
  | "create"
  | "openLock"
  | "makeDirectory"
  | "syncDirectory"
  | "list"
  | "rename"
  | "remove"
  | "removeTree"
  | "readNow"
  | "read"
  | "appendNow"
  | "append"
  | "overwrite"
  | "size"
  | "identity"
  | "realPath"
  | "truncate"
  | "sync"
  | "tryLock"
  | "isCurrent"
  | "readText"
  | "writeText"
  | "close"

/** The names that the real disk gives to its operations. */
const operations: { readonly [K in Kind]: string } = {
  openRead: "open",
  openAppend: "open",
  openUpdate: "open",
  create: "create",
  openLock: "open",
  makeDirectory: "create directory",
  syncDirectory: "sync directory",
  list: "list",
  rename: "rename",
  remove: "remove",
  removeTree: "remove",
  readNow: "read",
  read: "read",
  appendNow: "write",
  append: "write",
  overwrite: "write",
  size: "stat",
  identity: "stat",
  realPath: "resolve",
  truncate: "truncate",
  sync: "sync",
  tryLock: "flock",
  isCurrent: "stat",
  readText: "read",
  writeText: "write",
  close: "close"
}

export const operationOf = (kind: Kind): string => operations[kind]

export interface Call {
  readonly kind: Kind
  readonly path: string
}

/** How much of a failing call takes place all the same. */
export type Landed = "nothing" | "half" | "all"

export interface Held {
  /** Resolves once a call has come and waits. */
  readonly reached: Effect.Effect<void>
  /** Lets it go on. */
  readonly release: Effect.Effect<void>
}

type Action =
  | { readonly _tag: "fail"; readonly code: string; readonly landed: Landed }
  | { readonly _tag: "short"; readonly bytes: number }
  | { readonly _tag: "hold"; readonly reached: Latch.Latch; readonly gate: Latch.Latch }

interface Plan {
  readonly matches: (call: Call, index: number) => boolean
  readonly action: Action
  skip: number
  times: number
}

interface Handle {
  open: boolean
  syncFailed: boolean
  /** Calls in the pool that have not come back. */
  running: number
}

export class FaultyDisk {
  readonly calls: Array<Call> = []
  /** What no correct store does. Empty at the end of every test. */
  readonly misuse: Array<string> = []
  openDescriptors = 0
  peakDescriptors = 0
  readonly #plans: Array<Plan> = []
  readonly service: Disk.DiskService

  constructor() {
    this.service = this.#makeService()
  }

  /** Forgets what was planned and has not come. */
  clear(): void {
    this.#plans.length = 0
  }

  count(kind: Kind, path = ""): number {
    return this.calls.filter((call) => call.kind === kind && call.path.includes(path)).length
  }

  /** Fails the next call of a kind, or the one after `skip` more. */
  failNext(
    kind: Kind,
    code: string,
    options: {
      readonly skip?: number
      readonly landed?: Landed
      readonly times?: number
      readonly path?: string
    } = {}
  ): void {
    this.#plans.push({
      matches: (call) => call.kind === kind && call.path.includes(options.path ?? ""),
      action: { _tag: "fail", code, landed: options.landed ?? "nothing" },
      skip: options.skip ?? 0,
      times: options.times ?? 1
    })
  }

  /** Fails the call with that place in `calls`, or the next one behind it that can fail: a `close` cannot. */
  failCall(index: number, code: string, landed: Landed = "nothing"): void {
    this.#plans.push({
      matches: (call, at) => at >= index && call.kind !== "close",
      action: { _tag: "fail", code, landed },
      skip: 0,
      times: 1
    })
  }

  /** Every read or write of a kind takes at most that many bytes, `times` times. */
  shorten(kind: "read" | "readNow" | "append" | "appendNow", bytes: number, times = Number.POSITIVE_INFINITY): void {
    this.#plans.push({ matches: (call) => call.kind === kind, action: { _tag: "short", bytes }, skip: 0, times })
  }

  /** The read with that place in `calls`, or the next one behind it, finds nothing where there is something. */
  emptyRead(index: number, times = 1): void {
    const matches = (call: Call, at: number): boolean => at >= index && call.kind === "read"
    this.#plans.push({ matches, action: { _tag: "short", bytes: 0 }, skip: 0, times })
  }

  holdNext(kind: Kind, options: { readonly skip?: number; readonly path?: string } = {}): Held {
    return this.#hold((call) => call.kind === kind && call.path.includes(options.path ?? ""), options.skip ?? 0)
  }

  holdCall(index: number): Held {
    return this.#hold((_, at) => at === index, 0)
  }

  #hold(matches: Plan["matches"], skip: number): Held {
    const reached = Latch.makeUnsafe()
    const gate = Latch.makeUnsafe()
    this.#plans.push({ matches, action: { _tag: "hold", reached, gate }, skip, times: 1 })
    return { reached: reached.await, release: Effect.asVoid(gate.open) }
  }

  #begin(kind: Kind, path: string): Action | undefined {
    const index = this.calls.push({ kind, path }) - 1
    for (const [at, plan] of this.#plans.entries()) {
      if (!plan.matches({ kind, path }, index)) continue
      if (plan.skip > 0) {
        plan.skip--
        continue
      }
      plan.times--
      if (plan.times <= 0) this.#plans.splice(at, 1)
      return plan.action
    }
    return undefined
  }

  #error(kind: Kind, path: string, code: string): IoError {
    return new IoError({ operation: operations[kind], path, code, cause: undefined })
  }

  /** One call in the pool. `half` is what happens when half of it lands. */
  #effect<A, E>(
    kind: Kind,
    path: string,
    real: Effect.Effect<A, E>,
    half: Effect.Effect<unknown, E> = Effect.void
  ): Effect.Effect<A, E | IoError> {
    return Effect.uninterruptible(Effect.suspend((): Effect.Effect<A, E | IoError> => {
      const action = this.#begin(kind, path)
      if (action === undefined || action._tag === "short") return real
      if (action._tag === "hold") {
        return Effect.andThen(Effect.andThen(action.reached.open, action.gate.await), real)
      }
      const failed = Effect.fail(this.#error(kind, path, action.code))
      if (action.landed === "nothing") return failed
      return Effect.andThen(action.landed === "half" ? half : real, failed)
    }))
  }

  #opened<A>(real: Effect.Effect<A, IoError>, wrap: (file: A) => A): Effect.Effect<A, IoError> {
    return Effect.map(real, (file) => {
      this.openDescriptors++
      this.peakDescriptors = Math.max(this.peakDescriptors, this.openDescriptors)
      return wrap(file)
    })
  }

  #open<A extends { readonly close: Effect.Effect<void> }>(
    kind: Kind,
    path: string,
    real: Effect.Effect<A, IoError>,
    wrap: (file: A) => A
  ): Effect.Effect<A, IoError> {
    return Effect.uninterruptible(Effect.suspend((): Effect.Effect<A, IoError> => {
      const action = this.#begin(kind, path)
      const opened = this.#opened(real, wrap)
      if (action === undefined || action._tag === "short") return opened
      if (action._tag === "hold") {
        return Effect.andThen(Effect.andThen(action.reached.open, action.gate.await), opened)
      }
      const failed = Effect.fail(this.#error(kind, path, action.code))
      return action.landed === "nothing" ? failed : Effect.andThen(Effect.flatMap(real, (file) => file.close), failed)
    }))
  }

  #close(path: string, handle: Handle, real: Effect.Effect<void>): Effect.Effect<void> {
    return Effect.orDie(this.#effect(
      "close",
      path,
      Effect.suspend(() => {
        if (!handle.open) {
          this.misuse.push(`close twice: ${path}`)
          return Effect.void
        }
        if (handle.running > 0) this.misuse.push(`close under a running call: ${path}`)
        handle.open = false
        // Not before the kernel has it back: closes queue up in the pool like everything else.
        return Effect.tap(real, Effect.sync(() => this.openDescriptors--))
      })
    ))
  }

  #use(handle: Handle, kind: Kind, path: string): void {
    if (!handle.open) this.misuse.push(`${kind} after close: ${path}`)
    if (kind === "sync" && handle.syncFailed) this.misuse.push(`sync after a failed one: ${path}`)
  }

  #file(real: Disk.DiskFile): Disk.DiskFile {
    const { path } = real
    const handle: Handle = { open: true, syncFailed: false, running: 0 }
    const pooled = <A>(kind: Kind, effect: Effect.Effect<A, IoError>, half?: Effect.Effect<unknown, IoError>) =>
      Effect.suspend(() => {
        this.#use(handle, kind, path)
        handle.running++
        return Effect.ensuring(this.#effect(kind, path, effect, half), Effect.sync(() => handle.running--))
      })
    const now = (
      kind: "readNow" | "appendNow",
      start: number,
      end: number,
      call: (end: number) => number | IoError
    ): number | IoError => {
      this.#use(handle, kind, path)
      const action = this.#begin(kind, path)
      if (action === undefined || action._tag === "hold") return call(end)
      if (action._tag === "short") return call(Math.min(end, start + action.bytes))
      if (action.landed === "half") call(start + Math.floor((end - start) / 2))
      if (action.landed === "all") call(end)
      return this.#error(kind, path, action.code)
    }
    const bytewise = (
      kind: "read" | "append",
      start: number,
      end: number,
      call: (end: number) => Effect.Effect<number, IoError>
    ): Effect.Effect<number, IoError> =>
      Effect.suspend(() => {
        const short = this.#plans.find((plan) =>
          plan.action._tag === "short" && plan.matches({ kind, path }, this.calls.length)
        )
        const to = short?.action._tag === "short" ? Math.min(end, start + short.action.bytes) : end
        return pooled(kind, call(to), call(start + Math.floor((end - start) / 2)))
      })
    return {
      path,
      readNow: (into, start, end, position) =>
        now("readNow", start, end, (end) => real.readNow(into, start, end, position)),
      read: (into, start, end, position) =>
        bytewise("read", start, end, (end) => real.read(into, start, end, position)),
      appendNow: (bytes, start, end) => now("appendNow", start, end, (end) => real.appendNow(bytes, start, end)),
      append: (bytes, start, end) => bytewise("append", start, end, (end) => real.append(bytes, start, end)),
      overwrite: (bytes, start, end, position) =>
        pooled(
          "overwrite",
          real.overwrite(bytes, start, end, position),
          real.overwrite(bytes, start, start + Math.floor((end - start) / 2), position)
        ),
      size: pooled("size", real.size),
      truncate: (size) => pooled("truncate", real.truncate(size)),
      sync: Effect.tapError(pooled("sync", real.sync), () =>
        Effect.sync(() => {
          handle.syncFailed = true
        })),
      close: this.#close(path, handle, real.close)
    }
  }

  #lockFile(path: string, real: Disk.LockFile): Disk.LockFile {
    const handle: Handle = { open: true, syncFailed: false, running: 0 }
    return {
      tryLock: this.#effect("tryLock", path, real.tryLock),
      isCurrent: this.#effect("isCurrent", path, real.isCurrent),
      readText: this.#effect("readText", path, real.readText),
      writeText: (text) => this.#effect("writeText", path, real.writeText(text)),
      close: this.#close(path, handle, real.close)
    }
  }

  #makeService(): Disk.DiskService {
    const kinds = { read: "openRead", append: "openAppend", create: "create", update: "openUpdate" } as const
    return {
      open: (path, mode) =>
        this.#open(kinds[mode], path, nodeDisk.open(path, mode), (file: Disk.DiskFile) => this.#file(file)),
      openLock: (path) =>
        this.#open("openLock", path, nodeDisk.openLock(path), (file: Disk.LockFile) => this.#lockFile(path, file)),
      makeDirectory: (path) => this.#effect("makeDirectory", path, nodeDisk.makeDirectory(path)),
      syncDirectory: (path) => this.#effect("syncDirectory", path, nodeDisk.syncDirectory(path)),
      list: (path) => this.#effect("list", path, nodeDisk.list(path)),
      rename: (from, to) => this.#effect("rename", from, nodeDisk.rename(from, to)),
      realPath: (path) => this.#effect("realPath", path, nodeDisk.realPath(path)),
      identity: (path) => this.#effect("identity", path, nodeDisk.identity(path)),
      remove: (path) => this.#effect("remove", path, nodeDisk.remove(path)),
      removeTree: (path) => this.#effect("removeTree", path, nodeDisk.removeTree(path)),
      // What is planned comes in the order of the calls, not as fast as the machine is.
      isTurnOver: () => false
    }
  }
}

/** Runs over that disk, and over it alone. */
export const over = (disk: FaultyDisk) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(effect, Disk.Disk, disk.service)

/** The same where each turn is over when it is asked for, after `look`: others run wherever they may. */
export const overInTurns =
  (disk: FaultyDisk, look: () => void = () => {}) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.provideService(effect, Disk.Disk, {
      ...disk.service,
      isTurnOver: () => {
        look()
        return true
      }
    })

/** Every file below a directory, by its path in it, as hexadecimal; directories end in a slash. */
export const tree = (directory: string): { readonly [path: string]: string } => {
  const files: Record<string, string> = {}
  for (const name of NFS.readdirSync(directory, { recursive: true, encoding: "utf8" }).sort()) {
    const path = NodePath.join(directory, name)
    if (NFS.statSync(path).isDirectory()) files[`${name}/`] = ""
    else if (NodePath.basename(name) !== ".lock") files[name] = NFS.readFileSync(path).toString("hex")
  }
  return files
}

/** The names in a directory that a program builds under, and should have removed. */
export const leftovers = (directory: string): ReadonlyArray<string> =>
  NFS.readdirSync(directory, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".tmp"))

export const text = (bytes: Uint8Array | undefined): string | undefined =>
  bytes === undefined ? undefined : new TextDecoder().decode(bytes)

/** Open descriptors of this process. */
export const descriptors = (): ReadonlyArray<string> =>
  NFS.readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      return [NFS.readlinkSync(`/proc/self/fd/${fd}`)]
    } catch {
      return []
    }
  })
