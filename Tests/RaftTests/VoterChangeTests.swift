import Essentials
import Raft
import Testing

struct VoterChangeTests {
    private typealias Replica = SingleReplica

    /// Replica 1, leading `ids`, with its epoch's first record committed.
    private func leader(
        _ ids: Int32..., brokenRule: BrokenRule? = nil
    ) throws -> SingleReplica {
        let set = try #require(VoterSet(ids.map { Replica.voter($0) }))
        var replica = SingleReplica(Replica.key(1), voters: set, brokenRule: brokenRule)
        _ = replica.becomeLeader()
        replica.sync()
        for id in ids.dropFirst() { replica.fetch(by: Replica.key(id), at: 1) }
        #expect(replica.node.highWatermark == 1)
        return replica
    }

    private func change(
        _ change: VoterChange, of replica: inout SingleReplica
    ) throws(VoterChangeError) -> (effects: [RaftEffect], offset: Offset) {
        try replica.node.changeVoters(change, now: replica.now)
    }

    @Test func firstLeaderWritesTheFormattedSetIntoTheLog() throws {
        let set = try Replica.set(1)
        var replica = SingleReplica(Replica.key(1), voters: set, isInLog: false)
        let effects = replica.becomeLeader()
        #expect(effects.contains(.appendVoters(set, offset: 1, epoch: 1)))
        #expect(replica.node.voters.currentOffset == 1)
        replica.sync()
        #expect(replica.node.highWatermark == 2)
        #expect(replica.node.isVoter)
    }

    @Test func setThatTheLogHoldsIsNotWrittenAgain() throws {
        var replica = SingleReplica(Replica.key(1), voters: try Replica.set(1))
        for case .appendVoters in replica.becomeLeader() { Issue.record("written again") }
    }

    @Test func replicaThatKeepsNothingOnStableStorageBecomesNoVoter() throws {
        var replica = try leader(1)
        let broker = Replica.voter(2)
        replica.step(
            .request(
                .fetch(
                    FetchRequest(
                        replica: broker.key, epoch: 1, fetchOffset: 1, lastFetchedEpoch: 1,
                        highWatermark: nil, maxWait: .zero, isDurable: false)),
                token: replica.newToken()))
        #expect(throws: VoterChangeError.notDurable) { try change(.add(broker), of: &replica) }
    }

