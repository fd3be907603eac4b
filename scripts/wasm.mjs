// npm run wasm: assembles src/internal/crc32c.wat into a module that is imported. The suite sees whether that was done.
import { readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import assembler from "wabt"

const internal = join(dirname(dirname(fileURLToPath(import.meta.url))), "src", "internal")
const line_characters = 100

/** The text of the TypeScript module with what a text of WebAssembly says. */
export const moduleOf = async (name, text) => {
  const wabt = await assembler()
  const module = wabt.parseWat(name, text)
  try {
    const base64 = Buffer.from(module.toBinary({}).buffer).toString("base64")
    const lines = base64.match(new RegExp(`.{1,${line_characters}}`, "g")).map((line) => `  "${line}"`)
    return `/** ${name}, assembled by \`npm run wasm\`. */\nexport const module_base64 = [\n${
      lines.join(",\n")
    }\n].join("")\n`
  } finally {
    module.destroy()
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = readFileSync(join(internal, "crc32c.wat"), "utf8")
  writeFileSync(join(internal, "crc32cModule.ts"), await moduleOf("crc32c.wat", text))
}
