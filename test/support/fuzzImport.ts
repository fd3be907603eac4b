/** Imports of hostile lines, in chunks that end anywhere: what is stored, and which line is refused. */
import { Effect, Result, Stream } from "effect"
import * as NodeAssert from "node:assert/strict"
import * as Export from "../../src/Export.ts"
import * as Frame from "../../src/Frame.ts"
import * as Kv from "../../src/Kv.ts"
import * as Reader from "../../src/Reader.ts"
import { inMemory, type Tally } from "./fuzzBench.ts"
import { importOf } from "./fuzzReference.ts"
import { joined, type Source } from "./fuzzSource.ts"

interface ImportCase {
  readonly bytes: Uint8Array
  /** Where a chunk ends. */
  readonly cuts: ReadonlyArray<number>
  /** The input fails behind its last chunk. */
  readonly fails: boolean
}

const base64 = (source: Source, most: number): string => {
  const text = Buffer.from(source.noise(source.below(most))).toString("base64")
  switch (source.below(200)) {
    case 1:
      return text.replaceAll("=", "")
    case 2:
      return `${text}=`
    case 3:
      return text.replaceAll("+", "-").replaceAll("/", "_")
    case 4:
      return `${text.slice(0, 3)}${source.oneOf(["\\n", " ", "\\u0041", "\\u00e9", "\\u0000", "*", "=", "\\/"])}${
        text.slice(3)
      }`
    case 5:
      // Bits behind the last byte.
      return `${text.slice(0, -3)}${source.oneOf(["/w=", "B==", "Ah=", "A/=", "QQ=", "R=="])}`
    default:
      return text
  }
}

const nested = (source: Source): string => {
  const depth = source.oneOf([3, 40, 995, 996, 997, 998, 999, 1_000, 1_001, 5_000])
  const [open, close] = source.oneOf([["[", "]"], ["{\"a\":", "}"]])
  return `${open.repeat(depth)}1${close.repeat(depth)}`
}

const jsonValue = (source: Source, most: number): string =>
  source.chance(96)
    ? `"${base64(source, most)}"`
    : source.oneOf([
      "null",
      "1",
      "true",
      "[\"YQ==\"]",
      "{\"toString\":\"YQ==\"}",
      "\"\"",
      "\"\\ud800\"",
      "-0",
      "1e999",
      nested(source)
    ])

const fieldsOf = (source: Source): Array<string> => {
  const long = source.chance(3) ? 70_000 : 40
  const fields = [`"key_b64":${jsonValue(source, long)}`, `"value_b64":${jsonValue(source, 400)}`]
  switch (source.below(30)) {
    case 1:
      fields.push(`"key_b64":${jsonValue(source, 40)}`)
      break
    case 2:
      fields.push(`"${source.oneOf(["extra", "__proto__", "constructor", "KEY_B64", ""])}":${jsonValue(source, 40)}`)
      break
    case 3:
      fields.splice(source.below(2), 1)
      break
    case 4:
      fields.reverse()
      break
    case 5:
      fields[0] = `"key\\u005fb64":${jsonValue(source, 40)}`
      break
    default:
  }
  return fields
}

const lineOf = (source: Source): Uint8Array => {
  const space = () => source.chance(4) ? source.oneOf([" ", "\t", "\r", "  ", " ", "\u00a0"]) : ""
  if (source.chance(6)) {
    const others: ReadonlyArray<string> = [
      "",
      " ",
      "\r",
      "\t \r",
      "{}",
      "null",
      "[]",
      "{",
      "\"",
      "{\"__proto__\":{\"key_b64\":\"YQ==\",\"value_b64\":\"\"}}",
      "\0",
      nested(source)
    ]
    return Buffer.from(source.among(others) ?? "")
  }
  const line = `${space()}{${space()}${fieldsOf(source).join(`${space()},${space()}`)}${space()}}${space()}`
  const bytes = new Uint8Array(Buffer.from(line))
  if (!source.chance(5)) return bytes
  const at = source.below(bytes.length + 1)
  const strange = source.oneOf<ReadonlyArray<number>>([
    [0xFF],
    [0xC0, 0x80],
    [0xED, 0xA0, 0x80],
    [0xE2, 0x82],
    [0xEF, 0xBB, 0xBF],
    [0],
    [0x22],
    [0x5C],
    [0x0D]
  ])
  return source.chance(50)
    ? joined(bytes.subarray(0, at), Uint8Array.from(strange), bytes.subarray(at))
    : bytes.subarray(0, at)
}

