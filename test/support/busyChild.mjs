/**
 * Works on several stores at once, each in a directory of its own below ROOT, until it is killed, and tells what is done
 * over its standard output: a line `WORK WHAT NUMBER`, written when the store has said so and not before.
 *
 *     node busyChild.mjs ROOT WORK=START …
 *
 * | work | says |
 * | --- | --- |
 * | `small`, `always`, `rotate`, `many` | `written N` when the append of record N has resolved |
 * | `large` | the same, and `writing N` just before |
 * | `synced` | the same, and `synced N` when everything up to record N is durable |
 * | `kv` | `written N` when operation N has resolved |
 * | `import` | `written N` when all lines below N are stored |
 * | `compact` | `written N` when the compaction into `targets/N` has resolved |
 * | `export` | `written N` when the export of a store whose key `number` is N has resolved |
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { writeSync } from "node:fs"
import { join } from "node:path"
import { Export, Kv, Log } from "../../dist/index.js"
import { lineOf, operationOf, payloadOf } from "./payloads.mjs"

const [root, ...works] = process.argv.slice(2)

const say = (line) => writeSync(1, `${line}\n`)

/** It is killed long before; if not, it must not fill the disk. */
const round_bytes_max = 8_388_608

/** Calls `step` with one number after the other, until it has written enough. */
const counting = (start, step) =>
  Effect.gen(function*() {
    let bytes = 0
    for (let n = start; bytes < round_bytes_max; n++) {
      bytes += yield* step(n)
      yield* Effect.yieldNow
    }
    yield* Effect.never
  })

const appending = (kind, options) => (name, start) =>
  Effect.gen(function*() {
    const log = yield* Log.make({ directory: join(root, name), ...options })
    return counting(start, (n) => {
      const payload = payloadOf(kind, n)
      return Effect.map(log.append(payload), () => {
        say(`${name} written ${n}`)
        return payload.length
      })
    })
  })

const loops = {
  small: (name, start) =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: join(root, name) })
      let n = start
      const one = Effect.suspend(() =>
        Effect.map(log.append(payloadOf("small", n)), () => {
          say(`${name} written ${n}`)
          n++
        })
      )
      return counting(start, () => Effect.as(Effect.repeat(one, { times: 24 }), 12_000))
    }),
  large: (name, start) =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: join(root, name) })
      return counting(start, (n) => {
        const payload = payloadOf("huge", n)
        say(`${name} writing ${n}`)
        return Effect.map(log.append(payload), () => {
          say(`${name} written ${n}`)
          return payload.length / 8
        })
      })
    }),
  always: appending("mixed", { durability: "always" }),
  rotate: (name, start) =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: join(root, name), segmentSize: 5_000 })
      return counting(start, (n) => {
        const payload = payloadOf("small", n)
        return Effect.gen(function*() {
          yield* log.append(payload)
          say(`${name} written ${n}`)
          if (n % 11 === 0) yield* log.rotate
          // A thousand files a round would be too many.
          return payload.length * 64
        })
      })
    }),
  many: (name, start) =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: join(root, name) })
      let n = start
      const one = Effect.suspend(() => {
        const mine = n++
        return Effect.map(log.append(payloadOf("mixed", mine)), () => say(`${name} written ${mine}`))
      })
      return Effect.all(
        Array.from({ length: 8 }, () => Effect.repeat(Effect.andThen(one, Effect.yieldNow), { times: 200 })),
        { concurrency: "unbounded" }
      )
    }),
  synced: (name, start) =>
    Effect.gen(function*() {
      const log = yield* Log.make({ directory: join(root, name) })
      return counting(start, (n) => {
        const records = Array.from(
          { length: 5 },
          (_, index) => ({ type: "Raw", payload: payloadOf("mixed", 5 * n + index) })
        )
        const last = 5 * n + 4
        return Effect.gen(function*() {
          yield* log.appendAll(records)
          say(`${name} written ${last}`)
          yield* log.sync
          say(`${name} synced ${last}`)
          return records.reduce((bytes, { payload }) => bytes + payload.length, 0)
        })
      })
    }),
  kv: (name, start) =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: join(root, name), segmentSize: 1_000_000 })
      return counting(start, (n) => {
        const { key, value } = operationOf(n)
        return Effect.map(value === undefined ? kv.delete(key) : kv.put(key, value), () => {
          say(`${name} written ${n}`)
          return value?.length ?? 0
        })
      })
    }),
  import: (name, start) =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: join(root, name) })
      const lines = Stream.map(
        Stream.rechunk(Stream.range(start, start + 2_000), 1),
        (n) => new TextEncoder().encode(lineOf(n))
      )
      return Effect.andThen(
        Export.fromLines(kv, lines, { onProgress: (records) => say(`${name} written ${start + records}`) }),
        Effect.never
      )
    }),
  compact: (name, start) =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: join(root, name, "store") })
      return counting(start, (n) =>
        Effect.map(kv.compactTo(join(root, name, "targets", String(n))), ({ bytes_written }) => {
          say(`${name} written ${n}`)
          return bytes_written
        }))
    }),
  export: (name, start) =>
    Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: join(root, name, "store") })
      return counting(start, (n) =>
        Effect.gen(function*() {
          yield* kv.put("number", String(n))
          const { bytes_written } = yield* Export.toFile(kv, join(root, name, "out", "store.jsonl"))
          say(`${name} written ${n}`)
          return bytes_written
        }))
    })
}

const program = Effect.gen(function*() {
  const running = yield* Effect.forEach(works, (work) => {
    const [name, start] = work.split("=")
    return loops[name](name, Number(start))
  })
  say("ready")
  yield* Effect.all(running, { concurrency: "unbounded" })
})

// Whoever has written enough lives on, so that it can be killed.
setInterval(() => {}, 1_000_000)

await Effect.runPromise(Effect.scoped(program))
