/**
 * The main job as a user starts it: its launcher is run, on a small directory, and what it says and leaves is checked.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import { fileURLToPath } from "node:url"
import * as Frame from "../src/Frame.ts"
import * as Kv from "../src/Kv.ts"
import * as Reader from "../src/Reader.ts"
import * as Recovery from "../src/Recovery.ts"
import { run, start } from "./support/child.ts"
import { largeDirectory, noise, put } from "./support/stores.ts"

const launcher = fileURLToPath(new URL("../scripts/main-job.mjs", import.meta.url))

/** Stops where the files are loaded and synced, and not compared yet; `go on` is to be sent to it then. */
const heldJob = (...args: ReadonlyArray<string>) =>
  Effect.tap(
    start(process.execPath, ["--import", new URL("support/heldJob.mjs", import.meta.url).href, launcher, ...args]),
    (child) => child.until("2. Kill")
  )

const job = (...args: ReadonlyArray<string>) => run(process.execPath, [launcher, ...args])

const names = [
  "a.txt",
  "b.bin",
  "sub/c.txt",
  "sub/deeper/d.bin",
  "sub/e with space.txt",
  "ünïcode.txt",
  "zero",
  "zz.bin"
]

/** A directory with a little of everything that a file system can hold. */
const sourceDirectory = Effect.map(largeDirectory, (parent) => {
  const source = NodePath.join(parent, "source")
  NFS.mkdirSync(NodePath.join(source, "sub", "deeper"), { recursive: true })
  for (const [index, name] of names.entries()) {
    NFS.writeFileSync(NodePath.join(source, name), name === "zero" ? "" : noise(1_000 * (index + 1) ** 2, index + 1))
  }
  NFS.symlinkSync("a.txt", NodePath.join(source, "link"))
  NFS.symlinkSync("sub", NodePath.join(source, "linked directory"))
  NFS.truncateSync(NodePath.join(source, "zz.bin"), 300_000)
  NFS.closeSync(NFS.openSync(NodePath.join(source, "too large"), "w"))
  NFS.truncateSync(NodePath.join(source, "too large"), Frame.payload_bytes_max + 1)
  return { source, out: NodePath.join(parent, "out") }
})

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)

