import Essentials
import Glibc
import Storage
import Synchronization
import Testing

/// A directory with some logs in it, one flusher, and a disk whose syncs can be held up.
private struct Bench {
    let directory: TemporaryDirectory
    let disk = FaultyFileSystem()
    let logs: LogDirectory
    let flusher: LogFlusher
    let all: [Log]
    let gate = Gate()
    let results = Results()

    init(_ count: Int) throws {
        directory = try TemporaryDirectory()
        logs = try LogDirectory.open(directory.path, fileSystem: disk)
        all = try (0..<count).map { [logs] in try logs.openLog("t-\($0)").0 }
        flusher = LogFlusher(volume: try disk.volume(of: directory.path))
    }

    func submit(_ numbers: some Sequence<Int>) throws {
        for number in numbers {
            try all[number].append()
            flusher.submit(all[number].prepareFlush()) { [results] in
                results.add(number, $0)
            }
        }
    }

    /// Flushes one log, so that it is known what that costs.
    func learn() throws {
        try submit([0])
        results.wait(for: 1)
        results.clear()
    }

    /// Submits logs while both threads are held up, each in the sync of another one.
    func submitAtOnce(
        _ numbers: Range<Int>, then rule: (@Sendable (FaultyFileSystem.Call) -> Int32?)? = nil
    ) throws {
        disk.fail { [gate] call in
            if call.operation == "sync" { gate.pass() }
            return nil
        }
        // One after the other, or one thread might take both.
        for number in 0..<2 {
            try submit([number])
            gate.wait(for: number + 1)
        }
        try submit(numbers)
        disk.fail(rule)
        gate.open()
    }
}

/// What threads wait at until it is opened.
private final class Gate: Sendable {
    private let state = Mutex((waiting: 0, isOpen: false))

    func pass() {
        state.withLock { $0.waiting += 1 }
        while !state.withLock({ $0.isOpen }) { usleep(200) }
    }
    func open() { state.withLock { $0.isOpen = true } }
    func wait(for count: Int) {
        while state.withLock({ $0.waiting }) < count { usleep(200) }
    }
}

private final class Results: Sendable {
    private let state = Mutex<[Int: Result<Void, LogError>]>([:])

    func add(_ number: Int, _ result: Result<Void, LogError>) {
        state.withLock { $0[number] = result }
    }
    func clear() { state.withLock { $0 = [:] } }
    func wait(for count: Int) {
        while state.withLock({ $0.count }) < count { usleep(200) }
    }
    var failures: Int {
        state.withLock { $0.values.count { if case .failure = $0 { true } else { false } } }
    }
    var count: Int { state.withLock { $0.count } }
}

@Test func manyLogsThatWaitAreSyncedTogether() throws {
    let bench = try Bench(12)
    try bench.learn()
    // The epochs' files are as new as the logs: what takes a file's place is synced before.
    try bench.submitAtOnce(2..<12)
    bench.results.wait(for: 12)
    #expect(bench.results.failures == 0)
    let counts = bench.flusher.counts
    #expect(counts.together == 1)
    #expect(counts.logsTogether == 10)
    #expect(bench.disk.calls.count { $0.hasPrefix("sync volume") } == 2)
    for number in 2..<12 {
        let name = "\(bench.directory.path)/t-\(number)/leader-epoch-checkpoint"
        #expect(try bench.disk.size(of: name) ?? 0 > 0)
        #expect(try bench.disk.size(of: "\(name).tmp") == nil)
    }
    bench.flusher.stop()
}

/// S6, D7: nobody can tell whose bytes are lost.
@Test func aFailedSyncOfTheVolumeIsFinalForAll() throws {
    let bench = try Bench(12)
    try bench.learn()
    try bench.submitAtOnce(2..<12) { $0.operation == "sync volume" ? EIO : nil }
    bench.results.wait(for: 12)
    bench.disk.fail(nil)
    #expect(bench.results.failures >= 10)
    #expect(bench.flusher.counts.together == 1)
    #expect(bench.logs.health.failure != nil)
    for log in bench.all {
        #expect(throws: LogError.self) { try log.append() }
        #expect(throws: LogError.self) { try log.flush() }
    }
    bench.flusher.stop()
}

