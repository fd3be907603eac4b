/**
 * Every operation on a file system that is really full: of bytes, or of names. What the caller is told, that reads go
 * on, and that what was acknowledged is there when room has been made and the store is opened again.
 *
 * A real file system does not refuse a write that does not fit: it takes what fits, and refuses the rest. So most of
 * these failures leave a half-written record behind.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Errors from "../src/Errors.ts"
import * as Export from "../src/Export.ts"
import * as Frame from "../src/Frame.ts"
import * as Kv from "../src/Kv.ts"
import * as Lock from "../src/Lock.ts"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import * as Salvage from "../src/Salvage.ts"
import { command } from "./support/cli.ts"
import { descriptors, text, tree } from "./support/faultyDisk.ts"
import { because, fillUp, free, refusal, type SmallDisk, smallDisk, useUpNames } from "./support/smallDisk.ts"
import { frame, temporaryDirectory, utf8 } from "./support/stores.ts"

const size = { bytes: 4_194_304, names: 40 }

const large = 300_000
const filled = (letter: string, length: number): string => letter.repeat(length)
const many = (count: number, length: number): ReadonlyArray<string> =>
  Array.from({ length: count }, (_, at) => filled(String.fromCharCode(97 + at), length))

const raw = (payload: string): Log.RecordInput => ({ type: "Raw", payload })

const payloads = (log: { readonly stream: Stream.Stream<{ readonly payload: Uint8Array }, Error> }) =>
  Effect.map(Stream.runCollect(log.stream), (records) => records.map((record) => text(record.payload)!))

const segment = (directory: string, id: number): string =>
  NodePath.join(directory, `${String(id).padStart(8, "0")}.dwal`)

const acknowledged = ["one", "two", "three"]

const isFull = (error: unknown): error is Errors.IoError => error instanceof Errors.IoError && error.code === "ENOSPC"

const describeError = (error: unknown): string => error instanceof Error ? `${error.name} ${error.message}` : "no error"

/** That it failed for want of room, and of which file in doing what. */
const assertFull = (error: unknown, operation: string, path: string, context?: string): void => {
  if (!isFull(error)) return assert.fail(`${context ?? ""}: ${describeError(error)}`)
  assert.deepStrictEqual({ operation: error.operation, path: error.path }, { operation, path }, context)
  assert.strictEqual(error.message, `${operation} ${path}: ENOSPC`)
}

/** Names on a disk that are neither a store's nor the test's own. */
const strangers = (directory: string): ReadonlyArray<string> =>
  NFS.readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((name) => /\.tmp(\/|$)/.test(name))

interface Operation {
  readonly name: string
  readonly options?: Partial<Log.Options>
  /** Bytes that are left when it begins. */
  readonly room: number
  /** Whether it runs out of names and not of bytes. */
  readonly names?: boolean
  /** What one call appends. It is called until it fails. */
  readonly attempt: ReadonlyArray<string>
  readonly run: (log: Log.Log["Service"]) => Effect.Effect<unknown, Log.WriteError>
  readonly fails: readonly [operation: string, segment: number]
  readonly stops: "before" | "halfway" | "taken back"
}

const operations: ReadonlyArray<Operation> = [
  {
    name: "a small append",
    room: 0,
    attempt: [filled("s", 101)],
    run: (log) => log.append(filled("s", 101)),
    fails: ["write", 1],
    stops: "halfway"
  },
  {
    name: "a large append",
    room: 100_000,
    attempt: [filled("x", large)],
    run: (log) => log.append(filled("x", large)),
    fails: ["write", 1],
    stops: "taken back"
  },
  {
    name: "a small batch",
    room: 10_000,
    attempt: many(5, 301),
    run: (log) => log.appendAll(many(5, 301).map(raw)),
    fails: ["write", 1],
    stops: "halfway"
  },
  {
    name: "a large batch",
    room: 1_300_000,
    attempt: many(24, 100_000),
    run: (log) => log.appendAll(many(24, 100_000).map(raw)),
    fails: ["write", 1],
    stops: "halfway"
  },
  {
    name: "an append that is synced",
    options: { durability: "always" },
    room: 5_000,
    attempt: [filled("d", 211)],
    run: (log) => log.append(filled("d", 211)),
    fails: ["write", 1],
    stops: "halfway"
  },
  {
    name: "an append behind a rotation that found a name but no room",
    room: 0,
    attempt: [filled("r", 300)],
    run: (log) => Effect.andThen(log.rotate, log.append(filled("r", 300))),
    fails: ["write", 2],
    stops: "before"
  },
  {
    name: "a rotation that finds no name",
    room: 100_000,
    names: true,
    attempt: [],
    run: (log) => log.rotate,
    fails: ["create", 2],
    stops: "before"
  },
  {
    name: "an append that must rotate and finds no name",
    options: { segmentSize: 350 },
    room: 100_000,
    names: true,
    attempt: [filled("n", 200)],
    run: (log) => log.append(filled("n", 200)),
    fails: ["create", 2],
    stops: "before"
  }
]

