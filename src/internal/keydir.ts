/**
 * The keydir: which keys are live and where the newest record of each lies, in memory, off the JavaScript heap.
 *
 * Hash tables hold pairs of an entry id and a hash; an entry id names a record of place and key bytes in a slab (the
 * layout is in `keyRecord.ts`). A look-up costs one memory miss in a table and one in a slab. Beyond the key's own
 * bytes an entry takes 16 of header, up to 3 of filling and 11 to 21 of table.
 *
 * The hash's top bits choose one of 1,024 stripes, each a table of its own, which doubles by itself: no call pays for
 * more than its stripe, 10,000 entries at 10^7 keys. An incremental rehash of one table would make look-ups probe two
 * while it lasts; extendible hashing would need a second way for keys that no bit of the hash tells apart.
 *
 * A snapshot keeps the slabs and needs no tables: it is walked, not searched. Slabs are copied on write. A frozen
 * keydir, which is there to be saved, keeps the tables as well, and they are copied on write too. In a thawed one
 * neighbours may share memory, until the first of them is replaced.
 *
 * Invariants:
 *
 * - Two keys with one hash are two keys: the bytes decide.
 * - A snapshot never changes, whatever is set or deleted after it; nor does a frozen keydir.
 * - A slab is cloned at most once after each snapshot, a table at most once after each freezing.
 * - Setting a key that is there takes no new slab space.
 * - Dead records take at most a third of what live ones take, and two slabs.
 *
 * Indexed reads are `as number` or `as` an array: slots are masked by their table's length, stripes come from ten bits,
 * and slab and word of an entry id were in range when the id was made.
 */
import { key_bytes_max } from "../Frame.ts"
import { halfSipHash } from "./halfSipHash.ts"
import { type KeydirSnapshot, snapshotOf } from "./keyOrder.ts"
import * as keyRecord from "./keyRecord.ts"
import { copyShared, emptySlot, isShared, noSlots, reach, rehashed, table_words_min } from "./keyTable.ts"
import { holdsPacked, packed } from "./packedKeys.ts"

/** Enough stripes that one grows in ~0.3 ms at 10^7 keys, few enough that an empty keydir takes 12 KiB. */
const stripe_bits = 10
export const stripes = 2 ** stripe_bits
const stripe_shift = 32 - stripe_bits

/** A record longer than this has a slab of its own, so that less than 1/16 of a shared slab is left over at its end. */
const shared_words_max = keyRecord.slab_words / 16
/** Dead words allowed beside a third of the live ones, so that a small keydir is not moved around all the time. */
const dead_words_min = 2 * keyRecord.slab_words
/** What 32-bit entry ids can name: 16 GiB of records, or 262,143 keys of more than 4 KiB. */
export const slabs_max = 2 ** (32 - keyRecord.slab_bits)

/** The record has 32 bits for a segment and 48 for an offset. */
const segment_max = 2 ** 32 - 1
const offset_max = 2 ** 48 - 1

const noWords = new Uint32Array(0)
const noTables: ReadonlyArray<Int32Array> = Array.from({ length: stripes }, () => noSlots)

/** One seed per process, so that keys chosen for one do not collide in the next. */
const processSeed = crypto.getRandomValues(new Int32Array(2))

/** No room for another key. Nothing of the keydir has changed. */
export class KeydirFull extends RangeError {
  readonly keys: number

  constructor(keys: number) {
    super(`keydir: all ${slabs_max} slabs are in use, no room for a key beside ${keys}`)
    this.keys = keys
  }
}

/**
 * All of a keydir, to be saved and to be made one of again. By slab: its words, where its records end, and the words
 * of live ones; by stripe: its table and the keys in it.
 */
export interface FrozenKeydir {
  readonly seed: readonly [number, number]
  readonly openSlab: number
  readonly words: ReadonlyArray<Uint32Array>
  readonly ends: ReadonlyArray<number>
  readonly lives: ReadonlyArray<number>
  readonly tables: ReadonlyArray<Int32Array>
  readonly counts: Uint32Array
}

