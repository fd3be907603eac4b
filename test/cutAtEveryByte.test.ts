/**
 * A crash can leave the active segment cut at any byte, and zeros or old garbage behind the cut. Wherever it is: what
 * was whole is read, what was not is set aside, two more records go behind it, and the next open finds a sound log.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { Scope } from "effect"
import * as NFS from "node:fs"
import * as Log from "../src/Log.ts"
import { errorOf, judge, type Judgement } from "./support/oracle.ts"
import {
  concat,
  errorFields,
  fill,
  frame,
  inDirectories,
  noise,
  openWith,
  parseWhole,
  type Plain,
  put,
  raw,
  readName,
  readSegment,
  type Segments,
  snapshot,
  temporaryDirectory,
  tornName,
  utf8,
  zeros
} from "./support/stores.ts"

const closed = concat(
  raw(1, "first"),
  put(2, "ключ", "значение"),
  frame({ txid: 3 }),
  frame({ type: "Put", txid: 4, key: zeros(0), payload: Uint8Array.from({ length: 40 }, (_, byte) => byte) })
)

const active = concat(
  raw(5, "after the rotation"),
  frame({ txid: 6 }),
  put(7, "key", ""),
  frame({ type: "Put", txid: 8, key: Uint8Array.of(0, 255, 0), payload: concat(zeros(30), noise(10)) }),
  raw(9, noise(250)),
  frame({ type: "Delete", txid: 10, key: utf8("ключ") }),
  frame({ type: "Delete", txid: 11, key: zeros(0) }),
  raw(12, "подъём"),
  put(13, "last", noise(70, 2))
)

const parsed = (directory: string, ids: ReadonlyArray<number>): Array<Plain> =>
  ids.flatMap((id) => parseWhole(readSegment(directory, id), id))

const names = (directory: string): ReadonlyArray<string> =>
  NFS.readdirSync(directory).filter((name) => name !== ".lock").sort()

/** Opens a store whose tail is torn, or whole, appends two records, and opens it again. */
const survives = Effect.fnUntraced(function*(directory: string, segments: Segments, judgement: Judgement) {
  const { damage, records } = judgement
  const last = records.at(-1)!.txid
  const bytes = segments[2]!
  const end = damage === undefined ? bytes.length : damage.offset
  const appended = yield* Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory })
    assert.strictEqual(log.report.tail_truncated, damage === undefined ? 0 : 1)
    assert.strictEqual(log.report.tail_bytes_discarded, bytes.length - end)
    assert.strictEqual(log.report.last_txid_seen, last)
    assert.strictEqual(log.report.records_replayed, records.length)
    const one = yield* log.append("one after the crash")
    const two = yield* log.appendRecord({ type: "Put", key: "two", payload: "after the crash" })
    yield* log.sync
    return [one, two] as const
  }))
  assert.deepStrictEqual(appended.map(({ txid }) => txid), [last + 1, last + 2])
  // The bytes, by the independent parser: whole frames to the end of every segment.
  const wanted = [
    ...records,
    ...parseWhole(concat(raw(last + 1, "one after the crash"), put(last + 2, "two", "after the crash")), 2).map(
      (record) => ({ ...record, offset: record.offset + end })
    )
  ]
  assert.deepStrictEqual(parsed(directory, [1, 2]), wanted)
  assert.deepStrictEqual(wanted.map(({ txid }) => txid), wanted.map((_, index) => index + 1))
  assert.deepStrictEqual(appended.map(({ offset }) => offset), wanted.slice(-2).map(({ offset }) => offset))
  // What was cut is kept, unless it was nothing but zeros.
  const tail = bytes.slice(end)
  const torn = tornName(2, end)
  const copied = tail.some((byte) => byte !== 0)
  assert.deepStrictEqual(names(directory), [...copied ? [torn] : [], "00000001.dwal", "00000002.dwal"].sort())
  if (copied) assert.deepStrictEqual(readName(directory, torn), tail)
  assert.deepStrictEqual(readSegment(directory, 1), closed)
  // The second open finds nothing to mend, and the same records.
  const again = yield* openWith(directory)
  assert.strictEqual(again.report.tail_truncated, 0)
  assert.deepStrictEqual(again.records, wanted)
})

