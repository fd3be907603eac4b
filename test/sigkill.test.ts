/**
 * Real writers, killed with SIGKILL at random moments, over and over on the same stores: what a store has acknowledged
 * is there when it is opened again, whatever the process was in the middle of. The kernel lives on, so even what was
 * never synced must be there; what a loss of power leaves is for the simulated disk to say.
 *
 * `SIGKILLS=5000 npx vitest run test/sigkill.test.ts` kills so many processes, and says what they left unfinished.
 */
import { afterAll, assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import type { Scope } from "effect"
import * as NodeCrypto from "node:crypto"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import type { LogRecord } from "../src/Frame.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import { type RecoveryReport, segmentPath } from "../src/Recovery.ts"
import { bundle, removeBundles } from "./support/bundle.ts"
import { start } from "./support/child.ts"
import { type Kind, lineOf, numberOf, operationOf, payloadOf } from "./support/payloads.mjs"
import { largeDirectory, temporaryDirectory } from "./support/stores.ts"

const kills = Number(process.env["SIGKILLS"] ?? 24)

/** After so many kills a new store is begun: what has been found is read again each time. */
const kills_a_store = 10

/** How long a writer writes at most. */
const delay_ms_max = 40

/** What is cut in two most likely by a kill that comes soon after the writer has said this. */
const aims = [{ work: "large", line: "large writing" }, { work: "repair", line: "repair torn" }]
const aim_ms_max = 15

/** One kill in so many comes at any moment after the start of the process: while it opens its stores, perhaps. */
const early_kill_every = 8
const early_ms_max = 200

/** What a writer said of one work before it died. */
interface Said {
  readonly written: ReadonlyArray<number>
  readonly synced: ReadonlyArray<number>
  readonly torn: ReadonlyArray<number>
}

/** One of the works of `busyChild.mjs`, from the side that looks at what it left. */
interface Work {
  readonly name: string
  /** The number it goes on with. */
  readonly start: () => number
  readonly check: (said: Said) => Effect.Effect<void, unknown>
  readonly finish: Effect.Effect<void, unknown>
}

const sayings = (lines: ReadonlyArray<string>, name: string): Said => {
  const numbers = (what: string) =>
    lines.flatMap((line) => line.startsWith(`${name} ${what} `) ? [Number(line.slice(line.lastIndexOf(" ")))] : [])
  return { written: numbers("written"), synced: numbers("synced"), torn: numbers("torn") }
}

/** The writers, ready to be started. They are made when the first one is. */
const writers = Effect.runSync(Effect.cached(bundle(["busyChild.mjs", "repairChild.mjs"])))

const killOnce = Effect.fnUntraced(function*(root: string, works: ReadonlyArray<Work>, round: number) {
  const is = (work: string): boolean => works.some(({ name }) => name === work)
  const writer = (yield* writers)[is("repair") ? "repairChild.mjs" : "busyChild.mjs"]
  const child = yield* start(process.execPath, [
    writer,
    root,
    ...works.map(({ name, start }) => `${name}=${start()}`)
  ])
  if (round % early_kill_every === early_kill_every - 1) {
    yield* Effect.sleep(Math.random() * early_ms_max)
  } else {
    yield* child.until("ready")
    const aim = aims.find(({ work }) => is(work))
    // It may have written all that it has to.
    if (aim !== undefined) yield* Effect.timeoutOption(child.until(aim.line), "2 seconds")
    yield* Effect.sleep(Math.random() * (aim === undefined ? delay_ms_max : aim_ms_max))
  }
  const { signal, stderr } = yield* child.kill
  assert.strictEqual(signal, "SIGKILL", stderr)
  for (const work of works) yield* work.check(sayings(child.lines, work.name))
  counts.kills++
}, Effect.scoped)

/** What the kills have left, to be told in the end. */
const counts = { kills: 0, tails: 0, unfinished: 0 }

type MakeWork = (root: string) => Effect.Effect<Work, unknown>

/** Kills the same works on the same stores, time and again. */
const series = Effect.fnUntraced(function*(
  place: Effect.Effect<string, never, Scope.Scope>,
  makers: ReadonlyArray<MakeWork>,
  rounds: number
) {
  const root = yield* place
  const works = yield* Effect.forEach(makers, (make) => make(root))
  for (let round = 0; round < rounds; round++) yield* killOnce(root, works, round)
  for (const work of works) yield* work.finish
}, Effect.scoped)

/** As many series as a share of the kills takes, four at a time, in memory and on a disk in turn. */
const killing = (
  share: number,
  makers: ReadonlyArray<MakeWork>,
  places: ReadonlyArray<Effect.Effect<string, never, Scope.Scope>> = [largeDirectory, temporaryDirectory]
) => {
  const mine = Math.ceil(kills * share)
  return Effect.forEach(
    Array.from({ length: Math.ceil(mine / kills_a_store) }, (_, index) => index),
    (index) =>
      series(
        places[index % places.length]!,
        makers,
        Math.min(kills_a_store, mine - index * kills_a_store)
      ),
    { concurrency: 4, discard: true }
  )
}

const names = (directory: string, end: string): ReadonlyArray<string> =>
  NFS.readdirSync(directory).filter((name) => name.endsWith(end))

/** The cuts of one store: each torn tail leaves a copy of just what was cut. */
class Cuts {
  readonly #directory: string
  #copies = 0

  constructor(directory: string) {
    this.#directory = directory
  }

  check(report: RecoveryReport): void {
    const { tail_bytes_discarded, tail_offset, tail_segment, tail_truncated, torn_file } = report
    if (tail_truncated === 1) {
      assert.strictEqual(NFS.statSync(segmentPath(this.#directory, tail_segment!)).size, tail_offset)
      // A killed process leaves no zeros, so there is always something to keep.
      assert.strictEqual(NFS.statSync(torn_file!).size, tail_bytes_discarded)
      this.#copies++
      counts.tails++
    } else {
      assert.strictEqual(tail_bytes_discarded, 0)
    }
    // A writer killed while it opened the store may have cut a tail of its own accord before.
    assert.isAtLeast(names(this.#directory, ".torn").length, this.#copies)
    this.#copies = names(this.#directory, ".torn").length
  }
}

/** A log of numbered records: which number each txid holds, and that nothing found once is ever lost or changed. */
const logWork = (
  name: string,
  kind: Kind,
  options: { readonly step?: number; readonly inOrder?: boolean } = {}
): MakeWork =>
(root) =>
  Effect.sync(() => {
    const { inOrder = true, step = 1 } = options
    const directory = NodePath.join(root, name)
    const cuts = new Cuts(directory)
    let known: Array<number> = []
    const next = () => known.reduce((highest, n) => Math.max(highest, n), -1) + 1
    const reopen = Effect.fnUntraced(function*(policy: Log.Policy) {
      const found: Array<number> = []
      const wrong: Array<string> = []
      const look = (record: LogRecord): void => {
        const n = numberOf(record.payload)
        found.push(n)
        if (record.txid !== found.length) wrong.push(`txid ${record.txid} is record ${found.length}`)
        // What was compared before is only compared again at the end: its checksum was verified on the way here.
        const compared = policy === "repair" && found.length <= known.length
        if (!compared && Buffer.compare(record.payload, payloadOf(kind, n)) !== 0) wrong.push(`record ${n} is another`)
      }
      const log = yield* Log.make({ directory, policy, replay: (records) => records.forEach(look) })
      assert.deepStrictEqual(wrong, [])
      assert.deepStrictEqual(found.slice(0, known.length), known, "what was there before is there still")
      assert.strictEqual(new Set(found).size, found.length, "nothing is there twice")
      return { log, found }
    })
    return {
      name,
      start: () => Math.ceil(next() / step),
      check: Effect.fnUntraced(function*({ synced, written }) {
        const first = Math.ceil(next() / step) * step
        const { found, log } = yield* reopen("repair")
        cuts.check(log.report)
        const fresh = found.slice(known.length)
        if (inOrder) {
          assert.deepStrictEqual(
            fresh,
            fresh.map((_, index) => first + index),
            "in the order of the appends"
          )
        }
        const there = new Set(fresh)
        assert.deepStrictEqual(
          [...written, ...synced].filter((n) => !there.has(n)),
          [],
          "everything acknowledged is there"
        )
        known = found
        const mine = next()
        const ref = yield* log.append(payloadOf(kind, mine))
        assert.strictEqual(ref.txid, known.length + 1)
        const record = yield* log.read(ref)
        assert.strictEqual(numberOf(record.payload), mine)
        known.push(mine)
      }, Effect.scoped),
      finish: Effect.scoped(Effect.map(reopen("strict"), ({ found, log }) => {
        assert.deepStrictEqual(found, known)
        assert.strictEqual(log.report.tail_truncated, 0)
      }))
    }
  })

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString("utf8")

/** The records of a store's log, which must be the numbered operations or lines from 0 on. */
const inspectNumbered = (directory: string, cuts: Cuts, isRight: (record: LogRecord, n: number) => boolean) =>
  Effect.scoped(Effect.gen(function*() {
    let found = 0
    const wrong: Array<number> = []
    const log = yield* Log.make({
      directory,
      replay: (records) =>
        records.forEach((record) => {
          if (record.txid !== found + 1 || !isRight(record, found)) wrong.push(found)
          found++
        })
    })
    assert.deepStrictEqual(wrong, [])
    cuts.check(log.report)
    return found
  }))

const kvWork: MakeWork = (root) =>
  Effect.sync(() => {
    const directory = NodePath.join(root, "kv")
    const cuts = new Cuts(directory)
    const model = new Map<string, Buffer>()
    let known = 0
    const apply = (n: number): void => {
      const { key, value } = operationOf(n)
      if (value === undefined) model.delete(key)
      else model.set(key, value)
    }
    const isRight = ({ key, payload, type }: LogRecord, n: number): boolean => {
      const operation = operationOf(n)
      return text(key) === operation.key && type === (operation.value === undefined ? "Delete" : "Put") &&
        Buffer.compare(payload, operation.value ?? Buffer.alloc(0)) === 0
    }
    const check: Work["check"] = Effect.fnUntraced(function*({ written }) {
      const found = yield* inspectNumbered(directory, cuts, isRight)
      assert.isAtLeast(found, Math.max(known, (written.at(-1) ?? -1) + 1))
      for (; known < found; known++) apply(known)
      const kv = yield* Kv.make({ directory })
      const entries = yield* Stream.runCollect(kv.entries())
      assert.strictEqual(entries.length, model.size)
      for (const { key, value } of entries) {
        assert.strictEqual(Buffer.compare(value, model.get(text(key))!), 0, text(key))
      }
      const { key, value } = operationOf(known)
      yield* value === undefined ? kv.delete(key) : kv.put(key, value)
      apply(known++)
    }, Effect.scoped)
    return { name: "kv", start: () => known, check, finish: check({ written: [], synced: [], torn: [] }) }
  })

const importWork: MakeWork = (root) =>
  Effect.sync(() => {
    const directory = NodePath.join(root, "import")
    const cuts = new Cuts(directory)
    let known = 0
    const isRight = ({ key, payload, type }: LogRecord, n: number): boolean =>
      type === "Put" &&
      `{"key_b64":"${Buffer.from(key).toString("base64")}","value_b64":"${
          Buffer.from(payload).toString("base64")
        }"}\n` ===
        lineOf(n)
    const check: Work["check"] = Effect.fnUntraced(function*({ written }) {
      const found = yield* inspectNumbered(directory, cuts, isRight)
      assert.isAtLeast(found, Math.max(known, written.at(-1) ?? 0))
      known = found
    })
    return { name: "import", start: () => known, check, finish: check({ written: [], synced: [], torn: [] }) }
  })

const digest = (kv: Kv.KvRead) =>
  Effect.map(
    Stream.runFold(kv.entries({ ordered: true }), () => NodeCrypto.createHash("sha256"), (hash, { key, value }) => {
      if (text(key) === "number") return hash
      return hash.update(`${key.length} ${value.length} `).update(key).update(value)
    }),
    (hash) => hash.digest("hex")
  )

/** A store of a megabyte, for works that copy it. */
const fillStore = Effect.fnUntraced(function*(directory: string) {
  const kv = yield* Kv.make({ directory })
  yield* kv.putMany(Array.from({ length: 600 }, (_, n) => [`key-${n}`, payloadOf("small", n)]))
  yield* kv.putMany(Array.from({ length: 3 }, (_, n) => [`large-${n}`, payloadOf("large", n)]))
  for (let n = 0; n < 600; n += 5) yield* kv.delete(`key-${n}`)
  return yield* digest(kv)
}, Effect.scoped)

const digestOf = (directory: string) => Effect.scoped(Effect.flatMap(Kv.make({ directory, policy: "strict" }), digest))

const isTemporary = (name: string): boolean => /^\..*\.tmp$/.test(name)

const compactWork: MakeWork = Effect.fnUntraced(function*(root) {
  const store = NodePath.join(root, "compact", "store")
  const targets = NodePath.join(root, "compact", "targets")
  NFS.mkdirSync(targets, { recursive: true })
  const wanted = yield* fillStore(store)
  let known = 0
  const check: Work["check"] = Effect.fnUntraced(function*({ written }) {
    const there = NFS.readdirSync(targets)
    const whole = there.filter((name) => !isTemporary(name))
    assert.deepStrictEqual(written.filter((n) => !whole.includes(String(n))), [], "what has resolved is there")
    for (const name of whole) {
      assert.strictEqual(yield* digestOf(NodePath.join(targets, name)), wanted, `target ${name} is whole`)
      known = Math.max(known, Number(name) + 1)
    }
    assert.isAtMost(there.length - whole.length, 1, "one compaction was under way")
    counts.unfinished += there.length - whole.length
    for (const name of there) NFS.rmSync(NodePath.join(targets, name), { recursive: true })
    assert.strictEqual(yield* digestOf(store), wanted, "the source is as it was")
  })
  return { name: "compact", start: () => known, check, finish: Effect.void }
})

const exportWork: MakeWork = Effect.fnUntraced(function*(root) {
  const store = NodePath.join(root, "export", "store")
  const out = NodePath.join(root, "export", "out")
  const file = NodePath.join(out, "store.jsonl")
  NFS.mkdirSync(out, { recursive: true })
  const wanted = yield* fillStore(store)
  let known = -1
  let lines = 0
  const check: Work["check"] = Effect.fnUntraced(function*({ written }) {
    const exported = known < 0 && written.length === 0 && !NFS.existsSync(file) ? "" : NFS.readFileSync(file, "utf8")
    if (exported !== "") {
      const hash = NodeCrypto.createHash("sha256")
      let number = -1
      let count = 0
      for (const line of exported.trimEnd().split("\n")) {
        const { key_b64, value_b64 } = JSON.parse(line)
        const key = Buffer.from(key_b64, "base64")
        const value = Buffer.from(value_b64, "base64")
        count++
        if (text(key) === "number") number = Number(text(value))
        else hash.update(`${key.length} ${value.length} `).update(key).update(value)
      }
      assert.isTrue(exported.endsWith("\n"))
      assert.strictEqual(hash.digest("hex"), wanted, "the file is whole")
      assert.isAtLeast(
        number,
        Math.max(known, written.at(-1) ?? -1),
        "it is the last one that has resolved, or the next"
      )
      assert.isAtMost(number, Math.max(known, written.at(-1) ?? -1) + 1)
      known = number
      if (lines > 0) assert.strictEqual(count, lines)
      lines = count
    }
    const others = NFS.readdirSync(out).filter((name) => name !== "store.jsonl")
    assert.deepStrictEqual(others.filter((name) => !isTemporary(name)), [])
    assert.isAtMost(others.length, 1, "one export was under way")
    counts.unfinished += others.length
    for (const name of others) NFS.rmSync(NodePath.join(out, name))
    assert.strictEqual(yield* digestOf(store).pipe(Effect.catchTag("CorruptTail", () => repaired(store))), wanted)
  })
  return { name: "export", start: () => known + 1, check, finish: Effect.void }
})

const repaired = (directory: string) => Effect.scoped(Effect.flatMap(Kv.make({ directory }), digest))

const repairWork: MakeWork = (root) =>
  Effect.sync(() => {
    const directory = NodePath.join(root, "repair")
    let known = 0
    const torn = new Set<number>()
    const wholeTails = (): ReadonlySet<number> => {
      const whole = new Set<number>()
      for (const name of names(directory, ".torn")) {
        const copy = NFS.readFileSync(NodePath.join(directory, name))
        // A copy that was never finished is the beginning of one: the tail was still there, and was copied again.
        if (copy.length < 32) {
          counts.unfinished++
          continue
        }
        const n = numberOf(copy.subarray(24))
        const tail = payloadOf("large", n)
        assert.isTrue(copy.subarray(24).equals(tail.subarray(0, copy.length - 24)), `${name} is a part of tail ${n}`)
        if (copy.length === 24 + tail.length) whole.add(n)
        else counts.unfinished++
      }
      return whole
    }
    const check: Work["check"] = Effect.fnUntraced(function*({ synced, torn: said }) {
      let found = 0
      const wrong: Array<number> = []
      const log = yield* Log.make({
        directory,
        replay: (records) =>
          records.forEach(({ payload, txid }) => {
            if (txid !== found + 1 || Buffer.compare(payload, payloadOf("small", found)) !== 0) wrong.push(found)
            found++
          })
      })
      assert.deepStrictEqual(wrong, [])
      assert.isAtLeast(found, Math.max(known, (synced.at(-1) ?? -1) + 1), "every synced record is there")
      counts.tails += log.report.tail_truncated
      for (const n of said) torn.add(n)
      const whole = wholeTails()
      assert.deepStrictEqual([...torn].filter((n) => !whole.has(n)), [], "of every tail there is a whole copy")
      yield* log.append(payloadOf("small", found))
      known = found + 1
      // They take too much room to keep them all, and the last one is compared here only.
      for (const name of names(directory, ".torn")) NFS.rmSync(NodePath.join(directory, name))
      torn.clear()
    }, Effect.scoped)
    return { name: "repair", start: () => known, check, finish: check({ written: [], synced: [], torn: [] }) }
  })

describe("a process killed with SIGKILL", { timeout: 300_000 + 2_000 * kills }, () => {
  afterAll(() => {
    removeBundles()
    const { kills, tails, unfinished } = counts
    if (process.env["SIGKILLS"] === undefined) return
    process.stdout.write(`${kills} processes killed: ${tails} torn tails, ${unfinished} unfinished files\n`)
  })

  it.live("leaves logs that hold every acknowledged record, whole, in order and once, and that go on", () =>
    killing(0.3, [
      logWork("small", "small"),
      logWork("always", "mixed"),
      logWork("synced", "mixed", { step: 5 }),
      logWork("rotate", "small"),
      logWork("many", "mixed", { inOrder: false })
    ]))

  it.live("in the middle of a large write leaves at most one torn tail, of which the copy is kept", () =>
    killing(0.1, [logWork("large", "huge")], [largeDirectory]))

  it.live("in the middle of a recovery leaves the torn tail or the whole copy of it, and no record less", () =>
    killing(0.2, [repairWork]))

  it.live("leaves key/value stores that hold every acknowledged put, delete and imported line", () =>
    killing(0.2, [kvWork, importWork]))

  it.live("leaves the target of a compaction absent or whole, and that of an export the old or the new one", () =>
    killing(0.2, [compactWork, exportWork]))
})
