/**
 * A store opens to the same state with a checkpoint as without one, whatever the file is and whatever has happened.
 *
 * Most of it runs on simulated disks: two forks of one are the same machine twice, down to the identities of the files,
 * so that one can be opened with its checkpoint and the other without. What depends on the identities that a real
 * system gives is tested on real files.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Exit, Fiber, Logger, References, Stream } from "effect"
import * as NodeChildProcess from "node:child_process"
import { execFileSync } from "node:child_process"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import { crc32 } from "node:zlib"
import * as Disk from "../src/Disk.ts"
import { checkpointName, load, save } from "../src/internal/checkpoint.ts"
import { keepCheckpoint } from "../src/internal/checkpointing.ts"
import { type Frames, recordsOf } from "../src/internal/frames.ts"
import type { FrozenKeydir } from "../src/internal/keydir.ts"
import { noSlots } from "../src/internal/keyTable.ts"
import { nodeDisk } from "../src/internal/nodeDisk.ts"
import { openLog } from "../src/internal/openLog.ts"
import { Projection } from "../src/internal/projection.ts"
import type { Covered, Resume } from "../src/internal/repair.ts"
import type { Place } from "../src/internal/segmentFiles.ts"
import { mix, seeded } from "../src/internal/simulatedRandom.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import { type Fault, makeDisk, type Mode, type Operation, type SimulatedDisk } from "../src/testing.ts"
import { between } from "./support/arbitraries.ts"
import { startNode } from "./support/child.ts"
import { eventLoopTurn, fold, Model, over, type Rec, recOf } from "./support/crashModel.ts"
import { Counts, type Point, Points } from "./support/crashPoints.ts"
import { FaultyDisk, over as overFaulty } from "./support/faultyDisk.ts"
import { fieldsOf, put as putFrame, temporaryDirectory } from "./support/stores.ts"

/** How many files with a right checksum and wrong contents to try. */
const mutations = Number(process.env["CHECKPOINT_MUTATIONS"] ?? 30)
/** Of the sizes of the stripes, which make up most of a small checkpoint, one byte in so many is tried. */
const step = Number(process.env["CHECKPOINT_STEP"] ?? 9)

/** At how many points of each workload a crash is tried. */
const crashPoints = Number(process.env["CHECKPOINT_CRASHES"] ?? 6)

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

const directory = "/s"
const path = `${directory}/${checkpointName}`
const segment = (id: number): string => `${directory}/${String(id).padStart(8, "0")}.dwal`

const newDisk = (seed = 1): SimulatedDisk => makeDisk({ seed, directories: [directory] })

const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1")

type Writing = (kv: Kv.Kv["Service"]) => Effect.Effect<unknown, unknown>

/** Opens the store, does something with it, and closes it. */
const inStore = (disk: SimulatedDisk, options: Omit<Kv.Options, "directory">, use: Writing = () => Effect.void) =>
  Effect.orDie(Effect.scoped(Effect.flatMap(Kv.make({ directory, ...options }), use))).pipe(over(disk), quiet)

const inLog = (disk: SimulatedDisk, use: (log: Log.Log["Service"]) => Effect.Effect<unknown, unknown>) =>
  Effect.orDie(Effect.scoped(Effect.flatMap(Log.make({ directory }), use))).pipe(over(disk), quiet)

const entriesOf = (kv: Kv.KvRead) =>
  Effect.map(
    Stream.runCollect(kv.entries({ ordered: true })),
    (entries) => entries.map(({ key, value }) => [latin1(key), latin1(value)] as const)
  )

/** All that can be seen of a store: what is in it, what opening found, and where the next record goes; or the error. */
const shown = (disk: SimulatedDisk, options: Omit<Kv.Options, "directory">) =>
  Effect.scoped(Effect.gen(function*() {
    const kv = yield* Kv.make({ directory, ...options })
    const entries = yield* entriesOf(kv)
    const statistics = yield* kv.statistics
    return { entries, statistics, report: kv.report, size: yield* kv.size, next: yield* kv.put("next", "record") }
  })).pipe(
    Effect.catch((error) => Effect.succeed({ error: fieldsOf(error) })),
    over(disk),
    quiet
  )

/** What other programs see: everything but the checkpoint and the lock. */
const visible = (disk: SimulatedDisk): ReadonlyMap<string, string> =>
  new Map(
    Array.from(disk.files)
      .filter(([name, bytes]) => bytes !== undefined && !name.includes(checkpointName) && !name.endsWith(".lock"))
      .map(([name, bytes]) => [name, latin1(bytes ?? new Uint8Array(0))])
  )

/** Opens it with its checkpoint and without, each on a disk of its own, and compares; returns what was shown. */
const compare = Effect.fnUntraced(function*(
  disk: SimulatedDisk,
  context = "",
  options: Omit<Kv.Options, "directory"> = {}
) {
  const [using, reading] = [disk.fork(), disk.fork()]
  const seen = yield* shown(using, { ...options, checkpoint: "auto" })
  assert.deepStrictEqual(seen, yield* shown(reading, { ...options, checkpoint: "never" }), context)
  assert.deepStrictEqual(visible(using), visible(reading), context)
  return seen
})

const hasCheckpoint = (disk: SimulatedDisk): boolean => disk.files.has(path)

/** What opening always reads: new records are never put behind damage. */
const activeBytes = (disk: SimulatedDisk): number => bytesOf(disk, segment(last(disk))).length

/** Bytes of segments that opening a fork of the disk reads: where the checkpoint counts, the active one and no more. */
const bytesRead = Effect.fnUntraced(function*(disk: SimulatedDisk, checkpoint: Kv.CheckpointPolicy = "always") {
  const fork = disk.fork()
  const isRead = ({ kind, path }: Operation) => kind === "read" && path.endsWith(".dwal")
  let bytes = 0
  yield* inStore(fork, { checkpoint }, () =>
    Effect.sync(() => {
      // After an unclean end, what may not be durable is then written again.
      const again = fork.operations.findIndex(({ detail }) => detail === "update")
      const reading = fork.operations.slice(0, again < 0 ? undefined : again)
      for (const operation of reading.filter(isRead)) bytes += Number(operation.outcome)
    }))
  return bytes
})

/** Whether the checkpoint counts for the segments that are there. */
const isUsable = (disk: SimulatedDisk) => Effect.map(load(disk.service, directory), (found) => found !== undefined)

const put = (key: string, value: string): Writing => (kv) => kv.put(key, value)
const putMany = (count: number, size: number, first = 0): Writing => (kv) =>
  kv.putMany(Array.from({ length: count }, (_, n) => [`key ${first + n}`, `${n}`.padEnd(size, "v")] as const))

/** 60,000 records are more than 20 ms of reading, and few keys are quick to save. */
const worthIt: Writing = (kv) => kv.putMany(Array.from({ length: 60_000 }, (_, n) => [`${n % 50}`, ""] as const))

/** A store with a checkpoint: some keys over several segments, the last of which has room. */
const saved = Effect.fnUntraced(function*(segmentSize = 1_000) {
  const disk = newDisk()
  yield* inStore(disk, { checkpoint: "always", segmentSize }, (kv) =>
    Effect.gen(function*() {
      for (let n = 0; n < 20; n++) yield* kv.put(`key ${n % 7}`, `${n}`.padEnd(150, "v"))
      yield* kv.delete("key 3")
    }))
  assert.isTrue(hasCheckpoint(disk))
  return disk
})

// -- histories --------------------------------------------------------------------------------------------------------

type Step =
  | { readonly do: "put" | "delete"; readonly key: string; readonly size: number }
  | { readonly do: "putMany"; readonly count: number; readonly size: number }
  | { readonly do: "close" | "kill" | "log"; readonly pick: number }

const steps: Arbitrary.Arbitrary<ReadonlyArray<Step>> = Arbitrary.array(
  Arbitrary.map(
    Arbitrary.all([between(0, 19), between(0, 12), between(0, 300)]),
    ([n, key, size]): Step =>
      n < 9
        ? { do: "put", key: `k${key}`.repeat(1 + key % 3), size }
        : n < 13
        ? { do: "delete", key: `k${key}`, size }
        : n < 15
        ? { do: "putMany", count: key, size }
        : { do: n < 17 ? "close" : n < 18 ? "kill" : "log", pick: size }
  ),
  { maxLength: 60 }
)

/** Does the steps on one disk, opening the store with the policies in turn, and shows it each time it was closed. */
const live = Effect.fnUntraced(function*(
  steps: ReadonlyArray<Step>,
  segmentSize: number,
  policies: ReadonlyArray<Kv.CheckpointPolicy>
) {
  let disk = newDisk()
  const model = new Map<string, string>()
  const views: Array<unknown> = []
  let turn = 0
  let at = 0
  while (at < steps.length) {
    const checkpoint = policies[turn++ % policies.length] ?? "auto"
    let left: SimulatedDisk | undefined
    yield* inStore(disk, { checkpoint, segmentSize }, (kv) =>
      Effect.gen(function*() {
        for (; at < steps.length; at++) {
          const step = steps[at]
          if (step === undefined) return
          if (step.do === "put") {
            const value = `${at}`.padEnd(step.size, "v")
            yield* kv.put(step.key, value)
            model.set(step.key, value)
          } else if (step.do === "delete") {
            yield* kv.delete(step.key)
            model.delete(step.key)
          } else if (step.do === "putMany") {
            const entries = Array.from({ length: step.count }, (_, n) => [`k${n}`, `${at}`.padEnd(step.size)] as const)
            yield* kv.putMany(entries)
            for (const [key, value] of entries) model.set(key, value)
          } else {
            if (step.do === "kill") left = disk.fork()
            return
          }
        }
      }))
    disk = left ?? disk
    const last = steps[at++]
    if (last?.do === "log") {
      yield* inLog(disk, (log) =>
        Effect.gen(function*() {
          yield* log.append("raw".padEnd(last.pick))
          if (last.pick % 2 === 0) yield* log.rotate
          yield* log.appendRecord({ type: "Put", key: "logged", payload: String(last.pick) })
        }))
      model.set("logged", String(last.pick))
    }
    const view = yield* shown(disk.fork(), { checkpoint })
    assert.deepStrictEqual("entries" in view ? new Map(view.entries) : view.error, model)
    views.push(view)
  }
  return views
})

