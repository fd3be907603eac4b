/** Who is told of records as they are written. */
import type { Entry } from "./entries.ts"
import type { Frames } from "./frames.ts"
import type { RecordRef } from "./writer.ts"

/**
 * Called in the order of the file, in the step that wrote: with a record, or with many at once. It must copy what it
 * keeps. What is told is written already: when one throws, the others are told all the same, for an index that missed a
 * record would part from the log; then the first that was thrown ends the call that wrote.
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
    this.#tell((observer) => observer.record(entry, ref))
  }

  frames(frames: Frames): void {
    this.#tell((observer) => observer.frames(frames))
  }

  #tell(tell: (observer: Observer) => void): void {
    const all = this.#all
    let told = 0
    this.#isTelling = true
    try {
      while (told < all.length) tell(all[told++] as Observer)
    } finally {
      if (told < all.length) tellRest(all.slice(told), tell)
      this.#isTelling = false
    }
  }
}

const tellRest = (rest: ReadonlyArray<Observer>, tell: (observer: Observer) => void): void => {
  for (const observer of rest) {
    try {
      tell(observer)
    } catch {
      // The first that was thrown is the one that is reported.
    }
  }
}
