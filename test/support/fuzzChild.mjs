/**
 * What hostile directories cost, counted and not timed, in a process of its own that runs the built package.
 *
 *   work    opens each kind of hostile segment at two sizes, one four times the other; says for both how many bytes
 *           were read, how many went through the native checksum, and how often the blocks of the package's code ran
 *   memory  reads large sparse segments in small chunks; says the most bytes of buffers that were alive, and of heap
 *
 * Both print one object of JSON for each kind.
 */
import { Effect, Stream } from "effect"
import * as NFS from "node:fs"
import { Session } from "node:inspector/promises"
import { createRequire } from "node:module"
import * as NodeOS from "node:os"
import * as NodePath from "node:path"

const [mode] = process.argv.slice(2)
const say = (value) => NFS.writeSync(1, `${JSON.stringify(value)}\n`)

// Counted before the package loads it, and the very function is called.
const native = createRequire(import.meta.url)("@node-rs/crc32")
const { crc32c } = native
let checked_bytes = 0
native.crc32c = (bytes, seed) => {
  checked_bytes += bytes.length
  return crc32c(bytes, seed)
}

// Blocks are counted only in code that is compiled after this.
const session = new Session()
session.connect()
if (mode === "work") {
  await session.post("Profiler.enable")
  await session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true })
}
const { Disk, Log, Reader } = await import("../../dist/index.js")

/** How often any block of the package's code has run since the last time. */
const blocksRun = async () => {
  const { result } = await session.post("Profiler.takePreciseCoverage")
  let sum = 0
  for (const { functions, url } of result) {
    if (!url.includes("/dist/") || url.includes("node_modules")) continue
    for (const { ranges } of functions) for (const { count } of ranges) sum += count
  }
  return sum
}

// -- segments ---------------------------------------------------------------------------------------------------------

const headerOf = (txid, length) => {
  const header = Buffer.alloc(24)
  header.write("DWAL\u0001\0", "latin1")
  header.writeBigUInt64LE(BigInt(txid), 8)
  header.writeUInt32LE(Math.max(0, Math.min(67_108_864, Math.floor(length) - 28)), 20)
  return header
}

const frameOf = (txid, payload) => {
  const body = Buffer.concat([headerOf(txid, payload.length + 28), payload])
  const crc = Buffer.alloc(4)
  crc.writeUInt32LE(crc32c(body))
  return Buffer.concat([body, crc])
}

/** A record whose checksum does not hold, and which no lost sector explains. */
const damaged = Buffer.from(frameOf(2, Buffer.from("damaged")))
damaged[damaged.length - 1] ^= 0xFF

const behindDamage = (size, fill) => {
  const bytes = Buffer.alloc(size)
  damaged.copy(bytes)
  fill(bytes, damaged.length)
  return bytes
}

const starts = (stride, lengthAt) => (size) =>
  behindDamage(size, (bytes, from) => {
    for (let at = from; at + 24 <= size; at += stride) headerOf(9, lengthAt(at, size)).copy(bytes, at)
  })

const repeated = (piece) => (size) => Buffer.alloc(size - size % piece.length, piece)

/** Logs in records in logs, each record as large as all that it holds. The checksum of every second one holds. */
const nested = (size) => {
  let inner = Buffer.alloc(0)
  for (let depth = 0; 2 * inner.length + 100 < size; depth++) {
    inner = Buffer.concat([frameOf(9, Buffer.concat([inner, frameOf(1, inner)]))])
    if (depth % 2 === 1) inner[inner.length - 1] ^= 0xFF
  }
  return Buffer.concat([damaged, inner, Buffer.alloc(size - inner.length - damaged.length, "nested")])
}

const broken = (bytes) => {
  bytes[bytes.length - 1] ^= 0xFF
  return bytes
}

const kinds = {
  "false starts that claim 64 MiB": starts(24, () => 67_108_864),
  "false starts that end at the same byte": starts(24, (at, size) => size - at),
  "false starts that end all over": starts(24, (at, size) => Math.imul(at, 0x9E37_79B1) % (size - at)),
  "false starts and nothing behind them": (size) => behindDamage(size, (bytes, from) => bytes.fill("DWAL", from)),
  "frames behind damage": (size) => behindDamage(size, (bytes, from) => bytes.fill(frameOf(9, damaged), from)),
  "frames of old txids behind damage": (size) =>
    behindDamage(size, (bytes, from) => bytes.fill(frameOf(1, damaged), from)),
  "a frame of frames that does not hold": (size) =>
    broken(frameOf(1, repeated(frameOf(9, Buffer.from("in a record")))(size))),
  "a frame of logs of logs": (size) => broken(frameOf(1, nested(size))),
  "logs in records in logs": nested,
  "a length beyond the file": (size) => Buffer.concat([headerOf(1, 67_108_864), Buffer.alloc(size, "DWAL\u0001\0")]),
  zeros: (size) => Buffer.alloc(size),
  "one giant frame": (size) => frameOf(1, Buffer.alloc(size, "giant")),
  "one giant frame that does not hold": (size) => broken(frameOf(1, Buffer.alloc(size, "giant"))),
  "the smallest frames": repeated(frameOf(1, Buffer.alloc(0))),
  "small frames and large ones in turn": repeated(
    Buffer.concat([frameOf(1, Buffer.alloc(0)), frameOf(2, Buffer.alloc(4_090))])
  )
}