describe("a checkpoint", () => {
  it.effect.prop(
    "makes no difference to what is seen of a store, whatever its history",
    { steps, segmentSize: between(100, 3_000) },
    ({ segmentSize, steps }) =>
      Effect.gen(function*() {
        const never = yield* live(steps, segmentSize, ["never"])
        assert.deepStrictEqual(yield* live(steps, segmentSize, ["always"]), never)
        assert.deepStrictEqual(yield* live(steps, segmentSize, ["always", "auto", "never", "auto"]), never)
      }),
    { arbitrary: { runs: 20 } }
  )

  it.live("is used: opening reads nothing of the closed segments it covers", () =>
    Effect.gen(function*() {
      const disk = yield* saved()
      assert.isAbove(yield* bytesRead(disk, "never"), 3_000)
      assert.isBelow(activeBytes(disk), 1_000)
      assert.strictEqual(yield* bytesRead(disk), activeBytes(disk))
      assert.strictEqual(yield* bytesRead(disk, "auto"), activeBytes(disk))
    }))

  it.live("written at a rotation is used after a crash: opening reads the last segment only", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      let crashed: SimulatedDisk | undefined
      yield* inStore(disk, { checkpoint: "always", segmentSize: 1_000 }, (kv) =>
        Effect.gen(function*() {
          for (let n = 0; n < 20; n++) yield* kv.put(`key ${n}`, "v".repeat(150))
          assert.isAbove(last(disk), 3)
          while ((yield* bytesRead(disk)) !== bytesOf(disk, segment(last(disk))).length) yield* Effect.sleep(1)
          crashed = disk.fork()
        }))
      const crash = crashed ?? assert.fail("it did not run")
      yield* compare(crash)
      for (const mode of ["ordered", "adversarial"] as const) {
        for (const [at, survivor] of crash.survivors(6, { mode }).entries()) {
          assert.isTrue(yield* isUsable(survivor))
          yield* compare(survivor, `${mode} power loss ${at}`)
        }
      }
    }))

  it.live("is frozen at the end of a segment, also when one batch fills several", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      const images: Array<SimulatedDisk> = []
      yield* inStore(disk, { checkpoint: "always", segmentSize: 400 }, (kv) =>
        Effect.gen(function*() {
          yield* putMany(40, 90)(kv)
          for (let first = 0; first < 60; first += 20) {
            for (let turn = 0; turn < 4; turn++) {
              images.push(disk.fork())
              yield* Effect.sleep(0)
            }
            yield* putMany(40, 90, first)(kv)
          }
          while (!(yield* isUsable(disk))) yield* Effect.sleep(1)
          images.push(disk.fork())
        }))
      for (const [at, image] of images.entries()) yield* compare(image, `image ${at}`)
    }))

  it.live("auto writes none for a small store, and uses the one that is there", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* inStore(disk, { segmentSize: 1_000 }, putMany(100, 100))
      assert.isFalse(hasCheckpoint(disk))
      const with1 = yield* saved()
      yield* inStore(with1, {}, put("more", "to read"))
      assert.strictEqual(yield* bytesRead(with1, "auto"), yield* bytesRead(with1, "always"))
      yield* compare(with1)
    }))

  it.live("auto writes one for many records, at a rotation or at the close", () =>
    Effect.gen(function*() {
      const closed = newDisk()
      yield* inStore(closed, {}, worthIt)
      assert.strictEqual(yield* bytesRead(closed, "auto"), activeBytes(closed))
      const rotated = newDisk()
      let crashed = rotated
      yield* inStore(rotated, { segmentSize: 1_500_000 }, (kv) =>
        Effect.gen(function*() {
          yield* worthIt(kv)
          assert.isTrue(rotated.files.has(segment(2)))
          while (!(yield* isUsable(rotated))) yield* Effect.sleep(1)
          crashed = rotated.fork()
        }))
      assert.isTrue(yield* isUsable(crashed))
      const before = crashed.files.get(path)
      yield* inStore(crashed, {}, put("one", "more"))
      assert.deepStrictEqual(crashed.files.get(path), before)
      yield* compare(crashed)
    }))

  it.live("whose writing was cut short by the close is written by the close", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const disk = new FaultyDisk()
      const held = disk.holdNext("create", { path: checkpointName })
      yield* overFaulty(disk)(Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: root, segmentSize: 1_500_000 })
        yield* worthIt(kv)
        yield* held.reached
        yield* Effect.forkDetach(Effect.delay(held.release, 20))
      })))
      assert.strictEqual(disk.count("rename", checkpointName), 1)
      assert.isDefined(yield* load(nodeDisk, root))
    }))

  it.live("is not of an empty store, nor written again while nothing is new", () =>
    Effect.gen(function*() {
      const empty = newDisk()
      yield* inStore(empty, { checkpoint: "always" })
      assert.isFalse(hasCheckpoint(empty))
      yield* compare(empty)
      const disk = yield* saved()
      const renames = () => disk.operations.filter(({ kind }) => kind === "rename").length
      const before = renames()
      yield* inStore(disk, { checkpoint: "always" })
      assert.strictEqual(renames(), before)
    }))

  it.live("of a log without keys, or with gaps between its segments, or with many of them, is one like any other", () =>
    Effect.gen(function*() {
      const raw = newDisk()
      yield* inLog(raw, (log) => Effect.andThen(log.append("a"), Effect.andThen(log.rotate, log.append("b"))))
      yield* inStore(raw, { checkpoint: "always" })
      assert.strictEqual(yield* bytesRead(raw), activeBytes(raw))
      yield* compare(raw)
      const gaps = newDisk()
      yield* write(gaps, segment(7), new Uint8Array(0))
      yield* inStore(gaps, { checkpoint: "always" }, put("a", "1"))
      yield* write(gaps, segment(99_999_998), new Uint8Array(0))
      yield* inStore(gaps, { checkpoint: "always", segmentSize: 40 }, putMany(1, 100))
      assert.strictEqual(yield* bytesRead(gaps), activeBytes(gaps))
      yield* compare(gaps)
      const many = newDisk()
      yield* inStore(many, { checkpoint: "never", segmentSize: 1 }, putMany(600, 1))
      yield* inStore(many, { checkpoint: "always" })
      assert.strictEqual(yield* bytesRead(many), activeBytes(many))
      yield* compare(many)
    }))

  it.live("is neither used nor missed under the policies that look at everything", () =>
    Effect.gen(function*() {
      const disk = yield* saved()
      for (const policy of ["strict", "prefix"] as const) {
        const fork = disk.fork()
        yield* inStore(fork, { checkpoint: "always", policy }, () =>
          Effect.sync(() => {
            assert.isFalse(fork.operations.some(({ kind, path: at }) => kind === "open" && at === path))
          }))
        yield* compare(disk, policy, { policy })
      }
    }))

  it.live("of a policy that does not exist is refused", () =>
    Effect.gen(function*() {
      const options = JSON.parse(`{"directory":"/s","checkpoint":"sometimes"}`) as Kv.Options
      const error = yield* Effect.flip(Effect.scoped(Kv.make(options))).pipe(over(newDisk()))
      assert.deepInclude(error, {
        _tag: "InvalidOptions",
        detail: "checkpoint is auto, always or never, not sometimes"
      })
    }))
})

// -- changes behind its back ------------------------------------------------------------------------------------------

/** Puts bytes in the place of a file. */
const write = (disk: SimulatedDisk, at: string, bytes: Uint8Array) =>
  Effect.orDie(Effect.gen(function*() {
    if (disk.files.has(at)) yield* disk.service.remove(at)
    const file = yield* disk.service.open(at, "create")
    yield* file.append(bytes, 0, bytes.length)
    yield* file.close
  }))

/** Writes over a file, from a place on. */
const overwrite = (disk: SimulatedDisk, at: string, bytes: Uint8Array, position: number) =>
  Effect.orDie(Effect.gen(function*() {
    const file = yield* disk.service.open(at, "update")
    yield* file.overwrite(bytes, 0, bytes.length, position)
    yield* file.close
  }))

const truncate = (disk: SimulatedDisk, at: string, size: number) =>
  Effect.orDie(Effect.gen(function*() {
    const file = yield* disk.service.open(at, "append")
    yield* file.truncate(size)
    yield* file.close
  }))

const move = (disk: SimulatedDisk, from: string, to: string) => Effect.orDie(disk.service.rename(from, to))
const remove = (disk: SimulatedDisk, at: string) => Effect.orDie(disk.service.remove(at))

const bytesOf = (disk: SimulatedDisk, at: string): Uint8Array => disk.files.get(at) ?? new Uint8Array(0)

/** Frames of the very lengths of those that are there, with other values, but for the last one. */
const otherValues = (bytes: Uint8Array): Uint8Array => {
  const frames: Array<Uint8Array> = []
  for (let at = 0; at < bytes.length;) {
    const view = Buffer.from(bytes.buffer, bytes.byteOffset + at)
    const [keyLength, valueLength] = [view.readUInt32LE(16), view.readUInt32LE(20)]
    const length = 28 + keyLength + valueLength
    const key = view.toString("latin1", 24, 24 + keyLength)
    frames.push(
      at + length < bytes.length
        ? putFrame(Number(view.readBigUInt64LE(8)), key, "o".repeat(valueLength))
        : bytes.subarray(at, at + length)
    )
    at += length
  }
  return Buffer.concat(frames)
}

const last = (disk: SimulatedDisk): number =>
  Math.max(...Array.from(disk.files.keys(), (name) => Number.parseInt(name.slice(3), 10) || 0))

/** Writes behind the last segment. */
const append = (disk: SimulatedDisk, bytes: Uint8Array) =>
  overwrite(disk, segment(last(disk)), bytes, bytesOf(disk, segment(last(disk))).length)

