internal import Essentials
internal import RPC

/// What a failed call tells about trying again.
enum FailureKind: Hashable, Sendable {
    /// The answer will not change: report it.
    case permanent
    /// The server may recover: the same call again, after a pause.
    case transient
    /// This was the wrong server, or it is gone: look for the leader again first.
    case wrongServer

    init(_ error: RPCError) {
        if let code = error.code {
            self = Self.kind(of: code)
        } else {
            self.init(error.status)
        }
    }

    private static func kind(of code: ErrorCode) -> FailureKind {
        guard code.isRetriable else { return .permanent }
        switch code {
        case .notEnoughReplicas, .notEnoughReplicasAfterAppend, .throttlingQuotaExceeded,
            .corruptMessage:
            return .transient
        default:
            return .wrongServer
        }
    }

    init(_ status: RPCError.Status) {
        self =
            switch status {
            case .unavailable, .deadlineExceeded, .cancelled, .aborted: .wrongServer
            case .resourceExhausted: .transient
            case .ok, .unknown, .invalidArgument, .notFound, .alreadyExists, .permissionDenied,
                .failedPrecondition, .outOfRange, .unimplemented, .internalError, .dataLoss,
                .unauthenticated:
                .permanent
            }
    }
}

extension RPCError {
    /// Whether nobody answered at all: the node, or the way to it, is to blame.
    var isConnectionFailure: Bool {
        switch code {
        case nil: FailureKind(status) == .wrongServer
        case .networkException: true
        case .requestTimedOut: status == .deadlineExceeded
        default: false
        }
    }

    /// Whether a write that failed so may have taken effect all the same (design 14.10, P16).
    var leavesOutcomeUnknown: Bool {
        if isUnprocessed { return false }
        guard let code else {
            switch status {
            case .unavailable, .deadlineExceeded, .cancelled, .aborted, .unknown, .internalError:
                return true
            case .ok, .invalidArgument, .notFound, .alreadyExists, .permissionDenied,
                .resourceExhausted, .failedPrecondition, .outOfRange, .unimplemented, .dataLoss,
                .unauthenticated:
                return false
            }
        }
        switch code {
        case .requestTimedOut, .notEnoughReplicasAfterAppend, .networkException,
            .unknownServerError, .kafkaStorageError, .notLeaderOrFollower, .leaderNotAvailable:
            // A leader deposed after the append answers NOT_LEADER too.
            return true
        default:
            return false
        }
    }
}

/// How long to pause before trying again: doubling from `initial` to `limit`, less up to a fifth.
///
/// The fifth is random, so that clients that failed together do not come back together.
struct Backoff: Sendable, Hashable {
    var initial: Duration = .milliseconds(10)
    var limit: Duration = .milliseconds(200)

    /// The pause after `failures` failures in a row, at least 1.
    func pause(after failures: Int, using generator: inout some RandomNumberGenerator) -> Duration {
        let doublings = min(max(failures - 1, 0), 20)
        let doubled = initial.nanoseconds.multipliedReportingOverflow(by: 1 << Int64(doublings))
        let full = doubled.overflow ? limit : min(.nanoseconds(doubled.partialValue), limit)
        let jitter = Int64.random(in: 0...max(full.nanoseconds / 5, 0), using: &generator)
        return .nanoseconds(full.nanoseconds - jitter)
    }

    func pause(after failures: Int) -> Duration {
        var generator = SystemRandomNumberGenerator()
        return pause(after: failures, using: &generator)
    }
}
