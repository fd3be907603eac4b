/**
 * `export`, `compact` and `import`: a store's live state out of it and into another; and `salvage`, all that is whole.
 */
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Stream from "effect/Stream"
import * as Export from "../Export.ts"
import type * as Kv from "../Kv.ts"
import { listSegments, segmentName } from "../Recovery.ts"
import * as Salvage from "../Salvage.ts"
import { importStopped, lostRecords, missingStore, refuse } from "./failure.ts"
import * as Flags from "./flags.ts"
import * as Input from "./input.ts"
import { Output, printFields, warn } from "./output.ts"
import * as Progress from "./progress.ts"
import { type Line, schema } from "./schema.ts"
import { openKv, openKvReader, targetOutside, warnIfEmpty, warnOfCut } from "./store.ts"

const standardOutput = "-"

const exportToFile = Effect.fnUntraced(function*(kv: Kv.KvRead, path: string) {
  const onProgress = yield* Progress.make({ label: "export", total: yield* kv.size, unit: "keys" })
  return yield* Export.toFile(kv, path, { onProgress })
}, Effect.scoped)

const exportToStandardOutput = Effect.fnUntraced(function*(kv: Kv.KvRead) {
  const output = yield* Output
  const total = yield* kv.size
  // On a terminal the lines themselves are the progress.
  const onProgress = output.isTerminal ? () => {} : yield* Progress.make({ label: "export", total, unit: "keys" })
  return yield* Export.toWrites(kv, output.write, onProgress)
}, Effect.scoped)

// A backup is not to be replaced by nothing because a volume is not mounted.
const exists = (fs: FileSystem.FileSystem, path: string): Effect.Effect<boolean> =>
  Effect.orElseSucceed(fs.exists(path), () => true)

// Somebody who keeps a log may take the copy for one of it.
const warnIfNoKeys = Effect.fnUntraced(function*(store: string, kv: Kv.KvRead) {
  const { keys, records } = yield* kv.statistics
  if (keys === 0 && records > 0) {
    yield* warn(`no key of ${store} has a value; records without one, as append writes them, are not copied`)
  }
})

const exportCommand = Command.make(
  "export",
  {
    store: Flags.store,
    outfile: Flags.path("OUTFILE", "either", "File to write, or - for standard output")
  },
  Effect.fnUntraced(function*({ outfile, store }) {
    const isStandard = outfile === standardOutput
    const target = isStandard ? outfile : yield* targetOutside(store, outfile)
    const kv = yield* openKvReader(store)
    const isNoStore = kv.report.files_scanned === 0 && !isStandard
    if (isNoStore && (yield* FileSystem.FileSystem.use((fs) => exists(fs, target)))) {
      return yield* refuse(`${store} holds no segments; ${outfile} was left as it is`)
    }
    yield* warnIfEmpty(store, kv.report.files_scanned)
    yield* warnIfNoKeys(store, kv)
    const exported = yield* (isStandard ? exportToStandardOutput(kv) : exportToFile(kv, target))
    const line: Line = { schema, kind: "export", outfile, ...exported }
    const json = yield* Flags.isJson
    if (!isStandard) return yield* printFields(json, line)
    // Standard output holds the lines and nothing else.
    if (json) yield* Output.use((output) => output.note(JSON.stringify(line)))
  }, Effect.scoped)
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Write every live key and its value as JSON lines, in ascending byte order of the keys.",
      "The file appears whole or not at all, and replaces an older one."
    )
  ),
  Command.withShortDescription("Write the live state as JSON lines"),
  Command.withExamples([
    { command: "datawal export ./store backup.jsonl" },
    { command: "datawal export ./store - | gzip > backup.jsonl.gz", description: "To a pipe" }
  ])
)

export { exportCommand as export }

export const compact = Command.make(
  "compact",
  { store: Flags.store, target: Flags.path("TARGET", "directory", "Directory for the new store: empty or absent") },
  Effect.fnUntraced(function*({ store, target }) {
    const directory = yield* targetOutside(store, target)
    const kv = yield* openKvReader(store)
    yield* warnIfEmpty(store, kv.report.files_scanned)
    yield* warnIfNoKeys(store, kv)
    const total = yield* kv.size
    const compacted = yield* Effect.scoped(
      Effect.flatMap(
        Progress.make({ label: "compact", total, unit: "keys" }),
        (onProgress) => kv.compactTo(directory, { onProgress })
      )
    )
    const line: Line = { schema, kind: "compact", target, ...compacted }
    yield* printFields(yield* Flags.isJson, line)
  }, Effect.scoped)
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Write a new store that holds just the live values. STORE is read without its lock and left as",
      "it is; TARGET appears whole or not at all."
    )
  ),
  Command.withShortDescription("Write a store of the live values only"),
  Command.withExamples([{ command: "datawal compact ./store ./smaller" }])
)