export const makeImportCase = (source: Source): ImportCase => {
  const end = Buffer.from(source.oneOf(["\n", "\n", "\r\n", "\n\n", "\n \t\r\n", "\r"]))
  const parts: Array<Uint8Array> = source.chance(2) ? [Buffer.from("\uFEFF")] : []
  for (let count = source.below(12); count > 0; count--) {
    parts.push(lineOf(source), source.chance(90) ? end : Buffer.from("\n"))
  }
  if (source.chance(30)) parts.pop()
  if (source.chance(3)) parts.push(source.noise(source.below(100)))
  const bytes = joined(...parts)
  const cuts = source.chance(10)
    ? Array.from({ length: bytes.length }, (_, at) => at)
    : Array.from({ length: source.below(12) }, () => source.below(bytes.length + 1)).sort((a, b) => a - b)
  return { bytes, cuts, fails: source.chance(10) }
}

const chunksOf = ({ bytes, cuts }: ImportCase): Array<Uint8Array> =>
  [...cuts, bytes.length].map((to, index) => bytes.subarray(cuts[index - 1] ?? 0, to))

const broken = "the input broke"

export const checkImport = (input: ImportCase, tally: Tally): Effect.Effect<void> =>
  inMemory(new Map(), {}, (bench) =>
    Effect.gen(function*() {
      const { directory } = bench
      const { bad, entries } = importOf(input.bytes, !input.fails)
      let progress = 0
      const lines = Stream.concat(
        Stream.fromIterable(chunksOf(input)),
        input.fails ? Stream.fail(broken) : Stream.empty
      )
      const result = yield* Effect.result(Effect.scoped(Effect.flatMap(
        Effect.orDie(Kv.make({ directory })),
        (kv) => Export.fromLines(kv, lines, { onProgress: (records) => progress = records })
      )))
      bench.expectClosed()
      const bytes = entries.reduce((sum, [key, value]) => sum + Frame.encodedLength(key.length, value.length), 0)
      if (Result.isSuccess(result)) {
        NodeAssert.deepEqual({ bad, fails: input.fails }, { bad: undefined, fails: false }, "it was taken")
        NodeAssert.deepEqual(result.success, { records_written: entries.length, bytes_written: bytes })
      } else if (typeof result.failure === "string") {
        NodeAssert.deepEqual([result.failure, bad], [broken, undefined])
      } else {
        const { failure } = result
        NodeAssert.ok(failure._tag === "InvalidLine", String(failure))
        NodeAssert.equal(failure.line, bad)
        NodeAssert.ok(failure.detail.length > 0 && failure.detail.length <= 300, failure.detail)
      }
      NodeAssert.equal(progress, entries.length, "the progress")
      tally(`import: ${bad !== undefined ? "InvalidLine" : input.fails ? "a broken input" : "taken"}`)
      yield* Effect.scoped(Effect.gen(function*() {
        const reader = yield* Effect.orDie(Reader.make({ directory }))
        const records = yield* Effect.orDie(Stream.runCollect(reader.stream))
        NodeAssert.equal(records.length, entries.length, "records are stored")
        for (const [index, record] of records.entries()) {
          const [key, value] = entries[index] ?? []
          NodeAssert.ok(
            record.type === "Put" && key?.equals(record.key) && value?.equals(record.payload),
            `record ${index}`
          )
        }
      }))
    }))

export const describeImport = (input: ImportCase): string =>
  `chunks ${JSON.stringify(chunksOf(input).map((chunk) => Buffer.from(chunk.subarray(0, 400)).toString("latin1")))}` +
  (input.fails ? ", and then the input fails" : "")
