import Essentials
import Glibc
import HashTreeCollections
import Metadata
import Quorum
import Raft
import Storage

/// Builds an image of a given size with the controller's own commands, and measures work on it.
struct MetadataBench {
    struct Shape {
        var partitions: Int
        var brokers: Int
        var partitionsPerTopic: Int
        /// How many partitions broker 1 leads.
        var ledByVictim: Int
        /// Small changes of each kind.
        var changes: Int
    }

    /// Microseconds each, decided, encoded and applied.
    struct SmallChanges {
        var alterISR: Double
        var createTopic: Double
    }

    private static let clusterID = "bench"
    private static let replicas = 3
    private let shape: Shape
    private let options = ControllerOptions(clusterID: Self.clusterID, controllers: [100_001])
    private var now = MonotonicTime.zero

    init(shape: Shape) {
        self.shape = shape
    }

    // MARK: What is measured

    func measureAll(into report: inout BenchReport) throws {
        let folder = temporaryFolder()
        defer { remove(folder) }
        let file = try writeSnapshot(in: folder, into: &report)
        let before = Self.residentBytes()
        let loading = Stopwatch()
        let image = try load(file)
        report.add("loadMs", "Load the snapshot", loading.milliseconds, places: 1, unit: " ms")
        let bytes = Self.residentBytes() - before
        report.add("imageMB", "Memory of the image", Double(bytes) / 1e6, places: 1, unit: " MB")
        report.add(
            "bytesPerPartition", "Memory a partition", Double(bytes) / Double(shape.partitions),
            places: 0, unit: " bytes")
        try measureTakeover(of: image, into: &report)
        try measureFencing(in: image, into: &report)
        report.add(
            try smallChanges(in: state(image)), partitions: shape.partitions, prefix: "large")
    }

    func measureSmallChanges() throws -> SmallChanges {
        try smallChanges(in: try build())
    }

    /// Builds the image and writes it down; only the file is left of it.
    private func writeSnapshot(
        in folder: String, into report: inout BenchReport
    ) throws -> String {
        let building = Stopwatch()
        let image = try build().image
        report.add("buildMs", "Build by commands", building.milliseconds, places: 0, unit: " ms")
        let writing = Stopwatch()
        let id = SnapshotID(endOffset: image.nextOffset, epoch: 1)
        var writer = try SnapshotWriter(id, in: folder, voters: nil, timestamp: 0)
        var count = 0
        for record in image.snapshotRecords() {
            try writer.append(record.encoded())
            count += 1
        }
        try writer.finish()
        report.add(
            "writeMs", "Write a snapshot, fsynced", writing.milliseconds, places: 1, unit: " ms")
        report.add("snapshotRecords", "Records of the snapshot", count)
        report.add(
            "snapshotMB", "Size of the snapshot", Double(writer.size) / 1e6, places: 1, unit: " MB")
        return "\(folder)/\(SnapshotFile.name(of: id))"
    }

    private func load(_ file: String) throws -> MetadataImage {
        var reader = try SnapshotReader(path: file)
        var builder = MetadataImageBuilder()
        while let record = try reader.next() { try builder.add(MetadataRecord(decoding: record)) }
        return builder.finish(endOffset: reader.id.endOffset, epoch: reader.id.epoch)
    }

    private func temporaryFolder() -> String {
        let directory = processEnvironment()["TMPDIR"] ?? "/tmp"
        return "\(directory)/millrace-bench-\(getpid())"
    }

    private func remove(_ folder: String) {
        let fileSystem: any FileSystem = .local
        for name in (try? fileSystem.contents(of: folder)) ?? [] {
            try? fileSystem.remove("\(folder)/\(name)")
        }
        rmdir(folder)
    }

    /// A standby holds the committed image already: it becomes the active controller with it.
    private func measureTakeover(of image: MetadataImage, into report: inout BenchReport) throws {
        let watch = Stopwatch()
        var state = state(image)
        let result = state.takeOver()
        state.adopt(result)
        report.add("takeoverMs", "A standby takes over", watch.milliseconds, places: 2, unit: " ms")
        report.add("takeoverCPUMs", "CPU of that", watch.cpuMilliseconds, places: 2, unit: " ms")
    }

    /// A dead broker is fenced, and all that it led gets new leaders, here and on a standby.
    private func measureFencing(in image: MetadataImage, into report: inout BenchReport) throws {
        var state = state(image)
        guard let victim = image.brokers[1] else { return }
        let led = image.leaderCount(of: victim.id)
        let deciding = Stopwatch()
        guard let result = state.brokerGone(victim.id, epoch: victim.epoch) else { return }
        state.adopt(result)
        let decided = deciding.milliseconds
        let encoding = Stopwatch()
        let records = result.records.map { $0.encoded() }
        let encoded = encoding.milliseconds
        let applying = Stopwatch()
        var standby = image
        for record in records {
            try standby.apply(MetadataRecord(decoding: record), at: standby.nextOffset)
        }
        let applied = applying.milliseconds
        guard standby == state.image, state.image.leaderCount(of: victim.id) == 0 else {
            throw CommandFailure("the standby's image is another one than the controller's")
        }
        report.add("fencedLed", "Partitions that the dead broker led", led)
        report.add("fenceRecords", "Records to fence it", records.count)
        report.add("fenceBatches", "Batches of them", result.batches.count)
        report.add("fenceDecideMs", "Fence it: decide", decided, places: 1, unit: " ms")
        report.add("fenceEncodeMs", "Fence it: encode", encoded, places: 1, unit: " ms")
        report.add("fenceApplyMs", "Fence it: apply elsewhere", applied, places: 1, unit: " ms")
        report.add(
            "fenceMs", "Fence it: all three", decided + encoded + applied, places: 1, unit: " ms")
    }

