/**
 * The one writer of a directory, behind `Log`: where the next record goes, and what is durable.
 *
 * - A small append is one synchronous step: encode, write, advance. No fiber can run in between, so it needs no lock,
 *   cannot be interrupted halfway, and every observer sees the records in the order of the file.
 * - Whatever takes longer (a large record, a rotation, a batch) holds the gate, is uninterruptible once it has it,
 *   and makes small appends wait for it.
 * - At most one fsync runs at a time, and all of them in `#rounds`. A caller waits for the first that starts after it
 *   came, so one fsync answers everyone who came during the one before: group commit.
 * - After the first failure nothing is written or synced again: what the kernel still holds of the failed bytes is
 *   unknown.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Disk from "../Disk.ts"
import { type IoError, LimitExceeded, WriterPoisoned } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import type { Lock } from "../Lock.ts"
import { type Position, segment_max } from "../Recovery.ts"
import { freshBytes } from "./bytes.ts"
import { closedError } from "./closed.ts"
import { assembledFrom_bytes } from "./crc32c.ts"
import { createSegment } from "./createSegment.ts"
import { type Entry, lengthOf, recordLimit, txidLimit } from "./entries.ts"
import { FrameBuffer } from "./frameBuffer.ts"
import type { Frames, PutFrames } from "./frames.ts"
import { Gate } from "./gate.ts"
import { atHome, syncInPlace } from "./home.ts"
import { Observers } from "./observers.ts"
import type { SegmentFiles } from "./segmentFiles.ts"
import { ofStore } from "./storeLogs.ts"
import { takeBack } from "./takeBack.ts"
import { UnsyncedNote } from "./unsyncedNote.ts"

/** Where a record was written. */
export interface RecordRef {
  readonly segment: number
  readonly offset: number
  readonly len: number
  readonly txid: number
}

export type WriteError = IoError | LimitExceeded | WriterPoisoned

/** What `Writer` starts from. */
export interface Start {
  readonly disk: Disk.DiskService
  readonly directory: string
  readonly files: SegmentFiles
  readonly active: Disk.DiskFile
  readonly segments: ReadonlyArray<{ readonly id: number; readonly bytes: number }>
  readonly txid: number
  readonly segmentSize: number
  readonly lock: Lock
}

// Of a batch, in one step. After a snapshot each record may have the index copy 64 KiB: milliseconds' worth.
export const piece_records_max = 1_024

// A yield would not do: `Effect.runSync` goes on behind one in the same step.
const nextTick = Effect.promise(() => Promise.resolve())

export class Writer {
  readonly #start: Start
  readonly observers = new Observers()
  readonly #gate = new Gate()
  readonly #closedSegments: Map<number, number>
  readonly #buffer = new FrameBuffer()
  #busy = false
  #refusal: WriterPoisoned | IoError | undefined
  /** A write has failed, and may have left a part of a frame. */
  #hasPart = false
  /** Of the active segment: no other is tried on that descriptor. */
  #hasFailedSync = false
  #file: Disk.DiskFile
  #segment: number
  #offset: number
  #txid: number
  // Up to where everything is durable. What an earlier process left unsynced is not known, so it starts before
  // everything.
  #syncedSegment = 0
  #syncedOffset = 0
  readonly #note: UnsyncedNote
  #waiting: Deferred.Deferred<void, IoError | WriterPoisoned> | undefined
  /** Set while a fiber runs the rounds; done when it has ended. */
  #committing: Deferred.Deferred<void> | undefined

  constructor(start: Start) {
    const active = start.segments.at(-1) ?? { id: 1, bytes: 0 }
    this.#start = start
    this.#note = new UnsyncedNote(start.lock)
    this.#file = start.active
    this.#segment = active.id
    this.#offset = active.bytes
    this.#txid = start.txid
    this.#closedSegments = new Map(start.segments.slice(0, -1).map(({ bytes, id }) => [id, bytes]))
  }

