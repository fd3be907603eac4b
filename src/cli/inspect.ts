/**
 * `scan`, `dump` and `get`: what a store holds. None takes the lock or creates anything.
 */
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { LogRecord } from "../Frame.ts"
import { base64 } from "../internal/bytes.ts"
import { Failure, wrongUsage } from "./failure.ts"
import * as Flags from "./flags.ts"
import { Output, printLine, printRecords } from "./output.ts"
import {
  type BytesOptions,
  field,
  frameLine,
  isCut,
  isPrintable,
  plain,
  recordLine,
  shown_bytes_max
} from "./render.ts"
import { type FrameLine, type RecordLine, schema } from "./schema.ts"
import { openKvReader, readRecords, warnIfEmpty } from "./store.ts"

const headOf = ({ len, offset, segment, txid, type }: LogRecord) => ({ segment, offset, len, record_type: type, txid })

const recordJson = (record: LogRecord): string => {
  const object: typeof RecordLine.Encoded = {
    schema,
    kind: "record",
    ...headOf(record),
    key_base64: base64(record.key),
    payload_base64: base64(record.payload)
  }
  return JSON.stringify(object)
}

const frameJson = (record: LogRecord): string => {
  const { keyLength: key_len, payloadLength: payload_len } = record
  const object: typeof FrameLine.Encoded = { schema, kind: "frame", ...headOf(record), key_len, payload_len }
  return JSON.stringify(object)
}

// Stopping at a limit is not reading to the end: damage behind it is not looked at.
const limited =
  (limit: Option.Option<number>) => <E, R>(records: Stream.Stream<LogRecord, E, R>): Stream.Stream<LogRecord, E, R> =>
    Option.isSome(limit) ? Stream.take(records, limit.value) : records

export const scan = Command.make(
  "scan",
  { store: Flags.store, limit: Flags.limit, from: Flags.position, bytes: Flags.bytes },
  Effect.fnUntraced(function*({ bytes, from, limit, store }) {
    if (Option.isSome(from.offset) && Option.isNone(from.segment)) {
      return yield* wrongUsage("scan", "--from-offset is a place in a segment: give --from-segment too")
    }
    const options = { mode: bytes.mode, truncate: !bytes.whole }
    const records = readRecords(store, {
      segment: Option.getOrElse(from.segment, () => 0),
      offset: Option.getOrElse(from.offset, () => 0)
    })
    yield* printRecords(
      limited(limit)(records),
      (yield* Flags.isJson) ? recordJson : (record) => recordLine(record, options)
    )
  })
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "List the records in the order they were written, with keys and payloads.",
      "Ends with 2 at a torn tail, 3 at corruption."
    )
  ),
  Command.withShortDescription("List the records"),
  Command.withExamples([
    { command: "datawal scan ./store --limit 10", description: "The first ten" },
    {
      command: "datawal scan ./store --from-segment 2 --from-offset 4096",
      description: "From the start of a record on, also one behind damage"
    },
    {
      command: "datawal --json scan ./store | jq .txid",
      description: "For a program: whole keys and payloads in base64"
    }
  ])
)

export const dump = Command.make(
  "dump",
  { store: Flags.store, limit: Flags.limit },
  Effect.fnUntraced(function*({ limit, store }) {
    yield* printRecords(limited(limit)(readRecords(store)), (yield* Flags.isJson) ? frameJson : frameLine)
  })
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "List the frames without their payloads: places, lengths, types, txids.",
      "Ends with 2 at a torn tail, 3 at corruption."
    )
  ),
  Command.withShortDescription("List the frames without their payloads"),
  Command.withExamples([{ command: "datawal dump ./store --limit 3" }])
)

/** What is printed of a value, or `undefined` for bytes that may not go where the output goes. */
const shownValue = (
  value: Uint8Array,
  options: BytesOptions,
  isTerminal: boolean
): string | Uint8Array | undefined => {
  const { mode } = options
  if (mode === "base64" || mode === "hex") return `${plain(value, options)}\n`
  if (mode === "raw" && !isTerminal) return value
  if (!isPrintable(value)) return undefined
  return `${plain(value, { mode, truncate: options.truncate && mode === "auto" })}\n`
}

const printValue = Effect.fnUntraced(function*(
  value: Uint8Array,
  options: BytesOptions
): Effect.fn.Return<void, Failure, Output> {
  const output = yield* Output
  const shown = shownValue(value, options, output.isTerminal)
  if (shown === undefined) {
    yield* output.write(`${field(value, { ...options, mode: "auto" })}\n`)
    const raw = output.isTerminal ? "" : "--bytes raw or "
    const advice = `for a program: ${raw}--json, or --bytes base64 --no-truncate`
    return yield* output.note(`datawal: the value is binary, ${value.length} bytes; ${advice}`)
  }
  yield* output.write(shown)
  if (options.mode !== "raw" && isCut(value, options)) {
    yield* output.note(
      `datawal: the value was cut at ${shown_bytes_max} of ${value.length} bytes; --no-truncate prints all of it`
    )
  }
})

export const get = Command.make(
  "get",
  { store: Flags.store, key: Flags.key, bytes: Flags.bytes },
  Effect.fnUntraced(function*({ bytes, key: flags, store }) {
    const key = yield* Flags.requiredKey("get", flags)
    const value = yield* Effect.scoped(Effect.gen(function*() {
      const kv = yield* openKvReader(store)
      yield* warnIfEmpty(store, kv.report.files_scanned)
      return yield* kv.get(key)
    }))
    const isJson = yield* Flags.isJson
    const key_base64 = base64(key)
    if (value === undefined) {
      if (!isJson) return yield* new Failure({ code: 2, detail: `${store} has no value for this key` })
      yield* printLine({ schema, kind: "miss", key_base64 })
      return yield* new Failure({ code: 2, detail: undefined })
    }
    if (!isJson) return yield* printValue(value, { mode: bytes.mode, truncate: !bytes.whole })
    yield* printLine({
      schema,
      kind: "value",
      key_base64,
      value_base64: base64(value),
      value_len: value.length
    })
  })
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Print the value of a key, for people: cut at 64 bytes, and followed by a line feed. In a script use",
      "--bytes raw, which writes the very bytes to a pipe or file. Ends with 2 when the key has no value."
    )
  ),
  Command.withShortDescription("Print the value of a key"),
  Command.withExamples([
    { command: "datawal get ./store --key colour" },
    { command: "datawal get ./store --key photo --bytes raw > photo.jpg", description: "The very bytes" },
    { command: "datawal get ./store --key-hex 00ff --bytes hex", description: "Keys and values that are not text" }
  ])
)
