import { defineConfig } from "vitest/config"
import { BaseSequencer, type TestSpecification } from "vitest/node"

// Vitest 5 reports failures with Map.groupBy, which Node 20 does not have: without it a failed test shows no reason.
if (!("groupBy" in Map)) {
  Object.defineProperty(Map, "groupBy", {
    value: <K, A>(items: Iterable<A>, keyOf: (item: A, index: number) => K): Map<K, Array<A>> => {
      const groups = new Map<K, Array<A>>()
      let index = 0
      for (const item of items) {
        const key = keyOf(item, index++)
        groups.set(key, [...groups.get(key) ?? [], item])
      }
      return groups
    }
  })
}

// Where a machine has certificates of its own, each process of Node reads and parses them as it starts, which takes longer
// than the rest of its start; the suite starts hundreds. Only npm has a use for them: see package.test.ts.
const certificates = process.env["NODE_EXTRA_CA_CERTS"]
delete process.env["NODE_EXTRA_CA_CERTS"]

// Where no run is remembered, Vitest goes by the size of a file, and some short ones take long: the last would run alone.
const longest = [
  "crashPoints",
  "sigkill",
  "checkpoint",
  "cli",
  "randomCrashes",
  "docs",
  "cliChanging",
  "flipEveryByte",
  "fullDisk",
  "reading",
  "concurrency"
]

class LongestFirst extends BaseSequencer {
  override async sort(files: Array<TestSpecification>): Promise<Array<TestSpecification>> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const at = longest.findIndex((name) => moduleId.endsWith(`/${name}.test.ts`))
      return at < 0 ? longest.length : at
    }
    return (await super.sort(files)).toSorted((a, b) => rank(a) - rank(b))
  }
}

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // The command and the example are tested as the processes a user runs: they must be what src/ says.
    globalSetup: ["test/support/build.ts"],
    sequence: { sequencer: LongestFirst },
    // Names are sentences, and are looked for by their whole text.
    taskTitleValueFormatTruncate: 0,
    env: certificates === undefined ? {} : { NPM_CERTIFICATES: certificates },
    // Ends what hangs. What takes seconds on a machine of its own took minutes on one that others used, too.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    pool: "forks",
    // Most tests make little that lives long: with Node's 16 MiB for what is new, collecting it took a sixth of the time.
    execArgv: ["--max-semi-space-size=64"],
    // Files that run one after the other share a process: to load Effect for each took a sixth of the time.
    isolate: false,
    // A look-up in a package goes to the package, not to a proxy that would stand in for its default export.
    deps: { interopDefault: false },
    // Much of the suite waits for processes and disks: use every core, not all but one.
    maxWorkers: "100%"
  }
})
