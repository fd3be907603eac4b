/**
 * What a command is given to store: a value of the command line, a file, or standard input.
 */
import * as NodeStream from "@effect/platform-node/NodeStream"
import type * as Arr from "effect/Array"
import type * as CliError from "effect/cli/CliError"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Pull from "effect/Pull"
import type * as Scope from "effect/Scope"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import * as NFS from "node:fs"
import { Socket } from "node:net"
import type { Readable } from "node:stream"
import type { LimitExceeded } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { type Failure, refuse, unreadable, wrongUsage } from "./failure.ts"
import { fromText } from "./flags.ts"

/** The name that stands for standard input. */
export const standardInput = "-"

/**
 * The bytes of a file or of standard input, `undefined` if there are none. Returns when the first are there: a name
 * that cannot be read is found out before a store is opened, and no lock is held while nobody types.
 */
export const open = Effect.fnUntraced(function*(
  path: string
): Effect.fn.Return<Stream.Stream<Uint8Array, Failure> | undefined, Failure, Stdio.Stdio | Scope.Scope> {
  const stdio = yield* Stdio.Stdio
  const source = path !== standardInput
    ? readFile(path)
    : hasStream(0)
    ? Stream.mapError(stdio.stdin, (error) => unreadable("standard input", error.cause))
    : readAll(() => NFS.createReadStream("", { fd: 0, autoClose: false }), "standard input")
  const pull = yield* Stream.toPull(source)
  const nothing: ReadonlyArray<Uint8Array> = []
  const first = yield* Pull.catchDone(pull, () => Effect.succeed(nothing))
  return first.length === 0
    ? undefined
    : Stream.concat(Stream.fromArray(first), Stream.fromPull(Effect.succeed(pull)))
})

/**
 * Whether Node has a stream for what a standard stream is. For anything else, such as a directory or a disk, it has one
 * that is empty and takes everything.
 */
export const hasStream = (descriptor: number): boolean => {
  try {
    const stats = NFS.fstatSync(descriptor)
    return stats.isFile() || stats.isFIFO() || stats.isSocket() || stats.isCharacterDevice()
  } catch {
    return true
  }
}

const readAll = (evaluate: () => Readable, name: string): Stream.Stream<Uint8Array, Failure> =>
  NodeStream.fromReadable<Uint8Array, Failure>({ evaluate, onError: (cause) => unreadable(name, cause) })

// In the order of its bytes, without positions, which a pipe (`<(command)`, /dev/stdin) does not have.
const readFile = (path: string): Stream.Stream<Uint8Array, Failure> => readAll(() => readableOf(path), path)

// To open or read a pipe as a file keeps a thread until somebody writes, and the process from ending.
const readableOf = (path: string): Readable => {
  try {
    if (NFS.statSync(path).isFIFO()) {
      const fd = NFS.openSync(path, NFS.constants.O_RDONLY | NFS.constants.O_NONBLOCK)
      return new Socket({ fd, readable: true, writable: false })
    }
  } catch {
    // The stream of a file says why.
  }
  return NFS.createReadStream(path)
}

const readValue = Effect.fnUntraced(function*(
  path: string
): Effect.fn.Return<Uint8Array, Failure, Stdio.Stdio | Scope.Scope> {
  const input = (yield* open(path)) ?? Stream.empty
  const chunks: Array<Uint8Array> = []
  let length = 0
  yield* Stream.runForEachArray(input, (batch: Arr.NonEmptyReadonlyArray<Uint8Array>) => {
    for (const chunk of batch) {
      chunks.push(chunk)
      length += chunk.length
    }
    // Nothing beyond the limit is read: an input without end must not fill the memory.
    return length <= Frame.payload_bytes_max
      ? Effect.void
      : Effect.fail(refuse(`the value has more than ${Frame.payload_bytes_max} bytes, the limit; nothing was written`))
  })
  return Buffer.concat(chunks, length)
})

const textValue = { name: "VALUE", instead: "--value-file or standard input" }

/** The value that a command was given, in one of the three ways. */
export const value = Effect.fnUntraced(function*(
  command: string,
  given: { readonly argument: Option.Option<string>; readonly file: Option.Option<string> }
): Effect.fn.Return<
  Uint8Array,
  Failure | LimitExceeded | CliError.ShowHelp,
  Stdio.Stdio
> {
  const { argument, file } = given
  if (Option.isSome(argument) === Option.isSome(file)) {
    return yield* wrongUsage(command, "Give the value once: as VALUE, with --value-file FILE, or - for standard input")
  }
  if (Option.isSome(file)) return yield* Effect.scoped(readValue(file.value))
  const text = Option.getOrElse(argument, () => "")
  return text === standardInput ? yield* Effect.scoped(readValue(text)) : yield* fromText(command, text, textValue)
})
