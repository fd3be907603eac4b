/**
 * Lives random lives of a store (`life.ts`): rounds of steps with faults among them, each ended by a power loss, the
 * death of the process, or a close.
 *
 * | step | what is checked |
 * | --- | --- |
 * | opening | all of `Model.check`; the keys and values are the fold; what was cut is kept; nothing else is changed |
 * | append, put … | the reference names the record; under `always` it is durable when the call resolves |
 * | get | the value at some moment between the call and its answer |
 * | read | without the lock: a prefix of what was written, with all of what was written before the reader listed |
 * | iterate | through the writer: just what was written when the stream started |
 * | project | a `Kv` made over the log in use is its fold |
 * | import | what came before a bad line is stored and durable, and nothing behind it |
 * | export, compact | the target is absent or whole, the fold of some moment, and stays; the source is untouched |
 * | contend | another writer gets `LockHeld`, with this process in it |
 * | pause | with an interval as `durability`: what was written before is durable |
 * | the end | no file is left open, no temporary file is left behind, the lock is free; whoever waits for it gets it |
 */
import { Effect, Exit, Fiber, References, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as Disk from "../../src/Disk.ts"
import * as Lock from "../../src/Lock.ts"
import { makeDisk } from "../../src/testing.ts"
import {
  type Files,
  inputOf,
  Model,
  open,
  over,
  recOf,
  recover,
  type Recovered,
  recoverKv,
  type Store,
  withoutStacks
} from "./crashModel.ts"
import { Counts } from "./crashPoints.ts"
import { type Life, makeLife, recordOf, smallerLives, type Spec } from "./life.ts"
import { isPlanned, type Living, quiet, tagOf, take } from "./lifeSteps.ts"
import { Targets } from "./targets.ts"

export { makeLife } from "./life.ts"

export interface Outcome {
  readonly problem: string | undefined
  /** The calls of the last disk. */
  readonly script: string
}

/** Opens the store once it is free, looks at it, writes a record, and lets go: whoever waits for the lock. */
const waitFor = (spec: Spec, model: Model, living: Living): Effect.Effect<void> =>
  Effect.scoped(Effect.gen(function*() {
    const store = yield* open({ ...living.life.options, waitForLock: "1 hour" }, model)
    const shown = (yield* Stream.runCollect(store.log.stream)).map(recOf)
    const problem = model.check(shown, model.written.length)
    if (problem !== undefined) living.problems.push(`one who waited: ${problem}`)
    model.accept(shown)
    const record = recordOf(spec)
    yield* store.ask([record], store.log.appendRecord(inputOf(record)))
    yield* store.sync
    living.counts.add("openers that waited for the lock, and got it")
  })).pipe(
    over(living.disk),
    Effect.catch((error) =>
      Effect.sync(() => {
        // What a failed write has left may be refused, as at any opening.
        const isRefusal = living.life.mode === "adversarial" && tagOf(error).startsWith("Corrupt")
        if (!isRefusal && !isPlanned(living, error)) living.problems.push(`one who waited failed with ${tagOf(error)}`)
      })
    )
  )

/** Lets time pass until all have ended. */
const passTime = (living: Living, fibers: ReadonlyArray<Fiber.Fiber<unknown>>) =>
  Effect.gen(function*() {
    for (let tries = 0; fibers.some((fiber) => fiber.pollUnsafe() === undefined); tries++) {
      if (tries === 100) {
        living.problems.push("those who wait for the lock do not get it")
        yield* Fiber.interruptAll(fibers)
      }
      yield* TestClock.adjust("1 second")
      yield* quiet(living)
    }
  })

const temporariesIn = (files: Files): Array<string> =>
  Array.from(files.keys()).filter((path) => /^\/stores\/[^/]+\.tmp$/.test(path))

/** What must be so when a round has ended without a crash. */
const endProblem = (living: Living, temporaries: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const { disk, life, round } = living
    if (disk.openFiles > 0) return `${disk.openFiles} files were left open`
    if (round.faults.length === 0 && temporaries.length > 0) return `it has left ${temporaries.join()} behind`
    const locked = yield* Effect.result(Effect.scoped(Lock.acquire(life.options.directory)).pipe(over(disk)))
    return locked._tag === "Failure" && !isPlanned(living, locked.failure)
      ? `the lock is not free: ${locked.failure.message}`
      : undefined
  })