const changes: ReadonlyArray<readonly [string, (disk: SimulatedDisk) => Effect.Effect<unknown>]> = [
  ["nothing", () => Effect.void],
  ["a log has appended", (disk) => inLog(disk, (log) => log.append("raw"))],
  [
    "a log has appended, gone on in the next segment, and appended there",
    (disk) =>
      inLog(disk, (log) =>
        Effect.gen(function*() {
          yield* log.appendRecord({ type: "Put", key: "key 1", payload: "new" })
          yield* log.rotate
          yield* log.rotate
          yield* log.appendRecord({ type: "Delete", key: "key 2" })
        }))
  ],
  ["a store without checkpoints has written", (disk) => inStore(disk, { checkpoint: "never" }, putMany(5, 10))],
  ["the last segment was written anew with other values of the same lengths", (disk) =>
    Effect.gen(function*() {
      const at = segment(last(disk))
      const bytes = otherValues(bytesOf(disk, at))
      yield* truncate(disk, at, 0)
      yield* overwrite(disk, at, bytes, 0)
    })],
  ["the same, and it has grown", (disk) =>
    Effect.gen(function*() {
      const at = segment(last(disk))
      yield* overwrite(disk, at, otherValues(bytesOf(disk, at)), 0)
      yield* inLog(disk, (log) => log.append("raw"))
    })],
  [
    "a closed segment was overwritten with other values",
    (disk) => overwrite(disk, segment(2), otherValues(bytesOf(disk, segment(2))), 0)
  ],
  ["the last segment was cut between two records, and has grown again", (disk) =>
    Effect.gen(function*() {
      const at = segment(last(disk))
      const size = bytesOf(disk, at).length
      yield* truncate(disk, at, 0)
      yield* inLog(disk, (log) => log.append("x".repeat(size)))
    })],
  ["the last segment is shorter", (disk) => truncate(disk, segment(last(disk)), 0)],
  [
    "the last segment was replaced by a copy",
    (disk) => write(disk, segment(last(disk)), bytesOf(disk, segment(last(disk))))
  ],
  ["a closed segment was replaced by a copy", (disk) => write(disk, segment(1), bytesOf(disk, segment(1)))],
  ["two segments were swapped", (disk) =>
    Effect.gen(function*() {
      yield* move(disk, segment(1), "/s/x")
      yield* move(disk, segment(2), segment(1))
      yield* move(disk, "/s/x", segment(2))
    })],
  ["the last segment is gone", (disk) => remove(disk, segment(last(disk)))],
  ["the first segment is gone", (disk) => remove(disk, segment(1))],
  ["a segment in the middle is gone", (disk) => remove(disk, segment(2))],
  ["all segments are gone", (disk) =>
    Effect.gen(function*() {
      for (let id = last(disk); id > 0; id--) yield* remove(disk, segment(id))
    })],
  ["all segments have become one", (disk) =>
    Effect.gen(function*() {
      const all: Array<Uint8Array> = []
      for (let id = 1, to = last(disk); id <= to; id++) {
        all.push(bytesOf(disk, segment(id)))
        yield* remove(disk, segment(id))
      }
      yield* write(disk, segment(1), Buffer.concat(all))
    })],
  ["a segment has come behind the last", (disk) => write(disk, segment(50), putFrame(900, "key 1", "later"))],
  ["the last segment has another number", (disk) => move(disk, segment(last(disk)), segment(60))],
  ["a torn tail stands behind it", (disk) => append(disk, putFrame(22, "k", "torn").subarray(0, 30))],
  ["zeros stand behind it", (disk) => append(disk, new Uint8Array(3_000))],
  [
    "damage with a record behind it stands behind it",
    (disk) => append(disk, Buffer.concat([putFrame(22, "k", "damaged").fill(1, 26, 28), putFrame(23, "k", "later")]))
  ],
  ["garbage stands behind it", (disk) => append(disk, Buffer.alloc(600, "garbage"))],
  [
    "a torn tail, and then an empty segment",
    (disk) => Effect.andThen(append(disk, Buffer.from("DWAL")), write(disk, segment(70), new Uint8Array(0)))
  ],
  [
    "its last record lost its end",
    (disk) => truncate(disk, segment(last(disk)), bytesOf(disk, segment(last(disk))).length - 1)
  ],
  ["a byte of a closed segment was changed", (disk) => overwrite(disk, segment(2), Buffer.from("X"), 200)],
  ["a byte of the last segment was changed", (disk) => overwrite(disk, segment(last(disk)), Buffer.from("X"), 100)],
  ["an unfinished checkpoint was left", (disk) => write(disk, `${path}.new`, bytesOf(disk, path).subarray(0, 5_000))],
  ["an unfinished checkpoint without bytes was left", (disk) => write(disk, `${path}.new`, new Uint8Array(4_096))],
  ["the checkpoint is gone", (disk) => remove(disk, path)],
  ["the checkpoint is empty", (disk) => truncate(disk, path, 0)]
]

describe("a store whose files were changed behind its checkpoint shows what its log shows", () => {
  for (const [name, change] of changes) {
    it.live(name, () =>
      Effect.gen(function*() {
        const disk = yield* saved()
        const old = bytesOf(disk, path)
        yield* change(disk)
        const seen = yield* compare(disk, "once")
        if ("error" in seen) return
        yield* inStore(disk, { checkpoint: "always" }, put("again", "and again"))
        yield* compare(disk, "twice")
        const isEmpty = name === "the checkpoint is empty"
        assert.strictEqual(disk.files.has(`${path}.new`), false)
        assert.strictEqual(yield* isUsable(disk), !isEmpty)
        // An older one, of other moments, in the place of the new one.
        yield* write(disk, path, old)
        yield* compare(disk, "with the old checkpoint")
      }))
  }

  it.live("another store's checkpoint", () =>
    Effect.gen(function*() {
      const [disk, other] = [yield* saved(), newDisk()]
      yield* inStore(other, { checkpoint: "always" }, putMany(30, 20))
      yield* write(disk, path, bytesOf(other, path))
      yield* compare(disk)
      // The same store once more, with other values of the same lengths.
      const twin = newDisk()
      yield* inStore(twin, { checkpoint: "always" }, (kv) => Effect.andThen(kv.put("a", "1"), kv.put("b", "2")))
      const disk2 = newDisk()
      // So that its segment is another file than the other disk's.
      yield* write(disk2, "/s/other", new Uint8Array(0))
      yield* inStore(disk2, { checkpoint: "always" }, (kv) => Effect.andThen(kv.put("b", "1"), kv.put("a", "2")))
      yield* write(disk2, path, bytesOf(twin, path))
      const seen = yield* compare(disk2)
      assert.deepStrictEqual("entries" in seen ? seen.entries : seen.error, [["a", "2"], ["b", "1"]])
    }))

  it.live("damage in the active segment is found at once, though it changed no file's identity", () =>
    Effect.gen(function*() {
      const disk = yield* saved()
      const active = segment(last(disk))
      const { identity } = disk.service
      const known = yield* identity(active)
      yield* overwrite(disk, active, Buffer.from("X"), 30)
      const rotten = { ...disk.service, identity: (at: string) => at === active ? Effect.succeed(known) : identity(at) }
      const opened = (checkpoint: Kv.CheckpointPolicy) =>
        Effect.flip(Effect.scoped(Kv.make({ directory, checkpoint }))).pipe(
          Effect.provideService(Disk.Disk, rotten),
          quiet
        )
      const found = yield* opened("never")
      assert.include(["CorruptTail", "CorruptSegment"], found._tag)
      assert.deepStrictEqual(yield* opened("always"), found)
    }))

  it.live("damage that changed no file's identity is found by whoever looks", () =>
    Effect.gen(function*() {
      const disk = yield* saved()
      const identities = new Map<string, string>()
      for (const at of disk.files.keys()) identities.set(at, yield* disk.service.identity(at))
      // The value of a key in a closed segment.
      const places: Array<Place & { readonly key: string }> = []
      yield* inStore(disk.fork(), {}, (kv) =>
        Effect.forEach(["key 0", "key 1", "key 2", "key 4"], (key) =>
          Effect.map(kv.refOf(key), (place) => {
            if (place !== undefined && place.segment < last(disk)) {
              places.push({ ...place, key })
            }
          })))
      const place = places[0] ?? assert.fail("all are in the last segment")
      yield* overwrite(disk, segment(place.segment), Buffer.from("X"), place.offset + 100)
      const rotten: Disk.DiskService = {
        ...disk.service,
        identity: (at) =>
          Effect.map(disk.service.identity(at), (now) =>
            identities.get(at) ?? now)
      }
      const opened = <A, E>(
        options: Omit<Kv.Options, "directory">,
        use: (kv: Kv.Kv["Service"]) => Effect.Effect<A, E>
      ) =>
        Effect.scoped(Effect.flatMap(Kv.make({ directory, ...options }), use)).pipe(
          Effect.provideService(Disk.Disk, rotten),
          quiet
        )
      const { offset, segment: id } = place
      const found = { _tag: "CorruptSegment", segment: id, offset, reason: "CrcMismatch" } as const
      const keys = yield* opened({ checkpoint: "always" }, (kv) =>
        Effect.gen(function*() {
          const failed: Array<string> = []
          for (const key of yield* Stream.runCollect(kv.keys())) {
            const exit = yield* Effect.result(kv.get(key))
            if (exit._tag === "Success") {
              continue
            }
            assert.deepInclude(exit.failure, found)
            failed.push(latin1(key))
          }
          return failed
        }))
      assert.deepStrictEqual(keys, [place.key])
      for (const policy of ["strict", "prefix"] as const) {
        assert.deepInclude(
          yield* Effect.flip(opened({ checkpoint: "always", policy }, () =>
            Effect.void)),
          found
        )
      }
      assert.deepInclude(yield* Effect.flip(opened({ checkpoint: "never" }, () => Effect.void)), found)
      const reader = Effect.scoped(Kv.makeReader({ directory })).pipe(Effect.provideService(Disk.Disk, rotten))
      assert.deepInclude(yield* Effect.flip(reader), found)
      // And nothing is cut on the word of a checkpoint: a torn tail sends the reader to the first record.
      yield* append(disk, Buffer.from("DWAL"))
      const before = visible(disk)
      assert.deepInclude(yield* Effect.flip(opened({ checkpoint: "always" }, () => Effect.void)), found)
      assert.deepStrictEqual(visible(disk), before)
    }))
})

