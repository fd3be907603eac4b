/**
 * Deliberate faults of the product, and for each the test that must fail of it: what shows that the suite would notice
 * if the claim were broken. `npm run test:mutants` applies them one at a time (`scripts/mutants.mjs`), and
 * `test/mutants.test.ts` keeps the list in step with the code.
 *
 * - `claim` is what the product does, and the mutant does not.
 * - `find` stands exactly once in `file`; `replace` takes its place.
 * - `caughtBy` is the name of one test of `test`, or a part of it that no other has; `|` marks where the code puts a
 *   name together. The test runs `src/`, not `dist/`.
 */

const cache = "test/frameCache.test.ts"
const checkpoint = "test/checkpoint.test.ts"
const crashPoints = "test/crashPoints.test.ts"
const failures = "test/failures.test.ts"
const fsync = "test/fsync.test.ts"
const gather = "test/gather.test.ts"
const log = "test/Log.test.ts"
const places = "test/places.test.ts"
const recovery = "test/Recovery.test.ts"

const cutting = [
  {
    name: "lost-segment-not-told",
    claim: "A segment that was lost is a warning.",
    file: "src/internal/counted.ts",
    find: "if (frames.base === 0) countJump",
    replace: "if (frames.base < 0) countJump",
    test: log,
    caughtBy: "a segment that was lost is a warning"
  },
  {
    name: "append-behind-torn-tail",
    claim: "A torn tail is cut off before anything is appended.",
    file: "src/internal/repair.ts",
    find:
      "yield* Effect.tapError(segment.truncate(damage.offset), () => saved === undefined ? Effect.void : unsave(saved))",
    replace: "",
    test: crashPoints,
    caughtBy: "cutting a record that ends too early| (|adversarial|)"
  },
  {
    name: "cut-not-synced",
    claim: "A cut is durable before the first append.",
    file: "src/internal/repair.ts",
    find: "yield* segment.sync",
    replace: "",
    test: fsync,
    caughtBy: "is durable before anything is written where the tail was"
  },
  {
    name: "truncate-before-copy-is-synced",
    claim: "The copy of a torn tail is durable before the tail is cut off.",
    file: "src/internal/repair.ts",
    find: "Effect.andThen(target.sync),",
    replace: "",
    test: crashPoints,
    caughtBy: "cutting a record that ends too early| (|adversarial|)"
  },
  {
    name: "truncate-before-copy-has-its-name",
    claim: "The copy's name is durable before the tail is cut off.",
    file: "src/internal/repair.ts",
    find: "Effect.andThen(disk.syncDirectory(directory)),",
    replace: "",
    test: crashPoints,
    caughtBy: "cutting a record that ends too early| (|adversarial|)"
  },
  {
    name: "cut-without-copy",
    claim: "What is cut off is kept, unless all of it is zeros.",
    file: "src/internal/repair.ts",
    find: "(yield* restore(isZeros(segment, damage.offset, end)))",
    replace: "end > 0",
    test: failures,
    caughtBy:
      "a write that fails halfway leaves a torn tail, if that cannot be taken back, which reopening cuts and keeps"
  },
  {
    name: "repair-cuts-before-later-frames",
    claim: "Damage with valid records behind it is refused by `repair`, not cut.",
    file: "src/internal/repair.ts",
    find: "policy === \"prefix\" && segment === active",
    replace: "policy !== \"strict\" && segment === active",
    test: recovery,
    caughtBy: "active: a bad checksum before a valid frame"
  },
  {
    name: "prefix-cuts-newer-version",
    claim: "A newer version's frames are cut by no policy.",
    file: "src/internal/repair.ts",
    find: " && !(verdict === \"CorruptSegment\" && reason === \"UnknownVersion\")",
    replace: "",
    test: recovery,
    caughtBy: "active: a newer version's frame across a sector that was never written"
  }
]

const verdicts = [
  {
    name: "checksums-together-not-tried",
    claim: "Frames whose checksums are tried together are as sound as those tried one by one.",
    file: "src/internal/frames.ts",
    find: "hold = areMany && allHold(bytes, view, at, tried)",
    replace: "hold = areMany",
    test: "test/frames.test.ts",
    caughtBy: "tried many at once end before the first whose checksum does not hold, whichever it is"
  },
  {
    name: "no-zero-sector-rule",
    claim: "A record that lost a sector is torn, whatever stands behind it.",
    file: "src/internal/damage.ts",
    find: "if (areZeros(bytes, sector - at, Math.min(nextSector(sector), at + count) - at)) return true",
    replace: "",
    test: recovery,
    caughtBy: "active: its second sector is zeros, before valid frames"
  },
  {
    name: "zero-sector-rule-too-wide",
    claim: "Zeros prove nothing where the rest of their sector was written.",
    file: "src/internal/damage.ts",
    find: "nextSector(end - 1), size)",
    replace: "end)",
    test: recovery,
    caughtBy: "active: its share of the last sector is zeros, but the next record's share is not"
  },
  {
    name: "header-across-lost-sector-is-corrupt",
    claim: "A header that reaches into a sector that was never written is torn.",
    file: "src/internal/damage.ts",
    find: "(yield* isZeros(file, boundary, Math.min(nextSector(boundary), size))) ? \"unwritten\"",
    replace: "false ? \"unwritten\"",
    test: crashPoints,
    caughtBy: "a header that reaches into a sector that was never written is torn, wherever it is cut"
  },
  {
    name: "few-zeros-in-a-header-hide-later-frames",
    claim: "One damaged byte of a header near the end of a sector does not have the records behind it cut.",
    file: "src/internal/damage.ts",
    find: "if (header !== \"cut\") return verdict(header === \"unwritten\" ? \"Torn\" : \"CorruptSegment\")",
    replace: "return verdict(header !== \"written\" ? \"Torn\" : \"CorruptSegment\")",
    test: recovery,
    caughtBy: "active: one zero behind the first |3| of a header, before valid frames"
  },
  {
    name: "no-search-for-later-frames",
    claim: "Valid records behind damage are looked for before it is called torn.",
    file: "src/internal/damage.ts",
    find: "const laterFrames = yield* countLaterFrames(file, offset + 1, where.size, where.txid)",
    replace: "const laterFrames = 0",
    test: recovery,
    caughtBy: "is not cut off behind a damaged record, whatever the sizes of both"
  },
  {
    name: "later-frames-not-at-every-byte",
    claim: "The search for later records starts at every byte.",
    file: "src/internal/laterFrames.ts",
    find: "nextStart(this.#bytes, at + 1, this.#until)",
    replace: "nextStart(this.#bytes, at + Frame.overhead_bytes, this.#until)",
    test: "test/laterFrames.test.ts",
    caughtBy: "is not what stands inside a frame that is counted, but is what stands inside one that is not"
  },
  {
    name: "later-frames-lost-between-chunks",
    claim: "The search finds a record that lies across two chunks.",
    file: "src/internal/laterFrames.ts",
    find: "start + length <= this.#size",
    replace: "at + length <= this.#bytes.length",
    test: "test/laterFrames.test.ts",
    caughtBy: "it finds a frame wherever it lies across two pieces of the file"
  },
  {
    name: "later-frames-without-room-are-dropped",
    claim: "A start for which there is no room is tried in another pass.",
    file: "src/internal/laterFrames.ts",
    find: "this.#deferred = start\n",
    replace: "",
    test: "test/laterFrames.test.ts",
    caughtBy: "it is the same count on any soup of frames, parts of frames and frames in frames"
  },
  {
    name: "later-frames-of-any-txid",
    claim: "A log that is stored in a torn record is not taken for later records.",
    file: "src/internal/laterFrames.ts",
    find: " && Frame.txidAt(this.#view, at) > this.#txid",
    replace: "",
    test: recovery,
    caughtBy: "active: a torn record that holds a log of old txids"
  },
  {
    name: "closed-segment-may-be-torn",
    claim: "Damage in a closed segment is never taken for a crash's.",
    file: "src/internal/damage.ts",
    find: "if (where.closed) return verdict(\"CorruptSegment\")",
    replace: "",
    test: recovery,
    caughtBy: "closed: a frame cut by its last byte"
  },
  {
    name: "checksum-not-checked",
    claim: "No record is given out whose checksum does not hold.",
    file: "src/Frame.ts",
    find: "return crc.crc32c(bytes, at, end, 0) === view.getUint32(end, true)",
    replace: "return end > at",
    test: recovery,
    caughtBy: "active: a bad checksum at the end"
  }
]

