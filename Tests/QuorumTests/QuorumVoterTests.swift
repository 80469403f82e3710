import Configuration
import Essentials
import Foundation
import Logging
import NIOCore
import NIOPosix
import Protocol
import Quorum
import RPC
import Raft
import Storage
import Synchronization
import Testing

/// Voters that come, go, move and lose their disks; leaders that hand over, or are deposed.
@Suite(.serialized) struct QuorumVoterTests {
    private func has(_ records: [String], _ members: [Member]) async throws {
        try await eventually("\(records.suffix(3)) everywhere") {
            members.allSatisfy { $0.witness.account.records == records } ? true : nil
        }
        for member in members { #expect(member.witness.account.isInOrder) }
    }

    private func voters(_ ids: [NodeID], known members: [Member]) async throws {
        try await eventually("voters \(ids) everywhere") {
            members.allSatisfy { $0.witness.account.voters == ids } ? true : nil
        }
    }

    private func withCluster(
        _ voterCount: Int = 3, records: [String] = [],
        _ body: (QuorumCluster) async throws -> Void
    ) async throws {
        let cluster = try await QuorumCluster(voterCount: voterCount, bootstrapRecords: records)
        do {
            try await body(cluster)
        } catch {
            await cluster.remove()
            throw error
        }
        await cluster.remove()
    }

    private func code(_ body: () async throws -> Void) async -> ErrorCode? {
        do {
            try await body()
            return nil
        } catch {
            return (error as? QuorumError)?.code
        }
    }

    @Test func standaloneVoterGrowsToThreeAndFiveAndShrinks() async throws {
        try await withCluster(1) { cluster in
            var members = [try await cluster.start(1), try await cluster.start(101)]
            let first = try await cluster.leader(of: members)
            _ = try await first.propose(["alone"])
            for id in [2, 3, 4, 5] as [NodeID] {
                members.append(try await cluster.start(id))
                let ids = try await first.add(
                    id, directory: id == 3 ? cluster.directory(of: 3) : nil,
                    at: cluster.endpoint(id))
                #expect(ids == (1...id.rawValue).map { NodeID($0) })
                _ = try await first.propose(["with \(id)"])
            }
            let records = ["alone"] + (2...5).map { "with \($0)" }
            try await has(records, members)
            try await voters([1, 2, 3, 4, 5], known: members)
            // Two of five may be missing, the first one too.
            for member in members where [1, 2].contains(member.id) { await member.stop() }
            members.removeAll { [1, 2].contains($0.id) }
            let second = try await cluster.leader(of: members)
            _ = try await second.propose(["without the first"])
            try await has(records + ["without the first"], members)
            #expect(try await second.removeVoter(1) == [2, 3, 4, 5])
            #expect(try await second.removeVoter(2) == [3, 4, 5])
            let other = try #require([3, 4, 5].map { NodeID($0) }.first { $0 != second.id })
            #expect(try await second.removeVoter(other).count == 2)
            _ = try await second.propose(["two left"])
            try await has(records + ["without the first", "two left"], members)
            for member in members { await member.stop() }
        }
    }

    @Test func changesThatMakeNoSenseAreRefusedByName() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            let leader = try await cluster.leader(of: members)
            let follower = try #require(members.first { $0.id != leader.id })
            let soon = TimeAmount.milliseconds(300)
            #expect(
                await code {
                    _ = try await follower.removeVoter(leader.id)
                } == .notController)
            #expect(await code { _ = try await leader.removeVoter(9) } == .voterNotFound)
            #expect(
                await code {
                    _ = try await leader.removeVoter(follower.id, directory: .random())
                } == .voterNotFound)
            #expect(
                await code {
                    _ = try await leader.add(
                        follower.id, directory: .random(), at: cluster.endpoint(6), within: soon)
                } == .duplicateVoter)
            // Nobody with this id follows the log.
            #expect(
                await code {
                    _ = try await leader.add(5, at: cluster.endpoint(5), within: soon)
                } == .voterNotFound)
            #expect(
                await code {
                    _ = try await leader.add(5, at: Endpoint(host: "", port: 0), within: soon)
                } == .invalidRequest)
            #expect(await code { _ = try await leader.transfer(to: 9) } == .voterNotFound)
            // What was done already, and whose answer was lost, may be asked for again.
            #expect(
                try await leader.add(
                    follower.id, directory: cluster.directory(of: follower.id),
                    at: cluster.endpoint(follower.id)) == [1, 2, 3])
            for member in members { await member.stop() }
        }
    }

    @Test func removedLeaderCommitsItsRemovalAndDisturbsNobody() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            let first = try await cluster.leader(of: members)
            var records: [String] = []
            for index in 0..<20 {
                records.append("before \(index)")
                _ = try await first.propose([records[index]])
            }
            let rest = members.filter { $0.id != first.id }
            #expect(try await first.removeVoter(first.id) == rest.map(\.id))
            let second = try await cluster.leader(of: rest)
            let epoch = try #require(second.witness.account.leading)
            _ = try await second.propose(["after"])
            records.append("after")
            // It goes on as an observer.
            try await has(records, members)
            try await voters(rest.map(\.id), known: members)
            #expect(second.witness.account.leading == epoch)
            // And may come back.
            #expect(try await second.add(first.id, at: cluster.endpoint(first.id)) == [1, 2, 3])
            for member in members { await member.stop() }
        }
    }

    @Test func wipedDiskHasNoVoteUntilItIsAdded() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            var leader = try await cluster.leader(of: members)
            _ = try await leader.propose(["one"])
            try await has(["one"], members)
            let wiped = try #require(members.first { $0.id != leader.id })
            let third = try #require(members.first { $0.id != leader.id && $0.id != wiped.id })
            await wiped.stop()
            let old = cluster.directory(of: wiped.id)
            try cluster.wipe(wiped.id)
            let fresh = try await cluster.start(wiped.id)
            members = [leader, fresh, third]
            try await has(["one"], members)
            let described = try await eventually("it observes") {
                let described = try await leader.node.onLoop { $0.describe() }
                return described.observers.isEmpty ? nil : described
            }
            #expect(described.observers.map(\.id) == [wiped.id.rawValue])
            #expect(
                described.observers.first?.directoryID
                    == cluster.directory(of: wiped.id).description)
            // With the third gone it is one of three: nothing can be committed.
            await third.stop()
            _ = try? await leader.propose(["perhaps"])
            try await eventually("nobody leads") {
                leader.witness.account.leading == nil ? true : nil
            }
            #expect(fresh.witness.account.epochsLed == [])
            #expect(fresh.witness.account.records == ["one"])
            let back = try await cluster.start(third.id)
            members = [leader, fresh, back]
            leader = try await cluster.leader(of: [leader, back])
            // Under its old name it is refused; the old disk goes first.
            #expect(
                await code {
                    _ = try await leader.add(
                        wiped.id, directory: cluster.directory(of: wiped.id),
                        at: cluster.endpoint(wiped.id), within: .milliseconds(500))
                } == .duplicateVoter)
            #expect(try await leader.removeVoter(wiped.id, directory: old).count == 2)
            #expect(try await leader.add(wiped.id, at: cluster.endpoint(wiped.id)) == [1, 2, 3])
            for member in members { await member.stop() }
        }
    }

    @Test func leadershipIsHandedToTheChosenVoter() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            var leader = try await cluster.leader(of: members)
            for round in 0..<3 {
                let chosen = try #require(members.first { $0.id != leader.id })
                _ = try await leader.propose(["round \(round)"])
                #expect(try await leader.transfer(to: chosen.id) == chosen.id)
                leader = try await cluster.leader(of: members)
                #expect(leader.id == chosen.id)
            }
            _ = try await leader.propose(["after"])
            try await has(["round 0", "round 1", "round 2", "after"], members)
            for member in members { await member.stop() }
        }
    }

    @Test func voterThatListensElsewhereIsFoundAgain() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            let leader = try await cluster.leader(of: members)
            let index = try #require(members.firstIndex { $0.id != leader.id })
            let moved = members[index].id
            await members[index].stop()
            members[index] = try await cluster.start(moved, listener: cluster.endpoint(6))
            try await eventually("its new address is known") {
                var isKnown = true
                for member in members {
                    let port = try await member.node.onLoop { node in
                        node.voters.first { $0.id == moved }?.port
                    }
                    isKnown = isKnown && port == cluster.endpoint(6).port
                }
                return isKnown ? true : nil
            }
            // It is reached there: it can lead.
            #expect(try await cluster.leader(of: members).transfer(to: moved) == moved)
            for member in members { await member.stop() }
        }
    }

    @Test func votersThatAllMovedFindEachOtherThroughBootstrapServers() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            _ = try await cluster.leader(of: members).propose(["before"])
            try await has(["before"], members)
            for member in members { await member.stop() }
            let places = ([5, 6, 4] as [NodeID]).map { cluster.endpoint($0) }
            members = []
            for (index, id) in ([1, 2, 3] as [NodeID]).enumerated() {
                members.append(
                    try await cluster.start(id, listener: places[index]) {
                        $0.bootstrapServers = places
                    })
            }
            let leader = try await cluster.leader(of: members)
            _ = try await leader.propose(["after"])
            try await has(["before", "after"], members)
            try await eventually("the voter set says where they are") {
                let ports = try await leader.node.onLoop { $0.voters.map(\.port) }
                return ports == places.map(\.port) ? true : nil
            }
            for member in members { await member.stop() }
        }
    }

    // MARK: Reading

    @Test func readIsAnsweredByTheLeaderOnly() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            let leader = try await cluster.leader(of: members)
            let last = try await leader.propose(["x"])
            try await has(["x"], members)
            #expect(try await leader.read() > last)
            for member in members where member.id != leader.id {
                #expect(await code { _ = try await member.read() } == .notController)
            }
            for member in members { await member.stop() }
        }
    }

    @Test func deposedLeaderDoesNotAnswerReads() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            let first = try await cluster.leader(of: members)
            // It is not reached any more and does not know.
            await first.server?.stop(grace: .zero)
            let others = members.filter { $0.id != first.id }
            let second = try await cluster.leader(of: others)
            _ = try await second.propose(["newer"])
            try await has(["newer"], others)
            if !first.witness.account.records.contains("newer") {
                #expect(await code { _ = try await first.read() } == .notController)
            }
            #expect(try await second.read() >= second.witness.account.nextOffset)
            for member in members { await member.stop() }
        }
    }

    @Test func lonelyLeaderOfThreeDoesNotAnswerReads() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3] as [NodeID] { members.append(try await cluster.start(id)) }
            let leader = try await cluster.leader(of: members)
            for member in members where member.id != leader.id { await member.stop() }
            #expect(await code { _ = try await leader.read() } == .notController)
            await leader.stop()
        }
    }

    // MARK: What is told

    @Test func levelsOfEveryReplicaThatFetchesAreKnown() async throws {
        try await withCluster { cluster in
            var members: [Member] = []
            for id in [1, 2, 3, 101] as [NodeID] {
                members.append(
                    try await cluster.start(id) { $0.metadataLevels = 1...(id.rawValue + 1) })
            }
            let leader = try await cluster.leader(of: members)
            for member in members {
                let key = ReplicaKey(id: member.id, directory: cluster.directory(of: member.id))
                let levels = try await eventually("levels of \(member.id)") {
                    try await leader.node.onLoop { $0.metadataLevels(of: key) }
                }
                #expect(levels == 1...(member.id.rawValue + 1))
            }
            let stranger = ReplicaKey(id: 3, directory: .random())
            #expect(try await leader.node.onLoop { $0.metadataLevels(of: stranger) } == nil)
            for member in members { await member.stop() }
        }
    }

    @Test func committedRecordsAreReadInPages() async throws {
        try await withCluster(1, records: ["level"]) { cluster in
            let member = try await cluster.start(1)
            let leader = try await cluster.leader(of: [member])
            #expect(
                try await leader.node.onLoop { $0.bootstrapRecords } == [Array("level".utf8)])
            for index in 0..<10 { _ = try await leader.propose(["a \(index)", "b \(index)"]) }
            try await eventually("all of it") {
                member.witness.account.records.count == 20 ? true : nil
            }
            var next: Offset?
            var texts: [String] = []
            var types: [String] = []
            var offsets: [Int64] = []
            while true {
                let page = try await leader.node.onLoop { [next] node in
                    try node.readLog(from: next, maxRecords: 3)
                }
                for entry in page.entries {
                    offsets.append(entry.offset.rawValue)
                    switch entry.content {
                    case .record(let bytes): texts.append(String(decoding: bytes, as: UTF8.self))
                    case .control(let type, _): types.append(type)
                    }
                }
                next = page.nextOffset
                if page.nextOffset == page.highWatermark { break }
                #expect(page.entries.count >= 3)
            }
            #expect(texts == (0..<10).flatMap { ["a \($0)", "b \($0)"] })
            #expect(types == ["leaderChange", "voters"])
            #expect(offsets == (0..<22).map { Int64($0) })
            await #expect(throws: QuorumError.self) {
                try await leader.node.onLoop { try $0.readLog(from: 1_000, maxRecords: 3) }
            }
            await member.stop()
            // The same, without a node.
            var reader = try MetadataLogReader(
                path: "\(cluster.logPath(1))/00000000000000000000.log")
            var count = 0
            while let entry = try reader.next() {
                #expect(entry.offset.rawValue == Int64(count))
                count += 1
            }
            #expect(count == 22)
        }
    }

    @Test func nodeOfAnotherClusterIsNotTaken() async throws {
        try await withCluster(1) { cluster in
            let member = try await cluster.start(1)
            let leader = try await cluster.leader(of: [member])
            _ = try await leader.propose(["ours"])
            let broker = try await cluster.start(101, clusterID: "another-cluster-00000000")
            let error = try await eventually("it gives up") {
                broker.failure.error.withLock { $0 }
            }
            #expect((error as? QuorumError)?.code == .inconsistentClusterID)
            // A controller waits for its own cluster, and gets nothing from this one.
            let controller = try await cluster.start(2, clusterID: "another-cluster-00000000")
            #expect(
                await code {
                    _ = try await leader.add(
                        2, at: cluster.endpoint(2), within: .milliseconds(500))
                } == .voterNotFound)
            #expect(controller.witness.account.records == [])
            for member in [member, broker, controller] { await member.stop() }
        }
    }
}
