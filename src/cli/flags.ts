/**
 * The command itself, and the arguments and flags that its subcommands share.
 */
import type * as Argument from "effect/cli/Argument"
import type * as CliError from "effect/cli/CliError"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Param from "effect/cli/Param"
import * as Primitive from "effect/cli/Primitive"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import type { LimitExceeded } from "../Errors.ts"
import { base64 } from "../internal/bytes.ts"
import { keyLimit } from "../internal/entries.ts"
import { wrongUsage } from "./failure.ts"
import { schema } from "./schema.ts"

/** A description in lines that fit a terminal: the help indents it by two and does not wrap it. */
export const paragraph = (...lines: ReadonlyArray<string>): string => lines.join("\n  ")

/** `datawal`, whose `--json` may stand before or behind the name of a subcommand. */
export const datawal = Command.make("datawal").pipe(
  Command.withSharedFlags({
    json: Flag.Boolean("json").pipe(
      Flag.withoutNegation,
      Flag.withDefault(false),
      Flag.withDescription(`Print one JSON object a line (schema ${schema}) instead of the form for people`)
    )
  }),
  Command.withDescription(
    paragraph(
      "Looks into, checks, mends and changes datawal stores: append-only record logs with a key/value view.",
      "Ends with 0 when all is well, 1 at an error, 2 at a torn tail or a missing key, 3 at corruption."
    )
  ),
  Command.withExamples([
    { command: "datawal put ./store --key colour blue", description: "Set a key; the store is made if it is missing" },
    { command: "datawal get ./store --key colour", description: "Print its value" },
    { command: "datawal scan ./store --limit 10", description: "The first records, one a line" },
    { command: "datawal --json verify ./store", description: "Check every frame, for a program" }
  ])
)

/** Whether `--json` was given. */
export const isJson = Effect.map(datawal, ({ json }) => json)

// A path as it was given, for the shell to complete. `Argument.Path` would make it absolute, and so take an unset
// variable for the current directory.
const pathType = (type: Primitive.PathType): Primitive.Primitive<string> =>
  Object.assign(Primitive.Path(type), {
    parse: (path: string) =>
      path === ""
        ? Effect.fail("a path that is not empty")
        // Node does not see what it was, and would take another one for it.
        : path.includes("\uFFFD")
        ? Effect.fail("a path that is valid UTF-8; a symbolic link can give it another name")
        : !NodePath.isAbsolute(path) && !isHomeNamed()
        ? Effect.fail("a path from the root: the name of the working directory is not valid UTF-8")
        : Effect.succeed(path)
  })

/** Whether the process can name its own directory; one that has been removed has no name. */
const isHomeNamed = (): boolean => {
  let name = ""
  try {
    name = process.cwd()
  } catch {
    return true
  }
  if (!name.includes("\uFFFD")) return true
  return NFS.statSync(name, { throwIfNoEntry: false })?.ino === NFS.statSync(".").ino
}

/** An argument that is a path. */
export const path = (name: string, type: Primitive.PathType, description: string): Argument.Argument<string> =>
  Param.makeSingle({
    kind: Param.argumentKind,
    name,
    primitiveType: pathType(type),
    description: Option.some(description)
  })

export const store = path("STORE", "directory", "Directory of the store")

/** A flag that is the path of a file. */
export const fileFlag = (name: string, description: string): Flag.Flag<string> =>
  Param.makeSingle({
    kind: Param.flagKind,
    name,
    primitiveType: pathType("file"),
    description: Option.some(description)
  })

const natural = (name: string, metavar: string, description: string) =>
  Flag.Int(name).pipe(
    Flag.filter((value) => Number.isSafeInteger(value) && value >= 0, () => "a whole number from 0"),
    Flag.withMetavar(metavar),
    Flag.withDescription(description),
    Flag.optional
  )

export const limit = natural("limit", "COUNT", "Stop after this many records")

