/**
 * A key/value store: the last write of each key in a log wins. The idea is Bitcask's (Sheehy and Smith, 2010): places
 * in memory, values on disk, tombstones, compaction.
 *
 * Reach for it where you would write one file per key, or keep a JSON file up to date: state of agents and daemons,
 * caches that must survive, crawl results. Keys and values are bytes; strings are stored as UTF-8.
 *
 * Every guarantee of `Log` holds, since a put is an append: it survives the process once `put` has resolved, and
 * power loss once `sync` has. Reads see what is written, whether it is durable yet or not, and every value is checked
 * against its checksum and its key before it is given out.
 *
 * The index is in memory, about 33 bytes a key beyond the key's own: values may be larger than memory, keys may not.
 * The small values that were read last are kept, too, as far as `cacheSize` goes.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type {
  CorruptSegment,
  CorruptTail,
  InvalidOptions,
  IoError,
  LimitExceeded,
  LockUnavailable,
  TargetRefused,
  WriterPoisoned
} from "./Errors.ts"
import type { Bytes } from "./internal/bytes.ts"
import type { CheckpointPolicy } from "./internal/checkpointing.ts"
import type { Compacted } from "./internal/compaction.ts"
import type { KeyValue } from "./internal/gather.ts"
import { kvOverLog, openKv, openKvReader } from "./internal/openKv.ts"
import type { Place } from "./internal/segmentFiles.ts"
import type { RecordRef, WriteError } from "./internal/writer.ts"
import * as Log from "./Log.ts"
import type * as Reader from "./Reader.ts"
import type { RecoveryReport } from "./Recovery.ts"

export type {
  /**
   * Bytes, or a string that is stored as UTF-8. Half a surrogate pair, which UTF-8 does not have, becomes U+FFFD: two
   * keys that differ in such halves are one.
   *
   * @category models
   * @since 0.1.0
   */
  Bytes
} from "./internal/bytes.ts"

export type {
  /** Where a record stands. @category models @since 0.1.0 */
  RecordRef,
  /** What a write can fail with. @category errors @since 0.1.0 */
  WriteError
} from "./internal/writer.ts"

export type {
  /** What a compaction wrote: keys, records and the bytes of their frames. @category models @since 0.1.0 */
  Compacted
} from "./internal/compaction.ts"

export type {
  /** When the index is saved. @category options @since 0.1.0 */
  CheckpointPolicy
} from "./internal/checkpointing.ts"

export type {
  /** A key and its value. @category models @since 0.1.0 */
  KeyValue
} from "./internal/gather.ts"

export type {
  /** Where a key's record stands. @category models @since 0.1.0 */
  Place
} from "./internal/segmentFiles.ts"

/**
 * Which keys a stream covers, all conditions together, and in which order.
 *
 * The index has no order: to find the keys of a range it looks at all there are, and what is found is then sorted, if
 * that is asked for. So a page of a hundred keys costs nearly what one stream of all pages does: take them from one
 * stream, or keep an order of your own.
 *
 * @category options
 * @since 0.1.0
 */
export interface Range {
  /** Only keys that start so. */
  readonly prefix?: Bytes | undefined
  /** Only keys from this one on, itself included. */
  readonly from?: Bytes | undefined
  /** Only keys below this one. */
  readonly to?: Bytes | undefined
  /** In ascending order of the keys' bytes; otherwise in no particular order, and sooner. */
  readonly ordered?: boolean | undefined
}

/**
 * What a store holds and what it wastes. Bytes are of whole frames; dead ones are those of overwritten and deleted
 * values, of tombstones and of `Raw` records, and a compaction leaves them behind.
 *
 * @category models
 * @since 0.1.0
 */
export interface Statistics {
  readonly keys: number
  readonly records: number
  readonly liveBytes: number
  readonly deadBytes: number
  readonly segments: number
}

/**
 * What can be asked of a store, whether it is open for write or not.
 *
 * @category models
 * @since 0.1.0
 */
export interface KvRead {
  /** The directory's own path, from the root: see `LogService.directory`. */
  readonly directory: string

  /** What opening found, and, for a writer, cut. */
  readonly report: RecoveryReport

