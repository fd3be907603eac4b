/**
 * `put`, `delete` and `append`: one record, synced before its place is printed.
 */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import type * as Log from "../Log.ts"
import { refuse } from "./failure.ts"
import * as Flags from "./flags.ts"
import * as Input from "./input.ts"
import { Output, printLine } from "./output.ts"
import { refLine } from "./render.ts"
import { schema } from "./schema.ts"
import { openLog, requireStore, warnOfCut } from "./store.ts"

const value = {
  argument: Argument.String("VALUE").pipe(
    Argument.withMetavar("TEXT"),
    Argument.withDescription("The value, as UTF-8 text; - reads it from standard input"),
    Argument.optional
  ),
  file: Flag.optional(Flags.fileFlag("value-file", "Read the value from this file"))
}

const write = Effect.fnUntraced(function*(store: string, record: Log.RecordInput) {
  const ref = yield* Effect.scoped(
    Effect.gen(function*() {
      const log = yield* openLog({ directory: store })
      yield* warnOfCut(store, log.report)
      const ref = yield* log.appendRecord(record)
      yield* log.sync
      return ref
    })
  )
  const { len, offset, segment, txid } = ref
  const printed = (yield* Flags.isJson)
    ? printLine({ schema, kind: "ref", segment, offset, len, txid })
    : Output.use((output) => output.write(refLine(ref)))
  // Whoever runs it again would write it twice.
  yield* Effect.mapError(
    printed,
    (error) => error.detail === undefined ? error : refuse(`${error.detail}; the record is stored and durable`)
  )
})

export const put = Command.make(
  "put",
  { store: Flags.store, value, key: Flags.key },
  Effect.fnUntraced(function*(config) {
    const key = yield* Flags.requiredKey("put", config.key)
    const payload = yield* Input.value("put", config.value)
    yield* write(config.store, { type: "Put", key, payload })
  })
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Set the value of a key and print where its record stands, once it is durable.",
      "The store is made if it is missing."
    )
  ),
  Command.withShortDescription("Set the value of a key"),
  Command.withExamples([
    { command: "datawal put ./store --key colour blue" },
    { command: "datawal put ./store --key photo --value-file photo.jpg", description: "The bytes of a file" },
    { command: "date | datawal put ./store --key now -", description: "Standard input, line feed and all" },
    { command: "datawal put ./store --key offset -- -x", description: "A value that looks like a flag" }
  ])
)

const deleteCommand = Command.make(
  "delete",
  { store: Flags.store, key: Flags.key },
  Effect.fnUntraced(function*(config) {
    const key = yield* Flags.requiredKey("delete", config.key)
    yield* requireStore(config.store)
    yield* write(config.store, { type: "Delete", key })
  })
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Remove a key and print where its tombstone stands, once it is durable.",
      "One is written even if the key has no value."
    )
  ),
  Command.withShortDescription("Remove a key"),
  Command.withExamples([{ command: "datawal delete ./store --key colour" }])
)

export { deleteCommand as delete }

export const append = Command.make(
  "append",
  { store: Flags.store, value, key: Flags.key },
  Effect.fnUntraced(function*(config) {
    const key = yield* Flags.optionalKey("append", config.key)
    const payload = yield* Input.value("append", config.value)
    yield* write(config.store, { type: "Raw", key, payload })
  })
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Append a plain record and print where it stands, once it is durable. The key/value view does",
      "not see it, key or not. The store is made if it is missing."
    )
  ),
  Command.withShortDescription("Append a plain record"),
  Command.withExamples([
    { command: "datawal append ./store 'it rained'" },
    { command: "datawal append ./store --value-file event.bin --key tag" }
  ])
)
