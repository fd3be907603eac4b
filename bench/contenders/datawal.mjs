/** effect-datawal itself, as a program uses it: one Effect per call, yielded from a loop in one Effect program. */
import { Effect, Exit, Scope, Stream } from "effect"
import { rmSync } from "node:fs"
import { join } from "node:path"

// Another build of the library can be measured beside this one: a module's path or URL.
const { Export, Kv, Log, Reader } = await import(process.env["DATAWAL_BENCH_LIBRARY"] ?? "../../dist/index.js")

// At this size no segment gets full, so that no rotation, an fsync of the whole segment, falls into a measurement.
const one_segment_bytes = 8 * 1_073_741_824

const opened = async (make) => {
  const scope = Effect.runSync(Scope.make())
  const service = await Effect.runPromise(Scope.provide(make, scope))
  return { service, close: () => Effect.runPromise(Scope.close(scope, Exit.void)) }
}

const options = (directory, { cache_bytes, durable, from_log, one_segment }) => ({
  directory,
  ...(cache_bytes === undefined ? {} : { cacheSize: cache_bytes }),
  ...(from_log ? { checkpoint: "never" } : {}),
  durability: durable ? "always" : "manual",
  ...(one_segment ? { segmentSize: one_segment_bytes } : {})
})

const appendEach = Effect.fnUntraced(function*(log, payload, count) {
  for (let done = 0; done < count; done++) yield* log.append(payload)
})

const appendAll = Effect.fnUntraced(function*(log, records, count) {
  for (let done = 0; done < count; done += records.length) yield* log.appendAll(records)
})

const putEach = Effect.fnUntraced(function*(kv, keys, value) {
  for (const key of keys) yield* kv.put(key, value)
})

const deleteEach = Effect.fnUntraced(function*(kv, keys) {
  for (const key of keys) yield* kv.delete(key)
})

const getEach = Effect.fnUntraced(function*(kv, keys) {
  let bytes = 0
  for (const key of keys) bytes += (yield* kv.get(key)).length
  return bytes
})

const getMany = Effect.fnUntraced(function*(kv, keys, group) {
  let bytes = 0
  for (let from = 0; from < keys.length; from += group) {
    for (const value of yield* kv.getMany(keys.slice(from, from + group))) bytes += value.length
  }
  return bytes
})

const putMany = Effect.fnUntraced(function*(kv, batches) {
  for (const batch of batches) yield* kv.putMany(batch)
})

const greatestDivisor = (count, at_most) => {
  let divisor = Math.min(count, at_most)
  while (count % divisor !== 0) divisor--
  return divisor
}

/** A log: appends. */
export const openLog = async (directory, mode) => {
  const { close, service: log } = await opened(Log.make(options(directory, mode)))
  const recordsOf = (payload, batch) => Array.from({ length: batch }, () => ({ type: "Raw", payload }))
  return {
    close,
    append: (payload, count) => Effect.runPromise(appendEach(log, payload, count)),
    appendFrom: (fibers, payload, count) =>
      Effect.runPromise(Effect.forEach(
        Array.from({ length: fibers }),
        () => appendEach(log, payload, Math.ceil(count / fibers)),
        { concurrency: "unbounded", discard: true }
      )),
    appendBatches: (payload, batch) => {
      const records = recordsOf(payload, batch)
      return mode.sink
        ? (count) =>
          Effect.runPromise(
            Stream.run(Stream.fromArrays(...Array.from({ length: Math.ceil(count / batch) }, () => records)), log.sink)
          )
        : (count) => Effect.runPromise(appendAll(log, records, count))
    },
    // In batches of a MiB or so: what a batch holds is in memory.
    appendMany: (payload, count) =>
      Effect.runPromise(
        appendAll(log, recordsOf(payload, greatestDivisor(count, Math.ceil(1_048_576 / payload.length))), count)
      )
  }
}

/** A log without its lock: scans. */
export const openReader = async (directory) => {
  const { close, service: reader } = await opened(Reader.make({ directory }))
  return {
    close,
    scan: async () => {
      let records = 0
      await Effect.runPromise(Stream.runForEachArray(reader.stream, (batch) =>
        Effect.sync(() => {
          records += batch.length
        })))
      return records
    }
  }
}

/** A key/value store. */
export const openKv = async (directory, mode) => {
  const { close, service: kv } = await opened(Kv.make(options(directory, mode)))
  return {
    close,
    putMany: (batches) => Effect.runPromise(putMany(kv, batches)),
    put: (keys, value) => Effect.runPromise(putEach(kv, keys, value)),
    remove: (keys) => Effect.runPromise(deleteEach(kv, keys)),
    get: (keys) => Effect.runPromise(getEach(kv, keys)),
    getMany: (keys, group) => Effect.runPromise(getMany(kv, keys, group)),
    size: () => Effect.runPromise(kv.size),
    exportTo: async (path) => (await Effect.runPromise(Export.toFile(kv, path))).records_written,
    compactTo: async (path) => (await Effect.runPromise(kv.compactTo(path))).records_written,
    importFrom: async (readable) => {
      const lines = Stream.fromAsyncIterable(readable, (cause) => cause)
      return (await Effect.runPromise(Export.fromLines(kv, lines))).records_written
    }
  }
}

/** What a clean close leaves to open faster by. Without it the log is read. */
export const checkpoint = "keydir.checkpoint"

/** Takes the index's checkpoint away, so that the next open reads the log. */
export const withoutCheckpoint = (directory) => rmSync(join(directory, checkpoint), { force: true })
