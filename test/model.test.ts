/**
 * Any sequence of operations against the plainest thing that could be right: an array of records, and a `Map` of its fold.
 *
 * Segments are tiny, so that everything happens at their edges. A failing sequence is shrunk to a short one.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Exit, Schema, Scope, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Export from "../src/Export.ts"
import * as Kv from "../src/Kv.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import { descriptors } from "./support/faultyDisk.ts"
import { temporaryDirectory } from "./support/stores.ts"

type Command =
  | { readonly op: "append"; readonly value: string }
  | { readonly op: "put"; readonly key: string; readonly value: string }
  | { readonly op: "delete"; readonly key: string }
  | { readonly op: "putMany"; readonly pairs: ReadonlyArray<readonly [string, string]> }
  | { readonly op: "modify"; readonly key: string; readonly how: "append" | "remove" | "keep" }
  | { readonly op: "together"; readonly pairs: ReadonlyArray<readonly [string, string]> }
  | { readonly op: "sync" }
  | { readonly op: "rotate" }
  | { readonly op: "check" }
  | { readonly op: "torn"; readonly bytes: number }
  | { readonly op: "reopen"; readonly segmentSize: number; readonly chunkSize: number; readonly durability: boolean }
  | { readonly op: "compact" }
  | { readonly op: "export" }

const between = (minimum: number, maximum: number): Arbitrary.Arbitrary<number> =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

// Few keys, so that they meet; among them the empty one, and one that is the start of another.
const keys = ["", "a", "aa", "b", "é", "\0"]
const key = Arbitrary.map(between(0, keys.length - 1), (at) => keys[at]!)
// Mostly short; some that fill a segment, some beyond what is written on the calling thread.
const value = Arbitrary.map(
  between(0, 99),
  (n) => n < 3 ? "L".repeat(263_000 + n) : n < 20 ? "m".repeat(n * 17) : `${n}`
)
const pairs = Arbitrary.array(Arbitrary.all([key, value]), { maxLength: 6 })

const command: Arbitrary.Arbitrary<Command> = Arbitrary.map(
  Arbitrary.all([between(0, 31), key, value, pairs, between(1, 300)]),
  ([kind, key, value, pairs, n]): Command => {
    if (kind < 4) return { op: "append", value }
    if (kind < 10) return { op: "put", key, value }
    if (kind < 13) return { op: "delete", key }
    if (kind < 16) return { op: "putMany", pairs }
    if (kind < 20) return { op: "modify", key, how: n % 3 === 0 ? "append" : n % 3 === 1 ? "remove" : "keep" }
    if (kind < 22) return { op: "together", pairs }
    if (kind < 23) return { op: "sync" }
    if (kind < 25) return { op: "rotate" }
    if (kind < 26) return { op: "check" }
    if (kind < 27) return { op: "torn", bytes: 1 + n % 40 }
    if (kind < 30) return { op: "reopen", segmentSize: n, chunkSize: 1 + (n * 7) % 500, durability: n % 2 === 0 }
    return { op: kind < 31 ? "compact" : "export" }
  }
)

interface Recorded {
  readonly type: "Raw" | "Put" | "Delete"
  readonly key: string
  readonly payload: string
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
const text = (bytes: Uint8Array): string => decoder.decode(bytes)

const order = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))

/** The store under test, with what it must be. */
class Subject {
  records: Array<Recorded> = []
  live = new Map<string, string>()
  directory: string
  round = 0
  /** Segments that were there when it was opened, perhaps with another size. */
  fixedSegments = 0
  torn = 0
  options: { readonly segmentSize: number; readonly chunkSize: number; readonly durability: boolean } = {
    segmentSize: 150,
    chunkSize: 64,
    durability: false
  }
  scope: Scope.Closeable | undefined
  log: Log.Log["Service"] | undefined
  kv: Kv.Kv["Service"] | undefined
  readonly root: string

  constructor(root: string) {
    this.root = root
    this.directory = NodePath.join(root, "store-0")
  }

