/** What the killed writer writes: copies of files, numbered in the order of writing, and now and then a large one. */

/** A large copy is its file over and over, to so many bytes: long enough in the kernel's hands to be cut in two. */
const large_bytes_min = 8_388_608

interface Copy {
  readonly index: number
  readonly large: boolean
  /** Of which key it is the copy. */
  readonly of: string
}

export const copyKey = (round: string, copy: Copy): string =>
  `${round}/${String(copy.index).padStart(6, "0")}/${copy.large ? "large" : "plain"}/${copy.of}`

/** What `copyKey` put together. */
export const parseCopyKey = (key: string): Copy => {
  const [, index = "", size, ...of] = key.split("/")
  return { index: Number(index), large: size === "large", of: of.join("/") }
}

export const copyValue = (copy: Copy, bytes: Uint8Array): Uint8Array => {
  if (!copy.large || bytes.length === 0) return bytes
  const times = Math.ceil(large_bytes_min / bytes.length)
  const value = Buffer.allocUnsafeSlow(times * bytes.length)
  for (let at = 0; at < value.length; at += bytes.length) value.set(bytes, at)
  return value
}
