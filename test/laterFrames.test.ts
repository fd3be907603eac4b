/**
 * The count of whole valid frames behind a damaged place: it decides whether a tail may be cut, so one frame overlooked
 * is acknowledged data lost. Against an oracle that tries every byte by itself, on bytes made to mislead; and in linear
 * time.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Schema } from "effect"
import * as V8 from "node:v8"
import * as VM from "node:vm"
import type { DiskFile } from "../src/Disk.ts"
import { IoError } from "../src/Errors.ts"
import { countLaterFrames } from "../src/internal/laterFrames.ts"
import { concat, crc32cBitwise, flipped, frame, noise, raw, utf8, validAt, zeros } from "./support/stores.ts"

/** A file of these bytes, which gives at most `most` of them at once. */
const fileOf = (
  bytes: Uint8Array,
  options: { readonly most?: number; readonly onRead?: () => void } = {}
): DiskFile => ({
  path: "memory",
  readNow: () => assert.fail("a bulk read on the calling thread"),
  read: (into, start, end, position) =>
    Effect.sync(() => {
      options.onRead?.()
      const count = Math.max(0, Math.min(end - start, bytes.length - position, options.most ?? Infinity))
      into.set(bytes.subarray(position, position + count), start)
      return count
    }),
  appendNow: () => new IoError({ operation: "write", path: "memory", code: "EROFS", cause: undefined }),
  append: () => Effect.die("a write"),
  overwrite: () => Effect.die("a write"),
  size: Effect.succeed(bytes.length),
  truncate: () => Effect.die("a truncate"),
  sync: Effect.die("a sync"),
  close: Effect.void
})

const count = (bytes: Uint8Array, txid = 0, from = 0, size = bytes.length) =>
  countLaterFrames(fileOf(bytes), from, size, txid)

/** The definition: at every byte, whether a frame with a higher txid starts there; what is inside one is its payload. */
const naive = (bytes: Uint8Array, txid: number, from = 0): number => {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  let found = 0
  for (let at = from; at < buffer.length; at++) {
    if (!validAt(buffer, at) || buffer.readBigUInt64LE(at + 8) <= BigInt(txid)) continue
    found++
    at += 28 + buffer.readUInt32LE(at + 16) + buffer.readUInt32LE(at + 20) - 1
  }
  return found
}

/** Two valid frames of which the second starts inside the first and ends behind it. */
const overlapping = (first: number, second: number): Uint8Array => {
  const inner = frame({ txid: second, payloadLength: 40 }).subarray(0, 24)
  const outer = frame({ txid: first, payload: concat(utf8("ab"), inner, utf8("cd")) })
  // The outer checksum is the middle of the inner payload.
  const body = concat(outer.subarray(26), zeros(34))
  const crc = new Uint8Array(4)
  new DataView(crc.buffer).setUint32(0, crc32cBitwise(body), true)
  return concat(outer.subarray(0, 26), body, crc)
}

// A stack of pieces: each pushes some bytes, or makes one piece of those before it.
const Piece = Schema.Struct({
  kind: Schema.Literals([
    "frame",
    "frame",
    "frame",
    "wrap",
    "wrapHalf",
    "claim",
    "cut",
    "bad",
    "magic",
    "noise",
    "zeros",
    "overlap",
    "type"
  ]),
  txid: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9 })),
  n: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 90 }))
})

const soup = (pieces: ReadonlyArray<typeof Piece.Type>): Uint8Array => {
  let bytes: Uint8Array = zeros(0)
  for (const { kind, n, txid } of pieces) {
    const add = (piece: Uint8Array) => {
      bytes = concat(bytes, piece)
    }
    if (kind === "frame") add(frame({ txid, key: noise(n % 5), payload: noise(n, txid) }))
    if (kind === "wrap") bytes = frame({ txid, payload: bytes })
    if (kind === "wrapHalf") {
      const at = Math.floor(bytes.length * n / 91)
      bytes = concat(
        bytes.subarray(0, at),
        frame({ type: "Put", txid, key: utf8("DWAL"), payload: bytes.subarray(at) })
      )
    }
    if (kind === "claim") add(frame({ txid, payloadLength: n * 7 }).subarray(0, 24))
    if (kind === "cut") add(frame({ txid, payload: noise(n) }).subarray(0, n % 40))
    if (kind === "bad") add(flipped(frame({ txid, payload: noise(n) }), 20 + n % 8, 1 << (txid % 8)))
    if (kind === "magic") add(utf8("DWALDWALDWADWAL".slice(0, n % 15)))
    if (kind === "noise") add(noise(n, txid))
    if (kind === "zeros") add(zeros(n))
    if (kind === "overlap") add(overlapping(txid, n % 10))
    if (kind === "type") add(frame({ txid, typeByte: n % 4, flags: n % 2 }))
  }
  return bytes
}

