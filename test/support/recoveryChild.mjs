/**
 * The processes beside the recovery tests. They run the built package, as a user's would.
 *
 *   write DIRECTORY       opens the log and appends records, some of them large, until it is told "enough"; says "open"
 *                         and then "done N"
 *   pieces DIRECTORY      the same records written by hand, a few bytes at a time: every half-written frame is on show
 *   memory DIRECTORY      reads everything, then opens it for write; says how many records, and the most memory it ever
 *                         took
 */
import { Effect, Stream } from "effect"
import * as NFS from "node:fs"
import { Frame, Log, Reader } from "../../dist/index.js"

const [mode, directory] = process.argv.slice(2)
const say = (line) => NFS.writeSync(1, `${line}\n`)

/** Record `txid` of both writers: its length and bytes follow from its number, and it holds a log of old records. */
const payloadOf = (txid) => {
  const size = txid % 40 === 0 ? 1_500_000 + txid * 1_009 : txid % 10 === 0 ? 100_000 : (txid * 37) % 2_000
  const payload = Buffer.alloc(size, txid % 251 + 1)
  const nested = new Uint8Array(Frame.overhead_bytes)
  Frame.encodeInto(nested, 0, "Raw", 1, new Uint8Array(0), new Uint8Array(0))
  if (size > 1000) payload.set(nested, 500)
  return payload
}

const isEnough = () => process.stdin.destroyed
// Whoever only reads is told nothing. Whoever writes must not go on when nobody is there any more.
if (mode !== "memory") {
  for (const event of ["data", "end", "error"]) process.stdin.once(event, () => process.stdin.destroy())
}

/** So much is written that it does not matter how slow the reader is; then there is no more until it has had enough. */
const written_bytes_max = 150_000_000
let written_bytes = 0

const mustWait = () => written_bytes > written_bytes_max && !isEnough()

const pause = async () => {
  do await new Promise((resolve) => setTimeout(resolve, 1))
  while (mustWait())
}

const empty = new Uint8Array(0)

const write = () =>
  Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory, segmentSize: 16_000_000 })
    say("open")
    let txid = 0
    while (!isEnough()) {
      txid++
      const payload = payloadOf(txid)
      yield* log.append(payload)
      written_bytes += payload.length
      if (txid % 2 === 0) yield* Effect.promise(pause)
    }
    return txid
  }))

const pieces = async () => {
  const descriptor = NFS.openSync(`${directory}/00000001.dwal`, "a")
  say("open")
  let txid = 0
  while (!isEnough()) {
    txid++
    const payload = payloadOf(txid)
    written_bytes += payload.length
    const bytes = new Uint8Array(Frame.encodedLength(0, payload.length))
    Frame.encodeInto(bytes, 0, "Raw", txid, empty, payload)
    // The header a byte at a time, the rest in pieces of odd sizes; it rests in the middle of a frame, never behind one.
    const rest = (txid * 7) % 60
    for (let at = 0, piece = 0; at < bytes.length; piece++) {
      const length = at < 40 ? 1 : at < 2_000 ? 499 : 40_009
      at += NFS.writeSync(descriptor, bytes, at, Math.min(length, bytes.length - at))
      if (piece === rest && at < bytes.length) await pause()
    }
  }
  return txid
}

if (mode === "write") say(`done ${await Effect.runPromise(write())}`)
if (mode === "pieces") say(`done ${await pieces()}`)
if (mode === "memory") {
  const read = await Effect.runPromise(Effect.scoped(
    Effect.flatMap(Reader.make({ directory }), (reader) => Stream.runCount(reader.stream))
  ))
  const recovered = await Effect.runPromise(Effect.scoped(
    Effect.map(Log.make({ directory }), (log) => log.report.records_replayed)
  ))
  say(JSON.stringify({ read, recovered, rss_bytes: process.resourceUsage().maxRSS * 1024 }))
}