  /**
   * The value of a key, or `undefined`. A small one may share 8 KiB of memory with others, as Node's own small Buffers
   * do: keep a copy (`slice()`) where you keep few of many, or hand one to another thread.
   */
  readonly get: (key: Bytes) => Effect.Effect<Uint8Array<ArrayBuffer> | undefined, IoError | CorruptSegment>

  /** The values of many keys, in their order. */
  readonly getMany: (
    keys: Iterable<Bytes>
  ) => Effect.Effect<Array<Uint8Array<ArrayBuffer> | undefined>, IoError | CorruptSegment>

  /** Whether a key has a value. Asks the index only. */
  readonly has: (key: Bytes) => Effect.Effect<boolean>

  /** Where the record of a key's value stands. */
  readonly refOf: (key: Bytes) => Effect.Effect<Place | undefined>

  /** How many keys have a value. */
  readonly size: Effect.Effect<number>

  /** Whether no key has a value. */
  readonly isEmpty: Effect.Effect<boolean>

  /** The keys that have a value when the stream starts. */
  readonly keys: (range?: Range) => Stream.Stream<Uint8Array<ArrayBuffer>>

  /**
   * The keys and values at the moment the stream starts; later writes do not show in it. Values may share memory, up to
   * 256 KiB: keep a copy (`slice()`) where you keep few of many.
   */
  readonly entries: (range?: Range) => Stream.Stream<KeyValue, IoError | CorruptSegment>

  /**
   * Writes a store that holds just the live values into a directory that is empty or absent. The target appears whole
   * or not at all, and is durable when this resolves; this store is not changed. `TargetRefused` when the target is a
   * file, a symbolic link, the working directory, in this store's directory, or holds something. The target's txids
   * start at 1, so a cursor that is a txid or a place of this store means nothing there. `onProgress` is told how many
   * keys are written.
   */
  readonly compactTo: (
    directory: string,
    options?: { readonly onProgress?: ((keys: number) => void) | undefined }
  ) => Effect.Effect<Compacted, CompactError>

  /** What it holds and what it wastes; of a reader, as it was when it was opened. */
  readonly statistics: Effect.Effect<Statistics>
}

/**
 * What a compaction can fail with. A failed one leaves no target.
 *
 * @category errors
 * @since 0.1.0
 */
export type CompactError = IoError | CorruptSegment | LockUnavailable | TargetRefused

/**
 * What opening for write can fail with: as for a log, and `LimitExceeded` (`keys`) where others have filled the log
 * with more keys than an index has room for. Such a log is read as a log.
 *
 * @category errors
 * @since 0.1.0
 */
export type OpenError = Log.OpenError | LimitExceeded

/**
 * What opening for reading can fail with; `LimitExceeded` as for `OpenError`.
 *
 * @category errors
 * @since 0.1.0
 */
export type ReaderError = IoError | CorruptTail | CorruptSegment | InvalidOptions | LimitExceeded

/**
 * What opening a store over a log that is open can fail with; `LimitExceeded` as for `OpenError`.
 *
 * @category errors
 * @since 0.1.0
 */
export type FromLogError = IoError | CorruptSegment | LimitExceeded

/**
 * How a store is opened: as a log is, how much memory reading it may take, and what becomes of its checkpoint.
 *
 * @category options
 * @since 0.1.0
 */
export interface Options extends Omit<Log.Options, "replay">, Cache {
  /**
   * The index is saved in the directory as `keydir.checkpoint`, so that the next opening reads that file, checks the
   * active segment, and replays only what came after. Records in closed segments are checked when they are read. `auto`
   * (the default) saves it at a rotation and when the store is closed, where that is worth it; `always` then
   * if anything is new; `never` neither saves nor uses one. One that is missing, damaged or not of these very files is
   * not used, nor is any under the policies `strict` and `prefix`.
   */
  readonly checkpoint?: CheckpointPolicy | undefined
  /** The store builds its own index: this is for a log alone. */
  readonly replay?: undefined
}

/**
 * How a store is opened to be read only: as a log is, and how much memory reading it may take.
 *
 * @category options
 * @since 0.1.0
 */
