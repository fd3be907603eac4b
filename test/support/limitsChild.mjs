/**
 * What a store does where the system gives this process no more descriptors, or lets no file grow. To be started with a
 * limit of its own (`ulimit -n`, `ulimit -f`), which it then uses up.
 *
 *     node limitsChild.mjs descriptors ROOT    each operation with 0, 1, 2 … descriptors left, until it succeeds
 *     node limitsChild.mjs first ROOT          the first store of a process is opened when there is no descriptor left
 *     node limitsChild.mjs idle ROOT           three stores of more segments each than it may have descriptors, at once
 *     node limitsChild.mjs size ROOT           files may not grow as large as they should
 *
 * It says what each attempt came to, as a line of JSON. What must hold after each is asserted here: a process that ends
 * with anything but 0 has found it otherwise.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import assert from "node:assert/strict"
import * as fs from "node:fs"
import { basename, join } from "node:path"
import { Export, Kv, Log, Reader, Recovery } from "../../dist/index.js"

const [mode, root] = process.argv.slice(2)

const say = (line) => fs.writeSync(1, `${JSON.stringify(line)}\n`)

// -- descriptors ------------------------------------------------------------------------------------------------------

const held = []

const holdOne = () => {
  try {
    return held.push(fs.openSync("/dev/null", "r")) > 0
  } catch (error) {
    assert.equal(error.code, "EMFILE")
    return false
  }
}

/** Takes every descriptor but so many. */
const hold = (free) => {
  while (holdOne());
  for (const fd of held.splice(held.length - free)) fs.closeSync(fd)
}

const release = () => {
  for (const fd of held.splice(0)) fs.closeSync(fd)
}

// What lists them is open itself, before and after.
const openDescriptors = () => fs.readdirSync("/dev/fd").length

const starved = (free, effect) =>
  Effect.suspend(() => {
    hold(free)
    return Effect.ensuring(Effect.exit(effect), Effect.sync(release))
  })

const failureOf = (exit) => {
  if (exit._tag === "Success") return undefined
  const [reason] = exit.cause.reasons
  assert.equal(reason._tag, "Fail", String(reason.defect?.stack))
  return reason.error
}

const described = (error) =>
  error === undefined
    ? { ok: true }
    : { tag: error._tag, code: error.code, operation: error.operation, file: basename(error.path ?? "") }

// -- stores -----------------------------------------------------------------------------------------------------------

const text = (bytes) => new TextDecoder().decode(bytes)

const payloads = (log) => Effect.map(Stream.runCollect(log.stream), (records) => records.map((r) => text(r.payload)))

const read = (directory) => Effect.scoped(Effect.flatMap(Reader.make({ directory }), payloads))

const numbers = (count) => Array.from({ length: count }, (_, n) => `record ${n}`)

const raw = (payload) => ({ type: "Raw", payload })

/** A log of so many segments of three records each. */
const segments_of = 3
const makeLog = (directory, segments) =>
  Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory, segmentSize: 120 })
    yield* log.appendAll(numbers(segments * segments_of).map(raw))
    yield* log.sync
    assert.equal((yield* log.segments).length, segments)
  }))

const makeKv = (directory) =>
  Effect.scoped(Effect.gen(function*() {
    const kv = yield* Kv.make({ directory, segmentSize: 1_000 })
    yield* kv.putMany(numbers(100).map((key) => [key, `the value of ${key}`]))
    yield* kv.sync
  }))

/** A record of which only this was written. */
const tail = Buffer.from("DWAL\x01\x00\x00\x00", "latin1")

const lastSegment = (directory) =>
  join(directory, fs.readdirSync(directory).filter((n) => n.endsWith(".dwal")).sort().at(-1))

const leftovers = (directory) =>
  fs.readdirSync(directory, { recursive: true }).filter((name) => /\.tmp(\/|$)/.test(name))

/** Opening works, all of it is there, and the next record comes behind it. */
const recovers = (directory, records) =>
  Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory })
    assert.deepEqual((yield* payloads(log)).slice(0, records.length), records)
    const { txid } = yield* log.append("next")
    yield* log.sync
    assert.equal((yield* payloads(log)).length, txid)
  }))

const opening = (prepare, records) => ({
  prepare,
  run: (directory) => Effect.scoped(Effect.flatMap(Log.make({ directory }), payloads)),
  check: (directory, error, found) =>
    Effect.gen(function*() {
      if (error === undefined) assert.deepEqual(found, records)
      yield* recovers(directory, records)
    })
})

