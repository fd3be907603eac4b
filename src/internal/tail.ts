/** Streams that do not end where the records do, but wait there for more. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { LogRecord } from "../Frame.ts"
import type { Position } from "../Recovery.ts"
import type { Observer } from "./observers.ts"
import type { From } from "./reading.ts"

/**
 * For so long after a change the segments are read at every look: a second change within one tick of a file system's
 * clock, two seconds at the most, may not show.
 */
const settled_ms = 3_000

/** Without any time between them, nobody else would have a turn. */
const between_looks_min = Duration.millis(1)

/** What of a log that is open for write is needed to wait for records. */
interface Growing<E> {
  readonly end: () => Position
  /** Also once the log is closed. */
  readonly read: (from: From, to: Position) => Stream.Stream<LogRecord, E>
  readonly observe: (observer: Observer) => Effect.Effect<Position, never, Scope.Scope>
  /** Open once the log is closed: its end is the last then. */
  readonly closed: Latch.Latch
}

/** The records from a place on, and then what is written, up to the last one when the log is closed. */
export const tailOfLog = <E>(log: Growing<E>, from: From): Stream.Stream<LogRecord, E> =>
  Stream.unwrap(Effect.gen(function*() {
    const written = Latch.makeUnsafe()
    let isClosed = false
    const wake = (): void => {
      written.openUnsafe()
    }
    yield* log.observe({ record: wake, frames: wake })
    yield* Effect.forkScoped(Effect.andThen(
      log.closed.await,
      Effect.sync(() => {
        isClosed = true
        wake()
      })
    ))
    // What is written while a round is read is the next one's. Between the look at the end and the wait nobody writes.
    const round = (at: From): Effect.Effect<readonly [Stream.Stream<LogRecord, E>, From] | undefined> =>
      Effect.suspend(() => {
        const { offset, segment } = log.end()
        if (!("segment" in at) || at.segment !== segment || at.offset !== offset) {
          return Effect.succeed([log.read(at, { segment, offset }), { segment, offset }] as const)
        }
        if (isClosed) return Effect.succeed(undefined)
        written.closeUnsafe()
        return Effect.andThen(written.await, round(at))
      })
    return startAt(from, Stream.flatten(Stream.unfold(from, round)))
  }))

/** What of a directory that another process writes is needed to look for records again and again. */
interface Watched<E> {
  readonly read: (from: Position) => Stream.Stream<LogRecord, E>
  /** A place from which on all records of a txid and above are. */
  readonly locate: (txid: number) => Effect.Effect<Position, E>
  /** Something that is another after every change of the segments. */
  readonly version: Effect.Effect<string, E>
  /** Whether nothing is looked for any more. */
  readonly isClosed: () => boolean
}

/**
 * The records from a place on, looked for again each time some time has gone by, if the segments have changed, until
 * whoever looks is closed.
 */
export const tailOfReader = <E>(
  { isClosed, locate, read, version }: Watched<E>,
  from: From,
  every: Duration.Input = "100 millis"
): Stream.Stream<LogRecord, E> => {
  const records = Stream.unwrap(Effect.gen(function*() {
    let at: Position = "segment" in from ? from : yield* locate(from.txid)
    let seen = { version: "", since: 0, isSettled: true }
    const news = Stream.suspend(() =>
      Stream.mapArray(read(at), (records) => {
        const { len, offset, segment } = records[records.length - 1] as LogRecord
        at = { segment, offset: offset + len }
        return records
      })
    )
    const round = Stream.unwrap(Effect.gen(function*() {
      if (isClosed()) return Stream.empty
      const now = yield* Clock.currentTimeMillis
      const found = yield* version
      if (found === seen.version && seen.isSettled) return Stream.empty
      const since = found === seen.version ? seen.since : now
      seen = { version: found, since, isSettled: now - since > settled_ms }
      return news
    }))
    const looks = Schedule.while(
      Schedule.spaced(Duration.max(Duration.fromInputUnsafe(every), between_looks_min)),
      () => !isClosed()
    )
    return startAt(from, Stream.repeat(round, looks))
  }))
  // A look that was under way when it was closed may have failed for that.
  return Stream.catchIf(records, isClosed, () => Stream.empty)
}

// A txid that is still to come is not found by the first rounds.
const startAt = <E>(from: From, records: Stream.Stream<LogRecord, E>): Stream.Stream<LogRecord, E> =>
  "segment" in from ? records : Stream.dropWhile(records, (record) => !(record.txid >= from.txid))
