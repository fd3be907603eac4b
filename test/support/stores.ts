/** Hand-made stores on real disks, and what is read of them, in the terms of the tests' own parser (`frames.ts`). */
import { assert } from "@effect/vitest"
import { Effect, Stream } from "effect"
import type { Scope } from "effect"
import * as NFS from "node:fs"
import * as NodeOS from "node:os"
import * as NodePath from "node:path"
import { fileURLToPath } from "node:url"
import type { CorruptSegment, CorruptTail, IoError } from "../../src/Errors.ts"
import type { LogRecord } from "../../src/Frame.ts"
import * as Log from "../../src/Log.ts"
import * as Reader from "../../src/Reader.ts"
import { concat, parse, type Plain, plain, put, raw } from "./frames.ts"

export {
  concat,
  crc32cBitwise,
  flipped,
  frame,
  type FrameSpec,
  noise,
  parse,
  type Plain,
  plain,
  put,
  raw,
  type Type,
  utf8,
  validAt,
  withByte,
  zeroed,
  zeros
} from "./frames.ts"

/** Two records, and three with higher txids that may stand behind them and what is between. */
export const head = concat(raw(1, "one"), raw(2, "two"))
export const later = concat(raw(4, "four"), put(5, "five", "5"), raw(6, "six"))

/** A whole segment of frames, and a failed assertion for anything else in it. */
export const parseWhole = (bytes: Uint8Array, segment: number): Array<Plain> => {
  const { end, records } = parse(bytes, segment)
  assert.strictEqual(end, bytes.length, `segment ${segment} is not frames to its end`)
  return records
}

// -- directories ------------------------------------------------------------------------------------------------------

export const segmentName = (id: number): string => `${String(id).padStart(8, "0")}.dwal`

export const tornName = (id: number, offset: number): string => `${String(id).padStart(8, "0")}-${offset}.torn`

// Tests open stores thousands of times, and an fsync on a real disk takes milliseconds. What it makes durable no test
// in this process can tell; the calls are the same.
const memory_directory = "/dev/shm"

/** Some stores are large: the 64 MiB that a container has there, unless it is told otherwise, are not enough. */
const memory_bytes_min = 1_073_741_824

const root = ((): string => {
  try {
    NFS.accessSync(memory_directory, NFS.constants.W_OK)
    const { bavail, bsize } = NFS.statfsSync(memory_directory)
    return bavail * bsize < memory_bytes_min ? NodeOS.tmpdir() : memory_directory
  } catch {
    return NodeOS.tmpdir()
  }
})()

const directoryIn = (parent: string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => NFS.mkdtempSync(NodePath.join(parent, "datawal-"))),
    (directory) => Effect.sync(() => NFS.rmSync(directory, { recursive: true, force: true }))
  )

/** A directory for as long as the scope, where an fsync is cheap. */
export const temporaryDirectory: Effect.Effect<string, never, Scope.Scope> = directoryIn(root)

/** A directory for as long as the scope, with room for hundreds of megabytes. */
export const largeDirectory: Effect.Effect<string, never, Scope.Scope> = directoryIn(NodeOS.tmpdir())

export type Segments = Readonly<Record<number, Uint8Array>>

/** Puts segments into a directory, and takes out every one that is not named. */
export const fill = (directory: string, segments: Segments): void => {
  for (const name of NFS.readdirSync(directory)) NFS.rmSync(NodePath.join(directory, name), { recursive: true })
  for (const [id, bytes] of Object.entries(segments)) {
    NFS.writeFileSync(NodePath.join(directory, segmentName(Number(id))), bytes)
  }
}

/** A directory with these segments. */
export const store = (segments: Segments): Effect.Effect<string, never, Scope.Scope> =>
  Effect.tap(temporaryDirectory, (directory) => Effect.sync(() => fill(directory, segments)))

export const readSegment = (directory: string, id: number): Uint8Array =>
  new Uint8Array(NFS.readFileSync(NodePath.join(directory, segmentName(id))))

export const readName = (directory: string, name: string): Uint8Array =>
  new Uint8Array(NFS.readFileSync(NodePath.join(directory, name)))

/** Every name but the lock's, with what is behind it: two are equal when nothing changed. */
export const snapshot = (directory: string): Record<string, string> => {
  const entries: Record<string, string> = {}
  for (const entry of NFS.readdirSync(directory, { withFileTypes: true })) {
    if (entry.name === ".lock") continue
    const path = NodePath.join(directory, entry.name)
    entries[entry.name] = entry.isSymbolicLink()
      ? `link to ${NFS.readlinkSync(path)}`
      : entry.isDirectory()
      ? "directory"
      : `file ${NFS.readFileSync(path).toString("base64")}`
  }
  return entries
}

