/**
 * The human form of bytes, records and reports. Pure.
 */
import type { LogRecord, RecordType } from "../Frame.ts"
import type { Place } from "../Kv.ts"
import type { RecordRef } from "../Log.ts"

/** How bytes are shown. */
type BytesMode = "auto" | "raw" | "base64" | "hex"

export interface BytesOptions {
  readonly mode: BytesMode
  readonly truncate: boolean
}

/** Where the human form cuts bytes. */
export const shown_bytes_max = 64

const bufferOf = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** 0x20 to 0x7E, and tab: what no terminal takes for a command. */
export const isPrintable = (bytes: Uint8Array): boolean => {
  for (const byte of bytes) {
    if ((byte < 0x20 || byte > 0x7E) && byte !== 0x09) return false
  }
  return true
}

export const isCut = (bytes: Uint8Array, { truncate }: BytesOptions): boolean =>
  truncate && bytes.length > shown_bytes_max

const head = (bytes: Uint8Array, options: BytesOptions): Buffer =>
  bufferOf(isCut(bytes, options) ? bytes.subarray(0, shown_bytes_max) : bytes)

const quoted = (text: string): string =>
  text === "" || /[ \t"\\]/.test(text)
    ? `"${text.replaceAll(/["\\]/g, "\\$&").replaceAll("\t", "\\t")}"`
    : text

/**
 * A field of a line: printable bytes literally, quoted where a space, tab, quote, backslash or nothing at all would
 * blur the field; others with a prefix that names the encoding. `raw` is `auto` here: a line must stay one.
 */
export const field = (bytes: Uint8Array, options: BytesOptions): string => {
  const shown = head(bytes, options)
  const { mode } = options
  const text = mode === "hex"
    ? `hex:${shown.toString("hex")}`
    : mode === "base64" || !isPrintable(bytes)
    ? `b64:${shown.toString("base64")}`
    : quoted(shown.toString("latin1"))
  return isCut(bytes, options) ? `${text}...` : text
}

/** A value on a line of its own, without prefix or quotes: for the shell. Only for printable bytes when not encoded. */
export const plain = (bytes: Uint8Array, options: BytesOptions): string => {
  const { mode } = options
  const text = head(bytes, options).toString(mode === "hex" || mode === "base64" ? mode : "latin1")
  return isCut(bytes, options) ? `${text}...` : text
}

const typeNames: { readonly [Type in RecordType]: string } = { Raw: "RAW", Put: "PUT", Delete: "DEL" }

const place = ({ len, offset, segment }: Place): string =>
  `seg=${String(segment).padStart(8, "0")} off=${String(offset).padStart(10)} len=${String(len).padStart(8)}`

const txid = (record: { readonly txid: number }): string => `txid=${String(record.txid).padStart(10)}`

const start = (record: LogRecord): string => `${place(record)} type=${typeNames[record.type]} ${txid(record)}`

export const recordLine = (record: LogRecord, options: BytesOptions): string =>
  `${start(record)} key=${field(record.key, options)} payload=${field(record.payload, options)}`

export const frameLine = (record: LogRecord): string =>
  `${start(record)} key=${field(record.key, { mode: "auto", truncate: true })} ` +
  `key_len=${record.keyLength} payload_len=${record.payloadLength}`

export const refLine = (ref: RecordRef): string => `${place(ref)} ${txid(ref)}\n`

/** Text that others chose, such as the name of a file, on one line and without what a terminal takes for a command. */
export const harmless = (text: string): string =>
  text.replaceAll(
    /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`
  )

/** `name: value` lines with the values in one column; `-` where there is none. Leaves `schema` and `kind` out. */
export const fields = (object: { readonly [name: string]: string | number | null }): string => {
  const entries = Object.entries(object).filter(([name]) => name !== "schema" && name !== "kind")
  const width = Math.max(...entries.map(([name]) => name.length)) + 2
  return entries.map(([name, value]) => `${`${name}:`.padEnd(width)}${harmless(String(value ?? "-"))}\n`).join("")
}