/** What runs on a log that is open. It can be read in any case; where a failure `poisons` it takes nothing more. */
const onLog = (segments, run, poisons, segmentSize = 120) => ({
  prepare: (directory) => makeLog(directory, segments),
  open: (directory) => Log.make({ directory, segmentSize }),
  run,
  check: (directory, error, _, log) =>
    Effect.gen(function*() {
      const records = numbers(segments * segments_of)
      assert.deepEqual((yield* payloads(log)).slice(0, records.length), records)
      const refused = yield* log.refusal
      assert.equal(refused?._tag, error !== undefined && poisons ? "WriterPoisoned" : undefined)
      if (!poisons) yield* run(log, directory)
    }),
  after: (directory) => recovers(directory, numbers(segments * segments_of))
})

const onKv = (run) => ({
  prepare: makeKv,
  open: (directory) => Kv.make({ directory, segmentSize: 1_000 }),
  run,
  check: (directory, error, _, kv) =>
    Effect.gen(function*() {
      assert.deepEqual(leftovers(root), [])
      const target = fs.readdirSync(root).find((name) => name !== basename(directory))
      // A target that was renamed already stays when only its name could not be made durable; it is whole.
      if (error !== undefined && target !== undefined) {
        assert.equal(error.operation, "open")
        assert.equal(fs.readFileSync(join(root, target), "utf8").match(/^.*"}$/gm)?.length, 100)
      }
      // There are descriptors again: what has failed works, and the store with it.
      if (error !== undefined) yield* run(kv, directory)
      yield* kv.put("more", "to come")
    })
})

const operations = {
  "open a new store": opening(() => Effect.void, []),
  "open a store": opening((directory) => makeLog(directory, 4), numbers(12)),
  "open a torn store": opening(
    (directory) => Effect.map(makeLog(directory, 2), () => fs.appendFileSync(lastSegment(directory), tail)),
    numbers(6)
  ),
  "open a store whose last sync had failed": opening(
    (directory) =>
      Effect.map(makeLog(directory, 2), () => fs.writeFileSync(join(directory, ".lock"), "1\nunsynced 2 0\nfailed\n")),
    numbers(6)
  ),
  "append and sync": onLog(2, (log) => Effect.andThen(log.append("more"), log.sync), false, 10_000),
  rotate: onLog(2, (log) => log.rotate, true),
  "append into a new segment": onLog(2, (log) => log.append("x".repeat(100)), true),
  get: onKv((kv) => kv.get("record 3")),
  "list the entries": onKv((kv) => Stream.runCount(kv.entries())),
  compact: onKv((kv, directory) => kv.compactTo(`${directory}-compacted`)),
  export: onKv((kv, directory) => Export.toFile(kv, `${directory}-exported`))
}

const attempt = (name, free) =>
  Effect.gen(function*() {
    const { after, check, open, prepare, run } = operations[name]
    const before = openDescriptors()
    const directory = join(root, "store")
    yield* prepare(directory)
    const error = yield* Effect.scoped(Effect.gen(function*() {
      const store = open === undefined ? directory : yield* open(directory)
      const exit = yield* starved(free, run(store, directory))
      const error = failureOf(exit)
      say({ name, free, ...described(error) })
      yield* check(directory, error, exit.value, store)
      return error
    }))
    yield* after?.(directory) ?? Effect.void
    assert.equal(openDescriptors(), before, "descriptors are still open when everything is closed")
    for (const entry of fs.readdirSync(root)) fs.rmSync(join(root, entry), { recursive: true })
    return error === undefined
  })

/** What is read of a log that stays open, whatever has failed before. */
const readings = {
  "read a log": (log) => payloads(log),
  "read a log without its lock": (log) => read(log.directory),
  "read a log record by record": (log, refs) =>
    Effect.forEach(refs, (ref) => Effect.map(log.read(ref), (record) => text(record.payload)))
}

// More than this process may have descriptors.
const many_segments = 200

const readMany = Effect.scoped(Effect.gen(function*() {
  const directory = join(root, "store")
  const records = numbers(segments_of * many_segments)
  const log = yield* Log.make({ directory, segmentSize: 120 })
  const refs = yield* log.appendAll(records.map(raw))
  for (const [name, run] of Object.entries(readings)) {
    for (let free = 0, done = false; !done; free++) {
      const exit = yield* starved(free, run(log, refs))
      const error = failureOf(exit)
      say({ name, free, ...described(error) })
      done = error === undefined
      assert.deepEqual(done ? exit.value : yield* run(log, refs), records)
    }
  }
}))

const descriptors = Effect.gen(function*() {
  for (const name of Object.keys(operations)) {
    let done = false
    for (let free = 0; !done; free++) done = yield* attempt(name, free)
  }
  const before = openDescriptors()
  yield* readMany
  assert.equal(openDescriptors(), before, "descriptors are still open when everything is closed")
})

const first = Effect.gen(function*() {
  const directory = join(root, "store")
  const before = openDescriptors()
  for (let free = 0, done = false; !done && free < 10; free++) {
    const error = failureOf(yield* starved(free, Effect.scoped(Log.make({ directory }))))
    say({ name: "open the first store", free, ...described(error) })
    assert.equal(openDescriptors(), before)
    done = error === undefined
  }
  // Whatever it was, there are descriptors again.
  yield* recovers(directory, [])
})

// Each keeps those open that it wrote to or read last, as long as nobody needs them for something else.
const idle = Effect.gen(function*() {
  const before = openDescriptors()
  yield* Effect.scoped(Effect.gen(function*() {
    const stores = []
    for (const name of ["first", "second", "third"]) {
      const kv = yield* Kv.make({ directory: join(root, name), segmentSize: 100 })
      for (let at = 0; at < 70; at++) yield* kv.put(`key ${at}`, "v".repeat(80))
      stores.push(kv)
    }
    for (const kv of [...stores, ...stores]) {
      for (let at = 0; at < 70; at++) assert.equal(text(yield* kv.get(`key ${at}`)), "v".repeat(80))
    }
    // A directory is listed and synced with a descriptor, too.
    yield* stores[0].compactTo(join(root, "compacted"))
    assert.equal(
      yield* Effect.scoped(Effect.flatMap(Kv.make({ directory: join(root, "compacted") }), (kv) => kv.size)),
      70
    )
    for (const kv of stores) yield* kv.put("more", "to come")

    const other = join(root, "other")
    yield* makeLog(other, 2)
    const log = yield* Log.make({ directory: join(root, "log"), segmentSize: 100 })
    const refs = yield* log.appendAll(numbers(100).map((text) => raw(text.padEnd(80))))
    const reader = yield* Reader.make({ directory: log.directory })
    const reopen = Effect.forEach(refs.slice(0, 60), reader.read, { discard: true })
    const listing = Recovery.listSegments(other)
    for (const width of [1, 4, 30]) {
      for (const run of [Effect.forEach(refs.slice(-width), reader.read, { concurrency: "unbounded" }), listing]) {
        yield* reopen
        assert.equal(failureOf(yield* starved(0, run)), undefined)
      }
    }
    for (let round = 0; round < 20; round++) {
      yield* reopen
      hold(0)
      const fiber = yield* Effect.forkDetach(listing, { startImmediately: true })
      yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 1)))
      yield* Fiber.interrupt(fiber)
      release()
    }
    say({ name: "idle", free: 0, ok: true })
  }))
  assert.equal(openDescriptors(), before)
})

