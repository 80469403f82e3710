import Essentials
import Raft
import Testing

struct ReadTests {
    private typealias Replica = SingleReplica

    private func leader(_ ids: Int32..., isCommitted: Bool = true) throws -> SingleReplica {
        let set = try #require(VoterSet(ids.map { Replica.voter($0) }))
        var replica = SingleReplica(Replica.key(1), voters: set)
        _ = replica.becomeLeader()
        replica.sync()
        if isCommitted {
            for id in ids.dropFirst() { replica.fetch(by: Replica.key(id), at: 1) }
        }
        return replica
    }

    private func token(_ number: UInt64) -> RequestToken {
        RequestToken(rawValue: 1_000 + number)
    }

    private func questions(_ effects: [RaftEffect]) -> [NodeID: RequestID] {
        var asked: [NodeID: RequestID] = [:]
        for case .send(.beginQuorumEpoch, let peer, let id) in effects { asked[peer] = id }
        return asked
    }

    private func confirm(
        _ id: RequestID?, _ replica: inout SingleReplica, epoch: LeaderEpoch = 1
    ) throws -> [RaftEffect] {
        replica.step(
            .response(
                .beginQuorumEpoch(EpochResponse(epoch: epoch, leader: 1)), to: try #require(id)))
    }

    @Test func majorityInTheSameEpochConfirms() throws {
        var replica = try leader(1, 2, 3, 4, 5)
        let asked = questions(replica.step(.read(token(1))))
        #expect(asked.keys.sorted() == [2, 3, 4, 5])
        #expect(!(try confirm(asked[2], &replica)).contains(.readConfirmed(token(1))))
        // One voter's answer counts once.
        #expect(!(try confirm(asked[2], &replica)).contains(.readConfirmed(token(1))))
        #expect(try confirm(asked[5], &replica).contains(.readConfirmed(token(1))))
    }

    @Test func loneVoterNeedsNobody() throws {
        var replica = try leader(1)
        #expect(replica.step(.read(token(1))).contains(.readConfirmed(token(1))))
    }

    @Test func readThatComesLaterWaitsForAnotherRound() throws {
        var replica = try leader(1, 2, 3)
        let asked = questions(replica.step(.read(token(1))))
        #expect(questions(replica.step(.read(token(2)))).isEmpty)
        #expect(questions(replica.step(.read(token(3)))).isEmpty)
        let effects = try confirm(asked[2], &replica)
        #expect(effects.contains(.readConfirmed(token(1))))
        #expect(!effects.contains(.readConfirmed(token(2))))
        let again = try confirm(questions(effects)[3], &replica)
        #expect(again.contains(.readConfirmed(token(2))))
        #expect(again.contains(.readConfirmed(token(3))))
    }

    @Test func readsThatNobodyAnswersAreRefusedInTheEnd() throws {
        var replica = try leader(1, 2, 3)
        replica.step(.read(token(1)))
        // The others go on fetching, so that the leader stays in office.
        for _ in 0..<2 {
            replica.pass(replica.node.config.fetchTimeout)
            for id in [2, 3] as [Int32] { replica.fetch(by: Replica.key(id), at: 1) }
        }
        #expect(replica.node.role.name == "leader")
        #expect(replica.node.nextDeadline > replica.now)
        // The next read starts a round of its own.
        #expect(!questions(replica.step(.read(token(2)))).isEmpty)
    }

    @Test func newerEpochRefusesWhatWaits() throws {
        var replica = try leader(1, 2, 3)
        let asked = questions(replica.step(.read(token(1))))
        replica.step(.read(token(2)))
        let effects = try confirm(asked[2], &replica, epoch: 2)
        #expect(effects.contains(.readRefused(token(1))))
        #expect(effects.contains(.readRefused(token(2))))
        #expect(replica.step(.read(token(3))).contains(.readRefused(token(3))))
    }

    @Test func nothingIsReadBeforeTheEpochHasCommitted() throws {
        var replica = try leader(1, 2, 3, isCommitted: false)
        #expect(replica.step(.read(token(1))).contains(.readRefused(token(1))))
    }

    @Test func pausedLeaderRefuses() throws {
        var replica = try leader(1, 2, 3)
        replica.now = replica.now + .seconds(10)
        #expect(replica.step(.read(token(1))).contains(.readRefused(token(1))))
    }

    @Test func lostQuestionIsRepeated() throws {
        var replica = try leader(1, 2, 3)
        let asked = questions(replica.step(.read(token(1))))
        replica.step(.requestFailed(try #require(asked[2])))
        let again = questions(replica.pass(.milliseconds(100)))
        #expect(try confirm(again[2], &replica).contains(.readConfirmed(token(1))))
    }

    @Test func otherVotersMeanwhileAreAskedAnew() throws {
        var replica = try leader(1, 2, 3)
        let asked = questions(replica.step(.read(token(1))))
        let change = VoterChange.remove(id: 2, directory: nil)
        let effects = try replica.node.changeVoters(change, now: replica.now).effects
        #expect(!(try confirm(asked[2], &replica)).contains(.readConfirmed(token(1))))
        let again = questions(effects)
        #expect(again.keys.sorted() == [3])
        #expect(try confirm(again[3], &replica).contains(.readConfirmed(token(1))))
    }

    @Test func otherDiskConfirmsNothing() throws {
        var replica = SingleReplica(Replica.key(2, disk: 9), voters: nil)
        let begin = BeginQuorumEpochRequest(leader: 1, epoch: 3, voter: Replica.key(2))
        let token = replica.newToken()
        let effects = replica.step(.request(.beginQuorumEpoch(begin), token: token))
        #expect(effects.contains(.refuse(token)))
        // It learns all the same who leads.
        #expect(replica.node.leader == 1)
    }

    @Test func readsThatWaitAreBounded() throws {
        var replica = try leader(1, 2, 3)
        var refused = 0
        for number in 0..<2_000 as Range<UInt64> {
            for case .readRefused in replica.step(.read(token(number))) { refused += 1 }
        }
        // The first is in a round already.
        #expect(refused == 2_000 - 1 - RaftConfig().maxHeldAnswers)
    }
}
