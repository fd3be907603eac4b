/**
 * Tears the tail of a log and opens it again, which cuts it, over and over until it is killed.
 *
 *     node repairChild.mjs ROOT repair=START
 *
 * It says `repair synced N` when record N is durable, and `repair torn N` when the whole of tail N stands behind that.
 */
import * as Effect from "effect/Effect"
import * as NFS from "node:fs"
import { join } from "node:path"
import { Log } from "../../dist/index.js"
import { payloadOf } from "./payloads.mjs"

const [root, work] = process.argv.slice(2)
const directory = join(root, "repair")
const segment = join(directory, "00000001.dwal")

const say = (line) => NFS.writeSync(1, `${line}\n`)

/** The beginning of a frame that claims to be far longer. */
const header = Buffer.from("4457414c0100000001000000000000000000000000000004", "hex")

const opened = (n) =>
  Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory })
    yield* log.append(payloadOf("small", n))
    yield* log.sync
    say(`repair synced ${n}`)
  }))

const program = Effect.gen(function*() {
  say("ready")
  // It is killed long before; if not, it must not fill the disk.
  const start = Number(work.split("=")[1])
  for (let n = start; n < start + 50; n++) {
    yield* opened(n)
    NFS.appendFileSync(segment, Buffer.concat([header, payloadOf("large", n)]))
    say(`repair torn ${n}`)
  }
})

// It lives on, so that it can be killed.
setInterval(() => {}, 1_000_000)

await Effect.runPromise(program)
