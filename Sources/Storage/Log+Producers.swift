package import Essentials
package import NIOCore
package import Records

/// Producers: what they may append, what they have appended, and which of their transactions are open.
extension Log {
    /// What is known of the log's producers.
    package var producerStates: ProducerStates { producers.states }

    /// Whether a start after a clean stop has to find out about producers.
    var hasProducers: Bool { !producers.isEmpty }

    // MARK: Leading

    /// What a leader is to do with batches that a client sent; `appendAsLeader` takes those that follow
    /// the duplicates.
    package func admit(
        _ headers: [RecordBatchHeader]
    ) throws(LogError) -> ProducerStates.Admission {
        do throws(ProducerError) {
            return try producers.states.admit(headers)
        } catch {
            throw .producer(error)
        }
    }

    /// Appends as `appendAsLeader` does, without the first `count` batches, which are in the log already.
    package func appendAsLeader(
        _ batches: ByteBuffer, _ headers: [RecordBatchHeader], after count: Int,
        leaderEpoch: LeaderEpoch
    ) throws(LogError) -> Range<Offset> {
        guard count > 0 else {
            return try appendAsLeader(batches, headers: headers, leaderEpoch: leaderEpoch)
        }
        var rest = batches
        rest.moveReaderIndex(forwardBy: headers.prefix(count).reduce(0) { $0 + $1.totalSize })
        return try appendAsLeader(
            rest.slice(), headers: Array(headers.dropFirst(count)), leaderEpoch: leaderEpoch)
    }

    /// What became of a marker.
    package enum MarkerOutcome: Sendable, Hashable {
        case appended(Range<Offset>)
        /// There was one like it before, somewhere below this offset.
        case alreadyEnded(below: Offset)
    }

    /// Appends the marker that ends a producer's transaction in this log.
    ///
    /// - Parameters:
    ///   - producerEpoch: the epoch that the producer goes on with, larger than the transaction's.
    ///   - timestamp: now, in milliseconds since 1970.
    package func appendMarker(
        _ marker: TransactionMarker, producerID: Int64, producerEpoch: Int16, timestamp: Int64,
        leaderEpoch: LeaderEpoch
    ) throws(LogError) -> MarkerOutcome {
        try checkWritable()
        let admission: ProducerStates.MarkerAdmission
        do throws(ProducerError) {
            admission = try producers.states.admit(
                marker, producerID: producerID, producerEpoch: producerEpoch)
        } catch {
            throw .producer(error)
        }
        guard admission == .append else { return .alreadyEnded(below: logEndOffset) }
        let batch = marker.batch(
            producerID: producerID, producerEpoch: producerEpoch, timestamp: timestamp)
        let headers: [RecordBatchHeader]
        do throws(RecordError) {
            headers = try RecordBatches.headers(of: batch)
        } catch {
            throw .refused(error)
        }
        return .appended(try appendAsLeader(batch, headers: headers, leaderEpoch: leaderEpoch))
    }

    // MARK: Transactions

    /// The end of what readers of committed transactions may see: the high watermark, or where the oldest
    /// transaction begins that is open, or whose marker is not committed.
    package func lastStableOffset(highWatermark: Offset) -> Offset {
        producers.states.settle(highWatermark: highWatermark)
        return producers.states.lastStableOffset(highWatermark: highWatermark)
    }

    /// The aborted transactions that may have records from `offset` on and below `end`.
    package func abortedTransactions(
        from offset: Offset, below end: Offset
    ) throws(LogError) -> [AbortedTransaction] {
        if refusal == .closed { throw .closed }
        do throws(LogError) {
            return try producers.transactions.aborted(from: offset, below: end)
        } catch {
            guard case .unexpectedFile = error else { throw error }
            try rebuildTransactions()
            return try producers.transactions.aborted(from: offset, below: end)
        }
    }

