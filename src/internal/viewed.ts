/** Not in `bytes.ts`, which types that users see rest on: they may be without those of Node. */

/** A buffer, and the view on all of it. */
export interface Viewed {
  readonly bytes: Buffer
  readonly view: DataView
}

export const viewed = (bytes: Buffer): Viewed => ({
  bytes,
  view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
})
