package import Essentials

/// What opening a log found, and did.
package struct RecoveryReport: Sendable, Hashable {
    package enum Outcome: Sendable, Hashable {
        /// The log was closed in order, and taken as it is.
        case trusted
        /// All from the recovery point on was checked; a torn tail of so many bytes was cut off.
        case recovered(truncatedBytes: Int)
        /// Something is wrong below what was known to be there. Nothing was cut off; the log serves
        /// what is below `at`, and takes nothing until its owner truncates it.
        case damaged(at: Offset, LogError)
    }

    package var outcome = Outcome.trusted
    /// The bytes that were read and whose checksums were compared.
    package var checkedBytes = 0
    /// Leftovers of interrupted work, which were removed.
    package var removedFiles: [String] = []
    /// Whether the leader epochs had to be collected from the batches.
    package var rebuiltEpochs = false
    /// From where on batches were read to find out about producers; `nil` if there was no need to.
    package var producersReplayedFrom: Offset?

    package var isDamaged: Bool {
        if case .damaged = outcome { true } else { false }
    }
}
