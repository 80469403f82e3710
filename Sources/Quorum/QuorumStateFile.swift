internal import Essentials
internal import Foundation
internal import Raft
internal import Storage

/// The file that keeps a replica's epoch and vote: `quorum-state`, JSON, replaced as a whole.
struct QuorumStateFile: Sendable {
    static let name = "quorum-state"
    private static let maxSize = 1 << 16

    let directory: String
    let fileSystem: any FileSystem

    var path: String { "\(directory)/\(Self.name)" }

    private struct Content: Codable {
        var dataVersion = 1
        var clusterId: String
        var leaderEpoch: Int32
        /// -1 for none.
        var leaderId: Int32
        /// Absent for no vote; -1 for a vote that counts as spent.
        var votedId: Int32?
        var votedDirectoryId: String?
    }

    /// The state as last written; `nil` when it never was.
    func read(clusterID: String) throws(QuorumError) -> ElectionState? {
        let bytes: [UInt8]?
        do throws(FileError) {
            guard let size = try fileSystem.size(of: path) else { return nil }
            // A file of that size was not written by us, but it is not missing either.
            bytes = size <= Self.maxSize ? try fileSystem.readFile(path) : nil
        } catch {
            throw .damagedState(path: path, reason: "\(error)")
        }
        guard let bytes else { throw .damagedState(path: path, reason: "it is too large") }
        guard let content = try? JSONDecoder().decode(Content.self, from: Data(bytes)) else {
            throw .damagedState(path: path, reason: "not the JSON that was written")
        }
        guard content.dataVersion == 1 else {
            throw .damagedState(path: path, reason: "unknown version \(content.dataVersion)")
        }
        guard content.clusterId == clusterID else {
            throw .damagedState(
                path: path, reason: "it belongs to cluster \(content.clusterId)")
        }
        guard content.leaderEpoch >= 0, LeaderEpoch(content.leaderEpoch) <= ElectionState.maxEpoch
        else { throw .damagedState(path: path, reason: "epoch \(content.leaderEpoch)") }
        var votedFor: ReplicaKey?
        if let id = content.votedId {
            votedFor = ReplicaKey(id: NodeID(id))
            if let directory = content.votedDirectoryId {
                guard let directory = DirectoryID(directory) else {
                    throw .damagedState(path: path, reason: "directory id \(directory)")
                }
                votedFor?.directory = directory
            }
        }
        return ElectionState(
            epoch: LeaderEpoch(content.leaderEpoch), votedFor: votedFor,
            leader: content.leaderId < 0 ? nil : NodeID(content.leaderId))
    }

    /// Replaces the file; it is durable when this returns.
    func write(_ state: ElectionState, clusterID: String) throws(LogError) {
        let content = Content(
            clusterId: clusterID, leaderEpoch: state.epoch.rawValue,
            leaderId: state.leader?.rawValue ?? -1, votedId: state.votedFor?.id.rawValue,
            votedDirectoryId: state.votedFor?.directory?.description)
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        let bytes: [UInt8]
        do {
            bytes = Array(try encoder.encode(content)) + [UInt8(ascii: "\n")]
        } catch {
            throw .offline("the quorum state can't be written as JSON: \(error)")
        }
        do throws(FileError) {
            try fileSystem.replaceFile(Self.name, in: directory, with: bytes)
        } catch {
            throw .io(error)
        }
    }
}
