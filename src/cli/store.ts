/**
 * How the commands reach a store: readers that take no lock and create nothing, and writers.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as NodePath from "node:path"
import * as Disk from "../Disk.ts"
import type { CorruptSegment, CorruptTail, InvalidOptions, InvalidPosition, IoError } from "../Errors.ts"
import type { LogRecord } from "../Frame.ts"
import { absolutePath } from "../internal/beside.ts"
import { findHome } from "../internal/home.ts"
import { framesFrom } from "../internal/reading.ts"
import * as Kv from "../Kv.ts"
import * as Log from "../Log.ts"
import * as Reader from "../Reader.ts"
import * as Recovery from "../Recovery.ts"
import { type Failure, missingStore, noSuchStore, refuse, tornTail } from "./failure.ts"
import { type Output, warn } from "./output.ts"

/** A directory without segments is no error to look into; but it may be where a volume should have been mounted. */
export const warnIfEmpty = (store: string, segments: number): Effect.Effect<void, never, Output> =>
  segments === 0 ? warn(`${store} holds no segments`) : Effect.void

/** The log of a store, to be looked at. */
export const openReader = Effect.fnUntraced(function*(
  store: string
): Effect.fn.Return<Reader.Reader["Service"], IoError | InvalidOptions | Failure, Scope.Scope | Output> {
  const reader = yield* Effect.mapError(Reader.make({ directory: store }), missingStore(store))
  yield* warnIfEmpty(store, (yield* reader.segments).length)
  return reader
})

/** The keys and values of a store, to be looked at. */
export const openKvReader = (
  store: string
): Effect.Effect<Kv.KvRead, Kv.ReaderError | Failure, Scope.Scope> =>
  Effect.mapError(Kv.makeReader({ directory: store }), missingStore(store))

/**
 * The records of a store, from the first one at or behind a place. A torn tail is a failure like the others here,
 * raised after everything before it: a reader of `Reader.stream` cannot tell it from the end.
 */
export const readRecords = (
  store: string,
  from: Recovery.Position = { segment: 0, offset: 0 }
): Stream.Stream<LogRecord, IoError | InvalidPosition | CorruptTail | CorruptSegment | Failure, Output> =>
  Stream.unwrap(
    Effect.gen(function*() {
      const { directory, home } = yield* findHome(store)
      const segments = yield* Recovery.listGrowingSegments(directory)
      yield* warnIfEmpty(store, segments.length)
      const bounds = { segments, chunkSize: Recovery.chunk_bytes_default }
      if (from.segment > (segments.at(-1) ?? 0)) return Stream.empty
      return framesFrom(directory, from, bounds).pipe(
        // No record starts exactly there: go there from the start of the segment.
        Stream.catchTag("InvalidPosition", () =>
          Stream.dropWhile(
            framesFrom(directory, { segment: from.segment, offset: 0 }, bounds),
            ({ offset, segment }) => segment === from.segment && offset < from.offset
          )),
        Stream.provideService(Disk.Disk, home)
      )
    }).pipe(Effect.mapError(missingStore(store)))
  ).pipe(
    Stream.mapError((error) =>
      error._tag !== "Damage"
        ? error
        : error.verdict === "Torn"
        ? tornTail(store, error)
        : Recovery.damageError(store, error)
    )
  )

/** A store opened for write. */
export const openLog = (
  options: Log.Options
): Effect.Effect<Log.Log["Service"], Log.OpenError | Failure, Scope.Scope> =>
  Effect.mapError(Log.make(options), missingStore(options.directory))

/** The same with its keys. */
export const openKv = (store: string): Effect.Effect<Kv.Kv["Service"], Kv.OpenError | Failure, Scope.Scope> =>
  Effect.mapError(Kv.make({ directory: store }), missingStore(store))

/** Says what opening a store for write has cut off: somebody may miss it. */
export const warnOfCut = (store: string, report: Recovery.RecoveryReport): Effect.Effect<void, never, Output> => {
  if (report.tail_truncated === 0) return Effect.void
  const copy = report.torn_file === undefined ? "they were all zeros" : `a copy is in ${report.torn_file}`
  return warn(`a torn tail of ${report.tail_bytes_discarded} bytes was cut off ${store}; ${copy}`)
}

/** Fails unless the directory holds a store: what only changes one must not make one of a mistyped name. */
export const requireStore = (store: string): Effect.Effect<void, IoError | Failure> =>
  Recovery.listSegments(store).pipe(
    Effect.mapError(missingStore(store)),
    Effect.flatMap((segments) =>
      segments.length === 0 ? Effect.fail(noSuchStore(store, "holds no segments")) : Effect.void
    )
  )

/**
 * The place that a path names which is about to be written: what a symbolic link leads to, so that the link itself is
 * not replaced. Fails when it lies in the store it is made from.
 */
export const targetOutside = Effect.fnUntraced(function*(
  store: string,
  path: string
): Effect.fn.Return<string, Failure, FileSystem.FileSystem> {
  const fromRoot = (path: string) => Effect.mapError(absolutePath(path), ({ message }) => refuse(message))
  const named = yield* fromRoot(path)
  // A link to what a redirection has opened: that file would be replaced, not written to.
  if (/^\/(dev\/(std(in|out|err)|fd\/)|proc\/)/.test(named)) {
    return yield* refuse(`${path} is a stream of a process, no place for a file; \`export STORE -\` writes to one`)
  }
  const real = yield* realPath(named)
  const inside = NodePath.relative(yield* realPath(yield* fromRoot(store)), real)
  if (inside === "" || !(inside === ".." || inside.startsWith(`..${NodePath.sep}`) || NodePath.isAbsolute(inside))) {
    return yield* refuse(`${path} is inside the store ${store}; choose a place outside it`)
  }
  const link = FileSystem.FileSystem.use((fs) => fs.readLink(path))
  return yield* Effect.match(link, { onSuccess: () => real, onFailure: () => path })
})

/** The path without symbolic links, as far as it exists. */
const realPath = (absolute: string): Effect.Effect<string, never, FileSystem.FileSystem> => {
  const parent = NodePath.dirname(absolute)
  return FileSystem.FileSystem.use((fs) => fs.realPath(absolute)).pipe(
    Effect.catch(() =>
      parent === absolute
        ? Effect.succeed(absolute)
        : Effect.map(realPath(parent), (real) => NodePath.join(real, NodePath.basename(absolute)))
    )
  )
}
