/** The cache of frames by itself, and what a store's readers see of it. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Exit, Schema, Scope } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import { cache_bytes_default, cache_bytes_max, cache_bytes_min, FrameCache } from "../src/internal/frameCache.ts"
import { open_max } from "../src/internal/segmentFiles.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import { FaultyDisk, over, text } from "./support/faultyDisk.ts"
import { segmentName, temporaryDirectory } from "./support/stores.ts"

interface Place {
  readonly segment: number
  readonly offset: number
  readonly len: number
}

/** As different from those of every other place as can be: its own numbers, over and over. */
const frameOf = ({ len, offset, segment }: Place): Uint8Array => {
  const numbers = Buffer.from(Float64Array.of(segment, offset, len).buffer)
  return new Uint8Array(Buffer.alloc(len, numbers))
}

const room = new Uint8Array(4_106)
const view = new DataView(room.buffer)
// Neither at the beginning nor at the end of a buffer.
const room_start = 3

/** What `get` does with a place: the frame if it was there; then it is kept. */
const ask = (cache: FrameCache, place: Place, frame: Uint8Array): boolean => {
  const { len, offset, segment } = place
  if (cache.copyTo(segment, offset, len, room, view, room_start)) {
    assert.isTrue(Buffer.from(frame).equals(room.subarray(room_start, room_start + len)), JSON.stringify(place))
    return true
  }
  room.set(frame, room_start)
  cache.keep(segment, offset, len, room, view, room_start)
  return false
}

const isThere = (cache: FrameCache, place: Place): boolean => ask(cache, place, frameOf(place))

const between = (minimum: number, maximum: number): Arbitrary.Arbitrary<number> =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

describe("a cache of frames", () => {
  it.effect.prop(
    "gives a frame as it was kept, or none, however small it is and whatever is asked for",
    {
      bytes: between(cache_bytes_min, 4 * cache_bytes_min),
      asked: Arbitrary.array(Arbitrary.all([between(0, 3), between(0, 400), between(0, 3)]), {
        minLength: 200,
        maxLength: 2_000
      })
    },
    ({ asked, bytes }) =>
      Effect.sync(() => {
        const cache = new FrameCache(bytes)
        for (const [segment, at, high] of asked) {
          // A place has one frame: of what stands there, its length is a part.
          isThere(cache, { segment, offset: high * 2 ** 32 + at * 4_099, len: 28 + (at * 977 + segment) % 4_069 })
        }
      }),
    { arbitrary: { runs: 30 } }
  )

  it("tells places apart that have half of their numbers in common", () => {
    const cache = new FrameCache(cache_bytes_min)
    const places = [0, 1, 65_535].flatMap((high) =>
      [1, 2, 99_999_999].flatMap((segment) =>
        [0, 1, 2 ** 31, 2 ** 32 - 1].map((low) => ({ segment, offset: high * 2 ** 32 + low, len: 100 }))
      )
    )
    for (const place of places) assert.isFalse(isThere(cache, place))
    for (const place of places) assert.isTrue(isThere(cache, place))
    // One of another length is not what was asked for.
    const [first] = places
    assert.isFalse(
      cache.copyTo(first!.segment, first!.offset, 99, new Uint8Array(99), new DataView(new ArrayBuffer(99)), 0)
    )
  })

  it("tells places apart that have one hash", () => {
    const cache = new FrameCache(cache_bytes_min)
    const spread = (segment: number): number => Math.imul(segment, 0x9e3779b1)
    const places = [1, 2, 3].map((segment) => ({ segment, offset: (spread(1) ^ spread(segment)) >>> 0, len: 100 }))
    for (const place of places) assert.isFalse(isThere(cache, place))
    for (const place of places) assert.isTrue(isThere(cache, place))
  })

  it("keeps all that is asked for where it finds room", () => {
    const cache = new FrameCache(cache_bytes_default)
    const places = Array.from({ length: 150_000 }, (_, at) => ({ segment: 1, offset: at * 144, len: 144 }))
    for (const place of places) isThere(cache, place)
    const there = places.filter((place) => isThere(cache, place)).length
    assert.isAbove(there, 0.99 * places.length)
  })

  it("keeps what is used while what is not goes, and takes in what is used from now on", () => {
    const cache = new FrameCache(1_048_576)
    const cold = frameOf({ segment: 9, offset: 0, len: 144 })
    let passed = 0
    const used = (segment: number): number => {
      const places = Array.from({ length: 300 }, (_, at) => ({ segment, offset: at * 144, len: 144 }))
      let there = 0
      for (let round = 0; round < 100; round++) {
        there = 0
        for (const place of places) {
          if (isThere(cache, place)) there++
          // Many more that are never asked for again, twenty times what there is room for.
          for (let each = 0; each < 4; each++) ask(cache, { segment: 9, offset: 144 * passed++, len: 144 }, cold)
        }
      }
      return there
    }
    assert.isAbove(used(1), 290)
    assert.isAbove(used(2), 290)
  })

  it("has a slot for each of the frames of small values that it has room for, whatever its size", () => {
    for (const bytes of [2 ** 21 - 1, 2 ** 21, 3_000_000]) {
      const cache = new FrameCache(bytes)
      const places = Array.from({ length: 20_000 }, (_, at) => ({ segment: 1, offset: at * 60, len: 60 }))
      for (const place of places) isThere(cache, place)
      const there = places.filter((place) => isThere(cache, place)).length
      assert.isAbove(there, 0.95 * places.length, `${bytes}`)
    }
  })

  it("goes on with what it has when there is no more memory, or without any", () => {
    for (const granted of [0, 1, 2, 3, 4, 5]) {
      let left = granted
      const cache = new FrameCache(8_388_608, (words) => {
        if (left-- <= 0) throw new RangeError("Array buffer allocation failed")
        return new Int32Array(words)
      })
      const places = Array.from({ length: 20_000 }, (_, at) => ({ segment: 1, offset: at * 144, len: 144 }))
      for (const place of places) isThere(cache, place)
      for (let time = 0; time < 20; time++) isThere(cache, places[0]!)
      assert.strictEqual(isThere(cache, places[0]!), granted >= 2, `${granted}`)
    }
  })

  it("takes no memory before the first frame, little for a few, and never more than it may", () => {
    const held = () => process.memoryUsage().arrayBuffers
    const kept: Array<FrameCache> = []
    const taken = (bytes: number) => {
      const before = held()
      const cache = new FrameCache(bytes)
      kept.push(cache)
      return [0, 10, 100, 20_000].map((frames) => {
        for (let at = 0; at < frames; at++) cache.keep(1, at * 4_096, 4_096, room, view, 0)
        return held() - before
      })
    }
    for (const bytes of [cache_bytes_min, 1_000_000, cache_bytes_default]) {
      // What others do in the process is counted too: the least of some counts, none of which is of a cache that went.
      const counts = [taken(bytes), taken(bytes), taken(bytes)]
      const [none, few, some, all] = [0, 1, 2, 3].map((at) => Math.min(...counts.map((count) => count[at] ?? 0)))
      assert.isBelow(none ?? Infinity, 1_024)
      assert.isBelow(few ?? Infinity, 90_000)
      assert.isBelow(some ?? Infinity, 1_500_000)
      assert.isAtMost(all ?? Infinity, bytes + 65_536)
    }
    assert.strictEqual(kept.length, 9)
  })
})

