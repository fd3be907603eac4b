/**
 * Opening for write: read everything, decide by the policy, and cut what may be cut.
 *
 * The order of a cut is what makes it safe: the bytes are copied, the copy and its name are made durable, and only
 * then is the segment truncated and made durable. A crash at any point leaves either the whole tail or the whole
 * copy, and the next open starts over. Nothing is appended before the cut is durable: a record behind a torn tail
 * would be lost with it.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import * as NodePath from "node:path"
import * as Disk from "../Disk.ts"
import { type CorruptSegment, type CorruptTail, IoError } from "../Errors.ts"
import type { LogRecord } from "../Frame.ts"
import type { Lock, Unsynced } from "../Lock.ts"
import * as Recovery from "../Recovery.ts"
import { type Damage, isZeros } from "./damage.ts"

/** What a writer does with damage: cut a torn tail, refuse any damage, or cut whatever the active segment ends in. */
export type Policy = "repair" | "strict" | "prefix"

/** What opening found. `segments` are ids and the bytes of whole frames in each. */
export interface Recovered {
  readonly report: Recovery.RecoveryReport
  readonly segments: ReadonlyArray<{ readonly id: number; readonly bytes: number }>
}

export const recover = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string,
  options: {
    readonly lock: Lock
    readonly policy: Policy
    readonly chunkSize: number
    readonly replay: ((records: ReadonlyArray<LogRecord>) => void) | undefined
  }
): Effect.fn.Return<Recovered, IoError | CorruptTail | CorruptSegment> {
  let ids = yield* Recovery.listSegments(directory)
  if (ids.length === 0) {
    // A crashed process may have made the directories and not come to this.
    yield* Disk.syncAncestors(disk, directory)
    const first = disk.open(Recovery.segmentPath(directory, 1), "create")
    yield* Effect.uninterruptible(Effect.flatMap(first, (file) => file.close))
    ids = [1]
  }
  // Also for a segment that a crashed writer created: its name is durable before anything is written to it.
  yield* disk.syncDirectory(directory)
  const counted = { records: 0, txid: 0 }
  const bytes = new Map<number, number>()
  const read = Stream.runForEachArray(
    Recovery.frames(directory, { segments: ids, chunkSize: options.chunkSize }),
    (records) =>
      Effect.sync(() => {
        count(counted, records)
        const last = records.at(-1)
        if (last !== undefined) bytes.set(last.segment, last.offset + last.len)
        options.replay?.(records)
      })
  )
  const outcome = yield* Effect.result(read)
  let torn: Damage | undefined
  let tornFile: string | undefined
  if (Result.isFailure(outcome)) {
    const failure = outcome.failure
    if (failure._tag === "IoError") return yield* failure
    if (!mayCut(options.policy, failure, ids.at(-1))) return yield* Recovery.damageError(directory, failure)
    torn = failure
    tornFile = yield* cut(disk, directory, failure)
  }
  const segments = ids.map((id) => ({ id, bytes: bytes.get(id) ?? 0 }))
  if (options.lock.unsynced !== undefined) {
    yield* rewriteUnsynced(disk, directory, options.lock.unsynced, segments)
    yield* options.lock.noteUnsynced(undefined)
  }
  return { report: Recovery.makeReport(ids.length, counted, torn, tornFile), segments }
})

/**
 * Writes over itself what stood unsynced when an fsync failed. The system may have marked those pages clean without
 * having written them, so that every later fsync would report success and the next loss of power take them. Only while
 * they are in its memory can that be mended; after a restart they are what the disk has, and this changes nothing.
 */
const rewriteUnsynced = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string,
  from: Unsynced,
  segments: Recovered["segments"]
): Effect.fn.Return<void, IoError> {
  for (const { bytes, id } of segments.filter(({ id }) => id >= from.segment)) {
    const start = id === from.segment ? from.offset : 0
    if (start >= bytes) continue
    yield* Effect.acquireUseRelease(
      disk.open(Recovery.segmentPath(directory, id), "update"),
      (file) =>
        Effect.andThen(
          forEachChunk(file, start, bytes, (chunk, count, at) => Disk.overwriteFully(file, chunk, 0, count, at)),
          file.sync
        ),
      (file) => file.close
    )
  }
})

/** Adds records to a report's count: how many, and the highest txid. */
export const count = (counted: { records: number; txid: number }, records: ReadonlyArray<LogRecord>): void => {
  counted.records += records.length
  for (const record of records) {
    if (record.txid > counted.txid) counted.txid = record.txid
  }
}

const mayCut = (policy: Policy, damage: Damage, active: number | undefined): boolean =>
  damage.verdict === "Torn"
    ? policy !== "strict"
    : policy === "prefix" && damage.segment === active && damage.reason !== "UnknownVersion"

/** Cuts the active segment at the damage; the path of the copy, or `undefined` when all of it was zeros. */
const cut = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string,
  damage: Damage
): Effect.fn.Return<string | undefined, IoError> {
  const path = Recovery.segmentPath(directory, damage.segment)
  return yield* Effect.acquireUseRelease(
    disk.open(path, "append"),
    Effect.fnUntraced(function*(segment) {
      const end = damage.offset + damage.bytes
      const copy = (yield* isZeros(segment, damage.offset, end))
        ? undefined
        : yield* quarantine(disk, directory, segment, damage, end)
      yield* segment.truncate(damage.offset)
      yield* segment.sync
      return copy
    }),
    (segment) => segment.close
  )
}, Effect.uninterruptible)

const quarantine = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string,
  segment: Disk.DiskFile,
  damage: Damage,
  end: number
): Effect.fn.Return<string, IoError> {
  const name = `${String(damage.segment).padStart(8, "0")}-${damage.offset}`
  const taken = new Set((yield* disk.list(directory)).map((entry) => entry.name))
  let path = `${name}.torn`
  for (let cut = 2; taken.has(path); cut++) path = `${name}-${cut}.torn`
  path = NodePath.join(directory, path)
  yield* Effect.acquireUseRelease(
    disk.open(path, "create"),
    (target) => {
      const copy = forEachChunk(
        segment,
        damage.offset,
        end,
        (chunk, count) => Disk.appendFully(target, chunk, 0, count)
      )
      return Effect.andThen(copy, target.sync).pipe(
        // An unfinished copy is of no use to anyone, and the tail is still where it was.
        Effect.onError(() => Effect.ignore(disk.remove(path)))
      )
    },
    (target) => target.close
  )
  yield* disk.syncDirectory(directory)
  return path
})

/** Gives `file[start, end)` to `use` in chunks: the buffer, how much of it counts, and where it stands in the file. */
const forEachChunk = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  start: number,
  end: number,
  use: (chunk: Uint8Array, count: number, at: number) => Effect.Effect<void, IoError>
): Effect.fn.Return<void, IoError> {
  const chunk = new Uint8Array(Math.min(Recovery.chunk_bytes_default, end - start))
  let at = start
  while (at < end) {
    const count = yield* Disk.readFully(file, chunk, 0, Math.min(chunk.length, end - at), at)
    if (count === 0) return yield* new IoError({ operation: "read", path: file.path, code: "EIO", cause: undefined })
    yield* use(chunk, count, at)
    at += count
  }
})
