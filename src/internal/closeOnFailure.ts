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
      const scope = Scope.makeUnsafe()
      const closing = Deferred.makeUnsafe<never>()
      const ended = Deferred.makeUnsafe<void>()
      let isAcquiring = false
      yield* Scope.addFinalizerExit(outer, (exit) => {
        Deferred.doneUnsafe(closing, Effect.interrupt)
        const close = Scope.close(scope, exit)
        // Of a scope that has closed already this is called by this very fiber, which would wait for itself.
        return isAcquiring ? Effect.andThen(Deferred.await(ended), close) : close
      })
      return yield* Effect.suspend(() => {
        // In one step with the look: another fiber may close it between any two.
        if (outer.state._tag === "Closed") return Effect.interrupt
        isAcquiring = true
        return Effect.onExit(
          restore(Effect.raceFirst(Scope.provide(acquire, scope), Deferred.await(closing))),
          (exit) => {
            Deferred.doneUnsafe(ended, Effect.void)
            return Exit.isFailure(exit) ? Scope.close(outer, exit) : Effect.void
          }
        )
      })
    })
  )
