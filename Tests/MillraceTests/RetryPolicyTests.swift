internal import Essentials
internal import RPC
internal import Testing

@testable internal import Millrace

@Suite struct RetryPolicyTests {
    @Test func aMovedOrLostLeaderIsLookedForAgain() {
        #expect(FailureKind(RPCError(.notLeaderOrFollower, "")) == .wrongServer)
        #expect(FailureKind(RPCError(.fencedLeaderEpoch, "")) == .wrongServer)
        #expect(FailureKind(RPCError(status: .unavailable, "")) == .wrongServer)
        #expect(FailureKind(RPCError(status: .deadlineExceeded, "")) == .wrongServer)
    }

    @Test func tooFewReplicasIsWaitedFor() {
        #expect(FailureKind(RPCError(.notEnoughReplicas, "")) == .transient)
        #expect(FailureKind(RPCError(status: .resourceExhausted, "")) == .transient)
    }

    @Test func whatWillNotChangeIsReported() {
        #expect(FailureKind(RPCError(.messageTooLarge, "")) == .permanent)
        #expect(FailureKind(RPCError(.invalidRecord, "")) == .permanent)
        #expect(FailureKind(RPCError(status: .unimplemented, "")) == .permanent)
        #expect(FailureKind(RPCError(status: .internalError, "")) == .permanent)
    }

    @Test func onlyAnUnprocessedOrRefusedWriteCertainlyDidNotHappen() {
        #expect(RPCError(status: .unavailable, "").leavesOutcomeUnknown)
        #expect(RPCError(.notEnoughReplicasAfterAppend, "").leavesOutcomeUnknown)
        #expect(RPCError(.requestTimedOut, "").leavesOutcomeUnknown)
        #expect(
            !RPCError(status: .unavailable, "", isUnprocessed: true).leavesOutcomeUnknown)
        #expect(!RPCError(.notEnoughReplicas, "").leavesOutcomeUnknown)
        #expect(!RPCError(.messageTooLarge, "").leavesOutcomeUnknown)
    }

    @Test func pausesDoubleUpToTheLimit() {
        let seed = UInt64.random(in: 0 ... .max)
        var generator = SeededGenerator(seed: seed)
        let backoff = Backoff(initial: .milliseconds(10), limit: .milliseconds(200))
        let full = [10, 20, 40, 80, 160, 200, 200].map { Duration.milliseconds($0) }
        for (failures, limit) in zip(1..., full) {
            let pause = backoff.pause(after: failures, using: &generator)
            #expect(pause <= limit && pause >= limit * 4 / 5, "seed \(seed)")
        }
        #expect(backoff.pause(after: .max, using: &generator) <= .milliseconds(200))
    }
}
