/** The key/value store: put, delete, get and open, at 100,000 and a million keys. */
import { batch_records, batchesOf, key_bytes, keyOf, payloadOf, randomNumbers, value_bytes } from "../data.mjs"
import * as floors from "../floors.mjs"
import { measure, measureOnce, power, using } from "./measured.mjs"

// A file for each key does not come to more in reasonable time, and what it costs hardly depends on it.
const files_keys_max = 5_000

const keysOf = ({ contender, form }, keys) => {
  const count = Math.ceil(keys / form.shrink)
  return contender === "effect files" ? Math.min(files_keys_max, count) : count
}

/** A store of so many keys, each with 100 B. A tree is given them in order, which makes the best of it. */
export const storeOf = (keys) => ({
  name: `kv-${power(keys)}`,
  make: (context) =>
    using(context, "kv", (store) =>
      store.putMany(batchesOf(keysOf(context, keys), {
        in_order: context.module.ordered === true,
        size: batch_records,
        value: payloadOf(value_bytes)
      })))
})

const some = (keys, random) => (count) => Array.from({ length: count }, () => keyOf(random(keys)))

const put_bytes = floors.frame_bytes + key_bytes + value_bytes

const put = (keys, contenders) => ({
  kind: "put",
  name: `put-${power(keys)}`,
  title: `put of 100 B over one of ${keys.toLocaleString("en")} keys`,
  floor: "one writeSync",
  contenders,
  prepared: storeOf(keys),
  changes: true,
  run: (context) =>
    using(context, "kv", (store) => {
      const value = payloadOf(value_bytes)
      return measure(context, {
        floor: floors.write(context.directory, put_bytes),
        work: {
          prepare: some(keysOf(context, keys), randomNumbers(1)),
          run: (_count, keys) => store.put(keys, value)
        }
      })
    })
})

const remove = (keys, contenders) => ({
  kind: "delete",
  name: `delete-${power(keys)}`,
  title: `delete of one of ${keys.toLocaleString("en")} keys`,
  floor: "one writeSync",
  contenders,
  prepared: storeOf(keys),
  changes: true,
  run: (context) =>
    using(context, "kv", (store) => {
      const there = keysOf(context, keys)
      let next = 0
      return measure(context, {
        floor: floors.write(context.directory, floors.frame_bytes + key_bytes),
        // In the order of their numbers, which is none of the keys; each once, but for the look at the event loop.
        work: {
          prepare: (count) => Array.from({ length: count }, () => keyOf(next++ % there)),
          run: (_count, keys) => store.remove(keys)
        },
        operations_max: 0.9 * there
      })
    })
})

/** Reads every key once, as far as the time goes: who has a cache of its own is to be measured with it full. */
const fillCaches = async (context, store, there) => {
  const end = performance.now() + context.form.filling_ms
  for (let from = 0; from < there && performance.now() < end; from += batch_records) {
    const keys = Array.from({ length: Math.min(batch_records, there - from) }, (_, at) => keyOf(from + at))
    await (store.getMany === undefined ? store.get(keys) : store.getMany(keys, batch_records))
  }
}

const get = (keys, group, contenders) => ({
  kind: group === 1 ? "get" : "getMany",
  name: `${group === 1 ? "get" : "getMany"}-${power(keys)}`,
  title: `${group === 1 ? "get" : `getMany of ${group}, a key,`} of 100 B, random, warm, ${
    keys.toLocaleString("en")
  } keys`,
  floor: "one positioned readSync",
  contenders,
  prepared: storeOf(keys),
  run: (context) =>
    using(context, "kv", async (store) => {
      const there = keysOf(context, keys)
      await fillCaches(context, store, there)
      return measure(context, {
        floor: floors.read(context.directory, {
          bytes: put_bytes,
          file_bytes: there * put_bytes,
          random: randomNumbers(2)
        }),
        work: {
          prepare: some(there, randomNumbers(3)),
          run: async (count, keys) => {
            const bytes = await (group === 1 ? store.get(keys) : store.getMany(keys, group))
            if (bytes !== count * value_bytes) throw new Error(`${bytes} bytes were read, not ${count * value_bytes}`)
          }
        },
        group
      })
    })
})

const open = (keys, contenders) => ({
  kind: "open",
  name: `open-${power(keys)}`,
  title: `open with ${keys.toLocaleString("en")} live keys, to the first get`,
  floor: "readSync of the whole store, a MiB at a time",
  contenders,
  // Of its own, and not copied: in segments of the usual size, and a checkpoint is of the very files it was made for.
  prepared: { ...storeOf(keys), name: `open-${power(keys)}` },
  run: async (context) => {
    const there = keysOf(context, keys)
    let store
    const figures = await measureOnce(context, {
      floor: () => floors.readFiles(context.store),
      operations: there,
      run: async () => {
        store = await context.module.openKv(context.store, context.mode)
        await store.get([keyOf(there - 1)])
      }
    })
    await store.close()
    return figures
  }
})

const trees = ["lmdb", "lmdb noSync", "sqlite", "sqlite off", "level"]

const at = (keys, { cached = [], files = [] }) => [
  put(keys, ["datawal", "lmdb unawaited", ...trees, ...files]),
  remove(keys, ["datawal", ...trees, ...files]),
  get(keys, 1, ["datawal", ...cached, "lmdb", "sqlite", "level", ...files]),
  get(keys, 100, ["datawal", ...cached, "lmdb", "sqlite", "level"])
]

export const kv = [
  ...at(100_000, { files: ["effect files"] }),
  // More than the usual cache has room for.
  ...at(1_000_000, { cached: ["datawal cached"] }),
  open(1_000_000, ["datawal checkpoint", "datawal log", "lmdb", "sqlite", "level"])
]
