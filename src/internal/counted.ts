/** What is counted of the records that are read, and whether a segment is missing among them. */
import * as Frame from "../Frame.ts"
import { segmentName } from "../Recovery.ts"
import type { Frames } from "./frames.ts"

/** A segment whose txids do not go on where those before it end: one is missing there, or is there twice. */
export interface Gap {
  readonly segment: number
  readonly after: number
  readonly txid: number
}

/** What a report is made of. */
export interface Counted {
  records: number
  txid: number
  /** The first there is. */
  gap?: Gap
}

/** Adds frames to what a report is made of. */
export const count = (counted: Counted, frames: Frames): void => {
  if (frames.base === 0) countGap(counted, frames.segment, Frame.txidAt(frames.view, 0))
  counted.records += frames.count
  counted.txid = Math.max(counted.txid, frames.highest)
}

/** Looks whether a segment that begins with that txid goes on where those before it end. */
export const countGap = (counted: Counted, segment: number, txid: number): void => {
  // A log may begin with any.
  if (txid === counted.txid + 1 || (segment === 1 && counted.records === 0)) return
  counted.gap ??= { segment, after: counted.txid, txid }
}

export const describeGap = (directory: string, { after, segment, txid }: Gap): string =>
  `${directory}: in ${segmentName(segment)} the txids go on with ${txid} after ${after}; ` +
  (txid > after
    ? "records before it are missing: was a segment lost?"
    : "records are there twice: was a segment copied?")
