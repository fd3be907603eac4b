/**
 * Nothing synced is lost, whenever the machine stops: scripted workloads, and every point of each at which it can.
 *
 * `support/crashPoints.ts` says what is visited, `support/crashModel.ts` what is checked, `src/testing.ts` what a crash
 * can leave. What was visited is printed at the end, by kind.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, References, Stream } from "effect"
import * as NodePath from "node:path"
import { afterAll } from "vitest"
import * as Disk from "../src/Disk.ts"
import * as Export from "../src/Export.ts"
import * as Frame from "../src/Frame.ts"
import { cutsOf } from "../src/internal/simulatedState.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Salvage from "../src/Salvage.ts"
import { type Fault, makeDisk, type Mode, type SimulatedDisk } from "../src/testing.ts"
import { eventLoopTurn, fold, inputOf, over, type Rec, type Subject, withoutStacks } from "./support/crashModel.ts"
import { type Bounds, Counts, type Point, Points, runWorkload, Visitor, type Workload } from "./support/crashPoints.ts"

const quiet = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  withoutStacks(Effect.provideService(effect, References.MinimumLogLevel, "None"))
const total = new Counts()

afterAll(() => {
  process.stdout.write(`\nVisited by the exhaustive crash tests:\n${total.toString()}\n`)
})

// The same in every run of a workload, so that what two runs lead to can be the same state.
let serial = 0
const raw = (length: number): Rec => ({ type: "Raw", key: "", payload: `${++serial}:`.padEnd(length, "r") })
const put = (key: string, length: number): Rec => ({ type: "Put", key, payload: `${++serial}:`.padEnd(length, "v") })
const remove = (key: string): Rec => ({ type: "Delete", key, payload: "" })

/** One record through the log. */
const append = (subject: Subject, record: Rec) => subject.ask([record], subject.log.appendRecord(inputOf(record)))
const appendAll = (subject: Subject, records: ReadonlyArray<Rec>) =>
  subject.ask(records, subject.log.appendAll(records.map(inputOf)))
const kvPut = (subject: Subject, record: Rec) => subject.ask([record], subject.kv.put(record.key, record.payload))

/** Under `always`, a record is durable when its append has resolved. */
const durably = (subject: Subject, record: Rec) =>
  Effect.map(append(subject, record), ({ txid }) => {
    subject.model.synced = Math.max(subject.model.synced, txid)
  })

const directory = "/s"
const small: Kv.Options = { directory, segmentSize: 900 }

