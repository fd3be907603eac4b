/**
 * The fold of the log into keys: which record is the last one of each key, and what all the others cost.
 *
 * Only places are held; every value is read from its frame, which is checked again each time.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { CorruptSegment, type InvalidPosition, type IoError } from "../Errors.ts"
import type { LogRecord, RecordType } from "../Frame.ts"
import * as Frame from "../Frame.ts"
import type { Checkpoint } from "./checkpoint.ts"
import type { Frames } from "./frames.ts"
import { type FrozenKeydir, Keydir, type KeydirSnapshot, type KeyRange, type Located } from "./keydir.ts"
import { keyWords } from "./keyOrder.ts"
import { packed_words } from "./packedKeys.ts"
import type { KeyedPlace, Place } from "./segmentFiles.ts"

/** What a projection reads single records through. */
export interface Source {
  readonly directory: string
  readonly read: (place: Place) => Effect.Effect<LogRecord, IoError | CorruptSegment | InvalidPosition>
  readonly valueNow: (key: Uint8Array, place: Place) => Uint8Array | IoError | undefined
  readonly valuesNow: (places: ReadonlyArray<KeyedPlace>) => Array<Uint8Array | IoError | undefined>
}

/** A key and its value. */
export interface KeyValue {
  readonly key: Uint8Array
  readonly value: Uint8Array
}

// The values of one step of a stream: many small ones, or one large one.
const step_bytes_max = 1_048_576
const step_keys_max = 512

/** What a frame has in the place of its type. */
const put = Frame.recordTypes.indexOf("Put")
const remove = Frame.recordTypes.indexOf("Delete")

/** Keys that are looked up at once (measured: 64 to 512 are alike). */
const batch_keys = 128
const hashes = new Int32Array(batch_keys)

/** A projection at one moment, to be saved. */
export interface FrozenProjection {
  readonly keydir: FrozenKeydir
  readonly records: number
  readonly bytes: number
  readonly liveBytes: number
}

export class Projection {
  readonly #keydir: Keydir
  #records = 0
  #bytes = 0
  #liveBytes = 0

  constructor(frozen?: FrozenProjection) {
    this.#keydir = frozen === undefined ? new Keydir() : Keydir.thaw(frozen.keydir)
    if (frozen === undefined) return
    this.#records = frozen.records
    this.#bytes = frozen.bytes
    this.#liveBytes = frozen.liveBytes
  }