describe("a log whose reader has a saved index", () => {
  /** The txids that are replayed when the index covers that, and whether it was forgotten. */
  const replayed = (disk: SimulatedDisk, covered: Covered | undefined, policy: Log.Policy = "repair") => {
    const txids: Array<number> = []
    let forgotten = false
    const resume: Resume = {
      from: () => Effect.succeed(covered),
      forget: () => {
        forgotten = true
        txids.length = 0
      }
    }
    const replay = (frames: Frames): void => {
      txids.push(...recordsOf(frames).map(({ txid }) => txid))
    }
    return Effect.scoped(Effect.map(
      openLog({ directory, policy }, { fold: replay, resume }),
      ({ log: { report } }) => ({ txids, forgotten, report })
    )).pipe(over(disk.fork()), quiet)
  }

  it.live("is given what comes after it, or everything when that does not fit", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* inLog(disk, (log) =>
        Effect.gen(function*() {
          yield* log.append("one")
          yield* log.append("two")
          yield* log.rotate
          yield* log.append("three")
          yield* log.append("four")
        }))
      const [first, second] = [31 + 31, 33]
      const covering = (bytes: number, segments = [{ id: 1, bytes: first }]): Covered => ({
        segments: [...segments, { id: 2, bytes }],
        records: 2 + bytes / second,
        txid: 2 + bytes / second
      })
      const { report } = yield* replayed(disk, undefined)
      const all = { txids: [1, 2, 3, 4], report }
      assert.deepStrictEqual(yield* replayed(disk, undefined), { ...all, forgotten: false })
      assert.deepStrictEqual(yield* replayed(disk, covering(0)), { txids: [3, 4], forgotten: false, report })
      assert.deepStrictEqual(yield* replayed(disk, covering(second)), { txids: [4], forgotten: false, report })
      const misfits = [
        { ...covering(second), segments: [] },
        covering(second - 1),
        covering(1_000),
        covering(second, []),
        covering(second, [{ id: 1, bytes: first }, { id: 3, bytes: 0 }])
      ]
      for (const covered of misfits) assert.deepStrictEqual(yield* replayed(disk, covered), { ...all, forgotten: true })
      for (const policy of ["strict", "prefix"] as const) {
        assert.deepStrictEqual(yield* replayed(disk, covering(second), policy), { ...all, forgotten: false })
      }
    }))
})

// -- the file's bytes -------------------------------------------------------------------------------------------------

/** The disk, but for the checkpoint's bytes, which may be others at each call. */
const withBytes = (disk: SimulatedDisk, bytes: () => Uint8Array): Disk.DiskService => ({
  ...disk.service,
  open: (at, mode) =>
    at !== path || mode !== "read" ? disk.service.open(at, mode) : Effect.map(disk.service.open(at, mode), (file) => {
      const read = (into: Uint8Array, start: number, end: number, position: number): number => {
        const part = bytes().subarray(position, position + end - start)
        into.set(part, start)
        return part.length
      }
      return {
        ...file,
        size: Effect.sync(() => bytes().length),
        readNow: read,
        read: (into, start, end, position) => Effect.sync(() => read(into, start, end, position))
      }
    })
})

/** With the checksum that its bytes ask for. */
const repaired = (bytes: Uint8Array): Uint8Array => {
  const end = bytes.length - 4
  const copy = Buffer.from(bytes)
  if (end >= 0) copy.writeUInt32LE(crc32(copy.subarray(0, end)), end)
  return copy
}

/** The header's text and all that stands behind it. */
const parts = (bytes: Uint8Array): { readonly header: string; readonly rest: Buffer } => {
  const file = Buffer.from(bytes)
  const end = 12 + file.readUInt32LE(8)
  return { header: file.toString("utf8", 12, end), rest: file.subarray(end) }
}

const assembled = (header: string, rest: Buffer, headerBytes?: number): Uint8Array => {
  const text = Buffer.from(header + " ".repeat(-Buffer.byteLength(header) & 3))
  const start = Buffer.from("DWKD\u0002\0\0\0____", "latin1")
  start.writeUInt32LE(headerBytes ?? text.length, 8)
  return repaired(Buffer.concat([start, text, rest]))
}

/** Uses all of an index, whatever it says: each answer is a value or a typed error, and it comes. */
const exercise = (service: Disk.DiskService) =>
  Effect.exit(Effect.scoped(Effect.gen(function*() {
    const kv = yield* Kv.make({ directory, checkpoint: "always", segmentSize: 100_000 })
    yield* Effect.result(Stream.runDrain(kv.entries({ ordered: true })))
    yield* Effect.result(Stream.runDrain(kv.entries({ prefix: "key" })))
    for (let round = 0; round < 2; round++) {
      for (let n = 0; n < 20; n++) {
        const key = `key ${n}`.padEnd(n % 4 === 0 ? 3_000 : 0, ".")
        yield* Effect.result(kv.get(key))
        yield* kv.put(key, "value")
        if (n % 3 !== 0) yield* kv.delete(key)
        yield* kv.delete(`old ${n}`.padEnd(3_000, "."))
      }
      yield* Stream.runDrain(kv.keys({ ordered: true }))
      yield* kv.statistics
    }
  }))).pipe(Effect.provideService(Disk.Disk, service), quiet)

const assertNoDefect = (exit: Exit.Exit<unknown, unknown>, context: string): void => {
  if (Exit.isFailure(exit) && exit.cause.reasons.some(({ _tag }) => _tag === "Die")) {
    assert.fail(`${context}: ${String(exit.cause)}`)
  }
}

/** Many long keys, half of them dead: enough that slabs are moved when a few more die. */
const savedLarge = Effect.fnUntraced(function*() {
  const disk = newDisk()
  yield* inStore(disk, { checkpoint: "always" }, (kv) =>
    Effect.gen(function*() {
      for (let n = 0; n < 80; n++) yield* kv.put(`old ${n}`.padEnd(3_000, "."), "v")
      yield* putMany(20, 10)(kv)
      for (let n = 40; n < 76; n++) yield* kv.delete(`old ${n}`.padEnd(3_000, "."))
    }))
  return disk
})

describe("a checkpoint that is not what was written", () => {
  it.live("is not used when any byte of it is another", () =>
    Effect.gen(function*() {
      const disk = yield* saved()
      const bytes = Buffer.from(bytesOf(disk, path))
      const service = withBytes(disk, () => bytes)
      assert.isDefined(yield* load(service, directory))
      const sizes = bytes.length - parts(bytes).rest.length
      for (let at = 0; at < bytes.length; at += at > sizes && at < sizes + 8_192 ? step : 1) {
        const mask = [0xFF, 1 << at % 8][at % 2] ?? 1
        bytes[at] = (bytes[at] ?? 0) ^ mask
        assert.isUndefined(yield* load(service, directory), `byte ${at}`)
        bytes[at] = (bytes[at] ?? 0) ^ mask
      }
      assert.isDefined(yield* load(service, directory))
    }).pipe(quiet))

  it.live("is not used when it is cut at any length, or longer than it was", () =>
    Effect.gen(function*() {
      const disk = yield* saved()
      const whole = bytesOf(disk, path)
      let bytes = whole
      const service = withBytes(disk, () => bytes)
      const sizes = whole.length - parts(whole).rest.length
      for (let length = 0; length < whole.length; length += length > sizes && length < sizes + 8_192 ? step : 1) {
        bytes = whole.subarray(0, length)
        assert.isUndefined(yield* load(service, directory), `${length} bytes`)
      }
      for (const more of [1, 2, 3, 4, 5, 512, 100_000]) {
        for (const fill of [0, 0xFF]) {
          bytes = Buffer.concat([whole, Buffer.alloc(more, fill)])
          assert.isUndefined(yield* load(service, directory), `${more} more`)
          bytes = repaired(bytes)
          assert.isUndefined(yield* load(service, directory), `${more} more, with a right checksum`)
        }
      }
    }).pipe(quiet))

  it.live("makes no difference to what is seen, wherever it is damaged or cut", () =>
    Effect.gen(function*() {
      const disk = yield* saved()
      const whole = bytesOf(disk, path)
      for (let at = 0; at < whole.length; at += 601) {
        const damaged = Buffer.from(whole)
        damaged[at] = 255 - (damaged[at] ?? 0)
        yield* write(disk, path, damaged)
        yield* compare(disk, `byte ${at}`)
        yield* write(disk, path, whole.subarray(0, at))
        yield* compare(disk, `${at} bytes`)
      }
    }))

  const largest = 0xFFFF_FFFF
  const wrong: ReadonlyArray<readonly [field: string, values: ReadonlyArray<unknown>]> = [
    ["segments", [null, {}, "", 1, [null], [[]], [{}], [{ id: "1", bytes: 1, identity: "" }], [{ id: 1, bytes: -1 }]]],
    ["crc", [null, -1, 0.5, "1", 1e300, [], true]],
    ["records", [null, -1, 0.5, 2 ** 53, "1"]],
    ["txid", [null, -1, 0.5, 2 ** 53, "1"]],
    ["live_bytes", [null, -1, 0.5, 2 ** 53, "1"]],
    ["seed", [null, [], [1], [1, 2, 3], [0.5, 1], ["1", "2"], 1]],
    ["open_slab", [null, -1, 0.5, 1_000, largest, "1"]],
    ["slabs", [null, -1, 0, 0.5, 1, 1_000, largest, 2 ** 52, "1"]]
  ]

  it.live("is not used when its header says what it may not, whatever its checksum says", () =>
    Effect.gen(function*() {
      const disk = yield* saved()
      const { header, rest } = parts(bytesOf(disk, path))
      let bytes = assembled(header, rest)
      const service = withBytes(disk, () => bytes)
      assert.isDefined(yield* load(service, directory))
      bytes = assembled(JSON.stringify({ ...JSON.parse(header), more: [1] }, undefined, 2), rest)
      assert.isDefined(yield* load(service, directory), "written otherwise")
      const refused: Array<readonly [string, Uint8Array]> = [
        ["no JSON", assembled("{", rest)],
        ["nothing", assembled("", rest)],
        ["null", assembled("null", rest)],
        ["an array", assembled(`[${header}]`, rest)],
        ["deep", assembled(`${"[".repeat(100_000)}${"]".repeat(100_000)}`, rest)],
        ["deep inside", assembled(header.replace("{", `{"more":${"[".repeat(100_000)},`), rest)],
        ["no UTF-8", assembled(Buffer.alloc(400, 0xFF).toString("latin1"), rest)],
        ["a length of 0", assembled(header, rest, 0)],
        ["a length that is no whole word", assembled(header, rest, 5)],
        ["the largest length", assembled(header, rest, largest)],
        ["the largest length that is allowed", assembled(header, rest, 2 ** 24)],
        ["a length of one word more", assembled(header, rest, Buffer.byteLength(header) + 4)],
        ["version 1", repaired(Buffer.from(bytes).fill(1, 4, 5))],
        ["version 3", repaired(Buffer.from(bytes).fill(3, 4, 5))],
        ["the other byte order", repaired(Buffer.from(bytes).swap32())]
      ]
      for (const [field, values] of wrong) {
        const { [field]: _, ...others } = JSON.parse(header) as Record<string, unknown>
        refused.push([`no ${field}`, assembled(JSON.stringify(others), rest)])
        for (const value of values) {
          const text = JSON.stringify({ ...others, [field]: value })
          refused.push([`${field} ${JSON.stringify(value)}`, assembled(text, rest)])
        }
      }
      for (const [what, is] of refused) {
        bytes = is
        assert.isUndefined(yield* load(service, directory), what)
      }
    }).pipe(quiet))

  it.live("allocates nothing for a length that it does not have", () =>
    Effect.gen(function*() {
      const disk = yield* saved()
      const { header, rest } = parts(bytesOf(disk, path))
      const { slabs } = JSON.parse(header) as { readonly slabs: number }
      let bytes = new Uint8Array(0)
      const service = withBytes(disk, () => bytes)
      const before = process.memoryUsage().arrayBuffers
      // The words of the slabs' sizes, and of the first stripes'.
      for (let word = 0; word < 3 * slabs + 8; word++) {
        for (const value of [largest, 2 ** 31, 2 ** 30, 2 ** 24, 2 ** 20]) {
          const changed = Buffer.from(rest)
          changed.writeUInt32LE(value, 4 * word)
          bytes = Buffer.from(assembled(header, changed))
          assert.isUndefined(yield* load(service, directory), `word ${word} is ${value}`)
        }
      }
      assert.isBelow(process.memoryUsage().arrayBuffers - before, 64 * 2 ** 20)
    }).pipe(quiet))

  it.live("and yet has the right checksum has no slab that is larger than slabs are", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      const keyOf = (n: number) => `key ${n}`.padEnd(64, ".")
      yield* inStore(disk, { checkpoint: "always" }, (kv) =>
        Effect.gen(function*() {
          for (let n = 0; n < 500; n++) yield* kv.put(keyOf(n), "v")
        }))
      const { header, rest } = parts(bytesOf(disk, path))
      const { open_slab } = JSON.parse(header) as { readonly open_slab: number }
      const end = rest.readUInt32LE(12 * open_slab + 4)
      assert.isAbove(end, 8_192)
      const changed = Buffer.from(rest)
      changed.writeUInt32LE(2 * end, 12 * open_slab)
      const hostile = assembled(header, changed)
      const service = withBytes(disk, () => hostile)
      assert.isUndefined(yield* load(service, directory))
      // The entry ids of more keys would be those of other slabs.
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        for (let n = 500; n < 1_500; n++) yield* kv.put(keyOf(n), "v")
        assert.strictEqual(yield* kv.size, 1_500)
      })).pipe(Effect.provideService(Disk.Disk, service))
    }).pipe(quiet))

  it.live("and yet has the right checksum may say what it likes, but nothing hangs or breaks", () =>
    Effect.gen(function*() {
      const disk = yield* savedLarge()
      const whole = bytesOf(disk, path)
      const { header } = parts(whole)
      const start = 3 + Math.ceil(header.length / 4)
      const count = whole.length / 4 - 1
      const pick = seeded(5)
      const used = new Counts()
      for (let round = 0; round < mutations; round++) {
        const bytes = Buffer.from(whole)
        const changed: Array<string> = []
        for (let change = 0; change <= pick(3); change++) {
          // Among the sizes, in a slab where its records' places and lengths are, or in a table.
          const word =
            [start + pick(2_060), start + 2_060 + pick(count - start - 2_060), count - 1 - pick(1_000)][pick(3)] ?? 0
          const is = bytes.readUInt32LE(4 * word)
          const value = [
            0,
            1,
            is + 1,
            is - 1,
            is ^ (1 << pick(32)),
            bytes.readUInt32LE(4 * (start + pick(count - start))),
            2 ** 14 + pick(2 ** 16),
            largest,
            2 ** 31,
            1 << 28
          ][pick(10)] ?? 0
          bytes.writeUInt32LE(value >>> 0, 4 * word)
          changed.push(`word ${word} of ${count} was ${is} and is ${value >>> 0}`)
        }
        const hostile = repaired(bytes)
        const service = withBytes(disk.fork(), () => hostile)
        used.add((yield* load(service, directory)) === undefined ? "refused" : "used")
        assertNoDefect(yield* exercise(service), changed.join())
      }
      assert.isAbove(used.get("used"), 5)
      assert.isAbove(used.get("refused"), 5)
    }).pipe(quiet))
})