const pieces = Arbitrary.array(Arbitrary.schema(Piece), { maxLength: 24 })
const txids = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9 })))

describe("what counts", () => {
  it.effect("is a whole valid frame with a higher txid, at any byte", () =>
    Effect.gen(function*() {
      for (let at = 0; at < 40; at++) {
        const bytes = concat(noise(at), raw(5, "later"), noise(at % 7))
        assert.strictEqual(yield* count(bytes, 4), 1)
        assert.strictEqual(yield* count(bytes, 5), 0)
        assert.strictEqual(yield* count(bytes, 6), 0)
        assert.strictEqual(yield* count(bytes, 4, at), 1)
        assert.strictEqual(yield* count(bytes, 4, at + 1), 0)
        assert.strictEqual(yield* count(bytes, 4, 0, at + 33), 1)
        assert.strictEqual(yield* count(bytes, 4, 0, at + 32), 0)
      }
    }))

  it.effect("is not what stands inside a frame that is counted, but is what stands inside one that is not", () =>
    Effect.gen(function*() {
      const nested = concat(raw(6, "x"), raw(7, "y"))
      assert.strictEqual(yield* count(raw(5, nested), 4), 1)
      assert.strictEqual(yield* count(raw(4, nested), 4), 2)
      assert.strictEqual(yield* count(flipped(raw(5, nested), 8), 4), 2)
      assert.strictEqual(yield* count(raw(5, nested).subarray(0, -1), 4), 2)
      assert.strictEqual(yield* count(raw(5, raw(6, nested)), 5), 1)
      assert.strictEqual(yield* count(raw(5, raw(6, nested)), 6), 1)
    }))

  it.effect("goes by where frames start when they overlap", () =>
    Effect.gen(function*() {
      const bytes = overlapping(5, 6)
      assert.isTrue(validAt(bytes, 0) && validAt(bytes, 26))
      assert.strictEqual(yield* count(bytes, 4), 1)
      assert.strictEqual(yield* count(bytes, 5), 1)
      assert.strictEqual(yield* count(bytes, 6), 0)
    }))

  it.effect("has txids above 2^32, and none above 2^53 - 1", () =>
    Effect.gen(function*() {
      const bytes = concat(
        frame({ txid: 2 ** 32 + 1 }),
        frame({ txid: Number.MAX_SAFE_INTEGER }),
        frame({ txid: 2n ** 53n })
      )
      assert.strictEqual(yield* count(bytes, 0), 2)
      assert.strictEqual(yield* count(bytes, 2 ** 32), 2)
      assert.strictEqual(yield* count(bytes, 2 ** 32 + 1), 1)
      assert.strictEqual(yield* count(bytes, Number.MAX_SAFE_INTEGER), 0)
    }))
})

