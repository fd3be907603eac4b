/**
 * The checkpoint: the keydir as one file in the store's directory, so that opening reads it and then only what was
 * written after it. It is derived data. Whatever is wrong with it, the log is read instead; other programs ignore it.
 *
 * | part | holds |
 * | --- | --- |
 * | magic | the bytes `DWKD` |
 * | version, length | two words; the length is the header's |
 * | header | JSON, filled up with spaces to a whole word: what is covered, and what is not in the arrays |
 * | slabs | for each its capacity, where its records end, and the words of live ones |
 * | stripes | for each the words of its table, 0 if it is empty, and the keys in it |
 * | words | of each slab, of the open one up to its end, then of each table |
 * | checksum | CRC-32 of everything before it |
 *
 * Words are 32 bits in the byte order of the machine that wrote them; on one of the other order the version is wrong.
 *
 * Invariants:
 *
 * - What a checkpoint covers was durable before the checkpoint was written, and the file has its name only once it is
 *   durable itself.
 * - It counts only while every segment it covers is the very file it was: the same inode, size and times. The last one
 *   may have grown; then the covered part must have the checksum it had, and that of the active one always. It is not
 *   CRC-32C, of which whole frames, as each ends in its own, leave the same whatever is in them.
 * - Nothing is allocated for a length that the size of the file does not bear out, and no file, whatever is in it and
 *   even if its checksum is right, makes a later call run off an array or never end.
 * - A file of one of its names that is not a checkpoint is somebody else's, and is neither read nor replaced.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as NodePath from "node:path"
import { crc32 } from "node:zlib"
import * as Disk from "../Disk.ts"
import type { IoError } from "../Errors.ts"
import { listSegments, segmentPath } from "../Recovery.ts"
import { replaceFile } from "./beside.ts"
import { type FrozenKeydir, slabs_max, stripes } from "./keydir.ts"
import * as keyRecord from "./keyRecord.ts"
import { noSlots, table_words_min } from "./keyTable.ts"
import type { Covered } from "./repair.ts"
import { ofStore } from "./storeLogs.ts"

/** The file's name in the store's directory; it is written under the second one. */
export const checkpointName = "keydir.checkpoint"
const newName = `${checkpointName}.new`

const magic = Buffer.from("DWKD")
const version = 2
const start_words = 3
const slab_sizes = 3
const stripe_sizes = 2

const chunk_bytes = 1_048_576
/** Reads under way at once: the system fills new memory on other threads while this one looks at what is there. */
const readers = 2
/** What the list of 150,000 segments takes. */
const header_bytes_max = 2 ** 24

const Count = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }))

const Header = Schema.fromJsonString(Schema.Struct({
  segments: Schema.Array(Schema.Struct({ id: Count, bytes: Count, identity: Schema.String })),
  /** CRC-32 of the covered bytes of the last segment. */
  crc: Count,
  records: Count,
  txid: Count,
  live_bytes: Count,
  seed: Schema.Tuple([Schema.Int, Schema.Int]),
  open_slab: Count,
  slabs: Count
}))

/** A keydir, the log it is of, and the bytes of live records in it. */
export interface Checkpoint {
  readonly covered: Covered
  readonly liveBytes: number
  readonly keydir: FrozenKeydir
}

/** Writes a checkpoint in the place of the one that is there. What it covers must be durable. */
export const save = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string,
  { covered, keydir, liveBytes }: Checkpoint
): Effect.fn.Return<void, IoError | string> {
  const path = NodePath.join(directory, checkpointName)
  const building = NodePath.join(directory, newName)
  const last = covered.segments.at(-1)
  if (last === undefined) return yield* Effect.fail("there is no segment")
  const leftover = yield* checkNames(disk, directory)
  const segments = yield* Effect.forEach(
    covered.segments,
    ({ bytes, id }) => Effect.map(disk.identity(segmentPath(directory, id)), (identity) => ({ id, bytes, identity }))
  )
  const header: typeof Header.Encoded = JSON.stringify(
    {
      segments,
      crc: yield* checksumOf(disk, segmentPath(directory, last.id), last.bytes),
      records: covered.records,
      txid: covered.txid,
      live_bytes: liveBytes,
      seed: keydir.seed,
      open_slab: keydir.openSlab,
      slabs: keydir.words.length
    } satisfies typeof Header.Type
  )
  if (header.length > header_bytes_max - 3) return yield* Effect.fail("there are too many segments")
  if (leftover) yield* disk.remove(building)
  yield* replaceFile(disk, path, building, (file) => write(file, header, keydir))
})

