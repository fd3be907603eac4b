/** Folding the bytes of frames is folding their records one by one. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import * as NFS from "node:fs"
import * as Frame from "../src/Frame.ts"
import { type Frames, recordsOf, verified } from "../src/internal/frames.ts"
import { Projection } from "../src/internal/projection.ts"
import { seeded } from "../src/internal/simulatedRandom.ts"
import * as Recovery from "../src/Recovery.ts"
import { temporaryDirectory } from "./support/stores.ts"

type Written = readonly [type: Frame.RecordType, key: Uint8Array, payload: Uint8Array]

const bytesOf = (records: ReadonlyArray<Written>): Uint8Array => {
  const lengths = records.map(([, key, payload]) => Frame.encodedLength(key.length, payload.length))
  const bytes = new Uint8Array(lengths.reduce((sum, length) => sum + length, 0))
  let at = 0
  for (const [index, [type, key, payload]] of records.entries()) {
    at = Frame.encodeInto(bytes, at, type, index + 1, key, payload)
  }
  return bytes
}

const framesOf = (bytes: Uint8Array): Frames =>
  verified(7, 1_000, bytes, new DataView(bytes.buffer), bytes.length) ?? assert.fail("nothing is valid")

const contents = (projection: Projection) => {
  const located = [...projection.snapshot().batches({ ordered: true })].flat()
  return {
    size: projection.size,
    counts: projection.counts,
    located: located.map(({ key, ...place }) => [Buffer.from(key).toString("latin1"), place])
  }
}

/** Keys that meet within a batch and across batches, of every length, now and then longer than many together. */
const someRecords = (seed: number, count: number): Array<Written> => {
  const pick = seeded(seed)
  return Array.from({ length: count }, (): Written => {
    const type = Frame.recordTypes[pick(10) < 6 ? 1 : pick(3)] ?? "Raw"
    const key = Buffer.from(`${pick(200)}`.repeat(pick(6)).padEnd([0, 0, 0, 0, 30_000, 65_536][pick(6) * pick(2)] ?? 0))
    return [type, key, new Uint8Array(pick(50))]
  })
}

describe("a projection", () => {
  it("folds frames as it would apply their records", () => {
    for (let seed = 1; seed < 8; seed++) {
      const frames = framesOf(bytesOf(someRecords(seed, 1_000)))
      const [folded, applied] = [new Projection(), new Projection()]
      folded.fold(frames)
      for (const record of recordsOf(frames)) applied.apply(record.type, record.key, record)
      assert.deepStrictEqual(contents(folded), contents(applied))
      assert.isAbove(folded.size, 100)
      assert.strictEqual(folded.counts.records, 1_000)
    }
  })
})

describe("frames", () => {
  it("end before the first whose checksum does not hold", () => {
    const records = someRecords(3, 20)
    const bytes = bytesOf(records)
    const whole = recordsOf(framesOf(bytes))
    for (const [index, { len, offset }] of whole.entries()) {
      const damaged = bytes.slice()
      damaged[offset - 1_000 + len - 5] = 1 + (damaged[offset - 1_000 + len - 5] ?? 0)
      const found = verified(7, 1_000, damaged, new DataView(damaged.buffer), damaged.length)
      assert.strictEqual(found?.count ?? 0, index)
      if (found === undefined) continue
      assert.deepStrictEqual(recordsOf(found).map(({ txid }) => txid), whole.slice(0, index).map(({ txid }) => txid))
      assert.deepInclude(found, { length: offset - 1_000, last: index, highest: index })
    }
  })

  it.live("in memory that is used again are those of a stream that keeps it", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      for (const id of [1, 2, 5]) {
        NFS.writeFileSync(Recovery.segmentPath(directory, id), bytesOf(someRecords(id, 300)))
      }
      const plain = ({ key, offset, payload, segment, txid }: Frame.LogRecord) =>
        [segment, offset, txid, Buffer.from(key).toString("latin1"), payload.length] as const
      const segments = [1, 2, 5]
      const expected = (yield* Stream.runCollect(Recovery.frames(directory, { segments }))).map(plain)
      for (const chunkSize of [1, 100, 4_096, 100_000, 10_000_000]) {
        const buffers = new Set<ArrayBufferLike>()
        const found: Array<ReturnType<typeof plain>> = []
        yield* Stream.runForEach(Recovery.chunks(directory, { segments, chunkSize }), (frames) =>
          Effect.map(Effect.sleep(0), () => {
            if (frames.bytes.buffer.byteLength === Math.min(chunkSize, 524_288)) {
              buffers.add(frames.bytes.buffer)
            }
            found.push(...recordsOf(frames).map(plain))
          }))
        assert.deepStrictEqual(found, expected, `chunks of ${chunkSize}`)
        assert.isAtMost(buffers.size, 2)
      }
      const kept = yield* Stream.runCollect(Recovery.chunks(directory, { segments, chunkSize: 100_000, kept: true }))
      assert.deepStrictEqual(kept.flatMap(recordsOf).map(plain), expected)
    }))
})