const assertPoisoned = Effect.fnUntraced(function*(log: Log.Log["Service"], first: Errors.IoError, context: string) {
  for (const run of [log.append("later"), log.appendAll([raw("later")]), log.rotate, log.sync]) {
    const error = yield* Effect.flip(run)
    if (!(error instanceof Errors.WriterPoisoned)) return assert.fail(`${context}: ${error._tag}`)
    const { code, operation, path } = error
    assert.deepStrictEqual({ operation, path, code }, { operation: first.operation, path: first.path, code: "ENOSPC" })
  }
})

/** Runs it until it fails: the failure, and what has been acknowledged by then. */
const untilFull = Effect.fnUntraced(function*(log: Log.Log["Service"], operation: Operation) {
  const written = [...acknowledged]
  for (let call = 0; call < 10_000; call++) {
    const result = yield* Effect.result(operation.run(log))
    if (result._tag === "Failure") return { error: result.failure, written }
    written.push(...operation.attempt)
  }
  return assert.fail(`${operation.name}: the disk takes everything`)
})

const fill = (disk: SmallDisk, { names = false, room }: Operation): ReadonlyArray<string> =>
  names ? [useUpNames(disk.path)] : [fillUp(disk.path, room)]

/** Lets it fail on a full disk: what was acknowledged, and how many bytes of a record stand behind that. */
const failWhereFull = Effect.fnUntraced(function*(disk: SmallDisk, directory: string, operation: Operation) {
  const log = yield* Log.make({ directory, ...operation.options })
  const refs = yield* log.appendAll(acknowledged.map(raw))
  yield* log.sync
  const ballast = fill(disk, operation)
  const { error, written } = yield* untilFull(log, operation)
  const [what, id] = operation.fails
  assertFull(error, what, segment(directory, id), operation.name)
  if (!isFull(error)) return assert.fail("unreachable")
  yield* assertPoisoned(log, error, operation.name)
  // A batch may have been taken in part. Nothing may be seen of a record that was not taken whole.
  const whole = [...written, ...operation.attempt]
  const reader = yield* Reader.make({ directory })
  for (const seen of [yield* payloads(log), yield* payloads(reader)]) {
    assert.deepStrictEqual(seen, whole.slice(0, Math.max(seen.length, written.length)), operation.name)
  }
  for (const [at, ref] of refs.entries()) {
    assert.strictEqual(text((yield* log.read(ref)).payload), acknowledged[at])
  }
  const end = yield* log.end
  const half = NFS.statSync(segment(directory, end.segment)).size - end.offset
  return { ballast, end, whole, written, half }
}, Effect.scoped)

const assertNothingOpen = (directory: string): void => {
  assert.deepStrictEqual(descriptors().filter((path) => path.includes(directory)), [])
}

/** What opening finds once there is room, and that the store goes on. */
const assertRecovers = Effect.fnUntraced(function*(
  directory: string,
  { half, whole, written }: { readonly half: number; readonly whole: ReadonlyArray<string>; written: Array<string> },
  context: string
) {
  yield* Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory })
    const found = yield* payloads(log)
    assert.isAtLeast(found.length, written.length, context)
    assert.deepStrictEqual(found, whole.slice(0, found.length), context)
    if (found.length === written.length) assert.strictEqual(log.report.tail_bytes_discarded, half, context)
    assert.strictEqual((yield* log.append("after")).txid, found.length + 1, context)
    yield* log.sync
  }))
  yield* Effect.scoped(Effect.gen(function*() {
    const log = yield* Log.make({ directory, policy: "strict" })
    assert.strictEqual((yield* payloads(log)).at(-1), "after", context)
  }))
})

