/**
 * From the bytes of a directory to its records, and the verdict on bytes that are none: every row of the contract's
 * table, what a policy does with it, and where a stream may start. Stores are made by hand, or by an encoder of the
 * tests' own.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Result, Schema, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import * as Recovery from "../src/Recovery.ts"
import { between, Kind, kinds, recordOf, segmentsOf } from "./support/arbitraries.ts"
import { errorOf, judge, laterFrames } from "./support/oracle.ts"
import {
  collect,
  concat,
  errorFields,
  fill,
  flipped,
  frame,
  head,
  later,
  noise,
  openWith,
  parse,
  parseWhole,
  type Plain,
  put,
  raw,
  readAll,
  readName,
  readSegment,
  segmentName,
  type Segments,
  snapshot,
  store,
  temporaryDirectory,
  tornName,
  utf8,
  withByte,
  zeroed,
  zeros
} from "./support/stores.ts"

const sector = 512

// The damage of the cases below stands behind `head`, at 62.
/** A record of several sectors: from 62 to 3,090, its payload from 86 on. */
const long = raw(3, noise(3000))

interface Case {
  readonly name: string
  readonly segments: Segments
  readonly verdict: "Torn" | "CorruptTail" | "CorruptSegment"
  readonly reason: string
  readonly segment?: number
  readonly offset?: number
  readonly laterFrames?: number
}

const active = (bytes: Uint8Array, verdict: Case["verdict"], reason: string, laterFrames?: number) => ({
  segments: { 1: concat(head, bytes) },
  verdict,
  reason,
  ...(laterFrames === undefined ? {} : { laterFrames })
})

const closed = (bytes: Uint8Array, reason: string, offset = 62): Omit<Case, "name"> => ({
  segments: { 1: concat(head, bytes), 2: raw(9, "behind") },
  verdict: "CorruptSegment",
  reason,
  offset
})

const headers: ReadonlyArray<readonly [reason: string, bytes: Uint8Array]> = [
  ["BadMagic", frame({ txid: 3, magic: 0x4457414D })],
  ["UnknownVersion", frame({ txid: 3, version: 2 })],
  ["UnknownRecordType", frame({ txid: 3, typeByte: 3 })],
  ["ReservedFlags", frame({ txid: 3, flags: 4 })],
  ["KeyTooLarge", frame({ txid: 3, keyLength: 65_537 })],
  ["PayloadTooLarge", frame({ txid: 3, payloadLength: 67_108_865 })],
  ["UnsupportedTxid", frame({ txid: 2n ** 53n })]
]