const writing = [
  {
    name: "ack-before-write",
    claim: "An append resolves when the kernel has the record.",
    file: "src/internal/writer.ts",
    find: "? Disk.appendFullyNow(file, this.#buffer.short(entry, length, txid), 0, length)",
    replace: "? setImmediate((bytes) => Disk.appendFullyNow(file, bytes, 0, length), " +
      "this.#buffer.short(entry, length, txid).slice()) && undefined",
    test: crashPoints,
    caughtBy: "at any point of |append and sync| (|adversarial|)"
  },
  {
    name: "large-write-left-behind",
    claim: "What is left of a large write that failed is taken back.",
    file: "src/internal/writer.ts",
    find: "Disk.appendFully(this.#file, bytes, 0, length), () => this.#takeBack)",
    replace: "Disk.appendFully(this.#file, bytes, 0, length))",
    test: failures,
    caughtBy: "a large write that fails halfway is taken back"
  },
  {
    name: "small-write-left-behind",
    claim: "What is left of a small write that failed is taken back when the writer closes.",
    file: "src/internal/writer.ts",
    find: "if (this.#hasPart) yield* this.#takeBack",
    replace: "",
    test: failures,
    caughtBy: "a small write that fails halfway is taken back"
  },
  {
    name: "stale-chunk-judged",
    claim: "Damage stands only when the bytes have been read again.",
    file: "src/internal/segmentReader.ts",
    find: "this.#changes === 0 || size !== this.#size",
    replace: "size !== this.#size",
    test: "test/reading.test.ts",
    caughtBy: "is read again: what was read before as many bytes were written in its place is no damage"
  },
  {
    name: "taken-back-whole",
    claim: "Whole records of a batch that failed stay: a reader may have seen them.",
    file: "src/internal/takeBack.ts",
    find: "file.truncate(offset + whole)",
    replace: "file.truncate(offset)",
    test: failures,
    caughtBy: "what a reader has seen of a batch that fails keeps its place"
  },
  {
    name: "taken-back-without-sync",
    claim: "What is taken back is so durably.",
    file: "src/internal/writer.ts",
    find: "Effect.andThen(takeBack(this.#file, this.#offset), this.#hasFailedSync ? Effect.void : this.#file.sync)",
    replace: "takeBack(this.#file, this.#offset)",
    test: fsync,
    caughtBy: "does not come back between records that are written there later"
  },
  {
    name: "sync-again-to-take-back",
    claim: "An fsync is never retried on a descriptor where one has failed.",
    file: "src/internal/writer.ts",
    find: "this.#hasFailedSync ? Effect.void : this.#file.sync",
    replace: "this.#file.sync",
    test: fsync,
    caughtBy: "is taken back without another fsync on a descriptor whose fsync has failed meanwhile"
  },
  {
    name: "ack-before-large-write",
    claim: "A large append resolves when the kernel has the record.",
    file: "src/internal/writer.ts",
    find: "yield* this.#guard(Disk.appendFully(this.#file, bytes, 0, length), () => this.#takeBack)",
    replace: "yield* Effect.forkDetach(this.#guard(Disk.appendFully(this.#file, bytes, 0, length)))",
    test: failures,
    caughtBy: "the log |a large append| that fails anywhere stops the writer, and reopening recovers"
  },
  {
    name: "short-write-taken-for-whole",
    claim: "A write of which the system took a part only is gone on with.",
    file: "src/Disk.ts",
    find: "at += count\n    }\n  } catch",
    replace: "at = end\n    }\n  } catch",
    test: failures,
    caughtBy: "short writes and EINTR are invisible"
  },
  {
    name: "interrupted-write-is-abandoned",
    claim: "A write that has begun is finished, whoever leaves.",
    file: "src/internal/writer.ts",
    find: "const held = this.#gate.hold(Effect.uninterruptible(Effect.suspend(() => {",
    replace: "const held = this.#gate.hold(Effect.flatten(Effect.sync(() => {",
    test: "test/interruption.test.ts",
    caughtBy: "an interrupted fiber |a large append| that is interrupted anywhere leaves whole frames"
  },
  {
    name: "poison-forgotten",
    claim: "After a failed write the writer takes nothing more.",
    file: "src/internal/writer.ts",
    find: "this.#refusal ??= new WriterPoisoned({ directory: this.#start.directory, operation, path, code, cause })",
    replace: "",
    test: failures,
    caughtBy: "a small append| that fails anywhere stops the writer, and reopening recovers"
  },
  {
    name: "batch-goes-on-after-failed-sync",
    claim: "The rest of a batch is not written once a sync has failed.",
    file: "src/internal/writer.ts",
    find: "if (this.#refusal !== undefined) return yield* this.#refusal",
    replace: "",
    test: failures,
    caughtBy: "nothing is written any more once a sync has failed, not even the rest of a batch under way"
  },
  {
    name: "append-goes-on-after-failed-sync",
    claim: "An append that waited for its turn is not written once a sync has failed.",
    file: "src/internal/writer.ts",
    find: "if (refusal !== undefined) return yield* refusal\n    if (!this.#hasRoom",
    replace: "if (!this.#hasRoom",
    test: failures,
    caughtBy: "nothing is written any more once a sync has failed, not even what let others run first"
  },
  {
    name: "index-takes-the-callers-key",
    claim: "The index is told the key that the file has, not what the caller's memory holds once the write has ended.",
    file: "src/internal/writer.ts",
    find: "return this.#written({ type: entry.type, key, payload }, length)",
    replace: "return this.#written({ type: entry.type, key: entry.key, payload }, length)",
    test: "test/callers.test.ts",
    caughtBy: "while its large value is written: the index has what the log has, checkpoint |always"
  },
  {
    name: "length-taken-before-the-wait",
    claim: "A frame is as long as its bytes are when it is encoded, not when it began to wait.",
    file: "src/internal/writer.ts",
    find:
      "const length = lengthOf(entry)\n    if (length <= Disk.blocking_bytes_max) return yield* this.#writeSmall(entry, length)",
    replace:
      "const length = lengthOf(entry) + 1\n    if (length <= Disk.blocking_bytes_max) return yield* this.#writeSmall(entry, length)",
    test: "test/callers.test.ts",
    caughtBy: "a small one|, to less: a whole record is written, or none"
  },
  {
    name: "throwing-observer-starves-the-others",
    claim: "An observer that throws keeps no record from those behind it.",
    file: "src/internal/observers.ts",
    find: "if (told < all.length) tellRest(all.slice(told), tell)",
    replace: "",
    test: "test/Log.test.ts",
    caughtBy: "an observer that throws at |one record| keeps it from no other, and what was thrown ends the call"
  },
  {
    name: "closing-does-not-wait",
    claim: "Nothing is under way once the scope has closed.",
    file: "src/internal/writer.ts",
    find: "this.#committing === undefined ? Effect.void : Deferred.await(this.#committing)",
    replace: "Effect.void",
    test: fsync,
    caughtBy: "waits for an fsync under way, also of a writer that has failed meanwhile"
  },
  {
    name: "txid-restarts",
    claim: "Txids go on behind the last one when a log is opened again.",
    file: "src/internal/openLog.ts",
    find: "txid: report.last_txid_seen,",
    replace: "txid: 0,",
    test: log,
    caughtBy: "txids ascend from 1 across batches, segments and reopens, and each ref says where its frame is"
  }
]

