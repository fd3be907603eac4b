/**
 * The fixtures: stores made by an encoder that is not this product, and what every one of them must be taken for, by
 * the writer under each policy, by the readers, whatever the size of the chunks. A change of the wire format fails
 * here.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import {
  collect,
  copyFixture,
  type Expected,
  expected,
  expectedLive,
  fieldsOf,
  fixtures_directory,
  parseWhole,
  type Plain,
  plain,
  readName,
  readSegment,
  segmentName,
  snapshot,
  store,
  tornName,
  zeros
} from "./support/stores.ts"

const chunkSizes = [1, 7, 64, undefined]

const cases = Object.entries(expected).map(([name, fixture]) => ({ name, ...fixture }))
type Case = (typeof cases)[number]

const ok = cases.filter(({ open }) => open === "ok")
const torn = cases.filter(({ open }) => open === "torn")
const corrupt = cases.filter(({ open }) => open === "CorruptTail" || open === "CorruptSegment")

/** Why each torn tail is no frame, which `expected.json` leaves open. */
const tornReasons: Readonly<Record<string, string>> = {
  torn_in_crc: "Truncated",
  torn_in_payload: "Truncated",
  torn_in_header: "Truncated",
  torn_one_byte: "Truncated",
  torn_second_segment: "Truncated",
  torn_with_nested_log: "Truncated",
  zero_tail: "BadMagic",
  zero_sector_in_last: "CrcMismatch",
  zero_sector_then_valid: "CrcMismatch",
  last_crc_bad: "CrcMismatch"
}

const idsOf = (directory: string): ReadonlyArray<number> =>
  NFS.readdirSync(directory).filter((name) => name.endsWith(".dwal")).map((name) => Number.parseInt(name, 10)).sort(
    (a, b) => a - b
  )

const activeOf = (name: string): number => idsOf(NodePath.join(fixtures_directory, name)).at(-1) ?? 1

const original = (name: string, id: number): Uint8Array => readSegment(NodePath.join(fixtures_directory, name), id)

const recordsOf = (fixture: Expected): ReadonlyArray<Plain> => fixture.records ?? fixture.valid_prefix ?? []

const lastTxid = (fixture: Expected): number => recordsOf(fixture).at(-1)?.txid ?? 0

/** Opens for write, and what was replayed, reported and is read back, or the error. */
const open = (directory: string, options: Omit<Log.Options, "directory"> = {}) =>
  Effect.result(Effect.scoped(Effect.gen(function*() {
    const replayed: Array<Plain> = []
    const log = yield* Log.make({
      directory,
      ...options,
      replay: (records) => {
        for (const record of records) replayed.push(plain(record))
      }
    })
    const { error, records } = yield* collect(log.stream)
    assert.isUndefined(error)
    const read: Array<Plain> = []
    for (const ref of records) read.push(plain(yield* log.read(ref)))
    return { report: log.report, replayed, records, read, end: yield* log.end, segments: yield* log.segments }
  })))

const succeeded = <A, E>(result: Result.Result<A, E>): A =>
  Result.isSuccess(result) ? result.success : assert.fail(`the open failed: ${String(result.failure)}`)

const failed = <A, E>(result: Result.Result<A, E>): E =>
  Result.isFailure(result) ? result.failure : assert.fail("the open did not fail")

/** The report's fields of a store that was not damaged. */
const soundReport = (fixture: Expected, files: number) => ({
  files_scanned: files,
  records_replayed: recordsOf(fixture).length,
  tail_truncated: 0,
  tail_bytes_discarded: 0,
  mid_stream_errors: 0,
  unsupported_versions: 0,
  last_txid_seen: recordsOf(fixture).reduce((max, { txid }) => Math.max(max, txid), 0)
})

/** The report's fields of a torn tail, as a reader gives them. */
const tornReport = (fixture: Case) => ({
  ...soundReport(fixture, idsOf(NodePath.join(fixtures_directory, fixture.name)).length),
  tail_truncated: 1,
  tail_bytes_discarded: fixture.torn_bytes!,
  tail_segment: activeOf(fixture.name),
  tail_offset: fixture.valid_end!,
  tail_reason: tornReasons[fixture.name]!
})

