/**
 * The live state as JSON lines, and back: one `{"key_b64":"…","value_b64":"…"}` a line, in ascending byte order of
 * the keys, byte for byte what the Rust program writes.
 *
 * Reach for it to move a store elsewhere, to keep a copy that needs no program to read, or to compare two stores.
 *
 * A file appears whole or not at all: it is written beside its target, made durable, and renamed. An import stores
 * and syncs every line before the first bad one. Memory is bounded by the chunks and the largest record (and, for an
 * export, the keys).
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as NodePath from "node:path"
import * as Disk from "./Disk.ts"
import { type CorruptSegment, type InvalidLine, type IoError, TargetRefused } from "./Errors.ts"
import { replaceFile, targetPath, temporaryPath } from "./internal/beside.ts"
import { LineWriter } from "./internal/exportLines.ts"
import { Import } from "./internal/importing.ts"
import { kvParts, type ReadParts, readParts } from "./internal/kvParts.ts"
import { RecordLine, toLine } from "./internal/recordLine.ts"
import { ofStore } from "./internal/storeLogs.ts"
import type * as Kv from "./Kv.ts"
import type * as Log from "./Log.ts"

/**
 * A line, from its JSON and back: an object whose fields are *text*, the key and its value in standard Base64 with
 * padding. It is for programs that make or change exports themselves; `toLines` and `fromLines` need none of it.
 *
 * **Example** (A line of one's own)
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Export } from "effect-datawal"
 *
 * const line = Schema.decodeUnknownSync(Export.Line)('{"key_b64":"aw==","value_b64":"dg=="}')
 * Buffer.from(line.value_b64, "base64").toString() // => "v"
 * Schema.encodeSync(Export.Line)({ ...line, value_b64: Buffer.from("w").toString("base64") })
 * // => '{"key_b64":"aw==","value_b64":"dw=="}'
 * ```
 *
 * @category schemas
 * @since 0.1.0
 */
export const Line = RecordLine

const chunk_bytes = 262_144

/**
 * What an export wrote: lines, and bytes of the file.
 *
 * @category models
 * @since 0.1.0
 */
export interface Exported {
  readonly records_written: number
  readonly bytes_written: number
}

/**
 * What an import wrote: records, and the bytes of their frames.
 *
 * @category models
 * @since 0.1.0
 */
export interface Imported {
  readonly records_written: number
  readonly bytes_written: number
}

/**
 * The live state at the moment the stream starts, a line an element, each with its line feed.
 *
 * @category exporting
 * @since 0.1.0
 */
export const toLines = (kv: Kv.KvRead): Stream.Stream<string, IoError | CorruptSegment> =>
  Stream.map(
    kv.entries({ ordered: true }),
    ({ key, value }) => toLine(key, value)
  )

/**
 * Writes the live state to a file, whole or not at all: parents are made, an older file is replaced, and when this
 * resolves the new one is durable. A failed or interrupted export leaves no temporary file, a killed one may leave a
 * hidden one. Until the very last step, the rename, the older file stands as it was; if syncing its directory fails
 * after that, or an interruption comes meanwhile, the new file is in its place, whole. `TargetRefused` when the path is
 * a directory, a device or a symbolic link, or lies in the store's own directory. `onProgress` is told how many lines
 * are written.
 *
 * **Example** (Out and back)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Export, Kv } from "effect-datawal"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const kv = yield* Kv.make({ directory: "store" })
 *   yield* kv.put("a", "1")
 *   yield* Export.toFile(kv, "backup/store.jsonl")
 *   const copy = yield* Kv.make({ directory: "copy" })
 *   yield* Export.fromFile(copy, "backup/store.jsonl")
 *   return yield* copy.get("a")
 * }))
 *
 * new TextDecoder().decode(await Effect.runPromise(program)) // => "1"
 * ```
 *
 * @category exporting
 * @since 0.1.0
 */
export const toFile = (
  kv: Kv.KvRead,
  path: string,
  options?: { readonly onProgress?: ((records: number) => void) | undefined }
): Effect.Effect<Exported, IoError | CorruptSegment | TargetRefused> =>
  Effect.withSpan(writeFile(kv, path, options?.onProgress), "Export.toFile", {
    attributes: { path },
    captureStackTrace: false
  })

const writeFile = Effect.fnUntraced(function*(
  kv: Kv.KvRead,
  path: string,
  onProgress: ((records: number) => void) | undefined
): Effect.fn.Return<Exported, IoError | CorruptSegment | TargetRefused> {
  if (path === "" || path.endsWith(NodePath.sep)) {
    return yield* new TargetRefused({ target: path, found: "a path that names no file" })
  }
  const parts = yield* readParts(kv)
  const { disk } = parts
  const target = yield* targetPath(disk, path, kv.directory)
  yield* refuseSpecial(disk, target, path)
  return yield* replaceFile(
    disk,
    target,
    temporaryPath(target),
    (file) => writeLines(parts, (text) => append(file, text), onProgress)
  )
})

const refuseSpecial = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  target: string,
  path: string
): Effect.fn.Return<void, IoError | TargetRefused> {
  const entries = yield* disk.list(NodePath.dirname(target))
  const there = entries.find((entry) => entry.name === NodePath.basename(target))
  // Renaming over a link would replace the link: `/dev/stdout` is one.
  if (there !== undefined && (there.isLink || !there.isFile)) {
    const found = there.isLink ? "a symbolic link" : "something that is not a regular file"
    return yield* new TargetRefused({ target: path, found })
  }
})