const workloads: ReadonlyArray<Workload> = [
  {
    name: "append and sync",
    options: { directory },
    run: Effect.fnUntraced(function*(subject) {
      // Lengths that put headers and checksums across sector boundaries.
      for (const length of [3, 453, 30, 700, 0]) yield* append(subject, raw(length))
      yield* subject.sync
      yield* append(subject, raw(479))
      yield* append(subject, put("k", 100))
      yield* subject.sync
      yield* append(subject, raw(1_100))
    })
  },
  {
    name: "appendAll over several segments",
    options: small,
    run: Effect.fnUntraced(function*(subject) {
      yield* appendAll(subject, [raw(10), raw(400), raw(20), raw(600), raw(0)])
      yield* subject.sync
      yield* appendAll(subject, [raw(300), raw(300), raw(300)])
    })
  },
  {
    name: "rotate",
    options: { directory },
    run: Effect.fnUntraced(function*(subject) {
      yield* append(subject, raw(100))
      yield* subject.log.rotate
      yield* append(subject, raw(600))
      yield* append(subject, raw(5))
      yield* subject.log.rotate
      yield* subject.log.rotate
      yield* append(subject, raw(5))
      yield* subject.sync
    })
  },
  {
    name: "put, delete and modify",
    options: small,
    run: Effect.fnUntraced(function*(subject) {
      yield* kvPut(subject, put("a", 20))
      yield* kvPut(subject, put("b", 500))
      yield* subject.sync
      yield* subject.ask([remove("a")], subject.kv.delete("a"))
      const next: Rec = put("b", 40)
      yield* subject.ask([next], subject.kv.modify("b", (old) => [old?.length, next.payload]))
      yield* kvPut(subject, put("c", 480))
      yield* subject.sync
      yield* subject.ask([remove("absent")], subject.kv.delete("absent"))
      yield* subject.ask([remove("c")], subject.kv.modify("c", () => [0, undefined]))
    })
  },
  {
    name: "several fibers append, sync and rotate",
    options: small,
    disk: { shuffle: true },
    run: (subject) =>
      Effect.all([
        Effect.andThen(append(subject, raw(200)), append(subject, raw(500))),
        Effect.andThen(appendAll(subject, [raw(10), raw(700)]), subject.sync),
        Effect.andThen(append(subject, put("a", 50)), subject.sync),
        Effect.andThen(subject.log.rotate, append(subject, raw(30))),
        Effect.andThen(Effect.andThen(subject.sync, append(subject, put("b", 480))), subject.sync)
      ], { concurrency: "unbounded" })
  },
  {
    name: "several fibers, each append durable by itself",
    options: { ...small, durability: "always" },
    disk: { shuffle: true },
    run: (subject) =>
      Effect.forEach([10, 300, 480, 20, 600, 30], (length) => durably(subject, raw(length)), {
        concurrency: "unbounded"
      })
  },
  {
    name: "appends while a sync is under way",
    options: { directory },
    disk: { shuffle: true },
    run: Effect.fnUntraced(function*(subject) {
      // Later in the course of the sync each time: before it takes effect, and between that and its answer.
      for (let turns = 0; turns < 5; turns++) {
        yield* append(subject, raw(40))
        const syncing = yield* Effect.forkChild(subject.sync, { startImmediately: true })
        for (let turn = 0; turn < turns; turn++) yield* eventLoopTurn
        yield* append(subject, raw(480))
        // Before the one under way is done, which covers less.
        yield* subject.sync
        yield* Fiber.join(syncing)
      }
    })
  },
  {
    name: "a record too large for the calling thread",
    options: { directory },
    run: Effect.fnUntraced(function*(subject) {
      yield* append(subject, raw(10))
      yield* append(subject, raw(Disk.blocking_bytes_max + 100))
      yield* subject.sync
      yield* append(subject, raw(10))
    })
  },
  {
    name: "a write that fails in the middle, and is taken back at the close",
    options: { directory },
    disk: {
      faults: [
        { kind: "write", path: ".dwal", nth: 3, bytes: 600 },
        { kind: "write", path: ".dwal", nth: 4, code: "ENOSPC" }
      ]
    },
    run: Effect.fnUntraced(function*(subject) {
      yield* append(subject, raw(100))
      yield* subject.sync
      yield* append(subject, raw(300))
      assert.isTrue(Exit.isFailure(yield* Effect.exit(append(subject, raw(900)))))
    })
  },
  {
    name: "a store in directories that are not there",
    options: { directory: "/a/b/s" },
    disk: { directories: [] },
    run: Effect.fnUntraced(function*(subject) {
      yield* append(subject, raw(10))
      yield* subject.sync
    })
  },
  {
    name: "import",
    options: small,
    run: (subject) => {
      const records = [put("a", 10), put("b", 700), put("c", 5)]
      const lines = records.map(({ key, payload }) => `{"key_b64":"${btoa(key)}","value_b64":"${btoa(payload)}"}\n`)
      const input = Stream.map(Stream.fromIterable(lines), (line) => Buffer.from(line))
      return Effect.map(subject.ask(records, Export.fromLines(subject.kv, input)), () => {
        subject.model.synced = subject.model.written.length
      })
    }
  }
]