/** Changes that make of a sound index one that a look-up could hang or break on. */
const unsound: ReadonlyArray<readonly [string, (keydir: FrozenKeydir) => FrozenKeydir]> = [
  ["a table without an empty slot", (keydir) => {
    const used = keydir.tables.findIndex((table) => table !== noSlots)
    const full = (keydir.tables[used] ?? noSlots).map((_, at, table) => table[firstUsed(table) + at % 2] ?? 0)
    return withTables(keydir, (_, stripe) => stripe === used ? full : noSlots, (stripe) => stripe === used ? 16 : 0)
  }],
  ["a table that counts a key too many, and one that counts too few", (keydir) => {
    const [one, other] = keydir.tables.flatMap((table, stripe) => table === noSlots ? [] : [stripe])
    const off = (stripe: number) => stripe === one ? 1 : stripe === other ? -1 : 0
    return withTables(keydir, (table) => table, (stripe) => (keydir.counts[stripe] ?? 0) + off(stripe))
  }],
  ["a table of a length that is no power of two", (keydir) => withTables(keydir, (table) => grown(table, 48))],
  [
    "a table that is too small",
    (keydir) => withTables(keydir, (table) => table.slice(firstUsed(table), firstUsed(table) + 2))
  ],
  ...([
    ["a slab that is not there", (entry) => entry + 2 ** 20],
    ["the slab that is none", (entry) => entry % 2 ** 14],
    ["a place behind the end of its slab", (entry) => entry - entry % 2 ** 14 + 2 ** 14 - 4],
    ["the end of its slab", (_, keydir) => 2 ** 14 + (keydir.ends[1] ?? 0)],
    ["the last words of its slab", (_, keydir) => 2 ** 14 + (keydir.ends[1] ?? 0) - 3]
  ] as ReadonlyArray<readonly [string, (entry: number, keydir: FrozenKeydir) => number]>).map(([where, place]) =>
    [
      `an entry in ${where}`,
      (keydir: FrozenKeydir) =>
        withTables(keydir, (table) => table.map((word, at) => at % 2 === 0 && word !== 0 ? place(word, keydir) : word))
    ] as const
  ),
  ["slabs that its tables know nothing of", (keydir) => withTables(keydir, () => noSlots, () => 0)],
  ["an open slab that is not there", (keydir) => ({
    ...keydir,
    words: keydir.words.map((words, slab) => words.slice(0, keydir.ends[slab])),
    openSlab: keydir.words.length
  })],
  ["a first slab that is not empty", (keydir) => ({ ...keydir, ...withSlabs(keydir, 1), openSlab: 0 })],
  ["no slab", (keydir) => ({ ...keydir, words: [], ends: [], lives: [], openSlab: 0 })],
  [
    "a slab with more that is live than there is",
    (keydir) => ({ ...keydir, lives: keydir.lives.map((live) => live + 1) })
  ],
  ["a slab with nothing that is live", (keydir) => ({ ...keydir, lives: keydir.lives.map(() => 0) })],
  ["a slab that ends in a record", (keydir) => ({ ...keydir, ends: keydir.ends.map((end) => Math.max(0, end - 1)) })],
  ["a slab that ends behind its words", (keydir) => ({
    ...keydir,
    words: keydir.words.map((words, slab) => words.slice(0, keydir.ends[slab])),
    ends: keydir.ends.map((end) => end === 0 ? 0 : end + 4)
  })],
  ["a record as long as four slabs", (keydir) => ({
    ...keydir,
    words: keydir.words.map((words) =>
      words.map((word, at) => at === 2 ? word | 0xFFFF : at === 3 ? word | 1 << 27 : word)
    )
  })],
  [
    "a slab twice as large as it may be",
    (keydir) => ({ ...keydir, words: keydir.words.map((words) => grown(words, 2 ** 16)) })
  ]
]

const firstUsed = (table: Int32Array): number => table.findIndex((word, at) => at % 2 === 0 && word !== 0)

const grown = <A extends Int32Array | Uint32Array>(array: A, length: number): A => {
  if (array.length === 0) return array
  const larger = array instanceof Int32Array ? new Int32Array(length) : new Uint32Array(length)
  larger.set(array)
  return larger as A
}

const withTables = (
  keydir: FrozenKeydir,
  table: (table: Int32Array, stripe: number) => Int32Array,
  count: (stripe: number) => number = (stripe) => keydir.counts[stripe] ?? 0
): FrozenKeydir => ({
  ...keydir,
  tables: keydir.tables.map((each, stripe) => each === noSlots ? noSlots : table(each.slice(), stripe)),
  counts: keydir.counts.map((_, stripe) => count(stripe))
})

/** Without the first slabs. */
const withSlabs = ({ ends, lives, words }: FrozenKeydir, from: number) => ({
  words: words.slice(from),
  ends: ends.slice(from),
  lives: lives.slice(from)
})

describe("an index that was saved with care to be wrong", () => {
  it.live("is not used when a look-up could run off its arrays, or for ever", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* inStore(disk, { checkpoint: "always" }, putMany(16, 10))
      const found = (yield* load(disk.service, directory)) ?? assert.fail("there is none")
      const saveAs = (keydir: FrozenKeydir) => {
        const fork = disk.fork()
        return Effect.as(save(fork.service, directory, { ...found, keydir }), fork)
      }
      assert.isTrue(yield* isUsable(yield* saveAs(found.keydir)))
      for (const [what, change] of unsound) {
        const fork = yield* saveAs(change(found.keydir))
        assert.isFalse(yield* isUsable(fork), what)
        yield* compare(fork, what)
      }
    }).pipe(quiet))

  it.live("is used when nothing can be told from it, and then nothing hangs or breaks", () =>
    Effect.gen(function*() {
      const disk = yield* savedLarge()
      const found = (yield* load(disk.service, directory)) ?? assert.fail("there is none")
      const { keydir } = found
      const used = keydir.tables.flatMap((table) => firstUsed(table) < 0 ? [] : [table[firstUsed(table)] ?? 0])
      const entries = (entry: (old: number, nth: number) => number) => {
        let nth = 0
        return withTables(keydir, (table) =>
          table.map((word, at) => at % 2 === 0 && word !== 0 ? entry(word, nth++) : word))
      }
      const lies: ReadonlyArray<readonly [string, FrozenKeydir]> = [
        [
          "all keys are one",
          entries(() =>
            used[0] ?? 0
          )
        ],
        ["all keys are others", entries((_, nth) => used[(nth + 7) % used.length] ?? 0)],
        [
          "all keys are in the middle of others",
          entries((old) => old % 2 ** 14 + 9 > (keydir.ends[old >>> 14] ?? 0) ? old : old + 5)
        ],
        [
          "no key has its hash",
          withTables(keydir, (table) => table.map((word, at) => at % 2 === 1 ? word ^ 0x5A5A5A : word))
        ],
        ["another seed", { ...keydir, seed: [1, 2] }],
        ["another open slab", { ...keydir, openSlab: 1 }],
        ["no open slab", { ...keydir, openSlab: 0 }]
      ]
      for (const [what, keydir] of lies) {
        const fork = disk.fork()
        yield* save(fork.service, directory, { ...found, liveBytes: 0, keydir })
        assert.isTrue(yield* isUsable(fork), what)
        assertNoDefect(yield* exercise(fork.service), what)
      }
    }).pipe(quiet))
})