// -- sizes ------------------------------------------------------------------------------------------------------------

const untilRefused = (log, payload, written) =>
  Effect.gen(function*() {
    for (;;) {
      const error = failureOf(yield* Effect.exit(log.append(payload)))
      if (error !== undefined) return error
      written.push(payload)
    }
  })

const size = Effect.gen(function*() {
  for (const [name, length] of [["small appends", 1_001], ["large appends", 300_001]]) {
    const directory = join(root, name)
    const written = []
    yield* Effect.scoped(Effect.gen(function*() {
      const log = yield* Log.make({ directory })
      const error = yield* untilRefused(log, "x".repeat(length), written)
      const { offset } = yield* log.end
      say({ name, ...described(error), half: fs.statSync(lastSegment(directory)).size - offset })
      assert.equal((yield* log.refusal)?._tag, "WriterPoisoned")
      assert.deepEqual(yield* payloads(log), written)
    }))
    yield* Effect.scoped(Effect.gen(function*() {
      const log = yield* Log.make({ directory })
      // What fitted was taken back.
      assert.equal(log.report.tail_truncated, 0)
      assert.deepEqual(yield* payloads(log), written)
      yield* log.rotate
      yield* log.append("in another file")
      yield* log.sync
    }))
    assert.deepEqual(yield* read(directory), [...written, "in another file"])
  }
  yield* Effect.scoped(Effect.gen(function*() {
    const kv = yield* Kv.make({ directory: join(root, "kv"), segmentSize: 200_000 })
    yield* kv.putMany(numbers(30).map((key) => [key, key.padEnd(100_000, ".")]))
    for (const [name, run] of [["compact", kv.compactTo], ["export", (target) => Export.toFile(kv, target)]]) {
      const error = failureOf(yield* Effect.exit(run(join(root, name))))
      say({ name, ...described(error) })
      assert.equal(fs.existsSync(join(root, name)), false)
      assert.deepEqual(leftovers(root), [])
    }
    assert.equal((yield* Stream.runCollect(kv.entries())).length, 30)
  }))
})

await Effect.runPromise({ descriptors, first, idle, size }[mode])