/** Whether a crash has left an unfinished checkpoint; fails when one of the names is somebody else's. */
const checkNames = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string
): Effect.fn.Return<boolean, IoError | string> {
  let leftover = false
  for (const { isFile, name } of yield* disk.list(directory)) {
    if (name !== checkpointName && name !== newName) continue
    const start = isFile ? yield* startOf(disk, NodePath.join(directory, name)) : undefined
    // What a crash leaves of a file that was not synced can be shorter, and zeros where it was not written.
    const isOurs = name === newName
      ? start?.every((byte, at) => byte === magic[at] || byte === 0)
      : start !== undefined && magic.equals(start)
    if (isOurs !== true) return yield* Effect.fail(`${name} is not a checkpoint; if it is nobody's, remove it`)
    if (name === newName) leftover = true
  }
  return leftover
})

const startOf = (disk: Disk.DiskService, path: string): Effect.Effect<Uint8Array, IoError> =>
  Effect.scoped(Effect.flatMap(Disk.openScoped(disk, path, "read"), (file) => {
    const start = new Uint8Array(magic.length)
    return Effect.map(Disk.readFully(file, start, 0, start.length, 0), (count) => start.subarray(0, count))
  }))

const write = Effect.fnUntraced(function*(
  file: Disk.DiskFile,
  header: string,
  { counts, ends, lives, openSlab, tables, words }: FrozenKeydir
): Effect.fn.Return<void, IoError> {
  const chunk = Buffer.allocUnsafeSlow(chunk_bytes)
  let used = 0
  let crc = 0
  const flush = Effect.suspend(() => {
    crc = checksum(chunk.subarray(0, used), crc)
    return Effect.map(Disk.appendFully(file, chunk, 0, used), () => {
      used = 0
    })
  })
  const add = Effect.fnUntraced(function*(bytes: Uint8Array): Effect.fn.Return<void, IoError> {
    for (let at = 0; at < bytes.length;) {
      const count = Math.min(bytes.length - at, chunk_bytes - used)
      chunk.set(bytes.subarray(at, at + count), used)
      at += count
      used += count
      if (used === chunk_bytes) yield* flush
    }
  })
  const text = Buffer.from(header)
  const filled = Buffer.concat([text, Buffer.alloc(-text.length & 3, " ")])
  yield* add(magic)
  yield* add(bytesOf(Uint32Array.of(version, filled.length)))
  yield* add(filled)
  yield* add(
    bytesOf(Uint32Array.from(words.flatMap((words, slab) => [words.length, ends[slab] ?? 0, lives[slab] ?? 0])))
  )
  yield* add(
    bytesOf(Uint32Array.from(tables.flatMap((table, at) => [table === noSlots ? 0 : table.length, counts[at] ?? 0])))
  )
  for (const [slab, all] of words.entries()) yield* add(bytesOf(slab === openSlab ? all.subarray(0, ends[slab]) : all))
  for (const table of tables) if (table !== noSlots) yield* add(bytesOf(table))
  yield* flush
  yield* add(bytesOf(Uint32Array.of(crc)))
  yield* Disk.appendFully(file, chunk, 0, used)
})

/**
 * The checkpoint of a directory, if it is whole and about the files that are there now. For a writer with the lock.
 */
