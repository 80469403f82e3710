/// The name a failure carries on the wire: Kafka's protocol error codes, for those Millrace uses.
package enum ErrorCode: Int16, Sendable, CaseIterable, Hashable {
    case unknownServerError = -1
    case offsetOutOfRange = 1
    case corruptMessage = 2
    case unknownTopicOrPartition = 3
    case leaderNotAvailable = 5
    case notLeaderOrFollower = 6
    case requestTimedOut = 7
    case replicaNotAvailable = 9
    case messageTooLarge = 10
    case networkException = 13
    case invalidTopicException = 17
    case recordListTooLarge = 18
    case notEnoughReplicas = 19
    case notEnoughReplicasAfterAppend = 20
    case invalidRequiredAcks = 21
    case invalidTimestamp = 32
    case unsupportedVersion = 35
    case topicAlreadyExists = 36
    case invalidPartitions = 37
    case invalidReplicationFactor = 38
    case invalidConfig = 40
    case notController = 41
    case invalidRequest = 42
    case policyViolation = 44
    case outOfOrderSequenceNumber = 45
    case duplicateSequenceNumber = 46
    case invalidProducerEpoch = 47
    case invalidTransactionState = 48
    case concurrentTransactions = 51
    case transactionCoordinatorFenced = 52
    case kafkaStorageError = 56
    case logDirNotFound = 57
    case unknownProducerID = 59
    case fencedLeaderEpoch = 74
    case unknownLeaderEpoch = 75
    case unsupportedCompressionType = 76
    case staleBrokerEpoch = 77
    case offsetNotAvailable = 78
    case invalidRecord = 87
    case throttlingQuotaExceeded = 89
    case resourceNotFound = 91
    case inconsistentVoterSet = 94
    case invalidUpdateVersion = 95
    case featureUpdateFailed = 96
    case unknownTopicID = 100
    case duplicateBrokerRegistration = 101
    case brokerIDNotRegistered = 102
    case inconsistentTopicID = 103
    case inconsistentClusterID = 104
    case ineligibleReplica = 107
    case newLeaderElected = 108
    case invalidVoterKey = 125
    case duplicateVoter = 126
    case voterNotFound = 127

    /// Kafka's name for the code, as clients see it: `NOT_LEADER_OR_FOLLOWER`.
    package var name: String {
        switch self {
        case .unknownServerError: "UNKNOWN_SERVER_ERROR"
        case .offsetOutOfRange: "OFFSET_OUT_OF_RANGE"
        case .corruptMessage: "CORRUPT_MESSAGE"
        case .unknownTopicOrPartition: "UNKNOWN_TOPIC_OR_PARTITION"
        case .leaderNotAvailable: "LEADER_NOT_AVAILABLE"
        case .notLeaderOrFollower: "NOT_LEADER_OR_FOLLOWER"
        case .requestTimedOut: "REQUEST_TIMED_OUT"
        case .replicaNotAvailable: "REPLICA_NOT_AVAILABLE"
        case .messageTooLarge: "MESSAGE_TOO_LARGE"
        case .networkException: "NETWORK_EXCEPTION"
        case .invalidTopicException: "INVALID_TOPIC_EXCEPTION"
        case .recordListTooLarge: "RECORD_LIST_TOO_LARGE"
        case .notEnoughReplicas: "NOT_ENOUGH_REPLICAS"
        case .notEnoughReplicasAfterAppend: "NOT_ENOUGH_REPLICAS_AFTER_APPEND"
        case .invalidRequiredAcks: "INVALID_REQUIRED_ACKS"
        case .invalidTimestamp: "INVALID_TIMESTAMP"
        case .unsupportedVersion: "UNSUPPORTED_VERSION"
        case .topicAlreadyExists: "TOPIC_ALREADY_EXISTS"
        case .invalidPartitions: "INVALID_PARTITIONS"
        case .invalidReplicationFactor: "INVALID_REPLICATION_FACTOR"
        case .invalidConfig: "INVALID_CONFIG"
        case .notController: "NOT_CONTROLLER"
        case .invalidRequest: "INVALID_REQUEST"
        case .policyViolation: "POLICY_VIOLATION"
        case .outOfOrderSequenceNumber: "OUT_OF_ORDER_SEQUENCE_NUMBER"
        case .duplicateSequenceNumber: "DUPLICATE_SEQUENCE_NUMBER"
        case .invalidProducerEpoch: "INVALID_PRODUCER_EPOCH"
        case .invalidTransactionState: "INVALID_TXN_STATE"
        case .concurrentTransactions: "CONCURRENT_TRANSACTIONS"
        case .transactionCoordinatorFenced: "TRANSACTION_COORDINATOR_FENCED"
        case .kafkaStorageError: "KAFKA_STORAGE_ERROR"
        case .logDirNotFound: "LOG_DIR_NOT_FOUND"
        case .unknownProducerID: "UNKNOWN_PRODUCER_ID"
        case .fencedLeaderEpoch: "FENCED_LEADER_EPOCH"
        case .unknownLeaderEpoch: "UNKNOWN_LEADER_EPOCH"
        case .unsupportedCompressionType: "UNSUPPORTED_COMPRESSION_TYPE"
        case .staleBrokerEpoch: "STALE_BROKER_EPOCH"
        case .offsetNotAvailable: "OFFSET_NOT_AVAILABLE"
        case .invalidRecord: "INVALID_RECORD"
        case .throttlingQuotaExceeded: "THROTTLING_QUOTA_EXCEEDED"
        case .inconsistentVoterSet: "INCONSISTENT_VOTER_SET"
        case .resourceNotFound: "RESOURCE_NOT_FOUND"
        case .invalidUpdateVersion: "INVALID_UPDATE_VERSION"
        case .featureUpdateFailed: "FEATURE_UPDATE_FAILED"
        case .unknownTopicID: "UNKNOWN_TOPIC_ID"
        case .duplicateBrokerRegistration: "DUPLICATE_BROKER_REGISTRATION"
        case .brokerIDNotRegistered: "BROKER_ID_NOT_REGISTERED"
        case .inconsistentTopicID: "INCONSISTENT_TOPIC_ID"
        case .inconsistentClusterID: "INCONSISTENT_CLUSTER_ID"
        case .ineligibleReplica: "INELIGIBLE_REPLICA"
        case .newLeaderElected: "NEW_LEADER_ELECTED"
        case .invalidVoterKey: "INVALID_VOTER_KEY"
        case .duplicateVoter: "DUPLICATE_VOTER"
        case .voterNotFound: "VOTER_NOT_FOUND"
        }
    }

    private static let byName = Dictionary(
        uniqueKeysWithValues: allCases.map { ($0.name, $0) })

    package init?(name: String) {
        guard let code = Self.byName[name] else { return nil }
        self = code
    }

    /// Whether the same request may succeed later, possibly at another broker.
    package var isRetriable: Bool {
        switch self {
        case .corruptMessage, .unknownTopicOrPartition, .leaderNotAvailable, .notLeaderOrFollower,
            .requestTimedOut, .replicaNotAvailable, .networkException, .notEnoughReplicas,
            .notEnoughReplicasAfterAppend, .notController, .kafkaStorageError, .fencedLeaderEpoch,
            .unknownLeaderEpoch, .offsetNotAvailable, .throttlingQuotaExceeded, .unknownTopicID,
            .inconsistentTopicID, .concurrentTransactions:
            true
        case .unknownServerError, .offsetOutOfRange, .messageTooLarge, .invalidTopicException,
            .recordListTooLarge, .invalidRequiredAcks, .invalidTimestamp, .unsupportedVersion,
            .topicAlreadyExists, .invalidPartitions, .invalidReplicationFactor, .invalidConfig,
            .invalidRequest, .policyViolation, .logDirNotFound, .outOfOrderSequenceNumber,
            .duplicateSequenceNumber, .invalidProducerEpoch, .invalidTransactionState,
            .transactionCoordinatorFenced, .unknownProducerID,
            .unsupportedCompressionType, .staleBrokerEpoch, .invalidRecord, .inconsistentVoterSet,
            .invalidUpdateVersion, .duplicateBrokerRegistration, .brokerIDNotRegistered,
            .inconsistentClusterID, .ineligibleReplica, .newLeaderElected, .resourceNotFound,
            .featureUpdateFailed, .invalidVoterKey, .duplicateVoter, .voterNotFound:
            false
        }
    }
}
