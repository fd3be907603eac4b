/**
 * Every example in the README, the documents and the public docstrings is compiled under the project's own strict settings
 * and run.
 *
 * In a `ts` fence, `expression // => value` is an assertion. In a `console` fence, `$ command` is run in a shell, one
 * directory a document, and what it prints must be the lines that follow (`…` stands for any text). `sh` fences hold what a
 * reader types to install or start, and may hold nothing else.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll, beforeAll } from "vitest"
import { command as datawal } from "./support/cli.ts"

const root = path.resolve(import.meta.dirname, "..")
const work = path.join(root, ".tmp", "docs")

interface Fence {
  readonly file: string
  readonly line: number
  readonly language: string
  readonly code: string
}

const filesUnder = (directory: string, ending: string): Array<string> =>
  fs.readdirSync(path.join(root, directory), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(ending))
    .map((name) => path.join(directory, name))

const documents = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", ...filesUnder("docs", ".md")].filter((file) =>
  fs.existsSync(path.join(root, file))
)

const fencesIn = (file: string): Array<Fence> => {
  const inSource = file.endsWith(".ts")
  const lines = fs.readFileSync(path.join(root, file), "utf8").split("\n")
    .map((line) => inSource ? line.replace(/^ *\* ?/, "") : line)
  const fences: Array<Fence> = []
  for (let at = 0; at < lines.length; at++) {
    const opened = /^```(\w+)/.exec(lines[at]!)
    if (opened === null) continue
    const end = lines.indexOf("```", at + 1)
    fences.push({ file, line: at + 1, language: opened[1]!, code: lines.slice(at + 1, end).join("\n") })
    at = end
  }
  return fences
}

const fences = [...documents, ...filesUnder("src", ".ts")].flatMap(fencesIn)
const examples = fences.filter(({ language }) => language === "ts")
const moduleName = ({ file, line }: Fence) => `${file.replaceAll(/[^\w]/g, "_")}_${line}`

const withAssertions = (code: string): string =>
  `import { deepStrictEqual as __equal } from "node:assert"\n` +
  code.split("\n").map((line) => {
    const found = /^(\s*)(.+?) \/\/ => (.+)$/.exec(line)
    return found === null ? line : `${found[1]}__equal(${found[2]}, ${found[3]})`
  }).join("\n") + "\n"

beforeAll(() => {
  fs.rmSync(work, { recursive: true, force: true })
  fs.mkdirSync(path.join(work, "src"), { recursive: true })
  for (const example of examples) {
    fs.writeFileSync(path.join(work, "src", `${moduleName(example)}.ts`), withAssertions(example.code))
  }
  const tsconfig = {
    extends: "../../tsconfig.base.json",
    compilerOptions: {
      rootDir: "src",
      outDir: "out",
      noUnusedLocals: false,
      declaration: false,
      declarationMap: false,
      sourceMap: false
    },
    include: ["src"]
  }
  fs.writeFileSync(path.join(work, "tsconfig.json"), JSON.stringify(tsconfig))
  const tsc = path.join(root, "node_modules", "typescript", "bin", "tsc")
  const compiled = spawnSync(process.execPath, [tsc, "-p", work], { encoding: "utf8" })
  if (compiled.status !== 0) throw new Error(`an example does not compile:\n${compiled.stdout}`)
})

afterAll(() => fs.rmSync(work, { recursive: true, force: true }))

const inTemporaryDirectory = <A>(use: (directory: string) => A): A => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "datawal-docs-"))
  try {
    return use(directory)
  } finally {
    fs.rmSync(directory, { recursive: true, force: true })
  }
}

/** Runs each module in a directory of its own, and prints what it threw, by name. All in one process, for Effect loads long. */
const runner = `
  import { mkdirSync } from "node:fs"
  const failed = {}
  for (const [name, directory, script] of JSON.parse(process.argv[1])) {
    mkdirSync(directory)
    process.chdir(directory)
    await import(script).catch((error) => {
      failed[name] = error?.stack ?? String(error)
    })
  }
  process.stdout.write(JSON.stringify({ failed }))
`

