/** Opening a store: the log, the index of it, and what becomes of both for users and for this library. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Latch from "effect/Latch"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Disk from "../Disk.ts"
import { type IoError, LimitExceeded } from "../Errors.ts"
import type { FromLogError, KvRead, KvService, OpenError, Options, Range, ReaderError, ReaderOptions } from "../Kv.ts"
import type * as Log from "../Log.ts"
import type { RecoveryReport } from "../Recovery.ts"
import { byteLength, type Bytes, ownBytes, toBytes } from "./bytes.ts"
import { load as loadCheckpoint } from "./checkpoint.ts"
import { keepCheckpoint, type Written } from "./checkpointing.ts"
import { closedError } from "./closed.ts"
import { closeOnFailure } from "./closeOnFailure.ts"
import { compact } from "./compaction.ts"
import { recordLimit, repeatable, toEntry } from "./entries.ts"
import { follow, projectionOfLog } from "./following.ts"
import { keyBytesOf } from "./frames.ts"
import type { Gathered } from "./gather.ts"
import { KeydirFull } from "./keydir.ts"
import { type KvParts, registerKv, registerRead, wholly } from "./kvParts.ts"
import { type LogParts, logParts as partsOf } from "./logParts.ts"
import { openLog } from "./openLog.ts"
import { openReader } from "./openReader.ts"
import { cacheSizeError, kvOptionsError } from "./options.ts"
import {
  entriesIn,
  framesOf,
  located,
  Projection,
  projectionOf,
  type Source,
  valueAt,
  valueOf,
  valuesOf
} from "./projection.ts"
import type { Resume } from "./repair.ts"

const makeRead = (
  source: Source,
  report: RecoveryReport,
  projection: Projection,
  segments: Effect.Effect<number>,
  closed: () => IoError | undefined
) => {
  const whileOpen = <A, E>(read: () => Effect.Effect<A, E>): Effect.Effect<A, E | IoError> =>
    Effect.suspend((): Effect.Effect<A, E | IoError> => {
      const error = closed()
      return error === undefined ? read() : Effect.fail(error)
    })
  const get = (key: Bytes) => whileOpen(() => valueOf(source, projection, toBytes(key)))
  const walkOf = ({ from, ordered = false, prefix, to }: Range = {}) => ({
    ordered,
    range: { prefix: optionalBytes(prefix), from: optionalBytes(from), to: optionalBytes(to) }
  })
  const { disk } = source
  const gathered = (range: Range | undefined, all: boolean): Gathered => {
    const error = closed()
    return error === undefined
      ? framesOf(source, projection.snapshot(), { ...walkOf(range), all })
      : Effect.fail(error)
  }
  const frames = Effect.sync(() => gathered({ ordered: true }, true))
  const read: KvRead = {
    directory: source.directory,
    report,
    get,
    getMany: (keys) => {
      const all = repeatable(keys)
      return whileOpen(() => valuesOf(source, projection, Array.from(all)))
    },
    has: (key) => Effect.sync(() => projection.has(toBytes(key))),
    refOf: (key) => Effect.sync(() => projection.placeOf(toBytes(key))),
    size: Effect.sync(() => projection.size),
    isEmpty: Effect.sync(() => projection.size === 0),
    keys: (range) =>
      Stream.suspend(() => Stream.map(located(projection.snapshot(), walkOf(range)), (place) => place.key)),
    entries: (range) => Stream.suspend(() => entriesIn(gathered(range, false))),
    compactTo: (directory, options) =>
      Effect.provideService(compact(directory, source.directory, frames, options?.onProgress), Disk.Disk, disk),
    statistics: Effect.map(segments, (segments) => {
      const { bytes, liveBytes, records } = projection.counts
      return { keys: projection.size, records, liveBytes, deadBytes: bytes - liveBytes, segments }
    })
  }
  return { read, parts: { disk, frames } }
}

const optionalBytes = (bytes: Bytes | undefined): Uint8Array | undefined =>
  bytes === undefined ? undefined : ownBytes(toBytes(bytes))

// Asked before anything is written: a record whose key found no room would be in the log and not in the index.
const noRoom = (projection: Projection, keys: number, bytes: number): LimitExceeded | undefined =>
  projection.hasRoom(keys, bytes)
    ? undefined
    : new LimitExceeded({ limit: "keys", actual: projection.size + keys, maximum: projection.size })

/** What a log holds must find room, too, though others have filled it: where it does not, that is no defect. */
const orFull = Effect.catchDefect((defect) =>
  defect instanceof KeydirFull
    ? Effect.fail(new LimitExceeded({ limit: "keys", actual: defect.keys + 1, maximum: defect.keys }))
    : Effect.die(defect)
)

