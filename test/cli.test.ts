/** The `datawal` command: usage, and the commands that look. */
import { afterAll, assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as NFS from "node:fs"
import * as NodePath from "node:path"
import * as Log from "../src/Log.ts"
import { segmentName } from "../src/Recovery.ts"
import * as Cli from "./support/cli.ts"
import { assertClean, assertFails, base64, datawal, fixture, newStore, object, objects } from "./support/cli.ts"
import * as Frame from "./support/frames.ts"

interface Expected {
  readonly open: "ok" | "torn" | "CorruptTail" | "CorruptSegment"
  readonly records?: ReadonlyArray<ExpectedRecord>
  readonly valid_prefix?: ReadonlyArray<ExpectedRecord>
  readonly torn_bytes?: number
  readonly reason?: string
}

interface ExpectedRecord {
  readonly segment: number
  readonly offset: number
  readonly len: number
  readonly type: string
  readonly txid: number
  readonly key_b64: string
  readonly payload_b64: string
}

const expected = JSON.parse(
  NFS.readFileSync(NodePath.join(Cli.fixtures, "expected.json"), "utf8")
) as Record<string, Expected>

const exitCodes = { ok: 0, torn: 2, CorruptTail: 3, CorruptSegment: 3 } as const

afterAll(Cli.removeDirectories)

const help = /^DESCRIPTION[^]*USAGE\n {2}datawal/

describe.concurrent("usage", () => {
  const commands = "scan get report verify dump check export compact salvage import put delete append repair".split(" ")

  it.each(commands)("`%s --help` explains the command with examples and ends with 0", async (command) => {
    const ran = await datawal([command, "--help"])
    assertClean(ran)
    assert.match(ran.out, help)
    assert.include(ran.out, `EXAMPLES\n`)
    assert.include(ran.out, `datawal ${command} ./store`.slice(0, 12 + command.length))
  })

  it("without a command it prints the help, which names every command, and ends with 0", async () => {
    const ran = await Cli.datawalProcess([])
    assertClean(ran)
    assert.match(ran.out, help)
    for (const command of commands) assert.match(ran.out, new RegExp(`^ {2}${command} {2,}\\S`, "m"))
  })

  it("--version prints the version of the package", async () => {
    const { version } = JSON.parse(NFS.readFileSync("package.json", "utf8")) as { version: string }
    assert.strictEqual((await Cli.datawalProcess(["--version"])).out, `datawal ${version}\n`)
  })

  it("--completions prints a script for the shell", async () => {
    const ran = await Cli.datawalProcess(["--completions", "bash"])
    assertClean(ran)
    assert.include(ran.out, "complete -F")
  })

  // Together they meet every check of the parser and of the commands.
  const wrong = [
    ["list", "S"],
    ["scan"],
    ["scan", ""],
    ["scan", "S", "T"],
    ["scan", "S", "--unknown"],
    ["scan", "S", "--limit"],
    ["scan", "S", "--limit", "-1"],
    ["scan", "S", "--limit", "1.5"],
    ["scan", "S", "--from-offset", "3"],
    ["scan", "S", "--bytes", "octal"],
    ["dump", "S", "--bytes", "hex"],
    ["get", "S"],
    ["get", "S", "--key", "a", "--key-hex", "61"],
    ["get", "S", "--key", "a", "--key", "b"],
    ["get", "S", "--key-hex", "6"],
    ["get", "S", "--key-hex", "6g"],
    ["get", "S", "--key-base64", "YQ"],
    ["get", "S", "--key-base64", "YR=="],
    ["get", "S", "--key", "\uFFFD"],
    ["export", "S"],
    ["put", "S", "value"],
    ["put", "S", "--key", "a"],
    ["put", "S", "--key", "a", "value", "--value-file", "package.json"],
    ["put", "S", "--key", "a".repeat(65_537), "value"],
    ["append", "S"],
    ["delete", "S"],
    ["repair", "S", "--policy", "strict"]
  ].map((args) => ({ args, line: args.map((arg) => arg === "" ? "''" : arg.slice(0, 20)).join(" ") }))

  it.each(wrong)("wrong usage ends with 1, prints nothing and touches nothing: $line", async ({ args }) => {
    const directory = Cli.directory()
    const store = NodePath.join(directory, "S")
    const ran = await datawal(args.map((arg) => arg === "S" ? store : arg))
    assertFails(ran, 1, /^datawal: error: /)
    assert.strictEqual(ran.out, "")
    assert.deepStrictEqual(NFS.readdirSync(directory), [])
  })

  it("wrong usage ends the process in the same way", async () => {
    const cwd = Cli.directory()
    for (const args of [["put", "S", "--key", "a"], ["put", "S", "--key", "k", "-hello"]]) {
      const ran = await Cli.datawalProcess(args, { cwd })
      assertFails(ran, 1, /^datawal: error: /)
      assert.strictEqual(ran.out, "")
    }
    assert.deepStrictEqual(NFS.readdirSync(cwd), [])
  })

  it("a mistyped flag or command is answered with the one that was meant", async () => {
    assert.include((await datawal(["scan", "S", "--limti", "3"])).err, "did you mean --limit?")
    assert.include((await datawal(["verfy", "S"])).err, "did you mean verify?")
  })
})

describe.concurrent("a segment that was lost, or copied", () => {
  const store = async (segments = 3): Promise<string> => {
    const directory = NodePath.join(Cli.directory(), "store")
    await Effect.runPromise(Effect.scoped(Effect.gen(function*() {
      const log = yield* Log.make({ directory })
      for (let id = 1; id <= segments; id++) {
        yield* log.appendAll([1, 2].map((record): Log.RecordInput => ({ type: "Raw", payload: `${id} ${record}` })))
        if (id < segments) yield* log.rotate
      }
    })))
    return directory
  }

  it.each(["verify", "check", "report"])("is told by %s", async (command) => {
    const lost = await store()
    NFS.rmSync(NodePath.join(lost, segmentName(2)))
    const ran = await datawal([command, lost])
    assert.strictEqual(ran.code, 0)
    assert.match(ran.err, /^datawal: warning: .*: in 00000003.dwal the txids go on with 5 after 2; .* missing.*\n$/)
  })

  it.each([
    ["put", "--key", "a", "1"],
    ["append", "1"],
    ["delete", "--key", "a"],
    ["repair"],
    ["export", "-"],
    ["compact", "TARGET"],
    ["salvage", "TARGET"]
  ])("is told by %s", async (command, ...rest) => {
    const lost = await store()
    NFS.rmSync(NodePath.join(lost, segmentName(2)))
    const ran = await datawal([command, lost, ...rest.map((arg) => arg === "TARGET" ? `${lost}-${command}` : arg)])
    assert.strictEqual(ran.code, 0)
    const told = /^datawal: warning: .*: in 00000003.dwal the txids go on with 5 after 2; .* missing.*$/m
    assert.match(ran.err, told)
    assert.strictEqual(ran.err.match(/go on with/g)?.length, 1, ran.err)
  })

  it("is told from the first segment to the last, and a whole store is not", async () => {
    assertClean(await datawal(["verify", await store()]))
    const first = await store()
    NFS.rmSync(NodePath.join(first, segmentName(1)))
    assert.match((await datawal(["verify", first])).err, /in 00000002.dwal the txids go on with 3 after 0/)
    const twice = await store()
    NFS.copyFileSync(NodePath.join(twice, segmentName(1)), NodePath.join(twice, segmentName(4)))
    assert.match((await datawal(["verify", twice])).err, /in 00000004.dwal the txids go on with 1 after 6; .* twice/)
  })

  it.each(["verify", "salvage"])("is told with how many others there are, by %s", async (command) => {
    const warning = async (directory: string): Promise<string> => {
      const ran = await datawal(command === "verify" ? [command, directory] : [command, directory, `${directory}.new`])
      assert.strictEqual(ran.code, 0)
      return ran.err.slice(ran.err.indexOf("the txids"))
    }
    const lost = await store(5)
    for (const id of [2, 4]) NFS.rmSync(NodePath.join(lost, segmentName(id)))
    assert.strictEqual(
      await warning(lost),
      "the txids go on with 5 after 2; records before it are missing: was a segment lost? " +
        "Others like it: 1, the last 00000005.dwal with 9 after 6\n"
    )
    const renamed = await store(4)
    NFS.renameSync(NodePath.join(renamed, segmentName(2)), NodePath.join(renamed, segmentName(22)))
    assert.match(await warning(renamed), / Others like it: 1, the last 00000022.dwal with 3 after 8\n$/)
    // What comes behind a copy goes on where the others ended.
    const twice = await store(3)
    NFS.renameSync(NodePath.join(twice, segmentName(3)), NodePath.join(twice, segmentName(4)))
    NFS.copyFileSync(NodePath.join(twice, segmentName(1)), NodePath.join(twice, segmentName(3)))
    assert.match(await warning(twice), /with 1 after 4; records are there twice: was a segment copied\?\n$/)
  })
})

/** What is said beside the result. */
const notes = (fixture: string, code: number): RegExp =>
  fixture === "empty_dir"
    ? /^datawal: warning: .* holds no segments\n$/
    : code === 0
    ? /^$/
    : /^datawal: error: .*\n$/

describe.concurrent("fixtures", () => {
  it.each(Object.keys(expected))("%s: scan and verify give its verdict, and touch nothing", async (name) => {
    const { open, reason, records, torn_bytes = 0, valid_prefix } = expected[name]!
    const store = fixture(name)
    const before = Cli.contents(store)
    const [scan, verify] = await Promise.all([
      datawal(["--json", "scan", store]),
      datawal(["verify", store, "--json"])
    ])
    const code = exitCodes[open]
    assert.deepStrictEqual([scan.code, verify.code], [code, code])
    for (const { err } of [scan, verify]) assert.match(err, notes(name, code))
    if (reason !== undefined) assert.include(verify.err, reason)

    const valid = records ?? valid_prefix!
    assert.deepStrictEqual(
      objects(scan.out),
      valid.map(({ key_b64, payload_b64, type, ...place }) => ({
        schema: "datawal.cli.v1",
        kind: "record",
        segment: place.segment,
        offset: place.offset,
        len: place.len,
        record_type: type,
        txid: place.txid,
        key_base64: key_b64,
        payload_base64: payload_b64
      }))
    )
    const torn = open === "torn"
    const tail = { tail_truncated: torn ? 1 : 0, tail_bytes_discarded: torn ? torn_bytes : 0 }
    assert.deepStrictEqual(object(verify), {
      schema: "datawal.cli.v1",
      kind: "verify",
      frames_checked: valid.length,
      crc_failures: code === 3 && reason === "CrcMismatch" ? 1 : 0,
      ...tail,
      last_segment: valid.at(-1)?.segment ?? 0,
      last_offset: valid.at(-1)?.offset ?? 0
    })
    assert.deepStrictEqual(Cli.contents(store), before)
  })

  // One of each kind: what tells them apart within a kind, scan and verify have shown.
  const kinds = ["sparse_segments", "empty_dir", "torn_in_crc", "zero_tail", "mid_active_crc_bad", "closed_crc_bad"]
  it.each([...kinds, "unknown_version"])(
    "%s: report gives what recovery would find, and touches nothing",
    async (name) => {
      const { open, reason, records, torn_bytes = 0, valid_prefix } = expected[name]!
      const store = fixture(name)
      const before = Cli.contents(store)
      const report = await Cli.datawalProcess(["report", "--json", store])
      const code = exitCodes[open]
      assert.strictEqual(report.code, code)
      assert.match(report.err, notes(name, code))
      const valid = records ?? valid_prefix!
      const torn = open === "torn"
      const tail = { tail_truncated: torn ? 1 : 0, tail_bytes_discarded: torn ? torn_bytes : 0 }
      const { files_scanned, tail_offset, tail_reason, tail_segment, torn_file, ...rest } = object(report)
      assert.deepStrictEqual(rest, {
        schema: "datawal.cli.v1",
        kind: "report",
        records_replayed: valid.length,
        ...tail,
        mid_stream_errors: code === 3 && reason !== "UnknownVersion" ? 1 : 0,
        unsupported_versions: reason === "UnknownVersion" ? 1 : 0,
        last_txid_seen: valid.at(-1)?.txid ?? 0
      })
      assert.strictEqual(files_scanned, before.filter(([file]) => file.endsWith(".dwal")).length)
      assert.deepStrictEqual([tail_segment === null, tail_offset === null, tail_reason === null], [!torn, !torn, !torn])
      assert.isNull(torn_file)
      assert.deepStrictEqual(Cli.contents(store), before)
    }
  )

  it("the start of a header that says no version is not counted as one of another", async () => {
    const store = Cli.directory()
    const bytes = Buffer.concat([Frame.raw(1, "x"), Buffer.from("DWAL")])
    const path = NodePath.join(store, segmentName(1))
    NFS.writeFileSync(path, Buffer.concat([bytes, Buffer.alloc(512 - bytes.length), Frame.raw(3, "y")]))
    const report = await datawal(["report", "--json", store])
    assert.strictEqual(report.code, 3)
    assert.deepInclude(object(report), { mid_stream_errors: 1, unsupported_versions: 0 })
  })

  it("the other inspecting commands create and change nothing in a store either", async () => {
    for (const name of ["odd_bytes", "torn_in_payload", "mid_active_crc_bad"]) {
      const store = fixture(name)
      const outside = Cli.directory()
      const before = Cli.contents(store)
      await Promise.all([
        datawal(["dump", store]),
        datawal(["get", store, "--key", ""]),
        datawal(["check", store]),
        datawal(["export", store, NodePath.join(outside, "out.jsonl")]),
        datawal(["compact", store, NodePath.join(outside, "target")]),
        datawal(["salvage", store, NodePath.join(outside, "whole")])
      ])
      assert.deepStrictEqual(Cli.contents(store), before)
    }
  })

  it("a limit that stops before the damage is no torn end, and one that is not reached is", async () => {
    const store = fixture("torn_in_payload")
    const [two, three, dumped] = await Promise.all([
      datawal(["scan", store, "--limit", "2"]),
      datawal(["scan", store, "--limit", "3"]),
      datawal(["dump", store])
    ])
    assertClean(two)
    assertFails(three, 2, /torn tail at segment 00000001, offset 62: Truncated, 27 bytes/)
    assertFails(dumped, 2, /torn tail/)
    assert.strictEqual(two.out, three.out)
    assert.strictEqual(dumped.out.split("\n").length, two.out.split("\n").length)
    assert.strictEqual((await datawal(["scan", store, "--limit", "0"])).out, "")
  })
})

const printable = [
  ["", "\"\""],
  ["plain", "plain"],
  ["two words", "\"two words\""],
  ["tab\there", "\"tab\\there\""],
  ["quote\"", "\"quote\\\"\""],
  ["back\\slash", "\"back\\\\slash\""],
  ["line\n", `b64:${base64("line\n")}`],
  ["значение", `b64:${base64("значение")}`],
  ["a".repeat(64), "a".repeat(64)],
  ["a".repeat(65), `${"a".repeat(64)}...`],
  ["a b".repeat(30), `"${"a b".repeat(30).slice(0, 64)}"...`]
] as const

describe.concurrent("looking", () => {
  it("scan renders each kind of bytes so that a line stays a line", async () => {
    const store = await newStore(printable.map(([text]) => ({ type: "Put", key: text, payload: text })))
    const [auto, hex, encoded, whole] = await Promise.all([
      datawal(["scan", store]),
      datawal(["scan", store, "--bytes", "hex", "--limit", "2"]),
      datawal(["scan", store, "--bytes", "base64", "--no-truncate"]),
      datawal(["scan", store, "--no-truncate", "--bytes", "raw"])
    ])
    const fields = (out: string) => out.trimEnd().split("\n").map((line) => line.replace(/^.*? key=/, ""))
    assert.deepStrictEqual(fields(auto.out), printable.map(([, shown]) => `${shown} payload=${shown}`))
    assert.strictEqual(fields(hex.out)[1], "hex:706c61696e payload=hex:706c61696e")
    assert.deepStrictEqual(
      fields(encoded.out),
      printable.map(([text]) => `b64:${base64(text)} payload=b64:${base64(text)}`)
    )
    assert.include(whole.out, `key=${"a".repeat(65)} payload=${"a".repeat(65)}\n`)
  })

  it("scan and dump print the lines of the Rust program", async () => {
    const store = await newStore([
      { type: "Raw", payload: "alpha" },
      { type: "Put", key: "k", payload: "two words" },
      { type: "Delete", key: "k" }
    ])
    const [scan, dump, json] = await Promise.all([
      datawal(["scan", store]),
      datawal(["dump", store]),
      datawal(["dump", store, "--json", "--limit", "1"])
    ])
    assert.deepStrictEqual(scan.out.split("\n"), [
      "seg=00000001 off=         0 len=      33 type=RAW txid=         1 key=\"\" payload=alpha",
      "seg=00000001 off=        33 len=      38 type=PUT txid=         2 key=k payload=\"two words\"",
      "seg=00000001 off=        71 len=      29 type=DEL txid=         3 key=k payload=\"\"",
      ""
    ])
    assert.deepStrictEqual(dump.out.split("\n"), [
      "seg=00000001 off=         0 len=      33 type=RAW txid=         1 key=\"\" key_len=0 payload_len=5",
      "seg=00000001 off=        33 len=      38 type=PUT txid=         2 key=k key_len=1 payload_len=9",
      "seg=00000001 off=        71 len=      29 type=DEL txid=         3 key=k key_len=1 payload_len=0",
      ""
    ])
    assert.strictEqual(
      json.out,
      "{\"schema\":\"datawal.cli.v1\",\"kind\":\"frame\",\"segment\":1,\"offset\":0,\"len\":33," +
        "\"record_type\":\"Raw\",\"txid\":1,\"key_len\":0,\"payload_len\":5}\n"
    )
    objects(json.out)
  })

  it("scan starts at a place, at the next record behind it, or in the next segment there is", async () => {
    const store = fixture("sparse_segments")
    const seen = async (...args: ReadonlyArray<string>) => {
      const ran = await datawal(["--json", "scan", store, ...args])
      assertClean(ran)
      return objects(ran.out).map(({ txid }) => txid)
    }
    assert.deepStrictEqual(await seen("--from-segment", "2"), [2, 3])
    assert.deepStrictEqual(await seen("--from-segment", "1", "--from-offset", "31"), [2, 3])
    assert.deepStrictEqual(await seen("--from-segment", "1", "--from-offset", "5"), [2, 3])
    assert.deepStrictEqual(await seen("--from-segment", "99"), [])
    // The record behind the damage can be looked at.
    const damaged = await datawal(["scan", fixture("mid_active_crc_bad"), "--from-segment", "1", "--from-offset", "62"])
    assertClean(damaged)
    assert.match(damaged.out, /off= +62 /)
  })

  it("large txids are exact", async () => {
    const ran = await datawal(["scan", fixture("large_txid"), "--json"])
    assert.include(ran.out, "\"txid\":9007199254740990,")
  })

  it("get prints a value for the shell, and in the encoding that is asked for", async () => {
    const store = fixture("odd_bytes")
    const empty = await newStore([
      { type: "Put", key: "e", payload: "" },
      { type: "Put", key: "long", payload: "y".repeat(70) },
      { type: "Put", key: "binary", payload: new Uint8Array(100).fill(0xFF) }
    ])
    const key = Buffer.from("ключ").toString("hex")
    const get = (...args: ReadonlyArray<string>) => datawal(["get", store, ...args])
    const [text, hex, encoded, binary, all, raw, none, cut, whole] = await Promise.all([
      get("--key", ""),
      get("--key-hex", key.toUpperCase(), "--bytes", "hex"),
      get("--key-base64", base64("ключ"), "--bytes", "base64"),
      get("--key", "ключ"),
      datawal(["get", empty, "--key", "binary", "--bytes", "base64", "--no-truncate"]),
      get("--key", "ключ", "--bytes", "raw"),
      datawal(["get", empty, "--key", "e"]),
      datawal(["get", empty, "--key", "long"]),
      datawal(["get", empty, "--key", "long", "--no-truncate"])
    ])
    assert.deepStrictEqual([text.out, text.code, text.err], ["empty key\n", 0, ""])
    assert.strictEqual(hex.out, `${Buffer.from("значение").toString("hex")}\n`)
    assert.strictEqual(encoded.out, `${base64("значение")}\n`)
    assert.deepStrictEqual([binary.out, binary.code], [`b64:${base64("значение")}\n`, 0])
    // Followed to the letter, the hint prints all of a value that is longer than what is shown of one.
    assert.match(
      binary.err,
      /^datawal: the value is binary, 16 bytes; .*--bytes raw or --json, or --bytes base64 --no-trun/
    )
    assert.strictEqual(all.out, `${Buffer.alloc(100, 0xFF).toString("base64")}\n`)
    assert.deepStrictEqual([raw.out, raw.err], ["значение", ""])
    assert.strictEqual(none.out, "\n")
    assert.strictEqual(cut.out, `${"y".repeat(64)}...\n`)
    assert.match(cut.err, /64 of 70 bytes; --no-truncate/)
    assert.deepStrictEqual([whole.out, whole.err], [`${"y".repeat(70)}\n`, ""])
  })

  it("get --json prints a value or a miss; a missing key ends with 2", async () => {
    const store = fixture("delete_tombstone")
    const [hit, miss, human] = await Promise.all([
      datawal(["get", store, "--key", "alpha", "--json"]),
      datawal(["get", store, "--key", "beta", "--json"]),
      datawal(["get", store, "--key", "beta"])
    ])
    assertClean(hit)
    assert.deepStrictEqual(object(hit), {
      schema: "datawal.cli.v1",
      kind: "value",
      key_base64: base64("alpha"),
      value_base64: base64("3"),
      value_len: 1
    })
    assert.deepStrictEqual([miss.code, miss.err], [2, ""])
    assert.deepStrictEqual(object(miss), { schema: "datawal.cli.v1", kind: "miss", key_base64: base64("beta") })
    assertFails(human, 2, /has no value for this key/)
    assert.strictEqual(human.out, "")
  })

  it("get from a corrupt store ends with 3, and from a torn one gives what is whole", async () => {
    assertFails(await datawal(["get", fixture("closed_crc_bad"), "--key", "a"]), 3, /CrcMismatch/)
    const torn = await newStore([{ type: "Put", key: "a", payload: "1" }])
    NFS.appendFileSync(NodePath.join(torn, "00000001.dwal"), "DWAL")
    const ran = await datawal(["get", torn, "--key", "a"])
    assert.deepStrictEqual([ran.code, ran.out], [0, "1\n"])
  })

  it("report, verify and check print aligned names and values", async () => {
    const store = fixture("torn_in_payload")
    const [report, verify, check] = await Promise.all([
      datawal(["report", store]),
      datawal(["verify", store]),
      datawal(["check", fixture("delete_tombstone")])
    ])
    assertFails(report, 2, /torn tail/)
    assert.strictEqual(
      report.out,
      [
        "files_scanned:        1",
        "records_replayed:     2",
        "tail_truncated:       1",
        "tail_bytes_discarded: 27",
        "mid_stream_errors:    0",
        "unsupported_versions: 0",
        "last_txid_seen:       2",
        "tail_segment:         1",
        "tail_offset:          62",
        "tail_reason:          Truncated",
        "torn_file:            -",
        ""
      ].join("\n")
    )
    assert.match(verify.out, /^frames_checked: {7}2\ncrc_failures: {9}0\n/)
    assertClean(check)
    assert.match(check.out, /^keys_checked: {9}1\ntail_truncated: {7}0\n/)
  })

  it("check reads every live value back, and says what it found in a damaged store", async () => {
    const check = async (name: string) => {
      const ran = await datawal(["check", fixture(name), "--json"])
      const { keys_checked, kind: _kind, schema: _schema, ...rest } = object(ran)
      return [ran.code, keys_checked, ...Object.values(rest)]
    }
    assert.deepStrictEqual(
      await Promise.all(["odd_bytes", "torn_in_header", "closed_crc_bad", "unknown_version"].map(check)),
      [[0, 3, 0, 0, 0, 0], [2, 0, 1, 10, 0, 0], [3, 0, 0, 0, 1, 0], [3, 0, 0, 0, 0, 1]]
    )
  })
})
