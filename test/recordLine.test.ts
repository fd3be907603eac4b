/** Lines that are read without asking the schema: what is canonical Base64, what it stands for, and many of them at once. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { LineBatch } from "../src/internal/importLines.ts"
import type { Line } from "../src/internal/lines.ts"

const lineOf = (json: string): Line => {
  // Not at the beginning of its buffer.
  const bytes = Buffer.from(`\n${json}\n`, "latin1")
  return { bytes, start: 1, end: bytes.length - 1, number: 1, isTooLong: false }
}

/** What a batch of one makes of a line. */
const decoded = (json: string): readonly [key: Buffer, value: Buffer] | undefined => {
  const batch = new LineBatch()
  if (!batch.add(lineOf(json)) || !batch.decode()) return undefined
  const [key, value] = batch.pair(0)
  return [Buffer.from(key), Buffer.from(value)]
}

/** The definition: text that its own bytes are written as. */
const byDefinition = (text: string): Buffer | undefined => {
  const bytes = Buffer.from(text, "base64")
  return bytes.toString("base64") === text ? bytes : undefined
}

const check = (text: string): void => {
  const wanted = byDefinition(text)
  const asValue = decoded(`{"key_b64":"QUI=","value_b64":"${text}"}`)
  assert.deepStrictEqual(asValue, wanted && [Buffer.from("AB"), wanted], JSON.stringify(text))
  const asKey = decoded(`{"key_b64":"${text}","value_b64":"QQ=="}`)
  assert.deepStrictEqual(asKey, wanted && [wanted, Buffer.from("A")], JSON.stringify(text))
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
const strange = "=-_ \t\r\0\"\\.~\u00e9\u00ff"

const Bytes = Arbitrary.schema(Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))))
const Picks = Arbitrary.schema(Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000 }))))

describe("canonical Base64", () => {
  it.prop(
    "is what any bytes are written as",
    [Bytes],
    ([bytes]) => check(Buffer.from(bytes).toString("base64")),
    { arbitrary: { runs: 300 } }
  )

  it.prop(
    "is nothing else: no other character, no other end, no other length",
    [Bytes, Picks],
    ([bytes, picks]) => {
      const text = Array.from(Buffer.from(bytes).toString("base64"))
      for (const pick of picks) {
        const all = alphabet + strange
        const character = all.charAt(pick % all.length)
        const at = pick % (text.length + 1)
        text.splice(at, pick % 3 === 0 ? 0 : 1, ...pick % 5 === 0 ? [] : [character])
        check(text.join(""))
      }
    },
    { arbitrary: { runs: 500 } }
  )

  it("has no bits left over, whatever the last characters are", () => {
    for (const first of alphabet + strange) {
      for (const end of ["==", "=", "A=", "A==", "AA=", "AAA", "AA", ""]) {
        for (const before of ["", "AAAA", "AAA", "A"]) check(`${before}${first}${end}`)
      }
      for (const second of alphabet + strange) check(`QU${first}${second}`)
    }
  })
})

