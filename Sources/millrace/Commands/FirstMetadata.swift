import ArgumentParser
import Configuration
import Essentials
import Metadata
import Millrace
import Quorum
import Raft
import Storage

/// What a new controller begins with, before it has a log.
struct FirstMetadata {
    /// The first voters of a new cluster; `nil` for a controller that joins one later.
    var voters: VoterSet?
    /// The level of the metadata's records; `nil` for a controller that joins a cluster.
    var level: Int32?

    /// Writes it where the metadata log will lie.
    ///
    /// What was written so before, by a format that did not come to its end, is replaced.
    func write(to metadataLogDirectory: String) throws {
        let records = level.map {
            MetadataRecord.featureLevel(name: MetadataFeatures.metadataVersion, level: $0).encoded()
        }
        try BootstrapSnapshot.write(
            to: metadataLogDirectory, voters: voters, records: records.map { [$0] } ?? [],
            timestamp: WallClock.milliseconds())
    }

    /// Parses a list of `id@host:port:directory-id`.
    static func parseVoters(_ text: String) throws(ValidationError) -> VoterSet {
        var voters: [Voter] = []
        for entry in text.split(separator: ",", omittingEmptySubsequences: false) {
            let entry = entry.filter { $0 != " " }
            let wrong = ValidationError(
                "'\(entry)' is not id@host:port:directory-id; write it like"
                    + " 1001@c1.example.com:9093:AAAAAAAAAAAAAAAAAAAAAQ, with a directory id from"
                    + " `millrace storage random-id` for each controller.")
            guard let at = entry.firstIndex(of: "@"), let colon = entry.lastIndex(of: ":"),
                at < colon, let id = Int32(entry[..<at]), id >= 0,
                let endpoint = Endpoint(String(entry[entry.index(after: at)..<colon])),
                endpoint.isReachable,
                let directory = DirectoryID(String(entry[entry.index(after: colon)...])),
                directory != .zero
            else { throw wrong }
            if voters.contains(where: { $0.id.rawValue == id || $0.directory == directory }) {
                throw ValidationError(
                    "--initial-controllers lists node \(id) or its directory id twice; give every"
                        + " controller an id and a directory id of its own.")
            }
            voters.append(
                Voter(
                    id: NodeID(id), directory: directory, host: endpoint.host,
                    port: endpoint.port))
        }
        guard let set = VoterSet(voters) else {
            throw ValidationError("--initial-controllers needs at least one controller.")
        }
        return set
    }
}

extension SnapshotFile {
    /// Whether a file of this name is what a format left, whole or not.
    static func isBootstrap(_ name: String) -> Bool {
        let own = SnapshotFile.name(of: BootstrapSnapshot.id)
        return name == own || name == own + ".part"
    }
}
