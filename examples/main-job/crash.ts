/**
 * Step 2: a process that writes into the store is killed with SIGKILL at a random moment, again and again until a kill has cut
 * a record in two, and each time the store is opened, mended and compared with what the process had said before it died.
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
import { copyKey } from "./copies.ts"
import * as Events from "./events.ts"
import { keyOf } from "./load.ts"
import type { SourceFile, SourceReader } from "./source.ts"

/** The killed process ended by itself: there was nothing to kill. */
export class WriterEnded extends Data.TaggedError("WriterEnded")<{ readonly message: string }> {}

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

/** Always so many kills, and then on until a tail was torn, a number of kills or a time is reached. */
export const kills_min = 3
const kills_max = 25
const kills_ms_max = 20_000

const delay_ms_max = 60

const writer = NodePath.join(NodePath.dirname(fileURLToPath(import.meta.url)), "writer.js")

const runAndKill = (store: string, prefix: string) =>
  Effect.scoped(Effect.gen(function*() {
    const acknowledged = { written: 0, synced: 0 }
    const child = yield* ChildProcess.make(process.execPath, [writer, store, prefix], {
      stdin: "ignore",
      stderr: "inherit"
    })
    const writing = yield* Deferred.make<void>()
    const listening = yield* Effect.forkScoped(
      child.stdout.pipe(
        Stream.decodeText,
        Stream.splitLines,
        Stream.runForEach((line) => {
          const [what, copies] = line.split(" ")
          if (what === "written" || what === "synced") acknowledged[what] = Number(copies)
          return Deferred.succeed(writing, undefined)
        })
      )
    )
    yield* Effect.raceFirst(
      Deferred.await(writing),
      Effect.andThen(child.exitCode, (code) =>
        Effect.fail(new WriterEnded({ message: `the writer ended by itself (${code})` })))
    )
    const after_ms = yield* Random.nextIntBetween(0, delay_ms_max)
    yield* Effect.sleep(after_ms)
    yield* child.kill({ killSignal: "SIGKILL" })
    yield* Fiber.join(listening)
    return { ...acknowledged, after_ms }
  }))

/** The copies of a round that are in the store must be the first ones, at least those acknowledged, and whole. */
const examine = Effect.fnUntraced(function*(
  kv: Kv.Kv["Service"],
  source: SourceReader,
  files: ReadonlyArray<SourceFile>,
  prefix: string,
  acknowledged: { readonly written: number; readonly synced: number }
): Effect.fn.Return<Omit<Kill, "after_ms" | "report">, Errors.IoError | Errors.CorruptSegment> {
  const found = yield* Stream.runCount(kv.keys({ prefix: `${prefix}/` }))
  const expected = (function*(): Generator<Expected> {
    for (let index = 0; index < Math.max(found, acknowledged.written); index++) {
      const file = files[index % files.length]
      if (file !== undefined) yield { key: copyKey(prefix, index, keyOf(file)), file }
    }
  })()
  return { ...acknowledged, found, ...yield* withSource(kv, source, expected) }
})

/** As the writer goes through them: in ascending order of the keys' bytes. */
const inKeyOrder = (files: ReadonlyArray<SourceFile>): ReadonlyArray<SourceFile> =>
  files.map((file) => [Buffer.from(keyOf(file)), file] as const)
    .sort(([a], [b]) => Buffer.compare(a, b))
    .map(([, file]) => file)

export const crash = Effect.fnUntraced(function*(
  store: string,
  source: SourceReader,
  files: ReadonlyArray<SourceFile>,
  events: Log.Log["Service"]
) {
  const ordered = inKeyOrder(files)
  const started = yield* Clock.currentTimeMillis
  const kills: Array<Kill> = []
  const isEnough = (now: number) =>
    kills.length >= kills_min &&
    (kills.some(({ report }) => report.tail_truncated === 1) || kills.length >= kills_max ||
      now - started > kills_ms_max)
  while (!isEnough(yield* Clock.currentTimeMillis)) {
    const prefix = `kill-${kills.length + 1}`
    const acknowledged = yield* runAndKill(store, prefix)
    yield* Events.record(events, "killed a writer", { note: prefix })
    const kill = yield* Effect.scoped(Effect.gen(function*() {
      const kv = yield* Kv.make({ directory: store })
      const examined = yield* examine(kv, source, ordered, prefix, acknowledged)
      return { ...examined, after_ms: acknowledged.after_ms, report: kv.report }
    }))
    yield* Events.record(events, kill.report.tail_truncated === 1 ? "cut a torn tail" : "found no torn tail", {
      bytes: kill.report.tail_bytes_discarded,
      note: prefix
    })
    kills.push(kill)
  }
  yield* events.sync
  return kills
})
