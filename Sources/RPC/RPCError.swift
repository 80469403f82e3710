package import Essentials

/// Why a call failed, in gRPC's and Kafka's terms at once.
package struct RPCError: Error, Sendable, Equatable {
    /// gRPC's status codes, with their numbers.
    package enum Status: Int, Sendable, CaseIterable {
        case ok = 0
        case cancelled
        case unknown
        case invalidArgument
        case deadlineExceeded
        case notFound
        case alreadyExists
        case permissionDenied
        case resourceExhausted
        case failedPrecondition
        case aborted
        case outOfRange
        case unimplemented
        case internalError
        case unavailable
        case dataLoss
        case unauthenticated
    }

    package var status: Status
    /// The Kafka error, where there is one that fits.
    package var code: ErrorCode?
    /// Says what went wrong and what to do.
    package var message: String
    /// The server has certainly not acted on the call: it may be sent again, anywhere.
    package var isUnprocessed: Bool
    /// Nothing listens at the address.
    package var isConnectionRefused = false

    /// A failure with a Kafka error; the status follows from it.
    package init(_ code: ErrorCode, _ message: String) {
        self.init(status: Status(code), code: code, message)
    }

    package init(
        status: Status, code: ErrorCode? = nil, _ message: String, isUnprocessed: Bool = false
    ) {
        self.status = status
        self.code = code
        self.message = message
        self.isUnprocessed = isUnprocessed
    }

    /// Whether the same call may succeed later or elsewhere.
    ///
    /// The effect of a call that was not `isUnprocessed` is unknown all the same.
    package var isRetriable: Bool {
        if isUnprocessed { return true }
        if let code { return code.isRetriable }
        return status == .unavailable
    }
}

extension RPCError: CustomStringConvertible {
    package var description: String {
        code.map { "\($0.name): \(message)" } ?? "\(status.name): \(message)"
    }
}

extension RPCError.Status {
    /// The status that says most nearly what the Kafka error says.
    init(_ code: ErrorCode) {
        self =
            switch code {
            case .unknownServerError, .kafkaStorageError: .internalError
            case .offsetOutOfRange: .outOfRange
            case .corruptMessage: .dataLoss
            case .unknownTopicOrPartition, .unknownTopicID, .brokerIDNotRegistered,
                .resourceNotFound, .voterNotFound, .logDirNotFound:
                .notFound
            case .leaderNotAvailable, .replicaNotAvailable, .networkException,
                .offsetNotAvailable, .unknownLeaderEpoch, .notEnoughReplicas,
                .notEnoughReplicasAfterAppend, .newLeaderElected, .concurrentTransactions:
                .unavailable
            case .requestTimedOut: .deadlineExceeded
            case .messageTooLarge, .recordListTooLarge, .throttlingQuotaExceeded:
                .resourceExhausted
            case .invalidTopicException, .invalidRequiredAcks, .invalidTimestamp,
                .invalidPartitions, .invalidReplicationFactor, .invalidConfig, .invalidRequest,
                .unsupportedCompressionType, .invalidRecord:
                .invalidArgument
            case .unsupportedVersion: .unimplemented
            case .topicAlreadyExists, .duplicateBrokerRegistration, .duplicateVoter: .alreadyExists
            case .policyViolation: .permissionDenied
            case .notLeaderOrFollower, .notController, .fencedLeaderEpoch, .staleBrokerEpoch,
                .outOfOrderSequenceNumber, .duplicateSequenceNumber, .invalidProducerEpoch,
                .invalidTransactionState, .transactionCoordinatorFenced,
                .unknownProducerID, .inconsistentVoterSet, .invalidUpdateVersion,
                .inconsistentTopicID, .inconsistentClusterID, .ineligibleReplica,
                .featureUpdateFailed, .invalidVoterKey:
                .failedPrecondition
            }
    }

    /// Connect's name of the status, which is gRPC's in lower case.
    package var name: String {
        switch self {
        case .ok: "ok"
        case .cancelled: "canceled"
        case .unknown: "unknown"
        case .invalidArgument: "invalid_argument"
        case .deadlineExceeded: "deadline_exceeded"
        case .notFound: "not_found"
        case .alreadyExists: "already_exists"
        case .permissionDenied: "permission_denied"
        case .resourceExhausted: "resource_exhausted"
        case .failedPrecondition: "failed_precondition"
        case .aborted: "aborted"
        case .outOfRange: "out_of_range"
        case .unimplemented: "unimplemented"
        case .internalError: "internal"
        case .unavailable: "unavailable"
        case .dataLoss: "data_loss"
        case .unauthenticated: "unauthenticated"
        }
    }

    init?(name: String) {
        guard let status = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = status
    }

    /// The HTTP status that goes with an error of the Connect protocol.
    var httpStatus: Int {
        switch self {
        case .ok: 200
        case .cancelled: 499
        case .invalidArgument, .failedPrecondition, .outOfRange: 400
        case .unauthenticated: 401
        case .permissionDenied: 403
        case .notFound: 404
        case .alreadyExists, .aborted: 409
        case .resourceExhausted: 429
        case .unimplemented: 501
        case .unavailable: 503
        case .deadlineExceeded: 504
        case .unknown, .internalError, .dataLoss: 500
        }
    }

    /// What an HTTP status means when no gRPC status came with it (gRPC, http-grpc-status-mapping).
    init(httpStatus: Int) {
        self =
            switch httpStatus {
            case 400: .internalError
            case 401: .unauthenticated
            case 403: .permissionDenied
            case 404: .unimplemented
            case 429, 502, 503, 504: .unavailable
            default: .unknown
            }
    }
}
