/**
 * Opens a log, appends one record and closes it, once for each line of its standard input (`N`: the number of the
 * record), or by itself COUNT times from FIRST on, waiting for the lock. Says `done N TXID` each time.
 *
 *     node turnsChild.mjs DIRECTORY [FIRST COUNT]
 */
import * as Effect from "effect/Effect"
import { writeSync } from "node:fs"
import { createInterface } from "node:readline"
import { Log } from "../../dist/index.js"
import { payloadOf } from "./payloads.mjs"

const [directory, first, count] = process.argv.slice(2)

const turn = (n, waitForLock) =>
  Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory, waitForLock })
    const { txid } = yield* log.append(payloadOf("small", n))
    return txid
  }))).then((txid) => writeSync(1, `done ${n} ${txid}\n`))

writeSync(1, "ready\n")
if (first === undefined) {
  for await (const line of createInterface({ input: process.stdin })) await turn(Number(line))
} else {
  for (let n = Number(first); n < Number(first) + Number(count); n++) {
    await turn(n, "40 seconds")
    // As long as the other may take to ask for the lock again.
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
