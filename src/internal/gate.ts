/**
 * One at a time, or a few, in the order they came.
 *
 * Effect's own semaphore looks at everyone who waits whenever somebody lets go: ten thousand puts at once would spend
 * most of their time on that; forty thousand took more than a minute.
 */
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"

/** Somebody who waits, from the step that asked. */
class Waiter<E> {
  isGiven = false
  #answer: Effect.Effect<void, E> | undefined
  #resume: ((answer: Effect.Effect<void, E>) => void) | undefined

  answer(answer: Effect.Effect<void, E>): void {
    this.#answer = answer
    this.#resume?.(answer)
  }

  readonly wait: Effect.Effect<void, E> = Effect.callback((resume) => {
    if (this.#answer !== undefined) return resume(this.#answer)
    this.#resume = resume
  })
}

/** So many may give up, beyond as many as wait, before what the set keeps for its iterator is let go of. */
const gone_max = 1_024

export class Gate<E = never> {
  readonly #limit: number
  #held = 0
  #holder: Fiber.Fiber<unknown, unknown> | undefined
  #isWaking = false
  #refused: Effect.Effect<never, E> | undefined
  readonly #waiting = new Set<Waiter<E>>()
  /** Goes on where it was, past those that were deleted, and on to those that come: the first who waits is next. */
  #order = this.#waiting.values()
  /** How many have given up since it was made: it keeps all that the set has outgrown until it goes on. */
  #gone = 0

  /** Lets so many through at a time. */
  constructor(limit = 1) {
    this.#limit = limit
  }

  /** Whether whoever comes now must wait. */
  get isHeld(): boolean {
    return this.#held === this.#limit
  }

  /** Whether this fiber has it alone: asking again, it would wait for itself. */
  isHeldBy(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return this.#limit === 1 && this.#holder === fiber
  }

  /** Runs the effect when it is let through. The wait for that can be interrupted, and leaves no trace then. */
  hold<A, E2, R>(effect: Effect.Effect<A, E2, R>): Effect.Effect<A, E | E2, R> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.withFiber((fiber) => {
        if (this.#refused !== undefined) return this.#refused
        if (!this.isHeld && this.#waiting.size === 0) {
          this.#held++
          this.#holder = fiber
          return Effect.ensuring(restore(effect), this.#leave)
        }
        const waiter = new Waiter<E>()
        this.#waiting.add(waiter)
        const held = Effect.suspend(() => {
          this.#holder = fiber
          return Effect.ensuring(restore(effect), this.#leave)
        })
        return Effect.andThen(Effect.onError(restore(waiter.wait), () => this.#giveUp(waiter)), held)
      })
    )
  }

  /** `hold` for whoever waits for nobody: it is asked for and taken in one step, or else it is `otherwise`. */
  holdNow<A, E2, R, B, E3, R3>(
    effect: Effect.Effect<A, E2, R>,
    otherwise: Effect.Effect<B, E3, R3>
  ): Effect.Effect<A | B, E | E2 | E3, R | R3> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.withFiber((fiber): Effect.Effect<A | B, E | E2 | E3, R | R3> => {
        if (this.#refused !== undefined) return this.#refused
        if (this.isHeld || this.#waiting.size > 0) return restore(otherwise)
        this.#held++
        this.#holder = fiber
        return Effect.ensuring(restore(effect), this.#leave)
      })
    )
  }

  /** Fails all who wait, and all who come. */
  refuse(error: E): void {
    const refused = Effect.fail(error)
    this.#refused = refused
    for (const waiter of this.#waiting) {
      this.#waiting.delete(waiter)
      waiter.answer(refused)
    }
  }

  // An interruption can come between the gate and whoever it was given to.
  #giveUp(waiter: Waiter<E>): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.#waiting.delete(waiter) && ++this.#gone > this.#waiting.size + gone_max) {
        this.#order = this.#waiting.values()
        this.#gone = 0
      }
      return waiter.isGiven ? this.#leave : Effect.void
    })
  }

  readonly #leave: Effect.Effect<void> = Effect.sync(() => {
    this.#held--
    this.#holder = undefined
    // Whoever is answered runs in this very step, and may let go in it: that goes on here, not one call deeper.
    if (this.#isWaking) return
    this.#isWaking = true
    while (!this.isHeld) {
      const { done, value: next } = this.#order.next()
      if (done === true) {
        this.#order = this.#waiting.values()
        break
      }
      this.#waiting.delete(next)
      this.#held++
      next.isGiven = true
      next.answer(Effect.void)
    }
    this.#isWaking = false
  })
}