// -- counting ---------------------------------------------------------------------------------------------------------

const directory = NFS.mkdtempSync(NodePath.join(NFS.existsSync("/dev/shm") ? "/dev/shm" : NodeOS.tmpdir(), "datawal-"))
process.on("exit", () => NFS.rmSync(directory, { recursive: true, force: true }))

let read_bytes = 0
let longest_bytes = 0
let onRead = () => {}

const countingDisk = (disk) => ({
  ...disk,
  open: (path, mode) =>
    Effect.map(disk.open(path, mode), (file) => ({
      ...file,
      read: (into, start, end, position) =>
        Effect.map(file.read(into, start, end, position), (count) => {
          read_bytes += count
          longest_bytes = Math.max(longest_bytes, end - start)
          onRead()
          return count
        })
    }))
})

const run = (effect) =>
  Effect.runPromise(Effect.flatMap(
    Disk.Disk,
    (disk) => Effect.provideService(Effect.scoped(Effect.exit(effect)), Disk.Disk, countingDisk(disk))
  ))

const chunkSize = 4_096

/** What reads a directory from end to end: a reader, and a writer that cuts whatever may be cut. */
const openings = [
  Effect.flatMap(Reader.make({ directory, chunkSize }), (reader) => Stream.runDrain(reader.stream)),
  Log.make({ directory, chunkSize, policy: "prefix" })
]

const path = NodePath.join(directory, "00000001.dwal")

const workOf = async (bytes) => {
  read_bytes = checked_bytes = 0
  await blocksRun()
  for (const opening of openings) {
    for (const name of NFS.readdirSync(directory)) NFS.rmSync(NodePath.join(directory, name))
    NFS.writeFileSync(path, bytes)
    await run(opening)
  }
  return { read_bytes, checked_bytes, blocks: await blocksRun() }
}

if (mode === "work") {
  // More than the pieces in which the package looks for frames behind damage.
  const size = 73_728
  for (const [kind, make] of Object.entries(kinds)) {
    // What runs for the first time is compiled, and counted from then on.
    await workOf(make(4_096))
    say({ kind, size, once: await workOf(make(size)), fourTimes: await workOf(make(4 * size)) })
  }
}

// -- memory -----------------------------------------------------------------------------------------------------------

const mebibyte = 1 << 20

/** A file of holes with pieces at places. */
const sparse = (size, pieces) => {
  const descriptor = NFS.openSync(path, "w")
  NFS.ftruncateSync(descriptor, size)
  for (const [at, piece] of pieces) NFS.writeSync(descriptor, piece, 0, piece.length, at)
  NFS.closeSync(descriptor)
}

const zerosFrame = (length) => {
  const crc = Buffer.alloc(4)
  const header = headerOf(1, length)
  let value = crc32c(header)
  const zeros = Buffer.alloc(mebibyte)
  for (let left = length - 28; left > 0; left -= mebibyte) {
    value = crc32c(zeros.subarray(0, Math.min(mebibyte, left)), value)
  }
  crc.writeUInt32LE(value)
  return { header, crc }
}

const size = 128 * mebibyte
const many = (length, pieces) => Array.from({ length: size / length }, (_, index) => pieces(index * length)).flat()

/** Each kind, and the bytes of its longest frame. */
const sparseKinds = {
  zeros: [28, () => sparse(size, [])],
  "holes behind a torn record": [65_536, () => sparse(size, [[0, damaged]])],
  "lengths that nothing stands behind": [
    64 * mebibyte,
    () => sparse(size, many(64 * mebibyte, (at) => [[at, headerOf(1, 64 * mebibyte)]]))
  ],
  "large frames": [16 * mebibyte, () => {
    const length = 16 * mebibyte
    const { crc, header } = zerosFrame(length)
    sparse(size, many(length, (at) => [[at, header], [at + length - 4, crc]]))
  }]
}

/** What is in use when nothing is at work: buffers are given back some time after their collection. */
const settled = async () => {
  for (let round = 0; round < 5; round++) {
    globalThis.gc()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  return process.memoryUsage()
}

if (mode === "memory") {
  for (const [kind, [frame_bytes, make]] of Object.entries(sparseKinds)) {
    make()
    const before = await settled()
    let [buffers_bytes, heap_bytes, reads] = [0, 0, 0]
    longest_bytes = read_bytes = 0
    onRead = () => {
      // Only what is alive counts, and a collection for each of many thousand reads would take minutes.
      if (reads++ % 64 !== 0 && longest_bytes < mebibyte) return
      globalThis.gc()
      const now = process.memoryUsage()
      buffers_bytes = Math.max(buffers_bytes, now.arrayBuffers - before.arrayBuffers)
      heap_bytes = Math.max(heap_bytes, now.heapUsed - before.heapUsed)
    }
    const exit = await run(openings[0])
    say({ kind, frame_bytes, outcome: exit._tag, longest_bytes, read_bytes, buffers_bytes, heap_bytes })
  }
}