const durability = [
  {
    name: "sync-without-fsync",
    claim: "`sync` has the disk sync the segment.",
    file: "src/internal/writer.ts",
    find: "this.#guard(syncInPlace(this.#file, this.#start.lock),",
    replace: "this.#guard(Effect.void,",
    test: crashPoints,
    caughtBy: "at any point of |append and sync| (|adversarial|)"
  },
  {
    name: "disk-does-not-tell-the-system",
    claim: "Node's disk hands a sync on to the system.",
    file: "src/internal/nodeDisk.ts",
    find: "NFS.fdatasync(fd, done)",
    replace: "done(null)",
    test: fsync,
    caughtBy: "a sync is answered once the system has flushed the segment"
  },
  {
    name: "disk-does-not-sync-directories",
    claim: "Node's disk hands the sync of a directory on to the system.",
    file: "src/internal/nodeDisk.ts",
    find: "NFS.fsync(fd, done)",
    replace: "done(null)",
    test: fsync,
    caughtBy: "a rotation is answered once the system has flushed the old segment and the directory"
  },
  {
    name: "fsync-retried",
    claim: "An fsync that has failed is not repeated.",
    file: "src/internal/writer.ts",
    find: "this.#guard(syncInPlace(this.#file, this.#start.lock),",
    replace: "this.#guard(Effect.retry(syncInPlace(this.#file, this.#start.lock), { times: 1 }),",
    test: failures,
    caughtBy: "all who waited for the fsync that failed are told so, and it is not repeated"
  },
  {
    name: "failed-fsync-answered-with-success",
    claim: "Nobody who waited for a failed fsync is told that it succeeded.",
    file: "src/internal/writer.ts",
    find: "Deferred.doneUnsafe(round, exit)",
    replace: "Deferred.doneUnsafe(round, Effect.void)",
    test: failures,
    caughtBy: "a sync| that fails anywhere stops the writer, and reopening recovers"
  },
  {
    name: "fsync-covers-what-came-during-it",
    claim: "What was appended while an fsync ran is not taken for synced.",
    file: "src/internal/writer.ts",
    find: "this.#syncedOffset = offset",
    replace: "this.#syncedOffset = this.#offset",
    test: crashPoints,
    caughtBy: "appends while a sync is under way| (|adversarial|)"
  },
  {
    name: "sync-joins-the-round-under-way",
    claim: "A sync is answered by an fsync that began after it came.",
    file: "src/internal/writer.ts",
    find: "this.#waiting = undefined\n    return Effect.flatMap(Effect.exit(this.#syncOnce), (exit) => {",
    replace: "return Effect.flatMap(Effect.exit(this.#syncOnce), (exit) => {\n      this.#waiting = undefined",
    test: fsync,
    caughtBy: "is answered when a power loss takes nothing that was appended before it"
  },
  {
    name: "always-does-not-wait",
    claim: "Under `always` an append resolves when it is durable.",
    file: "src/internal/openLog.ts",
    find: "settles ? (write) => Effect.flatMap(write, (value) => Effect.as(writer.sync, value)) : (write) => write",
    replace: "(write) => write",
    test: crashPoints,
    caughtBy: "several fibers, each append durable by itself| (|adversarial|)"
  },
  {
    name: "rotate-without-sync",
    claim: "A segment is durable before the next one begins.",
    file: "src/internal/writer.ts",
    find: "Effect.andThen(this.sync, this.#guard(create))",
    replace: "this.#guard(create)",
    test: crashPoints,
    caughtBy: "at any point of |rotate| (|adversarial|)"
  },
  {
    name: "rotate-without-directory-sync",
    claim: "A new segment's name is durable before anything is in it.",
    file: "src/internal/createSegment.ts",
    find: "Effect.onError(disk.syncDirectory(directory), () => file.close)",
    replace: "Effect.void",
    test: crashPoints,
    caughtBy: "at any point of |rotate| (|adversarial|)"
  },
  {
    name: "open-without-directory-sync",
    claim: "The name of a segment that is there is durable before anything is written to it.",
    file: "src/internal/repair.ts",
    find: "  } else yield* disk.syncDirectory(directory)",
    replace: "  }",
    test: fsync,
    caughtBy: "has a durable name before the next one writes to it"
  },
  {
    name: "open-without-sync-of-parents",
    claim: "Directories that a dead process had made are durable when the next one syncs.",
    file: "src/internal/repair.ts",
    find: "yield* Disk.syncAncestors(disk, directory)",
    replace: "",
    test: crashPoints,
    caughtBy: "a directory made by a process that died at once is durable when the next one syncs"
  },
  {
    name: "tail-counts-as-synced-at-open",
    claim: "What an earlier process left unsynced is not taken for durable.",
    file: "src/internal/writer.ts",
    find: "this.#offset = active.bytes",
    replace: "this.#offset = this.#syncedOffset = active.bytes\n    this.#syncedSegment = active.id",
    test: log,
    caughtBy: "sync with nothing new does no I/O, but the first one after a reopen does"
  },
  {
    name: "no-rewrite-after-failed-fsync",
    claim: "What a failed fsync may have dropped is written again before the next sync counts.",
    file: "src/internal/repair.ts",
    find: "yield* makeDurable(disk, directory, options.lock, options.lock.unsynced, segments)",
    replace: "",
    test: crashPoints,
    caughtBy: "what a failed fsync dropped is not behind what the next writer syncs"
  },
  {
    name: "rewrite-not-synced",
    claim: "What is written again is synced before the note about it is taken away.",
    file: "src/internal/beside.ts",
    find: "Effect.tap(write(file), file.sync)",
    replace: "write(file)",
    test: failures,
    caughtBy: "after a failed fsync the next open writes those bytes again, or leaves it to the one after"
  },
  {
    name: "no-note-before-fsync",
    claim: "The note for the next writer is there before the fsync that may fail.",
    file: "src/internal/writer.ts",
    find: "Effect.andThen(this.#note.write(from), synced)",
    replace: "synced",
    test: fsync,
    caughtBy: "takes nothing along that the next one syncs"
  },
  {
    name: "note-lost-when-closed",
    claim: "Closing takes the note away only when everything is synced.",
    file: "src/internal/writer.ts",
    find: "if (this.#refusal === undefined) yield* Effect.ignore(this.#note.clear)",
    replace: "yield* Effect.ignore(this.#note.clear)",
    test: failures,
    caughtBy: "after a failed fsync the next open writes those bytes again, or leaves it to the one after"
  },
  {
    name: "note-lost-when-opened",
    claim: "The note stays until what it says has been mended.",
    file: "src/Lock.ts",
    find: "yield* Effect.ignore(file.writeText(sentinelText(lock.unsynced)))",
    replace: "yield* Effect.ignore(file.writeText(sentinelText(undefined)))",
    test: "test/Lock.test.ts",
    caughtBy: "what a holder notes as unsynced the next one is told, until it is taken back"
  }
]

const targets = [
  {
    name: "export-renamed-before-sync",
    claim: "An export is durable before it has its name.",
    file: "src/internal/beside.ts",
    find: "Effect.tap(write(file), file.sync)",
    replace: "write(file)",
    test: crashPoints,
    caughtBy: "an export over an older one| (|adversarial|)"
  },
  {
    name: "export-without-directory-sync",
    claim: "An export's name is durable when it resolves.",
    file: "src/internal/beside.ts",
    find: "Effect.andThen(disk.rename(building, target), disk.syncDirectory(NodePath.dirname(target)))",
    replace: "disk.rename(building, target)",
    test: crashPoints,
    caughtBy: "an export|, made again after the death of the process, is there after a power loss"
  },
  {
    name: "export-without-sync-of-parents",
    claim: "The directories made for an export are durable when it resolves.",
    file: "src/internal/beside.ts",
    find: "yield* Disk.syncAncestors(disk, parent)",
    replace: "",
    test: crashPoints,
    caughtBy: "an export into new directories|, made again after the death of the process, is there after a power loss"
  },
  {
    name: "import-not-synced",
    claim: "What an import has stored before a bad line is synced.",
    file: "src/internal/importing.ts",
    find: "Effect.andThen(this.#flush(ofStore(this.#kv.directory, Effect.logWarning(left_out))), this.#kv.sync)",
    replace: "this.#flush(ofStore(this.#kv.directory, Effect.logWarning(left_out)))",
    test: "test/Export.test.ts",
    caughtBy: "what is before a bad line is synced"
  },
  {
    name: "import-guesses-at-base64",
    claim: "An import takes no line whose Base64 is not canonical.",
    file: "src/internal/importLines.ts",
    find: "bytes.write(text, 0, \"base64\") !== decodedLength(this.#length)",
    replace: "bytes.write(text, 0, \"base64\") < 0",
    test: "test/recordLine.test.ts",
    caughtBy: "is nothing else: no other character, no other end, no other length"
  },
  {
    name: "import-drops-bits-left-over",
    claim: "An import takes no Base64 with bits left over.",
    file: "src/internal/importLines.ts",
    find: "if (!areZeros(bytes, valueAt + valueLength, valueAt + filledLength(valueLength))) return false",
    replace: "",
    test: "test/recordLine.test.ts",
    caughtBy: "has no bits left over, whatever the last characters are"
  },
  {
    name: "import-parses-any-line",
    claim: "A hostile line of an import takes bounded memory.",
    file: "src/internal/recordLine.ts",
    find: "if (hasTooManyValues(line)) return",
    replace: "if (line.number < 0) return",
    test: "test/Export.test.ts",
    caughtBy: "megabytes of objects| is refused with its line, and what was before it is stored"
  },
  {
    name: "compaction-left-to-closing",
    claim: "A compaction that could not be synced fails.",
    file: "src/internal/newStore.ts",
    find: "yield* sound(store.log.sync)",
    replace: "",
    test: failures,
    caughtBy: "a compaction| that fails anywhere leaves nothing behind, and its source works on"
  },
  {
    name: "durable-compaction-taken-back",
    claim: "A compaction that is durable stays, whatever comes then.",
    file: "src/internal/newStore.ts",
    find: "state = \"durable\"\n",
    replace: "\n",
    test: "test/Export.test.ts",
    caughtBy: "an interruption while the |compaction| gets its name leaves it whole and durable"
  },
  {
    name: "compaction-without-directory-sync",
    claim: "A compaction's name is durable when it resolves.",
    file: "src/internal/newStore.ts",
    find: "      yield* disk.syncDirectory(NodePath.dirname(path))",
    replace: "",
    test: crashPoints,
    caughtBy: "there when the call had resolved |a compaction| (|adversarial|)"
  }
]

const gate = "test/gate.test.ts"

