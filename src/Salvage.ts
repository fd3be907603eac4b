/**
 * What is whole in a damaged store: the records before, between and behind its damage, which opening and reading refuse
 * to go past.
 *
 * Reach for it when a store fails with `CorruptTail` or `CorruptSegment`, in the active segment or a closed one, and
 * there is no backup. The store is read without its lock, and not changed.
 *
 * Behind damage it goes on where the damaged frame ends by its own length, if what must come then stands there: the
 * next record but one, another damaged one whose header has the next txid, or the end of the segment. Else it goes on
 * at the next whole frame, checksum included, whose txid is above that of the last record that is this log's for
 * certain; one whose is not is passed with all that it holds. So if a record whose header is damaged held a log itself,
 * such as a copy of a segment, or one right behind such a record, records of that log with higher txids are taken for
 * this one's. What stood in the damaged bytes is gone, and a key whose last put or delete was there goes back to what
 * it was before.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Disk from "./Disk.ts"
import type { DamageReason, IoError, LockUnavailable, TargetRefused } from "./Errors.ts"
import * as Frame from "./Frame.ts"
import { type Counted, countJump, warnOfJumps } from "./internal/counted.ts"
import { classify, type Damage } from "./internal/damage.ts"
import { findHome } from "./internal/home.ts"
import { eachLaterFrame } from "./internal/laterFrames.ts"
import { newStore, sound } from "./internal/newStore.ts"
import * as Recovery from "./Recovery.ts"

// Behind damage, more of it may be close: little is read in vain then.
const behind_chunk_bytes = 65_536

/**
 * Bytes of a segment that hold no record: damage, or a torn tail.
 *
 * @category models
 * @since 0.1.0
 */
export interface Gap {
  readonly segment: number
  readonly offset: number
  readonly bytes: number
  /** Why none starts at `offset`. */
  readonly reason: DamageReason
  /**
   * Whether a crash, or a writer in the middle of a record, leaves it so, and the next writer would cut it: nothing
   * that was durable was in it. It is said of the first damage of a segment, and of all behind that.
   */
  readonly torn: boolean
}

/**
 * How to salvage.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Told of each gap, when the records before it have been read. */
  readonly onGap?: ((gap: Gap) => void) | undefined
}

/**
 * How to make a store of it.
 *
 * @category models
 * @since 0.1.0
 */
export interface StoreOptions extends Options {
  /** Told how many records are written. */
  readonly onProgress?: ((records: number) => void) | undefined
}

/**
 * What a salvage found and wrote. `bytes_written` are those of the records' frames, `bytes_skipped` those of the gaps.
 *
 * @category models
 * @since 0.1.0
 */
export interface Salvaged {
  readonly records_written: number
  readonly bytes_written: number
  readonly gaps: number
  readonly bytes_skipped: number
}

/**
 * Every whole record of a store, in the order of the segments and of the places in them, whatever stands between them.
 * Of a store without damage it is the same as `Reader`'s stream.
 *
 * Memory is bounded like a reader's, and a number for each gap of a segment. What stands behind damage is read
 * twice, and the beginning of it, after each gap, once more. `IoError` when the system refuses: `ESTALE` if the
 * directory is moved or replaced meanwhile.
 *
 * **Example** (What is behind the damage)
 *
 * ```ts
 * import { Effect, Stream } from "effect"
 * import { Log, Recovery, Salvage } from "effect-datawal"
 * import { writeFileSync, readFileSync } from "node:fs"
 *
 * const write = Effect.scoped(Effect.gen(function*() {
 *   const log = yield* Log.make({ directory: "damaged" })
 *   yield* log.appendAll([1, 2, 3].map((n) => ({ type: "Raw" as const, payload: `record ${n}` })))
 * }))
 * await Effect.runPromise(write)
 *
 * const path = Recovery.segmentPath("damaged", 1)
 * const bytes = readFileSync(path)
 * bytes[70] = 0 // in the second record
 * writeFileSync(path, bytes)
 *
 * const gaps: Array<Salvage.Gap> = []
 * const records = await Effect.runPromise(
 *   Stream.runCollect(Salvage.records("damaged", { onGap: (gap) => gaps.push(gap) }))
 * )
 * records.map(({ payload }) => new TextDecoder().decode(payload)) // => ["record 1", "record 3"]
 * gaps // => [{ segment: 1, offset: 36, bytes: 36, reason: "CrcMismatch", torn: false }]
 * ```
 *
 * @category reading
 * @since 0.1.0
 */
export const records = (directory: string, options: Options = {}): Stream.Stream<Frame.LogRecord, IoError> =>
  Stream.unwrap(Effect.gen(function*() {
    const { directory: path, home } = yield* findHome(directory)
    const segments = yield* Recovery.listGrowingSegments(path)
    const { onGap = () => {} } = options
    const last = { txid: 0 }
    const active = segments.at(-1)
    return Stream.fromIterable(segments).pipe(
      Stream.flatMap((id) => ofSegment({ directory: path, id, isActive: id === active }, last, onGap)),
      Stream.provideService(Disk.Disk, home)
    )
  }))

