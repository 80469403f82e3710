package import Essentials
package import Records

extension ProducerStates {
    /// What a leader is to do with batches that a client sent.
    package struct Admission: Sendable, Hashable {
        /// So many batches at the start are in the log already.
        package var duplicates = 0
        /// Where the first of those is; `nil` if there is none.
        package var firstOffset: Offset?
        /// The offset after the last of them.
        package var endOffset: Offset?
        /// The largest timestamp in the first of them.
        package var timestamp: Int64?

        package init() {}
    }

    /// Checks that batches follow on what their producers have sent, or are repeated as a whole.
    ///
    /// Cheap where no batch has a producer id. Of several batches those at the start may be in the
    /// log, after a crash in the middle; a repeated one after a new one is out of order.
    /// - Throws: if they may not be appended (T1, T2, T3).
    package func admit(_ headers: [RecordBatchHeader]) throws(ProducerError) -> Admission {
        var admission = Admission()
        guard headers.contains(where: { $0.producerID >= 0 }) else { return admission }
        // Where the batches before it in the same request lead, for producers that have any.
        var ahead = ProducerStates()
        for (number, header) in headers.enumerated() where header.producerID >= 0 {
            let id = header.producerID
            let known = ahead.producers[id] ?? producers[id]
            if ahead.producers[id] == nil, number == admission.duplicates,
                let known, known.epoch == header.producerEpoch,
                let same = known.batch(like: header)
            {
                admission.duplicates += 1
                if admission.firstOffset == nil {
                    admission.firstOffset = same.firstOffset
                    admission.timestamp = same.timestamp
                }
                admission.endOffset = max(admission.endOffset ?? 0, same.nextOffset)
                continue
            }
            try Self.check(header, after: known)
            guard headers.count > 1 else { continue }
            if let known, ahead.producers[id] == nil { ahead.restore(known, of: id) }
            ahead.apply(header)
        }
        return admission
    }

    private static func check(
        _ header: RecordBatchHeader, after known: ProducerState?
    ) throws(ProducerError) {
        let id = header.producerID
        let sequence = header.baseSequence
        guard let known else {
            // With any other sequence taken for the first, one that overtakes it would lose it.
            guard sequence == 0 else { throw .unknown(producerID: id, sequence: sequence) }
            return
        }
        guard header.producerEpoch >= known.epoch else {
            throw .staleEpoch(producerID: id, header.producerEpoch, current: known.epoch)
        }
        guard header.producerEpoch == known.epoch else {
            guard known.transactionStart == nil else { throw .transactionNotEnded(producerID: id) }
            guard sequence == 0 else {
                throw .outOfOrder(producerID: id, expected: 0, found: sequence)
            }
            return
        }
        guard sequence == known.nextSequence else {
            // Sequences have no gaps: what ends before the last one is in the log.
            if let last = known.batches.last, header.producerEpoch == known.epoch,
                ProducerSequence.isBehind(header.lastSequence, last.firstSequence)
            {
                throw .alreadyAppended(
                    producerID: id, first: sequence, last: header.lastSequence)
            }
            throw .outOfOrder(producerID: id, expected: known.nextSequence, found: sequence)
        }
        guard header.isTransactional || known.transactionStart == nil else {
            throw .transactionOpen(producerID: id)
        }
    }

    /// What a leader is to do with a coordinator's marker.
    package enum MarkerAdmission: Sendable, Hashable {
        case append
        /// A marker like it is in the log.
        case alreadyEnded
    }

    /// Checks a marker that ends the transaction of a producer, whose epoch it raises (KIP-890).
    ///
    /// A transaction's marker has a larger epoch than its records, so that one which comes late, or
    /// again, never ends the next transaction (T8). One for a producer that has nothing open is appended
    /// all the same: it keeps out what the producer sent before and comes later.
    package func admit(
        _ marker: TransactionMarker, producerID id: Int64, producerEpoch epoch: Int16
    ) throws(ProducerError) -> MarkerAdmission {
        guard let known = producers[id] else { return .append }
        guard marker.coordinatorEpoch >= known.coordinatorEpoch else {
            throw .coordinatorFenced(
                producerID: id, marker.coordinatorEpoch, current: known.coordinatorEpoch)
        }
        if epoch > known.epoch { return .append }
        // A new coordinator's word is noted even so.
        if epoch == known.epoch, known.transactionStart == nil, known.batches.isEmpty {
            return marker.coordinatorEpoch == known.coordinatorEpoch ? .alreadyEnded : .append
        }
        throw .staleEpoch(producerID: id, epoch, current: known.epoch)
    }
}

extension ProducerState {
    /// The batch that `header`'s repeats.
    fileprivate func batch(like header: RecordBatchHeader) -> Batch? {
        batches.first {
            $0.lastSequence == header.lastSequence && $0.offsetDelta == header.lastOffsetDelta
        }
    }
}
