import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Deferred, Effect, Exit, Fiber, References, Schema, Stream } from "effect"
import { execFileSync } from "node:child_process"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as V8 from "node:v8"
import * as VM from "node:vm"
import * as Disk from "../src/Disk.ts"
import * as Export from "../src/Export.ts"
import * as Frame from "../src/Frame.ts"
import { Lines } from "../src/internal/lines.ts"
import * as Kv from "../src/Kv.ts"
import { makeDisk } from "../src/testing.ts"
import { descriptors, FaultyDisk, leftovers, over, text, tree } from "./support/faultyDisk.ts"
import { copyFixture, expected, expectedLive, temporaryDirectory } from "./support/stores.ts"

const numbers = (count: number): ReadonlyArray<number> => Array.from({ length: count }, (_, at) => at)

const base64 = (bytes: Uint8Array | string): string => Buffer.from(bytes as string).toString("base64")
const line = (key: Uint8Array | string, value: Uint8Array | string): string =>
  `{"key_b64":"${base64(key)}","value_b64":"${base64(value)}"}\n`

const input = (lines: string | Buffer): Stream.Stream<Uint8Array> => Stream.make(Buffer.from(lines as string))

const fresh = Effect.flatMap(temporaryDirectory, (root) => Kv.make({ directory: NodePath.join(root, "store") }))

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

const content = (kv: Kv.KvRead) =>
  Effect.map(
    Stream.runCollect(kv.entries({ ordered: true })),
    (entries) => entries.map(({ key, value }) => [hex(key), hex(value)] as const)
  )

/** What an import of these lines leaves, and how it ended. */
const imported = Effect.fnUntraced(function*(lines: string | Buffer) {
  const kv = yield* fresh
  const exit = yield* Effect.result(Export.fromLines(kv, input(lines)))
  return { exit, keys: (yield* content(kv)).map(([key]) => Buffer.from(key, "hex").toString()) }
})

