package import Essentials

/// What a command decided: the records to commit as one atomic batch, and the answer to give once
/// they are committed.
///
/// Nothing has changed yet.
package struct ControllerResult<Reply: Sendable>: Sendable {
    package let records: [MetadataRecord]
    package let reply: Reply
    /// Leaders that `records` change, for the log.
    package let elections: [Election]
    /// The speculative image with `records` applied.
    let image: MetadataImage

    func map<Other: Sendable>(_ transform: (Reply) -> Other) -> ControllerResult<Other> {
        ControllerResult<Other>(
            records: records, reply: transform(reply), elections: elections, image: image)
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
