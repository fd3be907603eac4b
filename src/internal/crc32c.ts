/**
 * CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) in two implementations of one function: TypeScript, sixteen
 * bytes a step, and WebAssembly (`crc32c.wat`), which wins where a frame is long enough to pay for being copied there,
 * or is made there (`Bench`).
 *
 * The tables follow "slicing-by-8" (Kounavis and Berry, Intel, 2005), twice as wide. `shift` is the operator behind
 * zlib's `crc32_combine`: multiplication by x^(8n) modulo the polynomial, on which `Sealed` rests as well.
 */
import { module_base64 } from "./crc32cModule.ts"

const polynomial = 0x82F63B78

/** Below this many bytes the portable loop is faster than a copy and a call (measured: 200 to 260). */
export const assembledFrom_bytes = 256

/** Bytes in a step, and tables. */
const slices = 16

const tables: Int32Array = (() => {
  const table = new Int32Array(slices * 256)
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ polynomial : crc >>> 1
    table[byte] = crc
  }
  for (let byte = 0; byte < 256; byte++) {
    let crc = table[byte] as number
    for (let slice = 1; slice < slices; slice++) {
      crc = (crc >>> 8) ^ (table[crc & 0xFF] as number)
      table[slice * 256 + byte] = crc
    }
  }
  return table
})()

/** A checksum of `bytes[start, end)`, continuing from `seed`, the checksum of what came before. */
export type Checksum = (bytes: Uint8Array, start: number, end: number, seed: number) => number

// Made once for a buffer that holds many frames, and for its length: one that can be resized may have another.
let viewed: Uint8Array | undefined
let viewedLength = 0
let view: DataView = new DataView(new ArrayBuffer(0))

