/** LMDB through lmdb-js: a memory map, copy on write, commits in a thread of its own. */
import { open } from "lmdb"

const openDatabase = (directory, { no_sync }, keyEncoding) =>
  open({
    path: directory,
    encoding: "binary",
    keyEncoding,
    // A map that has to grow is mapped anew; the size is only one of address space.
    mapSize: 64 * 2 ** 30,
    ...(no_sync ? { noSync: true, overlappingSync: false } : {})
  })

/** One call, as the mode has it. */
const callOf = (db, { flushed, synchronous }, asynchronous, now) =>
  synchronous
    ? now
    : flushed
    ? async (...args) => {
      await asynchronous(...args)
      await db.flushed
    }
    : asynchronous

export const openLog = async (directory, mode) => {
  const db = openDatabase(directory, mode, "ordered-binary")
  const put = callOf(db, mode, (key, value) => db.put(key, value), (key, value) => db.putSync(key, value))
  let next = 0
  const append = async (payload, count) => {
    if (mode.synchronous) { for (let done = 0; done < count; done++) put(next++, payload) }
    else for (let done = 0; done < count; done++) await put(next++, payload)
  }
  return {
    close: () => db.close(),
    append,
    appendFrom: (fibers, payload, count) =>
      Promise.all(Array.from({ length: fibers }, () => append(payload, Math.ceil(count / fibers)))),
    appendBatches: (payload, batch) => async (count) => {
      for (let done = 0; done < count; done += batch) {
        await db.transaction(() => {
          for (let index = 0; index < batch; index++) void db.put(next++, payload)
        })
      }
    },
    appendMany: async (payload, count) => {
      db.transactionSync(() => {
        for (let done = 0; done < count; done++) db.putSync(next++, payload)
      })
      await db.flushed
    },
    scan: async () => {
      let records = 0
      for (const { value } of db.getRange()) if (value.length > 0) records++
      return records
    }
  }
}

export const openReader = openLog

export const openKv = async (directory, mode) => {
  const db = openDatabase(directory, mode, "binary")
  const put = callOf(db, mode, (key, value) => db.put(key, value), (key, value) => db.putSync(key, value))
  const remove = callOf(db, mode, (key) => db.remove(key), (key) => db.removeSync(key))
  const putUnawaited = async (keys, value) => {
    for (let from = 0; from < keys.length; from += 1_000) {
      let last
      for (let index = from; index < Math.min(keys.length, from + 1_000); index++) last = db.put(keys[index], value)
      await last
    }
  }
  return {
    close: () => db.close(),
    // One transaction for all.
    putMany: async (batches) => {
      db.transactionSync(() => {
        for (const batch of batches) {
          for (const [key, value] of batch) db.putSync(key, value)
        }
      })
      await db.flushed
    },
    put: mode.unawaited ? putUnawaited : async (keys, value) => {
      if (mode.synchronous) { for (const key of keys) put(key, value) }
      else for (const key of keys) await put(key, value)
    },
    remove: async (keys) => {
      if (mode.synchronous) { for (const key of keys) remove(key) }
      else for (const key of keys) await remove(key)
    },
    get: async (keys) => {
      let bytes = 0
      for (const key of keys) bytes += db.get(key).length
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
