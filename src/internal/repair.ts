/**
 * Opening for write: read what no saved index covers, decide by the policy, and cut what may be cut.
 *
 * The order of a cut is what makes it safe: the bytes are copied, the copy and its name are made durable, and only
 * then is the segment truncated and made durable. A crash at any point leaves either the whole tail or the whole
 * copy, and the next open starts over. Nothing is appended before the cut is durable: a record behind a torn tail
 * would be lost with it.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as NodePath from "node:path"
import * as Disk from "../Disk.ts"
import { type CorruptSegment, type CorruptTail, IoError } from "../Errors.ts"
import type { Lock, Unsynced } from "../Lock.ts"
import * as Recovery from "../Recovery.ts"
import { replaceOwn } from "./beside.ts"
import { count, type Counted, type Jump } from "./counted.ts"
import { createSegment } from "./createSegment.ts"
import { type Damage, isZeros } from "./damage.ts"
import type { Frames } from "./frames.ts"

/** What a writer does with damage: cut a torn tail, refuse any, or cut what the active segment ends in as well. */
export type Policy = "repair" | "strict" | "prefix"

/** The beginning of a log: its segments to the end of some record, the records in them and the last one's txid. */
export interface Covered {
  readonly segments: ReadonlyArray<{ readonly id: number; readonly bytes: number }>
  readonly records: number
  readonly txid: number
}

/** How an index that was saved goes on: opening reads only what came after it. */
export interface Resume {
  /**
   * Asked with the lock held, and with the directory's own path (see `LogService.directory`): what the index covers, or
   * `undefined` when it is of no use. The answer is trusted to be about these very files, whose covered part is not
   * read.
   */
  readonly from: (directory: string) => Effect.Effect<Covered | undefined>
  /**
   * Called when what follows is damaged or does not fit: then the index is given every record from the first on, as if
   * nothing had been saved. No byte is ever cut on the word of a saved index.
   */
  readonly forget: () => void
}

interface Options {
  readonly lock: Lock
  readonly policy: Policy
  readonly chunkSize: number
  readonly fold: ((frames: Frames) => void) | undefined
  readonly resume: Resume | undefined
}

/** What opening found. `segments` are ids and the bytes of whole frames in each. */
export interface Recovered {
  readonly report: Recovery.RecoveryReport
  readonly segments: ReadonlyArray<{ readonly id: number; readonly bytes: number }>
  /** In what was read. */
  readonly jumps: ReadonlyArray<Jump>
}

export const recover = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string,
  options: Options
): Effect.fn.Return<Recovered, IoError | CorruptTail | CorruptSegment> {
  let ids = yield* Recovery.listSegments(directory)
  if (ids.length === 0) {
    yield* Disk.syncAncestors(disk, directory)
    ids = [
      yield* Effect.uninterruptible(
        Effect.flatMap(createSegment(disk, directory, 1), ({ file, id }) => Effect.as(file.close, id))
      )
    ]
    // A crashed writer may have created it: its name is durable before anything is written to it.
  } else yield* disk.syncDirectory(directory)
  const { bytes, counted, damage } = yield* readRecords(directory, ids, options)
  if (damage !== undefined && !mayCut(options.policy, damage, ids.at(-1))) {
    return yield* Recovery.damageError(directory, damage)
  }
  const tornFile = damage === undefined ? undefined : yield* cut(disk, directory, damage, options.lock)
  const segments = ids.map((id) => ({ id, bytes: bytes.get(id) ?? 0 }))
  if (options.lock.unsynced !== undefined) {
    yield* makeDurable(disk, directory, options.lock, options.lock.unsynced, segments)
  }
  return { report: Recovery.makeReport(ids.length, counted, damage, tornFile), segments, jumps: counted.jumps }
})

interface Read {
  readonly counted: Counted
  /** Of whole frames, by segment. */
  readonly bytes: Map<number, number>
  readonly damage: Damage | undefined
}

/** Reads from where a saved index ends, or, when there is none or what follows it is damaged, from the first record. */
const readRecords = Effect.fnUntraced(function*(
  directory: string,
  ids: ReadonlyArray<number>,
  { chunkSize, fold, resume }: Pick<Options, "chunkSize" | "fold" | "resume">
): Effect.fn.Return<Read, IoError> {
  const covered = resume === undefined ? undefined : yield* resume.from(directory)
  const last = covered === undefined ? undefined : yield* endOf(directory, covered, ids)
  const readFrom = (covered: Covered | undefined, from: Recovery.Position | undefined) => {
    const counted: Counted = { records: covered?.records ?? 0, txid: covered?.txid ?? 0, jumps: [] }
    const bytes = new Map(covered?.segments.map(({ bytes, id }) => [id, bytes]))
    const chunks = Recovery.chunks(directory, { segments: ids, from, chunkSize })
    return Stream.runForEach(chunks, (frames) =>
      Effect.sync(() => {
        count(counted, frames)
        bytes.set(frames.segment, frames.base + frames.length)
        fold?.(frames)
      })).pipe(
        Effect.as<Read>({ counted, bytes, damage: undefined }),
        Effect.catchTag("Damage", (damage) => Effect.succeed<Read>({ counted, bytes, damage }))
      )
  }
  if (last !== undefined) {
    const read = yield* readFrom(covered, { segment: last.id, offset: last.bytes })
    if (read.damage === undefined) return read
  }
  if (covered !== undefined) resume?.forget()
  return yield* readFrom(undefined, undefined)
})

