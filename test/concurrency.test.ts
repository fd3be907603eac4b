/**
 * Many fibers at once on one store: they append, sync, rotate, read, iterate, compact and interrupt each other, over a
 * simulated disk that ends calls in any order. Each claim is tried with dozens of seeds; one seed is one run.
 *
 * An acknowledgement is held against what a power loss at that very moment would leave, by a parser of the tests' own.
 * A reader is held against what had been written when it looked, and what was written when it had read.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, References, Scope, Stream } from "effect"
import * as Disk from "../src/Disk.ts"
import * as Export from "../src/Export.ts"
import { mix, seeded } from "../src/internal/simulatedRandom.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import { makeDisk, type SimulatedDisk } from "../src/testing.ts"
import {
  eventLoopTurn,
  fold,
  foldProblem,
  inputOf,
  listingSlowly,
  Model,
  open,
  over,
  type Rec,
  recOf,
  recordsIn,
  type Subject
} from "./support/crashModel.ts"

type Pick = (count: number) => number

const directory = "/s"

/** A store in use, and what the seed decides. */
interface World extends Subject {
  readonly disk: SimulatedDisk
  readonly pick: Pick
  readonly seed: number
  readonly options: Log.Options
}

/** Opens a store of the seed's options, on a disk that ends calls in the seed's order. */
const inWorld = <A>(
  seed: number,
  durability: Log.Durability,
  use: (world: World) => Effect.Effect<A, unknown>
): Effect.Effect<{ readonly world: World; readonly value: A }, unknown> => {
  const pick = seeded(mix(seed, 5))
  const mode = pick(2) === 0 ? "adversarial" : "ordered"
  const disk = makeDisk({ seed, mode, shuffle: true, directories: [directory] })
  const options: Log.Options = {
    directory,
    durability,
    segmentSize: [120, 700, 2_000, 100_000][pick(4)],
    chunkSize: pick(3) === 0 ? 50 + pick(500) : undefined
  }
  return Effect.scoped(Effect.gen(function*() {
    const subject = yield* open(options, new Model())
    const world: World = { ...subject, disk, pick, seed, options }
    return { world, value: yield* use(world) }
  })).pipe(
    over(disk),
    // Where fibers give way to each other without waiting for anything.
    Effect.provideService(References.MaxOpsBeforeYield, [5, 20, 100, 2_048][seed % 4] ?? 2_048)
  )
}

// CONCURRENCY=20 tries twenty times as many.
const times = Number(process.env["CONCURRENCY"] ?? 1)

/** One run a seed; what is found wrong says which it was. */
const eachSeed = (count: number, run: (seed: number) => Effect.Effect<unknown, unknown>) =>
  Effect.gen(function*() {
    for (let seed = 1; seed <= count * times; seed++) {
      const exit = yield* Effect.exit(run(seed))
      if (Exit.isFailure(exit)) throw new Error(`seed ${seed}`, { cause: exit.cause })
    }
  }).pipe(Effect.provideService(References.MinimumLogLevel, "None"))

const fibers = (count: number, run: (fiber: number) => Effect.Effect<unknown, unknown>) =>
  Effect.forEach(Array.from({ length: count }, (_, fiber) => fiber), run, { concurrency: "unbounded", discard: true })

/** A few steps of a fiber, and other fibers in between. */
const steps = ({ pick }: World, count: number, step: (at: number) => Effect.Effect<unknown, unknown>) =>
  Effect.gen(function*() {
    for (let at = 0; at < count; at++) {
      for (let turns = pick(4); turns > 0; turns--) yield* eventLoopTurn
      yield* step(at)
    }
  })

// -- writing ----------------------------------------------------------------------------------------------------------

const lengths = [0, 5, 60, 300, 480, 900]

/** A record that no other fiber writes, nor this one again. */
const recordOf = ({ pick }: World, fiber: number, at: number): Rec => {
  const name = `${fiber}-${at}:`
  const payload = name.padEnd(lengths[pick(lengths.length)] ?? 0, "x")
  return pick(2) === 0 ? { type: "Raw", key: "", payload } : { type: "Put", key: `k${pick(5)}`, payload }
}

