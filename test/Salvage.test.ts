/**
 * What is whole in a damaged store comes out of it, whatever stands between; against a slow reading of the rule, that looks
 * at every byte.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Exit, Fiber, Schema, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Salvage from "../src/Salvage.ts"
import { kinds, segmentsOf } from "./support/arbitraries.ts"
import { FaultyDisk, over } from "./support/faultyDisk.ts"
import { wholeOf } from "./support/fuzzReference.ts"
import {
  collect,
  concat,
  copyFixture,
  expected,
  flipped,
  frame,
  noise,
  type Plain,
  plain,
  put,
  raw,
  readAll,
  type Segments,
  snapshot,
  store,
  temporaryDirectory,
  utf8,
  zeroed,
  zeros
} from "./support/stores.ts"

const salvaged = (directory: string) =>
  Effect.suspend(() => {
    const gaps: Array<Salvage.Gap> = []
    return Effect.map(collect(Salvage.records(directory, { onGap: (gap) => gaps.push(gap) })), ({ error, records }) => {
      assert.isUndefined(error)
      return { records, gaps }
    })
  })

const Harm = Schema.Struct({
  kind: Schema.Literals(["flip", "zero", "cut", "insert"]),
  // Parts of a thousand.
  segment: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 999 })),
  at: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 999 })),
  bytes: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 600 }))
})

const harm = (segments: Segments, { at, bytes, kind, segment }: typeof Harm.Type): Segments => {
  const ids = Object.keys(segments)
  const id = Number(ids[Math.floor(segment * ids.length / 1_000)] ?? 0)
  const whole = segments[id]
  if (whole === undefined || whole.length === 0) return segments
  const place = Math.floor(at * whole.length / 1_000)
  const behind = whole.subarray(place + bytes)
  const harmed = {
    flip: () => flipped(whole, place),
    zero: () => concat(whole.subarray(0, place), zeros(Math.min(bytes, whole.length - place)), behind),
    cut: () => concat(whole.subarray(0, place), behind),
    insert: () => concat(whole.subarray(0, place), noise(bytes, at), whole.subarray(place))
  }
  return { ...segments, [id]: harmed[kind]() }
}

describe("what is whole in a store", () => {
  it.effect.prop(
    "is every frame before, between and behind any damage, in order, and the rest are gaps",
    {
      logs: Arbitrary.array(kinds, { minLength: 1, maxLength: 3 }),
      harms: Arbitrary.array(Arbitrary.schema(Harm), { maxLength: 6 })
    },
    ({ harms, logs }) =>
      Effect.scoped(Effect.gen(function*() {
        const segments = harms.reduce(harm, segmentsOf(logs))
        const directory = yield* store(segments)
        const before = snapshot(directory)
        const found = yield* salvaged(directory)
        const whole = wholeOf(Object.entries(segments).map(([id, bytes]) => ({ id: Number(id), bytes })))
        assert.deepStrictEqual(found.records, whole.records.map(plain))
        assert.deepEqual(found.gaps, whole.gaps)
        assert.deepStrictEqual(snapshot(directory), before)
        const bytes = [...found.records.map(({ len }) => len), ...found.gaps.map(({ bytes }) => bytes)]
        assert.strictEqual(
          bytes.reduce((sum, next) => sum + next, 0),
          Object.values(segments).reduce((sum, { length }) => sum + length, 0),
          "every byte is of a record or of a gap"
        )
      })),
    { arbitrary: { runs: 200 } }
  )

  it.effect.each(Object.keys(expected))(
    "of the fixture %s is what a reader gives of it, and more behind damage",
    (name) =>
      Effect.gen(function*() {
        const { open, reason, records, valid_prefix } = expected[name] ?? assert.fail()
        const directory = yield* copyFixture(name)
        const before = snapshot(directory)
        const found = yield* salvaged(directory)
        const prefix = records ?? valid_prefix ?? []
        assert.deepStrictEqual(found.records.slice(0, prefix.length), prefix)
        if (open === "ok") assert.deepStrictEqual(found, { records: [...prefix], gaps: [] })
        else assert.strictEqual(found.gaps.length, 1)
        if (reason !== undefined) assert.strictEqual(found.gaps[0]?.reason, reason)
        if (open !== "ok") assert.strictEqual(found.gaps[0]?.torn, open === "torn")
        const behind = ["closed_crc_bad", "mid_active_crc_bad", "mid_active_length_bad", "zero_sector_then_valid"]
        if (behind.includes(name)) assert.isAbove(found.records.length, prefix.length)
        assert.deepStrictEqual(snapshot(directory), before)
      }).pipe(Effect.scoped)
  )

  it.effect("goes on by a txid of its own log, and not by that of a log that a damaged record held", () =>
    Effect.gen(function*() {
      const old = concat(raw(3, "of the copy"), raw(7, "of the copy"))
      const holder = put(8, "backup", old)
      const directory = yield* store({ 1: concat(raw(7, "before"), flipped(holder, 30), raw(9, "behind")) })
      const { gaps, records } = yield* salvaged(directory)
      assert.deepStrictEqual(records.map(({ txid }) => txid), [7, 9])
      const gap = { segment: 1, offset: 34, bytes: holder.length, reason: "CrcMismatch", torn: false }
      assert.deepStrictEqual(gaps, [gap])
    }).pipe(Effect.scoped))

  it.effect("is no log that a damaged record held, however many records before it are damaged too", () =>
    Effect.gen(function*() {
      for (const [from, to] of [[5, 6], [13, 14], [900, 901]] as const) {
        const held = concat(put(from, "k", "old"), put(to, "k", "old"))
        const records = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map((txid) => put(txid, "k", "new"))
        const first = concat(...records.map((bytes, at) => at === 1 || at === 4 ? flipped(bytes, 26) : bytes))
        const holder = flipped(put(11, "backup", held), 26)
        const rest = [12, 13, 14, 15].map((txid) => put(txid, "z", "last"))
        const kept = [1, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15]
        for (const segments of [{ 1: concat(first, holder, ...rest) }, { 1: first, 2: concat(holder, ...rest) }]) {
          const { gaps, records } = yield* salvaged(yield* store(segments))
          assert.deepStrictEqual(records.map(({ txid }) => txid), kept)
          assert.strictEqual(gaps.length, 3)
        }
      }
    }).pipe(Effect.scoped))

  it.effect("is no log that the last record held, or one with damaged neighbours, as long as their headers are sound", () =>
    Effect.gen(function*() {
      const held = concat(put(6, "k", "of another"), put(7, "k", "of another"))
      const holder = flipped(put(4, "backup", held), 26)
      const start = [1, 2, 3].map((txid) => put(txid, "k", "mine"))
      const cases: ReadonlyArray<readonly [ReadonlyArray<Uint8Array>, Array<number>]> = [
        [[], [1, 2, 3]],
        [[flipped(put(5, "k", "mine"), 26)], [1, 2, 3]],
        [[flipped(put(5, "k", "mine"), 26), flipped(put(6, "k", held), 26), put(7, "k", "mine")], [1, 2, 3, 7]],
        // One that is cut off has its header.
        [[put(5, "k", "mine").subarray(0, -1)], [1, 2, 3]]
      ]
      for (const [behind, kept] of cases) {
        const { records } = yield* salvaged(yield* store({ 1: concat(...start, holder, ...behind) }))
        assert.deepStrictEqual(records.map(({ txid }) => txid), kept)
      }
    }).pipe(Effect.scoped))

  it.effect("is no copy of older records in a damaged one, though a header was damaged before", () =>
    Effect.gen(function*() {
      const old = [1, 2, 3, 4].map((txid) => put(txid, `key ${txid}`, "old"))
      const now = [5, 6, 7, 8].map((txid) => put(txid, `key ${txid - 4}`, "new"))
      const holder = flipped(put(9, "backup", concat(...old)), 40)
      const [first = assert.fail(), ...rest] = old
      const directory = yield* store({ 1: concat(flipped(first, 0), ...rest, ...now, holder, put(10, "z", "last")) })
      const { gaps, records } = yield* salvaged(directory)
      assert.deepStrictEqual(records.map(({ txid }) => txid), [2, 3, 4, 5, 6, 7, 8, 10])
      assert.deepStrictEqual(gaps.map(({ bytes }) => bytes), [first.length, holder.length])
    }).pipe(Effect.scoped))

  it.effect("is there also where a writer cuts the tail and goes on meanwhile, in as many bytes", () =>
    Effect.gen(function*() {
      const size = 1_500
      const whole = Array.from({ length: 800 }, (_, at) => raw(at + 1, noise(size)))
      // The lost sector is a whole one of the file.
      const start = concat(...whole).length
      const sector = Math.ceil(start / 512) * 512 - start
      const lost = zeroed(raw(801, noise(size)), sector, sector + 512)
      const directory = yield* store({ 1: concat(...whole, lost, raw(802, noise(size))) })
      let seen: Array<number> = []
      yield* Stream.runForEachArray(Salvage.records(directory), (records) => {
        const isFirst = seen.length === 0
        seen = [...seen, ...records.map(({ txid }) => txid)]
        if (!isFirst) return Effect.void
        return Effect.scoped(Effect.gen(function*() {
          // The next chunk is on its way.
          yield* Effect.promise(() => new Promise((done) => setTimeout(done, 50)))
          const log = yield* Log.make({ directory })
          assert.strictEqual(log.report.last_txid_seen, 800)
          yield* log.appendAll([noise(size), noise(size)])
        }))
      })
      assert.deepStrictEqual(seen.slice(-3), [800, 801, 802])
      assert.strictEqual(seen.length, 802)
    }).pipe(Effect.scoped))

  it.effect("goes on from no place that it has read already, such as a log in a record with an older txid", () =>
    Effect.gen(function*() {
      const directory = yield* store({
        1: concat(
          raw(7, "before"),
          flipped(raw(8, "damaged"), 30),
          raw(9, "behind"),
          raw(2, raw(20, "held by another")),
          flipped(raw(10, "damaged"), 30),
          raw(11, "the last")
        )
      })
      const { gaps, records } = yield* salvaged(directory)
      assert.deepStrictEqual(records.map(({ txid }) => txid), [7, 9, 2, 11])
      assert.strictEqual(gaps.length, 2)
      // Also where no damage follows.
      const last = yield* salvaged(
        yield* store({
          1: concat(
            raw(7, "before"),
            flipped(raw(8, "damaged"), 30),
            raw(9, "behind"),
            raw(2, raw(20, "held by another"))
          )
        })
      )
      assert.deepStrictEqual(last.records.map(({ txid }) => txid), [7, 9, 2])
      assert.strictEqual(last.gaps.length, 1)
    }).pipe(Effect.scoped))

  it.effect("is found right behind what is not this log's, with nothing between", () =>
    Effect.gen(function*() {
      const small = (txid: number): Uint8Array => raw(txid, "z".repeat(36))
      const rest = Array.from({ length: 24 }, (_, at) => small(at + 3))
      // A copy of what stands behind it has come over the end of a damaged record.
      const large = raw(2, noise(996))
      large.set(concat(...rest.slice(8, 16)), 512)
      const held = yield* salvaged(yield* store({ 1: concat(raw(1, noise(484)), large, ...rest) }))
      assert.deepStrictEqual(held.records.map(({ txid }) => txid), [1, ...rest.map((_, at) => at + 3)])
      const gap = { segment: 1, offset: 512, bytes: 1_024, reason: "CrcMismatch", torn: false }
      assert.deepStrictEqual(held.gaps, [gap])
      // A copy of a record that was read already stands behind the second damage.
      const copied = concat(
        small(1),
        flipped(small(2), 30),
        small(3),
        flipped(small(4), 0),
        small(3),
        small(6),
        small(7)
      )
      const { gaps, records } = yield* salvaged(yield* store({ 1: copied }))
      assert.deepStrictEqual(records.map(({ txid }) => txid), [1, 3, 6, 7])
      assert.deepStrictEqual(gaps.map(({ bytes }) => bytes), [64, 128])
    }).pipe(Effect.scoped))

  it.effect("is told of gap by gap, each when the records before it have been read", () =>
    Effect.gen(function*() {
      const records = [1, 2, 3, 4, 5].map((txid) => raw(txid, "x".repeat(22)))
      const directory = yield* store({
        1: concat(records[0]!, flipped(records[1]!, 40), records[2]!, flipped(records[3]!, 0), records[4]!)
      })
      const seen: Array<string> = []
      const onGap = ({ bytes, offset, reason }: Salvage.Gap) => seen.push(`${offset} ${bytes} ${reason}`)
      yield* Stream.runForEach(
        Salvage.records(directory, { onGap }),
        ({ txid }) => Effect.sync(() => seen.push(`${txid}`))
      )
      assert.deepStrictEqual(seen, ["1", "50 50 CrcMismatch", "3", "150 50 BadMagic", "5"])
    }).pipe(Effect.scoped))

  it.effect("takes no more of the disk than its bytes a few times over, however often it is damaged", () =>
    Effect.gen(function*() {
      const records = Array.from({ length: 3_000 }, (_, at) => raw(at + 1, noise(400, at)))
      const bytes = concat(...records.map((record, at) => at % 100 === 50 ? flipped(record, 100) : record))
      const directory = yield* store({ 1: bytes })
      const disk = new FaultyDisk()
      const { gaps, records: found } = yield* over(disk)(salvaged(directory))
      assert.deepStrictEqual([gaps.length, found.length], [30, 2_970])
      const reads = disk.calls.filter(({ kind }) => kind === "read" || kind === "readNow").length
      assert.isBelow(reads, 200)
      assert.strictEqual(disk.openDescriptors, 0)
    }).pipe(Effect.scoped))

  it.effect("is read beside a writer, and only as long as the directory is the same", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const directory = NodePath.join(root, "store")
      const log = yield* Log.make({ directory })
      yield* log.append("one")
      yield* log.rotate
      yield* log.append("two")
      assert.strictEqual((yield* salvaged(directory)).records.length, 2)
      const moved = Stream.runForEach(Salvage.records(directory), () =>
        Effect.sync(() => {
          if (!NFS.existsSync(directory)) return
          NFS.renameSync(directory, NodePath.join(root, "elsewhere"))
        }))
      assert.deepInclude(yield* Effect.flip(moved), { _tag: "IoError", code: "ESTALE" })
    }).pipe(Effect.scoped))

  it.effect("is not found where there is no directory", () =>
    Effect.gen(function*() {
      const directory = NodePath.join(yield* temporaryDirectory, "none")
      const error = yield* Effect.flip(Stream.runDrain(Salvage.records(directory)))
      assert.deepInclude(error, { _tag: "IoError", code: "ENOENT" })
      const target = NodePath.join(yield* temporaryDirectory, "made", "target")
      assert.deepInclude(yield* Effect.flip(Salvage.toStore(directory, target)), { _tag: "IoError", code: "ENOENT" })
      assert.isFalse(NFS.existsSync(NodePath.dirname(target)))
    }).pipe(Effect.scoped))
})

const damaged: Segments = {
  1: concat(put(1, "a", "1"), put(2, "b", "old"), flipped(put(3, "gone", "x"), 26), raw(4, "between")),
  3: concat(flipped(put(5, "lost", "y"), 3), put(6, "b", "new"), frame({ type: "Delete", txid: 7, key: utf8("a") }))
}

describe("a store of what is whole", () => {
  it.effect("is a log like the old one without its damage, and leaves that as it was", () =>
    Effect.gen(function*() {
      const directory = yield* store(damaged)
      const before = snapshot(directory)
      const target = NodePath.join(yield* temporaryDirectory, "deep", "target")
      const [gaps, progress]: [Array<Salvage.Gap>, Array<number>] = [[], []]
      const answer = yield* Salvage.toStore(directory, target, {
        onGap: (gap) => gaps.push(gap),
        onProgress: (records) => progress.push(records)
      })
      const { records } = yield* readAll(target)
      assert.deepStrictEqual(
        records.map(({ key_b64, payload_b64, txid, type }) => [
          txid,
          type,
          ...[key_b64, payload_b64].map((text) => Buffer.from(text, "base64").toString())
        ]),
        [[1, "Put", "a", "1"], [2, "Put", "b", "old"], [3, "Raw", "", "between"], [4, "Put", "b", "new"], [
          5,
          "Delete",
          "a",
          ""
        ]]
      )
      assert.deepStrictEqual(answer, {
        records_written: 5,
        bytes_written: records.reduce((sum, { len }) => sum + len, 0),
        gaps: 2,
        bytes_skipped: 33 * 2
      })
      assert.deepStrictEqual(gaps.map(({ reason, segment }) => [segment, reason]), [[1, "CrcMismatch"], [
        3,
        "BadMagic"
      ]])
      assert.strictEqual(progress.at(-1), 5)
      assert.deepStrictEqual(snapshot(directory), before)
      const kv = yield* Kv.make({ directory: target, policy: "strict" })
      assert.deepStrictEqual(
        (yield* Stream.runCollect(kv.entries())).map(({ key, value }) =>
          Buffer.concat([key, utf8(" "), value]).toString()
        ),
        ["b new"]
      )
    }).pipe(Effect.scoped))

  it.effect("of a store without damage holds the same records", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory, segmentSize: 10_000 })
        for (let round = 0; round < 20; round++) {
          yield* log.appendAll(
            Array.from(
              { length: 50 },
              (_, at) => ({ type: "Put", key: `${round} ${at % 7}`, payload: noise(at * 9, at) })
            )
          )
        }
      }))
      const target = NodePath.join(yield* temporaryDirectory, "target")
      const answer = yield* Salvage.toStore(directory, target)
      const [from, to] = [yield* readAll(directory), yield* readAll(target)]
      const what = ({ key_b64, payload_b64, txid, type }: Plain) => [txid, type, key_b64, payload_b64]
      assert.deepStrictEqual(to.records.map(what), from.records.map(what))
      assert.deepInclude(answer, { records_written: 1_000, gaps: 0, bytes_skipped: 0 })
    }).pipe(Effect.scoped))

  it.effect("is never made over something", () =>
    Effect.gen(function*() {
      const directory = yield* store(damaged)
      const root = yield* temporaryDirectory
      const file = NodePath.join(root, "file")
      NFS.writeFileSync(file, "")
      for (const target of [directory, root, file, ""]) {
        assert.deepInclude(yield* Effect.flip(Salvage.toStore(directory, target)), { _tag: "TargetRefused", target })
      }
      assert.deepStrictEqual(NFS.readdirSync(root), ["file"])
    }).pipe(Effect.scoped))

  it.live("is absent when its making is interrupted, or fails", () =>
    Effect.gen(function*() {
      const directory = yield* store(damaged)
      const root = yield* temporaryDirectory
      const target = NodePath.join(root, "target")
      const disk = new FaultyDisk()
      const held = disk.holdNext("sync")
      yield* over(disk)(Effect.gen(function*() {
        const making = yield* Effect.forkChild(Salvage.toStore(directory, target), { startImmediately: true })
        yield* held.reached
        const interrupting = yield* Effect.forkChild(Fiber.interrupt(making), { startImmediately: true })
        yield* held.release
        yield* Fiber.join(interrupting)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(making)))
        assert.deepStrictEqual(NFS.readdirSync(root), [])
        disk.failNext("read", "EIO", { skip: 1 })
        assert.deepInclude(yield* Effect.flip(Salvage.toStore(directory, target)), { _tag: "IoError", code: "EIO" })
        assert.deepStrictEqual(NFS.readdirSync(root), [])
        yield* Salvage.toStore(directory, target)
      }))
      assert.strictEqual(disk.openDescriptors, 0)
    }).pipe(Effect.scoped))
})