const encoded = (txid: number, record: Rec): Uint8Array => {
  const [key, payload] = [Buffer.from(record.key, "latin1"), Buffer.from(record.payload, "latin1")]
  const bytes = new Uint8Array(Frame.encodedLength(key.length, payload.length))
  Frame.encodeInto(bytes, 0, record.type, txid, key, payload)
  return bytes
}

/** Opening a store whose last writer met a power loss that left a torn tail behind one synced record. */
const cutting = (name: string, tail: Uint8Array): Workload => {
  const first = raw(700)
  const whole = encoded(1, first)
  const path = `${directory}/00000001.dwal`
  const isTail = (bytes: Uint8Array | undefined): boolean =>
    bytes !== undefined && Buffer.compare(bytes.subarray(0, tail.length), tail) === 0
  return {
    name,
    options: { directory },
    prepare: Effect.fnUntraced(function*(disk, model) {
      const file = yield* disk.service.open(path, "create")
      yield* file.append(Buffer.concat([whole, tail]), 0, whole.length + tail.length)
      yield* file.sync
      yield* file.close
      yield* disk.service.syncDirectory(directory)
      model.asked.push(first)
      model.written.push(first)
      model.synced = model.alive = 1
    }),
    run: Effect.fnUntraced(function*(subject) {
      // As long as the record that was cut: what stood behind that one must not show behind this one.
      yield* append(subject, raw(1_100))
      yield* append(subject, raw(20))
      yield* subject.sync
    }),
    check: ({ files }) =>
      Effect.succeed(
        isTail(files.get(path)?.subarray(whole.length)) ||
          Array.from(files).some(([name, bytes]) => name.endsWith(".torn") && isTail(bytes))
          ? undefined
          : "neither the tail nor a whole copy of it is there"
      )
  }
}

const cuttings: ReadonlyArray<Workload> = [
  cutting("cutting a record that ends too early", encoded(2, raw(5_000)).subarray(0, 624)),
  cutting(
    "cutting a record that lost a sector, with a whole one behind it",
    Buffer.concat([encoded(2, raw(1_100)).fill(0, 1_024 - 728, 1_536 - 728), encoded(3, raw(20))])
  )
]

/** Whether a point lies after the call with that number, with the call behind it taken or not. */
const isBehind = ({ where }: Point, call: number): boolean => {
  const found = /^(before|after) (\d+)/.exec(where)
  const at = Number(found?.[2] ?? Number.MAX_SAFE_INTEGER)
  return found?.[1] === "after" ? at >= call : at > call
}

const runAgain: typeof runWorkload = (workload, options, points) =>
  Effect.suspend(() => {
    serial = 1_000
    return runWorkload(workload, options, points)
  })

const visitAll = (workload: Workload, mode: Mode, bounds: Bounds) =>
  Effect.gen(function*() {
    const visitor = new Visitor(workload, bounds)
    const points = new Points(visitor.counts)
    yield* runAgain(workload, { mode, seed: bounds.seed }, points)
    for (const point of points.taken) yield* visitor.visit(point, 0, "")
    total.addAll(visitor.counts)
    return visitor.counts
  }).pipe(quiet)

const modes: ReadonlyArray<Mode> = ["adversarial", "ordered"]

describe("every synced record is there after a power loss or the death of the process at any point of", () => {
  for (const mode of modes) {
    for (const workload of [...workloads, ...cuttings]) {
      const isLarge = workload.name.includes("too large")
      it.live(`${workload.name} (${mode})`, () =>
        Effect.gen(function*() {
          // What survives in order is a part of what survives in any: one crash less of it is enough.
          const deep = mode === "adversarial"
          const survivors = [isLarge ? 3 : deep ? 5 : 3, 1, ...(deep ? [1] : [])]
          const counts = yield* visitAll(workload, mode, { survivors, points: deep ? [1, 1] : [1], seed: 1 })
          assert.isAbove(counts.get("level 1: points"), 9)
          assert.isAbove(counts.get(deep ? "level 3: reopened" : "level 2: reopened"), 20)
        }))
    }
  }
})

