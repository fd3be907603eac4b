/** The command line of the main job: which directory to load, and where the stores are left. */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as NFS from "node:fs/promises"
import * as NodeModule from "node:module"
import * as NodeOS from "node:os"
import * as NodePath from "node:path"
import * as NodeUtil from "node:util"
import { hasFile } from "./source.ts"

export const usage = `usage: npm start -- [DIR] [--out DIR] [--kills N]

Loads every file of DIR into a store, kills a writer in the middle of a write, recovers, compares, compacts, exports and
imports. DIR is the source of the installed effect package unless given; --out is where the stores are left (a directory
that is empty or absent), by default a new one in ${NodeOS.tmpdir()}. --kills is how many writers are killed; unless
given, at least three, until one has left a record cut in two.`

export interface Options {
  /** The directory that is loaded, without symbolic links in its own path. */
  readonly source: string
  /** The directory the stores are left in, likewise. */
  readonly out: string
  /** How many writers are killed; `undefined` for as many as it takes. */
  readonly kills: number | undefined
}

/** What the user can mend: said in one line, with exit code 1. */
export class Refused extends Data.TaggedError("Refused")<{ readonly message: string }> {}

interface Arguments {
  readonly source: string | undefined
  readonly out: string | undefined
  readonly kills: number | undefined
  readonly help: boolean
}

const parse = (args: ReadonlyArray<string>): Effect.Effect<Arguments, Refused> =>
  Effect.try({
    try: () => {
      const { positionals, values } = NodeUtil.parseArgs({
        args: [...args],
        allowPositionals: true,
        options: {
          out: { type: "string" },
          kills: { type: "string" },
          help: { type: "boolean", short: "h", default: false }
        }
      })
      if (positionals.length > 1) throw new Error(`one directory is taken, not ${positionals.length}`)
      const { help, kills, out } = values
      if (kills !== undefined && !/^[1-9]\d{0,3}$/.test(kills)) throw new Error("--kills is a number from 1 to 9999")
      return { source: positionals[0], out, kills: kills === undefined ? undefined : Number(kills), help }
    },
    catch: (cause) => new Refused({ message: cause instanceof Error ? cause.message : String(cause) })
  })

const installedEffect = (): string =>
  NodePath.join(NodePath.dirname(NodeModule.createRequire(import.meta.url).resolve("effect/package.json")), "src")

const attempt = <A>(path: string, call: () => Promise<A>): Effect.Effect<A, Refused> =>
  Effect.tryPromise({
    try: call,
    catch: (cause) => new Refused({ message: `${path}: ${cause instanceof Error ? reasonOf(cause) : String(cause)}` })
  })

const reasonOf = (cause: Error & { readonly code?: string }): string =>
  cause.code === "ENOENT"
    ? "no such directory"
    : cause.code === "ENOTDIR" || cause.code === "EEXIST"
    ? "not a directory"
    : cause.message

// npm runs a script in the package's own directory, and says here where the user was.
const asTyped = (path: string): string =>
  NodePath.resolve(process.env["npm_lifecycle_event"] === "start" ? process.env["INIT_CWD"] ?? "" : "", path)

/** `undefined` when only help was asked for. */
export const resolve = Effect.fnUntraced(function*(
  args: ReadonlyArray<string>
): Effect.fn.Return<Options | undefined, Refused> {
  const parsed = yield* parse(args)
  if (parsed.help) return undefined
  const asked = parsed.source ?? installedEffect()
  const source = yield* attempt(asked, () => NFS.realpath(asTyped(asked)))
  const stats = yield* attempt(asked, () => NFS.stat(source))
  if (!stats.isDirectory()) return yield* new Refused({ message: `${asked}: not a directory` })
  yield* attempt(asked, () => NFS.access(source, NFS.constants.R_OK | NFS.constants.X_OK))
  if (!(yield* Effect.promise(() => hasFile(source)))) {
    return yield* new Refused({ message: `${asked}: there is no file to load` })
  }
  return { source, out: yield* makeOut(parsed.out), kills: parsed.kills }
})

const makeOut = Effect.fnUntraced(function*(asked: string | undefined): Effect.fn.Return<string, Refused> {
  if (asked === undefined) {
    const prefix = NodePath.join(NodeOS.tmpdir(), "effect-datawal-")
    return yield* attempt(prefix, async () => NFS.realpath(await NFS.mkdtemp(prefix)))
  }
  const path = asTyped(asked)
  yield* attempt(asked, () => NFS.mkdir(path, { recursive: true }))
  const [first] = yield* attempt(asked, () => NFS.readdir(path))
  if (first !== undefined) {
    return yield* new Refused({ message: `${asked}: not empty (it holds ${first}); --out takes a new directory` })
  }
  return yield* attempt(asked, () => NFS.realpath(path))
})