/** The index of live keys; see the module header. */
export class Keydir {
  private readonly seed0: number
  private readonly seed1: number
  private keys = 0

  /** By stripe: slots of an entry id (0: empty) and a hash, signed so that V8 need not box them; linear probing. */
  private readonly tables: Array<Int32Array> = noTables.slice()
  private readonly counts = new Uint32Array(stripes)
  private readonly tableGenerations = new Uint32Array(stripes)

  /** By slab: its words, where its records end, the words of live ones, and the generation that may write to it. */
  private readonly words: Array<Uint32Array> = [noWords]
  private readonly ends: Array<number> = [0]
  private readonly lives: Array<number> = [0]
  private readonly generations: Array<number> = [0]
  /** Slabs that were dropped. Slab 0 is never used, so that no entry id is 0. */
  private readonly dropped: Array<number> = []
  /** The slab that takes new records. */
  private open = 0
  /** Grows with each snapshot. A slab of an older generation may be seen by one. */
  private generation = 0
  /** Grows with each freezing. A table of an older generation may be in a frozen keydir. */
  private tableGeneration = 0

  /** Words that cannot be taken any more, and those of them in live records; the others are dead. */
  private takenWords = 0
  private liveWords = 0

  constructor(seed: ArrayLike<number> = processSeed) {
    this.seed0 = (seed[0] as number) | 0
    this.seed1 = (seed[1] as number) | 0
  }

  /** Live keys. */
  get size(): number {
    return this.keys
  }

  /** Whether so many more keys, of so many bytes in all, surely find room; `set` throws where there is none. */
  hasRoom(keys: number, bytes: number): boolean {
    const words = keys * (keyRecord.header_words + 1) + bytes / 4
    const shared = words / (keyRecord.slab_words - shared_words_max)
    // A long key has a slab of its own. One more is begun, and one is for moving.
    const own = Math.min(keys, words / shared_words_max)
    return slabs_max - this.words.length + this.dropped.length >= shared + own + 2
  }

  /** Maps a key to a place. Gives the len of the record it replaces, or 0 if the key is new. */
  set(key: Uint8Array, segment: number, offset: number, len: number): number {
    return this.setPacked(this.pack(key, 0, key.length, 0), 0, key.length, segment, offset, len)
  }

  /** `set` for a key at hand. */
  setPacked(hash: number, from: number, keyLen: number, segment: number, offset: number, len: number): number {
    if (keyLen > key_bytes_max || segment > segment_max || offset > offset_max || len > keyRecord.len_max) {
      throw new RangeError(`keydir: no room for key of ${keyLen} at ${segment}:${offset}+${len}`)
    }
    const stripe = hash >>> stripe_shift
    let table = this.tables[stripe] as Int32Array
    let slot = this.slotOf(table, hash, from, keyLen)
    const there = table[slot] as number
    if (there !== 0) {
      const words = this.writable(there >>> keyRecord.slab_bits)
      const at = there & (keyRecord.slab_words - 1)
      const replaced = keyRecord.lenAt(words, at)
      keyRecord.writePlaceAt(words, at, keyLen, segment, offset, len)
      return replaced
    }
    const count = (this.counts[stripe] as number) + 1
    if (count * 8 > table.length * 3) {
      // At three quarters, and before the record is written: if memory runs out here, nothing has changed.
      table = this.resize(stripe, Math.max(table_words_min, 2 * table.length))
      slot = emptySlot(table, hash)
    }
    const entry = this.append(from, keyLen, segment, offset, len)
    table = this.writableTable(stripe)
    table[slot] = entry
    table[slot + 1] = hash
    this.counts[stripe] = count
    this.keys++
    this.reclaim()
    return 0
  }

  /** Removes a key. Gives the len of its record, or 0 if it is absent. */
  delete(key: Uint8Array): number {
    return this.deletePacked(this.pack(key, 0, key.length, 0), 0, key.length)
  }

