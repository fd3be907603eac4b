/** What a failed write has left behind the end of a log. */
import * as Effect from "effect/Effect"
import * as Disk from "../Disk.ts"
import type { IoError } from "../Errors.ts"
import * as Frame from "../Frame.ts"
import { freshBytes } from "./bytes.ts"

/**
 * Cuts a file behind the whole frames that stand at `offset`, up to `Disk.blocking_bytes_max` of them: those a reader
 * may have seen, and their places and txids must not become another record's. What is behind them nobody has seen.
 */
export const takeBack = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  offset: number
): Effect.fn.Return<void, IoError> {
  const left = Math.max(0, (yield* file.size) - offset)
  const bytes = freshBytes(Math.min(left, Disk.blocking_bytes_max))
  const count = yield* Disk.readFully(file, bytes, 0, bytes.length, offset)
  const view = new DataView(bytes.buffer, bytes.byteOffset, count)
  let whole = 0
  while (whole < count) {
    const length = Frame.inspect(view, whole, count)
    if (length < 0 || whole + length > count || !Frame.checksumHolds(bytes, view, whole, length)) break
    whole += length
  }
  yield* file.truncate(offset + whole)
})
