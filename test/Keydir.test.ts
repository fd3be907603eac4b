/**
 * The keydir against a Map of strings. `audit` reads its private fields: what must hold between calls is the claim
 * here, and no caller can see it. Times are not asserted, steps are.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as Frame from "../src/Frame.ts"
import { halfSipHash } from "../src/internal/halfSipHash.ts"
import { type FrozenKeydir, Keydir, slabs_max } from "../src/internal/keydir.ts"
import type { KeydirSnapshot, KeyRange } from "../src/internal/keyOrder.ts"
import { len_max, locate, type Located, slab_words } from "../src/internal/keyRecord.ts"
import { copyShared, isShared, noSlots } from "../src/internal/keyTable.ts"

type Model = Map<string, Omit<Located, "key">>

const seed = [1, 2] as const
/** A keydir that keeps these bits of a hash only. */
const weak = (mask: number): Keydir => {
  const keydir = new Keydir(seed)
  keydir["hash"] = (words, at, keyLen) => Keydir.prototype["hash"].call(keydir, words, at, keyLen) & mask
  return keydir
}
/** Four stripes with four slots each to begin in: nearly every key collides. */
const few_bits = 0xC000_0003

/** Up to so many slabs are in use from now on, with nothing in them. */
const skipTo = (keydir: Keydir, slabs: number): void => {
  const none = new Uint32Array(0)
  for (let n = keydir["words"].length; n < slabs; n++) {
    keydir["words"].push(none)
    for (const list of ["ends", "lives", "generations"] as const) keydir[list].push(0)
  }
}

const name = (key: Uint8Array): string => Buffer.from(key).toString("latin1")
const key = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, "latin1"))

const scratch = Buffer.alloc(16)

/** Key `n`: 16 bytes, in another order than the numbers. The next call overwrites it. */
const numbered = (n: number): Buffer => {
  scratch.writeInt32BE(Math.imul(n, 0x9E37_79B1), 0)
  scratch.writeUInt32BE(n, 12)
  return scratch
}

/** Walks to the end; every step must keep to its bounds. */
const drain = (
  snapshot: KeydirSnapshot,
  options: { readonly ordered: boolean; readonly range?: KeyRange }
): { readonly located: ReadonlyArray<Located>; readonly steps: number } => {
  const located: Array<Located> = []
  let steps = 0
  for (const entries of snapshot.entries(options)) {
    steps++
    assert.isAtMost(entries.length, 2_048)
    for (const entry of entries) located.push(locate(snapshot.slabs, entry))
  }
  return { located, steps }
}

const within = (k: Uint8Array, { from, prefix, to }: KeyRange): boolean =>
  (prefix === undefined || Buffer.compare(k.subarray(0, prefix.length), prefix) === 0) &&
  (from === undefined || Buffer.compare(k, from) >= 0) &&
  (to === undefined || Buffer.compare(k, to) < 0)

/** Both walks give exactly the model's keys in range, at their places, the ordered one in order. */
const same = (snapshot: KeydirSnapshot, model: Model, range: KeyRange = {}): void => {
  assert.strictEqual(snapshot.size, model.size)
  const expected = [...model.keys()].map(key).filter((k) => within(k, range)).sort(Buffer.compare)
    .map((k) => ({ key: k, ...model.get(name(k))! }))
  const ordered = drain(snapshot, { ordered: true, range }).located
  const unordered = [...drain(snapshot, { ordered: false, range }).located]
  for (const walked of [ordered, unordered.sort((a, b) => Buffer.compare(a.key, b.key))]) {
    assert.strictEqual(walked.length, expected.length)
    // One assertion per key would take most of the suite's time.
    assert.isTrue(expected.every(({ key, len, offset, segment }, i) => {
      const got = walked[i]!
      return Buffer.compare(got.key, key) === 0 && got.segment === segment && got.offset === offset && got.len === len
    }))
  }
}

const wordsIn = (arrays: ReadonlyArray<Uint32Array | Int32Array>): number =>
  arrays.reduce((sum, { length }) => sum + length, 0)

/** Bytes of slabs and tables, without those that only snapshots hold. */
const bytesOf = (keydir: Keydir): number =>
  4 * (wordsIn(keydir["words"]) + wordsIn(keydir["tables"].filter((table) => table !== noSlots)))

const keyOf = (keydir: Keydir, entry: number): Uint8Array =>
  locate({ words: keydir["words"], ends: keydir["ends"] }, entry).key

