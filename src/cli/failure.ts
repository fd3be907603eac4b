/**
 * How a command ends: the exit code, and what it says on standard error.
 *
 * | code | meaning |
 * | --- | --- |
 * | 0 | fine, also when the reader of our output has gone |
 * | 1 | wrong usage, lock held, refused to overwrite, no such store, any other error |
 * | 2 | a torn tail was met, or the key is missing |
 * | 3 | corruption |
 * | 130 | interrupted |
 */
import * as Cause from "effect/Cause"
import * as CliError from "effect/cli/CliError"
import * as Data from "effect/Data"
import { getSystemErrorMap } from "node:util"
import {
  type CorruptSegment,
  type CorruptTail,
  describeSegment,
  describeTail,
  type IoError,
  type LockHeld
} from "../Errors.ts"
import type { RecoveryReport } from "../Recovery.ts"

/** Ends a command with this code, and says why unless `detail` is `undefined`. */
export class Failure extends Data.TaggedError("Failure")<{
  readonly code: 0 | 1 | 2 | 3
  readonly detail: string | undefined
}> {
  override get message(): string {
    return this.detail ?? ""
  }
}

export const refuse = (detail: string): Failure => new Failure({ code: 1, detail })

/** A mistake in how the command was called, shown like those that the parser finds itself. */
export const wrongUsage = (command: string, message: string): CliError.ShowHelp =>
  new CliError.ShowHelp({
    commandPath: ["datawal", command],
    errors: [new CliError.ValidationError({ message })]
  })

export const noSuchStore = (store: string, why: string): Failure => refuse(`no such store: ${store} ${why}`)

/** What a reader makes of a torn tail: not an error of the store, but not a clean end either. */
export const tornTail = (
  store: string,
  tail: { readonly segment: number; readonly offset: number; readonly bytes: number; readonly reason: string }
): Failure =>
  new Failure({
    code: 2,
    detail:
      `${store} ends in a torn tail at segment ${String(tail.segment).padStart(8, "0")}, offset ${tail.offset}: ` +
      `${tail.reason}, ${tail.bytes} bytes; the next writer cuts it off (or is still writing it)`
  })

/** The failure that a report with a torn tail stands for. */
export const tornReport = (store: string, report: RecoveryReport): Failure | undefined =>
  report.tail_truncated === 0 ? undefined : tornTail(store, {
    segment: report.tail_segment ?? 0,
    offset: report.tail_offset ?? 0,
    bytes: report.tail_bytes_discarded,
    reason: report.tail_reason ?? "Truncated"
  })

export const isCorruption = (error: { readonly _tag: string }): error is CorruptTail | CorruptSegment =>
  error._tag === "CorruptTail" || error._tag === "CorruptSegment"

/** A copy was made, and it is less than what was acknowledged: a script must not take it for a backup. */
export const lostRecords = (store: string, target: string): Failure =>
  new Failure({ code: 3, detail: `${store} is corrupt; ${target} holds what is whole in it, and not all there was` })

/** A file of the user's that could not be read, by its errno. */
export const unreadable = (path: string, cause: unknown): Failure => {
  const code = typeof cause === "object" && cause !== null && "code" in cause ? String(cause.code) : String(cause)
  return refuse(`cannot read ${path}: ${code}${wordsOf(code)}`)
}

/** What the system says of its own code. */
const wordsOf = (code: string): string => {
  for (const [name, words] of getSystemErrorMap().values()) if (name === code) return `, ${words}`
  return ""
}

/** The exit code of a failed command, and the line that says why, if it has not been said yet. */
export const verdict = (
  cause: Cause.Cause<unknown>
): { readonly code: number; readonly message?: string | undefined } => {
  const error = Cause.squash(cause)
  if (error instanceof Failure) return { code: error.code, message: error.detail }
  if (CliError.isCliError(error) && error._tag === "ShowHelp") return { code: error.errors.length === 0 ? 0 : 1 }
  if (Cause.hasFails(cause) && isTagged(error)) {
    return { code: isCorruption(error) ? 3 : 1, message: describe(error) }
  }
  const what = error instanceof Error ? error.message : String(error)
  return { code: 1, message: `internal error: ${what}; please report it` }
}

const isTagged = (error: unknown): error is Error & { readonly _tag: string } =>
  error instanceof Error && "_tag" in error && typeof error._tag === "string"

// The library's own messages name its options.
const describe = (error: Error & { readonly _tag: string }): string => {
  if (isLockHeld(error)) {
    const holder = error.pid === undefined ? "" : ` (its .lock names process ${error.pid})`
    return `${error.directory} is locked by another writer${holder}; try again when that has ended`
  }
  if (isCorruption(error)) {
    const { directory } = error
    const salvage = `\`datawal salvage ${quoted(directory)} ${quoted(`${directory}.salvaged`)}\``
    return error._tag === "CorruptSegment"
      ? describeSegment(error, salvage)
      : describeTail(error, salvage, `\`datawal repair ${quoted(directory)} --policy prefix\``)
  }
  if (!isIoError(error)) return error.message
  const left = error.path.endsWith(".torn") ? "; what is to be cut could not be copied, and nothing was cut" : ""
  return `${error.message}${wordsOf(error.code)}${left}`
}

/** As a word of the shell's that is no flag, for a command that somebody will paste, on one line. */
const quoted = (name: string): string => {
  const text = name.startsWith("-") ? `./${name}` : name
  if (/^[\w@%+=:,./-]+$/.test(text)) return text
  if (/\p{Cc}/u.test(text)) {
    const bytes = text.replaceAll(/[\\']/g, "\\$&").replaceAll(
      /\p{Cc}/gu,
      (character) => [...Buffer.from(character)].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")
    )
    return `$'${bytes}'`
  }
  return `'${text.replaceAll("'", "'\\''")}'`
}

/** A write of an import that failed: the store is sound, and puts of the same values can be repeated. */
export const importStopped = <E extends { readonly _tag: string }>(error: E | IoError): E | IoError | Failure =>
  isIoError(error) && error.operation === "write"
    ? refuse(`${describe(error)}; what was written before is stored, and the import can be done again`)
    : error

const isLockHeld = (error: { readonly _tag: string }): error is LockHeld => error._tag === "LockHeld"

/** `IoError` of opening a directory that is not there, in words. */
export const missingStore =
  (store: string) => <E extends { readonly _tag: string }>(error: E | IoError): E | IoError | Failure => {
    if (!isIoError(error)) return error
    if (error.operation === "list" && error.code === "ENOENT") return noSuchStore(store, "does not exist")
    const notDirectory = error.code === "ENOTDIR" || (error.operation === "create directory" && error.code === "EEXIST")
    return notDirectory ? noSuchStore(store, "is not a directory") : error
  }

const isIoError = (error: { readonly _tag: string }): error is IoError => error._tag === "IoError"
