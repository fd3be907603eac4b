// npm run test:mutants -- [--why] [NAME...] Shows that the suite notices deliberate faults of the product: applies those
// of test/mutants/mutants.mjs (all, or those whose name holds a NAME) one at a time to a copy of the project, and runs
// the test that must fail of each. --why prints what that test said. Ends with status 1 if a fault survives.
import { spawn } from "node:child_process"
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { mutants } from "../test/mutants/mutants.mjs"

const { positionals, values } = parseArgs({ allowPositionals: true, options: { why: { type: "boolean" } } })

// A test that waits too long fails by itself after a minute; this is for one that never lets go of its thread.
const run_milliseconds_max = 180_000
const copies = 2

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const work = mkdtempSync(join(tmpdir(), "datawal-mutants-"))
const running = new Set()

const kill = (child) => {
  try {
    // Vitest and its workers: they are a process group of their own.
    process.kill(-child.pid, "SIGKILL")
  } catch {
    // It has ended.
  }
}

process.once("exit", () => {
  for (const child of running) kill(child)
  rmSync(work, { recursive: true, force: true, maxRetries: 5 })
})
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(1))

const fail = (...lines) => {
  for (const line of lines) console.error(line)
  process.exit(1)
}

const selected = positionals.length === 0
  ? mutants
  : mutants.filter(({ name }) => positionals.some((part) => name.includes(part)))
const unknown = positionals.filter((part) => !mutants.some(({ name }) => name.includes(part)))
if (unknown.length > 0) {
  fail(
    `no mutant has a name with ${unknown.join(", ")}; there are:`,
    ...mutants.map((m) => m.name)
  )
}

/** A copy of the project, with links to its dependencies: what Vitest keeps beside them is kept in the copy. */
const makeCopy = (number) => {
  const copy = join(work, String(number))
  for (
    const name of ["src", "scripts", "test", "package.json", "tsconfig.base.json", "tsconfig.json", "vitest.config.ts"]
  ) {
    cpSync(number === 1 ? join(root, name) : join(work, "1", name), join(copy, name), { recursive: true })
  }
  const modules = join(copy, "node_modules")
  mkdirSync(modules)
  for (const name of readdirSync(join(root, "node_modules")).filter((name) => !name.startsWith(".vite"))) {
    symlinkSync(join(root, "node_modules", name), join(modules, name))
  }
  mkdirSync(join(copy, "tmp"))
  return copy
}

const nameOf = (mutant) => mutant.caughtBy.replaceAll("|", "")
// Vitest's report has a blank between a test's name and those it stands under, its filter a sign.
const patternOf = (text) => text.replaceAll(/[\\^$.*+?()[\]{}|]/g, "\\$&").replaceAll(" ", "(?: | > )")

/** Runs the tests of those names: what became of every test there is, or `undefined` when the time was up. */
const runTests = (copy, files, names) =>
  new Promise((resolve, reject) => {
    const report = join(copy, "report.json")
    rmSync(report, { force: true })
    const vitest = join(copy, "node_modules", "vitest", "vitest.mjs")
    const pattern = names.map(patternOf).join("|")
    const config = join("test", "mutants", "vitest.config.ts")
    const args = ["run", ...files, "--config", config, "-t", pattern, "--reporter=json", `--outputFile=${report}`]
    const child = spawn(process.execPath, [vitest, ...args], {
      cwd: copy,
      detached: true,
      env: { ...process.env, TMPDIR: join(copy, "tmp") },
      stdio: ["pipe", "ignore", "pipe"]
    })
    running.add(child)
    let said = ""
    child.stderr.setEncoding("utf8").on("data", (text) => {
      said += text
    })
    let late = false
    const timer = setTimeout(() => {
      late = true
      kill(child)
    }, run_milliseconds_max)
    child.once("error", reject)
    child.once("close", () => {
      running.delete(child)
      clearTimeout(timer)
      kill(child)
      if (late) return resolve(undefined)
      try {
        const results = JSON.parse(readFileSync(report, "utf8")).testResults
        resolve(results.flatMap(({ assertionResults, message, name: file }) =>
          assertionResults.length === 0
            ? [{ file, name: "", status: "failed", said: message }]
            : assertionResults.map(({ failureMessages, fullName, status }) => (
              { file, name: fullName, status, said: (failureMessages ?? []).join("\n") }
            ))
        ))
      } catch {
        resolve([{ file: "", name: "", status: "failed", said }])
      }
    })
  })

