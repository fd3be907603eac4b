/**
 * A process of the benchmark. It does the tasks it is given, one as a rule: makes the store that a workload needs, or
 * runs a workload for a contender. The answer to each goes to the parent, or why there is none.
 */
import { mkdirSync } from "node:fs"
import { load, modes } from "./contenders/index.mjs"
import { workloadOf } from "./workloads/index.mjs"

const perform = async (task) => {
  const context = { ...task, module: await load(task.contender), mode: modes[task.contender] }
  const workload = workloadOf(task.workload)
  mkdirSync(task.store, { recursive: true })
  return task.prepares ? workload.prepared.make(context) : workload.run(context)
}

const tell = (message) => new Promise((resolve) => process.send(message, resolve))

process.once("message", async (tasks) => {
  for (const task of tasks) {
    const { id } = task
    await tell(await perform(task).then((answer) => ({ id, answer }), (error) => ({ id, failed: String(error) })))
  }
  // What a failed task left open must not keep the process.
  process.exit()
})

// Whoever asked is gone.
process.once("disconnect", () => process.exit(1))