/** What must hold between any two calls. */
const audit = (keydir: Keydir): void => {
  const [ends, lives] = [keydir["ends"], keydir["lives"]]
  let [live, taken, records] = [0, 0, 0]
  keydir["words"].forEach((slab, number) => {
    if (slab.length === 0 && ends[number] === 0 && lives[number] === 0) return
    live += lives[number]!
    taken += number === keydir["open"] ? ends[number]! : slab.length
    assert.isAtMost(keydir["generations"][number]!, keydir["generation"])
    let alive = 0
    for (let at = 0; at < ends[number]!;) {
      const size = 4 + Math.ceil(((slab[at + 2]! & 0xFFFF) + (slab[at + 3]! >>> 27 & 1) * 65_536) / 4)
      if ((slab[at + 3]! & 2 ** 28) !== 0) {
        alive += size
        records++
      }
      at += size
    }
    assert.strictEqual(alive, lives[number]!)
  })
  assert.deepStrictEqual([live, taken, records], [keydir["liveWords"], keydir["takenWords"], keydir.size])
  assert.isAtMost(taken - live, live / 3 + 2 * slab_words)
  for (const arrays of [keydir["words"], keydir["tables"]]) {
    const used = new Map<ArrayBufferLike, number>()
    for (const { buffer, byteLength } of arrays) used.set(buffer, (used.get(buffer) ?? 0) + byteLength)
    used.delete(noSlots.buffer)
    // Nothing keeps more memory than is in use and counted.
    for (const [{ byteLength }, bytes] of used) if (bytes !== byteLength) assert.strictEqual(bytes, byteLength)
  }
  // One assertion for all: there are a thousand.
  assert.isTrue(keydir["tables"].every((table, stripe) => {
    let used = 0
    for (let slot = 0; slot < table.length; slot += 2) if (table[slot] !== 0) used++
    return used === keydir["counts"][stripe] && used * 8 <= table.length * 3
  }))
}

type Command = {
  readonly kind: "set" | "delete" | "find" | "snapshot" | "freeze"
  readonly key: Uint8Array
  readonly segment: number
}

/** The keydir is the model's: each key is found in its place, and no other is there. */
const sameKeydir = (keydir: Keydir, model: Model): void => {
  audit(keydir)
  same(keydir.snapshot(), model)
  assert.strictEqual(keydir.size, model.size)
  for (const [k, { len, offset, segment }] of model) {
    const entry = keydir.find(key(k))
    assert.isTrue(
      entry > 0 && keydir.segmentOf(entry) === segment && keydir.offsetOf(entry) === offset &&
        keydir.lenOf(entry) === len
    )
  }
}

/**
 * Runs the commands on a keydir and on a Map; every snapshot must still be the Map of its moment at the end, and what
 * was frozen a keydir of it.
 */
const runBoth = (keydir: Keydir, commands: Iterable<Command>): void => {
  const model: Model = new Map()
  const snapshots: Array<readonly [KeydirSnapshot, Model]> = []
  const frozen: Array<readonly [FrozenKeydir, Model]> = []
  let step = 0
  for (const command of commands) {
    const held = model.get(name(command.key))
    const place = { segment: command.segment, offset: 2 ** 40 + step, len: 28 + step++ }
    if (command.kind === "set") {
      assert.strictEqual(keydir.set(command.key, place.segment, place.offset, place.len), held?.len ?? 0)
      model.set(name(command.key), place)
    } else if (command.kind === "delete") {
      assert.strictEqual(keydir.delete(command.key), held?.len ?? 0)
      model.delete(name(command.key))
    } else if (command.kind === "snapshot") {
      snapshots.push([keydir.snapshot(), new Map(model)])
    } else if (command.kind === "freeze" && !Object.hasOwn(keydir, "hash")) {
      // The bits of the hash that a test keeps are not frozen.
      frozen.push([keydir.freeze(), new Map(model)])
    }
    assert.strictEqual(keydir.size, model.size)
    const now = model.get(name(command.key))
    const entry = keydir.find(command.key)
    assert.strictEqual(entry < 0, now === undefined)
    if (now !== undefined) {
      assert.strictEqual(keydir.segmentOf(entry), now.segment)
      assert.strictEqual(keydir.offsetOf(entry), now.offset)
      assert.strictEqual(keydir.lenOf(entry), now.len)
      assert.strictEqual(Buffer.compare(keyOf(keydir, entry), command.key), 0)
    }
  }
  audit(keydir)
  for (const [snapshot, then] of snapshots) same(snapshot, then)
  same(keydir.snapshot(), model)
  for (const [each, then] of frozen) sameKeydir(Keydir.thaw(copyOf(each)), then)
}

/** In memory of their own, but of so many neighbours in one piece. */
const together = <A extends Int32Array | Uint32Array>(
  arrays: ReadonlyArray<A>,
  count: number,
  view: (buffer: ArrayBuffer, at: number, length: number) => A
): Array<A> => {
  const copies: Array<A> = []
  for (let from = 0; from < arrays.length; from += count) {
    const group = arrays.slice(from, from + count)
    const buffer = new ArrayBuffer(group.reduce((sum, { byteLength }) => sum + byteLength, 0))
    let at = 0
    for (const array of group) {
      const copy = view(buffer, at, array.length)
      copy.set(array)
      copies.push(copy)
      at += array.byteLength
    }
  }
  return copies
}

/** As it comes from a file: nobody else has it, and some arrays share memory. */
const copyOf = (frozen: FrozenKeydir): FrozenKeydir => {
  const tables = together(
    frozen.tables.map((table) => table === noSlots ? new Int32Array(0) : table),
    300,
    (buffer, at, length) => new Int32Array(buffer, at, length)
  )
  return {
    ...frozen,
    words: together(frozen.words, 3, (buffer, at, length) => new Uint32Array(buffer, at, length)),
    tables: tables.map((table) => table.length === 0 ? noSlots : table)
  }
}

const between = (minimum: number, maximum: number): Arbitrary.Arbitrary<number> =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