describe("every point, every survivor, and every point of the recovery from each", () => {
  const tiny: Workload = {
    name: "one record synced, one only written",
    options: { directory },
    prepare: Effect.fnUntraced(function*(disk) {
      yield* Effect.scoped(Log.make({ directory })).pipe(over(disk))
    }),
    run: Effect.fnUntraced(function*(subject) {
      yield* append(subject, raw(5))
      yield* subject.sync
      yield* append(subject, raw(480))
    })
  }
  for (const mode of modes) {
    it.live(`of a log of two records (${mode})`, () =>
      Effect.gen(function*() {
        const everything = { survivors: mode === "ordered" ? [500, 1] : [500, 2, 1], points: [1_000, 0], seed: 1 }
        yield* visitAll(tiny, mode, everything)
      }))
  }
})

describe("a write that is cut", () => {
  const cutEveryWrite = (
    workload: Workload,
    faultsAt: (nth: number, cut: number) => ReadonlyArray<Fault>,
    isWanted: (cut: number) => boolean,
    bounds: Omit<Bounds, "seed">,
    kind: string
  ) =>
    Effect.gen(function*() {
      const { disk } = yield* runAgain(workload, {}, new Points(new Counts()))
      const writes = disk.operations.filter(({ kind }) => kind === "write")
      // One for all: what another cut has led to already is not gone through again.
      const visitor = new Visitor(workload, { ...bounds, seed: 1 })
      for (const [index, write] of writes.entries()) {
        for (const cut of cutsOf(0, Number(write.outcome)).filter(isWanted)) {
          const points = new Points(new Counts())
          yield* Effect.exit(runAgain(workload, { faults: faultsAt(index + 1, cut) }, points))
          const behind = points.taken.filter((point) => isBehind(point, write.index)).slice(0, 4)
          for (const point of behind) yield* visitor.visit(point, 0, `\nthe write ${index + 1} cut at ${cut}`)
          total.add(kind)
        }
      }
      total.addAll(visitor.counts)
    }).pipe(quiet)

  for (const workload of [workloads[0]!, workloads[1]!, workloads.at(-1)!]) {
    it.live(`by the death of the process takes nothing along that was written before: ${workload.name}`, () =>
      cutEveryWrite(
        workload,
        (nth, cut) => [{ kind: "write", nth, bytes: cut }, { kind: "write", nth: nth + 1, stop: "before" }],
        () => true,
        { survivors: [3, 1], points: [1] },
        "writes cut by the death of the process"
      ))
  }

  // Then a sector may survive as it was between the two pieces, which the table cannot tell from damage.
  const inTwo = (isWanted: (cut: number) => boolean) =>
    cutEveryWrite(
      workloads[0]!,
      (nth, cut) => [{ kind: "write", nth, bytes: cut }],
      isWanted,
      { survivors: [24], points: [], mayRefuse: true },
      "writes done in two pieces"
    )

  it.live("and gone on with loses nothing that was synced", () => inTwo(() => true))
})

// -- targets ----------------------------------------------------------------------------------------------------------

const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1")

