/** What answers after its scope has closed. */
import { IoError } from "../Errors.ts"

export const closedError = (operation: string, path: string): IoError =>
  new IoError({ operation, path, code: "EBADF", cause: "the scope that opened it has closed" })
