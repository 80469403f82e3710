import Configuration
import Essentials
import HashTreeCollections
import Logging
import Metadata
import NIOCore
import NIOEmbedded
import Protocol
import RPC
import SwiftProtobuf
import Testing

@testable import Broker

/// The broker's side of registration, heartbeats and controlled shutdown, against a controller that
/// says what the test wants, on a clock that the test moves.
@Suite struct BrokerLifecycleTests {
    private static let session = Duration.seconds(3)

    /// What was asked of the controller, and what it answers; one call a time is open at most.
    private final class FakeController {
        var calls: [String] = []
        var heartbeats: [WireHeartbeatRequest] = []
        var open: (@Sendable (Result<ByteBuffer, RPCError>) -> Void)?

        func answer(_ error: RPCError) {
            let open = open
            self.open = nil
            open?(.failure(error))
        }

        func register(_ epoch: Int64) {
            answer(WireRegisterBrokerResponse.with { $0.brokerEpoch = epoch })
        }

        func heartbeat(fenced: Bool, shouldShutDown: Bool = false) {
            answer(
                WireHeartbeatResponse.with {
                    $0.isFenced = fenced
                    $0.shouldShutDown = shouldShutDown
                })
        }

        private func answer(_ message: some Message) {
            let open = open
            self.open = nil
            do throws(RPCError) {
                open?(.success(try PayloadEncoding.protobuf.encode(message)))
            } catch {
                Issue.record("\(error)")
            }
        }
    }

    // Sendable: used on the test's thread only.
    private final class Results: @unchecked Sendable {
        var list: [String] = []
        var applied: Offset = 0

        func add<Value, Failure: Error>(_ result: Result<Value, Failure>) {
            switch result {
            case .success(let value): list.append("\(value)")
            case .failure(let error):
                list.append((error as? RPCError)?.code?.name ?? "failed")
            }
        }
    }

    private let loop = EmbeddedEventLoop()
    private let controller = FakeController()
    private let results = Results()
    private let lifecycle: BrokerLifecycle

    init() {
        var configuration = NodeConfiguration(nodeID: 7)
        configuration.brokerSessionTimeout = Self.session
        configuration.brokerHeartbeatInterval = .milliseconds(500)
        lifecycle = BrokerLifecycle(
            configuration: configuration, eventLoop: loop,
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            call: { [controller] method, request, timeout, completion in
                if method == "Heartbeat" {
                    do {
                        controller.heartbeats.append(
                            try WireHeartbeatRequest(
                                serializedBytes: Array(request.readableBytesView)))
                    } catch {
                        Issue.record("\(error)")
                    }
                    #expect(timeout < Self.session)
                }
                controller.calls.append(method)
                #expect(controller.open == nil)
                controller.open = completion
            },
            appliedOffset: { [results] in results.applied })
    }

    private func register() {
        lifecycle.register(ByteBuffer()) { [results] in results.add($0) }
    }

    private func pass(_ milliseconds: Int64) {
        loop.advanceTime(by: .milliseconds(milliseconds))
    }

    /// A broker that has registered with epoch 10 and serves.
    private func serve() {
        register()
        controller.register(10)
        lifecycle.startHeartbeats()
        controller.heartbeat(fenced: false)
        results.list = []
        controller.calls = []
        controller.heartbeats = []
    }

    private static func image(_ epoch: BrokerEpoch?) -> MetadataImage {
        var image = MetadataImage()
        if let epoch {
            image.brokers[7] = BrokerRegistration(
                id: 7, incarnation: .random(), epoch: epoch, host: "h", port: 1)
        }
        return image
    }

    // MARK: Registration

    @Test func registrationGivesTheEpoch() {
        register()
        #expect(lifecycle.epoch == .none && lifecycle.isFenced)
        controller.register(10)
        #expect(results.list == ["10"])
        #expect(lifecycle.epoch == 10 && lifecycle.isFenced)
    }

    @Test(
        "Registration is tried again after what may pass",
        arguments: [
            RPCError(.notController, "try later"), RPCError(.requestTimedOut, "lost"),
            RPCError(status: .unavailable, "no connection", isUnprocessed: true),
            RPCError(.throttlingQuotaExceeded, "full"), RPCError(.unknownServerError, "?"),
        ])
    func registrationIsTriedAgain(_ error: RPCError) {
        register()
        for _ in 0..<100 {
            controller.answer(error)
            #expect(controller.open == nil)
            pass(100)
        }
        #expect(controller.calls.count == 101)
        controller.register(10)
        #expect(results.list == ["10"])
    }