const noRoomForKey = (projection: Projection, key: Uint8Array): LimitExceeded | undefined =>
  projection.hasRoom(1, key.length) || projection.has(key) ? undefined : noRoom(projection, 1, key.length)

const waitsForItself = Effect.suspend(() =>
  Effect.die(new Error("a write in the Effect of a modifyEffect of the same store waits for itself"))
)

// Nobody waits for what will be refused: the turn can be another's for as long as it likes.
const takeTurns = ({ refusal, turn }: LogParts) =>
<A, E, R>(
  work: () => Effect.Effect<A, E, R>,
  limit?: LimitExceeded,
  otherwise?: Effect.Effect<A>
): Effect.Effect<A, E | Log.WriteError, R> => {
  const refused = refusal() ?? limit
  if (refused !== undefined) return Effect.fail(refused)
  const late = Effect.suspend((): Effect.Effect<A, E | Log.WriteError, R> => {
    const late = refusal()
    return late === undefined ? work() : Effect.fail(late)
  })
  const held = otherwise === undefined ? turn.hold(late) : turn.holdNow(late, otherwise)
  return Effect.withFiber((fiber) => turn.isHeldBy(fiber) ? waitsForItself : held)
}

/** For an import. */
const makeParts = (
  { settled, writeAll, writeFrames }: LogParts,
  projection: Projection,
  inTurn: ReturnType<typeof takeTurns>
): Pick<KvParts, "putFrames" | "putPair"> => {
  const put = (
    full: () => LimitExceeded | undefined,
    write: Effect.Effect<unknown, Log.WriteError>,
    done: () => void,
    otherwise?: Effect.Effect<void>
  ) => {
    const stored = (): Effect.Effect<void, Log.WriteError> => {
      const limit = full()
      return limit === undefined ? wholly(write, done) : Effect.fail(limit)
    }
    return settled(Effect.suspend(() => inTurn(stored, undefined, otherwise)))
  }
  return {
    putFrames: (frames, onWritten, otherwise) => {
      const full = () => noRoom(projection, frames.to - frames.from, keyBytesOf(frames))
      return put(full, writeFrames(frames), onWritten, otherwise)
    },
    putPair: (key, payload, onWritten) =>
      put(() => noRoomForKey(projection, key), writeAll([{ type: "Put", key, payload }]), onWritten)
  }
}

const makeModify = (
  { settled, write, writeAll }: LogParts,
  source: Source,
  projection: Projection,
  inTurn: ReturnType<typeof takeTurns>
): KvService["modifyEffect"] => {
  const setOrDelete = (key: Uint8Array, value: Bytes | undefined): Effect.Effect<unknown, Log.WriteError> => {
    if (value === undefined) return write({ type: "Delete", key })
    const full = noRoomForKey(projection, key)
    return full === undefined ? write({ type: "Put", key, payload: value }) : Effect.fail(full)
  }
  return (key, f) =>
    settled(Effect.suspend(() => {
      // The caller may use its memory again before the value has been read.
      const own = ownBytes(toBytes(key))
      return inTurn(() => {
        const place = projection.placeOf(own)
        // Of that very record: what is put into the log itself does not wait for the turn.
        const read = () => place === undefined ? Effect.succeed(undefined) : valueAt(source, own, place)
        return Effect.flatMap(read(), (current) =>
          Effect.flatMap(anEffect(f(current)), ([answer, value]) => {
            const written = Effect.flatMap(
              // `f` may have changed the bytes that it was given.
              value === current ? Effect.map(Effect.suspend(read), isSame(current)) : Effect.succeed(false),
              // Also what another has written is to be durable with it.
              (isUnchanged) => isUnchanged ? writeAll([]) : setOrDelete(own, value)
            )
            return Effect.as(written, answer)
          }))
      })
    }))
}