const cases: ReadonlyArray<Case> = [
  // -- a closed segment: anything but a whole valid frame
  { name: "closed: one byte behind the last frame", ...closed(noise(1), "Truncated") },
  { name: "closed: a frame cut by its last byte", ...closed(raw(3, "x").subarray(0, -1), "Truncated") },
  { name: "closed: zeros to the end", ...closed(zeros(4096), "BadMagic") },
  { name: "closed: a few zeros", ...closed(zeros(7), "Truncated") },
  { name: "closed: a bad checksum at the end", ...closed(flipped(raw(3, "x"), 24), "CrcMismatch") },
  { name: "closed: a bad checksum before others", ...closed(concat(flipped(raw(3, "x"), 24), later), "CrcMismatch") },
  { name: "closed: a sector of zeros", ...closed(zeroed(long, 450, 962), "CrcMismatch") },
  {
    name: "closed: the first damage is the one that is named",
    segments: { 1: head, 2: flipped(raw(3, "x"), 0), 4: zeros(30), 7: raw(9, "behind").subarray(0, 9) },
    verdict: "CorruptSegment",
    reason: "BadMagic",
    segment: 2,
    offset: 0
  },
  ...headers.map(([reason, bytes]) => ({ name: `closed: ${reason}`, ...closed(bytes, reason) })),

  // -- the active segment: a hard check fails
  ...headers.flatMap(([reason, bytes]) => [
    { name: `active: ${reason} at the end`, ...active(bytes, "CorruptSegment", reason) },
    { name: `active: ${reason} before valid frames`, ...active(concat(bytes, later), "CorruptSegment", reason) },
    { name: `active: ${reason} by the header alone`, ...active(bytes.subarray(0, 24), "CorruptSegment", reason) }
  ]),
  { name: "active: text", ...active(utf8("this has never been a log, has it?"), "CorruptSegment", "BadMagic") },

  // -- zeros up to the next sector or to the end
  { name: "active: zeros to the end", ...active(zeros(100), "Torn", "BadMagic") },
  { name: "active: zeros for whole sectors to the end", ...active(zeros(5000), "Torn", "BadMagic") },
  { name: "active: as many zeros as a header has bytes", ...active(zeros(24), "Torn", "BadMagic") },
  { name: "active: fewer zeros than a header has bytes", ...active(zeros(23), "Torn", "Truncated") },
  { name: "active: one zero", ...active(zeros(1), "Torn", "Truncated") },
  { name: "active: zeros to the next sector, then frames", ...active(concat(zeros(450), later), "Torn", "BadMagic") },
  { name: "active: zeros to the next sector, then text", ...active(concat(zeros(450), noise(99)), "Torn", "BadMagic") },
  {
    name: "active: zeros to one byte before the next sector",
    ...active(concat(zeros(449), noise(1), later), "CorruptSegment", "BadMagic")
  },
  {
    name: "active: zeros, and something before the next sector, though the rest of the file is zeros",
    ...active(concat(zeros(30), noise(1), zeros(600)), "CorruptSegment", "BadMagic")
  },
  {
    name: "active: zeros to the next sector, from the start of one",
    segments: { 1: concat(raw(1, noise(sector - 28)), zeros(sector), raw(3, "three")) },
    verdict: "Torn",
    reason: "BadMagic",
    offset: sector
  },
  {
    name: "active: zeros almost to the next sector, from the start of one",
    segments: { 1: concat(raw(1, noise(sector - 28)), zeros(sector - 1), noise(1), raw(3, "three")) },
    verdict: "CorruptSegment",
    reason: "BadMagic",
    offset: sector
  },
  {
    name: "active: nothing but zeros",
    segments: { 1: zeros(sector) },
    verdict: "Torn",
    reason: "BadMagic",
    offset: 0
  },

  // -- a header across a sector that was never written
  ...[1, 2, 3, 4].flatMap((written) => {
    const first = raw(1, noise(sector - written - 28))
    const second = raw(2, noise(1500))
    const start = sector - written
    const reason = written < 4 ? "BadMagic" : "UnknownVersion"
    const split = (name: string, bytes: Uint8Array, verdict: Case["verdict"]): Case => ({
      name: `active: the first ${written} of a header, ${name}`,
      segments: { 1: concat(first, bytes) },
      verdict,
      reason,
      offset: start
    })
    return [
      split("a sector of zeros, and the rest of it", concat(zeroed(second, written, written + sector), later), "Torn"),
      split("zeros to the end", zeroed(second, written, second.length), "Torn"),
      split("a few zeros to the end", zeroed(second, written, second.length).subarray(0, 40), "Torn"),
      split("a sector of zeros but for its last byte", zeroed(second, written, written + sector - 1), "CorruptSegment"),
      split("other bytes", concat(second.subarray(0, written), noise(900)), "CorruptSegment"),
      split(
        "of something else, and a sector of zeros",
        concat(noise(written), zeroed(second, written, written + sector).subarray(written)),
        "CorruptSegment"
      )
    ].filter(({ name }) => written < 4 || !name.includes("of something else") && !name.includes("other bytes"))
  }),
  {
    name: "active: a newer version's frame across a sector that was never written is still a newer version's",
    segments: { 1: concat(raw(1, noise(sector - 5 - 28)), utf8("DWAL\u0002"), zeros(sector), later) },
    verdict: "CorruptSegment",
    reason: "UnknownVersion",
    offset: sector - 5
  },

  // -- a part of a header, and zeros to the next sector
  ...[1, 2, 3, 4].flatMap((written): ReadonlyArray<Case> => {
    // As many bytes are left of the sector, and one that a single damaged byte may be.
    const first = raw(1, noise(sector - written - 1 - 28))
    const second = zeroed(raw(2, noise(1500)), written, written + 1)
    const reason = written < 4 ? "BadMagic" : "UnknownVersion"
    const at = { reason, offset: sector - written - 1 }
    const opening = utf8("DWAL").subarray(0, written)
    return [
      {
        name: `active: one zero behind the first ${written} of a header, and no record behind it`,
        segments: { 1: concat(first, second) },
        verdict: "Torn",
        ...at
      },
      {
        name: `active: one zero behind the first ${written} of a header, before valid frames`,
        segments: { 1: concat(first, second, later) },
        verdict: "CorruptTail",
        laterFrames: 3,
        ...at
      },
      {
        name: `active: zeros behind the first ${written} of a header to the next sector, before valid frames`,
        ...active(concat(opening, zeros(450 - written), later), "CorruptTail", reason, 3)
      },
      {
        name: `active: zeros behind the first ${written} of a header to the end`,
        ...active(concat(opening, zeros(450 - written)), "Torn", reason)
      }
    ]
  }),

  {
    // All of the opening is there, so what stands behind the zeros was written.
    name: "active: a whole opening, zeros to the next sector, and a wrong length behind them",
    segments: {
      1: concat(raw(1, noise(468)), utf8("DWAL\u0001\0"), zeros(10), Uint8Array.of(255, 255, 255, 255), noise(60))
    },
    verdict: "CorruptSegment",
    reason: "KeyTooLarge",
    offset: 496
  },

  // -- Truncated
  { name: "active: a frame cut short", ...active(raw(3, "three").subarray(0, 30), "Torn", "Truncated") },
  { name: "active: a header cut short", ...active(raw(3, "three").subarray(0, 23), "Torn", "Truncated") },
  { name: "active: a byte of garbage", ...active(noise(1), "Torn", "Truncated") },
  { name: "active: a long frame cut short", ...active(long.subarray(0, 2000), "Torn", "Truncated") },
  {
    name: "active: a damaged length over the end, before valid frames",
    ...active(concat(withByte(raw(3, "three"), 22, () => 1), later), "CorruptTail", "Truncated", 3)
  },
  {
    name: "active: the longest lengths, before one valid frame",
    ...active(
      concat(frame({ txid: 3, keyLength: 65_536, payloadLength: 67_108_864 }), raw(4, "four")),
      "CorruptTail",
      "Truncated",
      1
    )
  },
  {
    name: "active: a damaged length over the end, before frames of which none is whole",
    ...active(concat(withByte(raw(3, "three"), 22, () => 1), raw(4, "four").subarray(0, -1)), "Torn", "Truncated")
  },

  // -- CrcMismatch
  { name: "active: a bad checksum at the end", ...active(flipped(raw(3, "three"), 26), "Torn", "CrcMismatch") },
  {
    name: "active: a bad checksum, and garbage behind it",
    ...active(concat(flipped(raw(3, "three"), 26), noise(90)), "Torn", "CrcMismatch")
  },
  {
    name: "active: a bad checksum before a valid frame",
    ...active(concat(flipped(raw(3, "three"), 26), raw(4, "four")), "CorruptTail", "CrcMismatch", 1)
  },
  {
    name: "active: a bad checksum before valid frames and a torn one",
    ...active(
      concat(flipped(raw(3, "three"), 31), later, raw(7, "seven").subarray(0, 20)),
      "CorruptTail",
      "CrcMismatch",
      3
    )
  },
  {
    name: "active: a bad checksum before a bad checksum before a valid frame",
    ...active(
      concat(flipped(raw(3, "three"), 26), flipped(raw(4, "four"), 26), raw(5, "five")),
      "CorruptTail",
      "CrcMismatch",
      1
    )
  },
  {
    name: "active: a bad checksum, and a valid frame somewhere in garbage",
    ...active(
      concat(flipped(raw(3, "three"), 26), noise(333), raw(4, "four"), noise(77)),
      "CorruptTail",
      "CrcMismatch",
      1
    )
  },
  {
    name: "active: a damaged length that falls short, before valid frames",
    ...active(concat(withByte(raw(3, noise(40)), 20, () => 3), later), "CorruptTail", "CrcMismatch", 3)
  },

  {
    // 64 KiB are looked through at once: no part of a sector is taken for a whole one.
    name: "active: a bad checksum, and zeros that end a sector's first half 64 KiB behind the frame's start",
    ...active(concat(zeroed(raw(3, noise(100_000)), 65_474, 65_536), later), "CorruptTail", "CrcMismatch", 3)
  },
  {
    name: "active: a frame of many sectors, of which the last, which ends with the file, was never written",
    ...active(
      zeroed(raw(3, concat(noise(50_000), raw(70, "newer"), noise(49_967))), 99_778, 100_028),
      "Torn",
      "CrcMismatch"
    )
  },

  // -- a log inside a record
  {
    name: "active: a torn record that holds a log of old txids",
    ...active(raw(3, concat(head, raw(2, "old"))).subarray(0, -1), "Torn", "Truncated")
  },
  {
    name: "active: a damaged record that holds a log of old txids",
    ...active(flipped(raw(3, concat(head, raw(2, "old"))), 8), "Torn", "CrcMismatch")
  },
  {
    name: "active: a torn record that holds a log of newer txids",
    ...active(
      raw(3, concat(raw(2, "old"), raw(3, "new"), raw(70, "newer"))).subarray(0, -1),
      "CorruptTail",
      "Truncated",
      2
    )
  },
  {
    name: "active: a damaged record that holds a log of newer txids",
    ...active(flipped(raw(3, concat(raw(3, "new"), raw(70, "newer"))), 8), "CorruptTail", "CrcMismatch", 2)
  },
  {
    name: "active: a log inside a record behind the damage counts as one frame",
    ...active(concat(flipped(raw(3, "three"), 26), raw(4, later)), "CorruptTail", "CrcMismatch", 1)
  },
  {
    name: "active: the last valid txid may be that of a closed segment: not above it",
    segments: { 1: raw(40, "forty"), 2: flipped(raw(41, raw(40, "nested")), 8) },
    verdict: "Torn",
    reason: "CrcMismatch",
    segment: 2,
    offset: 0
  },
  {
    name: "active: the last valid txid may be that of a closed segment: above it",
    segments: { 1: raw(40, "forty"), 2: flipped(raw(41, raw(42, "nested")), 8) },
    verdict: "CorruptTail",
    reason: "CrcMismatch",
    segment: 2,
    offset: 0,
    laterFrames: 1
  },
  {
    name: "active: the last valid txid may be several empty segments back",
    segments: { 1: raw(40, "forty"), 2: zeros(0), 5: zeros(0), 6: raw(41, raw(40, "nested")).subarray(0, -1) },
    verdict: "Torn",
    reason: "Truncated",
    segment: 6,
    offset: 0
  },

  // -- sectors that were never written: the long record lies from 62 to 3,090
  {
    name: "active: its second sector is zeros, before valid frames",
    ...active(concat(zeroed(long, 450, 962), later), "Torn", "CrcMismatch")
  },
  {
    name: "active: its last whole sector is zeros, before valid frames",
    ...active(concat(zeroed(long, 2498, 3010), later), "Torn", "CrcMismatch")
  },
  {
    name: "active: all its sectors but the first are zeros",
    ...active(concat(zeroed(long, 450, 3028), zeros(494)), "Torn", "CrcMismatch")
  },
  {
    name: "active: its last sector is zeros, and so is the rest of that sector, before valid frames in the next",
    ...active(concat(zeroed(long, 3010, 3028), zeros(494), later), "Torn", "CrcMismatch")
  },
  {
    name: "active: its last sector is zeros to the end of the file",
    ...active(zeroed(long, 3010, 3028), "Torn", "CrcMismatch")
  },
  {
    name: "active: its share of the last sector is zeros, but the next record's share is not: it was written",
    ...active(concat(zeroed(long, 3010, 3028), later), "CorruptTail", "CrcMismatch", 3)
  },
  {
    name: "active: zeros across a boundary that fill no sector",
    ...active(concat(zeroed(long, 451, 1473), later), "CorruptTail", "CrcMismatch", 3)
  },
  {
    name: "active: a sector of zeros but for its last byte",
    ...active(concat(zeroed(long, 450, 961), later), "CorruptTail", "CrcMismatch", 3)
  },
  {
    name: "active: its first sector is zeros from its start on, before valid frames",
    ...active(concat(zeroed(long, 0, 450), later), "Torn", "BadMagic")
  },
  {
    name: "active: zeros behind the header to the next sector are its own share of a written sector",
    ...active(concat(zeroed(long, 24, 450), later), "CorruptTail", "CrcMismatch", 3)
  },
  {
    name: "active: a frame of exactly one sector, and zeros in the next one, which is not its own",
    segments: {
      1: concat(raw(1, noise(sector - 28)), flipped(raw(2, noise(sector - 28)), 100), zeros(sector), raw(4, "four"))
    },
    verdict: "CorruptTail",
    reason: "CrcMismatch",
    offset: sector,
    laterFrames: 1
  },
  {
    name: "active: a frame of exactly two sectors of which the second was never written",
    segments: { 1: concat(raw(1, noise(sector - 28)), zeroed(raw(2, noise(1024 - 28)), 512, 1024), raw(3, "three")) },
    verdict: "Torn",
    reason: "CrcMismatch",
    offset: sector
  },
  {
    name: "active: a frame of exactly one sector that was never written",
    segments: { 1: concat(raw(1, noise(sector - 28)), zeros(sector), raw(3, "three")) },
    verdict: "Torn",
    reason: "BadMagic",
    offset: sector
  },
  {
    name: "active: a frame whose checksum alone lies in a sector that was never written",
    segments: { 1: concat(raw(1, noise(sector - 24)).subarray(0, sector), zeros(sector), raw(2, "two")) },
    verdict: "Torn",
    reason: "CrcMismatch",
    offset: 0
  },
  // As the format's authors chose it: what is zeros by right cannot be told from what was never written.
  {
    name: "active: a record with a whole sector of zeros by right, damaged elsewhere, before valid frames",
    ...active(concat(flipped(raw(3, concat(noise(500), zeros(1200), noise(100))), 30), later), "Torn", "CrcMismatch")
  }
]

