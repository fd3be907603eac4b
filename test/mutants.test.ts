/** The list of deliberate faults, which `npm run test:mutants` applies, still fits the code and the tests it names. */
import { assert, describe, it } from "@effect/vitest"
import * as NFS from "node:fs"
import { mutants } from "./mutants/mutants.mjs"

const read = (file: string): string => NFS.readFileSync(new URL(`../${file}`, import.meta.url), "utf8")

describe("every mutant of the list", () => {
  it("changes a place that stands exactly once in the source", () => {
    for (const { file, find, name, replace } of mutants) {
      assert.match(file, /^src\//, name)
      assert.notStrictEqual(find, replace, name)
    }
    const misfits = mutants.filter(({ file, find }) => read(file).split(find).length !== 2)
    assert.deepStrictEqual(
      misfits.map(({ file, find, name }) => `${name}: ${file} does not have this once: ${find}`),
      []
    )
  })

  it("is caught by a test that is there", () => {
    for (const { caughtBy, name, test } of mutants) {
      for (const part of caughtBy.split("|")) {
        assert.include(read(test), part.trim(), `${name}: ${test} has no test of that name`)
      }
    }
  })

  it("has a name and a claim of its own", () => {
    assert.isAtLeast(mutants.length, 14)
    assert.strictEqual(new Set(mutants.map(({ name }) => name)).size, mutants.length)
    assert.strictEqual(new Set(mutants.map(({ claim }) => claim)).size, mutants.length)
  })
})
