/** Opening a log for write: the lock, recovery, the writer, and what they become for users and for this library. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type * as Scope from "effect/Scope"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import * as Disk from "../Disk.ts"
import { type CorruptSegment, type InvalidPosition, IoError } from "../Errors.ts"
import type * as Frame from "../Frame.ts"
import * as Lock from "../Lock.ts"
import type { Appended, LogService, OpenError, Options, RecordInput } from "../Log.ts"
import * as Recovery from "../Recovery.ts"
import { plainBytes, unshared } from "./bytes.ts"
import { closedError } from "./closed.ts"
import { closeOnFailure } from "./closeOnFailure.ts"
import { warnOfJumps } from "./counted.ts"
import { type Damage, isDamage } from "./damage.ts"
import { entriesInTurns, entriesOf, repeatable, toEntry } from "./entries.ts"
import { type Frames, recordsOf } from "./frames.ts"
import { Gate } from "./gate.ts"
import { atHome, withinHome } from "./home.ts"
import { type LogParts, registerLog } from "./logParts.ts"
import { logOptionsError } from "./options.ts"
import { framesFrom, type From, invalidPosition, readRef } from "./reading.ts"
import { recover, type Resume } from "./repair.ts"
import { SegmentFiles } from "./segmentFiles.ts"
import { ofStore } from "./storeLogs.ts"
import { tailOfLog } from "./tail.ts"
import { piece_records_max, type RecordRef, Writer } from "./writer.ts"

export const segment_bytes_default = 67_108_864

interface OpenLog {
  readonly log: LogService
  readonly lock: Lock.Lock
  readonly parts: LogParts
}

/** What is given every frame while the log is opened, or every one behind what it has saved; and what it reads by. */
interface Index {
  readonly fold: ((frames: Frames) => void) | undefined
  /** Policy `repair` only. */
  readonly resume?: Resume | undefined
  /** Bytes. */
  readonly cacheSize?: number | undefined
}

/** Opens it until the scope closes. */
export const openLog = (
  options: Options,
  index: Index = { fold: foldOf(options) }
): Effect.Effect<OpenLog, OpenError, Scope.Scope> =>
  Effect.withSpan(closeOnFailure(open(options, index)), "Log.open", {
    attributes: { directory: options.directory },
    captureStackTrace: false
  })

const open = Effect.fnUntraced(function*(
  options: Options,
  { cacheSize, fold, resume }: Index
): Effect.fn.Return<OpenLog, OpenError, Scope.Scope> {
  const invalid = logOptionsError(options)
  if (invalid !== undefined) return yield* invalid
  const { durability = "manual" } = options
  const chunkSize = options.chunkSize ?? Recovery.chunk_bytes_default
  const disk = yield* Disk.Disk
  if (options.createIfMissing === false) yield* requireSegments(options.directory)
  const lock = yield* Lock.acquire(options.directory, { wait: options.waitForLock })
  // From here on it is this directory, wherever the process goes and links lead.
  const { directory } = lock
  const policy = options.policy ?? "repair"
  // Recovery can take a while: another store that is put there meanwhile is neither read, cut nor written to.
  const home = yield* withinHome(disk, directory, lock)
  yield* atHome(lock, "open", directory)
  const recovery = recover(home, directory, {
    lock,
    policy,
    chunkSize,
    fold,
    // The other policies are there for damage: whoever asks for them wants everything looked at.
    resume: policy === "repair" ? resume : undefined
  })
  const { jumps, report, segments } = yield* Effect.provideService(recovery, Disk.Disk, home)
  yield* logCut(directory, report)
  yield* warnOfJumps(directory, jumps)
  const files = new SegmentFiles(home, directory, cacheSize)
  yield* Effect.addFinalizer(() => files.closeAll)
  const activeId = segments.at(-1)?.id ?? 1
  const active = yield* Effect.uninterruptible(
    Effect.tap(home.open(Recovery.segmentPath(directory, activeId), "append"), (file) => files.adopt(activeId, file))
  )
  const writer = new Writer({
    disk,
    directory,
    files,
    active,
    segments,
    txid: report.last_txid_seen,
    segmentSize: options.segmentSize ?? segment_bytes_default,
    lock
  })
  const closed = Latch.makeUnsafe()
  yield* Effect.addFinalizer(() => closed.open)
  yield* Effect.addFinalizer(() => writer.close)
  if (durability !== "manual" && durability !== "always") {
    yield* Effect.forkScoped(syncEvery(directory, writer, Duration.fromInputUnsafe(durability)))
  }
  const parts = makeParts(disk, files, writer, durability === "always")
  yield* Effect.addFinalizer(() => Effect.sync(() => parts.turn.refuse(closedError("write", directory))))
  const log = makeService({ directory, home, chunkSize, report, files, writer, parts, closed })
  registerLog(log, parts)
  return { log, parts, lock }
})

const requireSegments = (directory: string): Effect.Effect<void, IoError> =>
  Effect.flatMap(Recovery.listSegments(directory), (ids) =>
    ids.length > 0 ? Effect.void : Effect.fail(
      new IoError({ operation: "open", path: directory, code: "ENOENT", cause: "it holds no segments" })
    ))

// The report says so, too. It is no warning: after a crash a torn tail is what there should be.
const logCut = (directory: string, report: Recovery.RecoveryReport): Effect.Effect<void> => {
  const { tail_bytes_discarded: bytes, tail_offset: offset, tail_segment: segment, tail_truncated, torn_file } = report
  if (tail_truncated === 0) return Effect.void
  const copy = torn_file === undefined ? "they were all zeros" : `a copy is in ${torn_file}`
  return ofStore(
    directory,
    Effect.logDebug(`a torn tail of ${bytes} bytes was cut off segment ${segment} at offset ${offset}; ${copy}`)
  )
}

