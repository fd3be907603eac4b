/**
 * Standard output and standard error. Every write waits until the kernel has taken it, so nothing piles up in memory
 * when the reader is slow, and nothing is lost when the process ends.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as NFS from "node:fs"
import type { LogRecord } from "../Frame.ts"
import { Failure, refuse } from "./failure.ts"
import { hasStream } from "./input.ts"
import { fields, harmless } from "./render.ts"
import type { Line } from "./schema.ts"

export class Output extends Context.Service<Output, {
  /** Whether somebody looks at standard output. */
  readonly isTerminal: boolean

  /** Writes to standard output. When its reader has gone, the command ends there, and that is fine. */
  readonly write: (data: string | Uint8Array) => Effect.Effect<void, Failure>

  /** Writes a line to standard error. A reader that has gone is no reason to stop. */
  readonly note: (line: string) => Effect.Effect<void>
}>()("effect-datawal/cli/Output") {}

type Failed = (error: Error | null | undefined) => void

const writeTo = (stream: NodeJS.WriteStream, data: string | Uint8Array): Effect.Effect<void, Failure> =>
  Effect.callback((resume) => {
    const done: Failed = (error) =>
      resume(error === null || error === undefined ? Effect.void : Effect.fail(outputFailure(error)))
    stream.write(data, done)
  })

// Node's own stream over a file takes a short write for a whole one, so a full disk would cut the output unseen; that
// over a disk itself writes nothing.
const writeFile = (data: string | Uint8Array): Effect.Effect<void, Failure> =>
  Effect.try({
    try: () => {
      const bytes = typeof data === "string" ? Buffer.from(data) : data
      for (let at = 0; at < bytes.length;) at += NFS.writeSync(1, bytes, at)
    },
    catch: outputFailure
  })

const outputFailure = (cause: unknown): Failure => {
  const code = typeof cause === "object" && cause !== null && "code" in cause ? String(cause.code) : "UNKNOWN"
  return code === "EPIPE" || code === "ERR_STREAM_DESTROYED"
    ? new Failure({ code: 0, detail: undefined })
    : refuse(`cannot write to standard output: ${code}`)
}

// The callback of each write says what went wrong; the event would end the process with a stack trace.
const listen = (stream: NodeJS.WriteStream): void => {
  stream.on("error", () => {})
}

let barIsShown = false

/** Tells that a bar stands in the last line of standard error, or does no more: what is said takes its place there. */
export const showBar = (isShown: boolean): void => {
  barIsShown = isShown
}

export const layer: Layer.Layer<Output> = Layer.sync(Output, () => {
  const isFile = NFS.fstatSync(1).isFile() || !hasStream(1)
  if (!isFile) listen(process.stdout)
  listen(process.stderr)
  return Output.of({
    isTerminal: !isFile && process.stdout.isTTY,
    write: (data) => isFile ? writeFile(data) : Effect.suspend(() => writeTo(process.stdout, data)),
    note: (line) => Effect.ignore(writeTo(process.stderr, `${barIsShown ? "\r\x1b[K" : ""}${harmless(line)}\n`))
  })
})

/** Prints one object. */
export const printLine = (line: Line): Effect.Effect<void, Failure, Output> =>
  Output.use((output) => output.write(`${JSON.stringify(line)}\n`))

/** Prints one object, or as `name: value` lines. */
export const printFields = (json: boolean, line: Line): Effect.Effect<void, Failure, Output> =>
  json ? printLine(line) : Output.use((output) => output.write(fields(line)))

export const warn = (message: string): Effect.Effect<void, never, Output> =>
  Output.use((output) => output.note(`datawal: warning: ${message}`))

// Lines are gathered into writes of about this size: far fewer system calls, and still little memory.
const write_characters = 262_144

/** Prints a line for each record. What came before a failure is printed before it. */
export const printRecords = <E, R>(
  records: Stream.Stream<LogRecord, E, R>,
  render: (record: LogRecord) => string
): Effect.Effect<void, E | Failure, R | Output> =>
  Effect.flatMap(Output, ({ write }) => {
    const writeBatch = Effect.fnUntraced(function*(batch: ReadonlyArray<LogRecord>) {
      let lines: Array<string> = []
      let characters = 0
      for (const record of batch) {
        const line = render(record)
        lines.push(line)
        characters += line.length
        if (characters < write_characters) continue
        yield* write(`${lines.join("\n")}\n`)
        lines = []
        characters = 0
      }
      if (lines.length > 0) yield* write(`${lines.join("\n")}\n`)
    })
    return Stream.runForEachArray(records, writeBatch)
  })
