/**
 * Visits every point at which a machine can stop while a workload runs, and everything a crash there can leave.
 *
 * A point is taken before and after each call of the disk, by forking it: the fork is the machine at that moment, and
 * beside it stands what the model knew then. From each point come the survivors of a power loss (all of them up to a
 * limit, seeded ones above it) and the death of the process. Each is opened again, checked, written to and synced, and
 * while that goes on new points are taken, and so on to a depth. What leads to a state that has been seen at that
 * depth is not gone through twice.
 */
import { Effect } from "effect"
import { createHash } from "node:crypto"
import { mix, seeded } from "../../src/internal/simulatedRandom.ts"
import type * as Log from "../../src/Log.ts"
import { makeDisk, type Operation, type Options, type SimulatedDisk } from "../../src/testing.ts"
import { inputOf, Model, open, over, type Rec, recover, type Subject } from "./crashModel.ts"

/** What was visited, by kind. */
export class Counts {
  readonly byKind = new Map<string, number>()
  add(kind: string, count = 1): void {
    this.byKind.set(kind, (this.byKind.get(kind) ?? 0) + count)
  }
  get(kind: string): number {
    return this.byKind.get(kind) ?? 0
  }
  addAll(other: Counts): void {
    for (const [kind, count] of other.byKind) this.add(kind, count)
  }
  toString(): string {
    return Array.from(this.byKind).sort(([a], [b]) => a < b ? -1 : 1)
      .map(([kind, count]) => `  ${kind.padEnd(44)} ${count.toLocaleString("en")}`).join("\n")
  }
}

export interface Point {
  readonly disk: SimulatedDisk
  readonly model: Model
  readonly where: string
}

/**
 * Takes a point before and after each call, unless neither the disk nor the model has changed since the last one: all,
 * or a sample of which each is as likely (Vitter's algorithm R).
 */
export class Points {
  readonly taken: Array<Point> = []
  readonly counts: Counts
  readonly #sample: { readonly size: number; readonly pick: (count: number) => number } | undefined
  #seen = 0
  #last = ""
  #changes = 0

  constructor(counts: Counts, sample?: { readonly size: number; readonly pick: (count: number) => number }) {
    this.counts = counts
    this.#sample = sample
  }

  hook(disk: () => SimulatedDisk, model: Model): NonNullable<Options["onOperation"]> {
    return (operation, phase) => {
      if (phase === "before") this.counts.add("calls")
      if (phase === "after" && !reading.has(operation.kind)) this.#changes++
      if (phase === "after" && operation.kind === "write") this.counts.add("calls: writes, cut inside as well")
      this.take(disk(), model, `${phase} ${operation.index} ${operation.kind} ${operation.path}`)
    }
  }

