/**
 * What is measured. A workload is `{ kind, name, title, floor, contenders, run }`, perhaps with a store that is
 * `prepared` once a contender and copied if the workload `changes` it. `run` is given a context: the contender's module
 * and mode, a directory for the process and one for the store, and the form of the run, in a process of its own.
 */
import { kv } from "./kv.mjs"
import { log } from "./log.mjs"
import { whole } from "./whole.mjs"

export const workloads = [...log, ...kv, ...whole]

export const workloadOf = (name) => workloads.find((workload) => workload.name === name)