    @Test(
        "Registration ends with a refusal that stays",
        arguments: [ErrorCode.inconsistentClusterID, .unsupportedVersion, .invalidRequest])
    func refusalThatStays(_ code: ErrorCode) {
        register()
        controller.answer(RPCError(code, "no"))
        pass(10_000)
        #expect(results.list == [code.name])
        #expect(controller.calls.count == 1)
        #expect(lifecycle.epoch == .none)
    }

    @Test("C2: a node id that a live process holds is waited for while that may just have died")
    func duplicateNodeID() {
        register()
        var waited: Int64 = 0
        while results.list.isEmpty, waited < 20_000 {
            controller.answer(RPCError(.duplicateBrokerRegistration, "broker 7 is alive"))
            pass(100)
            waited += 100
        }
        #expect(results.list == ["DUPLICATE_BROKER_REGISTRATION"])
        #expect(6_000...6_300 ~= waited)
    }

    @Test func duplicateThatDiesMakesRoom() {
        register()
        for _ in 0..<20 {
            controller.answer(RPCError(.duplicateBrokerRegistration, "broker 7 is alive"))
            pass(100)
        }
        controller.register(11)
        #expect(results.list == ["11"])
    }

    @Test func stopEndsRegistration() {
        register()
        lifecycle.stop()
        #expect(results.list == ["failed"])
        // Whatever the controller still says, it is too late.
        controller.register(10)
        pass(10_000)
        #expect(results.list == ["failed"] && lifecycle.epoch == .none)
        #expect(controller.calls.count == 1)
        register()
        #expect(results.list == ["failed", "failed"])
    }

    // MARK: Heartbeats

    @Test("C4: the broker serves once the controller says so, after it told what it has applied")
    func untilUnfenced() {
        register()
        controller.register(10)
        lifecycle.whenUnfenced { [results] in results.add($0.map { "serving" }) }
        results.applied = 4
        lifecycle.startHeartbeats()
        #expect(controller.heartbeats.last?.appliedOffset == 4)
        #expect(controller.heartbeats.last?.brokerEpoch == 10)
        controller.heartbeat(fenced: true)
        // Fenced brokers ask more often.
        results.applied = 11
        pass(50)
        #expect(controller.heartbeats.last?.appliedOffset == 11)
        #expect(results.list == ["10"] && lifecycle.isFenced)
        controller.heartbeat(fenced: false)
        #expect(results.list == ["10", "serving"] && !lifecycle.isFenced)
        lifecycle.whenUnfenced { [results] in results.add($0.map { "at once" }) }
        #expect(results.list.last == "at once")
    }

    @Test func heartbeatsKeepTheirPace() {
        serve()
        pass(499)
        #expect(controller.heartbeats.isEmpty)
        pass(1)
        #expect(controller.heartbeats.count == 1)
        // The next one waits for this one, and then comes at once.
        pass(700)
        #expect(controller.heartbeats.count == 1)
        controller.heartbeat(fenced: false)
        pass(0)
        #expect(controller.heartbeats.count == 2)
        // One that was not heard is said again soon: another controller may lead by now.
        controller.answer(RPCError(status: .unavailable, "lost"))
        pass(49)
        #expect(controller.heartbeats.count == 2)
        pass(1)
        #expect(controller.heartbeats.count == 3)
        controller.heartbeat(fenced: false)
        pass(499)
        #expect(controller.heartbeats.count == 3)
        pass(1)
        #expect(controller.heartbeats.count == 4)
        #expect(!lifecycle.isFenced && !lifecycle.hasEnded)
    }

    @Test func fencedBrokerAsksToServeAgain() {
        serve()
        pass(500)
        controller.heartbeat(fenced: true)
        #expect(lifecycle.isFenced)
        pass(50)
        #expect(controller.heartbeats.count == 2)
        controller.heartbeat(fenced: false)
        #expect(!lifecycle.isFenced)
    }

