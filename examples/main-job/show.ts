/** Plain text for people: numbers, sizes, and tables of padded columns. */
import * as Console from "effect/Console"
import type * as Effect from "effect/Effect"

export type Cell = string | number

export const count = (value: number): string => value.toLocaleString("en-US")

export const size = (bytes: number): string => {
  const unit = bytes < 1_024 ? 0 : Math.min(4, Math.floor(Math.log2(bytes) / 10))
  return unit === 0 ? `${bytes} B` : `${(bytes / 1_024 ** unit).toFixed(1)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`
}

export const seconds = (ms: number): string => `${(ms / 1_000).toFixed(2)} s`

export const rate = (bytes: number, ms: number): string => `${size(Math.round(bytes / Math.max(ms, 1) * 1_000))}/s`

export const plural = (value: number, one: string, many = `${one}s`): string =>
  `${count(value)} ${value === 1 ? one : many}`

/** Columns as wide as their widest cell; numbers stand to the right. */
export const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<Cell>>): string => {
  const text = rows.map((row) => row.map((cell) => typeof cell === "number" ? count(cell) : cell))
  const widths = head.map((title, column) => Math.max(title.length, ...text.map((row) => (row[column] ?? "").length)))
  const line = (cells: ReadonlyArray<string>, right: (column: number) => boolean) =>
    "  " +
    cells.map((cell, column) => right(column) ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0))
      .join("  ").trimEnd()
  const isNumber = (column: number) => rows.some((row) => typeof row[column] === "number")
  return [
    line(head, isNumber),
    line(widths.map((width) => "-".repeat(width)), () => false),
    ...text.map((row, index) => line(row, (column) => typeof rows[index]?.[column] === "number"))
  ].join("\n")
}

export const print = (...lines: ReadonlyArray<string>): Effect.Effect<void> => Console.log(lines.join("\n"))

/** The head of a step: a blank line, its number and what it does. */
export const step = (number: number, title: string): Effect.Effect<void> => print("", `${number}. ${title}`)
