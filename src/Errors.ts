/**
 * The typed errors of the store.
 *
 * | error | raised by | what the caller can do |
 * | --- | --- | --- |
 * | `LockHeld` | opening for write | wait (`waitForLock`), or end the other writer |
 * | `LockUnavailable` | opening for write, making a store | run the command it names; reading works without |
 * | `CorruptTail` | opening, reading | `Salvage` copies all that is whole; `prefix` cuts it, and keeps a copy |
 * | `CorruptSegment` | opening, reading | restore the segment from a backup; `Salvage` copies all that is whole |
 * | `IoError` | anything that touches the disk | depends on `code`; after a failed write, sync or rotate reopen |
 * | `WriterPoisoned` | every mutation after a failed one | close and reopen: recovery restores a sound tail |
 * | `LimitExceeded` | append, put, delete, rotate, opening a `Kv` | make the record smaller, or go on in a new store |
 * | `InvalidPosition` | reading at a place | use a position that this log gave |
 * | `InvalidOptions` | opening, `Lock.acquire` | mend the option it names |
 * | `TargetRefused` | `compactTo`, `Export.toFile`, `Salvage.toStore` | choose one outside that holds nothing yet |
 * | `InvalidLine` | import | mend the line; everything before it is stored and synced |
 *
 * Every error carries the fields a handler needs, a message made from them, and, where there is one, the cause. All are
 * schemas, so they can cross a process boundary.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * Why bytes are not a whole valid frame, in the order in which a decoder finds out. `RecordMismatch` is a frame that is
 * valid, but not the record that was asked for at its place.
 *
 * @category models
 * @since 0.1.0
 */
export const DamageReason = Schema.Literals([
  "Truncated",
  "BadMagic",
  "UnknownVersion",
  "UnknownRecordType",
  "ReservedFlags",
  "KeyTooLarge",
  "PayloadTooLarge",
  "UnsupportedTxid",
  "CrcMismatch",
  "RecordMismatch"
])

/**
 * One of the reasons.
 *
 * @category models
 * @since 0.1.0
 */
export type DamageReason = typeof DamageReason.Type

const place = (segment: number, offset: number): string =>
  `segment ${String(segment).padStart(8, "0")}, offset ${offset}`

const found = (value: number | undefined): string => value === undefined ? "" : ` (found ${value})`

/**
 * Another writer, in this process or another, holds the directory's lock. Nothing was read or changed.
 *
 * `pid` is what the lock file says and only for people to read: it can be missing for a moment while the holder
 * writes it, and in another container the same number is another process. `isOwn` is true when the holder is this very
 * process, as far as this copy of the library knows.
 *
 * @category errors
 * @since 0.1.0
 */
export class LockHeld extends Schema.TaggedError<LockHeld>("effect-datawal/LockHeld")("LockHeld", {
  directory: Schema.String,
  pid: Schema.optional(Schema.Number),
  isOwn: Schema.optional(Schema.Boolean)
}) {
  override get message(): string {
    const holder = this.pid === undefined ? "" : ` (its .lock names process ${this.pid})`
    if (this.isOwn === true) {
      return `${this.directory} is open in this process already${holder}; provide its layer once, bound to a constant`
    }
    return `${this.directory} is locked by another writer${holder}; end it, or wait for it ` +
      "(the option waitForLock, or wait of Lock.acquire)"
  }
}

/**
 * The native module that takes the lock, `koffi`, could not be loaded, so the store was not opened: it never goes on
 * without the lock. `cause` says what was wrong: mostly that it is not installed, or not with its binary for this
 * platform, and `command` installs it; a process that may load no addons has it refused. Reading needs no lock and goes
 * on working.
 *
 * @category errors
 * @since 0.1.0
 */
export class LockUnavailable extends Schema.TaggedError<LockUnavailable>("effect-datawal/LockUnavailable")(
  "LockUnavailable",
  { directory: Schema.String, command: Schema.String, cause: Schema.Defect() }
) {
  override get message(): string {
    const [why] = (this.cause instanceof Error ? this.cause.message : String(this.cause)).split("\n")
    return `cannot lock ${this.directory}: the native module koffi cannot be loaded here: ${why}; if it is not ` +
      `installed, run \`${this.command}\` where the program is`
  }
}

