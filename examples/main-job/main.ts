/**
 * The main job: what the store is for, on real files. Loads a directory, kills a writer in the middle of a write,
 * recovers, compares, compacts, exports, imports, and leaves the stores behind. Exits with 1 when anything is not what
 * it should be.
 *
 *     npm start
 *     npm start -- DIR [--out DIR]
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Kv, Log } from "effect-datawal"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as NodePath from "node:path"
import { change, compact, expectedAfter, exportAndImport } from "./change.ts"
import * as Compare from "./compare.ts"
import { crash, type Kill } from "./crash.ts"
import * as Events from "./events.ts"
import { keyOf, load } from "./load.ts"
import { type Options, Refused, resolve, usage } from "./options.ts"
import * as Show from "./show.ts"
import { type SourceFile, SourceReader } from "./source.ts"

/** Something was not what it should be; every difference has been printed already. */
const differ = (differences: number): Refused =>
  new Refused({ message: `${Show.plural(differences, "difference")}: the store does not hold what it should` })

const places = (out: string) => ({
  store: NodePath.join(out, "store"),
  events: NodePath.join(out, "events"),
  compacted: NodePath.join(out, "compacted"),
  exported: NodePath.join(out, "store.jsonl"),
  imported: NodePath.join(out, "imported")
})

const differences_shown = 10

class Verdict {
  differences = 0

  /** Prints what a comparison found. */
  readonly show = (comparison: Compare.Comparison, what: string): Effect.Effect<void> => {
    const { bytes, changed, compared, differences } = comparison
    this.differences += differences.length
    return Show.print(
      `  ${differences.length === 0 ? "=" : "!"} ${Show.plural(compared, "value")}, ${
        Show.size(bytes)
      }, compared ${what}: ` +
        (differences.length === 0 ? "all the same" : `${Show.count(differences.length)} NOT the same`) +
        (changed === 0 ? "" : ` (${Show.plural(changed, "file")} changed meanwhile and not compared)`),
      ...differences.slice(0, differences_shown).map(({ key, what }) => `    ${key}: ${what}`)
    )
  }
}

const loading = Effect.fnUntraced(function*(options: Options, events: Log.Log["Service"]) {
  yield* Show.step(1, "Load every file: path -> bytes, and an event for each")
  const kv = yield* Kv.make({ directory: places(options.out).store })
  const loaded = yield* load(options.source, options.out, kv, events)
  if (loaded.files.length === 0) return yield* new Refused({ message: `${options.source}: there is no file to load` })
  const { bytes, files, ms, skipped, syncs } = loaded
  yield* Show.print(Show.table(
    ["files", "bytes", "syncs", "time", "throughput"],
    [[files.length, Show.size(bytes), syncs, Show.seconds(ms), Show.rate(bytes, ms)]]
  ))
  for (const [why, count] of skipped.counts) yield* Show.print(`  skipped, ${why}: ${Show.count(count)}`)
  for (const sample of skipped.samples) yield* Show.print(`    ${sample}`)
  return files
}, Effect.scoped)

const killRow = (kill: Kill, index: number): ReadonlyArray<Show.Cell> => {
  const { report } = kill
  const torn = report.tail_truncated === 1
  return [
    index + 1,
    `${kill.after_ms} ms`,
    kill.synced,
    kill.written,
    kill.found,
    torn ? `torn: ${report.tail_reason}` : "whole",
    torn ? Show.count(report.tail_bytes_discarded) : "",
    torn ? `segment ${report.tail_segment}, offset ${report.tail_offset}` : "",
    report.torn_file === undefined ? "" : NodePath.basename(report.torn_file)
  ]
}

const killing = Effect.fnUntraced(function*(
  options: Options,
  source: SourceReader,
  files: ReadonlyArray<SourceFile>,
  events: Log.Log["Service"],
  verdict: Verdict
) {
  yield* Show.step(2, "Kill a writer with SIGKILL while it copies the files in the store, and open the store again")
  const kills = yield* crash(places(options.out).store, source, files, events, options.kills)
  yield* Show.print(Show.table(
    ["kill", "after", "synced", "written", "found", "tail", "bytes cut", "where", "kept in"],
    kills.map(killRow)
  ))
  const torn = kills.filter(({ report }) => report.tail_truncated === 1).length
  yield* Show.print(
    "  synced and written: what the writer had acknowledged; found: what the store holds, in the order it was written",
    torn === 0
      ? `  no tail was torn in ${kills.length} kills: the kernel ended every write that it had begun`
      : `  ${Show.plural(torn, "torn tail")} in ${Show.plural(kills.length, "kill")}, cut off when the store was opened`
  )
  yield* verdict.show(Compare.sum(kills), "with the files they are copies of")
  const kv = yield* Kv.make({ directory: places(options.out).store })
  const { last_txid_seen, records_replayed } = kv.report
  yield* Show.print(
    `  opened once more: ${Show.count(records_replayed)} records, last txid ${Show.count(last_txid_seen)}`
  )
  const comparison = yield* Compare.withSource(kv, source, files.map((file) => ({ key: keyOf(file), file })))
  yield* verdict.show(comparison, "with the files they came from")
}, Effect.scoped)