describe("examples in ts", () => {
  let failed: { readonly [name: string]: string } = {}

  beforeAll(() => {
    inTemporaryDirectory((directory) => {
      const jobs = examples.map((example) => {
        const name = moduleName(example)
        return [name, path.join(directory, name), pathToFileURL(path.join(work, "out", `${name}.js`)).href]
      })
      const args = ["--input-type=module", "-e", runner, JSON.stringify(jobs)]
      const ran = spawnSync(process.execPath, args, { encoding: "utf8" })
      assert.strictEqual(ran.status, 0, ran.stderr)
      failed =
        (JSON.parse(ran.stdout.slice(ran.stdout.lastIndexOf("{\"failed\""))) as { readonly failed: typeof failed })
          .failed
    })
  })

  for (const example of examples) {
    it(`${example.file}:${example.line} runs, and says what it claims`, () => {
      assert.isUndefined(failed[moduleName(example)])
    })
  }

  it("there are some in the README and in every public module", () => {
    for (
      const file of [
        "README.md",
        "src/Log.ts",
        "src/Kv.ts",
        "src/Export.ts",
        "src/Frame.ts",
        "src/Lock.ts",
        "src/Reader.ts"
      ]
    ) {
      assert.isTrue(examples.some((example) => example.file === file), `${file} has no example`)
    }
  })
})

const escaped = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&").replaceAll("…", "[\\s\\S]*")

// Dozens of processes one after the other.
describe("examples at the console", { timeout: 900_000 }, () => {
  for (const file of documents) {
    const sessions = fences.filter((fence) => fence.file === file && fence.language === "console")
    if (sessions.length === 0) continue
    it(`${file} prints what it shows`, () => {
      inTemporaryDirectory((cwd) => {
        const bin = path.join(cwd, ".bin")
        fs.mkdirSync(bin)
        fs.writeFileSync(path.join(bin, "datawal"), `#!/bin/sh\nexec "${process.execPath}" "${datawal}" "$@"\n`, {
          mode: 0o755
        })
        const env = { ...process.env, PATH: `${bin}:${process.env["PATH"]}` }
        for (const session of sessions) {
          for (const step of session.code.split(/^\$ /m).slice(1)) {
            const [command, ...expected] = step.trimEnd().split("\n")
            const ran = spawnSync("bash", ["-c", `{ ${command}\n} 2>&1`], { cwd, env, encoding: "utf8" })
            const pattern = new RegExp(`^${expected.map(escaped).join("\n")}$`)
            assert.match(ran.stdout.trimEnd(), pattern, `${file}:${session.line}: ${command}`)
          }
        }
      })
    })
  }
})

describe("what a reader types to install or start", () => {
  const known = /^(npm (start|test|install|run|ci|rebuild|install-scripts|pack)|npx datawal|node |git clone|#|$)/
  it("is only that", () => {
    for (const fence of fences.filter(({ language }) => language === "sh")) {
      for (const line of fence.code.split("\n")) assert.match(line, known, `${fence.file}:${fence.line}`)
    }
  })

  it("names only scripts that exist", () => {
    const { scripts } = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as { scripts: object }
    for (const file of documents) {
      const text = fs.readFileSync(path.join(root, file), "utf8")
      for (const [, name] of text.matchAll(/npm run (?:--\w+ )?([a-z:]+)/g)) assert.property(scripts, name!, file)
    }
  })
})

describe("links", () => {
  it("between the documents lead somewhere", () => {
    for (const file of documents) {
      const text = fs.readFileSync(path.join(root, file), "utf8")
      for (const [, target] of text.matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)) {
        assert.isTrue(fs.existsSync(path.join(root, path.dirname(file), target!)), `${file}: ${target}`)
      }
    }
  })

  it("name no path of a machine and no registry", () => {
    const tracked = execFileSync("git", ["ls-files"], { cwd: root, encoding: "utf8" }).trim().split("\n")
    // Written apart, so that this file is not one that names them.
    const machine = ["wor", "ro", "hom"].map((start, index) => start + ["k", "ot", "e"][index]).join("|")
    const registry = ["regist", "ry\\.[a-z]+js"].join("")
    const forbidden = new RegExp(`(^|[^a-z])/(${machine})/|${registry}|"resolve[d]": "http`)
    for (
      const file of tracked.filter((file) => !file.startsWith("test/fixtures/") && fs.existsSync(path.join(root, file)))
    ) {
      assert.notMatch(fs.readFileSync(path.join(root, file), "utf8"), forbidden, file)
    }
  })
})
