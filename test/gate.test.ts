/** The gate that lets one through at a time: in order, past whoever gives up, and to no one after it has closed. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, References } from "effect"
import * as V8 from "node:v8"
import * as VM from "node:vm"
import { Gate } from "../src/internal/gate.ts"
import { seeded } from "../src/internal/simulatedRandom.ts"

const many = { concurrency: "unbounded", discard: true } as const
const numbers = (count: number) => Array.from({ length: count }, (_, at) => at)

describe("the gate", () => {
  it.effect("lets one through at a time, in the order they came, and is free again", () =>
    Effect.gen(function*() {
      const gate = new Gate()
      const seen: Array<number> = []
      let inside = 0
      const step = (at: number) =>
        gate.hold(Effect.gen(function*() {
          assert.strictEqual(++inside, 1)
          assert.isTrue(gate.isHeld)
          for (let turn = at % 3; turn > 0; turn--) yield* Effect.yieldNow
          seen.push(at)
          inside--
        }))
      yield* Effect.forEach(numbers(100), step, many)
      assert.deepStrictEqual(seen, numbers(100))
      assert.isFalse(gate.isHeld)
    }))

  it.effect("lets a few through at a time, if it is told to, in the order they came", () =>
    Effect.gen(function*() {
      const gate = new Gate(3)
      const begun: Array<number> = []
      let [inside, most] = [0, 0]
      const step = (at: number) =>
        gate.hold(Effect.gen(function*() {
          begun.push(at)
          most = Math.max(most, ++inside)
          for (let turn = at % 4; turn > 0; turn--) yield* Effect.yieldNow
          inside--
        }))
      yield* Effect.forEach(numbers(100), step, many)
      assert.deepStrictEqual([begun, most, inside, gate.isHeld], [numbers(100), 3, 0, false])
    }))

  it.effect("lets the next one in behind a failure, a defect and an interruption", () =>
    Effect.gen(function*() {
      const gate = new Gate()
      assert.isTrue(Exit.isFailure(yield* Effect.exit(gate.hold(Effect.fail("no")))))
      assert.isTrue(Exit.hasDies(yield* Effect.exit(gate.hold(Effect.die("no")))))
      const held = yield* Effect.forkChild(gate.hold(Effect.never), { startImmediately: true })
      const behind = yield* Effect.forkChild(gate.hold(Effect.succeed("let through")), { startImmediately: true })
      yield* Fiber.interrupt(held)
      assert.strictEqual(yield* Fiber.join(behind), "let through")
      assert.isFalse(gate.isHeld)
    }))

  it.live("keeps nothing of those who gave up while one was in it for long", () =>
    Effect.gen(function*() {
      V8.setFlagsFromString("--expose-gc")
      const collect = VM.runInNewContext("gc") as () => void
      const used = () => {
        collect()
        return process.memoryUsage().heapUsed
      }
      const gate = new Gate()
      yield* Effect.forkChild(gate.hold(Effect.never), { startImmediately: true })
      const giveUp = Effect.gen(function*() {
        const waiting = yield* Effect.forkChild(gate.hold(Effect.void), { startImmediately: true })
        yield* Fiber.interrupt(waiting)
      })
      yield* Effect.repeat(giveUp, { times: 5_000 })
      const before = used()
      yield* Effect.repeat(giveUp, { times: 50_000 })
      // It was 120 bytes for each.
      assert.isAtMost(used() - before, 3_000_000)
    }))

  // Fibers give way to each other after every few operations here, so that an interruption comes between any two.
  it.live(
    "is never lost to whoever is interrupted, wherever he is",
    () =>
      Effect.forEach(numbers(300), (seed) =>
        Effect.gen(function*() {
          const pick = seeded(seed)
          const gate = new Gate()
          let [inside, done] = [0, 0]
          const work = gate.hold(Effect.acquireUseRelease(
            Effect.sync(() => assert.strictEqual(++inside, 1)),
            () => Effect.yieldNow,
            () =>
              Effect.sync(() => {
                inside--
                done++
              })
          ))
          const fibers: Array<Fiber.Fiber<void>> = []
          const interrupting: Array<Fiber.Fiber<void>> = []
          for (let at = 0; at < 12; at++) {
            fibers.push(yield* Effect.forkChild(work))
            for (let turn = pick(3); turn > 0; turn--) yield* Effect.yieldNow
            const impatient = fibers[pick(2 * fibers.length)]
            if (impatient !== undefined) interrupting.push(yield* Effect.forkChild(Fiber.interrupt(impatient)))
          }
          yield* Effect.forEach(interrupting, Fiber.await)
          const exits = yield* Effect.forEach(fibers, Fiber.await)
          assert.isAtLeast(done, exits.filter(Exit.isSuccess).length)
          assert.deepStrictEqual([inside, gate.isHeld], [0, false])
          return exits.filter(Exit.isSuccess).length
        }).pipe(Effect.provideService(References.MaxOpsBeforeYield, 3 + seed % 7))).pipe(
          Effect.map((counts) => {
            const total = counts.reduce((sum, count) => sum + count, 0)
            assert.isAbove(total, 300)
            assert.isBelow(total, 300 * 12 - 300)
          })
        ),
    10_000
  )

  it.effect("refuses who waits and who comes once it is closed, and lets him finish who is in", () =>
    Effect.gen(function*() {
      const gate = new Gate<string>()
      const out = yield* Deferred.make<string>()
      const inside = yield* Effect.forkChild(gate.hold(Deferred.await(out)), { startImmediately: true })
      const waiting = yield* Effect.forkChild(Effect.exit(gate.hold(Effect.succeed("in"))), { startImmediately: true })
      gate.refuse("closed")
      assert.deepStrictEqual(yield* Fiber.join(waiting), Exit.fail("closed"))
      assert.deepStrictEqual(yield* Effect.exit(gate.hold(Effect.succeed("in"))), Exit.fail("closed"))
      yield* Deferred.succeed(out, "finished")
      assert.strictEqual(yield* Fiber.join(inside), "finished")
    }))

  // Whoever is let in runs in the very step in which the one before lets go: those behind him are not let in yet.
  it.effect("whoever asks again in the step in which he lets go is behind those who wait", () =>
    Effect.gen(function*() {
      const gate = new Gate()
      const seen: Array<string> = []
      const see = (what: string) => Effect.sync(() => void seen.push(what))
      const out = yield* Deferred.make<void>()
      yield* Effect.forkChild(gate.hold(Deferred.await(out)), { startImmediately: true })
      const again = [
        gate.hold(see("first")),
        gate.holdNow(see("overtakes"), see("would have to wait")),
        gate.hold(see("first again"))
      ]
      const first = yield* Effect.forkChild(Effect.all(again), { startImmediately: true })
      const second = yield* Effect.forkChild(gate.hold(see("second")), { startImmediately: true })
      yield* Deferred.succeed(out, undefined)
      yield* Fiber.joinAll([first, second])
      assert.deepStrictEqual(seen, ["first", "would have to wait", "second", "first again"])
    }))

  it.effect("whoever takes it at once has it alone, until he lets go", () =>
    Effect.gen(function*() {
      const gate = new Gate()
      const out = yield* Deferred.make<void>()
      const held = gate.holdNow(Effect.as(Deferred.await(out), "had it"), Effect.succeed("had to wait"))
      const inside = yield* Effect.forkChild(held, { startImmediately: true })
      assert.deepStrictEqual([gate.isHeld, gate.isHeldBy(inside)], [true, true])
      assert.strictEqual(yield* held, "had to wait")
      const behind = yield* Effect.forkChild(gate.hold(Effect.succeed("behind")), { startImmediately: true })
      assert.isUndefined(behind.pollUnsafe())
      yield* Deferred.succeed(out, undefined)
      assert.deepStrictEqual(yield* Fiber.joinAll([inside, behind]), ["had it", "behind"])
      assert.deepStrictEqual([inside, behind].map((fiber) => gate.isHeldBy(fiber)), [false, false])
      assert.isFalse(gate.isHeld)
    }))

  it.effect("once it is closed, nobody takes it at once either", () =>
    Effect.gen(function*() {
      const gate = new Gate<string>()
      gate.refuse("closed")
      const exit = yield* Effect.exit(gate.holdNow(Effect.succeed("in"), Effect.succeed("had to wait")))
      assert.deepStrictEqual(exit, Exit.fail("closed"))
    }))

  it.live("takes for ten times as many who wait about ten times as long", () =>
    Effect.gen(function*() {
      // Of this process alone: neither what else the machine does nor a stop of the process counts.
      const time = (count: number) =>
        Effect.gen(function*() {
          const gate = new Gate()
          const start = process.cpuUsage()
          yield* Effect.forEach(numbers(count), () => gate.hold(Effect.yieldNow), many)
          const { system, user } = process.cpuUsage(start)
          return (system + user) / 1_000
        })
      yield* time(2_000)
      const few = Math.min(yield* time(2_000), yield* time(2_000), yield* time(2_000))
      // A list that each looks through would take a hundred times as long.
      assert.isBelow(yield* time(20_000), 40 * few + 100)
    }))
})