const append = (world: World, record: Rec) => {
  const { ask, kv, log, pick } = world
  return ask(
    [record],
    record.type === "Put" && pick(2) === 0 ? kv.put(record.key, record.payload) : log.appendRecord(inputOf(record))
  )
}

const appendAll = (world: World, records: ReadonlyArray<Rec>) =>
  world.ask(records, world.log.appendAll(records.map(inputOf)))

/** Any one write. */
const write = (world: World, fiber: number, at: number): Effect.Effect<unknown, unknown> => {
  const { kv, pick } = world
  const record = recordOf(world, fiber, at)
  switch (pick(5)) {
    case 0:
      return appendAll(world, [
        record,
        ...Array.from({ length: pick(3) }, (_, n) => recordOf(world, fiber, 100 * at + n + 100))
      ])
    case 1: {
      const put: Rec = { ...record, type: "Put", key: `k${pick(5)}` }
      return world.ask([put], kv.modify(put.key, () => [0, put.payload]))
    }
    default:
      return append(world, record)
  }
}

// -- what would survive -----------------------------------------------------------------------------------------------

const isSame = (a: Rec | undefined, b: Rec | undefined): boolean =>
  a?.type === b?.type && a?.key === b?.key && a?.payload === b?.payload

/** What power losses at this moment leave: nothing of what is pending, all of it, and something in between. */
const losses = ({ disk, seed }: World): Array<SimulatedDisk> =>
  disk.survivors(3, { seed: mix(seed, disk.operations.length) })

/** Holds that the first `count` of the written survive a power loss at this very moment. */
const assertDurable = (world: World, count: number, what: string): void => {
  const { written } = world.model
  for (const [index, survivor] of losses(world).entries()) {
    const found = recordsIn(survivor.files, directory)
    const lost = written.slice(0, count).findIndex((record, at) => !isSame(record, found[at]))
    assert.strictEqual(lost, -1, `${what} was told that ${count} are durable: of power loss ${index}, ${lost} is lost`)
  }
}

describe("what is acknowledged while many fibers write would survive a power loss at that very moment", () => {
  it.live("everything that was appended before a sync, when it resolves", () =>
    eachSeed(50, (seed) =>
      inWorld(seed, "manual", (world) => {
        const { kv, log, model, pick } = world
        return fibers(3 + pick(4), (fiber) =>
          steps(world, 6, (at) =>
            Effect.gen(function*() {
              yield* write(world, fiber, at)
              const before = model.written.length
              const kind = pick(5)
              if (kind === 0) return
              yield* kind === 1 ? log.rotate : kind === 2 ? kv.sync : log.sync
              assertDurable(world, before, kind === 1 ? "a rotate" : "a sync")
            })))
      })))

  it.live("every append, batch, put and modify of a store that is always durable, when it resolves", () =>
    eachSeed(60, (seed) =>
      inWorld(seed, "always", (world) => {
        const { model, pick } = world
        return fibers(3 + pick(4), (fiber) =>
          steps(world, 4, (at) =>
            Effect.gen(function*() {
              const before = model.asked.length
              yield* write(world, fiber, at)
              // Its own are the first that this fiber has asked for since.
              const mine = model.asked.slice(before).filter(({ payload }) => payload.startsWith(`${fiber}-`))
              const last = Math.max(...mine.map((record) => model.txidOf(record)))
              assert.isAbove(last, 0)
              assertDurable(world, last, "a write")
            })))
      })))

  it.live("every line of an import, when it resolves", () =>
    eachSeed(40, (seed) =>
      inWorld(seed, "manual", (world) => {
        const { ask, kv, model, pick } = world
        return fibers(4, (fiber) =>
          fiber < 2
            ? steps(world, 4, (at) => write(world, fiber, at))
            : steps(world, 2, (at) =>
              Effect.gen(function*() {
                const records = Array.from({ length: 1 + pick(4) }, (_, n): Rec => ({
                  type: "Put",
                  key: `k${n}`,
                  payload: `${fiber}-${at}-${n}:`.padEnd(lengths[pick(lengths.length)] ?? 0, "x")
                }))
                const lines = records.map(({ key, payload }) =>
                  `{"key_b64":"${btoa(key)}","value_b64":"${btoa(payload)}"}\n`
                )
                const input = Stream.map(Stream.fromIterable(lines), (line) => Buffer.from(line))
                yield* ask(records, Export.fromLines(kv, input))
                assertDurable(world, Math.max(...records.map((record) => model.txidOf(record))), "an import")
              })))
      })))

  it.live("the whole target of an export or a compaction, when it resolves", () =>
    eachSeed(60, (seed) =>
      inWorld(seed, "manual", (world) => {
        const { kv, model, pick } = world
        return fibers(4, (fiber) =>
          fiber < 2
            ? steps(world, 5, (at) => write(world, fiber, at))
            : steps(world, 2, (at) =>
              Effect.gen(function*() {
                const target = `/out/${fiber}-${at}`
                const from = model.written.length
                const isExport = pick(2) === 0
                yield* isExport ? Export.toFile(kv, target) : kv.compactTo(target)
                const moments = Array.from(
                  { length: model.written.length - from + 1 },
                  (_, n) => sorted(model.written.slice(0, from + n))
                )
                for (const survivor of losses(world)) {
                  const found = isExport ? linesOf(survivor, target) : keysOf(recordsIn(survivor.files, target))
                  assert.include(moments, found)
                }
              })))
      })))
})

