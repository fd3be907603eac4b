/**
 * What record number `n` of a test holds, known alike to the process that writes it and to the one that reads it back.
 */

const base = Buffer.allocUnsafe(4 * 1_048_576)
for (let at = 0, state = 1; at < base.length; at += 4) {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
  base.writeUInt32LE((state ^ (state >>> 15)) >>> 0, at)
}

const sizes = {
  small: (n) => 8 + (n * 7_919) % 900,
  // Above what is written on the calling thread: these go through the thread pool.
  large: (n) => 262_145 + (n * 104_729) % 2_000_000,
  // Long enough in the kernel's hands to be cut in two by a kill.
  huge: (n) => 4_194_304 + (n * 104_729) % 8_388_608,
  // Some of them too large for one batch of an import, few enough to be read quickly.
  line: (n) => n % 8 === 5 ? 20_000 + (n * 104_729) % 300_000 : sizes.small(n),
  mixed: (n) => n % 16 === 5 ? sizes.large(n) : sizes.small(n)
}

export const payloadOf = (kind, n) => {
  const payload = Buffer.allocUnsafe(sizes[kind](n))
  let from = (n * 4_099) % 1_048_576
  for (let at = 0; at < payload.length; from = 0) at += base.copy(payload, at, from)
  payload.writeDoubleLE(n, 0)
  return payload
}

/** The number of a payload, whatever its kind. */
export const numberOf = (payload) => Buffer.from(payload.buffer, payload.byteOffset, 8).readDoubleLE(0)

/** The operation number `n` on a key/value store: a put, or one in four times a delete. */
export const operationOf = (n) => ({
  key: `key-${(n * 7) % 61}`,
  value: n % 4 === 3 ? undefined : payloadOf("mixed", n)
})

/** Line number `n` of an import. */
export const lineOf = (n) =>
  `{"key_b64":"${Buffer.from(`line-${n}`).toString("base64")}","value_b64":"${
    payloadOf("line", n).toString("base64")
  }"}\n`
