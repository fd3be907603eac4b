/**
 * A store whose saved index is not what was saved. Where its checksum tells, all is as if there were none. Where it
 * does not, because it was put right again, a value may be missing or refused, but none is another key's, nothing
 * breaks, and no record of the log is lost.
 */
import { Effect, Exit, Result, Stream } from "effect"
import * as NodeAssert from "node:assert/strict"
import { crc32 } from "node:zlib"
import * as Disk from "../../src/Disk.ts"
import * as Kv from "../../src/Kv.ts"
import * as Log from "../../src/Log.ts"
import type { Tally } from "./fuzzBench.ts"
import { FuzzDisk } from "./fuzzDisk.ts"
import { foldOf, readingOf, type ReferenceRecord, segmentsOf } from "./fuzzReference.ts"
import { joined, type Source } from "./fuzzSource.ts"

interface Write {
  readonly key: Uint8Array
  /** `undefined` to delete it. */
  readonly value: Uint8Array | undefined
}

interface CheckpointCase {
  readonly before: ReadonlyArray<Write>
  readonly after: ReadonlyArray<Write>
  readonly segmentSize: number
  readonly change: (checkpoint: Uint8Array) => Uint8Array
  readonly isSealed: boolean
  readonly text: string
}

const fileName = "keydir.checkpoint"

const writesOf = (source: Source, count: number): Array<Write> =>
  Array.from({ length: count }, () => {
    const key = new TextEncoder().encode(`key ${source.below(12)}`.padEnd(source.chance(20) ? 3_000 : 0, "."))
    return { key, value: source.chance(20) ? undefined : new Uint8Array(source.below(60)).fill(0x76) }
  })

/** What a header's field may say, if nobody minds. */
const fieldValue = (source: Source, is: unknown): unknown =>
  source.oneOf([
    typeof is === "number" ? is + 1 : 0,
    typeof is === "number" ? is - 1 : 1,
    source.below(500),
    0,
    Number.MAX_SAFE_INTEGER,
    2 ** 32,
    -1,
    0.5,
    "1",
    null,
    []
  ])

const withHeader = (source: Source, checkpoint: Uint8Array): Uint8Array => {
  const view = new DataView(checkpoint.buffer, checkpoint.byteOffset, checkpoint.length)
  const end = 12 + view.getUint32(8, true)
  const header: unknown = JSON.parse(Buffer.from(checkpoint.subarray(12, end)).toString())
  const fields = Object.entries(header ?? {})
  const at = source.below(fields.length)
  const changed = fields.map(([name, is], index): [string, unknown] => {
    if (index !== at) return [name, is]
    if (!Array.isArray(is)) return [name, fieldValue(source, is)]
    const inner = source.below(is.length + 1)
    return [
      name,
      is.map((each: unknown, index) => {
        if (index !== inner) return each
        if (typeof each !== "object" || each === null) return fieldValue(source, each)
        return { ...each, [source.oneOf(["bytes", "id", "identity"])]: fieldValue(source, 100) }
      })
    ]
  })
  const text = Buffer.from(JSON.stringify(Object.fromEntries(changed)))
  const filled = joined(text, new Uint8Array(-text.length & 3).fill(0x20))
  const start = checkpoint.slice(0, 12)
  new DataView(start.buffer).setUint32(8, filled.length, true)
  return joined(start, filled, checkpoint.subarray(end))
}

const withWord = (source: Source, checkpoint: Uint8Array): Uint8Array => {
  const copy = checkpoint.slice()
  const view = new DataView(copy.buffer)
  const words = Math.floor(copy.length / 4) - 1
  // Sizes stand in front, records of keys and their tables behind.
  const word = source.chance(50) ? source.below(words) : words - 1 - source.below(Math.min(words, 2_000))
  const is = view.getUint32(4 * word, true)
  const value = source.oneOf([
    is + 1,
    is - 1,
    0,
    is ^ (1 << source.below(31)),
    0xFFFF_FFFF,
    source.below(70_000),
    2 ** 31
  ])
  view.setUint32(4 * word, value >>> 0, true)
  return copy
}

const changeOf = (source: Source): (checkpoint: Uint8Array) => Uint8Array => {
  switch (source.below(6)) {
    case 0:
      return (checkpoint) => withHeader(source, checkpoint)
    case 1:
      return (checkpoint) => checkpoint.slice(0, source.below(checkpoint.length))
    case 2:
      return () => source.noise(source.below(400))
    default:
      return (checkpoint) => {
        let changed = checkpoint
        for (let count = source.below(4); count >= 0; count--) changed = withWord(source, changed)
        return changed
      }
  }
}

