/**
 * What may stand in `.lock`: a writer reads there from where on the one before it left durability open
 * (`docs/decisions/009`), and writes those bytes over themselves. Whatever stands there, no byte of the store changes.
 */
import { Effect, Result } from "effect"
import * as NodeAssert from "node:assert/strict"
import * as Disk from "../../src/Disk.ts"
import * as Log from "../../src/Log.ts"
import type { Tally } from "./fuzzBench.ts"
import { FuzzDisk } from "./fuzzDisk.ts"
import { recordOf } from "./fuzzFrames.ts"
import { type Entry, framesFrom, segmentName } from "./fuzzReference.ts"
import { joined, type Source } from "./fuzzSource.ts"

interface LockCase {
  readonly text: Uint8Array
  readonly segments: ReadonlyArray<readonly [id: number, bytes: Uint8Array]>
  readonly isHeld: boolean
  readonly refuses: boolean
  readonly bytes_max: number | undefined
}

const number = (source: Source): string =>
  source.oneOf([
    String(source.below(2_000)),
    String(source.below(4)),
    "0",
    "007",
    "-1",
    "1.5",
    "1e3",
    "0x10",
    "99999999",
    "100000000",
    "999999999999999",
    "9999999999999999",
    "",
    "NaN",
    " 1",
    "\u0661"
  ])

const sentence = (source: Source): string => {
  const word = source.oneOf(["unsynced", "unsynced", "Unsynced", "unsynced ", " unsynced", "synced", "unsynced\t"])
  return `${word} ${number(source)} ${number(source)}${source.oneOf(["", " ", " 1", "\r", "\0"])}`
}

export const makeLockCase = (source: Source): LockCase => {
  const lines = [number(source)]
  for (let count = source.below(3); count > 0; count--) {
    lines.push(source.chance(80) ? sentence(source) : Buffer.from(source.noise(source.below(30))).toString("latin1"))
  }
  const text = Buffer.from(lines.join("\n") + source.oneOf(["\n", "", "\n\n", "\r\n"]), "latin1")
  const plain = Buffer.from(`77\nunsynced ${source.below(3)} ${source.below(900)}\n`)
  const segments: Array<readonly [number, Uint8Array]> = []
  let txid = 1
  for (let id = 1, count = source.below(4); count > 0; count--, id += source.oneOf([1, 1, 3])) {
    const frames = Array.from({ length: source.below(4) }, () => recordOf(source, txid++))
    segments.push([id, joined(...frames)])
  }
  const last = segments.pop()
  const isTorn = source.chance(30)
  if (last !== undefined) segments.push(isTorn ? [last[0], joined(last[1], Buffer.from("DWAL\u0001"))] : last)
  return {
    text: source.chance(40) ? plain : source.chance(90) ? text : source.noise(source.below(200)),
    segments,
    isHeld: source.chance(20),
    refuses: source.chance(30),
    bytes_max: source.chance(20) ? source.oneOf([100, 7]) : undefined
  }
}

interface Note {
  readonly segment: number
  readonly offset: number
}

/** The second line, where it is exactly what a writer puts there. */
const noteOf = (text: Uint8Array): Note | undefined => {
  const found = /^[0-9]{1,10}\nunsynced ([0-9]{1,8}) ([0-9]{1,15})\n$/.exec(Buffer.from(text).toString("latin1"))
  return found === null ? undefined : { segment: Number(found[1]), offset: Number(found[2]) }
}

/** What is to be written over itself: from the note on, up to the end of the records. */
const spansOf = ({ segments }: LockCase, { offset, segment }: Note): ReadonlyArray<string> =>
  segments.flatMap(([id, bytes]) => {
    const { end } = framesFrom(bytes, 0, id)
    const start = id === segment ? offset : 0
    return id < segment || start >= end ? [] : [`${segmentName(id)} ${start}-${end}`]
  })

/** The spans of the writes, those that follow on each other as one. */
const writtenSpans = (disk: FuzzDisk): ReadonlyArray<string> => {
  const spans: Array<{ readonly name: string; readonly start: number; end: number }> = []
  for (const { end, name, start } of disk.overwrites) {
    const last = spans.at(-1)
    if (last?.name === name && last.end === start) last.end = end
    else spans.push({ name, start, end })
  }
  return spans.map(({ end, name, start }) => `${name} ${start}-${end}`)
}

export const checkLock = (input: LockCase, tally: Tally): Effect.Effect<void> =>
  Effect.gen(function*() {
    const tree = new Map<string, Entry>(
      input.segments.map(([id, bytes]) => [segmentName(id), { kind: "file", bytes }])
    )
    tree.set(".lock", { kind: "file", bytes: input.text })
    const disk = new FuzzDisk(tree, { bytes_max: input.bytes_max })
    const { directory } = disk
    if (input.isHeld) disk.lock(".lock")
    const options = { directory, policy: input.refuses ? "strict" : "repair" } as const
    const result = yield* Effect.result(Effect.scoped(Log.make(options))).pipe(
      Effect.provideService(Disk.Disk, disk.service)
    )
    NodeAssert.deepEqual([disk.openFiles, disk.misuse], [0, []])
    const lock = disk.tree.get(".lock")
    const text = lock?.kind === "file" ? lock.bytes : new Uint8Array(0)
    const note = noteOf(input.text)
    const isTorn = input.segments.some(([id, bytes]) => framesFrom(bytes, 0, id).end < bytes.length)
    if (input.isHeld) {
      const error = Result.isFailure(result) ? result.failure : undefined
      NodeAssert.ok(error?._tag === "LockHeld", String(error))
      const pid = /^[0-9]{1,9}\n/.exec(Buffer.from(input.text).toString("latin1"))
      if (pid !== null) NodeAssert.equal(error.pid, Number(pid[0]) || undefined)
      else NodeAssert.ok(error.pid === undefined || error.pid > 0, `pid ${error.pid}`)
      NodeAssert.deepEqual(text, input.text)
    } else if (input.refuses && isTorn) {
      NodeAssert.ok(Result.isFailure(result) && result.failure._tag === "CorruptTail")
      // Whoever opens it next must still be told.
      if (note !== undefined) NodeAssert.deepEqual(noteOf(text), note)
      NodeAssert.deepEqual(disk.overwrites, [])
    } else {
      NodeAssert.ok(Result.isSuccess(result), Result.isFailure(result) ? String(result.failure) : "")
      NodeAssert.equal(Buffer.from(text).toString("latin1"), `${process.pid}\n`)
      if (note !== undefined) NodeAssert.deepEqual(writtenSpans(disk), spansOf(input, note))
    }
    tally(
      `lock: ${Result.isFailure(result) ? result.failure._tag : "opened"}, ${note === undefined ? "no note" : "a note"}`
    )
    for (const [id, bytes] of input.segments) {
      const now = disk.tree.get(segmentName(id))
      const { end } = framesFrom(bytes, 0, id)
      const expected = Result.isSuccess(result) ? bytes.subarray(0, end) : bytes
      NodeAssert.ok(now?.kind === "file" && Buffer.compare(now.bytes, expected) === 0, `segment ${id} has changed`)
    }
  })

export const describeLock = ({ bytes_max, isHeld, refuses, segments, text }: LockCase): string =>
  [
    `.lock ${JSON.stringify(Buffer.from(text).toString("latin1"))}, ${isHeld ? "held" : "free"}`,
    `policy ${refuses ? "strict" : "repair"}, writes of at most ${bytes_max} bytes`,
    ...segments.map(([id, bytes]) => `${segmentName(id)}: ${Buffer.from(bytes).toString("hex")}`)
  ].join("\n")
