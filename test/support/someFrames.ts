/** Frames in memory, made of records. */
import { assert } from "@effect/vitest"
import * as Frame from "../../src/Frame.ts"
import { type Frames, verified } from "../../src/internal/frames.ts"
import { seeded } from "../../src/internal/simulatedRandom.ts"

export type Written = readonly [type: Frame.RecordType, key: Uint8Array, payload: Uint8Array]

export const bytesOf = (records: ReadonlyArray<Written>): Uint8Array<ArrayBuffer> => {
  const lengths = records.map(([, key, payload]) => Frame.encodedLength(key.length, payload.length))
  const bytes = new Uint8Array(lengths.reduce((sum, length) => sum + length, 0))
  let at = 0
  for (const [index, [type, key, payload]] of records.entries()) {
    at = Frame.encodeInto(bytes, at, type, index + 1, key, payload)
  }
  return bytes
}

/** All of them are sound; their segment is 7 and they start at 1,000. */
export const framesOf = (bytes: Uint8Array<ArrayBuffer>): Frames => {
  const frames = verified(7, 1_000, bytes, new DataView(bytes.buffer), bytes.length)
  if (frames?.length !== bytes.length) assert.fail("some are not sound")
  return frames
}

/** Keys that meet within a batch and across batches, of every length, now and then longer than many together. */
export const someRecords = (seed: number, count: number): Array<Written> => {
  const pick = seeded(seed)
  return Array.from({ length: count }, (): Written => {
    const type = Frame.recordTypes[pick(10) < 6 ? 1 : pick(3)] ?? "Raw"
    const key = Buffer.from(`${pick(200)}`.repeat(pick(6)).padEnd([0, 0, 0, 0, 30_000, 65_536][pick(6) * pick(2)] ?? 0))
    return [type, key, new Uint8Array(pick(50))]
  })
}
