/** The directory that is loaded: its regular files as a Stream, and their bytes again when they are compared. */
import { Frame } from "effect-datawal"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as NodeFS from "node:fs"
import * as NFS from "node:fs/promises"
import * as NodePath from "node:path"

/** A file as it was when it was read. `path` is relative to the source, with `/`. */
export interface SourceFile {
  readonly path: string
  readonly bytes: number
  readonly changed_ms: number
}

/** Why a file was not loaded. */
type Skip = "symbolic link" | "not a regular file" | "unreadable" | "above the payload limit"

/** What was not loaded: how many of each kind, and the first few by name. */
export class Skipped {
  readonly counts = new Map<Skip, number>()
  readonly samples: Array<string> = []

  add(path: string, why: Skip): void {
    this.counts.set(why, (this.counts.get(why) ?? 0) + 1)
    if (this.samples.length < samples_max) this.samples.push(`${path} (${why})`)
  }
}

const samples_max = 5

/** Files are read this many at a time, in order: the disk is kept busy, and memory holds few of them at once. */
const reads_at_once = 4

async function* walk(root: string, relative: string, except: string, skipped: Skipped): AsyncGenerator<string> {
  const entries = await NFS.readdir(NodePath.join(root, relative), { withFileTypes: true }).catch(() => undefined)
  if (entries === undefined) return skipped.add(`${relative}/`, "unreadable")
  entries.sort((a, b) => a.name < b.name ? -1 : 1)
  for (const entry of entries) {
    const path = relative === "" ? entry.name : `${relative}/${entry.name}`
    if (entry.isSymbolicLink()) skipped.add(path, "symbolic link")
    else if (entry.isFile()) yield path
    else if (!entry.isDirectory()) skipped.add(path, "not a regular file")
    else if (NodePath.join(root, path) !== except) yield* walk(root, path, except, skipped)
  }
}

/** Whether there is any regular file at all. */
export const hasFile = async (root: string): Promise<boolean> => {
  for await (const _ of walk(root, "", root, new Skipped())) return true
  return false
}

type Reading = { readonly file: SourceFile; readonly bytes: Uint8Array } | Skip

// A link or a pipe that has taken the file's place since the walk must not be followed, or waited for.
const openFlags = NodeFS.constants.O_RDONLY | NodeFS.constants.O_NOFOLLOW | NodeFS.constants.O_NONBLOCK

const read = (root: string, path: string): Effect.Effect<Reading> =>
  Effect.promise(async () => {
    const handle = await NFS.open(NodePath.join(root, path), openFlags).catch(() => undefined)
    if (handle === undefined) return "unreadable"
    try {
      const stats = await handle.stat()
      if (!stats.isFile()) return "not a regular file"
      if (stats.size > Frame.payload_bytes_max) return "above the payload limit"
      const bytes = await handle.readFile()
      if (bytes.length > Frame.payload_bytes_max) return "above the payload limit"
      return { file: { path, bytes: bytes.length, changed_ms: stats.ctimeMs }, bytes }
    } catch {
      return "unreadable"
    } finally {
      await handle.close()
    }
  })

/** Every regular file below `root` with its bytes, in order of names; `except` is a directory that is left out. */
export const files = (
  root: string,
  except: string,
  skipped: Skipped
): Stream.Stream<{ readonly file: SourceFile; readonly bytes: Uint8Array }> =>
  Stream.fromAsyncIterable(walk(root, "", except, skipped), (cause) => cause).pipe(
    Stream.orDie,
    Stream.mapEffect((path) => Effect.map(read(root, path), (reading) => [path, reading] as const), {
      concurrency: reads_at_once
    }),
    Stream.flatMap(([path, reading]) => {
      if (typeof reading === "object") return Stream.succeed(reading)
      skipped.add(path, reading)
      return Stream.empty
    })
  )

const cache_bytes_max = 33_554_432

/** Reads files of the source again. Small trees are compared many times over, so what fits is kept. */
export class SourceReader {
  readonly #root: string
  readonly #cache = new Map<string, Uint8Array>()
  #cached = 0

  constructor(root: string) {
    this.#root = root
  }

  /** The bytes, or `undefined` when the file is not the one that was loaded any more: that is no fault of the store. */
  readonly read = (file: SourceFile): Effect.Effect<Uint8Array | undefined> =>
    Effect.suspend(() => {
      const cached = this.#cache.get(file.path)
      if (cached !== undefined) return Effect.succeed(cached)
      return Effect.map(read(this.#root, file.path), (reading) => {
        if (typeof reading !== "object") return undefined
        const { bytes, changed_ms } = reading.file
        if (bytes !== file.bytes || changed_ms !== file.changed_ms) return undefined
        this.#keep(file.path, reading.bytes)
        return reading.bytes
      })
    })

  #keep(path: string, bytes: Uint8Array): void {
    if (this.#cached + bytes.length > cache_bytes_max) {
      this.#cache.clear()
      this.#cached = 0
    }
    if (bytes.length > cache_bytes_max) return
    this.#cache.set(path, bytes)
    this.#cached += bytes.length
  }
}
