/** From the answers of the processes to the figures that are kept: medians over the rounds, with their spread. */
import { isOurs } from "./contenders/index.mjs"
import { median } from "./measure.mjs"

const rounded = (value) => Number(value.toPrecision(4))

const spread = (values) => ({
  median: rounded(median(values)),
  min: rounded(Math.min(...values)),
  max: rounded(Math.max(...values))
})

const numbersOf = (record) => Object.fromEntries(Object.entries(record).map(([name, value]) => [name, rounded(value)]))

const summarize = (answers) => {
  const [first] = answers
  if (first.series !== undefined) {
    return { records: first.records, series: numbersOf(first.series), added_mib: numbersOf(first.added_mib) }
  }
  const figures = {}
  for (const name of Object.keys(first)) {
    if (name === "memory" || name === "delay") figures[name] = numbersOf(first[name])
    else figures[name] = spread(answers.map((answer) => answer[name]))
  }
  return figures
}

/** The results of a run, by workload and contender, in the order of the workloads. */
export const summaryOf = (steps) => {
  const workloads = {}
  for (const { answer, contender, failed, workload } of steps) {
    const contenders = workloads[workload.name] ??= {}
    const entry = contenders[contender] ??= { answers: [], failures: [] }
    if (failed === undefined) entry.answers.push(answer)
    else entry.failures.push(failed)
  }
  for (const contenders of Object.values(workloads)) {
    for (const [contender, { answers, failures }] of Object.entries(contenders)) {
      contenders[contender] = answers.length === 0
        ? { failed: failures[0] }
        : { ...summarize(answers), rounds: answers.length, ...(failures.length > 0 ? { failed: failures[0] } : {}) }
    }
  }
  return workloads
}

/** Our own ratios to the bare calls, by which a later run is judged: times change with the machine. */
export const ratiosOf = (results) => {
  const ratios = {}
  for (const [workload, contenders] of Object.entries(results.workloads)) {
    for (const [contender, figures] of Object.entries(contenders)) {
      if (isOurs(contender) && figures.ratio !== undefined) ratios[`${workload} ${contender}`] = figures.ratio.median
    }
  }
  return ratios
}

/** Which ratios are worse than the baseline's by more than its tolerance. */
export const regressions = (results, { ratios, tolerance }) =>
  Object.entries(ratiosOf(results)).flatMap(([name, ratio]) => {
    const before = ratios[name]
    return before !== undefined && ratio > before * (1 + tolerance) ? [{ name, before, ratio }] : []
  })