describe("against the definition", () => {
  it.effect.prop(
    "it is the same count on any soup of frames, parts of frames and frames in frames",
    [pieces, txids],
    ([pieces, txid]) =>
      Effect.gen(function*() {
        const bytes = soup(pieces)
        for (const from of [0, 1, Math.floor(bytes.length / 2)]) {
          const wanted = naive(bytes, txid, from)
          assert.strictEqual(yield* count(bytes, txid, from), wanted)
          // With room for so few candidates, the others wait for another pass over the same bytes.
          for (const open_max of [1, 2, 3, 5]) {
            const found = yield* countLaterFrames(fileOf(bytes), from, bytes.length, txid, open_max)
            assert.strictEqual(found, wanted, `${open_max} candidates at most`)
          }
        }
      }),
    { arbitrary: { runs: 250, size: 24 } }
  )

  it.effect.prop(
    "it is the same count when the soup lies across the pieces the file is read in, and reads are short",
    [pieces, txids, Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2000 })))],
    ([pieces, txid, n]) =>
      Effect.gen(function*() {
        const bytes = soup(pieces)
        const wanted = naive(bytes, txid)
        const filler = noise(65_536 - Math.min(n, bytes.length))
        const file = fileOf(concat(filler, bytes), { most: 10_007 })
        const size = filler.length + bytes.length
        assert.strictEqual(yield* countLaterFrames(file, 0, size, txid), wanted)
        assert.strictEqual(yield* countLaterFrames(file, 0, size, txid, 2), wanted)
        // The same with every frame inside one large frame whose checksum does not hold.
        const around = flipped(frame({ txid: 9, payload: concat(filler, bytes) }), 8, 0x40)
        assert.strictEqual(yield* count(around, txid), wanted)
      }),
    { arbitrary: { runs: 60, size: 24 } }
  )

  it.effect("it finds the last frame of a file of any size", () =>
    Effect.gen(function*() {
      // 65,536 bytes are read at a time, with an overlap: every remainder of that, and the ones around it.
      const last = raw(9, "last")
      const missed: Array<number> = []
      for (const pieces of [1, 2, 3]) {
        for (let size = pieces * 65_512 - 64; size < pieces * 65_512 + 128; size++) {
          const bytes = concat(noise(size - last.length), last)
          if ((yield* count(bytes, 8)) !== 1) missed.push(size)
        }
      }
      assert.deepStrictEqual(missed, [], "the frame that ends the file is overlooked at these sizes")
    }))

  it.effect("it finds a long frame that ends the file, whatever the size of the file", () =>
    Effect.gen(function*() {
      const missed: Array<number> = []
      for (let size = 65_500; size < 65_600; size++) {
        const bytes = frame({ txid: 9, payload: noise(size - 28) })
        if ((yield* count(bytes, 8)) !== 1) missed.push(size)
      }
      assert.deepStrictEqual(missed, [])
    }))

  it.effect("it finds a frame wherever it lies across two pieces of the file", () =>
    Effect.gen(function*() {
      const frameBytes = raw(9, "somewhere in the middle")
      for (let at = 65_440; at < 65_560; at++) {
        const bytes = concat(noise(at), frameBytes, noise(131_072 - at))
        assert.strictEqual(yield* count(bytes, 8), 1, `at ${at}`)
      }
    }))

  it.effect("it ends when the file is shorter than it was", () =>
    Effect.gen(function*() {
      const bytes = concat(raw(9, "there"), noise(100_000))
      for (const size of [100_033, 100_034, 131_024, 131_100, 1_000_000]) {
        assert.strictEqual(yield* count(bytes, 8, 0, size), 1)
      }
      // Also within the checksum of one.
      const whole = raw(9, noise(70_000))
      for (let missing = 1; missing < 8; missing++) {
        assert.strictEqual(yield* count(whole.subarray(0, -missing), 8, 0, whole.length), 0)
      }
    }))

  // As long as the first claims, there is no room for the others; and what it claims ends in another piece of the file.
  it.effect("it finds what stands in a claim, with room for no other candidate, and also where the claim's end is gone", () =>
    Effect.gen(function*() {
      const claim = frame({ txid: 9, payloadLength: 140_000 }).subarray(0, 24)
      const bytes = concat(claim, raw(9, "one"), noise(70_000), raw(9, "two"), noise(80_000))
      const open = (open_max: number, left: Uint8Array) => countLaterFrames(fileOf(left), 0, bytes.length, 8, open_max)
      for (const left of [bytes, bytes.subarray(0, 71_000)]) {
        for (const open_max of [1, 2, 1_000]) assert.strictEqual(yield* open(open_max, left), 2, `${left.length}`)
      }
    }))
})

/** A file in which a frame seems to start every 24 bytes, each as long as it says. */
const falseStarts = (size: number, lengthAt: (at: number) => number): Uint8Array => {
  const bytes = new Uint8Array(size)
  const header = frame({ txid: 1000 }).subarray(0, 24)
  const view = new DataView(bytes.buffer)
  for (let at = 0; at + 24 <= size; at += 24) {
    bytes.set(header, at)
    view.setUint32(at + 20, Math.max(0, Math.min(67_108_864, lengthAt(at) - 28)), true)
  }
  return bytes
}

const mebibyte = 1 << 20

interface Cost {
  readonly cpu_ms: number
  readonly heap_bytes: number
  readonly step_ms: number
}

/** Of this process alone: neither what else the machine does nor a stop of the process counts. */
const cpu_ms = (): number => {
  const { system, user } = process.cpuUsage()
  return (system + user) / 1_000
}

/** What judging these bytes costs: this process's time, the most memory beyond what was there, the longest single step. */
const cost = (bytes: Uint8Array, wanted: number) =>
  Effect.gen(function*() {
    const heap = process.memoryUsage().heapUsed
    let most = heap
    let step_ms = 0
    const start = cpu_ms()
    let last = start
    const tick = () => {
      const now = cpu_ms()
      step_ms = Math.max(step_ms, now - last)
      last = now
      most = Math.max(most, process.memoryUsage().heapUsed)
    }
    // Comes round once in each turn of the event loop.
    let round = setImmediate(function again() {
      tick()
      round = setImmediate(again)
    })
    const found = yield* Effect.ensuring(
      countLaterFrames(fileOf(bytes, { onRead: tick }), 0, bytes.length, 1),
      Effect.sync(() => clearImmediate(round))
    )
    tick()
    assert.strictEqual(found, wanted)
    return { cpu_ms: last - start, heap_bytes: most - heap, step_ms } satisfies Cost
  })