export const makeCheckpointCase = (source: Source): CheckpointCase => {
  const before = writesOf(source, source.between(1, 30))
  const after = writesOf(source, source.below(20))
  const segmentSize = source.oneOf([67_108_864, 700, 3_000])
  const isSealed = source.chance(70)
  const text = `${before.length} writes, ${after.length} after, segments of ${segmentSize}, sealed: ${isSealed}`
  return { before, after, segmentSize, isSealed, change: changeOf(source), text }
}

const sealed = (checkpoint: Uint8Array): Uint8Array => {
  if (checkpoint.length < 4) return checkpoint
  const copy = checkpoint.slice()
  const end = copy.length - 4
  new DataView(copy.buffer).setUint32(end, crc32(copy.subarray(0, end)), true)
  return copy
}

const write = (kv: Kv.Kv["Service"], { key, value }: Write) => value === undefined ? kv.delete(key) : kv.put(key, value)

/** Whether a value was put under that key at any time. */
const wasPut = (records: ReadonlyArray<ReferenceRecord>, key: Uint8Array, value: Uint8Array): boolean =>
  records.some(({ key: k, payload, type }) =>
    type === "Put" && Buffer.compare(k, key) === 0 && Buffer.compare(payload, value) === 0
  )

const recordsOf = (disk: FuzzDisk): ReadonlyArray<ReferenceRecord> => {
  const { damage, records } = readingOf(segmentsOf(disk.tree))
  NodeAssert.equal(damage, undefined, "the log is damaged")
  return records
}

/** Asks and changes everything; what is told, and whether it is what the log says, if that is known. */
const use = Effect.fnUntraced(function*(
  kv: Kv.Kv["Service"],
  disk: FuzzDisk,
  { after }: CheckpointCase,
  isTrue: boolean
) {
  const records = recordsOf(disk)
  const live = foldOf(records)
  if (isTrue) NodeAssert.equal(yield* kv.size, live.size)
  for (const record of live.values()) {
    const value = yield* Effect.result(kv.get(record.key))
    if (isTrue) NodeAssert.ok(Result.isSuccess(value) && value.success !== undefined, "a value is missing")
    if (!Result.isSuccess(value) || value.success === undefined) continue
    NodeAssert.ok(wasPut(records, record.key, value.success), "a value of another key")
  }
  yield* Effect.result(
    Stream.runForEach(
      kv.entries({ ordered: true }),
      ({ key, value }) => Effect.sync(() => NodeAssert.ok(wasPut(records, key, value), "an entry of another key"))
    )
  )
  for (const each of after) {
    const written = yield* Effect.result(write(kv, each))
    if (Result.isFailure(written)) {
      NodeAssert.ok(!isTrue || written.failure._tag === "LimitExceeded", written.failure.message)
      continue
    }
    const value = yield* Effect.result(kv.get(each.key))
    NodeAssert.deepEqual(Result.isSuccess(value) ? value.success : value.failure, each.value, "what was just written")
  }
  yield* Effect.result(kv.statistics)
})

export const checkCheckpoint = (input: CheckpointCase, tally: Tally): Effect.Effect<void> =>
  Effect.suspend(() => {
    const disk = new FuzzDisk(new Map())
    const { directory } = disk
    const { segmentSize } = input
    const options = { directory, segmentSize, checkpoint: "always" } as const
    return Effect.gen(function*() {
      yield* Effect.scoped(
        Effect.flatMap(Kv.make(options), (kv) => Effect.forEach(input.before, (each) => write(kv, each)))
      ).pipe(Effect.orDie)
      const before = recordsOf(disk)
      const file = disk.tree.get(fileName)
      NodeAssert.ok(file?.kind === "file", "no checkpoint was written")
      const whole = Uint8Array.from(file.bytes)
      const changed = input.change(whole)
      const hostile = input.isSealed ? sealed(changed) : changed
      disk.replace(fileName, hostile)
      const isTrue = !input.isSealed || Buffer.compare(hostile, whole) === 0
      const exit = yield* Effect.exit(Effect.scoped(
        Effect.flatMap(Effect.orDie(Kv.make(options)), (kv) => use(kv, disk, input, isTrue))
      ))
      if (Exit.isFailure(exit)) return yield* exit
      NodeAssert.deepEqual([disk.openFiles, disk.misuse], [0, []])
      // The log is what it was, and goes on.
      const now = recordsOf(disk)
      NodeAssert.ok(
        now.length >= before.length && before.every(({ len, offset, segment }, index) => {
          const record = now[index]
          return record?.len === len && record.offset === offset && record.segment === segment
        }),
        "records are lost"
      )
      const replayed = yield* Effect.scoped(Effect.map(
        Effect.orDie(Log.make({ directory, policy: "strict" })),
        ({ report }) => report.records_replayed
      ))
      NodeAssert.equal(replayed, now.length)
      tally(`checkpoint: ${isTrue ? "told apart or whole" : "put right again"}`)
    }).pipe(Effect.provideService(Disk.Disk, disk.service))
  })

export const describeCheckpoint = ({ text }: CheckpointCase): string => text
