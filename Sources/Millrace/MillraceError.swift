internal import Essentials
internal import RPC

/// Why a call failed: the protocol's name for it, what to do about it, and whether to try again.
public struct MillraceError: Error, Sendable, Hashable, CustomStringConvertible {
    /// The Kafka error name, such as `NOT_LEADER_OR_FOLLOWER`; the client's own are `CLIENT_CLOSED`
    /// and `INVALID_ARGUMENT`.
    public let code: String
    /// What went wrong, in a sentence that says what to do.
    public let message: String
    /// Whether the same call may succeed later.
    public let isRetriable: Bool
    /// For writes: the records may have been appended or may not; nobody answered.
    public let isOutcomeUnknown: Bool

    public init(
        code: String, message: String, isRetriable: Bool = false, isOutcomeUnknown: Bool = false
    ) {
        self.code = code
        self.message = message
        self.isRetriable = isRetriable
        self.isOutcomeUnknown = isOutcomeUnknown
    }

    public var description: String { "\(code): \(message)" }
}

extension MillraceError {
    static let closed = MillraceError(
        code: "CLIENT_CLOSED", message: "this client is closed; create another one")

    static func invalidArgument(_ message: String) -> MillraceError {
        MillraceError(code: "INVALID_ARGUMENT", message: message)
    }

    init(_ code: ErrorCode, _ message: String, isOutcomeUnknown: Bool = false) {
        self.init(
            code: code.name, message: message, isRetriable: code.isRetriable,
            isOutcomeUnknown: isOutcomeUnknown)
    }

    /// The error as the caller should see it once retrying has come to an end.
    init(_ error: RPCError, isOutcomeUnknown: Bool = false) {
        self.init(
            code: Self.name(of: error), message: error.message,
            isRetriable: FailureKind(error) != .permanent, isOutcomeUnknown: isOutcomeUnknown)
    }

    /// The Kafka name an answer carried, or the nearest to a failure of the transport.
    private static func name(of error: RPCError) -> String {
        if let code = error.code { return code.name }
        switch error.status {
        case .unavailable, .aborted, .cancelled: return ErrorCode.networkException.name
        case .deadlineExceeded: return ErrorCode.requestTimedOut.name
        case .resourceExhausted: return ErrorCode.throttlingQuotaExceeded.name
        case .invalidArgument, .failedPrecondition, .outOfRange:
            return ErrorCode.invalidRequest.name
        case .unimplemented: return ErrorCode.unsupportedVersion.name
        case .dataLoss: return ErrorCode.corruptMessage.name
        case .ok, .unknown, .notFound, .alreadyExists, .permissionDenied, .internalError,
            .unauthenticated:
            return ErrorCode.unknownServerError.name
        }
    }
}
