/**
 * Takes the lock of a directory, says `held PID`, and keeps it until its standard input says `release` or ends; or says
 * `refused` with the error as JSON.
 *
 *     node lockChild.mjs DIRECTORY [--library MODULE] [--as-nobody] [--read]
 *
 * `--library` is the library to use, a copy of `dist/` perhaps. `--as-nobody` gives root's rights away first. `--read`
 * reads the store without the lock instead, and says `read COUNT`.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import { createRequire } from "node:module"
import { createInterface } from "node:readline"
import { parseArgs } from "node:util"

const { positionals: [directory], values } = parseArgs({
  allowPositionals: true,
  options: {
    library: { type: "string" },
    "as-nobody": { type: "boolean", default: false },
    read: { type: "boolean", default: false }
  }
})

// A program beside its library: what this checkout has installed is not there.
if (values.library !== undefined) process.argv[1] = values.library
const { Lock, Reader } = await import(values.library ?? "../../dist/index.js")

if (values["as-nobody"]) {
  // While it can still be read: the checkout may be in root's own directory.
  createRequire(import.meta.url)("koffi")
  process.setgid(65_534)
  process.setuid(65_534)
}

const say = (line) => process.stdout.write(`${line}\n`)

const input = createInterface({ input: process.stdin })

const released = Effect.callback((resume) => {
  input.once("close", () => resume(Effect.void))
  input.once("line", () => resume(Effect.void))
})

const hold = Effect.scoped(Effect.gen(function*() {
  yield* Lock.acquire(directory)
  say(`held ${process.pid}`)
  yield* released
})).pipe(Effect.andThen(Effect.sync(() => say("released"))))

const read = Effect.scoped(Effect.gen(function*() {
  const reader = yield* Reader.make({ directory })
  say(`read ${yield* Stream.runCount(reader.stream)}`)
}))

const exit = await Effect.runPromiseExit(Effect.result(values.read ? read : hold))
if (Exit.isFailure(exit)) throw new Error(String(exit.cause))
if (exit.value._tag === "Failure") {
  const error = exit.value.failure
  const { code, command, directory, operation, path, pid } = error
  say(
    `refused ${
      JSON.stringify({ tag: error._tag, message: error.message, code, command, directory, operation, path, pid })
    }`
  )
}
input.close()
process.stdin.destroy()