// Most texts are written on this thread.
const append = (file: Disk.DiskFile, text: Uint8Array): Effect.Effect<void, IoError> => {
  if (text.length > Disk.blocking_bytes_max) return Disk.appendFully(file, text, 0, text.length)
  return Effect.suspend(() => {
    const failed = Disk.appendFullyNow(file, text, 0, text.length)
    return failed === undefined ? Effect.void : Effect.fail(failed)
  })
}

const writeLines = Effect.fnUntraced(function*<E>(
  { disk, frames }: ReadParts,
  write: (text: Uint8Array) => Effect.Effect<void, E>,
  onProgress: ((records: number) => void) | undefined
): Effect.fn.Return<Exported, IoError | CorruptSegment | E, Scope.Scope> {
  let records = 0
  let bytes = 0
  const writer = new LineWriter()
  const take = yield* frames
  for (let next = yield* take; next !== undefined; next = yield* take) {
    // Base64 and the line around it are ASCII.
    const text = "bytes" in next
      ? writer.linesOf(next)
      : Buffer.from(next.map(({ key, value }) => toLine(key, value)).join(""), "latin1")
    yield* write(text)
    const count = "bytes" in next ? next.to - next.from : next.length
    records += count
    bytes += text.length
    onProgress?.(records)
    if (disk.isTurnOver(count)) yield* Effect.yieldNow
  }
  return { records_written: records, bytes_written: bytes }
}, Effect.scoped)

/** The lines of `toFile`, many in a text, for `write`, whose text holds until it has ended. @internal */
export const toWrites = <E>(
  kv: Kv.KvRead,
  write: (text: Uint8Array) => Effect.Effect<void, E>,
  onProgress: (records: number) => void
): Effect.Effect<Exported, IoError | CorruptSegment | E> =>
  Effect.flatMap(readParts(kv), (parts) => writeLines(parts, write, onProgress))

/**
 * Reads lines, as UTF-8 or as text, and puts them, in order; resolves once all are synced. Blank lines are skipped.
 * What is emitted need not be whole lines.
 *
 * **Details**
 *
 * A line that is not a record's ends it with `InvalidLine`, and a failing input with that failure. Either way all lines
 * before are stored and synced, unless a write or a sync fails. An interruption stores and syncs a prefix of them: it
 * may leave out what is left of the chunks at hand, and it waits for nobody who has the store to itself. No line waits
 * for the input: those of an array of chunks are stored before the next is pulled. Of a field that is there twice the
 * last counts. Other fields beside the two are ignored, up to a thousand values in all. `onProgress` is told how many
 * records are stored.
 *
 * @category importing
 * @since 0.1.0
 */
export const fromLines = <E, R>(
  kv: Kv.KvService,
  input: Stream.Stream<Uint8Array | string, E, R>,
  options?: { readonly onProgress?: ((records: number) => void) | undefined }
): Effect.Effect<Imported, E | InvalidLine | Log.WriteError, R> =>
  Effect.withSpan(readLines(kv, input, options?.onProgress), "Export.fromLines", { captureStackTrace: false })

/**
 * `fromLines` of a file, such as `toFile` or the Rust program has written. What has no positions, as a pipe, is for
 * `fromLines`.
 *
 * @category importing
 * @since 0.1.0
 */
export const fromFile = (
  kv: Kv.KvService,
  path: string,
  options?: { readonly onProgress?: ((records: number) => void) | undefined }
): Effect.Effect<Imported, InvalidLine | Log.WriteError> =>
  Effect.withSpan(readFile(kv, path, options?.onProgress), "Export.fromFile", {
    attributes: { path },
    captureStackTrace: false
  })

const readFile = Effect.fnUntraced(function*(
  kv: Kv.KvService,
  path: string,
  onProgress: ((records: number) => void) | undefined
): Effect.fn.Return<Imported, InvalidLine | Log.WriteError, Scope.Scope> {
  const { disk } = yield* kvParts(kv)
  const file = yield* Disk.openScoped(disk, path, "read")
  const chunks = Stream.unfold(
    0,
    Effect.fnUntraced(function*(at: number): Effect.fn.Return<readonly [Uint8Array, number] | undefined, IoError> {
      const bytes = new Uint8Array(chunk_bytes)
      const count = yield* Disk.readFully(file, bytes, 0, bytes.length, at)
      return count === 0 ? undefined : [bytes.subarray(0, count), at + count]
    })
  )
  return yield* readLines(kv, chunks, onProgress)
}, Effect.scoped)

const readLines = Effect.fnUntraced(function*<E, R>(
  kv: Kv.KvService,
  input: Stream.Stream<Uint8Array | string, E, R>,
  onProgress: ((records: number) => void) | undefined
): Effect.fn.Return<Imported, E | InvalidLine | Log.WriteError, R> {
  const lines = new Import(kv, yield* kvParts(kv), onProgress)
  // Here it may wait for its turn and be interrupted, below not.
  const read = Effect.matchCauseEffect(Effect.andThen(Stream.runForEachArray(input, lines.feed), lines.end), {
    onSuccess: () => lines.flush,
    onFailure: (cause) =>
      Cause.hasInterrupts(cause) ? Effect.failCause(cause) : Effect.andThen(lines.flush, Effect.failCause(cause))
  })
  yield* Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      Effect.exit(restore(read)),
      (ended) =>
        Effect.matchCauseEffect(lines.sync, {
          onSuccess: () => ended,
          // That the lines before are not stored is what counts; but an interruption stays one.
          onFailure: (cause) =>
            Exit.hasInterrupts(ended)
              ? Effect.andThen(
                ofStore(kv.directory, Effect.logWarning("the last imported records may not be durable", cause)),
                ended
              )
              : Effect.failCause(cause)
        })
    )
  )
  return { records_written: lines.records, bytes_written: lines.bytes }
})
