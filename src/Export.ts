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
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as NodePath from "node:path"
import * as Disk from "./Disk.ts"
import { type CorruptSegment, InvalidLine, type IoError, TargetRefused } from "./Errors.ts"
import * as Frame from "./Frame.ts"
import { lines, type NumberedLine } from "./internal/lines.ts"
import { temporaryName } from "./internal/temporaryName.ts"
import type * as Kv from "./Kv.ts"
import type * as Log from "./Log.ts"

const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64")

const fromBase64 = (text: string): Uint8Array => Buffer.from(text, "base64")

// Strict, as the Rust program's decoder is: padding, and no bits left over.
const Base64 = Schema.String.check(
  Schema.makeFilter((text: string) => base64(fromBase64(text)) === text, { expected: "canonical standard Base64" })
)

const line_start = `{"key_b64":"`
const line_middle = `","value_b64":"`
const line_end = `"}`

/**
 * A line: a key and its value in standard Base64 with padding.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Line = Schema.fromJsonString(Schema.Struct({ key_b64: Base64, value_b64: Base64 }))

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
    ({ key, value }) => `${line_start}${base64(key)}${line_middle}${base64(value)}${line_end}\n`
  )

/**
 * Writes the live state to a file, whole or not at all: parents are made, an older file is replaced, and when this
 * resolves the new one is durable. A failed or interrupted export leaves nothing behind; a killed one may leave a
 * hidden temporary file. `TargetRefused` when the path is a directory, a device or a symbolic link. `onProgress` is
 * told how many lines are written.
 *
 * **Example** (Out and back)
 *
 * ```ts
 * import { Effect, Stream } from "effect"
 * import { Export, Kv } from "effect-datawal"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const kv = yield* Kv.make({ directory: "store" })
 *   yield* kv.put("a", "1")
 *   yield* Export.toFile(kv, "backup/store.jsonl")
 *   const copy = yield* Kv.make({ directory: "copy" })
 *   yield* Export.fromLines(copy, Stream.map(Export.toLines(kv), (line) => new TextEncoder().encode(line)))
 *   return yield* copy.get("a")
 * }))
 *
 * new TextDecoder().decode(await Effect.runPromise(program)) // => "1"
 * ```
 *
 * @category exporting
 * @since 0.1.0
 */
export const toFile = Effect.fnUntraced(function*(
  kv: Kv.KvRead,
  path: string,
  options?: { readonly onProgress?: ((records: number) => void) | undefined }
): Effect.fn.Return<Exported, IoError | CorruptSegment | TargetRefused> {
  const { disk } = kv
  const parent = NodePath.dirname(NodePath.resolve(path))
  yield* Disk.ensureDirectory(disk, parent)
  // A process that died at once may have made them, and not have come to this.
  yield* Disk.syncAncestors(disk, parent)
  yield* refuseSpecial(disk, parent, path)
  const building = NodePath.join(parent, temporaryName(path))
  return yield* Effect.acquireUseRelease(
    disk.open(building, "create"),
    (file) =>
      Effect.gen(function*() {
        const exported = yield* writeLines(kv, file, options?.onProgress)
        yield* file.sync
        yield* disk.rename(building, path)
        yield* disk.syncDirectory(parent)
        return exported
      }),
    (file, exit) => Exit.isSuccess(exit) ? file.close : Effect.andThen(file.close, Effect.ignore(disk.remove(building)))
  )
})

const refuseSpecial = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  parent: string,
  path: string
): Effect.fn.Return<void, IoError | TargetRefused> {
  const there = (yield* disk.list(parent)).find((entry) => entry.name === NodePath.basename(path))
  // Renaming over a link would replace the link: `/dev/stdout` is one.
  if (there !== undefined && (there.isLink || !there.isFile)) {
    const found = there.isLink ? "a symbolic link" : "something that is not a regular file"
    return yield* new TargetRefused({ target: path, found })
  }
})

const writeLines = Effect.fnUntraced(function*(
  kv: Kv.KvRead,
  file: Disk.DiskFile,
  onProgress: ((records: number) => void) | undefined
): Effect.fn.Return<Exported, IoError | CorruptSegment> {
  let records = 0
  let bytes = 0
  yield* Stream.runForEachArray(toLines(kv), (batch) => {
    // Base64 and the line around it are ASCII.
    const text = Buffer.from(batch.join(""), "latin1")
    return Effect.map(Disk.appendFully(file, text, 0, text.length), () => {
      records += batch.length
      bytes += text.length
      onProgress?.(records)
    })
  })
  return { records_written: records, bytes_written: bytes }
})

// What is gathered before it is written: one write, and one record at least.
const batch_bytes_max = 1_048_576

/** The longest line that can hold a record: both in Base64, and room for the rest. */
const line_bytes_max = 4 * Math.ceil(Frame.key_bytes_max / 3) + 4 * Math.ceil(Frame.payload_bytes_max / 3) + 1_024

const decodeLine = Schema.decodeUnknownResult(Line)

// What is wrong with a line may quote it, and a line may have megabytes.
const detail_characters_max = 200

