/**
 * `report`, `verify` and `check`, which look whether a store is sound, and `repair`, which makes it so.
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { CorruptSegment, CorruptTail } from "../Errors.ts"
import type { LogRecord } from "../Frame.ts"
import type * as Kv from "../Kv.ts"
import type * as Reader from "../Reader.ts"
import * as Recovery from "../Recovery.ts"
import { type Failure, isCorruption, missingStore, tornReport } from "./failure.ts"
import * as Flags from "./flags.ts"
import { printFields } from "./output.ts"
import * as Progress from "./progress.ts"
import { schema } from "./schema.ts"
import { openKvReader, openLog, openReader, warnIfEmpty } from "./store.ts"

type RecoveryReport = Recovery.RecoveryReport
type Corruption = CorruptTail | CorruptSegment
type Tail = Pick<RecoveryReport, "tail_truncated" | "tail_bytes_discarded">

const noTail: Tail = { tail_truncated: 0, tail_bytes_discarded: 0 }

/** How far a reading has come: what can still be said when corruption ends it. */
class Seen {
  records = 0
  bytes = 0
  txid = 0
  segment = 0
  offset = 0

  add(records: ReadonlyArray<LogRecord>): void {
    for (const record of records) {
      this.records++
      this.bytes += record.len
      this.txid = Math.max(this.txid, record.txid)
    }
    const last = records.at(-1)
    this.segment = last?.segment ?? this.segment
    this.offset = last?.offset ?? this.offset
  }
}

/** Reads everything, with a bar. */
const inspect = Effect.fnUntraced(function*(reader: Reader.Reader["Service"], label: string, seen: Seen) {
  const segments = yield* reader.segments
  const total = segments.reduce((sum, { bytes }) => sum + bytes, 0)
  const progress = yield* Progress.make({ label, total, unit: "bytes" })
  return yield* reader.inspect((records) =>
    Effect.sync(() => {
      seen.add(records)
      progress(seen.bytes)
    })
  )
}, Effect.scoped)

/** Does something for a corruption before it goes on as the failure that it is. */
const tapCorruption =
  <R>(f: (corruption: Corruption) => Effect.Effect<void, Failure, R>) =>
  <A, E extends { readonly _tag: string }, R2>(
    effect: Effect.Effect<A, E, R2>
  ): Effect.Effect<A, E | Failure, R | R2> =>
    Effect.tapError(effect, (error) => isCorruption(error) ? f(error) : Effect.void)

/** Raises what a report is not clean about. */
const settle = (store: string, report: RecoveryReport): Effect.Effect<void, Failure> =>
  Effect.suspend(() => tornReport(store, report) ?? Effect.void)

// A sound log has neither; a corrupt one has the one that ended the reading.
const damageCounts = (corruption: Corruption | undefined) => {
  // The start of a header with nothing behind it says no version.
  const isVersion = corruption?._tag === "CorruptSegment" && corruption.reason === "UnknownVersion"
  return {
    mid_stream_errors: corruption === undefined || isVersion ? 0 : 1,
    unsupported_versions: isVersion ? 1 : 0
  } as const
}

// The shape is always the same: a field that has nothing to say is null.
const reportFields = (report: RecoveryReport, corruption?: Corruption) => ({
  ...report,
  ...damageCounts(corruption),
  tail_segment: report.tail_segment ?? null,
  tail_offset: report.tail_offset ?? null,
  tail_reason: report.tail_reason ?? null,
  torn_file: report.torn_file ?? null
})

export const report = Command.make(
  "report",
  { store: Flags.store },
  Effect.fnUntraced(function*({ store }) {
    const json = yield* Flags.isJson
    const say = (report: RecoveryReport, corruption?: Corruption) =>
      printFields(json, { schema, kind: "report", ...reportFields(report, corruption) })
    const seen = new Seen()
    const reader = yield* openReader(store)
    const files = (yield* reader.segments).length
    const found = yield* inspect(reader, "report", seen).pipe(
      tapCorruption((error) => say(Recovery.makeReport(files, seen), error))
    )
    yield* say(found)
    yield* settle(store, found)
  }, Effect.scoped)
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Print what opening the store for write would find: records, the last txid, and a torn tail",
      "that it would cut off. Ends with 2 at a torn tail, 3 at corruption."
    )
  ),
  Command.withShortDescription("Print what recovery would find"),
  Command.withExamples([{ command: "datawal report ./store" }, { command: "datawal --json report ./store" }])
)