/** Few letters, so that keys meet, among them the lowest and the highest byte. */
const letters = Arbitrary.map(
  Arbitrary.array(between(0, 3), { maxLength: 4 }),
  (ns) => Uint8Array.from(ns.map((n) => [0x00, 0x61, 0xFE, 0xFF][n]!))
)

/** The same letters, one in four keys repeated up to a length that fills slabs, or needs one of its own. */
const keys = Arbitrary.map(Arbitrary.all([letters, between(0, 11)]), ([short, size]) => {
  const bytes = new Uint8Array([700, 2_000, 5_000][size] ?? short.length)
  for (let i = 0; i < bytes.length; i++) bytes[i] = short[i % short.length] ?? 0
  return bytes
})

const commands = Arbitrary.array(
  Arbitrary.map(Arbitrary.all([between(0, 20), keys, between(0, 2 ** 32 - 1)]), ([kind, k, segment]): Command => ({
    kind: kind < 10 ? "set" : kind < 15 ? "delete" : kind < 18 ? "find" : kind < 20 ? "snapshot" : "freeze",
    key: k,
    segment
  })),
  { maxLength: 300 }
)

const bound = Arbitrary.map(Arbitrary.all([between(0, 2), letters]), ([n, k]) => n === 0 ? undefined : k)

/** A small generator, so that long runs are the same each time. */
const random = (start: number): (below: number) => number => {
  let x = start
  return (below) => {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    return (x >>> 0) % below
  }
}

const load = (keydir: Keydir, from: number, to: number): void => {
  for (let n = from; n < to; n++) keydir.set(numbered(n), 1, n, 100)
}

const fill = (keydir: Keydir, keys: ReadonlyArray<Uint8Array>): Model => {
  for (const k of keys) keydir.set(k, 1, 2, 3)
  return new Map(keys.map((k) => [name(k), { segment: 1, offset: 2, len: 3 }]))
}

