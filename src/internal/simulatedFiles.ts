/** The names of a simulated disk: finding, making, renaming and removing, with the error codes of Linux. */
import * as NodePath from "node:path"
import type { DirectoryNode, FileNode, Node, State } from "./simulatedState.ts"

/** What went wrong, as an errno name. */
export class Refused {
  readonly code: string
  constructor(code: string) {
    this.code = code
  }
}

interface Entry {
  readonly parent: DirectoryNode
  readonly name: string
  readonly node: Node | undefined
}

export const isRefused = (value: unknown): value is Refused => value instanceof Refused

export const find = (state: State, path: string): Node | Refused => findNames(state, namesOf(path))

const findNames = (state: State, names: ReadonlyArray<string>): Node | Refused => {
  let node: Node = state.root
  for (const name of names) {
    if (node._tag === "file") return new Refused("ENOTDIR")
    const next = state.nodes.get(node.live.get(name) ?? 0)
    if (next === undefined) return new Refused("ENOENT")
    node = next
  }
  return node
}

/** Where an entry is or would be; its parent must be there. */
export const entryOf = (state: State, path: string): Entry | Refused => {
  const names = namesOf(path)
  const parent = findNames(state, names.slice(0, -1))
  if (isRefused(parent)) return parent
  if (parent._tag === "file") return new Refused("ENOTDIR")
  const name = names.at(-1) ?? ""
  return { parent, name, node: state.nodes.get(parent.live.get(name) ?? 0) }
}

const namesOf = (path: string): ReadonlyArray<string> => {
  const resolved = NodePath.resolve(path)
  return resolved === NodePath.sep ? [] : resolved.slice(1).split(NodePath.sep)
}

export const findDirectory = (state: State, path: string): DirectoryNode | Refused => {
  const node = find(state, path)
  return isRefused(node) ? node : node._tag === "directory" ? node : new Refused("ENOTDIR")
}

export const createFile = (state: State, path: string): FileNode | Refused => {
  const entry = entryOf(state, path)
  if (isRefused(entry)) return entry
  if (entry.node !== undefined || entry.name === "") return new Refused("EEXIST")
  const file = state.makeFile()
  state.link(entry.parent, [[entry.name, file.id]])
  return file
}

/** Makes a directory and its missing parents. */
export const makeDirectory = (state: State, path: string): undefined | Refused => {
  let parent = state.root
  const names = namesOf(path)
  for (const [index, name] of names.entries()) {
    const there = state.nodes.get(parent.live.get(name) ?? 0)
    if (there?._tag === "file") return new Refused(index === names.length - 1 ? "EEXIST" : "ENOTDIR")
    const made = there ?? state.makeDirectory()
    if (there === undefined) state.link(parent, [[name, made.id]])
    parent = made
  }
  return undefined
}

const isBelow = (state: State, node: Node, id: number): boolean =>
  node.id === id || (node._tag === "directory" && Array.from(node.live.values()).some((next) => {
    const child = state.nodes.get(next)
    return child !== undefined && isBelow(state, child, id)
  }))

/** A rename within one directory is one change; from one to another it is two, the new name first. */
export const rename = (state: State, from: string, to: string): undefined | Refused => {
  const source = entryOf(state, from)
  if (isRefused(source)) return source
  const target = entryOf(state, to)
  if (isRefused(target)) return target
  const { node } = source
  if (node === undefined) return new Refused("ENOENT")
  if (target.node === node) return undefined
  if (isBelow(state, node, target.parent.id)) return new Refused("EINVAL")
  if (target.node !== undefined) {
    if (node._tag === "file" && target.node._tag === "directory") return new Refused("EISDIR")
    if (node._tag === "directory" && target.node._tag === "file") return new Refused("ENOTDIR")
    if (target.node._tag === "directory" && target.node.live.size > 0) return new Refused("ENOTEMPTY")
  }
  if (source.parent === target.parent) {
    state.link(source.parent, [[target.name, node.id], [source.name, undefined]])
  } else {
    state.link(target.parent, [[target.name, node.id]])
    state.link(source.parent, [[source.name, undefined]])
  }
  return undefined
}

export const removeFile = (state: State, path: string): undefined | Refused => {
  const entry = entryOf(state, path)
  if (isRefused(entry)) return entry
  if (entry.node === undefined) return new Refused("ENOENT")
  if (entry.node._tag === "directory") return new Refused("EISDIR")
  state.link(entry.parent, [[entry.name, undefined]])
  return undefined
}

/** Entry by entry, the innermost first: a crash can come between any two. */
export const removeTree = (state: State, path: string): undefined | Refused => {
  const entry = entryOf(state, path)
  if (isRefused(entry)) return entry.code === "ENOENT" ? undefined : entry
  const clear = (directory: DirectoryNode): void => {
    for (const [name, id] of Array.from(directory.live)) {
      const node = state.nodes.get(id)
      if (node?._tag === "directory") clear(node)
      state.link(directory, [[name, undefined]])
    }
  }
  if (entry.node?._tag === "directory") clear(entry.node)
  if (entry.node !== undefined) state.link(entry.parent, [[entry.name, undefined]])
  return undefined
}

/** The live bytes of every file, by its path; directories have `undefined`. */
export const treeOf = (state: State): Map<string, Uint8Array | undefined> => {
  const tree = new Map<string, Uint8Array | undefined>()
  const visit = (directory: DirectoryNode, path: string): void => {
    for (const [name, id] of directory.live) {
      const node = state.nodes.get(id)
      if (node === undefined) continue
      const here = `${path}${NodePath.sep}${name}`
      tree.set(here, node._tag === "file" ? node.live.bytes.slice() : undefined)
      if (node._tag === "directory") visit(node, here)
    }
  }
  visit(state.root, "")
  return tree
}
