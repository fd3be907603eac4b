/**
 * How things are timed: slices of the bare call and slices of the work take turns in one process, so that whatever
 * else the machine does falls on both, and the ratio is taken slice by slice.
 */
import { closeSync, openSync, writeSync } from "node:fs"
import { join } from "node:path"
import { monitorEventLoopDelay, performance } from "node:perf_hooks"
import { setTimeout as sleep } from "node:timers/promises"

const slice_ms = 10
const slices_min = 3

export const median = (values) => {
  const sorted = Float64Array.from(values).sort()
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

const timed = async (work, count) => {
  const input = work.prepare?.(count)
  const started = performance.now()
  await work.run(count, input)
  return (performance.now() - started) * 1e6 / count
}

/** No work is made warm for longer, however slow the disk. */
const warming_ms_max = 10_000

/**
 * How many operations make a slice, by the quickest seen so far: a pause must not be taken for their cost. On the way
 * there, the compiler gets warm, which goes by how often code has run: what waits for a disk takes longer.
 */
const calibrate = async (work, { count_max, operations_max, warm_ms, warm_operations = 0 }) => {
  let count = 1
  let done = 0
  let least_ms = Infinity
  const started = performance.now()
  const { system, user } = process.cpuUsage()
  // Of the processor's time, which on a busy machine is less than the clock's; unless it is the disk that is slow.
  const isWarm = () => {
    const spent = process.cpuUsage()
    const passed_ms = performance.now() - started
    const enough = (spent.user + spent.system - user - system) / 1_000 >= warm_ms || passed_ms >= 4 * warm_ms
    return (enough && done >= warm_operations) || passed_ms >= warming_ms_max
  }
  for (;;) {
    const each_ms = await timed(work, count) / 1e6
    least_ms = Math.min(least_ms, each_ms)
    done += count
    const enough = count * least_ms >= slice_ms || count >= count_max
    if (enough && (isWarm() || done >= operations_max)) return count
    if (!enough) count = Math.min(count_max, Math.ceil(Math.min(4 * count, Math.max(count + 1, slice_ms / least_ms))))
  }
}

/**
 * Times `work` against `floor`, in nanoseconds an operation. Each is `{ run: (count, input) => …, prepare?: (count) =>
 * input }`, and only `run` is timed. Ends when `budget_ms` are spent, or `operations_max` done.
 */
export const compare = async ({ budget_ms, floor, operations_max = Infinity, warm_operations, work }) => {
  // A quarter of the operations to get warm, the rest in at least a dozen slices.
  const count_max = Math.max(1, Math.floor(operations_max / 16))
  const limits = { count_max, operations_max: operations_max / 4 }
  const floor_count = await calibrate(floor, { ...limits, warm_ms: budget_ms / 8 })
  const count = await calibrate(work, { ...limits, warm_ms: budget_ms / 2, warm_operations })
  const slices_max = Math.max(slices_min, Math.floor(operations_max * 0.6 / Math.max(count, floor_count)))
  const end = performance.now() + budget_ms
  const floors = []
  const costs = []
  while (costs.length < slices_min || (performance.now() < end && costs.length < slices_max)) {
    floors.push(await timed(floor, floor_count))
    costs.push(await timed(work, count))
  }
  return {
    floor_ns: median(floors),
    cost_ns: median(costs),
    mean_ns: costs.reduce((sum, cost) => sum + cost, 0) / costs.length,
    ratio: median(costs.map((cost, index) => cost / floors[index])),
    operations: costs.length * count
  }
}

/** The milliseconds that a job takes which is done once. */
export const once = async (run) => {
  const started = performance.now()
  await run()
  return performance.now() - started
}

const mib = (bytes) => Math.round(bytes / 1_048_576 * 10) / 10

/** What the process held at most while `work` ran, and what it held before. */
export const withMemory = async (work) => {
  globalThis.gc?.()
  const before = process.memoryUsage()
  const peak = { ...before }
  const look = () => {
    const now = process.memoryUsage()
    for (const name in peak) peak[name] = Math.max(peak[name], now[name])
  }
  const timer = setInterval(look, 20)
  const value = await work()
  clearInterval(timer)
  look()
  return {
    value,
    memory: {
      rss_before_mib: mib(before.rss),
      rss_peak_mib: mib(peak.rss),
      array_buffers_before_mib: mib(before.arrayBuffers),
      array_buffers_peak_mib: mib(peak.arrayBuffers),
      heap_peak_mib: mib(peak.heapUsed)
    }
  }
}

const delayOver = async (work) => {
  const histogram = monitorEventLoopDelay({ resolution: 1 })
  await sleep(5)
  histogram.enable()
  const value = await work()
  // The delay that was under way when the work ended is told by the next tick.
  await sleep(5)
  histogram.disable()
  return { value, p999_ms: histogram.percentile(99.9) / 1e6, max_ms: histogram.max / 1e6 }
}

// The largest write that the library makes on the calling thread.
const small_bytes_max = 262_144

const largestCall = (directory) => {
  const fd = openSync(join(directory, "largest"), "a")
  const bytes = Buffer.alloc(small_bytes_max)
  const times = []
  for (let call = 0; call < 40; call++) {
    const started = performance.now()
    writeSync(fd, bytes)
    times.push(performance.now() - started)
  }
  closeSync(fd)
  return median(times)
}

/**
 * How late the event loop was while `work` ran, in the 99.9th percentile and at most. The same is measured with nothing
 * to do, and one synchronous write of the largest size that the library writes so: what is beyond both is the work's.
 */
export const withDelay = async ({ directory, idle_ms }, work) => {
  const idle = await delayOver(() => sleep(idle_ms))
  const call_ms = largestCall(directory)
  const { max_ms, p999_ms, value } = await delayOver(work)
  return {
    value,
    delay: { idle_p999_ms: idle.p999_ms, call_ms, p999_ms, max_ms, beyond_ms: p999_ms - idle.p999_ms - call_ms }
  }
}

/** Runs a work again and again, without its floor, for as long as it takes to see how late the event loop gets. */
export const repeat = async (work, { count, duration_ms, operations_max = Infinity }) => {
  const end = performance.now() + duration_ms
  let done = 0
  while (performance.now() < end && done + count <= operations_max) {
    const input = work.prepare?.(count)
    await work.run(count, input)
    done += count
  }
}
