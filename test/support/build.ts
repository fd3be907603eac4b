/** Compiles `dist/`, the command with it, before the first test. */
import { execFileSync } from "node:child_process"

export const setup = (): void => {
  execFileSync(process.execPath, ["scripts/build.mjs"], { stdio: "inherit" })
}