/** A segment, up to where it ended when it was opened. */
interface Segment {
  readonly directory: string
  readonly id: number
  /** The last one. */
  readonly isActive: boolean
  readonly size: number
}

const framesFrom = ({ directory, id, size }: Segment, offset: number, chunkSize: number) =>
  Recovery.frames(directory, {
    segments: [id],
    from: { segment: id, offset },
    to: { segment: id, offset: size },
    chunkSize
  })

/**
 * The txid of the last record that is known to be of this log and no part of a damaged one: a frame behind it that has
 * no higher one is none of this log's.
 */
interface Last {
  txid: number
}

const ofSegment = (
  found: Omit<Segment, "size">,
  last: Last,
  onGap: (gap: Gap) => void
): Stream.Stream<Frame.LogRecord, IoError> =>
  Stream.unwrap(Effect.map(Recovery.segmentSize(found.directory, found.id), (size) => {
    const segment = { ...found, size }
    const from = (offset: number): Stream.Stream<Frame.LogRecord, IoError> =>
      noting(last, framesFrom(segment, offset, Recovery.chunk_bytes_default)).pipe(
        // Read again: a writer may have cut a tail and gone on while what was read of it was on its way.
        Stream.catchTag(
          "Damage",
          (damage) => damage.offset > offset ? from(damage.offset) : behind(segment, damage, last, onGap)
        )
      )
    return from(0)
  }))

const noting = <E>(last: Last, records: Stream.Stream<Frame.LogRecord, E>): Stream.Stream<Frame.LogRecord, E> =>
  Stream.mapArray(records, (batch) => {
    last.txid = Arr.lastNonEmpty(batch).txid
    return batch
  })

/** The bytes that hold no record from there on, and why. */
type Damaged = Pick<Gap, "offset" | "reason">

/** What stands behind the first damage of a segment. */
const behind = (
  segment: Segment,
  first: Damage,
  last: Last,
  onGap: (gap: Gap) => void
): Stream.Stream<Frame.LogRecord, IoError> =>
  Stream.unwrap(Effect.gen(function*() {
    const disk = yield* Disk.Disk
    const file = yield* Disk.openScoped(disk, Recovery.segmentPath(segment.directory, segment.id), "read")
    const torn = yield* isTorn(segment, file, first, last)
    let damaged: Damaged | undefined = first
    // Of the record right before a gap, whosever it is; and whether all of them are this log's for certain.
    const recent: Last = { ...last }
    let areOwn = true
    let known = yield* endOf(segment, file, first, recent)
    const skipTo = (end: number): void => {
      if (damaged === undefined) return
      const { offset, reason } = damaged
      onGap({ segment: segment.id, offset, bytes: end - offset, reason, torn })
      damaged = undefined
    }
    // The first that is this log's: a copy of older ones, or what a damaged record held, may stand right before it.
    const ownOf = Effect.fnUntraced(function*({ end, start }: Run): Effect.fn.Return<number | undefined, IoError> {
      if (damaged === undefined) return undefined
      const from = known ?? damaged.offset
      if (end <= from) return undefined
      if (start === known) return start
      if (start >= from && ((yield* headerAt(file, start))?.txid ?? 0) > last.txid) return start
      const own = yield* framesFrom({ ...segment, size: end }, start, behind_chunk_bytes).pipe(
        Stream.filter(({ offset, txid }) => offset === known || (offset >= from && txid > last.txid)),
        Stream.runHead,
        Effect.catchTag("Damage", () => Effect.succeedNone)
      )
      return Option.getOrUndefined(Option.map(own, ({ offset }) => offset))
    })
    // Until frames end again: behind that, nothing has been looked at.
    const fromRun = Effect.fnUntraced(function*(run: Run): Effect.fn.Return<
      Stream.Stream<Frame.LogRecord, IoError>,
      IoError
    > {
      const start = yield* ownOf(run)
      if (start === undefined) return Stream.empty
      areOwn &&= start === known
      skipTo(start)
      const frames = noting(recent, framesFrom(segment, start, behind_chunk_bytes))
      return Stream.catchTag(areOwn ? noting(last, frames) : frames, "Damage", (next) =>
        Stream.unwrap(Effect.map(endOf(segment, file, next, recent), (end) => {
          damaged = next
          known = end
          return Stream.empty
        })))
    })
    const end = Stream.suspend(() => {
      skipTo(segment.size)
      return Stream.empty
    })
    return Stream.fromIterableEffect(runsBehind(segment, file, first.offset, last.txid)).pipe(
      Stream.flatMap((run) =>
        Stream.unwrap(fromRun(run))
      ),
      Stream.concat(end)
    )
  }))

/** Whether a writer would cut what is behind there. */
const isTorn = Effect.fnUntraced(function*(
  { id, isActive, size }: Segment,
  file: Disk.DiskFile,
  { found, offset, reason }: Damage,
  { txid }: Last
): Effect.fn.Return<boolean, IoError> {
  if (!isActive) return false
  const length = reason === "CrcMismatch" ? (yield* headerAt(file, offset))?.length ?? 0 : 0
  const where = { segment: id, size, closed: false, txid }
  return (yield* classify(file, where, { reason, found, offset, length })).verdict === "Torn"
})