const damageOf = ({ laterFrames = 0, offset = 62, reason, segment = 1, segments, verdict }: Case) => ({
  verdict,
  segment,
  offset,
  reason,
  bytes: segments[segment]!.length - offset,
  laterFrames
})

describe("the verdict", () => {
  it("of the oracle is the one that is written down for every case", () => {
    assert.strictEqual(new Set(cases.map(({ name }) => name)).size, cases.length)
    for (const each of cases) assert.deepStrictEqual(judge(each.segments).damage, damageOf(each), each.name)
  })

  it.effect.each(cases)("$name", (each) =>
    Effect.gen(function*() {
      const damage = damageOf(each)
      const { records } = judge(each.segments)
      const directory = yield* store(each.segments)
      const before = snapshot(directory)
      for (const chunkSize of [1, 100, 512, undefined]) {
        const read = yield* readAll(directory, chunkSize)
        assert.deepStrictEqual(read.records, records)
        assert.deepStrictEqual(errorFields(read.error), errorOf(directory, damage) ?? {})
      }
      assert.deepStrictEqual(snapshot(directory), before)

      const strict = yield* Effect.flip(openWith(directory, { policy: "strict" }))
      assert.deepStrictEqual(errorFields(strict), errorOf(directory, damage, true))
      assert.deepStrictEqual(snapshot(directory), before)

      for (const policy of ["repair", "prefix"] as const) {
        fill(directory, each.segments)
        const activeId = Math.max(...Object.keys(each.segments).map(Number))
        const cuts = damage.verdict === "Torn" ||
          (policy === "prefix" && damage.segment === activeId &&
            !(damage.verdict === "CorruptSegment" && damage.reason === "UnknownVersion"))
        if (!cuts) {
          assert.deepStrictEqual(
            errorFields(yield* Effect.flip(openWith(directory, { policy }))),
            errorOf(directory, damage)
          )
          assert.deepStrictEqual(snapshot(directory), before)
          continue
        }
        const opened = yield* openWith(directory, { policy })
        const bytes = each.segments[damage.segment]!
        const tail = bytes.slice(damage.offset)
        const name = tornName(damage.segment, damage.offset)
        const copied = tail.some((byte) => byte !== 0)
        assert.deepStrictEqual(opened.records, records)
        assert.deepStrictEqual({ ...opened.report } as object, {
          files_scanned: Object.keys(each.segments).length,
          records_replayed: records.length,
          tail_truncated: 1,
          tail_bytes_discarded: tail.length,
          mid_stream_errors: 0,
          unsupported_versions: 0,
          last_txid_seen: records.at(-1)?.txid ?? 0,
          tail_segment: damage.segment,
          tail_offset: damage.offset,
          tail_reason: damage.reason,
          ...(copied ? { torn_file: NodePath.join(directory, name) } : {})
        })
        assert.deepStrictEqual(readSegment(directory, damage.segment), bytes.slice(0, damage.offset))
        if (copied) assert.deepStrictEqual(readName(directory, name), tail)
        assert.strictEqual(NFS.existsSync(NodePath.join(directory, name)), copied)
        // The next record goes where the cut was, with the next number.
        const ref = yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("next")))
        assert.deepStrictEqual(ref, {
          segment: damage.segment,
          offset: damage.offset,
          len: 32,
          txid: (records.at(-1)?.txid ?? 0) + 1
        })
      }
    }))
})