  /** `delete` for a key at hand. */
  deletePacked(hash: number, from: number, keyLen: number): number {
    const stripe = hash >>> stripe_shift
    const table = this.tables[stripe] as Int32Array
    const slot = this.slotOf(table, hash, from, keyLen)
    const entry = table[slot] as number
    if (entry === 0) return 0
    const removed = this.lenOf(entry)
    this.remove(stripe, slot)
    this.kill(entry)
    this.reclaim()
    return removed
  }

  /**
   * Makes the key `bytes[start, start + keyLen)` one at hand, from word `from` on, and gives its hash. One that is too
   * long is cut, and found nowhere by its length.
   */
  pack(bytes: Uint8Array, start: number, keyLen: number, from: number): number {
    keyRecord.packAt(packed, from, bytes, start, start + keyLen)
    return this.hash(packed, from, keyLen)
  }

  /**
   * Looks where keys with these hashes would be, and does nothing: the processor waits for memory once for many of
   * them, where it would wait for each in turn.
   */
  reach(hashes: Int32Array, count: number): void {
    for (let i = 0; i < count; i++) {
      const hash = hashes[i] as number
      reach(this.tables[hash >>> stripe_shift] as Int32Array, hash)
    }
  }

  /** The key's entry id, which holds until the next `set` or `delete`; -1 if the key is absent. */
  find(key: Uint8Array): number {
    return this.findPacked(this.pack(key, 0, key.length, 0), 0, key.length)
  }

  /** `find` for a key at hand. */
  findPacked(hash: number, from: number, keyLen: number): number {
    const table = this.tables[hash >>> stripe_shift] as Int32Array
    const entry = table[this.slotOf(table, hash, from, keyLen)] as number
    return entry === 0 ? -1 : entry >>> 0
  }

  segmentOf(entry: number): number {
    return keyRecord.segmentAt(this.slabOf(entry), entry & (keyRecord.slab_words - 1))
  }

  offsetOf(entry: number): number {
    return keyRecord.offsetAt(this.slabOf(entry), entry & (keyRecord.slab_words - 1))
  }

  lenOf(entry: number): number {
    return keyRecord.lenAt(this.slabOf(entry), entry & (keyRecord.slab_words - 1))
  }

  /** The keydir as it is now. Copies two list entries per slab, 5,000 pairs at 10^7 keys, and no record. */
  snapshot(): KeydirSnapshot {
    this.generation++
    return snapshotOf({ words: this.words.slice(), ends: this.ends.slice() }, this.keys)
  }

  /** All of it as it is now. Copies four numbers per slab and two per stripe, and no record. */
  freeze(): FrozenKeydir {
    this.generation++
    this.tableGeneration++
    return {
      seed: [this.seed0, this.seed1],
      openSlab: this.open,
      words: this.words.slice(),
      ends: this.ends.slice(),
      lives: this.lives.slice(),
      tables: this.tables.slice(),
      counts: this.counts.slice()
    }
  }

  /** A keydir of what is in a frozen one, whose arrays are its own from now on. */
  static thaw(frozen: FrozenKeydir): Keydir {
    const keydir = new Keydir(frozen.seed)
    keydir.open = frozen.openSlab
    for (const [slab, words] of frozen.words.entries()) {
      const end = frozen.ends[slab] as number
      const live = frozen.lives[slab] as number
      keydir.words[slab] = words.length === 0 ? noWords : words
      keydir.ends[slab] = end
      keydir.lives[slab] = live
      keydir.generations[slab] = 0
      keydir.takenWords += slab === frozen.openSlab ? end : words.length
      keydir.liveWords += live
      if (slab > 0 && words.length === 0) keydir.dropped.push(slab)
    }
    for (const [stripe, table] of frozen.tables.entries()) {
      const count = frozen.counts[stripe] as number
      keydir.tables[stripe] = table.length === noSlots.length ? noSlots : table
      keydir.counts[stripe] = count
      keydir.keys += count
    }
    return keydir
  }

  private get isFull(): boolean {
    return this.dropped.length === 0 && this.words.length === slabs_max
  }

  private slabOf(entry: number): Uint32Array {
    return this.words[entry >>> keyRecord.slab_bits] as Uint32Array
  }

