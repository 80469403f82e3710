import Essentials
import Glibc
import Storage
import Synchronization

/// A disk in memory that can lose power, fail, run full and rot; see `DiskFaults` for all but the first.
///
/// When power fails, unsynced writes are kept or lost by the sector, in any combination; a file that
/// grew has zeros where nothing was kept. Names made, changed and removed since their directory was
/// synced are kept or lost one by one, directories with all that is in them. All chance follows from
/// the seed and the calls made.
final class SimulatedDisk: FileSystem {
    static let sectorSize = 64
    /// With `TRACE` in the environment every call is printed, for looking at one run.
    static let isTracing = getenv("TRACE") != nil

    enum Change: Sendable {
        /// Where it went on the disk is not always where it should have gone.
        case write(position: Int, bytes: [UInt8])
        case truncate(to: Int)
    }

    /// A file or a directory: what memory says of it, and what the disk has.
    // It only changes inside the disk's lock.
    final class Inode: @unchecked Sendable {
        let isDirectory: Bool
        var durable: [UInt8] = []
        var current: [UInt8] = []
        var changes: [Change] = []
        var durableNames: [String: Inode] = [:]
        var names: [String: Inode] = [:]

        init(isDirectory: Bool) {
            self.isDirectory = isDirectory
        }
    }

    /// Names that now mean another file, or none; a rename changes two at once.
    typealias NameChange = [(directory: Inode, name: String, inode: Inode?)]

    struct State: Sendable {
        let root = Inode(isDirectory: true)
        var changes: [NameChange] = []
        var generator: SeededGenerator
        /// How many more calls go well before the power fails; `nil` for all.
        var callsLeft: Int?
        var isDown = false
        var fault: DiskFault?
        var faultCount = 0
        var isMisplacing = false
        /// Files opened before a crash are of no use after it.
        var boot = 0
        /// Of all calls, their bytes, and what was kept at each restart.
        var history: UInt64 = 0xcbf2_9ce4_8422_2325

        mutating func note(_ bytes: some Sequence<UInt8>) {
            // FNV-1a: the same in every process.
            for byte in bytes { history = (history ^ UInt64(byte)) &* 0x100_0000_01b3 }
        }
    }