  write(type: Recorded["type"], key: string, payload = ""): void {
    this.records.push({ type, key, payload })
    if (type === "Put") this.live.set(key, payload)
    else if (type === "Delete") this.live.delete(key)
  }

  get sorted(): ReadonlyArray<readonly [string, string]> {
    return [...this.live].sort(([a], [b]) => order(a, b))
  }

  readonly open = Effect.fnUntraced(function*(this: Subject) {
    const scope = yield* Scope.make()
    this.scope = scope
    const { chunkSize, durability, segmentSize } = this.options
    const options = {
      directory: this.directory,
      segmentSize,
      chunkSize,
      durability: durability ? "always" : "manual"
    } as const
    this.log = yield* Scope.provide(Log.make(options), scope)
    this.kv = yield* Scope.provide(Effect.provideService(Kv.makeLog, Log.Log, this.log), scope)
    assert.strictEqual(this.log.report.records_replayed, this.records.length)
    assert.strictEqual(this.log.report.tail_bytes_discarded, this.torn)
    this.torn = 0
    this.fixedSegments = (yield* this.log.segments).length
  })

  readonly close = Effect.suspend(() => this.scope === undefined ? Effect.void : Scope.close(this.scope, Exit.void))

  get next(): string {
    return NodePath.join(this.root, `store-${++this.round}`)
  }
}

const lastSegment = (directory: string): string =>
  NodePath.join(directory, NFS.readdirSync(directory).filter((name) => name.endsWith(".dwal")).sort().at(-1)!)

const plain = (
  record: { readonly type: Recorded["type"]; readonly key: Uint8Array; readonly payload: Uint8Array }
) => ({
  type: record.type,
  key: text(record.key),
  payload: text(record.payload)
})

/** Everything that can be asked, compared. */
const check = Effect.fnUntraced(function*(subject: Subject) {
  const kv = subject.kv!
  const log = subject.log!
  const records = yield* Stream.runCollect(log.stream)
  assert.deepStrictEqual(records.map(plain), subject.records)
  assert.deepStrictEqual(records.map((record) => record.txid), subject.records.map((_, at) => at + 1))
  const reader = yield* Reader.make({ directory: subject.directory, chunkSize: subject.options.chunkSize })
  assert.deepStrictEqual((yield* Stream.runCollect(reader.stream)).map(plain), subject.records)
  for (const store of [kv, yield* Kv.makeReader({ directory: subject.directory })]) {
    const entries = yield* Stream.runCollect(store.entries({ ordered: true }))
    assert.deepStrictEqual(entries.map(({ key, value }) => [text(key), text(value)] as const), subject.sorted)
    assert.strictEqual(yield* store.size, subject.live.size)
    const values = yield* store.getMany(keys)
    assert.deepStrictEqual(values.map((value) => value && text(value)), keys.map((key) => subject.live.get(key)))
    const { deadBytes, liveBytes, records } = yield* store.statistics
    assert.strictEqual(records, subject.records.length)
    const length = (key: string, value: string) => 28 + Buffer.byteLength(key) + Buffer.byteLength(value)
    assert.strictEqual(liveBytes, subject.sorted.reduce((sum, [key, value]) => sum + length(key, value), 0))
    assert.strictEqual(
      liveBytes + deadBytes,
      subject.records.reduce((sum, { key, payload }) => sum + length(key, payload), 0)
    )
  }
  const from = 1 + subject.records.length % 7
  const rest = yield* Stream.runCollect(log.streamFrom({ txid: from }))
  assert.deepStrictEqual(rest.map(plain), subject.records.slice(from - 1))
  for (const [at, { bytes, id }] of (yield* log.segments).entries()) {
    const first = records.find((record) => record.segment === id)
    // A segment is larger than it may be only where one record is.
    if (bytes > subject.options.segmentSize && at > subject.fixedSegments) assert.strictEqual(first?.len, bytes)
  }
}, Effect.scoped)