const waiting = [
  {
    name: "lock-free-under-an-opening",
    claim: "A scope that closes lets go of a lock when the opening that relies on it has ended.",
    file: "src/internal/closeOnFailure.ts",
    find: "isAcquiring ? Effect.andThen(Deferred.await(ended), close) : close",
    replace: "close",
    test: "test/interruption.test.ts",
    caughtBy: "opening |a store|: a scope that closes anywhere in it waits for it"
  },
  {
    name: "gate-lost-to-an-interruption",
    claim: "A gate that was given to whoever is interrupted goes to the next.",
    file: "src/internal/gate.ts",
    find: "return waiter.isGiven ? this.#leave : Effect.void",
    replace: "return Effect.void",
    test: gate,
    caughtBy: "is never lost to whoever is interrupted, wherever he is"
  },
  {
    name: "closing-leaves-waiting",
    claim: "Who waits for a store that closes is told so.",
    file: "src/internal/openLog.ts",
    find: "parts.turn.refuse(closedError(\"write\", directory))",
    replace: "undefined",
    test: "test/Kv.test.ts",
    caughtBy: "fails who waits when it closes, and who comes then"
  },
  {
    name: "write-in-a-modify-waits-for-itself",
    claim: "A write in the Effect of a modifyEffect dies, whether or not that had to wait for its turn.",
    file: "src/internal/gate.ts",
    find: "const held = Effect.suspend(() => {\n          this.#holder = fiber\n",
    replace: "const held = Effect.suspend(() => {\n",
    test: "test/Kv.test.ts",
    caughtBy: "dies of a write of its own, which would wait for itself, and holds up nobody behind it"
  },
  {
    name: "counted-when-it-was-open",
    claim: "Nothing of a Kv over a log lands behind the close of its scope.",
    file: "src/internal/openKv.ts",
    find:
      "underWay(() => {\n      const error = closed()\n      return error === undefined ? write() : Effect.fail(error)\n    })",
    replace: "Effect.suspend((): Effect.Effect<A, Log.WriteError> => {\n" +
      "      const error = closed()\n      return error === undefined ? underWay(write) : Effect.fail(error)\n    })",
    test: "test/Kv.test.ts",
    caughtBy: "that closes before its log has nothing land behind, wherever its writers are by then"
  },
  {
    name: "failed-reader-stays-open",
    claim: "What failed to open holds nothing.",
    file: "src/Reader.ts",
    find: "closeOnFailure(openReader(options))",
    replace: "openReader(options)",
    test: "test/reading.test.ts",
    caughtBy: "that could not be made keeps no descriptor, however long the scope lives on"
  },
  {
    name: "lost-records-taken-for-a-torn-tail",
    claim: "A salvage says which gaps are of a torn tail.",
    file: "src/Salvage.ts",
    find: "if (!isActive) return false",
    replace: "",
    test: "test/Salvage.test.ts",
    caughtBy: "is every frame before, between and behind any damage, in order, and the rest are gaps"
  },
  {
    name: "closed-store-does-not-wait",
    claim: "Nothing lands after a scope has closed, nor behind a Kv that was over a log.",
    file: "src/internal/openKv.ts",
    find: "yield* Effect.addFinalizer(() => ended.await)",
    replace: "",
    test: "test/Kv.test.ts",
    caughtBy: "that closes before its log has the writes that had begun end first"
  },
  {
    name: "changed-in-place-is-unchanged",
    claim: "A value that a modify changes in place is a new value.",
    file: "src/internal/openKv.ts",
    find: "value === current ? Effect.map(Effect.suspend(read), isSame(current)) : Effect.succeed(false)",
    replace: "Effect.succeed(value === current)",
    test: "test/Kv.test.ts",
    caughtBy: "a value that is changed in place is a new value"
  },
  {
    name: "closed-store-over-a-log-goes-on",
    claim: "A store over a log ends with its scope.",
    file: "src/internal/openKv.ts",
    find: "untilClosed(parts, because(\"write\"), underWay)",
    replace: "parts",
    test: "test/Kv.test.ts",
    caughtBy: "answers no call for values, and writes nothing, when its scope has closed before the log's"
  },
  {
    name: "observers-write-in-between",
    claim: "What an observer writes comes behind, also with runSync.",
    file: "src/internal/writer.ts",
    find: "this.observers.isTelling ? nextTick : Effect.void",
    replace: "this.observers.isTelling ? Effect.yieldNow : Effect.void",
    test: "test/Log.test.ts",
    caughtBy: "an observer that writes with runSync is refused by Effect, and its record comes behind for everyone"
  },
  {
    name: "import-writes-again-behind-a-defect",
    claim: "What an observer has thrown at is not imported twice.",
    file: "src/internal/importing.ts",
    find: "        this.#frames.clear()\n        const error",
    replace: "        const error",
    test: "test/Export.test.ts",
    caughtBy: "what an observer has thrown at is not written again, over what was put since"
  },
  {
    name: "import-waits-when-interrupted",
    claim: "An import can be interrupted while another has the store to himself.",
    file: "src/internal/importing.ts",
    find: "this.#flush(ofStore(this.#kv.directory, Effect.logWarning(left_out)))",
    replace: "this.#flush()",
    test: "test/Export.test.ts",
    caughtBy: "a scope with one of them closes, whichever of them it interrupts first"
  }
]

const placing = [
  {
    name: "directory-not-kept-open",
    claim: "No directory that is made in the place of a store's gets its number.",
    file: "src/internal/home.ts",
    find: "Effect.andThen(keepOpen(disk, directory), disk.identity(directory))",
    replace: "disk.identity(directory)",
    test: "test/places.test.ts",
    caughtBy: "leaves its number to none that is made in its place"
  },
  {
    name: "rights-of-the-replaced-forgotten",
    claim: "What replaces a file has its rights.",
    file: "src/internal/nodeDisk.ts",
    find: "Effect.andThen(keepRights(from, to), ",
    replace: "Effect.andThen(Effect.void, ",
    test: "test/Export.test.ts",
    caughtBy: "leaves a file that it replaces its rights"
  },
  {
    name: "rotation-stops-at-a-directory",
    claim: "What has the name of a segment and is none stops no writer.",
    file: "src/internal/createSegment.ts",
    find: "isFile && name === segmentName(id)",
    replace: "name === segmentName(id)",
    test: "test/Log.test.ts",
    caughtBy: "is passed by at a rotation, and a file is not"
  }
]

const salvage = "test/Salvage.test.ts"

const salvaging = [
  {
    name: "salvage-ends-at-damage",
    claim: "What is behind damage is salvaged.",
    file: "src/Salvage.ts",
    find: "Stream.unwrap(fromRun(run))",
    replace: "Stream.empty",
    test: salvage,
    caughtBy: "is every frame before, between and behind any damage, in order, and the rest are gaps"
  },
  {
    name: "salvage-of-other-logs",
    claim: "A frame of a log that a damaged record held is not taken for one of this log, if its txid tells.",
    file: "src/Salvage.ts",
    find: "behind(segment, damage, last, onGap)",
    replace: "behind(segment, damage, { txid: 0 }, onGap)",
    test: salvage,
    caughtBy: "goes on by a txid of its own log, and not by that of a log that a damaged record held"
  },
  {
    name: "salvage-of-what-a-damaged-record-holds",
    claim: "What a damaged record holds is not taken for this log's where its own length leads to the next record.",
    file: "src/Salvage.ts",
    find: "(yield* isWhole(file, end, header.length))) return end",
    replace: "(yield* isWhole(file, end, header.length))) return passed",
    test: salvage,
    caughtBy: "is no log that a damaged record held, however many records before it are damaged too"
  },
  {
    name: "salvage-reads-on-in-a-gap",
    claim: "A place that has been read is not gone on from again.",
    file: "src/Salvage.ts",
    find: "if (damaged === undefined) return undefined\n      const from = known ?? damaged.offset",
    replace: "const from = known ?? damaged?.offset ?? 0",
    test: salvage,
    caughtBy: "goes on from no place that it has read already, such as a log in a record with an older txid"
  }
]

const checkpoints = [
  {
    name: "checkpoint-of-other-files",
    claim: "A checkpoint counts only while the segments it covers are the files they were.",
    file: "src/internal/checkpoint.ts",
    find: "if (!unchanged) return yield* Effect.fail(\"a segment has changed\")",
    replace: "",
    test: checkpoint,
    caughtBy: "is lost when a closed segment is written over, replaced, swapped, or cut"
  },
  {
    name: "checkpoint-not-checked",
    claim: "A checkpoint counts only while its checksum holds.",
    file: "src/internal/checkpoint.ts",
    find: "if (foundCrc !== crc) return yield* Effect.fail(\"its checksum is wrong\")",
    replace: "",
    test: checkpoint,
    caughtBy: "is not used when any byte of it is another"
  },
  {
    name: "active-segment-not-checked",
    claim: "What a checkpoint covers of the active segment is checked before anything is appended behind it.",
    file: "src/internal/checkpoint.ts",
    find: "if (id !== active && identity === (yield* disk.identity(path))) continue",
    replace: "if (identity === (yield* disk.identity(path))) continue",
    test: checkpoint,
    caughtBy: "damage in the active segment is found at once, though it changed no file's identity"
  },
  {
    name: "checkpoint-over-foreign-file",
    claim: "A file of the checkpoint's name that is none is somebody else's, and is left alone.",
    file: "src/internal/checkpoint.ts",
    find: "if (isOurs !== true) return yield* Effect.fail(`${name} is not a checkpoint; if it is nobody's, remove it`)",
    replace: "",
    test: checkpoint,
    caughtBy: "is left alone, and the store works: |a file that begins a little like one"
  }
]

