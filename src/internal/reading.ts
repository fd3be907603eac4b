/**
 * Records from a position on, for the writer and for readers without the lock: where a position may be, and the
 * public error that damage becomes.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Disk from "../Disk.ts"
import { type CorruptSegment, InvalidPosition, type IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import type { RefLike } from "../Log.ts"
import * as Recovery from "../Recovery.ts"
import type { Damage } from "./damage.ts"
import type { Place, SegmentFiles } from "./segmentFiles.ts"

/**
 * Where to start: at a record's place, or at the first record whose txid is not below the one given. A txid beyond the
 * end is taken for one that is still to come, and what is written until then is passed over: of a log that was put back
 * to an older copy only a place can tell.
 */
export type From = Recovery.Position | { readonly txid: number }

export interface Bounds {
  readonly segments: ReadonlyArray<number>
  readonly to?: Recovery.Position | undefined
  readonly chunkSize: number
}

/** The records from a place or a txid on. A `RecordRef` is a place. */
export const framesFrom = (
  directory: string,
  from: From,
  bounds: Bounds
): Stream.Stream<Frame.LogRecord, IoError | InvalidPosition | Damage> =>
  !("segment" in from)
    ? Stream.unwrap(Effect.map(locate(directory, bounds.segments, from.txid), (start) =>
      Stream.dropWhile(
        Recovery.frames(directory, { ...bounds, from: start }),
        (record) => !(record.txid >= from.txid)
      )))
    : Stream.unwrap(Effect.as(
      checkPlace(directory, from, bounds),
      Stream.catchTag(
        Recovery.frames(directory, { ...bounds, from }),
        "Damage",
        (damage) => Stream.unwrap(Effect.map(misplaced(directory, from, bounds, damage), Stream.fail))
      )
    ))

// The one failure that is the caller's: no frame starts where it asked to start, though one may have seemed to.
const misplaced = Effect.fnUntraced(function*(
  directory: string,
  from: Recovery.Position,
  bounds: Bounds,
  damage: Damage
): Effect.fn.Return<InvalidPosition | Damage, IoError> {
  return from.offset > 0 && !(yield* isBoundary(directory, from, bounds))
    ? invalidPosition(directory, from)
    : damage
})

const checkPlace = Effect.fnUntraced(function*(
  directory: string,
  from: Recovery.Position,
  bounds: Bounds
): Effect.fn.Return<void, IoError | InvalidPosition> {
  const { offset, segment } = from
  if (!Number.isSafeInteger(segment) || !Number.isSafeInteger(offset)) return yield* invalidPosition(directory, from)
  // Behind the last segment it is a place of another log, or of this one before it was replaced by an older copy.
  if (segment > (bounds.segments.at(-1) ?? 1)) return yield* invalidPosition(directory, from)
  if (offset === 0) return
  const known = offset > 0 && bounds.segments.includes(segment) &&
    (bounds.to === undefined || segment < bounds.to.segment || offset <= bounds.to.offset)
  if (known && offset <= (yield* Recovery.segmentSize(directory, segment))) return
  return yield* invalidPosition(directory, from)
})

/**
 * Whether the frames of a segment, walked from its start, come to a boundary exactly there; also where damage before it
 * leaves that open: then the place is no mistake of the caller's.
 */
export const isBoundary = (
  directory: string,
  place: Recovery.Position,
  bounds: { readonly chunkSize: number }
): Effect.Effect<boolean, IoError> =>
  Recovery.frames(directory, { segments: [place.segment], to: place, chunkSize: bounds.chunkSize }).pipe(
    Stream.runDrain,
    Effect.as(true),
    Effect.catchTag("Damage", ({ reason }) => Effect.succeed(reason !== "Truncated"))
  )

export const invalidPosition = (directory: string, place: Recovery.Position): InvalidPosition =>
  new InvalidPosition({ directory, segment: place.segment, offset: place.offset })

// Whatever a caller made up, no more is allocated for it than the longest frame takes.
const isPlace = ({ len, offset, segment }: Place): boolean =>
  Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(segment) && segment > 0 &&
  Number.isSafeInteger(len) && len >= Frame.overhead_bytes && len <= Frame.frame_bytes_max

/**
 * The record at a reference. A place where no frame starts, or another record's, is the caller's mistake, not damage.
 */
export const readRef = (
  disk: Disk.DiskService,
  directory: string,
  files: SegmentFiles,
  ref: RefLike,
  chunkSize: number
): Effect.Effect<Frame.LogRecord, IoError | CorruptSegment | InvalidPosition> =>
  !isPlace(ref) ? Effect.fail(invalidPosition(directory, ref)) : Effect.matchEffect(files.read(ref), {
    onSuccess: (record) =>
      ref.txid === undefined || ref.txid === record.txid
        ? Effect.succeed(record)
        : Effect.fail(invalidPosition(directory, ref)),
    onFailure: (error) =>
      error._tag === "IoError"
        ? Effect.fail(error)
        : Effect.flatMap(
          Effect.provideService(isOtherRecord(directory, ref, chunkSize), Disk.Disk, disk),
          (isOther) => Effect.fail(isOther ? invalidPosition(directory, ref) : error)
        )
  })

/**
 * Whether a place that could not be read as asked is sound: no frame starts there, or a whole one of another length.
 */
const isOtherRecord = Effect.fnUntraced(function*(
  directory: string,
  place: Place,
  chunkSize: number
): Effect.fn.Return<boolean, IoError> {
  if (!(yield* isBoundary(directory, place, { chunkSize }))) return true
  const there = Stream.runHead(Recovery.frames(directory, { segments: [place.segment], from: place, chunkSize }))
  let damaged = false
  const record = yield* Effect.catchTag(there, "Damage", () => {
    damaged = true
    return Effect.succeedNone
  })
  return Option.isNone(record) ? !damaged : record.value.len !== place.len
})

/**
 * The start of the last segment whose first record is not behind the txid: all records from the txid on follow it,
 * since txids go up from one segment to the next.
 */
export const locate = Effect.fnUntraced(function*(
  directory: string,
  segments: ReadonlyArray<number>,
  txid: number
): Effect.fn.Return<Recovery.Position, IoError | InvalidPosition> {
  // As a spoilt cursor gives it: nothing would ever be found.
  if (Number.isNaN(txid)) return yield* new InvalidPosition({ directory, segment: 0, offset: 0, txid })
  let found = 0
  let from = 0
  let to = segments.length
  while (from < to) {
    const middle = from + ((to - from) >>> 1)
    // One that says nothing, such as an empty one, is passed by.
    let at = middle
    let first = yield* firstTxid(directory, segments[at] as number)
    while (first === undefined && at > from) first = yield* firstTxid(directory, segments[--at] as number)
    if (first !== undefined && first > txid) to = at
    else {
      if (first !== undefined) found = segments[at] as number
      from = middle + 1
    }
  }
  return { segment: found, offset: 0 }
})

// Of a frame whose checksum holds: a damaged header must not send the reader past valid records.
const firstTxid = (directory: string, segment: number): Effect.Effect<number | undefined, IoError> =>
  Recovery.frames(directory, { segments: [segment], chunkSize: first_chunk_bytes }).pipe(
    Stream.runHead,
    Effect.map(Option.map((record) => record.txid)),
    Effect.map(Option.getOrUndefined),
    Effect.catchTag("Damage", () => Effect.succeed(undefined))
  )

const first_chunk_bytes = 4_096
