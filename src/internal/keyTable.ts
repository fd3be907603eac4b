/** A stripe of the keydir: slots of an entry id (0: empty) and a hash, in pairs of words, with linear probing. */

/** Words of a stripe's first table, two a slot: few, since a thousand keys touch most stripes. */
export const table_words_min = 32

/** Every stripe begins as this one empty slot. It is never written: the first key makes the stripe grow. */
export const noSlots = new Int32Array(2)

/** The empty slot where a new key of that hash goes. */
export const emptySlot = (table: Int32Array, hash: number): number => {
  const mask = table.length - 1
  let slot = (hash << 1) & mask
  while (table[slot] !== 0) slot = (slot + 2) & mask
  return slot
}

/** The slots of a table, in a new one of that many words. */
export const rehashed = (old: Int32Array, words: number): Int32Array => {
  const table = new Int32Array(words)
  for (let slot = 0; slot < old.length; slot += 2) {
    const entry = old[slot] as number
    if (entry === 0) continue
    const hash = old[slot + 1] as number
    const to = emptySlot(table, hash)
    table[to] = entry
    table[to + 1] = hash
  }
  return table
}

export const isShared = ({ buffer, byteLength }: Int32Array | Uint32Array): boolean => byteLength < buffer.byteLength

/**
 * Copies an array and all that share its memory, as those of a checkpoint do: one that stayed would keep the memory of
 * all the others. Gives the copy of that array.
 */
export const copyShared = <A extends Int32Array | Uint32Array>(
  arrays: Array<A>,
  index: number,
  copied: (index: number) => void
): A => {
  const first = arrays[index] as A
  const [from, to] = isShared(first) ? [0, arrays.length] : [index, index + 1]
  for (let at = from; at < to; at++) {
    const array = arrays[at] as A
    if (array.buffer !== first.buffer) continue
    arrays[at] = array.slice() as A
    copied(at)
  }
  return arrays[index] as A
}

/** Nobody asks what it is; but what is read for nothing, the compiler need not read at all. */
let reached = 0

/** Has the processor fetch the slot where a hash belongs. */
export const reach = (table: Int32Array, hash: number): void => {
  reached ^= table[(hash << 1) & (table.length - 1)] as number
}
