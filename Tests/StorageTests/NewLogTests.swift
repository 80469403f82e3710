import Essentials
import Glibc
import NIOCore
import Records
import Storage
import Testing

/// A log directory in which logs come and go, killed and cut off from power at random.
private struct Run {
    let seed: UInt64
    let disk: SimulatedDisk
    var generator: SeededGenerator
    var directory: LogDirectory
    var partitions: [Partition]
    var counter = 0

    struct Partition {
        let folder: PartitionFolder
        var topicID = TopicID(high: 0, low: 0)
        var log: Log?
        /// The log must reach at least this far.
        var durable: Offset = 0
        var values: [Offset: String] = [:]
    }

    init(seed: UInt64) throws {
        self.seed = seed
        disk = SimulatedDisk(seed: seed ^ 0xd15c)
        generator = SeededGenerator(seed: seed)
        directory = try LogDirectory.open("/data", fileSystem: disk)
        partitions = (0..<3).map {
            Partition(folder: PartitionFolder(topic: "t", partition: $0))
        }
        for number in partitions.indices { assign(number) }
    }

    /// A topic of this name, that was never there before.
    mutating func assign(_ number: Int) {
        counter += 1
        partitions[number].topicID = TopicID(high: 1, low: UInt64(counter))
        partitions[number].durable = 0
        partitions[number].values = [:]
    }

    /// Opens or makes the log, as a broker does.
    mutating func open(_ number: Int) throws {
        let partition = partitions[number]
        let folder = partition.folder
        if try directory.partitionFolders().contains(folder) {
            switch try directory.topicID(of: folder.name) {
            case partition.topicID?:
                let (log, report) = try directory.openLog(folder.name)
                #expect(!report.isDamaged, "seed \(seed): \(report)")
                partitions[number].log = log
                return try check(number)
            case nil:
                #expect(!directory.hasRecords(folder.name), "seed \(seed): \(folder)")
            case .some:
                // Its deletion was never heard of.
                break
            }
            _ = try directory.deleteLog(inFolder: folder.name)
        }
        #expect(directory.checkpoint(of: folder.name).highWatermark == 0, "seed \(seed)")
        // Now and then there is no room for all of it, and what there is is found later.
        if Int.random(in: 0..<4, using: &generator) == 0 {
            disk.fail(.full(after: Int.random(in: 0..<8, using: &generator)))
        }
        defer { disk.fail(nil) }
        do throws(LogError) {
            partitions[number].log = try directory.createLog(folder, topicID: partition.topicID)
        } catch {
            guard case .io(let cause) = error, cause.isOutOfSpace else { throw error }
            return
        }
        try check(number)
    }

    mutating func check(_ number: Int) throws {
        let partition = partitions[number]
        let log = try #require(partition.log)
        #expect(log.logEndOffset >= partition.durable, "seed \(seed): \(partition.folder)")
        for (offset, text) in try log.texts() {
            #expect(partition.values[offset] == text, "seed \(seed): \(partition.folder)")
        }
        partitions[number].values = partition.values.filter { $0.key < log.logEndOffset }
        // What recovery found counts, whether it was flushed before or not.
        partitions[number].durable = log.logEndOffset
    }

    mutating func append(_ number: Int, _ log: Log) throws {
        counter += 1
        partitions[number].values[log.logEndOffset] = "record \(counter) "
        let batch = makeBatch(size: 0, from: counter)
        let headers = try RecordBatches.validateForAppend(batch, maxBatchBytes: 1 << 20)
        try log.appendAsLeader(batch, headers: headers, leaderEpoch: 1)
    }

    mutating func step() throws {
        let number = Int.random(in: 0..<partitions.count, using: &generator)
        guard let log = partitions[number].log else { return try open(number) }
        switch Int.random(in: 0..<22, using: &generator) {
        case 0..<8:
            try append(number, log)
        case 8..<11:
            try log.flush()
            partitions[number].durable = log.durableOffset
        case 11..<13:
            if let checkpoint = log.checkpoint(highWatermark: log.logEndOffset) {
                try directory.checkpoint([log.folder: checkpoint])
            }
        case 13:
            try log.truncate(to: partitions[number].durable)
            partitions[number].values = partitions[number].values.filter {
                $0.key < log.logEndOffset
            }
        case 14:
            partitions[number].durable = 0
            try log.truncateFully(andStartAt: Offset(Int64.random(in: 0..<9, using: &generator)))
            partitions[number].values = [:]
            partitions[number].durable = log.logStartOffset
        case 15, 16:
            partitions[number].log = nil
            assign(number)
            _ = try directory.deleteLog(log)
        case 17:
            partitions[number].log = nil
            try directory.closeLog(log)
            partitions[number].durable = log.logEndOffset
        case 18:
            // Killed: nothing is lost, nor durable.
            for number in partitions.indices {
                partitions[number].log = nil
            }
            try restart()
        case 19, 20:
            // Stopped in order.
            for number in partitions.indices {
                guard let log = partitions[number].log else { continue }
                try directory.closeLog(log)
                partitions[number].log = nil
                partitions[number].durable = log.logEndOffset
            }
            #expect(try directory.close(clean: true), "seed \(seed)")
            try restart()
        default:
            disk.failPower(after: Int.random(in: 0..<12, using: &generator))
        }
    }

