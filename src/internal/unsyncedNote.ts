/** The note in the lock file that says from where on durability is open: see `Lock.noteUnsynced`. */
import * as Effect from "effect/Effect"
import type { IoError } from "../Errors.ts"
import type { Lock } from "../Lock.ts"
import type { Position } from "../Recovery.ts"
import { ofStore } from "./storeLogs.ts"

// So much may have become durable since the note was written; more would take the next writer too long.
const noted_bytes_max = 1_048_576

export class UnsyncedNote {
  readonly #lock: Lock
  #from: Position | undefined

  constructor(lock: Lock) {
    this.#lock = lock
  }

  /** An older note says as much and costs nothing; but the more is behind it, the more the next writer writes again. */
  says({ offset, segment }: Position): boolean {
    return this.#from?.segment === segment && offset - this.#from.offset <= noted_bytes_max
  }

  /** A note that cannot be written is no reason not to sync. */
  readonly write = (from: Position): Effect.Effect<void> =>
    Effect.ignore(Effect.map(this.#lock.noteUnsynced(from), () => {
      this.#from = from
    }))

  /** A sync from there on has failed. */
  readonly writeFailed = (from: Position): Effect.Effect<void> =>
    Effect.catch(
      this.#lock.noteUnsynced({ ...from, failed: true }),
      (error) =>
        ofStore(
          this.#lock.directory,
          Effect.logWarning("the failed sync could not be noted for the next writer", error)
        )
    )

  /** Everything is durable. */
  readonly clear: Effect.Effect<void, IoError> = Effect.suspend(() =>
    this.#from === undefined ? Effect.void : this.#lock.noteUnsynced(undefined)
  )
}
