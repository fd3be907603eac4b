/**
 * Bytes rot. Each byte of a small log is changed in turn, in the active segment and in a closed one: what is read is
 * always what was written, up to the damage, and the verdict is always the one of the contract's table, worked out
 * anew.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import type { Scope } from "effect"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import { errorOf, judge, type Judgement } from "./support/oracle.ts"
import {
  collect,
  concat,
  errorFields,
  fill,
  frame,
  inDirectories,
  noise,
  type Plain,
  put,
  raw,
  readName,
  readSegment,
  type Segments,
  snapshot,
  tornName,
  utf8,
  withByte,
  zeros
} from "./support/stores.ts"

const one = concat(raw(1, "alpha"), put(2, "key", "value"), frame({ txid: 3 }))

// Long enough for two sectors. A record starts one byte before the second one, and one holds zeros.
const two = concat(
  raw(4, noise(100)),
  put(5, "nested", concat(raw(2, "a log in a log"), raw(5, "of old txids"))),
  frame({ type: "Delete", txid: 6, key: utf8("key") }),
  raw(7, noise(511 - 128 - 109 - 31 - 28, 7)),
  raw(8, concat(zeros(60), utf8("zeros"), zeros(4))),
  frame({ type: "Put", txid: 9, key: zeros(3), payload: noise(130, 9) }),
  raw(10, "last but one"),
  raw(11, "last")
)

const original: Segments = { 1: one, 2: two }
const sound = judge(original)

const changes: ReadonlyArray<{ readonly name: string; readonly change: (byte: number) => number }> = [
  { name: "its lowest bit flipped", change: (byte) => byte ^ 0x01 },
  { name: "its highest bit flipped", change: (byte) => byte ^ 0x80 },
  { name: "all its bits flipped", change: (byte) => byte ^ 0xFF },
  { name: "zero in its place", change: () => 0 }
]

interface Changed {
  readonly segments: Segments
  readonly segment: number
  readonly at: number
}

/** Every store with one byte changed, except where that changes nothing. */
const everyChange = (change: (byte: number) => number): ReadonlyArray<Changed> =>
  [1, 2].flatMap((segment) =>
    Array.from(original[segment]!, (byte, at) => ({ byte, at })).filter(({ byte }) => (change(byte) & 0xFF) !== byte)
      .map((
        { at }
      ) => ({ segments: { ...original, [segment]: withByte(original[segment]!, at, change) }, segment, at }))
  )

// Headers, checksums, and what is around a sector's edge; of the keys and payloads between them, a few.
const starts = sound.records.flatMap(({ len, offset, segment }) =>
  [[segment, offset], [segment, offset + len]] as const
)
const inHeaders = ({ at, segment }: Changed): boolean =>
  starts.some(([id, start]) => id === segment && at - start < 24 && start - at <= 4)
const nearHeaders = (changed: Changed): boolean => changed.at % 16 === 0 || inHeaders(changed)

/** Runs a check on each changed store, several stores at a time. */
const each = Effect.fnUntraced(function*<E>(
  change: (byte: number) => number,
  check: (directory: string, changed: Changed, judgement: Judgement) => Effect.Effect<void, E>,
  tried: (changed: Changed) => boolean = () => true
): Effect.fn.Return<ReadonlyMap<string, number>, never, Scope.Scope> {
  const verdicts = new Map<string, number>()
  yield* inDirectories(
    4,
    everyChange(change).filter(tried),
    ({ at, segment }) => `byte ${at} of segment ${segment}`,
    (directory, changed) => {
      fill(directory, changed.segments)
      const judgement = judge(changed.segments)
      const verdict = judgement.damage?.verdict ?? "sound"
      verdicts.set(verdict, (verdicts.get(verdict) ?? 0) + 1)
      return check(directory, changed, judgement)
    }
  )
  return verdicts
})

/** Says for itself that nothing wrong was read: each record is the original at its place, from the first on. */
const assertPrefix = (records: ReadonlyArray<Plain>, { at, segment }: Changed): void => {
  assert.deepStrictEqual(records, sound.records.slice(0, records.length))
  const before = sound.records.filter((record) =>
    record.segment < segment || (record.segment === segment && record.offset + record.len <= at)
  )
  // All records before the changed byte, and not the one that holds it.
  assert.strictEqual(records.length, before.length)
}

