/** What a user gets: the packed package, installed by npm into an empty project. */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { rolldown } from "rolldown"
import { afterAll, beforeAll } from "vitest"

const root = path.resolve(import.meta.dirname, "..")
const project = fs.mkdtempSync(path.join(os.tmpdir(), "datawal-package-"))

const program = `
import { Effect, Layer, Stream } from "effect"
import { Kv, Log } from "effect-datawal"
import * as Errors from "effect-datawal/Errors"
import { make } from "effect-datawal/Kv"

const program = Effect.gen(function*() {
  const kv = yield* Kv.Kv
  yield* kv.put("greeting", "hello")
  yield* kv.sync
  const log = yield* Log.Log
  const records: number = yield* Stream.runCount(log.stream)
  const value: Uint8Array | undefined = yield* kv.get("greeting")
  const refused = yield* Effect.flip(make({ directory: "store" }))
  return [records, value && new TextDecoder().decode(value), refused instanceof Errors.LockHeld]
})

const layer = Layer.provideMerge(Kv.layerLog, Log.layer({ directory: "store" }))
console.log(JSON.stringify(await Effect.runPromise(Effect.scoped(Effect.provide(program, layer)))))
`

/** What a library of the user's own, whose declarations are written out, makes of ours. */
const library = `
import { Context, Effect, Layer, Stream } from "effect"
import { Export, Frame, Kv, Lock, Log, Reader, Recovery } from "effect-datawal"

export const log = Log.make({ directory: "x" })
export const kv = Kv.make({ directory: "x" })
export const kvReader = Kv.makeReader({ directory: "x" })
export const overLog = Kv.makeLog
export const reader = Reader.make({ directory: "x" })
export const lock = Lock.acquire("x")
export const segments = Recovery.listSegments("x")
export const used = Kv.Kv.use((kv) => Effect.succeed(kv))
export const program = Effect.gen(function*() {
  const log = yield* Log.Log
  yield* log.observe((record) => void record.payload)
  return { log, kv: yield* Kv.Kv, first: yield* log.append("x") }
})
export const exported = (kv: Kv.KvRead) => Export.toFile(kv, "out.jsonl")
export const layers = [Kv.layer({ directory: "x" }), Kv.layerReader({ directory: "x" }), Kv.layerLog] as const
export class Sessions extends Context.Service<Sessions>()("app/Sessions", {
  make: Effect.map(Kv.Kv, (kv) => ({ put: kv.put, get: kv.get, all: kv.entries, changed: kv.modify }))
}) {
  static readonly layer = Layer.effect(this, this.make)
}
// What a store gives is no shared memory: the platform takes it.
export const digest = Kv.Kv.use((kv) =>
  Effect.map(kv.get("k"), (value) => value && crypto.subtle.digest("SHA-256", value)))
export const digests = Log.Log.use((log) =>
  Effect.succeed(Stream.map(log.stream, ({ payload }) => crypto.subtle.digest("SHA-256", payload))))
// A spread of a record has no payload: its type says so.
export const marked = Log.Log.use((log) =>
  Effect.succeed(Stream.map(log.stream, (record) => ({ ...record, isMarked: true }))))
export const payloads = Effect.map(marked, (records) =>
  // @ts-expect-error It is a getter of the record, and a spread leaves it out.
  Stream.map(records, (record) => record.payload))
export const txids = Effect.map(marked, (records) => Stream.map(records, ({ txid }): number => txid))
export const record: Frame.LogRecord = {
  segment: 1, offset: 0, len: 29, type: "Raw", txid: 1, keyLength: 0, payloadLength: 1,
  key: new Uint8Array(0), payload: new Uint8Array(1)
}
export const blobOf = ({ key, value }: Kv.KeyValue) => new Blob([key, value])
export const handle = (key: Kv.Bytes, value: Kv.Bytes): Effect.Effect<Kv.RecordRef, Kv.WriteError, Kv.Kv> =>
  Kv.Kv.use((kv) => kv.put(key, value))
`

const npm = (args: Array<string>, cwd: string): string => {
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^npm_(package|lifecycle|command)/.test(name))
  )
  const certificates = process.env["NPM_CERTIFICATES"]
  if (certificates !== undefined) env["NODE_EXTRA_CA_CERTS"] = certificates
  const ran = spawnSync("npm", args, { cwd, env, encoding: "utf8" })
  assert.strictEqual(ran.status, 0, ran.stderr)
  return ran.stdout
}

let packed: Array<string> = []

