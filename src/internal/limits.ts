/** What a record may be, before it becomes a frame. */
import { LimitExceeded } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import type { Entry } from "./writer.ts"

/** Of its frame. */
export const lengthOf = (entry: Entry): number => Frame.encodedLength(entry.key.length, entry.payload.length)

const limit = (limit: "key" | "payload", actual: number, maximum: number): LimitExceeded | undefined =>
  actual > maximum ? new LimitExceeded({ limit, actual, maximum }) : undefined

export const keyLimit = (bytes: number): LimitExceeded | undefined => limit("key", bytes, Frame.key_bytes_max)

export const payloadLimit = (bytes: number): LimitExceeded | undefined =>
  limit("payload", bytes, Frame.payload_bytes_max)

export const recordLimit = ({ key, payload }: Pick<Entry, "key" | "payload">): LimitExceeded | undefined =>
  keyLimit(key.length) ?? payloadLimit(payload.length)

export const txidLimit = (actual: number): LimitExceeded =>
  new LimitExceeded({ limit: "txid", actual, maximum: Frame.txid_max })