describe.each(changes)("bytes with $name", ({ change }) => {
  // A checksum finds one bit of a payload as surely as eight: every byte is tried with one of the changes, those of
  // headers with all.
  const tried = change(0) === 0xFF ? () => true : inHeaders

  it.effect("is found by a reader, after every record before it and no other", () =>
    Effect.gen(function*() {
      const verdicts = yield* each(change, (directory, changed, judgement) =>
        Effect.scoped(Effect.gen(function*() {
          const before = snapshot(directory)
          const reader = yield* Reader.make({ directory })
          const { error, records } = yield* collect(reader.stream)
          assertPrefix(records, changed)
          assert.deepStrictEqual(records, judgement.records)
          const damage = judgement.damage!
          assert.strictEqual(damage.segment, changed.segment)
          assert.deepStrictEqual(errorFields(error), errorOf(directory, damage) ?? {})
          if (!nearHeaders(changed)) return
          // The same with chunks that never hold a whole frame.
          const small = yield* Reader.make({ directory, chunkSize: 13 })
          assert.deepStrictEqual(yield* collect(small.stream), { records, error })
          assert.deepStrictEqual(snapshot(directory), before)
        })), tried)
      // None goes unnoticed, and every verdict comes up.
      assert.deepStrictEqual([...verdicts.keys()].sort(), ["CorruptSegment", "CorruptTail", "Torn"])
      assert.isAtLeast(verdicts.get("CorruptSegment")!, one.length / 2)
    }))

  it.effect("is cut off or refused by a writer under repair, which loses nothing before it", () =>
    Effect.gen(function*() {
      yield* each(change, (directory, changed, judgement) =>
        Effect.scoped(Effect.gen(function*() {
          const before = snapshot(directory)
          const damage = judgement.damage!
          const opened = yield* Effect.result(Effect.scoped(Effect.flatMap(
            Log.make({ directory }),
            (log) => collect(log.stream)
          )))
          if (damage.verdict !== "Torn") {
            const error = Result.isFailure(opened) ? opened.failure : assert.fail("the open did not fail")
            assert.deepStrictEqual(errorFields(error), errorOf(directory, damage))
            assert.deepStrictEqual(snapshot(directory), before)
            return
          }
          const { error, records } = Result.isSuccess(opened) ? opened.success : assert.fail(String(opened.failure))
          assert.isUndefined(error)
          assertPrefix(records, changed)
          const bytes = changed.segments[damage.segment]!
          assert.deepStrictEqual(readSegment(directory, damage.segment), bytes.slice(0, damage.offset))
          assert.deepStrictEqual(
            readName(directory, tornName(damage.segment, damage.offset)),
            bytes.slice(damage.offset)
          )
        })), tried)
    }))
})

describe("every byte with all its bits flipped", () => {
  const change = (byte: number) => byte ^ 0xFF

  it.effect("fails the open under strict, and nothing is changed", () =>
    Effect.gen(function*() {
      yield* each(change, (directory, _, judgement) =>
        Effect.gen(function*() {
          const before = snapshot(directory)
          const error = yield* Effect.flip(Effect.scoped(Log.make({ directory, policy: "strict" })))
          assert.deepStrictEqual(errorFields(error), errorOf(directory, judgement.damage!, true))
          assert.deepStrictEqual(snapshot(directory), before)
        }), nearHeaders)
    }))

  it.effect("is cut off under prefix, unless it looks like a newer version or is in a closed segment", () =>
    Effect.gen(function*() {
      yield* each(change, (directory, changed, judgement) =>
        Effect.gen(function*() {
          const before = snapshot(directory)
          const damage = judgement.damage!
          const opened = yield* Effect.result(Effect.scoped(Effect.flatMap(
            Log.make({ directory, policy: "prefix" }),
            (log) => collect(log.stream)
          )))
          if (damage.segment === 1 || damage.reason === "UnknownVersion") {
            assert.isTrue(Result.isFailure(opened))
            assert.deepStrictEqual(snapshot(directory), before)
            return
          }
          const { error, records } = Result.isSuccess(opened) ? opened.success : assert.fail(String(opened.failure))
          assert.isUndefined(error)
          assertPrefix(records, changed)
        }), nearHeaders)
    }))

  it.effect("is met by single reads and by the key/value store as an error, never as another record", () =>
    Effect.gen(function*() {
      const values = new Map([["key", "value"], ["nested", ""]])
      yield* each(change, (directory, changed) =>
        Effect.scoped(Effect.gen(function*() {
          // Opened while the store was sound; then the byte rots.
          fill(directory, original)
          const reader = yield* Reader.make({ directory })
          const kv = yield* Kv.makeReader({ directory })
          fill(directory, changed.segments)
          for (const record of sound.records) {
            const read = yield* Effect.result(reader.read(record))
            const hit = record.segment === changed.segment && changed.at >= record.offset &&
              changed.at < record.offset + record.len
            if (Result.isSuccess(read)) {
              assert.isFalse(hit)
              assert.strictEqual(Buffer.from(read.success.payload).toString("base64"), record.payload_b64)
              assert.strictEqual(read.success.txid, record.txid)
            } else {
              assert.isTrue(hit)
              assert.strictEqual(read.failure._tag, "CorruptSegment")
            }
          }
          for (const key of values.keys()) {
            const got = yield* Effect.result(kv.get(key))
            const record = sound.records.findLast(({ key_b64, type }) =>
              type !== "Raw" && Buffer.from(key_b64, "base64").toString() === key
            )!
            if (Result.isFailure(got)) {
              assert.strictEqual(got.failure._tag, "CorruptSegment")
              assert.strictEqual(record.segment, changed.segment)
            } else if (record.type === "Delete") {
              assert.isUndefined(got.success)
            } else {
              assert.strictEqual(Buffer.from(got.success!).toString("base64"), record.payload_b64)
            }
          }
        })), nearHeaders)
    }))
})
