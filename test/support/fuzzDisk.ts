/**
 * One directory in memory, with names of every kind, that counts what is asked of it. A fuzzed store is opened a
 * dozen times in a millisecond or two, and afterwards it is known what was read, what was changed, and what was left
 * open.
 */
import { Effect } from "effect"
import * as NodePath from "node:path"
import type { DiskFile, DiskService, LockFile, OpenMode } from "../../src/Disk.ts"
import { IoError } from "../../src/Errors.ts"
import type { Entry, Tree } from "./fuzzReference.ts"

export interface DiskOptions {
  /** A read or write takes at most that many bytes. */
  readonly bytes_max?: number | undefined
  /** Calls of the pool end only after other fibers have run. */
  readonly later?: boolean | undefined
}

interface File {
  readonly kind: "file"
  readonly id: number
  changes: number
  bytes: Uint8Array
  length: number
  lockedBy: object | undefined
}

type Node = File | Exclude<Entry, { readonly kind: "file" }>

export interface Overwrite {
  readonly name: string
  readonly start: number
  readonly end: number
}

/** What went wrong, as an errno name. */
class Refused {
  readonly code: string
  constructor(code: string) {
    this.code = code
  }
}

// As many as Linux follows.
const links_max = 40

// A case makes some thousands of calls. One that goes on for ever makes more than this.
const calls_max = 500_000

export class FuzzDisk {
  readonly directory = "/store"
  readonly service: DiskService
  /** Every call that could change a byte or a name. */
  readonly changes: Array<string> = []
  readonly overwrites: Array<Overwrite> = []
  readonly misuse: Array<string> = []
  openFiles = 0
  bytesRead = 0
  longestRead = 0
  calls = 0
  readonly #names = new Map<string, Node>()
  readonly #options: DiskOptions
  #isThere: boolean

  constructor(tree: Tree | undefined, options: DiskOptions = {}) {
    this.#options = options
    this.#isThere = tree !== undefined
    for (const [name, entry] of tree ?? []) {
      this.#names.set(name, entry.kind === "file" ? fileOf(entry.bytes.slice()) : entry)
    }
    this.service = this.#makeService()
  }

  /** What is in the directory now. */
  get tree(): Tree {
    const tree = new Map<string, Entry>()
    for (const [name, node] of this.#names) {
      tree.set(name, node.kind === "file" ? { kind: "file", bytes: node.bytes.slice(0, node.length) } : node)
    }
    return tree
  }

  /** Puts a file in the place of what has a name, behind everybody's back. */
  readonly replace = (name: string, bytes: Uint8Array): void => {
    this.#names.set(name, fileOf(bytes.slice()))
  }

  /** Holds the lock of a name, as another process does. */
  readonly lock = (name: string): void => {
    const node = this.#follow(name)
    if (!(node instanceof Refused) && node.kind === "file") node.lockedBy = {}
  }