/** What the header there says, if it is sound. */
const headerAt = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  offset: number
): Effect.fn.Return<{ readonly length: number; readonly txid: number } | undefined, IoError> {
  const header = new Uint8Array(Frame.header_bytes)
  const view = new DataView(header.buffer)
  const length = Frame.inspect(view, 0, yield* Disk.readFully(file, header, 0, header.length, offset))
  return length < 0 ? undefined : { length, txid: Frame.txidAt(view, 0) }
})

/**
 * Where a damaged frame ends, if its own length leads to what must come then: the next record but one, or the end of
 * the segment. What stands before that is what it holds, such as the frames of another log. Damaged ones that follow
 * it are passed in the same way, as far as their headers have the txids that they must have.
 */
const endOf = Effect.fnUntraced(function*(
  segment: Segment,
  file: Disk.DiskFile,
  { offset }: Damaged,
  before: Last
): Effect.fn.Return<number | undefined, IoError> {
  let passed: number | undefined
  let at = offset
  let header = yield* headerAt(file, at)
  for (let txid = before.txid + 1; header !== undefined; txid++) {
    const end: number = at + header.length
    if (end >= segment.size) return end === segment.size && header.txid === txid ? end : passed
    header = yield* headerAt(file, end)
    if (header?.txid !== txid + 1) return passed
    if (end + header.length <= segment.size && (yield* isWhole(file, end, header.length))) return end
    passed = end
    at = end
  }
  return passed
})

/** Whether the frame there is whole, checksum included. */
const isWhole = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  offset: number,
  length: number
): Effect.fn.Return<boolean, IoError> {
  const bytes = new Uint8Array(length)
  const count = yield* Disk.readFully(file, bytes, 0, length, offset)
  return count === length && Frame.checksumHolds(bytes, new DataView(bytes.buffer), 0, length)
})

/** Whole frames, one right behind the other. */
interface Run {
  readonly start: number
  end: number
}

const runsBehind = Effect.fnUntraced(function*(
  { size }: Segment,
  file: Disk.DiskFile,
  offset: number,
  txid: number
): Effect.fn.Return<ReadonlyArray<Run>, IoError> {
  const runs: Array<Run> = []
  yield* eachLaterFrame(file, offset + 1, size, txid, (start, end) => {
    const run = runs.at(-1)
    if (run?.end === start) run.end = end
    else runs.push({ start, end })
  })
  return runs
})

/**
 * Writes every whole record of a store into a new one, in the same order, with txids from 1: puts, deletes and raw
 * records, so that it is a log like the old one, without the damage. A cursor that is a txid or a place of the old one
 * means nothing in it.
 *
 * The target is absent or whole, and durable when this resolves; what fails or is interrupted leaves nothing, a killed
 * process may leave a hidden directory beside it. `TargetRefused` when the target is a file, a symbolic link, the
 * working directory, in the damaged store's directory, or holds something.
 *
 * @category salvaging
 * @since 0.1.0
 */
export const toStore = (
  directory: string,
  target: string,
  options: StoreOptions = {}
): Effect.Effect<Salvaged, IoError | LockUnavailable | TargetRefused> =>
  Effect.withSpan(write(directory, target, options), "Salvage.toStore", {
    attributes: { directory, target },
    captureStackTrace: false
  })

const countBatch = (counted: Counted, batch: Arr.NonEmptyReadonlyArray<Frame.LogRecord>): void => {
  const [first] = batch
  if (first.offset === 0) countJump(counted, first.segment, first.txid)
  counted.records += batch.length
  counted.txid = Math.max(counted.txid, batch.at(-1)?.txid ?? first.txid)
}

const write = Effect.fnUntraced(function*(
  directory: string,
  target: string,
  { onGap, onProgress }: StoreOptions
): Effect.fn.Return<Salvaged, IoError | LockUnavailable | TargetRefused> {
  // Before anything is made for it.
  yield* Recovery.listSegments(directory)
  const source = yield* Effect.flatMap(Disk.Disk, (disk) => disk.realPath(directory))
  const counted: Counted = { records: 0, txid: 0, jumps: [] }
  const salvaged = { records_written: 0, bytes_written: 0, gaps: 0, bytes_skipped: 0 }
  const found = records(directory, {
    onGap: (gap) => {
      salvaged.gaps++
      salvaged.bytes_skipped += gap.bytes
      onGap?.(gap)
    }
  })
  const answer = yield* newStore(target, source, ({ log }) =>
    Effect.as(
      Stream.runForEachArray(found, (batch) => {
        // Behind damage it says nothing that the gap does not.
        if (salvaged.gaps === 0) countBatch(counted, batch)
        return Effect.map(sound(log.appendAll(batch)), (refs) => {
          salvaged.records_written += refs.length
          for (const { len } of refs) salvaged.bytes_written += len
          onProgress?.(salvaged.records_written)
        })
      }),
      salvaged
    ))
  yield* warnOfJumps(source, counted.jumps)
  return answer
})