const sharing = [
  {
    name: "writes-follow-a-link",
    claim: "A writer goes on in the directory whose lock it holds, whatever its path leads to later.",
    file: "src/Lock.ts",
    find: "const home = yield* disk.realPath(directory)",
    replace: "const home = directory",
    test: places,
    caughtBy: "goes on where it is when the link is turned to another"
  },
  {
    name: "writes-through-a-link",
    claim: "No segment is written to through a symbolic link.",
    file: "src/internal/nodeDisk.ts",
    find: "append: O_RDWR | O_APPEND | O_NOFOLLOW,",
    replace: "append: O_RDWR | O_APPEND,",
    test: recovery,
    caughtBy: "never written through, for its writer is another"
  },
  {
    name: "durable-in-a-replaced-segment",
    claim: "What is in a file that is no longer the store's segment is called durable by no sync.",
    file: "src/internal/writer.ts",
    find: "syncInPlace(this.#file, this.#start.lock)",
    replace: "Effect.asVoid(this.#file.sync)",
    test: places,
    caughtBy: "is called durable by no sync"
  },
  {
    name: "another-directory-is-an-empty-log",
    claim: "A reader lists the directory that it was opened in, or none.",
    file: "src/internal/home.ts",
    find: "(is) => is ? Effect.succeed(entries) :",
    replace: "(is) => is || true ? Effect.succeed(entries) :",
    test: places,
    caughtBy: "is not told to readers as an empty log"
  },
  {
    name: "a-missing-store-is-made",
    claim: "With createIfMissing: false nothing is made.",
    file: "src/internal/openLog.ts",
    find: "if (options.createIfMissing === false) yield* requireSegments(options.directory)",
    replace: "",
    test: log,
    caughtBy: "is not made, with createIfMissing: false"
  },
  {
    name: "closed-store-is-empty",
    claim: "A store whose scope has closed gives no values, and no copy of none.",
    file: "src/internal/openKv.ts",
    find: "() => closed(\"read\", log.directory)",
    replace: "() => undefined",
    test: "test/Kv.test.ts",
    caughtBy: "a store| that was empty when its scope closed does not say so for ever"
  },
  {
    name: "layer-of-another-log",
    claim: "Kv.layerLog is a store over the log that it is given, also where a program has two.",
    file: "src/Kv.ts",
    find: "Layer.fresh(Layer.effect(Kv, makeLog))",
    replace: "Layer.effect(Kv, makeLog)",
    test: "test/Kv.test.ts",
    caughtBy: "is the store of that log, where a program provides it over two"
  },
  {
    name: "long-tail-not-interruptible",
    claim: "An opening that looks through a long tail can be interrupted.",
    file: "src/internal/repair.ts",
    find: "yield* restore(isZeros(",
    replace: "yield* (isZeros(",
    test: "test/interruption.test.ts",
    caughtBy: "an opening that looks through a long tail ends at its next read"
  },
  {
    name: "rotates-into-another-directory",
    claim: "A directory that was put in the place of a writer's own is not written to.",
    file: "src/internal/writer.ts",
    find: "Effect.andThen(atHome(lock, \"rotate\", directory), createSegment(disk, directory, id))",
    replace: "createSegment(disk, directory, id)",
    test: places,
    caughtBy: "is not gone on with in the one that has its name now"
  },
  {
    name: "reads-from-another-directory",
    claim: "A directory that was put in the place of a store's own is not read.",
    file: "src/internal/home.ts",
    find: "(is) => is ? Effect.succeed(file)",
    replace: "(is) => is || true ? Effect.succeed(file)",
    test: places,
    caughtBy: "gives its own values or none"
  },
  {
    name: "calls-durable-what-nobody-finds",
    claim: "A sync fails when the segment has no name any more.",
    file: "src/internal/home.ts",
    find: "named === \"nowhere\" ? Effect.succeed(true)",
    replace: "named === \"nowhere\" ? Effect.succeed(false)",
    test: places,
    caughtBy: "is called durable by no sync"
  },
  {
    name: "saves-a-checkpoint-into-another-directory",
    claim: "No checkpoint is saved beside files that it is not of.",
    file: "src/internal/checkpointing.ts",
    find: "isCurrent ? save(",
    replace: "isCurrent || true ? save(",
    test: places,
    caughtBy: "gets no checkpoint there when it is closed"
  },
  {
    name: "observers-write-at-once",
    claim: "What an observer writes comes behind what it was told of, for every observer.",
    file: "src/internal/observers.ts",
    find: "return this.#isTelling",
    replace: "return false",
    test: log,
    caughtBy: "what is written because of |one record| comes behind it, for every observer"
  },
  {
    name: "follow-ends-early",
    claim: "Whoever follows a log is given all that was written before the close.",
    file: "src/internal/tail.ts",
    find: "const { offset, segment } = log.end()",
    replace: "if (isClosed) return Effect.succeed(undefined)\nconst { offset, segment } = log.end()",
    test: "test/tail.test.ts",
    caughtBy: "a slow one is given all that was written before the close, and then ends"
  },
  {
    name: "reader-never-rests",
    claim: "Whoever follows a directory reads nothing again while its files stay as they are.",
    file: "src/internal/tail.ts",
    find: "if (found === seen.version && seen.isSettled) return Stream.empty",
    replace: "",
    test: "test/tail.test.ts",
    caughtBy: "from |a place|, reads nothing again once the files have stayed as they are, until they change"
  },
  {
    name: "turn-of-each-store",
    claim: "A modify waits for every store over the same log.",
    file: "src/internal/openKv.ts",
    find: "takeTurns(logParts)",
    replace: "takeTurns({ ...logParts, turn: new (Object.getPrototypeOf(turn).constructor)() })",
    test: "test/Kv.test.ts",
    caughtBy: "counts right through two stores over one log, too"
  },
  {
    name: "no-lock",
    claim: "A directory has one writer.",
    file: "src/Lock.ts",
    find: "if (!(yield* isTaken)) {",
    replace: "if (!(yield* isTaken) && directory === \"\") {",
    test: "test/Lock.test.ts",
    caughtBy: "the second writer of this process gets LockHeld at once, with the directory and the pid"
  },
  {
    name: "lock-on-a-file-that-is-gone",
    claim: "What is locked is the file that the path names.",
    file: "src/Lock.ts",
    find: "if (!(yield* file.isCurrent)) return false",
    replace: "",
    test: "test/Lock.test.ts",
    caughtBy: "a sentinel that is replaced between opening and locking is not the lock: it starts over"
  },
  {
    name: "reader-cuts",
    claim: "A reader changes nothing.",
    file: "src/internal/openReader.ts",
    find: "return Stream.empty",
    replace: "return Stream.drain(Stream.fromEffect(Effect.scoped(\n" +
      "      Effect.flatMap(Disk.Disk, (disk) => Effect.flatMap(\n" +
      "        Disk.openScoped(disk, Recovery.segmentPath(directory, damage.segment), \"append\"),\n" +
      "        (file) => file.truncate(damage.offset)\n" +
      "      ))\n" +
      "    )))",
    test: recovery,
    caughtBy: "active: a long frame cut short"
  },
  {
    name: "reader-fails-at-torn-tail",
    claim: "A reader ends cleanly before a torn tail, which a live writer's half-written record looks like.",
    file: "src/internal/openReader.ts",
    find: "damage.verdict !== \"Torn\"",
    replace: "damage.bytes >= 0",
    test: recovery,
    caughtBy: "active: a frame cut short"
  },
  {
    name: "reader-hides-damage",
    claim: "A reader fails at damage that no crash explains.",
    file: "src/internal/openReader.ts",
    find: "damage.verdict !== \"Torn\"",
    replace: "damage.verdict === \"CorruptSegment\"",
    test: recovery,
    caughtBy: "active: a bad checksum before a valid frame"
  },
  {
    name: "get-does-not-compare-the-key",
    claim: "A value is given out for the key it was put under only.",
    file: "src/internal/projection.ts",
    find: "record.type === \"Put\" && Buffer.compare(record.key, key) === 0",
    replace: "record.type === \"Put\"",
    test: "test/Kv.test.ts",
    caughtBy: "two whole records that have changed places are RecordMismatch"
  },
  {
    name: "cache-does-not-compare-the-place",
    claim: "A frame is taken from the cache for the place it was read from only.",
    file: "src/internal/frameCache.ts",
    find: "words[at - 3] === segment && words[at - 2] === low && ((words[at - 1] as number) & 0xffff_0000) === high",
    replace: "true",
    test: cache,
    caughtBy: "tells places apart that have one hash"
  },
  {
    name: "checksum-of-the-last-block-only",
    claim: "A checksum is of all bytes, however many.",
    file: "src/internal/crc32c.ts",
    find: "state = update(input_at, next - at, state)",
    replace: "state = update(input_at, next - at, ~seed)",
    test: "test/crc32c.test.ts",
    caughtBy: "assembled| agrees with the definition at every length around the blocks that long inputs are taken in"
  },
  {
    name: "closed-reader-goes-on",
    claim: "A reader whose scope has closed reads nothing.",
    file: "src/internal/openReader.ts",
    find: "    isClosed = true\n",
    replace: "",
    test: "test/tail.test.ts",
    caughtBy: "ends when the reader is closed; then every call of it fails typed with EBADF"
  },
  {
    name: "closing-a-reader-fails-who-looks",
    claim: "Who follows a reader that is closed in the middle of a look comes to the end.",
    file: "src/internal/tail.ts",
    find: "return Stream.catchIf(records, isClosed, () => Stream.empty)",
    replace: "return records",
    test: "test/tail.test.ts",
    caughtBy: "ends when the reader is closed in the middle of a look: |list"
  },
  {
    name: "cache-passes-by-files-that-were-closed",
    claim: "A value gets into the cache whether its segment was open or not.",
    file: "src/internal/projection.ts",
    find: "    Effect.andThen(Effect.ignore(source.files.open(place.segment))),\n",
    replace: "",
    test: cache,
    caughtBy: "of more segments than are kept open, all values are read from memory in the end"
  },
  {
    name: "gathering-does-not-compare-the-key",
    claim: "Of many values that are read at once, each is given out for the key it was put under only.",
    file: "src/internal/gather.ts",
    find: "keyStandsAt(words, word, block, view, start + Frame.header_bytes)",
    replace: "keyStandsAt(words, word, block, view, start + Frame.header_bytes) !== undefined",
    test: gather,
    caughtBy: "of whole records that have changed places none is given out"
  },
  {
    name: "gathering-hides-what-stands-before-damage",
    claim: "Of many values that are read at once, all before the first damaged one are given out.",
    file: "src/internal/gather.ts",
    find: "this.#isSound[to] === 1 && ",
    replace: "",
    test: gather,
    caughtBy: "all come before the first that is damaged, and that is named"
  },
  {
    name: "gathering-fails-of-what-lies-between",
    claim: "A read that fails of many records at once is tried again for each.",
    file: "src/internal/gather.ts",
    find: "typeof count !== \"number\" && next === from + 1",
    replace: "typeof count !== \"number\"",
    test: gather,
    caughtBy: "are read one by one where reading them together failed, and fail with what their own read says"
  },
  {
    name: "gathering-reads-in-the-order-of-the-keys",
    claim: "Many values are read in the order of the files.",
    file: "src/internal/gather.ts",
    find: "this.#order[at] = number - Math.floor(number / index_span) * index_span",
    replace: "this.#order[at] = number < 0 ? 0 : at",
    test: gather,
    caughtBy: "take one read for many neighbours in the files, in whatever order their keys are"
  },
  {
    name: "compaction-keeps-txids",
    claim: "Frames that a compaction copies get txids of the new log.",
    file: "src/internal/writer.ts",
    find: "this.#txid + 1 + index - first)",
    replace: "this.#txid + 1)",
    test: gather,
    caughtBy: "gives them the next txids, goes on in new segments, and tells whoever observes"
  }
]

