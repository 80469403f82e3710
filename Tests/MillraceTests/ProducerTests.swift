internal import Essentials
internal import NIOCore
internal import RPC
internal import Records
internal import Synchronization
internal import Testing

@testable internal import Millrace

@Suite(.timeLimit(.minutes(1))) struct ProducerTests {
    @Test func eachRecordGetsItsOffset() async throws {
        try await FakeCluster.with { cluster, client in
            let producer = try Producer(client: client)
            for index in 0..<5 {
                let sent = try await producer.send(ProducerRecord(topic: "t", value: "\(index)"))
                #expect(sent == RecordMetadata(topic: "t", partition: 0, offset: Int64(index)))
            }
            await producer.close()
            #expect(try cluster.values() == ["0", "1", "2", "3", "4"])
        }
    }

    @Test(arguments: Millrace.Compression.allCases)
    func recordsTravelAndAreKeptInTheCodecAskedFor(compression: Millrace.Compression) async throws {
        try await FakeCluster.with { cluster, client in
            var configuration = ProducerConfiguration()
            configuration.compression = compression
            configuration.linger = .milliseconds(20)
            let producer = try Producer(client: client, configuration: configuration)
            let values = (0..<500).map { "value \($0) of many that are alike" }
            try await producer.sendAll(values)
            await producer.close()
            let kept = cluster.state.withLock { $0.partitions[0].batches }
            let codecs = try kept.map { try RecordBatches.headers(of: $0).map(\.compression) }
            #expect(codecs.joined().contains(compression.codec))
            #expect(try cluster.values() == values)

            var reading = ConsumerConfiguration()
            reading.stopsAtEnd = true
            let consumer = try Consumer(
                client: client,
                partitions: [ConsumerAssignment(topic: "t", partition: 0, start: .earliest)],
                configuration: reading)
            var read: [String] = []
            for try await records in consumer {
                read += try records.all().map { $0.value.map { String(buffer: $0) } ?? "" }
            }
            #expect(read == values)
            await consumer.close()
        }
    }

    @Test func orderSurvivesFailuresThatPass() async throws {
        try await FakeCluster.with { cluster, client in
            cluster.state.withLock {
                $0.produceFaults = [
                    .refuse(RPCError(.notEnoughReplicas, "")),
                    .refuse(RPCError(status: .unavailable, "", isUnprocessed: true)),
                    .refuse(RPCError(.notLeaderOrFollower, "")),
                ]
            }
            let producer = try Producer(client: client, configuration: .small())
            let values = (0..<500).map { "value \($0)" }
            try await producer.sendAll(values)
            await producer.close()
            #expect(try cluster.values() == values)
        }
    }

    @Test func orderSurvivesALeaderThatMovesAndOneThatDies() async throws {
        try await FakeCluster.with(brokers: 3) { cluster, client in
            let producer = try Producer(client: client, configuration: .small())
            let values = (0..<900).map { "value \($0)" }
            try await producer.sendAll(Array(values[..<300]))
            cluster.moveLeader(to: 2)
            try await producer.sendAll(Array(values[300..<600]))
            await producer.flush()
            cluster.moveLeader(to: nil)
            await cluster.kill(2)
            try await producer.sendAll(Array(values[600...]))
            cluster.moveLeader(to: 3)
            await producer.close()
            #expect(try cluster.values() == values)
        }
    }

    @Test func anAnswerThatIsLostMayMeanTwiceButNeverLessOrOutOfOrder() async throws {
        try await FakeCluster.with { cluster, client in
            cluster.state.withLock {
                $0.produceFaults = [.appendThenRefuse(RPCError(status: .unavailable, "lost"))]
            }
            let producer = try Producer(client: client)
            _ = try await producer.send(ProducerRecord(topic: "t", value: "a"))
            _ = try await producer.send(ProducerRecord(topic: "t", value: "b"))
            await producer.close()
            #expect(try cluster.values() == ["a", "a", "b"])
        }
    }

    @Test func aLeaderThatSaysNothingIsLeftForItsSuccessor() async throws {
        try await FakeCluster.with { cluster, client in
            cluster.state.withLock {
                $0.produceFaults = [.silence]
                $0.afterProduce = { state in
                    state.partitions[0].move(to: 2)
                    state.afterProduce = nil
                }
            }
            let producer = try Producer(client: client)
            // Long before the request's own timeout of 30 s, which the time limit would not allow.
            let sent = try await producer.send(ProducerRecord(topic: "t", value: "a"))
            #expect(sent.offset == 0)
            #expect(cluster.state.withLock { $0.produces.map(\.broker) } == [1, 2])
            await producer.close()
        }
    }

    @Test func aRefusedBatchTakesNoOtherWithIt() async throws {
        try await FakeCluster.with { cluster, client in
            cluster.state.withLock {
                $0.largestBatch = 2000
                // While this is tried again, the others gather behind it.
                $0.produceFaults = [.refuse(RPCError(.notEnoughReplicas, ""))]
            }
            let producer = try Producer(client: client, configuration: .small())
            let large = String(repeating: "x", count: 3000)
            try await producer.waitUntilReady(for: "t")
            let failure = Mutex<MillraceError?>(nil)
            for value in ["first", "a", large, "b"] {
                let isAccepted = try producer.enqueue(ProducerRecord(topic: "t", value: value)) {
                    if case .failure(let error) = $0 { failure.withLock { $0 = error } }
                }
                #expect(isAccepted)
            }
            await producer.close()
            #expect(try cluster.values() == ["first", "a", "b"])
            #expect(failure.withLock { $0?.code } == "MESSAGE_TOO_LARGE")
            #expect(failure.withLock { $0?.isOutcomeUnknown } == false)
        }
    }

    @Test func anUnknownTopicIsSaidToBeUnknown() async throws {
        try await FakeCluster.with { _, client in
            let producer = try Producer(client: client)
            let error = await #expect(throws: MillraceError.self) {
                try await producer.send(ProducerRecord(topic: "nowhere", value: "a"))
            }
            #expect(error?.code == "UNKNOWN_TOPIC_OR_PARTITION")
            await producer.close()
        }
    }

    @Test func aRecordThatCanNotBeDeliveredFailsInTime() async throws {
        try await FakeCluster.with { cluster, client in
            cluster.moveLeader(to: nil)
            var configuration = ProducerConfiguration()
            configuration.deliveryTimeout = .milliseconds(200)
            let producer = try Producer(client: client, configuration: configuration)
            let error = await #expect(throws: MillraceError.self) {
                try await producer.send(ProducerRecord(topic: "t", value: "a"))
            }
            #expect(error?.code == "REQUEST_TIMED_OUT")
            #expect(error?.isOutcomeUnknown == false)
            await producer.close()
        }
    }

    @Test func recordsGatherIntoFewRequestsUnderLoad() async throws {
        try await FakeCluster.with { cluster, client in
            var configuration = ProducerConfiguration()
            configuration.linger = .seconds(1)
            let producer = try Producer(client: client, configuration: configuration)
            try await producer.sendAll((0..<10_000).map { "value \($0)" })
            await producer.close()
            #expect(try cluster.values().count == 10_000)
            #expect(cluster.state.withLock { $0.produces.count } < 10)
        }
    }

    @Test func sendWaitsForRoomInAFullBuffer() async throws {
        try await FakeCluster.with { cluster, client in
            var configuration = ProducerConfiguration.small()
            configuration.bufferBytes = 2000
            let producer = try Producer(client: client, configuration: configuration)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for index in 0..<200 {
                    group.addTask {
                        let value = "\(index) " + String(repeating: "x", count: 200)
                        _ = try await producer.send(ProducerRecord(topic: "t", value: value))
                    }
                }
                try await group.waitForAll()
            }
            await producer.close()
            #expect(try cluster.values().count == 200)
        }
    }

    @Test func whatIsAbandonedFailsAndNothingHangs() async throws {
        try await FakeCluster.with { cluster, client in
            cluster.state.withLock { $0.produceFaults = [.silence] }
            let producer = try Producer(client: client)
            try await producer.waitUntilReady(for: "t")
            let outcomes = Mutex<[MillraceError?]>([])
            for value in ["a", "b"] {
                let isAccepted = try producer.enqueue(ProducerRecord(topic: "t", value: value)) {
                    result in
                    outcomes.withLock {
                        if case .failure(let error) = result { $0.append(error) }
                    }
                }
                #expect(isAccepted)
            }
            await producer.abandon()
            await producer.flush()
            #expect(
                outcomes.withLock { $0.map { $0?.code } } == ["CLIENT_CLOSED", "CLIENT_CLOSED"])
            #expect(throws: MillraceError.self) {
                try producer.enqueue(ProducerRecord(topic: "t", value: "c"))
            }
        }
    }
}

extension ProducerConfiguration {
    /// Batches of a few records, so that little data makes many requests.
    static func small() -> ProducerConfiguration {
        var configuration = ProducerConfiguration()
        configuration.batchBytes = 500
        configuration.maxRequestBytes = 100_000
        return configuration
    }
}

extension Producer {
    /// Enqueues every value, waiting for room where there is none.
    func sendAll(_ values: [String], to topic: String = "t") async throws {
        for value in values {
            while try !enqueue(ProducerRecord(topic: topic, value: value)) {
                try await waitUntilReady(for: topic)
            }
        }
    }
}
