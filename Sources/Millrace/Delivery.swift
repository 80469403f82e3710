internal import Essentials
internal import NIOCore
internal import RPC
internal import Records

/// The batches of one partition that are under way, and how that goes.
///
/// It is *sent* (`call` is set), *waiting* for another try (`timer` is set), or between the two
/// while metadata is being refreshed.
final class Delivery: @unchecked Sendable {
    // Sendable: touched on the client's event loop only.

    struct Batch {
        /// Encoded and compressed once, and sent again as it is.
        let bytes: ByteBuffer
        let recordCount: Int
        let accountedBytes: Int
        let generation: Int
        let createdAt: NIODeadline
        let completions: [(position: Int, completion: Accumulator.Completion)]
        /// Some attempt ended without an answer, so the records may be in the log.
        var isOutcomeUnknown = false
    }

    let lane: Accumulator.Lane
    let topic: String
    var partition: Int32 { lane.partition }
    /// What is not yet acknowledged, in order.
    var batches: [Batch]

    /// Counts attempts, so that a late answer to an attempt given up is told apart.
    var attempt = 0
    /// The last attempt that was answered: an answer can come before `call` is there.
    var answeredAttempt = 0
    var failures = 0
    var lastError: RPCError?
    /// The first so many batches are in the request under way.
    var sentCount = 0
    var sentAt = NIODeadline.uptimeNanoseconds(0)
    var sentEpoch = LeaderEpoch.none
    /// One batch a request, to find the one a broker refuses.
    var sendsSingly = false
    var call: CallToken?
    var timer: Scheduled<Void>?
    var unknownSince: NIODeadline?

    init(
        lane: Accumulator.Lane, topic: String, batches: [Accumulator.Batch],
        compression: Records.Compression
    ) {
        self.lane = lane
        self.topic = topic
        self.batches = batches.map { batch in
            Batch(
                bytes: RecordBatches.compressing(batch.encoded, with: compression),
                recordCount: batch.recordCount, accountedBytes: batch.bytes,
                generation: batch.generation, createdAt: batch.createdAt,
                completions: batch.completions)
        }
    }
}