export interface ReaderOptions extends Reader.Options, Cache {}

/**
 * What `get`, `getMany` and `modify` keep of what they have read.
 *
 * @category options
 * @since 0.1.0
 */
export interface Cache {
  /**
   * Bytes of memory for the frames of up to 4 KiB that were read last, so that a value which is asked for again takes
   * no call of the system; it is checked again like what comes from a file, but damage to the file since then does not
   * show. 32 MiB by default, for each store, taken as values are read, and given back when the scope closes. 0 for
   * none, else 128 KiB to 4 GiB.
   */
  readonly cacheSize?: number | undefined
}

/**
 * What can be done with a store that is open for write. Keys and values that are given to a call, or answered by `f`,
 * may not be changed until it has resolved: until then it is open what is written.
 *
 * The first write that fails is an `IoError`, and later ones `WriterPoisoned`, as of a `Log`: what failed may be there
 * all the same when the store is opened again, so look before a `modify` is repeated that must not count twice.
 *
 * @category models
 * @since 0.1.0
 */
export interface KvService extends KvRead {
  /** Sets the value of a key. */
  readonly put: (key: Bytes, value: Bytes) => Effect.Effect<RecordRef, WriteError>

  /**
   * Sets many values, in order. If one passes a limit, none is set; if a write fails, the first few may be. Where the
   * index is nearly full, each key counts as a new one. Once begun it goes on to its end, and an interruption waits for
   * that.
   */
  readonly putMany: (
    entries: Iterable<readonly [key: Bytes, value: Bytes]>
  ) => Effect.Effect<Array<RecordRef>, WriteError>

  /** Removes many keys, in order: as `putMany` sets them. */
  readonly deleteMany: (keys: Iterable<Bytes>) => Effect.Effect<Array<RecordRef>, WriteError>

  /** Removes a key. The tombstone is written even when the key has no value. */
  readonly delete: (key: Bytes) => Effect.Effect<RecordRef, WriteError>

  /**
   * Reads, decides and writes with no other write of this store in between, nor of another `Kv` over the very same log
   * (one over a wrapped log and one over the log itself do not know of each other); only what is put into that log
   * itself (`log.appendRecord`) does not wait. `f` is given the value or `undefined` and returns an answer and the new
   * value: `undefined` removes the key, the bytes it was given, as they were, change nothing. If `f` throws, nothing is
   * written, and the Effect dies with that. Bytes that are answered as they were given are compared with those of the
   * file, which are read once more for that.
   */
  readonly modify: <A>(
    key: Bytes,
    f: (current: Uint8Array<ArrayBuffer> | undefined) => readonly [answer: A, value: Bytes | undefined]
  ) => Effect.Effect<A, WriteError | CorruptSegment>

  /**
   * `modify` with an Effect in the middle. If that fails, or is interrupted, nothing is written, and its failure is
   * that of the whole. All other writes of this store wait for it, so it must not write here itself, which dies: it
   * would wait for its own end. A write in another fiber that it waits for, as in a timeout or an `Effect.all` of
   * several at once, waits for ever. It may read here.
   */
  readonly modifyEffect: <A, E, R>(
    key: Bytes,
    f: (
      current: Uint8Array<ArrayBuffer> | undefined
    ) => Effect.Effect<readonly [answer: A, value: Bytes | undefined], E, R>
  ) => Effect.Effect<A, E | WriteError | CorruptSegment, R>

  /** Makes everything written before it durable. */
  readonly sync: Effect.Effect<void, IoError | WriterPoisoned>
}

/**
 * The store, opened for write.
 *
 * @category services
 * @since 0.1.0
 */
export class Kv extends Context.Service<Kv, KvService>()("effect-datawal/Kv") {}

/**
 * A store that is only read, as it was when it was opened. Takes no lock and changes nothing.
 *
 * @category services
 * @since 0.1.0
 */
export class KvReader extends Context.Service<KvReader, KvRead>()("effect-datawal/KvReader") {}