describe("Keydir", () => {
  const arbitrary = { runs: 20, size: 300 }

  it.prop("set, delete, find, snapshot and freeze do what a Map does", { commands }, ({ commands }) => {
    runBoth(new Keydir(), commands)
  }, { arbitrary })

  it.prop("Two keys with one hash are two keys: the bytes decide.", { commands }, ({ commands }) => {
    runBoth(weak(few_bits), commands)
    runBoth(weak(0), commands)
  }, { arbitrary })

  it("A snapshot never changes, whatever is set or deleted after it; nor does a frozen keydir.", () => {
    for (const keydir of [new Keydir(seed), weak(few_bits)]) {
      const below = random(7)
      const run = Array.from({ length: 6_000 }, (_, i): Command => {
        const size = below(20)
        const k = size === 0
          ? new Uint8Array(300 + 300 * below(20)).fill(below(40))
          : Uint8Array.from(numbered(below(600)))
        // The share of deletes goes up and down, so that slabs are filled, emptied, moved and dropped.
        const kind = below(100) < (i % 2_000 < 1_000 ? 25 : 65) ? "delete" : "set"
        return { kind: i % 1_000 === 700 ? "snapshot" : i % 1_000 === 400 ? "freeze" : kind, key: k, segment: i }
      })
      runBoth(keydir, run)
    }
  })

  it("moving a slab that a snapshot sees leaves the snapshot alone", () => {
    const keydir = new Keydir()
    load(keydir, 0, 10_000)
    // 2,048 keys to a slab: the first is nearly dead, and not written to again before it is moved.
    for (let n = 0; n < 2_000; n++) keydir.delete(numbered(n))
    const first = keydir["words"][1]
    const snapshot = keydir.snapshot()
    for (let n = 2_100; n < 8_000; n++) keydir.delete(numbered(n))
    assert.notStrictEqual(keydir["words"][1], first)
    audit(keydir)
    const offsets = drain(snapshot, { ordered: false }).located.map(({ offset }) => offset)
    assert.deepStrictEqual(offsets, Array.from({ length: 8_000 }, (_, i) => 2_000 + i))
  })

  it("A slab is cloned at most once after each snapshot.", () => {
    const keydir = new Keydir()
    load(keydir, 0, 5_000)
    const slabs = (): ReadonlyArray<Uint32Array> => [...keydir["words"]]
    const before = slabs()
    load(keydir, 0, 5_000)
    assert.deepStrictEqual(slabs().map((slab, i) => slab === before[i]), before.map(() => true))
    keydir.snapshot()
    assert.deepStrictEqual(slabs().map((slab, i) => slab === before[i]), before.map(() => true))
    load(keydir, 0, 5_000)
    const cloned = slabs()
    assert.deepStrictEqual(cloned.slice(1).map((slab, i) => slab === before[i + 1]), before.slice(1).map(() => false))
    load(keydir, 0, 5_000)
    assert.deepStrictEqual(slabs().map((slab, i) => slab === cloned[i]), cloned.map(() => true))
  })

  it("A table is cloned at most once after each freezing, and a slab as well.", () => {
    const keydir = new Keydir()
    load(keydir, 0, 5_000)
    const arrays = (): ReadonlyArray<Uint32Array | Int32Array> => [...keydir["words"], ...keydir["tables"]]
    const kept = (before: ReadonlyArray<unknown>): number => arrays().filter((array, i) => array === before[i]).length
    // With five keys a stripe, of the same 5,000, no table grows or shrinks.
    const change = (): void => {
      for (let n = 0; n < 5_000; n++) {
        keydir.delete(numbered(n))
        keydir.set(numbered(n), 2, n, 100)
      }
    }
    change()
    const tables = [...keydir["tables"]]
    change()
    assert.deepStrictEqual(keydir["tables"].map((table, i) => table === tables[i]), tables.map(() => true))
    const frozen = keydir.freeze()
    const before = arrays()
    assert.strictEqual(kept(before), before.length)
    change()
    const shared = keydir["tables"].filter((table, i) => table === frozen.tables[i] && table !== noSlots)
    assert.deepStrictEqual(shared, [])
    const cloned = [...keydir["tables"]]
    change()
    assert.deepStrictEqual(keydir["tables"].map((table, i) => table === cloned[i]), tables.map(() => true))
    assert.deepStrictEqual(arrays().filter((array) => frozen.words.slice(1).some((words) => words === array)), [])
  })

  it("what is frozen is a keydir of that moment, whatever grows, shrinks and moves after it, beside a snapshot", () => {
    const keydir = new Keydir()
    const model: Model = new Map()
    const put = (n: number, len: number): void => {
      keydir.set(numbered(n), 1, n, len)
      model.set(name(numbered(n)), { segment: 1, offset: n, len })
    }
    const drop = (n: number): void => {
      keydir.delete(numbered(n))
      model.delete(name(numbered(n)))
    }
    for (let n = 0; n < 12_000; n++) put(n, 100)
    for (let n = 0; n < 12_000; n += 3) drop(n)
    const [frozen, snapshot, then] = [keydir.freeze(), keydir.snapshot(), new Map(model)]
    const again = keydir.freeze()
    // Twice as many, then hardly any: every table grows and shrinks, and slabs are moved and dropped.
    for (let n = 12_000; n < 28_000; n++) put(n, 200)
    for (let n = 0; n < 12_000; n += 5) put(n, 300)
    for (let n = 0; n < 28_000; n++) if (n % 40 !== 0) drop(n)
    for (let n = 1; n < 2_000; n += 2) put(n, 400)
    assert.isAbove(keydir["dropped"].length, 5)
    sameKeydir(keydir, model)
    same(snapshot, then)
    sameKeydir(Keydir.thaw(copyOf(again)), then)
    // Nobody else has the arrays now, so the copy is not needed.
    sameKeydir(Keydir.thaw(frozen), then)
    const now = keydir.freeze()
    sameKeydir(Keydir.thaw(now), model)
    assert.isAbove(now.words.filter(({ length }) => length === 0).length, 5)
  })

  it("a thawed keydir goes on as the one that was frozen would have, in as much memory", () => {
    const below = random(5)
    const [keydir, model]: [Keydir, Model] = [new Keydir(), new Map()]
    let thawed = keydir
    for (let step = 0; step < 20_000; step++) {
      const large = below(50) === 0
      const k = large ? new Uint8Array(3_000 + below(6_000)).fill(below(30)) : Uint8Array.from(numbered(below(3_000)))
      const share = step % 5_000 < 2_500 ? 30 : 70
      const place = { segment: step, offset: 2 ** 33 + step, len: 30 + step }
      const held = model.get(name(k))?.len ?? 0
      if (below(100) < share) {
        assert.strictEqual(thawed.delete(k), held)
        model.delete(name(k))
      } else {
        assert.strictEqual(thawed.set(k, place.segment, place.offset, place.len), held)
        model.set(name(k), place)
      }
      if (step % 2_000 !== 1_999) continue
      const [bytes, dropped] = [bytesOf(thawed), [...thawed["dropped"]].sort((a, b) => a - b)]
      thawed = Keydir.thaw(copyOf(thawed.freeze()))
      assert.deepStrictEqual([bytesOf(thawed), thawed["dropped"]], [bytes, dropped])
      sameKeydir(thawed, model)
    }
    assert.notStrictEqual(thawed, keydir)
  })

  it("memory that arrays of a thawed keydir share goes with the first of them, and the others have their own", () => {
    const [keydir, model]: [Keydir, Model] = [new Keydir(), new Map()]
    const set = (to: Keydir, n: number) => {
      to.set(numbered(n), 1, n, 100)
      model.set(name(numbered(n)), { segment: 1, offset: n, len: 100 })
    }
    for (let n = 0; n < 24_000; n++) set(keydir, n)
    const shared = () => thawed["words"].filter(({ buffer, byteLength }) => byteLength < buffer.byteLength).length
    const thawed = Keydir.thaw(copyOf(keydir.freeze()))
    const before = shared()
    assert.isAbove(before, 10)
    // All of the first slab, and no more of the next.
    for (let n = 0; n < 2_100; n++) {
      thawed.delete(numbered(n))
      model.delete(name(numbered(n)))
    }
    sameKeydir(thawed, model)
    assert.isBelow(shared(), before)
    // A few stripes grow.
    for (let n = 24_000; n < 26_000; n++) set(thawed, n)
    sameKeydir(thawed, model)
    const [snapshot, then] = [thawed.snapshot(), new Map(model)]
    set(thawed, 12_000)
    sameKeydir(thawed, model)
    same(snapshot, then)
    const [frozen, later] = [thawed.freeze(), new Map(model)]
    for (let n = 26_000; n < 36_000; n++) set(thawed, n)
    sameKeydir(thawed, model)
    sameKeydir(Keydir.thaw(frozen), later)
  })

  it("what shares memory is copied with what does, also where others have come between", () => {
    const memory = new ArrayBuffer(48)
    const arrays = [new Uint32Array(memory, 0, 4), new Uint32Array(4), new Uint32Array(memory, 16, 4)]
    const [, between] = arrays
    const copied: Array<number> = []
    assert.strictEqual(copyShared(arrays, 0, (index) => copied.push(index)), arrays[0])
    assert.deepStrictEqual(copied, [0, 2])
    assert.deepStrictEqual(arrays.map(isShared), [false, false, false])
    assert.strictEqual(arrays[1], between)
  })

  it("slabs that are moved soon after a freezing change no table of what is frozen", () => {
    const [keydir, model]: [Keydir, Model] = [new Keydir(), new Map()]
    for (let n = 0; n < 20_000; n++) {
      keydir.set(numbered(n), 1, n, 100)
      model.set(name(numbered(n)), { segment: 1, offset: n, len: 100 })
    }
    // Nearly as much is dead as may be, so that a few keys more make slabs move whose keys are in all tables.
    let n = 0
    const drop = (): void => {
      keydir.delete(numbered(n))
      model.delete(name(numbered(n)))
      n += n % 4 === 2 ? 2 : 1
    }
    while (keydir["takenWords"] - keydir["liveWords"] < keydir["liveWords"] / 3 + 2 * slab_words - 100) drop()
    const [frozen, then, slabs] = [keydir.freeze(), new Map(model), keydir["dropped"].length]
    for (let more = 0; more < 30; more++) drop()
    assert.isAbove(keydir["dropped"].length, slabs)
    sameKeydir(keydir, model)
    const thawed = Keydir.thaw(copyOf(frozen))
    sameKeydir(thawed, then)
    sameKeydir(Keydir.thaw(keydir.freeze()), model)
  })

  it("the slabs that a frozen keydir had dropped are taken again", () => {
    const keydir = new Keydir()
    load(keydir, 0, 20_000)
    for (let n = 0; n < 15_000; n++) keydir.delete(numbered(n))
    assert.isAbove(keydir["dropped"].length, 5)
    const thawed = Keydir.thaw(keydir.freeze())
    const slabs = thawed["words"].length
    load(thawed, 20_000, 30_000)
    assert.strictEqual(thawed["words"].length, slabs)
    audit(thawed)
  })

  it("an empty keydir can be frozen and thawed", () => {
    const thawed = Keydir.thaw(new Keydir().freeze())
    sameKeydir(thawed, new Map())
    load(thawed, 0, 100)
    assert.strictEqual(thawed.size, 100)
  })

  it("slabs that no table knows, or whose sizes are wrong, do not make a thawed keydir work for ever", () => {
    // Records of nine words leave some at the end of every slab, those of eight do not.
    for (const rest of [4, 0]) {
      const each = (from: number, to: number, use: (k: Uint8Array) => void): void => {
        for (let n = from; n < to; n++) use(Buffer.concat([numbered(n), Buffer.alloc(rest)]))
      }
      const keydir = new Keydir()
      each(0, 20_000, (k) => keydir.set(k, 1, 1, 1))
      // Nearly as much is dead as may be, and no slab all of it.
      each(0, 20_000, (k) => {
        const [taken, live] = [keydir["takenWords"], keydir["liveWords"]]
        if (k[0]! % 4 > 0 && taken - live < live / 3 + 2 * slab_words - 100) keydir.delete(k)
      })
      const frozen = keydir.freeze()
      const lost: FrozenKeydir = { ...frozen, tables: frozen.tables.map(() => noSlots), counts: new Uint32Array(1_024) }
      for (const wrong of [lost, { ...frozen, lives: frozen.lives.map(() => 1) }]) {
        const thawed = Keydir.thaw(copyOf(wrong))
        each(20_000, 20_200, (k) => thawed.set(k, 1, 1, 1))
        each(20_000, 20_200, (k) => thawed.delete(k))
        assert.isBelow(thawed["words"].length, 100)
      }
    }
  })

  it("Setting a key that is there takes no new slab space.", () => {
    const keydir = new Keydir()
    load(keydir, 0, 3_000)
    keydir.set(new Uint8Array(5_000), 1, 1, 1)
    const bytes = bytesOf(keydir)
    const taken = keydir["takenWords"]
    for (let round = 0; round < 5; round++) {
      load(keydir, 0, 3_000)
      keydir.set(new Uint8Array(5_000), 1, 1, 1)
      keydir.snapshot()
    }
    assert.deepStrictEqual([bytesOf(keydir), keydir["takenWords"]], [bytes, taken])
  })

  it("Dead records take at most a third of what live ones take, and two slabs.", () => {
    const keydir = new Keydir()
    const live = 2_000
    let most = 0
    for (let n = 0; n < 100_000; n++) {
      // Every hundredth key stays until the end of its ten thousand, so that no slab empties by itself.
      keydir.set(numbered(n), 1, n, 100)
      if (n >= live && n % 100 !== 0) keydir.delete(numbered(n - live))
      if (n % 10_000 === 9_999) { for (let old = n - 9_999; old <= n - live; old++) keydir.delete(numbered(old)) }
      most = Math.max(most, wordsIn(keydir["words"]))
      if (n % 20_000 === 19_999) audit(keydir)
    }
    // 2,100 keys of 32 bytes, a third of that, two slabs, and the open one.
    assert.isAtMost(most, 2_100 * 8 * 4 / 3 + 3 * slab_words)
    assert.isAtMost(keydir["words"].length, 8)
  })

  it("keys that come and go at random are found, kept in snapshots, and bounded in memory", () => {
    const below = random(11)
    const keydir = new Keydir()
    const snapshots: Array<readonly [KeydirSnapshot, ReadonlySet<number>]> = []
    const live = Array.from({ length: 20_000 }, (_, n) => n)
    load(keydir, 0, live.length)
    for (let n = live.length; n < 150_000; n++) {
      const at = below(live.length)
      keydir.delete(numbered(live[at]!))
      keydir.set(numbered(n), 1, n, 100)
      live[at] = n
      if (n % 25_000 === 0) snapshots.push([keydir.snapshot(), new Set(live)])
    }
    audit(keydir)
    for (const [snapshot, then] of snapshots) {
      const { located } = drain(snapshot, { ordered: true })
      assert.strictEqual(located.length, then.size)
      assert.isTrue(located.every(({ key, offset }) => then.has(offset) && numbered(offset).equals(key)))
    }
    assert.isTrue(live.every((n) => keydir.offsetOf(keydir.find(numbered(n))) === n))
    assert.isAtMost(wordsIn(keydir["words"]), 20_000 * 8 * 4 / 3 + 3 * slab_words)
  })

  it("a walk is in order also where the keys that it sorts together begin alike, and otherwise than others do", () => {
    const alike = (start: string, count: number) =>
      Array.from({ length: count }, (_, n) => Buffer.concat([key(start), numbered(n)]))
    const others = [alike("aaaabbbb", 300), ["bbbbz", "c", "bb"].map(key), alike("bbbb", 300)]
    for (const behind of others) {
      const keydir = new Keydir()
      // As many as are sorted by themselves first.
      const keys = [...alike("bbbbbbbb", 256), ...behind]
      keys.forEach((key, n) => keydir.set(key, 1, n, 100))
      const walked = drain(keydir.snapshot(), { ordered: true }).located.map(({ key }) => name(key))
      assert.deepStrictEqual(walked, keys.sort(Buffer.compare).map(name))
    }
  })

  it("a slab is given back with its last key", () => {
    const keydir = new Keydir()
    load(keydir, 0, 1)
    const bytes = bytesOf(keydir)
    keydir.set(new Uint8Array(Frame.key_bytes_max), 1, 1, 100)
    const snapshot = keydir.snapshot()
    keydir.delete(new Uint8Array(Frame.key_bytes_max))
    assert.isAtMost(bytesOf(keydir), bytes + 128)
    assert.strictEqual(drain(snapshot, { ordered: true }).located.length, 2)
  })

  it("where hasRoom says yes no key is refused, until nearly all slabs are in use", () => {
    for (const lengths of [[16], [1], [4_000, 5_000], [16, 700, 65_536, 0, 4_081], [65_536]]) {
      const keydir = new Keydir()
      skipTo(keydir, slabs_max - 39)
      let keys = 0
      const next = (): Uint8Array => {
        const k = new Uint8Array(Math.max(4, lengths[keys % lengths.length] ?? 0))
        new DataView(k.buffer).setUint32(0, keys)
        return k
      }
      for (let k = next(); keydir.hasRoom(1, k.length); k = next()) {
        keydir.set(k, 1, keys++, 1)
        if (keys % 7 === 0) keydir.delete(k)
      }
      assert.isAtLeast(keydir["words"].length, slabs_max - 6, `${lengths.join()}: ${keys} keys`)
      const many = new Keydir()
      skipTo(many, slabs_max - 39)
      let fit = 0
      while (many.hasRoom(fit + 1, 16 * (fit + 1))) fit++
      load(many, 0, fit)
      assert.strictEqual(many.size, fit)
    }
  })

  it("entry ids go beyond 2^31, and a keydir with no slab left refuses a key and stays whole", () => {
    const keydir = new Keydir()
    skipTo(keydir, slabs_max / 2)
    load(keydir, 0, 3_000)
    assert.isAtLeast(keydir.find(numbered(1)), 2 ** 31)
    assert.strictEqual(keydir.offsetOf(keydir.find(numbered(2_999))), 2_999)
    assert.strictEqual(drain(keydir.snapshot(), { ordered: true }).located.length, 3_000)
    skipTo(keydir, slabs_max)
    assert.throws(() => keydir.set(new Uint8Array(5_000), 1, 1, 1), RangeError)
    assert.throws(() => load(keydir, 3_000, 10_000), RangeError)
    for (let n = 0; n < keydir.size; n++) assert.isTrue(keydir.offsetOf(keydir.find(numbered(n))) === n)
    audit(keydir)
    const { size } = keydir
    for (let n = 0; n < 2_500; n++) keydir.delete(numbered(n))
    for (let n = 2_500; n < size; n++) assert.isTrue(keydir.offsetOf(keydir.find(numbered(n))) === n)
    load(keydir, 0, 1_000)
    audit(keydir)
    assert.strictEqual(drain(keydir.snapshot(), { ordered: true }).located.length, size - 1_500)
  })

  it("churn of large keys does not grow memory", () => {
    const below = random(3)
    const keydir = new Keydir()
    for (let n = 0; n < 4_000; n++) {
      const k = new Uint8Array(below(4) === 0 ? 4_000 + below(9_000) : below(4_080)).fill(n & 0xFF)
      if (k.length >= 4) new DataView(k.buffer).setUint32(0, n)
      keydir.set(k, 1, n, 100)
      assert.strictEqual(keydir.delete(k), 100)
      assert.isAtMost(wordsIn(keydir["words"]), 3 * slab_words)
    }
    assert.strictEqual(keydir.size, 0)
  })

  it("200,000 keys go in and out, and what they took is given back", () => {
    const keydir = new Keydir()
    load(keydir, 0, 200_000)
    audit(keydir)
    let [found, absent, removed] = [0, 0, 0]
    for (let n = 0; n < 200_000; n++) if (keydir.offsetOf(keydir.find(numbered(n))) === n) found++
    for (let n = 200_000; n < 300_000; n++) if (keydir.find(numbered(n)) === -1) absent++
    assert.deepStrictEqual([found, absent], [200_000, 100_000])
    assert.isAtMost(bytesOf(keydir) / 200_000, 16 + 48)
    const { located } = drain(keydir.snapshot(), { ordered: true })
    assert.strictEqual(located.length, 200_000)
    assert.isTrue(located.every((each, i) => i === 0 || Buffer.compare(located[i - 1]!.key, each.key) < 0))
    for (let n = 0; n < 200_000; n++) removed += keydir.delete(numbered(n))
    assert.strictEqual(removed, 200_000 * 100)
    audit(keydir)
    assert.strictEqual(keydir.size, 0)
    assert.isAtMost(bytesOf(keydir), 3 * 4 * slab_words + 1_024 * 128)
  })

  it("the empty key and a key of 65,536 bytes are keys like any other", () => {
    const longest = new Uint8Array(Frame.key_bytes_max).fill(7)
    const shorter = longest.subarray(1)
    // 65,520 bytes make a record of exactly one slab.
    const slabful = longest.subarray(16)
    const run = [new Uint8Array(0), longest, shorter, slabful].flatMap((k): ReadonlyArray<Command> => [
      { kind: "delete", key: k, segment: 1 },
      { kind: "set", key: k, segment: 2 },
      { kind: "snapshot", key: k, segment: 2 },
      { kind: "set", key: k, segment: 3 }
    ])
    runBoth(new Keydir(), [...run, ...run, { kind: "delete", key: slabful, segment: 1 }, ...run])
  })

  it("a place is kept whole up to its limits, and refused beyond them", () => {
    const keydir = new Keydir()
    for (const k of [key("a"), new Uint8Array(Frame.key_bytes_max)]) {
      keydir.set(k, 2 ** 32 - 1, 2 ** 48 - 1, len_max)
      const entry = keydir.find(k)
      assert.deepStrictEqual(
        [keydir.segmentOf(entry), keydir.offsetOf(entry), keydir.lenOf(entry), keyOf(keydir, entry)],
        [2 ** 32 - 1, 2 ** 48 - 1, len_max, k]
      )
      for (const [segment, offset, len] of [[2 ** 32, 0, 1], [1, 2 ** 48, 1], [1, 0, len_max + 1]] as const) {
        assert.throws(() => keydir.set(k, segment, offset, len), RangeError)
      }
    }
    const tooLong = new Uint8Array(Frame.key_bytes_max + 1)
    assert.throws(() => keydir.set(tooLong, 1, 0, 1), RangeError)
    assert.deepStrictEqual([keydir.find(tooLong), keydir.delete(tooLong), keydir.size], [-1, 0, 2])
    assert.isAtLeast(len_max, Frame.frame_bytes_max)
  })

  it("the hash is HalfSipHash-1-3 over words: the Linux kernel's vectors", () => {
    const message = Uint32Array.from({ length: 16 }, (_, i) => 0x0302_0100 + 0x0404_0404 * i)
    const vectors = [0x5814C896, 0x7E059EA6, 0x577999B1, 0x6B28096C, 0x8B31D501, 0x911BB605, 0x57150AD7]
    vectors.forEach((hash, i) => {
      assert.strictEqual(halfSipHash(message, 0, 4 * i, 0x0302_0100, 0x0706_0504) >>> 0, hash)
    })
    assert.strictEqual(halfSipHash(message, 0, 60, 0x0302_0100, 0x0706_0504) >>> 0, 0x88B4C4CC)
  })

  it("two keydirs of one process hash alike, another seed hashes otherwise", () => {
    const [a, b, c] = [new Keydir(), new Keydir(), new Keydir(seed)]
    for (const keydir of [a, b, c]) load(keydir, 0, 100)
    assert.deepStrictEqual(a["counts"], b["counts"])
    assert.notDeepEqual(a["counts"], c["counts"])
  })
})

