import Essentials
import HashTreeCollections
import Metadata
import Testing

@Suite struct FeatureTests {
    private let name = MetadataFeatures.metadataVersion

    private func message(_ body: () throws -> Void) -> String? {
        do {
            try body()
            return nil
        } catch let error as ControllerError {
            #expect(error.code == .featureUpdateFailed)
            return error.message
        } catch {
            Issue.record("unexpected error \(error)")
            return nil
        }
    }

    /// At level 1, with brokers 1 and 2 that support all that this release does.
    private func cluster() throws -> TestCluster {
        var cluster = TestCluster()
        cluster.commit(cluster.state.takeOver())
        try cluster.start(1)
        try cluster.start(2)
        return cluster
    }

    private func update(_ cluster: inout TestCluster, _ level: Int32?, _ heard: HeardLevels) throws
    {
        let result = try cluster.state.updateFeatures(
            [FeatureUpdate(name: name, level: level)], heard: heard)
        cluster.commit(result)
    }

    @Test func firstLevelIsWrittenDownOnce() {
        var cluster = TestCluster()
        cluster.commit(cluster.state.takeOver())
        cluster.commit(cluster.state.takeOver())
        #expect(cluster.log == [.featureLevel(name: "metadata.version", level: 1)])
        #expect(cluster.image.featureLevel == 1)
    }

    @Test func levelRisesOnceEveryNodeSupportsIt() throws {
        var cluster = try cluster()
        try update(&cluster, 2, HeardLevels(voters: [100: 1...2]))
        #expect(cluster.image.featureLevel == 2)
        let records = cluster.log.count
        try update(&cluster, 2, HeardLevels())
        #expect(cluster.log.count == records)
    }

    @Test func withoutALevelItIsTheHighestThatEveryNodeSupports() throws {
        var cluster = try cluster()
        try cluster.start(3, levels: 1...1)
        try update(&cluster, nil, HeardLevels(voters: [100: 1...2]))
        #expect(cluster.image.featureLevel == 1)
        cluster.kill(3)
        try cluster.start(3)
        try update(&cluster, nil, HeardLevels(voters: [100: 1...2]))
        #expect(cluster.image.featureLevel == 2)
    }

    @Test func voterThatWasNotHeardFromOrIsTooOldHoldsTheLevelBack() throws {
        var cluster = try cluster()
        let silent = message {
            try update(&cluster, 2, HeardLevels(voters: [100: 1...2, 101: nil]))
        }
        #expect(try #require(silent).contains("controller 101 has not said"))
        let old = message {
            try update(&cluster, 2, HeardLevels(voters: [100: 1...2, 101: 1...1]))
        }
        #expect(try #require(old).contains("controller 101 supports metadata.version level 1"))
        #expect(cluster.image.featureLevel == 1)
    }

    @Test func brokerThatIsTooOldOrUnknownHoldsTheLevelBack() throws {
        var cluster = try cluster()
        try cluster.start(3, levels: 1...1)
        let heard = HeardLevels(voters: [100: 1...2])
        let old = message { try update(&cluster, 2, heard) }
        #expect(try #require(old).contains("broker 3 supports metadata.version level 1"))

        // A new controller has to be told: at level 1 registrations don't say.
        try cluster.failOver()
        let unknown = message { try update(&cluster, 2, heard) }
        #expect(try #require(unknown).contains("broker 1 has not said"))
        try update(
            &cluster, 2,
            HeardLevels(voters: [100: 1...2], observers: [1: 1...2, 2: 1...2, 3: 1...2]))
        #expect(cluster.image.featureLevel == 2)
    }

    @Test func fromLevelTwoOnRegistrationsSayWhatTheirBrokerSupports() throws {
        var cluster = try cluster()
        #expect(cluster.image.brokers[1]?.featureLevels == nil)
        try cluster.raiseLevel(to: 2)
        try cluster.start(3)
        #expect(cluster.image.brokers[3]?.featureLevels == MetadataFeatures.supported)
        #expect(try cluster.replayed() == cluster.image)
    }

    @Test func levelNeverGoesBackNorBeyondThisRelease() throws {
        var cluster = try cluster()
        let heard = HeardLevels(voters: [100: 1...9])
        #expect(
            try #require(message { try update(&cluster, 0, heard) }).contains("never goes back"))
        let beyond = message { try update(&cluster, 4, heard) }
        #expect(try #require(beyond).contains("beyond this release"))
    }

    @Test func unknownFeatureNamesTheNearest() throws {
        let cluster = try cluster()
        let unknown = message {
            _ = try cluster.state.updateFeatures(
                [FeatureUpdate(name: "metadata.versoin", level: 1)], heard: HeardLevels())
        }
        #expect(try #require(unknown).contains("did you mean 'metadata.version'"))
        let twice = refusal {
            _ = try cluster.state.updateFeatures(
                [FeatureUpdate(name: name), FeatureUpdate(name: name)], heard: HeardLevels())
        }
        #expect(twice == .invalidRequest)
    }

    @Test func descriptionTellsTheLevelAndWhatAllNodesSupport() throws {
        var cluster = try cluster()
        try cluster.start(3, levels: 1...1)
        let described = cluster.state.describeFeatures(heard: HeardLevels(voters: [100: 1...2]))
        #expect(
            described == [
                FeatureDescription(name: name, finalizedLevel: 1, supportedLevels: 1...1)
            ])
    }

    @Test func brokerThatDoesNotUnderstandTheMetadataIsRefused() throws {
        var cluster = try cluster()
        try cluster.raiseLevel(to: 2)
        #expect(
            refusal { try cluster.register(cluster.request(3, levels: 1...1)) }
                == .unsupportedVersion)
        #expect(
            refusal { try cluster.register(cluster.request(3, levels: 3...4)) }
                == .unsupportedVersion)
        try cluster.register(cluster.request(3, levels: 2...3))
    }

    @Test func levelBeyondThisReleaseStopsWhoeverReadsIt() {
        var image = MetadataImage()
        let error = MetadataError.unsupportedFeature(name, level: 4, supported: 3)
        #expect(throws: error) {
            try image.apply(.featureLevel(name: name, level: 4), at: 0)
        }
        #expect(throws: MetadataError.unsupportedFeature("later", level: 1, supported: 0)) {
            try image.apply(.featureLevel(name: "later", level: 1), at: 1)
        }
        #expect(
            "\(error)"
                == "the cluster is at level 4 of metadata.version, and this release understands 3 "
                + "at most; upgrade this node")
        #expect(image.features.isEmpty)
    }
}