/** The last covered segment, if the covered ones are the directory's first, and it is long enough. */
const endOf = Effect.fnUntraced(function*(
  directory: string,
  covered: Covered,
  ids: ReadonlyArray<number>
): Effect.fn.Return<Covered["segments"][number] | undefined, IoError> {
  const last = covered.segments.at(-1)
  if (last === undefined || !covered.segments.every(({ id }, index) => ids[index] === id)) return undefined
  const size = yield* Recovery.segmentSize(directory, last.id)
  return size < last.bytes ? undefined : last
})

/**
 * Makes durable what an earlier writer left open. The system may have marked pages clean that it could not write, so
 * that every later fsync would report success and the next loss of power take them. Only while they are in its memory
 * can that be mended; after a restart they are what the disk has, and this changes nothing.
 *
 * Where no failure was seen, writing them over themselves is enough: it makes them dirty again. Behind an fsync that
 * failed it is not. ext4 then writes to blocks that it still counts as never written, says that all is well, and gives
 * zeros for them after a restart; only new blocks mend that, so the segment is written into a new file.
 */
const makeDurable = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string,
  lock: Lock,
  from: Unsynced,
  segments: Recovered["segments"]
): Effect.fn.Return<void, IoError> {
  for (const { bytes, id } of segments.filter(({ id }) => id >= from.segment)) {
    const start = id === from.segment ? from.offset : 0
    if (start >= bytes) continue
    const path = Recovery.segmentPath(directory, id)
    yield* from.failed === true
      ? writeAnew(disk, path, bytes)
      : Effect.tapError(writeOver(disk, path, start, bytes), noteFailedSync(lock, from))
  }
  yield* lock.noteUnsynced(undefined)
}, Effect.uninterruptible)

/** Whoever opens the store after an fsync that failed must know of it: the system tells only once. */
const noteFailedSync = (lock: Lock, from: Recovery.Position) => (error: IoError): Effect.Effect<void> =>
  error.operation === "sync" ? Effect.ignore(lock.noteUnsynced({ ...from, failed: true })) : Effect.void

const writeOver = (
  disk: Disk.DiskService,
  path: string,
  start: number,
  end: number
): Effect.Effect<void, IoError> =>
  Effect.acquireUseRelease(
    disk.open(path, "update"),
    (file) =>
      Effect.andThen(
        forEachChunk(file, start, end, (chunk, count, at) => Disk.overwriteFully(file, chunk, 0, count, at)),
        Effect.asVoid(file.sync)
      ),
    (file) => file.close
  )

const writeAnew = (disk: Disk.DiskService, path: string, bytes: number): Effect.Effect<void, IoError> =>
  Effect.acquireUseRelease(
    disk.open(path, "read"),
    (source) => replaceOwn(disk, path, (target) => copy(source, 0, bytes, target)),
    (source) => source.close
  )

// A corrupt segment's unknown version is a newer program's. A corrupt tail's is 0, which no program writes.
const mayCut = (policy: Policy, { reason, segment, verdict }: Damage, active: number | undefined): boolean =>
  verdict === "Torn"
    ? policy !== "strict"
    : policy === "prefix" && segment === active && !(verdict === "CorruptSegment" && reason === "UnknownVersion")

/**
 * Cuts the active segment at the damage; the path of the copy, or `undefined` when all of it was zeros. A tail can be
 * long: only while it is looked through or copied can this be interrupted, and then nothing has changed.
 */
const cut = (
  disk: Disk.DiskService,
  directory: string,
  damage: Damage,
  lock: Lock
): Effect.Effect<string | undefined, IoError> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.acquireUseRelease(
      disk.open(Recovery.segmentPath(directory, damage.segment), "append"),
      Effect.fnUntraced(function*(segment) {
        const end = damage.offset + damage.bytes
        const unsave = (copy: string) =>
          Effect.ignore(Effect.flatMap(segment.size, (size) => size < end ? Effect.void : disk.remove(copy)))
        const saved = (yield* restore(isZeros(segment, damage.offset, end)))
          ? undefined
          : yield* quarantine(disk, directory, damage, (target) => restore(copy(segment, damage.offset, end, target)))
        // Else each try would leave one more: a disk that refuses this may go on doing so.
        yield* Effect.tapError(segment.truncate(damage.offset), () => saved === undefined ? Effect.void : unsave(saved))
        yield* segment.sync
        return saved
      }),
      (segment) => segment.close
    ).pipe(Effect.tapError(noteFailedSync(lock, { segment: damage.segment, offset: 0 })))
  )

const quarantine = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string,
  damage: Damage,
  copyTo: (target: Disk.DiskFile) => Effect.Effect<void, IoError>
): Effect.fn.Return<string, IoError> {
  const name = `${String(damage.segment).padStart(8, "0")}-${damage.offset}`
  const taken = new Set((yield* disk.list(directory)).map((entry) => entry.name))
  let path = `${name}.torn`
  for (let cut = 2; taken.has(path); cut++) path = `${name}-${cut}.torn`
  path = NodePath.join(directory, path)
  yield* Effect.acquireUseRelease(
    disk.open(path, "create"),
    (target) =>
      copyTo(target).pipe(
        Effect.andThen(target.sync),
        Effect.andThen(disk.syncDirectory(directory)),
        // It is of no use to anyone, the tail is still where it was, and each try would leave one more.
        Effect.onError(() => Effect.ignore(disk.remove(path)))
      ),
    (target) => target.close
  )
  return path
})

/** Appends `from[start, end)` to another file. */
const copy = (from: Disk.DiskFile, start: number, end: number, to: Disk.DiskFile): Effect.Effect<void, IoError> =>
  forEachChunk(from, start, end, (chunk, count) => Disk.appendFully(to, chunk, 0, count))

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
    if (count === 0) return yield* new IoError({ operation: "read", path: file.path, code: "EIO" })
    yield* use(chunk, count, at)
    at += count
  }
})