    @Test("C1: a broker whose epoch is stale stops, and says why")
    func staleEpoch() {
        serve()
        lifecycle.onFailure = { [results] in results.add(Result<Void, any Error>.failure($0)) }
        pass(500)
        controller.answer(RPCError(.staleBrokerEpoch, "epoch 12"))
        #expect(results.list == ["STALE_BROKER_EPOCH"])
        #expect(lifecycle.hasEnded)
        pass(10_000)
        #expect(controller.heartbeats.count == 1)
    }

    @Test func unregisteredBrokerStops() {
        serve()
        lifecycle.onFailure = { [results] in results.add(Result<Void, any Error>.failure($0)) }
        pass(500)
        controller.answer(RPCError(.brokerIDNotRegistered, "not registered"))
        #expect(results.list == ["BROKER_ID_NOT_REGISTERED"])
        #expect(lifecycle.hasEnded)
    }

    @Test("A broker that failed is silent, so that it is fenced")
    func failedBrokerIsSilent() {
        register()
        controller.register(10)
        lifecycle.whenUnfenced { [results] in results.add($0.map { "serving" }) }
        lifecycle.startHeartbeats()
        lifecycle.fail()
        loop.run()
        #expect(results.list == ["10", "failed"])
        controller.heartbeat(fenced: false)
        pass(10_000)
        #expect(controller.heartbeats.count == 1)
        #expect(lifecycle.isFenced)
    }

    // MARK: Other processes

    @Test("A process that registers this node id later takes this one's place")
    func laterProcessTakesOver() {
        serve()
        lifecycle.onFailure = { [results] in results.add(Result<Void, any Error>.failure($0)) }
        #expect(lifecycle.isCurrent(in: Self.image(10)))
        #expect(!lifecycle.isCurrent(in: Self.image(12)))
        #expect(!lifecycle.isCurrent(in: Self.image(12)))
        #expect(results.list == ["STALE_BROKER_EPOCH"])
        pass(10_000)
        #expect(controller.heartbeats.isEmpty)
    }

    @Test func imageThatHasLostTheRegistrationStopsTheBroker() {
        serve()
        lifecycle.onFailure = { [results] in results.add(Result<Void, any Error>.failure($0)) }
        #expect(!lifecycle.isCurrent(in: Self.image(nil)))
        #expect(results.list == ["BROKER_ID_NOT_REGISTERED"])
    }

    // MARK: Controlled shutdown

    private func shutDown(_ limit: Duration = .seconds(10)) {
        lifecycle.controlledShutdown(within: limit) { [results] in
            results.list.append("released: \($0)")
        }
    }

    @Test("C6: the broker stops once the controller has moved its leaderships away")
    func controlledShutdown() {
        serve()
        shutDown()
        #expect(controller.heartbeats.count == 1)
        #expect(controller.heartbeats.last?.wantShutdown == true)
        controller.heartbeat(fenced: false)
        pass(20)
        #expect(controller.heartbeats.count == 2)
        #expect(results.list == [])
        controller.heartbeat(fenced: true, shouldShutDown: true)
        #expect(results.list == ["released: true"])
        // A heartbeat would begin another session, which the next process had to wait out.
        pass(10_000)
        #expect(controller.heartbeats.count == 2)
        #expect(results.list == ["released: true"])
    }

    @Test func shutdownFollowsAHeartbeatThatIsOnItsWay() {
        serve()
        pass(500)
        #expect(controller.heartbeats.last?.wantShutdown == false)
        shutDown()
        #expect(controller.heartbeats.count == 1)
        controller.heartbeat(fenced: false)
        #expect(controller.heartbeats.count == 2)
        #expect(controller.heartbeats.last?.wantShutdown == true)
    }

    @Test func shutdownDoesNotWaitForEver() {
        serve()
        shutDown(.seconds(1))
        for _ in 0..<60 {
            if controller.open != nil { controller.answer(RPCError(.notController, "none")) }
            pass(20)
        }
        #expect(results.list == ["released: false"])
    }

    @Test func shutdownOfABrokerThatNeverHeartbeatOrHasEndedIsOverAtOnce() {
        shutDown()
        #expect(results.list == ["released: false"])
        serve()
        lifecycle.fail()
        shutDown()
        #expect(results.list == ["released: false"])
    }

    @Test func failureEndsAShutdown() {
        serve()
        shutDown()
        lifecycle.fail()
        #expect(results.list == ["released: false"])
    }
}