    @Test func newcomerThatNeededASnapshotIsBehindUntilItHoldsEverything() throws {
        var replica = try leader(1)
        let newcomer = Replica.voter(2)
        // Refused, as a fetch of records that are gone is: it tells that the replica is there.
        replica.fetch(by: newcomer.key, at: 7)
        replica.fetch(by: newcomer.key, at: 0)
        #expect(throws: VoterChangeError.behind(records: 1)) {
            try change(.add(newcomer), of: &replica)
        }
    }

    @Test func voterIsAddedOnceItHoldsEverything() throws {
        var replica = try leader(1)
        let newcomer = Replica.voter(2)
        #expect(throws: VoterChangeError.notObserving) {
            try change(.add(newcomer), of: &replica)
        }
        replica.fetch(by: newcomer.key, at: 0)
        #expect(throws: VoterChangeError.behind(records: 1)) {
            try change(.add(newcomer), of: &replica)
        }
        replica.fetch(by: Replica.key(2, disk: 9), at: 1)
        #expect(throws: VoterChangeError.behind(records: 1)) {
            try change(.add(newcomer), of: &replica)
        }
        replica.fetch(by: newcomer.key, at: 1)
        let (effects, offset) = try change(.add(newcomer), of: &replica)
        let set = try Replica.set(1, 2)
        #expect(offset == 1)
        #expect(effects.contains(.appendVoters(set, offset: 1, epoch: 1)))
        #expect(effects.contains(.votersChanged(set)))
        #expect(replica.node.voterSet == set)
        // The new set is in force: one of two commits nothing.
        replica.sync()
        #expect(replica.node.highWatermark == 1)
        replica.fetch(by: newcomer.key, at: 2)
        #expect(replica.node.highWatermark == 2)
    }

    @Test func replicaThatWasOnceCaughtUpIsAskedToCatchUpAgain() throws {
        var replica = try leader(1)
        replica.fetch(by: Replica.key(2), at: 1)
        replica.pass(.milliseconds(1_500))
        _ = try replica.node.propose(recordCount: 5, epoch: 1, now: replica.now)
        replica.fetch(by: Replica.key(2), at: 1)
        replica.pass(.seconds(1))
        #expect(throws: VoterChangeError.behind(records: 5)) {
            try change(.add(Replica.voter(2)), of: &replica)
        }
        replica.pass(.seconds(2))
        #expect(throws: VoterChangeError.notObserving) {
            try change(.add(Replica.voter(2)), of: &replica)
        }
    }

    @Test func secondChangeWaitsForTheFirst() throws {
        var replica = try leader(1)
        replica.fetch(by: Replica.key(2), at: 1)
        replica.fetch(by: Replica.key(3), at: 1)
        _ = try change(.add(Replica.voter(2)), of: &replica)
        #expect(throws: VoterChangeError.pending(offset: 1)) {
            try change(.add(Replica.voter(3)), of: &replica)
        }
        replica.sync()
        replica.fetch(by: Replica.key(2), at: 2)
        replica.fetch(by: Replica.key(3), at: 2)
        _ = try change(.add(Replica.voter(3)), of: &replica)
        #expect(replica.node.voterSet == (try Replica.set(1, 2, 3)))
    }

    @Test func changeWaitsUntilTheEpochHasCommittedSomething() throws {
        var replica = SingleReplica(Replica.key(1), voters: try Replica.set(1, 2, 3))
        _ = replica.becomeLeader()
        replica.sync()
        #expect(throws: VoterChangeError.notReady) {
            try change(.remove(id: 3, directory: nil), of: &replica)
        }
        replica.fetch(by: Replica.key(2), at: 1)
        _ = try change(.remove(id: 3, directory: nil), of: &replica)
    }

    @Test func refusalsSayWhatIsWrong() throws {
        var replica = try leader(1, 2)
        #expect(throws: VoterChangeError.alreadyVoter(Replica.voter(2))) {
            try change(.add(Replica.voter(2, disk: 5)), of: &replica)
        }
        #expect(throws: VoterChangeError.notVoter) {
            try change(.remove(id: 7, directory: nil), of: &replica)
        }
        #expect(throws: VoterChangeError.notVoter) {
            try change(
                .remove(id: 2, directory: Replica.key(2, disk: 5).directory), of: &replica)
        }
        #expect(throws: VoterChangeError.notVoter) {
            try change(.update(Replica.voter(2, disk: 5)), of: &replica)
        }
        var alone = try leader(1)
        #expect(throws: VoterChangeError.lastVoter) {
            try change(.remove(id: 1, directory: nil), of: &alone)
        }
        var other = SingleReplica(
            Replica.key(2), voters: try Replica.set(1, 2), epoch: 4, leader: 1)
        #expect(throws: VoterChangeError.notLeader(1, epoch: 4)) {
            try change(.remove(id: 1, directory: nil), of: &other)
        }
    }

    @Test func voterThatMovedIsUpdatedInPlace() throws {
        var replica = try leader(1, 2)
        let moved = Replica.voter(2, port: 1234)
        let offset = try change(.update(moved), of: &replica).offset
        #expect(replica.node.voterSet?[2] == moved)
        replica.sync()
        // What is known of it stays known.
        replica.fetch(by: moved.key, at: 2)
        #expect(replica.node.highWatermark == 2)
        // Nothing to write.
        let again = try change(.update(moved), of: &replica)
        #expect(again.effects.isEmpty)
        #expect(again.offset == offset)
    }

    @Test func removedVoterDoesNotCountAnyMore() throws {
        var replica = try leader(1, 2, 3)
        _ = try change(.remove(id: 3, directory: nil), of: &replica)
        replica.sync()
        replica.fetch(by: Replica.key(3), at: 2)
        #expect(replica.node.highWatermark == 1)
        replica.fetch(by: Replica.key(2), at: 2)
        #expect(replica.node.highWatermark == 2)
    }

    @Test func removalMayCommitAtOnce() throws {
        var replica = try leader(1, 2)
        _ = try replica.node.propose(recordCount: 3, epoch: 1, now: replica.now)
        replica.sync()
        #expect(replica.node.highWatermark == 1)
        _ = try change(.remove(id: 2, directory: nil), of: &replica)
        #expect(replica.node.highWatermark == 4)
        replica.sync()
        #expect(replica.node.highWatermark == 5)
    }

    @Test func removedLeaderCommitsItsRemovalAndResigns() throws {
        var replica = try leader(1, 2, 3)
        _ = try change(.remove(id: 1, directory: nil), of: &replica)
        replica.sync()
        replica.fetch(by: Replica.key(2), at: 2)
        // It does not count itself, and still leads.
        #expect(replica.node.highWatermark == 1)
        #expect(replica.node.leader == 1)
        let effects = replica.fetch(by: Replica.key(3), at: 2)
        #expect(replica.node.highWatermark == 2)
        #expect(effects.contains(.stoppedLeading(epoch: 1)))
        let told = effects.compactMap { effect -> NodeID? in
            guard case .send(.endQuorumEpoch, let peer, _) = effect else { return nil }
            return peer
        }
        #expect(told == [2, 3])
        for _ in 0..<20 {
            replica.now = max(replica.now, replica.node.nextDeadline)
            for case .send(.vote, _, _) in replica.step(.timePassed) {
                Issue.record("a removed voter campaigns")
            }
        }
    }

    /// The other of two voters can't win: it lacks the record, and needs the vote of replica 1.
    @Test func replicaWhoseRemovalMayBeUncommittedLeadsUntilItIs() throws {
        var replica = try leader(1, 2)
        _ = try change(.remove(id: 1, directory: nil), of: &replica)
        replica.sync()
        replica.step(.resign)
        _ = replica.becomeLeader()
        #expect(replica.node.leader == 1)
        #expect(replica.node.election.epoch == 2)
        replica.sync()
        #expect(replica.node.highWatermark == 1)
        replica.fetch(by: Replica.key(2), at: 3)
        #expect(replica.node.highWatermark == 3)
        #expect(replica.node.leader == nil)
        #expect(!replica.node.canCampaign)
    }

    @Test func leaderOutsideTheSetNeedsAMajorityOfOthers() throws {
        var replica = try leader(1, 2, 3)
        _ = try change(.remove(id: 1, directory: nil), of: &replica)
        // Of two voters it hears one only.
        replica.pass(.seconds(2))
        replica.fetch(by: Replica.key(2), at: 1)
        replica.pass(.seconds(2))
        #expect(replica.node.leader == nil)
    }

    @Test func truncatedVoterSetIsForgotten() throws {
        let set = try Replica.set(1, 2, 3)
        var replica = SingleReplica(Replica.key(2), voters: set, epoch: 1, leader: 1)
        let smaller = try Replica.set(1, 3)
        var effects = replica.step(.timePassed)
        effects = try replica.answer(
            effects,
            .records(
                [
                    BatchSpan(baseOffset: 0, lastOffset: 0, epoch: 1),
                    BatchSpan(baseOffset: 1, lastOffset: 1, epoch: 1, voters: smaller),
                ], highWatermark: nil, logStartOffset: 0))
        #expect(effects.contains(.votersChanged(smaller)))
        #expect(!replica.node.isVoter)
        replica.sync()
        let begin = BeginQuorumEpochRequest(leader: 3, epoch: 2, voter: Replica.key(2))
        effects = replica.step(
            .request(.beginQuorumEpoch(begin), token: replica.newToken()))
        effects = try replica.answer(effects, .diverging(EpochEnd(epoch: 1, endOffset: 1)))
        #expect(effects.contains(.truncateLog(to: 1)))
        #expect(effects.contains(.votersChanged(set)))
        #expect(replica.node.isVoter)
    }

    @Test func voteOfAnotherDiskIsNotGiven() throws {
        var replica = SingleReplica(Replica.key(2, disk: 9), voters: nil)
        var request = VoteRequest(
            candidate: Replica.key(1), epoch: 3, lastEpoch: 2, endOffset: 10, isPreVote: false,
            voter: Replica.key(2))
        func isGranted(_ effects: [RaftEffect]) -> Bool? {
            for case .vote(let response) in effects.answers { return response.isGranted }
            return nil
        }
        var effects = replica.step(.request(.vote(request), token: replica.newToken()))
        #expect(isGranted(effects) == nil)
        // Nor does it follow a candidate into an epoch that may never have a leader.
        #expect(replica.node.election.epoch < 3)
        // Under its own name it votes, though it takes itself for an observer.
        request.voter = replica.node.local
        effects = replica.step(.request(.vote(request), token: replica.newToken()))
        #expect(isGranted(effects) == true)
    }

    @Test func replicaWithoutVotersAsksBootstrapServers() throws {
        var replica = SingleReplica(Replica.key(4), voters: nil, bootstrap: [-2])
        let effects = replica.step(.timePassed)
        #expect(effects.sentFetch?.peer == -2)
        let id = try #require(effects.sentFetch?.id)
        let response = FetchResponse(epoch: 7, leader: 3, outcome: .notLeader)
        let next = replica.step(.response(.fetch(response), to: id))
        #expect(next.sentFetch?.peer == 3)
        #expect(replica.node.election == ElectionState(epoch: 7, leader: 3))
    }

    @Test func voterWhoseSetIsOldAsksBootstrapServersToo() throws {
        var replica = SingleReplica(
            Replica.key(1), voters: try Replica.set(1, 8, 9), bootstrap: [-2])
        var isAsked = false
        for _ in 0..<10 where !isAsked {
            replica.now = max(replica.now, replica.node.nextDeadline)
            isAsked = replica.step(.timePassed).sentFetch?.peer == -2
        }
        #expect(isAsked)
    }

    @Test func historyFollowsTheLog() throws {
        let sets = try [Replica.set(1), Replica.set(1, 2), Replica.set(1, 2, 3)]
        var history = VoterHistory(base: sets[0], baseOffset: nil)
        history.append(sets[1], at: 5)
        history.append(sets[2], at: 9)
        #expect(history.current == sets[2])
        #expect(history.set(before: 9) == sets[1])
        #expect(history.set(before: 5) == sets[0])
        history.truncate(to: 9)
        #expect(history.current == sets[1])
        history.trim(before: 6)
        #expect(history.base == sets[1])
        #expect(history.currentOffset == 5)
        history.reset(to: sets[2], at: SnapshotID(endOffset: 20, epoch: 3))
        #expect(history.current == sets[2])
        history.append(sets[0], at: 10)
        #expect(history.current == sets[2])
    }
}
