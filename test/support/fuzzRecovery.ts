/**
 * One hostile directory: read without the lock, opened by a writer, gone on with, and opened again. What is read, what
 * it fails with, what is on the disk then, and what is in the report must be what the reference works out.
 */
import { Effect, Result, Stream } from "effect"
import * as NodeAssert from "node:assert/strict"
import type { CorruptSegment, CorruptTail, IoError } from "../../src/Errors.ts"
import type { LogRecord } from "../../src/Frame.ts"
import * as Kv from "../../src/Kv.ts"
import * as Log from "../../src/Log.ts"
import * as Reader from "../../src/Reader.ts"
import type { RecoveryReport } from "../../src/Recovery.ts"
import * as Salvage from "../../src/Salvage.ts"
import type { Bench, MakeBench, Tally } from "./fuzzBench.ts"
import {
  collect,
  errorOf,
  expectFields,
  expectRecords,
  expectTree,
  fieldsOf,
  place,
  sameBytes,
  sameRecord
} from "./fuzzCompare.ts"
import {
  afterCut,
  behind,
  cuts,
  foldOf,
  frameAt,
  framesFrom,
  type Reading,
  readingOf,
  type ReferenceRecord,
  type SegmentBytes,
  segmentName,
  segmentsOf,
  type Tree,
  type Verdict,
  wholeOf
} from "./fuzzReference.ts"
import type { StoreCase } from "./fuzzStores.ts"

const txid_max = Number.MAX_SAFE_INTEGER
const segment_max = 99_999_999

// -- readers ----------------------------------------------------------------------------------------------------------

/** How a reader's stream ends: before a torn tail cleanly. */
const expectEnding = (
  what: string,
  directory: string,
  error: IoError | CorruptTail | CorruptSegment | { readonly _tag: string } | undefined,
  { damage }: Reading
): void =>
  expectFields(what, error, damage === undefined || damage.verdict === "Torn" ? undefined : errorOf(directory, damage))

const isBoundary = (segments: ReadonlyArray<SegmentBytes>, segment: number, offset: number): boolean => {
  const bytes = segments.find(({ id }) => id === segment)?.bytes
  if (bytes === undefined || offset < 0) return false
  const { end, records } = framesFrom(bytes, 0, segment)
  return offset === end || records.some((record) => record.offset === offset)
}

/** Whether a place in a file is behind its sound records. */
const isBehindRecords = (
  segments: ReadonlyArray<SegmentBytes>,
  { offset, segment }: { readonly segment: number; readonly offset: number }
): boolean => {
  const bytes = segments.find(({ id }) => id === segment)?.bytes
  return bytes !== undefined && offset > framesFrom(bytes, 0, segment).end && offset <= bytes.length
}

const isAscending = (records: ReadonlyArray<ReferenceRecord>): boolean =>
  records.every((record, index) => index === 0 || record.txid > (records[index - 1]?.txid ?? 0))

/** Every frame that a segment starts with. */
const soundRecords = (segments: ReadonlyArray<SegmentBytes>): ReadonlyArray<ReferenceRecord> =>
  segments.flatMap(({ bytes, id }) => framesFrom(bytes, 0, id).records)

