/**
 * Step 2: a process that writes into the store is killed with SIGKILL at a random moment, as often as asked, or until a
 * kill has cut a record in two, and each time the store is opened, mended and compared with what the process had said
 * before it died.
 */
import { type Errors, Kv, type Log } from "effect-datawal"
import * as Clock from "effect/Clock"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as ChildProcess from "effect/process/ChildProcess"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import * as NodePath from "node:path"
import { fileURLToPath } from "node:url"
import { type Difference, type Expected, withSource } from "./compare.ts"
import { copyValue, parseCopyKey } from "./copies.ts"
import * as Events from "./events.ts"
import { keyOf } from "./load.ts"
import type { SourceFile, SourceReader } from "./source.ts"

/** The killed process ended by itself: there was nothing to kill. */
class WriterEnded extends Data.TaggedError("WriterEnded")<{ readonly message: string }> {}

/** One kill: what the writer had acknowledged, and what opening the store then found. */
export interface Kill {
  readonly after_ms: number
  readonly written: number
  readonly synced: number
  readonly found: number
  readonly report: Kv.Kv["Service"]["report"]
  readonly compared: number
  readonly bytes: number
  readonly changed: number
  readonly differences: ReadonlyArray<Difference>
}

/** Unless asked: always so many kills, and then on until a tail was torn, a number of kills or a time is reached. */
const kills_min = 3
const kills_max = 20
const kills_ms_max = 15_000

/** The first kill comes at most so long after the first write, each later one at most so much later … */
const delay_ms_step = 100
const delay_ms_max = 300

/** … and then at any moment of the next large write, which with all that goes before it takes about this long. */
const written_bytes_a_ms = 400_000

const writer = NodePath.join(NodePath.dirname(fileURLToPath(import.meta.url)), "writer.js")

const runAndKill = (store: string, round: string, latest_ms: number) =>
  Effect.scoped(Effect.gen(function*() {
    const acknowledged = { written: 0, synced: 0 }
    const child = yield* ChildProcess.make(process.execPath, [writer, store, round], {
      stdin: "ignore",
      stderr: "inherit"
    })
    // Done with the bytes of the next large write when that begins.
    let begun = yield* Deferred.make<number>()
    const listening = yield* Effect.forkScoped(
      child.stdout.pipe(
        Stream.decodeText,
        Stream.splitLines,
        Stream.runForEach((line) => {
          const [what, number] = line.split(" ")
          if (what === "written" || what === "synced") acknowledged[what] = Number(number)
          if (what !== "writing") return Effect.void
          const told = begun
          begun = Deferred.makeUnsafe()
          return Deferred.succeed(told, Number(number))
        })
      )
    )
    yield* Effect.raceFirst(
      Deferred.await(begun),
      Effect.andThen(child.exitCode, (code) =>
        Effect.fail(new WriterEnded({ message: `the writer ended by itself (${code})` })))
    )
    const after_ms = yield* Random.nextIntBetween(0, latest_ms)
    yield* Effect.sleep(after_ms)
    const next = yield* Effect.timeoutOption(Deferred.await(begun), delay_ms_max)
    const bytes = next._tag === "Some" ? next.value : 0
    yield* Effect.sleep(yield* Random.nextBetween(0, bytes / written_bytes_a_ms))
    yield* child.kill({ killSignal: "SIGKILL" })
    yield* Fiber.join(listening)
    return { ...acknowledged, after_ms }
  }))

/** The copies of a round that are in the store must be the first ones, whole, and at least those acknowledged. */
const examine = Effect.fnUntraced(function*(
  kv: Kv.Kv["Service"],
  source: SourceReader,
  files: ReadonlyMap<string, SourceFile>,
  round: string,
  acknowledged: { readonly written: number; readonly synced: number }
): Effect.fn.Return<Omit<Kill, "after_ms" | "report">, Errors.IoError | Errors.CorruptSegment> {
  const expected: Array<Expected> = []
  const differences: Array<Difference> = []
  yield* Stream.runForEach(kv.keys({ prefix: `${round}/`, ordered: true }), (bytes) =>
    Effect.sync(() => {
      const key = text.decode(bytes)
      const copy = parseCopyKey(key)
      const file = files.get(copy.of)
      if (file === undefined || copy.index !== expected.length) differences.push({ key, what: "not expected" })
      else expected.push({ key, file, value: (source) => copyValue(copy, source) })
    }))
  const found = expected.length
  if (found < acknowledged.written) {
    differences.push({ key: `${round}/`, what: `${found} of ${acknowledged.written} acknowledged copies` })
  }
  const comparison = yield* withSource(kv, source, expected)
  return { ...acknowledged, found, ...comparison, differences: [...differences, ...comparison.differences] }
})

const text = new TextDecoder()

export const crash = Effect.fnUntraced(function*(
  store: string,
  source: SourceReader,
  files: ReadonlyArray<SourceFile>,
  events: Log.Log["Service"],
  asked: number | undefined
) {
  const byKey = new Map(files.map((file) => [keyOf(file), file]))
  const started = yield* Clock.currentTimeMillis
  const kills: Array<Kill> = []
  const isEnough = (now: number) =>
    asked === undefined
      ? kills.length >= kills_min &&
        (kills.some(({ report }) => report.tail_truncated === 1) || kills.length >= kills_max ||
          now - started > kills_ms_max)
      : kills.length >= asked
  while (!isEnough(yield* Clock.currentTimeMillis)) {
    const round = `kill-${kills.length + 1}`
    const acknowledged = yield* runAndKill(store, round, Math.min(delay_ms_max, delay_ms_step * (kills.length + 1)))
    yield* Events.record(events, "killed a writer", { note: round })
    const kill = yield* Effect.scoped(Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: store })
      const examined = yield* examine(kv, source, byKey, round, acknowledged)
      return { ...examined, after_ms: acknowledged.after_ms, report: kv.report }
    }))
    yield* Events.record(events, kill.report.tail_truncated === 1 ? "cut a torn tail" : "found no torn tail", {
      bytes: kill.report.tail_bytes_discarded,
      note: round
    })
    kills.push(kill)
  }
  yield* events.sync
  return kills
})