    let state: Mutex<State>

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
        Self.trace("the power was off")
        state.withLock { state in
            let isKept = state.keeping()
            for change in state.changes where isKept(&state) {
                for (directory, name, inode) in change { directory.durableNames[name] = inode }
            }
            state.changes = []
            // In an order of their own, or chance would fall differently in every process.
            for (_, inode) in state.all(durable: true) {
                inode.names = inode.durableNames
                inode.keepChanges { isKept(&state) }
                inode.current = inode.durable
                state.note(inode.durable)
            }
            state.callsLeft = nil
            state.isDown = false
            state.boot += 1
        }
    }

    /// Lets the process start again; the system stays, and with it all that was not yet written.
    func restartProcess() {
        Self.trace("the process starts again")
        state.withLock { $0.boot += 1 }
    }

    private static func trace(_ what: @autoclosure () -> String) {
        if isTracing { print(what()) }
    }

    /// Makes a call, unless the power is off, or goes off with it, or the call is to fail.
    private func call<T: Sendable>(
        _ operation: String, _ path: String, changes: Bool = true, takesSpace: Bool = false,
        failing: (inout State) -> Void = { _ in },
        _ body: (inout State) throws(FileError) -> T
    ) throws(FileError) -> T {
        try state.withLock { state throws(FileError) in
            state.note("\(operation) \(path)\n".utf8)
            Self.trace("\(operation) \(path)")
            if changes, let left = state.callsLeft {
                state.callsLeft = left - 1
                // Half of the last calls are made, though nobody hears of it.
                if left == 0 {
                    state.isDown = true
                    if Bool.random(using: &state.generator) { _ = try body(&state) }
                }
            }
            guard !state.isDown else { throw FileError(operation, path, code: EIO) }
            if let code = state.fails(operation, path, takesSpace: takesSpace) {
                Self.trace("  it fails: \(code)")
                failing(&state)
                throw FileError(operation, path, code: code)
            }
            return try body(&state)
        }
    }

    // MARK: FileSystem

    func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File {
        let (inode, boot) = try call(
            mode == .create ? "create" : "open", path, changes: mode == .create,
            takesSpace: mode == .create
        ) { (state) throws(FileError) in
            if let inode = state.find(path) {
                guard !inode.isDirectory else { throw FileError("open", path, code: EISDIR) }
                if mode == .create, !inode.current.isEmpty { inode.truncate(to: 0) }
                return (inode, state.boot)
            }
            guard mode == .create else { throw FileError("open", path, code: ENOENT) }
            let inode = Inode(isDirectory: false)
            try state.rename("create", [(path, inode)])
            return (inode, state.boot)
        }
        return SimulatedFile(inode, path: path, disk: self, boot: boot)
    }

    func size(of path: String) throws(FileError) -> Int? {
        try call("look at", path, changes: false) { $0.find(path)?.current.count }
    }

    func contents(of directory: String) throws(FileError) -> [String] {
        try call("list", directory, changes: false) { (state) throws(FileError) in
            guard let inode = state.find(directory) else {
                throw FileError("list", directory, code: ENOENT)
            }
            return inode.names.keys.sorted()
        }
    }

    func isDirectory(_ path: String) throws(FileError) -> Bool {
        try call("look at", path, changes: false) { $0.find(path)?.isDirectory ?? false }
    }

    func makeDirectory(_ path: String) throws(FileError) {
        try call("make", path, takesSpace: true) { (state) throws(FileError) in
            guard state.find(path) == nil else { return }
            try state.rename("make", [(path, Inode(isDirectory: true))])
        }
    }

    func rename(_ path: String, to newPath: String) throws(FileError) {
        try call("rename", path, takesSpace: true) { (state) throws(FileError) in
            guard let inode = state.find(path) else {
                throw FileError("rename", path, code: ENOENT)
            }
            try state.rename("rename", [(path, nil), (newPath, inode)])
        }
    }

    func remove(_ path: String) throws(FileError) {
        try call("remove", path) { (state) throws(FileError) in
            guard let inode = state.find(path) else { return }
            guard !inode.isDirectory else { throw FileError("remove", path, code: EISDIR) }
            try state.rename("remove", [(path, nil)])
        }
    }

    func removeDirectory(_ path: String) throws(FileError) {
        try call("remove", path) { (state) throws(FileError) in
            guard let inode = state.find(path) else { return }
            guard inode.names.isEmpty else { throw FileError("remove", path, code: ENOTEMPTY) }
            try state.rename("remove", [(path, nil)])
        }
    }

    func syncDirectory(_ path: String) throws(FileError) {
        let failing: (inout State) -> Void = { state in
            // Some of it is durable; what is not may be lost still, or made durable the next time.
            guard let directory = state.find(path) else { return }
            let isKept = state.keeping()
            var left: [NameChange] = []
            for change in state.takeChanges(of: directory) {
                guard left.isEmpty, isKept(&state) else {
                    left.append(change)
                    continue
                }
                for (directory, name, inode) in change { directory.durableNames[name] = inode }
            }
            state.changes += left
        }
        try call("sync directory", path, failing: failing) { (state) throws(FileError) in
            guard let directory = state.find(path) else {
                throw FileError("sync", path, code: ENOENT)
            }
            for change in state.takeChanges(of: directory) {
                for (directory, name, inode) in change { directory.durableNames[name] = inode }
            }
        }
    }

    func syncFileSystem(_ path: String) throws(FileError) -> Bool {
        let failing: (inout State) -> Void = { state in
            let isKept = state.keeping()
            state.syncAll { isKept(&$0) }
        }
        return try call("sync file system", path, failing: failing) { state in
            state.syncAll { _ in true }
            return true
        }
    }

    func volume(of directory: String) throws(FileError) -> (any Volume)? {
        SimulatedVolume(directory, disk: self)
    }

    func lock(_ path: String) throws(FileError) -> (any FileLock)? { NoLock() }

    private final class NoLock: FileLock {
        func unlock() {}
    }

    // MARK: Files

    fileprivate func file<T: Sendable>(
        _ operation: String, _ path: String, _ boot: Int, changes: Bool = true,
        writing bytes: [UInt8] = [], failing: (inout State) -> Void = { _ in },
        _ body: (inout State) -> T
    ) throws(FileError) -> T {
        try call(
            operation, path, changes: changes, takesSpace: !bytes.isEmpty, failing: failing
        ) { (state) throws(FileError) in
            state.note(bytes)
            guard state.boot == boot else { throw FileError(operation, path, code: EBADF) }
            return body(&state)
        }
    }
}

// MARK: Names

extension SimulatedDisk.State {
    typealias Inode = SimulatedDisk.Inode

    private static func names(in path: String) -> [String] {
        path.split(separator: "/").map { String($0) }
    }

    func find(_ path: String) -> Inode? {
        var inode: Inode? = root
        for name in Self.names(in: path) { inode = inode?.names[name] }
        return inode
    }

    /// Lets each path mean what stands beside it, all at once as far as the disk is concerned.
    mutating func rename(
        _ operation: String, _ targets: [(path: String, inode: Inode?)]
    ) throws(FileError) {
        var change: SimulatedDisk.NameChange = []
        for (path, inode) in targets {
            let names = Self.names(in: path)
            let parent = find("/" + names.dropLast().joined(separator: "/"))
            guard let parent, parent.isDirectory, let name = names.last else {
                throw FileError(operation, path, code: ENOENT)
            }
            change.append((parent, name, inode))
        }
        for (directory, name, inode) in change { directory.names[name] = inode }
        changes.append(change)
    }

