/**
 * The `datawal` command: parses, runs, says what went wrong in one line, and ends with the exit code for it.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as CliConfig from "effect/cli/CliConfig"
import type * as CliError from "effect/cli/CliError"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import * as Console from "effect/Console"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as References from "effect/References"
import * as Runtime from "effect/Runtime"
import { spawnSync } from "node:child_process"
import { isatty } from "node:tty"
import { format } from "node:util"
import manifest from "../../package.json" with { type: "json" }
import { type Failure, refuse, verdict } from "./failure.ts"
import { datawal } from "./flags.ts"
import * as Health from "./health.ts"
import * as Inspect from "./inspect.ts"
import { explicitSwitches, misreadOf } from "./misread.ts"
import * as Output from "./output.ts"
import * as Transfer from "./transfer.ts"
import * as Write from "./write.ts"

const command = Command.withSubcommands(datawal, [
  {
    group: "LOOK",
    commands: [Inspect.get, Inspect.scan, Inspect.dump, Health.report, Health.verify, Health.check]
  },
  { group: "COPY", commands: [Transfer.export, Transfer.compact, Transfer.salvage] },
  { group: "CHANGE", commands: [Write.put, Write.delete, Write.append, Transfer.import, Health.repair] }
])

const refuseMisread = (args: ReadonlyArray<string>): Effect.Effect<void, Failure> => {
  const misread = misreadOf(args)
  return misread === undefined ? Effect.void : Effect.fail(refuse(
    `${misread} would be taken for a flag; a value or a name that starts with a dash goes behind --, a key is given ` +
      `as --key=${misread}, and the help of a command is \`datawal COMMAND --help\``
  ))
}

const oneLine = (error: CliError.CliError): string => {
  if (!("suggestions" in error) || error.suggestions.length === 0) {
    const message = error.message.replaceAll(/\s+/g, " ")
    return error._tag === "UnrecognizedOption"
      ? `${message}; a value or a name that starts with a dash goes behind --`
      : message
  }
  const [message] = error.message.split("\n")
  return `${message} (did you mean ${error.suggestions.join(" or ")}?)`
}

const presenter = Layer.effect(
  CliOutput.Presenter,
  Effect.map(Output.Output, ({ note }) => ({
    present: Effect.fnUntraced(function*(event: CliOutput.Presenter.Event) {
      switch (event._tag) {
        case "Help":
          return yield* CliOutput.defaultPresenter.present(event)
        case "Version":
          return yield* Console.log(`${event.name} ${event.version}`)
        case "InvalidInvocation":
          for (const error of event.errors) {
            yield* note(`datawal: error: ${oneLine(error)}; see \`${event.commandPath.join(" ")} --help\``)
          }
      }
    })
  }))
)

// Of what the library logs, the warnings, each once: they say what nothing else would.
const loggers = Layer.effect(
  References.CurrentLoggers,
  Effect.map(Output.Output, ({ note }) => {
    const told = new Set<string>()
    return new Set([
      Logger.make<unknown, void>(({ logLevel, message }) => {
        const parts = Arr.ensure(message).map((part) => part instanceof Error ? part.message : String(part))
        const line = `datawal: warning: ${parts.join(": ")}`
        if (!LogLevel.isGreaterThanOrEqualTo(logLevel, "Warn") || told.has(line)) return
        told.add(line)
        Effect.runFork(note(line))
      })
    ])
  })
)

// No wizard and no log level: neither is of use here.
const { Completions, Help, Version } = GlobalFlag

const services = Layer.mergeAll(
  presenter,
  loggers,
  CliConfig.layer({ builtIns: [Help, Version, Completions] })
)

class Exited extends Data.Error<{ readonly code: number }> {
  override readonly [Runtime.errorExitCode] = this.code
}

const settle = Effect.fnUntraced(function*(
  cause: Cause.Cause<unknown>
): Effect.fn.Return<void, Exited, Output.Output> {
  if (Cause.hasInterruptsOnly(cause)) return yield* Effect.interrupt
  const { code, message } = verdict(cause)
  if (message !== undefined) {
    yield* Output.Output.use((output) => output.note(`datawal: error: ${message}`))
  }
  if (code !== 0) return yield* new Exited({ code })
})

/** What Effect prints for itself, such as the help, goes where all goes: a console would not say that it could not. */
const printed = <A, E, R>(work: Effect.Effect<A, E, R>): Effect.Effect<A, E | Failure, R | Output.Output> =>
  Effect.suspend(() => {
    let said = ""
    const keeping: Console.Console = Object.assign(Object.create(console), {
      log: (...parts: ReadonlyArray<unknown>) => {
        said += `${format(...parts)}\n`
      }
    })
    return work.pipe(
      Effect.provideService(Console.Console, keeping),
      Effect.onExit(() => said === "" ? Effect.void : Output.Output.use(({ write }) => write(said)))
    )
  })

/** The command, on any standard streams; fails with its exit code, unless that is 0. */
export const run = (
  args: ReadonlyArray<string>
): Effect.Effect<void, Exited, Output.Output | Command.Environment> =>
  refuseMisread(args).pipe(
    Effect.andThen(printed(Command.runWith(command, { version: manifest.version })(explicitSwitches(args)))),
    Effect.catchCause(settle),
    Effect.provide(services)
  )

/** Runs the command and ends the process with its exit code. */
export const main = (args: ReadonlyArray<string>): void => {
  // A terminal that goes away interrupts, too. Without one, as under `nohup`, it is not for this process to hear of it.
  const terminals = [0, 1, 2].filter(isatty)
  if (terminals.length > 0) process.once("SIGHUP", () => process.kill(process.pid, "SIGTERM"))
  run(args).pipe(
    Effect.provide(Layer.merge(Output.layer, NodeServices.layer)),
    NodeRuntime.runMain({
      disableErrorReporting: true,
      teardown: (exit, onExit) => {
        // Node would put in order a terminal that is no longer there, and crash. So another process ends this one.
        if (!terminals.every(isatty)) {
          process.removeAllListeners("SIGHUP")
          spawnSync("kill", ["-HUP", String(process.pid)], { stdio: "ignore" })
        }
        Runtime.defaultTeardown(exit, onExit)
      }
    })
  )
}
