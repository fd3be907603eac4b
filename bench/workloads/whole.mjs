/** What takes a whole store at once: memory of the index, export, import and compaction; and how each cost grows. */
import { createReadStream, createWriteStream, mkdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import { pipeline } from "node:stream/promises"
import { batch_records, batchesOf, key_bytes, keyOf, payloadOf, randomNumbers, value_bytes } from "../data.mjs"
import * as floors from "../floors.mjs"
import { median, withMemory } from "../measure.mjs"
import { storeOf } from "./kv.mjs"
import { measureOnce, power, using } from "./measured.mjs"

const held = () => {
  globalThis.gc()
  const { external, heapUsed, rss } = process.memoryUsage()
  return { held: heapUsed + external, rss }
}

/** Bytes a key, beyond the key's own: what the engine accounts for, and what the system has given it. */
const memoryOf = async (keys, fill) => {
  const before = held()
  await fill()
  const after = held()
  return {
    held_bytes: (after.held - before.held) / keys - key_bytes,
    rss_bytes: (after.rss - before.rss) / keys - key_bytes
  }
}

const memory = (keys, contenders) => ({
  kind: "memory",
  name: `memory-${power(keys)}`,
  title: `memory a key beyond its own 16 bytes, ${keys.toLocaleString("en")} keys`,
  rounds: 1,
  records: keys,
  contenders,
  run: (context) =>
    using(context, "kv", async (store) => {
      const count = Math.ceil(keys / context.form.shrink)
      const bytes = await memoryOf(count, () =>
        store.putMany(batchesOf(count, { size: batch_records, value: payloadOf(8) })))
      const size = await store.size()
      if (size !== count) {
        throw new Error(`it holds ${size} keys, not ${count}`)
      }
      return bytes
    })
})

// Lines as an export writes them.
const linesOf = function*(keys) {
  const value = payloadOf(value_bytes).toString("base64")
  for (let from = 0; from < keys; from += batch_records) {
    let lines = ""
    for (let index = from; index < Math.min(keys, from + batch_records); index++) {
      lines += `{"key_b64":"${keyOf(index).toString("base64")}","value_b64":"${value}"}\n`
    }
    yield lines
  }
}

const transfer = (name, keys, { floor, make, run }) => ({
  kind: name,
  name: `${name}-${power(keys)}`,
  title: `${name} of ${keys.toLocaleString("en")} records of 100 B`,
  floor,
  contenders: ["datawal"],
  prepared: make === undefined
    ? storeOf(keys)
    : { name: `lines-${power(keys)}`, make: (context) => make(context, keys) },
  run: async (context) => {
    const records = Math.ceil(keys / context.form.shrink)
    const target = join(context.directory, "target")
    const bytes = records * (floors.frame_bytes + key_bytes + value_bytes)
    const job = (work) =>
      measureOnce(context, {
        floor: () => floors.writeFile(join(context.directory, "floor"), bytes),
        operations: records,
        run: work
      })
    return run(context, { job, target, records })
  }
})

const expectRecords = (found, records) => {
  if (found !== records) throw new Error(`${found} records were written, not ${records}`)
}

const transfers = (keys) => [
  transfer("export", keys, {
    floor: "writeSync of as many bytes as the store has, a MiB at a time, and a sync",
    run: (context, { job, records, target }) =>
      using(context, "kv", (store) => job(async () => expectRecords(await store.exportTo(target), records)))
  }),
  transfer("compact", keys, {
    floor: "the same",
    run: (context, { job, records, target }) =>
      using(context, "kv", (store) => job(async () => expectRecords(await store.compactTo(target), records)))
  }),
  transfer("import", keys, {
    floor: "the same",
    make: ({ form, store }, keys) =>
      pipeline(linesOf(Math.ceil(keys / form.shrink)), createWriteStream(join(store, "lines.jsonl"))),
    run: (context, { job, records, target }) => {
      const lines = createReadStream(join(context.store, "lines.jsonl"), { highWaterMark: 1_048_576 })
      return using(
        { ...context, store: target },
        "kv",
        (store) => job(async () => expectRecords(await store.importFrom(lines), records))
      )
    }
  })
]

// So many single operations at most: a store may have more records.
const single_operations_max = 50_000

const timed = async (operations, run) => {
  const started = performance.now()
  await run()
  return (performance.now() - started) * 1e6 / operations
}

/** The same batches, and the time it took to make them. */
function* watched(batches, making) {
  for (;;) {
    const started = performance.now()
    const next = batches.next()
    making.ns += (performance.now() - started) * 1e6
    if (next.done) return
    yield next.value
  }
}

/** Collects what each work took, and for work on a whole store the memory it added. */
const collector = () => {
  const costs = {}
  const added_mib = {}
  return {
    costs,
    added_mib,
    calls: async (name, operations, run) => {
      costs[name] = await timed(operations, run)
    },
    whole: async (name, records, run) => {
      const { memory, value } = await withMemory(() => timed(records, run))
      costs[name] = value
      added_mib[name] = memory.rss_peak_mib - memory.rss_before_mib
    }
  }
}

const growthOfLog = async ({ mode, module, store }, records) => {
  const found = collector()
  const payload = payloadOf(64)
  const single = Math.min(records, single_operations_max)
  const log = await module.openLog(store, mode)
  await found.whole("appendAll", records, () => log.appendMany(payload, records))
  await found.calls("append", single, () => log.append(payload, single))
  await log.close()
  const reader = await module.openReader(store)
  await found.whole("stream", records + single, async () => expectRecords(await reader.scan(), records + single))
  await reader.close()
  return found
}

const growthOfKv = async ({ directory, mode, module, store }, records) => {
  const found = collector()
  const value = payloadOf(value_bytes)
  const single = Math.min(records, single_operations_max)
  const random = randomNumbers(4)
  const some = Array.from({ length: single }, () => keyOf(random(records)))
  let kv = await module.openKv(store, mode)
  const making = { ns: 0 }
  const batches = watched(batchesOf(records, { size: batch_records, value }), making)
  await found.whole("putMany", records, () => kv.putMany(batches))
  found.costs.putMany -= making.ns / records
  await found.calls("put", single, () => kv.put(some, value))
  await found.calls("get", single, () => kv.get(some))
  await found.calls("getMany", single, () => kv.getMany(some, 100))
  const file = join(directory, "lines.jsonl")
  const target = join(directory, "target")
  await found.whole("export", records, async () => expectRecords(await kv.exportTo(file), records))
  await found.whole("compactTo", records, async () => expectRecords(await kv.compactTo(target), records))
  rmSync(target, { recursive: true })
  await kv.close()
  await found.whole("open", records, async () => {
    kv = await module.openKv(store, mode)
  })
  await kv.close()
  module.withoutCheckpoint(store)
  await found.whole("openFromLog", records, async () => {
    kv = await module.openKv(store, mode)
  })
  await found.calls("delete", single, () => kv.remove(some))
  await kv.close()
  rmSync(store, { recursive: true })
  kv = await module.openKv(target, mode)
  const lines = createReadStream(file, { highWaterMark: 1_048_576 })
  await found.whole("import", records, async () => expectRecords(await kv.importFrom(lines), records))
  await kv.close()
  return found
}

const mediansOf = (records) =>
  Object.fromEntries(Object.keys(records[0]).map((name) => [name, median(records.map((record) => record[name]))]))

const growth = (records) => ({
  kind: "growth",
  name: `growth-${power(records)}`,
  title: `every workload at ${records.toLocaleString("en")} records`,
  rounds: 1,
  records,
  contenders: ["datawal rotating"],
  run: async (context) => {
    const { shrink, warm_laps } = context.form
    const count = Math.ceil(records / shrink)
    let lap = 0
    const measured = async (growthOf, count) => {
      const directory = join(context.directory, `lap-${lap++}`)
      mkdirSync(directory)
      const found = await growthOf({ ...context, directory, store: join(directory, "store") }, count)
      rmSync(directory, { recursive: true, force: true })
      return found
    }
    // Small stores are measured several times, and all by a process that is warm.
    const laps = Math.max(1, Math.min(5, Math.floor(100_000 / records / shrink)))
    const series = {}
    const added_mib = {}
    for (const growthOf of [growthOfLog, growthOfKv]) {
      for (let warm = 0; warm < warm_laps; warm++) await measured(growthOf, Math.min(count, 5_000))
      const found = []
      for (let lap = 0; lap < laps; lap++) found.push(await measured(growthOf, count))
      Object.assign(series, mediansOf(found.map(({ costs }) => costs)))
      Object.assign(added_mib, mediansOf(found.map((one) => one.added_mib)))
    }
    return { records: count, series, added_mib }
  }
})

export const whole = [
  memory(1_000_000, ["datawal", "Map"]),
  memory(10_000_000, ["datawal"]),
  ...transfers(1_000_000),
  ...[1_000, 10_000, 100_000, 1_000_000, 10_000_000].map(growth)
]