/** What may not be mended is refused, and not one byte is changed. */
const refuses = Effect.fnUntraced(function*(directory: string, judgement: Judgement) {
  const before = snapshot(directory)
  const error = yield* Effect.flip(openWith(directory))
  assert.deepStrictEqual(errorFields(error), errorOf(directory, judgement.damage!))
  assert.deepStrictEqual(snapshot(directory), before)
})

interface Outcome {
  readonly mended: number
  readonly refused: number
}

const attempt = (
  directory: string,
  cut: number,
  behind: Uint8Array
): Effect.Effect<"mended" | "refused", unknown> => {
  const segments = { 1: closed, 2: concat(active.subarray(0, cut), behind) }
  fill(directory, segments)
  const judgement = judge(segments)
  const { damage } = judgement
  return damage === undefined || damage.verdict === "Torn"
    ? Effect.as(survives(directory, segments, judgement), "mended" as const)
    : Effect.as(refuses(directory, judgement), "refused" as const)
}

/** Tries every cut of the active segment, with `behind(cut)` behind it; how many were mended, and how many refused. */
const everyCut = Effect.fnUntraced(function*(
  behind: (cut: number) => Uint8Array,
  tried: (cut: number) => boolean = () => true
): Effect.fn.Return<Outcome, never, Scope.Scope> {
  const cuts = Array.from({ length: active.length + 1 }, (_, cut) => cut).filter(tried)
  const outcomes = yield* inDirectories(
    8,
    cuts,
    (cut) => `cut at ${cut}`,
    (directory, cut) => attempt(directory, cut, behind(cut))
  )
  const mended = outcomes.filter((outcome) => outcome === "mended").length
  return { mended, refused: cuts.length - mended }
})

// Every byte of a header or a checksum, and a few in between.
const boundaries = judge({ 2: active }).records.flatMap(({ len, offset }) => [offset, offset + len])
const nearBoundaries = (cut: number): boolean =>
  cut % 16 === 0 || boundaries.some((at) => cut - at <= 25 && at - cut <= 5)

describe("a log cut at every byte of its active segment", () => {
  it.effect("is mended, appended to, and sound when it is opened again", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* everyCut(() => zeros(0)), { mended: active.length + 1, refused: 0 })
    }))

  it.effect("is mended with zeros up to the next sector behind the cut, or refused as the table says", () =>
    Effect.gen(function*() {
      const { mended, refused } = yield* everyCut((cut) => zeros((512 - cut % 512) % 512 + 512), nearBoundaries)
      // Refused are only cuts inside the first six bytes of a frame, which no disk leaves with zeros in the same
      // sector.
      assert.isAbove(mended, 250)
      assert.isAtMost(refused, 6 * 9)
    }))

  it.effect("is mended with a few zeros behind the cut", () =>
    Effect.gen(function*() {
      const { refused } = yield* everyCut((cut) => zeros(1 + cut % 23), nearBoundaries)
      assert.isAtMost(refused, 6 * 9)
    }))

  it.effect("with garbage behind the cut is mended or refused as the table says", () =>
    Effect.gen(function*() {
      const { mended, refused } = yield* everyCut((cut) => noise(1 + cut % 90, cut), nearBoundaries)
      assert.isAbove(mended, 100)
      assert.isAbove(refused, 5)
    }))
})

describe("a log cut again and again", () => {
  it.effect("keeps every synced record through any number of crashes, wherever each one cuts what was not synced", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      fill(directory, { 1: closed })
      let synced = closed.length
      let txid = 4
      for (let round = 0; round < 60; round++) {
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          assert.deepStrictEqual((yield* log.end).txid, txid)
          assert.deepStrictEqual((yield* log.end).offset, synced)
          yield* log.append(`synced in round ${round}`)
          yield* log.sync
          synced = (yield* log.end).offset
          txid = (yield* log.end).txid
          yield* log.append(noise(round * 13, round))
          yield* log.append("not synced either")
        }))
        const bytes = readSegment(directory, 1)
        // Never on a boundary: a whole record that was not synced may survive.
        const torn = synced + 1 + (round * 37) % (27 + round * 13)
        NFS.truncateSync(`${directory}/00000001.dwal`, torn)
        assert.isBelow(torn, bytes.length)
      }
      const { records, report } = yield* openWith(directory)
      assert.strictEqual(report.tail_truncated, 1)
      assert.deepStrictEqual(records, parsed(directory, [1]))
      assert.deepStrictEqual(records.map(({ txid }) => txid), Array.from({ length: 64 }, (_, index) => index + 1))
    }))
})