describe("export", () => {
  it.effect("is one line a key, in ascending byte order, byte for byte", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      yield* kv.putMany([["b", "2"], ["é", "x"], ["a", ""], ["", "empty"], [
        new Uint8Array([255]),
        new Uint8Array([0, 255])
      ]])
      yield* kv.put("gone", "1")
      yield* kv.delete("gone")
      const file = NodePath.join(kv.directory, "..", "out.jsonl")
      const exported = yield* Export.toFile(kv, file)
      const bytes = "{\"key_b64\":\"\",\"value_b64\":\"ZW1wdHk=\"}\n" +
        "{\"key_b64\":\"YQ==\",\"value_b64\":\"\"}\n" +
        "{\"key_b64\":\"Yg==\",\"value_b64\":\"Mg==\"}\n" +
        "{\"key_b64\":\"w6k=\",\"value_b64\":\"eA==\"}\n" +
        "{\"key_b64\":\"/w==\",\"value_b64\":\"AP8=\"}\n"
      assert.strictEqual(NFS.readFileSync(file, "utf8"), bytes)
      assert.deepStrictEqual(exported, { records_written: 5, bytes_written: bytes.length })
      assert.strictEqual((yield* Stream.runCollect(Export.toLines(kv))).join(""), bytes)
      assert.deepStrictEqual(leftovers(NodePath.dirname(kv.directory)), [])
    }))

  it.effect("of the fixtures is their live keys", () =>
    Effect.gen(function*() {
      for (const name of ["delete_tombstone", "odd_bytes", "compacted", "sparse_segments"]) {
        const kv = yield* Kv.makeReader({ directory: yield* copyFixture(name) })
        const lines = expectedLive(expected[name]!).map(([key, value]) =>
          `{"key_b64":"${key}","value_b64":"${value}"}\n`
        )
        assert.deepStrictEqual(yield* Stream.runCollect(Export.toLines(kv)), lines, name)
      }
    }))

  it.effect("of an empty store is an empty file", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      const file = NodePath.join(kv.directory, "..", "out.jsonl")
      assert.deepStrictEqual(yield* Export.toFile(kv, file), { records_written: 0, bytes_written: 0 })
      assert.strictEqual(NFS.statSync(file).size, 0)
    }))

  it.effect("makes the parents, replaces an older file, and tells how far it is", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      yield* kv.putMany(numbers(3_000).map((at) => [`key ${at}`, `value ${at}`]))
      const file = NodePath.join(kv.directory, "..", "a", "b", "out.jsonl")
      const progress: Array<number> = []
      yield* Export.toFile(kv, file, { onProgress: (records) => progress.push(records) })
      assert.strictEqual(progress.at(-1), 3_000)
      assert.isAbove(progress.length, 1)
      assert.deepStrictEqual(progress, [...progress].sort((a, b) => a - b))
      NFS.writeFileSync(file, "older")
      const other = NodePath.join(NodePath.dirname(file), ".out.jsonl.tmp")
      NFS.writeFileSync(other, "somebody else's")
      yield* Export.toFile(kv, file)
      assert.strictEqual(NFS.readFileSync(file, "utf8").split("\n").length, 3_001)
      assert.strictEqual(NFS.readFileSync(other, "utf8"), "somebody else's")
      assert.deepStrictEqual(NFS.readdirSync(NodePath.dirname(file)).sort(), [".out.jsonl.tmp", "out.jsonl"])
    }))

  it.effect("is durable before it has its name, and its name before it resolves", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* fresh
        yield* kv.put("a", "1")
        const from = disk.calls.length
        yield* Export.toFile(kv, NodePath.join(kv.directory, "..", "out.jsonl"))
        const kinds = disk.calls.slice(from).map((call) => call.kind)
        // The directories above come first: a process that died may have made them.
        const created = kinds.indexOf("create")
        assert.include(kinds.slice(0, created), "syncDirectory")
        assert.deepStrictEqual(
          kinds.slice(created).filter((kind) =>
            kind !== "readNow" && kind !== "makeDirectory" && kind !== "list" && kind !== "close"
          ),
          ["create", "appendNow", "sync", "rename", "syncDirectory"]
        )
      }))
    }))

  it.effect("leaves a file that it replaces its rights", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      yield* kv.put("a", "1")
      const file = NodePath.join(kv.directory, "..", "out.jsonl")
      NFS.writeFileSync(file, "older", { mode: 0o600 })
      const disk = yield* Disk.Disk
      const rights: Array<number> = []
      const watched: Disk.DiskService = {
        ...disk,
        open: (...given) =>
          Effect.tap(disk.open(...given), ({ path }) =>
            Effect.sync(() => {
              rights.push(NFS.statSync(path).mode & 0o7777)
            }))
      }
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory: yield* temporaryDirectory })
        yield* kv.put("a", "1")
        rights.length = 0
        yield* Export.toFile(kv, file)
      })).pipe(Effect.provideService(Disk.Disk, watched))
      assert.include(rights, 0o600)
      assert.notInclude(rights, 0o644, "while it is written, too")
      assert.strictEqual(NFS.statSync(file).mode & 0o7777, 0o600)
      assert.notStrictEqual(NFS.readFileSync(file, "utf8"), "older")
      // And those that a new file would not have.
      NFS.chmodSync(file, 0o666)
      yield* Export.toFile(kv, file)
      assert.strictEqual(NFS.statSync(file).mode & 0o7777, 0o666)
    }))

  it.effect("refuses a directory and a device, and leaves them as they are", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      yield* kv.put("a", "1")
      const root = NodePath.dirname(kv.directory)
      const directory = NodePath.join(root, "directory")
      NFS.mkdirSync(directory)
      const fifo = NodePath.join(root, "fifo")
      execFileSync("mkfifo", [fifo])
      NFS.symlinkSync("/dev/null", NodePath.join(root, "null"))
      NFS.writeFileSync(NodePath.join(root, "old"), "old")
      NFS.symlinkSync("old", NodePath.join(root, "link"))
      for (const name of ["directory", "fifo", "null", "link"]) {
        const error = yield* Effect.flip(Export.toFile(kv, NodePath.join(root, name)))
        assert.strictEqual(error._tag, "TargetRefused", name)
      }
      assert.isTrue(NFS.statSync(directory).isDirectory())
      assert.isTrue(NFS.statSync(fifo).isFIFO())
      assert.isTrue(NFS.lstatSync(NodePath.join(root, "null")).isSymbolicLink())
      assert.strictEqual(NFS.readFileSync(NodePath.join(root, "link"), "utf8"), "old")
      assert.strictEqual((yield* Effect.flip(Export.toFile(kv, "/dev/null")))._tag, "TargetRefused")
      NFS.writeFileSync(NodePath.join(root, "file"), "")
      assert.strictEqual((yield* Effect.flip(Export.toFile(kv, NodePath.join(root, "file", "below"))))._tag, "IoError")
      assert.deepStrictEqual(leftovers(root), [])
    }))

  it.effect("refuses a path in the store's own directory, one that names no file, and an empty one", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      yield* kv.put("a", "1")
      const root = NodePath.dirname(kv.directory)
      NFS.symlinkSync(kv.directory, NodePath.join(root, "link"))
      const before = NFS.readdirSync(root, { recursive: true })
      const paths = ["00000001.dwal", ".lock", "backup"].flatMap((name) => [
        NodePath.join(kv.directory, name),
        NodePath.join(root, "link", name)
      ])
      for (const path of [...paths, `${NodePath.join(root, "new")}/`, "", ".", ".."]) {
        const error = yield* Effect.flip(Export.toFile(kv, path))
        assert.deepInclude(error, { _tag: "TargetRefused", target: path })
      }
      assert.deepStrictEqual(NFS.readdirSync(root, { recursive: true }), before)
      assert.deepInclude(yield* Effect.flip(kv.compactTo("")), { _tag: "TargetRefused", target: "" })
    }))

  it.effect("takes every file name that the file system takes", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      yield* kv.put("a", "1")
      const root = NodePath.dirname(kv.directory)
      for (const name of ["x".repeat(255), "é".repeat(127), "文".repeat(85), "𝄞".repeat(63), "a b\nc", "-", "..."]) {
        yield* Export.toFile(kv, NodePath.join(root, name))
        assert.strictEqual(NFS.readFileSync(NodePath.join(root, name), "utf8"), line("a", "1"))
      }
      assert.deepStrictEqual(leftovers(root), [])
    }))

  it.effect("compaction takes every directory name that the file system takes", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      for (const name of ["x".repeat(255), "é".repeat(127), "文".repeat(85)]) {
        yield* kv.compactTo(NodePath.join(kv.directory, "..", name))
      }
    }))

  it.effect("that meets damage leaves the older file, and nothing beside it", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      yield* kv.putMany([["a", "1"], ["b", "2"]])
      const segment = NodePath.join(kv.directory, "00000001.dwal")
      const bytes = NFS.readFileSync(segment)
      bytes[55]! ^= 1
      NFS.writeFileSync(segment, bytes)
      const root = NodePath.dirname(kv.directory)
      const file = NodePath.join(root, "out.jsonl")
      NFS.writeFileSync(file, "older")
      const before = tree(root)
      assert.strictEqual((yield* Effect.flip(Export.toFile(kv, file)))._tag, "CorruptSegment")
      assert.deepStrictEqual(tree(root), before)
      const missing = NodePath.join(root, "new.jsonl")
      yield* Effect.flip(Export.toFile(kv, missing))
      const thrown = yield* Effect.exit(Export.toFile(yield* fresh, missing, {
        onProgress: () => {
          throw new Error("mine")
        }
      }))
      assert.isTrue(Exit.isSuccess(thrown), "nothing was written, so nobody was told")
      NFS.rmSync(missing)
      assert.deepStrictEqual(tree(root), before)
      assert.strictEqual(descriptors().filter((path) => path.includes(".tmp")).length, 0)
    }))

  it.effect("whose observer throws is a defect that leaves nothing behind", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      yield* kv.put("a", "1")
      const root = NodePath.dirname(kv.directory)
      const onProgress = () => {
        throw new Error("mine")
      }
      const exit = yield* Effect.exit(Export.toFile(kv, NodePath.join(root, "out.jsonl"), { onProgress }))
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(NFS.readdirSync(root), ["store"])
    }))

  for (const what of ["export", "compaction"] as const) {
    it.live(`an interruption while the ${what} gets its name leaves it whole and durable`, () =>
      Effect.gen(function*() {
        const disk = new FaultyDisk()
        yield* over(disk)(Effect.gen(function*() {
          const kv = yield* fresh
          yield* kv.put("a", "1")
          const target = NodePath.join(kv.directory, "..", "out")
          const held = disk.holdNext("rename")
          const work = what === "export"
            ? Effect.asVoid(Export.toFile(kv, target))
            : Effect.asVoid(kv.compactTo(target))
          const fiber = yield* Effect.forkChild(work, { startImmediately: true })
          yield* held.reached
          const interrupting = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
          yield* held.release
          yield* Fiber.join(interrupting)
          assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
          const kinds = disk.calls.map(({ kind }) => kind)
          assert.isAbove(kinds.lastIndexOf("syncDirectory"), kinds.lastIndexOf("rename"))
          if (what === "export") assert.strictEqual(NFS.readFileSync(target, "utf8"), line("a", "1"))
          // Somebody may have found it, and written to it.
          else assert.deepStrictEqual(yield* content(yield* Kv.make({ directory: target })), yield* content(kv))
          assert.deepStrictEqual(NFS.readdirSync(NodePath.dirname(target)).sort(), ["out", "store"])
        }))
      }))
  }

  it.live("is a snapshot, while writes go on", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* fresh
        yield* kv.putMany(numbers(5_000).map((at) => [`${at}`, "before"]))
        // One in the middle that is too long to be written on the calling thread.
        yield* kv.put("5", Buffer.alloc(1_000_000, 0x35))
        const lines = (yield* Stream.runCollect(Export.toLines(kv))).join("")
        const file = NodePath.join(kv.directory, "..", "out.jsonl")
        const held = disk.holdNext("append", { path: ".tmp" })
        const exporting = yield* Effect.forkChild(Export.toFile(kv, file), { startImmediately: true })
        yield* held.reached
        yield* kv.putMany(numbers(5_000).map((at) => [`${at}`, "during"]))
        yield* held.release
        yield* Fiber.join(exporting)
        assert.strictEqual(NFS.readFileSync(file, "utf8"), lines)
      }))
    }))
})

