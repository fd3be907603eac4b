/** Figures for people: with units, in columns. */
import { isOurs } from "./contenders/index.mjs"

const digits = (value) =>
  value >= 99.95
    ? value.toFixed(0)
    : value >= 9.995
    ? value.toFixed(1)
    : value >= 0.0995
    ? value.toFixed(2)
    : tiny(value)

const tiny = (value) => value > 0 ? Number(value.toPrecision(2)).toString() : value.toFixed(2)

/** Nanoseconds, in the unit that suits them. */
export const duration = (ns) =>
  ns < 999.5
    ? `${digits(ns)} ns`
    : ns < 999_500
    ? `${digits(ns / 1e3)} µs`
    : ns < 999.5e6
    ? `${digits(ns / 1e6)} ms`
    : `${digits(ns / 1e9)} s`

export const times = (value) => (value >= 1_000 ? Math.round(value).toLocaleString("en") : digits(value))

const scaled = ({ max, median, min }, factor) => ({ max: max * factor, median: median * factor, min: min * factor })

/** The middle of the rounds, and from the least to the most of them. */
const spreadOf = ({ max, median, min }) =>
  min === max ? duration(median) : `${duration(median)} (${duration(min)} – ${duration(max)})`

const pad = (text, width, right) => right ? text.padStart(width) : text.padEnd(width)

/** Lines of text. The first row is the head; `right` says which columns are numbers. */
export const columns = (rows, right) => {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)))
  return rows.map((row) => row.map((cell, column) => pad(cell, widths[column], right[column])).join("  ").trimEnd())
}

/** The same as a table of Markdown, padded as the formatter pads it. */
export const markdownTable = (rows, right) => {
  const widths = rows[0].map((_, column) => Math.max(3, ...rows.map((row) => row[column].length)))
  const line = (row) => `| ${row.map((cell, column) => pad(cell, widths[column], right[column])).join(" | ")} |`
  const rule = widths.map((width, column) => right[column] ? `${"-".repeat(width - 1)}:` : "-".repeat(width))
  return [line(rows[0]), `| ${rule.join(" | ")} |`, ...rows.slice(1).map(line)].join("\n")
}

/** How one contender did: what it took, in the middle and on average, against the floor and against ours; the floor. */
export const costCells = (figures, ours) => {
  if (figures.held_bytes === undefined && figures.cost_ns === undefined) {
    return [`failed: ${figures.failed}`, "", "", "", ""]
  }
  if (figures.held_bytes !== undefined) {
    return [`${times(figures.held_bytes.median)} B`, `${times(figures.rss_bytes.median)} B RSS`, "", "", ""]
  }
  const cost = figures.total_ms === undefined
    ? spreadOf(figures.cost_ns)
    : `${spreadOf(scaled(figures.total_ms, 1e6))}, ${duration(figures.cost_ns.median)} a record`
  return [
    cost,
    figures.total_ms === undefined ? duration(figures.mean_ns.median) : "",
    times(figures.ratio.median),
    ours?.cost_ns === undefined || ours === figures ? "" : times(figures.cost_ns.median / ours.cost_ns.median),
    duration(figures.floor_ns.median * (figures.total_ms === undefined ? 1 : figures.operations.median))
  ]
}

/** Our own figures that the others are set against: the first of ours. */
export const oursIn = (contenders) => {
  const name = Object.keys(contenders).find((name) => isOurs(name) && contenders[name].cost_ns !== undefined)
  return name === undefined ? undefined : contenders[name]
}
