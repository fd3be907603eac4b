/** Frames and bytes to make hostile files of, and the changes of a segment that know the format. */
import { crc32c } from "@node-rs/crc32"
import { frameAt, framesFrom } from "./fuzzReference.ts"
import { joined, type Source } from "./fuzzSource.ts"

interface FrameFields {
  readonly type?: number | undefined
  readonly txid: number | bigint
  readonly key?: Uint8Array | undefined
  readonly payload?: Uint8Array | undefined
}

const nothing = new Uint8Array(0)

/** What a frame starts with, a Raw record's. */
const opening = Uint8Array.of(0x44, 0x57, 0x41, 0x4C, 1, 0, 0, 0)

/** A sound frame, unless its fields are not. */
export const frameOf = ({ key = nothing, payload = nothing, txid, type = 0 }: FrameFields): Uint8Array => {
  const bytes = new Uint8Array(28 + key.length + payload.length)
  const view = new DataView(bytes.buffer)
  bytes.set(opening)
  bytes[6] = type
  view.setBigUint64(8, BigInt(txid), true)
  view.setUint32(16, key.length, true)
  view.setUint32(20, payload.length, true)
  bytes.set(key, 24)
  bytes.set(payload, 24 + key.length)
  return seal(bytes, 0)
}

/** Puts the right checksum behind the frame that the header at `at` claims, if it is there. */
const seal = (bytes: Uint8Array, at: number): Uint8Array => {
  if (at + 28 > bytes.length) return bytes
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const body = at + 24 + view.getUint32(at + 16, true) + view.getUint32(at + 20, true)
  if (body + 4 <= bytes.length) view.setUint32(body, crc32c(bytes.subarray(at, body)), true)
  return bytes
}

// -- contents ---------------------------------------------------------------------------------------------------------

/** What is interesting about a number that the format knows. */
const txids: readonly [bigint, ...ReadonlyArray<bigint>] = [
  1n,
  0n,
  2n,
  5n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 53n - 2n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n
]

const lengthOf = (source: Source): number => {
  switch (source.below(8)) {
    case 0:
      return source.below(8)
    case 1:
      return source.below(64)
    case 2:
      return 400 + source.below(200)
    case 3:
      return 512 * source.between(1, 4) - 28 + source.between(-6, 6)
    case 4:
      return source.below(2_000)
    case 5:
      return source.chance(20) ? 65_536 + source.between(-80, 80) : source.below(200)
    case 6:
      return source.chance(20) ? source.below(20_000) : source.below(600)
    default:
      return 0
  }
}

/** Headers that a search for frames has to look at: `count` of them, every `stride` bytes or so. */
export const falseStarts = (source: Source, count: number): Uint8Array => {
  const stride = source.oneOf([24, 4, 8, 25, 28, 32, 60])
  const bytes = new Uint8Array(count * stride + 24)
  const header = frameOf({ txid: source.oneOf(txids) }).subarray(0, Math.min(stride, 24))
  const view = new DataView(bytes.buffer)
  const claim = source.below(6)
  for (let index = 0; index < count; index++) {
    const at = index * stride
    bytes.set(header, at)
    if (header.length < 24) continue
    const lengths = [0, bytes.length - at - 28, bytes.length / 2, (at * 7) % 3_000, 67_108_864, at]
    view.setUint32(at + 20, Math.max(0, Math.floor(lengths[claim] ?? 0)), true)
  }
  return bytes
}

/** A log of a few records, as one finds it inside a record. */
const nestedLog = (source: Source, depth: number): Uint8Array => {
  let txid = source.oneOf(txids)
  const frames: Array<Uint8Array> = []
  for (let count = source.below(5); count >= 0; count--) {
    const payload = depth > 0 ? contentOf(source, source.below(60), depth - 1) : source.noise(source.below(20))
    frames.push(frameOf({ type: source.below(3), txid, payload }))
    txid = (txid + 1n) % 2n ** 64n
  }
  return joined(...frames)
}

