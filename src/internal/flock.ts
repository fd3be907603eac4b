/**
 * `flock(2)`, the very lock the Rust program takes. Node has no call for it; it is bound through `koffi`, which comes
 * compiled for each platform, and works in worker threads.
 */
import { realpathSync } from "node:fs"
import * as Module from "node:module"
import { getSystemErrorName } from "node:util"

/** What this module needs of `koffi`. */
interface Koffi {
  readonly load: (path: null) => { readonly func: (prototype: string) => (fd: number, operation: number) => number }
  readonly errno: () => number
}

// By Linux's and macOS's numbers alike. An exclusive lock is not waited for.
const exclusive = 2 | 4
const unlock = 8

type Flock =
  | {
    /** The code of the error, if it fails. */
    readonly tryExclusive: (fd: number) => string | undefined
    /** Where nothing is locked it does nothing. */
    readonly unlock: (fd: number) => void
  }
  | { readonly command: string; readonly cause: unknown }

// A bundle's maker may have put the name of another place, or none, where a module asks for its own. A bundle in
// CommonJS has the name of its file then; beside any other, the program is looked at, where it is, not where a link is.
const places: ReadonlyArray<() => string | undefined> = [
  () => import.meta.url,
  () => typeof __filename === "string" ? __filename : undefined,
  () => process.argv[1] === undefined ? undefined : realpathSync(process.argv[1])
]

/** Beside this module or, in a bundle, beside that or beside the program. */
const load = (): Koffi => {
  let first: unknown
  for (const place of places) {
    try {
      const from = place()
      if (from !== undefined) return Module.createRequire(from)("koffi") as Koffi
    } catch (cause) {
      first ??= cause
    }
  }
  throw first ?? new Error("this module does not know where it is, and there is no program")
}

const bind = (): Flock => {
  try {
    const koffi = load()
    const call = koffi.load(null).func("int flock(int fd, int operation)")
    return {
      tryExclusive: (fd) => call(fd, exclusive) === 0 ? undefined : errorName(koffi.errno()),
      unlock: (fd) => {
        call(fd, unlock)
      }
    }
  } catch (cause) {
    return { command: "npm install --include=optional koffi", cause }
  }
}

// What the engine does between the two calls could overwrite it; a lock that was refused stays refused.
const errorName = (errno: number): string => errno > 0 ? getSystemErrorName(-errno) : "UNKNOWN"

// Not only when a lock is asked for: if there were no descriptor left then, Node would take the addon for missing, and
// remember that for as long as the process lives.
export const flock: Flock = bind()