/** The fields of the error that names the damage of a fixture. */
const damage = (fixture: Case, directory: string) => ({
  directory,
  segment: fixture.segment!,
  offset: fixture.offset!,
  reason: fixture.reason!,
  ...(fixture.open === "CorruptTail"
    ? {
      bytes: original(fixture.name, fixture.segment!).length - fixture.offset!,
      laterFrames: fixture.valid_behind!
    }
    : {})
})

const assertDamage = (error: object, fixture: Case, directory: string): void => {
  const { _tag, found, ...fields } = fieldsOf(error)
  assert.strictEqual(_tag, fixture.open)
  assert.deepStrictEqual(fields, damage(fixture, directory))
  if (fixture.found !== undefined) assert.strictEqual(found, fixture.found)
}

/** What `.torn` files a directory holds. */
const tornFiles = (directory: string): ReadonlyArray<string> =>
  NFS.readdirSync(directory).filter((name) => name.endsWith(".torn")).sort()

const liveOf = (kv: Kv.KvRead) =>
  Effect.gen(function*() {
    const entries = yield* Stream.runCollect(kv.entries({ ordered: true }))
    const live = Array.from(entries, ({ key, value }) =>
      [
        Buffer.from(key).toString("base64"),
        Buffer.from(value).toString("base64")
      ] as const)
    for (const [key, value] of live) {
      const got = yield* kv.get(Buffer.from(key, "base64"))
      assert.strictEqual(Buffer.from(got!).toString("base64"), value)
    }
    assert.strictEqual(yield* kv.size, live.length)
    return live
  })

/** The fold of records, by the sentence of the contract. */
const fold = (records: ReadonlyArray<Plain>): ReadonlyArray<readonly [string, string]> => {
  const live = new Map<string, string>()
  for (const { key_b64, payload_b64, type } of records) {
    if (type === "Put") live.set(key_b64, payload_b64)
    if (type === "Delete") live.delete(key_b64)
  }
  return [...live].sort(([a], [b]) => Buffer.compare(Buffer.from(a, "base64"), Buffer.from(b, "base64")))
}

describe("the fixtures", () => {
  it("are all there, and every one of the contract's verdicts is among them", () => {
    const directories = NFS.readdirSync(fixtures_directory, { withFileTypes: true }).filter((entry) =>
      entry.isDirectory()
    )
    assert.deepStrictEqual(directories.map(({ name }) => name).sort(), Object.keys(expected).sort())
    assert.deepStrictEqual(
      new Set(cases.map(({ open }) => open)),
      new Set(["ok", "torn", "CorruptTail", "CorruptSegment"])
    )
    assert.deepStrictEqual(torn.map(({ name }) => name).sort(), Object.keys(tornReasons).sort())
  })

  it("hold the records that an independent parser finds in them", () => {
    for (const fixture of ok) {
      const directory = NodePath.join(fixtures_directory, fixture.name)
      const parsed = idsOf(directory).flatMap((id) => parseWhole(readSegment(directory, id), id))
      assert.deepStrictEqual(parsed, [...recordsOf(fixture)], fixture.name)
    }
  })
})