  #call<A>(operation: string, path: string, body: () => A | Refused): A | IoError {
    if (++this.calls > calls_max) throw new Error(`more than ${calls_max} calls of the disk`)
    const result = body()
    return result instanceof Refused ? new IoError({ operation, path, code: result.code, cause: undefined }) : result
  }

  #pooled<A>(operation: string, path: string, body: () => A | Refused): Effect.Effect<A, IoError> {
    const call = Effect.suspend(() => {
      const result = this.#call(operation, path, body)
      return result instanceof IoError ? Effect.fail(result) : Effect.succeed(result)
    })
    return this.#options.later === true
      ? Effect.uninterruptible(Effect.andThen(Effect.yieldNow, call))
      : call
  }

  /** The node behind a name and its links. */
  #follow(name: string): Exclude<Node, { readonly kind: "link" }> | Refused {
    let at = name
    for (let links = 0; links < links_max; links++) {
      const node = this.#names.get(at)
      if (node === undefined) return new Refused("ENOENT")
      if (node.kind !== "link") return node
      at = node.to
    }
    return new Refused("ELOOP")
  }

  #nameOf(path: string): string | undefined {
    return NodePath.dirname(path) === this.directory ? NodePath.basename(path) : undefined
  }

  #open(path: string, mode: OpenMode): DiskFile | Refused {
    const name = this.#nameOf(path)
    if (path === this.directory && this.#isThere) return new Refused("EISDIR")
    if (name === undefined || !this.#isThere) return new Refused("ENOENT")
    if (mode === "create") {
      if (this.#names.has(name)) return new Refused("EEXIST")
      this.changes.push(`create ${name}`)
      this.#names.set(name, fileOf(new Uint8Array(0)))
    }
    const node = this.#follow(name)
    if (node instanceof Refused) return node
    if (node.kind !== "file") return new Refused(node.kind === "directory" ? "EISDIR" : "ENXIO")
    return this.#makeFile(name, path, node, mode)
  }

  #makeFile(name: string, path: string, file: File, mode: OpenMode): DiskFile {
    this.openFiles++
    let isOpen = true
    const use = (operation: string): void => {
      if (!isOpen) this.misuse.push(`${operation} of ${name} after it was closed`)
    }
    const read = (into: Uint8Array, start: number, end: number, position: number): number => {
      use("read")
      const most = Math.min(end - start, this.#options.bytes_max ?? end - start)
      const count = Math.max(0, Math.min(most, file.length - position))
      into.set(file.bytes.subarray(position, position + count), start)
      this.bytesRead += count
      this.longestRead = Math.max(this.longestRead, count)
      return count
    }
    const append = (bytes: Uint8Array, start: number, end: number): number | Refused => {
      use("write")
      if (mode === "read") return new Refused("EBADF")
      const count = Math.min(end - start, this.#options.bytes_max ?? end - start)
      this.changes.push(`append ${count} bytes to ${name}`)
      grow(file, file.length + count).set(bytes.subarray(start, start + count), file.length - count)
      return count
    }
    const overwrite = (bytes: Uint8Array, start: number, end: number, position: number): number | Refused => {
      use("overwrite")
      if (mode !== "update") return new Refused("EBADF")
      const count = Math.min(end - start, this.#options.bytes_max ?? end - start)
      this.changes.push(`overwrite ${count} bytes of ${name}`)
      this.overwrites.push({ name, start: position, end: position + count })
      grow(file, Math.max(file.length, position + count)).set(bytes.subarray(start, start + count), position)
      return count
    }
    return {
      path,
      readNow: (into, start, end, position) => this.#call("read", path, () => read(into, start, end, position)),
      read: (into, start, end, position) => this.#pooled("read", path, () => read(into, start, end, position)),
      appendNow: (bytes, start, end) => this.#call("write", path, () => append(bytes, start, end)),
      append: (bytes, start, end) => this.#pooled("write", path, () => append(bytes, start, end)),
      overwrite: (bytes, start, end, position) =>
        this.#pooled("write", path, () => overwrite(bytes, start, end, position)),
      size: this.#pooled("stat", path, () => {
        use("stat")
        return file.length
      }),
      truncate: (size) =>
        this.#pooled("truncate", path, () => {
          use("truncate")
          this.changes.push(`truncate ${name} to ${size}`)
          grow(file, size)
          return undefined
        }),
      sync: this.#pooled("sync", path, () => {
        use("sync")
        return "here"
      }),
      close: Effect.sync(() => {
        if (!isOpen) this.misuse.push(`${name} was closed twice`)
        isOpen = false
        this.openFiles--
      })
    }
  }

  #openLock(path: string): LockFile | Refused {
    const name = this.#nameOf(path)
    if (name === undefined || !this.#isThere) return new Refused("ENOENT")
    if (!this.#names.has(name)) this.#names.set(name, fileOf(new Uint8Array(0)))
    const node = this.#follow(name)
    if (node instanceof Refused) return node
    if (node.kind !== "file") return new Refused(node.kind === "directory" ? "EISDIR" : "ESPIPE")
    const handle = {}
    this.openFiles++
    const write = (text: string): undefined => {
      const bytes = Buffer.from(text, "latin1")
      if (name !== ".lock" || this.#names.get(name) !== node) this.changes.push(`lock ${name}`)
      node.bytes = bytes
      node.length = bytes.length
      return undefined
    }
    return {
      tryLock: this.#pooled("flock", path, () => {
        if (node.lockedBy !== undefined) return false
        node.lockedBy = handle
        return true
      }),
      isCurrent: this.#pooled("stat", path, () => this.#follow(name) === node),
      readText: Effect.sync(() => Buffer.from(node.bytes.subarray(0, Math.min(64, node.length))).toString("latin1")),
      writeText: (text) => this.#pooled("write", path, () => write(text)),
      close: Effect.sync(() => {
        this.openFiles--
        if (node.lockedBy === handle) node.lockedBy = undefined
      })
    }
  }

  #makeService(): DiskService {
    const service = {
      open: (path: string, mode: OpenMode) =>
        this.#pooled(mode === "create" ? "create" : "open", path, () => this.#open(path, mode)),
      openLock: (path: string) => this.#pooled("open", path, () => this.#openLock(path)),
      makeDirectory: (path: string) =>
        this.#pooled("create directory", path, () => {
          this.#isThere = true
          return undefined
        }),
      syncDirectory: (path: string) => this.#pooled("sync directory", path, () => undefined),
      list: (path: string) =>
        this.#pooled("list", path, () => {
          if (path !== this.directory || !this.#isThere) return new Refused("ENOENT")
          return Array.from(this.#names, ([name, node]) => {
            const behind = this.#follow(name)
            const isFile = !(behind instanceof Refused) && behind.kind === "file"
            return { name, isFile, isLink: node.kind === "link" }
          })
        }),
      rename: (from: string, to: string) =>
        this.#pooled("rename", from, () => {
          const [source, target] = [this.#nameOf(from), this.#nameOf(to)]
          const node = this.#names.get(source ?? "")
          if (source === undefined || target === undefined || node === undefined) return new Refused("ENOENT")
          this.changes.push(`rename ${source} to ${target}`)
          this.#names.delete(source)
          this.#names.set(target, node)
          return undefined
        }),
      realPath: (path: string) => this.#pooled("resolve", path, () => path),
      identity: (path: string) =>
        this.#pooled("stat", path, () => {
          if (path === this.directory) return "directory"
          const node = this.#follow(this.#nameOf(path) ?? "")
          if (node instanceof Refused) return node
          return node.kind === "file" ? `${node.id} ${node.changes}` : node.kind
        }),
      remove: (path: string) =>
        this.#pooled("remove", path, () => {
          this.changes.push(`remove ${path}`)
          return this.#names.delete(this.#nameOf(path) ?? "") ? undefined : new Refused("ENOENT")
        }),
      removeTree: (path: string) => this.#pooled("remove", path, () => new Refused("ENOSYS")),
      isTurnOver: () => false
    }
    return service
  }
}

let files = 0

const fileOf = (bytes: Uint8Array): File => ({
  kind: "file",
  id: ++files,
  changes: 0,
  bytes,
  length: bytes.length,
  lockedBy: undefined
})

/** Makes a file as long as that, with room to grow; what is new is zeros. */
const grow = (file: File, length: number): Uint8Array => {
  file.changes++
  if (length > file.bytes.length) {
    const bytes = new Uint8Array(2 * length)
    bytes.set(file.bytes.subarray(0, file.length))
    file.bytes = bytes
  }
  if (length < file.length) file.bytes.fill(0, length, file.length)
  file.length = length
  return file.bytes
}
