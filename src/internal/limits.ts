/** What a record may be, before it becomes a frame. */
import { LimitExceeded } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import type { Entry } from "./writer.ts"

/** Of its frame. */
export const lengthOf = (entry: Entry): number => Frame.encodedLength(entry.key.length, entry.payload.length)

export const recordLimit = ({ key, payload }: Entry): LimitExceeded | undefined =>
  key.length > Frame.key_bytes_max
    ? new LimitExceeded({ limit: "key", actual: key.length, maximum: Frame.key_bytes_max })
    : payload.length > Frame.payload_bytes_max
    ? new LimitExceeded({ limit: "payload", actual: payload.length, maximum: Frame.payload_bytes_max })
    : undefined

export const txidLimit = (actual: number): LimitExceeded =>
  new LimitExceeded({ limit: "txid", actual, maximum: Frame.txid_max })