  private hash(words: Uint32Array, at: number, keyLen: number): number {
    return halfSipHash(words, at, keyLen, this.seed0, this.seed1)
  }

  /** The slot that holds the key, or the empty one where it would go. A table always has one. */
  private slotOf(table: Int32Array, hash: number, from: number, keyLen: number): number {
    const mask = table.length - 1
    let slot = (hash << 1) & mask
    for (;;) {
      const entry = table[slot] as number
      if (entry === 0) return slot
      if (table[slot + 1] === hash) {
        if (holdsPacked(this.slabOf(entry), entry & (keyRecord.slab_words - 1), from, keyLen)) return slot
      }
      slot = (slot + 2) & mask
    }
  }

  /** Empties a slot and moves up what had to pass it, so that no marker stays behind. */
  private remove(stripe: number, slot: number): void {
    const table = this.writableTable(stripe)
    const mask = table.length - 1
    let hole = slot
    for (let next = (slot + 2) & mask; table[next] !== 0; next = (next + 2) & mask) {
      const home = ((table[next + 1] as number) << 1) & mask
      if (((next - home) & mask) < ((next - hole) & mask)) continue
      table[hole] = table[next] as number
      table[hole + 1] = table[next + 1] as number
      hole = next
    }
    table[hole] = 0
    const count = (this.counts[stripe] as number) - 1
    this.counts[stripe] = count
    this.keys--
    if (count * 16 < table.length && table.length > table_words_min) this.resize(stripe, table.length / 2)
  }

  /** Moves a stripe to a table of that many words. */
  private resize(stripe: number, words: number): Int32Array {
    const old = this.tables[stripe] as Int32Array
    const table = rehashed(old, words)
    if (isShared(old)) this.copyTable(stripe)
    this.tables[stripe] = table
    this.tableGenerations[stripe] = this.tableGeneration
    return table
  }

  /** Writes a record for a key at hand and gives its entry id. */
  private append(from: number, keyLen: number, segment: number, offset: number, len: number): number {
    const size = keyRecord.keyWords(keyLen)
    const entry = this.allocate(keyRecord.header_words + size)
    const words = this.slabOf(entry)
    const at = entry & (keyRecord.slab_words - 1)
    keyRecord.writePlaceAt(words, at, keyLen, segment, offset, len)
    for (let i = 0; i < size; i++) words[at + keyRecord.header_words + i] = packed[from + i] as number
    return entry
  }

  /**
   * Takes `size` words at the end of the open slab, or a slab of their own. A snapshot may share the open slab: it
   * does not look behind the end it was taken with.
   */
  private allocate(size: number): number {
    if (size > shared_words_max) {
      const slab = this.addSlab(size)
      this.take(slab, size)
      return slab * keyRecord.slab_words
    }
    if ((this.ends[this.open] as number) + size > (this.words[this.open] as Uint32Array).length) this.openNext()
    const at = this.ends[this.open] as number
    this.take(this.open, size)
    return this.open * keyRecord.slab_words + at
  }

  private take(slab: number, size: number): void {
    this.ends[slab] = (this.ends[slab] as number) + size
    this.lives[slab] = (this.lives[slab] as number) + size
    this.takenWords += size
    this.liveWords += size
  }

  /** Opens a new slab. What is left of the old one counts as dead from now on. */
  private openNext(): void {
    const left = (this.words[this.open] as Uint32Array).length - (this.ends[this.open] as number)
    this.open = this.addSlab(keyRecord.slab_words)
    this.takenWords += left
  }

  private addSlab(size: number): number {
    if (this.isFull) throw new KeydirFull(this.keys)
    const words = new Uint32Array(size)
    const slab = this.dropped.pop() ?? this.words.length
    this.words[slab] = words
    this.ends[slab] = 0
    this.lives[slab] = 0
    this.generations[slab] = this.generation
    return slab
  }

  private drop(slab: number): void {
    if (isShared(this.words[slab] as Uint32Array)) this.copySlab(slab)
    this.takenWords -= (this.words[slab] as Uint32Array).length
    this.words[slab] = noWords
    this.ends[slab] = 0
    this.lives[slab] = 0
    this.dropped.push(slab)
  }

