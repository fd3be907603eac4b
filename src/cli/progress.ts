/**
 * A progress bar on standard error, for work that takes a while, when that is a terminal that can redraw a line;
 * otherwise nothing at all.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { showBar } from "./output.ts"

/** Says how far the work has come. */
export type Progress = (done: number) => void

// Work that ends sooner shows no bar, and does not load the library that draws it.
const delay = "200 millis"

const mebibyte = 1_048_576

interface ProgressOptions {
  readonly label: string
  /** Without it there is a count instead of a bar. */
  readonly total: number | undefined
  readonly unit: "bytes" | "keys" | "records"
}

interface Bar {
  readonly update: (done: number) => void
  readonly stop: () => void
}

const startBar = async ({ label, total, unit }: ProgressOptions, done: number): Promise<Bar> => {
  const { SingleBar } = await import("cli-progress")
  const scale = unit === "bytes" ? mebibyte : 1
  const shown = unit === "bytes" ? "MiB" : unit
  const bar = new SingleBar({
    stream: process.stderr,
    format: total === undefined
      ? `${label} {value} ${shown}`
      : `${label} [{bar}] {percentage}% of {total} ${shown}, {eta_formatted} left`,
    formatValue: (value, _options, type) =>
      type === "total" || type === "value" ? (value / scale).toFixed(scale === 1 ? 0 : 1) : String(value),
    clearOnComplete: true,
    // A signal ends the fiber, whose scope stops the bar.
    gracefulExit: false,
    hideCursor: true,
    barsize: 30
  })
  bar.start(total ?? 0, done)
  showBar(true)
  return {
    update: (value) => bar.update(value),
    stop: () => {
      bar.stop()
      showBar(false)
    }
  }
}

/** Shows a bar until the scope closes. */
export const make = Effect.fnUntraced(function*(
  options: ProgressOptions
): Effect.fn.Return<Progress, never, Scope.Scope> {
  if (!process.stderr.isTTY || process.env["TERM"] === "dumb") return () => {}
  let done = 0
  let bar: Bar | undefined
  yield* Effect.addFinalizer(() => Effect.sync(() => bar?.stop()))
  yield* Effect.forkScoped(
    Effect.andThen(
      Effect.sleep(delay),
      Effect.uninterruptible(Effect.map(Effect.promise(() => startBar(options, done)), (started) => {
        bar = started
      }))
    )
  )
  return (value) => {
    done = value
    bar?.update(value)
  }
})
