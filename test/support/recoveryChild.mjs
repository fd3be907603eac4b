/**
 * The processes beside the recovery tests. They run the built package, as a user's would.
 *
 *   write DIRECTORY MS    opens the log and appends records, some of them large, for so long; says "open" and then "done N"
 *   pieces DIRECTORY MS   the same records written by hand, a few bytes at a time: every half-written frame is on show
 *   memory DIRECTORY      reads everything, then opens it for write; says how many records, and the most memory it ever
 *                         took
 */
import { Effect, Stream } from "effect"
import * as NFS from "node:fs"
import { Frame, Log, Reader } from "../../dist/index.js"

const [mode, directory, argument] = process.argv.slice(2)
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

const pause = () => new Promise((resolve) => setTimeout(resolve, 1))

const empty = new Uint8Array(0)

const write = (until) =>
  Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory, segmentSize: 16_000_000 })
    say("open")
    let txid = 0
    while (performance.now() < until) {
      txid++
      yield* log.append(payloadOf(txid))
      if (txid % 2 === 0) yield* Effect.promise(pause)
    }
    return txid
  }))

const pieces = async (until) => {
  const descriptor = NFS.openSync(`${directory}/00000001.dwal`, "a")
  say("open")
  let txid = 0
  while (performance.now() < until) {
    txid++
    const payload = payloadOf(txid)
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

const until = performance.now() + Number(argument)
if (mode === "write") say(`done ${await Effect.runPromise(write(until))}`)
if (mode === "pieces") say(`done ${await pieces(until)}`)
if (mode === "memory") {
  const read = await Effect.runPromise(Effect.scoped(
    Effect.flatMap(Reader.make({ directory }), (reader) => Stream.runCount(reader.stream))
  ))
  const recovered = await Effect.runPromise(Effect.scoped(
    Effect.map(Log.make({ directory }), (log) => log.report.records_replayed)
  ))
  say(JSON.stringify({ read, recovered, rss_bytes: process.resourceUsage().maxRSS * 1024 }))
}