/** Bytes of about that length: noise, zeros, logs, the openings of frames. */
export const contentOf = (source: Source, length: number, depth = 1): Uint8Array => {
  switch (source.below(7)) {
    case 0:
      return new Uint8Array(length).fill(0x78)
    case 1:
      return source.noise(length)
    case 2:
      return new Uint8Array(length)
    case 3:
      return joined(source.noise(source.below(40)), nestedLog(source, depth), source.noise(source.below(40)))
    case 4: {
      const bytes = source.noise(length)
      const from = source.below(length + 1)
      return bytes.fill(0, from, from + 512 * source.between(1, 3))
    }
    case 5:
      return falseStarts(source, source.below(source.chance(5) ? 1_000 : 30))
    default:
      return joined(source.noise(length), opening.subarray(0, source.below(9)))
  }
}

export const recordOf = (source: Source, txid: number | bigint): Uint8Array => {
  const type = source.below(3)
  const keys: ReadonlyArray<Uint8Array> = [Buffer.from("k"), nothing, Buffer.from("key"), new Uint8Array(3)]
  const key = source.chance(2) ? source.noise(65_536) : source.among(keys)
  const payload = type === 2 && source.chance(90) ? nothing : contentOf(source, lengthOf(source))
  return frameOf({ type, txid, key: type === 0 && source.chance(70) ? nothing : key, payload })
}

// -- changes of a segment ---------------------------------------------------------------------------------------------

interface Span {
  readonly at: number
  readonly len: number
}

/** The frames at the start of a segment, and of what stands behind them the places where another may start. */
const startsOf = (
  bytes: Uint8Array
): { readonly sound: ReadonlyArray<Span>; readonly others: ReadonlyArray<number> } => {
  const { end, records } = framesFrom(bytes, 0, 0)
  const others: Array<number> = []
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  for (let at = buffer.indexOf("DWAL"); at >= 0 && others.length < 64; at = buffer.indexOf("DWAL", at + 1)) {
    others.push(at)
  }
  if (end < bytes.length) others.push(end)
  return { sound: records.map(({ len, offset }) => ({ at: offset, len })), others }
}

const someStart = (source: Source, bytes: Uint8Array): number => {
  const { others, sound } = startsOf(bytes)
  return (source.chance(80) ? source.among(sound)?.at : source.among(others)) ?? source.below(bytes.length + 1)
}

/** A place: near a frame's edges or a sector's, or anywhere. */
const somePlace = (source: Source, bytes: Uint8Array): number => {
  const kind = source.below(4)
  const at = kind === 0
    ? source.below(bytes.length + 1)
    : kind === 1
    ? someStart(source, bytes) + source.below(30)
    : kind === 2
    ? 512 * source.below(bytes.length / 512 + 1) + source.between(-2, 2)
    : bytes.length - source.below(40)
  return Math.max(0, Math.min(bytes.length, at))
}

const withValue = (bytes: Uint8Array, at: number, size: number, value: bigint): Uint8Array => {
  const copy = bytes.slice()
  for (let index = 0; index < size && at + index < copy.length; index++) {
    copy[at + index] = Number((value >> BigInt(8 * index)) & 0xFFn)
  }
  return copy
}

const flipped = (bytes: Uint8Array, at: number, mask: number): Uint8Array =>
  at < bytes.length ? bytes.with(at, (bytes[at] ?? 0) ^ mask) : bytes

