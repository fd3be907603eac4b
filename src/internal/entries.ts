/** Records as a caller gives them, turned into what the writer takes, and what they may be. */
import * as Effect from "effect/Effect"
import type { DiskService } from "../Disk.ts"
import { LimitExceeded } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import type { RecordInput } from "../Log.ts"
import { toBytes } from "./bytes.ts"

/** A record to write, its strings already bytes. */
export interface Entry {
  readonly type: Frame.RecordType
  readonly key: Uint8Array
  readonly payload: Uint8Array
}

/** Of its frame. */
export const lengthOf = (entry: Entry): number => Frame.encodedLength(entry.key.length, entry.payload.length)

const limit = (limit: "key" | "payload", actual: number, maximum: number): LimitExceeded | undefined =>
  actual > maximum ? new LimitExceeded({ limit, actual, maximum }) : undefined

export const keyLimit = (bytes: number): LimitExceeded | undefined => limit("key", bytes, Frame.key_bytes_max)

const payloadLimit = (bytes: number): LimitExceeded | undefined => limit("payload", bytes, Frame.payload_bytes_max)

export const recordLimit = ({ key, payload }: Pick<Entry, "key" | "payload">): LimitExceeded | undefined =>
  keyLimit(key.length) ?? payloadLimit(payload.length)

export const txidLimit = (actual: number): LimitExceeded =>
  new LimitExceeded({ limit: "txid", actual, maximum: Frame.txid_max })

const empty = new Uint8Array(0)

export const toEntry = (record: RecordInput): Entry => {
  if (typeof record === "string" || ArrayBuffer.isView(record)) {
    return { type: "Raw", key: empty, payload: toBytes(record) }
  }
  const { key, type } = record
  if (type === "Delete") return { type, key: toBytes(key), payload: empty }
  // Of a caller without types, who would have it stored as another.
  if (type !== "Raw" && type !== "Put") throw new TypeError("a record's type is Raw, Put or Delete")
  return { type, key: key === undefined ? empty : toBytes(key), payload: toBytes(record.payload) }
}

// An array's own `map` takes half as long as iterating over it.
export const entriesOf = (records: ReadonlyArray<RecordInput>): ReadonlyArray<Entry> => records.map(toEntry)

/** Made before the clock is looked at. */
const step_entries = 256

/** `entriesOf` in steps, between which others have their turn. Fails if one passes a limit. Nobody changes the list. */
export const entriesInTurns = (
  { isTurnOver }: DiskService,
  records: ReadonlyArray<RecordInput>
): Effect.Effect<ReadonlyArray<Entry>, LimitExceeded> =>
  Effect.suspend(() => {
    const entries: Array<Entry> = []
    const go = (): Effect.Effect<ReadonlyArray<Entry>, LimitExceeded> => {
      while (entries.length < records.length) {
        const from = entries.length
        const to = Math.min(records.length, from + step_entries)
        for (let at = from; at < to; at++) {
          const entry = toEntry(records[at] as RecordInput)
          const refused = recordLimit(entry)
          if (refused !== undefined) return Effect.fail(refused)
          entries.push(entry)
        }
        if (to < records.length && isTurnOver(to - from)) return Effect.flatMap(Effect.yieldNow, go)
      }
      return Effect.succeed(entries)
    }
    return go()
  })

/**
 * What can be gone through again, for an effect that may be run again: of an iterator, which is used up by the first
 * run, what that run found in it, or what it threw.
 */
export const repeatable = <A>(items: Iterable<A>): Iterable<A> => {
  if (Array.isArray(items)) return items
  // One key or value in the place of many: its characters would be taken for them.
  if (typeof items === "string") {
    const refuse = (): never => {
      throw new TypeError("a list was expected, not a string")
    }
    return { [Symbol.iterator]: refuse }
  }
  const iterator: unknown = items[Symbol.iterator]()
  if (iterator !== items) return items
  let found: ReadonlyArray<A> | undefined
  let thrown: { readonly cause: unknown } | undefined
  return {
    [Symbol.iterator]: () => {
      if (thrown !== undefined) throw thrown.cause
      try {
        return (found ??= Array.from(items))[Symbol.iterator]()
      } catch (cause) {
        thrown = { cause }
        throw cause
      }
    }
  }
}
