import Essentials
import Glibc
import Storage
import Synchronization

/// A disk in memory that can lose power: what was not synced is then kept in part, or not at all.
///
/// Unsynced writes are kept or lost by the sector, in any combination; a file that grew has zeros
/// where nothing was kept. Names made, changed and removed since their directory was synced are kept
/// or lost one by one.
final class SimulatedDisk: FileSystem {
    private static let sectorSize = 64

    fileprivate enum Change: Sendable {
        case write(position: Int, bytes: [UInt8])
        case truncate(to: Int)
    }

    // It only changes inside the disk's lock.
    fileprivate final class Inode: @unchecked Sendable {
        var durable: [UInt8] = []
        var current: [UInt8] = []
        fileprivate var changes: [Change] = []
    }

    /// A name that now means another file, or none; a rename changes two at once.
    private typealias NameChange = [(path: String, inode: Inode?)]

    private struct State: Sendable {
        var directories: Set<String> = ["/"]
        var durableNames: [String: Inode] = [:]
        var names: [String: Inode] = [:]
        var changes: [NameChange] = []
        var generator: SeededGenerator
        /// How many more calls go well before the power fails; `nil` for all.
        var callsLeft: Int?
        var isDown = false
        /// Files opened before a power failure are of no use after it.
        var boot = 0
        /// Of all calls, their bytes, and what was kept at each restart.
        var history: UInt64 = 0xcbf2_9ce4_8422_2325

        mutating func note(_ bytes: some Sequence<UInt8>) {
            // FNV-1a: the same in every process.
            for byte in bytes { history = (history ^ UInt64(byte)) &* 0x100_0000_01b3 }
        }
    }

    private let state: Mutex<State>

    init(seed: UInt64) {
        state = Mutex(State(generator: SeededGenerator(seed: seed)))
    }

    /// Lets the power fail after so many more calls that change something; `nil`: not at all.
    func failPower(after calls: Int?) {
        state.withLock { $0.callsLeft = calls }
    }

    var isDown: Bool { state.withLock { $0.isDown } }

    /// The same for two runs only if both made the same calls and lost the same.
    var history: UInt64 { state.withLock { $0.history } }

    /// Starts again with what was durable, and with some of what was not.
    func restart() {
        state.withLock { state in
            let chances: [Double] = [0, 0.5, 0.9, 1]
            let chance = chances[Int.random(in: 0..<4, using: &state.generator)]
            func isKept() -> Bool {
                Double.random(in: 0..<1, using: &state.generator) < chance
            }
            for change in state.changes where isKept() {
                for (path, inode) in change { state.durableNames[path] = inode }
            }
            // In an order of their own, or chance would fall differently in every process.
            for (_, inode) in state.durableNames.sorted(by: { $0.key < $1.key }) {
                var bytes = inode.durable
                for change in inode.changes {
                    switch change {
                    case .truncate(let size):
                        if isKept() { Self.resize(&bytes, to: size) }
                    case .write(let position, let written):
                        var start = 0
                        while start < written.count {
                            let sector = (position + start) / Self.sectorSize
                            let end = min(
                                written.count, (sector + 1) * Self.sectorSize - position)
                            if isKept() {
                                Self.write(written[start..<end], at: position + start, to: &bytes)
                            }
                            start = end
                        }
                    }
                }
                inode.durable = bytes
                inode.current = bytes
                inode.changes = []
                state.note(bytes)
            }
            state.names = state.durableNames
            state.changes = []
            state.callsLeft = nil
            state.isDown = false
            state.boot += 1
        }
    }

    private static func resize(_ bytes: inout [UInt8], to size: Int) {
        if bytes.count > size {
            bytes.removeLast(bytes.count - size)
        } else {
            bytes += [UInt8](repeating: 0, count: size - bytes.count)
        }
    }

    private static func write(
        _ new: ArraySlice<UInt8>, at position: Int, to bytes: inout [UInt8]
    ) {
        if bytes.count < position + new.count { resize(&bytes, to: position + new.count) }
        bytes.replaceSubrange(position..<(position + new.count), with: new)
    }

    private static func parent(_ path: String) -> String {
        String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
    }

    /// Makes a call, unless the power is off, or goes off with it.
    private func call<T: Sendable>(
        _ operation: String, _ path: String, changes: Bool = true,
        _ body: (inout State) throws(FileError) -> T
    ) throws(FileError) -> T {
        try state.withLock { state throws(FileError) in
            state.note("\(operation) \(path)\n".utf8)
            if changes, let left = state.callsLeft {
                state.callsLeft = left - 1
                // Half of the last calls are made, though nobody hears of it.
                if left == 0 {
                    state.isDown = true
                    if Bool.random(using: &state.generator) { _ = try body(&state) }
                }
            }
            guard !state.isDown else { throw FileError(operation, path, code: EIO) }
            return try body(&state)
        }
    }

