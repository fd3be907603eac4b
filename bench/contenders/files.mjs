/** What needs no library: lines of JSON appended to a file; and Effect's own store of one file per key. */
import { NodeServices } from "@effect/platform-node"
import { Effect, Layer, ManagedRuntime } from "effect"
import { KeyValueStore } from "effect/persistence"
import { appendFileSync, createReadStream } from "node:fs"
import { appendFile, open } from "node:fs/promises"
import { join } from "node:path"
import { createInterface } from "node:readline"

const line = (text) => `${JSON.stringify({ payload: text })}\n`

export const openLog = async (directory, mode) => {
  const path = join(directory, "log.jsonl")
  const handle = await open(path, "a")
  const append = async (payload, count) => {
    const text = payload.toString("latin1")
    for (let done = 0; done < count; done++) {
      if (mode.synchronous) appendFileSync(path, line(text))
      else if (!mode.durable) await appendFile(path, line(text))
      else {
        await handle.appendFile(line(text))
        await handle.datasync()
      }
    }
  }
  return {
    close: () => handle.close(),
    append,
    appendFrom: (fibers, payload, count) =>
      Promise.all(Array.from({ length: fibers }, () => append(payload, Math.ceil(count / fibers)))),
    appendBatches: (payload, batch) => {
      const text = payload.toString("latin1")
      return async (count) => {
        for (let done = 0; done < count; done += batch) {
          let lines = ""
          for (let index = 0; index < batch; index++) lines += line(text)
          if (mode.synchronous) appendFileSync(path, lines)
          else await appendFile(path, lines)
        }
      }
    },
    appendMany: async (payload, count) => {
      const group = Math.max(1, Math.floor(4_194_304 / payload.length))
      const text = payload.toString("latin1")
      for (let done = 0; done < count; done += group) {
        await handle.appendFile(line(text).repeat(Math.min(group, count - done)))
      }
    },
    scan: async () => {
      let records = 0
      for await (const text of createInterface({ input: createReadStream(path, { highWaterMark: 1_048_576 }) })) {
        if (JSON.parse(text).payload.length > 0) records++
      }
      return records
    }
  }
}

export const openReader = openLog

const putEach = Effect.fnUntraced(function*(store, keys, value) {
  for (const key of keys) yield* store.set(key, value)
})

const removeEach = Effect.fnUntraced(function*(store, keys) {
  for (const key of keys) yield* store.remove(key)
})

const getEach = Effect.fnUntraced(function*(store, keys) {
  let bytes = 0
  for (const key of keys) bytes += (yield* store.getUint8Array(key)).length
  return bytes
})

export const openKv = async (directory) => {
  const runtime = ManagedRuntime.make(Layer.provide(KeyValueStore.layerFileSystem(directory), NodeServices.layer))
  const store = await runtime.runPromise(KeyValueStore.KeyValueStore)
  const names = (keys) => keys.map((key) => key.toString("latin1"))
  return {
    close: () => runtime.dispose(),
    putMany: async (batches) => {
      for (const batch of batches) {
        await runtime.runPromise(Effect.forEach(batch, ([key, value]) => store.set(key.toString("latin1"), value), {
          concurrency: 16,
          discard: true
        }))
      }
    },
    put: (keys, value) => runtime.runPromise(putEach(store, names(keys), value)),
    remove: (keys) => runtime.runPromise(removeEach(store, names(keys))),
    get: (keys) => runtime.runPromise(getEach(store, names(keys)))
  }
}
