/** The log: appends in all forms, and reading it from end to end. */
import { batch_records, payloadOf } from "../data.mjs"
import * as floors from "../floors.mjs"
import { measure, using } from "./measured.mjs"

const bytes_by_name = { "64B": 64, "1KiB": 1_024, "64KiB": 65_536, "1MiB": 1_048_576 }

const spaced = (size) => size.replace(/\d+/, "$& ")

// What a run writes at most: so little that the system need not write it back meanwhile.
const written_bytes_max = 268_435_456

const append = (size, contenders) => ({
  kind: "append",
  name: `append-${size}`,
  title: `append awaited one by one, ${spaced(size)}`,
  floor: "one writeSync",
  contenders,
  run: (context) =>
    using(context, "log", (store) => {
      const payload = payloadOf(bytes_by_name[size])
      return measure(context, {
        floor: floors.write(context.directory, payload.length + floors.frame_bytes),
        work: { run: (count) => store.append(payload, count) },
        operations_max: written_bytes_max / payload.length
      })
    })
})

const batch = (size, contenders) => ({
  kind: "batch",
  name: `batch-${size}`,
  title: `append in batches of ${batch_records.toLocaleString("en")}, ${spaced(size)}`,
  floor: "a copy into one buffer, and one writeSync a batch",
  contenders,
  run: (context) =>
    using(context, "log", (store) => {
      const payload = payloadOf(bytes_by_name[size])
      return measure(context, {
        floor: floors.copyAndWrite(context.directory, payload, batch_records),
        work: { run: store.appendBatches(payload, batch_records) },
        group: batch_records,
        operations_max: 2 * written_bytes_max / payload.length
      })
    })
})

const durable = (fibers, contenders) => ({
  kind: fibers === 1 ? "durable" : "durable together",
  name: `durable-${fibers}`,
  title: fibers === 1 ? "durable append of 64 B, one by one" : `durable append of 64 B, ${fibers} at once`,
  floor: "one writeSync and one fdatasyncSync",
  contenders,
  run: (context) =>
    using(context, "log", (store) => {
      const payload = payloadOf(64)
      return measure(context, {
        floor: floors.writeDurably(context.directory, payload.length + floors.frame_bytes),
        work: {
          run: (count) => fibers === 1 ? store.append(payload, count) : store.appendFrom(fibers, payload, count)
        },
        group: fibers,
        floor_group: 1
      })
    })
})

const scanned_bytes_max = 67_108_864
const scanned_records_max = 250_000

const stream = (size, contenders) => {
  const payload_bytes = bytes_by_name[size]
  const recordsOf = ({ form }) =>
    Math.ceil(Math.min(scanned_records_max, scanned_bytes_max / payload_bytes) / form.shrink)
  return {
    kind: "stream",
    name: `stream-${size}`,
    title: `stream of every record, ${spaced(size)}`,
    floor: "readSync of the whole file, a MiB at a time",
    contenders,
    prepared: {
      name: `log-${size}`,
      make: (context) =>
        using(context, "log", (store) => store.appendMany(payloadOf(payload_bytes), recordsOf(context)))
    },
    run: (context) =>
      using(context, "reader", (store) => {
        const records = recordsOf(context)
        const times = (work) => async (count) => {
          for (let done = 0; done < count; done += records) await work()
        }
        const scan = async () => {
          const found = await store.scan()
          if (found !== records) throw new Error(`${found} records were read, not ${records}`)
        }
        return measure(context, {
          floor: { run: times(() => floors.readFiles(context.store)) },
          work: { run: times(scan) },
          group: records
        })
      })
  }
}

const each = ["lmdb", "lmdb noSync", "sqlite", "sqlite off", "level"]
const lines = ["jsonl", "jsonl sync call"]
const durably = ["datawal always", "lmdb flushed", "sqlite full", "level sync", "aol drained", "jsonl fsync"]

export const log = [
  append("64B", ["datawal", ...each, "aol", ...lines]),
  append("1KiB", ["datawal", ...each, "aol", ...lines]),
  append("64KiB", ["datawal", "datawal rotating", ...each, ...lines]),
  batch("64B", ["datawal", "datawal sink", "lmdb", "sqlite", "sqlite off", "level", "aol", ...lines]),
  batch("1KiB", [
    "datawal",
    "datawal sink",
    "datawal rotating",
    "lmdb",
    "sqlite",
    "sqlite off",
    "level",
    "aol",
    ...lines
  ]),
  durable(1, durably),
  durable(64, durably),
  stream("64B", ["datawal", "lmdb", "sqlite", "level", "aol", "jsonl"]),
  stream("1KiB", ["datawal", "lmdb", "sqlite", "level", "aol", "jsonl"]),
  stream("1MiB", ["datawal", "lmdb", "sqlite", "level", "jsonl"])
]
