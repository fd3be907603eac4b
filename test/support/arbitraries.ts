/** Random logs: records of every type, with payloads of noise, of zeros, or that are logs themselves. */
import { Arbitrary, Schema } from "effect"
import { concat, frame, noise, raw, zeros } from "./stores.ts"

export const between = (minimum: number, maximum: number) =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

/** What a record is like; its bytes follow from its number. */
export const Kind = Schema.Struct({
  type: Schema.Literals(["Raw", "Put", "Delete"]),
  key: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 20 })),
  payload: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1200 })),
  content: Schema.Literals(["noise", "zeros", "log"])
})

export const recordOf = (kind: typeof Kind.Type, txid: number): Uint8Array => {
  const payload = kind.content === "noise"
    ? noise(kind.payload, txid)
    : kind.content === "zeros"
    ? zeros(kind.payload)
    : concat(raw(txid - 1, "nested"), noise(kind.payload % 50), raw(1, "old"))
  return frame({
    type: kind.type,
    txid,
    key: noise(kind.key, txid),
    payload: kind.type === "Delete" ? zeros(0) : payload
  })
}

/** Segments 1, 2 … of such records, with txids from 1. */
export const segmentsOf = (kinds: ReadonlyArray<ReadonlyArray<typeof Kind.Type>>): Record<number, Uint8Array> => {
  let txid = 1
  return Object.fromEntries(
    kinds.map((records, index) => [index + 1, concat(...records.map((kind) => recordOf(kind, txid++)))] as const)
  )
}

export const kinds = Arbitrary.array(Arbitrary.schema(Kind), { maxLength: 6 })
