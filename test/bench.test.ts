/**
 * The benchmark still works: each of our own workloads at a tiny size, in a fresh process, where no peer is installed.
 * Nothing is said about the figures but that they are some.
 */
import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { afterAll, beforeAll } from "vitest"

const root = path.resolve(import.meta.dirname, "..")
const bench = path.join(root, "bench")
const work = path.join(root, ".tmp", "bench-smoke")

interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

interface Figures {
  readonly failed?: string
  readonly cost_ns?: Spread
  readonly floor_ns?: Spread
  readonly ratio?: Spread
  readonly held_bytes?: Spread
  readonly memory?: { readonly [name: string]: number }
  readonly delay?: { readonly [name: string]: number }
  readonly records?: number
  readonly series?: { readonly [name: string]: number }
}

interface Results {
  readonly form: string
  readonly peers: { readonly [name: string]: { readonly version?: string; readonly missing?: string } }
  readonly workloads: { readonly [workload: string]: { readonly [contender: string]: Figures } }
}

const run = (directory: string, args: ReadonlyArray<string>) =>
  spawnSync(process.execPath, [path.join(directory, "main.mjs"), ...args], {
    encoding: "utf8",
    env: { ...process.env, DATAWAL_BENCH_LIBRARY: path.join(root, "dist", "index.js") }
  })

let stdout: string
let results: Results

beforeAll(() => {
  fs.rmSync(work, { recursive: true, force: true })
  // Without the packages that may have been installed there.
  fs.cpSync(bench, path.join(work, "bench"), {
    recursive: true,
    filter: (source) => path.basename(source) !== "node_modules"
  })
  const file = path.join(work, "results.json")
  const ran = run(path.join(work, "bench"), ["--smoke", "--json", file, "--directory", path.join(work, "stores")])
  assert.strictEqual(ran.status, 0, ran.stdout + ran.stderr)
  stdout = ran.stdout
  results = JSON.parse(fs.readFileSync(file, "utf8")) as Results
})

afterAll(() => fs.rmSync(work, { recursive: true, force: true }))

const finite = (figures: object, where: string): void => {
  const values = Object.entries(figures)
  assert.isNotEmpty(values, where)
  for (const [name, value] of values) assert.isTrue(Number.isFinite(value), `${where}: ${name} is ${String(value)}`)
}

describe("the benchmark", () => {
  it("every workload of ours works and gives finite figures", () => {
    const names = Object.keys(results.workloads).map((name) => name.replace(/-.*/, ""))
    assert.sameMembers(Array.from(new Set(names)), [
      "append",
      "batch",
      "durable",
      "stream",
      "put",
      "delete",
      "get",
      "getMany",
      "open",
      "memory",
      "export",
      "compact",
      "import",
      "growth"
    ])
    for (const [workload, contenders] of Object.entries(results.workloads)) {
      assert.isNotEmpty(Object.keys(contenders), workload)
      for (const [contender, figures] of Object.entries(contenders)) {
        const where = `${workload}, ${contender}`
        assert.match(contender, /^datawal/)
        assert.isUndefined(figures.failed, where)
        if (figures.series !== undefined) {
          finite(figures.series, where)
          continue
        }
        if (figures.held_bytes !== undefined) {
          finite(figures.held_bytes, where)
          continue
        }
        for (const name of ["cost_ns", "floor_ns", "ratio"] as const) {
          finite(figures[name]!, where)
          assert.isAbove(figures[name]!.min, 0, where)
        }
        finite(figures.memory!, where)
        finite(figures.delay!, where)
      }
    }
  })

  it("peers that are not installed are named, in the results and to whoever looks", () => {
    const { optionalDependencies } = JSON.parse(fs.readFileSync(path.join(bench, "package.json"), "utf8")) as {
      optionalDependencies: { readonly [name: string]: string }
    }
    assert.sameMembers(Object.keys(results.peers), Object.keys(optionalDependencies))
    for (const [name, peer] of Object.entries(results.peers)) {
      assert.deepStrictEqual(peer, { missing: "not installed" }, name)
      assert.include(stdout, `! ${name} was NOT MEASURED: not installed`)
    }
  })

  it("leaves no store behind", () => {
    assert.deepStrictEqual(fs.readdirSync(path.join(work, "stores")), [])
  })
})

describe("docs/performance.md", () => {
  it("says what the results that are kept say, and its plots show it", () => {
    const checked = run(bench, ["--check"])
    assert.strictEqual(checked.status, 0, checked.stderr)
  })
})
