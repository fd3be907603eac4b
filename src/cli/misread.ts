/**
 * Arguments that effect/cli would not take as they were meant. Pure.
 */

/** Where the arguments end that may be flags. */
const endOfFlags = (args: ReadonlyArray<string>): number => args.includes("--") ? args.indexOf("--") : args.length

const switches = new Set(["--json", "--no-truncate"])

/**
 * The arguments with each switch once, and with its value. It takes none, but effect/cli lets it swallow a following
 * `yes`, `on`, `1` …, which may be a value to store, and refuses one that is given before and behind the subcommand.
 */
export const explicitSwitches = (args: ReadonlyArray<string>): ReadonlyArray<string> => {
  const end = endOfFlags(args)
  const flags = args
    .slice(0, end)
    .filter((arg, index) => !switches.has(arg) || args.indexOf(arg) === index)
    .map((arg) => switches.has(arg) ? `${arg}=true` : arg)
  return [...flags, ...args.slice(end)]
}

const takesText = new Set(["put", "append", "export", "import", "compact", "salvage"])
const takesKey = new Set(["delete", "get"])
const bundle = /^-[A-Za-z]./s
const asks = /^(-[A-Za-z]$|--(help|version|completions)$|--completions=)/

/**
 * What would be taken for a flag, though it may be meant as a value or a name: effect/cli takes `-hello` for the
 * switches -h, -e, -l …, so that it prints the help, ends with 0, and has done nothing; and a switch for help, the
 * version or completions counts wherever it stands.
 */
export const misreadOf = (args: ReadonlyArray<string>): string | undefined => {
  const read = args.slice(0, endOfFlags(args)).filter((arg) => !/^--(json|no-truncate)(=|$)/.test(arg))
  const bundled = read.find((arg) => bundle.test(arg))
  const [command = "", ...rest] = read
  if (bundled !== undefined || rest.length < 2) return bundled
  return rest.find((arg, index) =>
    asks.test(arg) &&
    (takesText.has(command) || (takesKey.has(command) && rest[index - 1]?.startsWith("--key") === true))
  )
}
