import Essentials

/// All that a log keeps of its producers, in memory and beside its segments.
struct LogProducers {
    var states = ProducerStates()
    var snapshots: ProducerSnapshots
    var transactions: TransactionIndexes

    init(directory: String, fileSystem: any FileSystem) {
        snapshots = ProducerSnapshots(directory: directory, fileSystem: fileSystem)
        transactions = TransactionIndexes(directory: directory, fileSystem: fileSystem)
    }

    /// Whether there is nothing that a start would have to read.
    var isEmpty: Bool { states.isEmpty && transactions.isEmpty }

    /// Sees to it that nothing of what was at `end` or above is found again, durably.
    mutating func prepareCut(to end: Offset) throws(FileError) {
        try snapshots.removeAll(above: end)
    }
}

extension LogRecovery {
    /// What the log's producers were when it ended: from a snapshot, and from the batches after it.
    mutating func settleProducers() throws(LogError) {
        var found = LogProducers(directory: directory, fileSystem: fileSystem)
        defer { producers = found }
        guard config.tracksProducers else { return }
        let snapshots = producerFiles.filter { $0.hasSuffix(ProducerSnapshots.suffix) }
            .compactMap { SegmentName($0)?.baseOffset }.sorted()
        found.snapshots = ProducerSnapshots(
            directory: directory, fileSystem: fileSystem, offsets: snapshots)
        // Before anything is appended: it may be of records that were never acknowledged.
        try io { () throws(FileError) in try found.snapshots.removeAll(above: logEndOffset) }
        if report.outcome == .trusted, !checkpoint.hasProducers { return }
        var rebuild = ProducerRebuild(
            segments: segments, logEnd: logEndOffset, compactedTo: checkpoint.compactedTo)
        var indexes: TransactionIndexes? = found.transactions
        try rebuild.run(&found.snapshots, indexes: &indexes, quietFrom: quietFrom)
        found.states = rebuild.states
        found.states.settle(highWatermark: checkpoint.highWatermark)
        report.producersReplayedFrom = rebuild.replayedFrom
        if var indexes {
            indexes.settleFiles(
                found: producerFiles.filter { $0.hasSuffix(TransactionIndexes.suffix) }
                    .compactMap { SegmentName($0)?.baseOffset })
            found.transactions = indexes
        }
        // The next start need not read as much again.
        if let start = rebuild.replayedFrom, start < segments.last?.baseOffset ?? 0 {
            let last = try rebuild.lastBatch(before: logEndOffset)
            found.snapshots.write(
                ProducerSnapshot(
                    of: found.states, at: logEndOffset,
                    lastBatch: last.map(ProducerSnapshot.LastBatch.init),
                    transactions: found.transactions.summaries))
        }
    }
}
