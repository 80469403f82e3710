package import Essentials

/// What a command decided: the records to commit, and the answer to give once they are committed.
///
/// Nothing has changed yet.
package struct ControllerResult<Reply: Sendable>: Sendable {
    /// Batches of records, none of them empty; each one is atomic.
    ///
    /// Mostly there is one. A decision about very many partitions has several: they are proposed one
    /// right after the other, with nothing in between, and what is left when the last ones get lost
    /// is a valid state too.
    package let batches: [[MetadataRecord]]
    package let reply: Reply
    /// Leaders that `batches` change, for the log.
    package let elections: [Election]
    /// The speculative image with `batches` applied.
    let image: MetadataImage

    /// Whether there is nothing to commit.
    package var isEmpty: Bool { batches.isEmpty }

    /// The records of all batches.
    package var records: [MetadataRecord] { Array(batches.joined()) }

    func map<Other: Sendable>(_ transform: (Reply) -> Other) -> ControllerResult<Other> {
        ControllerResult<Other>(
            batches: batches, reply: transform(reply), elections: elections, image: image)
    }
}

/// A partition got another leader, or lost the one it had.
package struct Election: Equatable, Sendable {
    package enum Kind: Equatable, Sendable {
        case fromISR
        case fromELR
        /// The preferred replica leads again.
        case preferred
        /// From neither: committed records may be lost.
        case unclean
        /// Nobody is eligible now.
        case leaderless
    }

    package var topic: String
    package var partition: Int32
    package var leader: NodeID?
    package var leaderEpoch: LeaderEpoch
    package var kind: Kind
}

/// A refusal, with the name Kafka's clients know it by and a message that says what to do.
package struct ControllerError: Error, Equatable, Sendable {
    package var code: ErrorCode
    package var message: String

    package init(_ code: ErrorCode, _ message: String) {
        self.code = code
        self.message = message
    }
}
