/** What was read and what is there, against what the reference says. */
import { Effect, Stream } from "effect"
import * as NodeAssert from "node:assert/strict"
import type { LogRecord } from "../../src/Frame.ts"
import type { Entry, ReferenceRecord, Tree, Verdict } from "./fuzzReference.ts"

export const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0

export const sameRecord = (a: LogRecord | ReferenceRecord | undefined, b: ReferenceRecord | undefined): boolean =>
  a !== undefined && b !== undefined && a.segment === b.segment && a.offset === b.offset && a.len === b.len &&
  a.type === b.type && a.txid === b.txid && sameBytes(a.key, b.key) && sameBytes(a.payload, b.payload)

export const place = ({ len, offset, segment, txid }: LogRecord | ReferenceRecord): string =>
  `${segment}:${offset}+${len} txid ${txid}`

export const expectRecords = (
  what: string,
  actual: ReadonlyArray<LogRecord | ReferenceRecord>,
  expected: ReadonlyArray<ReferenceRecord>
): void => {
  if (actual.length === expected.length && actual.every((record, index) => sameRecord(record, expected[index]))) return
  NodeAssert.fail(`${what}: read ${actual.map(place).join(", ")}; expected ${expected.map(place).join(", ")}`)
}

/** What an error says, but for its cause. */
export const fieldsOf = (error: object | undefined): Record<string, unknown> | undefined =>
  error === undefined
    ? undefined
    : Object.fromEntries(Object.entries(error).filter(([name, value]) => name !== "cause" && value !== undefined))

export const expectFields = (
  what: string,
  actual: object | undefined,
  expected: Record<string, unknown> | undefined
): void =>
  NodeAssert.deepEqual(
    fieldsOf(actual),
    expected === undefined
      ? undefined
      : Object.fromEntries(Object.entries(expected).filter(([, value]) => value !== undefined)),
    what
  )

/** The error that damage is to those who may not cut it. */
export const errorOf = (directory: string, damage: Verdict): Record<string, unknown> => {
  const { bytes, found, laterFrames, offset, reason, segment, verdict } = damage
  const common = { directory, segment, offset, reason, found }
  return verdict === "CorruptSegment"
    ? { _tag: "CorruptSegment", ...common }
    : { _tag: "CorruptTail", ...common, bytes, laterFrames }
}

export const expectTree = (what: string, actual: Tree, expected: Tree): void => {
  const names = new Set([...actual.keys(), ...expected.keys()])
  names.delete(".lock")
  for (const name of names) {
    if (!sameEntry(actual.get(name), expected.get(name))) {
      NodeAssert.fail(`${what}: ${name} is ${entryText(actual.get(name))}, expected ${entryText(expected.get(name))}`)
    }
  }
}

const sameEntry = (a: Entry | undefined, b: Entry | undefined): boolean => {
  if (a?.kind !== b?.kind) return false
  if (a?.kind === "file" && b?.kind === "file") return sameBytes(a.bytes, b.bytes)
  return a?.kind !== "link" || (b?.kind === "link" && a.to === b.to)
}

const entryText = (entry: Entry | undefined): string =>
  entry?.kind === "file"
    ? `${entry.bytes.length} bytes ${Buffer.from(entry.bytes.subarray(0, 64)).toString("hex")}`
    : String(entry?.kind)

export interface Collected<E> {
  readonly records: ReadonlyArray<LogRecord>
  readonly error: E | undefined
}

export const collect = <E, R>(stream: Stream.Stream<LogRecord, E, R>): Effect.Effect<Collected<E>, never, R> =>
  Effect.suspend(() => {
    const records: Array<LogRecord> = []
    return Stream.runForEachArray(stream, (batch) => Effect.sync(() => records.push(...batch))).pipe(
      Effect.match({
        onFailure: (error): Collected<E> => ({ records, error }),
        onSuccess: () => ({ records, error: undefined })
      })
    )
  })