export const load = (disk: Disk.DiskService, directory: string): Effect.Effect<Checkpoint | undefined> =>
  Effect.catch(
    Effect.scoped(read(disk, directory)),
    (why) =>
      Effect.as(
        ofStore(directory, Effect.logDebug("the checkpoint is not used, the log is read instead", why)),
        undefined
      )
  )

const read = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string
): Effect.fn.Return<Checkpoint | undefined, IoError | string, Scope.Scope> {
  // Opening what is no file may wait for ever, or have effects.
  const names = yield* disk.list(directory)
  if (!names.some(({ isFile, name }) => isFile && name === checkpointName)) return undefined
  const file = yield* Disk.openScoped(disk, NodePath.join(directory, checkpointName), "read")
  const input = new Input(file, yield* file.size)
  const start = yield* input.words(start_words)
  const [, foundVersion, headerBytes = 0] = start
  if (!magic.equals(bytesOf(start).subarray(0, magic.length)) || foundVersion !== version) {
    return yield* Effect.fail("it is none, or a newer one")
  }
  if (headerBytes > header_bytes_max || headerBytes % 4 !== 0) return yield* Effect.fail("its header is damaged")
  const text = Buffer.from((yield* input.words(headerBytes / 4)).buffer).toString()
  const header = yield* Effect.mapError(Schema.decodeUnknownEffect(Header)(text), () => "its header is damaged")
  const [keydir] = yield* Effect.all([readKeydir(input, header), checkSegments(disk, directory, header)], {
    concurrency: "unbounded"
  })
  return {
    covered: {
      segments: header.segments.map(({ bytes, id }) => ({ id, bytes })),
      records: header.records,
      txid: header.txid
    },
    liveBytes: header.live_bytes,
    keydir
  }
})

const readKeydir = Effect.fnUntraced(function*(
  input: Input,
  { open_slab, seed, slabs }: typeof Header.Type
): Effect.fn.Return<FrozenKeydir, IoError | string> {
  const slabSizes = yield* input.words(slab_sizes * slabs)
  const stripeSizes = yield* input.words(stripe_sizes * stripes)
  const column = (sizes: Uint32Array, columns: number, index: number) => sizes.filter((_, at) => at % columns === index)
  const capacities = column(slabSizes, slab_sizes, 0)
  const ends = column(slabSizes, slab_sizes, 1)
  const lives = column(slabSizes, slab_sizes, 2)
  const tableWords = column(stripeSizes, stripe_sizes, 0)
  const counts = column(stripeSizes, stripe_sizes, 1)
  const slabWords = capacities.map((capacity, slab) => slab === open_slab ? ends[slab] ?? 0 : capacity)
  const expected_words = [...slabWords, ...tableWords].reduce((sum, words) => sum + words, 1)
  if (input.left !== 4 * expected_words) return yield* Effect.fail("its length is wrong")
  if (capacities[0] !== 0 || slabs > slabs_max || open_slab >= slabs) return yield* Effect.fail("its slabs are damaged")
  let records = 0
  const words: Array<Uint32Array> = []
  const tables: Array<Int32Array> = []
  for (const [slab, capacity] of capacities.entries()) {
    // A slab is nearly full, or the open one: its capacity needs no more than its records do.
    const end = ends[slab] ?? 0
    if (end > capacity || capacity > (slab === open_slab ? keyRecord.slab_words : 2 * end)) {
      return yield* Effect.fail("a slab is damaged")
    }
  }
  const takeSlab = (slab: number) => (buffer: ArrayBuffer, at: number): string | undefined => {
    const target = new Uint32Array(buffer, at, capacities[slab])
    const live = liveRecords(target, ends[slab] ?? 0, lives[slab] ?? 0)
    if (live === undefined) return "a slab is damaged"
    records += live
    words.push(target)
    return undefined
  }
  const limits = Int32Array.from(ends, (end) => end - keyRecord.header_words)
  // An empty slot is 0, which is the first word of a slab that is never used.
  limits[0] = 0
  const takeTable = (stripe: number) => (buffer: ArrayBuffer, at: number): string | undefined => {
    const length = tableWords[stripe] ?? 0
    const count = counts[stripe] ?? 0
    const table = length === 0 && count === 0 ? noSlots : new Int32Array(buffer, at, length)
    if (!isSoundTable(table, count, limits)) return "a table is damaged"
    records -= count
    tables.push(table)
    return undefined
  }
  yield* input.parts(Array.from(slabWords, (words, slab) => ({
    bytes: 4 * words,
    room: 4 * ((capacities[slab] ?? 0) - words),
    take: takeSlab(slab)
  })))
  yield* input.parts(
    Array.from(tableWords, (words, stripe) => ({ bytes: 4 * words, room: 0, take: takeTable(stripe) }))
  )
  const { crc } = input
  const [foundCrc] = yield* input.words(1)
  if (foundCrc !== crc) return yield* Effect.fail("its checksum is wrong")
  if (records !== 0) return yield* Effect.fail("its tables are not of its slabs")
  return { seed, openSlab: open_slab, words, ends: Array.from(ends), lives: Array.from(lives), tables, counts }
})

