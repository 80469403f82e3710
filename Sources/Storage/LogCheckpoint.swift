package import Essentials

/// What a log directory remembers of one log beside the log itself.
package struct LogCheckpoint: Sendable, Hashable {
    /// Everything below was on stable storage; recovery checks what is above.
    package var recoveryPoint: Offset
    /// The high watermark when it was last noted, never above the recovery point.
    package var highWatermark: Offset
    /// Where the log starts, if not at its first segment's start.
    package var logStartOffset: Offset?
    /// Everything below was compacted; `nil` for a log that never was, or when that is not known.
    package var compactedTo: Offset?
    /// How often the log had been truncated; an older checkpoint than that is not kept.
    package var generation: UInt64
    /// Whether anything was known of producers when the log was closed in order, as far as that is known.
    package var hasProducers = true

    package init(
        recoveryPoint: Offset = 0, highWatermark: Offset = 0, logStartOffset: Offset? = nil,
        compactedTo: Offset? = nil, generation: UInt64 = 0
    ) {
        self.recoveryPoint = recoveryPoint
        self.highWatermark = highWatermark
        self.logStartOffset = logStartOffset
        self.compactedTo = compactedTo
        self.generation = generation
    }

    /// What recovery must find, or report.
    var floor: Offset { max(recoveryPoint, highWatermark) }
}

/// Where logs note, durably, what must not be forgotten before they go on.
package protocol LogCheckpointStore: AnyObject, Sendable {
    /// The log in `folder` is about to be cut to `end`: nothing above that may count as known.
    func willTruncate(_ folder: String, to end: Offset, generation: UInt64) throws(LogError)
    /// The log in `folder` is to start at `offset` from now on; `nil`: where its first segment does.
    func setLogStart(_ folder: String, to offset: Offset?) throws(LogError)
    /// The log in `folder` is to start at `offset`, unless it starts later already, or has been truncated
    /// since `generation`: false then.
    func raiseLogStart(
        _ folder: String, to offset: Offset, generation: UInt64
    ) throws(LogError) -> Bool
    /// The log in `folder` is compacted up to `offset`, unless it has been truncated since `generation`:
    /// false then.
    func noteCompacted(
        _ folder: String, to offset: Offset?, generation: UInt64
    ) throws(LogError) -> Bool
}
