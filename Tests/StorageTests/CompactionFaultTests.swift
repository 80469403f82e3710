import Essentials
import Glibc
import NIOCore
import Records
import Storage
import Synchronization
import Testing

/// Lets the call fail that comes after so many others.
private final class Countdown: Sendable {
    private let left: Mutex<Int>

    init(_ count: Int) {
        left = Mutex(count)
    }

    var isOver: Bool { left.withLock { $0 < 0 } }

    func next() -> Bool {
        left.withLock { left in
            left -= 1
            return left == -1
        }
    }
}

/// D8, S8.
@Test func aCompactionWithoutRoomChangesNothingAndIsMadeOnceThereIsRoom() throws {
    var number = 0
    var wasReached = true
    while wasReached {
        let directory = try TemporaryDirectory()
        let disk = FaultyFileSystem()
        let logs = try LogDirectory.open(directory.path, fileSystem: disk)
        let log = try logs.openLog("t-0", config: smallSegments(400)).0
        for number in 0..<40 { try log.put(Keyed(key: "\(number % 6)", value: "\(number)")) }
        try log.flush()
        let expected = table(try log.keyed())
        let countdown = Countdown(number)
        disk.fail { call in
            // A folder that can't be synced is another matter.
            guard call.operation != "sync directory", call.operation != "read",
                call.operation != "open", call.operation != "drop"
            else { return nil }
            return countdown.next() ? ENOSPC : nil
        }
        do {
            // As the broker does: what can't be put in place is called off.
            let survey = log.compactionSurvey(below: .max)
            var compaction = try LogCompaction(
                survey, policy: CompactionPolicy(), options: CompactionOptions(now: 10_000))
            _ = try compaction.prepare()
            while let segment = try compaction.next() {
                var retired: RetiredSegments?
                do {
                    retired = try log.install(segment)
                } catch {
                    try segment.settle()
                    throw error
                }
                try segment.settle()
                try retired?.remove()
            }
            if try compaction.finish() { log.compacted(to: compaction.endOffset, survey) }
        } catch let error as LogError {
            guard case .io(let cause) = error, cause.isOutOfSpace else {
                Issue.record("call \(number): \(error)")
                return
            }
        }
        wasReached = countdown.isOver
        #expect(logs.health.failure == nil, "call \(number)")
        #expect(table(try log.keyed()) == expected, "call \(number)")
        #expect(try log.verify() == nil, "call \(number)")
        disk.fail(nil)
        try log.put(Keyed(key: "more", value: "x"))
        try log.roll()
        try log.flush()
        _ = try #require(try log.compact(), "call \(number)")
        #expect(try log.keyed().count == 7, "call \(number)")
        // And so after a crash.
        let copy = try directory.copy()
        let again = try LogDirectory.open(copy.path).openLog("t-0", config: smallSegments(400)).0
        #expect(try again.keyed() == log.keyed(), "call \(number)")
        number += 1
        try #require(number < 200)
    }
    #expect(number > 8)
}

/// D8, S8.
@Test(arguments: [EIO, EMFILE, ENOSPC])
func whateverFailsInACompactionNothingIsMissingAtTheNextStart(code: Int32) throws {
    var number = 0
    var wasReached = true
    while wasReached {
        let directory = try TemporaryDirectory()
        let disk = FaultyFileSystem()
        let logs = try LogDirectory.open(directory.path, fileSystem: disk)
        let log = try logs.openLog("t-0", config: smallSegments(400)).0
        for number in 0..<40 { try log.put(Keyed(key: "\(number % 6)", value: "\(number)")) }
        try log.flush()
        let expected = table(try log.keyed())
        let countdown = Countdown(number)
        disk.fail { call in
            guard
                call.operation == "sync directory" || call.operation == "open"
                    || call.operation == "create"
            else { return nil }
            return countdown.next() ? code : nil
        }
        for _ in 0..<2 { _ = try? log.compact() }
        disk.fail(nil)
        wasReached = countdown.isOver
        let copy = try directory.copy()
        let again = try LogDirectory.open(copy.path).openLog("t-0", config: smallSegments(400)).0
        #expect(table(try again.keyed()) == expected, "call \(number)")
        #expect(again.logEndOffset == 40, "call \(number)")
        #expect(try again.verify() == nil, "call \(number)")
        number += 1
        try #require(number < 200)
    }
    #expect(number > 8)
}

/// S8.
@Test func aSwapWithoutItsNewSegmentRemovesNothing() throws {
    let directory = try TemporaryDirectory()
    let logs = try LogDirectory.open(directory.path)
    let log = try logs.openLog("t-0", config: smallSegments(400)).0
    for number in 0..<40 { try log.put(Keyed(key: "\(number % 6)", value: "\(number)")) }
    try log.flush()
    let expected = try log.keyed()
    let zeros = String(repeating: "0", count: 20)
    try directory.write([], to: "t-0/\(zeros)-\(zeros.dropLast(2))30.swap")
    let copy = try directory.copy()
    let again = try LogDirectory.open(copy.path).openLog("t-0", config: smallSegments(400)).0
    #expect(try again.keyed() == expected)
    #expect(try again.verify() == nil)
}