// -- against the oracle -------------------------------------------------------------------------------------------------

/** What can happen to the bytes of a store; `a` and `b` say where. */
const Mishap = Schema.Struct({
  kind: Schema.Literals(["cut", "flip", "zero", "zeroSector", "noise", "swap", "repeat", "remove", "length", "zeros"]),
  segment: Schema.Literals([1, 2, 3]),
  a: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9999 })),
  b: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9999 }))
})

const strike = (bytes: Uint8Array, { a, b, kind }: typeof Mishap.Type): Uint8Array => {
  if (bytes.length === 0) return bytes
  const at = a % bytes.length
  const end = Math.min(bytes.length, at + 1 + b % 700)
  const starts = parse(bytes).records.map(({ offset }) => offset)
  const start = starts[a % Math.max(1, starts.length)] ?? 0
  switch (kind) {
    case "cut":
      return bytes.slice(0, at)
    case "flip":
      return flipped(bytes, at, 1 << (b % 8))
    case "zero":
      return zeroed(bytes, at, end)
    case "zeroSector":
      return zeroed(bytes, at - at % sector, at - at % sector + sector)
    case "noise":
      return concat(bytes.subarray(0, at), noise(b % 90, a), bytes.subarray(at))
    case "swap":
      return concat(bytes.subarray(end), bytes.subarray(0, end))
    case "repeat":
      return concat(bytes, bytes.subarray(at, end))
    case "remove":
      return concat(bytes.subarray(0, at), bytes.subarray(end))
    case "length":
      return withByte(bytes, Math.min(bytes.length - 1, start + 16 + b % 8), () => a)
    case "zeros":
      return concat(bytes, zeros(b % 1500))
  }
}

