/** The bare system calls that a workload cannot do without. */
import { closeSync, fdatasyncSync, fstatSync, openSync, readdirSync, readSync, writeSync } from "node:fs"
import { join } from "node:path"

/** What surrounds a key and a payload in a frame. */
export const frame_bytes = 28

const open = (directory) => openSync(join(directory, "floor"), "a+")

/** One `writeSync` an operation. */
export const write = (directory, bytes) => {
  const fd = open(directory)
  const buffer = Buffer.alloc(bytes, 1)
  return {
    run: (count) => {
      for (let done = 0; done < count; done++) writeSync(fd, buffer, 0, bytes)
    }
  }
}

/** One `writeSync` and one `fdatasyncSync` an operation. */
export const writeDurably = (directory, bytes) => {
  const fd = open(directory)
  const buffer = Buffer.alloc(bytes, 1)
  return {
    run: (count) => {
      for (let done = 0; done < count; done++) {
        writeSync(fd, buffer, 0, bytes)
        fdatasyncSync(fd)
      }
    }
  }
}

/** Copies into one buffer, `batch` at a time, each written once. */
export const copyAndWrite = (directory, payload, batch) => {
  const fd = open(directory)
  const frame = payload.length + frame_bytes
  const buffer = Buffer.alloc(batch * frame)
  return {
    run: (count) => {
      for (let done = 0; done < count; done += batch) {
        for (let index = 0; index < batch; index++) buffer.set(payload, index * frame + frame_bytes - 4)
        writeSync(fd, buffer, 0, buffer.length)
      }
    }
  }
}

/** One positioned `readSync` an operation, somewhere in a file as large as the store. */
export const read = (directory, { bytes, file_bytes, random }) => {
  const fd = open(directory)
  const block = Buffer.alloc(1_048_576, 1)
  for (let at = 0; at < file_bytes; at += block.length) writeSync(fd, block, 0, block.length)
  const frames = Math.floor(file_bytes / bytes)
  const buffer = Buffer.alloc(bytes)
  return {
    prepare: (count) => Array.from({ length: count }, () => random(frames) * bytes),
    run: (count, positions) => {
      for (let done = 0; done < count; done++) readSync(fd, buffer, 0, bytes, positions[done])
    }
  }
}

/** Reads whole files, a MiB at a time, and looks at nothing. */
export const readFiles = (directory, accept = () => true) => {
  const buffer = Buffer.allocUnsafeSlow(1_048_576)
  let total = 0
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !accept(entry.name)) continue
    const fd = openSync(join(entry.parentPath ?? entry.path, entry.name), "r")
    const { size } = fstatSync(fd)
    for (let at = 0; at < size;) {
      const count = readSync(fd, buffer, 0, buffer.length, at)
      if (count === 0) break
      at += count
    }
    closeSync(fd)
    total += size
  }
  return total
}

/** Writes as many bytes to a file, a MiB at a time, and syncs it. */
export const writeFile = (path, bytes) => {
  const buffer = Buffer.alloc(1_048_576, 1)
  const fd = openSync(path, "w")
  for (let at = 0; at < bytes; at += buffer.length) writeSync(fd, buffer, 0, Math.min(buffer.length, bytes - at))
  fdatasyncSync(fd)
  closeSync(fd)
}
