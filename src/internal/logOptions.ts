/** What is wrong with the options of a log, before anything is touched. */
import * as Duration from "effect/Duration"
import { InvalidOptions } from "../Errors.ts"
import type { Options } from "../Log.ts"

export const optionsError = (options: Options): InvalidOptions | undefined => {
  const refuse = (detail: string) => new InvalidOptions({ detail })
  for (const name of ["segmentSize", "chunkSize"] as const) {
    const value = options[name]
    if (value !== undefined && !(Number.isSafeInteger(value) && value > 0)) {
      return refuse(`${name} is a whole number of bytes above 0, not ${value}`)
    }
  }
  const { durability, policy } = options
  if (policy !== undefined && policy !== "repair" && policy !== "strict" && policy !== "prefix") {
    return refuse(`policy is repair, strict or prefix, not ${String(policy)}`)
  }
  if (options.directory === "") return refuse("directory is empty")
  if (durability === undefined || durability === "manual" || durability === "always") return undefined
  const interval = Duration.fromInput(durability)
  return interval._tag === "Some" && Duration.isGreaterThan(interval.value, Duration.zero) &&
      Duration.isFinite(interval.value)
    ? undefined
    : refuse("durability is manual, always or an interval above 0")
}