  /** Where the next record goes, and the last txid given. */
  get end(): Position & { readonly txid: number } {
    return { segment: this.#segment, offset: this.#offset, txid: this.#txid }
  }

  get segments(): ReadonlyArray<{ readonly id: number; readonly bytes: number }> {
    return [
      ...Array.from(this.#closedSegments, ([id, bytes]) => ({ id, bytes })),
      { id: this.#segment, bytes: this.#offset }
    ]
  }

  /** Whether its segment reaches to the place's end. */
  holds(place: Position & { readonly len: number }): boolean {
    const bytes = place.segment === this.#segment ? this.#offset : this.#closedSegments.get(place.segment)
    return bytes !== undefined && place.offset >= 0 && place.len >= Frame.overhead_bytes &&
      place.offset + place.len <= bytes
  }

  get refusal(): WriterPoisoned | IoError | undefined {
    return this.#refusal
  }

  /** The only refusal that is not a `WriterPoisoned`. */
  get isClosed(): boolean {
    return this.#refusal?._tag === "IoError"
  }

  get isSynced(): boolean {
    return this.#syncedSegment === this.#segment && this.#syncedOffset === this.#offset
  }

  /** Appends in this very step, or says why not, or that it has to wait: `undefined`. */
  appendNow(entry: Entry): Exit.Exit<RecordRef, WriteError> | undefined {
    if (this.#refusal !== undefined) return Exit.fail(this.#refusal)
    const refused = this.#checkLimits(entry, 1)
    if (refused !== undefined) return Exit.fail(refused)
    const length = lengthOf(entry)
    const mayBlock = length <= Disk.blocking_bytes_max && !this.#start.disk.isTurnOver()
    return this.#busy || this.observers.isTelling || !mayBlock || !this.#hasRoom(length)
      ? undefined
      : this.#writeSmall(entry, length)
  }

  /** For a suspended effect to call: appends in that very step where it can. */
  readonly append = (entry: Entry): Effect.Effect<RecordRef, WriteError> =>
    this.appendNow(entry) ?? this.#appendGated(entry)

  readonly #appendGated = (entry: Entry): Effect.Effect<RecordRef, WriteError> =>
    this.#exclusively(Effect.andThen(this.#letOthersRun(0), Effect.suspend(() => this.#appendHeld(entry))))

  /** After so many records. */
  readonly #letOthersRun = (records: number): Effect.Effect<void> =>
    Effect.suspend(() => this.#start.disk.isTurnOver(records) ? Effect.yieldNow : Effect.void)

  readonly #appendHeld = Effect.fnUntraced(function*(
    this: Writer,
    entry: Entry
  ): Effect.fn.Return<RecordRef, WriteError> {
    // A sync may have failed while this one let others run.
    const refusal = this.#refusal
    if (refusal !== undefined) return yield* refusal
    if (!this.#hasRoom(lengthOf(entry))) yield* this.#rotateHeld
    // From here to the frame in one step: bytes that the caller has resized meanwhile must not become half a frame.
    const refused = this.#checkLimits(entry, 1)
    if (refused !== undefined) return yield* refused
    const length = lengthOf(entry)
    if (length <= Disk.blocking_bytes_max) return yield* this.#writeSmall(entry, length)
    const bytes = freshBytes(length)
    const keyEnd = Frame.header_bytes + entry.key.length
    Frame.encodeInto(bytes, 0, entry.type, this.#txid + 1, entry.key, entry.payload)
    // At once: if there are whole frames in the payload, the part that is left would not be cut at the next opening.
    yield* this.#guard(Disk.appendFully(this.#file, bytes, 0, length), () => this.#takeBack)
    // What the file has, not what the caller's memory holds by now.
    const key = bytes.subarray(Frame.header_bytes, keyEnd)
    const payload = bytes.subarray(keyEnd, length - Frame.crc_bytes)
    return this.#written({ type: entry.type, key, payload }, length)
  })

  /**
   * Appends all, or refuses all before any I/O. When a write fails, a prefix of them is in the log.
   */
  readonly appendAll = (entries: ReadonlyArray<Entry>): Effect.Effect<Array<RecordRef>, WriteError> =>
    Effect.suspend(() => {
      if (this.#refusal !== undefined) return Effect.fail(this.#refusal)
      if (entries.length === 0) return Effect.succeed([])
      let total = 0
      for (const entry of entries) {
        const refused = this.#checkLimits(entry, entries.length)
        if (refused !== undefined) return Effect.fail(refused)
        total += lengthOf(entry)
      }
      const mustWait = this.#busy || this.observers.isTelling || !this.#fitsPiece(total, entries.length)
      if (mustWait || this.#start.disk.isTurnOver(entries.length)) {
        return this.#exclusively(Effect.andThen(this.#letOthersRun(0), this.#appendAllHeld(entries)))
      }
      const refs: Array<RecordRef> = []
      const failed = this.#writeBatch(entries, 0, entries.length, refs)
      return failed === undefined ? Effect.succeed(refs) : Effect.fail(failed)
    })

  /** `appendAll` of what is made, and checked, while those who come later wait: none of them is to overtake it. */
  readonly appendMade = (
    made: Effect.Effect<ReadonlyArray<Entry>, LimitExceeded>
  ): Effect.Effect<Array<RecordRef>, WriteError> =>
    this.#exclusively(Effect.flatMap(made, (entries) => this.#appendAllHeld(entries)))

  readonly #appendAllHeld = Effect.fnUntraced(function*(
    this: Writer,
    entries: ReadonlyArray<Entry>
  ): Effect.fn.Return<Array<RecordRef>, WriteError> {
    // Again: others may have written while this one waited for the gate.
    if (this.#txid > Frame.txid_max - entries.length) return yield* txidLimit(this.#txid + entries.length)
    const refs: Array<RecordRef> = []
    let from = 0
    while (from < entries.length) {
      // A sync may have failed while the batch before this one was written.
      if (this.#refusal !== undefined) return yield* this.#refusal
      const written = refs.length
      const to = this.#batchEnd(entries, from)
      if (to === from) {
        refs.push(yield* this.#appendHeld(entries[from++] as Entry))
      } else {
        const failed = this.#writeBatch(entries, from, to, refs)
        if (failed !== undefined) return yield* failed
        from = to
      }
      yield* this.#letOthersRun(refs.length - written)
    }
    return refs
  })

  /**
   * Appends sound frames, each small enough for a blocking write, which get txids of this log in place. When a write
   * fails, a prefix of them is in the log.
   */
  readonly appendFrames = (frames: PutFrames): Effect.Effect<void, WriteError> =>
    this.#exclusively(Effect.andThen(this.#letOthersRun(0), this.#appendFramesHeld(frames)))

  readonly #appendFramesHeld = Effect.fnUntraced(function*(
    this: Writer,
    { bytes, from, starts, to, view }: PutFrames
  ): Effect.fn.Return<void, WriteError> {
    if (this.#txid > Frame.txid_max - (to - from)) return yield* txidLimit(this.#txid + to - from)
    let at = from
    while (at < to) {
      const start = starts[at] as number
      if (!this.#hasRoom((starts[at + 1] as number) - start)) yield* this.#rotateHeld
      // A sync may have failed while the frames before these were written.
      const refusal = this.#refusal
      if (refusal !== undefined) return yield* refusal
      const first = at++
      while (at < to && this.#fitsPiece((starts[at + 1] as number) - start, at + 1 - first)) at++
      for (let index = first; index < at; index++) {
        const frame = starts[index] as number
        Frame.renumber(bytes, view, frame, (starts[index + 1] as number) - frame, this.#txid + 1 + index - first)
      }
      const end = starts[at] as number
      const failed = this.#write(bytes, start, end, at - first)
      if (failed !== undefined) return yield* failed
      yield* this.#letOthersRun(at - first)
    }
  })

  /** Up to which of the entries fit into one piece, and into the segment. Limits: see `#appendHeld`. */
  #batchEnd(entries: ReadonlyArray<Entry>, from: number): number {
    let length = 0
    let to = from
    for (; to < entries.length; to++) {
      const entry = entries[to] as Entry
      length += lengthOf(entry)
      if (!this.#fitsPiece(length, to + 1 - from) || recordLimit(entry) !== undefined) break
    }
    return to
  }

  /** Writes the entries of a piece in this very step. */
  #writeBatch(
    entries: ReadonlyArray<Entry>,
    from: number,
    to: number,
    refs: Array<RecordRef>
  ): IoError | undefined {
    let total = 0
    for (let index = from; index < to; index++) total += lengthOf(entries[index] as Entry)
    const { offset: start, segment, txid: last } = this.end
    const failed = this.#buffer.many(
      entries,
      { from, to, length: total, txid: last + 1, isTold: !this.observers.isEmpty },
      (bytes, length) => this.#write(bytes, 0, length, to - from)
    )
    if (failed !== undefined) return failed
    let offset = start
    for (let index = from; index < to; index++) {
      const len = lengthOf(entries[index] as Entry)
      refs.push({ segment, offset, len, txid: last + 1 + index - from })
      offset += len
    }
    return undefined
  }

  /** Writes so many frames, numbered from the next txid on, in this very step, and tells the observers. */
  #write(bytes: Uint8Array<ArrayBuffer>, start: number, end: number, count: number): IoError | undefined {
    const failed = Disk.appendFullyNow(this.#file, bytes, start, end)
    if (failed !== undefined) return this.#poison(failed)
    const base = this.#offset
    const last = this.#txid + count
    this.#offset = base + end - start
    this.#txid = last
    if (this.observers.isEmpty) return undefined
    const frames: Frames = {
      segment: this.#segment,
      base,
      bytes: bytes.subarray(start, end),
      view: new DataView(bytes.buffer, bytes.byteOffset + start, end - start),
      length: end - start,
      count,
      highest: last,
      last
    }
    this.observers.frames(frames)
    return undefined
  }

  #writeSmall(entry: Entry, length: number): Exit.Exit<RecordRef, WriteError> {
    const file = this.#file
    const txid = this.#txid + 1
    const failed = length < assembledFrom_bytes
      ? Disk.appendFullyNow(file, this.#buffer.short(entry, length, txid), 0, length)
      : this.#buffer.long(entry, length, txid, (bytes) => Disk.appendFullyNow(file, bytes, 0, length))
    return failed === undefined ? Exit.succeed(this.#written(entry, length)) : Exit.fail(this.#poison(failed))
  }

  /**
   * Cuts off the part of a frame that a failed write has left: the next opening would have to copy it, for which a full
   * disk has no room. Durably: else a loss of power could leave some of it between what is written there later.
   */
  readonly #takeBack: Effect.Effect<void> = Effect.suspend(() => {
    this.#hasPart = false
    const from = { segment: this.#segment, offset: 0 }
    const cut = Effect.suspend(() =>
      Effect.andThen(takeBack(this.#file, this.#offset), this.#hasFailedSync ? Effect.void : this.#file.sync)
    )
    // Who waits for an fsync is told of its failure, and the system tells one of two.
    return Effect.andThen(
      this.#roundsEnd,
      Effect.catch(cut, ({ operation }) => operation === "sync" ? this.#note.writeFailed(from) : Effect.void)
    )
  })

  #written(entry: Entry, len: number): RecordRef {
    const ref = { segment: this.#segment, offset: this.#offset, len, txid: ++this.#txid }
    this.#offset += len
    this.observers.record(entry, ref)
    return ref
  }

  #checkLimits(entry: Entry, records: number): LimitExceeded | undefined {
    return recordLimit(entry) ?? (this.#txid > Frame.txid_max - records ? txidLimit(this.#txid + records) : undefined)
  }

  // A segment takes at least one record, however large.
  #hasRoom(length: number): boolean {
    return this.#offset === 0 || this.#fits(length)
  }

  #fitsPiece(length: number, records: number): boolean {
    return length <= Disk.blocking_bytes_max && records <= piece_records_max && this.#fits(length)
  }

  #fits(length: number): boolean {
    return this.#offset + length <= this.#start.segmentSize
  }

  readonly sync: Effect.Effect<void, IoError | WriterPoisoned> = Effect.suspend(() => {
    if (this.#refusal !== undefined) return Effect.fail(this.#refusal)
    if (this.isSynced) return Effect.void
    return Effect.uninterruptibleMask((restore) => {
      const round = this.#waiting ??= Deferred.makeUnsafe<void, IoError | WriterPoisoned>()
      const answer = restore(Deferred.await(round))
      if (this.#committing !== undefined) return answer
      // In this very step: this fiber may be made to yield before its next, and whoever comes then must see it.
      this.#committing = Deferred.makeUnsafe<void>()
      // Detached, so that the fiber that happened to start it may be interrupted; `close` waits for it.
      return Effect.andThen(Effect.forkDetach(this.#rounds, { uninterruptible: true }), answer)
    })
  })

  readonly #rounds: Effect.Effect<void> = Effect.suspend(() => {
    const round = this.#waiting
    if (round === undefined) {
      // In this very step: whoever comes later must see that nobody is at work.
      const ended = this.#committing
      this.#committing = undefined
      if (ended !== undefined) Deferred.doneUnsafe(ended, Effect.void)
      return Effect.void
    }
    this.#waiting = undefined
    return Effect.flatMap(Effect.exit(this.#syncOnce), (exit) => {
      Deferred.doneUnsafe(round, exit)
      return this.#rounds
    })
  })

  readonly #roundsEnd: Effect.Effect<void> = Effect.suspend(() =>
    this.#committing === undefined ? Effect.void : Deferred.await(this.#committing)
  )

  readonly #syncOnce: Effect.Effect<void, IoError | WriterPoisoned> = Effect.suspend(() => {
    if (this.#refusal !== undefined) return Effect.fail(this.#refusal)
    // The round before may have covered all: an fsync of a segment that a rotation then closes must not be under way.
    if (this.isSynced) return Effect.void
    const segment = this.#segment
    const offset = this.#offset
    // Of an older segment nothing is left to sync: a rotation has seen to that.
    const from = { segment, offset: this.#syncedOffset }
    const inPlace = this.#guard(syncInPlace(this.#file, this.#start.lock), () => this.#note.writeFailed(from))
    const synced = Effect.map(inPlace, () => {
      this.#syncedSegment = segment
      this.#syncedOffset = offset
    })
    // Before, not after it has failed: the system tells of a failure once, and a process that is killed with the news
    // must leave word for the next writer.
    return this.#note.says(from) ? synced : Effect.andThen(this.#note.write(from), synced)
  })

  /** Syncs the active segment and goes on in the next. */
  readonly rotate: Effect.Effect<Position, WriteError> = Effect.suspend(() =>
    this.#exclusively(Effect.map(this.#rotateHeld, () => ({ segment: this.#segment, offset: this.#offset })))
  )

  readonly #rotateHeld: Effect.Effect<void, WriteError> = Effect.suspend((): Effect.Effect<void, WriteError> => {
    const { directory, disk, files, lock } = this.#start
    const id = this.#segment + 1
    if (id > segment_max) {
      return Effect.fail(new LimitExceeded({ limit: "segment", actual: id, maximum: segment_max }))
    }
    // The new segment is found by its name: it must come into the directory whose lock this is.
    const create = Effect.andThen(atHome(lock, "rotate", directory), createSegment(disk, directory, id))
    // Nothing is written behind a segment until it is durable, so only the active one ever needs a sync.
    return Effect.flatMap(Effect.andThen(this.sync, this.#guard(create)), ({ file, id }) => {
      this.#closedSegments.set(this.#segment, this.#offset)
      this.#file = file
      this.#segment = this.#syncedSegment = id
      this.#offset = this.#syncedOffset = 0
      return files.adopt(id, file)
    })
  })

  /** Makes what it can durable, then takes nothing more. The files are closed by whoever opened them. */
  readonly close: Effect.Effect<void> = Effect.suspend(() =>
    this.#gate.hold(Effect.gen({ self: this }, function*() {
      this.#busy = true
      if (this.#refusal === undefined && !this.isSynced) {
        yield* Effect.catch(this.sync, (error) => this.#warn("the last records may not be durable", error))
      }
      if (this.#refusal === undefined) yield* Effect.ignore(this.#note.clear)
      this.#refusal = closedError("write", this.#start.directory)
      yield* this.#roundsEnd
      if (this.#hasPart) yield* this.#takeBack
    }))
  )

  #warn(message: string, error: unknown): Effect.Effect<void> {
    return ofStore(this.#start.directory, Effect.logWarning(message, error))
  }

  #exclusively<A>(effect: Effect.Effect<A, WriteError>): Effect.Effect<A, WriteError> {
    const told = Effect.suspend(() => this.observers.isTelling ? nextTick : Effect.void)
    const held = this.#gate.hold(Effect.uninterruptible(Effect.suspend(() => {
      if (this.#refusal !== undefined) return Effect.fail(this.#refusal)
      this.#busy = true
      return Effect.ensuring(
        effect,
        Effect.sync(() => {
          this.#busy = false
        })
      )
    })))
    return Effect.andThen(told, held)
  }

  #guard<A>(effect: Effect.Effect<A, IoError>, onFailure = () => Effect.void): Effect.Effect<A, IoError> {
    const whole = Effect.catchDefect(effect, (cause) => Effect.fail(Disk.defectError(this.#file.path, cause)))
    return Effect.tapError(whole, (error) => {
      this.#poison(error)
      return onFailure()
    })
  }

  /** From here on nothing is written: the first failure is the one that later calls name. */
  #poison(cause: IoError): IoError {
    const { code, operation, path } = cause
    this.#hasPart ||= operation === "write"
    this.#hasFailedSync ||= operation === "sync"
    this.#refusal ??= new WriterPoisoned({ directory: this.#start.directory, operation, path, code, cause })
    return cause
  }
}
