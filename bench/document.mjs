/**
 * docs/performance.md and its plots, from the results that are kept. The document is written by hand; what stands
 * between `<!-- results: NAME -->` and `<!-- end -->` is replaced by what the results say.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { aboutOf, isOurs, modes, promisesMore } from "./contenders/index.mjs"
import { barsOf, linesOf } from "./plot.mjs"
import { costCells, duration, markdownTable, oursIn, times } from "./table.mjs"
import { behind, growthSizes, targets } from "./targets.mjs"
import { workloads } from "./workloads/index.mjs"

const unmeasured = "Not measured yet: `npm run bench` fills this in."

const sections = {
  append: ["append"],
  batch: ["batch"],
  durable: ["durable", "durable together"],
  put: ["put", "delete"],
  get: ["get", "getMany"],
  stream: ["stream"],
  open: ["open"],
  whole: ["export", "compact", "import"]
}

const measuredIn = (results, section) =>
  workloads.filter(({ kind, name }) => sections[section].includes(kind) && results.workloads[name] !== undefined)

const barsIn = (results, section) =>
  measuredIn(results, section).flatMap(({ name, title }) => {
    const contenders = Object.entries(results.workloads[name]).filter(([, figures]) => figures.cost_ns !== undefined)
    if (contenders.length === 0) return []
    const ours = contenders.find(([contender]) => isOurs(contender))?.[0]
    const scale = contenders[0]?.[1].total_ms === undefined ? 1 : contenders[0][1].operations.median
    return [{
      heading: scale === 1 ? title : `${title} (in all)`,
      floor: contenders[0][1].floor_ns.median * scale,
      bars: contenders.map(([contender, { cost_ns }]) => ({
        name: contender,
        value: cost_ns.median * scale,
        min: cost_ns.min * scale,
        max: cost_ns.max * scale,
        more: ours !== undefined && promisesMore(contender, ours)
      }))
    }]
  })

const tableIn = (results, section) =>
  measuredIn(results, section).map(({ floor, name, title }) => {
    const contenders = results.workloads[name]
    const ours = oursIn(contenders)
    const rows = Object.entries(contenders).map(([contender, figures]) => [
      isOurs(contender) ? `**${contender}**` : contender,
      ...costCells(figures, ours)
    ])
    const head = [title, "median (least – most)", "mean", "to F", "to ours", `F: ${floor}`]
    return markdownTable([head, ...rows], [false, true, true, true, true, true])
  }).join("\n\n")

const section = (name, title) => (results) => `![${title}](performance/${name}.svg)\n\n${tableIn(results, name)}`

const machine = ({ form, machine, peers }) => {
  const versions = Object.entries(peers).map(([name, { missing, version }]) =>
    missing === undefined ? `${name} ${version}` : `**${name} is not measured: ${missing}**`
  )
  return `Node ${machine.node} on ${machine.platform}, ${machine.processor}, ${machine.cores} cores,
${machine.memory_gib} GiB, ${machine.filesystem}; the ${form} form; ${versions.join(", ")}.`
}

const targetTable = (results) => {
  const rows = targets.flatMap(({ ask, target, what }) => {
    const asked = ask(results)
    return asked === undefined ? [] : [[what, target, asked.measured, asked.reached ? "yes" : "**no**"]]
  })
  const table = markdownTable([["what", "to reach", "measured", "reached"], ...rows], [])
  const ahead = behind(results)
  return ahead.length === 0 ?
    table :
    `${table}\n\nWhere another is ahead in one of these (append, durable append, put, get) without promising more:\n\n${
      ahead.map((line) => `- ${line}`).join("\n")
    }`
}

const yes = (value) => value ? "yes" : "no"

const promises = (results) => {
  const measured = new Set(Object.values(results.workloads).flatMap((contenders) => Object.keys(contenders)))
  const rows = Object.entries(modes).filter(([name]) => measured.has(name)).map((
    [name, { intact, says, survives }]
  ) => [
    name,
    says,
    yes(survives.kill),
    yes(survives.power),
    yes(intact),
    yes(aboutOf(name).verifies)
  ])
  const head = [
    "name",
    "what is awaited",
    "survives a kill",
    "survives power loss",
    "store intact after it",
    "checked when read"
  ]
  return markdownTable([head, ...rows], [])
}

const memory = (results) => {
  const rows = workloads.filter(({ kind, name }) => kind === "memory" && results.workloads[name] !== undefined)
    .flatMap(({ name, title }) =>
      Object.entries(results.workloads[name]).map(([contender, { failed, held_bytes, rss_bytes }]) => [
        title,
        isOurs(contender) ? `**${contender}**` : contender,
        held_bytes === undefined ? `failed: ${failed}` : `${times(held_bytes.median)} B`,
        rss_bytes === undefined ? "" : `${times(rss_bytes.median)} B`
      ])
    )
  return markdownTable([["", "", "held by the engine", "of the process (RSS)"], ...rows], [false, false, true, true])
}

const delays = (results) => {
  const ms = (value) => value.toFixed(1)
  const rows = workloads.flatMap(({ name }) =>
    Object.entries(results.workloads[name] ?? {}).flatMap(([contender, { delay, memory }]) =>
      delay === undefined ? [] : [[
        `${name}, ${contender}`,
        ms(delay.p999_ms),
        ms(delay.max_ms),
        ms(delay.idle_p999_ms),
        ms(delay.call_ms),
        ms(delay.beyond_ms),
        `${Math.round(memory.rss_before_mib)} – ${Math.round(memory.rss_peak_mib)}`,
        `${Math.round(memory.array_buffers_before_mib)} – ${Math.round(memory.array_buffers_peak_mib)}`
      ]]
    )
  )
  const head = ["workload", "p99.9", "most", "idle p99.9", "256 KiB call", "beyond", "RSS, MiB", "buffers, MiB"]
  return markdownTable([head, ...rows], [false, true, true, true, true, true, true, true])
}

const single = ["append", "put", "delete", "get", "getMany"]

const growthLines = (results, accepts) => {
  const sizes = growthSizes(results)
  const names = Object.keys(sizes[0]?.series ?? {}).filter(accepts)
  return {
    records: sizes.map(({ records }) => records),
    series: Object.fromEntries(names.map((name) => [name, sizes.map(({ series }) => series[name])]))
  }
}

const growth = (results) => {
  const sizes = growthSizes(results)
  if (sizes.length === 0) return unmeasured
  const rows = Object.keys(sizes[0].series).map((name) => [
    name,
    ...sizes.map(({ series }) => duration(series[name]))
  ])
  const added = Object.keys(sizes[0].added_mib).map((name) => [
    `${name}: memory added`,
    ...sizes.map(({ added_mib }) => `${Math.round(added_mib[name])} MiB`)
  ])
  const head = ["a record, at", ...sizes.map(({ records }) => records.toLocaleString("en"))]
  return [
    "![What a call costs in stores of more and more records](performance/growth-calls.svg)",
    "![What a record costs in work on whole stores](performance/growth-whole.svg)",
    markdownTable([head, ...rows, ...added], head.map((_, column) => column > 0))
  ].join("\n\n")
}

const blocks = {
  machine,
  targets: targetTable,
  promises,
  append: section("append", "Appends, awaited one by one"),
  batch: section("batch", "Appends in batches"),
  durable: section("durable", "Durable appends"),
  put: section("put", "Puts and deletes"),
  get: section("get", "Gets"),
  stream: section("stream", "Reading every record"),
  open: section("open", "Opening"),
  whole: section("whole", "Export, compaction and import"),
  memory,
  delays,
  growth
}

const plotsOf = (results) => {
  const plots = {}
  for (const name of Object.keys(sections)) {
    const panels = barsIn(results, name)
    if (panels.length > 0) plots[name] = barsOf(name, panels)
  }
  if (growthSizes(results).length > 1) {
    plots["growth-calls"] = linesOf("cost of a call", growthLines(results, (name) => single.includes(name)))
    plots["growth-whole"] = linesOf("cost of a record", growthLines(results, (name) => !single.includes(name)))
  }
  return plots
}

const block_pattern = /(<!-- results: (\w+) -->\n)[^]*?(\n<!-- end -->)/g

const rendered = (text, results) =>
  text.replaceAll(block_pattern, (_all, begin, name, end) => {
    if (blocks[name] === undefined) throw new Error(`docs/performance.md asks for results of ${name}`)
    return `${begin}\n${results === undefined ? unmeasured : blocks[name](results)}\n${end}`
  })

const filesOf = (root, kept) => {
  const results = existsSync(kept) ? JSON.parse(readFileSync(kept, "utf8")) : undefined
  const document = join(root, "docs", "performance.md")
  const files = [[document, rendered(readFileSync(document, "utf8"), results)]]
  for (const [name, plot] of Object.entries(results === undefined ? {} : plotsOf(results))) {
    files.push([join(root, "docs", "performance", `${name}.svg`), plot])
  }
  return files
}

/** Writes the document and its plots. */
export const writeDocument = (root, kept) => {
  mkdirSync(join(root, "docs", "performance"), { recursive: true })
  for (const [file, content] of filesOf(root, kept)) writeFileSync(file, content)
}

/** Which of these files are not what the results give. */
export const outdated = (root, kept) =>
  filesOf(root, kept).flatMap(([file, content]) =>
    existsSync(file) && readFileSync(file, "utf8") === content ? [] : [file]
  )