  take(disk: SimulatedDisk, model: Model, where: string): void {
    const now = [this.#changes, model.asked.length, model.written.length, model.alive, model.synced, ...model.notes]
      .join()
    if (now === this.#last) return
    this.#last = now
    this.#seen++
    const size = this.#sample?.size ?? Number.POSITIVE_INFINITY
    const at = this.#seen <= size ? this.#seen - 1 : this.#sample?.pick(this.#seen) ?? size
    if (at < size) this.taken[at] = { disk: disk.fork(), model: model.fork(), where }
  }
}

const reading: ReadonlySet<Operation["kind"]> = new Set(
  ["open", "read", "size", "list", "isCurrent", "readText", "tryLock", "close"]
)

export interface Workload {
  readonly name: string
  readonly options: Log.Options
  /** What the disk is like at the start. */
  readonly disk?: Partial<Options>
  /** Called before the first point is taken. */
  readonly prepare?: (disk: SimulatedDisk, model: Model) => Effect.Effect<unknown, unknown>
  readonly run: (subject: Subject, disk: SimulatedDisk) => Effect.Effect<unknown, unknown>
  /** What else a survivor must hold, beside the store itself: `undefined` when all is well. */
  readonly check?: (survivor: SimulatedDisk, model: Model) => Effect.Effect<string | undefined>
}

export interface Bounds {
  /** Survivors of a power loss at each point: at the first level, the second … Its length is the depth. Where it is
   * more than one, the process dies at each point as well. */
  readonly survivors: ReadonlyArray<number>
  /** Points that are gone on from at the second level, the third … */
  readonly points: ReadonlyArray<number>
  readonly seed: number
  /** Whether `repair` may refuse with a typed error: where a write was cut within a sector, and the sector's later content
   * is lost, the table cannot tell it from damage. */
  readonly mayRefuse?: boolean
}

/** What a workload does to its disk; the disk is left as it is at the end. */
export const runWorkload = (
  workload: Workload,
  options: Options,
  points: Points
): Effect.Effect<{ readonly disk: SimulatedDisk; readonly model: Model }, unknown> =>
  Effect.gen(function*() {
    const model = new Model()
    let hook: Options["onOperation"]
    const disk = makeDisk({
      directories: [workload.options.directory],
      ...workload.disk,
      ...options,
      onOperation: (operation, phase) => hook?.(operation, phase)
    })
    if (workload.prepare !== undefined) yield* workload.prepare(disk, model)
    hook = points.hook(() => disk, model)
    yield* Effect.scoped(Effect.gen(function*() {
      const subject = yield* open(workload.options, model)
      yield* workload.run(subject, disk)
      points.take(disk, model, "at the end")
    })).pipe(over(disk))
    points.take(disk, model, "closed")
    return { disk, model }
  })

const stateKey = (disk: SimulatedDisk, model: Model, kept: number): string => {
  const hash = createHash("sha1")
  for (const [path, bytes] of disk.files) hash.update(`${path}|${bytes?.length}|`).update(bytes ?? "")
  for (const { key, payload, type } of model.asked) hash.update(`${type}|${key}|${payload}|`)
  // What was promised about targets is checked as well: one disk can be right before a promise and wrong after it.
  hash.update(model.notes.join())
  return `${kept} ${model.written.length} ${hash.digest("base64")}`
}

export class Visitor {
  readonly counts = new Counts()
  readonly #workload: Workload
  readonly #bounds: Bounds
  readonly #seen: Array<Set<string>> = []
  #serial = 0

  constructor(workload: Workload, bounds: Bounds) {
    this.#workload = workload
    this.#bounds = bounds
  }

  /** Everything that can be left at a point, gone through. Fails with what is wrong, and how it came to it. */
  readonly visit = (point: Point, level: number, history: string): Effect.Effect<void, string> =>
    Effect.gen({ self: this }, function*() {
      const limit = this.#bounds.survivors[level]
      if (limit === undefined) return
      this.counts.add(`level ${level + 1}: points`)
      const here = `${history}\n${point.where}`
      const seed = mix(this.#bounds.seed, this.#serial++)
      // Where there is to be one crash only, it is of one kind or the other.
      const powerOnly = limit === 1 && seed % 2 === 0
      const deathOnly = limit === 1 && seed % 2 === 1
      for (const [index, disk] of (deathOnly ? [] : point.disk.survivors(limit, { seed })).entries()) {
        this.counts.add(`level ${level + 1}: power losses`)
        if (!this.#isNew(level, stateKey(disk, point.model, point.model.synced))) continue
        yield* this.#goOn(disk, point.model, point.model.synced, level, `${here}\npower loss ${index} of ${limit}`)
      }
      if (powerOnly) return
      this.counts.add(`level ${level + 1}: deaths of the process`)
      // What the dead process had not synced can still be lost, and is no part of the key: nothing comes of it only where
      // this is the last crash.
      const isLast = level + 1 === this.#bounds.survivors.length
      if (isLast && !this.#isNew(level, `death ${stateKey(point.disk, point.model, point.model.alive)}`)) return
      yield* this.#goOn(point.disk.kill(), point.model, point.model.alive, level, `${here}\nprocess death`)
    })

  #isNew(level: number, key: string): boolean {
    const seen = this.#seen[level] ??= new Set()
    const { size } = seen
    return seen.add(key).size > size
  }

  readonly #goOn = (
    disk: SimulatedDisk,
    known: Model,
    kept: number,
    level: number,
    history: string
  ): Effect.Effect<void, string> =>
    Effect.gen({ self: this }, function*() {
      const model = known.fork()
      model.alive = kept
      const wanted = level + 1 < this.#bounds.survivors.length ? this.#bounds.points[level] ?? 0 : 0
      const pick = seeded(mix(this.#bounds.seed, this.#serial++))
      const points = new Points(this.counts, { size: wanted, pick })
      const watched = disk.fork(wanted === 0 ? {} : { onOperation: (operation, phase) => hook(operation, phase) })
      const hook = points.hook(() => watched, model)
      const extra = this.#workload.check === undefined ? undefined : yield* this.#workload.check(disk.fork(), model)
      this.counts.add(`level ${level + 1}: reopened`)
      const recovered = yield* recover(
        watched,
        this.#workload.options,
        model,
        kept,
        this.#bounds.mayRefuse ?? false,
        (subject) =>
          Effect.gen(function*() {
            const record: Rec = { type: "Put", key: "again", payload: `level ${level}`.padEnd(500, ".") }
            yield* subject.ask([record], subject.log.appendRecord(inputOf(record)))
            yield* subject.sync
            points.take(watched, model, "synced again")
          })
      )
      if (recovered.refused !== undefined) {
        this.counts.add(`refused by repair: ${recovered.refused._tag}`)
      }
      const problem = extra ?? recovered.problem ??
        (model.synced < model.written.length ? "what was written after reopening was not synced" : undefined) ??
        (watched.misuse[0] === undefined ? undefined : `misuse: ${watched.misuse[0]}`)
      if (problem !== undefined) {
        return yield* Effect.fail(
          [problem, `${this.#workload.name}, ${disk.mode}, seed ${this.#bounds.seed}${history}`, watched.script].join(
            "\n"
          )
        )
      }
      for (const next of points.taken) {
        yield* this.visit(next, level + 1, history)
      }
    })
}