const asking = [
  {
    name: "second-fsync-beside-the-first",
    claim: "At most one fsync runs at a time, wherever a fiber has to yield.",
    file: "src/internal/writer.ts",
    find: "      this.#committing = Deferred.makeUnsafe<void>()\n",
    replace: "",
    test: fsync,
    caughtBy: "starts no second fsync beside one under way, which would report a success that never was"
  },
  {
    name: "short-overwrite-begins-again",
    claim: "What a short write leaves of a segment that is written over goes where it belongs.",
    file: "src/Disk.ts",
    find: "retryInterrupted(file.overwrite(bytes, at, end, position + at - start))",
    replace: "retryInterrupted(file.overwrite(bytes, at, end, position))",
    test: fsync,
    caughtBy: "writes what is open over itself, also where a write takes a part only"
  },
  {
    name: "failed-fsync-of-the-opening-not-noted",
    claim: "An opening whose fsync fails leaves word for the next one.",
    file: "src/internal/repair.ts",
    find: "Effect.tapError(writeOver(disk, path, start, bytes), noteFailedSync(lock, from))",
    replace: "writeOver(disk, path, start, bytes)",
    test: fsync,
    caughtBy: "whose own fsync fails leaves word of that for the next one"
  },
  {
    name: "failed-fsync-of-a-cut-not-noted",
    claim: "A cut whose fsync fails leaves word for the next opening.",
    file: "src/internal/repair.ts",
    find: ".pipe(Effect.tapError(noteFailedSync(lock, { segment: damage.segment, offset: 0 })))",
    replace: "",
    test: fsync,
    caughtBy: "that fails to make a cut durable leaves word of that"
  },
  {
    name: "closing-takes-records",
    claim: "A log that closes takes nothing behind its last sync.",
    file: "src/internal/writer.ts",
    find: "      this.#busy = true\n      if (this.#refusal === undefined && !this.isSynced)",
    replace: "      if (this.#refusal === undefined && !this.isSynced)",
    test: fsync,
    caughtBy: "takes nothing more while its last sync is under way"
  },
  {
    name: "empty-segment-before-a-large-record",
    claim: "An empty segment takes a record however large.",
    file: "src/internal/writer.ts",
    find: "return this.#offset === 0 || this.#fits(length)",
    replace: "return this.#fits(length)",
    test: log,
    caughtBy: "an empty segment takes a record however large: none is left empty"
  },
  {
    name: "waiting-batch-passes-the-highest-txid",
    claim: "A batch that has waited for others does not pass the highest txid.",
    file: "src/internal/writer.ts",
    find: "if (this.#txid > Frame.txid_max - entries.length)",
    replace: "if (this.#txid < 0)",
    test: log,
    caughtBy: "is not passed by a batch that has waited for others"
  },
  {
    name: "opening-goes-by-the-name",
    claim: "A store that takes the place of another while that is opened is not written to without its lock.",
    file: "src/internal/home.ts",
    find: "mode === \"create\"",
    replace: "mode !== \"read\"",
    test: places,
    caughtBy: "is not opened as that one, whose lock it does not have"
  },
  {
    name: "durability-through-a-link",
    claim: "A segment is not written over through a symbolic link.",
    file: "src/internal/nodeDisk.ts",
    find: "update: O_RDWR | O_NOFOLLOW",
    replace: "update: O_RDWR",
    test: places,
    caughtBy: "is not written through by an opening behind an unclean end"
  }
]

const others = [
  {
    name: "torn-copy-for-each-try",
    claim: "A tail that cannot be cut is not copied once more by each try.",
    file: "src/internal/repair.ts",
    find: "size < end ? Effect.void : disk.remove(copy)",
    replace: "size < end ? Effect.void : Effect.void",
    test: fsync,
    caughtBy: "that copies a torn tail and cannot cut it leaves no copy for each try"
  },
  {
    name: "unfinished-segment-left",
    claim: "What a killed process has left of a segment written anew is removed by the next.",
    file: "src/internal/beside.ts",
    find: "`.${NodePath.basename(target)}.tmp`",
    replace: "`.${NodePath.basename(target)}.${Crypto.randomBytes(9).toString(\"base64url\")}.tmp`",
    test: fsync,
    caughtBy: "that is killed again and again while it writes a segment anew leaves one file, which the next removes"
  },
  {
    name: "durability-of-one-segment",
    claim: "Whatever an unclean end left open in any segment is written again.",
    file: "src/internal/repair.ts",
    find: "id >= from.segment",
    replace: "id === from.segment",
    test: fsync,
    caughtBy: "writes over what every segment has behind the place that the last writer has noted"
  },
  {
    name: "index-parts-at-close",
    claim: "A store that closes sees what it takes until the end.",
    file: "src/internal/openKv.ts",
    find: "yield* Scope.provide(follow(parts, projection, (first) => before(first)), Scope.makeUnsafe())",
    replace: "yield* follow(parts, projection, (first) => before(first))",
    test: "test/concurrency.test.ts",
    caughtBy: "sees what it takes until the end: no put that succeeded is missed by the next get, no modify is lost"
  },
  {
    name: "read-ahead-taken-too-early",
    claim: "A pull that is interrupted takes nothing along.",
    file: "src/internal/segmentReader.ts",
    find: "if (this.#ahead[0]?.at !== this.#position) this.#ahead = []\n    const [ahead] = this.#ahead",
    replace: "const ahead = this.#ahead.shift()",
    test: "test/interruption.test.ts",
    caughtBy: "loses nothing, gives nothing twice and keeps the order, whatever is read"
  },
  {
    name: "long-value-passed-too-early",
    claim: "A pull that is interrupted while it reads a value has not given it.",
    file: "src/internal/gather.ts",
    find: "    const value = yield* source.value(place.key, place)\n    window.pass()\n",
    replace: "    window.pass()\n    const value = yield* source.value(place.key, place)\n",
    test: "test/interruption.test.ts",
    caughtBy: "loses nothing, gives nothing twice and keeps the order, whatever is read"
  },
  {
    name: "txids-skip-between-pieces",
    claim: "An import numbers its records without a gap.",
    file: "src/internal/writer.ts",
    find: "this.#txid + 1 + index - first",
    replace: "this.#txid + 1 + index - from",
    test: "test/Export.test.ts",
    caughtBy: "of thousands of short lines numbers the records without a gap, also over segments"
  },
  {
    name: "stale-window",
    claim: "No value of one window is given out for one of the next.",
    file: "src/internal/gather.ts",
    find: "    this.#isSound.fill(0, 0, this.#count)\n",
    replace: "",
    test: gather,
    caughtBy: "of no window comes what the one before it had in its place"
  },
  {
    name: "highest-txid-is-the-last",
    claim: "A txid that was ever there is not given again.",
    file: "src/internal/frames.ts",
    find: "if (last > highest) highest = last",
    replace: "highest = last",
    test: recovery,
    caughtBy: "are read, and none that was ever there is given again"
  },
  {
    name: "whole-opening-is-none",
    claim: "Behind a whole opening of a frame, what is wrong was written.",
    file: "src/internal/damage.ts",
    find: "if (written >= Frame.opening.length) return \"written\"",
    replace: "if (written > Frame.opening.length) return \"written\"",
    test: recovery,
    caughtBy: "active: a whole opening, zeros to the next sector, and a wrong length behind them"
  },
  {
    name: "half-a-sector-unwritten",
    claim: "A sector counts as never written only as a whole.",
    file: "src/internal/damage.ts",
    find: "Math.floor(at / sector_bytes) * sector_bytes + chunk_bytes",
    replace: "at + chunk_bytes",
    test: recovery,
    caughtBy: "active: a bad checksum, and zeros that end a sector's first half 64 KiB behind the frame's start"
  },
  {
    name: "sector-behind-the-file",
    claim: "Of the last sector only what is in the file counts.",
    file: "src/internal/damage.ts",
    find: "Math.min(nextSector(sector), at + count) - at)",
    replace: "nextSector(sector) - at)",
    test: recovery,
    caughtBy: "active: a frame of many sectors, of which the last, which ends with the file, was never written"
  },
  {
    name: "salvage-of-the-last-record",
    claim: "What the last record of a segment holds is not taken for this log's.",
    file: "src/Salvage.ts",
    find: "end === segment.size && header.txid === txid ? end : passed",
    replace: "end === segment.size && header.txid < 0 ? end : passed",
    test: salvage,
    caughtBy: "is no log that the last record held, or one with damaged neighbours, as long as their headers are sound"
  },
  {
    name: "salvage-of-stale-copies",
    claim: "A copy of older records in a damaged one is not taken for this log's, whatever was damaged before.",
    file: "src/Salvage.ts",
    find: "const frames = noting(recent, framesFrom(segment, start, behind_chunk_bytes))",
    replace: "const frames = framesFrom(segment, start, behind_chunk_bytes)",
    test: salvage,
    caughtBy: "is no copy of older records in a damaged one, though a header was damaged before"
  },
  {
    name: "binary-as-broken-text",
    claim: "Bytes that are no text are given as Base64 by a KeyValueStore.",
    file: "src/KeyValueStore.ts",
    find: "new TextDecoder(\"utf-8\", { ignoreBOM: true, fatal: true })",
    replace: "new TextDecoder(\"utf-8\", { ignoreBOM: true })",
    test: "test/KeyValueStore.test.ts",
    caughtBy: "gives bytes that are no text as Base64, as the memory of Effect does, also to whoever modifies them"
  },
  {
    name: "change-time-not-looked-at",
    claim: "A closed segment that was written over is noticed though its time was set back.",
    file: "src/internal/nodeDisk.ts",
    find: "${mtimeNs} ${ctimeNs}`",
    replace: "${mtimeNs} ${ctimeNs - ctimeNs}`",
    test: checkpoint,
    caughtBy: "is lost when a closed segment is written over, replaced, swapped, or cut"
  },
  {
    name: "many-records-in-one-step",
    claim: "Others have their turn while the records of one call are made.",
    file: "src/internal/entries.ts",
    find: "if (to < records.length && isTurnOver(to - from))",
    replace: "if (to > records.length && isTurnOver(to - from))",
    test: "test/concurrency.test.ts",
    caughtBy: "lets others have their turn while these are made of what the caller has"
  },
  {
    name: "later-write-overtakes",
    claim: "No write that comes later overtakes a call with many records.",
    file: "src/internal/writer.ts",
    find: "this.#exclusively(Effect.flatMap(made, (entries) => this.#appendAllHeld(entries)))",
    replace: "Effect.flatMap(made, (entries) => this.appendAll(entries))",
    test: "test/concurrency.test.ts",
    caughtBy: "is overtaken by none that comes later, and takes a list that is used again at once as it was"
  },
  {
    name: "list-used-again",
    claim: "A list that is used again at once is stored as it was.",
    file: "src/internal/openLog.ts",
    find: "entriesInTurns(disk, given.slice())",
    replace: "entriesInTurns(disk, given)",
    test: "test/concurrency.test.ts",
    caughtBy: "is overtaken by none that comes later, and takes a list that is used again at once as it was"
  }
]

