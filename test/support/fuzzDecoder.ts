/** The decoder alone, on frames whose every byte may be wrong, at any place of any larger buffer. */
import { Effect } from "effect"
import * as NodeAssert from "node:assert/strict"
import * as Frame from "../../src/Frame.ts"
import type { Tally } from "./fuzzBench.ts"
import { changed, changeNames, recordOf } from "./fuzzFrames.ts"
import { frameAt } from "./fuzzReference.ts"
import { joined, type Source } from "./fuzzSource.ts"

interface DecoderCase {
  readonly bytes: Uint8Array
  /** Bytes of the buffer before and behind `bytes`, which are none of the decoder's business. */
  readonly before: number
  readonly behind: number
  readonly places: ReadonlyArray<readonly [at: number, end: number]>
}

export const makeDecoderCase = (source: Source): DecoderCase => {
  let bytes = joined(...Array.from({ length: source.between(1, 3) }, (_, index) => recordOf(source, index + 1)))
  for (let count = source.below(5); count > 0; count--) bytes = changed(source, source.among(changeNames) ?? "", bytes)
  const places = Array.from({ length: source.between(1, 12) }, (): readonly [number, number] => {
    const at = source.chance(50)
      ? Math.max(0, Buffer.from(bytes).indexOf("DWAL", source.below(bytes.length + 1)))
      : source.below(bytes.length + 1)
    return [at, source.chance(60) ? bytes.length : Math.min(bytes.length, at + source.below(100))]
  })
  return { bytes, before: source.below(9), behind: source.below(9), places: [[0, bytes.length], ...places] }
}

export const checkDecoder = (input: DecoderCase, tally: Tally): Effect.Effect<void> =>
  Effect.sync(() => {
    const { before, behind, bytes, places } = input
    const around = joined(new Uint8Array(before).fill(0x44), bytes, new Uint8Array(behind).fill(0x57))
    const view = around.subarray(before, before + bytes.length)
    for (const [at, end] of places) {
      const expected = frameAt(bytes, at, end)
      const actual = Frame.decode(view, at, end)
      if (!expected.ok) {
        const found = actual._tag === "Frame" ? "a frame" : { reason: actual.reason, found: actual.found }
        NodeAssert.deepEqual(found, { reason: expected.reason, found: expected.found }, `[${at}, ${end})`)
        tally(`decoder: ${expected.reason}`)
        continue
      }
      const { key, len, payload, txid, type } = expected.record
      NodeAssert.ok(actual._tag === "Frame", `[${at}, ${end}): a frame is refused`)
      NodeAssert.deepEqual([actual.type, actual.txid, actual.end], [type, txid, at + len])
      NodeAssert.ok(Buffer.compare(actual.key, key) === 0 && Buffer.compare(actual.payload, payload) === 0)
      NodeAssert.ok(actual.key.buffer === around.buffer && actual.payload.buffer === around.buffer, "a copy")
      // What is decoded is what is encoded again.
      const again = new Uint8Array(len)
      NodeAssert.equal(Frame.encodeInto(again, 0, actual.type, actual.txid, actual.key, actual.payload), len)
      NodeAssert.equal(Buffer.compare(again, bytes.subarray(at, at + len)), 0, "another encoding")
      tally("decoder: a frame")
    }
  })

export const describeDecoder = ({ before, behind, bytes, places }: DecoderCase): string =>
  `${JSON.stringify(places)} of ${
    Buffer.from(bytes.subarray(0, 4_096)).toString("hex")
  }, ${before} and ${behind} around it`