/** What is used is only known once what is not has gone. */
const garbageCollector = (): () => void => {
  V8.setFlagsFromString("--expose-gc")
  return VM.runInNewContext("gc") as () => void
}

const byte = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))
const bytes = (maxLength: number) =>
  Arbitrary.map(Arbitrary.array(Arbitrary.schema(byte), { maxLength }), (values) => Uint8Array.from(values))
const pairs = Arbitrary.array(Arbitrary.all([bytes(6), bytes(40)]), { maxLength: 30 })

describe("import", () => {
  it.effect.prop(
    "of an export is the same store, whatever the bytes",
    { pairs },
    ({ pairs }) =>
      Effect.scoped(Effect.gen(function*() {
        const kv = yield* fresh
        yield* kv.putMany(pairs)
        const file = NodePath.join(kv.directory, "..", "out.jsonl")
        yield* Export.toFile(kv, file)
        const copy = yield* fresh
        const { bytes_written, records_written } = yield* Export.fromLines(copy, input(NFS.readFileSync(file)))
        assert.strictEqual(records_written, yield* kv.size)
        assert.strictEqual(bytes_written, (yield* copy.statistics).liveBytes)
        assert.deepStrictEqual(yield* content(copy), yield* content(kv))
        const again = NodePath.join(kv.directory, "..", "again.jsonl")
        yield* Export.toFile(copy, again)
        assert.isTrue(NFS.readFileSync(again).equals(NFS.readFileSync(file)))
      })),
    { arbitrary: { runs: 40 } }
  )

  it.effect("keeps the last of several values of a key, also where one is too long to be stored with others", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      const long = "x".repeat(Disk.blocking_bytes_max)
      yield* Export.fromLines(kv, input([line("a", "1"), line("a", long), line("b", long), line("b", "2")].join("")))
      assert.deepStrictEqual((yield* kv.getMany(["a", "b"])).map(text), [long, "2"])
    }))

  it.effect("of a file takes lines of every length, and stores nothing of one that cannot be read", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      yield* kv.putMany([["a", "1"], ["long", "x".repeat(700_000)], ["empty", ""]])
      const root = NodePath.dirname(kv.directory)
      const file = NodePath.join(root, "out.jsonl")
      yield* Export.toFile(kv, file)
      const copy = yield* fresh
      const progress: Array<number> = []
      const imported = yield* Export.fromFile(copy, file, { onProgress: (records) => progress.push(records) })
      assert.deepStrictEqual([imported.records_written, progress.at(-1)], [3, 3])
      assert.deepStrictEqual(yield* content(copy), yield* content(kv))
      NFS.appendFileSync(file, `${line("b", "2")}no line\n`)
      assert.deepInclude(yield* Effect.flip(Export.fromFile(copy, file)), { _tag: "InvalidLine", line: 5 })
      assert.strictEqual(yield* copy.size, 4)
      for (const [path, code] of [[NodePath.join(root, "none"), "ENOENT"], [root, "EISDIR"]] as const) {
        assert.deepInclude(yield* Effect.flip(Export.fromFile(copy, path)), { _tag: "IoError", code })
      }
      assert.strictEqual((yield* copy.statistics).records, 7)
    }))

  it.effect("does not care where the chunks are cut", () =>
    Effect.gen(function*() {
      const whole = Buffer.from(`${line("a", "1")}\r\n${line("é", "zwei")}\n   \t\n${line("c", "").trimEnd()}`)
      const want: ReadonlyArray<readonly [string, string]> = [[hex(Buffer.from("a")), hex(Buffer.from("1"))], [
        "63",
        ""
      ], [
        hex(Buffer.from("é")),
        hex(Buffer.from("zwei"))
      ]]
      for (let at = 0; at <= whole.length; at++) {
        const kv = yield* fresh
        const chunks = Stream.make<ReadonlyArray<Uint8Array>>(whole.subarray(0, at), whole.subarray(at))
        assert.strictEqual((yield* Export.fromLines(kv, chunks)).records_written, 3)
        assert.deepStrictEqual(yield* content(kv), want)
      }
      const kv = yield* fresh
      yield* Export.fromLines(kv, Stream.fromIterable(numbers(whole.length).map((at) => whole.subarray(at, at + 1))))
      assert.strictEqual(yield* kv.size, 3)
    }))

  it.effect("takes CRLF, blank lines, spaces in the JSON, fields in any order, and no line feed at the end", () =>
    Effect.gen(function*() {
      const lines = "\n\r\n" + line("a", "1").replace("\n", "\r\n") + "  \n" +
        "  { \"value_b64\" : \"Mg==\", \"key_b64\" : \"Yg==\" }  \n\t\n" +
        "{\"key_b64\":\"Yw==\",\"value_b64\":\"Mw==\"}"
      const { exit, keys } = yield* imported(lines)
      assert.deepInclude(exit, { _tag: "Success" })
      assert.deepStrictEqual(keys, ["a", "b", "c"])
    }))

  it.effect("of nothing stores nothing, and syncs", () =>
    Effect.gen(function*() {
      for (const lines of ["", "\n", "\n\n  \n", " "]) {
        const kv = yield* fresh
        assert.deepStrictEqual(yield* Export.fromLines(kv, input(lines)), { records_written: 0, bytes_written: 0 })
      }
      const kv = yield* fresh
      assert.deepStrictEqual(yield* Export.fromLines(kv, Stream.empty), { records_written: 0, bytes_written: 0 })
    }))

  it.effect("lets the last line of a key win", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      yield* kv.put("a", "there before")
      yield* Export.fromLines(kv, input(line("a", "1") + line("b", "2") + line("a", "3")))
      assert.strictEqual(text(yield* kv.get("a")), "3")
      assert.strictEqual((yield* kv.statistics).records, 4)
    }))

  const long = (length: number): string => Buffer.alloc(length, 97).toString("base64")
  const bad: ReadonlyArray<readonly [name: string, line: string, detail: RegExp]> = [
    ["no JSON", "not json", /json/i],
    ["JSON cut short", "{\"key_b64\":\"YQ==\",\"value_b64\":\"MQ==\"", /json/i],
    ["two values in a line", "{\"key_b64\":\"YQ==\",\"value_b64\":\"MQ==\"} {}", /json/i],
    ["a byte order mark", `\uFEFF${line("x", "1").trimEnd()}`, /begins with a byte order mark/],
    ["a number", "7", /object|struct|key_b64|got 7/i],
    ["null", "null", /object/],
    ["an array", "[\"YQ==\",\"MQ==\"]", /object|key_b64|\[/i],
    ["no key", "{\"value_b64\":\"MQ==\"}", /key_b64/],
    ["no value", "{\"key_b64\":\"YQ==\"}", /value_b64/],
    ["a key that is a number", "{\"key_b64\":1,\"value_b64\":\"MQ==\"}", /key_b64/],
    ["a value that is null", "{\"key_b64\":\"YQ==\",\"value_b64\":null}", /value_b64/],
    ["a byte that is no Base64", "{\"key_b64\":\"YQ==\",\"value_b64\":\"M!==\"}", /value_b64/],
    ["Base64 for URLs", "{\"key_b64\":\"_w==\",\"value_b64\":\"MQ==\"}", /key_b64/],
    ["no padding", "{\"key_b64\":\"YQ\",\"value_b64\":\"MQ==\"}", /key_b64/],
    ["half of the padding", "{\"key_b64\":\"YQ=\",\"value_b64\":\"MQ==\"}", /key_b64/],
    ["too much padding", "{\"key_b64\":\"YQ==\",\"value_b64\":\"MQ===\"}", /value_b64/],
    ["padding in the middle", "{\"key_b64\":\"YQ==\",\"value_b64\":\"MQ==MQ==\"}", /value_b64/],
    ["nothing but padding", "{\"key_b64\":\"====\",\"value_b64\":\"MQ==\"}", /key_b64/],
    ["bits left over", "{\"key_b64\":\"YQ==\",\"value_b64\":\"MR==\"}", /value_b64/],
    ["bits left over, one padding", "{\"key_b64\":\"YWJ=\",\"value_b64\":\"\"}", /key_b64/],
    ["white space in Base64", "{\"key_b64\":\"Y Q==\",\"value_b64\":\"MQ==\"}", /key_b64/],
    ["a line feed in Base64", "{\"key_b64\":\"YQ==\\n\",\"value_b64\":\"MQ==\"}", /key_b64/],
    ["megabytes of brackets", "[".repeat(2_000_000) + "]".repeat(2_000_000), /more than 1000 JSON values/],
    ["megabytes of objects", `[${"{},".repeat(1_000_000)}{}]`, /more than 1000 JSON values/],
    [
      "megabytes of numbers behind a record",
      `{"key_b64":"YQ==","value_b64":"","note":"\\"","more":[${"1,".repeat(1_000_000)}1]}`,
      /more than 1000 JSON values/
    ],
    ["a key beyond its limit", `{"key_b64":"${long(65_537)}","value_b64":""}`, /key has 65537 bytes/]
  ]
  for (const [name, wrong, detail] of bad) {
    it.effect(`${name} is refused with its line, and what was before it is stored`, () =>
      Effect.gen(function*() {
        const lines = `${line("one", "1")}\n${line("two", "2")}${wrong}\n${line("four", "4")}`
        const { exit, keys } = yield* imported(lines)
        if (exit._tag === "Success") return assert.fail("it was taken")
        const error = exit.failure
        if (error._tag !== "InvalidLine") return assert.fail(error._tag)
        assert.strictEqual(error.line, 4)
        assert.match(error.detail, detail)
        assert.isAtMost(error.message.length, 400)
        assert.deepStrictEqual(keys, ["one", "two"])
      }))
  }

  it.effect("what only looks like many values is taken: text in other fields, and some values beside", () =>
    Effect.gen(function*() {
      const note = JSON.stringify("[{,\\\"".repeat(100_000))
      const { exit, keys } = yield* imported(
        `{"key_b64":"YQ==","value_b64":"MQ==","note":${note},"more":[${"1,".repeat(900)}1]}\n`
      )
      assert.deepInclude(exit, { _tag: "Success" })
      assert.deepStrictEqual(keys, ["a"])
    }))

  it.effect("bytes that are not UTF-8 are refused", () =>
    Effect.gen(function*() {
      const { exit, keys } = yield* imported(
        Buffer.concat([Buffer.from(line("one", "1")), Buffer.from([0x7b, 0xff, 0xfe, 0x7d, 0x0a])])
      )
      assert.deepInclude((exit as { readonly failure: object }).failure, { _tag: "InvalidLine", line: 2 })
      assert.deepStrictEqual(keys, ["one"])
    }))

  it.effect("a bad last line without a line feed is refused as well", () =>
    Effect.gen(function*() {
      const { exit, keys } = yield* imported(`${line("one", "1")}{"key_b64":"YQ==","value`)
      assert.deepInclude((exit as { readonly failure: object }).failure, { _tag: "InvalidLine", line: 2 })
      assert.deepStrictEqual(keys, ["one"])
    }))

  it.effect(
    "a key and a value at their limits are taken, a value beyond its own is refused",
    () =>
      Effect.gen(function*() {
        const kv = yield* fresh
        const key = Buffer.alloc(65_536, 107)
        const value = Buffer.alloc(Frame.payload_bytes_max, 118)
        yield* Export.fromLines(kv, input(Buffer.from(line(key, value))))
        assert.isTrue(value.equals((yield* kv.get(key))!))
        const error = yield* Effect.flip(
          Export.fromLines(
            kv,
            input(Buffer.from(line("a", "1") + line("b", Buffer.alloc(Frame.payload_bytes_max + 1))))
          )
        )
        assert.deepInclude(error, { _tag: "InvalidLine", line: 2 })
        assert.strictEqual(text(yield* kv.get("a")), "1")
      })
  )

  it.effect("a line without end is refused once it is longer than any record, and what follows is not read", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      let pulled = 0
      const chunk = Buffer.alloc(1_048_576, 0x61)
      const endless = Stream.concat(
        input(line("one", "1")),
        Stream.mapEffect(Stream.rechunk(Stream.range(1, 10_000), 1), () =>
          Effect.sync((): Uint8Array => {
            pulled++
            return chunk
          }))
      )
      assert.deepInclude(yield* Effect.flip(Export.fromLines(kv, endless)), { _tag: "InvalidLine", line: 2 })
      assert.isAtMost(pulled, 100)
      assert.strictEqual(text(yield* kv.get("one")), "1")
    }))

  it.effect("a line is what it was when it came, though its memory is used again for the next chunk", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      const all = Buffer.from(line("one", "1".repeat(5_000)) + line("two", "2") + line("three", "3"))
      for (const size of [1, 7, 100]) {
        const chunk = Buffer.alloc(size)
        const reused = Stream.map(
          Stream.rechunk(Stream.range(0, Math.ceil(all.length / size) - 1), 1),
          (at): Uint8Array => chunk.subarray(0, all.copy(chunk, 0, at * size, (at + 1) * size))
        )
        assert.strictEqual((yield* Export.fromLines(kv, reused)).records_written, 3)
        assert.strictEqual(text(yield* kv.get("one")), "1".repeat(5_000))
        assert.strictEqual(text(yield* kv.get("three")), "3")
      }
    }))

  it("a line that comes in pieces of a byte takes no more memory for that", () => {
    const lines = new Lines()
    const letter = Uint8Array.of(0x61)
    const collect = garbageCollector()
    collect()
    const before = process.memoryUsage()
    for (let at = 0; at < 400_000; at++) {
      lines.feed(letter)
      lines.next()
    }
    collect()
    const after = process.memoryUsage()
    assert.isBelow(after.heapUsed + after.external - before.heapUsed - before.external, 16 * 1_048_576)
    lines.finish()
    assert.isTrue(lines.next())
    assert.strictEqual(lines.end - lines.start, 400_000)
  })

  it.effect("an input that fails ends it with that failure, and what was before is stored and synced", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* fresh
        const lines = Stream.concat(
          input(line("one", "1") + line("two", "2") + "{\"key_b64\":\"half"),
          Stream.fail("cut off" as const)
        )
        assert.strictEqual(yield* Effect.flip(Export.fromLines(kv, lines)), "cut off")
        assert.strictEqual(disk.count("sync"), 1)
        assert.isAbove(
          disk.calls.findLastIndex((call) => call.kind === "sync"),
          disk.calls.findLastIndex((call) => call.kind === "appendNow")
        )
        assert.strictEqual(yield* kv.size, 2)
      }))
    }))

  it.live("no line waits for the input, and what came before an interruption or a defect is stored and synced", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* fresh
        const first = Stream.make(...["one", "two"].map((key) => line(key, "1")), line("three", "3").slice(0, 20))
        const seen = yield* Deferred.make<void>()
        const fiber = yield* Effect.forkChild(
          Export.fromLines(kv, Stream.concat(first, Stream.never), {
            onProgress: (records) => records === 2 && Deferred.doneUnsafe(seen, Effect.void)
          }),
          { startImmediately: true }
        )
        yield* Deferred.await(seen)
        assert.strictEqual(yield* kv.size, 2)
        assert.strictEqual(disk.count("sync"), 0)
        yield* Fiber.interrupt(fiber)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
        assert.strictEqual(disk.count("sync"), 1)
        const dying = Stream.concat(Stream.make(line("four", "4")), Stream.die("mine"))
        assert.isTrue(Exit.hasDies(yield* Effect.exit(Export.fromLines(kv, dying))))
        assert.strictEqual(yield* kv.size, 3)
        assert.strictEqual(disk.count("sync"), 2)
        // Where that sync fails an interruption is still one.
        const stuck = yield* Effect.forkChild(
          Export.fromLines(kv, Stream.concat(Stream.make(line("five", "5")), Stream.never)),
          { startImmediately: true }
        )
        disk.failNext("sync", "EIO")
        yield* Fiber.interrupt(stuck)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(stuck)))
        assert.strictEqual((yield* Effect.flip(kv.put("six", "6")))._tag, "WriterPoisoned")
      }))
    }))

  it.live("behind whoever has the store to himself it can be interrupted, and what it could not store is not", () =>
    Effect.gen(function*() {
      for (const value of ["1", "x".repeat(300_000)]) {
        const kv = yield* fresh
        const begun = yield* Deferred.make<void>()
        const holding = yield* Effect.forkChild(
          kv.modifyEffect("held", () => Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)),
          { startImmediately: true }
        )
        yield* Deferred.await(begun)
        const lines = Stream.concat(Stream.make(line("a", value)), Stream.never)
        const importing = yield* Effect.forkChild(Export.fromLines(kv, lines), { startImmediately: true })
        yield* Effect.sleep(5)
        yield* Fiber.interrupt(importing)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(importing)))
        yield* Fiber.interrupt(holding)
        assert.strictEqual((yield* kv.statistics).records, 0)
      }
    }))

  it.live("a scope with one of them closes, whichever of them it interrupts first", () =>
    Effect.gen(function*() {
      const directory = NodePath.join(yield* temporaryDirectory, "store")
      yield* Effect.scoped(Effect.gen(function*() {
        const kv = yield* Kv.make({ directory })
        yield* Effect.forkScoped(kv.modifyEffect("held", () => Effect.never), { startImmediately: true })
        yield* Effect.forkScoped(Export.fromLines(kv, Stream.make(line("a", "1"))), { startImmediately: true })
        yield* Effect.sleep(5)
      }))
    }))

  it.effect("of thousands of short lines numbers the records without a gap, also over segments", () =>
    Effect.gen(function*() {
      for (const segmentSize of [5_000, 10_000_000]) {
        const { kv, log } = yield* Effect.flatMap(
          temporaryDirectory,
          (directory) => Kv.makeWithLog({ directory, segmentSize })
        )
        yield* Export.fromLines(kv, input(Array.from({ length: 3_000 }, (_, at) => line(`${at}`, "")).join("")))
        const records = yield* Stream.runCollect(log.stream)
        assert.deepStrictEqual(records.map(({ txid }) => txid), Array.from({ length: 3_000 }, (_, at) => at + 1))
      }
    }))

  it.effect("interrupted it waits for nobody, in whatever step another takes the store for as long as it likes", () =>
    Effect.gen(function*() {
      const yields = (count: number) => Effect.forEach(Array.from({ length: count }), () => Effect.yieldNow)
      for (let seed = 1; seed <= 60; seed++) {
        const disk = makeDisk({ seed, directories: ["/s"] })
        yield* Effect.scoped(Effect.gen(function*() {
          const kv = yield* Kv.make({ directory: "/s" })
          const freed = yield* Deferred.make<void>()
          const held = (until: Effect.Effect<unknown>) =>
            kv.modifyEffect("x", () => Effect.as(until, [0, "1"] as const))
          yield* Effect.forkScoped(held(Deferred.await(freed)), { startImmediately: true })
          const importing = yield* Effect.forkScoped(Export.fromLines(kv, Stream.make(line("a", "1"))))
          yield* yields(300)
          // Comes in between, and keeps the store until the import is over.
          yield* Effect.forkScoped(Effect.andThen(yields((seed * 7) % 90), held(Fiber.await(importing))))
          yield* Effect.forkScoped(Fiber.interrupt(importing))
          yield* Deferred.succeed(freed, undefined)
          for (let left = 2_000; left > 0 && importing.pollUnsafe() === undefined; left--) yield* Effect.yieldNow
          assert.isDefined(importing.pollUnsafe(), `seed ${seed}: it waits for the store`)
        })).pipe(
          Effect.provideService(Disk.Disk, disk.service),
          Effect.provideService(References.MaxOpsBeforeYield, 3 + seed % 20),
          Effect.provideService(References.MinimumLogLevel, "None")
        )
      }
    }))

  it.effect("what an observer copies of a record with slice is its own, whatever is imported after it", () =>
    Effect.gen(function*() {
      const { kv, log } = yield* Effect.flatMap(temporaryDirectory, (directory) => Kv.makeWithLog({ directory }))
      const kept: Array<Uint8Array> = []
      yield* log.observe(({ key, payload }) => {
        assert.isFalse(Buffer.isBuffer(key) || Buffer.isBuffer(payload))
        kept.push(key.slice(), payload.slice())
      })
      yield* Export.fromLines(kv, Stream.rechunk(Stream.make(line("a", "1"), line("b", "2")), 1))
      assert.deepStrictEqual(kept.map((bytes) => text(bytes)), ["a", "1", "b", "2"])
    }))

  it.effect("what an observer has thrown at is not written again, over what was put since", () =>
    Effect.gen(function*() {
      const { kv, log } = yield* Effect.flatMap(temporaryDirectory, (directory) => Kv.makeWithLog({ directory }))
      let throwing = true
      yield* log.observe(() => {
        if (!throwing) return
        throwing = false
        Effect.runFork(kv.put("a", "newer"))
        throw new Error("mine")
      })
      const exit = yield* Effect.exit(Export.fromLines(kv, input(line("a", "1"))))
      assert.isTrue(Exit.hasDies(exit))
      while ((yield* kv.statistics).records < 2) yield* Effect.yieldNow
      assert.strictEqual((yield* kv.statistics).records, 2)
      assert.strictEqual(text(yield* kv.get("a")), "newer")
    }))

  it.effect("an observer that throws is a defect, and no line is stored twice for it", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      const onProgress = () => {
        throw new Error("mine")
      }
      const exit = yield* Effect.exit(Export.fromLines(kv, input(line("a", "1") + line("b", "2")), { onProgress }))
      assert.isTrue(Exit.hasDies(exit))
      assert.strictEqual((yield* kv.statistics).records, 2)
    }))

  it.effect("the highest txid is not passed: what would is not stored, and the store opens again", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const bytes = new Uint8Array(30)
      Frame.encodeInto(bytes, 0, "Put", Frame.txid_max - 3, Buffer.from("k"), Buffer.from("v"))
      NFS.writeFileSync(NodePath.join(directory, "00000001.dwal"), bytes)
      const lines = numbers(5).map((at) => line(`${at}`, "")).join("")
      yield* Effect.scoped(Effect.gen(function*() {
        const error = yield* Effect.flip(Export.fromLines(yield* Kv.make({ directory }), input(lines)))
        assert.deepInclude(error, { _tag: "LimitExceeded", limit: "txid" })
      }))
      assert.deepStrictEqual(NFS.readFileSync(NodePath.join(directory, "00000001.dwal")), Buffer.from(bytes))
      const kv = yield* Kv.make({ directory })
      yield* Export.fromLines(kv, input(line("a", "1") + line("b", "2")))
      assert.strictEqual(yield* kv.size, 3)
    }))

  it.effect("a limit that is met on the way ends it, and what was stored before is synced", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        NFS.writeFileSync(NodePath.join(directory, "99999999.dwal"), "")
        const kv = yield* Kv.make({ directory, segmentSize: 100 })
        const lines = numbers(10).map((at) => line(`${at}`, "x".repeat(30))).join("")
        const error = yield* Effect.flip(Export.fromLines(kv, input(lines)))
        assert.deepInclude(error, { _tag: "LimitExceeded", limit: "segment" })
        assert.strictEqual(yield* kv.size, 1)
        assert.strictEqual(
          disk.calls.filter(({ kind }) => kind === "appendNow" || kind === "sync").at(-1)?.kind,
          "sync"
        )
        assert.strictEqual((yield* Effect.flip(kv.put("k", "x".repeat(30))))._tag, "LimitExceeded")
      }))
    }))

  it.effect("takes text as it takes bytes, wherever it is cut", () =>
    Effect.gen(function*() {
      const [kv, copy] = [yield* fresh, yield* fresh]
      yield* kv.putMany(numbers(500).map((at) => [`${at}`, "é".repeat(at % 20)]))
      yield* Export.fromLines(copy, Export.toLines(kv))
      assert.deepStrictEqual(yield* content(copy), yield* content(kv))
      const text = (yield* Stream.runCollect(Export.toLines(kv))).join("")
      const cut = Stream.fromIterable(text.match(/.{1,77}/gs) ?? [])
      assert.strictEqual((yield* Export.fromLines(copy, cut)).records_written, 500)
      assert.deepStrictEqual(yield* content(copy), yield* content(kv))
    }))

  it.effect("a sync that fails behind a bad line, or behind an input that failed, is what it ends with", () =>
    Effect.gen(function*() {
      for (const end of [input("bad\n"), Stream.fail("cut off" as const)]) {
        const disk = new FaultyDisk()
        yield* over(disk)(Effect.gen(function*() {
          const kv = yield* fresh
          disk.failNext("sync", "EIO")
          const exit = yield* Effect.exit(Export.fromLines(kv, Stream.concat(input(line("one", "1")), end)))
          const reasons = Exit.isFailure(exit) ? exit.cause.reasons : []
          assert.deepStrictEqual(reasons.map((reason) => reason._tag), ["Fail"])
          assert.deepInclude(yield* Effect.flip(exit), { _tag: "IoError", code: "EIO" })
        }))
      }
    }))

  it.effect("what is before a bad line is synced", () =>
    Effect.gen(function*() {
      const disk = new FaultyDisk()
      yield* over(disk)(Effect.gen(function*() {
        const kv = yield* fresh
        yield* Effect.flip(Export.fromLines(kv, input(`${line("one", "1")}bad\n`)))
        assert.strictEqual(disk.count("sync"), 1)
        assert.strictEqual(yield* kv.size, 1)
      }))
    }))

  it.live("of 200,000 lines takes memory for a few chunks only, and tells how far it is", () =>
    Effect.gen(function*() {
      const kv = yield* fresh
      const value = "v".repeat(1_000)
      // One key, so that the index takes nothing; about 270 MB of lines.
      const lines = Stream.mapEffect(
        Stream.rechunk(Stream.range(1, 2_000), 1),
        () => Effect.sync((): Uint8Array => Buffer.from(line("key", value).repeat(100)))
      )
      const progress: Array<number> = []
      const collect = garbageCollector()
      const used = () => {
        collect()
        const { arrayBuffers, heapUsed } = process.memoryUsage()
        return arrayBuffers + heapUsed
      }
      const start = used()
      let peak = 0
      const done = yield* Export.fromLines(kv, lines, {
        onProgress: (records) => {
          progress.push(records)
          if (progress.length % 100 === 0) peak = Math.max(peak, used() - start)
        }
      })
      assert.deepStrictEqual(done, { records_written: 200_000, bytes_written: 200_000 * 1_031 })
      assert.strictEqual(progress.at(-1), 200_000)
      assert.isAbove(progress.length, 100)
      assert.isAtMost(peak, 80_000_000)
    }))
})
