/**
 * Hostile directories: a fixture or a made-up store, changed a few times by what knows the format, with names beside
 * the segments that are almost theirs.
 */
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import { fileURLToPath } from "node:url"
import type { DiskOptions } from "./fuzzDisk.ts"
import { changed, changeNames, recordOf } from "./fuzzFrames.ts"
import {
  behind,
  type Entry,
  type Policy,
  readingOf,
  type SegmentBytes,
  segmentName,
  segmentsOf,
  type Tree
} from "./fuzzReference.ts"
import { joined, type Source } from "./fuzzSource.ts"

/** A directory, and how it is to be opened. */
export interface StoreCase {
  readonly tree: Tree
  readonly policy: Policy
  readonly chunkSize: number
  readonly segmentSize: number
  readonly disk: DiskOptions
  /** Places to read from. */
  readonly places: ReadonlyArray<{ readonly segment: number; readonly offset: number }>
  readonly txid: number
  /** What is appended once it is open. */
  readonly payload: Uint8Array
  /** What was done to make it. */
  readonly made: ReadonlyArray<string>
}

type Segments = Map<number, Uint8Array>

const fixtures: ReadonlyArray<ReadonlyMap<number, Uint8Array>> = ((): Array<Segments> => {
  const root = fileURLToPath(new URL("../fixtures/", import.meta.url))
  const stores: Array<Segments> = []
  for (const name of NFS.readdirSync(root).sort()) {
    if (!NFS.statSync(NodePath.join(root, name)).isDirectory()) continue
    const files = NFS.readdirSync(NodePath.join(root, name)).filter((file) => file.endsWith(".dwal"))
    stores.push(
      new Map(files.map((file) => [
        Number(file.slice(0, 8)),
        new Uint8Array(NFS.readFileSync(NodePath.join(root, name, file)))
      ]))
    )
  }
  return stores
})()

const madeUp = (source: Source): Segments => {
  const segments: Segments = new Map()
  let id = 0
  let txid = source.oneOf([1, 1, 1, 1_000, 2 ** 32 - 3, Number.MAX_SAFE_INTEGER - 12])
  for (let count = source.between(1, 3); count > 0; count--) {
    id += source.oneOf([1, 1, 1, 2, 9_998])
    const records: Array<Uint8Array> = []
    for (let left = source.below(7); left > 0; left--) records.push(recordOf(source, txid++))
    segments.set(id, joined(...records))
  }
  return segments
}

const someId = (source: Source, segments: Segments): number | undefined => {
  const ids = Array.from(segments.keys()).sort((a, b) => a - b)
  // Most damage that a writer may cut is in the active one.
  return source.chance(65) ? ids.at(-1) : source.among(ids)
}

/** What is done to segments as a whole. */
const reordered = (source: Source, segments: Segments): string => {
  const id = someId(source, segments)
  const bytes = id === undefined ? undefined : segments.get(id)
  if (id === undefined || bytes === undefined) return "nothing"
  const next = Array.from(segments.keys()).sort((a, b) => a - b).find((other) => other > id)
  const free = source.oneOf([id + 1, id + 2, 7, 99_999_998, 99_999_999])
  switch (source.below(6)) {
    case 0: {
      const at = source.below(bytes.length + 1)
      segments.set(id, bytes.slice(0, at))
      segments.set(free, bytes.slice(at))
      return "split a segment"
    }
    case 1:
      if (next === undefined) return "nothing"
      segments.set(id, joined(bytes, segments.get(next) ?? new Uint8Array(0)))
      segments.delete(next)
      return "join two segments"
    case 2:
      segments.delete(id)
      segments.set(free, bytes)
      return "rename a segment"
    case 3:
      segments.set(free, bytes)
      return "copy a segment"
    case 4:
      segments.set(free, new Uint8Array(0))
      return "an empty segment"
    default:
      segments.delete(id)
      return "remove a segment"
  }
}

const text = (value: string): Entry => ({ kind: "file", bytes: new TextEncoder().encode(value) })

/** Names that a program might take for something. */
const odd = (source: Source, tree: Map<string, Entry>): string => {
  const free = segmentName(source.oneOf([3, 1, 2, 5, 99_999_999]))
  const kinds: ReadonlyArray<Entry> = [
    { kind: "directory" },
    { kind: "pipe" },
    { kind: "link", to: "nowhere" },
    { kind: "link", to: "behind" },
    { kind: "link", to: free },
    text("some text")
  ]
  const entry = source.among(kinds) ?? text("")
  const names = [
    free,
    "00000000.dwal",
    "0000001.dwal",
    "000000001.dwal",
    "00000001.DWAL",
    "00000001.dwal.tmp",
    "00000001.dwal\n",
    "-0000001.dwal",
    "0000000a.dwal",
    "00000001",
    "00000001-0.torn",
    "00000001-33-2.torn",
    "\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661.dwal",
    "other"
  ]
  const name = source.among(names) ?? free
  if (tree.has(name)) return "nothing"
  tree.set(name, entry)
  // A link that leads to a segment's own file would make it two segments; one to a file of its own makes it one.
  if (entry.kind === "link" && entry.to === "behind") {
    tree.set("behind", { kind: "file", bytes: recordOf(source, 3) })
  }
  return `${entry.kind} ${name}`
}