describe("any damage at all", () => {
  it.effect.prop(
    "gets the verdict of the table, from readers and writers, and never a record that was not written",
    [
      Arbitrary.array(kinds, { minLength: 1, maxLength: 3 }),
      Arbitrary.array(Arbitrary.schema(Mishap), { minLength: 1, maxLength: 3 }),
      between(1, 2000)
    ],
    ([kinds, mishaps, chunkSize]) =>
      Effect.scoped(Effect.gen(function*() {
        const segments = segmentsOf(kinds)
        for (const mishap of mishaps) {
          const id = Math.min(mishap.segment, kinds.length)
          segments[id] = strike(segments[id]!, mishap)
        }
        const { damage, records } = judge(segments)
        const directory = yield* store(segments)
        const read = yield* readAll(directory, chunkSize)
        assert.deepStrictEqual(read.records, records)
        const wanted = damage === undefined ? {} : errorOf(directory, damage) ?? {}
        assert.deepStrictEqual(errorFields(read.error), wanted)
        const before = snapshot(directory)
        const opened = yield* Effect.result(openWith(directory, { chunkSize }))
        if (Result.isFailure(opened)) {
          assert.deepStrictEqual(errorFields(opened.failure), wanted)
          assert.deepStrictEqual(snapshot(directory), before)
        } else {
          assert.deepStrictEqual(wanted, {})
          assert.deepStrictEqual(opened.success.records, records)
          assert.strictEqual(opened.success.report.tail_bytes_discarded, damage?.bytes ?? 0)
        }
      })),
    { arbitrary: { runs: 140, size: 12 } }
  )
})