const describeGap = ({ bytes, offset, reason, segment }: Salvage.Gap): string =>
  `left out: ${bytes} bytes of ${segmentName(segment)} at offset ${offset}, ${reason}`

export const salvage = Command.make(
  "salvage",
  { store: Flags.store, target: Flags.path("TARGET", "directory", "Directory for the new store: empty or absent") },
  Effect.fnUntraced(function*({ store, target }) {
    const directory = yield* targetOutside(store, target)
    const segments = yield* Effect.mapError(listSegments(store), missingStore(store))
    yield* warnIfEmpty(store, segments.length)
    const gaps: Array<Salvage.Gap> = []
    const salvaged = yield* Effect.scoped(
      Effect.flatMap(
        Progress.make({ label: "salvage", total: undefined, unit: "records" }),
        (onProgress) => Salvage.toStore(store, directory, { onProgress, onGap: (gap) => gaps.push(gap) })
      )
    )
    for (const gap of gaps) yield* warn(describeGap(gap))
    const line: Line = { schema, kind: "salvage", target, ...salvaged }
    yield* printFields(yield* Flags.isJson, line)
    if (!gaps.every(({ torn }) => torn)) return yield* lostRecords(store, target)
  })
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Write a new store of every record of STORE that is whole, before and behind its damage. STORE is read",
      "without its lock and left as it is; TARGET appears whole or not at all. What was left out is said in",
      "warnings; a key whose last put or delete was there is as it was before. Ends with 3 when that was more",
      "than a torn tail: TARGET is made all the same."
    )
  ),
  Command.withShortDescription("Write a store of what is whole in a damaged one"),
  Command.withExamples([{ command: "datawal salvage ./store ./salvaged" }])
)

/** The size of a regular file: what a bar can be drawn of. */
const sizeOf = (path: string): Effect.Effect<number | undefined, never, FileSystem.FileSystem> =>
  FileSystem.FileSystem.use((fs) => fs.stat(path)).pipe(
    Effect.map((info) => info.type === "File" ? Number(info.size) : undefined),
    Effect.orElseSucceed(() => undefined)
  )

const importCommand = Command.make(
  "import",
  { store: Flags.store, infile: Flags.path("INFILE", "either", "File to read, or - for standard input") },
  Effect.fnUntraced(function*({ infile, store }) {
    const input = yield* Input.open(infile)
    if (input === undefined) {
      yield* warn(
        `${infile === Input.standardInput ? "standard input" : infile} is empty, and ${store} was left as it is`
      )
      const line: Line = { schema, kind: "import", records_written: 0, bytes_written: 0 }
      return yield* printFields(yield* Flags.isJson, line)
    }
    const kv = yield* openKv(store)
    yield* warnOfCut(store, kv.report)
    const total = infile === Input.standardInput ? undefined : yield* sizeOf(infile)
    const imported = yield* Effect.scoped(Effect.gen(function*() {
      const progress = yield* Progress.make({
        label: "import",
        total,
        unit: total === undefined ? "records" : "bytes"
      })
      let bytes = 0
      const counted = Stream.map(input, (chunk) => {
        bytes += chunk.length
        if (total !== undefined) progress(bytes)
        return chunk
      })
      const lines = Export.fromLines(kv, counted, total === undefined ? { onProgress: progress } : {})
      return yield* Effect.mapError(lines, importStopped)
    }))
    const line: Line = { schema, kind: "import", ...imported }
    yield* printFields(yield* Flags.isJson, line)
  }, Effect.scoped)
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Put every line of an export into the store, which is made if it is missing. At a bad line it",
      "ends with 1; the lines before it are stored and synced."
    )
  ),
  Command.withShortDescription("Put the lines of an export"),
  Command.withExamples([
    { command: "datawal import ./store backup.jsonl" },
    { command: "gunzip -c backup.jsonl.gz | datawal import ./store -", description: "From a pipe" }
  ])
)

export { importCommand as import }