/**
 * The active segment is damaged at `offset`, and `laterFrames` whole valid records stand behind the damage (or the
 * policy is `strict`, and the tail is torn): cutting it off could lose acknowledged data. Nothing on disk was
 * changed. `Salvage` reads what is whole, before and behind the damage; the policy `prefix` cuts it off, with all that
 * is behind it.
 *
 * `bytes` is the distance from the damage to the end of the file.
 *
 * @category errors
 * @since 0.1.0
 */
export class CorruptTail extends Schema.TaggedError<CorruptTail>("effect-datawal/CorruptTail")("CorruptTail", {
  directory: Schema.String,
  segment: Schema.Number,
  offset: Schema.Number,
  reason: DamageReason,
  found: Schema.optional(Schema.Number),
  bytes: Schema.Number,
  laterFrames: Schema.Number
}) {
  override get message(): string {
    return describeTail(this, copies, "the policy prefix")
  }
}

/**
 * A segment holds, at `offset`, something that is not a valid frame and that no crash explains: damage to a closed
 * segment, a newer version's frame, or not a log at all. Nothing on disk was changed. Restore the segment from a
 * backup, or read with `Salvage` what is whole, before and behind the damage.
 *
 * @category errors
 * @since 0.1.0
 */
export class CorruptSegment extends Schema.TaggedError<CorruptSegment>("effect-datawal/CorruptSegment")(
  "CorruptSegment",
  {
    directory: Schema.String,
    segment: Schema.Number,
    offset: Schema.Number,
    reason: DamageReason,
    found: Schema.optional(Schema.Number)
  }
) {
  override get message(): string {
    return describeSegment(this, copies)
  }
}

const copies = "Salvage.toStore"

/** What is wrong, and what copies what is whole, or cuts. @internal */
export const describeTail = (error: CorruptTail, salvage: string, prefix: string): string => {
  const behind = error.laterFrames === 0
    ? "the policy strict refuses a torn tail; the policy repair cuts it and keeps a copy"
    : `${error.laterFrames} valid record(s) stand behind it; ${salvage} copies them and all that is whole into a new ` +
      `store, ${prefix} cuts them off, keeping a copy`
  return `${error.directory} is damaged at ${place(error.segment, error.offset)}: ${error.reason}` +
    `${found(error.found)}, ${error.bytes} bytes to the end of the file; ${behind}`
}

/** What is wrong, and what copies what is whole. @internal */
export const describeSegment = (error: CorruptSegment, salvage: string): string => {
  const newer = error.reason === "UnknownVersion"
    ? "if a newer program has written it, open it with that one; if not, "
    : ""
  return `${error.directory} is corrupt at ${place(error.segment, error.offset)}: ${error.reason}` +
    `${found(error.found)}; ${newer}restore the segment from a backup, or ${salvage} copies all that is whole into a ` +
    "new store"
}

/**
 * The operating system refused an operation. `code` is its errno name (`ENOSPC`, `EIO`, `EACCES` …), a code of Node's
 * own (`ERR_INVALID_ARG_VALUE`, for a path with a NUL), or `UNKNOWN`. `ESTALE` is a directory or a file that was moved,
 * removed or replaced: open the store again. `EBADF` is what a store whose scope has closed answers when it is asked
 * for values or to write; what has no error in its type, such as `has` or `keys`, is said as it last was.
 *
 * @category errors
 * @since 0.1.0
 */
export class IoError extends Schema.TaggedError<IoError>("effect-datawal/IoError")("IoError", {
  operation: Schema.String,
  path: Schema.String,
  code: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    const why = typeof this.cause === "string" ? ` (${this.cause})` : ""
    return `${this.operation} ${this.path}: ${this.code}${why}`
  }
}

/**
 * An earlier write, sync or rotate of this writer failed, so what the file holds behind its last good record is
 * unknown and this writer takes no more. Reads go on working. Close it and open the directory again: recovery
 * restores a sound tail.
 *
 * `operation`, `path` and `code` name that first failure, which is also the `cause`.
 *
 * @category errors
 * @since 0.1.0
 */