@Test func aVolumeThatTakesLongDoesNotHoldUpTheLogs() throws {
    let bench = try Bench(12)
    try bench.learn()
    let stuck = Gate()
    try bench.submitAtOnce(2..<12) {
        if $0.operation == "sync volume" { stuck.pass() }
        return nil
    }
    // While one thread waits for the volume, the other syncs all of them on their own.
    bench.results.wait(for: 12)
    #expect(bench.flusher.counts.together == 0)
    #expect(bench.results.failures == 0)
    stuck.open()
    bench.flusher.stop()
    #expect(bench.flusher.counts.together == 1)
}

/// Whatever takes how long, and whichever thread does it.
@Test(arguments: [1, 2, 3] as [UInt64]) func everyFlushIsAnsweredOnce(seed: UInt64) throws {
    let bench = try Bench(20)
    let chance = Mutex(SeededGenerator(seed: seed))
    bench.disk.fail { call in
        guard call.operation.hasPrefix("sync") else { return nil }
        // Sometimes longer than a sync of the volume may take before others help.
        let most: UInt32 = call.operation == "sync volume" ? 15_000 : 300
        usleep(chance.withLock { UInt32.random(in: 0...most, using: &$0) })
        return nil
    }
    let answers = Mutex([Int](repeating: 0, count: 400))
    for number in 0..<400 {
        let log = bench.all[chance.withLock { Int.random(in: 0..<20, using: &$0) }]
        try log.append()
        bench.flusher.submit(log.prepareFlush()) { result in
            if case .success = result { answers.withLock { $0[number] += 1 } }
        }
        if number % 8 == 0 { usleep(500) }
    }
    bench.flusher.stop()
    #expect(answers.withLock { $0 } == [Int](repeating: 1, count: 400))
}

@Test func aLossThatAnotherThreadHearsOfCountsForTheVolumeToo() throws {
    let bench = try Bench(3)
    for log in bench.all { try log.append() }
    let volume = try #require(try bench.disk.volume(of: bench.directory.path))
    let tickets = bench.all.map { $0.prepareFlush() }
    bench.disk.fail { [health = bench.logs.health] in
        if $0.operation == "sync volume" { health.fail("lost") }
        return nil
    }
    #expect(throws: LogError.self) { try FlushTicket.perform(tickets, on: volume) }
    bench.flusher.stop()
}

// MARK: What is cheaper

@Test func allTogetherIsTriedAndKeptWhileItIsCheaper() {
    var costs = FlushCosts(threads: 2)
    #expect(!costs.prefersTogether(100, at: 0))
    costs.noteAlone(0.001)
    #expect(!costs.prefersTogether(1, at: 0))
    #expect(costs.prefersTogether(100, at: 0))
    costs.noteTogether(100, 0.002, at: 0)
    #expect(costs.prefersTogether(100, at: 0.1))
    #expect(costs.prefersTogether(1_000, at: 0.1))
    // Never tried with so few; two threads do them in the time of one.
    costs.noteTogether(2, 0.002, at: 0.1)
    #expect(!costs.prefersTogether(2, at: 0.2))
    #expect(costs.prefersTogether(8, at: 0.2))
}

@Test func allTogetherIsTriedAgainLessAndLessOften() {
    var costs = FlushCosts(threads: 2)
    costs.noteAlone(0.001)
    var now = 0.0
    var tries = 0
    while now < 1_000 {
        if costs.prefersTogether(10, at: now) {
            tries += 1
            costs.noteTogether(10, 2, at: now)
        }
        now += 0.1
    }
    #expect((10...30).contains(tries))
    // What was in the way is gone.
    now += 100
    #expect(costs.prefersTogether(10, at: now))
    costs.noteTogether(10, 0.001, at: now)
    #expect(costs.prefersTogether(10, at: now + 0.1))
}

@Test(arguments: [
    ("6.18.44-fc", true, true), ("5.17.0", true, true), ("5.16.20", true, false),
    ("5.8.0", true, false), ("5.10", true, false), ("5.7.19-generic", false, false),
    ("4.19.0-26-amd64", false, false), ("", false, false), ("linux", false, false),
])
func syncingTheVolumeNeedsAKernelThatReportsErrors(
    release: String, isEnoughForExt: Bool, isEnough: Bool
) {
    #expect(LocalVolume.reportsErrors(release: release, isExt: true) == isEnoughForExt)
    #expect(LocalVolume.reportsErrors(release: release, isExt: false) == isEnough)
}
