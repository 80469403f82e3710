import Essentials
import HashTreeCollections
import Metadata
import Testing

/// What a broker's restart says about its replicas when some of its log directories can't be used.
///
/// Broker 2 is the one that restarts. It has directories 1 and 2, and is an eligible leader replica
/// of `t` with broker 3, while nobody leads it.
@Suite struct OfflineDirectoryTests {
    private var cluster: TestCluster

    init() throws {
        cluster = TestCluster()
        try cluster.raiseLevel(to: 3)
        try cluster.start(1)
        try cluster.start(2, directories: Self.directories)
        try cluster.start(3)
        try cluster.create("t", assignments: [[1, 2, 3]])
    }

    private static let directories = [DirectoryID(high: 1, low: 1), DirectoryID(high: 1, low: 2)]

    /// Stops all brokers, cleanly or not, and starts broker 2 as it says.
    private mutating func restart(
        clean: Bool = true, _ adjust: (inout RegistrationRequest) -> Void
    ) throws {
        for id in [1, 2, 3] as [NodeID] {
            if clean { try cluster.stop(id) } else { cluster.kill(id) }
        }
        #expect(try cluster.partition("t").eligibleLeaderReplicas == [2, 3])
        try again(clean: clean, adjust)
    }

    private mutating func again(
        clean: Bool = true, _ adjust: (inout RegistrationRequest) -> Void
    ) throws {
        var request = cluster.request(
            2, previous: clean ? cluster.epoch(2) : .none, directories: Self.directories)
        adjust(&request)
        try cluster.register(request)
    }

    private var eligible: [NodeID] {
        get throws { try cluster.partition("t").eligibleLeaderReplicas }
    }

    @Test("C5") mutating func directoryThatIsDeclaredOfflineIsNotLost() throws {
        try restart {
            $0.directories = [Self.directories[0]]
            $0.offlineDirectories = [Self.directories[1]]
        }
        #expect(try eligible == [2, 3])
        #expect(cluster.image.brokers[2]?.offlineDirectories == [Self.directories[1]])
        #expect(cluster.image.brokers[2]?.directories == [Self.directories[0]])
    }

    @Test("C5") mutating func directoryThatCannotBeOpenedIsNotLost() throws {
        try restart {
            $0.directories = [Self.directories[0]]
            $0.missingDirectories = 1
        }
        #expect(try eligible == [2, 3])
        #expect(cluster.image.brokers[2]?.offlineDirectories == [Self.directories[1]])
        // Back again, it is not new either.
        try cluster.heartbeat(2)
        try cluster.stop(2)
        try again { _ in }
        #expect(try eligible == [2, 3])
        #expect(cluster.image.brokers[2]?.offlineDirectories == [])
    }

    @Test("C5") mutating func directoryThatIsSimplyGoneIsLost() throws {
        try restart { $0.directories = [Self.directories[0]] }
        #expect(try eligible == [3])
        #expect(cluster.image.brokers[2]?.offlineDirectories == [])
    }

    @Test("C5") mutating func whenMoreAreGoneThanCannotBeOpenedSomeAreLost() throws {
        try restart {
            $0.directories = []
            $0.missingDirectories = 1
        }
        #expect(try eligible == [3])
    }

    @Test("C5") mutating func newDirectoryMayBeALostOneReplaced() throws {
        try restart {
            $0.directories = [Self.directories[0], DirectoryID(high: 1, low: 3)]
            $0.missingDirectories = 1
        }
        #expect(try eligible == [3])
    }

    @Test("C5") mutating func afterACrashOfflineDirectoriesAreNoProof() throws {
        try restart(clean: false) {
            $0.directories = [Self.directories[0]]
            $0.missingDirectories = 1
        }
        #expect(try eligible == [3])
    }

    @Test("C5, L15") mutating func lastCandidateStaysOneWithADirectoryOffline() throws {
        for id in [1, 2, 3] as [NodeID] { cluster.kill(id) }
        try cluster.start(3)
        #expect(try eligible == [2])
        try again(clean: false) {
            $0.directories = [Self.directories[0]]
            $0.missingDirectories = 1
        }
        #expect(try eligible == [2])
        // Reported before it serves: it does not lead what it can't use.
        try cluster.report(2, .offline, "t")
        try cluster.heartbeat(2)
        #expect(try cluster.partition("t").leader == nil)
        #expect(try eligible == [2])
    }

    @Test mutating func registrationTakesAllMarksAwayInTheSameBatch() throws {
        try cluster.create("u", assignments: [[2, 1]])
        try cluster.report(2, .offline, "t")
        try cluster.report(2, .damaged, "u")
        #expect(cluster.image.offlineCount(of: 2) == 2)
        try cluster.stop(2)
        #expect(cluster.image.offlineCount(of: 2) == 2)
        let request = cluster.request(
            2, previous: cluster.epoch(2), directories: Self.directories)
        let result = try cluster.state.registerBroker(request, now: cluster.now)
        #expect(result.batches.count == 1)
        cluster.commit(result)
        #expect(cluster.image.offlineCount(of: 2) == 0)
        #expect(try cluster.partition("u").offlineReplicas == [])
        #expect(try cluster.replayed() == cluster.image)
    }

    @Test mutating func sameIncarnationAskingAgainKeepsItsMarks() throws {
        let request = cluster.request(2, previous: .none, directories: Self.directories)
        cluster.kill(2)
        try cluster.register(request)
        try cluster.report(2, .offline, "t")
        try cluster.register(request)
        #expect(try cluster.partition("t").offlineReplicas == [2])
    }

    @Test("C5") mutating func cleanStopProvesNothingAboutAReplicaThatWasOffline() throws {
        cluster.kill(1)
        try cluster.report(2, .offline, "t")
        #expect(try eligible == [2])
        try cluster.stop(2)
        try again { _ in }
        #expect(try eligible == [] && cluster.partition("t").leader == 3)
    }

    @Test mutating func belowItsLevelOfflineDirectoriesAreListedWithTheOthers() throws {
        cluster = TestCluster()
        try cluster.raiseLevel(to: 2)
        try cluster.start(2, directories: Self.directories)
        try cluster.stop(2)
        try again {
            $0.directories = [Self.directories[1]]
            $0.missingDirectories = 1
        }
        let known = try #require(cluster.image.brokers[2])
        #expect(Set(known.directories) == Set(Self.directories))
        #expect(known.offlineDirectories == [])
    }

    @Test mutating func directoryIsEitherOpenOrOffline() {
        var request = cluster.request(4, directories: Self.directories)
        request.offlineDirectories = [Self.directories[1]]
        #expect(refusal { try cluster.register(request) } == .invalidRequest)
        request.offlineDirectories = []
        request.missingDirectories = -1
        #expect(refusal { try cluster.register(request) } == .invalidRequest)
    }
}
