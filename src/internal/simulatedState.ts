/**
 * What a simulated disk holds: what the program sees (live), what is on the platter (durable), and every change in
 * between (pending), in the order in which they were made. From these three, what can be left after a power loss is
 * computed.
 *
 * A change of bytes is kept as whole sectors, as they were right after it: a kernel writes back sectors (pages), not
 * the bytes of a call. So a change also carries along what stood in its first and last sector before.
 */
import { sector_bytes } from "./damage.ts"

/** Names in a directory, and the nodes they lead to. */
type Names = ReadonlyMap<string, number>

const empty = new Uint8Array(0)

class Content {
  /** Zeros behind the size. */
  #bytes: Uint8Array
  /** Another one may have the same bytes: they are copied before they are changed. */
  #shared = true
  size: number

  constructor(bytes: Uint8Array = empty, size = 0) {
    this.#bytes = bytes
    this.size = size
  }

  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.size)
  }

  clone(): Content {
    this.#shared = true
    return new Content(this.#bytes, this.size)
  }

  /** Bytes of its own, with room for so many. */
  #own(room: number): void {
    if (!this.#shared && room <= this.#bytes.length) return
    const grown = new Uint8Array(room > this.#bytes.length ? Math.max(room, 2 * this.#bytes.length) : room)
    grown.set(this.#bytes.subarray(0, Math.min(this.size, room)))
    this.#bytes = grown
    this.#shared = false
  }

  resize(size: number): void {
    if (size === this.size) return
    this.#own(size)
    // What is cut off reads as zeros when the file grows again.
    if (size < this.size) this.#bytes.fill(0, size, this.size)
    this.size = size
  }

  write(at: number, bytes: Uint8Array): void {
    this.#own(Math.max(this.size, at + bytes.length))
    this.size = Math.max(this.size, at + bytes.length)
    this.#bytes.set(bytes, at)
  }

  /** Overwrites what lies within the size, and lets the rest go: the size is set apart from the bytes. */
  patch(at: number, bytes: Uint8Array): void {
    if (at >= this.size) return
    this.#own(this.size)
    this.#bytes.set(bytes.subarray(0, this.size - at), at)
  }

  /** A sector, zeros behind the end. */
  sector(start: number): Uint8Array {
    const copy = new Uint8Array(sector_bytes)
    copy.set(this.#bytes.subarray(Math.min(start, this.size), Math.min(start + sector_bytes, this.size)))
    return copy
  }

  /** The sectors that `[start, end)` reaches into. */
  sectors(start: number, end: number): Array<Sector> {
    const sectors: Array<Sector> = []
    for (let at = down(start); at < end; at += sector_bytes) sectors.push([at, this.sector(at)])
    return sectors
  }
}

export interface FileNode {
  readonly _tag: "file"
  readonly id: number
  readonly live: Content
  readonly durable: Content
  /** Counts the changes. A power loss keeps it, for times may be on the platter before the bytes are. */
  changes: number
}

export interface DirectoryNode {
  readonly _tag: "directory"
  readonly id: number
  readonly live: Map<string, number>
  readonly durable: Map<string, number>
}

export type Node = FileNode | DirectoryNode

/** A sector as a change left it. */
type Sector = readonly [start: number, bytes: Uint8Array]

/** Bytes written, or a length set; `size` is the length behind it. */
interface DataChange {
  readonly _tag: "data"
  readonly node: number
  readonly sectors: ReadonlyArray<Sector>
  readonly size: number
  readonly sizeBefore: number
  /** What the call wrote, where a crash in its middle can cut it. */
  readonly written: { readonly start: number; readonly end: number } | undefined
}

/** Names set or taken away in one directory, all at once. */
interface EntryChange {
  readonly _tag: "entry"
  readonly node: number
  readonly names: ReadonlyArray<readonly [name: string, target: number | undefined]>
}

type Change = DataChange | EntryChange

/** Takes each decision on what survives: one of `count` possibilities, the last of which is the newest. */
export type Pick = (count: number) => number

const down = (at: number): number => Math.floor(at / sector_bytes) * sector_bytes
const up = (at: number): number => Math.ceil(at / sector_bytes) * sector_bytes

const root_id = 1

export class State {
  readonly nodes: Map<number, Node>
  #pending: Array<Change>
  #nextId: number

  constructor(nodes?: Map<number, Node>, pending: Array<Change> = [], nextId = root_id + 1) {
    this.nodes = nodes ??
      new Map<number, Node>([[root_id, { _tag: "directory", id: root_id, live: new Map(), durable: new Map() }]])
    this.#pending = pending
    this.#nextId = nextId
  }

  get root(): DirectoryNode {
    const root = this.nodes.get(root_id)
    if (root?._tag !== "directory") throw new Error("the root is a directory")
    return root
  }

  get pending(): ReadonlyArray<Change> {
    return this.#pending
  }

  /** The same state with a life of its own. */
  fork(): State {
    const nodes = new Map<number, Node>()
    for (const id of this.#reachable()) {
      const node = this.nodes.get(id)
      if (node === undefined) continue
      nodes.set(
        id,
        node._tag === "file"
          ? { ...node, live: node.live.clone(), durable: node.durable.clone() }
          : { ...node, live: new Map(node.live), durable: new Map(node.durable) }
      )
    }
    return new State(nodes, this.#pending.filter(({ node }) => nodes.has(node)), this.#nextId)
  }

  #reachable(): Set<number> {
    const names = new Map<number, Set<number>>()
    const add = (from: number, to: number) => names.set(from, (names.get(from) ?? new Set()).add(to))
    for (const node of this.nodes.values()) {
      if (node._tag === "directory") {
        for (const id of [...node.live.values(), ...node.durable.values()]) add(node.id, id)
      }
    }
    for (const change of this.#pending) {
      if (change._tag === "entry") { for (const [, id] of change.names) if (id !== undefined) add(change.node, id) }
    }
    const seen = new Set([root_id])
    for (const id of seen) for (const next of names.get(id) ?? []) seen.add(next)
    return seen
  }

  isNamed({ id }: Node): boolean {
    for (const node of this.nodes.values()) {
      if (node._tag === "directory") { for (const named of node.live.values()) if (named === id) return true }
    }
    return false
  }

  makeFile(): FileNode {
    const node: FileNode = {
      _tag: "file",
      id: this.#nextId++,
      live: new Content(),
      durable: new Content(),
      changes: 0
    }
    this.nodes.set(node.id, node)
    return node
  }

  makeDirectory(): DirectoryNode {
    const node: DirectoryNode = { _tag: "directory", id: this.#nextId++, live: new Map(), durable: new Map() }
    this.nodes.set(node.id, node)
    return node
  }

  /** Sets names, or takes them away (`undefined`), in one step. */
  link(directory: DirectoryNode, names: EntryChange["names"]): void {
    applyNames(directory.live, names)
    this.#pending.push({ _tag: "entry", node: directory.id, names })
  }

  /** `whole` is for a write that no crash cuts. */
  write(file: FileNode, start: number, bytes: Uint8Array, options?: { readonly whole: boolean }): void {
    if (bytes.length === 0) return
    file.changes++
    const sizeBefore = file.live.size
    const end = start + bytes.length
    file.live.write(start, bytes)
    const sectors = file.live.sectors(Math.min(start, sizeBefore), end)
    const written = options?.whole === true ? undefined : { start, end }
    this.#pending.push({ _tag: "data", node: file.id, sectors, size: file.live.size, sizeBefore, written })
  }

  truncate(file: FileNode, size: number): void {
    const sizeBefore = file.live.size
    if (size === sizeBefore) return
    file.changes++
    file.live.resize(size)
    const sectors = file.live.sectors(size, sizeBefore)
    this.#pending.push({ _tag: "data", node: file.id, sectors, size, sizeBefore, written: undefined })
  }

  /** Makes every change of a node durable. */
  sync(node: Node): void {
    this.#pending = this.#pending.filter((change) => {
      if (change.node !== node.id) return true
      if (change._tag === "data" && node._tag === "file") applyData(node.durable, change)
      if (change._tag === "entry" && node._tag === "directory") applyNames(node.durable, change.names)
      return false
    })
  }

  /**
   * A failed sync: each dirty sector stays dirty (`pick` says 1), or is from now on taken for clean, though it was
   * never written. What a truncation frees, lengths and names are metadata, which file systems keep in a journal:
   * they stay pending.
   */
  drop(file: FileNode, pick: Pick): void {
    const kept = new Map<number, boolean>()
    const isKept = ([sector]: Sector): boolean => {
      const known = kept.get(sector) ?? pick(2) === 1
      kept.set(sector, known)
      return known
    }
    this.#pending = this.#pending.map((change) =>
      change._tag === "data" && change.node === file.id && change.size >= change.sizeBefore
        ? { ...change, sectors: change.sectors.filter(isKept), written: undefined }
        : change
    )
  }

  /** What a power loss leaves, by the decisions of `pick`. */
  survivors(mode: "adversarial" | "ordered", pick: Pick): State {
    return mode === "ordered" ? this.#orderedSurvivors(pick) : this.#adversarialSurvivors(pick)
  }

  // Everything up to one point, and beyond it whatever its own sync has made durable.
  #orderedSurvivors(pick: Pick): State {
    const point = pick(this.#pending.length + 1)
    const survived = this.#pending.slice(0, point)
    const last = this.#pending[point]
    const cuts = last?._tag === "data" && last.written !== undefined ? cutsOf(last.written.start, last.written.end) : []
    const cut = cuts.length === 0 ? 0 : [0, ...cuts][pick(cuts.length + 1)] ?? 0
    return this.#rebuild(
      (node) => {
        const names = new Map(node.durable)
        for (const change of survived) {
          if (change._tag === "entry" && change.node === node.id) applyNames(names, change.names)
        }
        return names
      },
      (node) => {
        const content = node.durable.clone()
        for (const change of survived) if (change._tag === "data" && change.node === node.id) applyData(content, change)
        if (cut > 0 && last?._tag === "data" && last.node === node.id) {
          if (cut > content.size) content.resize(cut)
          for (const [at, bytes] of last.sectors) content.patch(at, bytes.subarray(0, Math.max(0, cut - at)))
        }
        return content
      }
    )
  }

  #adversarialSurvivors(pick: Pick): State {
    return this.#rebuild(
      (node) => {
        const names = new Map(node.durable)
        for (const change of this.#pending) {
          if (change._tag === "entry" && change.node === node.id && pick(2) === 1) applyNames(names, change.names)
        }
        return names
      },
      (node) => {
        const changes = this.#pending.filter((change) => change._tag === "data")
        return anyContent(node.durable, changes.filter((change) => change.node === node.id), pick)
      }
    )
  }

  /** Only what can still be reached by name is decided on. */
  #rebuild(namesOf: (node: DirectoryNode) => Names, contentOf: (node: FileNode) => Content): State {
    const nodes = new Map<number, Node>()
    const visit = (id: number): void => {
      const node = this.nodes.get(id)
      if (node === undefined || nodes.has(id)) return
      if (node._tag === "file") {
        const content = contentOf(node)
        nodes.set(id, { _tag: "file", id, live: content, durable: content.clone(), changes: node.changes })
        return
      }
      const names = namesOf(node)
      nodes.set(id, { _tag: "directory", id, live: new Map(names), durable: new Map(names) })
      for (const target of names.values()) visit(target)
    }
    visit(root_id)
    return new State(nodes, [], this.#nextId)
  }
}

