import Essentials
import Synchronization
import Testing

@testable import Broker

/// The memory that answers may take up, and who gets it.
@Suite struct FetchMemoryTests {
    private final class Connection {}

    private final class Grants: Sendable {
        private let state = Mutex<[(name: String, share: FetchMemory.Share)]>([])
        func take(_ name: String, _ share: FetchMemory.Share) {
            state.withLock { $0.append((name, share)) }
        }
        func release(_ name: String) {
            let gone = state.withLock { state in
                let gone = state.filter { $0.name == name }
                state.removeAll { $0.name == name }
                return gone
            }
            _ = consume gone
        }
        var names: [String] { state.withLock { $0.map(\.name) } }
        var bytes: [Int] { state.withLock { $0.map(\.share.byteCount) } }
    }

    private let one = Connection()
    private let other = Connection()

    private func take(
        _ bytes: Int, _ name: String, for connection: Connection, of memory: FetchMemory,
        _ grants: Grants
    ) -> FetchMemory.Waiter? {
        switch memory.take(
            bytes, for: ObjectIdentifier(connection), orLater: { grants.take(name, $0) })
        {
        case .share(let share):
            grants.take(name, share)
            return nil
        case .waits(let waiter):
            return waiter
        }
    }

    @Test func whatIsUsedUpIsWaitedForInOrder() {
        let memory = FetchMemory(limit: 1 << 20)
        let grants = Grants()
        #expect(take(1 << 20, "a", for: one, of: memory, grants) == nil)
        let waiters = ["b", "c", "d"].map { take(600_000, $0, for: one, of: memory, grants) }
        #expect(waiters.allSatisfy { $0 != nil })
        #expect(grants.names == ["a"])
        grants.release("a")
        // The second gets what there is, which is less than it asked for.
        #expect(grants.names == ["b", "c"])
        #expect(grants.bytes == [600_000, (1 << 20) - 600_000])
        grants.release("b")
        #expect(grants.names == ["c", "d"])
        grants.release("c")
        grants.release("d")
        #expect(memory.usedBytes == 0)
    }

    @Test func aConnectionThatHoldsNothingAlwaysGetsALittle() {
        let memory = FetchMemory(limit: 1 << 20)
        let grants = Grants()
        #expect(take(1 << 20, "stalled", for: one, of: memory, grants) == nil)
        #expect(take(100, "more", for: one, of: memory, grants) != nil)
        #expect(take(1 << 20, "a", for: other, of: memory, grants) == nil)
        #expect(grants.bytes == [1 << 20, FetchMemory.leastBytes])
        // And again each time it has taken its answer.
        for round in 0..<5 {
            #expect(take(1 << 20, "b\(round)", for: other, of: memory, grants) != nil)
            grants.release(round == 0 ? "a" : "b\(round - 1)")
            #expect(grants.names == ["stalled", "b\(round)"])
        }
    }

    @Test func aWaiterThatIsGivenUpGetsNothing() {
        let memory = FetchMemory(limit: 100)
        let grants = Grants()
        #expect(take(100, "a", for: one, of: memory, grants) == nil)
        let b = take(100, "b", for: one, of: memory, grants)
        let c = take(100, "c", for: one, of: memory, grants)
        #expect(b != nil && c != nil)
        b?.cancel()
        grants.release("a")
        #expect(grants.names == ["c"])
        grants.release("c")
        #expect(memory.usedBytes == 0)
    }

    @Test func aShareIsWhatWasNeededInTheEnd() {
        let memory = FetchMemory(limit: 1_000)
        let grants = Grants()
        guard
            case .share(let share) = memory.take(
                900, for: ObjectIdentifier(one), orLater: { _ in })
        else {
            Issue.record("it had to wait")
            return
        }
        #expect(take(500, "b", for: one, of: memory, grants) != nil)
        share.resize(to: 400)
        #expect(grants.names == ["b"])
        #expect(memory.usedBytes == 900)
        // A single large batch.
        share.resize(to: 5_000)
        #expect(memory.usedBytes == 5_500)
        grants.release("b")
        _ = consume share
        #expect(memory.usedBytes == 0)
    }

    @Test(arguments: [1, 2, 3] as [UInt64])
    func whoeverWaitsGetsItsTurn(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let memory = FetchMemory(limit: 300_000)
        let connections = (0..<4).map { _ in Connection() }
        let grants = Grants()
        var wanted: Set<String> = []
        var waiters: [String: FetchMemory.Waiter] = [:]
        for round in 0..<2_000 {
            switch Int.random(in: 0..<4, using: &generator) {
            case 0, 1:
                let name = "\(round)"
                wanted.insert(name)
                let connection = connections[Int.random(in: 0..<4, using: &generator)]
                waiters[name] = take(
                    Int.random(in: 1...200_000, using: &generator), name, for: connection,
                    of: memory, grants)
            case 2:
                if let name = grants.names.randomElement(using: &generator) {
                    wanted.remove(name)
                    grants.release(name)
                }
            default:
                let names = waiters.keys.filter { !grants.names.contains($0) }.sorted()
                if let name = names.randomElement(using: &generator), wanted.contains(name) {
                    waiters.removeValue(forKey: name)?.cancel()
                    wanted.remove(name)
                }
            }
            // Each may be over by what it always gets.
            #expect(memory.usedBytes <= 300_000 + 4 * FetchMemory.leastBytes, "seed \(seed)")
        }
        while let name = grants.names.first {
            wanted.remove(name)
            grants.release(name)
        }
        #expect(wanted.isEmpty, "seed \(seed)")
        #expect(memory.usedBytes == 0, "seed \(seed)")
    }
}
