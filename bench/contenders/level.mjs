/** LevelDB through classic-level: sorted tables behind a log, every call in the thread pool. */
import { ClassicLevel } from "classic-level"

const openDatabase = async (directory) => {
  const db = new ClassicLevel(directory, { keyEncoding: "buffer", valueEncoding: "buffer" })
  await db.open()
  return db
}

const batch_bytes_max = 4_194_304

const putAll = (db, entries, options) => db.batch(entries.map(([key, value]) => ({ type: "put", key, value })), options)

// What it would do in the background later: reading is measured when the tables are in order.
const settle = (db) => db.compactRange(Buffer.alloc(0), Buffer.alloc(17, 255))

export const openLog = async (directory, { sync }) => {
  const db = await openDatabase(directory)
  let next = 0
  const nextKey = () => {
    const key = Buffer.allocUnsafe(8)
    key.writeDoubleBE(next++)
    return key
  }
  const append = async (payload, count) => {
    for (let done = 0; done < count; done++) await db.put(nextKey(), payload, { sync })
  }
  const appendGroup = (payload, count) =>
    putAll(db, Array.from({ length: count }, () => [nextKey(), payload]), { sync })
  return {
    close: () => db.close(),
    append,
    appendFrom: (fibers, payload, count) =>
      Promise.all(Array.from({ length: fibers }, () => append(payload, Math.ceil(count / fibers)))),
    appendBatches: (payload, batch) => async (count) => {
      for (let done = 0; done < count; done += batch) await appendGroup(payload, batch)
    },
    appendMany: async (payload, count) => {
      const group = Math.max(1, Math.min(1_000, Math.floor(batch_bytes_max / payload.length)))
      for (let done = 0; done < count; done += group) await appendGroup(payload, Math.min(group, count - done))
      await settle(db)
    },
    scan: async () => {
      let records = 0
      const iterator = db.iterator()
      for (;;) {
        const entries = await iterator.nextv(1_000)
        if (entries.length === 0) break
        records += entries.length
      }
      await iterator.close()
      return records
    }
  }
}

export const openReader = openLog

export const openKv = async (directory, { sync }) => {
  const db = await openDatabase(directory)
  return {
    close: () => db.close(),
    putMany: async (batches) => {
      for (const batch of batches) await putAll(db, batch, { sync })
      await settle(db)
    },
    put: async (keys, value) => {
      for (const key of keys) await db.put(key, value, { sync })
    },
    remove: async (keys) => {
      for (const key of keys) await db.del(key, { sync })
    },
    get: async (keys) => {
      let bytes = 0
      for (const key of keys) bytes += (await db.get(key)).length
      return bytes
    },
    getMany: async (keys, group) => {
      let bytes = 0
      for (let from = 0; from < keys.length; from += group) {
        for (const value of await db.getMany(keys.slice(from, from + group))) bytes += value.length
      }
      return bytes
    }
  }
}

/** Keys in order are what it is filled with best. */
export const ordered = true