const isNamed = (mutant) => ({ file, name }) => file.endsWith(`/${mutant.test}`) && name.includes(nameOf(mutant))

const firstLines = (text) => text.split("\n").filter((line) => !/^\s+at /.test(line)).slice(0, 12).join("\n")

// A mutant that cannot be loaded or run says nothing about the test.
const isBroken = (said) => /^(SyntaxError|ReferenceError|TypeError|RangeError|Error: Transform failed)\b/.test(said)

/** Of an unchanged copy every named test passes, and a name is that of one test: else a failure would mean nothing. */
const checkUnchanged = async (copy) => {
  const files = [...new Set(selected.map(({ test }) => test))]
  const results = await runTests(copy, files, [...new Set(selected.map(nameOf))])
  if (results === undefined) fail("the tests of the unchanged copy take too long")
  const problems = selected.flatMap((mutant) => {
    const named = results.filter(isNamed(mutant))
    if (named.length !== 1) {
      return [`${mutant.name}: ${named.length} tests of ${mutant.test} are named ${nameOf(mutant)}`]
    }
    return named[0].status === "passed" ? [] : [`${mutant.name}: ${named[0].name} ${named[0].status}\n${named[0].said}`]
  })
  const broken = results.filter(({ name, status }) => name === "" && status === "failed").map(({ said }) => said)
  if (problems.length > 0) fail("without any mutant:", ...broken, ...problems)
}

const tryMutant = async (copy, mutant) => {
  const path = join(copy, mutant.file)
  const source = readFileSync(path, "utf8")
  writeFileSync(path, source.replace(mutant.find, () => mutant.replace))
  const started = Date.now()
  const results = await runTests(copy, [mutant.test], [nameOf(mutant)])
  writeFileSync(path, source)
  const seconds = ((Date.now() - started) / 1_000).toFixed(1)
  if (results === undefined) return { seconds, verdict: "hangs", said: "" }
  const named = results.find(isNamed(mutant))
  if (named === undefined || named.status === "skipped") {
    return { seconds, verdict: "does not run", said: results.find(({ said }) => said !== "")?.said ?? "" }
  }
  const { said, status } = named
  if (status === "passed") return { seconds, verdict: "SURVIVES", said }
  if (isBroken(said)) return { seconds, verdict: "does not run", said }
  return { seconds, verdict: /Test timed out/.test(said) ? "hangs" : "caught", said }
}

const checkList = (copy) => {
  const problems = selected.flatMap(({ file, find, name }) => {
    const count = readFileSync(join(copy, file), "utf8").split(find).length - 1
    return count === 1 ? [] : [`${name}: ${file} has this text ${count} times, not once: ${find}`]
  })
  if (problems.length > 0) fail(...problems)
}

const places = Array.from({ length: Math.min(copies, selected.length) }, (_, index) => makeCopy(index + 1))
checkList(places[0])
const began = Date.now()
console.log(`the tests of ${selected.length} mutants, without any`)
await checkUnchanged(places[0])
console.log(`pass, in ${((Date.now() - began) / 1_000).toFixed(0)} s\n`)

const width = (of) => Math.max(...selected.map((mutant) => of(mutant).length)) + 2
const widths = [width(({ name }) => name), width(({ file }) => file)]
const row = (name, file, by, seconds) =>
  console.log(`${name.padEnd(widths[0])}${file.padEnd(widths[1])}${seconds.padStart(6)}  ${by}`)
row("mutant", "file", "caught by", "s")

const waiting = [...selected]
const bad = []
await Promise.all(places.map(async (copy) => {
  for (let mutant = waiting.shift(); mutant !== undefined; mutant = waiting.shift()) {
    const { said, seconds, verdict } = await tryMutant(copy, mutant)
    const caught = verdict === "caught" || verdict === "hangs"
    if (!caught) bad.push(mutant.name)
    const by = `${basename(mutant.test, ".test.ts")}: ${nameOf(mutant)}`
    row(mutant.name, mutant.file, verdict === "caught" ? by : verdict === "hangs" ? `(hangs) ${by}` : verdict, seconds)
    if (verdict === "does not run" || (values.why === true && caught)) {
      console.log(`${firstLines(said) || "(it gave no message)"}\n`)
    }
  }
}))

const minutes = ((Date.now() - began) / 60_000).toFixed(1)
console.log(`\n${selected.length} mutants, ${selected.length - bad.length} caught, in ${minutes} minutes`)
if (bad.length > 0) fail(`not caught: ${bad.join(", ")}`)
