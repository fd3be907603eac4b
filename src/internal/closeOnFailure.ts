/**
 * Acquires in a scope of its own, which is closed at once when acquiring fails or is interrupted, and with the
 * caller's scope otherwise: a store that did not open holds no lock, however long the caller's scope lives on.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"

export const closeOnFailure = <A, E, R>(
  acquire: Effect.Effect<A, E, R | Scope.Scope>
): Effect.Effect<A, E, Exclude<R, Scope.Scope> | Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope)
      return yield* Effect.onError(
        restore(Scope.provide(acquire, scope)),
        (cause) => Scope.close(scope, Exit.failCause(cause))
      )
    })
  )