const reviewed = [
  {
    name: "read-behind-the-end",
    claim: "A log gives no record of a batch that it did not take.",
    file: "src/internal/writer.ts",
    find: " &&\n      place.offset + place.len <= bytes",
    replace: "",
    test: failures,
    caughtBy: "what a reader has seen of a batch that fails keeps its place"
  },
  {
    name: "reader-denies-what-it-cannot-open",
    claim: "A reference is invalid only where its segment is not there, not where that cannot be opened.",
    file: "src/internal/openReader.ts",
    find: "error instanceof IoError && error.code === \"ENOENT\"",
    replace: "error instanceof IoError",
    test: "test/reading.test.ts",
    caughtBy: "fails as the disk does where a segment cannot be opened: that it is there is not denied"
  },
  {
    name: "second-descriptor-left-open",
    claim: "Of a segment that several open at once one descriptor is kept.",
    file: "src/internal/segmentFiles.ts",
    find: "if (there !== undefined) return Effect.as(file.close, entry)",
    replace: "if (there !== undefined) return Effect.succeed(entry)",
    test: "test/reading.test.ts",
    caughtBy: "of one segment at once opens it once, and closes what was opened beside that"
  },
  {
    name: "opened-behind-the-closing",
    claim: "A file that is opened while its reader closes is closed as well.",
    file: "src/internal/segmentFiles.ts",
    find: "if (this.#closed) return Effect.andThen(file.close, Effect.fail(",
    replace: "if (this.#closed) return Effect.andThen(Effect.void, Effect.fail(",
    test: "test/reading.test.ts",
    caughtBy: "from what is opened while it closes fails, and leaves no file open"
  },
  {
    name: "read-again-beside-a-read",
    claim: "Nothing is read into memory that an earlier read may still write to.",
    file: "src/internal/segmentReader.ts",
    find: "for (const { fiber } of this.#ahead) yield* Fiber.await(fiber)",
    replace: "for (const { fiber } of this.#ahead) fiber.pollUnsafe()",
    test: "test/reading.test.ts",
    caughtBy: "is read again only when nothing is read any more into the memory for that"
  },
  {
    name: "cut-taken-for-a-torn-tail",
    claim: "A file that is cut where a record ends, while it is read, has no torn tail.",
    file: "src/internal/segmentReader.ts",
    find: "this.#size = base + bytes.length",
    replace: "this.#size = Math.max(this.#size, base + bytes.length)",
    test: "test/reading.test.ts",
    caughtBy: "that is cut where a record ends has no torn tail"
  },
  {
    name: "listed-once",
    claim: "A listing that misses a segment which is made while it runs hides no record.",
    file: "src/Recovery.ts",
    find: "const newest = (yield* listSegments(directory)).at(-1) ?? 0",
    replace: "const newest = Number.POSITIVE_INFINITY",
    test: "test/reading.test.ts",
    caughtBy: "that misses a segment which is made while it runs, and shows a later one, hides no record"
  },
  {
    name: "merged-by-other-words",
    claim: "A walk in key order is in order whatever the keys begin with.",
    file: "src/internal/keyOrder.ts",
    find: "if (run.common !== this.common) {",
    replace: "if (run.common < 0) {",
    test: "test/Keydir.test.ts",
    caughtBy: "a walk is in order also where the keys that it sorts together begin alike, and otherwise than others do"
  },
  {
    name: "alike-by-itself",
    claim: "Keys that are sorted together count as alike only if those before them begin so as well.",
    file: "src/internal/keyOrder.ts",
    find: "this.runs[0]?.entries[0] ?? entries[0] as number",
    replace: "entries[0] as number",
    test: "test/Keydir.test.ts",
    caughtBy: "a walk is in order also where the keys that it sorts together begin alike, and otherwise than others do"
  },
  {
    name: "early-record-counted-twice",
    claim: "What is written just before a store reads its log is counted once.",
    file: "src/internal/following.ts",
    find: "record.offset < start.offset)",
    replace: "record.offset <= start.offset)",
    test: "test/Kv.test.ts",
    caughtBy: "what is written just before it reads the log is counted once"
  },
  {
    name: "early-keys-not-copied",
    claim: "The keys of a batch that is written while a store reads its log are what they were.",
    file: "src/internal/following.ts",
    find: "else for (const record of recordsOf(frames)) early.push([record.type, ownBytes(record.key), record])",
    replace: "else for (const record of recordsOf(frames)) early.push([record.type, record.key, record])",
    test: "test/Kv.test.ts",
    caughtBy: "appends made while it is being built show once, and in order"
  },
  {
    name: "large-write-interrupted",
    claim: "A large write that a signal interrupts goes on.",
    file: "src/Disk.ts",
    find: "retryInterrupted(file.append(bytes, at, end))",
    replace: "file.append(bytes, at, end)",
    test: failures,
    caughtBy: "short writes and EINTR are invisible"
  },
  {
    name: "written-again-at-the-start",
    claim: "A long segment that is written over itself stays what it is.",
    file: "src/internal/repair.ts",
    find: "yield* use(chunk, count, at)",
    replace: "yield* use(chunk, count, start)",
    test: fsync,
    caughtBy: "keeps every byte of what it writes again, however much that is"
  },
  {
    name: "long-value-overtakes",
    claim: "An import stores the values of a key in the order of its lines, however long one is.",
    file: "src/internal/importing.ts",
    find: "if (this.#frames.put(...pair)) return\n    yield* this.flush\n",
    replace: "if (this.#frames.put(...pair)) return\n",
    test: "test/Export.test.ts",
    caughtBy: "keeps the last of several values of a key, also where one is too long to be stored with others"
  }
]

