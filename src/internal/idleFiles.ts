/**
 * Files that stay open only in case they are used again, of all stores of this thread: they must not be what keeps the
 * next file from being opened.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type { IoError } from "../Errors.ts"

/** Closes what of its files nobody uses. */
type Release = Effect.Effect<void>

/** Of those that have files open. */
export const idleFiles = new Set<Release>()

let underWay: Deferred.Deferred<void> | undefined

// Whoever comes while files are being closed waits for those: there are no others. What a store's own disk does in its
// place is no matter of the opening of another.
const releaseAll: Effect.Effect<void> = Effect.suspend(() => {
  if (underWay !== undefined) return Deferred.await(underWay)
  const done = Deferred.makeUnsafe<void>()
  underWay = done
  return Effect.ensuring(
    Effect.forEach([...idleFiles], Effect.exit, { discard: true }),
    Effect.sync(() => {
      underWay = undefined
      Deferred.doneUnsafe(done, Effect.void)
    })
  )
})

/**
 * Tries again once, without them, what fails because the process or the system can have no more open. An interruption
 * waits until they are closed: nobody else knows of them any more.
 */
export const besideIdleFiles = <A>(opening: Effect.Effect<A, IoError>): Effect.Effect<A, IoError> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.catch(
      restore(opening),
      (error) =>
        (idleFiles.size > 0 || underWay !== undefined) && (error.code === "EMFILE" || error.code === "ENFILE")
          ? Effect.andThen(releaseAll, restore(opening))
          : Effect.fail(error)
    )
  )