export const verify = Command.make(
  "verify",
  { store: Flags.store },
  Effect.fnUntraced(function*({ store }) {
    const json = yield* Flags.isJson
    const seen = new Seen()
    const say = ({ tail_bytes_discarded, tail_truncated }: Tail, crc_failures: 0 | 1) =>
      printFields(json, {
        schema,
        kind: "verify",
        frames_checked: seen.records,
        crc_failures,
        tail_truncated,
        tail_bytes_discarded,
        last_segment: seen.segment,
        last_offset: seen.offset
      })
    const reader = yield* openReader(store)
    const found = yield* inspect(reader, "verify", seen).pipe(
      tapCorruption(({ reason }) => say(noTail, reason === "CrcMismatch" ? 1 : 0))
    )
    yield* say(found, 0)
    yield* settle(store, found)
  }, Effect.scoped)
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Read every frame of every segment and check its header and checksum.",
      "Ends with 2 at a torn tail, 3 at corruption."
    )
  ),
  Command.withShortDescription("Check every frame"),
  Command.withExamples([
    { command: "datawal verify ./store && echo sound", description: "In a script: 0 is clean, 2 torn, 3 corrupt" }
  ])
)

/** Reads back every live value; `checked` counts them. */
const readBack = Effect.fnUntraced(function*(kv: Kv.KvRead, checked: { keys: number }) {
  const progress = yield* Progress.make({ label: "check", total: yield* kv.size, unit: "keys" })
  yield* Stream.runForEachArray(kv.entries(), (entries) =>
    Effect.sync(() => {
      checked.keys += entries.length
      progress(checked.keys)
    }))
}, Effect.scoped)

export const check = Command.make(
  "check",
  { store: Flags.store },
  Effect.fnUntraced(function*({ store }) {
    const json = yield* Flags.isJson
    const checked = { keys: 0 }
    const say = ({ tail_bytes_discarded, tail_truncated }: Tail, corruption?: Corruption) =>
      printFields(json, {
        schema,
        kind: "check",
        keys_checked: checked.keys,
        tail_truncated,
        tail_bytes_discarded,
        ...damageCounts(corruption)
      })
    const reader = yield* openReader(store)
    const seen = new Seen()
    const found = yield* inspect(reader, "check", seen).pipe(tapCorruption((error) => say(noTail, error)))
    yield* Effect.flatMap(openKvReader(store), (kv) => readBack(kv, checked)).pipe(
      tapCorruption((error) => say(found, error))
    )
    yield* say(found)
    yield* settle(store, found)
  }, Effect.scoped)
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Check every frame, then read the value of every live key back through the index, with its",
      "checksum and its key. Ends with 2 at a torn tail, 3 at corruption."
    )
  ),
  Command.withShortDescription("Check every frame and read every live value back"),
  Command.withExamples([{ command: "datawal check ./store" }])
)

const policy = Flag.Literals("policy", ["repair", "prefix"]).pipe(
  Flag.withDefault("repair"),
  Flag.withDescription("repair cuts a torn tail off; prefix also cuts what repair refuses in the active segment")
)

export const repair = Command.make(
  "repair",
  { store: Flags.store, policy },
  Effect.fnUntraced(function*({ policy, store }) {
    const segments = yield* Effect.mapError(Recovery.listSegments(store), missingStore(store))
    yield* warnIfEmpty(store, segments.length)
    // Nothing is to be repaired, and none to be begun.
    const found = segments.length === 0
      ? Recovery.makeReport(0, new Seen())
      : yield* Effect.scoped(
        Effect.flatMap(openLog({ directory: store, policy }), (log) => Effect.as(log.sync, log.report))
      )
    yield* printFields(yield* Flags.isJson, { schema, kind: "repair", ...reportFields(found) })
  })
).pipe(
  Command.withDescription(
    Flags.paragraph(
      "Open the store for write and cut its torn tail off, which every writer does by itself. What is",
      "cut is first copied to a .torn file in the store. With --policy prefix everything behind the",
      "first damage of the active segment is cut, which can lose acknowledged records: copy the store",
      "first. Closed segments are never changed."
    )
  ),
  Command.withShortDescription("Cut a torn tail off"),
  Command.withExamples([
    { command: "datawal repair ./store" },
    {
      command: "datawal repair ./store --policy prefix",
      description: "When verify tells of damage: copy the store first"
    }
  ])
)
