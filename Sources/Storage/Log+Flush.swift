package import Essentials

/// What has to be synced so that a log is durable up to some offset; may be taken to any thread.
package struct FlushTicket: Sendable {
    struct Work: Sendable {
        let file: any File
        let segment: Offset
        let size: Int
    }

    /// How often the log had been truncated: the ticket says nothing about it after the next time.
    let generation: UInt64
    /// What is durable once the ticket is performed.
    package let end: Offset
    let folder: LogFolder
    let health: StorageHealth
    var work: [Work]
    /// The changes to the folder that are durable once it is performed; `nil` if all are already.
    var directoryChanges: UInt64?
    /// The leader epochs, if what is written of them is out of date.
    var epochs: (bytes: [UInt8], version: UInt64)?
    /// A file that has to be synced can't be.
    var failure: FileError?

    /// Whether there is nothing to sync.
    package var isEmpty: Bool {
        work.isEmpty && directoryChanges == nil && epochs == nil && failure == nil
    }

    /// Syncs; blocks until that is done.
    ///
    /// - Throws: `LogError.offline` when anything failed. That is final: the whole log directory is
    ///   taken offline, and no later flush succeeds.
    package func perform() throws(LogError) {
        try health.check()
        do throws(FileError) {
            if let failure { throw failure }
            if let (bytes, version) = epochs {
                do throws(FileError) {
                    try folder.writeEpochs(bytes, version: version)
                } catch {
                    // The batches tell the epochs too; what is asked for here is that they last.
                    guard error.isOutOfSpace, !error.isFailedSync else { throw error }
                }
            }
            // A segment counts only once it can be found.
            if directoryChanges != nil { try folder.sync() }
            for work in work { try work.file.syncData() }
        } catch {
            health.fail("\(error)")
            try health.check()
        }
    }

    /// Syncs for several logs of one directory together, in one sync of all that is on the volume, or
    /// two; blocks until that is done.
    ///
    /// - Throws: as `perform`.
    package static func perform(
        _ tickets: [FlushTicket], on volume: any Volume
    ) throws(LogError) {
        for ticket in tickets { try ticket.health.check() }
        // Someone may have put a partition's folder on another disk, by a link.
        for ticket in tickets where !ticket.folder.isOn(volume) { try ticket.perform() }
        let tickets = tickets.filter { !$0.isEmpty && $0.folder.isOn(volume) }
        if tickets.isEmpty { return }
        do throws(FileError) {
            var staged: [FlushTicket] = []
            for ticket in tickets {
                if let failure = ticket.failure { throw failure }
                guard let (bytes, version) = ticket.epochs else { continue }
                do throws(FileError) {
                    if try ticket.folder.stageEpochs(bytes, version: version) {
                        staged.append(ticket)
                    }
                } catch {
                    guard error.isOutOfSpace, !error.isFailedSync else { throw error }
                }
            }
            if !staged.isEmpty {
                // What takes another file's place is durable before.
                try volume.sync()
                for ticket in staged { try ticket.folder.installEpochs() }
            }
            try volume.sync()
            for ticket in tickets { ticket.folder.noteSynced() }
        } catch {
            // It can't be told whose bytes are lost.
            for ticket in tickets { ticket.health.fail("\(error)") }
        }
        // Another thread may have been told of a loss that this one was not.
        for ticket in tickets { try ticket.health.check() }
    }

    /// Takes on what `older`, a ticket for the same log, asks for.
    mutating func merge(_ older: FlushTicket) {
        let known = Set(work.map(\.segment))
        work = older.work.filter { !known.contains($0.segment) } + work
        directoryChanges = directoryChanges ?? older.directoryChanges
        if epochs == nil { epochs = older.epochs }
        if failure == nil { failure = older.failure }
    }
}

extension Log {
    /// What there is to sync now.
    ///
    /// Perform it on another thread, `LogFlusher` for one, and give it to `completeFlush` here.
    package func prepareFlush() -> FlushTicket {
        var work: [FlushTicket.Work] = []
        var failure: FileError?
        // A truncation makes one segment durable, and says nothing of those before it.
        for segment in segments[segmentIndex(for: durableOffset)...] where !segment.isDurable {
            do throws(FileError) {
                work.append(
                    FlushTicket.Work(
                        file: try segment.open(), segment: segment.baseOffset, size: segment.size))
            } catch {
                failure = error
            }
        }
        let changes = directoryChanges
        return FlushTicket(
            generation: generation, end: logEndOffset, folder: files, health: health, work: work,
            directoryChanges: changes.made > changes.durable ? changes.made : nil,
            epochs: epochsVersion > files.writtenEpochs ? (epochs.encoded, epochsVersion) : nil,
            failure: failure)
    }

    /// Takes note that `ticket` was performed, and returns what is durable now.
    ///
    /// A ticket from before a truncation changes nothing: its bytes may be gone.
    @discardableResult
    package func completeFlush(_ ticket: FlushTicket) -> Offset {
        guard ticket.generation == generation else { return durableOffset }
        for work in ticket.work {
            let index = segments.lastIndex { $0.baseOffset == work.segment }
            // One that was compacted meanwhile is smaller, and durable.
            if let index, work.size <= segments[index].size {
                segments[index].durableSize = max(segments[index].durableSize, work.size)
            }
        }
        if let changes = ticket.directoryChanges {
            directoryChanges.durable = max(directoryChanges.durable, changes)
        }
        durableOffset = max(durableOffset, ticket.end)
        return durableOffset
    }

    /// Makes everything durable, and blocks until that is done: for shutting down, and for tests.
    package func flush() throws(LogError) {
        let ticket = prepareFlush()
        try ticket.perform()
        completeFlush(ticket)
    }

    /// What a `LogDirectory` should note of this log; `nil` while the log can't be relied on.
    package func checkpoint(highWatermark: Offset) -> LogCheckpoint? {
        guard refusal == nil else { return nil }
        producers.states.settle(highWatermark: highWatermark)
        return LogCheckpoint(
            recoveryPoint: durableOffset, highWatermark: min(highWatermark, durableOffset),
            generation: generation)
    }
}
