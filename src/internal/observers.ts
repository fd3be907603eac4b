/** Who is told of records as they are written. */
import type { Frames } from "./frames.ts"
import type { Entry, RecordRef } from "./writer.ts"

/**
 * Called in the order of the file, in the step that wrote: with a record, or with many at once. It must not throw, and
 * must copy what it keeps.
 */
export interface Observer {
  readonly record: (entry: Entry, ref: RecordRef) => void
  readonly frames: (frames: Frames) => void
}

export class Observers {
  #all: ReadonlyArray<Observer> = []
  #isTelling = false

  /** What an observer starts meanwhile must not write yet: others have not been told of this, or still look at it. */
  get isTelling(): boolean {
    return this.#isTelling
  }

  get isEmpty(): boolean {
    return this.#all.length === 0
  }

  add(observer: Observer): void {
    this.#all = [...this.#all, observer]
  }

  remove(observer: Observer): void {
    const at = this.#all.indexOf(observer)
    this.#all = this.#all.filter((_, index) => index !== at)
  }

  record(entry: Entry, ref: RecordRef): void {
    this.#isTelling = true
    try {
      for (const observer of this.#all) observer.record(entry, ref)
    } finally {
      this.#isTelling = false
    }
  }

  frames(frames: Frames): void {
    this.#isTelling = true
    try {
      for (const observer of this.#all) observer.frames(frames)
    } finally {
      this.#isTelling = false
    }
  }
}
