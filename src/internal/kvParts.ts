/**
 * What this library uses of a store beside its public members, kept as `logParts.ts` keeps it: an export and an import
 * of a store that was not made here go through its public members.
 */
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Disk from "../Disk.ts"
import type { KvRead, KvService } from "../Kv.ts"
import type { WriteError } from "../Log.ts"
import { pairsOf, type PutFrames } from "./frames.ts"
import type { Gathered } from "./gather.ts"

export interface ReadParts {
  /** The disk it was opened over, which every later operation uses too. */
  readonly disk: Disk.DiskService
  /** What is live now, in ascending order of the keys' bytes, checked. */
  readonly frames: Effect.Effect<Gathered, never, Scope.Scope>
}

export interface KvParts extends ReadParts {
  /**
   * `putMany` of frames, or of one pair. No interruption comes between what is written and `onWritten`; one that comes
   * before has nothing written. `otherwise` is run instead of waiting for somebody who has the store alone.
   */
  readonly putFrames: (
    frames: PutFrames,
    onWritten: () => void,
    otherwise?: Effect.Effect<void>
  ) => Effect.Effect<void, WriteError>
  readonly putPair: (key: Uint8Array, value: Uint8Array, onWritten: () => void) => Effect.Effect<void, WriteError>
}

/** The write and the knowledge of it, as one. */
export const wholly = (
  write: Effect.Effect<unknown, WriteError>,
  onWritten: () => void
): Effect.Effect<void, WriteError> => Effect.uninterruptible(Effect.map(write, onWritten))

const readable = new WeakMap<KvRead, ReadParts>()
const writable = new WeakMap<KvService, KvParts>()

export const registerRead = <A extends KvRead>(kv: A, parts: ReadParts): A => {
  readable.set(kv, parts)
  return kv
}

export const registerKv = (kv: KvService, parts: KvParts): KvService => {
  writable.set(kv, parts)
  return registerRead(kv, parts)
}

export const readParts = (kv: KvRead): Effect.Effect<ReadParts> =>
  Effect.map(Disk.Disk, (disk) => readable.get(kv) ?? publicReadParts(kv, disk))

export const kvParts = (kv: KvService): Effect.Effect<KvParts> =>
  Effect.map(Disk.Disk, (disk) =>
    writable.get(kv) ?? {
      ...publicReadParts(kv, disk),
      putFrames: (frames, onWritten) => Effect.suspend(() => wholly(kv.putMany(pairsOf(frames)), onWritten)),
      putPair: (key, value, onWritten) => wholly(kv.putMany([[key, value]]), onWritten)
    })

const publicReadParts = (kv: KvRead, disk: Disk.DiskService): ReadParts => ({
  disk,
  frames: Effect.map(Stream.toPull(kv.entries({ ordered: true })), Pull.catchDone(() => Effect.succeed(undefined)))
})
