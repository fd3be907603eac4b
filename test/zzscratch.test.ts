import { it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import * as NFS from "node:fs"
import * as Log from "../src/Log.ts"
import * as Reader from "../src/Reader.ts"
import * as S from "./support/stores.ts"

const show = (name: string, exit: Exit.Exit<unknown, unknown>) =>
  console.log(name, Exit.isSuccess(exit) ? JSON.stringify(exit.value) : Cause.pretty(exit.cause).slice(0, 400))

it.effect("scratch", () =>
  Effect.gen(function*() {
    // 1. the last 25..27 bytes
    for (const extra of [65536, 65537, 65538, 65539, 65540]) {
      // damaged record at 33; file size - (d+1) = extra
      const a = S.raw(1, "alpha")
      const c = S.raw(3, "gamma")
      const b = S.flipped(S.raw(2, S.noise(extra + 1 - c.length - 28)), 100)
      const dir = yield* S.store({ 1: S.concat(a, b, c) })
      show(
        "later " + extra,
        yield* Effect.exit(Effect.scoped(Effect.map(Log.make({ directory: dir }), (l) => l.report)))
      )
    }
    // 2. streamFrom at torn nested
    const nested = S.concat(S.raw(1, "x"), S.raw(2, "y"))
    const dir2 = yield* S.store({ 1: S.concat(S.raw(1, "a"), S.raw(2, "b"), S.raw(3, nested).subarray(0, -1)) })
    const reader = yield* Reader.make({ directory: dir2 })
    show("stream", yield* Effect.exit(S.collect(reader.stream)))
    show("streamFrom", yield* Effect.exit(S.collect(reader.streamFrom({ segment: 1, offset: 58 }))))
    // 3. ELOOP
    const dir3 = yield* S.store({ 1: S.raw(1, "a") })
    NFS.symlinkSync("loop", dir3 + "/loop")
    show("loop", yield* Effect.exit(Effect.scoped(Effect.map(Log.make({ directory: dir3 }), (l) => l.report))))
    // 4. reader.read bad refs
    const dir4 = yield* S.store({ 1: S.concat(S.raw(1, "alpha"), S.raw(2, "beta")) })
    const r4 = yield* Reader.make({ directory: dir4 })
    for (
      const [segment, offset, len] of [
        [1, 0, 33],
        [1, -1, 33],
        [1, 0, 0],
        [1, 0, -1],
        [1, 0, NaN],
        [1, 0, 2 ** 40],
        [1, 0, 28],
        [1, 0, 40],
        [1, NaN, 33],
        [1, 0.5, 33],
        [2, 0, 33],
        [1, 5, 33],
        [1, 1000, 33],
        [1, 2 ** 52, 33],
        [NaN, 0, 33],
        [1, 0, 33.5],
        [1, -2, 33],
        [1, 65, 0],
        [1, 65, 33]
      ] as const
    ) {
      show(
        `read ${segment} ${offset} ${len}`,
        yield* Effect.exit(Effect.map(r4.read({ segment, offset, len }), S.plain))
      )
    }
    for (
      const from of [
        { segment: 1, offset: NaN },
        { segment: 1, offset: -1 },
        { segment: 1, offset: 0.5 },
        { segment: 9, offset: 0 },
        { segment: 9, offset: 5 },
        { segment: NaN, offset: 0 },
        { segment: -1, offset: 0 },
        { segment: 1, offset: 65 },
        { segment: 1, offset: 66 },
        { segment: 1, offset: 5 },
        { segment: 1, offset: 64 },
        { txid: NaN },
        { txid: -1 },
        { txid: 2.5 },
        { txid: 3 }
      ]
    ) {
      show(`from ${JSON.stringify(from)}`, yield* Effect.exit(S.collect(r4.streamFrom(from))))
    }
    // 5. magic across boundary
    for (let split = 1; split < 24; split++) {
      const a = S.raw(1, S.noise(512 - split - 28))
      const b = S.zeroed(S.concat(a, S.raw(2, S.noise(2000))), 512, 1024)
      const dir = yield* S.store({ 1: b })
      show(
        "split " + split,
        yield* Effect.exit(Effect.scoped(Effect.map(Log.make({ directory: dir }), (l) => l.report.tail_reason)))
      )
    }
  }))