// Every index below is `byte & 0xFF` plus the base of one of the tables, or below `end`: the casts say so.
export const portable: Checksum = (bytes, start, end, seed) => {
  if (bytes !== viewed || bytes.length !== viewedLength) {
    viewed = bytes
    viewedLength = bytes.length
    view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
  let crc = ~seed
  let at = start
  for (; at + slices <= end; at += slices) {
    crc ^= view.getInt32(at, true)
    const b = view.getInt32(at + 4, true)
    const c = view.getInt32(at + 8, true)
    const d = view.getInt32(at + 12, true)
    crc = (tables[3840 + (crc & 0xFF)] as number) ^ (tables[3584 + ((crc >>> 8) & 0xFF)] as number) ^
      (tables[3328 + ((crc >>> 16) & 0xFF)] as number) ^ (tables[3072 + (crc >>> 24)] as number) ^
      (tables[2816 + (b & 0xFF)] as number) ^ (tables[2560 + ((b >>> 8) & 0xFF)] as number) ^
      (tables[2304 + ((b >>> 16) & 0xFF)] as number) ^ (tables[2048 + (b >>> 24)] as number) ^
      (tables[1792 + (c & 0xFF)] as number) ^ (tables[1536 + ((c >>> 8) & 0xFF)] as number) ^
      (tables[1280 + ((c >>> 16) & 0xFF)] as number) ^ (tables[1024 + (c >>> 24)] as number) ^
      (tables[768 + (d & 0xFF)] as number) ^ (tables[512 + ((d >>> 8) & 0xFF)] as number) ^
      (tables[256 + ((d >>> 16) & 0xFF)] as number) ^ (tables[d >>> 24] as number)
  }
  if (at + 8 <= end) {
    crc ^= view.getInt32(at, true)
    const d = view.getInt32(at + 4, true)
    at += 8
    crc = (tables[1792 + (crc & 0xFF)] as number) ^ (tables[1536 + ((crc >>> 8) & 0xFF)] as number) ^
      (tables[1280 + ((crc >>> 16) & 0xFF)] as number) ^ (tables[1024 + (crc >>> 24)] as number) ^
      (tables[768 + (d & 0xFF)] as number) ^ (tables[512 + ((d >>> 8) & 0xFF)] as number) ^
      (tables[256 + ((d >>> 16) & 0xFF)] as number) ^ (tables[d >>> 24] as number)
  }
  if (at + 4 <= end) {
    crc ^= view.getInt32(at, true)
    at += 4
    crc = (tables[768 + (crc & 0xFF)] as number) ^ (tables[512 + ((crc >>> 8) & 0xFF)] as number) ^
      (tables[256 + ((crc >>> 16) & 0xFF)] as number) ^ (tables[crc >>> 24] as number)
  }
  for (; at < end; at++) crc = (crc >>> 8) ^ (tables[(crc ^ (bytes[at] as number)) & 0xFF] as number)
  return ~crc >>> 0
}

/** What is used of WebAssembly. The types of ECMAScript do not have it, nor do those of Node. */
declare const WebAssembly: {
  readonly Module: new(bytes: Uint8Array) => object
  readonly Instance: new(module: object) => { readonly exports: Assembled }
}

/** What `crc32c.wat` exports; its places and lengths are below. */
interface Assembled {
  readonly memory: { readonly buffer: ArrayBuffer }
  readonly update: (at: number, length: number, state: number) => number
  readonly seal: (at: number, frames: number) => void
}

const input_at = 33_792
const input_bytes_max = 16_384
const bench_at = 50_176

/** Room on the bench: for what one blocking write takes. */
export const bench_bytes = 262_144

/** Memory of the module, where frames are made whose checksums then take neither a copy nor a call for each. */
export interface Bench {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly view: DataView
  /** Writes the checksums of so many frames, back to back from the start. */
  readonly seal: (frames: number) => void
}

interface Assembly {
  readonly checksum: Checksum
  readonly bench: Bench | undefined
}

/** The implementation in WebAssembly, or the portable one where there is none, as under `--jitless`. */
export const assemble = (): Assembly => {
  try {
    const module = new WebAssembly.Module(Buffer.from(module_base64, "base64"))
    const { memory, seal, update } = new WebAssembly.Instance(module).exports
    new Int32Array(memory.buffer).set(tables)
    const input = new Uint8Array(memory.buffer, input_at, input_bytes_max)
    const checksum: Checksum = (bytes, start, end, seed) => {
      let state = ~seed
      for (let at = start; at < end; at += input_bytes_max) {
        const next = Math.min(end, at + input_bytes_max)
        input.set(bytes.subarray(at, next))
        state = update(input_at, next - at, state)
      }
      return ~state >>> 0
    }
    const bytes = new Uint8Array(memory.buffer, bench_at, bench_bytes)
    const view = new DataView(memory.buffer, bench_at, bench_bytes)
    return { checksum, bench: { bytes, view, seal: (frames) => seal(bench_at, frames) } }
  } catch {
    return { checksum: portable, bench: undefined }
  }
}

// Made for the first long input: a process that only looks at short records needs none.
let assembly: Assembly | undefined
let long: Checksum = (bytes, start, end, seed) => {
  assembly ??= assemble()
  long = assembly.checksum
  return long(bytes, start, end, seed)
}

let isLent = false

/**
 * Lends the bench until `use` returns: not to two at once, as when the disk that one of them writes to is a program's
 * own, which writes to another log. Without it, or where that is all too short to pay, `use` gets `undefined`.
 */
export const onBench = <A>(bytes: number, use: (bench: Bench | undefined) => A): A => {
  if (isLent || bytes < assembledFrom_bytes || bytes > bench_bytes) return use(undefined)
  assembly ??= assemble()
  isLent = true
  try {
    return use(assembly.bench)
  } finally {
    isLent = false
  }
}

export const crc32c: Checksum = (bytes, start, end, seed) =>
  end - start < assembledFrom_bytes ? portable(bytes, start, end, seed) : long(bytes, start, end, seed)

/** a · b modulo the polynomial, bits reflected: the highest bit is x^0. */
const multiply = (a: number, b: number): number => {
  let product = 0
  for (let bit = 31; bit >= 0; bit--) {
    if ((a >>> bit) & 1) product ^= b
    b = b & 1 ? (b >>> 1) ^ polynomial : b >>> 1
  }
  return product
}

// x^(8·2^k), one for each bit of a byte count below 2^32.
const powers: Int32Array = (() => {
  const powers = new Int32Array(32)
  let power = 0x00800000
  for (let k = 0; k < 32; k++) {
    powers[k] = power
    power = multiply(power, power)
  }
  return powers
})()

/**
 * What the checksum `crc` of some bytes turns into under `count` more bytes, so that
 * `crc32c(a ++ b) = shift(crc32c(a), b.length) ^ crc32c(b)`. Takes time in the logarithm of `count`.
 */
export const shift = (crc: number, count: number): number => {
  for (let k = 0; count > 0; k++, count = Math.floor(count / 2)) {
    if (count % 2 === 1) crc = multiply(powers[k] as number, crc)
  }
  return crc >>> 0
}

/** What `crc32c` makes of any bytes that end in their own checksum, little-endian. */
const residue = 0x48674BC7

const block_bits = 12
const block_bytes = 1 << block_bits

/** `shift(residue, n)` at n; and four tables, one for each byte of a checksum, that add up to a shift by a block. */
interface SealedTables {
  readonly residues: Int32Array
  readonly block: Int32Array
}

let sealedTables: SealedTables | undefined

const makeSealedTables = (): SealedTables => {
  const residues = new Int32Array(block_bytes)
  for (let n = 0, crc = residue; n < block_bytes; n++) {
    residues[n] = crc
    crc = (crc >>> 8) ^ (tables[crc & 0xFF] as number)
  }
  const block = new Int32Array(4 * 256)
  const power = powers[block_bits] as number
  for (let i = 0; i < block.length; i++) block[i] = multiply(power, (i & 0xFF) << (8 * (i >>> 8)))
  return { residues, block }
}

/**
 * The checksum of messages back to back that each end in their own, little-endian. It depends on nothing but where
 * they end: the sum of `shift(residue, n)` over the n bytes that are left behind each of them.
 */
export class Sealed {
  /** Of what ends before the last `#blocks` whole blocks, shifted up to their start. */
  #sum = 0
  #blocks: number
  readonly #tables: SealedTables

  constructor(length: number) {
    this.#blocks = length >>> block_bits
    this.#tables = sealedTables ??= makeSealedTables()
  }

  /** One ends here: `rest` bytes are left, fewer than at the call before and none behind the last one. */
  end(rest: number): void {
    const { block, residues } = this.#tables
    for (const blocks = rest >>> block_bits; this.#blocks > blocks; this.#blocks--) {
      const sum = this.#sum
      this.#sum = (block[sum & 0xFF] as number) ^ (block[256 + ((sum >>> 8) & 0xFF)] as number) ^
        (block[512 + ((sum >>> 16) & 0xFF)] as number) ^ (block[768 + (sum >>> 24)] as number)
    }
    this.#sum ^= residues[rest & (block_bytes - 1)] as number
  }

  get checksum(): number {
    return this.#sum >>> 0
  }
}
