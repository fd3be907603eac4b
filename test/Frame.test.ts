/**
 * One frame, byte for byte, against an encoder that shares nothing with it; and every way in which bytes are no frame.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import type { DamageReason } from "../src/Errors.ts"
import * as Frame from "../src/Frame.ts"
import {
  concat,
  crc32cBitwise,
  flipped,
  frame,
  type FrameSpec,
  noise,
  put,
  raw,
  type Type,
  utf8,
  withByte,
  zeros
} from "./support/stores.ts"

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

const words = (text: string): string => text.replaceAll(" ", "")

const encode = (type: Type, txid: number, key: Uint8Array, payload: Uint8Array): Uint8Array => {
  const bytes = new Uint8Array(Frame.encodedLength(key.length, payload.length))
  assert.strictEqual(Frame.encodeInto(bytes, 0, type, txid, key, payload), bytes.length)
  return bytes
}

const reasonOf = (bytes: Uint8Array, at = 0, end = bytes.length): DamageReason | "Frame" => {
  const decoded = Frame.decode(bytes, at, end)
  return decoded._tag === "Frame" ? "Frame" : decoded.reason
}

const foundOf = (bytes: Uint8Array): number | undefined => {
  const decoded = Frame.decode(bytes, 0)
  return decoded._tag === "Frame" ? assert.fail("a frame") : decoded.found
}

const between = (minimum: number, maximum: number) =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

const bytesUpTo = (maxLength: number) =>
  Arbitrary.map(Arbitrary.array(between(0, 255), { maxLength }), (array) => Uint8Array.from(array))

const record = Arbitrary.map(
  Arbitrary.schema(Schema.Tuple([
    Schema.Literals(["Raw", "Put", "Delete"]),
    Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))
  ])),
  ([type, txid]) => ({ type, txid })
)

describe("encoding", () => {
  it("writes the bytes of the format: a raw record", () => {
    assert.strictEqual(
      hex(encode("Raw", 1, zeros(0), utf8("alpha"))),
      words("4457414c 0100 00 00 0100000000000000 00000000 05000000 616c706861") +
        hex(frame({ txid: 1, payload: utf8("alpha") })).slice(-8)
    )
  })

  it("writes the bytes of the format: a put and a delete", () => {
    assert.strictEqual(
      hex(encode("Put", 0x0102030405, utf8("k"), utf8("vv")).subarray(0, 27)),
      words("4457414c 0100 01 00 0504030201000000 01000000 02000000 6b 7676")
    )
    assert.strictEqual(
      hex(encode("Delete", 258, utf8("key"), zeros(0)).subarray(0, 27)),
      words("4457414c 0100 02 00 0201000000000000 03000000 00000000 6b6579")
    )
  })

  it("ends in the CRC-32C of all bytes before it", () => {
    const bytes = encode("Put", 7, utf8("key"), noise(1000))
    const view = new DataView(bytes.buffer)
    assert.strictEqual(view.getUint32(bytes.length - 4, true), crc32cBitwise(bytes.subarray(0, -4)))
  })

  it.prop(
    "agrees with the independent encoder on any record, and decodes to what it was",
    [record, bytesUpTo(300), bytesUpTo(3000)],
    ([{ txid, type }, key, payload]) => {
      const bytes = encode(type, txid, key, payload)
      assert.strictEqual(hex(bytes), hex(frame({ type, txid, key, payload })))
      const decoded = Frame.decode(bytes, 0)
      if (decoded._tag !== "Frame") assert.fail(decoded.reason)
      assert.strictEqual(decoded.type, type)
      assert.strictEqual(decoded.txid, txid)
      assert.strictEqual(hex(decoded.key), hex(key))
      assert.strictEqual(hex(decoded.payload), hex(payload))
      assert.strictEqual(decoded.end, bytes.length)
    },
    { arbitrary: { runs: 200, size: 2000 } }
  )

  it.prop(
    "writes nothing outside its range, in a view of any larger buffer",
    [record, bytesUpTo(40), bytesUpTo(600), between(0, 40), between(0, 40), between(0, 40)],
    ([{ txid, type }, key, payload, offset, at, behind]) => {
      const wanted = frame({ type, txid, key, payload })
      const around = noise(offset + at + wanted.length + behind + 13, 5)
      const before = around.slice()
      const target = around.subarray(offset, offset + at + wanted.length + behind)
      assert.strictEqual(Frame.encodeInto(target, at, type, txid, key, payload), at + wanted.length)
      before.set(wanted, offset + at)
      assert.strictEqual(hex(around), hex(before))
    },
    { arbitrary: { runs: 200, size: 500 } }
  )

  it("throws a RangeError, and writes nothing behind the target, when the frame does not fit", () => {
    const wanted = frame({ txid: 1, key: utf8("key"), payload: utf8("payload") })
    for (let room = 0; room < wanted.length; room++) {
      const around = noise(wanted.length + 64)
      const behind = around.slice(room)
      assert.throws(
        () => Frame.encodeInto(around.subarray(0, room), 0, "Raw", 1, utf8("key"), utf8("payload")),
        RangeError
      )
      assert.strictEqual(hex(around.subarray(room)), hex(behind))
    }
  })

  it("holds a txid exactly, up to the largest and around 2^32", () => {
    const txids = [0, 1, 255, 256, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 33, 2 ** 48 + 3]
    for (const txid of [...txids, Frame.txid_max - 1, Frame.txid_max]) {
      const bytes = encode("Raw", txid, zeros(0), zeros(0))
      assert.strictEqual(hex(bytes), hex(frame({ txid })))
      const decoded = Frame.decode(bytes, 0)
      assert.strictEqual(decoded._tag === "Frame" ? decoded.txid : decoded.reason, txid)
    }
  })

  it("states the constants of the format", () => {
    assert.strictEqual(Frame.magic, new DataView(utf8("DWAL").buffer).getUint32(0, true))
    assert.strictEqual(Frame.version, 1)
    assert.strictEqual(Frame.header_bytes, 24)
    assert.strictEqual(Frame.crc_bytes, 4)
    assert.strictEqual(Frame.overhead_bytes, 28)
    assert.strictEqual(Frame.key_bytes_max, 65_536)
    assert.strictEqual(Frame.payload_bytes_max, 64 * 1024 * 1024)
    assert.strictEqual(Frame.txid_max, 2 ** 53 - 1)
    assert.strictEqual(Frame.frame_bytes_max, 28 + 65_536 + 67_108_864)
    assert.deepStrictEqual(Frame.recordTypes, ["Raw", "Put", "Delete"])
    assert.deepStrictEqual(Frame.fieldOffset, {
      magic: 0,
      version: 4,
      recordType: 6,
      flags: 7,
      txid: 8,
      keyLength: 16,
      payloadLength: 20,
      key: 24
    })
    assert.strictEqual(Frame.encodedLength(3, 4), 35)
  })
})

describe("decoding", () => {
  it("gives views on the bytes, not copies", () => {
    const bytes = put(1, "key", "value")
    const decoded = Frame.decode(bytes, 0)
    if (decoded._tag !== "Frame") assert.fail(decoded.reason)
    assert.strictEqual(decoded.key.buffer, bytes.buffer)
    assert.strictEqual(decoded.payload.buffer, bytes.buffer)
  })

  it.prop(
    "finds a frame at any offset of any larger buffer, and goes no further than it is told",
    [record, bytesUpTo(30), bytesUpTo(600), between(0, 40), between(0, 40), between(0, 40)],
    ([{ txid, type }, key, payload, offset, at, behind]) => {
      const wanted = frame({ type, txid, key, payload })
      const around = concat(noise(offset + at), wanted, noise(behind))
      const view = around.subarray(offset)
      const decoded = Frame.decode(view, at)
      if (decoded._tag !== "Frame") assert.fail(decoded.reason)
      assert.strictEqual(decoded.end, at + wanted.length)
      assert.strictEqual(hex(decoded.key), hex(key))
      assert.strictEqual(hex(decoded.payload), hex(payload))
      assert.strictEqual(reasonOf(view, at, at + wanted.length), "Frame")
      assert.strictEqual(reasonOf(view, at, at + wanted.length - 1), "Truncated")
      assert.strictEqual(reasonOf(Buffer.from(around.buffer, offset), at), "Frame")
    },
    { arbitrary: { runs: 200, size: 500 } }
  )

  it("takes every truncation of a frame for Truncated, by the end of the bytes or by the end it is given", () => {
    for (
      const bytes of [
        raw(1, ""),
        raw(2, "alpha"),
        put(3, "key", noise(700)),
        frame({ type: "Delete", txid: 4, key: utf8("k") })
      ]
    ) {
      for (let end = 0; end < bytes.length; end++) {
        assert.strictEqual(reasonOf(bytes.subarray(0, end)), "Truncated", `cut at ${end}`)
        assert.strictEqual(reasonOf(bytes, 0, end), "Truncated", `ended at ${end}`)
        assert.strictEqual(reasonOf(concat(bytes, bytes), 0, end), "Truncated")
      }
      assert.strictEqual(reasonOf(bytes), "Frame")
    }
  })

  it("never takes a frame with any one bit changed for a frame", () => {
    for (
      const bytes of [raw(1, "alpha"), put(3, "key", noise(600)), frame({ type: "Delete", txid: 4, key: utf8("k") })]
    ) {
      for (let at = 0; at < bytes.length; at++) {
        for (let bit = 0; bit < 8; bit++) {
          assert.notStrictEqual(reasonOf(flipped(bytes, at, 1 << bit)), "Frame", `bit ${bit} of byte ${at}`)
        }
      }
    }
  })

  it("names what it found", () => {
    assert.strictEqual(foundOf(frame({ txid: 1, magic: 0x01020304 })), 0x04030201)
    assert.strictEqual(foundOf(frame({ txid: 1, version: 0xCAFE })), 0xCAFE)
    assert.strictEqual(foundOf(frame({ txid: 1, typeByte: 3 })), 3)
    assert.strictEqual(foundOf(frame({ txid: 1, typeByte: 255 })), 255)
    assert.strictEqual(foundOf(frame({ txid: 1, flags: 0x80 })), 0x80)
    assert.strictEqual(foundOf(frame({ txid: 1, keyLength: 65_537 })), 65_537)
    assert.strictEqual(foundOf(frame({ txid: 1, payloadLength: 0xFFFFFFFF })), 0xFFFFFFFF)
    assert.strictEqual(foundOf(frame({ txid: 2n ** 53n })), 2 ** 53)
    assert.isUndefined(foundOf(frame({ txid: 1, crc: 0 })))
    assert.isUndefined(foundOf(raw(1, "a").subarray(0, 10)))
  })

  it("refuses every version but 1, every type above 2 and every flag", () => {
    for (const version of [0, 2, 3, 0x100, 0x101, 0xFFFF]) {
      assert.strictEqual(reasonOf(frame({ txid: 1, version })), "UnknownVersion")
    }
    for (let typeByte = 0; typeByte < 256; typeByte++) {
      assert.strictEqual(reasonOf(frame({ txid: 1, typeByte })), typeByte < 3 ? "Frame" : "UnknownRecordType")
    }
    for (let flags = 0; flags < 256; flags++) {
      assert.strictEqual(reasonOf(frame({ txid: 1, flags })), flags === 0 ? "Frame" : "ReservedFlags")
    }
  })
})

describe("the limits", () => {
  it("are the last lengths that are taken, and one more is refused by the header alone", () => {
    const header = (spec: Omit<FrameSpec, "txid">) => frame({ txid: 1, ...spec }).subarray(0, 24)
    assert.strictEqual(reasonOf(header({ keyLength: 65_536 })), "Truncated")
    assert.strictEqual(reasonOf(header({ keyLength: 65_537 })), "KeyTooLarge")
    assert.strictEqual(reasonOf(header({ keyLength: 0xFFFFFFFF })), "KeyTooLarge")
    assert.strictEqual(reasonOf(header({ payloadLength: 67_108_864 })), "Truncated")
    assert.strictEqual(reasonOf(header({ payloadLength: 67_108_865 })), "PayloadTooLarge")
    assert.strictEqual(reasonOf(header({ payloadLength: 0xFFFFFFFF })), "PayloadTooLarge")
    assert.strictEqual(reasonOf(header({ keyLength: 65_536, payloadLength: 67_108_864 })), "Truncated")
  })

  it("refuse or truncate a claimed length without allocating for it", () => {
    const claims = [67_108_864, 67_108_865, 0xFFFFFFFF].map((payloadLength) => frame({ txid: 1, payloadLength }))
    const before = process.memoryUsage().arrayBuffers
    for (let round = 0; round < 1000; round++) {
      for (const claim of claims) assert.notStrictEqual(reasonOf(claim), "Frame")
    }
    assert.isBelow(process.memoryUsage().arrayBuffers - before, 16 * 1024 * 1024)
  })

  it("let the longest key and the longest payload through", () => {
    const key = noise(65_536)
    const payload = noise(67_108_864, 2)
    const bytes = encode("Put", Frame.txid_max, key, payload)
    assert.strictEqual(bytes.length, Frame.frame_bytes_max)
    const decoded = Frame.decode(bytes, 0)
    if (decoded._tag !== "Frame") assert.fail(decoded.reason)
    assert.strictEqual(decoded.key.length, 65_536)
    assert.isTrue(
      Buffer.from(decoded.payload.buffer, decoded.payload.byteOffset, decoded.payload.length).equals(payload)
    )
    assert.strictEqual(reasonOf(withByte(bytes, bytes.length - 5, (byte) => byte ^ 1)), "CrcMismatch")
  })

  it("of the txid is 2^53 - 1", () => {
    assert.strictEqual(reasonOf(frame({ txid: 2n ** 53n - 1n })), "Frame")
    for (const txid of [2n ** 53n, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n]) {
      assert.strictEqual(reasonOf(frame({ txid })), "UnsupportedTxid")
    }
  })
})

describe("the order of the checks", () => {
  interface Fault {
    readonly reason: DamageReason
    readonly spec: Partial<FrameSpec>
    readonly cut?: (bytes: Uint8Array) => Uint8Array
  }

  // In the order of the contract. It does not say where the txid stands among the hard checks: they come before the
  // rest.
  const headerCut: Fault = { reason: "Truncated", spec: {}, cut: (bytes) => bytes.subarray(0, 23) }
  const hard: ReadonlyArray<Fault> = [
    { reason: "BadMagic", spec: { magic: 0x4457414D } },
    { reason: "UnknownVersion", spec: { version: 2 } },
    { reason: "UnknownRecordType", spec: { typeByte: 3 } },
    { reason: "ReservedFlags", spec: { flags: 1 } },
    { reason: "KeyTooLarge", spec: { keyLength: 65_537 } },
    { reason: "PayloadTooLarge", spec: { payloadLength: 67_108_865 } }
  ]
  const txid: Fault = { reason: "UnsupportedTxid", spec: { txid: 2n ** 53n } }
  const cut: Fault = { reason: "Truncated", spec: {}, cut: (bytes) => bytes.subarray(0, -1) }
  const crc: Fault = { reason: "CrcMismatch", spec: { crc: 0xDEADBEEF } }

  const faulty = (...faults: ReadonlyArray<Fault>): Uint8Array => {
    let bytes: Uint8Array = frame(
      Object.assign(
        { txid: 1, key: utf8("key"), payload: utf8("payload") },
        ...faults.map(({ spec }) => spec)
      ) as FrameSpec
    )
    for (const fault of faults) bytes = fault.cut?.(bytes) ?? bytes
    return bytes
  }

  const orders: ReadonlyArray<ReadonlyArray<Fault>> = [
    [headerCut, ...hard, cut, crc],
    [headerCut, txid, cut, crc]
  ]

  for (const order of orders) {
    for (const [index, first] of order.entries()) {
      it(`${first.reason} is found by itself`, () => assert.strictEqual(reasonOf(faulty(first)), first.reason))
      for (const second of order.slice(index + 1)) {
        it(`${first.reason} is found before ${second.reason}`, () => {
          assert.strictEqual(reasonOf(faulty(first, second)), first.reason)
        })
      }
    }
  }

  it("finds the first fault when everything is wrong", () => {
    for (let from = 0; from < hard.length; from++) {
      assert.strictEqual(reasonOf(faulty(...hard.slice(from), txid, cut, crc)), hard[from]!.reason)
    }
  })

  it("takes fewer than 24 bytes for Truncated whatever they are", () => {
    for (let length = 0; length < 24; length++) {
      assert.strictEqual(reasonOf(zeros(length)), "Truncated")
      assert.strictEqual(reasonOf(noise(length)), "Truncated")
    }
    assert.strictEqual(reasonOf(zeros(24)), "BadMagic")
  })

  it("refuses an oversize length before it asks whether the frame is there", () => {
    assert.strictEqual(reasonOf(frame({ txid: 1, keyLength: 70_000 }).subarray(0, 24)), "KeyTooLarge")
    assert.strictEqual(reasonOf(frame({ txid: 1, payloadLength: 70_000_000 }).subarray(0, 24)), "PayloadTooLarge")
  })
})