describe("opening for write", () => {
  for (const policy of ["repair", "strict", "prefix"] as const) {
    it.effect.each(ok)(
      `under ${policy}, a sound store has its records and is left as it was: $name`,
      (fixture) =>
        Effect.gen(function*() {
          for (const chunkSize of chunkSizes) {
            const directory = yield* copyFixture(fixture.name)
            const before = snapshot(directory)
            const opened = succeeded(yield* open(directory, { policy, chunkSize }))
            assert.deepStrictEqual(opened.replayed, [...recordsOf(fixture)])
            assert.deepStrictEqual(opened.records, [...recordsOf(fixture)])
            assert.deepStrictEqual(opened.read, [...recordsOf(fixture)])
            const files = Math.max(1, Object.keys(before).length)
            assert.deepStrictEqual({ ...opened.report }, soundReport(fixture, files) as typeof opened.report)
            assert.strictEqual(opened.end.txid, lastTxid(fixture))
            // An empty directory gets its first segment, and nothing else ever changes.
            const created = Object.keys(before).length === 0 ? { [segmentName(1)]: "file " } : {}
            assert.deepStrictEqual(snapshot(directory), { ...before, ...created })
          }
        })
    )
  }

  for (const policy of ["repair", "prefix"] as const) {
    it.effect.each(torn)(
      `under ${policy}, a torn tail is cut off and a copy is kept: $name`,
      (fixture) =>
        Effect.gen(function*() {
          const id = activeOf(fixture.name)
          const bytes = original(fixture.name, id)
          const tail = bytes.subarray(fixture.valid_end)
          assert.strictEqual(tail.length, fixture.torn_bytes)
          const allZeros = tail.every((byte) => byte === 0)
          const name = tornName(id, fixture.valid_end!)
          for (const chunkSize of chunkSizes) {
            const directory = yield* copyFixture(fixture.name)
            const before = snapshot(directory)
            const opened = succeeded(yield* open(directory, { policy, chunkSize }))
            const copy = allZeros ? {} : { torn_file: NodePath.join(directory, name) }
            assert.deepStrictEqual({ ...opened.report }, { ...tornReport(fixture), ...copy } as typeof opened.report)
            assert.deepStrictEqual(opened.replayed, [...recordsOf(fixture)])
            assert.deepStrictEqual(opened.records, [...recordsOf(fixture)])
            assert.deepStrictEqual(opened.read, [...recordsOf(fixture)])
            assert.strictEqual(opened.end.offset, fixture.valid_end)
            assert.strictEqual(opened.end.txid, lastTxid(fixture))
            assert.deepStrictEqual(readSegment(directory, id), bytes.slice(0, fixture.valid_end))
            assert.deepStrictEqual(tornFiles(directory), allZeros ? [] : [name])
            if (!allZeros) assert.deepStrictEqual(readName(directory, name), new Uint8Array(tail))
            // Closed segments, and whatever else there was, are what they were.
            const after = snapshot(directory)
            for (const [entry, content] of Object.entries(before)) {
              if (entry !== segmentName(id)) assert.strictEqual(after[entry], content)
            }
            assert.strictEqual(Object.keys(after).length, Object.keys(before).length + (allZeros ? 0 : 1))
          }
        })
    )

    it.effect.each(torn)(
      `under ${policy}, a second tear at the same place is copied beside the first: $name`,
      (fixture) =>
        Effect.gen(function*() {
          const id = activeOf(fixture.name)
          const bytes = original(fixture.name, id)
          const tail = new Uint8Array(bytes.subarray(fixture.valid_end))
          const directory = yield* copyFixture(fixture.name)
          for (let round = 1; round <= 3; round++) {
            NFS.writeFileSync(NodePath.join(directory, segmentName(id)), bytes)
            succeeded(yield* open(directory, { policy }))
            assert.deepStrictEqual(readSegment(directory, id), bytes.slice(0, fixture.valid_end))
            assert.isTrue(succeeded(yield* open(directory, { policy })).report.tail_truncated === 0)
          }
          const base = tornName(id, fixture.valid_end!).replace(".torn", "")
          const names = tail.every((byte) => byte === 0) ? [] : [`${base}.torn`, `${base}-2.torn`, `${base}-3.torn`]
          assert.deepStrictEqual(tornFiles(directory), [...names].sort())
          for (const name of names) assert.deepStrictEqual(readName(directory, name), tail)
        })
    )
  }

  it.effect.each(torn)(
    "under strict, a torn tail fails the open and nothing is changed: $name",
    (fixture) =>
      Effect.gen(function*() {
        for (const chunkSize of chunkSizes) {
          const directory = yield* copyFixture(fixture.name)
          const before = snapshot(directory)
          const error = failed(yield* open(directory, { policy: "strict", chunkSize }))
          assert.deepStrictEqual(fieldsOf(error), {
            _tag: "CorruptTail",
            directory,
            segment: activeOf(fixture.name),
            offset: fixture.valid_end!,
            reason: tornReasons[fixture.name]!,
            bytes: fixture.torn_bytes!,
            laterFrames: 0,
            ...(tornReasons[fixture.name] === "BadMagic" ? { found: 0 } : {})
          })
          assert.deepStrictEqual(snapshot(directory), before)
        }
      })
  )

  for (const policy of ["repair", "strict"] as const) {
    it.effect.each(corrupt)(
      `under ${policy}, corruption fails the open and nothing is changed: $name`,
      (fixture) =>
        Effect.gen(function*() {
          for (const chunkSize of chunkSizes) {
            const directory = yield* copyFixture(fixture.name)
            const before = snapshot(directory)
            assertDamage(failed(yield* open(directory, { policy, chunkSize })), fixture, directory)
            assert.deepStrictEqual(snapshot(directory), before)
          }
        })
    )
  }

  it.effect.each(corrupt)(
    "under prefix, the active segment is cut at its valid prefix unless a newer version wrote it: $name",
    (fixture) =>
      Effect.gen(function*() {
        const cuts = fixture.segment === activeOf(fixture.name) && fixture.reason !== "UnknownVersion"
        for (const chunkSize of chunkSizes) {
          const directory = yield* copyFixture(fixture.name)
          const before = snapshot(directory)
          const result = yield* open(directory, { policy: "prefix", chunkSize })
          if (!cuts) {
            assertDamage(failed(result), fixture, directory)
            assert.deepStrictEqual(snapshot(directory), before)
            continue
          }
          const opened = succeeded(result)
          const id = activeOf(fixture.name)
          const bytes = original(fixture.name, id)
          const name = tornName(id, fixture.offset!)
          assert.deepStrictEqual(opened.records, [...recordsOf(fixture)])
          assert.deepStrictEqual(opened.replayed, [...recordsOf(fixture)])
          assert.strictEqual(opened.report.tail_truncated, 1)
          assert.strictEqual(opened.report.tail_bytes_discarded, bytes.length - fixture.offset!)
          assert.strictEqual(opened.report.tail_reason, fixture.reason as typeof opened.report.tail_reason)
          assert.strictEqual(opened.report.torn_file, NodePath.join(directory, name))
          assert.deepStrictEqual(readSegment(directory, id), bytes.slice(0, fixture.offset))
          assert.deepStrictEqual(readName(directory, name), bytes.slice(fixture.offset))
          assert.deepStrictEqual(tornFiles(directory), [name])
        }
      })
  )

  it.effect("takes an empty directory for an empty log of one segment", () =>
    Effect.gen(function*() {
      const directory = yield* store({})
      const opened = succeeded(yield* open(directory))
      assert.deepStrictEqual(opened.segments, [{ id: 1, bytes: 0, active: true }])
      assert.deepStrictEqual(readSegment(directory, 1), zeros(0))
    }))
})