const headerField = (source: Source, bytes: Uint8Array): Uint8Array => {
  const at = someStart(source, bytes)
  const left = BigInt(Math.max(0, bytes.length - at - 28))
  const frame = frameAt(bytes, at)
  const [key, payload] = frame.ok ? [frame.record.key.length, frame.record.payload.length] : [0, 0]
  const near = (length: number) => [length + 1, Math.max(0, length - 1), length + source.below(600)].map(BigInt)
  const txid = frame.ok ? BigInt(frame.record.txid) : 1n
  const [offset, size, values] = source.oneOf<readonly [number, number, ReadonlyArray<bigint>]>([
    [8, 8, [...txids, txid - 1n, txid + 1n, txid + 2n]],
    [20, 4, [
      ...near(payload),
      left,
      left + 1n,
      67_108_864n,
      67_108_865n,
      0xFFFF_FFFFn,
      0n,
      BigInt(source.below(3_000))
    ]],
    [16, 4, [...near(key), left, left + 1n, 65_536n, 65_537n, 0xFFFF_FFFFn, 0n]],
    [6, 1, [0n, 1n, 2n, 3n, 255n]],
    [7, 1, [1n, 128n]],
    [4, 2, [0n, 2n, 256n, 257n, 0xFFFFn]],
    [0, 4, [0n, 0x4C415745n, 0x4C4157n, 0x44n]]
  ])
  const changed = withValue(bytes, at + offset, size, BigInt.asUintN(64, source.among(values) ?? 0n))
  return source.chance(50) ? seal(changed, at) : changed
}

const rearranged = (source: Source, bytes: Uint8Array): Uint8Array => {
  const { sound } = startsOf(bytes)
  const one = source.among(sound)
  const two = source.among(sound)
  if (one === undefined || two === undefined) return bytes
  const frame = bytes.subarray(one.at, one.at + one.len)
  const end = one.at + one.len
  switch (source.below(4)) {
    case 0:
      return joined(bytes.subarray(0, end), frame, bytes.subarray(end))
    case 1:
      return joined(bytes.subarray(0, one.at), bytes.subarray(end))
    case 2:
      return joined(bytes.subarray(0, two.at), frame, bytes.subarray(two.at))
    default: {
      const [first, second] = one.at < two.at ? [one, two] : [two, one]
      const middle = bytes.subarray(first.at + first.len, second.at)
      if (first === second) return bytes
      return joined(
        bytes.subarray(0, first.at),
        bytes.subarray(second.at, second.at + second.len),
        middle,
        bytes.subarray(first.at, first.at + first.len),
        bytes.subarray(second.at + second.len)
      )
    }
  }
}

/** One frame around all that stands from a place on, or up to another. */
const wrapped = (source: Source, bytes: Uint8Array): Uint8Array => {
  const from = someStart(source, bytes)
  const to = source.chance(70) ? bytes.length : Math.max(from, somePlace(source, bytes))
  const around = frameOf({ txid: source.oneOf(txids), payload: bytes.subarray(from, to) })
  if (source.chance(50)) around[around.length - 1] = (around.at(-1) ?? 0) ^ 1
  return joined(bytes.subarray(0, from), around, bytes.subarray(to))
}

/** Two valid frames of which the second starts in the first and ends behind it. */
const overlapping = (source: Source): Uint8Array => {
  const inner = frameOf({ txid: source.oneOf(txids), payload: source.noise(40) }).subarray(0, 24)
  const outer = frameOf({ txid: source.oneOf(txids), payload: joined(source.noise(2), inner, source.noise(2)) })
  return seal(joined(outer, new Uint8Array(38)), 26)
}

const tailOf = (source: Source): Uint8Array => {
  switch (source.below(7)) {
    case 0:
      return new Uint8Array(source.oneOf([1, 4, 27, 28, 511, 512, 513, 1_024, 5_000]))
    case 1:
      return opening.subarray(0, source.below(9))
    case 2:
      return source.noise(source.below(600))
    case 3:
      return recordOf(source, source.oneOf(txids))
    case 4:
      return recordOf(source, source.oneOf(txids)).subarray(0, -source.between(1, 30))
    case 5:
      return falseStarts(source, source.below(source.chance(5) ? 2_000 : 60))
    default:
      return overlapping(source)
  }
}

const txidBehind = (bytes: Uint8Array): number =>
  ((framesFrom(bytes, 0, 0).records.at(-1)?.txid ?? 0) + 1) % Number.MAX_SAFE_INTEGER