/** How many live records a slab has; `undefined` when they do not fill it as they should. */
const liveRecords = (words: Uint32Array, end: number, live: number): number | undefined => {
  let records = 0
  let liveWords = 0
  let at = 0
  while (at < end && at < keyRecord.slab_words) {
    const size = keyRecord.header_words + keyRecord.keyWords(keyRecord.keyLenAt(words, at))
    if (keyRecord.isLiveAt(words, at)) {
      records++
      liveWords += size
    }
    at += size
  }
  return at === end && liveWords === live ? records : undefined
}

/**
 * Whether a look-up in it comes to an end, and what it finds is in a slab: no entry is behind the limit of its slab.
 * Which slots are empty is at random, so that is counted without a branch.
 */
const isSoundTable = (table: Int32Array, count: number, limits: Int32Array): boolean => {
  if (table === noSlots) return true
  if (table.length < table_words_min || (table.length & (table.length - 1)) !== 0) return false
  let used = 0
  for (let slot = 0; slot < table.length; slot += 2) {
    const entry = table[slot] as number
    const limit = limits[entry >>> keyRecord.slab_bits]
    if (limit === undefined || (entry & (keyRecord.slab_words - 1)) > limit) return false
    used += (entry | (0 - entry)) >>> 31
  }
  return used === count && 8 * used <= 3 * table.length
}

/**
 * Whether the segments of the header are as they were; whether there are others among them is for recovery to see. The
 * active one is always read: what is appended next must not stand behind damage.
 */
const checkSegments = Effect.fnUntraced(function*(
  disk: Disk.DiskService,
  directory: string,
  { crc, segments }: typeof Header.Type
): Effect.fn.Return<void, IoError | string> {
  const active = (yield* Effect.provideService(listSegments(directory), Disk.Disk, disk)).at(-1)
  for (const [index, { bytes, id, identity }] of segments.entries()) {
    const path = segmentPath(directory, id)
    if (id !== active && identity === (yield* disk.identity(path))) continue
    const unchanged = index === segments.length - 1 && crc === (yield* checksumOf(disk, path, bytes))
    if (!unchanged) return yield* Effect.fail("a segment has changed")
  }
})

/** zlib takes no bytes for the wish to begin anew. */
const checksum = (bytes: Uint8Array, crc: number): number => bytes.length === 0 ? crc : crc32(bytes, crc)

/** CRC-32 of a file's first bytes; of all it has, if they are fewer. */
const checksumOf = (disk: Disk.DiskService, path: string, bytes: number): Effect.Effect<number, IoError> =>
  Effect.scoped(Effect.gen(function*() {
    const file = yield* Disk.openScoped(disk, path, "read")
    const chunk = new Uint8Array(Math.min(chunk_bytes, bytes))
    let crc = 0
    for (let at = 0; at < bytes;) {
      const count = yield* Disk.readFully(file, chunk, 0, Math.min(chunk.length, bytes - at), at)
      if (count === 0) break
      crc = crc32(chunk.subarray(0, count), crc)
      at += count
    }
    return crc
  }))

