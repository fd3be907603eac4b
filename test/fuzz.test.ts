/**
 * Hostile bytes: whatever stands in a directory, in an import or in `.lock`, the store answers as an independent, slow
 * reading of the contract says, within bounded work and memory.
 *
 * The inputs here are the same in every run; `npm run fuzz -- --minutes 60 --seed 1000000` goes on with others, led by
 * what they reach (`support/fuzz.ts`).
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Disk from "../src/Disk.ts"
import { run } from "./support/child.ts"
import { Counts, explain, fuzz, problemOf, type Target, targets } from "./support/fuzz.ts"
import { inMemory, type MakeBench } from "./support/fuzzBench.ts"
import { frameOf } from "./support/fuzzFrames.ts"
import { checkStore } from "./support/fuzzRecovery.ts"
import { type Entry, readingOf, segmentsOf } from "./support/fuzzReference.ts"
import { joined, minimised, seededInput, Source } from "./support/fuzzSource.ts"
import { makeStoreCase, type StoreCase } from "./support/fuzzStores.ts"

const targetOf = (name: string): Target => {
  const found = targets.find((target) => target.name === name)
  return found ?? assert.fail(`no target ${name}`)
}

/** What so many inputs are to meet, so that a test of nothing is noticed. */
const runs: ReadonlyArray<{
  readonly name: string
  readonly cases: number
  readonly what: string
  readonly meets: ReadonlyArray<string>
}> = [
  {
    name: "decoder",
    cases: 900,
    what: "the decoder finds in any bytes what the format's table says",
    meets: [
      "a frame",
      "Truncated",
      "BadMagic",
      "UnknownVersion",
      "UnknownRecordType",
      "ReservedFlags",
      "KeyTooLarge",
      "PayloadTooLarge",
      "UnsupportedTxid",
      "CrcMismatch"
    ].map((found) => `decoder: ${found}`)
  },
  {
    name: "recovery",
    cases: 250,
    what: "a hostile directory is read, cut or refused as the contract says, and goes on from there",
    meets: [
      "verdict: sound",
      "verdict: Torn",
      "verdict: CorruptTail",
      "verdict: CorruptSegment",
      "policy repair: cut",
      "policy repair: CorruptTail",
      "policy repair: CorruptSegment",
      "policy prefix: cut",
      "policy prefix: CorruptSegment",
      "policy strict: CorruptTail",
      "policy strict: opened",
      "salvage: more behind damage",
      "salvage: nothing behind damage",
      "append: behind the last record",
      "append: in a new segment",
      "append: LimitExceeded"
    ]
  },
  {
    name: "disk",
    cases: 25,
    what: "the same on the real disk, with links, pipes and directories among the segments",
    meets: ["verdict: Torn", "verdict: CorruptTail", "verdict: CorruptSegment", "verdict: sound"]
  },
  {
    name: "import",
    cases: 200,
    what: "an import takes the lines before the first bad one, and names that",
    meets: ["import: taken", "import: InvalidLine", "import: a broken input"]
  },
  {
    name: "lock",
    cases: 400,
    what: "whatever stands in .lock, no byte of the store changes, and a note of unsynced bytes is heeded",
    meets: ["lock: opened, a note", "lock: opened, no note", "lock: LockHeld, no note", "lock: CorruptTail, a note"]
  },
  {
    name: "checkpoint",
    cases: 40,
    what: "a saved index that is not what was saved breaks nothing, and loses no record",
    meets: ["checkpoint: told apart or whole", "checkpoint: put right again"]
  }
]

describe("under mutated and random bytes", () => {
  it.each(runs)("$what", async ({ cases, meets, name }) => {
    const counts = new Counts()
    const failure = await fuzz(targetOf(name), 1, cases, counts.add)
    if (failure !== undefined) assert.fail(failure)
    assert.deepStrictEqual(meets.filter((what) => counts.get(what) === 0), [], counts.toString())
  })
})

// -- the fuzzing itself -----------------------------------------------------------------------------------------------

const record = (txid: number, text: string): Uint8Array => frameOf({ txid, payload: new TextEncoder().encode(text) })

const storeOf = (bytes: Uint8Array, changes: Partial<StoreCase> = {}): StoreCase => ({
  ...makeStoreCase(new Source(new Uint8Array(0))),
  tree: new Map<string, Entry>([["00000001.dwal", { kind: "file", bytes }]]),
  ...changes
})

/** A store on a disk of which something is not as it should be. */
const over = (change: (disk: Disk.DiskService) => Disk.DiskService): MakeBench => (tree, options, use) =>
  inMemory(
    tree,
    options,
    (bench) => Effect.flatMap(Disk.Disk, (disk) => Effect.provideService(use(bench), Disk.Disk, change(disk)))
  )

const brokenDisks: ReadonlyArray<{ readonly name: string; readonly make: MakeBench; readonly problem: RegExp }> = [
  {
    name: "gives a byte that was not written",
    make: over((disk) => ({
      ...disk,
      open: (path, mode) =>
        Effect.map(disk.open(path, mode), (file) => ({
          ...file,
          read: (into, start, end, position) =>
            Effect.map(file.read(into, start, end, position), (count) => {
              into[start + 30] = (into[start + 30] ?? 0) ^ 1
              return count
            })
        }))
    })),
    problem: /the reader: read/
  },
  {
    name: "cuts a byte too many",
    make: over((disk) => ({
      ...disk,
      open: (path, mode) =>
        Effect.map(disk.open(path, mode), (file) => ({ ...file, truncate: (size) => file.truncate(size - 1) }))
    })),
    problem: /the open: 00000001.dwal/
  },
  {
    name: "closes no file",
    make: over((disk) => ({
      ...disk,
      open: (path, mode) => Effect.map(disk.open(path, mode), (file) => ({ ...file, close: Effect.void }))
    })),
    problem: /files are left open/
  },
  {
    name: "throws",
    make: over((disk) => ({ ...disk, list: () => Effect.die(new Error("no list")) })),
    problem: /no list/
  }
]

