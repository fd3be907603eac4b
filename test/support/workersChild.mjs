/**
 * Uses a directory from many threads at once, the first of which has the library loaded already: each of `COUNT`
 * workers writes a store of its own and reads `DIRECTORY/shared`, which one of all has open for write at a time. Says
 * `ended` when all have done it over and over.
 *
 *     node workersChild.mjs DIRECTORY COUNT
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { join } from "node:path"
import { isMainThread, threadId, Worker, workerData } from "node:worker_threads"
import { Kv, Log, Reader } from "../../dist/index.js"

const rounds = 5

const write = (directory, round) =>
  Effect.scoped(Effect.gen(function*() {
    const kv = yield* Kv.make({ directory: join(directory, `own-${threadId}`) })
    yield* kv.put("round", String(round))
    yield* kv.sync
    const refused = yield* Effect.flip(Log.make({ directory: kv.directory }).pipe(Effect.scoped))
    if (refused._tag !== "LockHeld") throw refused
    const value = yield* kv.get("round")
    if (Buffer.from(value).toString() !== String(round)) throw new Error("another value")
  }))

const append = (directory) =>
  Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory: join(directory, "shared"), waitForLock: "60 seconds" })
    // Long enough for the native checksum, so that its addon is loaded in each thread, too.
    yield* log.append(`${threadId}`.padEnd(1_000))
  }))

const read = (directory) =>
  Effect.scoped(
    Effect.flatMap(Reader.make({ directory: join(directory, "shared") }), ({ stream }) => Stream.runCount(stream))
  )

if (isMainThread) {
  const [directory, count] = process.argv.slice(2)
  const ended = Array.from({ length: Number(count) }, () =>
    new Promise((resolve, reject) => {
      const worker = new Worker(new URL(import.meta.url), { workerData: directory })
      worker.on("error", reject)
      worker.on("exit", (code) => code === 0 ? resolve() : reject(new Error(`a worker ended with ${code}`)))
    }))
  await Promise.all(ended)
  // The main thread's own binding still works when those of the workers are gone.
  await Effect.runPromise(append(directory))
  process.stdout.write(`ended ${await Effect.runPromise(read(directory))}\n`)
} else {
  for (let round = 0; round < rounds; round++) {
    await Effect.runPromise(write(workerData, round))
    await Effect.runPromise(append(workerData))
    await Effect.runPromise(read(workerData))
  }
}