/** A store with a few keys, and something that is made of it elsewhere. */
const making = (
  name: string,
  target: string,
  make: (kv: Kv.Kv["Service"]) => Effect.Effect<unknown, unknown>,
  found: (
    disk: SimulatedDisk,
    expected: ReadonlyMap<string, string>
  ) => Effect.Effect<"absent" | "whole" | "old", unknown>,
  parents: ReadonlyArray<string>,
  old?: string
): Workload & { readonly make: typeof make; readonly found: typeof found } => {
  let expected: ReadonlyMap<string, string> = new Map()
  return {
    name,
    make,
    found: (disk) => found(disk, expected),
    options: small,
    disk: { directories: [directory, ...parents] },
    prepare: Effect.fnUntraced(function*(disk, model) {
      const records = [put("b", 30), put("a", 600), put("c", 10), remove("c")]
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make(small)
        yield* log.appendAll(records.map(inputOf))
        yield* log.sync
      })).pipe(over(disk))
      if (old !== undefined) {
        const file = yield* disk.service.open(target, "create")
        yield* file.append(Buffer.from(old), 0, old.length)
        yield* file.sync
        yield* file.close
        yield* disk.service.syncDirectory(NodePath.dirname(target))
      }
      model.asked.push(...records)
      model.written.push(...records)
      model.synced = model.alive = records.length
      expected = fold(records)
    }),
    run: Effect.fnUntraced(function*(subject) {
      yield* make(subject.kv)
      subject.model.notes.push("made")
    }),
    check: (disk, model) =>
      found(disk, expected).pipe(
        Effect.map((is) =>
          model.notes.includes("made") && is !== "whole" ? `the target is ${is}, though it was made` : undefined
        ),
        Effect.catch((error) => Effect.succeed(`the target is neither absent nor whole: ${String(error)}`))
      )
  }
}

const exportFound =
  (target: string, old?: string) =>
  (disk: SimulatedDisk, expected: ReadonlyMap<string, string>): Effect.Effect<"absent" | "whole" | "old", unknown> => {
    const bytes = disk.files.get(target)
    if (bytes === undefined) return old === undefined ? Effect.succeed("absent") : Effect.fail("the old file is gone")
    const lines = Array.from(expected).sort(([a], [b]) => a < b ? -1 : 1)
      .map(([key, value]) => `{"key_b64":"${btoa(key)}","value_b64":"${btoa(value)}"}\n`).join("")
    if (latin1(bytes) === lines) return Effect.succeed("whole")
    return latin1(bytes) === old ? Effect.succeed("old") : Effect.fail(`${bytes.length} bytes of something else`)
  }

const compactFound =
  (target: string) =>
  (disk: SimulatedDisk, expected: ReadonlyMap<string, string>): Effect.Effect<"absent" | "whole", unknown> =>
    Effect.gen(function*() {
      if (!disk.files.has(target)) return "absent"
      const kv = yield* Kv.make({ directory: target, policy: "strict" })
      const entries = yield* Stream.runCollect(kv.entries({ ordered: true }))
      const found = entries.map(({ key, value }) => [latin1(key), latin1(value)])
      assert.deepStrictEqual(found, Array.from(expected).sort(([a], [b]) => a < b ? -1 : 1))
      return "whole"
    }).pipe(Effect.scoped, over(disk), Effect.catchDefect((defect) => Effect.fail(defect)))

const targets = [
  making("an export", "/out/x.jsonl", (kv) => Export.toFile(kv, "/out/x.jsonl"), exportFound("/out/x.jsonl"), ["/out"]),
  making(
    "an export over an older one",
    "/out/x.jsonl",
    (kv) => Export.toFile(kv, "/out/x.jsonl"),
    exportFound("/out/x.jsonl", "old\n"),
    ["/out"],
    "old\n"
  ),
  making("an export into new directories", "", (kv) => Export.toFile(kv, "/p/q/x"), exportFound("/p/q/x"), []),
  making("a compaction", "", (kv) => kv.compactTo("/out/t"), compactFound("/out/t"), ["/out"]),
  making("a salvage", "", (kv) => Salvage.toStore(kv.directory, "/out/t"), compactFound("/out/t"), ["/out"]),
  making("a compaction into new directories", "", (kv) => kv.compactTo("/p/q/t"), compactFound("/p/q/t"), [])
]

