/** Records as a caller gives them, turned into what the writer takes. */
import type { RecordInput } from "../Log.ts"
import { toBytes } from "./bytes.ts"
import type { Entry } from "./writer.ts"

const empty = new Uint8Array(0)

export const toEntry = (record: RecordInput): Entry =>
  record.type === "Delete"
    ? { type: "Delete", key: toBytes(record.key), payload: empty }
    : {
      type: record.type,
      key: record.key === undefined ? empty : toBytes(record.key),
      payload: toBytes(record.payload)
    }

// An array's own `map` takes half as long as iterating over it.
export const entriesOf = (records: Iterable<RecordInput>): ReadonlyArray<Entry> =>
  Array.isArray(records) ? records.map(toEntry) : Array.from(records, toEntry)