/** The record of a line as an export writes it, or `undefined`: then the schema says more, in ten times as long. */
const exportedRecord = (text: Buffer): readonly [Uint8Array, Uint8Array] | undefined => {
  const line = text.toString("latin1")
  const keyEnd = line.indexOf("\"", line_start.length)
  const valueStart = keyEnd + line_middle.length
  const valueEnd = line.length - line_end.length
  const isExported = line.startsWith(line_start) && line.startsWith(line_middle, keyEnd) && line.endsWith(line_end) &&
    valueStart <= valueEnd
  if (!isExported) return undefined
  const key_b64 = line.slice(line_start.length, keyEnd)
  const value_b64 = line.slice(valueStart, valueEnd)
  const key = fromBase64(key_b64)
  const value = fromBase64(value_b64)
  return base64(key) === key_b64 && base64(value) === value_b64 ? [key, value] : undefined
}

// `JSON.parse` takes some fifty bytes of memory for two bytes of `[]`: a long line of them would take gigabytes.
const json_values_max = 1_000

const quote = 0x22
const backslash = 0x5C
const comma = 0x2C
const openBracket = 0x5B
const openBrace = 0x7B

/** Whether a line holds more JSON values than one with two strings, and some others to ignore, can need. */
const hasTooManyValues = (text: Buffer): boolean => {
  let values = 0
  let isString = false
  for (let at = 0; at < text.length; at++) {
    const byte = text[at]
    if (byte === quote) isString = !isString
    else if (isString) at += byte === backslash ? 1 : 0
    else if ((byte === comma || byte === openBracket || byte === openBrace) && ++values > json_values_max) return true
  }
  return false
}

const parse = ({ line, text }: NumberedLine): Result.Result<readonly [Uint8Array, Uint8Array], InvalidLine> => {
  const refuse = (detail: string) => Result.fail(new InvalidLine({ line, detail }))
  if (text === undefined) return refuse("it is longer than any record")
  let record = exportedRecord(text)
  if (record === undefined) {
    if (hasTooManyValues(text)) return refuse(`it holds more than ${json_values_max} JSON values`)
    const decoded = decodeLine(text.toString("utf8"))
    if (Result.isFailure(decoded)) {
      return refuse(decoded.failure.message.replaceAll(/\s+/g, " ").slice(0, detail_characters_max))
    }
    record = [fromBase64(decoded.success.key_b64), fromBase64(decoded.success.value_b64)]
  }
  const [key, value] = record
  if (key.length > Frame.key_bytes_max) {
    return refuse(`the key has ${key.length} bytes, the limit is ${Frame.key_bytes_max}`)
  }
  if (value.length > Frame.payload_bytes_max) {
    return refuse(`the value has ${value.length} bytes, the limit is ${Frame.payload_bytes_max}`)
  }
  return Result.succeed(record)
}

/**
 * Reads lines and puts them, in order; resolves once all are synced. Blank lines are skipped.
 *
 * **Details**
 *
 * A line that is not a record's ends it with `InvalidLine`, and a failing input with that failure: in both cases
 * everything before is stored and synced. `onProgress` is told how many records are stored.
 *
 * @category importing
 * @since 0.1.0
 */
export const fromLines = Effect.fnUntraced(function*<E, R>(
  kv: Kv.Kv["Service"],
  input: Stream.Stream<Uint8Array, E, R>,
  options?: { readonly onProgress?: ((records: number) => void) | undefined }
): Effect.fn.Return<Imported, E | InvalidLine | Log.WriteError, R> {
  let records = 0
  let bytes = 0
  let batch: Array<readonly [Uint8Array, Uint8Array]> = []
  let batchBytes = 0
  let stopped = false
  const flush = Effect.suspend(() => {
    const entries = batch
    batch = []
    batchBytes = 0
    return Effect.mapBoth(kv.putMany(entries), {
      onFailure: (error) => {
        stopped = true
        return error
      },
      onSuccess: (refs) => {
        records += refs.length
        for (const ref of refs) bytes += ref.len
        options?.onProgress?.(records)
      }
    })
  })
  const add = Effect.fnUntraced(function*(
    numbered: ReadonlyArray<NumberedLine>
  ): Effect.fn.Return<void, InvalidLine | Log.WriteError> {
    for (const line of numbered) {
      const parsed = parse(line)
      if (Result.isFailure(parsed)) return yield* parsed.failure
      const [key, value] = parsed.success
      batch.push(parsed.success)
      batchBytes += Frame.encodedLength(key.length, value.length)
      if (batchBytes >= batch_bytes_max) yield* flush
    }
  })
  const read = Stream.runForEachArray(lines(input, line_bytes_max), add)
  const outcome = yield* Effect.result(read)
  // Only what has not been handed over yet: a failed write has emptied the batch.
  if (!stopped) {
    yield* flush
    yield* kv.sync
  }
  if (Result.isFailure(outcome)) return yield* Effect.fail(outcome.failure)
  return { records_written: records, bytes_written: bytes }
})