describe("a target is absent or whole after a crash at any point, and there when the call had resolved", () => {
  for (const mode of modes) {
    for (const workload of targets) {
      it.live(`${workload.name} (${mode})`, () =>
        Effect.gen(function*() {
          const counts = yield* visitAll(workload, mode, { survivors: [20, 1], points: [1], seed: 2 })
          assert.isAbove(counts.get("level 1: points"), 9)
        }))
    }
  }

  for (const workload of targets) {
    it.live(`${workload.name}, made again after the death of the process, is there after a power loss`, () =>
      Effect.gen(function*() {
        const points = new Points(new Counts())
        yield* runAgain(workload, { mode: "adversarial" }, points)
        for (const point of points.taken) {
          const disk = point.disk.kill()
          const first = yield* workload.found(disk.fork(), new Map())
          if (first === "whole" && !workload.name.includes("export")) continue
          yield* Effect.scoped(Effect.flatMap(Kv.make(small), workload.make)).pipe(over(disk))
          for (const survivor of disk.survivors(20)) {
            total.add("targets made again, then lost power")
            assert.strictEqual(yield* workload.found(survivor, new Map()), "whole", `${point.where}\n${disk.script}`)
          }
        }
      }).pipe(quiet))
  }
})

// -- a failed sync ----------------------------------------------------------------------------------------------------

const failureOf = (disk: SimulatedDisk): number =>
  disk.operations.find(({ kind, outcome }) => kind === "sync" && outcome === "EIO")?.index ?? 0

/** Every sync of a workload fails in its turn; `choose` says from which points another process goes on. */
const failEverySync = (
  workload: Workload,
  landed: "dropped" | "half" | "nothing",
  choose: (points: ReadonlyArray<Point>, failed: number) => ReadonlyArray<Point>
) =>
  Effect.gen(function*() {
    const { disk } = yield* runAgain(workload, {}, new Points(new Counts()))
    const syncs = disk.operations.filter(({ kind }) => kind === "sync").length
    const visitor = new Visitor(workload, { survivors: [2, 3, 1], points: [2, 1], seed: 1 })
    for (let nth = 1; nth <= syncs; nth++) {
      const points = new Points(new Counts())
      let failing: SimulatedDisk | undefined
      let later: Exit.Exit<void, unknown> | undefined
      const checked: Workload = {
        ...workload,
        prepare: (disk, model) => {
          failing = disk
          return workload.prepare?.(disk, model) ?? Effect.void
        },
        run: Effect.fnUntraced(function*(subject, disk) {
          yield* Effect.exit(workload.run(subject, disk))
          if (failureOf(disk) > 0) later = yield* Effect.exit(subject.log.sync)
        })
      }
      yield* Effect.exit(
        runAgain(checked, { seed: nth, faults: [{ kind: "sync", nth, code: "EIO", landed }] }, points)
      )
      const failed = failing === undefined ? 0 : failureOf(failing)
      assert.isAbove(failed, 0)
      assert.isTrue(later === undefined || Exit.isFailure(later), "a later sync of the same writer reports success")
      total.add("failed syncs")
      for (const point of choose(points.taken, failed)) {
        yield* visitor.visit(point, 0, `\nsync ${nth} ${landed}`)
      }
    }
    total.addAll(visitor.counts)
  }).pipe(quiet)

describe("after a failed sync, what a later writer syncs survives", () => {
  for (const workload of [...workloads.slice(0, 4), ...cuttings]) {
    for (const landed of ["dropped", "half", "nothing"] as const) {
      it.live(`${workload.name} (the dirty data: ${landed})`, () =>
        failEverySync(workload, landed, (points, failed) => {
          // The next call notes the failure for the next writer.
          const noted = points.filter((point) => isBehind(point, failed + 1))
          return Array.from(new Set([...noted.slice(0, 2), ...noted.slice(-2), ...points.slice(-1)]))
        }))
    }
  }

  // The kernel tells of the failure once: the note for the next writer must be there already.
  it.live("even if the process dies before it could do anything about it", () =>
    failEverySync(
      workloads[0]!,
      "dropped",
      (points, failed) => points.filter((point) => isBehind(point, failed) && !isBehind(point, failed + 1))
    ))
})

// -- defects found here, each with its smallest script ---------------------------------------------------------------