export class WriterPoisoned extends Schema.TaggedError<WriterPoisoned>("effect-datawal/WriterPoisoned")(
  "WriterPoisoned",
  {
    directory: Schema.String,
    operation: Schema.String,
    path: Schema.String,
    code: Schema.String,
    cause: Schema.optional(Schema.Defect())
  }
) {
  override get message(): string {
    return `the writer of ${this.directory} stopped after ${this.operation} ${this.path} failed with ${this.code}; ` +
      "close it and open the store again"
  }
}

/**
 * The record, or the log, would pass a fixed limit of the format, or the index of a `Kv` has no room for another key.
 * Nothing of that record was written, and the store goes on working; one whose log has more keys than its index has
 * room for does not open, but is read as a log. All limits but `segment`, which a batch can meet
 * at a rotation, are looked at before anything of a call is written. `actual` and `maximum` are bytes for `key` and
 * `payload`, numbers for `txid`, `segment` and `keys` (there `maximum` is how many keys there are).
 *
 * @category errors
 * @since 0.1.0
 */
export class LimitExceeded extends Schema.TaggedError<LimitExceeded>("effect-datawal/LimitExceeded")("LimitExceeded", {
  limit: Schema.Literals(["key", "payload", "txid", "segment", "keys"]),
  actual: Schema.Number,
  maximum: Schema.Number
}) {
  override get message(): string {
    if (this.limit === "keys") return `the index has no room for a key beside its ${this.maximum}; nothing was written`
    return this.limit === "key" || this.limit === "payload"
      ? `the ${this.limit} has ${this.actual} bytes, the limit is ${this.maximum}; nothing was written`
      : `the next ${this.limit} would be ${this.actual}, the limit is ${this.maximum}; continue in a new store`
  }
}

/**
 * No record starts at the position that was asked for, nor do the records end there: it is none that this log gave, or
 * the log has been replaced by another or by an older copy since. Where damage leaves that open, the damage is told.
 * `txid` is there when one was asked for that is no number.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidPosition extends Schema.TaggedError<InvalidPosition>("effect-datawal/InvalidPosition")(
  "InvalidPosition",
  {
    directory: Schema.String,
    segment: Schema.Number,
    offset: Schema.Number,
    txid: Schema.optionalKey(Schema.Number)
  }
) {
  override get message(): string {
    if (this.txid !== undefined) return `${this.directory} has no record from the txid ${this.txid} on`
    return `${this.directory} has no record that starts at ${place(this.segment, this.offset)}`
  }
}

/**
 * An option has a value outside its range. Nothing was opened.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidOptions extends Schema.TaggedError<InvalidOptions>("effect-datawal/InvalidOptions")(
  "InvalidOptions",
  { detail: Schema.String }
) {
  override get message(): string {
    return `invalid options: ${this.detail}`
  }
}

/**
 * The target is something that must not be replaced, and was left as it is. A store is not made where something is
 * (`found` names an entry of the directory), a file, a symbolic link or the working directory; an export replaces
 * nothing but a regular file; and neither is written into the directory of the store it is made from, at any depth.
 *
 * @category errors
 * @since 0.1.0
 */
export class TargetRefused extends Schema.TaggedError<TargetRefused>("effect-datawal/TargetRefused")("TargetRefused", {
  target: Schema.String,
  found: Schema.String
}) {
  override get message(): string {
    return `${this.target} was left as it is: found ${this.found}; choose another target`
  }
}

/**
 * A line of an import is not `{"key_b64":"…","value_b64":"…"}`. `line` counts from 1. Every line before it is
 * stored and synced; nothing of this line or behind it is.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidLine extends Schema.TaggedError<InvalidLine>("effect-datawal/InvalidLine")("InvalidLine", {
  line: Schema.Number,
  detail: Schema.String
}) {
  override get message(): string {
    return `line ${this.line}: ${this.detail}; ` +
      (this.line === 1 ? "nothing is stored" : "the lines before it are stored")
  }
}