/** A record that ends around a sector's edge, and something behind it: there a byte decides what was written. */
const atEdge = (source: Source, bytes: Uint8Array): Uint8Array => {
  const txid = txidBehind(bytes)
  const edge = 512 * (Math.floor((bytes.length + 28) / 512) + source.between(1, 2))
  const end = edge + source.between(-8, 5)
  const payload = new Uint8Array(Math.max(2, end - bytes.length - 28)).fill(0x65)
  let record = frameOf({ txid, payload })
  // One in so many ends in a byte of zeros.
  const salts = source.chance(50) ? 2_000 : 0
  for (let salt = 0; salt < salts && record.at(-1) !== 0; salt++) {
    record = frameOf({ txid, payload: joined(Uint8Array.of(salt & 0xFF, salt >> 8), payload.subarray(2)) })
  }
  if (source.chance(50)) record = flipped(record, source.below(record.length - 5), 0x10)
  const behind = source.oneOf<ReadonlyArray<Uint8Array>>([
    [recordOf(source, txid + 1)],
    [],
    [opening.subarray(0, Math.max(0, edge - end)), new Uint8Array(512)],
    [opening.subarray(0, Math.max(0, edge - end)), source.noise(40)],
    [opening.subarray(0, source.below(7)), new Uint8Array(Math.max(0, edge - end)), source.noise(40)],
    [new Uint8Array(Math.max(0, edge - end)), recordOf(source, txid + 1)]
  ])
  return joined(bytes, record, ...behind)
}

/** Damage, and far behind it a frame: where one piece of the file that is searched ends and the next begins. */
const farBehind = (source: Source, bytes: Uint8Array): Uint8Array => {
  const { end } = framesFrom(bytes, 0, 0)
  const txid = txidBehind(bytes)
  const bad = flipped(frameOf({ txid, payload: source.noise(9) }), 26, 1)
  const start = end + 1 + source.oneOf([65_512, 65_536, 2 * 65_512]) + source.between(-32, 8)
  const filler = new Uint8Array(start - end - bad.length).fill(0x66)
  return joined(bytes.subarray(0, end), bad, filler, recordOf(source, txid + 1), source.chance(50) ? filler : nothing)
}

const changes: Readonly<Record<string, (source: Source, bytes: Uint8Array) => Uint8Array>> = {
  tail: (source, bytes) => joined(bytes, tailOf(source)),
  edge: atEdge,
  far: (source, bytes) => source.chance(20) ? farBehind(source, bytes) : atEdge(source, bytes),
  header: headerField,
  cut: (source, bytes) => bytes.slice(0, somePlace(source, bytes)),
  flip: (source, bytes) => flipped(bytes, somePlace(source, bytes), 1 << source.below(8)),
  zeroSectors: (source, bytes) => {
    const sector = source.below(bytes.length / 512 + 1)
    return bytes.slice().fill(0, sector * 512, (sector + source.between(1, 3)) * 512)
  },
  zeros: (source, bytes) => {
    const at = somePlace(source, bytes)
    return bytes.slice().fill(0, at, at + source.below(600))
  },
  rearrange: rearranged,
  insert: (source, bytes) => {
    const at = source.chance(50) ? someStart(source, bytes) : somePlace(source, bytes)
    return joined(bytes.subarray(0, at), tailOf(source), bytes.subarray(at))
  },
  wrap: wrapped,
  overwrite: (source, bytes) => {
    const at = somePlace(source, bytes)
    const over = source.noise(source.below(40))
    return joined(bytes.subarray(0, at), over, bytes.subarray(at + over.length))
  },
  zeroTail: (source, bytes) => bytes.slice().fill(0, somePlace(source, bytes)),
  ones: (source, bytes) => {
    const at = somePlace(source, bytes)
    return at < bytes.length ? bytes.with(at, source.oneOf([0xFF, 0, 0x44, 0x80, 1])) : bytes
  }
}

/** The names of the changes; the order is part of what an input means. */
export const changeNames = Object.keys(changes)

/** What one change makes of a segment. */
export const changed = (source: Source, name: string, bytes: Uint8Array): Uint8Array => {
  const after = changes[name]?.(source, bytes) ?? bytes
  // Larger ones take longer and show nothing more.
  return after.length > 300_000 ? bytes : after
}