const isSame = (a: Uint8Array | undefined) => (b: Uint8Array | undefined): boolean =>
  a === undefined || b === undefined ? a === b : Buffer.compare(a, b) === 0

/** A record that is told by its type. */
type KeyRecord = Exclude<Log.RecordInput, Bytes>

const makeWrite = (
  log: Log.LogService,
  logParts: LogParts,
  projection: Projection,
  closed: () => IoError | undefined
): KvService => {
  const { appendNow, disk, files, settled, turn, write: writeNext, writeAll } = logParts
  const source = { directory: log.directory, disk, files, read: log.read }
  const segments = Effect.map(log.segments, ({ length }) => length)
  const { parts, read } = makeRead(source, log.report, projection, segments, closed)
  const inTurn = takeTurns(logParts)
  // Others may have written while it waited for its turn.
  const writeInTurn = (record: KeyRecord): Effect.Effect<Log.RecordRef, Log.WriteError> =>
    inTurn(() => {
      const full = record.type === "Put" ? noRoomForKey(projection, toBytes(record.key)) : undefined
      return full === undefined ? writeNext(record) : Effect.fail(full)
    }, recordLimit(toEntry(record)))
  const write = (record: KeyRecord) => (turn.isHeld ? undefined : appendNow(record)) ?? writeInTurn(record)
  const modifyEffect = makeModify(logParts, source, projection, inTurn)
  const kv: KvService = {
    ...read,
    put: (key, value) =>
      settled(Effect.suspend(() => {
        const bytes = toBytes(key)
        const full = noRoomForKey(projection, bytes)
        return full === undefined ? write({ type: "Put", key: bytes, payload: value }) : Effect.fail(full)
      })),
    putMany: (entries) => {
      const all = repeatable(entries)
      return settled(Effect.suspend(() => {
        const records = Array.from(all, putOf)
        const bytes = records.reduce((bytes, { key }) => bytes + byteLength(key), 0)
        return inTurn(() => {
          const full = noRoom(projection, records.length, bytes)
          return full === undefined ? writeAll(records) : Effect.fail(full)
        })
      }))
    },
    deleteMany: (keys) => {
      const all = repeatable(keys)
      return settled(Effect.suspend(() => {
        const records = Array.from(all, deleteOf)
        return inTurn(() => writeAll(records))
      }))
    },
    delete: (key) => settled(Effect.suspend(() => write({ type: "Delete", key }))),
    modify: (key, f) => modifyEffect(key, (current) => Effect.sync(() => f(current))),
    modifyEffect,
    sync: log.sync
  }
  return registerKv(kv, { ...parts, ...makeParts(logParts, projection, inTurn) })
}

const putOf = ([key, payload]: readonly [Bytes, Bytes]) => ({ type: "Put", key, payload }) as const
const deleteOf = (key: Bytes) => ({ type: "Delete", key }) as const

/** What is none would end the fiber without its finalizers, and the turn would be held for ever. */
const anEffect = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
  if (Effect.isEffect(effect)) return effect
  throw new TypeError("what is given to modifyEffect returns an Effect")
}

interface OpenKv {
  readonly kv: KvService
  readonly log: Log.LogService
}

/** Opens a store with a log of its own until the scope closes. */
export const openKv = (options: Options): Effect.Effect<OpenKv, OpenError, Scope.Scope> =>
  closeOnFailure(orFull(open(options)))

