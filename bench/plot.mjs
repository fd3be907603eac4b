/** Plots as SVG, by hand: bars of what each contender takes, lines of how cost grows. Readable on light and on dark. */
import { isOurs } from "./contenders/index.mjs"
import { duration } from "./table.mjs"

const style = `
    text { font: 12px system-ui, sans-serif; fill: #24292f }
    .title { font-weight: 600 }
    .faint { fill: #57606a }
    .ours { fill: #0969da }
    .peer { fill: #afb8c1 }
    .more { fill: #d8dee4 }
    .axis { stroke: #d0d7de }
    .spread { stroke: #57606a }
    .floor { stroke: #cf222e; stroke-dasharray: 4 3 }
    .line { fill: none; stroke-width: 2 }
    .c0 { stroke: #0969da; fill: #0969da } .c1 { stroke: #cf222e; fill: #cf222e }
    .c2 { stroke: #1a7f37; fill: #1a7f37 } .c3 { stroke: #9a6700; fill: #9a6700 }
    .c4 { stroke: #8250df; fill: #8250df } .c5 { stroke: #bf3989; fill: #bf3989 }
    .c6 { stroke: #1b7c83; fill: #1b7c83 } .c7 { stroke: #57606a; fill: #57606a }
    .line.c0, .line.c1, .line.c2, .line.c3, .line.c4, .line.c5, .line.c6, .line.c7 { fill: none }
    text.c0, text.c1, text.c2, text.c3, text.c4, text.c5, text.c6, text.c7 { stroke: none }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .faint { fill: #9198a1 }
      .ours { fill: #4493f8 }
      .peer { fill: #656c76 }
      .more { fill: #3d444d }
      .axis { stroke: #3d444d }
      .spread { stroke: #9198a1 }
      .floor { stroke: #f85149 }
      .c0 { stroke: #4493f8; fill: #4493f8 } .c1 { stroke: #f85149; fill: #f85149 }
      .c2 { stroke: #3fb950; fill: #3fb950 } .c3 { stroke: #d29922; fill: #d29922 }
      .c4 { stroke: #ab7df8; fill: #ab7df8 } .c5 { stroke: #db61a2; fill: #db61a2 }
      .c6 { stroke: #39c5cf; fill: #39c5cf } .c7 { stroke: #9198a1; fill: #9198a1 }
    }`

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")

const svg = (width, height, title, parts) =>
  `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"` +
  ` role="img" aria-label="${escaped(title)}">\n  <style>${style}\n  </style>\n${
    parts.map((part) => `  ${part}\n`).join("")
  }</svg>\n`

const place = (value) => Number(value.toFixed(1))

const text = (x, y, content, { anchor = "start", of = "" } = {}) =>
  `<text x="${place(x)}" y="${place(y)}" text-anchor="${anchor}"${of === "" ? "" : ` class="${of}"`}>${
    escaped(content)
  }</text>`

const line = (x1, y1, x2, y2, of) =>
  `<line x1="${place(x1)}" y1="${place(y1)}" x2="${place(x2)}" y2="${place(y2)}" class="${of}"/>`

const logarithmic = (from, to, start, end) => (value) =>
  start + (end - start) * (Math.log(value) - Math.log(from)) / (Math.log(to) - Math.log(from))

const width = 760
const names_width = 150
const values_width = 90
const row = 20

/**
 * A panel for each workload: a bar for each contender, from half of the least (or of the bare call) on, on a
 * logarithmic scale. `bars` have a `name`, a `value` with its spread, and whether their promise is `more` than ours.
 */
export const barsOf = (title, panels) => {
  const parts = []
  let y = 8
  for (const { bars, floor, heading } of panels) {
    const values = bars.flatMap(({ max, min }) => [min, max])
    const from = Math.min(...values, floor) / 2
    const x = logarithmic(from, Math.max(...values) * 1.05, names_width, width - values_width)
    parts.push(text(0, y + 12, heading, { of: "title" }))
    const top = y + 20
    for (const [index, { max, min, more, name, value }] of bars.entries()) {
      const at = top + index * row
      const of = isOurs(name) ? "ours" : more ? "more" : "peer"
      parts.push(text(names_width - 8, at + 14, name, { anchor: "end" }))
      const bar = place(Math.max(1, x(value) - names_width))
      parts.push(`<rect x="${names_width}" y="${at + 3}" width="${bar}" height="${row - 6}" class="${of}"/>`)
      if (max > min) parts.push(line(x(min), at + row / 2, x(max), at + row / 2, "spread"))
      parts.push(text(x(max) + 6, at + 14, duration(value), { of: "faint" }))
    }
    const bottom = top + bars.length * row
    parts.push(line(x(floor), top, x(floor), bottom, "floor"))
    parts.push(text(x(floor), bottom + 13, `F ${duration(floor)}`, { anchor: "middle", of: "faint" }))
    y = bottom + 30
  }
  return svg(width, y, title, parts)
}

/** Labels beside the ends of lines, moved apart until none covers another. */
const apart = (labels) => {
  const sorted = labels.toSorted((a, b) => a.y - b.y)
  for (const [index, label] of sorted.entries()) {
    const above = sorted[index - 1]
    if (above !== undefined) label.y = Math.max(label.y, above.y + 15)
  }
  return sorted
}

/** A line for each series over the numbers of records, both scales logarithmic. */
export const linesOf = (title, { records, series }) => {
  const height = 400
  const [left, right, top, bottom] = [70, width - 150, 12, height - 40]
  const values = Object.values(series).flat()
  const least = 10 ** Math.floor(Math.log10(Math.min(...values)))
  const most = 10 ** Math.ceil(Math.log10(Math.max(...values)))
  const x = logarithmic(records[0], records.at(-1), left, right)
  const y = logarithmic(least, most, bottom, top)
  const parts = []
  for (let value = least; value <= most; value *= 10) {
    parts.push(line(left, y(value), right, y(value), "axis"))
    parts.push(text(left - 8, y(value) + 4, duration(value), { anchor: "end", of: "faint" }))
  }
  for (const count of records) {
    parts.push(text(x(count), bottom + 18, count.toLocaleString("en"), { anchor: "middle", of: "faint" }))
  }
  parts.push(text((left + right) / 2, height - 6, "records", { anchor: "middle", of: "faint" }))
  const labels = Object.entries(series).map(([name, costs], index) => {
    const points = costs.map((cost, at) => `${place(x(records[at]))},${place(y(cost))}`).join(" ")
    parts.push(`<polyline points="${points}" class="line c${index}"/>`)
    return { name, of: `c${index}`, y: y(costs.at(-1)) + 4 }
  })
  for (const { name, of, y } of apart(labels)) parts.push(text(right + 8, y, name, { of }))
  return svg(width, height, title, parts)
}
