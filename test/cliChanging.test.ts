/** The `datawal` command: the commands that write, other processes, pipes and terminals. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Cause, Effect } from "effect"
import * as ChildProcess from "node:child_process"
import { once } from "node:events"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import { pathToFileURL } from "node:url"
import { verdict } from "../src/cli/failure.ts"
import { misreadOf } from "../src/cli/misread.ts"
import { CorruptTail } from "../src/Errors.ts"
import * as Log from "../src/Log.ts"
import * as Cli from "./support/cli.ts"
import {
  assertClean,
  assertFails,
  base64,
  datawal,
  datawalProcess,
  fixture,
  newStore,
  object,
  objects
} from "./support/cli.ts"

const isLinux = process.platform === "linux"

// Large enough that its listing fills every pipe many times over.
const big = { store: "", records: 200_000 }

beforeAll(async () => {
  big.store = await newStore(
    Array.from({ length: big.records }, (_, index) => ({ type: "Put", key: `key-${index}`, payload: "x".repeat(100) }))
  )
})

afterAll(Cli.removeDirectories)

const everyByte = Buffer.from(Array.from({ length: 1_024 }, (_, index) => index % 256))

const newPath = (name: string): string => NodePath.join(Cli.directory(), name)

const files = (directory: string): Array<string> => NFS.readdirSync(directory).sort()

describe.concurrent("writing", () => {
  it("put, delete and append print where the record stands, in both forms, and scan finds it there", async () => {
    const store = newPath("new/store")
    const put = await datawal(["put", store, "--key", "a", "one"])
    assertClean(put)
    assert.strictEqual(put.out, "seg=00000001 off=         0 len=      32 txid=         1\n")
    const removed = await datawal(["delete", "--json", store, "--key-hex", "61"])
    const appended = await datawal(["--json", "append", store, "--key-base64", base64("tag"), "two"])
    assert.deepStrictEqual([object(removed), object(appended)], [
      { schema: "datawal.cli.v1", kind: "ref", segment: 1, offset: 32, len: 29, txid: 2 },
      { schema: "datawal.cli.v1", kind: "ref", segment: 1, offset: 61, len: 34, txid: 3 }
    ])
    const scan = await datawal(["scan", store, "--json"])
    assert.deepStrictEqual(
      objects(scan.out).map(({ key_base64, offset, payload_base64, record_type }) => [
        record_type,
        offset,
        key_base64,
        payload_base64
      ]),
      [
        ["Put", 0, base64("a"), base64("one")],
        ["Delete", 32, base64("a"), ""],
        ["Raw", 61, base64("tag"), base64("two")]
      ]
    )
  })

  it("a value goes in from standard input or a file and comes out byte for byte", async () => {
    const store = newPath("store")
    const file = newPath("value")
    NFS.writeFileSync(file, everyByte)
    assertClean(await datawalProcess(["put", store, "--key", "stdin", "-"], { input: everyByte }))
    assertClean(await datawalProcess(["put", store, "--key", "file", "--value-file", file]))
    assertClean(await datawalProcess(["put", store, "--key", "dash", "--value-file", "-"], { input: "-" }))
    const read = (key: string) => datawalProcess(["get", store, "--key", key, "--bytes", "raw"])
    const [stdin, fromFile, dash, json] = await Promise.all([
      read("stdin"),
      read("file"),
      read("dash"),
      datawal(["get", store, "--key", "stdin", "--json"])
    ])
    assert.isTrue(stdin.bytes.equals(everyByte))
    assert.isTrue(fromFile.bytes.equals(everyByte))
    assert.strictEqual(dash.out, "-")
    assert.deepInclude(object(json), { value_base64: everyByte.toString("base64"), value_len: 1_024 })
  })

  it("a value may be empty, look like a switch's, or like a flag", async () => {
    const store = newPath("store")
    const values = [["", ["a", ""]], ["yes", ["a", "--json", "yes"]], ["--json", ["a", "--", "--json"]]] as const
    for (const [value, [key, ...rest]] of values) {
      assert.strictEqual((await datawal(["put", store, "--key", key, ...rest])).code, 0)
      assert.strictEqual((await datawal(["get", store, "--key", key, "--bytes", "raw"])).out, value)
    }
  })

  it("a value or a key that would be taken for a flag is refused, and never ends well with nothing stored", async () => {
    const store = newPath("store")
    const misread = ["-hello", "-v", "--help", "--completions=bash"]
    for (const text of misread) {
      const calls = [
        ["put", store, "--key", "k", text],
        ["--json=true", "put", store, "--key", "k", text],
        ["put", store, "--key", text, "v"],
        ["append", store, text],
        ["export", store, text],
        ["import", store, text],
        ["compact", store, text],
        ["salvage", store, text],
        ["delete", store, "--key", text],
        ["get", "--no-truncate", store, "--key", text]
      ]
      for (const args of calls) assert.strictEqual(misreadOf(args), text)
    }
    const asked = [["put", "-h"], ["-v"], ["scan", store, "--help"], ["get", store, "--help"], ["delete", store, "-h"]]
    for (const args of [...asked, ["put", store, "--key=-v", "--", "-v"]]) assert.isUndefined(misreadOf(args))
    for (const args of [["-vault"], ["verify", "-vault"], ["repair", "-hs"]]) {
      assert.strictEqual(misreadOf(args), args.at(-1))
    }
    for (const args of [["--json", "put", store, "--key", "k", "-hello"], ["compact", store, "--help"]]) {
      assertFails(await datawal(args), 1, /would be taken for a flag; .* behind --/)
    }
    assert.isFalse(NFS.existsSync(store))
    for (const text of ["-v", "--completions=bash"]) {
      assert.strictEqual((await datawal(["put", store, `--key=${text}`, "--", text])).code, 0)
      assert.strictEqual((await datawal(["get", store, `--key=${text}`, "--bytes", "raw"])).out, text)
    }
    assert.strictEqual((await datawal(["put", store, "--key", "number", "-5"])).code, 0)
    for (const text of ["- item", "--foo"]) {
      assertFails(await datawal(["put", store, "--key", "k", text]), 1, /Unrecognized .* behind --/)
    }
    for (const args of asked) {
      const answer = await datawal(args)
      assert.strictEqual(answer.code, 0)
      assert.match(answer.out, /datawal/)
    }
  })

  it("a path with a line feed or a quote is advised so that a shell takes it", () => {
    for (const directory of ["it's\nhere\\", "it's here", "a b"]) {
      const damage = { directory, segment: 1, offset: 0, reason: "CrcMismatch", bytes: 60, laterFrames: 1 } as const
      const { message = "" } = verdict(Cause.fail(new CorruptTail(damage)))
      const word = /`datawal repair ([^]*) --policy prefix`/.exec(message)?.[1] ?? assert.fail(message)
      assert.notInclude(word, "\n")
      const { stdout } = ChildProcess.spawnSync("bash", ["-c", `printf %s ${word}`], { encoding: "utf8" })
      assert.strictEqual(stdout, directory)
    }
  })

  it("a pipe that has a name is read like a file", async () => {
    const store = newPath("store")
    const script = "datawal put \"$1\" --key a --value-file <(printf \"\\x00value\") > /dev/null &&" +
      " printf stdin | datawal put \"$1\" --key b --value-file /dev/stdin > /dev/null &&" +
      " datawal import \"$1\" <(datawal export \"$1\" - | sed s/YQ==/Yw==/)"
    const define = `datawal() { ${JSON.stringify(process.execPath)} ${JSON.stringify(Cli.command)} "$@"; }; `
    const ran = ChildProcess.spawnSync("bash", ["-c", define + script, "bash", store], { encoding: "utf8" })
    assert.strictEqual(ran.stderr, "")
    assert.match(ran.stdout, /records_written: 2/)
    for (const [key, value] of [["a", "\0value"], ["b", "stdin"], ["c", "\0value"]] as const) {
      assert.strictEqual((await datawal(["get", store, "--key", key, "--bytes", "raw"])).out, value)
    }
  })

  it("a value that passes the limit, or a file that is not there, makes no store", async () => {
    const store = newPath("store")
    const endless = await datawal(["put", store, "--key", "a", "--value-file", "/dev/zero"])
    assertFails(endless, 1, /more than 67108864 bytes, the limit; nothing was written/)
    assertFails(await datawal(["append", store, "--value-file", newPath("none")]), 1, /cannot read .*: ENOENT/)
    assertFails(await datawal(["import", store, newPath("none")]), 1, /cannot read .*: ENOENT, no such file/)
    assert.isFalse(NFS.existsSync(store))
  })

  it("an import of nothing says so, and makes no store", async () => {
    const store = newPath("store")
    const ran = await datawalProcess(["--json", "import", store, "-"])
    assert.strictEqual(ran.code, 0)
    assert.deepInclude(object(ran), { kind: "import", records_written: 0, bytes_written: 0 })
    assert.match(ran.err, /^datawal: warning: standard input is empty, and .* was left as it is\n$/)
    assert.isFalse(NFS.existsSync(store))
  })

  it("a copy of a log without keys is made with a warning", async () => {
    const store = await newStore([{ type: "Raw", payload: "a line" }])
    for (const args of [["compact", store, newPath("smaller")], ["export", store, newPath("out.jsonl")]]) {
      const ran = await datawal(args)
      assert.strictEqual(ran.code, 0)
      assert.match(ran.err, /^datawal: warning: no key of .* has a value; .* are not copied\n$/)
    }
  })

  it("what only looks at or changes a store does not make one of a mistyped name", async () => {
    const missing = newPath("store")
    const file = newPath("file")
    NFS.writeFileSync(file, "")
    const target = newPath("target")
    for (
      const args of [
        ["scan"],
        ["get", "--key", "a"],
        ["verify"],
        ["export", target],
        ["compact", target],
        ["salvage", target],
        ["delete", "--key", "a"],
        ["repair"]
      ]
    ) {
      const [command, ...rest] = args as [string, ...Array<string>]
      assertFails(await datawal([command, missing, ...rest]), 1, /no such store: .* does not exist/)
    }
    assertFails(await datawal(["scan", file]), 1, /no such store: .* is not a directory/)
    assertFails(await datawal(["get", file, "--key", "a"]), 1, /no such store: .* is not a directory/)
    assertFails(await datawal(["put", file, "--key", "a", "b"]), 1, /is not a directory/)
    assertFails(await datawal(["delete", NodePath.dirname(file), "--key", "a"]), 1, /holds no segments/)
    const nothing = await datawal(["repair", NodePath.dirname(file), "--json"])
    assert.deepStrictEqual([nothing.code, object(nothing)["files_scanned"]], [0, 0])
    assert.match(nothing.err, /^datawal: warning: .* holds no segments\n$/)
    assert.deepStrictEqual(files(NodePath.dirname(missing)), [])
    assert.deepStrictEqual(files(NodePath.dirname(file)), ["file"])
    assert.deepStrictEqual(files(NodePath.dirname(target)), [])
  })

  it("repair cuts a torn tail, keeps a copy, and says what it did", async () => {
    const store = fixture("torn_in_payload")
    const torn = NodePath.join(store, "00000001-62.torn")
    const ran = await datawal(["repair", store, "--json"])
    assertClean(ran)
    assert.deepInclude(object(ran), {
      kind: "repair",
      records_replayed: 2,
      tail_truncated: 1,
      tail_bytes_discarded: 27,
      tail_segment: 1,
      tail_offset: 62,
      tail_reason: "Truncated",
      torn_file: torn
    })
    assert.strictEqual(NFS.statSync(torn).size, 27)
    const again = await datawal(["repair", store])
    assert.match(again.out, /^tail_truncated: {7}0\n[^]*^torn_file: {12}-\n/m)
    assertClean(await datawal(["verify", store]))
  })

  it("repair refuses what may have been acknowledged and changes nothing, until it is told to cut it", async () => {
    const store = fixture("mid_active_crc_bad")
    const segment = NodePath.join(store, "00000001.dwal")
    const before = NFS.readFileSync(segment)
    assertFails(await datawal(["repair", store]), 3, /CrcMismatch.*policy prefix/)
    assert.isTrue(NFS.readFileSync(segment).equals(before))
    const cut = await datawal(["repair", store, "--policy", "prefix", "--json"])
    assert.deepInclude(object(cut), { records_replayed: 1, tail_offset: 31, tail_reason: "CrcMismatch" })
    assertFails(await datawal(["repair", fixture("closed_crc_bad"), "--policy", "prefix"]), 3, /CrcMismatch/)
  })

  it("a writer that cuts a torn tail says so", async () => {
    const store = fixture("torn_in_payload")
    const ran = await datawal(["append", store, "three"])
    assert.strictEqual(ran.code, 0)
    assert.match(ran.err, /^datawal: warning: a torn tail of 27 bytes was cut .*00000001-62\.torn\n$/)
    assertClean(await datawal(["verify", store]))
  })
})

describe.concurrent("moving", () => {
  it("export, import and export again give the same lines, through files and through pipes", async () => {
    const directory = Cli.directory()
    const at = (name: string) => NodePath.join(directory, name)
    const store = fixture("odd_bytes")
    const out = await datawal(["export", store, at("deep/out.jsonl"), "--json"])
    const lines = NFS.readFileSync(at("deep/out.jsonl"))
    assert.deepStrictEqual(object(out), {
      schema: "datawal.cli.v1",
      kind: "export",
      outfile: at("deep/out.jsonl"),
      records_written: 3,
      bytes_written: lines.length
    })
    const piped = await datawalProcess(["export", store, "-"])
    assertClean(piped)
    assert.isTrue(piped.bytes.equals(lines))
    const counted = await datawal(["export", store, "-", "--json"])
    assert.isTrue(counted.bytes.equals(lines))
    assert.deepInclude(objects(counted.err)[0], { kind: "export", outfile: "-", records_written: 3 })

    const imported = await datawal(["import", at("one"), at("deep/out.jsonl"), "--json"])
    assert.deepInclude(object(imported), { kind: "import", records_written: 3 })
    assertClean(await datawalProcess(["import", at("two"), "-"], { input: lines }))
    assert.isTrue((await datawal(["export", at("one"), "-"])).bytes.equals(lines))
    assert.isTrue((await datawal(["export", at("two"), "-"])).bytes.equals(lines))
  })

  it("an import ends at a bad line with its number, and keeps the lines before it", async () => {
    const store = newPath("store")
    const line = `{"key_b64":"${base64("a")}","value_b64":"${base64("1")}"}\n`
    const ran = await datawalProcess(["import", store, "-"], { input: `${line}\nnonsense\n${line}` })
    assertFails(ran, 1, /line 3: .*; the lines before it are stored/)
    assert.strictEqual(ran.out, "")
    assert.strictEqual((await datawal(["get", store, "--key", "a"])).out, "1\n")
  })

  it("compact writes the live keys into a new store, and never over something that is there", async () => {
    const store = fixture("delete_tombstone")
    const target = newPath("target")
    const ran = await datawal(["compact", store, target, "--json"])
    assert.deepStrictEqual(object(ran), {
      schema: "datawal.cli.v1",
      kind: "compact",
      target,
      live_keys: 1,
      records_written: 1,
      bytes_written: 34
    })
    const before = Cli.contents(target)
    assertFails(await datawal(["compact", store, target]), 1, /was left as it is: found /)
    assert.deepStrictEqual(Cli.contents(target), before)
    assert.strictEqual((await datawal(["get", target, "--key", "alpha"])).out, "3\n")
    const human = await datawal(["compact", store, newPath("other")])
    assert.match(human.out, /^target: {10}\S+\nlive_keys: {7}1\nrecords_written: 1\nbytes_written: {3}34\n$/)
  })

  it("salvage writes every whole record into a new store, and says what it left out", async () => {
    const store = fixture("mid_active_crc_bad")
    const target = newPath("target")
    const ran = await datawal(["salvage", store, target])
    assert.strictEqual(ran.code, 3)
    assert.strictEqual(
      ran.out,
      `target:          ${target}\nrecords_written: 2\nbytes_written:   64\ngaps:            1\nbytes_skipped:   31\n`
    )
    assert.strictEqual(
      ran.err,
      "datawal: warning: left out: 31 bytes of 00000001.dwal at offset 31, CrcMismatch\n" +
        `datawal: error: ${store} is corrupt; ${target} holds what is whole in it, and not all there was\n`
    )
    const scan = await datawal(["scan", target, "--json"])
    assert.deepStrictEqual(objects(scan.out).map(({ txid }) => txid), [1, 2])
    const before = Cli.contents(target)
    assertFails(await datawal(["salvage", store, target]), 1, /was left as it is: found /)
    assert.deepStrictEqual(Cli.contents(target), before)
    const torn = await datawal(["salvage", fixture("torn_in_payload"), newPath("torn")])
    assert.strictEqual(torn.code, 0)
    assert.match(torn.err, /^datawal: warning: left out: \d+ bytes of 00000001.dwal at offset \d+, Truncated\n$/)
    const whole = await datawal(["salvage", fixture("valid_log"), newPath("whole"), "--json"])
    assertClean(whole)
    assert.deepInclude(object(whole), { kind: "salvage", records_written: 3, gaps: 0, bytes_skipped: 0 })
    const empty = await datawal(["salvage", Cli.directory(), newPath("none")])
    assert.strictEqual(empty.code, 0)
    assert.match(empty.err, /^datawal: warning: .* holds no segments\n$/)
  })

  it("nothing is written into the store that is read, or over what is not a file", async () => {
    const store = fixture("compacted")
    const link = newPath("link")
    NFS.symlinkSync(store, link)
    const before = Cli.contents(store)
    assertFails(await datawal(["export", store, NodePath.join(store, "00000001.dwal")]), 1, /is inside the store/)
    assertFails(await datawal(["export", store, NodePath.join(link, "new", "out")]), 1, /is inside the store/)
    assertFails(await datawal(["compact", link, NodePath.join(store, "sub")]), 1, /is inside the store/)
    assertFails(await datawal(["salvage", link, NodePath.join(store, "sub")]), 1, /is inside the store/)
    assertFails(await datawal(["export", store, Cli.directory()]), 1, /not a regular file/)
    assert.deepStrictEqual(Cli.contents(store), before)
  })

  it("an export of a directory that is no store replaces nothing", async () => {
    const empty = newPath("unmounted")
    NFS.mkdirSync(empty)
    const file = newPath("backup.jsonl")
    const first = await datawal(["export", empty, file])
    assert.strictEqual(first.code, 0)
    assert.match(first.err, /^datawal: warning: .* holds no segments\n$/)
    assert.strictEqual(NFS.readFileSync(file, "utf8"), "")
    NFS.writeFileSync(file, "yesterday's")
    assertFails(await datawal(["export", empty, file]), 1, /holds no segments; .* was left as it is/)
    assert.strictEqual(NFS.readFileSync(file, "utf8"), "yesterday's")
    assert.deepStrictEqual(NFS.readdirSync(empty), [])
  })

  it("an export through a symbolic link writes what it leads to and leaves the link", async () => {
    const real = newPath("real")
    const link = newPath("link")
    NFS.writeFileSync(real, "older")
    NFS.symlinkSync(real, link)
    assertClean(await datawal(["export", fixture("compacted"), link]))
    assert.isTrue(NFS.lstatSync(link).isSymbolicLink())
    assert.strictEqual(NFS.readFileSync(real, "utf8").split("\n").length, 3)
  })
})

// A writer that holds the lock, and appends until it is killed.
const writer = `
import { Effect } from "effect"
import * as Log from ${JSON.stringify(pathToFileURL(NodePath.join(NodePath.dirname(Cli.command), "Log.js")).href)}
await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
  const log = yield* Log.make({ directory: process.argv[1], segmentSize: 100_000 })
  for (let index = 0; ; index++) {
    yield* log.appendRecord({ type: "Put", key: "key-" + index % 100, payload: "x".repeat(index % 3_000) })
    if (index === 200) process.stdout.write("ready")
    if (index % 20 === 0) yield* Effect.sleep(1)
  }
})))
`

describe.concurrent("with other processes", () => {
  it("a store that is being written can be looked at, copied, and not written by another", async () => {
    const store = newPath("store")
    const { child, ended } = Cli.start(process.execPath, ["--input-type=module", "--eval", writer, store], {
      cwd: NodePath.dirname(NodePath.dirname(Cli.command))
    })
    try {
      await Promise.race([once(child.stdout, "data"), ended])
      const target = newPath("target")
      const looks = await Promise.all([
        datawalProcess(["scan", store, "--json"]),
        datawal(["verify", store]),
        datawal(["check", store]),
        datawal(["get", store, "--key", "key-7", "--bytes", "raw"]),
        datawal(["export", store, "-"]),
        datawalProcess(["compact", store, target])
      ])
      // A record may be caught half written: that is the torn end of a live store.
      for (const { code, err } of looks) assert.include([0, 2], code, err)
      const txids = objects(looks[0].out).map(({ txid }) => txid)
      assert.isAbove(txids.length, 200)
      assert.deepStrictEqual(txids, txids.map((_, index) => index + 1))
      assertClean(await datawal(["verify", target]))

      const writes = [["put", "--key", "a", "b"], ["append", "b"], ["delete", "--key", "a"], ["repair"]] as const
      for (const [command, ...rest] of writes) {
        const ran = await datawal([command, store, ...rest])
        assertFails(
          ran,
          1,
          new RegExp(`is locked by another writer \\(its .lock names process ${child.pid}\\); try again`)
        )
      }
    } finally {
      child.kill("SIGKILL")
    }
    assert.strictEqual((await ended).signal, "SIGKILL")
    assert.strictEqual((await datawal(["put", store, "--key", "a", "b"])).code, 0)
  })

  it.runIf(isLinux)("a record whose place could not be printed is said to be stored", async () => {
    const store = newPath("store")
    const put = [process.execPath, Cli.command, "put", store, "--key", "a", "1"]
    const ran = await Cli.run("sh", ["-c", "exec \"$@\" > /dev/full", "sh", ...put])
    assertFails(ran, 1, /cannot write to standard output: ENOSPC; the record is stored and durable/)
    assert.strictEqual((await datawal(["get", store, "--key", "a"])).out, "1\n")
  })

  it.runIf(isLinux)("help and completions that could not be printed are an error", async () => {
    for (const flags of ["--help", "--completions bash"]) {
      const ran = await Cli.run("sh", ["-c", `"${process.execPath}" "${Cli.command}" ${flags} > /dev/full`])
      assertFails(ran, 1, /cannot write to standard output: ENOSPC/)
    }
  })

  it("an export replaces no file that is a stream of a process", async () => {
    const all = newPath("all")
    NFS.writeFileSync(all, "precious\n")
    const script = `"${process.execPath}" "${Cli.command}" export "${
      fixture("sparse_segments")
    }" /dev/stdout >> "${all}"`
    assertFails(await Cli.run("sh", ["-c", script]), 1, /\/dev\/stdout is a stream of a process/)
    assert.strictEqual(NFS.readFileSync(all, "utf8"), "precious\n")
  })

  it("a name that somebody else chose says nothing to a terminal, and takes one line", async () => {
    const store = await newStore([{ type: "Put", key: "a", payload: "1" }])
    const target = newPath("t\n\u202Et")
    NFS.mkdirSync(target)
    NFS.writeFileSync(NodePath.join(target, "\x1b[2Jx"), "")
    const compacted = await datawalProcess(["compact", store, target])
    assertFails(compacted, 1, /t\\u000a\\u202et was left as it is: found \\u001b\[2Jx;/)
    const looked = await datawalProcess(["report", target])
    assert.match(looked.err, /^datawal: warning: [^\n]*t\\u000a\\u202et[^\n]*\n$/)
  })

  it("advice on a store whose name starts with a dash is of use as it stands", async () => {
    const cwd = Cli.directory()
    NFS.cpSync(fixture("closed_crc_bad"), NodePath.join(cwd, "-dash"), { recursive: true })
    const ran = await datawalProcess(["scan", "--", "-dash"], { cwd })
    const advised = /`datawal (salvage .*?)`/.exec(ran.err)?.[1] ?? ""
    const script = `"${process.execPath}" "${Cli.command}" ${advised}`
    assert.strictEqual((await Cli.run("sh", ["-c", script], { cwd })).code, 3, advised)
    assert.include(files(cwd), "-dash.salvaged")
  })

  it("a directory as standard input is no value and no import", async () => {
    const store = newPath("store")
    const command = [process.execPath, Cli.command]
    for (const args of [["put", store, "--key", "a", "-"], ["append", store, "-"], ["import", store, "-"]]) {
      const ran = await Cli.run("sh", ["-c", "exec \"$@\" < /", "sh", ...command, ...args])
      assertFails(ran, 1, /cannot read standard input: EISDIR/)
    }
    assert.isFalse(NFS.existsSync(store))
  })

  it("advice on damage is of use, as it stands, in the active segment and in a closed one", async () => {
    const stores = { closed_crc_bad: 2, mid_active_crc_bad: 2, bad_magic: 0 }
    for (const [name, records] of Object.entries(stores)) {
      const store = newPath("it's a store")
      NFS.cpSync(fixture(name), store, { recursive: true })
      const before = Cli.contents(store)
      const ran = await datawal(["verify", store])
      assert.strictEqual(ran.code, 3)
      const advised = /`datawal (salvage .*?)`/.exec(ran.err)?.[1] ?? ""
      const salvaged = await Cli.run("sh", ["-c", `"${process.execPath}" "${Cli.command}" ${advised} --json`])
      assert.strictEqual(salvaged.code, 3, salvaged.err)
      assert.match(
        salvaged.err,
        /^datawal: warning: left out: \d+ bytes of 0000000[12]\.dwal at offset \d+, \w+\ndatawal: error: [^\n]* is corrupt; [^\n]*\n$/
      )
      assert.deepInclude(object(salvaged), { kind: "salvage", records_written: records, gaps: 1 })
      assertClean(await datawal(["verify", `${store}.salvaged`]))
      assert.deepStrictEqual(Cli.contents(store), before)
    }
  })

  it("a reader that goes away ends the listing quietly with 0", async () => {
    for (const args of [["scan"], ["scan", "--json"], ["dump"], ["export", "-"]] as const) {
      const [command, ...rest] = args
      const { child, ended } = Cli.startDatawal([command, big.store, ...rest])
      await once(child.stdout, "data")
      child.stdout.destroy()
      const ran = await ended
      assert.deepStrictEqual([ran.code, ran.signal, ran.err], [0, null, ""])
    }
  })

  it("a slow reader holds the listing back and fills no memory, and an interrupt ends it with 130", async () => {
    const { child, ended } = Cli.startDatawal(["--json", "scan", big.store])
    await once(child.stdout, "data")
    child.stdout.pause()
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    assert.isNull(child.exitCode)
    if (isLinux) {
      const status = NFS.readFileSync(`/proc/${child.pid}/status`, "utf8")
      const peak_kib = Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1])
      // Node and Effect take 80 MiB; the listing has 46.
      assert.isBelow(peak_kib, 200 * 1_024)
    }
    child.kill("SIGINT")
    // Most of the listing is still to come: it cannot end by itself before it is interrupted.
    child.stdout.resume()
    const ran = await ended
    assert.deepStrictEqual([ran.code, ran.err], [130, ""])
  })

  const terminal = ChildProcess.spawnSync("script", ["-qec", "exit 7", "/dev/null"]).status === 7
  it.runIf(isLinux && terminal)("the end of its terminal ends a compaction without a trace", async () => {
    const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
    let found = ["smaller"]
    // On a busy machine it may have come to its end before its terminal does.
    for (let attempt = 0; found.length > 0 && attempt < 10; attempt++) {
      const places = Cli.directory()
      const target = NodePath.join(places, "smaller")
      const line = [process.execPath, Cli.command, "compact", big.store, target].map((word) => `'${word}'`).join(" ")
      const { child, ended } = Cli.start("script", ["-qec", `exec ${line}`, "/dev/null"])
      while (NFS.readdirSync(places).length === 0) await wait(2)
      child.kill("SIGKILL")
      await ended
      const end = Date.now() + 10_000
      do {
        await wait(20)
        found = NFS.readdirSync(places)
      } while (found.some((name) => name !== "smaller") && Date.now() < end)
      assert.notMatch(found.join(), /tmp/)
    }
    assert.deepStrictEqual(found, [])
  })

  it("an interrupted import lets go of the lock, and keeps its store sound", async () => {
    const store = newPath("store")
    const { child, ended } = Cli.startDatawal(["import", store, "-"])
    child.stdin.write(`{"key_b64":"${base64("a")}","value_b64":""}\n`)
    while (!NFS.existsSync(NodePath.join(store, "00000001.dwal"))) {
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    child.kill("SIGINT")
    assert.strictEqual((await ended).code, 130)
    assertClean(await datawal(["put", store, "--key", "b", "2"]))
    assertClean(await datawal(["verify", store]))
  })

  it.runIf(isLinux)("a named pipe keeps no process from ending, whoever is to write to it", async () => {
    const fifo = newPath("fifo")
    ChildProcess.spawnSync("mkfifo", [fifo])
    const hasOpened = async ({ pid }: ChildProcess.ChildProcess): Promise<void> => {
      const leadsThere = (fd: string): boolean => {
        try {
          return NFS.readlinkSync(`/proc/${pid}/fd/${fd}`) === fifo
        } catch {
          // Closed since.
          return false
        }
      }
      while (!NFS.readdirSync(`/proc/${pid}/fd`).some(leadsThere)) {
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }
    const silent = Cli.startDatawal(["import", newPath("store"), fifo])
    await hasOpened(silent.child)
    silent.child.kill("SIGTERM")
    assert.strictEqual((await silent.ended).code, 130)
    const store = newPath("store")
    const talking = Cli.startDatawal(["import", store, fifo])
    // A writer that stays.
    const writer = NFS.openSync(fifo, NFS.constants.O_RDWR)
    NFS.writeSync(writer, `{"key_b64":"${base64("a")}","value_b64":"${base64("1")}"}\nnonsense\n`)
    assertFails(await talking.ended, 1, /line 2/)
    const value = Cli.startDatawal(["put", store, "--key", "b", "--value-file", fifo])
    await hasOpened(value.child)
    NFS.writeSync(writer, "piped")
    NFS.closeSync(writer)
    assertClean(await value.ended)
    assert.strictEqual((await datawal(["get", store, "--key", "b", "--bytes", "raw"])).out, "piped")
    assert.strictEqual((await datawal(["get", store, "--key", "a", "--bytes", "raw"])).out, "1")
  })

  const inShell = (script: string, cwd: string) =>
    ChildProcess.spawnSync("sh", ["-c", script, process.execPath, Cli.command], { cwd, encoding: "utf8" })

  it.runIf(isLinux)("a path that Node cannot see as it is means no other one", () => {
    const places = Cli.directory()
    const given = inShell(`exec "$0" "$1" put "$(printf 'ex\\376')" --key a 1`, places)
    assert.strictEqual(given.status, 1)
    assert.include(given.stderr, "valid UTF-8")
    assert.deepStrictEqual(NFS.readdirSync(places), [])
    const within = inShell(
      `d="$(printf 'd\\376')"; mkdir "$d"; cd "$d"; "$0" "$1" put st --key a 1 2>&1; echo "$?"; ls -A; cd ..; rmdir "$d"`,
      places
    )
    assert.match(within.stdout, /not valid UTF-8[^]*\n1\n$/)
    assert.deepStrictEqual(NFS.readdirSync(places), [])
  })

  it.runIf(isLinux)("a relative target in a directory that was removed is refused, and is no internal error", () => {
    const places = Cli.directory()
    const gone = inShell(`mkdir d; cd d; rmdir ../d; exec "$0" "$1" export '${big.store}' out.jsonl`, places)
    assert.strictEqual(gone.status, 1)
    assert.match(gone.stderr, /^datawal: error: .*ENOENT/)
    assert.notInclude(gone.stderr, "internal error")
  })

  const loop = isLinux && process.getuid?.() === 0
    ? ChildProcess.spawnSync("losetup", ["--find"], { encoding: "utf8" }).stdout
    : ""
  it.skipIf(!loop)("a disk is written and read as what it is", async () => {
    const places = Cli.directory()
    const image = NodePath.join(places, "image")
    NFS.writeFileSync(image, Buffer.alloc(65_536))
    const made = ChildProcess.spawnSync("losetup", ["--find", "--show", image], { encoding: "utf8" })
    if (made.status !== 0) {
      process.stderr.write(`SKIPPED: no loop device: ${made.stderr}\n`)
      return
    }
    const device = made.stdout.trim()
    try {
      const store = await newStore([{ type: "Put", key: "a", payload: "1" }])
      const exported = inShell(`exec "$0" "$1" export '${store}' - > ${device}`, places)
      assert.deepStrictEqual([exported.status, exported.stderr], [0, ""])
      const line = `{"key_b64":"${base64("a")}","value_b64":"${base64("1")}"}\n`
      const put = inShell(`exec "$0" "$1" put '${store}' --key disk - < ${device}`, places)
      assert.deepStrictEqual([put.status, put.stderr], [0, ""])
      const value = await datawal(["get", store, "--key", "disk", "--bytes", "raw"])
      assert.strictEqual(value.out.length, 65_536)
      assert.strictEqual(value.out.slice(0, line.length), line)
    } finally {
      ChildProcess.spawnSync("losetup", ["--detach", device])
    }
  })

  const hasPython = ChildProcess.spawnSync("python3", ["--version"]).status === 0
  it.runIf(isLinux && hasPython)("the end of its terminal ends it by that signal, and not in a crash", () => {
    const script = [
      "import os, pty, sys, time",
      "pid, terminal = pty.fork()",
      "if pid == 0: os.execv(sys.argv[1], sys.argv[1:])",
      "caught = lambda: [l for l in open(f'/proc/{pid}/status') if l.startswith('SigCgt')][0].split()[1]",
      "end = time.time() + 60",
      "while not int(caught(), 16) & 1 and time.time() < end: time.sleep(0.02)",
      "assert int(caught(), 16) & 1",
      "os.close(terminal)",
      "print(os.waitpid(pid, 0)[1])"
    ].join("\n")
    const store = newPath("store")
    const ran = ChildProcess.spawnSync(
      "python3",
      ["-c", script, process.execPath, Cli.command, "import", store, "-"],
      { encoding: "utf8" }
    )
    assert.deepStrictEqual([ran.stdout, ran.stderr], ["1\n", ""])
  })

  it.runIf(isLinux)("output that does not fit is an error, also when the last write was short", async () => {
    const full = ChildProcess.spawnSync("sh", [
      "-c",
      "exec \"$@\" > /dev/full",
      "sh",
      process.execPath,
      Cli.command,
      "scan",
      big.store
    ])
    assert.deepStrictEqual([full.status, String(full.stderr)], [
      1,
      "datawal: error: cannot write to standard output: ENOSPC\n"
    ])
    // A limit of 4,096 bytes on the size of files: Node's own stream would end with 0 and half of the output.
    const short = await Cli.run("sh", [
      "-c",
      "ulimit -f 8; exec \"$@\" > out",
      "sh",
      process.execPath,
      Cli.command,
      "scan",
      big.store,
      "--limit",
      "100"
    ], { cwd: Cli.directory() })
    assertFails(short, 1, /cannot write to standard output: EFBIG/)
  })
})

const hasScript = String(ChildProcess.spawnSync("script", ["--version"]).stdout).includes("util-linux")
if (!hasScript) process.stderr.write("SKIPPED: the tests on a terminal need `script` of util-linux\n")

describe.skipIf(!hasScript)("on a terminal", () => {
  const onTerminal = (command: string): Promise<Cli.Ran> => Cli.run("script", ["-qec", command, "/dev/null"])
  const node = `'${process.execPath}' '${Cli.command}'`
  const hasControls = (text: string): boolean =>
    Array.from(Buffer.from(text)).some((byte) =>
      (byte < 0x20 && !"\t\n\r".includes(String.fromCharCode(byte))) || byte > 0x7E
    )

  it("long work shows a bar while it lasts and leaves the line and the cursor as they were", async () => {
    const lines = newPath("lines")
    const line = `{"key_b64":"${base64("a")}","value_b64":""}`
    // The second line comes when the bar is there, and at the latest after a minute.
    const said = newPath("said")
    const shown = `for i in $(seq 600); do grep -q 'import [01] records' '${said}' && break; sleep 0.1; done`
    const command = `(echo '${line}'; ${shown}; echo '${line}') | ${node} import '${lines}' -`
    const ran = await Cli.run("script", ["-qefc", command, said])
    assert.strictEqual(ran.code, 0)
    assert.match(ran.out, /import [01] records/)
    const [, after] = ran.out.split("\u001B[?25h")
    assert.match(after!.slice(after!.lastIndexOf("\u001B[2K") + 4), /^records_written: 2\r\n/)
    // The same work into a pipe says nothing.
    const piped = await datawalProcess(["verify", big.store])
    assertClean(piped)
    assert.isFalse(hasControls(piped.out))
  })

  it("a warning takes the line of the bar, and leaves nothing of it", async () => {
    const store = newPath("lost")
    await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
      const log = yield* Log.make({ directory: store })
      for (let batch = 0; batch < 8; batch++) {
        yield* log.appendAll(Array.from({ length: 10_000 }, () => "x".repeat(100)))
        if (batch < 2) yield* log.rotate
      }
    })))
    NFS.rmSync(NodePath.join(store, "00000002.dwal"))
    // Not compiled, it takes long enough for a bar on any machine.
    const ran = await onTerminal(`'${process.execPath}' --jitless '${Cli.command}' verify '${store}'`)
    assert.strictEqual(ran.code, 0)
    assert.match(ran.out, /verify \[.*MiB/)
    const lines = ran.out.split("\n").filter((line) => line.includes("warning"))
    assert.strictEqual(lines.length, 1)
    const said = lines[0]!.split("\r\u001B[K").at(-1)
    assert.match(said!, /^datawal: warning: .* was a segment lost\?\r$/)
  })

  it("raw bytes are not written to a terminal", async () => {
    const store = await newStore([{ type: "Put", key: "a", payload: "\u001B[2J" }])
    const ran = await onTerminal(`${node} get '${store}' --key a --bytes raw`)
    assert.strictEqual(ran.code, 0)
    assert.match(ran.out, /the value is binary, 4 bytes/)
    assert.isFalse(hasControls(ran.out))
  })
})