// -- real files -------------------------------------------------------------------------------------------------------

const inRoot = (root: string, options: Omit<Kv.Options, "directory">, use: Writing = () => Effect.void) =>
  Effect.orDie(Effect.scoped(Effect.flatMap(Kv.make({ directory: root, ...options }), use)))

const some: Writing = (kv) =>
  Effect.gen(function*() {
    for (let n = 0; n < 12; n++) yield* kv.put(`key ${n % 5}`, `${n}`.padEnd(150, "v"))
    yield* kv.delete("key 2")
  })

/** A store with a checkpoint over several segments, on real files. */
const savedRoot = Effect.tap(
  temporaryDirectory,
  (root) => inRoot(root, { checkpoint: "always", segmentSize: 600 }, some)
)

const rootShown = (root: string, checkpoint: Kv.CheckpointPolicy) =>
  Effect.scoped(Effect.gen(function*() {
    const kv = yield* Kv.make({ directory: root, checkpoint })
    return { entries: yield* entriesOf(kv), statistics: yield* kv.statistics, report: kv.report }
  })).pipe(Effect.catch((error) => Effect.succeed({ error: fieldsOf(error) })))

const rootCompare = Effect.fnUntraced(function*(root: string, context = "") {
  const using = yield* rootShown(root, "auto")
  assert.deepStrictEqual(using, yield* rootShown(root, "never"), context)
  return using
})

/** How often opening reads from a segment: once to check the active one, if nothing else. */
const readsOf = Effect.fnUntraced(function*(root: string) {
  const disk = new FaultyDisk()
  yield* inRoot(
    root,
    { checkpoint: "auto" },
    () => Effect.sync(() => assert.isAbove(disk.count("openRead", checkpointName), 0))
  ).pipe(overFaulty(disk))
  return disk.count("read", ".dwal") + disk.count("readNow", ".dwal")
})

const file = (root: string, name: string | number): string =>
  NodePath.join(root, typeof name === "number" ? `${String(name).padStart(8, "0")}.dwal` : name)

/** Long enough for the clock of a file system that is not exact. */
const tick = Effect.sleep(30)

describe("the identity of a real file", () => {
  it.live("holds through closing and opening, and through being read or moved with its directory", () =>
    Effect.gen(function*() {
      const root = yield* savedRoot
      assert.strictEqual(yield* readsOf(root), 1)
      NFS.readFileSync(file(root, 1))
      yield* Effect.scoped(Kv.makeReader({ directory: root }))
      NFS.renameSync(root, `${root}-moved`)
      const moved = yield* Effect.ensuring(
        readsOf(`${root}-moved`),
        Effect.sync(() => NFS.renameSync(`${root}-moved`, root))
      )
      assert.strictEqual(moved, 1)
      yield* rootCompare(root)
    }))

  const closed: ReadonlyArray<readonly [string, (root: string) => void]> = [
    ["written over with other values of the same lengths", (root) => {
      const at = NFS.openSync(file(root, 2), "r+")
      NFS.writeSync(at, otherValues(NFS.readFileSync(file(root, 2))), 0)
      NFS.closeSync(at)
    }],
    ["written over so, and its time set back", (root) => {
      // To the nanosecond, which Node's own call cannot.
      const { mtimeNs } = NFS.statSync(file(root, 2), { bigint: true })
      execFileSync("touch", ["-r", file(root, 2), file(root, "time")])
      const at = NFS.openSync(file(root, 2), "r+")
      NFS.writeSync(at, otherValues(NFS.readFileSync(file(root, 2))), 0)
      NFS.closeSync(at)
      execFileSync("touch", ["-r", file(root, "time"), file(root, 2)])
      assert.strictEqual(NFS.statSync(file(root, 2), { bigint: true }).mtimeNs, mtimeNs)
    }],
    ["replaced by a copy", (root) => {
      NFS.copyFileSync(file(root, 2), file(root, "copy"))
      NFS.renameSync(file(root, "copy"), file(root, 2))
    }],
    ["swapped with another", (root) => {
      NFS.renameSync(file(root, 1), file(root, "x"))
      NFS.renameSync(file(root, 2), file(root, 1))
      NFS.renameSync(file(root, "x"), file(root, 2))
    }],
    ["cut and grown back", (root) => {
      const bytes = NFS.readFileSync(file(root, 2))
      NFS.truncateSync(file(root, 2), 10)
      NFS.appendFileSync(file(root, 2), bytes.subarray(10))
    }]
  ]

  it.live("is lost when a closed segment is written over, replaced, swapped, or cut", () =>
    Effect.gen(function*() {
      for (const [how, change] of closed) {
        const root = yield* savedRoot
        yield* tick
        change(root)
        assert.isUndefined(yield* load(nodeDisk, root), how)
        yield* rootCompare(root, how)
      }
    }).pipe(quiet))

  it.live("is another in a copied directory, which gets a checkpoint of its own", () =>
    Effect.gen(function*() {
      const root = yield* savedRoot
      const copy = NodePath.join(yield* temporaryDirectory, "copy")
      NFS.cpSync(root, copy, { recursive: true, preserveTimestamps: true })
      assert.isUndefined(yield* load(nodeDisk, copy))
      assert.deepStrictEqual(yield* rootCompare(copy), yield* rootCompare(root))
      yield* inRoot(copy, { checkpoint: "always" })
      assert.strictEqual(yield* readsOf(copy), 1)
      assert.strictEqual(yield* readsOf(root), 1)
    }).pipe(quiet))

  it.live("does not matter for the last segment, if what was covered is still there", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      yield* inRoot(root, { checkpoint: "always" }, some)
      const child = yield* startNode("turnsChild.mjs", [root, "1", "2"])
      assert.strictEqual((yield* child.ended).code, 0)
      assert.isDefined(yield* load(nodeDisk, root))
      const seen = yield* rootCompare(root)
      assert.strictEqual("report" in seen ? seen.report.records_replayed : 0, 15)
      yield* tick
      const bytes = NFS.readFileSync(file(root, 1))
      NFS.writeFileSync(file(root, 1), otherValues(bytes))
      assert.isUndefined(yield* load(nodeDisk, root))
      yield* rootCompare(root)
    }).pipe(quiet))
})

describe("a name that is somebody else's", () => {
  const others: ReadonlyArray<readonly [string, (at: string) => void]> = [
    ["a file", (at) => NFS.writeFileSync(at, "mine")],
    ["an empty file", (at) => NFS.writeFileSync(at, "")],
    ["a file that begins a little like one", (at) => NFS.writeFileSync(at, "DWK")],
    ["a directory", (at) => NFS.mkdirSync(NodePath.join(at, "mine"), { recursive: true })],
    ["a link that leads nowhere", (at) => NFS.symlinkSync("nowhere", at)],
    ["a pipe", (at) => NodeChildProcess.execFileSync("mkfifo", [at])]
  ]
  for (const [what, make] of others) {
    it.live(`is left alone, and the store works: ${what}`, () =>
      Effect.gen(function*() {
        for (const name of [checkpointName, `${checkpointName}.new`]) {
          // An empty one of the second name is what a crash leaves.
          if (name !== checkpointName && (what === "an empty file" || what.includes("a little like"))) continue
          const root = yield* temporaryDirectory
          make(file(root, name))
          const before = NFS.lstatSync(file(root, name), { bigint: true })
          for (let round = 0; round < 2; round++) yield* inRoot(root, { checkpoint: "always", segmentSize: 600 }, some)
          const { ctimeNs, ino, mode, size } = NFS.lstatSync(file(root, name), { bigint: true })
          assert.deepStrictEqual([ino, mode, size, ctimeNs], [before.ino, before.mode, before.size, before.ctimeNs])
          const seen = yield* rootCompare(root)
          assert.strictEqual("report" in seen ? seen.report.records_replayed : 0, 26)
        }
      }).pipe(quiet))
  }
})

// -- a failing disk ---------------------------------------------------------------------------------------------------

interface Failing {
  readonly root: string
  readonly disk: FaultyDisk
  readonly exit: Exit.Exit<unknown, unknown>
}

/** Opens a store that has a checkpoint, writes a little, and closes it; `plan` is told where each begins. */
const life = (plan: { readonly open?: (disk: FaultyDisk) => void; readonly close?: (disk: FaultyDisk) => void }) =>
  Effect.gen(function*() {
    const root = yield* temporaryDirectory
    yield* inRoot(root, { checkpoint: "always" }, put("a", "1"))
    yield* inRoot(
      root,
      { checkpoint: "always", segmentSize: 10 },
      (kv) => Effect.andThen(kv.put("b", "2"), kv.delete("a"))
    )
    const disk = new FaultyDisk()
    plan.open?.(disk)
    const exit = yield* Effect.exit(Effect.scoped(Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: root, checkpoint: "always" })
      yield* kv.put("more", "of it")
      yield* Effect.addFinalizer(() => Effect.sync(() => plan.close?.(disk)))
    }))).pipe(overFaulty(disk))
    return { root, disk, exit } satisfies Failing
  })

const assertWhole = Effect.fnUntraced(function*({ disk, exit, root }: Failing, context: string) {
  assert.deepStrictEqual([disk.openDescriptors, disk.misuse], [0, []], context)
  const opened = Exit.isSuccess(exit)
  const found = yield* load(nodeDisk, root)
  assert.isDefined(found, `${context}: no checkpoint is left`)
  const seen = yield* rootCompare(root, context)
  assert.strictEqual("report" in seen ? seen.report.records_replayed : 0, opened ? 4 : 3, context)
  return found?.covered.records
})

