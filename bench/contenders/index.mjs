/**
 * Who is measured, in which modes, and what each mode promises. Modules are loaded by name when they are needed: the
 * package of a peer may be missing.
 *
 * `survives` is what an acknowledged write survives, the death of the process and the loss of power: only those with a
 * like or weaker promise are set against each other. `intact` is whether the store itself does. `verifies` is whether
 * what is read was checked against a checksum.
 */
const nothing = { kill: false, power: false }
const kill = { kill: true, power: false }
const power = { kill: true, power: true }

const modules = {
  datawal: {
    title: "effect-datawal",
    verifies: true,
    modes: {
      datawal: { survives: kill, intact: true, one_segment: true, says: "`manual`: the kernel has it" },
      "datawal rotating": {
        survives: kill,
        intact: true,
        says: "`manual`, and a new segment, after an fsync, every 64 MiB"
      },
      "datawal sink": { survives: kill, intact: true, one_segment: true, sink: true, says: "a Stream into the Sink" },
      "datawal always": {
        survives: power,
        intact: true,
        durable: true,
        says: "`always`: an fdatasync, shared by those who wait"
      },
      "datawal cached": {
        survives: kill,
        intact: true,
        one_segment: true,
        cache_bytes: 268_435_456,
        says: "`cacheSize` of 256 MiB instead of 32"
      },
      "datawal checkpoint": { survives: kill, intact: true, says: "opened after a clean close" },
      "datawal log": { survives: kill, intact: true, from_log: true, says: "opened without a checkpoint" }
    }
  },
  lmdb: {
    title: "LMDB",
    needs: "lmdb",
    verifies: false,
    modes: {
      lmdb: { survives: kill, intact: true, says: "each `put` awaited: its commit, not its flush" },
      "lmdb noSync": {
        survives: kill,
        intact: false,
        no_sync: true,
        synchronous: true,
        says: "`noSync`, `putSync`: no other thread, no flush"
      },
      "lmdb unawaited": {
        survives: nothing,
        intact: true,
        unawaited: true,
        says: "1,000 `put`s, then one await: they share a commit"
      },
      "lmdb flushed": { survives: power, intact: true, flushed: true, says: "each `put`, then `flushed`, awaited" }
    }
  },
  sqlite: {
    title: "SQLite",
    needs: "better-sqlite3",
    verifies: false,
    modes: {
      sqlite: { survives: kill, intact: true, synchronous: "NORMAL", says: "WAL, `synchronous = NORMAL`" },
      "sqlite off": { survives: kill, intact: false, synchronous: "OFF", says: "WAL, `synchronous = OFF`" },
      "sqlite full": { survives: power, intact: true, synchronous: "FULL", says: "WAL, `synchronous = FULL`" }
    }
  },
  level: {
    title: "LevelDB",
    needs: "classic-level",
    verifies: false,
    modes: {
      level: { survives: kill, intact: true, sync: false, says: "`sync: false`" },
      "level sync": { survives: power, intact: true, sync: true, says: "`sync: true`" }
    }
  },
  aol: {
    title: "async-append-only-log",
    needs: "async-append-only-log",
    verifies: false,
    modes: {
      aol: { survives: nothing, intact: true, says: "`append`: it is in memory, and written within 250 ms" },
      "aol drained": {
        survives: power,
        intact: true,
        drained: true,
        says: "`append`, then `onDrain`, written after 1 ms instead of 250"
      }
    }
  },
  map: {
    title: "a JavaScript Map",
    verifies: false,
    modes: { Map: { survives: nothing, intact: false, says: "strings to objects: an index alone, nothing is stored" } }
  },
  files: {
    title: "plain files",
    verifies: false,
    modes: {
      jsonl: { survives: kill, intact: false, says: "lines of JSON, `appendFile` of `node:fs/promises`" },
      "jsonl sync call": { survives: kill, intact: false, synchronous: true, says: "lines of JSON, `appendFileSync`" },
      "jsonl fsync": {
        survives: power,
        intact: false,
        durable: true,
        says: "lines of JSON, `appendFile` to an open file, then `datasync`"
      },
      "effect files": {
        survives: kill,
        intact: false,
        says: "Effect's `KeyValueStore.layerFileSystem`: a file each key, overwritten in place"
      }
    }
  }
}

/** Every contender's mode. */
export const modes = Object.assign({}, ...Object.values(modules).map((module) => module.modes))

/** The packages that the peers need. */
export const packages = Object.values(modules).flatMap(({ needs }) => needs === undefined ? [] : [needs])

export const moduleOf = (contender) => Object.keys(modules).find((name) => contender in modules[name].modes)

/** What a contender is called, the package it needs, and whether it checks what it reads. */
export const aboutOf = (contender) => modules[moduleOf(contender)]

export const isOurs = (contender) => moduleOf(contender) === "datawal"

/** Whether an acknowledged call of the one survives what the other's does not. */
export const promisesMore = (one, other) =>
  (modes[one].survives.kill && !modes[other].survives.kill) ||
  (modes[one].survives.power && !modes[other].survives.power)

export const load = (contender) => import(`./${moduleOf(contender)}.mjs`)