const changing = Effect.fnUntraced(function*(
  options: Options,
  source: SourceReader,
  files: ReadonlyArray<SourceFile>,
  events: Log.Log["Service"],
  verdict: Verdict
) {
  const { compacted, store } = places(options.out)
  yield* Show.step(3, "Overwrite some, delete some, compact")
  const kv = yield* Kv.make({ directory: store })
  const counts = yield* change(kv, files, events)
  yield* Show.print(
    `  ${Show.plural(counts.overwritten, "file")} overwritten, ${Show.count(counts.deleted)} deleted, ` +
      `${Show.plural(counts.copies, "copy", "copies")} of the killed writers deleted`
  )
  const { after, before, comparison } = yield* compact(kv, compacted, source, expectedAfter(files), events)
  yield* Show.print(Show.table(
    ["store", "keys", "records", "live", "dead", "segments"],
    ([["before", before], ["compacted", after]] as const).map(([name, statistics]) => [
      name,
      statistics.keys,
      statistics.records,
      Show.size(statistics.liveBytes),
      Show.size(statistics.deadBytes),
      statistics.segments
    ])
  ))
  yield* verdict.show(comparison, "with what they should be")
}, Effect.scoped)

const moving = Effect.fnUntraced(function*(options: Options, events: Log.Log["Service"], verdict: Verdict) {
  const { compacted, exported, imported } = places(options.out)
  yield* Show.step(4, "Export to JSON lines, and read them back into a fresh store")
  const result = yield* exportAndImport(compacted, exported, imported, events)
  yield* Show.print(Show.table(
    ["", "records", "bytes"],
    [
      ["exported", result.exported.records_written, Show.size(result.exported.bytes_written)],
      ["imported", result.imported.records_written, Show.size(result.imported.bytes_written)]
    ]
  ))
  yield* verdict.show(result.comparison, "between the two stores")
})

const logging = Effect.fnUntraced(function*(events: Log.Log["Service"]) {
  yield* Show.step(5, "What the event log says")
  yield* events.sync
  yield* Show.print(Show.table(["event", "times"], Array.from(yield* Events.tally(events))))
})

const suggestions = (options: Options, files: ReadonlyArray<SourceFile>): Effect.Effect<void> => {
  const { compacted, events, store } = places(options.out)
  const file = files.findLast((_, index) => index % 10 !== 1)
  return Show.print(
    "",
    `Everything is left in ${options.out}. Try:`,
    `  npx datawal scan ${quote(events)} --limit 5`,
    `  npx datawal report ${quote(store)}`,
    `  npx datawal verify ${quote(store)}`,
    ...file === undefined ? [] : [`  npx datawal get ${quote(compacted)} --key ${quote(keyOf(file))} --bytes raw`],
    `  npx datawal export ${quote(compacted)} ${quote(NodePath.join(options.out, "again.jsonl"))}`
  )
}

const quote = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`

const run = Effect.fnUntraced(function*(options: Options) {
  yield* Show.print(`from ${options.source}`, `into ${options.out}`)
  const source = new SourceReader(options.source)
  const verdict = new Verdict()
  const events = yield* Log.make({ directory: places(options.out).events })
  const files = yield* loading(options, events)
  yield* killing(options, source, files, events, verdict)
  yield* changing(options, source, files, events, verdict)
  yield* moving(options, events, verdict)
  yield* logging(events)
  yield* suggestions(options, files)
  if (verdict.differences > 0) return yield* differ(verdict.differences)
}, Effect.scoped)

const main = Effect.gen(function*() {
  const options = yield* resolve(process.argv.slice(2))
  yield* options === undefined ? Show.print(usage) : run(options)
}).pipe(
  Effect.catch((error) =>
    Effect.andThen(
      Console.error(`main-job: error: ${error.message}`),
      Effect.sync(() => {
        process.exitCode = 1
      })
    )
  ),
  Effect.provide(NodeServices.layer)
)

NodeRuntime.runMain(main)
