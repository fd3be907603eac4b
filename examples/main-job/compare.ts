/** Whether a store holds what it should, byte for byte. */
import type { Errors, Kv } from "effect-datawal"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { SourceFile, SourceReader } from "./source.ts"

/** What a key's value should be: made from the bytes of a source file, or just these. */
export interface Expected {
  readonly key: string
  readonly file: SourceFile
  readonly value?: ((source: Uint8Array) => Uint8Array) | undefined
}

export interface Difference {
  readonly key: string
  readonly what: string
}

export interface Comparison {
  readonly compared: number
  readonly bytes: number
  /** Source files that were changed or removed by somebody else since they were loaded. */
  readonly changed: number
  readonly differences: ReadonlyArray<Difference>
}

const comparisons_at_once = 4

const text = new TextDecoder()

class Tally {
  compared = 0
  bytes = 0
  changed = 0
  readonly differences: Array<Difference> = []

  check(key: string, actual: Uint8Array | undefined, expected: Uint8Array): void {
    this.compared++
    this.bytes += expected.length
    const what = differenceOf(actual, expected)
    if (what !== undefined) this.differences.push({ key, what })
  }
}

/** What is different, in a few words, or `undefined`. */
const differenceOf = (actual: Uint8Array | undefined, expected: Uint8Array): string | undefined => {
  if (actual === undefined) return "missing"
  if (Buffer.compare(actual, expected) === 0) return undefined
  if (actual.length !== expected.length) return `${actual.length} bytes instead of ${expected.length}`
  return `another byte at ${actual.findIndex((byte, at) => byte !== expected[at])}`
}

/** Compares the value of every expected key with the source. */
export const withSource = Effect.fnUntraced(function*(
  kv: Kv.KvRead,
  source: SourceReader,
  expected: Iterable<Expected>
): Effect.fn.Return<Comparison, Errors.IoError | Errors.CorruptSegment> {
  const tally = new Tally()
  yield* Stream.fromIterable(expected).pipe(
    Stream.mapEffect(
      Effect.fnUntraced(function*({ file, key, value = same }) {
        const bytes = yield* source.read(file)
        if (bytes === undefined) tally.changed++
        else tally.check(key, yield* kv.get(key), value(bytes))
      }),
      { concurrency: comparisons_at_once, unordered: true }
    ),
    Stream.runDrain
  )
  return tally
})

const same = (bytes: Uint8Array): Uint8Array => bytes

export const sum = (comparisons: ReadonlyArray<Comparison>): Comparison => ({
  compared: comparisons.reduce((total, { compared }) => total + compared, 0),
  bytes: comparisons.reduce((total, { bytes }) => total + bytes, 0),
  changed: comparisons.reduce((total, { changed }) => total + changed, 0),
  differences: comparisons.flatMap(({ differences }) => differences)
})

/** Adds that a store has no keys but the expected ones. */
export const andNoMore = (comparison: Comparison, kv: Kv.KvRead, keys: number): Effect.Effect<Comparison> =>
  Effect.map(kv.size, (size) =>
    size === keys ? comparison : {
      ...comparison,
      differences: [...comparison.differences, { key: "(all)", what: `${size} keys instead of ${keys}` }]
    })

/** Compares two stores: every key of the first, and that the second has no others. */
export const stores = Effect.fnUntraced(function*(
  first: Kv.KvRead,
  second: Kv.KvRead
): Effect.fn.Return<Comparison, Errors.IoError | Errors.CorruptSegment> {
  const tally = new Tally()
  yield* Stream.runForEach(
    first.entries({ ordered: true }),
    ({ key, value }) => Effect.map(second.get(key), (other) => tally.check(text.decode(key), other, value))
  )
  const extra = yield* Stream.runCollect(
    Stream.filterEffect(second.keys({ ordered: true }), (key) => Effect.map(first.has(key), (there) => !there))
  )
  for (const key of extra) tally.differences.push({ key: text.decode(key), what: "not expected" })
  return tally
})
