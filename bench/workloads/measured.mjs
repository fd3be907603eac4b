/** What the workloads share: opening a contender's store, timing it, and looking at our own more closely. */
import { compare, once, repeat, withDelay, withMemory } from "../measure.mjs"

/** For titles and names: 100000 is `1e5`. */
export const power = (count) => `1e${Math.round(Math.log10(count))}`

const open_by_kind = { log: "openLog", reader: "openReader", kv: "openKv" }

/** Opens the store of the context's contender, and closes it when `use` is done. */
export const using = async (context, kind, use) => {
  const store = await context.module[open_by_kind[kind]](context.store, context.mode)
  const value = await use(store)
  await store.close()
  return value
}

const grouped = (work, group) => ({
  prepare: work.prepare && ((count) => work.prepare(count * group)),
  run: (count, input) => work.run(count * group, input)
})

/**
 * Times a work that can be repeated against its floor, `group` operations at once; of our own, memory and the delay of
 * the event loop as well. At most `operations_max` are done, in each of the two looks.
 */
export const measure = async (context, { floor, floor_group, group = 1, operations_max = Infinity, work }) => {
  const { budget_ms, delay_ms, idle_ms } = context.form
  const warm_operations = Math.ceil(context.form.warm_operations / group)
  const per_floor = floor_group ?? group
  const most = Math.max(1, Math.min(context.form.operations_max, operations_max) / group)
  const parts = { floor: grouped(floor, per_floor), work: grouped(work, group) }
  const { memory, value } = await withMemory(() =>
    compare({ budget_ms, operations_max: most, warm_operations, ...parts })
  )
  const figures = {
    floor_ns: value.floor_ns / per_floor,
    cost_ns: value.cost_ns / group,
    mean_ns: value.mean_ns / group,
    ratio: value.ratio * per_floor / group,
    operations: value.operations * group
  }
  if (!context.watched) return figures
  const count = Math.ceil(Math.min(most / 4, 10e6 / value.cost_ns))
  const { delay } = await withDelay(
    { directory: context.directory, idle_ms },
    () => repeat(parts.work, { count, duration_ms: delay_ms, operations_max: most })
  )
  return { ...figures, memory, delay }
}

/** Times a job that is done once, of `operations`, after the bare calls for it. */
export const measureOnce = async (context, { floor, operations, run }) => {
  const floor_ns = await once(floor) * 1e6 / operations
  const figuresOf = (total_ms) => {
    const cost_ns = total_ms * 1e6 / operations
    return { floor_ns, cost_ns, mean_ns: cost_ns, ratio: cost_ns / floor_ns, operations, total_ms }
  }
  if (!context.watched) return figuresOf(await once(run))
  const { delay, value: { memory, value } } = await withDelay(
    { directory: context.directory, idle_ms: context.form.idle_ms },
    () => withMemory(() => once(run))
  )
  return { ...figuresOf(value), memory, delay }
}
