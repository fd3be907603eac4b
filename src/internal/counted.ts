/** What is counted of the records that are read, and whether a segment is missing among them. */
import * as Effect from "effect/Effect"
import * as Frame from "../Frame.ts"
import { segmentName } from "../Recovery.ts"
import type { Frames } from "./frames.ts"
import { ofStore } from "./storeLogs.ts"

/** A segment whose txids do not go on where those before it end: one is missing there, or is there twice. */
export interface Jump {
  readonly segment: number
  readonly after: number
  readonly txid: number
}

/** What a report is made of. */
export interface Counted {
  records: number
  txid: number
  readonly jumps: Array<Jump>
}

/** Adds frames to what a report is made of. */
export const count = (counted: Counted, frames: Frames): void => {
  if (frames.base === 0) countJump(counted, frames.segment, Frame.txidAt(frames.view, 0))
  counted.records += frames.count
  counted.txid = Math.max(counted.txid, frames.highest)
}

/** Looks whether a segment that begins with that txid goes on where those before it end. */
export const countJump = (counted: Counted, segment: number, txid: number): void => {
  // A log may begin with any.
  if (txid === counted.txid + 1 || (segment === 1 && counted.records === 0)) return
  counted.jumps.push({ segment, after: counted.txid, txid })
}

/** Logs them: no byte is damaged, and nothing else would show it. */
export const warnOfJumps = (directory: string, jumps: ReadonlyArray<Jump>): Effect.Effect<void> => {
  const [first, ...others] = jumps
  if (first === undefined) return Effect.void
  const { after, segment, txid } = first
  const what = txid > after
    ? "records before it are missing: was a segment lost?"
    : "records are there twice: was a segment copied?"
  const last = others.at(-1)
  const more = last === undefined
    ? ""
    : ` Other breaks: ${others.length}, the last ${segmentName(last.segment)} with ${last.txid} after ${last.after}`
  return ofStore(
    directory,
    Effect.logWarning(
      `${directory}: in ${segmentName(segment)} the txids go on with ${txid} after ${after}; ${what}${more}`
    )
  )
}