const source = Effect.fnUntraced(function*(directory: string, values: number) {
  const kv = yield* Kv.make({ directory, segmentSize: 400_000 })
  yield* kv.putMany(Array.from({ length: values }, (_, n) => [`key-${n}`, filled(String(n % 10), 10_000)]))
  yield* kv.sync
  return kv
})

const entriesOf = (kv: Kv.KvRead) =>
  Effect.map(
    Stream.runCollect(kv.entries({ ordered: true })),
    (entries) => entries.map(({ key, value }) => `${text(key)} ${value.length}`)
  )

interface Copying {
  readonly name: string
  readonly run: (kv: Kv.KvRead, target: string) => Effect.Effect<{ readonly records_written: number }, Error>
}

const copyings: ReadonlyArray<Copying> = [
  { name: "a compaction", run: (kv, target) => kv.compactTo(target) },
  { name: "a salvage", run: (kv, target) => Salvage.toStore(kv.directory, target) },
  { name: "an export", run: (kv, target) => Export.toFile(kv, target) }
]

for (const kind of ["tmpfs", "ext4"] as const) {
  const why = refusal[kind]
  describe.skipIf(why !== undefined)(`on a full ${kind}${because(`tests on a full ${kind}`, why)}`, () => {
    for (const operation of operations) {
      it.live(`${operation.name} says IoError ENOSPC, then WriterPoisoned, and loses nothing`, () =>
        Effect.gen(function*() {
          const disk = yield* smallDisk(kind, size)
          const directory = NodePath.join(disk.path, "store")
          const failed = yield* failWhereFull(disk, directory, operation)
          assertNothingOpen(directory)
          // A write stops at a page, a record ends anywhere. ext4 takes nothing of a page that not all is there for.
          if (operation.stops === "halfway" && (kind === "tmpfs" || operation.room >= 100_000)) {
            assert.isAbove(failed.half, 0)
          }
          if (operation.stops === "taken back") assert.strictEqual(failed.half, 0)
          const path = segment(directory, failed.end.segment)
          // Of a batch its whole records stay.
          const length = Frame.encodedLength(0, operation.attempt[0]?.length ?? 0)
          const kept = Math.floor(failed.half / length) * length
          const end = failed.end.offset + kept
          assert.strictEqual(NFS.statSync(path).size, end, "what was left is taken back when it closes")
          yield* Effect.scoped(Log.make({ directory, policy: "strict" }))
          assertNothingOpen(directory)
          free(...failed.ballast)
          if (failed.half > 0) {
            // As it leaves it when it is killed before it closes.
            const frame = new Uint8Array(Frame.encodedLength(0, failed.half))
            Frame.encodeInto(frame, 0, "Raw", failed.end.txid + 1, new Uint8Array(0), new Uint8Array(failed.half))
            NFS.appendFileSync(path, frame.subarray(0, failed.half))
            const ballast = fillUp(disk.path)
            const before = tree(directory)
            const error = yield* Effect.flip(Effect.scoped(Log.make({ directory })))
            assert.isTrue(isFull(error), describeError(error))
            assert.deepStrictEqual(tree(directory), before, "nothing is cut that is not copied")
            free(ballast)
          }
          yield* assertRecovers(directory, failed, operation.name)
          assert.deepStrictEqual(strangers(disk.path), [])
        }))
    }

    it.live("a sync makes durable what was appended, though the note for the next writer finds no room", () =>
      Effect.gen(function*() {
        const disk = yield* smallDisk(kind, size)
        const directory = NodePath.join(disk.path, "store")
        yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.append("before")))
        const sentinel = NodePath.join(directory, ".lock")
        NFS.unlinkSync(sentinel)
        const ballast = fillUp(disk.path)
        yield* Effect.scoped(Effect.gen(function*() {
          const log = yield* Log.make({ directory })
          assert.strictEqual((yield* Effect.flip(Effect.scoped(Lock.acquire(directory))))._tag, "LockHeld")
          // There is room in the last block that the segment has.
          yield* log.append("fits")
          yield* log.sync
          yield* log.append("fits as well")
          yield* log.sync
          assert.strictEqual(NFS.statSync(sentinel).size, 0, "the note found no room")
          assert.deepStrictEqual(yield* payloads(log), ["before", "fits", "fits as well"])
        }))
        free(ballast)
        const log = yield* Log.make({ directory, policy: "strict" })
        assert.deepStrictEqual(yield* payloads(log), ["before", "fits", "fits as well"])
        assert.strictEqual(NFS.readFileSync(sentinel, "utf8"), `${process.pid}\n`)
      }))

    it.live("put, delete and modify say so, the values can be read, and after a while there is room again", () =>
      Effect.gen(function*() {
        const disk = yield* smallDisk(kind, size)
        const directory = NodePath.join(disk.path, "store")
        const writes: ReadonlyArray<(kv: Kv.Kv["Service"], n: number) => Effect.Effect<unknown, Error>> = [
          (kv, n) => kv.put(`key-${n % 10}`, `${n}`),
          (kv) => kv.delete("none"),
          (kv, n) => kv.modify("key-0", () => [n, `${n}`])
        ]
        let last = ""
        for (const write of writes) {
          const model = yield* Effect.scoped(Effect.gen(function*() {
            const kv = yield* Kv.make({ directory })
            yield* kv.put("key-0", "0")
            const ballast = fillUp(disk.path)
            for (let n = 0;; n++) {
              const result = yield* Effect.result(write(kv, n))
              if (result._tag === "Success") continue
              const error = result.failure
              assert.isTrue(isFull(error), describeError(error))
              break
            }
            assert.strictEqual((yield* Effect.flip(kv.put("a", "b")))._tag, "WriterPoisoned")
            last = text(yield* kv.get("key-0"))!
            const model = yield* entriesOf(kv)
            free(ballast)
            assert.strictEqual((yield* Effect.flip(kv.put("a", "b")))._tag, "WriterPoisoned")
            return model
          }))
          yield* Effect.scoped(Effect.gen(function*() {
            const kv = yield* Kv.make({ directory })
            assert.strictEqual(text(yield* kv.get("key-0")), last)
            assert.deepStrictEqual(yield* entriesOf(kv), model)
          }))
        }
      }))

    it.live("an import keeps the lines that found room, in order, and can be done again", () =>
      Effect.gen(function*() {
        const disk = yield* smallDisk(kind, size)
        const directory = NodePath.join(disk.path, "store")
        const lines = yield* Effect.scoped(Effect.gen(function*() {
          const kv = yield* source(NodePath.join(yield* temporaryDirectory, "store"), 150)
          return yield* Stream.runCollect(Export.toLines(kv))
        }))
        const input = Stream.fromIterable(lines.map(utf8))
        // Too little for the first batch, of which there are two: nothing of the second may be tried.
        const ballast = fillUp(disk.path, 700_000)
        yield* Effect.scoped(Effect.gen(function*() {
          const kv = yield* Kv.make({ directory })
          const error = yield* Effect.flip(Export.fromLines(kv, input))
          assertFull(error, "write", segment(directory, 1))
        }))
        free(ballast)
        const kv = yield* Kv.make({ directory })
        const stored = yield* entriesOf(kv)
        const all = lines.map((line) => {
          const { key_b64, value_b64 } = JSON.parse(line)
          return `${Buffer.from(key_b64, "base64").toString()} ${Buffer.from(value_b64, "base64").length}`
        })
        assert.isAtLeast(stored.length, 30)
        assert.isBelow(stored.length, all.length)
        assert.deepStrictEqual(stored, all.slice(0, stored.length))
        yield* Export.fromLines(kv, input)
        assert.deepStrictEqual(yield* entriesOf(kv), all)
      }))

    for (const { name, run } of copyings) {
      it.live(`${name} that finds no room or no name leaves nothing of its own, and its source works on`, () =>
        Effect.gen(function*() {
          const disk = yield* smallDisk(kind, size)
          const home = NodePath.join(yield* temporaryDirectory, "store")
          const kv = yield* source(home, 200)
          const before = tree(home)
          const place = NodePath.join(disk.path, "place")
          NFS.mkdirSync(place)
          const target = NodePath.join(place, "target")
          // What an export replaces must not be lost before the new one is there; a compaction replaces nothing.
          if (name === "an export") NFS.writeFileSync(target, "older")
          const there = tree(place)
          const fails = Effect.fnUntraced(function*(context: string) {
            const error = yield* Effect.flip(run(kv, target))
            if (!isFull(error)) return assert.fail(`${context}: ${describeError(error)}`)
            assert.isTrue(error.path.startsWith(NodePath.join(place, ".target.")), error.path)
            assert.deepStrictEqual(tree(place), there, context)
            assert.deepStrictEqual(descriptors().filter((path) => path.includes(disk.path)), [], context)
          })
          for (const room of [0, 10_000, 500_000, 1_500_000]) {
            const ballast = fillUp(disk.path, room)
            yield* fails(`${room} bytes left`)
            free(ballast)
          }
          for (const left of name === "an export" ? [0] : [0, 1, 2]) {
            const names = useUpNames(disk.path, left)
            yield* fails(`${left} names left`)
            free(names)
          }
          assert.deepStrictEqual(tree(home), before)
          assert.strictEqual((yield* run(kv, target)).records_written, 200)
          assert.deepStrictEqual(NFS.readdirSync(place), ["target"])
          yield* kv.put("more", "to come")
        }))
    }

    it.live("a torn tail whose copy finds no room stays where it was, and is cut when there is some", () =>
      Effect.gen(function*() {
        const disk = yield* smallDisk(kind, size)
        const directory = NodePath.join(disk.path, "store")
        yield* Effect.scoped(Effect.flatMap(Log.make({ directory }), (log) => log.appendAll(acknowledged.map(raw))))
        const offset = NFS.statSync(segment(directory, 1)).size
        const tail = frame({ txid: 4, payload: utf8(filled("t", 200_000)) }).subarray(0, 150_000)
        NFS.appendFileSync(segment(directory, 1), tail)
        const before = tree(directory)
        const copy = NodePath.join(directory, `00000001-${offset}.torn`)
        const fails = Effect.fnUntraced(function*(operation: string) {
          assertFull(yield* Effect.flip(Effect.scoped(Log.make({ directory }))), operation, copy)
          assert.deepStrictEqual(tree(directory), before)
          assertNothingOpen(directory)
          const reader = yield* Effect.flatMap(Reader.make({ directory }), payloads).pipe(Effect.scoped)
          assert.deepStrictEqual(reader, acknowledged)
        })
        for (const room of [0, 50_000, 100_000]) {
          const ballast = fillUp(disk.path, room)
          yield* fails("write")
          free(ballast)
        }
        const names = useUpNames(disk.path)
        yield* fails("create")
        free(names)
        const log = yield* Log.make({ directory })
        assert.deepInclude(log.report, { tail_bytes_discarded: tail.length, torn_file: copy })
        assert.isTrue(NFS.readFileSync(copy).equals(tail))
        assert.deepStrictEqual(yield* payloads(log), acknowledged)
        assert.strictEqual((yield* log.append("four")).txid, 4)
      }))

    it.live("opening a new store says which name it could not make, and does it when there is one", () =>
      Effect.gen(function*() {
        const disk = yield* smallDisk(kind, size)
        const parent = NodePath.join(disk.path, "parent")
        NFS.mkdirSync(parent)
        const failing: ReadonlyArray<readonly [operation: string, name: string]> = [
          ["create directory", ""],
          ["open", ".lock"],
          ["create", "00000001.dwal"]
        ]
        for (const [left, [operation, name]] of failing.entries()) {
          const directory = NodePath.join(parent, `store-${left}`)
          const names = useUpNames(disk.path, left)
          const error = yield* Effect.flip(Effect.scoped(Log.make({ directory })))
          assertFull(error, operation, NodePath.join(directory, name), `${left} names left`)
          assert.deepStrictEqual(yield* Effect.flip(Effect.scoped(Log.make({ directory }))), error, "it stays so")
          assertNothingOpen(parent)
          free(names)
          yield* Effect.scoped(Effect.gen(function*() {
            const log = yield* Log.make({ directory })
            assert.strictEqual((yield* log.append("one")).txid, 1)
          }))
        }
        const names = useUpNames(disk.path, failing.length)
        yield* Effect.scoped(Log.make({ directory: NodePath.join(parent, "whole") }))
        free(names)
      }))
  })
}

