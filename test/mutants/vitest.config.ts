/** How `scripts/mutants.mjs` runs a test of the list: from `src/`, so that nothing has to be built first. */
import { defineConfig } from "vitest/config"
import project from "../../vitest.config.ts"

// The standard input is a pipe from the runner: when that has died, whatever of, this ends too.
process.stdin.once("end", () => process.exit(1)).resume().unref()

export default defineConfig({
  ...project,
  // Names are whole, so that each is that of one test.
  // Some faults are seen in that the test hangs, and the runner itself waits for no more than three minutes.
  test: { ...project.test, globalSetup: [], taskTitleValueFormatTruncate: 0, testTimeout: 60_000, hookTimeout: 60_000 }
})
