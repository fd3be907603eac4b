/** Pseudo-random decisions that can be made again: Mulberry32 (Tommy Ettinger), and an exhaustive enumeration. */
import type { Pick } from "./simulatedState.ts"

/** Numbers in `[0, count)` that depend on the seed only. */
export const seeded = (seed: number): Pick => {
  let state = seed >>> 0
  return (count) => {
    state = (state + 0x6D2B79F5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor(((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296 * count)
  }
}

/** Mixes two numbers into a seed. */
export const mix = (a: number, b: number): number => {
  const pick = seeded((a ^ Math.imul(b + 1, 0x9E3779B1)) >>> 0)
  return pick(0x80000000)
}

/**
 * Runs `make` with every sequence of decisions there is, if there are at most `limit`; otherwise with `limit` of
 * them: all old, all new, and seeded ones.
 */
export const everyChoice = <A>(limit: number, seed: number, make: (pick: Pick) => A): Array<A> => {
  const all = enumerate(limit, make)
  if (all !== undefined) return all
  const made = limit < 3 ? [] : [make(() => 0), make((count) => count - 1)]
  for (let at = 0; made.length < limit; at++) made.push(make(leaning(mix(seed, at))))
  return made
}

/** `undefined` when there are more than `limit`. */
const enumerate = <A>(limit: number, make: (pick: Pick) => A): Array<A> | undefined => {
  const made: Array<A> = []
  let path: Array<{ choice: number; readonly count: number }> = []
  for (;;) {
    let depth = 0
    const taken = path
    made.push(make((count) => {
      const known = taken[depth++]
      if (known !== undefined) return known.choice
      taken.push({ choice: 0, count })
      return 0
    }))
    while (taken.length > 0 && (taken.at(-1)?.choice ?? 0) + 1 >= (taken.at(-1)?.count ?? 0)) taken.pop()
    const last = taken.at(-1)
    if (last === undefined) return made
    if (made.length >= limit) return undefined
    last.choice++
    path = taken
  }
}

/**
 * Decisions that lean to the old or to the new, each run in its own way: a coin for each would rarely leave much
 * whole.
 */
export const leaning = (seed: number): Pick => {
  const pick = seeded(seed)
  const percent = [10, 30, 50, 70, 90][pick(5)] ?? 50
  return (count) => pick(100) < percent ? count - 1 : pick(count)
}
