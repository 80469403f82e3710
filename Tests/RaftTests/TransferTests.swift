import Essentials
import Raft
import Testing

struct TransferTests {
    private typealias Replica = SingleReplica
    private let token = RequestToken(rawValue: 700)

    private func leader() throws -> SingleReplica {
        var replica = SingleReplica(Replica.key(1), voters: try Replica.set(1, 2, 3))
        _ = replica.becomeLeader()
        replica.sync()
        replica.fetch(by: Replica.key(2), at: 1)
        return replica
    }

    private func outcome(_ effects: [RaftEffect]) -> TransferOutcome? {
        for case .transferred(token, let outcome) in effects { return outcome }
        return nil
    }

    @Test func successorThatHoldsEverythingIsNamedFirst() throws {
        var replica = try leader()
        replica.fetch(by: Replica.key(3), at: 1)
        let effects = replica.step(.transfer(to: 3, token))
        #expect(outcome(effects) == .handedOver(to: 3))
        var told: [NodeID] = []
        for case .send(.endQuorumEpoch(let request), let peer, _) in effects {
            #expect(request.preferredSuccessors == [3, 2])
            told.append(peer)
        }
        #expect(told == [2, 3])
        #expect(effects.contains(.stoppedLeading(epoch: 1)))
    }

    @Test func leaderWaitsForTheSuccessorAndTakesNothingMeanwhile() throws {
        var replica = try leader()
        #expect(outcome(replica.step(.transfer(to: 3, token))) == nil)
        #expect(throws: ProposeError.notLeader(nil, epoch: 1)) {
            try replica.node.propose(recordCount: 1, epoch: 1, now: replica.now)
        }
        #expect(throws: VoterChangeError.notLeader(nil, epoch: 1)) {
            try replica.node.changeVoters(.remove(id: 2, directory: nil), now: replica.now)
        }
        let other = RequestToken(rawValue: 701)
        #expect(
            replica.step(.transfer(to: 2, other)).contains(.transferred(other, .busy)))
        replica.fetch(by: Replica.key(3), at: 0)
        #expect(replica.node.leader == 1)
        #expect(outcome(replica.fetch(by: Replica.key(3), at: 1)) == .handedOver(to: 3))
    }

    @Test func leaderGoesOnWhenTheSuccessorStaysBehind() throws {
        var replica = try leader()
        replica.step(.transfer(to: 3, token))
        #expect(replica.node.nextDeadline <= replica.now + .seconds(1))
        #expect(outcome(replica.pass(.seconds(1))) == .behind(records: 1))
        #expect(replica.node.leader == 1)
        _ = try replica.node.propose(recordCount: 1, epoch: 1, now: replica.now)
    }

    @Test func bestSuccessorIsChosen() throws {
        var replica = try leader()
        #expect(outcome(replica.step(.transfer(to: nil, token))) == .handedOver(to: 2))
    }

    @Test func refusalsSayWhatIsWrong() throws {
        var replica = try leader()
        #expect(outcome(replica.step(.transfer(to: 9, token))) == .notVoter)
        var alone = SingleReplica(Replica.key(1), voters: try Replica.set(1))
        _ = alone.becomeLeader()
        #expect(outcome(alone.step(.transfer(to: nil, token))) == .noSuccessor)
        var other = SingleReplica(
            Replica.key(2), voters: try Replica.set(1, 2), epoch: 4, leader: 1)
        #expect(outcome(other.step(.transfer(to: 2, token))) == .notLeader(1, epoch: 4))
    }

    @Test func transferEndsWithTheLeadership() throws {
        var replica = try leader()
        replica.step(.transfer(to: 3, token))
        let begin = BeginQuorumEpochRequest(leader: 2, epoch: 5, voter: Replica.key(1))
        let effects = replica.step(
            .request(.beginQuorumEpoch(begin), token: replica.newToken()))
        #expect(outcome(effects) == .notLeader(2, epoch: 5))
    }

    @Test func successorCampaignsAtOnce() throws {
        var replica = SingleReplica(
            Replica.key(3), voters: try Replica.set(1, 2, 3), epoch: 1, leader: 1)
        _ = try replica.answer(
            replica.step(.timePassed), .records([], highWatermark: nil, logStartOffset: 0))
        let end = EndQuorumEpochRequest(leader: 1, epoch: 1, preferredSuccessors: [3, 2])
        let effects = replica.step(
            .request(.endQuorumEpoch(end), token: replica.newToken()))
        let asked = effects.count { if case .send(.vote, _, _) = $0 { true } else { false } }
        #expect(asked == 2)
    }
}
