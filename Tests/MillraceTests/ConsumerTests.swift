internal import Essentials
internal import NIOCore
internal import RPC
internal import Synchronization
internal import Testing

@testable internal import Millrace

@Suite(.timeLimit(.minutes(1))) struct ConsumerTests {
    @Test func readsEverythingUpToTheEndAndStops() async throws {
        try await FakeCluster.with(partitions: 2) { cluster, client in
            let values = (0..<1000).map { "value \($0)" }
            try await Self.fill(client, values)
            var configuration = ConsumerConfiguration()
            configuration.stopsAtEnd = true
            configuration.fetchBytes = 1000
            let consumer = try Consumer(
                client: client,
                partitions: [
                    ConsumerAssignment(topic: "t", partition: 0),
                    ConsumerAssignment(topic: "t", partition: 1),
                ], configuration: configuration)
            var read: [Int32: [String]] = [:]
            for try await records in consumer {
                read[records.partition, default: []] += try records.values()
            }
            #expect(try read[0] ?? [] == cluster.values(of: 0))
            #expect(try read[1] ?? [] == cluster.values(of: 1))
            #expect((read[0]?.count ?? 0) + (read[1]?.count ?? 0) == 1000)
            await consumer.close()
        }
    }

    @Test func anEmptyPartitionEndsAtOnce() async throws {
        try await FakeCluster.with { _, client in
            var configuration = ConsumerConfiguration()
            configuration.stopsAtEnd = true
            let consumer = try Consumer(
                client: client, partitions: [ConsumerAssignment(topic: "t", partition: 0)],
                configuration: configuration)
            var iterator = consumer.makeAsyncIterator()
            #expect(try await iterator.next() == nil)
            await consumer.close()
        }
    }

    @Test func startsInTheMiddleOfABatch() async throws {
        try await FakeCluster.with { _, client in
            try await Self.fill(client, (0..<100).map { "\($0)" })
            let read = try await Self.read(client, from: .offset(57), count: 43)
            #expect(read == (57..<100).map { "\($0)" })
        }
    }

    @Test func latestStartsAfterWhatIsThere() async throws {
        try await FakeCluster.with { cluster, client in
            try await Self.fill(client, ["old"])
            let consumer = try Consumer(
                client: client,
                partitions: [ConsumerAssignment(topic: "t", partition: 0, start: .latest)])
            var iterator = consumer.makeAsyncIterator()
            async let first = iterator.next()
            // Nothing tells when the start has been looked up, so keep the log moving until it is.
            let producer = try Producer(client: client)
            var sent: [String] = []
            repeat {
                sent.append("new \(sent.count)")
                _ = try await producer.send(ProducerRecord(topic: "t", value: sent[sent.count - 1]))
                try await Task.sleep(for: .milliseconds(5))
            } while sent.count < 20
            let values = try await first?.values() ?? []
            #expect(!values.isEmpty && !values.contains("old"))
            await producer.close()
            await consumer.close()
        }
    }

    @Test func failuresAndMovedLeadersNeitherSkipNorRepeat() async throws {
        try await FakeCluster.with(brokers: 3) { cluster, client in
            let values = (0..<300).map { "\($0)" }
            try await Self.fill(client, values)
            var configuration = ConsumerConfiguration()
            configuration.fetchBytes = 100
            configuration.prefetchBytes = 100
            configuration.maxWait = .milliseconds(10)
            let consumer = try Consumer(
                client: client, partitions: [ConsumerAssignment(topic: "t", partition: 0)],
                configuration: configuration)
            var read: [String] = []
            var steps = 0
            for try await records in consumer {
                read += try records.values()
                if read.count >= values.count { break }
                steps += 1
                switch steps {
                case 2: cluster.moveLeader(to: 2)
                case 4:
                    cluster.state.withLock {
                        $0.fetchFaults = [
                            .refuse(RPCError(.offsetNotAvailable, "")),
                            .refuse(RPCError(.offsetOutOfRange, "the new leader is behind")),
                            .refuse(RPCError(.unknownLeaderEpoch, "")),
                        ]
                    }
                case 6:
                    cluster.moveLeader(to: nil)
                    await cluster.kill(2)
                    cluster.moveLeader(to: 3)
                case 8:
                    // The leader falls silent over a fetch, and is replaced after that.
                    cluster.state.withLock { $0.fetchFaults = [.silence] }
                    Task {
                        while cluster.state.withLock({ !$0.fetchFaults.isEmpty }) {
                            try await Task.sleep(for: .milliseconds(1))
                        }
                        cluster.moveLeader(to: 1)
                    }
                default: break
                }
            }
            #expect(read == values)
            #expect(steps >= 8)
            await consumer.close()
        }
    }

    @Test func anOffsetThatDoesNotExistIsAnError() async throws {
        try await FakeCluster.with { _, client in
            let error = await #expect(throws: MillraceError.self) {
                _ = try await Self.read(client, from: .offset(7), count: 1)
            }
            #expect(error?.code == "OFFSET_OUT_OF_RANGE")
        }
    }

    @Test func aPartitionThatDoesNotExistIsAnError() async throws {
        try await FakeCluster.with { _, client in
            let consumer = try Consumer(
                client: client, partitions: [ConsumerAssignment(topic: "t", partition: 9)])
            var iterator = consumer.makeAsyncIterator()
            await #expect(throws: MillraceError.self) { try await iterator.next() }
            await consumer.close()
        }
    }

    @Test func aCancelledReaderEnds() async throws {
        try await FakeCluster.with { _, client in
            let consumer = try Consumer(
                client: client, partitions: [ConsumerAssignment(topic: "t", partition: 0)])
            let reader = Task {
                var iterator = consumer.makeAsyncIterator()
                return try await iterator.next() == nil
            }
            reader.cancel()
            #expect(try await reader.value)
            await consumer.close()
        }
    }

    // MARK: Helpers

    static func fill(_ client: MillraceClient, _ values: [String]) async throws {
        let producer = try Producer(client: client, configuration: .small())
        try await producer.sendAll(values)
        await producer.close()
    }

    static func read(
        _ client: MillraceClient, from start: StartPosition, count: Int
    ) async throws -> [String] {
        let consumer = try Consumer(
            client: client,
            partitions: [ConsumerAssignment(topic: "t", partition: 0, start: start)])
        var values: [String] = []
        for try await records in consumer {
            values += try records.values()
            if values.count >= count { break }
        }
        await consumer.close()
        return values
    }
}

extension ConsumedRecords {
    func values() throws -> [String] {
        try all().map { $0.value.map { String(buffer: $0) } ?? "" }
    }
}
