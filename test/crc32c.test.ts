/**
 * The checksum, in both implementations: one function, whatever the length, the alignment and the way it is cut up.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as ChildProcess from "node:child_process"
import * as NFS from "node:fs"
import { moduleOf } from "../scripts/wasm.mjs"
import * as Frame from "../src/Frame.ts"
import {
  assemble,
  assembledFrom_bytes,
  bench_bytes,
  type Checksum,
  crc32c,
  onBench,
  portable,
  Sealed,
  shift
} from "../src/internal/crc32c.ts"
import { seeded } from "../src/internal/simulatedRandom.ts"
import { concat, crc32cBitwise, noise, utf8, zeros } from "./support/stores.ts"

const assembled = assemble().checksum

const of = (checksum: Checksum, bytes: Uint8Array): number => checksum(bytes, 0, bytes.length, 0)

const implementations: ReadonlyArray<{ readonly name: string; readonly checksum: Checksum }> = [
  { name: "portable", checksum: portable },
  {
    name: "assembled",
    checksum: assembled === portable ? () => assert.fail("there is no WebAssembly") : assembled
  },
  { name: "exported", checksum: crc32c }
]

const bytes = Arbitrary.map(
  Arbitrary.array(Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))), {
    maxLength: 3000
  }),
  (array) => Uint8Array.from(array)
)
const fraction = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1000 })))

describe.each(implementations)("$name", ({ checksum }) => {
  it("gives the check value of the standard", () => {
    assert.strictEqual(of(checksum, utf8("123456789")), 0xE3069283)
  })

  it("gives the vectors of RFC 3720", () => {
    assert.strictEqual(of(checksum, zeros(32)), 0x8A9136AA)
    assert.strictEqual(of(checksum, zeros(32).fill(0xFF)), 0x62A8AB43)
    assert.strictEqual(of(checksum, Uint8Array.from({ length: 32 }, (_, index) => index)), 0x46DD794E)
    assert.strictEqual(of(checksum, Uint8Array.from({ length: 32 }, (_, index) => 31 - index)), 0x113FDB5C)
  })

  it("is zero for no bytes, and the seed for no more bytes", () => {
    assert.strictEqual(checksum(zeros(0), 0, 0, 0), 0)
    assert.strictEqual(checksum(utf8("123"), 2, 2, 0xE3069283), 0xE3069283)
  })

  it("is an unsigned 32-bit number that agrees with the definition at every length around the switch-overs", () => {
    const data = noise(1_100)
    for (let length = 0; length <= data.length; length++) {
      const value = checksum(data, 0, length, 0)
      assert.isTrue(Number.isInteger(value) && value >= 0 && value <= 0xFFFFFFFF)
      assert.strictEqual(value, crc32cBitwise(data.subarray(0, length)), `${length}`)
    }
  })

  it("agrees with the definition at every length around the blocks that long inputs are taken in", () => {
    const data = noise(3 * 16_384 + 40, 8)
    for (const blocks of [1, 2, 3]) {
      for (let length = blocks * 16_384 - 20; length <= blocks * 16_384 + 20; length++) {
        assert.strictEqual(checksum(data, 0, length, 7), crc32cBitwise(data.subarray(0, length), 7), `${length}`)
      }
    }
  })

  it("is not told apart by what was there before: zeros, ones and noise of every length follow each other", () => {
    const kinds = [zeros(20_000).fill(0xFF), zeros(20_000), noise(20_000, 6)]
    for (let length = 20_000; length > 256; length = Math.floor(length * 0.93)) {
      for (const data of kinds) {
        assert.strictEqual(checksum(data, 0, length, 0), crc32cBitwise(data.subarray(0, length)))
      }
    }
  })

  it("does not depend on where the bytes lie", () => {
    const data = noise(1000, 3)
    for (const length of [0, 1, 7, 8, 9, 63, assembledFrom_bytes - 1, assembledFrom_bytes, 511, 512, 513, 900]) {
      const wanted = crc32cBitwise(data.subarray(0, length))
      for (let at = 0; at < 17; at++) {
        const around = noise(at + length + 5, 9)
        around.set(data.subarray(0, length), at)
        assert.strictEqual(checksum(around, at, at + length, 0), wanted)
        assert.strictEqual(checksum(around.subarray(at), 0, length, 0), wanted)
        assert.strictEqual(checksum(Buffer.from(around.buffer, at, length), 0, length, 0), wanted)
      }
    }
  })

  it("sees a buffer that has grown as it is now", () => {
    const buffer: ArrayBuffer = Reflect.construct(ArrayBuffer, [64, { maxByteLength: 256 }])
    const bytes = new Uint8Array(buffer)
    bytes.set(noise(64, 4))
    assert.strictEqual(of(checksum, bytes), crc32cBitwise(noise(64, 4)))
    Reflect.apply(Reflect.get(buffer, "resize"), buffer, [200])
    bytes.set(noise(200, 5))
    assert.strictEqual(of(checksum, bytes), crc32cBitwise(noise(200, 5)))
  })

  it.prop("goes on from a seed as if it had never stopped", [bytes, fraction], ([data, cut]) => {
    const at = Math.floor(data.length * cut / 1000)
    assert.strictEqual(
      checksum(data, at, data.length, checksum(data, 0, at, 0)),
      crc32cBitwise(data)
    )
  }, { arbitrary: { runs: 100, size: 1500 } })
})

describe("shift", () => {
  it.prop(
    "is what makes the checksum of two pieces out of the checksums of each",
    [bytes, bytes],
    ([a, b]) => {
      assert.strictEqual(
        (shift(crc32cBitwise(a), b.length) ^ crc32cBitwise(b)) >>> 0,
        crc32cBitwise(concat(a, b))
      )
    },
    { arbitrary: { runs: 200, size: 1500 } }
  )

  it.prop(
    "adds up: by m and then by n is by m + n",
    [
      Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xFFFFFFFF }))),
      Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0x7FFFFFFF }))),
      Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0x7FFFFFFF })))
    ],
    ([crc, m, n]) => {
      assert.strictEqual(shift(shift(crc, m), n), shift(crc, m + n))
    },
    { arbitrary: { runs: 300 } }
  )

  it("by nothing changes nothing", () => {
    for (const crc of [0, 1, 0x80000000, 0xE3069283, 0xFFFFFFFF]) assert.strictEqual(shift(crc, 0), crc)
  })

  it("holds at the lengths of the longest frames, at every power of two, and is unsigned", () => {
    const a = crc32cBitwise(utf8("head"))
    for (const length of [1, 2, 4, 8, 511, 512, 65_535, 65_536, 1 << 20, (1 << 20) + 1, 28 + 65_536 + 67_108_864]) {
      const b = zeros(length)
      const both = crc32c(b, 0, length, a)
      const shifted = shift(a, length)
      assert.isTrue(shifted >= 0)
      assert.strictEqual((shifted ^ crc32c(b, 0, length, 0)) >>> 0, both)
    }
  })
})

describe("Sealed", () => {
  const sealed = (message: Uint8Array): Uint8Array => {
    const bytes = concat(message, zeros(4))
    new DataView(bytes.buffer).setUint32(message.length, crc32cBitwise(message), true)
    return bytes
  }

  const checksumOf = (lengths: ReadonlyArray<number>): number => {
    let rest = lengths.reduce((sum, length) => sum + length, 0)
    const whole = new Sealed(rest)
    for (const length of lengths) whole.end(rest -= length)
    return whole.checksum
  }

  it("is the checksum of messages that end in their own, of whatever lengths", () => {
    for (let seed = 1; seed <= 60; seed++) {
      const pick = seeded(seed)
      const longest = [30, 500, 5_000, 30_000][seed % 4] ?? 0
      const messages = Array.from({ length: 1 + pick(40) }, (_, index) => sealed(noise(pick(longest), seed + index)))
      assert.strictEqual(checksumOf(messages.map(({ length }) => length)), of(crc32c, concat(...messages)))
    }
  })

  it("holds where a message ends at, just before and just behind a block, and for blocks without an end", () => {
    for (const length of [4, 5, 4_095, 4_096, 4_097, 8_191, 8_192, 8_193, 1 << 20, (1 << 20) + 1]) {
      const messages = [noise(7), noise(length - 4), noise(0), noise(100), noise(length - 4)].map(sealed)
      assert.strictEqual(checksumOf(messages.map(({ length }) => length)), of(crc32c, concat(...messages)))
    }
    assert.strictEqual(checksumOf([]), 0)
  })
})

describe("WebAssembly", () => {
  it("is what the text says, assembled", async () => {
    const read = (file: string) => NFS.readFileSync(new URL(`../src/internal/${file}`, import.meta.url), "utf8")
    assert.strictEqual(read("crc32cModule.ts"), await moduleOf("crc32c.wat", read("crc32c.wat")))
  })

  it("folds by a multiple of the polynomial: the steps of the text are its exponents", () => {
    // x^8n, bits reflected, from what n bytes of zeros make of x^0.
    const power = (bytes: number) => (shift(0x8000_0000, bytes)) >>> 0
    const degree = 290
    const steps = [154, 177, 183, 258, 290]
    assert.strictEqual(steps.reduce((sum, step) => sum ^ power(degree - step), power(degree)) >>> 0, 0)
    const text = NFS.readFileSync(new URL("../src/internal/crc32c.wat", import.meta.url), "utf8")
    for (const step of steps) assert.strictEqual(text.split(`offset=${16_688 - step} `).length, 3, `${step}`)
    assert.include(text, `those ${steps.slice(0, 4).join(", ")} and ${degree}\n`)
  })

  it("shortens by another multiple: the steps are in the shuffles of the text", () => {
    const power = (bytes: number) => (shift(0x8000_0000, bytes)) >>> 0
    const degree = 98
    const steps = [21, 47, 60, 65, 70, 94, 98]
    assert.strictEqual(steps.reduce((sum, step) => sum ^ power(degree - step), power(degree)) >>> 0, 0)
    const text = NFS.readFileSync(new URL("../src/internal/crc32c.wat", import.meta.url), "utf8")
    const found = Array.from(
      text.matchAll(/i8x16\.shuffle ([\d ]+) \(local\.get \$(\d)\) \(local\.get \$(\d)\)/g),
      ([, lanes = "", far, near]) => {
        const [first = 0, ...rest] = lanes.split(" ").map(Number)
        assert.deepStrictEqual(rest, Array.from({ length: 15 }, (_, index) => first + 1 + index))
        assert.strictEqual(Number(far), Number(near) + 1)
        return 16 * Number(near) + 16 - first
      }
    ).sort((a, b) => a - b)
    assert.deepStrictEqual(found, steps.flatMap((step) => [step, step]))
    assert.include(text, `those ${steps.slice(0, 6).join(", ")} and ${degree} bytes`)
  })

  it("seals frames of every length around the switch-overs, back to back, as each is sealed alone", () => {
    const payloads = [0, 1, 63, 131, 132, 133, 255, 511, 1_024, 2_019, 2_020, 2_021, 4_096, 16_355, 16_356, 16_357]
    const frames = [...payloads, 40_000, ...payloads].map((length, index) => {
      const frame = new Uint8Array(Frame.encodedLength(7, length))
      Frame.encodeInto(frame, 0, "Put", index + 1, noise(7, index), noise(length, index))
      return frame
    })
    const all = concat(...frames)
    onBench(all.length, (bench) => {
      if (bench === undefined) return assert.fail("there is no bench")
      bench.bytes.set(noise(bench.bytes.length, 3))
      let at = 0
      for (const frame of frames) {
        bench.bytes.set(frame.subarray(0, frame.length - Frame.crc_bytes), at)
        at += frame.length
      }
      bench.seal(frames.length)
      assert.isTrue(Buffer.from(bench.bytes.subarray(0, at)).equals(all))
      // A checksum that somebody wants meanwhile does not touch it, nor does whoever else would make frames.
      crc32c(noise(20_000), 0, 20_000, 0)
      onBench(1_000, (other) => assert.isUndefined(other))
      assert.isTrue(Buffer.from(bench.bytes.subarray(0, at)).equals(all))
    })
    assert.throws(() => onBench(1_000, () => assert.fail("thrown")), "thrown")
    onBench(1_000, (bench) => assert.isDefined(bench))
    onBench(bench_bytes + 1, (bench) => assert.isUndefined(bench))
  })

  it("is done without in a process that may not compile", () => {
    const url = new URL("../dist/internal/crc32c.js", import.meta.url).href
    const script = `import { assemble, crc32c, portable } from ${JSON.stringify(url)}
      process.stdout.write(assemble().checksum === portable ? "portable " : "assembled ")
      process.stdout.write(String(crc32c(new Uint8Array(1000), 0, 1000, 0)))`
    const answer = (...flags: ReadonlyArray<string>) =>
      ChildProcess.execFileSync(process.execPath, [...flags, "--input-type=module", "-e", script], {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"]
      })
    const wanted = crc32cBitwise(zeros(1000))
    assert.strictEqual(answer("--jitless"), `portable ${wanted}`)
    assert.strictEqual(answer(), `assembled ${wanted}`)
  })
})