const why = refusal.tmpfs
describe.skipIf(why !== undefined)(`the command on a full disk${because("the command on a full disk", why)}`, () => {
  it.live(
    "ends with 1 and one line that names the file, writes nothing, and goes on reading",
    () =>
      Effect.gen(function*() {
        const disk = yield* smallDisk("tmpfs", size)
        const [outside, inside] = [NodePath.join(disk.path, "store"), NodePath.join(disk.inside, "store")]
        const input = NodePath.join(disk.inside, "lines.jsonl")
        yield* Effect.scoped(Effect.gen(function*() {
          const kv = yield* source(outside, 60)
          const lines = yield* Stream.runCollect(Export.toLines(kv))
          NFS.writeFileSync(NodePath.join(disk.path, "lines.jsonl"), lines.join(""))
        }))
        fillUp(disk.path, 20_000)
        const datawal = (...args: ReadonlyArray<string>) => disk.run(process.execPath, [command, ...args])
        const last = NodePath.join(inside, "00000002.dwal")
        const temporary = (name: string) => String.raw`${disk.inside}/\.${name}\.[\w-]+\.tmp`
        const refused: ReadonlyArray<readonly [args: ReadonlyArray<string>, why: RegExp]> = [
          [
            ["put", inside, "--key", "big", "--value-file", input],
            new RegExp(`^write ${last}: ENOSPC, no space left on device$`)
          ],
          [
            ["export", inside, `${disk.inside}/out.jsonl`],
            new RegExp(`^write ${temporary("out.jsonl")}: ENOSPC, no space left on device$`)
          ],
          [
            ["import", `${disk.inside}/new`, input],
            new RegExp(
              `^write ${disk.inside}/new/00000001.dwal: ENOSPC, no space left on device; ` +
                "what was written before is stored, and the import can be done again$"
            )
          ]
        ]
        const runs = yield* Effect.forEach(refused, ([args]) => datawal(...args), { concurrency: 2 })
        for (const [at, [args, why]] of refused.entries()) {
          const { code, stderr, stdout } = runs[at]!
          assert.deepStrictEqual({ code, stdout }, { code: 1, stdout: "" }, `${args[0]}: ${stderr}`)
          const [line, ...rest] = stderr.trimEnd().split("\n")
          assert.match(line!.replace("datawal: error: ", ""), why)
          assert.deepStrictEqual(rest, [])
        }
        assert.deepStrictEqual(strangers(disk.path), [])
        assert.isFalse(NFS.existsSync(`${disk.path}/out.jsonl`))
        // As a writer leaves it that was killed: a torn tail, which there is no room to copy.
        NFS.rmSync(`${disk.path}/new`, { recursive: true })
        NFS.appendFileSync(segment(outside, 2), NFS.readFileSync(segment(outside, 1)).subarray(0, 5_000))
        fillUp(disk.path)
        const [got, repaired, listed] = yield* Effect.all([
          datawal("get", inside, "--key", "key-7", "--bytes", "raw"),
          datawal("repair", inside),
          disk.run("sh", ["-c", `"$0" "$1" scan "$2" > "$3/listing"`, process.execPath, command, inside, disk.inside])
        ], { concurrency: 2 })
        assert.deepStrictEqual([got.code, got.stdout], [0, filled("7", 10_000)])
        assert.deepStrictEqual(
          [repaired.code, repaired.stderr.replace(/-\d+\.torn/, "-N.torn")],
          [
            1,
            `datawal: error: write ${inside}/00000002-N.torn: ENOSPC, no space left on device; ` +
            "what is to be cut could not be copied, and nothing was cut\n"
          ]
        )
        assert.deepStrictEqual(
          [listed.code, listed.stderr],
          [1, "datawal: error: cannot write to standard output: ENOSPC\n"]
        )
      })
  )
})
