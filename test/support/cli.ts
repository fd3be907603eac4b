/**
 * Runs `datawal`, in this process on standard streams of its own, or as the process that a user starts; and the places it
 * works on. The start of a process takes a quarter of a second: by far the most of what a command costs.
 */
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import { assert } from "@effect/vitest"
import { Effect, Layer, Path, Runtime, Schema, Stdio, Stream, Terminal } from "effect"
import { ChildProcessSpawner } from "effect/process"
import * as ChildProcess from "node:child_process"
import * as NFS from "node:fs"
import * as OS from "node:os"
import * as NodePath from "node:path"
import { fileURLToPath } from "node:url"
import { run as runCommand } from "../../src/cli/main.ts"
import { Output } from "../../src/cli/output.ts"
import { Line } from "../../src/cli/schema.ts"
import * as Log from "../../src/Log.ts"

const root = NodePath.dirname(NodePath.dirname(NodePath.dirname(fileURLToPath(import.meta.url))))

/** The command, as it is installed. */
export const command = NodePath.join(root, "dist", "bin.js")

export const fixtures = NodePath.join(root, "test", "fixtures")

/** How a process ended and what it said. */
export interface Ran {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly bytes: Buffer
  readonly out: string
  readonly err: string
}

// Two processes at a time: as many as the smallest machine has cores.
let free = 2
const waiting: Array<() => void> = []

const turn = async (): Promise<void> => {
  if (free > 0) free--
  else await new Promise<void>((resolve) => waiting.push(resolve))
}

const endTurn = (): void => {
  const next = waiting.shift()
  if (next === undefined) free++
  else next()
}

const environment = (): NodeJS.ProcessEnv => {
  const { FORCE_COLOR: _force, NO_COLOR: _no, NODE_OPTIONS: _options, ...env } = process.env
  return env
}

export interface Options {
  readonly input?: string | Uint8Array | undefined
  readonly cwd?: string | undefined
}

/** Starts a program without waiting for its turn; its end comes as a promise. */
export const start = (
  command: string,
  args: ReadonlyArray<string>,
  options: Options = {}
): { readonly child: ChildProcess.ChildProcessWithoutNullStreams; readonly ended: Promise<Ran> } => {
  const child = ChildProcess.spawn(command, [...args], { cwd: options.cwd, env: environment() })
  const out: Array<Buffer> = []
  const err: Array<Buffer> = []
  child.stdout.on("data", (chunk: Buffer) => out.push(chunk))
  child.stderr.on("data", (chunk: Buffer) => err.push(chunk))
  // A program that does not read its input is no failure of the test.
  child.stdin.on("error", () => {})
  const ended = new Promise<Ran>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code, signal) => {
      const bytes = Buffer.concat(out)
      resolve({ code, signal, bytes, out: bytes.toString("utf8"), err: Buffer.concat(err).toString("utf8") })
    })
  })
  return { child, ended }
}

/** Runs a program to its end. */
export const run = async (command: string, args: ReadonlyArray<string>, options: Options = {}): Promise<Ran> => {
  await turn()
  try {
    const { child, ended } = start(command, args, options)
    child.stdin.end(options.input)
    return await ended
  } finally {
    endTurn()
  }
}

/** Runs the installed `datawal` to its end, as a process. */
export const datawalProcess = (args: ReadonlyArray<string>, options?: Options): Promise<Ran> =>
  run(process.execPath, [command, ...args], options)

// The parser asks for these and uses them for wizards, which there are none of.
const unused = Effect.die("not used by any command")
const unusedServices = Layer.mergeAll(
  Layer.succeed(
    Terminal.Terminal,
    Terminal.make({
      columns: unused,
      rows: unused,
      size: unused,
      readInput: unused,
      readLine: unused,
      display: () => unused
    })
  ),
  Layer.succeed(ChildProcessSpawner.ChildProcessSpawner, ChildProcessSpawner.make(() => unused))
)

const platform = Layer.mergeAll(NodeFileSystem.layer, Path.layer, unusedServices)

