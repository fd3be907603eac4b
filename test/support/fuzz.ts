/**
 * Fuzzing: hostile inputs, each made from a short string of bytes (`fuzzSource.ts`), against references that share
 * nothing with the product. A target is a name, what it makes of an input, and what must hold of it.
 */
import { Cause, Effect, Exit, References } from "effect"
import { inMemory, type MakeBench, onDisk, type Tally } from "./fuzzBench.ts"
import { checkCheckpoint, describeCheckpoint, makeCheckpointCase } from "./fuzzCheckpoint.ts"
import { checkDecoder, describeDecoder, makeDecoderCase } from "./fuzzDecoder.ts"
import { checkImport, describeImport, makeImportCase } from "./fuzzImport.ts"
import { checkLock, describeLock, makeLockCase } from "./fuzzLock.ts"
import { checkStore } from "./fuzzRecovery.ts"
import { minimised, seededInput, Source } from "./fuzzSource.ts"
import { describeStore, makeStoreCase } from "./fuzzStores.ts"

export interface Target {
  readonly name: string
  readonly check: (input: Uint8Array, tally: Tally) => Effect.Effect<void>
  /** The case that an input makes, to read. */
  readonly describe: (input: Uint8Array) => string
}

const target = <Case>(
  name: string,
  make: (source: Source) => Case,
  check: (made: Case, tally: Tally) => Effect.Effect<void>,
  describe: (made: Case) => string
): Target => ({
  name,
  check: (input, tally) => Effect.suspend(() => check(make(new Source(input)), tally)),
  describe: (input) => describe(make(new Source(input)))
})

const stores = (name: string, make: MakeBench): Target =>
  target(name, makeStoreCase, (store, tally) => checkStore(store, make, tally), describeStore)

export const targets: ReadonlyArray<Target> = [
  target("decoder", makeDecoderCase, checkDecoder, describeDecoder),
  stores("recovery", inMemory),
  stores("disk", onDisk),
  target("import", makeImportCase, checkImport, describeImport),
  target("lock", makeLockCase, checkLock, describeLock),
  target("checkpoint", makeCheckpointCase, checkCheckpoint, describeCheckpoint)
]

/** How often each thing was met. */
export class Counts {
  readonly #counts = new Map<string, number>()

  readonly add: Tally = (what) => {
    this.#counts.set(what, (this.#counts.get(what) ?? 0) + 1)
  }

  get(what: string): number {
    return this.#counts.get(what) ?? 0
  }

  toString(): string {
    return Array.from(this.#counts).sort(([a], [b]) => a < b ? -1 : 1)
      .map(([what, count]) => `${count.toLocaleString("en").padStart(12)}  ${what}`).join("\n")
  }
}

/** Checks one input: what is wrong, if anything is. A defect is as wrong as a broken expectation. */
export const problemOf = async (
  { check }: Target,
  input: Uint8Array,
  tally: Tally
): Promise<string | undefined> => {
  const exit = await Effect.runPromiseExit(
    Effect.provideService(check(input, tally), References.MinimumLogLevel, "None")
  )
  return Exit.isSuccess(exit) ? undefined : Cause.pretty(exit.cause)
}

/** What to print of an input that failed: the case, made small, and how to see it again. */
export const explain = async (
  target: Target,
  input: Uint8Array,
  origin: string,
  tries_max = 3_000
): Promise<string> => {
  const isFailing = async (candidate: Uint8Array) => (await problemOf(target, candidate, () => {})) !== undefined
  const smallest = await minimised(input, isFailing, tries_max)
  const problem = await problemOf(target, smallest, () => {})
  return [
    `${target.name}, ${origin}: ${problem ?? "it does not fail a second time"}`,
    `input (hex): ${Buffer.from(smallest).toString("hex")}`,
    `replay with: npm run fuzz -- --target ${target.name} --input ${
      Buffer.from(smallest).toString("base64url") || "="
    }`,
    target.describe(smallest)
  ].join("\n")
}

/** Checks the inputs of so many seeds, until one fails: what to print of it. */
export const fuzz = async (
  target: Target,
  seed: number,
  runs: number,
  tally: Tally
): Promise<string | undefined> => {
  for (let at = seed; at < seed + runs; at++) {
    const input = seededInput(at)
    if ((await problemOf(target, input, tally)) !== undefined) return await explain(target, input, `seed ${at}`)
  }
  return undefined
}
