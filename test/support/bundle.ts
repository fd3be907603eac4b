/**
 * Programs of this directory with all that they import in one file each: a process that is started hundreds of times
 * starts in a third of the time. They hold what `dist/` holds, and load the native addons as the package does.
 */
import { Effect } from "effect"
import * as NFS from "node:fs"
import { fileURLToPath } from "node:url"
import { rolldown } from "rolldown"

const root = fileURLToPath(new URL("../../", import.meta.url))

const made: Array<string> = []

/** Where each program is from now on. The directory is below the package, so that the addons are found from there. */
export const bundle = <Script extends string>(
  scripts: ReadonlyArray<Script>
): Effect.Effect<{ readonly [S in Script]: string }> =>
  Effect.promise(async () => {
    const outDir = NFS.mkdtempSync(`${root}.tmp/bundled-`)
    made.push(outDir)
    const bundled = await rolldown({
      input: scripts.map((script) => `${root}test/support/${script}`),
      platform: "node",
      external: ["koffi"]
    })
    await bundled.write({ dir: outDir, minify: true, entryFileNames: "[name].mjs", chunkFileNames: "[name].mjs" })
    await bundled.close()
    return Object.fromEntries(scripts.map((script) => [script, `${outDir}/${script}`])) as { [S in Script]: string }
  })

export const removeBundles = (): void => {
  for (const path of made.splice(0)) NFS.rmSync(path, { recursive: true, force: true })
}
