/** Keys and payloads, the same in every run and for every contender. */

export const key_bytes = 16
export const value_bytes = 100
export const batch_records = 1_000

// A permutation of the 32-bit numbers: neighbours in time are not neighbours in the order of keys.
const scatter = (index) => {
  let x = index >>> 0
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d)
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b)
  return (x ^ (x >>> 16)) >>> 0
}

/** The key of a number: 16 characters, so that it is a file name too, in no order. */
export const keyOf = (index) =>
  Buffer.from(scatter(index).toString(16).padStart(8, "0") + index.toString(16).padStart(8, "0"), "latin1")

/** A stream of numbers in [0, below), the same each time for one seed. */
export const randomNumbers = (seed) => {
  let state = seed >>> 0 || 1
  return (below) => {
    state ^= state << 13
    state >>>= 0
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state % below
  }
}

/** Printable, so that a line of JSON holds it without escapes, and not compressible to nothing. */
export const payloadOf = (length) => {
  const random = randomNumbers(length)
  const bytes = Buffer.allocUnsafeSlow(length)
  const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
  for (let at = 0; at < length; at++) bytes[at] = alphabet.charCodeAt(random(64))
  return bytes
}

// Scattered numbers and the numbers they come from, in one that a double holds: their order is that of the keys.
const sorted = (keys) => {
  const packed = Float64Array.from({ length: keys }, (_, index) => scatter(index) * sorted_max + index).sort()
  return (place) => packed[place] % sorted_max
}

const sorted_max = 2 ** 21

/**
 * Keys and one value in arrays of `size`, in the order of their numbers, or in that of the keys, in which a tree is
 * built best (up to 2,097,152 of them).
 */
export function* batchesOf(keys, { in_order = false, size, value }) {
  const indexAt = in_order ? sorted(keys) : (place) => place
  for (let from = 0; from < keys; from += size) {
    const batch = []
    for (let place = from; place < Math.min(keys, from + size); place++) batch.push([keyOf(indexAt(place)), value])
    yield batch
  }
}