/**
 * Opens a store for write until the scope closes, with a log of its own.
 *
 * **Example** (A few keys)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Kv } from "effect-datawal"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const kv = yield* Kv.make({ directory: "settings" })
 *   yield* kv.put("colour", "blue")
 *   yield* kv.put("colour", "green")
 *   yield* kv.delete("size")
 *   yield* kv.sync
 *   const colour = yield* kv.get("colour")
 *   return [colour && new TextDecoder().decode(colour), yield* kv.get("size"), yield* kv.size]
 * }))
 *
 * await Effect.runPromise(program) // => ["green", undefined, 1]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<KvService, OpenError, Scope.Scope> =>
  Effect.map(openKv(options), ({ kv }) => kv)

/**
 * `make`, with the log that is under the store: to follow what changes, or to append `Raw` records between the keys.
 *
 * **Example** (A feed of changes)
 *
 * ```ts
 * import { Effect, Stream } from "effect"
 * import { Kv } from "effect-datawal"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const { kv, log } = yield* Kv.makeWithLog({ directory: "stock" })
 *   yield* kv.put("apples", "7")
 *   yield* kv.delete("pears")
 *   return yield* log.follow({ txid: 1 }).pipe(
 *     Stream.map(({ key, type }) => `${type} ${new TextDecoder().decode(key)}`),
 *     Stream.take(2),
 *     Stream.runCollect
 *   )
 * }))
 *
 * await Effect.runPromise(program) // => ["Put apples", "Delete pears"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeWithLog: (
  options: Options
) => Effect.Effect<{ readonly kv: KvService; readonly log: Log.LogService }, OpenError, Scope.Scope> = openKv

/**
 * Opens a store over a log that is open, whose records it reads once more for that; `makeWithLog` opens both with one
 * reading, or a checkpoint. What is appended to that log directly shows in it too. Its cache is the usual one, of
 * 32 MiB at most: see `Cache`.
 *
 * Over a log that is wrapped (`{ ...log, append: … }`) all goes through the wrapper's own members: calls of several
 * fibers under the durability `always` do not share an fsync then.
 *
 * Its scope, when that closes, waits for the writes of this store that have begun: nothing of it lands behind. So it is
 * not to be closed from within one of them, such as by a member of a wrapped log.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromLog: (
  log: Log.LogService
) => Effect.Effect<KvService, FromLogError, Scope.Scope> = kvOverLog

/**
 * `fromLog` of the log that the application provides.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeLog: Effect.Effect<KvService, FromLogError, Log.Log | Scope.Scope> = Effect.flatMap(Log.Log, fromLog)

/**
 * Opens a store for reading, as it is now: without the lock, while somebody else may be writing it. It reads the whole
 * log, not the checkpoint, which may be behind it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeReader = (
  options: ReaderOptions
): Effect.Effect<KvRead, ReaderError, Scope.Scope> => openKvReader(options)

/**
 * A layer of `make`. Bind it to a constant, and provide that once, to the whole program, or to a `ManagedRuntime` where
 * it is run in pieces: two calls are two stores, and so are two fibers that provide it side by side, or two runs. The
 * second meets the first's lock.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Kv, OpenError> => Layer.effect(Kv, make(options))

/**
 * A layer of `makeWithLog`: both services, of one store.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWithLog = (options: Options): Layer.Layer<Kv | Log.Log, OpenError> =>
  Layer.effectContext(
    Effect.map(makeWithLog(options), ({ kv, log }) => Context.add(Context.make(Kv, kv), Log.Log, log))
  )

/**
 * A layer whose options come from configuration.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<Kv, OpenError | Config.ConfigError> => Layer.effect(Kv, Effect.flatMap(Config.unwrap(options), make))

/**
 * A store over the `Log` that the application provides. Provided twice, it keeps an index each time.
 *
 * @category layers
 * @since 0.1.0
 */
// Fresh, for over two logs it must not be one store.
export const layerLog: Layer.Layer<Kv, FromLogError, Log.Log> = Layer.fresh(Layer.effect(Kv, makeLog))

/**
 * A layer of `makeReader`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerReader = (
  options: ReaderOptions
): Layer.Layer<KvReader, ReaderError> => Layer.effect(KvReader, makeReader(options))
