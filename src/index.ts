/**
 * A record store for Effect on Node: an append-only log, a key/value projection of it, and its export.
 *
 * @since 0.1.0
 */

/** The port to the operating system. @since 0.1.0 */
export * as Disk from "./Disk.ts"

/** The typed errors. @since 0.1.0 */
export * as Errors from "./Errors.ts"

/** The live state as JSON lines, and back. @since 0.1.0 */
export * as Export from "./Export.ts"

/** The bytes of one record. @since 0.1.0 */
export * as Frame from "./Frame.ts"

/** The key/value store. @since 0.1.0 */
export * as Kv from "./Kv.ts"

/** The directory lock. @since 0.1.0 */
export * as Lock from "./Lock.ts"

/** The append-only log. @since 0.1.0 */
export * as Log from "./Log.ts"

/** Reading without the lock. @since 0.1.0 */
export * as Reader from "./Reader.ts"

/** From bytes to records, and the verdict on damage. @since 0.1.0 */
export * as Recovery from "./Recovery.ts"

/** What is whole in a damaged store. @since 0.1.0 */
export * as Salvage from "./Salvage.ts"
