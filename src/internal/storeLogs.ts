import * as Effect from "effect/Effect"

/** What is logged, with where it comes from: a program may have several stores. */
export const ofStore = <A, E, R>(directory: string, logging: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.annotateLogs(logging, { module: "effect-datawal", directory })