describe("a crash of the machine", () => {
  /** The file after it: up to `synced` as it was; of the rest, each sector as it was or never written. */
  const crashed = (bytes: Uint8Array, synced: number, lost: number, size: number): Uint8Array => {
    const file = bytes.slice(0, Math.max(synced, size))
    for (let at = synced - synced % sector, index = 0; at < file.length; at += sector, index++) {
      if ((lost >>> index) & 1) file.fill(0, Math.max(at, synced), at + sector)
    }
    return file
  }

  // A log with higher txids, inside a frame cut short, is taken for what it may well be.
  const withoutLog = (kind: typeof Kind.Type): typeof Kind.Type =>
    kind.content === "log" ? { ...kind, content: "noise" } : kind

  const mends = Effect.fnUntraced(function*(directory: string, bytes: Uint8Array, synced: number) {
    const { records } = yield* openWith(directory)
    const all = parseWhole(bytes, 1)
    // A prefix of what was written, with everything that was synced.
    assert.deepStrictEqual(records, all.slice(0, records.length))
    assert.isAtLeast(records.length, all.filter(({ len, offset }) => offset + len <= synced).length)
  })

  it.effect.prop(
    "that loses any of the sectors that were not synced leaves a log that opens, with every synced record",
    [
      Arbitrary.array(Arbitrary.schema(Kind), { minLength: 2, maxLength: 8 }),
      between(0, 7),
      between(0, 0xFFFF),
      between(0, 2)
    ],
    ([kinds, keep, lost, ending]) =>
      Effect.scoped(Effect.gen(function*() {
        const records = kinds.map((kind, index) => recordOf(withoutLog(kind), index + 1))
        const bytes = concat(...records)
        const synced = concat(...records.slice(0, keep % records.length)).length
        const size = ending === 0
          ? bytes.length
          : ending === 1
          ? Math.min(bytes.length, synced + lost % (bytes.length - synced + 1))
          : Math.ceil(bytes.length / sector) * sector - sector
        const directory = yield* store({ 1: crashed(bytes, synced, lost, size) })
        yield* mends(directory, bytes, synced)
      })),
    { arbitrary: { runs: 140, size: 8 } }
  )

  it.effect.prop(
    "and another, and another: what was synced before any of them is read back after all of them, in order",
    [
      Arbitrary.array(
        Arbitrary.schema(Schema.Struct({
          synced: Schema.Array(Kind).check(Schema.isMaxLength(4)),
          unsynced: Schema.Array(Kind).check(Schema.isMaxLength(4)),
          lost: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xFFFF })),
          cut: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9999 }))
        })),
        { minLength: 2, maxLength: 6 }
      )
    ],
    ([rounds]) =>
      Effect.scoped(Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        // What must be there, and what may be there behind it.
        let durable: ReadonlyArray<Plain> = []
        let written: ReadonlyArray<Plain> = []
        for (const { cut, lost, synced, unsynced } of rounds) {
          const mark = yield* Effect.scoped(Effect.gen(function*() {
            const log = yield* Log.make({ directory, segmentSize: 3000 })
            const { records } = yield* collect(log.stream)
            assert.deepStrictEqual(records, written.slice(0, records.length))
            assert.isAtLeast(records.length, durable.length)
            const append = (kind: typeof Kind.Type) => {
              const { type } = kind
              const key = noise(kind.key, 1)
              const payload = kind.content === "zeros" ? zeros(kind.payload) : noise(kind.payload, 2)
              return log.appendRecord(type === "Delete" ? { type, key } : { type, key, payload })
            }
            for (const kind of synced) yield* append(kind)
            yield* log.sync
            durable = (yield* collect(log.stream)).records
            const mark = yield* log.end
            for (const kind of unsynced) yield* append(kind)
            written = (yield* collect(log.stream)).records
            // A rotation has synced everything before it.
            const end = yield* log.end
            if (end.segment === mark.segment) return mark
            durable = written.filter(({ segment }) => segment < end.segment)
            return { segment: end.segment, offset: 0 }
          }))
          const bytes = readSegment(directory, mark.segment)
          const size = mark.offset + cut % (bytes.length - mark.offset + 1)
          NFS.writeFileSync(
            NodePath.join(directory, segmentName(mark.segment)),
            crashed(bytes, mark.offset, lost, cut % 3 === 0 ? size : bytes.length)
          )
        }
        const { records } = yield* openWith(directory)
        assert.deepStrictEqual(records, written.slice(0, records.length))
        assert.isAtLeast(records.length, durable.length)
        assert.deepStrictEqual(records.map(({ txid }) => txid), records.map((_, index) => index + 1))
      })),
    { arbitrary: { runs: 60, size: 8 } }
  )

  it.effect.each(Array.from({ length: 24 }, (_, index) => ({ before: index + 1 })))(
    "that loses the sector behind the first $before bytes of an unsynced header leaves a log that opens",
    ({ before }) =>
      Effect.gen(function*() {
        // Record 2 starts so many bytes before the second sector, and only that sector did not reach the disk.
        const bytes = concat(raw(1, noise(sector - before - 28)), raw(2, noise(1500)), raw(3, "three"))
        const synced = sector - before
        const directory = yield* store({ 1: crashed(bytes, synced, 0b10, bytes.length) })
        yield* mends(directory, bytes, synced)
      })
  )
})