describe("KeydirSnapshot", () => {
  const arbitrary = { runs: 200, size: 60 }

  it.prop("Words compare in the order in which their bytes compare.", {
    keys: Arbitrary.array(Arbitrary.all([keys, between(0, 255)]), { maxLength: 60 })
  }, ({ keys }) => {
    const keydir = new Keydir()
    const near = (k: Uint8Array, end: number, last: number): Uint8Array => Uint8Array.of(...k.subarray(0, end), last)
    const model = fill(keydir, keys.flatMap(([k, last]) => [k, near(k, 9, last), near(near(k, 3, last), 4, 0)]))
    same(keydir.snapshot(), model)
  }, { arbitrary })

  it.prop("a prefix, a lower and an upper end select what comparing the bytes selects", {
    keys: Arbitrary.array(letters, { maxLength: 60 }),
    range: Arbitrary.all([bound, bound, bound])
  }, ({ keys, range: [prefix, from, to] }) => {
    const keydir = new Keydir()
    const model = fill(keydir, keys)
    same(keydir.snapshot(), model, { prefix, from, to })
  }, { arbitrary })

  it("ranges at the edges of the keys", () => {
    const keydir = new Keydir()
    const longest = new Uint8Array(Frame.key_bytes_max).fill(0xFF)
    const all = ["", "\x00", "a", "a\x00", "a\xff", "a\xff\xff", "b", "\xff", "\xff\xff"].map(key)
    const model = fill(keydir, [...all, longest])
    const snapshot = keydir.snapshot()
    const count = (range: KeyRange): number => {
      same(snapshot, model, range)
      return drain(snapshot, { ordered: true, range }).located.length
    }
    const longer = new Uint8Array(Frame.key_bytes_max + 3).fill(0xFF)
    assert.strictEqual(count({ prefix: key("") }), 10)
    assert.strictEqual(count({ prefix: key("a") }), 4)
    assert.strictEqual(count({ prefix: key("a\xff") }), 2)
    assert.deepStrictEqual([count({ prefix: key("\xff") }), count({ prefix: key("\xff\xff") })], [3, 2])
    assert.deepStrictEqual([count({ from: key("") }), count({ to: key("") })], [10, 0])
    assert.strictEqual(count({ from: key("a"), to: key("a") }), 0)
    assert.strictEqual(count({ from: key("b"), to: key("a") }), 0)
    assert.strictEqual(count({ from: key("a"), to: key("b") }), 4)
    assert.strictEqual(count({ prefix: key("a"), from: key("a\x01"), to: key("a\xff\xff") }), 1)
    assert.deepStrictEqual([count({ from: longest }), count({ to: longest })], [1, 9])
    assert.deepStrictEqual([count({ from: longer }), count({ to: longer }), count({ prefix: longer })], [0, 10, 0])
  })

  it("A step of a walk passes, sorts and copies a bounded amount, whatever the keys and the range.", () => {
    const keydir = new Keydir()
    load(keydir, 0, 100_000)
    const many = keydir.snapshot()
    const nothing = { prefix: key("no such key") }
    // 100,000 records of 8 words, and 131,072 words a step; runs of 4,096 to sort; 2,048 in a step.
    assert.isAtLeast(drain(many, { ordered: true, range: nothing }).steps, 6)
    assert.isAtLeast(drain(many, { ordered: false, range: nothing }).steps, 6)
    assert.isAtLeast(drain(many, { ordered: true }).steps, 100_000 / 4_096 + 100_000 / 2_048)
    assert.isAtLeast(drain(many, { ordered: false }).steps, 100_000 / 2_048)

    const large = new Keydir()
    for (let n = 0; n < 40; n++) {
      const k = new Uint8Array(Frame.key_bytes_max).fill(1)
      new DataView(k.buffer).setUint32(Frame.key_bytes_max - 4, n)
      large.set(k, 1, n, 100)
    }
    for (const ordered of [true, false]) {
      for (const entries of large.snapshot().entries({ ordered })) assert.isAtMost(entries.length, 3)
    }
    // Sorting takes as few at a time.
    assert.isAtLeast(drain(large.snapshot(), { ordered: true }).steps, 40 / 3 * 2)
  })

  it("a snapshot can be walked many times, at once, and not to the end", () => {
    const keydir = new Keydir()
    load(keydir, 0, 5_000)
    const snapshot = keydir.snapshot()
    const [a, b] = [snapshot.entries({ ordered: true }), snapshot.entries({ ordered: false })]
    for (let i = 0; i < 6; i++) a.next()
    b.next()
    for (let n = 0; n < 5_000; n++) keydir.delete(numbered(n))
    const left = (walk: Iterable<Uint32Array>) => Array.from(walk, ({ length }) => length)
    // The first steps of the ordered walk give nothing: they sort 256, 512, 1,024, 2,048 and the rest.
    assert.deepStrictEqual([left(a), left(b)], [[2_048, 904], [2_048, 904]])
    assert.strictEqual(drain(snapshot, { ordered: true }).located.length, 5_000)
    assert.strictEqual(drain(keydir.snapshot(), { ordered: true }).located.length, 0)
  })
})
