/** A name beside a target under which it is built: hidden, and random, so that it can be nobody else's. */
import * as Crypto from "node:crypto"
import * as NodePath from "node:path"

export const temporaryName = (target: string): string =>
  `.${Buffer.from(NodePath.basename(target)).subarray(0, 200).toString("utf8")}.${
    Crypto.randomBytes(9).toString("base64url")
  }.tmp`