export const position = {
  segment: natural("from-segment", "ID", "Start in this segment, or the next one there is"),
  offset: natural(
    "from-offset",
    "BYTES",
    "Start at the first record at or behind this byte of it (with --from-segment)"
  )
}

export const bytes = {
  mode: Flag.Literals("bytes", ["auto", "raw", "base64", "hex"]).pipe(
    Flag.withDefault("auto"),
    Flag.withDescription("How bytes are shown")
  ),
  whole: Flag.Boolean("no-truncate").pipe(
    Flag.withoutNegation,
    Flag.withDefault(false),
    Flag.withDescription("Do not cut bytes at 64")
  )
}

export const key = {
  text: Flag.String("key").pipe(
    Flag.withMetavar("TEXT"),
    Flag.withDescription("The key, as UTF-8 text"),
    Flag.optional
  ),
  base64: Flag.String("key-base64").pipe(
    Flag.withMetavar("BASE64"),
    Flag.withDescription("The key, in standard base64 with padding"),
    Flag.optional
  ),
  hex: Flag.String("key-hex").pipe(
    Flag.withMetavar("HEX"),
    Flag.withDescription("The key, in hexadecimal digits"),
    Flag.optional
  )
}

interface KeyFlags {
  readonly text: Option.Option<string>
  readonly base64: Option.Option<string>
  readonly hex: Option.Option<string>
}

/** The bytes of the key flag that was given, `undefined` if none was. */
export const optionalKey = (
  command: string,
  flags: KeyFlags
): Effect.Effect<Uint8Array | undefined, CliError.ShowHelp | LimitExceeded> => {
  const given = [
    Option.map(flags.text, (text) => fromText(command, text, textKey)),
    Option.map(flags.base64, (text) => fromBase64(command, text)),
    Option.map(flags.hex, (text) => fromHex(command, text))
  ].flatMap(Option.toArray)
  const [only, another] = given
  if (only === undefined) return Effect.succeed(undefined)
  if (another !== undefined) return Effect.fail(wrongUsage(command, oneKey))
  // Refused before a store is opened, or made.
  return Effect.flatMap(only, (key) => {
    const exceeded = keyLimit(key.length)
    return exceeded === undefined ? Effect.succeed(key) : Effect.fail(exceeded)
  })
}

const textKey = { name: "--key", instead: "--key-base64 or --key-hex" }

const oneKey = "Give exactly one of --key, --key-base64 and --key-hex"

export const requiredKey = (
  command: string,
  flags: KeyFlags
): Effect.Effect<Uint8Array, CliError.ShowHelp | LimitExceeded> =>
  Effect.flatMap(
    optionalKey(command, flags),
    (key) => key === undefined ? Effect.fail(wrongUsage(command, oneKey)) : Effect.succeed(key)
  )

/** Text of the command line as bytes. Node has put U+FFFD where the line was not UTF-8: those bytes are lost. */
export const fromText = (
  command: string,
  text: string,
  { instead, name }: { readonly name: string; readonly instead: string }
): Effect.Effect<Uint8Array, CliError.ShowHelp> =>
  text.includes("\uFFFD")
    ? Effect.fail(wrongUsage(command, `${name} is not UTF-8, or holds U+FFFD; use ${instead}`))
    : Effect.succeed(Buffer.from(text))

// What Node decodes leniently, it encodes in one way only.
const fromBase64 = (command: string, text: string): Effect.Effect<Uint8Array, CliError.ShowHelp> => {
  const bytes = Buffer.from(text, "base64")
  return base64(bytes) === text
    ? Effect.succeed(bytes)
    : Effect.fail(wrongUsage(command, "--key-base64 is not standard base64 with padding"))
}

const fromHex = (command: string, text: string): Effect.Effect<Uint8Array, CliError.ShowHelp> => {
  const bytes = Buffer.from(text, "hex")
  return bytes.toString("hex") === text.toLowerCase()
    ? Effect.succeed(bytes)
    : Effect.fail(wrongUsage(command, "--key-hex is not pairs of hexadecimal digits"))
}