const shapes: ReadonlyArray<{
  readonly name: string
  readonly mebibytes: number
  readonly make: (size: number) => Uint8Array
  readonly wanted: (size: number) => number
}> = [
  {
    name: "claiming 64 MiB each",
    mebibytes: 16,
    make: (size) => falseStarts(size, () => 67_108_864),
    wanted: () => 0
  },
  {
    name: "claiming half the file each",
    mebibytes: 8,
    make: (size) => falseStarts(size, () => size / 2),
    wanted: () => 0
  },
  {
    name: "claiming to end at all sorts of places",
    mebibytes: 8,
    make: (size) => falseStarts(size, (at) => Math.imul(at, 0x9E37_79B1) % size),
    wanted: () => 0
  },
  {
    name: "that are frames, inside one that is not",
    mebibytes: 16,
    make: (size) => {
      const bytes = new Uint8Array(size)
      const one = frame({ txid: 5 })
      for (let at = 0; at + 28 <= size; at += 28) bytes.set(one, at)
      bytes.set(frame({ txid: 7, payloadLength: size - 28 }).subarray(0, 24))
      return bytes
    },
    wanted: (size) => Math.floor(size / 28) - 1
  }
]

describe("a file full of frame starts", () => {
  it.effect.each(shapes)(
    "$name is judged in linear time and bounded memory",
    ({ make, mebibytes, wanted }) =>
      Effect.gen(function*() {
        const measure = (size: number) => {
          const bytes = make(size)
          return cost(bytes, wanted(size))
        }
        // Once to warm up.
        yield* measure(mebibyte)
        const half = yield* measure(mebibytes * mebibyte / 2)
        const whole = yield* measure(mebibytes * mebibyte)
        assert.isBelow(whole.cpu_ms, 10_000)
        // Twice the work, and room for a busy machine; trying each start by itself would be thousands of times that.
        assert.isBelow(whole.cpu_ms, 4 * half.cpu_ms + 500)
        assert.isBelow(whole.heap_bytes, 16 * mebibytes * mebibyte)
      })
  )

  it.effect("that all claim to end at the same byte is judged in linear time", () =>
    Effect.gen(function*() {
      const make = (size: number) => falseStarts(size, (at) => size - at)
      yield* cost(make(mebibyte), 0)
      const half = yield* cost(make(2 * mebibyte), 0)
      const whole = yield* cost(make(4 * mebibyte), 0)
      assert.isBelow(whole.cpu_ms, 4 * half.cpu_ms + 500)
    }))

  it.effect("as close as they can stand, each claiming half the file, needs the memory of a million of them, not of all", () =>
    Effect.gen(function*() {
      // Two headers share 32 bytes: the second stands where the first has its txid.
      const pattern = Buffer.alloc(65_536)
      const header = frame({ txid: 9 }).subarray(0, 24)
      for (let at = 0; at < pattern.length; at += 32) {
        pattern.set(header, at)
        pattern.set(header, at + 8)
        pattern.writeUInt32LE(0, at + 16)
        pattern.writeUInt32LE(20_900_000, at + 20)
        pattern.writeUInt32LE(20_900_000, at + 28)
      }
      const size = 40 * mebibyte
      const last = raw(10, "the only one")
      let most = 0
      const file: DiskFile = {
        ...fileOf(last),
        read: (into, start, end, position) =>
          Effect.sync(() => {
            const { arrayBuffers, heapUsed } = process.memoryUsage()
            most = Math.max(most, arrayBuffers + heapUsed)
            const from = position % pattern.length
            const until = Math.min(end, start + Math.max(0, size - position), start + pattern.length - from)
            into.set(pattern.subarray(from, from + until - start), start)
            for (let at = 0; at < last.length; at++) {
              const index = start + size - last.length + at - position
              if (index >= start && index < until) into[index] = last[at] ?? 0
            }
            return until - start
          })
      }
      // Garbage of earlier tests, collected meanwhile, would count as memory that was not needed.
      V8.setFlagsFromString("--expose-gc")
      const collect = VM.runInNewContext("gc") as () => void
      collect()
      const { arrayBuffers, heapUsed } = process.memoryUsage()
      assert.strictEqual(yield* countLaterFrames(file, 0, size, 8), 1)
      // 26 MB, half as much again while the columns grow, and what a collection has yet to take.
      assert.isBelow(most - arrayBuffers - heapUsed, 96 * mebibyte)
      assert.isAbove(most - arrayBuffers - heapUsed, 16 * mebibyte, "so many candidates were open")
    }))

  it.effect("that all claim to end at the same byte does not hold the event loop", () =>
    Effect.gen(function*() {
      const size = 8 * mebibyte
      const { step_ms } = yield* cost(falseStarts(size, (at) => size - at), 0)
      assert.isBelow(step_ms, 250, "one step of the pass, in milliseconds")
    }))
})
