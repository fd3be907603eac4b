/**
 * Writing the live values into a new store, which is built in a directory of its own beside the target (`beside.ts`):
 * the target is absent or whole.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as NodePath from "node:path"
import * as Disk from "../Disk.ts"
import { type IoError, LockUnavailable, TargetRefused } from "../Errors.ts"
import type { CompactError } from "../Kv.ts"
import type { WriteError } from "../Log.ts"
import { targetPath, temporaryPath } from "./beside.ts"
import type { Gathered } from "./gather.ts"
import { openLog } from "./openLog.ts"

export interface Compacted {
  readonly live_keys: number
  readonly records_written: number
  readonly bytes_written: number
}

/** Writes what is in `frames`, which must be in ascending order of the keys. */
export const compact = (
  target: string,
  frames: Effect.Effect<Gathered, never, Scope.Scope>,
  onProgress: ((keys: number) => void) | undefined
): Effect.Effect<Compacted, CompactError> =>
  Effect.withSpan(build(target, frames, onProgress), "Kv.compactTo", {
    attributes: { target },
    captureStackTrace: false
  })

const build = Effect.fnUntraced(function*(
  target: string,
  frames: Effect.Effect<Gathered, never, Scope.Scope>,
  onProgress: ((keys: number) => void) | undefined
): Effect.fn.Return<Compacted, CompactError> {
  if (target === "") return yield* new TargetRefused({ target, found: "an empty path" })
  const disk = yield* Disk.Disk
  yield* refuseUsed(disk, NodePath.resolve(target), target)
  const path = yield* targetPath(disk, target)
  const building = temporaryPath(path)
  let state: "building" | "named" | "durable" = "building"
  return yield* Effect.gen(function*() {
    // The temporary directory is nobody's business.
    const compacted = yield* Effect.mapError(
      Effect.scoped(write(building, frames, onProgress)),
      (error) => {
        if (error._tag !== "LockUnavailable") return error
        return new LockUnavailable({ directory: path, command: error.command, cause: error.cause })
      }
    )
    // The kernel refuses to rename over a directory that has been filled in the meantime.
    const rename = Effect.catch(
      disk.rename(building, path),
      (error) => Effect.flatMap(refuseUsed(disk, path, target), () => Effect.fail(error))
    )
    // An interruption must not come between the steps and the knowledge of them.
    yield* Effect.uninterruptible(Effect.gen(function*() {
      yield* rename
      state = "named"
      yield* disk.syncDirectory(NodePath.dirname(path))
      state = "durable"
    }))
    return compacted
  }).pipe(
    // One that is durable stays, whatever comes then: others may have found it, and written to it.
    Effect.onError(() =>
      state === "durable"
        ? Effect.void
        : Effect.ignore(state === "named" ? takeBack(disk, path, building) : disk.removeTree(building))
    )
  )
})

// As long as a crash can bring the target's name back, nothing may be taken out of it: it must be whole.
const takeBack = (
  disk: Disk.DiskService,
  path: string,
  building: string
): Effect.Effect<void, IoError> =>
  disk.rename(path, building).pipe(
    Effect.andThen(disk.syncDirectory(NodePath.dirname(path))),
    Effect.andThen(disk.removeTree(building))
  )

const write = Effect.fnUntraced(function*(
  directory: string,
  frames: Effect.Effect<Gathered, never, Scope.Scope>,
  onProgress: ((keys: number) => void) | undefined
) {
  // The directory is new and nobody else knows its name: nobody holds its lock, and nothing in it can be damaged.
  const { log, parts } = yield* Effect.catchTag(
    openLog({ directory }),
    ["LockHeld", "CorruptTail", "CorruptSegment", "InvalidOptions"],
    Effect.die
  )
  let records = 0
  let bytes = 0
  const take = yield* frames
  for (let next = yield* take; next !== undefined; next = yield* take) {
    if ("bytes" in next) {
      yield* sound(parts.writeFrames(next))
      records += next.to - next.from
      bytes += (next.starts[next.to] as number) - (next.starts[next.from] as number)
    } else {
      const refs = yield* sound(parts.writeAll(next.map(({ key, value }) => ({ type: "Put", key, payload: value }))))
      records += refs.length
      for (const ref of refs) bytes += ref.len
    }
    onProgress?.(records)
  }
  yield* sound(log.sync)
  return { live_keys: records, records_written: records, bytes_written: bytes }
})

// What comes from a store has passed the limits, and the first failure ends the compaction: no call follows it.
const sound = <A>(write: Effect.Effect<A, WriteError>): Effect.Effect<A, IoError> =>
  Effect.catchTag(write, ["LimitExceeded", "WriterPoisoned"], Effect.die)

const refuseUsed = (
  disk: Disk.DiskService,
  path: string,
  target: string
): Effect.Effect<void, IoError | TargetRefused> =>
  disk.list(path).pipe(
    Effect.catch((error) =>
      error.code === "ENOENT"
        ? Effect.succeed([])
        : Effect.fail(error.code === "ENOTDIR" ? new TargetRefused({ target, found: "a file" }) : error)
    ),
    Effect.flatMap(([first]) =>
      first === undefined ? Effect.void : Effect.fail(new TargetRefused({ target, found: first.name }))
    )
  )
