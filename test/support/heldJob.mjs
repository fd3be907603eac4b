/**
 * To be loaded before the main job (`node --import`): when it has said that its second step begins, it stands still until
 * it is sent a line. What is changed then is changed behind the first step and before all comparisons.
 */
import { readSync } from "node:fs"

const write = process.stdout.write.bind(process.stdout)

const isToldToGoOn = () => {
  try {
    readSync(0, Buffer.alloc(1))
    return true
  } catch (error) {
    if (error.code !== "EAGAIN") throw error
    return false
  }
}

process.stdout.write = (text, ...rest) => {
  const written = write(text, ...rest)
  if (/^2\. /m.test(String(text))) { while (!isToldToGoOn()); }
  return written
}
