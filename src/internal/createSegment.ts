/** Making the file of a new segment, and its name durable. */
import * as Effect from "effect/Effect"
import type { DiskFile, DiskService } from "../Disk.ts"
import type { IoError } from "../Errors.ts"
import { segment_max, segmentName, segmentPath } from "../Recovery.ts"

interface Created {
  readonly id: number
  readonly file: DiskFile
}

/**
 * The segment with that id, or with the next one that is free: what has a segment's name and is no file, such as a
 * directory, is nobody's segment, and ids may have gaps. A file is somebody's.
 */
export const createSegment = (
  disk: DiskService,
  directory: string,
  id: number
): Effect.Effect<Created, IoError> =>
  Effect.matchEffect(disk.open(segmentPath(directory, id), "create"), {
    onSuccess: (file) => Effect.as(Effect.onError(disk.syncDirectory(directory), () => file.close), { id, file }),
    onFailure: (error) =>
      error.code !== "EEXIST" || id === segment_max
        ? Effect.fail(error)
        : Effect.flatMap(disk.list(directory), (entries) =>
          entries.some(({ isFile, name }) => isFile && name === segmentName(id))
            ? Effect.fail(error)
            : createSegment(disk, directory, id + 1))
  })