beforeAll(() => {
  const [made] = JSON.parse(npm(["pack", "--json", "--ignore-scripts", "--pack-destination", project], root)) as [
    { filename: string; files: Array<{ path: string }> }
  ]
  packed = made.files.map((file) => file.path)
  const { peerDependencies } = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as {
    peerDependencies: Record<string, string>
  }
  fs.writeFileSync(
    path.join(project, "package.json"),
    JSON.stringify({
      name: "user",
      type: "module",
      private: true,
      dependencies: { "effect-datawal": `file:${made.filename}`, ...peerDependencies }
    })
  )
  npm(["install", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"], project)
  fs.mkdirSync(path.join(project, "src"))
  fs.writeFileSync(path.join(project, "src", "main.ts"), program)
  fs.writeFileSync(path.join(project, "src", "library.ts"), library)
  fs.writeFileSync(
    path.join(project, "tsconfig.json"),
    JSON.stringify({
      compilerOptions: {
        target: "ES2022",
        module: "NodeNext",
        strict: true,
        exactOptionalPropertyTypes: true,
        noUncheckedIndexedAccess: true,
        skipLibCheck: false,
        declaration: true,
        types: [],
        lib: ["ES2023", "DOM"],
        rootDir: "src",
        outDir: "out"
      },
      include: ["src"]
    })
  )
})

afterAll(() => fs.rmSync(project, { recursive: true, force: true }))

describe("the packed package", () => {
  it("holds what it needs and nothing else", () => {
    for (
      const needed of [
        "package.json",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "dist/index.js",
        "dist/index.d.ts",
        "dist/bin.js",
        "dist/bin.licenses.txt"
      ]
    ) {
      assert.include(packed, needed)
    }
    for (const file of packed) {
      assert.match(file, /^(package\.json|README\.md|LICENSE|(CHANGELOG|CONTRIBUTING)\.md|(dist|src|docs)\/.+)$/)
      // Everything compiled has its source: nothing stale is shipped.
      const source = /^dist\/(.+?)\.(d\.ts|js)(\.map)?$/.exec(file)
      if (source !== null) assert.include(packed, `src/${source[1]}.ts`)
    }
  })

  it("needs Effect and what is native, and nothing else", () => {
    const listed = JSON.parse(npm(["ls", "--json", "--depth=1"], project)) as {
      dependencies: { "effect-datawal": { dependencies: Record<string, unknown> } }
    }
    const { dependencies } = listed.dependencies["effect-datawal"]
    assert.deepStrictEqual(Object.keys(dependencies).toSorted(), ["effect", "koffi"])
  })

  it("compiles under strict settings, names what it infers from it, and runs", () => {
    const tsc = path.join(root, "node_modules", "typescript", "bin", "tsc")
    const compiled = spawnSync(process.execPath, [tsc, "-p", project], { encoding: "utf8" })
    assert.strictEqual(compiled.status, 0, compiled.stdout)
    const declared = fs.readFileSync(path.join(project, "out", "library.d.ts"), "utf8")
    assert.notInclude(declared, "internal")
    assert.include(declared, "Effect.Effect<Kv.KvService, Kv.OpenError")
    const printed = execFileSync(process.execPath, ["out/main.js"], { cwd: project, encoding: "utf8" })
    assert.strictEqual(printed.trim(), JSON.stringify([1, "hello", true]))
  })

  it("brings the command", () => {
    const datawal = (...args: Array<string>) =>
      execFileSync(path.join(project, "node_modules", ".bin", "datawal"), args, { cwd: project, encoding: "utf8" })
    assert.strictEqual(datawal("get", "store", "--key", "greeting"), "hello\n")
    datawal("put", "store", "--key", "greeting", "good-bye")
    assert.strictEqual(datawal("get", "store", "--key", "greeting"), "good-bye\n")
  })

  // As some bundlers do: the place where it was built, which is another machine's, or none.
  const moved = JSON.stringify("file:///another/machine/index.js")
  it.each(
    [["cjs", moved], ["esm", moved], ["cjs", "undefined"], ["esm", "undefined"]] as const
  )("locks in a bundle with the lock's module beside it (%s, built at %s)", async (format, place) => {
    const input = path.join(project, "locks.js")
    fs.writeFileSync(
      input,
      `import { Effect } from "effect"
      import { Lock } from "effect-datawal"
      Effect.runPromise(Effect.scoped(Lock.acquire("locked"))).then(() => console.log("locked"))`
    )
    const bundled = await rolldown({
      input,
      platform: "node",
      external: ["koffi"],
      transform: { define: { "import.meta.url": place } }
    })
    const file = path.join(project, "out", `locks.${format === "cjs" ? "cjs" : "mjs"}`)
    await bundled.write({ file, format })
    await bundled.close()
    const elsewhere = fs.mkdtempSync(path.join(os.tmpdir(), "effect-datawal-bundle-"))
    try {
      // As the commands of packages that npm has installed are started.
      const link = path.join(elsewhere, "locks")
      fs.symlinkSync(file, link)
      const starts = [[file], [link], ...(format === "cjs" ? [["-e", `require(${JSON.stringify(file)})`]] : [])]
      for (const args of starts) {
        assert.strictEqual(execFileSync(process.execPath, args, { cwd: elsewhere, encoding: "utf8" }), "locked\n")
      }
    } finally {
      fs.rmSync(elsewhere, { recursive: true, force: true })
    }
  })

  it("lets nobody reach what is internal", () => {
    const script = `import("effect-datawal/internal/writer").then(() => process.exit(1), (e) => console.log(e.code))`
    const printed = execFileSync(process.execPath, ["-e", script], { cwd: project, encoding: "utf8" })
    assert.strictEqual(printed.trim(), "ERR_PACKAGE_PATH_NOT_EXPORTED")
  })
})
