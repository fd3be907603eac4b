/** SQLite through better-sqlite3: synchronous calls, a write-ahead log. */
import Database from "better-sqlite3"
import { join } from "node:path"

const openDatabase = (directory, mode, schema) => {
  const db = new Database(join(directory, "store.sqlite"))
  db.pragma("journal_mode = WAL")
  db.pragma(`synchronous = ${mode.synchronous}`)
  db.exec(`CREATE TABLE IF NOT EXISTS ${schema}`)
  return db
}

const checkpoint = (db) => db.pragma("wal_checkpoint(TRUNCATE)")

export const openLog = async (directory, mode) => {
  const db = openDatabase(directory, mode, "log (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
  const insert = db.prepare("INSERT INTO log (payload) VALUES (?)")
  const insertMany = db.transaction((payload, count) => {
    for (let done = 0; done < count; done++) insert.run(payload)
  })
  const append = async (payload, count) => {
    for (let done = 0; done < count; done++) insert.run(payload)
  }
  return {
    close: async () => db.close(),
    append,
    // Its calls are synchronous: callers that come at once are served one after the other.
    appendFrom: (_fibers, payload, count) => append(payload, count),
    appendBatches: (payload, batch) => async (count) => {
      for (let done = 0; done < count; done += batch) insertMany(payload, batch)
    },
    appendMany: async (payload, count) => {
      insertMany(payload, count)
      checkpoint(db)
    },
    scan: async () => {
      let records = 0
      for (const { payload } of db.prepare("SELECT id, payload FROM log ORDER BY id").iterate()) {
        if (payload.length > 0) records++
      }
      return records
    }
  }
}

export const openReader = openLog

export const openKv = async (directory, mode) => {
  const db = openDatabase(directory, mode, "kv (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
  const upsert = db.prepare(
    "INSERT INTO kv (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
  )
  const remove = db.prepare("DELETE FROM kv WHERE key = ?")
  const select = db.prepare("SELECT value FROM kv WHERE key = ?").pluck()
  const upsertMany = db.transaction((batches) => {
    for (const batch of batches) {
      for (const [key, value] of batch) upsert.run(key, value)
    }
  })
  const readEach = (keys) => {
    let bytes = 0
    for (const key of keys) bytes += select.get(key).length
    return bytes
  }
  // One read transaction for all of them.
  const readTogether = db.transaction(readEach)
  return {
    close: async () => db.close(),
    putMany: async (batches) => {
      upsertMany(batches)
      checkpoint(db)
    },
    put: async (keys, value) => {
      for (const key of keys) upsert.run(key, value)
    },
    remove: async (keys) => {
      for (const key of keys) remove.run(key)
    },
    get: async (keys) => readEach(keys),
    getMany: async (keys, group) => {
      let bytes = 0
      for (let from = 0; from < keys.length; from += group) bytes += readTogether(keys.slice(from, from + group))
      return bytes
    }
  }
}

/** Keys in order are what it is filled with best. */
export const ordered = true