describe("reading without the lock", () => {
  const read = (directory: string, chunkSize: number | undefined) =>
    Effect.scoped(Effect.gen(function*() {
      const reader = yield* Reader.make({ directory, chunkSize })
      const inspected: Array<Plain> = []
      const report = yield* Effect.result(
        reader.inspect((records) =>
          Effect.sync(() => {
            for (const record of records) inspected.push(plain(record))
          })
        )
      )
      return { streamed: yield* collect(reader.stream), inspected, report }
    }))

  it.effect.each(cases)(
    "gives the same verdict in chunks of any size, and changes nothing: $name",
    (fixture) =>
      Effect.gen(function*() {
        const directory = yield* copyFixture(fixture.name)
        const before = snapshot(directory)
        for (const chunkSize of chunkSizes) {
          const { inspected, report, streamed } = yield* read(directory, chunkSize)
          assert.deepStrictEqual(streamed.records, [...recordsOf(fixture)])
          assert.deepStrictEqual(inspected, [...recordsOf(fixture)])
          if (fixture.open === "ok" || fixture.open === "torn") {
            assert.isUndefined(streamed.error)
            const reported = succeeded(report)
            const wanted = fixture.open === "torn"
              ? tornReport(fixture)
              : soundReport(fixture, Object.keys(before).length)
            assert.deepStrictEqual({ ...reported }, wanted as typeof reported)
          } else {
            assertDamage(streamed.error!, fixture, directory)
            assertDamage(failed(report), fixture, directory)
          }
        }
        assert.deepStrictEqual(snapshot(directory), before)
        assert.isFalse(NFS.existsSync(NodePath.join(directory, ".lock")))
      })
  )

  it.effect.each(cases)("reads each record by its reference: $name", (fixture) =>
    Effect.gen(function*() {
      const directory = yield* copyFixture(fixture.name)
      const reader = yield* Reader.make({ directory })
      for (const record of recordsOf(fixture)) {
        assert.deepStrictEqual(plain(yield* reader.read(record)), record)
      }
    }))
})

