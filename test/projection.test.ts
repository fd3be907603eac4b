/** Folding the bytes of frames is folding their records one by one. */
import { assert, describe, it } from "@effect/vitest"
import { recordsOf } from "../src/internal/frames.ts"
import { locate } from "../src/internal/keyRecord.ts"
import { Projection } from "../src/internal/projection.ts"
import { bytesOf, framesOf, someRecords } from "./support/someFrames.ts"

const contents = (projection: Projection) => {
  const snapshot = projection.snapshot()
  const steps = Array.from(snapshot.entries({ ordered: true }), (entries) => Array.from(entries))
  return {
    size: projection.size,
    counts: projection.counts,
    located: steps.flat().map((entry) => {
      const { key, ...place } = locate(snapshot.slabs, entry)
      return [Buffer.from(key).toString("latin1"), place]
    })
  }
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