/** What is there of a lock; `unsynced` makes a writer write bytes over themselves. */
const lockEntry = (source: Source): Entry => {
  const id = source.oneOf([1, 2, 3, 7, 0])
  return source.oneOf<Entry>([
    text(""),
    text("1234\n"),
    text(`1234\nunsynced ${id} ${source.below(2_000)}\n`),
    text(`1234\nunsynced ${id} 0\n`),
    text(source.noise(80).join("\n")),
    { kind: "directory" },
    { kind: "pipe" }
  ])
}

/** In the way of the copy that a cut would make. */
const takenTorn = (tree: Map<string, Entry>): void => {
  const { damage } = readingOf(segmentsOf(tree))
  if (damage === undefined) return
  const stem = `${String(damage.segment).padStart(8, "0")}-${damage.offset}`
  tree.set(`${stem}.torn`, text("an older cut"))
  tree.set(`${stem}-2.torn`, { kind: "directory" })
}

const makeTree = (source: Source, made: Array<string>): Tree => {
  const fixture = source.chance(40) ? source.among(fixtures) : undefined
  const segments: Segments = fixture === undefined ? madeUp(source) : new Map(fixture)
  for (let count = source.oneOf([0, 1, 2, 3, 4, 6, 9]); count > 0; count--) {
    if (source.chance(10)) {
      made.push(reordered(source, segments))
      continue
    }
    const id = someId(source, segments)
    const bytes = id === undefined ? undefined : segments.get(id)
    const name = source.among(changeNames) ?? ""
    if (id === undefined || bytes === undefined) continue
    segments.set(id, changed(source, name, bytes))
    made.push(name)
  }
  const tree = new Map<string, Entry>()
  for (const [id, bytes] of segments) tree.set(segmentName(id), { kind: "file", bytes })
  for (let count = source.chance(30) ? source.below(5) : 0; count > 0; count--) made.push(odd(source, tree))
  if (source.chance(10)) tree.set(".lock", lockEntry(source))
  if (source.chance(10)) takenTorn(tree)
  return tree
}

const placesOf = (source: Source, segments: ReadonlyArray<SegmentBytes>): StoreCase["places"] =>
  Array.from({ length: source.below(4) }, () => {
    const segment = source.among(segments)
    const { records } = readingOf(segments)
    const record = source.among(records)
    switch (source.below(6)) {
      case 0:
        return { segment: record?.segment ?? 1, offset: record?.offset ?? 0 }
      case 1:
        return { segment: record?.segment ?? 1, offset: (record?.offset ?? 0) + (record?.len ?? 0) }
      case 2:
        return { segment: segment?.id ?? 1, offset: segment?.bytes.length ?? 0 }
      case 3: {
        const bytes = Buffer.from(segment?.bytes ?? [])
        return { segment: segment?.id ?? 1, offset: Math.max(0, bytes.indexOf("DWAL", source.below(bytes.length + 1))) }
      }
      case 4:
        return { segment: segment?.id ?? 1, offset: source.below((segment?.bytes.length ?? 0) + 40) }
      default:
        return { segment: source.oneOf([0, 2, 5, 99_999_999, -1]), offset: source.oneOf([0, 31, -1]) }
    }
  })

export const makeStoreCase = (source: Source): StoreCase => {
  const policy = source.oneOf<Policy>(["repair", "prefix", "repair", "strict"])
  const chunkSize = source.oneOf([1_048_576, 65_536, 4_096, 700, 512, 100, 64, 28, 27, 24, 13, 1])
  const segmentSize = source.oneOf([67_108_864, 1, 100, 1_000])
  const bytes_max = source.chance(20) ? source.oneOf([4_096, 100, 7, 1]) : undefined
  const later = source.chance(25)
  const payload = source.noise(source.below(80))
  const txid = source.oneOf([1, 2, 5, 0, 1_002, Number.MAX_SAFE_INTEGER])
  const made: Array<string> = []
  const tree = makeTree(source, made)
  const segments = segmentsOf(tree)
  // Few bytes at a time, but not so few that a large store takes for ever.
  const fewest = Math.ceil(segments.reduce((sum, { bytes }) => sum + bytes.length, 0) / 200)
  return {
    tree,
    made,
    policy,
    chunkSize: Math.max(fewest, chunkSize),
    segmentSize,
    disk: { bytes_max: bytes_max === undefined ? undefined : Math.max(fewest, bytes_max), later },
    places: placesOf(source, segments),
    txid,
    payload
  }
}

// -- printing ---------------------------------------------------------------------------------------------------------

const bytes_shown_max = 512

const shown = (tree: Tree, name: string): string => {
  const entry = tree.get(name)
  if (entry?.kind === "link") return `link to ${entry.to}, ${behind(tree, name) ?? "nowhere"}`
  if (entry?.kind !== "file") return entry?.kind ?? "nothing"
  const { bytes } = entry
  const hex = Buffer.from(bytes.subarray(0, bytes_shown_max)).toString("hex")
  return `${bytes.length} bytes ${hex}${bytes.length > bytes_shown_max ? "…" : ""}`
}

/** A case to read. */
export const describeStore = ({ chunkSize, disk, made, places, policy, segmentSize, tree, txid }: StoreCase): string =>
  [
    `made by: ${made.join(", ")}`,
    `policy ${policy}, chunkSize ${chunkSize}, segmentSize ${segmentSize}, disk ${JSON.stringify(disk)}`,
    `read from ${JSON.stringify(places)} and txid ${txid}`,
    ...Array.from(tree.keys(), (name) => `${JSON.stringify(name)}: ${shown(tree, name)}`)
  ].join("\n")