const sorted = (records: ReadonlyArray<Rec>): string =>
  JSON.stringify(Array.from(fold(records)).sort(([a], [b]) => a < b ? -1 : 1))

const keysOf = (records: ReadonlyArray<Rec>): string =>
  JSON.stringify(records.map(({ key, payload }) => [key, payload]))

const linesOf = (disk: SimulatedDisk, path: string): string => {
  const text = Buffer.from(disk.files.get(path) ?? []).toString()
  const lines = text.split("\n").slice(0, -1).map((line) => JSON.parse(line) as { key_b64: string; value_b64: string })
  return JSON.stringify(lines.map(({ key_b64, value_b64 }) => [atob(key_b64), atob(value_b64)]))
}

// -- readers ----------------------------------------------------------------------------------------------------------

/** Fibers that write, sync and rotate, beside others. */
const busily = (world: World, beside: ReadonlyArray<Effect.Effect<unknown, unknown>>) =>
  fibers(3 + beside.length, (fiber) =>
    beside[fiber - 3] ?? steps(world, 8, (at) => {
      const { log, pick } = world
      const kind = pick(8)
      return kind === 0 ? log.sync : kind < 3 ? log.rotate : write(world, fiber, at)
    }))

describe("while many fibers write", () => {
  it.live("a reader without the lock sees a prefix, with all that was written before it listed the segments", () =>
    eachSeed(60, (seed) =>
      inWorld(seed, "manual", (world) => {
        const { disk, model, options, pick } = world
        const reading = Effect.scoped(Effect.gen(function*() {
          const reader = yield* Reader.make({ directory, chunkSize: options.chunkSize })
          for (let again = 0; again < 3; again++) {
            for (let turns = pick(12); turns > 0; turns--) yield* eventLoopTurn
            const floor = model.written.length
            const shown: Array<Rec> = []
            yield* Stream.runForEachArray(reader.stream, (records) => {
              shown.push(...records.map(recOf))
              return eventLoopTurn
            })
            assert.isUndefined(model.check(shown, floor))
          }
        })).pipe(Effect.provideService(Disk.Disk, listingSlowly(disk, seeded(mix(seed, 6)), 60)))
        return busily(world, [reading, reading])
      })))

  it.live("a key/value store opened without the lock is the writer's at some moment, and stays so", () =>
    eachSeed(60, (seed) =>
      inWorld(seed, "manual", (world) => {
        const { disk, model, options, pick } = world
        const reading = Effect.scoped(Effect.gen(function*() {
          for (let turns = pick(12); turns > 0; turns--) yield* eventLoopTurn
          const floor = model.written.length
          const kv = yield* Kv.makeReader({ directory, chunkSize: options.chunkSize })
          const { records } = yield* kv.statistics
          assert.isAtLeast(records, floor)
          for (let again = 0; again < 2; again++) {
            for (let turns = pick(12); turns > 0; turns--) yield* eventLoopTurn
            const entries = yield* Stream.runCollect(kv.entries({ ordered: again === 0 }))
            // A record may be seen in the file before its writer has been told of it.
            if (records > model.written.length) assert.isAtMost(records, model.written.length + model.underWay.length)
            else assert.isUndefined(foldProblem(entries, model.written.slice(0, records)))
          }
        })).pipe(Effect.provideService(Disk.Disk, listingSlowly(disk, seeded(mix(seed, 6)), 60)))
        return busily(world, [reading, reading])
      })))

  it.live("a stream of the log has just the records that were written when it started", () =>
    eachSeed(50, (seed) =>
      inWorld(seed, "manual", (world) => {
        const { log, model, pick } = world
        const reading = Effect.gen(function*() {
          for (let again = 0; again < 3; again++) {
            for (let turns = pick(12); turns > 0; turns--) yield* eventLoopTurn
            const from = model.written.length
            let to: number | undefined
            const shown: Array<Rec> = []
            yield* Stream.runForEachArray(log.stream, (records) => {
              to ??= model.written.length
              shown.push(...records.map(recOf))
              return eventLoopTurn
            })
            assert.isAtMost(shown.length, to ?? model.written.length)
            assert.isUndefined(model.check(shown, from))
          }
        })
        return busily(world, [reading, reading])
      })))

  it.live("the entries are those of the moment at which the stream started, however slowly they are taken", () =>
    eachSeed(50, (seed) =>
      inWorld(seed, "manual", (world) => {
        const { kv, model, pick } = world
        const reading = Effect.gen(function*() {
          for (let again = 0; again < 3; again++) {
            for (let turns = pick(12); turns > 0; turns--) yield* eventLoopTurn
            const from = model.written.length
            let to: number | undefined
            const entries: Array<Kv.KeyValue> = []
            yield* Stream.runForEachArray(Stream.rechunk(kv.entries({ ordered: pick(2) === 0 }), 1), (next) => {
              to ??= model.written.length
              entries.push(...next)
              return eventLoopTurn
            })
            to ??= model.written.length
            const moments = Array.from({ length: to - from + 1 }, (_, at) => model.written.slice(0, from + at))
            assert.isTrue(moments.some((records) => foldProblem(entries, records) === undefined))
          }
        })
        return busily(world, [reading, reading])
      })))

  it.live("a key/value store that is made over the log in use has every record of it once", () =>
    eachSeed(50, (seed) =>
      inWorld(seed, "manual", (world) =>
        Effect.gen(function*() {
          const made: Array<Kv.Kv["Service"]> = []
          const scope = yield* Effect.scope
          const making = Effect.gen(function*() {
            for (let turns = world.pick(12); turns > 0; turns--) yield* eventLoopTurn
            made.push(yield* Effect.provideService(Kv.makeLog, Log.Log, world.log))
          })
          yield* busily(world, [Effect.provideService(making, Scope.Scope, scope)])
          for (const kv of made) {
            const { records } = yield* kv.statistics
            assert.strictEqual(records, world.model.written.length)
            assert.isUndefined(foldProblem(yield* Stream.runCollect(kv.entries()), world.model.written))
          }
        }).pipe(Effect.scoped))))

  it.live("what modify was given is what its own write replaced", () =>
    eachSeed(60, (seed) =>
      inWorld(seed, "manual", (world) => {
        const { ask, kv, pick } = world
        return Effect.gen(function*() {
          yield* fibers(6, (fiber) =>
            steps(world, 6, (at) => {
              const key = `n${pick(2)}`
              return pick(4) === 0
                ? append(world, recordOf(world, fiber, at))
                : kv.modify(
                  key,
                  (value) => [0, `${Number(value === undefined ? 0 : Buffer.from(value).toString()) + 1}`]
                )
            }))
          // Counted as often as it was written.
          for (const key of ["n0", "n1"]) {
            const times = world.model.written.filter((record) => record.key === key).length
            const value = yield* kv.get(key)
            assert.strictEqual(value === undefined ? 0 : Number(Buffer.from(value).toString()), times)
          }
          yield* ask([], kv.sync)
        })
      })))
})