    private func smallChanges(in state: ControllerState) throws -> SmallChanges {
        var state = state
        var standby = state.image
        let topics = standby.topics.values.prefix(max(1, shape.changes / 100)).map(\.id)
        let altering = Stopwatch()
        for index in 0..<shape.changes {
            let id = TopicPartition(topic: topics[index % topics.count], partition: 0)
            try commit(try alterISR(of: id, in: state), to: &state, and: &standby)
        }
        let altered = altering.milliseconds
        let creating = Stopwatch()
        for index in 0..<shape.changes {
            let topic = NewTopic(
                name: "small-\(index)", partitions: 1, replicationFactor: Self.replicas)
            try commit(try state.createTopic(topic), to: &state, and: &standby)
        }
        let count = Double(shape.changes)
        return SmallChanges(
            alterISR: altered * 1_000 / count, createTopic: creating.milliseconds * 1_000 / count)
    }

    /// Takes a follower out of the ISR, or puts it back.
    private func alterISR(
        of id: TopicPartition, in state: ControllerState
    ) throws -> ControllerResult<[AlterPartitionOutcome]> {
        guard let partition = state.image.partition(id), let leader = partition.leader,
            let broker = state.image.brokers[leader]
        else { throw CommandFailure("partition \(id) has no leader") }
        let isr =
            partition.isr.count == partition.replicas.count
            ? partition.isr.dropLast() : partition.replicas[...]
        let members = isr.compactMap { id in
            state.image.brokers[id].map {
                AlterPartitionRequest.Member(broker: id, epoch: $0.epoch)
            }
        }
        let result = try state.alterPartition(
            AlterPartitionRequest(
                broker: leader, epoch: broker.epoch,
                changes: [
                    AlterPartitionRequest.Change(
                        id: id, leaderEpoch: partition.leaderEpoch,
                        partitionEpoch: partition.partitionEpoch, isr: members)
                ]))
        if let error = result.reply.first?.error { throw CommandFailure("an ISR change: \(error)") }
        return result
    }

    // MARK: Building

    /// A controller's state with every broker serving and every topic created.
    private func build() throws -> ControllerState {
        var state = ControllerState(
            image: MetadataImage(), options: options, now: now, generator: SeededGenerator(seed: 1))
        state.adopt(state.takeOver())
        for number in 1...shape.brokers {
            let id = NodeID(Int32(number))
            let registration = try state.registerBroker(
                RegistrationRequest(
                    clusterID: Self.clusterID, broker: id,
                    incarnation: UniqueID(high: 1, low: UInt64(number)), host: "broker-\(number)",
                    port: 9092, rack: "rack-\(number % 3)", directories: [.random()],
                    maxFeatureLevel: MetadataFeatures.supported.upperBound,
                    minFeatureLevel: MetadataFeatures.supported.lowerBound), now: now)
            state.adopt(registration)
            let heartbeat = try state.heartbeat(
                HeartbeatRequest(
                    broker: id, epoch: registration.reply.epoch,
                    appliedOffset: state.image.nextOffset), now: now)
            state.adopt(heartbeat)
        }
        var made = 0
        while made < shape.partitions {
            let count = min(shape.partitionsPerTopic, shape.partitions - made)
            let assignments = (made..<(made + count)).map(assignment)
            let topic = NewTopic(name: "topic-\(made)", assignments: assignments)
            state.adopt(try state.createTopic(topic))
            made += count
        }
        return state
    }

    /// The first partitions are led by broker 1, the others by the other brokers in turn.
    private func assignment(_ partition: Int) -> [NodeID] {
        let others = shape.brokers - 1
        let other = { (index: Int) in NodeID(Int32(2 + index % others)) }
        guard partition >= shape.ledByVictim else {
            return [1, other(partition), other(partition + 1)]
        }
        return (0..<min(Self.replicas, others)).map { other(partition + $0) }
    }

    private func state(_ image: MetadataImage) -> ControllerState {
        ControllerState(
            image: image, options: options, now: now, generator: SeededGenerator(seed: 2))
    }

    private func commit<Reply>(
        _ result: ControllerResult<Reply>, to state: inout ControllerState,
        and standby: inout MetadataImage
    ) throws {
        state.adopt(result)
        for record in result.records {
            let bytes = record.encoded()
            try standby.apply(MetadataRecord(decoding: bytes), at: standby.nextOffset)
        }
    }

    // MARK: Measuring

    /// glibc's `malloc_trim`, which its Swift module leaves out; other libraries have none.
    private static let trimHeap: (@convention(c) (Int) -> Int32)? = {
        guard let symbol = dlsym(nil, "malloc_trim") else { return nil }
        return unsafeBitCast(symbol, to: (@convention(c) (Int) -> Int32).self)
    }()

    /// Memory of this process that is in use, without what was freed.
    private static func residentBytes() -> Int {
        _ = trimHeap?(0)
        return Int(residentMegabytes(of: getpid()) * 1e6)
    }

    /// Time and CPU time since it was made.
    private struct Stopwatch {
        private let start = ContinuousClock.now
        private let cpuStart = Self.cpuNanoseconds()

        var milliseconds: Double { (ContinuousClock.now - start).inMilliseconds }
        var cpuMilliseconds: Double { Double(Self.cpuNanoseconds() - cpuStart) / 1e6 }

        private static func cpuNanoseconds() -> Int64 {
            var time = timespec()
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
            return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
        }
    }
}
