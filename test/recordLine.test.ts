/** Base64 that is read without asking the schema: what is canonical, and what it stands for. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { decodeCanonical } from "../src/internal/recordLine.ts"

const room = Buffer.alloc(4_096)

/** The definition: text that its own bytes are written as. */
const byDefinition = (text: string): Buffer | undefined => {
  const bytes = Buffer.from(text, "base64")
  return bytes.toString("base64") === text ? bytes : undefined
}

const check = (text: string): void => {
  const at = text.length % 7
  room.fill(0xA5)
  const count = decodeCanonical(text, room, at)
  const wanted = byDefinition(text)
  assert.strictEqual(count, wanted?.length ?? -1, JSON.stringify(text))
  if (wanted !== undefined) assert.isTrue(room.subarray(at, at + count).equals(wanted), JSON.stringify(text))
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
