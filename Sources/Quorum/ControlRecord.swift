internal import Essentials
internal import NIOCore
internal import Raft
internal import Records

/// The quorum's own records, in control batches of the metadata log and its snapshots.
///
/// Kafka's types and layouts: KIP-595 (leader change), KIP-630 (snapshot header and footer) and
/// KIP-853 (voters). A version above 0 may only add tagged fields, which are passed over.
enum ControlRecord: Hashable, Sendable {
    case leaderChange(leader: NodeID, voters: [NodeID], grantingVoters: [NodeID])
    /// The first record of a snapshot, with the append time of the last record it replaces.
    case snapshotHeader(lastContainedTimestamp: Int64)
    /// The last record of a snapshot: without it, it is not whole.
    case snapshotFooter
    case voters(VoterSet)
    /// A type that this release does not know.
    case other(type: Int16)

    /// What is wrong with a record.
    struct Malformed: Error, Hashable, CustomStringConvertible {
        var description: String
    }

    /// Kafka's numbers.
    private enum Kind: Int16 {
        case leaderChange = 2
        case snapshotHeader = 3
        case snapshotFooter = 4
        case voters = 6
    }

    /// The listener name under which a voter's endpoint is kept.
    private static let listenerName = "CONTROLLER"
    /// The versions of the voter protocol (`kraft.version`) that this release supports.
    private static let supportedVersions: ClosedRange<Int16> = 0...1
    /// No quorum is larger than this; a record that says otherwise is refused.
    static let maxVoters = 1_000
    private static let maxEndpoints = 16
    private static let maxHostBytes = 1_024

    init(key: ByteBuffer?, value: ByteBuffer?) throws(Malformed) {
        guard var key, let version = key.readInteger(as: Int16.self), version >= 0,
            let type = key.readInteger(as: Int16.self)
        else { throw Malformed(description: "a control record has no type") }
        guard let kind = Kind(rawValue: type) else {
            self = .other(type: type)
            return
        }
        var reader = CompactReader(value ?? ByteBuffer())
        guard let version: Int16 = reader.integer(), version >= 0,
            let record = Self.read(kind, from: &reader), reader.skipTags(),
            reader.remaining == 0
        else {
            throw Malformed(description: "a control record of type \(type) is malformed")
        }
        self = record
    }

    private static func read(_ kind: Kind, from reader: inout CompactReader) -> ControlRecord? {
        switch kind {
        case .leaderChange:
            guard let leader: Int32 = reader.integer(), let voters = ids(&reader),
                let granting = ids(&reader)
            else { return nil }
            return .leaderChange(
                leader: NodeID(leader), voters: voters, grantingVoters: granting)
        case .snapshotHeader:
            guard let timestamp: Int64 = reader.integer() else { return nil }
            return .snapshotHeader(lastContainedTimestamp: timestamp)
        case .snapshotFooter:
            return .snapshotFooter
        case .voters:
            return voters(&reader).map { .voters($0) }
        }
    }

    private static func ids(_ reader: inout CompactReader) -> [NodeID]? {
        guard let count = reader.count(limit: maxVoters, minimum: 5) else { return nil }
        var ids: [NodeID] = []
        for _ in 0..<count {
            guard let id: Int32 = reader.integer(), reader.skipTags() else { return nil }
            ids.append(NodeID(id))
        }
        return ids
    }

    private static func voters(_ reader: inout CompactReader) -> VoterSet? {
        // An id, a directory, a count, two versions and two ends of tags.
        guard let count = reader.count(limit: maxVoters, minimum: 27) else { return nil }
        var voters: [Voter] = []
        for _ in 0..<count {
            guard let id: Int32 = reader.integer(), id >= 0, let directory = reader.directory(),
                let endpoint = endpoint(&reader), let _: Int16 = reader.integer(),
                let _: Int16 = reader.integer(), reader.skipTags(), reader.skipTags()
            else { return nil }
            voters.append(
                Voter(
                    id: NodeID(id), directory: directory == .zero ? nil : directory,
                    host: endpoint.host, port: endpoint.port))
        }
        return VoterSet(voters)
    }