/** Lives one round: what its opening came to. */
const liveRound = (living: Living, model: Model, kept: number): Effect.Effect<Recovered> =>
  Effect.gen(function*() {
    const { disk, life, round } = living
    const mayRefuse = life.mode === "adversarial"
    const waiting: Array<Fiber.Fiber<void>> = []
    const use = (store: Store) =>
      Effect.gen(function*() {
        for (const spec of round.waiting) {
          waiting.push(yield* Effect.forkDetach(waitFor(spec, model, living), { startImmediately: true }))
        }
        for (const step of round.steps) {
          if (!disk.stopped) yield* Effect.exit(take(step, store, living))
        }
        store.look()
      })
    const recovered = yield* round.as === "Log"
      ? recover(disk, life.options, model, kept, mayRefuse, use)
      : recoverKv(disk, { ...life.options, ...savedOften }, model, kept, mayRefuse, use)
    yield* passTime(living, waiting)
    return recovered
  })

// Such small stores save their index only if they are told to.
const savedOften = { checkpoint: "always" } as const

/** Lives a life, and says what was wrong in it. */
export const live = (life: Life, counts: Counts): Effect.Effect<Outcome> =>
  Effect.gen(function*() {
    const { mode, seed, shuffle } = life
    let disk = makeDisk({ seed, mode, shuffle })
    let kept = 0
    const model = new Model()
    const targets = new Targets()
    counts.add(`lives: ${mode}`)
    for (const [index, round] of life.rounds.entries()) {
      const living: Living = { life, round, disk, counts, targets, problems: [], alone: true }
      // What earlier ones have left, and a power loss may have brought back.
      const leftBehind = new Set(temporariesIn(disk.files))
      for (const fault of round.faults) disk.fail(fault)
      const recovered = yield* Effect.provideService(liveRound(living, model, kept), Disk.Disk, disk.service)
      count(living, recovered)
      const { files } = disk
      const temporaries = temporariesIn(files)
      const excused = disk.stopped || (recovered.isIo && round.faults.length > 0)
      const problem = (excused && !recovered.accepted ? undefined : recovered.problem) ?? living.problems[0] ??
        disk.misuse[0] ?? targets.problem(files) ??
        (disk.stopped
          ? undefined
          : yield* endProblem(living, temporaries.filter((path) => !leftBehind.has(path))))
      if (problem !== undefined) return { problem: `round ${index}: ${problem}`, script: disk.script }
      if (recovered.accepted) kept = model.written.length
      if (round.end === "power loss") {
        disk = disk.crash()
        kept = model.synced
      } else disk = disk.kill()
    }
    return { problem: undefined, script: "" }
  }).pipe(Effect.provide(TestClock.layer()), Effect.provideService(References.MinimumLogLevel, "None"))

const count = ({ counts, disk, round }: Living, recovered: Recovered): void => {
  counts.add(`openings: as a ${round.as}`)
  counts.add("calls of the disk", disk.operations.length)
  for (const { kind, outcome } of disk.operations) {
    // What is not there is no fault.
    if (/^E(?!NOENT)|^stop/.test(outcome)) counts.add(`fault: ${kind} ${outcome}`)
  }
  if (recovered.refused !== undefined) counts.add(`refused by repair: ${recovered.refused._tag}`)
  counts.add(`end: ${round.end}${disk.stopped ? ", at a call" : ""}`)
}

/** Leaves out of a failing life what it fails without, and gives the smallest one found. */
export const shrink = (life: Life): Effect.Effect<Life> =>
  Effect.gen(function*() {
    let smallest = life
    for (let progress = true; progress;) {
      progress = false
      for (const smaller of smallerLives(smallest)) {
        const { problem } = yield* live(smaller, new Counts())
        if (problem === undefined) continue
        smallest = smaller
        progress = true
        break
      }
    }
    return smallest
  })

/** What to print of a seed that failed: the life, made small, and what the disk saw last. */
export const explain = (seed: number): Effect.Effect<string> =>
  Effect.gen(function*() {
    const life = yield* shrink(makeLife(seed))
    const { problem, script } = yield* live(life, new Counts())
    return `seed ${seed}: ${problem}\nreplay with: npm run torture -- --seed ${seed} --runs 1\n` +
      `${JSON.stringify(life, undefined, 1)}\n${script}`
  })

/** Lives the lives of `runs` seeds from `seed` on, until one fails: what to print of it. */
export const torture = (seed: number, runs: number, counts: Counts): Effect.Effect<string | undefined> =>
  Effect.gen(function*() {
    for (let at = seed; at < seed + runs; at++) {
      const exit = yield* Effect.exit(live(makeLife(at), counts))
      if (Exit.isFailure(exit)) return `seed ${at} ended the test itself: ${String(exit.cause)}`
      if (exit.value.problem !== undefined) return yield* explain(at)
    }
    return undefined
  }).pipe(withoutStacks)