const foldOf = ({ replay }: Options): ((frames: Frames) => void) | undefined =>
  replay === undefined ? undefined : (frames) => replay(recordsOf(frames))

const syncEvery = (directory: string, writer: Writer, interval: Duration.Duration): Effect.Effect<void> =>
  Effect.sleep(interval).pipe(
    Effect.andThen(writer.sync),
    Effect.forever,
    Effect.catch((error) =>
      ofStore(directory, Effect.logWarning("the log is no longer synced in the background", error))
    )
  )

const makeParts = (disk: Disk.DiskService, files: SegmentFiles, writer: Writer, settles: boolean): LogParts => ({
  disk,
  files,
  appendNow: (record) => writer.appendNow(toEntry(record)),
  write: (record) => Effect.suspend(() => writer.append(toEntry(record))),
  writeAll: (records) => {
    const all = repeatable(records)
    return Effect.suspend(() => {
      const given: ReadonlyArray<RecordInput> = Array.isArray(all) ? all : Array.from(all)
      if (given.length <= piece_records_max) return writer.appendAll(entriesOf(given))
      // The caller may use its list again as soon as the call has been made.
      return writer.appendMade(entriesInTurns(disk, given.slice()))
    })
  },
  writeFrames: writer.appendFrames,
  settled: settles ? (write) => Effect.flatMap(write, (value) => Effect.as(writer.sync, value)) : (write) => write,
  turn: new Gate(),
  refusal: () => writer.refusal,
  observe: (observer) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        writer.observers.add(observer)
        return { segment: writer.end.segment, offset: writer.end.offset }
      }),
      () => Effect.sync(() => writer.observers.remove(observer))
    )
})

const makeService = ({ chunkSize, closed, directory, files, home, parts, report, writer }: {
  readonly directory: string
  readonly home: Disk.DiskService
  readonly chunkSize: number
  readonly report: Recovery.RecoveryReport
  readonly files: SegmentFiles
  readonly writer: Writer
  readonly parts: LogParts
  readonly closed: Latch.Latch
}): LogService => {
  const { observe, settled, write, writeAll } = parts
  const appendAll = (records: Iterable<RecordInput>) => settled(writeAll(records))
  // What is there now: whole frames, all of them, so whatever is not a frame is damage.
  const bounds = (to: Recovery.Position = writer.end) => ({
    segments: writer.segments.map(({ id }) => id),
    to,
    chunkSize
  })
  const sound = soundIn(directory, home)
  const whileOpen = <A, E>(records: () => Stream.Stream<A, E>): Stream.Stream<A, E | IoError> =>
    Stream.suspend((): Stream.Stream<A, E | IoError> =>
      writer.isClosed ? Stream.fail(closedError("read", directory)) : records()
    )
  const read = (from: From, to?: Recovery.Position) => sound(framesFrom(directory, from, bounds(to)))
  return {
    directory,
    report,
    append: (payload) => settled(write({ type: "Raw", payload })),
    appendRecord: (record) => settled(write(record)),
    appendAll,
    sink: Sink.reduceWhileArrayEffect(
      (): Appended => ({ records: 0, bytes: 0, last: undefined }),
      () => true,
      (sum, records: ReadonlyArray<RecordInput>) => Effect.map(appendAll(records), (refs) => addAppended(sum, refs))
    ),
    observe: (observer) =>
      observe({
        record: ({ key, payload, type }, ref) =>
          observer({
            ...ref,
            type,
            key: unshared(plainBytes(key)),
            payload: unshared(plainBytes(payload)),
            keyLength: key.length,
            payloadLength: payload.length
          }),
        frames: (frames) => {
          for (const record of recordsOf(frames)) observer(record)
        }
      }),
    sync: writer.sync,
    rotate: writer.rotate,
    stream: whileOpen(() => sound(Recovery.frames(directory, bounds()))),
    streamFrom: (from) => whileOpen(() => read(from)),
    follow: (from) => whileOpen(() => tailOfLog({ end: () => writer.end, read, observe, closed }, from)),
    read: (ref) =>
      Effect.suspend(() =>
        writer.holds(ref)
          ? readRef(home, directory, files, ref, chunkSize)
          : Effect.fail(invalidPosition(directory, ref))
      ),
    end: Effect.sync(() => writer.end),
    segments: Effect.sync(() => {
      const { segment } = writer.end
      return writer.segments.map(({ bytes, id }) => ({ id, bytes, active: id === segment }))
    }),
    refusal: Effect.sync(() => writer.refusal)
  }
}

/** What is read of a log up to its end: damage there is no torn tail. */
const soundIn = (directory: string, disk: Disk.DiskService) =>
<E extends IoError | InvalidPosition>(
  records: Stream.Stream<Frame.LogRecord, E | Damage>
): Stream.Stream<Frame.LogRecord, E | CorruptSegment> =>
  records.pipe(
    Stream.catchIf(isDamage, (damage) => Stream.fail(Recovery.segmentError(directory, damage))),
    Stream.provideService(Disk.Disk, disk)
  )

const addAppended = (sum: Appended, refs: ReadonlyArray<RecordRef>): Appended => ({
  records: sum.records + refs.length,
  bytes: refs.reduce((bytes, ref) => bytes + ref.len, sum.bytes),
  last: refs.at(-1) ?? sum.last
})
