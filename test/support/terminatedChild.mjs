/**
 * Terminates a worker while it lets go of a lock, `COUNT` times, and takes it after each; says how often it could.
 *
 *     node terminatedChild.mjs DIRECTORY COUNT
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { pbkdf2 } from "node:crypto"
import { once } from "node:events"
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads"
import { Lock } from "../../dist/index.js"

if (isMainThread) {
  const [directory, count] = process.argv.slice(2)
  let free = 0
  for (let round = 0; round < Number(count); round++) {
    const worker = new Worker(new URL(import.meta.url), { workerData: directory })
    await once(worker, "message")
    await worker.terminate()
    // What the worker's last call holds is let go of at the latest when that call returns.
    await Effect.runPromise(Effect.scoped(Lock.acquire(directory, { wait: "5 seconds" })))
    free++
  }
  process.stdout.write(`free ${free}\n`)
} else {
  const scope = Scope.makeUnsafe()
  await Effect.runPromise(Scope.provide(Lock.acquire(workerData), scope))
  // Whatever goes to the thread pool now has to wait, and the worker ends before its turn comes.
  for (let job = 0; job < 8; job++) pbkdf2("", "", 50_000, 64, "sha512", () => {})
  const closing = Effect.runPromise(Scope.close(scope, Exit.void))
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- this is no window
  parentPort.postMessage("closing")
  await closing
}
