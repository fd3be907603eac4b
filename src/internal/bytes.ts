/** Keys and values as a caller gives them. */
export type Bytes = Uint8Array | string

const encoder = new TextEncoder()

/** The bytes themselves, or a string's UTF-8. */
export const toBytes = (value: Bytes): Uint8Array => typeof value === "string" ? encoder.encode(value) : value
