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

/** Made before the clock is looked at. */
const step_items = 256

/** What `f` makes of each, in this very step unless they are so many that others should have their turn. */
export const inTurns = <A, B>(
  { isTurnOver }: DiskService,
  items: Iterable<A>,
  f: (item: A) => B
): Effect.Effect<Array<B>> =>
  Effect.suspend(() => {
    let all: ReadonlyArray<A> = Array.isArray(items) ? items : Array.from(items)
    const made: Array<B> = []
    let at = 0
    const go = (): Effect.Effect<Array<B>> => {
      while (at < all.length) {
        const to = Math.min(all.length, at + step_items)
        for (; at < to; at++) made.push(f(all[at] as A))
        if (at < all.length && isTurnOver(step_items)) {
          // Others may put something else into the caller's.
          if (all === items) all = all.slice()
          return Effect.flatMap(Effect.yieldNow, go)
        }
      }
      return Effect.succeed(made)
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
