/**
 * Taken by whoever needs that no store over the same log writes: then small puts wait as well. What is written to the
 * log itself does not ask for it.
 */
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"

export class Turn {
  readonly #permit = Semaphore.makeUnsafe(1)
  #isTaken = false

  get isTaken(): boolean {
    return this.#isTaken
  }

  take<A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    return this.#permit.withPermit(Effect.suspend(() => {
      this.#isTaken = true
      return Effect.ensuring(
        effect,
        Effect.sync(() => {
          this.#isTaken = false
        })
      )
    }))
  }
}
