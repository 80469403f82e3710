import Essentials
import Glibc
import Synchronization

/// Calls that fail, from some moment on.
struct DiskFault: Sendable {
    /// The `errno`; only calls that take space fail with ENOSPC.
    var code: Int32
    /// How many calls go well before.
    var after = 0
    /// How many fail in a row.
    var count = 1
    /// Which calls it concerns, by operation and path; reads too.
    var concerns: @Sendable (_ operation: String, _ path: String) -> Bool = { _, _ in true }

    /// The device has gone bad: any call fails.
    static func broken(after calls: Int, count: Int = 1) -> DiskFault {
        DiskFault(code: EIO, after: calls, count: count)
    }

    /// No space is left.
    static func full(after calls: Int, count: Int = .max) -> DiskFault {
        DiskFault(code: ENOSPC, after: calls, count: count)
    }
}

extension DiskFault? {
    /// A fault of some kind, or none.
    static func random(oneIn chance: Int, using generator: inout SeededGenerator) -> DiskFault? {
        guard Int.random(in: 0..<chance, using: &generator) == 0 else { return nil }
        let after = Int.random(in: 0..<12, using: &generator)
        return Bool.random(using: &generator)
            ? .broken(after: after, count: Int.random(in: 1...2, using: &generator))
            : .full(after: after)
    }
}

extension SimulatedDisk {
    /// Lets calls fail, or no more.
    ///
    /// A write that fails is made in part; of what a sync that fails was to make durable some is lost for
    /// good, while memory still has it.
    func fail(_ fault: DiskFault?) {
        state.withLock { state in
            state.fault = fault
            state.faultCount = 0
        }
    }

    /// How many calls have failed since `fail`.
    var faultCount: Int { state.withLock { $0.faultCount } }

    /// Turns one bit of a file, on the disk and in memory; returns which, `nil` if there is none.
    func flipBit(
        in concerns: (String) -> Bool = { _ in true }
    ) -> (path: String, position: Int)? {
        state.withLock { state in
            let files = state.all(durable: true).filter {
                !$0.inode.isDirectory && !$0.inode.durable.isEmpty && concerns($0.path)
            }
            guard let (path, inode) = files.randomElement(using: &state.generator) else {
                return nil
            }
            let position = Int.random(in: 0..<inode.durable.count, using: &state.generator)
            let bit: UInt8 = 1 << UInt8.random(in: 0..<8, using: &state.generator)
            inode.durable[position] ^= bit
            if position < inode.current.count { inode.current[position] ^= bit }
            return (path, position)
        }
    }

    /// Lets the next write to a file go to another place of it; that shows after the next restart.
    func misplaceNextWrite() {
        state.withLock { $0.isMisplacing = true }
    }
}

extension SimulatedDisk.State {
    mutating func fails(_ operation: String, _ path: String, takesSpace: Bool) -> Int32? {
        guard var fault, fault.code != ENOSPC || takesSpace, fault.concerns(operation, path)
        else { return nil }
        defer { self.fault = fault }
        guard fault.after <= 0 else {
            fault.after -= 1
            return nil
        }
        guard fault.count > 0 else { return nil }
        fault.count -= 1
        faultCount += 1
        return fault.code
    }

    /// Where on the disk a write goes that should go to `position`.
    mutating func landing(of position: Int) -> Int {
        guard isMisplacing else { return position }
        isMisplacing = false
        let sectors = Int.random(in: 1...4, using: &generator)
        return position + sectors * SimulatedDisk.sectorSize
    }
}