describe("the key/value projection", () => {
  it.effect.each(cases)(
    "has the live keys of the fixture, opened for write: $name",
    (fixture) =>
      Effect.gen(function*() {
        for (const chunkSize of chunkSizes) {
          const directory = yield* copyFixture(fixture.name)
          const result = yield* Effect.result(
            Effect.scoped(Effect.flatMap(Kv.make({ directory, chunkSize }), liveOf))
          )
          if (fixture.open === "ok" || fixture.open === "torn") {
            const live = succeeded(result)
            assert.deepStrictEqual(live, [...expectedLive(fixture)])
            assert.deepStrictEqual(live, [...fold(recordsOf(fixture))])
          } else {
            assertDamage(failed(result), fixture, directory)
          }
        }
      })
  )

  it.effect.each(cases)(
    "has the same live keys over a log, and read without the lock: $name",
    (fixture) =>
      Effect.gen(function*() {
        const directory = yield* copyFixture(fixture.name)
        const before = snapshot(directory)
        for (const chunkSize of chunkSizes) {
          const result = yield* Effect.result(
            Effect.scoped(Effect.flatMap(Kv.makeReader({ directory, chunkSize }), liveOf))
          )
          if (fixture.open === "ok" || fixture.open === "torn") {
            assert.deepStrictEqual(succeeded(result), [...expectedLive(fixture)])
          } else {
            assertDamage(failed(result), fixture, directory)
          }
        }
        assert.deepStrictEqual(snapshot(directory), before)
        if (fixture.open !== "ok" && fixture.open !== "torn") return
        const live = yield* Effect.scoped(
          Effect.flatMap(Kv.makeLog, liveOf).pipe(Effect.provide(Log.layer({ directory })))
        )
        assert.deepStrictEqual(live, [...expectedLive(fixture)])
      })
  )

  it.effect.each(corrupt)(
    "under prefix, it is the fold of the valid prefix: $name",
    (fixture) =>
      Effect.gen(function*() {
        const directory = yield* copyFixture(fixture.name)
        const result = yield* Effect.result(
          Effect.scoped(Effect.flatMap(Kv.make({ directory, policy: "prefix" }), liveOf))
        )
        if (fixture.segment === activeOf(fixture.name) && fixture.reason !== "UnknownVersion") {
          assert.deepStrictEqual(succeeded(result), [...fold(recordsOf(fixture))])
        } else {
          assertDamage(failed(result), fixture, directory)
        }
      })
  )
})

describe("a reader that starts before the first record", () => {
  it.effect.each(Object.keys(expected).map((name) => ({ name })))(
    "finds in $name what one without a position finds",
    ({ name }) =>
      Effect.gen(function*() {
        const reader = yield* Reader.make({ directory: yield* copyFixture(name) })
        const whole = yield* collect(reader.stream)
        assert.deepStrictEqual(yield* collect(reader.streamFrom({ segment: 0, offset: 0 })), whole)
        assert.deepStrictEqual(yield* collect(reader.streamFrom({ txid: 0 })), whole)
      })
  )
})