describe("the fuzzing", () => {
  it.effect("finds nothing where all is well", () =>
    checkStore(
      storeOf(joined(record(1, "one"), record(2, "two"), record(3, "cut").subarray(0, 20))),
      inMemory,
      () => {}
    ))

  it.effect.each(brokenDisks)("notices a disk that $name", ({ make, problem }) =>
    Effect.gen(function*() {
      const store = storeOf(joined(record(1, "one"), record(2, "two"), record(3, "cut").subarray(0, 20)))
      const exit = yield* Effect.exit(checkStore(store, make, () => {}))
      assert.strictEqual(exit._tag, "Failure")
      assert.match(JSON.stringify(exit, (_, value) => value instanceof Error ? value.message : value), problem)
    }))

  it("makes one case of one input, and the plainest of none", () => {
    for (const target of targets) {
      const input = seededInput(7)
      assert.strictEqual(target.describe(input), target.describe(input.slice()))
      assert.isBelow(target.describe(new Uint8Array(0)).length, 400, target.name)
    }
  })

  it("makes an input that fails small, and prints it with the way to see it again", async () => {
    const smallest = await minimised(seededInput(3), async (input) => input.some((byte) => byte > 40), 2_000)
    assert.deepStrictEqual(Array.from(smallest), [41])
    const failing: Target = {
      name: "recovery",
      check: (input) => input.length > 2 ? Effect.die(new Error("too long")) : Effect.void,
      describe: (input) => `of ${input.length}`
    }
    assert.include(await problemOf(failing, seededInput(3), () => {}), "too long")
    const text = await explain(failing, seededInput(3), "seed 3")
    assert.include(text, "too long")
    assert.include(text, "npm run fuzz -- --target recovery --input AAAA\nof 3")
  })

  it("reads a store as its reference does: the last of the valid frames decides what a later one is", () => {
    const bad = record(3, "bad").with(26, 0xFF)
    for (const [txid, laterFrames] of [[2, 0], [3, 1], [9, 1]] as const) {
      const { tree } = storeOf(joined(record(1, "one"), record(2, "two"), bad, record(txid, "later")))
      const { damage, records } = readingOf(segmentsOf(tree))
      assert.deepStrictEqual([records.length, damage?.laterFrames], [2, laterFrames])
    }
  })
})

// -- bounds -----------------------------------------------------------------------------------------------------------

interface Work {
  readonly read_bytes: number
  readonly checked_bytes: number
  readonly blocks: number
}

const measured = <A>(mode: string, ...flags: ReadonlyArray<string>) =>
  Effect.map(
    run(process.execPath, [...flags, new URL("support/fuzzChild.mjs", import.meta.url).pathname, mode]),
    ({ code, stderr, stdout }) => {
      assert.strictEqual(code, 0, stderr)
      return stdout.trim().split("\n").map((line): A => JSON.parse(line))
    }
  )

describe("whatever a segment holds", () => {
  it.live("four times of it is read, checked and searched with four times the work", () =>
    Effect.gen(function*() {
      const kinds = yield* measured<{ kind: string; size: number; once: Work; fourTimes: Work }>("work")
      assert.isAtLeast(kinds.length, 15)
      for (const { fourTimes, kind, once, size } of kinds) {
        // The heap of the frames that are still open adds the logarithm of their number, and V8's count of blocks is not
        // the same each time; a quadratic part would make it 16 times.
        for (const what of ["read_bytes", "checked_bytes", "blocks"] as const) {
          assert.isAtMost(fourTimes[what], 7 * once[what] + 1_000, `${what}: ${kind}`)
        }
        // Two openings: each reads every byte, what is damaged once more, and again to judge it and to keep a copy of it.
        assert.isAtMost(once.read_bytes, 2 * 8 * size, kind)
        assert.isAtMost(once.checked_bytes, 2 * 3 * size, kind)
      }
    }))

  it.live("reading it takes the memory of its chunks and longest frames, not of the segment", () =>
    Effect.gen(function*() {
      const kinds = yield* measured<{
        kind: string
        frame_bytes: number
        outcome: string
        longest_bytes: number
        buffers_bytes: number
        heap_bytes: number
      }>("memory", "--expose-gc", "--max-old-space-size=64")
      assert.strictEqual(kinds.length, 4)
      const chunk_bytes = 4_096
      const mebibyte = 1 << 20
      for (const { buffers_bytes, frame_bytes, heap_bytes, kind, longest_bytes, outcome } of kinds) {
        assert.strictEqual(outcome, "Success", kind)
        assert.isAtMost(longest_bytes, Math.max(65_536, chunk_bytes + frame_bytes), kind)
        // One is looked at while the next is read.
        assert.isAtMost(buffers_bytes, 2 * (chunk_bytes + frame_bytes) + 8 * mebibyte, kind)
        assert.isAtMost(heap_bytes, 8 * mebibyte, kind)
      }
    }))
})
