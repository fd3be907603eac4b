/** What is wrong with the options of a log, a reader or a store, before anything is touched. */
import * as Duration from "effect/Duration"
import * as Schedule from "effect/Schedule"
import { InvalidOptions } from "../Errors.ts"
import type * as Kv from "../Kv.ts"
import type { Wait } from "../Lock.ts"
import type * as Log from "../Log.ts"
import type * as Reader from "../Reader.ts"
import { cache_bytes_max, cache_bytes_min } from "./frameCache.ts"

const refuse = (detail: string): InvalidOptions => new InvalidOptions({ detail })

/** More than that Node does not read at once. */
const chunk_bytes_max = 1_073_741_824

const wholeBytesError = (
  name: string,
  value: number | undefined,
  maximum: number = Number.MAX_SAFE_INTEGER
): InvalidOptions | undefined =>
  value === undefined || (Number.isSafeInteger(value) && value > 0 && value <= maximum)
    ? undefined
    : refuse(`${name} is a whole number of bytes from 1 to ${maximum}, not ${value}`)

const directoryError = (directory: string): InvalidOptions | undefined =>
  // A variable of the environment that is not set is no string, whatever a program was told of it.
  typeof directory !== "string" || directory === "" ? refuse("directory is no path, or empty") : undefined

export const cacheSizeError = ({ cacheSize }: Kv.Cache): InvalidOptions | undefined =>
  cacheSize === undefined || cacheSize === 0 ||
    (Number.isSafeInteger(cacheSize) && cacheSize >= cache_bytes_min && cacheSize <= cache_bytes_max)
    ? undefined
    : refuse(`cacheSize is 0 or ${cache_bytes_min} to ${cache_bytes_max} bytes, not ${cacheSize}`)

export const readerOptionsError = ({ chunkSize, directory }: Reader.Options): InvalidOptions | undefined =>
  directoryError(directory) ?? wholeBytesError("chunkSize", chunkSize, chunk_bytes_max)

export const logOptionsError = (options: Log.Options): InvalidOptions | undefined => {
  const { createIfMissing, durability, policy, segmentSize } = options
  const invalid = wholeBytesError("segmentSize", segmentSize) ?? readerOptionsError(options)
  if (invalid !== undefined) return invalid
  if (policy !== undefined && policy !== "repair" && policy !== "strict" && policy !== "prefix") {
    return refuse(`policy is repair, strict or prefix, not ${String(policy)}`)
  }
  // What a variable of the environment says is a string, and none of those is false.
  if (createIfMissing !== undefined && typeof createIfMissing !== "boolean") {
    return refuse(`createIfMissing is true or false, not ${String(createIfMissing)}`)
  }
  if (durability === undefined || durability === "manual" || durability === "always") return undefined
  const interval = Duration.fromInput(durability)
  return interval._tag === "Some" && Duration.isGreaterThan(interval.value, Duration.zero) &&
      Duration.isFinite(interval.value)
    ? undefined
    : refuse("durability is manual, always or an interval above 0")
}

export const lockOptionsError = (directory: string, wait: Wait | undefined): InvalidOptions | undefined => {
  const invalid = directoryError(directory)
  if (invalid !== undefined || wait === undefined || Schedule.isSchedule(wait)) return invalid
  const limit = Duration.fromInput(wait)
  // NaN and a negative number would count as zero.
  const isInRange = typeof wait !== "number" || wait >= 0
  return isInRange && limit._tag === "Some" && !Duration.isNegative(limit.value)
    ? undefined
    : refuse("the wait for the lock is a time limit of 0 or above, or a schedule")
}

export const kvOptionsError = (options: Kv.Options): InvalidOptions | undefined => {
  const { checkpoint } = options
  if (checkpoint !== undefined && checkpoint !== "auto" && checkpoint !== "always" && checkpoint !== "never") {
    return refuse(`checkpoint is auto, always or never, not ${String(checkpoint)}`)
  }
  // The store builds its own index from what a log would give to these.
  if (options.replay !== undefined) return refuse("replay is an option of a log, not of a store")
  return cacheSizeError(options)
}
