import Essentials
import Raft
import Testing

extension VoterSet {
    /// Voters that need no address.
    init?(keys: some Sequence<ReplicaKey>) {
        self.init(
            keys.map { Voter(id: $0.id, directory: $0.directory, host: "host", port: 1) })
    }
}

extension VoterHistory {
    /// A set that the log holds already.
    static func fixed(_ keys: [ReplicaKey]) throws -> VoterHistory {
        let voters: VoterSet = try #require(VoterSet(keys: keys))
        return VoterHistory(base: voters, baseOffset: 0)
    }
}