    // MARK: FileSystem

    func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File {
        let (inode, boot) = try call("open", path, changes: mode == .create) {
            (state) throws(FileError) in
            if let inode = state.names[path] {
                if mode == .create {
                    inode.current = []
                    inode.changes.append(.truncate(to: 0))
                }
                return (inode, state.boot)
            }
            guard mode == .create else { throw FileError("open", path, code: ENOENT) }
            let inode = Inode()
            state.names[path] = inode
            state.changes.append([(path, inode)])
            return (inode, state.boot)
        }
        return SimulatedFile(inode, path: path, disk: self, boot: boot)
    }

    func size(of path: String) throws(FileError) -> Int? {
        try call("look at", path, changes: false) { $0.names[path]?.current.count }
    }

    func contents(of directory: String) throws(FileError) -> [String] {
        try call("list", directory, changes: false) { state in
            let all = Array(state.names.keys) + Array(state.directories)
            return all.filter { Self.parent($0) == directory && $0 != "/" }
                .map { String($0.dropFirst(directory.count + 1)) }.sorted()
        }
    }

    func isDirectory(_ path: String) throws(FileError) -> Bool {
        try call("look at", path, changes: false) { $0.directories.contains(path) }
    }

    func makeDirectory(_ path: String) throws(FileError) {
        try call("make", path) { _ = $0.directories.insert(path) }
    }

    func rename(_ path: String, to newPath: String) throws(FileError) {
        try call("rename", path) { (state) throws(FileError) in
            guard let inode = state.names.removeValue(forKey: path) else {
                throw FileError("rename", path, code: ENOENT)
            }
            state.names[newPath] = inode
            state.changes.append([(path, nil), (newPath, inode)])
        }
    }

    func remove(_ path: String) throws(FileError) {
        try call("remove", path) { state in
            guard state.names.removeValue(forKey: path) != nil else { return }
            state.changes.append([(path, nil)])
        }
    }

    func removeDirectory(_ path: String) throws(FileError) {
        try call("remove", path) { _ = $0.directories.remove(path) }
    }

    func syncDirectory(_ path: String) throws(FileError) {
        try call("sync", path) { state in
            state.changes.removeAll { change in
                guard Self.parent(change[0].path) == path else { return false }
                for (path, inode) in change { state.durableNames[path] = inode }
                return true
            }
        }
    }

    func lock(_ path: String) throws(FileError) -> (any FileLock)? { NoLock() }

    private final class NoLock: FileLock {
        func unlock() {}
    }

    // MARK: Files

    fileprivate func file<T: Sendable>(
        _ operation: String, _ path: String, _ boot: Int, changes: Bool = true,
        writing bytes: [UInt8] = [], _ body: () -> T
    ) throws(FileError) -> T {
        try call(operation, path, changes: changes) { (state) throws(FileError) in
            state.note(bytes)
            guard state.boot == boot else { throw FileError(operation, path, code: EBADF) }
            return body()
        }
    }

    fileprivate static func write(_ bytes: [UInt8], at position: Int, to inode: Inode) {
        write(bytes[...], at: position, to: &inode.current)
        inode.changes.append(.write(position: position, bytes: bytes))
    }

    fileprivate static func truncate(_ inode: Inode, to size: Int) {
        resize(&inode.current, to: size)
        inode.changes.append(.truncate(to: size))
    }

    fileprivate static func sync(_ inode: Inode) {
        inode.durable = inode.current
        inode.changes = []
    }
}

private final class SimulatedFile: File {
    private let inode: SimulatedDisk.Inode
    private let path: String
    private let disk: SimulatedDisk
    private let boot: Int

    init(_ inode: SimulatedDisk.Inode, path: String, disk: SimulatedDisk, boot: Int) {
        self.inode = inode
        self.path = path
        self.disk = disk
        self.boot = boot
    }

    func size() throws(FileError) -> Int {
        try disk.file("look at", path, boot, changes: false) { inode.current.count }
    }

    func read(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int {
        try disk.file("read", path, boot, changes: false) {
            let end = min(inode.current.count, position + buffer.count)
            guard position < end else { return 0 }
            buffer.copyBytes(from: inode.current[position..<end])
            return end - position
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(FileError) {
        let bytes = Array(bytes)
        try disk.file("write", path, boot, writing: bytes) {
            SimulatedDisk.write(bytes, at: position, to: inode)
        }
    }

    func truncate(to size: Int) throws(FileError) {
        try disk.file("truncate", path, boot) { SimulatedDisk.truncate(inode, to: size) }
    }

    func syncData() throws(FileError) {
        try disk.file("sync", path, boot) { SimulatedDisk.sync(inode) }
    }

    func sync() throws(FileError) {
        try syncData()
    }
}