// -- leaving ----------------------------------------------------------------------------------------------------------

describe("fibers that interrupt each other", () => {
  for (const durability of ["manual", "always"] as const) {
    it.live(`lose nothing that one was told of, write nothing twice, and keep each one's order (${durability})`, () =>
      eachSeed(60, (seed) =>
        Effect.gen(function*() {
          const told: Array<Rec> = []
          const { world } = yield* inWorld(seed, durability, (world) => {
            const { log, pick } = world
            const running: Array<Fiber.Fiber<unknown, unknown>> = []
            return fibers(6, (fiber) =>
              steps(world, 6, (at) =>
                Effect.gen(function*() {
                  const kind = pick(10)
                  const record = recordOf(world, fiber, at)
                  const work: Effect.Effect<unknown, unknown> = kind < 6
                    ? Effect.map(append(world, record), () => told.push(record))
                    : kind < 7
                    ? log.sync
                    : kind < 8
                    ? log.rotate
                    : kind < 9
                    ? Stream.runDrain(log.stream)
                    : write(world, fiber, 1_000 + at)
                  const mine = yield* Effect.forkChild(work, { startImmediately: true })
                  running[fiber] = mine
                  const other = running[pick(6)]
                  if (pick(3) === 0 && other !== undefined && other !== mine) {
                    for (let turns = pick(5); turns > 0; turns--) yield* eventLoopTurn
                    yield* Fiber.interrupt(other)
                  }
                  const exit = yield* Fiber.await(mine)
                  assert.isTrue(Exit.isSuccess(exit) || Exit.hasInterrupts(exit))
                })))
          })
          assert.strictEqual(world.disk.openFiles, 0)
          assert.deepStrictEqual(world.disk.misuse, [])
          const { written } = world.model
          assert.strictEqual(new Set(written.map(({ payload }) => payload)).size, written.length)
          for (const record of told) assert.isAbove(world.model.txidOf(record), 0)
          const order = told.map((record) => ({
            fiber: record.payload.split("-")[0],
            txid: world.model.txidOf(record)
          }))
          for (const fiber of ["0", "1", "2", "3", "4", "5"]) {
            const txids = order.filter((each) => each.fiber === fiber).map(({ txid }) => txid)
            assert.deepStrictEqual(txids, txids.toSorted((a, b) => a - b))
          }
          // The scope has closed: what is on the disk is what was written, whole, and the next one may open it.
          const shown = yield* Effect.scoped(Effect.flatMap(
            Log.make({ directory, policy: "strict" }),
            (log) => Stream.runCollect(log.stream)
          )).pipe(over(world.disk))
          assert.deepStrictEqual(shown.map(recOf), written)
        })))
  }
})

