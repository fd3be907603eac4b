/**
 * What `--json` prints: one object a line, each with `schema` and `kind` first. Numbers are exact: none is above
 * 2^53 − 1.
 *
 * Names and kinds are those of the Rust program's `datawal.cli.v1`, with fields and kinds added.
 */
import * as Schema from "effect/Schema"
import { DamageReason } from "../Errors.ts"

/** The name and version of all lines. */
export const schema = "datawal.cli.v1"

const object = <Kind extends string, Fields extends Schema.Struct.Fields>(kind: Kind, fields: Fields) =>
  Schema.Struct({ schema: Schema.Literal(schema), kind: Schema.Literal(kind), ...fields })

const Count = Schema.Natural
const Bytes = Schema.Uint8ArrayFromBase64
const RecordType = Schema.Literals(["Raw", "Put", "Delete"])
const place = { segment: Count, offset: Count, len: Count }
const Flag = Schema.Literals([0, 1])

/** `scan`, a line a record. */
export const RecordLine = object("record", {
  ...place,
  record_type: RecordType,
  txid: Count,
  key_base64: Bytes,
  payload_base64: Bytes
})

/** `dump`, a line a frame. */
export const FrameLine = object("frame", {
  ...place,
  record_type: RecordType,
  txid: Count,
  key_len: Count,
  payload_len: Count
})

/** `get` of a key that has a value. */
const ValueLine = object("value", { key_base64: Bytes, value_base64: Bytes, value_len: Count })

/** `get` of one that has none. */
const MissLine = object("miss", { key_base64: Bytes })

/** What `report` and `repair` say. Every field is always there; `null` where there is nothing to say. */
const report = {
  files_scanned: Count,
  records_replayed: Count,
  tail_truncated: Flag,
  tail_bytes_discarded: Count,
  mid_stream_errors: Flag,
  unsupported_versions: Flag,
  last_txid_seen: Count,
  tail_segment: Schema.NullOr(Count),
  tail_offset: Schema.NullOr(Count),
  tail_reason: Schema.NullOr(DamageReason),
  torn_file: Schema.NullOr(Schema.String)
}

const ReportLine = object("report", report)

const RepairLine = object("repair", report)

/** `last_segment` and `last_offset` are those of the last valid frame, or 0. */
const VerifyLine = object("verify", {
  frames_checked: Count,
  crc_failures: Flag,
  tail_truncated: Flag,
  tail_bytes_discarded: Count,
  last_segment: Count,
  last_offset: Count
})

const CheckLine = object("check", {
  keys_checked: Count,
  tail_truncated: Flag,
  tail_bytes_discarded: Count,
  mid_stream_errors: Flag,
  unsupported_versions: Flag
})

const ExportLine = object("export", { outfile: Schema.String, records_written: Count, bytes_written: Count })

const CompactLine = object("compact", {
  target: Schema.String,
  live_keys: Count,
  records_written: Count,
  bytes_written: Count
})

const SalvageLine = object("salvage", {
  target: Schema.String,
  records_written: Count,
  bytes_written: Count,
  gaps: Count,
  bytes_skipped: Count
})

const ImportLine = object("import", { records_written: Count, bytes_written: Count })

/** `put`, `delete` and `append`: where the record stands. */
const RefLine = object("ref", { ...place, txid: Count })

export const Line = Schema.Union([
  RecordLine,
  FrameLine,
  ValueLine,
  MissLine,
  ReportLine,
  RepairLine,
  VerifyLine,
  CheckLine,
  ExportLine,
  CompactLine,
  SalvageLine,
  ImportLine,
  RefLine
])

/** A line as it is printed. Types alone hold the commands to it: encoding a line costs more than reading its record. */
export type Line = typeof Line.Encoded