    /// Makes anew, from the batches, what was known of aborted transactions, as one of the files is no
    /// good; and what is known of producers, if there is more of that than the log has.
    private func rebuildTransactions() throws(LogError) {
        var rebuild = ProducerRebuild(
            segments: segments, logEnd: logEndOffset, compactedTo: compactedTo)
        var indexes: TransactionIndexes? = TransactionIndexes(
            directory: directory, fileSystem: fileSystem)
        try rebuild.run(&producers.snapshots, indexes: &indexes, quietFrom: .max)
        if producers.states.end > logEndOffset { producers.states = rebuild.states }
        guard var indexes else { return }
        indexes.settleFiles(found: producers.transactions.summaries.map(\.segment))
        producers.transactions = indexes
        // The snapshots that spoke of that file are gone.
        writeProducerSnapshot(at: logEndOffset)
    }

    // MARK: Forgetting

    /// Forgets producers that have been idle for long; see `ProducerStates.expire`.
    @discardableResult
    package func expireProducers(before cutoff: Int64, belowOffset limit: Offset) -> Int {
        guard refusal == nil else { return 0 }
        return producers.states.expire(before: cutoff, belowOffset: limit)
    }

    // MARK: Keeping up

    /// Takes note of batches that have been appended.
    ///
    /// - Parameter firstNew: the first of the segments that were started for them.
    func noteProducers(
        _ batches: ByteBuffer, _ headers: [RecordBatchHeader], firstNew: Int
    ) {
        guard config.tracksProducers else { return }
        var number = firstNew
        var index = batches.readerIndex
        for header in headers {
            defer { index += header.totalSize }
            if number < segments.count, segments[number].baseOffset == header.baseOffset {
                writeProducerSnapshot(at: header.baseOffset)
                number += 1
            }
            guard header.producerID >= 0 else { continue }
            var marker: TransactionMarker?
            if header.isControl, header.totalSize <= ProducerRebuild.maxMarkerBytes {
                marker = batches.getSlice(at: index, length: header.totalSize)
                    .flatMap { TransactionMarker(ofBatch: $0) }
            }
            guard let aborted = producers.states.apply(header, marker: marker) else { continue }
            producers.transactions.append(
                aborted, to: segments[segmentIndex(for: header.baseOffset)].baseOffset)
        }
    }

    /// Writes what is known of producers now, where the log ends, or ended before what was just appended.
    ///
    /// Also if that is nothing, so that a start after a crash need not look through older segments.
    func writeProducerSnapshot(at offset: Offset) {
        guard config.tracksProducers, offset > producers.snapshots.offsets.last ?? -1 else {
            return
        }
        let rebuild = ProducerRebuild(segments: segments, logEnd: offset)
        guard let last = try? rebuild.lastBatch(before: offset) else { return }
        producers.snapshots.write(
            ProducerSnapshot(
                of: producers.states, at: offset, lastBatch: ProducerSnapshot.LastBatch(last),
                transactions: producers.transactions.summaries))
    }

    /// Leaves everything so that the next start finds it without looking at batches.
    func closeProducers() {
        guard config.tracksProducers, !producers.isEmpty else { return }
        producers.transactions.writeOutstanding()
        writeProducerSnapshot(at: logEndOffset)
    }

    /// Goes back to what was known when the log ended where it does now, after a cut.
    func rebuildProducers() throws(LogError) {
        guard config.tracksProducers else { return }
        do throws(LogError) {
            try producers.transactions.truncate(to: logEndOffset)
        } catch {
            guard case .unexpectedFile = error else { throw error }
            return try rebuildTransactions()
        }
        guard producers.states.end > logEndOffset else { return }
        var rebuild = ProducerRebuild(
            segments: segments, logEnd: logEndOffset, compactedTo: compactedTo)
        var none: TransactionIndexes?
        try rebuild.run(&producers.snapshots, indexes: &none, quietFrom: .max)
        producers.states = rebuild.states
    }

    /// Nothing is left of the log; its snapshots are removed already.
    func forgetProducers() {
        producers.transactions.removeAll(before: .max)
        producers.states.removeAll()
    }
}