/** The next bytes of a file, room behind them, and what makes something of both, or says what is wrong. */
interface Part {
  readonly bytes: number
  readonly room: number
  readonly take: (buffer: ArrayBuffer, at: number) => string | undefined
}

/** In groups of about a chunk, which are read at once and share memory. What has room behind it is the last of one. */
const grouped = (parts: ReadonlyArray<Part>) => {
  let group = { parts: Array<Part>(), bytes: 0, room: 0 }
  const groups = [group]
  for (const part of parts) {
    if (group.room > 0 || group.bytes + part.bytes > chunk_bytes) {
      groups.push(group = { parts: [], bytes: 0, room: 0 })
    }
    group.parts.push(part)
    group.bytes += part.bytes
    group.room = part.room
  }
  return groups
}

/** Reads a file from its start. */
class Input {
  crc = 0
  readonly #file: Disk.DiskFile
  readonly #size: number
  #at = 0

  constructor(file: Disk.DiskFile, size: number) {
    this.#file = file
    this.#size = size
  }

  get left(): number {
    return this.#size - this.#at
  }

  readonly words = Effect.fnUntraced(function*(
    this: Input,
    count: number
  ): Effect.fn.Return<Uint32Array<ArrayBuffer>, IoError | string> {
    if (4 * count > this.left) return yield* Effect.fail("it is cut short")
    const words = new Uint32Array(count)
    const bytes = bytesOf(words)
    yield* this.#read(bytes, this.#at)
    this.#at += bytes.length
    for (let from = 0; from < bytes.length; from += chunk_bytes) {
      this.crc = crc32(bytes.subarray(from, from + chunk_bytes), this.crc)
    }
    return words
  })

  /** Reads several groups of parts at a time. Each is taken when all before it have been. */
  readonly parts = Effect.fnUntraced(function*(
    this: Input,
    parts: ReadonlyArray<Part>
  ): Effect.fn.Return<void, IoError | string> {
    const groups = grouped(parts)
    const arrived: Array<Uint8Array<ArrayBuffer> | undefined> = []
    let next = 0
    let taken = 0
    const read = Effect.fnUntraced(function*(this: Input): Effect.fn.Return<void, IoError | string> {
      for (let group = groups[next]; group !== undefined; group = groups[next]) {
        const index = next++
        const position = this.#at
        this.#at += group.bytes
        const bytes = new Uint8Array(group.bytes + group.room).subarray(0, group.bytes)
        yield* this.#read(bytes, position)
        arrived[index] = bytes
        for (let bytes = arrived[taken]; bytes !== undefined; bytes = arrived[taken]) {
          const wrong = this.#take(bytes, groups[taken]?.parts ?? [])
          if (wrong !== undefined) return yield* Effect.fail(wrong)
          arrived[taken++] = undefined
        }
      }
    })
    yield* Effect.all(Array.from({ length: readers }, () => read.call(this)), {
      concurrency: "unbounded",
      discard: true
    })
  })

  #take(bytes: Uint8Array<ArrayBuffer>, parts: ReadonlyArray<Part>): string | undefined {
    this.crc = checksum(bytes, this.crc)
    let at = 0
    for (const part of parts) {
      const wrong = part.take(bytes.buffer, at)
      if (wrong !== undefined) return wrong
      at += part.bytes
    }
    return undefined
  }

  readonly #read = Effect.fnUntraced(function*(
    this: Input,
    bytes: Uint8Array,
    position: number
  ): Effect.fn.Return<void, IoError | string> {
    const count = yield* Disk.readFully(this.#file, bytes, 0, bytes.length, position)
    if (count < bytes.length) return yield* Effect.fail("it is cut short")
  })
}

const bytesOf = (words: Uint32Array | Int32Array): Uint8Array =>
  new Uint8Array(words.buffer, words.byteOffset, words.byteLength)