describe("what is not a segment", () => {
  const names = [
    "1.dwal",
    "00000000.dwal",
    "000000001.dwal",
    "0000001.dwal",
    "00000002.dwal.tmp",
    "00000002.DWAL",
    "x00000002.dwal",
    "00000002.dwal~",
    "-0000002.dwal",
    "0000000a.dwal",
    ".00000002.dwal",
    "00000001-0.torn",
    "00000001.torn",
    "notes.txt",
    ".hidden",
    "datawal.tmp"
  ]

  it.effect("is ignored and never touched, whatever it is called", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: head })
      for (const name of names) NFS.writeFileSync(NodePath.join(directory, name), raw(99, name))
      NFS.mkdirSync(NodePath.join(directory, "00000009.dwal"))
      NFS.mkdirSync(NodePath.join(directory, "sub"))
      NFS.symlinkSync("nowhere", NodePath.join(directory, "00000008.dwal"))
      NFS.symlinkSync("sub", NodePath.join(directory, "00000007.dwal"))
      const before = snapshot(directory)
      assert.deepStrictEqual(yield* Recovery.listSegments(directory), [1])
      assert.deepStrictEqual(yield* readAll(directory), { records: parse(head).records, error: undefined })
      const { records, report } = yield* openWith(directory)
      assert.deepStrictEqual(records, parse(head).records)
      assert.strictEqual(report.files_scanned, 1)
      assert.deepStrictEqual(snapshot(directory), before)
      yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("three")))
      assert.deepStrictEqual(snapshot(directory), {
        ...before,
        [segmentName(1)]: `file ${Buffer.from(concat(head, raw(3, "three"))).toString("base64")}`
      })
    }))

  it.effect("is ignored even when it is a link that leads to itself", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: head })
      NFS.symlinkSync("loop", NodePath.join(directory, "loop"))
      assert.deepStrictEqual(yield* readAll(directory), { records: parse(head).records, error: undefined })
      const { records } = yield* openWith(directory)
      assert.deepStrictEqual(records, parse(head).records)
    }))

  it.effect("a symbolic link to a segment is that segment, to be read: never written through, for its writer is another", () =>
    Effect.gen(function*() {
      const elsewhere = yield* temporaryDirectory
      const directory = yield* store({ 1: head })
      const target = NodePath.join(elsewhere, "moved")
      NFS.writeFileSync(target, concat(raw(3, "three"), noise(9)))
      NFS.symlinkSync(target, NodePath.join(directory, segmentName(2)))
      const reader = yield* Reader.make({ directory })
      assert.deepStrictEqual((yield* Stream.runCollect(reader.stream)).map(({ txid }) => txid), [1, 2, 3])
      for (const bytes of [concat(raw(3, "three"), noise(9)), raw(3, "three")]) {
        NFS.writeFileSync(target, bytes)
        const refused = yield* Effect.flip(openWith(directory))
        assert.deepInclude(refused, { _tag: "IoError", operation: "open", code: "ELOOP" })
        assert.deepStrictEqual(new Uint8Array(NFS.readFileSync(target)), bytes)
      }
      // A closed one is only read.
      NFS.writeFileSync(NodePath.join(directory, segmentName(3)), "")
      assert.deepStrictEqual((yield* openWith(directory)).records.map(({ txid }) => txid), [1, 2, 3])
      assert.isTrue(NFS.lstatSync(NodePath.join(directory, segmentName(2))).isSymbolicLink())
    }))

  it.effect("a copy that someone else keeps under the name of a torn file is left alone", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: concat(head, noise(5)) })
      NFS.writeFileSync(NodePath.join(directory, tornName(1, 62)), "mine")
      NFS.mkdirSync(NodePath.join(directory, "00000001-62-2.torn"))
      const { report } = yield* openWith(directory)
      assert.strictEqual(report.torn_file, NodePath.join(directory, "00000001-62-3.torn"))
      assert.deepStrictEqual(readName(directory, tornName(1, 62)), utf8("mine"))
      assert.deepStrictEqual(readName(directory, "00000001-62-3.torn"), noise(5))
    }))
})