describe("the main job", () => {
  it.live("loads, kills, recovers, compacts, exports and imports a directory, and leaves stores that hold it", () =>
    Effect.gen(function*() {
      const { out, source } = yield* sourceDirectory
      const { code, stderr, stdout } = yield* job(source, "--out", out, "--kills", "2")
      assert.strictEqual(code, 0, stdout + stderr)
      assert.strictEqual(stderr, "")
      assert.match(stdout, /files +bytes +syncs +time +throughput\n[ -]+\n +8 /)
      assert.include(stdout, "skipped, symbolic link: 2")
      assert.include(stdout, "skipped, above the payload limit: 1")
      assert.match(stdout, /\d torn tails? in 2 kills|no tail was torn in 2 kills/)
      assert.match(stdout, /= 8 values, .* compared with the files they came from: all the same/)
      assert.match(stdout, /2 files overwritten, 1 deleted, [\d,]+ copies of the killed writers deleted/)
      assert.match(stdout, /= 7 values, .* compared between the two stores: all the same/)
      assert.include(stdout, `npx datawal scan ${NodePath.join(out, "events")} --limit 5`)
      assert.notInclude(stdout, "NOT")

      const events = yield* Reader.make({ directory: NodePath.join(out, "events") })
      const did = yield* Stream.runCollect(Stream.map(events.stream, ({ payload }) => JSON.parse(text(payload)).did))
      assert.strictEqual(did.filter((what) => what === "loaded").length, 8)
      assert.deepStrictEqual(did.slice(-3), ["compacted", "exported", "imported"])

      const imported = yield* Kv.makeReader({ directory: NodePath.join(out, "imported") })
      assert.deepStrictEqual(
        (yield* Stream.runCollect(imported.keys({ ordered: true }))).map(text),
        names.filter((name) => name !== "b.bin").map((name) => `file/${name}`).sort((a, b) =>
          Buffer.compare(Buffer.from(a), Buffer.from(b))
        )
      )
      const value = yield* imported.get("file/sub/c.txt")
      assert.deepStrictEqual(Buffer.from(value!), NFS.readFileSync(NodePath.join(source, "sub/c.txt")))
    }))

  it.live("a store that holds other bytes than the source makes it fail, and is named", () =>
    Effect.gen(function*() {
      const { out, source } = yield* sourceDirectory
      const child = yield* heldJob(source, "--out", out, "--kills", "1")
      // The first record is replaced by another, as sound.
      const segment = Recovery.segmentPath(NodePath.join(out, "store"), 1)
      const planted = put(1, "file/a.txt", noise(1_000, 77))
      const fd = NFS.openSync(segment, "r+")
      const before = Buffer.alloc(planted.length)
      NFS.readSync(fd, before, 0, before.length, 0)
      assert.deepStrictEqual(before, Buffer.from(put(1, "file/a.txt", noise(1_000, 1))))
      NFS.writeSync(fd, planted, 0, planted.length, 0)
      NFS.closeSync(fd)
      yield* child.send("go on")
      const { code, stderr, stdout } = yield* child.ended
      assert.strictEqual(code, 1, stdout + stderr)
      assert.match(stdout, /! 8 values, .* compared with the files they came from: 1 NOT the same/)
      assert.include(stdout, "file/a.txt: another byte at 0")
      assert.match(stderr, /^main-job: error: .* the store does not hold what it should\n$/)
    }))

  it.live("a store that is damaged makes it fail with the store's own error", () =>
    Effect.gen(function*() {
      const { out, source } = yield* sourceDirectory
      const child = yield* heldJob(source, "--out", out, "--kills", "1")
      const fd = NFS.openSync(Recovery.segmentPath(NodePath.join(out, "store"), 1), "r+")
      NFS.writeSync(fd, noise(1, 5), 0, 1, 100)
      NFS.closeSync(fd)
      yield* child.send("go on")
      const { code, stderr, stdout } = yield* child.ended
      assert.strictEqual(code, 1, stdout + stderr)
      assert.match(stderr, /main-job: error: .*\n$/)
    }))

  it.live("stores left inside the source are not loaded, and a file that is changed meanwhile is no difference", () =>
    Effect.gen(function*() {
      const { source } = yield* sourceDirectory
      const child = yield* heldJob(source, "--kills", "1", "--out", NodePath.join(source, "sub", "out"))
      NFS.writeFileSync(NodePath.join(source, "ünïcode.txt"), "new")
      yield* child.send("go on")
      const { code, stderr, stdout } = yield* child.ended
      assert.strictEqual(code, 0, stdout + stderr)
      assert.match(stdout, /throughput\n[ -]+\n +8 /)
      assert.match(stdout, /= 7 values, .* all the same \(1 file changed meanwhile and not compared\)/)
    }))

  it.live("a reader that has seen enough ends it quietly", () =>
    Effect.gen(function*() {
      const { out, source } = yield* sourceDirectory
      const script = "\"$0\" \"$1\" \"$2\" --out \"$3\" | head -n 1"
      const { code, stderr, stdout } = yield* run("sh", ["-c", script, process.execPath, launcher, source, out])
      assert.deepStrictEqual([code, stderr], [0, ""])
      assert.match(stdout, /^[^\n]+\n$/)
    }))

  it.live("what it cannot work on is said in one line, with exit code 1, and leaves nothing", () =>
    Effect.gen(function*() {
      const parent = yield* largeDirectory
      const path = (name: string) => NodePath.join(parent, name)
      NFS.mkdirSync(path("empty/below"), { recursive: true })
      NFS.writeFileSync(path("file"), "text")
      const out = path("out")
      const refuse = Effect.fnUntraced(function*([args, message]: readonly [ReadonlyArray<string>, string]) {
        const { code, stderr, stdout } = yield* job(...args)
        assert.strictEqual(code, 1, args.join(" "))
        assert.strictEqual(stdout, "")
        assert.match(stderr, /^main-job: error: [^\n]*\n$/)
        assert.include(stderr, message)
      })
      const refused: ReadonlyArray<readonly [args: ReadonlyArray<string>, message: string]> = [
        [[path("none"), "--out", out], `${path("none")}: no such directory`],
        [[path("file"), "--out", out], `${path("file")}: not a directory`],
        [[path("empty"), "--out", out], `${path("empty")}: there is no file to load`],
        [[parent, "--out", parent], `${parent}: not empty`],
        [[parent, "--out", path("file")], `${path("file")}: not a directory`],
        [[parent, path("empty")], "one directory is taken, not 2"],
        [["--wat"], "Unknown option '--wat'"],
        [[path("empty"), "--kills", "none"], "--kills is a number from 1 to 9999"]
      ]
      yield* Effect.forEach(refused, refuse, { concurrency: 2, discard: true })
      assert.deepStrictEqual(NFS.readdirSync(parent).sort(), ["empty", "file"])
    }))
})