  freeze(): FrozenProjection {
    return { keydir: this.#keydir.freeze(), records: this.#records, bytes: this.#bytes, liveBytes: this.#liveBytes }
  }

  get size(): number {
    return this.#keydir.size
  }

  /** Of the records folded in, and the bytes of their frames. */
  get counts(): { readonly records: number; readonly bytes: number; readonly liveBytes: number } {
    return { records: this.#records, bytes: this.#bytes, liveBytes: this.#liveBytes }
  }

  /** Folds one record in. Records come in the order of the file; the key is copied. */
  apply(type: RecordType, key: Uint8Array, place: Place): void {
    this.#records++
    this.#bytes += place.len
    if (type === "Put") {
      this.#liveBytes += place.len - this.#keydir.set(key, place.segment, place.offset, place.len)
    } else if (type === "Delete") {
      this.#liveBytes -= this.#keydir.delete(key)
    }
  }

  applyAll(records: ReadonlyArray<LogRecord>): void {
    for (const record of records) this.apply(record.type, record.key, record)
  }

  /** `apply` for each frame. The keys of many are hashed, and looked up, before the first is set: see `reach`. */
  fold({ base, bytes, length, segment, view }: Frames): void {
    for (let at = 0; at < length;) {
      let to = at
      let words = 0
      let keys = 0
      while (to < length && keys < batch_keys) {
        const keyLen = Frame.keyLengthAt(view, to)
        if (words + keyWords(keyLen) > packed_words) break
        hashes[keys++] = this.#keydir.pack(bytes, to + Frame.header_bytes, keyLen, words)
        words += keyWords(keyLen)
        to += Frame.lengthAt(view, to)
      }
      this.#keydir.reach(hashes, keys)
      words = 0
      for (let key = 0; at < to; key++) {
        const type = bytes[at + Frame.fieldOffset.recordType]
        const keyLen = Frame.keyLengthAt(view, at)
        const len = Frame.lengthAt(view, at)
        const hash = hashes[key] as number
        this.#records++
        this.#bytes += len
        if (type === put) this.#liveBytes += len - this.#keydir.setPacked(hash, words, keyLen, segment, base + at, len)
        else if (type === remove) this.#liveBytes -= this.#keydir.deletePacked(hash, words, keyLen)
        words += keyWords(keyLen)
        at += len
      }
    }
  }

  placeOf(key: Uint8Array): Place | undefined {
    const entry = this.#keydir.find(key)
    return entry < 0 ? undefined : {
      segment: this.#keydir.segmentOf(entry),
      offset: this.#keydir.offsetOf(entry),
      len: this.#keydir.lenOf(entry)
    }
  }

  /** Whether so many more keys, of so many bytes in all, surely find room in the index. */
  hasRoom(keys: number, bytes: number): boolean {
    return this.#keydir.hasRoom(keys, bytes)
  }

  has(key: Uint8Array): boolean {
    return this.#keydir.find(key) >= 0
  }

  snapshot(): KeydirSnapshot {
    return this.#keydir.snapshot()
  }
}

/** The projection that a checkpoint is of. */
export const projectionOf = ({ covered, keydir, liveBytes }: Checkpoint): Projection => {
  const bytes = covered.segments.reduce((sum, { bytes }) => sum + bytes, 0)
  return new Projection({ keydir, records: covered.records, bytes, liveBytes })
}

/** The value of the record at a place, which must be a Put of that key. */
const readChecked = (
  source: Source,
  key: Uint8Array,
  place: Place
): Effect.Effect<Uint8Array, IoError | CorruptSegment> =>
  Effect.matchEffect(source.read(place), {
    onSuccess: (record) =>
      record.type === "Put" && sameBytes(record.key, key)
        ? Effect.succeed(record.payload)
        : Effect.fail(mismatch(source, place)),
    onFailure: (error) => Effect.fail(error._tag === "InvalidPosition" ? mismatch(source, place) : error)
  })

/** The value of a key, read in this step where that can be; so it is for a suspended effect to call. */
export const valueOf = (
  source: Source,
  projection: Projection,
  key: Uint8Array
): Effect.Effect<Uint8Array | undefined, IoError | CorruptSegment> => {
  const place = projection.placeOf(key)
  if (place === undefined) return noValue
  return settled(source, key, place, source.valueNow(key, place))
}

/** What was read in this step, or else what can be read in more. */
const settled = (
  source: Source,
  key: Uint8Array,
  place: Place,
  now: Uint8Array | IoError | undefined
): Effect.Effect<Uint8Array, IoError | CorruptSegment> =>
  now instanceof Uint8Array
    ? Effect.succeed(now)
    : now === undefined
    ? readChecked(source, key, place)
    : Effect.fail(now)

const noValue = Effect.succeed(undefined)

/** The values of many keys, in their order. */
export const valuesOf = Effect.fnUntraced(function*(
  source: Source,
  projection: Projection,
  keys: ReadonlyArray<Uint8Array>
): Effect.fn.Return<Array<Uint8Array | undefined>, IoError | CorruptSegment> {
  const values: Array<Uint8Array | undefined> = []
  for (const key of keys) {
    const place = projection.placeOf(key)
    if (place === undefined) values.push(undefined)
    else {
      const value = source.valueNow(key, place)
      values.push(value instanceof Uint8Array ? value : yield* settled(source, key, place, value))
    }
    if (values.length % step_keys_max === 0) yield* Effect.yieldNow
  }
  return values
})

const mismatch = (source: Source, place: Place): CorruptSegment =>
  new CorruptSegment({
    directory: source.directory,
    segment: place.segment,
    offset: place.offset,
    reason: "RecordMismatch",
    found: undefined
  })

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => {
  if (a.length !== b.length) return false
  for (let at = 0; at < a.length; at++) {
    if (a[at] !== b[at]) return false
  }
  return true
}

/** The places in a snapshot, a batch a pull. Sorting is done in steps between which others run. */
export const located = (
  snapshot: KeydirSnapshot,
  options: { readonly ordered: boolean; readonly range: KeyRange }
): Stream.Stream<Located> =>
  Stream.suspend(() => {
    const steps = snapshot.batches({ ordered: options.ordered, range: options.range, batch: step_keys_max })
    const next = Effect.sync(() => {
      const step = steps.next()
      return step.done === true
        ? [[], Option.none<void>()] as const
        : [step.value, Option.some<void>(undefined)] as const
    })
    return Stream.paginate<void, Located>(undefined, () => Effect.tap(next, Effect.yieldNow))
  })

/** The keys with their values, in steps of bounded bytes. */
export const withValues = <E>(
  source: Source,
  keys: Stream.Stream<Located, E>
): Stream.Stream<KeyValue, E | IoError | CorruptSegment> =>
  Stream.flatMap(Stream.chunks(keys), (batch) =>
    Stream.paginate(0, (from) => {
      let to = from + 1
      let bytes = batch[from]?.len ?? 0
      for (; to < batch.length; to++) {
        bytes += batch[to]?.len ?? 0
        if (bytes > step_bytes_max) break
      }
      return Effect.map(
        readStep(source, from === 0 && to === batch.length ? batch : batch.slice(from, to)),
        (values) => [values, to < batch.length ? Option.some(to) : Option.none<number>()] as const
      )
    }))

const readStep = Effect.fnUntraced(function*(
  source: Source,
  places: ReadonlyArray<Located>
): Effect.fn.Return<Array<KeyValue>, IoError | CorruptSegment> {
  const values = source.valuesNow(places)
  const entries: Array<KeyValue> = []
  for (let index = 0; index < places.length; index++) {
    const place = places[index] as Located
    const value = values[index]
    entries.push({
      key: place.key,
      value: value instanceof Uint8Array ? value : yield* settled(source, place.key, place, value)
    })
  }
  return entries
})