describe("txids that go down", () => {
  it.effect("are read, and none that was ever there is given again", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: concat(raw(9, "nine"), raw(3, "three")) })
      const { report } = yield* openWith(directory)
      assert.strictEqual(report.last_txid_seen, 9)
      const ref = yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("next")))
      assert.strictEqual(ref.txid, 10)
    }))
})

describe("what was acknowledged", () => {
  it.effect("is not cut off behind a damaged record, whatever the sizes of both", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const lost: Array<number> = []
      for (let size = 65_500; size < 65_560; size++) {
        // Written, synced and acknowledged; then one bit of the second record rots.
        const bytes = concat(raw(1, "one"), flipped(raw(2, noise(size - 28 - 33)), 40, 1), raw(3, "three"))
        fill(directory, { 1: bytes })
        const opened = yield* Effect.result(openWith(directory))
        if (Result.isSuccess(opened)) lost.push(size)
      }
      assert.deepStrictEqual(lost, [], "the record behind the damage was cut off with these distances")
    }))

  it("is known to the oracle", () => {
    assert.strictEqual(laterFrames(Buffer.from(concat(noise(65_540), raw(3, "three"))), 0, 2), 1)
  })

  it.effect("keeps its txids: they go on behind the last valid one after every kind of cut", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: raw(2 ** 32, "a"), 2: concat(raw(2 ** 32 + 1, "b"), raw(2 ** 32 + 2, "c")) })
      for (const policy of ["repair", "prefix"] as const) {
        NFS.appendFileSync(NodePath.join(directory, segmentName(2)), policy === "repair" ? noise(9) : noise(99))
        const ref = yield* Effect.scoped(Effect.flatMap(Log.make({ directory, policy }), (log) => log.append("next")))
        assert.strictEqual(ref.txid, 2 ** 32 + (policy === "repair" ? 3 : 4))
      }
      const { records } = yield* readAll(directory)
      assert.deepStrictEqual(records.map(({ txid }) => txid - 2 ** 32), [0, 1, 2, 3, 4])
    }))

  it.effect("has txids above every one that was given, even where an older program left them out of order", () =>
    Effect.gen(function*() {
      const directory = yield* store({ 1: concat(raw(1, "one"), raw(9, "nine")), 2: concat(raw(3, "three"), noise(3)) })
      const opened = yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        return { seen: log.report.last_txid_seen, ref: yield* log.append("next") }
      }))
      assert.deepStrictEqual([opened.seen, opened.ref.txid], [9, 10])
    }))

  it.effect("goes on in a key/value store that is cut, with the values before the damage", () =>
    Effect.gen(function*() {
      const bytes = concat(put(1, "a", "1"), put(2, "b", "2"), put(3, "a", "3").subarray(0, -2))
      const directory = yield* store({ 1: bytes })
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        assert.deepStrictEqual(yield* kv.get("a"), utf8("1"))
        yield* kv.put("a", "4")
      }))
      const kv = yield* Kv.makeReader({ directory })
      assert.deepStrictEqual(yield* kv.get("a"), utf8("4"))
      assert.deepStrictEqual(yield* kv.get("b"), utf8("2"))
    }))
})