describe("a store that closes", () => {
  it.effect("sees what it takes until the end: no put that succeeded is missed by the next get, no modify is lost", () =>
    Effect.gen(function*() {
      for (let seed = 1; seed <= 30; seed++) {
        const disk = makeDisk({ seed, shuffle: true, directories: [directory] })
        const pick = seeded(mix(seed, 11))
        const opening = Kv.make({ directory, checkpoint: seed % 2 === 0 ? "always" : "never" })
        const counted = yield* Effect.gen(function*() {
          const scope = yield* Scope.make()
          const kv = yield* Scope.provide(opening, scope)
          let counted = 0
          const counting = Effect.forever(
            Effect.map(kv.modify("n", (n) => [undefined, `${Number(recordText(n)) + 1}`]), () => {
              counted++
            }).pipe(Effect.andThen(Effect.yieldNow))
          )
          const putting = Effect.gen(function*() {
            for (let count = 1;; count++) {
              yield* kv.put("p", `${count}`)
              assert.strictEqual(Number(recordText(yield* kv.get("p"))), count, `seed ${seed}`)
              yield* Effect.yieldNow
            }
          })
          const fibers = yield* Effect.forEach(
            [counting, counting, counting, putting],
            (work) => Effect.forkChild(work)
          )
          for (let left = pick(60); left > 0; left--) yield* Effect.yieldNow
          yield* Scope.close(scope, Exit.void)
          for (const fiber of fibers) {
            const error = yield* Effect.flip(Fiber.join(fiber))
            assert.deepInclude(error, { _tag: "IoError", code: "EBADF" }, `seed ${seed}`)
          }
          return counted
        }).pipe(over(disk), Effect.provideService(References.MaxOpsBeforeYield, 3 + pick(20)))
        const stored = yield* Effect.scoped(Effect.flatMap(opening, (kv) => kv.get("n"))).pipe(over(disk))
        assert.strictEqual(Number(recordText(stored)), counted, `seed ${seed}`)
      }
    }))
})

