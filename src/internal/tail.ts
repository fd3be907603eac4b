/** Streams that do not end where the records do, but wait there for more. */
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

/** What of a log that is open for write is needed to wait for records. */
export interface Growing<E> {
  readonly end: () => Position
  readonly read: (from: From, to: Position) => Stream.Stream<LogRecord, E>
  readonly observe: (observer: Observer) => Effect.Effect<Position, never, Scope.Scope>
  /** Open once the log closes. */
  readonly closing: Latch.Latch
}

/** The records from a place on, and then what is written, until the log closes. */
export const tailOfLog = <E>(log: Growing<E>, from: From): Stream.Stream<LogRecord, E> =>
  Stream.unwrap(Effect.gen(function*() {
    const written = Latch.makeUnsafe()
    let isClosing = false
    const wake = (): void => {
      written.openUnsafe()
    }
    yield* log.observe({ record: wake, frames: wake })
    yield* Effect.forkScoped(Effect.andThen(
      log.closing.await,
      Effect.sync(() => {
        isClosing = true
        wake()
      })
    ))
    // What is written while a round is read is the next one's. Between the look at the end and the wait nobody writes.
    const round = (at: From): Effect.Effect<readonly [Stream.Stream<LogRecord, E>, From] | undefined> =>
      Effect.suspend(() => {
        if (isClosing) return Effect.succeed(undefined)
        const { offset, segment } = log.end()
        if (!("segment" in at) || at.segment !== segment || at.offset !== offset) {
          return Effect.succeed([log.read(at, { segment, offset }), { segment, offset }] as const)
        }
        written.closeUnsafe()
        return Effect.andThen(written.await, round(at))
      })
    return startAt(from, Stream.flatten(Stream.unfold(from, round)))
  }))

/** The records from a place on, looked for again each time some time has gone by. */
export const tailOfReader = <E>(
  streamFrom: (from: From) => Stream.Stream<LogRecord, E>,
  from: From,
  every: Duration.Input = "100 millis"
): Stream.Stream<LogRecord, E> =>
  Stream.suspend(() => {
    let at = from
    const round = Stream.suspend(() =>
      Stream.mapArray(streamFrom(at), (records) => {
        const { len, offset, segment } = records[records.length - 1] as LogRecord
        at = { segment, offset: offset + len }
        return records
      })
    )
    return Stream.repeat(round, Schedule.spaced(Duration.fromInputUnsafe(every)))
  })

// A txid that is still to come is not found by the first rounds.
const startAt = <E>(from: From, records: Stream.Stream<LogRecord, E>): Stream.Stream<LogRecord, E> =>
  "segment" in from ? records : Stream.dropWhile(records, (record) => !(record.txid >= from.txid))
