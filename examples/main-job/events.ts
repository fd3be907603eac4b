/** What the job did, as a log of its own beside the store: one JSON document a record. */
import type { Log } from "effect-datawal"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"

export const Event = Schema.fromJsonString(Schema.Struct({
  at: Schema.String,
  did: Schema.String,
  key: Schema.optionalKey(Schema.String),
  bytes: Schema.optionalKey(Schema.Number),
  note: Schema.optionalKey(Schema.String)
}))

type Detail = { readonly key?: string; readonly bytes?: number; readonly note?: string }

const encode = Schema.encodeSync(Event)
const decode = Schema.decodeUnknownEffect(Event)
const text = new TextDecoder()

export const record = (events: Log.Log["Service"], did: string, detail: Detail = {}) =>
  Effect.suspend(() => events.append(encode({ at: new Date().toISOString(), did, ...detail })))

/** How often each thing was done, in the order in which it was done first. */
export const tally = (events: Log.Log["Service"]) =>
  Stream.runFold(
    Stream.mapEffect(events.stream, ({ payload }) => decode(text.decode(payload))),
    () => new Map<string, number>(),
    (counts, { did }) => counts.set(did, (counts.get(did) ?? 0) + 1)
  )