    /// The endpoint for controllers, or else the first.
    private static func endpoint(_ reader: inout CompactReader) -> (host: String, port: Int)? {
        guard let count = reader.count(limit: maxEndpoints, minimum: 5), count > 0 else {
            return nil
        }
        var chosen: (name: String, host: String, port: Int)?
        for _ in 0..<count {
            guard let name = reader.string(limit: 255),
                let host = reader.string(limit: maxHostBytes),
                let port: UInt16 = reader.integer(), reader.skipTags()
            else { return nil }
            if chosen == nil || (name == listenerName && chosen?.name != listenerName) {
                chosen = (name, host, Int(port))
            }
        }
        return chosen.map { ($0.host, $0.port) }
    }

    // MARK: Writing

    var key: ByteBuffer {
        let type: Int16 =
            switch self {
            case .leaderChange: Kind.leaderChange.rawValue
            case .snapshotHeader: Kind.snapshotHeader.rawValue
            case .snapshotFooter: Kind.snapshotFooter.rawValue
            case .voters: Kind.voters.rawValue
            case .other(let type): type
            }
        var key = ByteBuffer()
        key.writeInteger(Int16(0))
        key.writeInteger(type)
        return key
    }

    var value: ByteBuffer {
        var value = ByteBuffer()
        value.writeInteger(Int16(0))
        switch self {
        case .leaderChange(let leader, let voters, let grantingVoters):
            value.writeInteger(leader.rawValue)
            for ids in [voters, grantingVoters] {
                value.writeCompact(ids.count + 1)
                for id in ids {
                    value.writeInteger(id.rawValue)
                    value.writeNoTags()
                }
            }
        case .snapshotHeader(let timestamp):
            value.writeInteger(timestamp)
        case .snapshotFooter, .other:
            break
        case .voters(let set):
            value.writeCompact(set.voters.count + 1)
            for voter in set.voters { Self.write(voter, to: &value) }
        }
        value.writeNoTags()
        return value
    }

    private static func write(_ voter: Voter, to value: inout ByteBuffer) {
        value.writeInteger(voter.id.rawValue)
        value.writeBytes((voter.directory ?? .zero).bytes)
        value.writeCompact(2)
        value.writeCompact(listenerName)
        value.writeCompact(voter.host)
        value.writeInteger(UInt16(clamping: voter.port))
        value.writeNoTags()
        value.writeInteger(supportedVersions.lowerBound)
        value.writeInteger(supportedVersions.upperBound)
        value.writeNoTags()
        value.writeNoTags()
    }

    /// A control batch of this record alone.
    func batch(timestamp: Int64) -> RecordBatchBuilder {
        var builder = RecordBatchBuilder(isControl: true)
        builder.append(key: key, value: value, timestamp: timestamp)
        return builder
    }

    /// The records of one control batch.
    static func all(in batch: ByteBuffer) throws(QuorumRecordError) -> [ControlRecord] {
        var records: [ControlRecord] = []
        do throws(RecordError) {
            var reader = RecordReader(batch, includesControlBatches: true, checksCRC: false)
            while let record = try reader.next() {
                do throws(Malformed) {
                    records.append(try ControlRecord(key: record.key, value: record.value))
                } catch {
                    throw RecordError.invalidHeader(error.description)
                }
            }
        } catch {
            throw QuorumRecordError(reason: "\(error)")
        }
        return records
    }
}

/// A batch whose bytes are whole, but make no sense.
struct QuorumRecordError: Error, Hashable {
    var reason: String
}

// MARK: For people

extension ControlRecord {
    /// As it is called in dumps.
    var typeName: String {
        switch self {
        case .leaderChange: "leaderChange"
        case .snapshotHeader: "snapshotHeader"
        case .snapshotFooter: "snapshotFooter"
        case .voters: "voters"
        case .other(let type): "control\(type)"
        }
    }

    var json: String {
        switch self {
        case .leaderChange(let leader, let voters, let grantingVoters):
            let list = { (ids: [NodeID]) in ids.map(\.description).joined(separator: ",") }
            return "{\"leader\":\(leader),\"voters\":[\(list(voters))],"
                + "\"grantingVoters\":[\(list(grantingVoters))]}"
        case .snapshotHeader(let timestamp):
            return "{\"lastContainedTimestamp\":\(timestamp)}"
        case .snapshotFooter, .other:
            return "{}"
        case .voters(let set):
            let voters = set.voters.map { voter in
                "{\"id\":\(voter.id),\"directory\":\"\(voter.directory?.description ?? "")\","
                    + "\"host\":\(Self.quoted(voter.host)),\"port\":\(voter.port)}"
            }
            return "{\"voters\":[\(voters.joined(separator: ","))]}"
        }
    }

    private static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let hex = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}
