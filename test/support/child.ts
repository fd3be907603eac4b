/**
 * Real processes for tests: started, listened to a line at a time, and killed. Every one is dead when the scope closes.
 */
import { Effect } from "effect"
import type { Scope } from "effect"
import * as NodeChildProcess from "node:child_process"
import { fileURLToPath } from "node:url"

/** How a process ended, and all it said. */
export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

interface Waiter {
  readonly start: string
  readonly resume: (effect: Effect.Effect<string, Error>) => void
}

export class Child {
  readonly pid: number
  /** Whole lines of the standard output, oldest first. */
  readonly lines: Array<string> = []
  readonly #process: NodeChildProcess.ChildProcess
  readonly #ended: Promise<Ended>
  #stdout = ""
  #stderr = ""
  #rest = ""
  /** Up to where `until` has looked. */
  #seen = 0
  #waiter: Waiter | undefined
  #over = false

  constructor(child: NodeChildProcess.ChildProcess) {
    this.#process = child
    this.pid = child.pid ?? -1
    child.stdout?.setEncoding("utf8").on("data", (text: string) => this.#heard(text))
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr += text
    })
    child.stdin?.on("error", () => {})
    this.#ended = new Promise((resolve, reject) => {
      child.once("error", reject)
      child.once("close", (code, signal) => {
        this.#over = true
        resolve({ code, signal, stdout: this.#stdout, stderr: this.#stderr })
        this.#look()
      })
    })
    // A failure to start is seen by whoever waits for the end.
    this.#ended.catch(() => {})
  }

  /** Resolves when the process has died and everything it said was read. */
  readonly ended: Effect.Effect<Ended> = Effect.promise(() => this.#ended)

  readonly signal = (signal: NodeJS.Signals): Effect.Effect<void> =>
    Effect.sync(() => {
      this.#process.kill(signal)
    })

  readonly kill: Effect.Effect<Ended> = Effect.suspend(() => Effect.andThen(this.signal("SIGKILL"), this.ended))

  readonly send = (line: string): Effect.Effect<void> =>
    Effect.sync(() => {
      this.#process.stdin?.write(`${line}\n`)
    })

  /** The next line that starts so; fails when the process ends without. */
  readonly until = (start: string): Effect.Effect<string, Error> =>
    Effect.callback<string, Error>((resume) => {
      this.#waiter = { start, resume }
      this.#look()
    })

  /** Like `until`, but of what it says from now on. */
  readonly next = (start: string): Effect.Effect<string, Error> =>
    Effect.suspend(() => {
      this.#seen = this.lines.length
      return this.until(start)
    })

  #heard(text: string): void {
    this.#stdout += text
    const lines = (this.#rest + text).split("\n")
    this.#rest = lines.pop() ?? ""
    this.lines.push(...lines)
    this.#look()
  }

  #look(): void {
    const waiter = this.#waiter
    if (waiter === undefined) return
    for (; this.#seen < this.lines.length; this.#seen++) {
      const line = this.lines[this.#seen] ?? ""
      if (!line.startsWith(waiter.start)) continue
      this.#seen++
      this.#waiter = undefined
      return waiter.resume(Effect.succeed(line))
    }
    if (!this.#over) return
    this.#waiter = undefined
    waiter.resume(Effect.fail(new Error(`it ended without saying "${waiter.start}": ${this.#stdout}${this.#stderr}`)))
  }
}

export type Options = Pick<NodeChildProcess.SpawnOptions, "cwd" | "env" | "uid" | "gid">

export const start = (
  command: string,
  args: ReadonlyArray<string>,
  options: Options = {}
): Effect.Effect<Child, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => new Child(NodeChildProcess.spawn(command, args, { ...options, stdio: "pipe" }))),
    (child) => child.kill
  )

/** Starts a program of this directory. */
export const startNode = (
  script: string,
  args: ReadonlyArray<string>,
  options?: Options
): Effect.Effect<Child, never, Scope.Scope> =>
  start(process.execPath, [fileURLToPath(new URL(script, import.meta.url)), ...args], options)

/** Runs a program to its end. */
export const run = (command: string, args: ReadonlyArray<string>, options?: Options): Effect.Effect<Ended> =>
  Effect.scoped(Effect.flatMap(start(command, args, options), (child) => child.ended))

/** Whether a command is there to be run. */
export const isInstalled = (command: string): boolean =>
  NodeChildProcess.spawnSync(command, ["--version"], { stdio: "ignore" }).status === 0