/** The reads that `effect` makes of segments. */
const readsOf = Effect.fnUntraced(function*<A, E, R>(disk: FaultyDisk, effect: Effect.Effect<A, E, R>) {
  const count = () => disk.calls.filter(({ kind, path }) => kind.startsWith("read") && path.endsWith(".dwal")).length
  const before = count()
  const value = yield* effect
  return { value, reads: count() - before }
})

const valueOf = (kv: Kv.KvRead, key: string) => Effect.map(kv.get(key), text)

describe("a store's cache", () => {
  it.effect("a value that is asked for again is read from memory, and is the one that was put last", () => {
    const disk = new FaultyDisk()
    return Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* kv.putMany([["a", "1"], ["b", "2"]])
      assert.deepStrictEqual(yield* readsOf(disk, valueOf(kv, "a")), { value: "1", reads: 1 })
      assert.deepStrictEqual(yield* readsOf(disk, valueOf(kv, "a")), { value: "1", reads: 0 })
      const both = Effect.map(kv.getMany(["a", "b"]), (values) => values.map(text))
      assert.deepStrictEqual(yield* readsOf(disk, both), { value: ["1", "2"], reads: 1 })
      assert.deepStrictEqual(yield* readsOf(disk, both), { value: ["1", "2"], reads: 0 })
      yield* kv.put("a", "3")
      assert.deepStrictEqual(yield* readsOf(disk, valueOf(kv, "a")), { value: "3", reads: 1 })
      const added = kv.modify("a", (value) => [text(value), `${text(value)}!`])
      assert.deepStrictEqual(yield* readsOf(disk, added), { value: "3", reads: 0 })
      assert.deepStrictEqual(yield* readsOf(disk, added), { value: "3!", reads: 1 })
      yield* kv.delete("a")
      assert.strictEqual(yield* valueOf(kv, "a"), undefined)
    }).pipe(over(disk))
  })

  it.effect("what is given out is a copy: to change it changes no later answer", () =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
      yield* kv.put("a", "1")
      for (let time = 0; time < 3; time++) {
        const value = yield* kv.get("a")
        assert.strictEqual(text(value), "1")
        value!.fill(0)
      }
    }))

  it.effect("without one every value is read from its file", () => {
    const disk = new FaultyDisk()
    return Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory, cacheSize: 0 })
      yield* kv.put("a", "1")
      const reader = yield* Kv.makeReader({ directory, cacheSize: 0 })
      for (const store of [kv, reader, kv, reader]) {
        // A reader opens the file at its first.
        yield* valueOf(store, "a")
        assert.deepStrictEqual(yield* readsOf(disk, valueOf(store, "a")), { value: "1", reads: 1 })
      }
    }).pipe(over(disk))
  })

  it.effect("of more segments than are kept open, all values are read from memory in the end", () => {
    const disk = new FaultyDisk()
    const names = Array.from({ length: 4 * open_max }, (_, at) => `key ${at}`)
    return Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory, segmentSize: 1 })
      for (const name of names) yield* kv.put(name, name)
      const all = Effect.forEach(names, (name) => valueOf(kv, name))
      yield* all
      assert.deepStrictEqual(yield* readsOf(disk, all), { value: names, reads: 0 })
      const reader = yield* Kv.makeReader({ directory })
      const together = Effect.forEach(names, (name) => valueOf(reader, name), { concurrency: "unbounded" })
      yield* together
      assert.deepStrictEqual(yield* readsOf(disk, together), { value: names, reads: 0 })
      // The lock, and the directory of each.
      assert.isAtMost(disk.peakDescriptors, 3 * open_max + 4)
    }).pipe(over(disk))
  })

  it.effect("readers and stores over a log have one, too; a log alone and its streams have none", () => {
    const disk = new FaultyDisk()
    return Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const log = yield* Log.make({ directory })
      const kv = yield* Effect.provideService(Kv.makeLog, Log.Log, log)
      const ref = yield* kv.put("a", "1")
      const stores = [kv, yield* Kv.makeReader({ directory })]
      for (const store of stores) {
        yield* Effect.repeat(valueOf(store, "a"), { times: 2 })
        assert.deepStrictEqual(yield* readsOf(disk, valueOf(store, "a")), { value: "1", reads: 0 })
      }
      const plainReader = yield* Reader.make({ directory })
      for (const store of [log, plainReader]) {
        yield* Effect.repeat(store.read(ref), { times: 2 })
        assert.strictEqual((yield* readsOf(disk, store.read(ref))).reads, 1)
      }
    }).pipe(over(disk))
  })

  it.effect("what is no sound frame is not kept, and damage shows until it has been mended", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const kv = yield* Kv.make({ directory })
      const { offset } = yield* kv.put("a", "value")
      const fd = NFS.openSync(NodePath.join(directory, segmentName(1)), "r+")
      const at = offset + 30
      const sound = new Uint8Array(1)
      NFS.readSync(fd, sound, 0, 1, at)
      NFS.writeSync(fd, Uint8Array.of(sound[0]! ^ 1), 0, 1, at)
      for (let time = 0; time < 2; time++) {
        assert.strictEqual((yield* Effect.flip(kv.get("a")))._tag, "CorruptSegment")
      }
      NFS.writeSync(fd, sound, 0, 1, at)
      NFS.closeSync(fd)
      assert.strictEqual(yield* valueOf(kv, "a"), "value")
    }))

  it.effect("is of no use once the scope has closed", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const scope = yield* Scope.make()
      const kv = yield* Scope.provide(Kv.make({ directory }), scope)
      yield* kv.put("a", "1")
      assert.strictEqual(yield* valueOf(kv, "a"), "1")
      assert.strictEqual(yield* valueOf(kv, "a"), "1")
      yield* Scope.close(scope, Exit.void)
      const error = yield* Effect.flip(kv.get("a"))
      assert.strictEqual(error._tag === "IoError" && error.code, "EBADF")
    }))

  it.effect("a size that it cannot have is refused before anything is touched", () =>
    Effect.gen(function*() {
      const directory = NodePath.join(yield* temporaryDirectory, "store")
      const sizes = [-1, 1, 0.5, cache_bytes_min - 1, cache_bytes_max + 1, Number.NaN, Number.POSITIVE_INFINITY]
      for (const cacheSize of sizes) {
        assert.strictEqual((yield* Effect.flip(Kv.make({ directory, cacheSize })))._tag, "InvalidOptions")
        assert.strictEqual((yield* Effect.flip(Kv.makeReader({ directory, cacheSize })))._tag, "InvalidOptions")
      }
      assert.isFalse(NFS.existsSync(directory))
      const kv = yield* Kv.make({ directory, cacheSize: cache_bytes_min })
      yield* kv.put("a", "1")
      assert.strictEqual(yield* valueOf(kv, "a"), "1")
      assert.strictEqual(yield* valueOf(kv, "a"), "1")
    }))
})
