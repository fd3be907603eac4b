/**
 * The fold of the log into keys: which record is the last one of each key, and what all the others cost.
 *
 * Only places are held; every value is taken from its frame, which is checked again each time.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type * as Disk from "../Disk.ts"
import { CorruptSegment, type InvalidPosition, type IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { type Bytes, ownBytes, sharedBytes, toBytes } from "./bytes.ts"
import type { Checkpoint } from "./checkpoint.ts"
import type { Frames, PutFrames } from "./frames.ts"
import { gather, type Gathered, type KeyValue } from "./gather.ts"
import { type FrozenKeydir, Keydir } from "./keydir.ts"
import type { KeydirSnapshot, WalkOptions } from "./keyOrder.ts"
import { keyWords, locate, type Located } from "./keyRecord.ts"
import { packed_words } from "./packedKeys.ts"
import { type Place, pooled_bytes_max, type SegmentReads } from "./segmentFiles.ts"

/** What a projection reads single records through. */
export interface Source {
  readonly directory: string
  readonly disk: Disk.DiskService
  readonly read: (place: Place) => Effect.Effect<Frame.LogRecord, IoError | CorruptSegment | InvalidPosition>
  readonly files: SegmentReads
}

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
  apply(type: Frame.RecordType, key: Uint8Array, place: Place): void {
    if (type === "Put") {
      this.#liveBytes += place.len - this.#keydir.set(key, place.segment, place.offset, place.len)
    } else if (type === "Delete") {
      this.#liveBytes -= this.#keydir.delete(key)
    }
    // Last: what the index could not take is not counted, so that no checkpoint is written that hides it.
    this.#records++
    this.#bytes += place.len
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
        if (type === put) this.#liveBytes += len - this.#keydir.setPacked(hash, words, keyLen, segment, base + at, len)
        else if (type === remove) this.#liveBytes -= this.#keydir.deletePacked(hash, words, keyLen)
        this.#records++
        this.#bytes += len
        words += keyWords(keyLen)
        at += len
      }
    }
  }

  placeOf(key: Uint8Array): Place | undefined {
    return this.#placeAt(this.#keydir.find(key))
  }

  /** `placeOf` for each of the keys. */
  placesOf(keys: ReadonlyArray<Uint8Array>): Array<Place | undefined> {
    const places: Array<Place | undefined> = []
    for (let at = 0; at < keys.length;) {
      let end = at
      let words = 0
      for (; end < keys.length && end - at < batch_keys; end++) {
        const key = keys[end] as Uint8Array
        if (words + keyWords(key.length) > packed_words) break
        hashes[end - at] = this.#keydir.pack(key, 0, key.length, words)
        words += keyWords(key.length)
      }
      if (end === at) {
        // It is longer than any key there is.
        places.push(undefined)
        at++
      }
      this.#keydir.reach(hashes, end - at)
      words = 0
      for (let index = 0; at < end; at++, index++) {
        const { length } = keys[at] as Uint8Array
        places.push(this.#placeAt(this.#keydir.findPacked(hashes[index] as number, words, length)))
        words += keyWords(length)
      }
    }
    return places
  }

  #placeAt(entry: number): Place | undefined {
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
): Effect.Effect<Uint8Array<ArrayBuffer>, IoError | CorruptSegment> =>
  Effect.matchEffect(source.read(place), {
    onSuccess: (record) =>
      record.type === "Put" && Buffer.compare(record.key, key) === 0
        ? Effect.succeed(record.payload)
        : Effect.fail(mismatch(source, place)),
    onFailure: (error) => Effect.fail(error._tag === "InvalidPosition" ? mismatch(source, place) : error)
  })

/** The value of a key, read in this step where that can be; so it is for a suspended effect to call. */
export const valueOf = (
  source: Source,
  projection: Projection,
  key: Uint8Array
): Effect.Effect<Uint8Array<ArrayBuffer> | undefined, IoError | CorruptSegment> => {
  const place = projection.placeOf(key)
  return place === undefined ? noValue : valueAt(source, key, place)
}

/** The value of a key whose record is at that place. */
export const valueAt = (
  source: Source,
  key: Uint8Array,
  place: Place
): Effect.Effect<Uint8Array<ArrayBuffer>, IoError | CorruptSegment> =>
  readOr(source, key, place, source.files.valueNow(key, place))

/** What was read in this step, or else what can be read in more. */
const readOr = (
  source: Source,
  key: Uint8Array,
  place: Place,
  now: Uint8Array<ArrayBuffer> | IoError | undefined
): Effect.Effect<Uint8Array<ArrayBuffer>, IoError | CorruptSegment> =>
  now instanceof Uint8Array
    ? Effect.succeed(now)
    : now === undefined
    // The caller may use its memory again before that has ended.
    ? (place.len > pooled_bytes_max ? readChecked : readLater)(source, ownBytes(key), place)
    : Effect.fail(now)