describe("a batch of lines", () => {
  it.prop(
    "is what each of its lines is alone",
    [Arbitrary.schema(Schema.Array(Schema.Tuple([Schema.Uint8Array, Schema.Uint8Array])))],
    ([pairs]) => {
      const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64")
      const lines = pairs.map(([key, value]) => `{"key_b64":"${base64(key)}","value_b64":"${base64(value)}"}`)
      const bytes = Buffer.from(lines.join("\n"))
      const batch = new LineBatch()
      let start = 0
      for (const [index, { length }] of lines.entries()) {
        assert.isTrue(batch.add({ bytes, start, end: start + length, number: index + 1, isTooLong: false }))
        start += length + 1
      }
      assert.isTrue(batch.decode())
      assert.strictEqual(batch.count, pairs.length)
      for (const [index, pair] of pairs.entries()) {
        assert.deepStrictEqual(batch.pair(index).map((field) => new Uint8Array(field)), [...pair])
        const { end, number, start } = batch.line(index)
        assert.deepStrictEqual([bytes.toString("latin1", start, end), number], [lines[index], index + 1])
      }
      batch.clear()
      assert.strictEqual(batch.count, 0)
    },
    { arbitrary: { runs: 100 } }
  )

  it("is unsound if one of its lines is", () => {
    const sound = `{"key_b64":"QQ==","value_b64":"QUI="}`
    for (const text of ["QR==", "QUJ=", "Q-==", "Q_==", "Q\\==", "====", "QQ==QQ==", "Q\u00e9=="]) {
      for (const bad of [`{"key_b64":"${text}","value_b64":""}`, `{"key_b64":"","value_b64":"${text}"}`]) {
        const bytes = Buffer.from([sound, bad, sound].join(""), "latin1")
        const batch = new LineBatch()
        let start = 0
        for (const { length } of [sound, bad, sound]) {
          assert.isTrue(batch.add({ bytes, start, end: start + length, number: 1, isTooLong: false }))
          start += length
        }
        assert.isFalse(batch.decode(), text)
      }
    }
  })

  it("takes only what an export writes, and only lines of one buffer", () => {
    const refused = [
      "",
      "{}",
      `{"key_b64":""}`,
      `{"key_b64":"","value_b64":"}`,
      `{"key_b64": "","value_b64":""}`,
      `{"key_b64":"","value_b64":"" }`,
      `{"value_b64":"","key_b64":""}`,
      `{"key_b64":"QQ=","value_b64":""}`
    ]
    for (const json of refused) assert.isFalse(new LineBatch().add(lineOf(json)), json)
    const empty = lineOf(`{"key_b64":"","value_b64":""}`)
    assert.isFalse(new LineBatch().add({ ...empty, isTooLong: true }))
    const batch = new LineBatch()
    assert.isTrue(batch.add(empty))
    assert.isTrue(batch.add(empty))
    assert.isFalse(batch.add(lineOf(`{"key_b64":"","value_b64":""}`)))
  })

  it("keeps the memory that lines of hundreds of KiB have taken, and lets go of that of longer ones", () => {
    const lineFor = (bytes: number) =>
      lineOf(`{"key_b64":"","value_b64":"${Buffer.alloc(bytes, 7).toString("base64")}"}`)
    const batch = new LineBatch()
    const memoryFor = (bytes: number): ArrayBufferLike => {
      batch.clear()
      assert.isTrue(batch.add(lineFor(bytes)))
      assert.isTrue(batch.decode())
      return batch.pair(0)[1].buffer
    }
    const first = memoryFor(300_000)
    assert.strictEqual(memoryFor(60_000), first)
    assert.strictEqual(memoryFor(300_000), first)
    const long = memoryFor(3_000_000)
    assert.isBelow(memoryFor(60_000).byteLength, 100_000)
    assert.notStrictEqual(memoryFor(3_000_000), long)
  })

  it("ends where it is full; a first line finds room, however long it is", () => {
    const value = Buffer.alloc(100_000, 7)
    const long = lineOf(`{"key_b64":"","value_b64":"${value.toString("base64")}"}`)
    const short = { ...long, end: lineOf(`{"key_b64":"","value_b64":""}`).end }
    const batch = new LineBatch()
    for (let round = 0; round < 2; round++) {
      assert.isTrue(batch.add(long))
      assert.isTrue(batch.decode())
      assert.deepStrictEqual(Buffer.from(batch.pair(0)[1]), value)
      assert.isFalse(batch.add(long))
      batch.clear()
    }
    assert.isFalse(batch.add(short))
    const empty = lineOf(`{"key_b64":"","value_b64":""}`)
    let count = 0
    while (batch.add(empty)) count++
    assert.isAtLeast(count, 2_000)
    assert.isTrue(batch.decode())
    assert.deepStrictEqual(Buffer.concat(batch.pair(count - 1)), Buffer.alloc(0))
  })
})
