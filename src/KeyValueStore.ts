/**
 * A `Kv` as Effect's own `KeyValueStore`: for what is written against that service, such as `toSchemaStore` or
 * `Persistence`, in the place of a file for each key (`layerFileSystem`).
 *
 * Keys are strings, stored as UTF-8; lone surrogates, which UTF-8 does not have, become U+FFFD. Writes are as durable
 * as the `Kv` is opened to make them; `modify` is one step in which nothing else is written, `clear` is many. What
 * fails is a `KeyValueStoreError` whose `cause` is the error of this library. A value that is asked for as a string and
 * is not UTF-8 is given as Base64, as Effect's other stores give bytes; bytes that happen to be UTF-8 are taken for it.
 *
 * Effect calls that interface unstable: this module follows it, and the others do not depend on it. It is an entry of
 * its own, `effect-datawal/KeyValueStore`.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as Layer from "effect/Layer"
import * as KeyValueStore from "effect/persistence/KeyValueStore"
import * as Stream from "effect/Stream"
import type { Bytes } from "./internal/bytes.ts"
import * as Kv from "./Kv.ts"

const keyDecoder = new TextDecoder("utf-8", { ignoreBOM: true })
const decoder = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true })

const textOf = (value: Uint8Array): string => {
  try {
    return decoder.decode(value)
  } catch {
    return Base64.encode(value)
  }
}

type Attempt = <A, E extends Error>(effect: Effect.Effect<A, E>) => Effect.Effect<A, KeyValueStore.KeyValueStoreError>

const attempt = (method: string, key?: string): Attempt =>
  Effect.mapError((cause) =>
    new KeyValueStore.KeyValueStoreError({
      method,
      message: cause.message,
      cause,
      ...(key === undefined ? {} : { key })
    })
  )

/**
 * A store as a `KeyValueStore`: for a program that has several, each under a service of its own.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromKv = (kv: Kv.KvService): KeyValueStore.KeyValueStore => {
  // Also what another has deleted is to be as durable as this one's deletes.
  const settled = Effect.asVoid(kv.deleteMany([]))
  const clear = (prefix: string, tried: Attempt) =>
    tried(
      Effect.andThen(Stream.runForEachArray(kv.keys({ prefix }), (keys) => kv.deleteMany(keys)), settled)
    )
  // A key without a value stays without one, as the interface has it.
  const change = <A extends Bytes>(method: string, key: string, f: (current: Uint8Array<ArrayBuffer>) => A) =>
    attempt(method, key)(kv.modify(key, (current): readonly [A | undefined, Bytes | undefined] => {
      if (current === undefined) return [undefined, undefined]
      const value = f(current)
      return [value, value]
    }))
  return KeyValueStore.make({
    get: (key) =>
      Effect.map(attempt("get", key)(kv.get(key)), (value) => value === undefined ? undefined : textOf(value)),
    getUint8Array: (key) => attempt("getUint8Array", key)(kv.get(key)),
    set: (key, value) => Effect.asVoid(attempt("set", key)(kv.put(key, value))),
    // Of a key without a value no tombstone is needed.
    remove: (key) =>
      attempt("remove", key)(
        Effect.flatMap(kv.has(key), (has) => has ? Effect.asVoid(kv.delete(key)) : settled)
      ),
    clear: clear("", attempt("clear")),
    clearPrefix: (prefix) => clear(prefix, attempt("clearPrefix", prefix)),
    size: kv.size,
    isEmpty: kv.isEmpty,
    has: kv.has,
    keys: Effect.map(Stream.runCollect(kv.keys()), (keys) => keys.map((key) => keyDecoder.decode(key))),
    modify: (key, f) => change("modify", key, (current) => f(textOf(current))),
    modifyUint8Array: (key, f) => change("modifyUint8Array", key, f)
  })
}

/**
 * The `Kv` of the context as a `KeyValueStore`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: Effect.Effect<KeyValueStore.KeyValueStore, never, Kv.Kv> = Effect.map(Kv.Kv, fromKv)

/**
 * A `KeyValueStore` over the `Kv` that the application provides.
 *
 * **Example** (Values with a schema)
 *
 * ```ts
 * import { Effect, Layer, Option, Schema } from "effect"
 * import { KeyValueStore as Store } from "effect/persistence"
 * import { Kv } from "effect-datawal"
 * import * as KeyValueStore from "effect-datawal/KeyValueStore"
 *
 * const User = Schema.Struct({ name: Schema.String })
 *
 * const StoreLive = Layer.provide(KeyValueStore.layer, Kv.layer({ directory: "users" }))
 *
 * const program = Effect.gen(function*() {
 *   const users = Store.toSchemaStore(yield* Store.KeyValueStore, User)
 *   yield* users.set("1", { name: "Ada" })
 *   return Option.getOrUndefined(yield* users.get("1"))
 * })
 *
 * await Effect.runPromise(Effect.provide(program, StoreLive)) // => { name: "Ada" }
 * ```
 *
 * **Gotchas**
 *
 * `modify` of a `toSchemaStore` is Effect's: it gets, and then sets, and what is set in between is lost.
 * `Kv.modifyEffect` has room for a schema.
 *
 * @category layers
 * @since 0.1.0
 */
// Fresh, for it is a view: over the stores of two directories it must not be one.
export const layer: Layer.Layer<KeyValueStore.KeyValueStore, never, Kv.Kv> = Layer.fresh(
  Layer.effect(KeyValueStore.KeyValueStore, make)
)