const open = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<OpenKv, Log.OpenError, Scope.Scope> {
  const invalid = kvOptionsError(options)
  if (invalid !== undefined) return yield* invalid
  const { cacheSize, checkpoint: policy = "auto", ...logOptions } = options
  const disk = yield* Disk.Disk
  // First, so that it is open until its last checkpoint is written: what is put meanwhile is in that.
  const closed = yield* untilScopeCloses
  let projection = new Projection()
  let covered = { records: 0, bytes: 0 }
  const resume: Resume = {
    from: (directory) =>
      Effect.map(loadCheckpoint(disk, directory), (checkpoint) => {
        if (checkpoint !== undefined) projection = projectionOf(checkpoint)
        covered = projection.counts
        return checkpoint?.covered
      }),
    forget: () => {
      projection = new Projection()
      covered = projection.counts
    }
  }
  const { lock, log, parts } = yield* openLog(logOptions, {
    fold: (frames) => projection.fold(frames),
    resume: policy === "never" ? undefined : resume,
    cacheSize
  })
  let before = (_: Written): void => {}
  // In a scope that never closes: as long as the log takes writes, also while it closes, its index is what is read.
  yield* Scope.provide(follow(parts, projection, (first) => before(first)), Scope.makeUnsafe())
  before = yield* keepCheckpoint({ disk, lock, log }, projection, { policy, covered })
  return { kv: makeWrite(log, parts, projection, () => closed("read", log.directory)), log }
})

/** A store over a log that is open. */
export const kvOverLog = (
  log: Log.LogService
): Effect.Effect<KvService, FromLogError, Scope.Scope> =>
  closeOnFailure(Effect.gen(function*() {
    const parts = yield* partsOf(log)
    const projection = yield* orFull(projectionOfLog(log, parts))
    // Before the index stops following, and before that, in this order: nothing more begins, and what has begun ends.
    const underWay = yield* endedAtClose
    const closed = yield* untilScopeCloses
    const because = (operation: string) => () => closed(operation, log.directory)
    return makeWrite(log, untilClosed(parts, because("write"), underWay), projection, because("read"))
  }))

/** Says why nothing is answered, once all that the scope got after this has been let go of. */
const untilScopeCloses = Effect.gen(function*() {
  let isClosed = false
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      isClosed = true
    })
  )
  return (operation: string, directory: string) => isClosed ? closedError(operation, directory) : undefined
})

/** Has the scope wait for the end of the write that is under way when it closes: one at most, for it has the turn. */
const endedAtClose = Effect.gen(function*() {
  const ended = Latch.makeUnsafe(true)
  yield* Effect.addFinalizer(() => ended.await)
  return <A, E>(work: () => Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.suspend(() => {
        ended.closeUnsafe()
        return Effect.ensuring(restore(Effect.suspend(work)), ended.open)
      })
    )
})

/** The parts of a log for a store that can close before it: from then on its index does not follow. */
const untilClosed = (
  parts: LogParts,
  closed: () => IoError | undefined,
  underWay: <A, E>(work: () => Effect.Effect<A, E>) => Effect.Effect<A, E>
): LogParts => {
  // Under way before it is looked whether it is open: between the two the scope can close.
  const whileOpen = <A>(write: () => Effect.Effect<A, Log.WriteError>): Effect.Effect<A, Log.WriteError> =>
    underWay(() => {
      const error = closed()
      return error === undefined ? write() : Effect.fail(error)
    })
  return {
    ...parts,
    refusal: () => closed() ?? parts.refusal(),
    appendNow: (record) => {
      const error = closed()
      return error === undefined ? parts.appendNow(record) : Exit.fail(error)
    },
    write: (record) => whileOpen(() => parts.write(record)),
    writeAll: (records) => whileOpen(() => parts.writeAll(records)),
    writeFrames: (frames) => whileOpen(() => parts.writeFrames(frames))
  }
}

/** A store that is only read, as it is now. */
export const openKvReader = (
  options: ReaderOptions
): Effect.Effect<KvRead, ReaderError, Scope.Scope> =>
  closeOnFailure(Effect.gen(function*() {
    const { cacheSize, ...readerOptions } = options
    const invalid = cacheSizeError(options)
    if (invalid !== undefined) return yield* invalid
    const { disk, files, fold, reader } = yield* openReader(readerOptions, cacheSize)
    const projection = new Projection()
    const report = yield* orFull(fold((frames) => projection.fold(frames)))
    const source = { directory: reader.directory, disk, files, read: reader.read }
    const closed = yield* untilScopeCloses
    const { parts, read } = makeRead(
      source,
      report,
      projection,
      Effect.succeed(report.files_scanned),
      () => closed("read", reader.directory)
    )
    return registerRead(read, parts)
  }))