const applyNames = (names: Map<string, number>, changes: EntryChange["names"]): void => {
  for (const [name, target] of changes) {
    if (target === undefined) names.delete(name)
    else names.set(name, target)
  }
}

const applyData = (content: Content, change: DataChange): void => {
  content.resize(change.size)
  for (const [at, bytes] of change.sectors) content.patch(at, bytes)
}

// The length a file can have: each it had, and in the middle of a write each sector boundary it passed.
const lengthsOf = (durable: number, changes: ReadonlyArray<DataChange>): Array<number> => {
  const lengths = new Set([durable])
  for (const change of changes) {
    for (let at = up(change.sizeBefore + 1); at < change.size; at += sector_bytes) lengths.add(at)
    lengths.delete(change.size)
    lengths.add(change.size)
  }
  return Array.from(lengths)
}

/** Each dirty sector holds any one of its contents, and the length is any it had. */
const anyContent = (durable: Content, changes: ReadonlyArray<DataChange>, pick: Pick): Content => {
  const content = durable.clone()
  if (changes.length === 0) return content
  const lengths = lengthsOf(durable.size, changes)
  content.resize(lengths[pick(lengths.length)] ?? durable.size)
  const versions = new Map<number, Array<Uint8Array>>()
  for (const change of changes) {
    for (const [sector, bytes] of change.sectors) {
      if (sector >= content.size) continue
      const known = versions.get(sector) ?? [durable.sector(sector)]
      if (!known.some((other) => Buffer.compare(other, bytes) === 0)) known.push(bytes)
      versions.set(sector, known)
    }
  }
  for (const [sector, known] of versions) content.patch(sector, known[pick(known.length)] ?? empty)
  return content
}

/**
 * Where a write of `[start, end)` is cut: at every sector boundary and beside it, and around its first and last
 * bytes.
 */
export const cutsOf = (start: number, end: number): Array<number> => {
  const cuts = new Set<number>()
  const add = (at: number) => at > start && at < end && cuts.add(at)
  for (const at of [1, 4, 5, 6, 23, 24, 25]) add(start + at)
  for (let at = up(start + 1); at < end; at += sector_bytes) for (const near of [at - 1, at, at + 1]) add(near)
  for (const at of [5, 4, 1]) add(end - at)
  return Array.from(cuts).sort((a, b) => a - b)
}