const payloads = (policy: Log.Policy = "repair") =>
  Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory, policy })
    return (yield* Stream.runCollect(log.stream)).map(({ payload }) => latin1(payload).slice(0, 6))
  }))

describe("found by the simulated disk", () => {
  const failedSync = Effect.fnUntraced(function*(disk: SimulatedDisk) {
    yield* Effect.scoped(Effect.gen(function*() {
      const log = yield* Log.make({ directory })
      yield* log.append("first.")
      yield* log.sync
      yield* log.append("second".padEnd(600, "."))
      disk.fail({ kind: "sync", code: "EIO", landed: "dropped" })
      yield* Effect.flip(log.sync)
    })).pipe(over(disk), quiet)
    return disk.kill()
  })

  it.live("what a failed fsync dropped is not behind what the next writer syncs", () =>
    Effect.gen(function*() {
      const disk = yield* failedSync(makeDisk({ directories: [directory] }))
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        yield* log.append("third.")
        yield* log.sync
      })).pipe(over(disk))
      for (const survivor of disk.survivors(20)) {
        assert.deepStrictEqual(yield* payloads().pipe(over(survivor)), ["first.", "second", "third."])
      }
    }))

  it.live("what a failed fsync dropped does not make a closed segment corrupt", () =>
    Effect.gen(function*() {
      const disk = yield* failedSync(makeDisk({ directories: [directory] }))
      yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.rotate)).pipe(over(disk))
      for (const survivor of disk.survivors(20)) {
        assert.deepStrictEqual(yield* payloads().pipe(over(survivor)), ["first.", "second"])
      }
    }))

  it.live("a directory made by a process that died at once is durable when the next one syncs", () =>
    Effect.gen(function*() {
      const disk = makeDisk({ faults: [{ kind: "makeDirectory", stop: "after" }] })
      yield* Effect.exit(payloads().pipe(over(disk)))
      const next = disk.kill()
      yield* Effect.scoped(Effect.gen(function*() {
        const log = yield* Log.make({ directory })
        yield* log.append("first.")
        yield* log.sync
      })).pipe(over(next))
      for (const survivor of next.survivors(20)) {
        assert.deepStrictEqual(yield* payloads().pipe(over(survivor)), ["first."])
      }
    }))

  it.live("a header that reaches into a sector that was never written is torn, wherever it is cut", () =>
    Effect.gen(function*() {
      for (let length = 450; length < 490; length++) {
        const disk = makeDisk({ directories: [directory] })
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          yield* log.append("first.".padEnd(length, "."))
          yield* log.sync
          yield* log.append("second")
          for (const survivor of disk.survivors(200)) {
            assert.strictEqual((yield* payloads().pipe(over(survivor)))[0], "first.", survivor.script)
          }
        })).pipe(over(disk))
      }
    }))

  it.live("a compaction whose last step fails leaves a target that is absent or whole after a power loss", () =>
    Effect.gen(function*() {
      const compacting = (disk: SimulatedDisk) =>
        Effect.scoped(Effect.gen(function*() {
          const kv = yield* Kv.make({ directory })
          yield* kv.put("a", "1")
          return yield* Effect.exit(kv.compactTo("/out/t"))
        })).pipe(over(disk), quiet)
      const directories = [directory, "/out"]
      const whole = makeDisk({ directories })
      yield* compacting(whole)
      const nth = whole.operations.filter(({ kind, path }) => kind === "syncDirectory" && path.includes("/out")).length
      const disk = makeDisk({ directories, faults: [{ kind: "syncDirectory", path: "/out", nth, code: "EIO" }] })
      assert.isTrue(Exit.isFailure(yield* compacting(disk)))
      for (const survivor of disk.survivors(100)) {
        const found = yield* Effect.exit(compactFound("/out/t")(survivor, new Map([["a", "1"]])))
        assert.isTrue(Exit.isSuccess(found), `${disk.script}\n${String(found)}`)
      }
    }))
})