/** Runs `datawal` to its end in this process: all of it but the descriptors and signals that it has from the system. */
export const datawal = async (
  args: ReadonlyArray<string>,
  options: Pick<Options, "input"> = {}
): Promise<Ran> => {
  const out: Array<Buffer> = []
  const err: Array<Buffer> = []
  const output = Layer.succeed(Output, {
    isTerminal: false,
    write: (data) => Effect.sync(() => out.push(Buffer.from(data))),
    note: (line) => Effect.sync(() => err.push(Buffer.from(`${line}\n`)))
  })
  const { input = "" } = options
  const stdin = input.length === 0 ? Stream.empty : Stream.succeed(Buffer.from(input))
  const exit = await runCommand(args).pipe(
    Effect.provide([output, platform, Stdio.layerTest({ stdin })]),
    Effect.runPromiseExit
  )
  let code = 0
  Runtime.defaultTeardown(exit, (exitCode) => {
    code = exitCode
  })
  const bytes = Buffer.concat(out)
  return { code, signal: null, bytes, out: bytes.toString("utf8"), err: Buffer.concat(err).toString("utf8") }
}

/** Starts `datawal`, to be talked to while it runs. */
export const startDatawal = (args: ReadonlyArray<string>, options?: Options) =>
  start(process.execPath, [command, ...args], options)

const made: Array<string> = []

/** A new empty directory. */
export const directory = (): string => {
  const path = NFS.mkdtempSync(NodePath.join(OS.tmpdir(), "datawal-cli-"))
  made.push(path)
  return path
}

/** A copy of a fixture. One is an empty directory, which Git does not keep. */
export const fixture = (name: string): string => {
  const path = NodePath.join(directory(), name)
  NFS.mkdirSync(path)
  const source = NodePath.join(fixtures, name)
  if (NFS.existsSync(source)) NFS.cpSync(source, path, { recursive: true })
  return path
}

export const removeDirectories = (): void => {
  for (const path of made.splice(0)) NFS.rmSync(path, { recursive: true, force: true })
}

/** The names, sizes and bytes of a directory: equal before and after if nothing was touched. */
export const contents = (path: string): ReadonlyArray<readonly [name: string, bytes: string]> =>
  NFS.readdirSync(path).sort().map((name) => {
    const file = NodePath.join(path, name)
    return [name, NFS.statSync(file).isFile() ? NFS.readFileSync(file).toString("base64") : "directory"] as const
  })

const decodeLine = Schema.decodeUnknownSync(Line, { onExcessProperty: "error" })

/** The objects that were printed, each one held against its schema. */
export const objects = (out: string): Array<Record<string, unknown>> =>
  out.split("\n").filter((line) => line !== "").map((line) => {
    const object = JSON.parse(line) as Record<string, unknown>
    decodeLine(object)
    assert.deepStrictEqual(Object.keys(object).slice(0, 2), ["schema", "kind"])
    assert.strictEqual(object["schema"], "datawal.cli.v1")
    return object
  })

export const object = (ran: Ran): Record<string, unknown> => {
  const [first, ...rest] = objects(ran.out)
  assert.strictEqual(rest.length, 0)
  assert.isDefined(first)
  return first
}

/** Ends with the code, and says why in lines of its own and nothing else. */
export const assertFails = (ran: Ran, code: number, why: RegExp): void => {
  assert.strictEqual(ran.code, code, ran.err)
  assert.match(ran.err, why)
  for (const line of ran.err.trimEnd().split("\n")) assert.match(line, /^datawal: error: \S/)
}

export const assertClean = (ran: Ran): void => {
  assert.deepStrictEqual([ran.code, ran.err], [0, ""])
}

export const base64 = (text: string): string => Buffer.from(text).toString("base64")

/** Appends records to a store, which is made if it is missing. */
export const fill = (directory: string, records: Iterable<Log.RecordInput>): Promise<unknown> =>
  Effect.runPromise(Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.appendAll(records))))

export const newStore = async (records: Iterable<Log.RecordInput>): Promise<string> => {
  const store = NodePath.join(directory(), "store")
  await fill(store, records)
  return store
}
