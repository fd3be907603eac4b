/**
 * Decisions taken from bytes. A generator that asks only a `Source` makes one case of one input, so that an input can
 * be kept, mutated by what it reached, made smaller while its case fails, and printed to be replayed.
 *
 * Every decision has 0 for its plainest answer, and an input that has come to its end answers 0: a shorter input, and
 * one of smaller bytes, is a plainer case.
 */
import { mix, seeded } from "../../src/internal/simulatedRandom.ts"

export type Pick = (count: number) => number

export class Source {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** A number in `[0, count)`. */
  below(count: number): number {
    let value = this.#next()
    for (let reach = 256; reach < count; reach *= 256) value = value * 256 + this.#next()
    return value % count
  }

  between(minimum: number, maximum: number): number {
    return minimum + this.below(maximum - minimum + 1)
  }

  chance(percent: number): boolean {
    return this.below(100) >= 100 - percent
  }

  oneOf<A>(values: readonly [A, ...ReadonlyArray<A>]): A {
    return values[this.below(values.length)] ?? values[0]
  }

  /** One of a list that may be empty. */
  among<A>(values: ReadonlyArray<A>): A | undefined {
    return values.length === 0 ? undefined : values[this.below(values.length)]
  }

  /** Bytes that follow from one more decision. */
  noise(count: number): Uint8Array {
    return randomBytes(seeded(this.below(256)), count)
  }

  #next(): number {
    return this.#bytes[this.#at++] ?? 0
  }
}

/** The input of a seed: short ones and long ones. */
export const seededInput = (seed: number): Uint8Array => {
  const pick = seeded(mix(seed, 11))
  const length = 32 << pick(6)
  return randomBytes(pick, length + pick(length))
}

/** A change of an input, one of those that fuzzers of bytes have found worth while. */
export const mutated = (input: Uint8Array, other: Uint8Array, pick: Pick): Uint8Array => {
  let bytes: Uint8Array = input.slice()
  for (let rounds = 1 << pick(4); rounds > 0; rounds--) {
    const at = pick(bytes.length + 1)
    const some = 1 + pick(8)
    switch (pick(7)) {
      case 0:
        bytes = bytes.with(Math.min(at, bytes.length - 1), pick(256))
        break
      case 1:
        bytes = joined(bytes.subarray(0, at), bytes.subarray(at + some))
        break
      case 2:
        bytes = joined(bytes.subarray(0, at), randomBytes(pick, some), bytes.subarray(at))
        break
      case 3:
        bytes = joined(bytes.subarray(0, at), bytes.subarray(at, at + 4 * some), bytes.subarray(at))
        break
      case 4:
        bytes = joined(bytes.subarray(0, at), other.subarray(pick(other.length + 1)))
        break
      case 5:
        bytes = joined(bytes, randomBytes(pick, 4 * some))
        break
      default:
        bytes.set(randomBytes(pick, Math.min(some, bytes.length - at)), at)
    }
    if (bytes.length === 0) bytes = randomBytes(pick, 8)
  }
  return bytes.slice(0, input_bytes_max)
}

// Longer ones take longer and reach nothing more.
const input_bytes_max = 4_096

const randomBytes = (pick: Pick, count: number): Uint8Array => {
  const bytes = new Uint8Array(count)
  for (let at = 0; at < count; at++) bytes[at] = pick(256)
  return bytes
}

export const joined = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/**
 * Makes an input smaller while it fails, in at most so many tries: parts are left out, then zeroed, then single bytes
 * lowered.
 */
export const minimised = async (
  input: Uint8Array,
  fails: (input: Uint8Array) => Promise<boolean>,
  tries_max: number
): Promise<Uint8Array> => {
  const search = { smallest: input, tries: 0 }
  const attempt = async (candidate: Uint8Array): Promise<boolean> => {
    if (search.tries >= tries_max) return false
    search.tries++
    if (!(await fails(candidate))) return false
    search.smallest = candidate
    return true
  }
  for (let before: Uint8Array | undefined; before !== search.smallest && search.tries < tries_max;) {
    before = search.smallest
    await leaveOut(search, attempt)
    await lower(search, attempt)
  }
  return search.smallest
}

interface Search {
  smallest: Uint8Array
  tries: number
}

type Attempt = (candidate: Uint8Array) => Promise<boolean>

const leaveOut = async (search: Search, attempt: Attempt): Promise<void> => {
  for (let size = 1 << 10; size >= 1; size >>= 1) {
    for (let to = search.smallest.length; to > 0; to -= size) {
      const at = Math.max(0, to - size)
      await attempt(joined(search.smallest.subarray(0, at), search.smallest.subarray(to)))
    }
  }
}

const lower = async (search: Search, attempt: Attempt): Promise<void> => {
  for (let at = 0; at < search.smallest.length; at++) {
    if (search.smallest[at] === 0 || (await attempt(search.smallest.with(at, 0)))) continue
    for (let step = 128; step >= 1; step >>= 1) {
      const byte = search.smallest[at] ?? 0
      if (byte > step) await attempt(search.smallest.with(at, byte - step))
    }
  }
}
