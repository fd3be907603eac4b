/** The rules of the house that a reader can rely on, kept by a test each. */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"
import { Frame, Recovery } from "../src/index.ts"

const root = path.resolve(import.meta.dirname, "..")
const read = (file: string): string => fs.readFileSync(path.join(root, file), "utf8")

const sources = fs.readdirSync(path.join(root, "src"), { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".ts"))
  .map((name) => path.join("src", name))

const importsOf = (file: string): Array<string> =>
  Array.from(read(file).matchAll(/^(?:import|export)[^"']*?from "([^"]+)"/gms), ([, name]) => name!)

// From the top of the house to its ground. What a room's internal modules may see, the room decides.
const rooms = [
  "bin",
  "cli",
  "index",
  "testing",
  "Export",
  "KeyValueStore",
  "Salvage",
  "Kv",
  "Reader",
  "Log",
  "Recovery",
  "Lock",
  "Frame",
  "Disk",
  "Errors"
]

const roomOf = (file: string): string | undefined => {
  const name = path.relative("src", file)
  return name.startsWith("cli/") ? "cli" : name.startsWith("internal/") ? undefined : path.basename(name, ".ts")
}

describe("the house", () => {
  it("imports only point down", () => {
    for (const file of sources) {
      const from = roomOf(file)
      if (from === undefined) continue
      assert.include(rooms, from, `${file} is in no room`)
      // The manifest is below them all.
      for (const name of importsOf(file).filter((name) => name.startsWith(".") && name.endsWith(".ts"))) {
        const to = roomOf(path.join(path.dirname(file), name))
        if (to === undefined || to === from) continue
        assert.isAbove(rooms.indexOf(to), rooms.indexOf(from), `${file} imports ${name}`)
      }
    }
  })

  it("only values flow down: no module is part of a circle of imports that run", () => {
    const graph = new Map(sources.map((file) => {
      const running = Array.from(
        read(file).matchAll(/^(?:import|export) (?!type )[^"']*?from "(\.[^"]+)"/gms),
        ([, name]) => path.join(path.dirname(file), name!)
      )
      return [file, running] as const
    }))
    const visit = (file: string, above: ReadonlyArray<string>): void => {
      assert.notInclude(above, file, "a circle of imports")
      for (const next of graph.get(file) ?? []) visit(next, [...above, file])
    }
    for (const file of sources) visit(file, [])
  })

  it("the operating system and the native addon are reached in internal/ only, and by the command for its own input", () => {
    for (const file of sources.filter((file) => !file.startsWith("src/internal/") && !file.startsWith("src/cli/"))) {
      for (const name of importsOf(file)) {
        assert.notMatch(name, /^(node:)?fs(\/promises)?$|^koffi$/, file)
      }
    }
  })

  it("nothing but the command knows about platform-node", () => {
    for (const file of sources.filter((file) => !file.startsWith("src/cli/") && file !== "src/bin.ts")) {
      assert.isFalse(importsOf(file).some((name) => name.startsWith("@effect/platform-node")), file)
    }
  })

  it("no module is longer than 500 lines, no line than 120 columns", () => {
    for (const file of sources) {
      const lines = read(file).split("\n")
      assert.isAtMost(lines.length, 501, file)
      for (const [index, line] of lines.entries()) assert.isAtMost(line.length, 120, `${file}:${index + 1}`)
    }
  })

  it("nothing is left to do", () => {
    // Spelled so that a search for the words themselves does not end here.
    const left = /\b(TO[-]?DO|FIX[-]?ME|X{3})\b|\bas\s(any|unknown\sas)\b/
    for (const file of sources) assert.notMatch(read(file), left, file)
  })

  it("every public module is an entry of the package, and nothing internal is", () => {
    const { exports } = JSON.parse(read("package.json")) as { exports: { [entry: string]: unknown } }
    const modules = sources.map(roomOf).filter((room) => room !== undefined && !["bin", "cli", "index"].includes(room))
    const entries = Object.keys(exports).filter((entry) => /^\.\/\w+$/.test(entry)).map((entry) => entry.slice(2))
    assert.sameMembers(entries, modules)
    assert.isFalse(Object.keys(exports).some((entry) => entry.includes("internal") || entry.includes("*")))
  })
})

describe("the format's document", () => {
  const format = read("docs/format.md")

  it("gives every field the offset that the code has", () => {
    const rows = Array.from(
      format.matchAll(/^\| (\d+) +\| [^|]+ \| `(\w+)` +\|/gm),
      ([, offset, name]) => [name, Number(offset)]
    )
    assert.deepStrictEqual(Object.fromEntries(rows), Frame.fieldOffset)
  })

  it("gives every limit the value that the code has", () => {
    const limits = new Map(
      Array.from(
        format.matchAll(/^\| `(\w+)` +\| ([\d,]+) +\|/gm),
        ([, name, value]) => [name, Number(value!.replaceAll(",", ""))]
      )
    )
    assert.deepStrictEqual(Object.fromEntries(limits), {
      header_bytes: Frame.header_bytes,
      crc_bytes: Frame.crc_bytes,
      key_bytes_max: Frame.key_bytes_max,
      payload_bytes_max: Frame.payload_bytes_max,
      txid_max: Frame.txid_max,
      segment_max: Recovery.segment_max
    })
  })

  it("shows a frame as the code writes it", () => {
    const dump = Array.from(format.matchAll(/^[0-9a-f]{2}  ((?:[0-9a-f]{2} {1,2})+)/gm), ([, bytes]) => bytes).join("")
    const payload = new TextEncoder().encode("alpha")
    const frame = new Uint8Array(Frame.encodedLength(0, payload.length))
    Frame.encodeInto(frame, 0, "Raw", 1, new Uint8Array(0), payload)
    assert.strictEqual(dump.replaceAll(" ", ""), Buffer.from(frame).toString("hex"))
  })
})