describe("a call that fails", () => {
  it.live("while a checkpoint is saved spoils neither the close nor the checkpoint that was there", () =>
    Effect.gen(function*() {
      let from = 0
      const { disk } = yield* life({ close: (disk) => (from = disk.calls.length) })
      const calls = disk.calls.slice(from)
      assert.isAbove(calls.length, 20)
      let older = 0
      for (const [at, { kind, path: on }] of calls.entries()) {
        if (kind === "close" || kind === "writeText") continue
        const landings = kind === "append" || kind === "rename" || kind === "create" || kind === "sync"
          ? ["nothing", "half", "all"] as const
          : ["nothing"] as const
        for (const [turn, landed] of landings.entries()) {
          const code = ["ENOSPC", "EIO", "EMFILE"][(at + turn) % 3] ?? "EIO"
          const context = `call ${at}, ${kind} ${NodePath.basename(on)}, ${code}, ${landed} landed`
          const failed = yield* life({ close: (disk) => disk.failCall(disk.calls.length + at, code, landed) })
          assert.isTrue(Exit.isSuccess(failed.exit), context)
          assert.isFalse(NFS.existsSync(file(failed.root, `${checkpointName}.new`)), context)
          if ((yield* assertWhole(failed, context)) === 3) older++
        }
      }
      assert.isAbove(older, 10)
    }).pipe(Effect.scoped, quiet))

  it.live("while a checkpoint is loaded is no failure of the opening; any other is told as without one", () =>
    Effect.gen(function*() {
      const { disk } = yield* life({})
      const put = disk.calls.findIndex(({ kind }) => kind === "appendNow")
      let [harmless, told] = [0, 0]
      for (let at = 0; at < put; at++) {
        const code = ["EIO", "EMFILE", "EACCES"][at % 3] ?? "EIO"
        const failed = yield* life({ open: (disk) => disk.failCall(at, code) })
        // The checkpoint and the active segment are read beside each other: which call comes next is not always alike.
        const { kind, path: on } = failed.disk.calls[at] ?? assert.fail("there was no such call")
        const context = `call ${at}, ${kind} ${NodePath.basename(on)}, ${code}`
        if (kind === "close") continue
        if (Exit.isSuccess(failed.exit)) harmless++
        else {
          told++
          assert.isFalse(on.includes(checkpointName) || (kind === "identity" && on.endsWith(".dwal")), context)
          const error = failed.exit.cause.reasons[0]
          assert.deepInclude(
            error?._tag === "Fail" ? fieldsOf(Object(error.error)) : {},
            { _tag: "IoError", code },
            context
          )
        }
        yield* assertWhole(failed, context)
      }
      assert.isAbove(harmless, 8)
      assert.isAbove(told, 3)
    }).pipe(Effect.scoped, quiet))

  it.live("short reads and writes and EINTR are invisible", () =>
    Effect.gen(function*() {
      const short = (disk: FaultyDisk) => {
        disk.shorten("readNow", 1_001)
        disk.shorten("read", 777)
        disk.shorten("append", 999)
        for (const kind of ["readNow", "read", "append"] as const) disk.failNext(kind, "EINTR", { skip: 3, times: 3 })
      }
      const lived = yield* life({ open: short })
      assert.isTrue(Exit.isSuccess(lived.exit))
      assert.strictEqual(
        lived.disk.calls.filter(({ kind, path }) => kind === "read" && path.endsWith("1.dwal")).length,
        0
      )
      assert.strictEqual(yield* assertWhole(lived, "short"), 4)
    }).pipe(Effect.scoped, quiet))
})

describe("closing a store", () => {
  it.live("while the checkpoint of a rotation is being written ends that at any point, and lets go of everything", () =>
    Effect.gen(function*() {
      const options = { checkpoint: "always", segmentSize: 600 } as const
      /** Rotates, and closes while the call is held. */
      const rotated = (
        hold?: (disk: FaultyDisk) => { readonly reached: Effect.Effect<void>; readonly release: Effect.Effect<void> }
      ) =>
        Effect.gen(function*() {
          const root = yield* temporaryDirectory
          const disk = new FaultyDisk()
          let from = 0
          yield* inRoot(root, options, (kv) =>
            Effect.gen(function*() {
              for (let n = 0; n < 3; n++) yield* kv.put(`${n}`, "v".repeat(150))
              from = disk.calls.length
              const held = hold?.(disk)
              yield* kv.put("3", "v".repeat(150))
              if (held === undefined) {
                while (disk.count("rename") === 0 || disk.calls.at(-1)?.kind !== "syncDirectory") yield* Effect.sleep(1)
              } else {
                yield* held.reached
                yield* Effect.forkDetach(Effect.delay(held.release, 2))
              }
            })).pipe(overFaulty(disk))
          return { root, disk, calls: disk.calls.slice(from) }
        })
      const { calls } = yield* rotated()
      const begin = calls.findIndex(({ kind }) => kind === "list")
      const end = calls.findIndex(({ kind }, at) => kind === "syncDirectory" && at > begin)
      assert.strictEqual(calls.slice(begin, end).filter(({ kind }) => kind === "rename").length, 1)
      assert.isAbove(end, begin + 8)
      for (let at = begin; at <= end; at++) {
        const call = calls[at] ?? assert.fail("no call")
        const name = NodePath.basename(call.path)
        const before = calls.slice(0, at).filter(({ kind, path }) => kind === call.kind && path.endsWith(name)).length
        // The directory has another name each time.
        const where = name.startsWith("datawal-") ? {} : { path: name }
        const context = `${call.kind} ${name}`
        const { disk, root } = yield* rotated((disk) => disk.holdNext(call.kind, { skip: before, ...where }))
        assert.deepStrictEqual([disk.openDescriptors, disk.misuse], [0, []], context)
        assert.deepStrictEqual(NFS.readdirSync(root).filter((name) => name.endsWith(".new")), [], context)
        assert.strictEqual((yield* load(nodeDisk, root))?.covered.records, 4, context)
        yield* rootCompare(root, context)
      }
    }).pipe(Effect.scoped, quiet))

  it.live("takes what is still written along into the index: nothing that is modified meanwhile is lost", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const disk = new FaultyDisk()
      const held = disk.holdNext("sync", { path: `${checkpointName}.new` })
      const increment = (kv: Kv.Kv["Service"]) =>
        kv.modify("count", (now) => [undefined, String(1 + Number(now === undefined ? 0 : latin1(now)))])
      yield* Effect.gen(function*() {
        let writing: Kv.Kv["Service"] | undefined
        const closing = yield* Effect.forkChild(inRoot(root, { checkpoint: "always" }, (kv) =>
          Effect.andThen(
            increment(kv),
            Effect.sync(() => {
              writing = kv
            })
          )))
        yield* held.reached
        if (writing === undefined) return assert.fail("it is not open")
        for (let n = 0; n < 3; n++) yield* increment(writing)
        yield* held.release
        yield* Fiber.join(closing)
      }).pipe(overFaulty(disk))
      const seen = yield* rootCompare(root)
      assert.deepStrictEqual("entries" in seen ? seen.entries : seen.error, [["count", "4"]])
    }).pipe(quiet))

  it.live("writes no checkpoint of what was written while it was synced", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      const disk = new FaultyDisk()
      const held = disk.holdNext("sync", { path: ".dwal" })
      yield* Effect.gen(function*() {
        let writing: Kv.Kv["Service"] | undefined
        const closing = yield* Effect.forkChild(inRoot(root, { checkpoint: "always" }, (kv) => {
          writing = kv
          return kv.put("a", "1")
        }))
        yield* held.reached
        yield* writing?.put("b", "2") ?? assert.fail("it is not open")
        yield* held.release
        yield* Fiber.join(closing)
      }).pipe(overFaulty(disk))
      assert.strictEqual(disk.count("rename"), 0)
      const seen = yield* rootCompare(root)
      assert.deepStrictEqual("entries" in seen ? seen.entries : seen.error, [["a", "1"], ["b", "2"]])
    }).pipe(quiet))

  it.live("tells of records that may not be durable, whether or not a checkpoint is due", () =>
    Effect.gen(function*() {
      for (const checkpoint of ["always", "never"] as const) {
        const messages: Array<unknown> = []
        const logger = Logger.make(({ message }) => messages.push(Array.isArray(message) ? message[0] : message))
        const root = yield* temporaryDirectory
        const disk = new FaultyDisk()
        disk.failNext("sync", "EIO")
        yield* inRoot(root, { checkpoint }, put("a", "1")).pipe(
          Effect.provideService(References.CurrentLoggers, new Set([logger])),
          overFaulty(disk)
        )
        assert.deepStrictEqual(messages, ["the last records may not be durable"], checkpoint)
        assert.isFalse(NFS.existsSync(file(root, checkpointName)))
      }
    }))

  it.live("while others put leaves a store that is whole", () =>
    Effect.gen(function*() {
      for (let round = 0; round < 10; round++) {
        const root = yield* temporaryDirectory
        const writers: Array<Fiber.Fiber<unknown, unknown>> = []
        yield* inRoot(root, { checkpoint: "always", segmentSize: 2_000 }, (kv) =>
          Effect.gen(function*() {
            for (let writer = 0; writer < 4; writer++) {
              const one = (n: number) => Effect.tap(kv.put(`${writer} ${n % 9}`, `${n}`.padEnd(100)), Effect.yieldNow)
              let n = 0
              const all = Effect.forever(Effect.suspend(() => one(n++)))
              writers.push(yield* Effect.forkDetach(all))
            }
            yield* Effect.sleep(round)
          }))
        for (const writer of writers) yield* Fiber.await(writer)
        yield* rootCompare(root, `round ${round}`)
      }
    }).pipe(quiet))
})