// -- fixtures ---------------------------------------------------------------------------------------------------------

export interface Expected {
  readonly note: string
  readonly open: "ok" | "torn" | "CorruptTail" | "CorruptSegment"
  readonly records?: ReadonlyArray<Plain>
  readonly valid_prefix?: ReadonlyArray<Plain>
  readonly torn_bytes?: number
  readonly valid_end?: number
  readonly valid_behind?: number
  readonly reason?: string
  readonly segment?: number
  readonly offset?: number
  readonly found?: number
  readonly live?: ReadonlyArray<readonly [key: string, value: string]>
  readonly live_b64?: ReadonlyArray<readonly [key: string, value: string]>
}

export const fixtures_directory = fileURLToPath(new URL("../fixtures/", import.meta.url))

export const expected = JSON.parse(
  NFS.readFileSync(NodePath.join(fixtures_directory, "expected.json"), "utf8")
) as Readonly<Record<string, Expected>>

/** A fixture's directory, copied for as long as the scope. */
export const copyFixture = (name: string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.tap(
    temporaryDirectory,
    (directory) =>
      Effect.sync(() =>
        NFS.cpSync(NodePath.join(fixtures_directory, name), directory, {
          recursive: true,
          // What keeps an empty directory in a repository is no part of the store.
          filter: (path) => NodePath.basename(path) !== ".gitkeep"
        })
      )
  )

/** The live keys and values, base64, in ascending byte order of keys. */
export const expectedLive = (fixture: Expected): ReadonlyArray<readonly [string, string]> =>
  fixture.live_b64 ??
    (fixture.live ?? []).map(([key, value]) =>
      [Buffer.from(key).toString("base64"), Buffer.from(value).toString("base64")] as const
    )

// -- reading ----------------------------------------------------------------------------------------------------------

export interface Collected<E> {
  readonly records: Array<Plain>
  readonly error: E | undefined
}

/** What a stream emitted, and what it failed with. */
export const collect = <E, R>(stream: Stream.Stream<LogRecord, E, R>): Effect.Effect<Collected<E>, never, R> =>
  Effect.suspend(() => {
    const records: Array<Plain> = []
    return Stream.runForEach(stream, (record) => Effect.sync(() => void records.push(plain(record)))).pipe(
      Effect.match({
        onFailure: (error): Collected<E> => ({ records, error }),
        onSuccess: () => ({ records, error: undefined })
      })
    )
  })

/** What a reader without the lock sees of a directory. */
export const readAll = (
  directory: string,
  chunkSize?: number
): Effect.Effect<Collected<IoError | CorruptTail | CorruptSegment>> =>
  Effect.scoped(Effect.flatMap(
    Effect.orDie(Reader.make({ directory, chunkSize })),
    (reader) => collect(reader.stream)
  ))

/** The fields of an error that have a value, to compare with a literal. */
export const fieldsOf = (error: object | undefined): Record<string, unknown> =>
  Object.fromEntries(Object.entries(error ?? {}).filter(([, value]) => value !== undefined))

/** The same but for what was found, which is the decoder's. */
export const errorFields = (error: object | undefined): Record<string, unknown> => {
  const { found: _, ...fields } = fieldsOf(error)
  return fields
}

/** Opens a store for write, reads all of it, and closes it. */
export const openWith = (directory: string, options: Omit<Log.Options, "directory"> = {}) =>
  Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory, ...options })
    const { error, records } = yield* collect(log.stream)
    assert.isUndefined(error)
    return { report: log.report, records, end: yield* log.end }
  }))

/**
 * Tries each item in a directory, several at a time in one each, since much of the time goes by in the thread pool. A
 * failure says which item it was.
 */
export const inDirectories = Effect.fnUntraced(function*<A, B, E>(
  workers: number,
  items: ReadonlyArray<A>,
  nameOf: (item: A) => string,
  attempt: (directory: string, item: A) => Effect.Effect<B, E>
): Effect.fn.Return<Array<B>, never, Scope.Scope> {
  const tried = yield* Effect.forEach(
    Array.from({ length: workers }, (_, worker) => items.filter((_, index) => index % workers === worker)),
    (share) =>
      Effect.flatMap(temporaryDirectory, (directory) =>
        Effect.forEach(share, (item) =>
          Effect.catchCause(
            Effect.suspend(() => attempt(directory, item)),
            (cause) => Effect.die(new Error(nameOf(item), { cause }))
          ))),
    { concurrency: workers }
  )
  return tried.flat()
})