    /// The changes of a directory's names that are not durable, which are forgotten.
    mutating func takeChanges(of directory: Inode) -> [SimulatedDisk.NameChange] {
        let taken = changes.filter { $0[0].directory === directory }
        changes.removeAll { $0[0].directory === directory }
        return taken
    }

    /// Makes durable what `isKept` says of all that was changed, and forgets the rest.
    mutating func syncAll(where isKept: (inout Self) -> Bool) {
        // Names that are not may be lost still, or made durable the next time; bytes are not tried again.
        while let change = changes.first, isKept(&self) {
            for (directory, name, inode) in change { directory.durableNames[name] = inode }
            changes.removeFirst()
        }
        for (_, inode) in all(durable: false) { inode.keepChanges { isKept(&self) } }
    }

    /// All files and directories there are, in the order of their paths.
    func all(durable: Bool) -> [(path: String, inode: Inode)] {
        var found: [(path: String, inode: Inode)] = []
        func visit(_ path: String, _ inode: Inode) {
            found.append((path, inode))
            let names = durable ? inode.durableNames : inode.names
            for (name, child) in names.sorted(by: { $0.key < $1.key }) {
                visit("\(path)/\(name)", child)
            }
        }
        visit("", root)
        return found
    }

    /// What tells of each thing that isn't durable whether it is kept; often all, or nothing.
    mutating func keeping() -> (inout Self) -> Bool {
        let chances: [Double] = [0, 0.5, 0.9, 1]
        let chance = chances[Int.random(in: 0..<4, using: &generator)]
        return { Double.random(in: 0..<1, using: &$0.generator) < chance }
    }
}

// MARK: Bytes

extension SimulatedDisk.Inode {
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

    func write(_ bytes: [UInt8], at position: Int, landingAt landing: Int? = nil) {
        Self.write(bytes[...], at: position, to: &current)
        changes.append(.write(position: landing ?? position, bytes: bytes))
    }

    func truncate(to size: Int) {
        Self.resize(&current, to: size)
        changes.append(.truncate(to: size))
    }

    /// Makes durable what `isKept` says of the changes, sector by sector, and forgets the others.
    func keepChanges(where isKept: () -> Bool) {
        for change in changes {
            switch change {
            case .truncate(let size):
                if isKept() { Self.resize(&durable, to: size) }
            case .write(let position, let written):
                var start = 0
                while start < written.count {
                    let sector = (position + start) / SimulatedDisk.sectorSize
                    let end = min(
                        written.count, (sector + 1) * SimulatedDisk.sectorSize - position)
                    if isKept() {
                        Self.write(written[start..<end], at: position + start, to: &durable)
                    }
                    start = end
                }
            }
        }
        changes = []
    }

    /// What is in memory is what the disk has, except for what is still to be written.
    func dropCache() {
        guard changes.isEmpty else { return }
        let size = current.count
        current = durable
        // How long the file is remains known.
        if size != current.count { truncate(to: size) }
    }
}

private final class SimulatedVolume: Volume {
    private let directory: String
    private let disk: SimulatedDisk

    init(_ directory: String, disk: SimulatedDisk) {
        self.directory = directory
        self.disk = disk
    }

    func sync() throws(FileError) { _ = try disk.syncFileSystem(directory) }
    func contains(_ directory: String) -> Bool { true }
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
        try disk.file("look at", path, boot, changes: false) { _ in inode.current.count }
    }

    func read(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int {
        try disk.file("read", path, boot, changes: false) { _ in
            let end = min(inode.current.count, position + buffer.count)
            guard position < end else { return 0 }
            buffer.copyBytes(from: inode.current[position..<end])
            return end - position
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(FileError) {
        let bytes = Array(bytes)
        // Some of it is written all the same.
        let failing: (inout SimulatedDisk.State) -> Void = { state in
            let count = Int.random(in: 0...bytes.count, using: &state.generator)
            if count > 0 { self.inode.write(Array(bytes[..<count]), at: position) }
        }
        try disk.file("write", path, boot, writing: bytes, failing: failing) { state in
            inode.write(bytes, at: position, landingAt: state.landing(of: position))
        }
    }

    func truncate(to size: Int) throws(FileError) {
        try disk.file("truncate", path, boot) { _ in inode.truncate(to: size) }
    }

    func syncData() throws(FileError) {
        // What the disk didn't take is not tried again, though memory still has it.
        let failing: (inout SimulatedDisk.State) -> Void = { state in
            let isKept = state.keeping()
            self.inode.keepChanges { isKept(&state) }
        }
        try disk.file("sync", path, boot, failing: failing) { _ in inode.keepChanges { true } }
    }

    func sync() throws(FileError) {
        try syncData()
    }

    func dropCache() {
        _ = try? disk.file("drop", path, boot, changes: false) { _ in inode.dropCache() }
    }
}