const apply = Effect.fnUntraced(function*(subject: Subject, command: Command) {
  const kv = subject.kv!
  const log = subject.log!
  switch (command.op) {
    case "append": {
      const ref = yield* log.append(command.value)
      subject.write("Raw", "", command.value)
      assert.strictEqual(ref.txid, subject.records.length)
      return
    }
    case "put": {
      const ref = yield* kv.put(command.key, command.value)
      subject.write("Put", command.key, command.value)
      assert.strictEqual(ref.txid, subject.records.length)
      return
    }
    case "delete":
      yield* kv.delete(command.key)
      return subject.write("Delete", command.key)
    case "putMany":
      assert.strictEqual((yield* kv.putMany(command.pairs)).length, command.pairs.length)
      for (const [key, value] of command.pairs) subject.write("Put", key, value)
      return
    case "modify": {
      const current = subject.live.get(command.key)
      const given = yield* kv.modify(command.key, (value) => {
        const seen = value && text(value)
        return [seen, command.how === "keep" ? value : command.how === "remove" ? undefined : `${seen ?? ""}+`]
      })
      assert.strictEqual(given, current)
      if (command.how === "append") subject.write("Put", command.key, `${current ?? ""}+`)
      else if (command.how === "remove" && current !== undefined) subject.write("Delete", command.key)
      return
    }
    case "together": {
      const refs = yield* Effect.forEach(
        command.pairs,
        ([key, value]) => Effect.map(kv.put(key, value), (ref) => ({ ref, key, value })),
        { concurrency: "unbounded" }
      )
      for (const { key, value } of refs.sort((a, b) => a.ref.txid - b.ref.txid)) subject.write("Put", key, value)
      return
    }
    case "sync":
      return yield* kv.sync
    case "rotate":
      yield* log.rotate
      return
    case "check":
      return yield* check(subject)
    case "torn":
      yield* subject.close
      // The start of a frame that a crash cut off.
      NFS.appendFileSync(
        lastSegment(subject.directory),
        Buffer.concat([
          Buffer.from("DWAL\x01\x00\x00\x00"),
          Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]),
          Buffer.from([9, 0, 0, 0, 9, 0, 0, 0]),
          Buffer.alloc(18, 2)
        ])
          .subarray(0, command.bytes)
      )
      subject.torn = command.bytes
      return yield* subject.open()
    case "reopen":
      yield* subject.close
      subject.options = command
      return yield* subject.open()
    case "compact": {
      const target = subject.next
      const compacted = yield* kv.compactTo(target)
      assert.strictEqual(compacted.live_keys, subject.live.size)
      yield* subject.close
      subject.directory = target
      subject.records = subject.sorted.map(([key, payload]) => ({ type: "Put", key, payload }))
      return yield* subject.open()
    }
    case "export": {
      const file = NodePath.join(subject.root, "export.jsonl")
      yield* Export.toFile(kv, file)
      const { sorted } = subject
      yield* subject.close
      subject.directory = subject.next
      subject.records = []
      subject.live = new Map()
      yield* subject.open()
      yield* Export.fromLines(subject.kv!, Stream.make(NFS.readFileSync(file)))
      for (const [key, value] of sorted) subject.write("Put", key, value)
      return
    }
  }
})

describe("any sequence of operations", () => {
  it.effect.prop(
    "gives the records, the keys and the statistics that a plain array and a Map give",
    { commands: Arbitrary.array(command, { maxLength: 60 }) },
    ({ commands }) =>
      Effect.scoped(Effect.gen(function*() {
        const subject = new Subject(yield* temporaryDirectory)
        yield* Effect.gen(function*() {
          yield* subject.open()
          for (const command of commands) yield* apply(subject, command)
          yield* check(subject)
          yield* subject.close
          yield* subject.open()
          yield* check(subject)
        }).pipe(Effect.ensuring(subject.close))
        assert.deepStrictEqual(descriptors().filter((path) => path.startsWith(subject.root)), [])
      })),
    { arbitrary: { runs: 60 } }
  )
})