const checkPlaces = Effect.fnUntraced(function*(
  store: StoreCase,
  directory: string,
  segments: ReadonlyArray<SegmentBytes>,
  reader: Reader.Reader["Service"],
  tally: Tally
) {
  for (const from of store.places) {
    const what = `the reader from ${from.segment}:${from.offset}`
    const { error, records } = yield* collect(reader.streamFrom(from))
    const isThere = from.segment <= (segments.at(-1)?.id ?? 1)
    if (isThere && (from.offset === 0 || isBoundary(segments, from.segment, from.offset))) {
      const reading = readingOf(segments, from)
      expectRecords(what, records, reading.records)
      expectEnding(what, directory, error, reading)
      tally("place: a record's")
    } else {
      if (records.length > 0) expectRecords(what, records, readingOf(segments, from).records.slice(0, records.length))
      // Behind damage stand frames too, and at the end of a file one may come to stand. And whole frames that stand in
      // a record up to the end of the file look like any others.
      const isBehind = isBehindRecords(segments, from)
      if (error !== undefined || !(records.length > 0 || isBehind)) {
        // Behind damage it is open whether a record starts there.
        const tags = isBehind ? ["InvalidPosition", "CorruptSegment", "CorruptTail"] : ["InvalidPosition"]
        NodeAssert.ok(tags.includes(error?._tag ?? ""), `${what}: ${error?._tag}`)
      }
      tally(`place: ${records.length === 0 ? "none" : `one that seems a record's, ${error?._tag ?? "not refused"}`}`)
    }
  }
})

const checkTxid = Effect.fnUntraced(function*(
  store: StoreCase,
  directory: string,
  segments: ReadonlyArray<SegmentBytes>,
  reader: Reader.Reader["Service"]
) {
  const what = `the reader from txid ${store.txid}`
  const { error, records } = yield* collect(reader.streamFrom({ txid: store.txid }))
  const all = readingOf(segments)
  const sound = soundRecords(segments)
  const inActive = all.damage === undefined || all.damage.segment === segments.at(-1)?.id
  if (isAscending(sound) && inActive) {
    expectRecords(what, records, all.records.filter((record) => record.txid >= store.txid))
    expectEnding(what, directory, error, all)
    return
  }
  // Where txids do not ascend there is no first one: then what is read is from some such record on.
  if (records[0] !== undefined) NodeAssert.ok(records[0].txid >= store.txid, what)
  let at = 0
  for (const record of records) {
    while (at < sound.length && !sameRecord(record, sound[at])) at++
    NodeAssert.ok(at < sound.length, `${what}: ${place(record)} is not there`)
  }
  NodeAssert.notEqual(error?._tag, "InvalidPosition", what)
})

const checkSalvage = Effect.fnUntraced(function*(
  directory: string,
  segments: ReadonlyArray<SegmentBytes>,
  tally: Tally
) {
  const gaps: Array<Salvage.Gap> = []
  const { error, records } = yield* collect(Salvage.records(directory, { onGap: (gap) => gaps.push(gap) }))
  const whole = wholeOf(segments)
  NodeAssert.equal(error, undefined, "the salvage")
  expectRecords("the salvage", records, whole.records)
  NodeAssert.deepEqual(gaps, whole.gaps, "the salvage")
  const sound = soundRecords(segments).length
  tally(`salvage: ${records.length > sound ? "more behind damage" : "nothing behind damage"}`)
})

const checkReferences = Effect.fnUntraced(function*(
  store: StoreCase,
  segments: ReadonlyArray<SegmentBytes>,
  read: Reader.Reader["Service"]["read"],
  records: ReadonlyArray<ReferenceRecord>
) {
  for (const record of [...records.slice(0, 2), ...records.slice(-2)]) {
    const result = yield* Effect.result(read(record))
    NodeAssert.ok(Result.isSuccess(result) && sameRecord(result.success, record), `read of ${place(record)}`)
  }
  for (const { offset, segment } of store.places) {
    const bytes = segments.find(({ id }) => id === segment)?.bytes
    const there = bytes === undefined || offset < 0 ? undefined : frameAt(bytes, offset, bytes.length, segment)
    for (const len of [28, 33, store.payload.length, there?.ok === true ? there.record.len : 100, 2 ** 40]) {
      const result = yield* Effect.result(read({ segment, offset, len }))
      if (!Result.isSuccess(result)) continue
      NodeAssert.ok(
        there?.ok === true && sameRecord(result.success, there.record),
        `read of ${segment}:${offset}+${len}`
      )
    }
  }
})

const expectFold = Effect.fnUntraced(function*(
  what: string,
  kv: Kv.KvRead,
  records: ReadonlyArray<ReferenceRecord>,
  segments: number
) {
  const live = foldOf(records)
  NodeAssert.equal(yield* kv.size, live.size, `${what}: keys`)
  NodeAssert.equal(yield* Effect.orDie(kv.get("a key that is not there")), undefined)
  for (const record of live.values()) {
    const value = yield* Effect.orDie(kv.get(record.key))
    NodeAssert.ok(
      value !== undefined && sameBytes(value, record.payload),
      `${what}: get of the record ${place(record)}`
    )
  }
  const entries = yield* Effect.orDie(Stream.runCollect(kv.entries({ ordered: true })))
  const sorted = Array.from(live.values()).sort((a, b) => Buffer.compare(a.key, b.key))
  NodeAssert.equal(entries.length, sorted.length, `${what}: entries`)
  for (const [index, { key, value }] of entries.entries()) {
    const record = sorted[index]
    NodeAssert.ok(
      record !== undefined && sameBytes(key, record.key) && sameBytes(value, record.payload),
      `${what}: entries`
    )
  }
  const bytes = records.reduce((sum, record) => sum + record.len, 0)
  const liveBytes = sorted.reduce((sum, record) => sum + record.len, 0)
  NodeAssert.deepEqual(
    yield* Effect.orDie(kv.statistics),
    { keys: live.size, records: records.length, liveBytes, deadBytes: bytes - liveBytes, segments },
    `${what}: statistics`
  )
})

const cleanReport = (files: number, records: ReadonlyArray<ReferenceRecord>): RecoveryReport => ({
  files_scanned: files,
  records_replayed: records.length,
  tail_truncated: 0,
  tail_bytes_discarded: 0,
  mid_stream_errors: 0,
  unsupported_versions: 0,
  last_txid_seen: lastTxid(records)
})

const lastTxid = (records: ReadonlyArray<ReferenceRecord>): number =>
  records.reduce((most, { txid }) => Math.max(most, txid), 0)

const tornReport = (report: RecoveryReport, damage: Verdict): object => ({
  ...report,
  tail_truncated: 1,
  tail_bytes_discarded: damage.bytes,
  tail_segment: damage.segment,
  tail_offset: damage.offset,
  tail_reason: damage.reason
})

/** All that can be seen without the lock, which changes nothing. */
const checkReaders = (store: StoreCase, bench: Bench, tally: Tally): Effect.Effect<void> =>
  Effect.scoped(Effect.gen(function*() {
    const { directory } = bench
    const segments = segmentsOf(store.tree)
    const reading = readingOf(segments)
    const { damage, records } = reading
    tally(`verdict: ${damage === undefined ? "sound" : damage.verdict}`)
    if (damage !== undefined) tally(`reason: ${damage.verdict} ${damage.reason}`)
    const options = { directory, chunkSize: store.chunkSize }
    const reader = yield* Effect.orDie(Reader.make(options))
    const all = yield* collect(reader.stream)
    expectRecords("the reader", all.records, records)
    expectEnding("the reader", directory, all.error, reading)

    const inspected = yield* Effect.result(reader.inspect())
    const clean = cleanReport(segments.length, records)
    if (damage !== undefined && damage.verdict !== "Torn") {
      expectEnding("inspect", directory, Result.isFailure(inspected) ? inspected.failure : undefined, reading)
    } else {
      const expected = damage === undefined ? clean : tornReport(clean, damage)
      NodeAssert.deepEqual(Result.isSuccess(inspected) ? inspected.success : fieldsOf(inspected.failure), expected)
    }
    yield* checkPlaces(store, directory, segments, reader, tally)
    yield* checkTxid(store, directory, segments, reader)
    yield* checkSalvage(directory, segments, tally)
    yield* checkReferences(store, segments, reader.read, records)

    const kv = yield* Effect.result(Kv.makeReader(options))
    if (Result.isSuccess(kv)) yield* expectFold("the reading Kv", kv.success, records, segments.length)
    else expectEnding("the reading Kv", directory, kv.failure, reading)
    expectTree("readers", bench.look(), store.tree)
    bench.expectUntouched()
  }))

// -- writers ----------------------------------------------------------------------------------------------------------

interface Opening {
  readonly tree: Tree
  readonly segments: ReadonlyArray<SegmentBytes>
  readonly records: ReadonlyArray<ReferenceRecord>
  readonly report: object
}

/** What opening for write is to come to: what is there afterwards, or the fields of its error. */
const openingOf = (
  store: StoreCase,
  directory: string
): { readonly ok: true; readonly opening: Opening } | {
  readonly ok: false
  readonly error: Record<string, unknown>
} => {
  const refused = (error: Record<string, unknown>) => ({ ok: false, error }) as const
  const lock = store.tree.get(".lock")
  if (lock !== undefined && lock.kind !== "file") return refused({ _tag: "IoError" })
  const found = segmentsOf(store.tree)
  const tree = new Map(store.tree)
  if (found.length === 0) {
    if (tree.has(segmentName(1))) return refused({ _tag: "IoError" })
    tree.set(segmentName(1), { kind: "file", bytes: new Uint8Array(0) })
  }
  const segments = segmentsOf(tree)
  const { damage, records } = readingOf(segments)
  const clean = cleanReport(segments.length, records)
  if (damage === undefined) return { ok: true, opening: { tree, segments, records, report: clean } }
  if (!cuts(store.policy, damage, segments.at(-1)?.id ?? 1)) return refused(errorOf(directory, damage))
  const cut = afterCut(tree, damage)
  const torn = cut.torn === undefined ? {} : { torn_file: `${directory}/${cut.torn}` }
  const report = { ...tornReport(clean, damage), ...torn }
  return { ok: true, opening: { tree: cut.tree, segments: segmentsOf(cut.tree), records, report } }
}

/** Goes on with the log: the record that is there afterwards, or what is in the way. */
const checkAppend = Effect.fnUntraced(function*(
  store: StoreCase,
  log: Log.Log["Service"],
  { records, segments, tree }: Opening,
  tally: Tally
) {
  const active = segments.at(-1)
  const [id, bytes] = [active?.id ?? 1, active?.bytes.length ?? 0]
  const txid = lastTxid(records)
  NodeAssert.deepEqual(yield* log.end, { segment: id, offset: bytes, txid })
  const len = 28 + store.payload.length
  const rotates = bytes > 0 && bytes + len > store.segmentSize
  const appended = yield* Effect.result(log.append(store.payload))
  const refusal = txid >= txid_max
    ? { _tag: "LimitExceeded", limit: "txid", actual: txid + 1, maximum: txid_max }
    : rotates && id >= segment_max
    ? { _tag: "LimitExceeded", limit: "segment", actual: id + 1, maximum: segment_max }
    : undefined
  if (refusal !== undefined || (rotates && tree.has(segmentName(id + 1)))) {
    const error = Result.isFailure(appended) ? appended.failure : undefined
    if (refusal === undefined) NodeAssert.equal(error?._tag, "IoError", "an append to a taken name")
    else expectFields("an append beyond a limit", error, refusal)
    tally(`append: ${error?._tag}`)
    return undefined
  }
  const record: ReferenceRecord = {
    segment: rotates ? id + 1 : id,
    offset: rotates ? 0 : bytes,
    len,
    type: "Raw",
    txid: txid + 1,
    key: new Uint8Array(0),
    payload: store.payload
  }
  NodeAssert.ok(Result.isSuccess(appended), `append: ${Result.isFailure(appended) ? String(appended.failure) : ""}`)
  NodeAssert.deepEqual({ ...appended.success }, {
    segment: record.segment,
    offset: record.offset,
    len,
    txid: record.txid
  })
  yield* Effect.orDie(log.sync)
  tally(rotates ? "append: in a new segment" : "append: behind the last record")
  return record
})

/** The directory with one more record, which the reference reads back. */
const withRecord = (tree: Tree, record: ReferenceRecord, look: Tree): Tree => {
  const after = new Map(tree)
  const name = segmentName(record.segment)
  const file = behind(tree, name) ?? name
  const before = tree.get(file)
  const start = before?.kind === "file" ? before.bytes : new Uint8Array(0)
  const now = look.get(file)
  NodeAssert.ok(now?.kind === "file" && now.bytes.length === start.length + record.len, `${file} has another length`)
  NodeAssert.ok(sameBytes(now.bytes.subarray(0, start.length), start), `${file} has changed before its end`)
  const frame = frameAt(now.bytes, start.length, now.bytes.length, record.segment)
  NodeAssert.ok(frame.ok && sameRecord(frame.record, record), `the new record in ${file}`)
  after.set(file, now)
  return after
}

const checkOpen = (store: StoreCase, bench: Bench, opening: Opening, log: Log.Log["Service"], tally: Tally) =>
  Effect.gen(function*() {
    const { records, segments } = opening
    NodeAssert.deepEqual(log.report, opening.report, "the report")
    expectTree("the open", bench.look(), opening.tree)
    const all = yield* collect(log.stream)
    NodeAssert.equal(all.error, undefined)
    expectRecords("the log", all.records, records)
    const ids = segments.map(({ bytes, id }) => ({ id, bytes: bytes.length, active: id === segments.at(-1)?.id }))
    NodeAssert.deepEqual(yield* log.segments, ids, "the segments")
    for (const from of store.places) {
      const what = `the log from ${from.segment}:${from.offset}`
      const part = yield* collect(log.streamFrom(from))
      const isThere = from.segment <= (segments.at(-1)?.id ?? 1)
      if (isThere && (from.offset === 0 || isBoundary(segments, from.segment, from.offset))) {
        expectRecords(what, part.records, readingOf(segments, from).records)
        NodeAssert.equal(part.error, undefined, what)
      } else NodeAssert.equal(part.error?._tag, "InvalidPosition", what)
    }
    yield* checkReferences(store, segments, log.read, records)
    return yield* checkAppend(store, log, opening, tally)
  })

/** Opens by the policy; when it opens, what is there afterwards. */
const checkWriter = (store: StoreCase, bench: Bench, tally: Tally): Effect.Effect<Opening | undefined> =>
  Effect.gen(function*() {
    const { chunkSize, policy, segmentSize } = store
    const { directory } = bench
    const expected = openingOf(store, directory)
    const replayed: Array<ReferenceRecord> = []
    const replay = (records: ReadonlyArray<LogRecord>) => {
      for (const { key, len, offset, payload, segment, txid, type } of records) {
        replayed.push({ key: key.slice(), len, offset, payload: payload.slice(), segment, txid, type })
      }
    }
    const result = yield* Effect.result(Effect.scoped(Effect.flatMap(
      Log.make({ directory, policy, chunkSize, segmentSize, replay }),
      (log) => expected.ok ? checkOpen(store, bench, expected.opening, log, tally) : Effect.succeed(undefined)
    )))
    bench.expectClosed()
    if (!expected.ok) {
      const error = Result.isFailure(result) ? result.failure : undefined
      if (expected.error._tag === "IoError") NodeAssert.equal(error?._tag, "IoError", `open under ${policy}`)
      else expectFields(`open under ${policy}`, error, expected.error)
      expectTree("a refused open", bench.look(), store.tree)
      tally(`policy ${policy}: ${error?._tag}`)
      return undefined
    }
    if (Result.isFailure(result)) return NodeAssert.fail(`open under ${policy}: ${result.failure.message}`)
    const { opening } = expected
    expectRecords("the replay", replayed, opening.records)
    tally(`policy ${policy}: ${"tail_segment" in opening.report ? "cut" : "opened"}`)
    const record = result.success
    const look = bench.look()
    const tree = record === undefined ? opening.tree : withRecord(opening.tree, record, look)
    expectTree("after the append", look, tree)
    const records = record === undefined ? opening.records : [...opening.records, record]
    return { ...opening, tree, records, segments: segmentsOf(tree) }
  })

/** The next life: clean by the strictest policy, and all that was there and was added is there. */
const checkReopened = (store: StoreCase, bench: Bench, { records, segments, tree }: Opening): Effect.Effect<void> =>
  Effect.gen(function*() {
    const { directory } = bench
    const { chunkSize } = store
    yield* Effect.scoped(Effect.gen(function*() {
      const log = yield* Effect.orDie(Log.make({ directory, policy: "strict", chunkSize }))
      NodeAssert.deepEqual(log.report, cleanReport(segments.length, records), "the report of the next open")
      const all = yield* collect(log.stream)
      NodeAssert.equal(all.error, undefined)
      expectRecords("the log of the next open", all.records, records)
    }))
    bench.expectClosed()
    yield* Effect.scoped(Effect.gen(function*() {
      const kv = yield* Effect.orDie(Kv.make({ directory, policy: "strict", chunkSize }))
      yield* expectFold("the Kv of the next open", kv, records, segments.length)
    }))
    bench.expectClosed()
    expectTree("the next open", bench.look(), tree)
  })

/** All of a case, each part on a directory of its own. */
export const checkStore = (store: StoreCase, make: MakeBench, tally: Tally): Effect.Effect<void> =>
  Effect.gen(function*() {
    for (const change of store.made) tally(`made by: ${change.split(" ")[0]}`)
    yield* make(
      store.tree,
      store.disk,
      (bench) => Effect.map(checkReaders(store, bench, tally), () => bench.expectClosed())
    )
    yield* make(
      store.tree,
      store.disk,
      (bench) =>
        Effect.flatMap(
          checkWriter(store, bench, tally),
          (opening) => opening === undefined ? Effect.void : checkReopened(store, bench, opening)
        )
    )
  })
