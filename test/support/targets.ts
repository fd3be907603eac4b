/**
 * What exports and compactions have made elsewhere on a simulated disk, and what each place may hold: nothing, or the
 * whole state of the store at some moment while the call ran; and once a call has resolved, what it made.
 */
import { type Files, fold, type Model, type Rec } from "./crashModel.ts"
import { framesIn } from "./frames.ts"

export type Kind = "export" | "compaction"

/** What a store held, in the form in which a target holds it. */
const formOf: { readonly [K in Kind]: (records: ReadonlyArray<Rec>) => string } = {
  export: (records) =>
    sorted(records).map(([key, value]) =>
      `{"key_b64":"${btoa(key)}","value_b64":"${Buffer.from(value, "latin1").toString("base64")}"}\n`
    ).join(""),
  compaction: (records) =>
    sorted(records).map(([key, value], at) => `${at + 1} Put ${JSON.stringify([key, value])}\n`).join("")
}

const sorted = (records: ReadonlyArray<Rec>): Array<readonly [key: string, value: string]> =>
  Array.from(fold(records)).sort(([a], [b]) => a < b ? -1 : 1)

const latin1 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1")

/** What a target holds, `undefined` when it is not there. */
const foundIn: { readonly [K in Kind]: (files: Files, path: string) => string | undefined } = {
  export: (files, path) => {
    const bytes = files.get(path)
    return bytes === undefined ? undefined : latin1(bytes)
  },
  compaction: (files, path) => {
    if (!files.has(path)) return undefined
    const bytes = files.get(`${path}/00000001.dwal`)
    if (bytes === undefined) return "no segment"
    const frames = framesIn(bytes)
    const end = frames.reduce((end, { len }) => end + len, 0)
    return frames.map(({ key, payload, txid, type }) =>
      `${txid} ${type} ${JSON.stringify([latin1(key), latin1(payload)])}\n`
    ).join("") + (end < bytes.length ? "and more" : "")
  }
}

interface Target {
  readonly kind: Kind
  /** What it may hold. */
  allowed: Set<string | undefined>
  begun: number
  underWay: number
}

export class Targets {
  readonly #targets = new Map<string, Target>()

  /** A call has begun that makes a target: to be told of its end, with what was written until then. */
  begin(
    kind: Kind,
    path: string,
    from: number
  ): (model: Model, resolved: boolean) => void {
    const target = this.#targets.get(path) ?? { kind, allowed: new Set([undefined]), begun: 0, underWay: 0 }
    this.#targets.set(path, target)
    const alone = target.underWay++ === 0
    const mine = ++target.begun
    return ({ doubtful, written }, resolved) => {
      target.underWay--
      // Of two that ran at the same time, nobody knows which came last.
      if (resolved && alone && mine === target.begun) target.allowed = new Set()
      for (let to = Math.max(0, from - doubtful); to <= written.length; to++) {
        target.allowed.add(formOf[kind](written.slice(0, to)))
      }
    }
  }

  problem(files: Files): string | undefined {
    for (const [path, { allowed, kind }] of this.#targets) {
      const found = foundIn[kind](files, path)
      if (allowed.has(found)) continue
      return `${path} is ${found === undefined ? "gone" : `neither absent nor whole: ${found.slice(0, 200)}`}`
    }
    return undefined
  }
}
