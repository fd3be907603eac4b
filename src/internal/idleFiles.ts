/**
 * Files that stay open only in case they are used again, of all stores of this thread: they must not be what keeps the
 * next file from being opened.
 */
import * as Effect from "effect/Effect"
import type { IoError } from "../Errors.ts"

/** Closes what of its files nobody uses. */
type Release = Effect.Effect<void>

/** Of those that have files open. */
export const idleFiles = new Set<Release>()

/** Tries again once, without them, what fails because the process or the system can have no more open. */
export const besideIdleFiles = <A>(opening: Effect.Effect<A, IoError>): Effect.Effect<A, IoError> =>
  Effect.catch(opening, (error) =>
    idleFiles.size > 0 && (error.code === "EMFILE" || error.code === "ENFILE")
      ? Effect.andThen(Effect.forEach([...idleFiles], (release) => release, { discard: true }), opening)
      : Effect.fail(error))