  /** The slab's words to change, a clone of them if a snapshot may see the originals. */
  private writable(slab: number): Uint32Array {
    if (this.generations[slab] !== this.generation) this.copySlab(slab)
    return this.words[slab] as Uint32Array
  }

  private copySlab(slab: number): void {
    copyShared(this.words, slab, (copied) => this.generations[copied] = this.generation)
  }

  /** The stripe's table to change, a clone of it if a frozen keydir may hold the original. */
  private writableTable(stripe: number): Int32Array {
    if (this.tableGenerations[stripe] !== this.tableGeneration) this.copyTable(stripe)
    return this.tables[stripe] as Int32Array
  }

  private copyTable(stripe: number): void {
    copyShared(this.tables, stripe, (copied) => this.tableGenerations[copied] = this.tableGeneration)
  }

  /** Gives up a record's words, and its slab with the last live one. */
  private kill(entry: number): void {
    const slab = entry >>> keyRecord.slab_bits
    const at = entry & (keyRecord.slab_words - 1)
    const words = this.words[slab] as Uint32Array
    const size = keyRecord.header_words + keyRecord.keyWords(keyRecord.keyLenAt(words, at))
    const live = (this.lives[slab] as number) - size
    this.lives[slab] = live
    this.liveWords -= size
    if (live === 0 && slab !== this.open) this.drop(slab)
    else keyRecord.markDeadAt(this.writable(slab), at)
  }

  /**
   * Empties slabs while too much is dead: two in a call at most, ~0.7 ms each. More than a third of the live words and
   * one slab are dead outside the open slab, so the emptiest is over a quarter dead, and moving it wins 3/16 of a slab
   * even if that leaves the end of another. A call adds 1/12 to what is dead too much, a third for the longest key.
   */
  private reclaim(): void {
    for (let moved = 0; moved < 2; moved++) {
      if (this.takenWords - this.liveWords <= this.liveWords / 3 + dead_words_min) return
      const slab = this.emptiest()
      // Moving may take one more slab, and stopping half-way would leave records twice.
      if (this.isFull || slab === 0) return
      this.evacuate(slab)
    }
  }

  /** The slab with the most dead words, apart from the open one. */
  private emptiest(): number {
    let emptiest = 0
    let most = 0
    for (let slab = 1; slab < this.words.length; slab++) {
      const dead = (this.words[slab] as Uint32Array).length - (this.lives[slab] as number)
      if (dead <= most || slab === this.open) continue
      emptiest = slab
      most = dead
    }
    return emptiest
  }

  /** Moves a slab's live records to the open slab and drops it. Nothing in it changes: a snapshot may see it. */
  private evacuate(slab: number): void {
    const words = this.words[slab] as Uint32Array
    const end = this.ends[slab] as number
    for (let at = 0; at < end;) {
      const size = keyRecord.header_words + keyRecord.keyWords(keyRecord.keyLenAt(words, at))
      if (keyRecord.isLiveAt(words, at)) this.move(slab * keyRecord.slab_words + at, words, at, size)
      at += size
    }
    this.drop(slab)
  }

  private move(entry: number, words: Uint32Array, at: number, size: number): void {
    const hash = this.hash(words, at + keyRecord.header_words, keyRecord.keyLenAt(words, at))
    const table = this.writableTable(hash >>> stripe_shift)
    let slot = (hash << 1) & (table.length - 1)
    // Slots are signed: an entry id from 2^31 on is stored as a negative number.
    while (table[slot] !== (entry | 0)) {
      // Only in a thawed keydir whose tables were not of its slabs.
      if (table[slot] === 0) return
      slot = (slot + 2) & (table.length - 1)
    }
    const moved = this.allocate(size)
    const target = this.slabOf(moved)
    const to = moved & (keyRecord.slab_words - 1)
    for (let i = 0; i < size; i++) target[to + i] = words[at + i] as number
    this.liveWords -= size
    table[slot] = moved
  }
}
