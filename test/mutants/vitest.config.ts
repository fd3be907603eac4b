/** How `scripts/mutants.mjs` runs a test of the list: from `src/`, so that nothing has to be built first. */
import { defineConfig } from "vitest/config"
import project from "../../vitest.config.ts"

// The standard input is a pipe from the runner: when that has died, whatever of, this ends too.
process.stdin.once("end", () => process.exit(1)).resume().unref()

export default defineConfig({
  ...project,
  // A fault may well hang. Names are whole, so that each is that of one test.
  test: { ...project.test, globalSetup: [], taskTitleValueFormatTruncate: 0, testTimeout: 60_000, hookTimeout: 60_000 }
})