describe("a reader without the lock", () => {
  it.live("sees a beginning of what was written, while checkpoints are", () =>
    Effect.gen(function*() {
      const root = yield* temporaryDirectory
      yield* inRoot(root, { checkpoint: "always", segmentSize: 1_500 }, (kv) =>
        Effect.gen(function*() {
          let views = 0
          const isSeen = () => views > 2
          const put = (n: number) => Effect.andThen(kv.put(`${n}`, `${n}`), n % 4 === 0 ? Effect.sleep(0) : Effect.void)
          // However slow the reader is, it looks a few times meanwhile.
          const writing = yield* Effect.forkChild(Effect.gen(function*() {
            for (let n = 0; n < 400 || !isSeen(); n++) yield* put(n)
          }))
          while (writing.pollUnsafe() === undefined) {
            const keys = yield* Effect.scoped(Effect.flatMap(Kv.makeReader({ directory: root }), entriesOf))
            const numbers = keys.map(([key]) => Number(key)).sort((a, b) => a - b)
            assert.deepStrictEqual(numbers, Array.from(numbers, (_, at) => at))
            views++
          }
        }))
      assert.strictEqual(yield* readsOf(root), 1)
    }))
})

// -- crashes ----------------------------------------------------------------------------------------------------------

/** A store under test, which tells the model what it is asked for and what it has answered. */
interface Subject {
  readonly put: (key: string, length: number) => Effect.Effect<void, Log.WriteError>
  readonly putMany: (keys: ReadonlyArray<string>, length: number) => Effect.Effect<void, Log.WriteError>
  readonly remove: (key: string) => Effect.Effect<void, Log.WriteError>
  readonly sync: Effect.Effect<void, unknown>
}

let serial = 0

const subjectOf = (kv: Kv.Kv["Service"], model: Model): Subject => {
  const asking = <A, E>(records: ReadonlyArray<Rec>, call: Effect.Effect<A, E>): Effect.Effect<void, E> =>
    Effect.suspend(() => {
      model.asked.push(...records)
      return Effect.map(call, () => {
        model.alive = model.written.push(...records)
      })
    })
  const putOf = (key: string, length: number): Rec => ({
    type: "Put",
    key,
    payload: `${++serial}:`.padEnd(length, "v")
  })
  return {
    put: (key, length) =>
      Effect.suspend(() => {
        const record = putOf(key, length)
        return asking([record], kv.put(key, record.payload))
      }),
    putMany: (keys, length) =>
      Effect.suspend(() => {
        const records = keys.map((key) => putOf(key, length))
        return asking(records, kv.putMany(records.map(({ key, payload }) => [key, payload] as const)))
      }),
    remove: (key) => asking([{ type: "Delete", key, payload: "" }], kv.delete(key)),
    sync: Effect.suspend(() => {
      const before = model.written.length
      return Effect.map(kv.sync, () => {
        model.synced = Math.max(model.synced, before)
      })
    })
  }
}

const crashing: Omit<Kv.Options, "directory"> = { checkpoint: "always", segmentSize: 900 }

/** One life of a store: opens it, runs, and closes it, which syncs. */
const crashLife = (disk: SimulatedDisk, model: Model, run: (subject: Subject) => Effect.Effect<unknown, unknown>) =>
  Effect.scoped(Effect.gen(function*() {
    const kv = yield* Kv.make({ directory, ...crashing })
    yield* run(subjectOf(kv, model))
  })).pipe(over(disk), quiet)

const workloads: ReadonlyArray<readonly [string, boolean, (subject: Subject) => Effect.Effect<unknown, unknown>]> = [
  ["puts over several segments, synced now and then", false, ({ put, remove, sync }) =>
    Effect.gen(function*() {
      yield* put("a", 300)
      yield* put("b", 453)
      yield* sync
      yield* put("a", 500)
      yield* remove("b")
      yield* put("c", 400)
      yield* sync
      yield* put("b", 100)
    })],
  [
    "a batch over several segments",
    false,
    ({ put, putMany }) => Effect.andThen(put("a", 20), putMany(["b", "a", "c", "b", "d", "a"], 400))
  ],
  ["puts that go on while a checkpoint is written", true, ({ put, sync }) =>
    Effect.gen(function*() {
      for (const [at, key] of ["a", "b", "c", "a", "d", "b", "a"].entries()) {
        yield* put(key, 430)
        if (at % 3 === 2) yield* sync
        yield* eventLoopTurn
      }
    })],
  ["puts that go on while the store is closed", true, ({ put }) =>
    Effect.andThen(
      put("a", 100),
      Effect.forkDetach(Effect.forEach("bcabcabcabca", (key) => Effect.andThen(eventLoopTurn, put(key, 40))))
    )]
]

/** Goes through what can be left at a point, and on from there, as deep as `survivors` is long. */
const visit = (
  point: Point,
  survivors: ReadonlyArray<number>,
  seed: number,
  counts: Counts,
  history: string
): Effect.Effect<void, unknown> =>
  Effect.gen(function*() {
    const [limit = 0, ...deeper] = survivors
    if (limit === 0) return
    const here = `${history}\n${point.where}`
    const losses = point.disk.survivors(limit, { seed }).map((disk) => [disk, point.model.synced] as const)
    // Where there is to be one crash only, it is of one kind or the other.
    const both = limit > 1
    const lost = both || seed % 2 === 0 ? losses : []
    const dead = both || seed % 2 === 1 ? [[point.disk.kill(), point.model.alive] as const] : []
    for (const [at, [disk, kept]] of [...lost, ...dead].entries()) {
      const context = `${here}\n${at < lost.length ? `power loss ${at} of ${limit}` : "process death"}, ${disk.mode}`
      const model = point.model.fork()
      const records = yield* Effect.scoped(Effect.gen(function*() {
        const reader = yield* Reader.make({ directory })
        return (yield* Stream.runCollect(reader.stream)).map(recOf)
      })).pipe(over(disk.fork()))
      assert.isUndefined(model.check(records, kept), `${context}\n${disk.script}`)
      const seen = yield* compare(disk, context, crashing)
      assert.deepStrictEqual("entries" in seen ? new Map(seen.entries) : seen.error, fold(records), context)
      counts.add(`level ${survivors.length}`)
      if (yield* isUsable(disk)) counts.add("with a checkpoint that counts")
      if (deeper.length === 0) continue
      model.accept(records)
      model.synced = 0
      const points = new Points(counts, { size: 1, pick: seeded(mix(seed, at)) })
      const watched: SimulatedDisk = disk.fork({ onOperation: (operation, phase) => hook(operation, phase) })
      const hook = points.hook(() => watched, model)
      yield* crashLife(watched, model, ({ put, putMany, sync }) =>
        Effect.gen(function*() {
          yield* put("again", 300)
          yield* sync
          yield* putMany(["more", "again", "more"], 400)
          points.take(watched, model, "written again")
        }))
      points.take(watched, model, "closed again")
      for (const next of points.taken) yield* visit(next, deeper, mix(seed, at + 100), counts, context)
    }
  })

describe("after a crash at any point, a store with a checkpoint shows its log, and all that was synced", () => {
  const modes: ReadonlyArray<Mode> = ["adversarial", "ordered"]
  for (const mode of modes) {
    for (const [name, shuffle, run] of workloads) {
      it.live(`${name} (${mode})`, () =>
        Effect.gen(function*() {
          const counts = new Counts()
          const model = new Model()
          const points = new Points(counts, { size: crashPoints, pick: seeded(3) })
          const disk: SimulatedDisk = makeDisk({
            mode,
            shuffle,
            directories: [directory],
            onOperation: (operation, phase) => hook(operation, phase)
          })
          const hook = points.hook(() => disk, model)
          yield* crashLife(disk, model, run)
          points.take(disk, model, "closed")
          for (const [at, point] of points.taken.entries()) yield* visit(point, [2, 1, 1], mix(7, at), counts, name)
          assert.isAbove(counts.get("level 3"), 2 * points.taken.length)
          assert.isAbove(counts.get("level 1"), points.taken.length)
          assert.isAbove(counts.get("with a checkpoint that counts"), 0)
          if (crashPoints > 100) process.stdout.write(`\n${name} (${mode}):\n${counts.toString()}\n`)
        }))
    }
  }
})

describe("after a failed sync", () => {
  for (const landed of ["dropped", "half", "nothing"] as const) {
    it.live(`a checkpoint covers nothing that may not be on disk (the dirty data: ${landed})`, () =>
      Effect.gen(function*() {
        const [, , run] = workloads[0] ?? assert.fail("no workload")
        const lived = Effect.fnUntraced(function*(faults: ReadonlyArray<Fault>) {
          const [disk, model] = [makeDisk({ directories: [directory], faults }), new Model()]
          yield* Effect.exit(crashLife(disk, model, run))
          return { disk, model }
        })
        const syncs = (yield* lived([])).disk.operations.filter(({ kind }) => kind === "sync")
        assert.isAbove(syncs.filter(({ path }) => path.endsWith(".dwal")).length, 2)
        assert.isAbove(syncs.filter(({ path }) => path.includes(checkpointName)).length, 0)
        for (let nth = 1; nth <= syncs.length; nth++) {
          const failed = yield* lived([{ kind: "sync", nth, code: "EIO", landed }])
          const check = Effect.fnUntraced(function*({ disk, model }: typeof failed, context: string) {
            for (const [at, survivor] of disk.survivors(6, { seed: nth }).entries()) {
              const seen = yield* compare(survivor, `${context}, power loss ${at}\n${disk.script}`, crashing)
              const records = "report" in seen ? seen.report.records_replayed : assert.fail(JSON.stringify(seen))
              assert.isAtLeast(records, model.synced, context)
            }
          })
          yield* check(failed, `sync ${nth}`)
          // Another process, which finds in memory what is not on disk.
          const disk = failed.disk.kill()
          const model = failed.model.fork()
          yield* crashLife(disk, model, ({ put, sync }) => Effect.andThen(put("again", 300), sync))
          assert.strictEqual(model.synced, model.written.length)
          yield* check({ disk, model }, `sync ${nth}, and another process`)
        }
      }))
  }
})

describe("a checkpoint of an index that has missed a record", () => {
  it.effect("is not written: the record would be missed for good", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* Effect.scoped(Effect.gen(function*() {
        const { lock, log } = yield* openLog({ directory })
        const projection = new Projection()
        const covered = { records: 0, bytes: 0 }
        yield* keepCheckpoint({ disk: disk.service, lock, log }, projection, { policy: "always", covered })
        const key = Buffer.from("a")
        projection.apply("Put", key, yield* log.appendRecord({ type: "Put", key, payload: "1" }))
        yield* log.appendRecord({ type: "Put", key: "b", payload: "2" })
      })).pipe(over(disk))
      assert.isFalse(disk.files.has(path))
      yield* inStore(disk, {}, (kv) => Effect.map(entriesOf(kv), (all) => assert.deepStrictEqual(all.length, 2)))
    }))
})
