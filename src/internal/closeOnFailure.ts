/**
 * Acquires in a scope of its own, which is closed at once when acquiring fails or is interrupted, and with the
 * caller's scope otherwise: a store that did not open holds no lock, however long the caller's scope lives on.
 *
 * Where the caller's scope closes first, acquiring is interrupted, and the close waits for its end: what has been
 * acquired by then, such as a lock, is not let go of under the steps that rely on it.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"

export const closeOnFailure = <A, E, R>(
  acquire: Effect.Effect<A, E, R | Scope.Scope>
): Effect.Effect<A, E, Exclude<R, Scope.Scope> | Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      // Of the caller's, for as long as there is something to close.
      const outer = yield* Scope.fork(yield* Effect.scope)
      if (outer.state._tag === "Closed") return yield* Effect.interrupt
      const scope = Scope.makeUnsafe()
      const closing = Deferred.makeUnsafe<never>()
      const ended = Deferred.makeUnsafe<void>()
      yield* Scope.addFinalizerExit(outer, (exit) => {
        Deferred.doneUnsafe(closing, Effect.interrupt)
        return Effect.andThen(Deferred.await(ended), Scope.close(scope, exit))
      })
      return yield* Effect.onExit(
        restore(Effect.raceFirst(Scope.provide(acquire, scope), Deferred.await(closing))),
        (exit) => {
          Deferred.doneUnsafe(ended, Effect.void)
          return Exit.isFailure(exit) ? Scope.close(outer, exit) : Effect.void
        }
      )
    })
  )
