/** Many frames at once: which of them are sound, and that memory used again holds what a stream that keeps it does. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import * as NFS from "node:fs"
import type * as Frame from "../src/Frame.ts"
import { type Frames, recordsOf, verified } from "../src/internal/frames.ts"
import { seeded } from "../src/internal/simulatedRandom.ts"
import * as Recovery from "../src/Recovery.ts"
import { bytesOf, framesOf, someRecords } from "./support/someFrames.ts"
import { temporaryDirectory } from "./support/stores.ts"

const base = 1_000

const txidsOf = (frames: Frames): Array<number> => recordsOf(frames).map(({ txid }) => txid)

const check = (bytes: Uint8Array<ArrayBuffer>): Frames | undefined =>
  verified(7, base, bytes, new DataView(bytes.buffer), bytes.length)

/** Every frame but those of `damaged` is sound: what is found ends before the first of these. */
const endsBefore = (found: Frames | undefined, whole: ReadonlyArray<Frame.LogRecord>, damaged: number): void => {
  assert.strictEqual(found?.count ?? 0, damaged)
  if (found === undefined) return
  assert.deepStrictEqual(txidsOf(found), whole.slice(0, damaged).map(({ txid }) => txid))
  assert.deepInclude(found, { length: (whole[damaged]?.offset ?? 0) - base, last: damaged, highest: damaged })
}

describe("frames", () => {
  it("end before the first whose checksum does not hold", () => {
    const bytes = bytesOf(someRecords(3, 20))
    const whole = recordsOf(framesOf(bytes))
    for (const [index, { len, offset }] of whole.entries()) {
      const damaged = bytes.slice()
      damaged[offset - base + len - 5] = 1 + (damaged[offset - base + len - 5] ?? 0)
      endsBefore(check(damaged), whole, index)
    }
  })

  // Frames of 38 bytes, so that thousands are tried with one call, and the last ones by themselves.
  const small = () =>
    bytesOf(Array.from({ length: 5_000 }, (_, index) => ["Put", Buffer.from(`${index % 10}`), new Uint8Array(9)]))

  it("tried many at once end before the first whose checksum does not hold, whichever it is", () => {
    const bytes = small()
    const whole = recordsOf(framesOf(bytes))
    assert.strictEqual(whole.length, 5_000)
    for (let index = 0; index < whole.length; index += index % 5 === 0 ? 1 : 33) {
      // The txid, key, value or checksum: what no look at a header finds.
      const at = index * 38 + ([8, 24, 25, 33, 34, 37][index % 6] ?? 0)
      bytes[at] = (bytes[at] ?? 0) ^ (1 << index % 8)
      endsBefore(check(bytes), whole, index)
      bytes[at] = (bytes[at] ?? 0) ^ (1 << index % 8)
    }
    assert.strictEqual(check(bytes)?.count, 5_000)
  })

  it("tried many at once are not sound for damage to several that would be alike in each", () => {
    const bytes = small()
    const whole = recordsOf(framesOf(bytes))
    const pick = seeded(5)
    for (let round = 0; round < 300; round++) {
      const damaged = bytes.slice()
      const first = pick(4_000)
      const mask = 1 + pick(255)
      for (const index of [first, first + 1 + pick(10), first + 20 + pick(900)].slice(0, 2 + pick(2))) {
        const at = index * 38 + 24 + pick(2) * 5
        damaged[at] = (damaged[at] ?? 0) ^ mask
      }
      endsBefore(check(damaged), whole, first)
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
    }))
})