    mutating func restart() throws {
        directory = try LogDirectory.open("/data", fileSystem: disk)
        try directory.forgetDeleted()
        for leftover in try directory.deletedFolders() { try directory.removeDeleted(leftover) }
    }

    mutating func go(steps: Int) throws {
        for _ in 0..<steps {
            do {
                try step()
            } catch {
                try #require(disk.isDown, "seed \(seed): \(error)")
            }
            while disk.isDown {
                disk.restart()
                for number in partitions.indices { partitions[number].log = nil }
                do {
                    try restart()
                } catch {
                    try #require(disk.isDown, "seed \(seed): \(error)")
                }
            }
        }
        disk.failPower(after: nil)
        // What there was no room for at the first try there is by now.
        for number in partitions.indices {
            for _ in 0..<100 where partitions[number].log == nil { try open(number) }
            #expect(partitions[number].log != nil, "seed \(seed)")
        }
    }
}

@Suite("New logs") struct NewLogTests {
    /// C12, S4, S7, D3.
    @Test("What was flushed is there, and nothing of a deleted topic's", arguments: 0..<60)
    func powerMayFail(seed: UInt64) throws {
        var run = try Run(seed: seed)
        try run.go(steps: 150)
    }

    /// C12.
    @Test("The first flush after a clean stop makes the folder durable", arguments: 0..<20)
    func afterACleanStop(seed: UInt64) throws {
        let disk = SimulatedDisk(seed: seed)
        let first = try LogDirectory.open("/data", fileSystem: disk)
        #expect(try first.close(clean: true))
        let second = try LogDirectory.open("/data", fileSystem: disk)
        let id = TopicID(high: 1, low: 1)
        var logs = [
            try second.createLog(PartitionFolder(topic: "t", partition: 0), topicID: id)
        ]
        let folder = PartitionFolder(topic: "t", partition: 1)
        let deleted = try second.createLog(folder, topicID: TopicID(high: 1, low: 2))
        try deleted.append(3, epoch: 1)
        try deleted.flush()
        let checkpoint = try #require(deleted.checkpoint(highWatermark: 3))
        try second.checkpoint(["t-1": checkpoint])
        // No room to forget the old one: the folder of the new one is there by then.
        disk.fail(
            DiskFault(code: ENOSPC, count: .max) { _, path in path.hasSuffix(".tmp") })
        _ = try second.deleteLog(deleted)
        #expect(throws: LogError.self) { try second.createLog(folder, topicID: id) }
        disk.fail(nil)
        #expect(try second.topicID(of: "t-1") == id)
        logs.append(try second.openLog("t-1").0)
        for log in logs {
            try log.append(3, epoch: 1)
            try log.flush()
        }
        disk.failPower(after: 0)
        #expect(throws: FileError.self) { try disk.makeDirectory("/data/last") }
        disk.restart()
        let third = try LogDirectory.open("/data", fileSystem: disk)
        for folder in ["t-0", "t-1"] {
            #expect(try third.topicID(of: folder) == id)
            #expect(try third.openLog(folder).0.logEndOffset == 3)
        }
    }

    @Test("Making one waits for no disk") func makingOneSyncsNothing() throws {
        let directory = try TemporaryDirectory()
        let disk = FaultyFileSystem()
        let logs = try LogDirectory.open(directory.path, fileSystem: disk)
        let before = disk.calls.count
        let folder = PartitionFolder(topic: "t", partition: 0)
        let log = try logs.createLog(folder, topicID: .random())
        #expect(disk.calls[before...].allSatisfy { !$0.hasPrefix("sync") })
        try log.append()
        try log.flush()
        let root = try #require(directory.path.split(separator: "/").last)
        #expect(
            disk.calls[before...].filter { $0.hasPrefix("sync") } == [
                "sync partition.metadata", "sync directory t-0", "sync directory \(root)",
                "sync leader-epoch-checkpoint.tmp", "sync directory t-0", "sync directory t-0",
                "sync 00000000000000000000.log",
            ])
    }

    @Test("One without a readable topic id is given up, unless it was ever flushed")
    func onesWithoutAnID() throws {
        let directory = try TemporaryDirectory()
        let logs = try LogDirectory.open(directory.path)
        for (partition, isFlushed) in [(Int32(0), false), (1, true)] {
            let folder = PartitionFolder(topic: "t", partition: partition)
            let log = try logs.createLog(folder, topicID: .random())
            try log.append()
            if isFlushed { try log.flush() }
            try directory.write([], to: "\(folder.name)/partition.metadata")
            #expect(try logs.topicID(of: folder.name) == nil)
            #expect(logs.hasRecords(folder.name) == isFlushed)
        }
    }
}
