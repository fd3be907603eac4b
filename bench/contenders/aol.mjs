/**
 * async-append-only-log: records in blocks of 64 KiB, acknowledged from memory, written and synced a moment later. A
 * record must fit a block.
 */
import { createRequire } from "node:module"
import { join } from "node:path"

const AsyncAppendOnlyLog = createRequire(import.meta.url)("async-append-only-log")

const open = async (directory, mode) => {
  const log = AsyncAppendOnlyLog(join(directory, "log"), mode.drained ? { writeTimeout: 1 } : {})
  const call = (work) =>
    new Promise((resolve, reject) => {
      work((error, value) => error ? reject(error) : resolve(value))
    })
  const drained = () => new Promise((resolve) => log.onDrain(resolve))
  await drained()
  const append = async (payload, count) => {
    for (let done = 0; done < count; done++) {
      await call((done) => log.append(payload, done))
      if (mode.drained) await drained()
    }
  }
  return {
    close: () => call((done) => log.close(done)),
    append,
    appendFrom: (fibers, payload, count) =>
      Promise.all(Array.from({ length: fibers }, () => append(payload, Math.ceil(count / fibers)))),
    appendBatches: (payload, batch) => {
      const payloads = Array.from({ length: batch }, () => payload)
      return async (count) => {
        for (let done = 0; done < count; done += batch) await call((done) => log.append(payloads, done))
      }
    },
    appendMany: async (payload, count) => {
      for (let done = 0; done < count; done += 10_000) {
        const group = Array.from({ length: Math.min(10_000, count - done) }, () => payload)
        await call((done) => log.append(group, done))
        await drained()
      }
    },
    scan: async () => {
      let records = 0
      await call((done) =>
        log.stream({ offsets: false }).pipe({
          paused: false,
          write: (payload) => {
            if (payload.length > 0) records++
          },
          end: (error) => done(error === true ? undefined : error)
        })
      )
      return records
    }
  }
}

export const openLog = open
export const openReader = open
