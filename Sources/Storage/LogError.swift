package import Essentials
package import Records

/// Why a log could not do what it was asked.
package enum LogError: Error, Hashable, Sendable {
    /// A system call failed; the log is as it was before.
    case io(FileError)
    /// An earlier failure left the log, or its whole directory, unusable until a restart.
    case offline(String)
    /// `valid` runs from the log start offset to the log end offset.
    case offsetOutOfRange(Offset, valid: ClosedRange<Offset>)
    /// The bytes at `position` of a segment are not the batch they should be.
    case corruptBatch(segment: String, position: Int, RecordError)
    /// The log's own bytes end, or stop following on one another, where they must not.
    case missingRecords(from: Offset, to: Offset)
    /// The log was opened damaged; it takes nothing until it is truncated or started anew.
    case damaged(at: Offset)
    /// What was to be appended is not made of valid batches.
    case refused(RecordError)
    /// What was to be appended does not follow on what its producer has sent.
    case producer(ProducerError)
    /// What was to be appended does not start at the log end offset.
    case notContiguous(expected: Offset, found: Offset)
    /// What was to be appended is of an older epoch than the log's last.
    case epochFell(from: LeaderEpoch, to: LeaderEpoch)
    /// What was to be appended is of a newer epoch than its sender may lead in.
    case epochTooNew(LeaderEpoch, limit: LeaderEpoch)
    /// Another process, or another part of this one, uses the directory.
    case inUse(directory: String)
    /// A file is not what its name says.
    case unexpectedFile(String, reason: String)
    case closed
}

extension LogError {
    /// The name under which a client hears of it.
    package var code: ErrorCode {
        switch self {
        case .offsetOutOfRange: .offsetOutOfRange
        case .refused(let error): error.code
        case .producer(let error): error.code
        case .epochFell, .epochTooNew: .fencedLeaderEpoch
        case .notContiguous: .invalidRecord
        case .io, .offline, .corruptBatch, .missingRecords, .damaged, .inUse, .unexpectedFile,
            .closed:
            .kafkaStorageError
        }
    }
}

extension LogError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .io(let error):
            error.isOutOfSpace ? "\(error); free some space and it goes on" : "\(error)"
        case .offline(let reason):
            "the log is offline after a failure (\(reason)); check the disk and restart"
        case .offsetOutOfRange(let offset, let valid):
            "offset \(offset) is out of range: the log has \(valid.lowerBound) to "
                + "\(valid.upperBound)"
        case .corruptBatch(let segment, let position, let error):
            "\(segment) is damaged at byte \(position): \(error)"
        case .missingRecords(let from, let to):
            "the records from offset \(from) up to \(to) are missing"
        case .damaged(let offset):
            "the log is damaged at offset \(offset); it must be fetched again from a replica"
        case .refused(let error):
            "\(error)"
        case .producer(let error):
            "\(error)"
        case .notContiguous(let expected, let found):
            "batches start at offset \(found), but the log ends at \(expected)"
        case .epochFell(let old, let new):
            "a batch of leader epoch \(new) cannot follow one of \(old)"
        case .epochTooNew(let epoch, let limit):
            "a batch of leader epoch \(epoch) came from the leader of \(limit)"
        case .inUse(let directory):
            "\(directory) is in use by another process; give each node its own directory"
        case .unexpectedFile(let path, let reason):
            "\(path) does not belong there: \(reason)"
        case .closed:
            "the log is closed"
        }
    }
}
