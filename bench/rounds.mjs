/** The run: every workload for every contender, in fresh processes, in rounds in which the contenders change places. */
import { fork } from "node:child_process"
import { cpSync, existsSync, mkdirSync, rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { aboutOf, isOurs, moduleOf } from "./contenders/index.mjs"

const here = dirname(fileURLToPath(import.meta.url))
const task_ms_max = 300_000

let running

/** Ends the process that is at work, if there is one. */
export const stop = () => running?.kill("SIGKILL")

/** Has a process do the tasks: for each its answer, or why there is none. */
const inProcess = (tasks, { execArgv = [] } = {}) =>
  new Promise((resolve) => {
    const child = fork(join(here, "child.mjs"), {
      execArgv: ["--expose-gc", ...execArgv],
      stdio: ["ignore", "ignore", "pipe", "ipc"]
    })
    running = child
    const outcomes = new Map()
    let errors = ""
    child.stderr.on("data", (data) => {
      errors += data
    })
    child.on("message", ({ answer, failed, id }) => outcomes.set(id, { answer, failed }))
    const timer = setTimeout(() => child.kill("SIGKILL"), task_ms_max * tasks.length)
    child.on("close", (code, signal) => {
      clearTimeout(timer)
      const ended = /^\w*Error: .*$/m.exec(errors)?.[0] || errors.trim().slice(0, 300) || `ended by ${signal ?? code}`
      resolve(tasks.map(({ id }) => outcomes.get(id) ?? { failed: ended }))
    })
    child.send(tasks)
  })

/** What is to be done, in order. `form` says how long, how often and in what sizes. */
export const planOf = ({ form, missing, only, workloads }) => {
  const steps = []
  for (let round = 0; round < form.rounds; round++) {
    for (const workload of workloads) {
      if (round >= (workload.rounds ?? form.rounds) || (workload.records ?? 0) > form.records_max) continue
      const contenders = workload.contenders.filter((contender) =>
        (only === undefined || contender.startsWith(only)) && !missing.has(aboutOf(contender).needs)
      )
      for (const [place] of contenders.entries()) {
        // A B C, then C A B: none of them always follows the same one.
        const contender = contenders[(place + contenders.length - round % contenders.length) % contenders.length]
        steps.push({ round, workload, contender })
      }
    }
  }
  return steps
}

/** Does all in one process, each with a store of its own: only whether it works is asked. */
const inOneProcess = async (steps, { root, taskOf }) => {
  const tasks = steps.flatMap((step, index) => {
    const directory = join(root, `run-${index}`)
    mkdirSync(directory)
    const task = { ...taskOf(step), id: 2 * index + 1, directory, store: join(directory, "store") }
    return step.workload.prepared === undefined ? [task] : [{ ...task, id: 2 * index, prepares: true }, task]
  })
  const outcomes = await inProcess(tasks)
  return steps.map((step, index) => {
    const its = outcomes.filter((_, at) => tasks[at].id >> 1 === index)
    return { ...step, ...(its.find(({ failed }) => failed !== undefined) ?? its.at(-1)) }
  })
}

/** Does the steps of a plan in a directory of its own: an answer or a failure each. */
export const perform = async (steps, { execArgv, form, onStep, root, together }) => {
  const directories = (step, index) => {
    const { contender, workload } = step
    const directory = join(root, `run-${index}`)
    if (workload.prepared === undefined) return { directory, store: join(directory, "store") }
    const kind = contender === "effect files" ? contender : moduleOf(contender)
    const prepared = join(root, `${kind}-${workload.prepared.name}`.replaceAll(" ", "-"))
    return { directory, prepared, store: workload.changes ? join(directory, "store") : prepared }
  }
  const taskOf = ({ contender, round, workload }) => ({
    workload: workload.name,
    contender,
    form,
    watched: isOurs(contender) && round === 0
  })
  if (together) return inOneProcess(steps, { root, taskOf })
  const results = []
  for (const [index, step] of steps.entries()) {
    const { directory, prepared, store } = directories(step, index)
    mkdirSync(directory, { recursive: true })
    const task = { ...taskOf(step), id: 0, directory }
    let outcome = {}
    if (prepared !== undefined && !existsSync(prepared)) {
      ;[outcome] = await inProcess([{ ...task, store: prepared, prepares: true }])
      if (outcome.failed !== undefined) rmSync(prepared, { recursive: true, force: true })
    }
    if (outcome.failed === undefined) {
      if (prepared !== undefined && store !== prepared) cpSync(prepared, store, { recursive: true })
      ;[outcome] = await inProcess([{ ...task, store }], { execArgv })
    }
    results.push({ ...step, ...outcome })
    rmSync(directory, { recursive: true, force: true })
    onStep?.(results.at(-1), index, steps.length)
  }
  return results
}
