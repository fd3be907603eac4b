/**
 * Random lives of a store: more than a hundred of them, each of its own seed, all the same in every run of the suite.
 *
 * `support/life.ts` says what is in a life, `support/torture.ts` what is checked. `npm run torture -- --minutes 60
 * --seed 1000000` goes on with other seeds.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { afterAll } from "vitest"
import { Counts } from "./support/crashPoints.ts"
import { live, makeLife, torture } from "./support/torture.ts"

const total = new Counts()

afterAll(() => {
  process.stdout.write(`\nMet by the random crash tests:\n${total.toString()}\n`)
})

const lives = 160
const batch = 80

describe("nothing synced is lost in a random life of faults and crashes", () => {
  for (let seed = 1; seed < lives; seed += batch) {
    it.live(`of the seeds ${seed} to ${seed + batch - 1}`, () =>
      Effect.gen(function*() {
        const failure = yield* torture(seed, batch, total)
        if (failure !== undefined) assert.fail(failure)
      }))
  }

  it.live("one seed is one life", () =>
    Effect.gen(function*() {
      for (let seed = 1; seed <= 12; seed++) {
        assert.deepStrictEqual(makeLife(seed), makeLife(seed))
        const [first, second] = [new Counts(), new Counts()]
        yield* live(makeLife(seed), first)
        yield* live(makeLife(seed), second)
        assert.strictEqual(first.toString(), second.toString())
      }
    }))
})