/** In a turn of its own, if this one is over, and with its segment open. What cannot be read then says why. */
const readLater = (
  source: Source,
  key: Uint8Array,
  place: Place
): Effect.Effect<Uint8Array<ArrayBuffer>, IoError | CorruptSegment> =>
  (source.disk.isTurnOver(0) ? Effect.yieldNow : Effect.void).pipe(
    Effect.andThen(Effect.ignore(source.files.open(place.segment))),
    Effect.andThen(Effect.suspend(() => {
      const now = source.files.valueNow(key, place)
      return now instanceof Uint8Array ? Effect.succeed(now) : readChecked(source, key, place)
    }))
  )

const noValue = Effect.succeed(undefined)

/** The values of many keys, in their order. */
export const valuesOf = Effect.fnUntraced(function*(
  source: Source,
  projection: Projection,
  given: ReadonlyArray<Bytes>
): Effect.fn.Return<Array<Uint8Array<ArrayBuffer> | undefined>, IoError | CorruptSegment> {
  let all = given
  const values: Array<Uint8Array<ArrayBuffer> | undefined> = []
  // Before others run, who may use that memory again.
  const own = (): void => {
    if (all === given) all = ownKeys(given)
  }
  for (let from = 0; from < all.length; from += step_keys_max) {
    if (source.disk.isTurnOver(from === 0 ? 0 : step_keys_max)) {
      own()
      yield* Effect.yieldNow
    }
    let keys: ReadonlyArray<Uint8Array> = all.slice(from, from + step_keys_max).map(toBytes)
    const places = projection.placesOf(keys)
    for (let index = 0; index < places.length; index++) {
      const place = places[index]
      if (place === undefined) values.push(undefined)
      else {
        const value = source.files.valueNow(keys[index] as Uint8Array, place)
        if (value instanceof Uint8Array) values.push(value)
        else {
          if (all === given) keys = keys.map(ownBytes)
          own()
          values.push(yield* readOr(source, keys[index] as Uint8Array, place, value))
        }
      }
    }
  }
  return values
})

/** The same keys, none in the caller's memory. Memory of its own for each of a million would take a second. */
const ownKeys = (keys: ReadonlyArray<Bytes>): ReadonlyArray<Bytes> => {
  let bytes = 0
  for (const key of keys) if (typeof key !== "string") bytes += toBytes(key).length
  const copied = new Uint8Array(bytes)
  let at = 0
  return keys.map((key) => {
    if (typeof key === "string") return key
    copied.set(key, at)
    at += key.length
    return copied.subarray(at - key.length, at)
  })
}

const mismatch = (source: Source, place: Place): CorruptSegment =>
  new CorruptSegment({
    directory: source.directory,
    segment: place.segment,
    offset: place.offset,
    reason: "RecordMismatch"
  })

/** What `next` gives, until that is `undefined`. Others run after each step. */
const streamOf = <A, E>(next: Effect.Effect<ReadonlyArray<A> | undefined, E>): Stream.Stream<A, E> =>
  Stream.paginate<void, A, E>(
    undefined,
    () =>
      Effect.map(
        // Before it: what a pull has taken and then waits with is lost when that pull is interrupted.
        Effect.andThen(Effect.yieldNow, next),
        (step) => [step ?? [], step === undefined ? Option.none() : Option.some<void>(undefined)]
      )
  )

/** The places in a snapshot, a step of its walk a pull. */
export const located = (
  snapshot: KeydirSnapshot,
  options: WalkOptions
): Stream.Stream<Located> =>
  Stream.suspend(() => {
    const steps = snapshot.entries(options)
    return streamOf(Effect.sync(() => {
      const step = steps.next()
      return step.done === true ? undefined : Array.from(step.value, (entry) => locate(snapshot.slabs, entry))
    }))
  })

/** The frames of the live records in range, checked. */
export const framesOf = (
  source: Source,
  snapshot: KeydirSnapshot,
  options: WalkOptions & { readonly all: boolean }
): Gathered =>
  gather(
    {
      files: source.files,
      isTurnOver: source.disk.isTurnOver,
      value: (key, place) => readChecked(source, key, place)
    },
    snapshot,
    options
  )

/** The keys with their values, in memory that belongs to whoever takes them. */
export const entriesIn = (frames: Gathered): Stream.Stream<KeyValue, IoError | CorruptSegment> =>
  streamOf(Effect.map(frames, (next) => next !== undefined && "bytes" in next ? keyValues(next) : next))

const keyValues = ({ bytes, from, starts, to, view }: PutFrames): Array<KeyValue> => {
  const base = starts[from] as number
  const shared = sharedBytes((starts[to] as number) - base)
  shared.set(bytes.subarray(base, base + shared.length))
  const entries: Array<KeyValue> = []
  for (let index = from; index < to; index++) {
    const at = (starts[index] as number) - base
    const keyEnd = at + Frame.header_bytes + Frame.keyLengthAt(view, base + at)
    const end = (starts[index + 1] as number) - base - Frame.crc_bytes
    entries.push({ key: shared.slice(at + Frame.header_bytes, keyEnd), value: shared.subarray(keyEnd, end) })
  }
  return entries
}