const recordText = (value: Uint8Array | undefined): string =>
  value === undefined ? "0" : new TextDecoder().decode(value)

describe("a call with very many records", () => {
  it.effect("lets others have their turn while these are made of what the caller has", () =>
    Effect.gen(function*() {
      const count = 20_000
      const disk = makeDisk({ directories: [directory] })
      const busy: Disk.DiskService = { ...disk.service, isTurnOver: () => true }
      yield* Effect.scoped(Effect.gen(function*() {
        const { kv, log } = yield* Kv.makeWithLog({ directory })
        const keys = Array.from({ length: count }, (_, at) => `key ${at}`)
        const calls = {
          putMany: kv.putMany(keys.map((key) => [key, key] as const)),
          deleteMany: kv.deleteMany(keys),
          appendAll: log.appendAll(keys)
        }
        for (const [name, call] of Object.entries(calls)) {
          let turns = 0
          const others = yield* Effect.forkScoped(
            Effect.forever(Effect.andThen(Effect.yieldNow, Effect.sync(() => turns++)))
          )
          yield* call
          yield* Fiber.interrupt(others)
          // The writing itself does for each 1,024.
          assert.isAbove(turns, 2 * count / 1_024, name)
        }
      })).pipe(Effect.provideService(Disk.Disk, busy))
    }))

  it.effect("is overtaken by none that comes later, and takes a list that is used again at once as it was", () =>
    Effect.gen(function*() {
      for (const count of [200, 1_000, 1_025, 5_000]) {
        const disk = makeDisk({ directories: [directory] })
        const busy: Disk.DiskService = { ...disk.service, isTurnOver: () => true }
        yield* Effect.scoped(Effect.gen(function*() {
          const { kv, log } = yield* Kv.makeWithLog({ directory })
          const keys = Array.from({ length: count }, (_, at) => `key ${at}`)
          const last = `key ${count - 1}`
          const start = <A, E>(call: Effect.Effect<A, E>) => Effect.forkScoped(call, { startImmediately: true })

          const pairs = keys.map((key) => [key, "batch"] as const)
          const putting = yield* start(kv.putMany(pairs))
          const later = yield* start(kv.put(last, "later"))
          pairs.length = 0
          yield* Fiber.join(putting)
          yield* Fiber.join(later)
          assert.strictEqual(yield* kv.size, count)
          assert.strictEqual(recordText(yield* kv.get(last)), "later", `${count} puts`)

          const list = keys.slice()
          const deleting = yield* start(kv.deleteMany(list))
          const again = yield* start(kv.put(last, "again"))
          list.fill("another")
          yield* Fiber.join(deleting)
          yield* Fiber.join(again)
          assert.strictEqual(yield* kv.size, 1, `${count} deletes`)
          assert.strictEqual(recordText(yield* kv.get(last)), "again", `${count} deletes`)

          const payloads = keys.slice()
          const appending = yield* start(log.appendAll(payloads))
          const behind = yield* start(log.append("behind"))
          payloads.fill("another")
          const refs = yield* Fiber.join(appending)
          assert.isBelow(refs.at(-1)?.txid ?? assert.fail(), (yield* Fiber.join(behind)).txid, `${count} appends`)
          assert.strictEqual(recordText((yield* log.read(refs.at(-1) ?? assert.fail())).payload), last)
        })).pipe(Effect.provideService(Disk.Disk, busy))
      }
    }))
})
