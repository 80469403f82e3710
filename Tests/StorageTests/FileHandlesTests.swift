import Essentials
import Glibc
import NIOCore
import Storage
import Synchronization
import Testing

/// The descriptors of this process that are open for files below `path`.
private func openFiles(below path: String) throws -> Int {
    try LocalFileSystem().contents(of: "/proc/self/fd").count { name in
        var target = [CChar](repeating: 0, count: 4_096)
        let count = readlink("/proc/self/fd/\(name)", &target, target.count)
        guard count > 0 else { return false }
        let bytes = target[..<count].map { UInt8(bitPattern: $0) }
        return String(decoding: bytes, as: UTF8.self).hasPrefix(path)
    }
}

@Suite("The number of open files") struct FileHandlesTests {
    @Test("Stays bounded while 1,000 logs are appended to, flushed and read") func isBounded()
        throws
    {
        let directory = try TemporaryDirectory()
        let handles = FileHandles(limit: 64)
        let logs = try LogDirectory.open(
            directory.path, fileSystem: LimitedFileSystem(.local, handles: handles))
        var config = LogConfig()
        config.tailBytes = 0
        let all = try (0..<1_000).map { partition in
            let log = try logs.createLog(
                PartitionFolder(topic: "t", partition: Int32(partition)), topicID: .random(),
                config: config)
            // New files are syncing for room on another thread.
            while handles.count > 128 { usleep(100) }
            return log
        }
        for round in 0..<3 {
            for (number, log) in all.enumerated() {
                try log.append(2, epoch: 1)
                // Some at once and some later, as far as it is asked for at all.
                if (number + round) % 2 == 0 { try log.flush() }
                while handles.count > 128 { usleep(100) }
                if number % 100 == 0 { #expect(try openFiles(below: directory.path) < 160) }
            }
        }
        for log in all {
            #expect(try log.isWhole())
            #expect(log.logEndOffset == 6)
            try logs.closeLog(log)
        }
        #expect(handles.count <= 64)
        #expect(try logs.close(clean: true))
        let again = try LogDirectory.open(directory.path)
        for log in all { #expect(try again.openLog(log.folder).0.isWhole()) }
    }

    @Test("Is back in its bounds when the disk was slow, also if nothing more is opened")
    func slowDisk() throws {
        let directory = try TemporaryDirectory()
        let disk = FaultyFileSystem()
        let handles = FileHandles(limit: 4)
        let system = LimitedFileSystem(disk, handles: handles)
        let areAllOpen = Mutex(false)
        disk.fail { call in
            while call.operation == "sync", !areAllOpen.withLock({ $0 }) { usleep(100) }
            return nil
        }
        let files = try (0..<20).map { try system.open("\(directory.path)/\($0).log", .create) }
        #expect(handles.count > 10)
        areAllOpen.withLock { $0 = true }
        for _ in 0..<100_000 where handles.count > 4 { usleep(100) }
        #expect(handles.count <= 4)
        withExtendedLifetime(files) {}
    }

    @Test("A file that another has taken the place of is not mixed up with it") func replaced()
        throws
    {
        let directory = try TemporaryDirectory()
        let handles = FileHandles(limit: 1)
        let system = LimitedFileSystem(.local, handles: handles)
        try directory.write([1], to: "a.log")
        try directory.write([2], to: "b.log")
        let first = try system.open("\(directory.path)/a.log", .readWrite)
        let read: (any File) throws -> UInt8 = { file in
            var bytes: [UInt8] = [0]
            let count = try bytes.withUnsafeMutableBytes { try file.read(into: $0, at: 0) }
            #expect(count == 1)
            return bytes[0]
        }
        #expect(try read(first) == 1)
        let second = try system.open("\(directory.path)/b.log", .readWrite)
        for _ in 0..<3 {
            #expect(try read(second) == 2)
            #expect(try read(first) == 1)
        }
        #expect(try read(second) == 2)
        #expect(try read(second) == 2)
        // Closed or not, it is never the other one's bytes.
        try directory.remove("a.log")
        try directory.write([3], to: "a.log")
        #expect((try? read(first)) != 3)
    }

    @Test("A sync during a write does not make durable what the write changes") func writing()
        throws
    {
        let directory = try TemporaryDirectory()
        let disk = FaultyFileSystem()
        let system = LimitedFileSystem(disk, handles: FileHandles(limit: 1))
        let file = try system.open("\(directory.path)/a.log", .create)
        disk.fail { call in
            // The write is under way, and comes to the file afterwards.
            if call.operation == "write" { #expect(throws: Never.self) { try file.syncData() } }
            return nil
        }
        try [UInt8(1)].withUnsafeBytes { try file.write($0, at: 0) }
        disk.fail(nil)
        let syncs = { disk.calls.count { $0 == "sync a.log" } }
        #expect(syncs() == 1)
        try file.syncData()
        #expect(syncs() == 2)
    }

    @Test("A file that was closed before anything synced it is opened for that") func syncing()
        throws
    {
        let directory = try TemporaryDirectory()
        let disk = FaultyFileSystem()
        let handles = FileHandles(limit: 1)
        let system = LimitedFileSystem(disk, handles: handles)
        for name in ["a.log", "b.log"] { try directory.write([1], to: name) }
        let first = try system.open("\(directory.path)/a.log", .readWrite)
        let second = try system.open("\(directory.path)/b.log", .readWrite)
        let openings = { disk.calls.count { $0 == "open a.log" } }
        // As nothing was changed, each takes the other's place.
        for _ in 0..<3 {
            _ = try first.size()
            _ = try second.size()
        }
        let before = openings()
        #expect(before > 1)
        try first.sync()
        #expect(openings() == before + 1)
        #expect(disk.calls.contains("sync a.log"))
    }

    @Test("Having no descriptor left for a moment does no harm") func noDescriptors() throws {
        let directory = try TemporaryDirectory()
        let disk = FaultyFileSystem()
        let handles = FileHandles(limit: 8)
        let logs = try LogDirectory.open(
            directory.path, fileSystem: LimitedFileSystem(disk, handles: handles))
        let failures = Mutex(0)
        disk.fail { call in
            guard ["open", "create", "sync directory"].contains(call.operation) else { return nil }
            return failures.withLock { count in
                count += 1
                return count % 3 == 0 ? nil : EMFILE
            }
        }
        for partition in 0..<20 {
            let log = try logs.createLog(
                PartitionFolder(topic: "t", partition: Int32(partition)), topicID: .random())
            try log.append(3, epoch: 1)
            try log.flush()
            #expect(try log.isWhole())
        }
        #expect(logs.health.failure == nil)
    }
}
