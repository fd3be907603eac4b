export type Kind = "small" | "large" | "huge" | "line" | "mixed"
export const payloadOf: (kind: Kind, n: number) => Buffer
export const numberOf: (payload: Uint8Array) => number
export const operationOf: (n: number) => { readonly key: string; readonly value: Buffer | undefined }
export const lineOf: (n: number) => string