const surviving = [
  {
    name: "frames-go-on-after-failed-sync",
    claim: "The rest of an import's frames is not written once a sync has failed.",
    file: "src/internal/writer.ts",
    find:
      "      // A sync may have failed while the frames before these were written.\n      const refusal = this.#refusal\n      if (refusal !== undefined) return yield* refusal\n",
    replace: "",
    test: gather,
    caughtBy: "ends where a sync fails meanwhile: nothing is written behind that"
  },
  {
    name: "taken-back-beside-an-fsync",
    claim: "What a failed write has left is taken back behind an fsync under way, not beside it.",
    file: "src/internal/writer.ts",
    find:
      "return Effect.andThen(\n      this.#roundsEnd,\n      Effect.catch(cut, ({ operation }) => operation === \"sync\" ? this.#note.writeFailed(from) : Effect.void)\n    )",
    replace:
      "return Effect.catch(cut, ({ operation }) => operation === \"sync\" ? this.#note.writeFailed(from) : Effect.void)",
    test: fsync,
    caughtBy: "is taken back behind an fsync under way, not beside it"
  },
  {
    name: "taken-back-noted-too-late",
    claim: "What could not be taken back durably is noted for all of the segment.",
    file: "src/internal/writer.ts",
    find: "    const from = { segment: this.#segment, offset: 0 }\n    const cut",
    replace: "    const from = { segment: this.#segment, offset: this.#offset }\n    const cut",
    test: fsync,
    caughtBy: "and cannot be taken back durably is noted for all of the segment"
  },
  {
    name: "part-forgotten-behind-failed-fsync",
    claim: "A part of a record is taken back also when an fsync fails behind the write.",
    file: "src/internal/writer.ts",
    find: "this.#hasPart ||= operation",
    replace: "this.#hasPart = operation",
    test: fsync,
    caughtBy: "is taken back also when an fsync fails behind the write"
  },
  {
    name: "follower-goes-by-the-offset",
    claim: "Who follows a log sees a new segment, wherever it ends.",
    file: "src/internal/tail.ts",
    find: "at.segment !== segment || ",
    replace: "",
    test: "test/tail.test.ts",
    caughtBy: "sees a new segment that ends where the one before it did"
  },
  {
    name: "shorter-segment-is-whole",
    claim: "A segment that has become shorter is not taken for durable.",
    file: "src/internal/repair.ts",
    find: "if (count === 0) return yield* new IoError({ operation: \"read\", path: file.path, code: \"EIO\" })",
    replace: "if (count === 0) return",
    test: fsync,
    caughtBy: "goes on where the system interrupts it, and fails where the segment is shorter than it was"
  },
  {
    name: "interrupted-overwrite-is-abandoned",
    claim: "EINTR ends no opening that writes a segment over.",
    file: "src/Disk.ts",
    find: "yield* retryInterrupted(file.overwrite(bytes, at, end, position + at - start))",
    replace: "yield* file.overwrite(bytes, at, end, position + at - start)",
    test: fsync,
    caughtBy: "goes on where the system interrupts it, and fails where the segment is shorter than it was"
  },
  {
    name: "full-table-of-the-system",
    claim: "Files that are open only in case they are read again are let go of when the system has no more.",
    file: "src/internal/idleFiles.ts",
    find: " || error.code === \"ENFILE\"",
    replace: "",
    test: "test/reading.test.ts",
    caughtBy: "lets go of the files that it has open, for one more, where the process or the system can have no more"
  },
  {
    name: "interrupted-release-leaks",
    claim: "An interruption does not leave idle files open that nobody knows of any more.",
    file: "src/internal/idleFiles.ts",
    find: "? Effect.andThen(releaseAll, restore(opening))",
    replace: "? Effect.andThen(restore(releaseAll), restore(opening))",
    test: "test/reading.test.ts",
    caughtBy: "closes all of them though it is interrupted, and once for all who wait for one"
  },
  {
    name: "release-waited-for-by-one",
    claim: "Who needs a descriptor while idle files are being closed waits for them.",
    file: "src/internal/idleFiles.ts",
    find: "if (underWay !== undefined) return Deferred.await(underWay)",
    replace: "if (underWay !== undefined) return Effect.void",
    test: "test/reading.test.ts",
    caughtBy: "closes all of them though it is interrupted, and once for all who wait for one"
  },
  {
    name: "growing-file-is-an-error",
    claim: "A file that grows between two reads of nothing has not failed.",
    file: "src/Disk.ts",
    find: "if (size === size_then) return",
    replace: "if (size_then >= 0) return",
    test: "test/testing.test.ts",
    caughtBy: "a file that grows while it is read has not failed where a read came just before"
  },
  {
    name: "read-of-nothing-is-the-end",
    claim: "A read that finds nothing is the end of a file only where the file ends.",
    file: "src/Disk.ts",
    find: "if (size <= here) break",
    replace: "break",
    test: "test/failures.test.ts",
    caughtBy:
      "a read that finds nothing where there is something is asked again, and is then an error: it is no end of a file"
  },
  {
    name: "copy-without-a-durable-name-left",
    claim: "A copy of a tail whose name could not be made durable is removed: each try would leave one more.",
    file: "src/internal/repair.ts",
    find: "Effect.onError(() => Effect.ignore(disk.remove(path)))",
    replace: "(copying) => copying",
    test: "test/failures.test.ts",
    caughtBy: "a disk too full for the copy of a torn tail leaves the tail where it was, and no part of a copy"
  },
  {
    name: "replaced-file-left-open",
    claim: "Of a file that was replaced no descriptor is kept.",
    file: "src/internal/segmentFiles.ts",
    find: "Effect.as(entry.pins === 0 ? entry.file.close : Effect.void, true)",
    replace: "Effect.succeed(true)",
    test: "test/reading.test.ts",
    caughtBy: "keeps no descriptor of the file that was replaced"
  },
  {
    name: "checkpoint-of-a-part",
    claim: "No checkpoint is written of an index that has missed a record.",
    file: "src/internal/checkpointing.ts",
    find:
      "state.bytes === segments.reduce((sum, { bytes }) => sum + bytes, 0) ? write(state, segments, txid) : Effect.void",
    replace: "write(state, segments, txid)",
    test: checkpoint,
    caughtBy: "is not written: the record would be missed for good"
  },
  {
    name: "gate-overtaken",
    claim: "Whoever asks again as he lets go is behind those who wait.",
    file: "src/internal/gate.ts",
    find: "if (!this.isHeld && this.#waiting.size === 0) {",
    replace: "if (!this.isHeld) {",
    test: "test/gate.test.ts",
    caughtBy: "whoever asks again in the step in which he lets go is behind those who wait"
  },
  {
    name: "gate-overtaken-at-once",
    claim: "Nobody takes a turn at once that others wait for.",
    file: "src/internal/gate.ts",
    find: "if (this.isHeld || this.#waiting.size > 0) return restore(otherwise)",
    replace: "if (this.isHeld) return restore(otherwise)",
    test: "test/gate.test.ts",
    caughtBy: "whoever asks again in the step in which he lets go is behind those who wait"
  },
  {
    name: "gate-open-once-closed",
    claim: "A gate that is closed lets nobody through at once.",
    file: "src/internal/gate.ts",
    find: "        if (this.#refused !== undefined) return this.#refused\n        if (this.isHeld || ",
    replace: "        if (this.isHeld || ",
    test: "test/gate.test.ts",
    caughtBy: "once it is closed, nobody takes it at once either"
  },
  {
    name: "undecided-frames-hide-others",
    claim: "Frames that claim more than the file has hide no others.",
    file: "src/internal/laterFrames.ts",
    find: "    this.#heapLength = 0\n    return this.nextPass()",
    replace: "    return this.nextPass()",
    test: "test/laterFrames.test.ts",
    caughtBy: "it finds what stands in a claim, with room for no other candidate"
  },
  {
    name: "gathering-passes-damage-by",
    claim: "No long value that stands behind a damaged one is given out, and the damage is named.",
    file: "src/internal/gather.ts",
    find: "if (!Frame.isPutOf(key, shared, view, at, len)) return entries",
    replace: "if (!Frame.isPutOf(key, shared, view, at, len)) continue",
    test: gather,
    caughtBy: "and no other behind it, also where one read has several long ones"
  },
  {
    name: "later-keys-not-copied",
    claim: "Of many keys that are looked for also the last are those that were asked for.",
    file: "src/internal/projection.ts",
    find: "          own()\n          values.push",
    replace: "          values.push",
    test: "test/callers.test.ts",
    caughtBy: "behind a large value that is read: their values are those of the keys that were asked for"
  },
  {
    name: "segments-as-listed",
    claim: "Segments are in the order of their ids, whatever order a disk lists them in.",
    file: "src/Recovery.ts",
    find: "return ids.sort((a, b) => a - b)",
    replace: "return ids",
    test: "test/reading.test.ts",
    caughtBy: "may have any order: segments are read, and gone on with, in that of their ids"
  },
  {
    name: "second-reader-not-counted",
    claim: "A segment stays open until the last of those who read it at once has ended.",
    file: "src/internal/segmentFiles.ts",
    find: "if (entry !== undefined) {\n        entry.pins++",
    replace: "if (entry !== undefined) {",
    test: "test/reading.test.ts",
    caughtBy: "from what closes while two read a segment keeps it open until the last of them has ended"
  },
  {
    name: "read-again-once-only",
    claim: "What looks damaged is read again as often as its file has grown since.",
    file: "src/internal/segmentReader.ts",
    find: "if (this.#changes === 0 || size !== this.#size) {",
    replace: "if (this.#changes === 0) {",
    test: "test/reading.test.ts",
    caughtBy: "is read again as often as it has grown: a record that comes in many pieces is no damage"
  },
  {
    name: "list-appended-while-observers-are-told",
    claim: "A list that an observer appends is not written before every observer has been told.",
    file: "src/internal/writer.ts",
    find: "const mustWait = this.#busy || this.observers.isTelling || ",
    replace: "const mustWait = this.#busy || ",
    test: log,
    caughtBy: "a list that an observer appends comes behind for everyone"
  }
]

export const mutants = [
  ...cutting,
  ...verdicts,
  ...writing,
  ...durability,
  ...targets,
  ...waiting,
  ...placing,
  ...salvaging,
  ...checkpoints,
  ...sharing,
  ...asking,
  ...others,
  ...reviewed,
  ...surviving
]
