import Glibc
import Synchronization

/// Keeps the number of open segment files within a bound; for all logs of a process together.
///
/// Of those that are open the ones not used lately are closed, and opened again when they are needed. A
/// file with bytes that were not synced stays open, since a later descriptor might not hear that they
/// could not be written: while there are too many of those, a thread syncs the oldest, and the bound is
/// exceeded for that long.
package final class FileHandles: Sendable {
    /// How many files are to be open at most.
    package let limit: Int
    private let state = Mutex(State())

    private struct Entry {
        weak var file: LimitedFile?
    }

    private struct State {
        /// The files that are open, in no order, and some that are gone.
        var entries: [Entry] = []
        /// The next to be looked at.
        var hand = 0
        var isSyncing = false
    }

    package init(limit: Int) {
        self.limit = max(1, limit)
    }

    /// Raises what the system allows this process as far as it may, and returns that.
    package static func raiseSystemLimit() -> Int {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(7), &limit) == 0 else { return 1_024 }
        if limit.rlim_cur < limit.rlim_max {
            var raised = limit
            raised.rlim_cur = limit.rlim_max
            if setrlimit(__rlimit_resource_t(7), &raised) == 0 { limit = raised }
        }
        return Int(clamping: limit.rlim_cur)
    }

    /// The number of files that are open.
    package var count: Int {
        state.withLock { state in state.entries.count { $0.file?.isOpen ?? false } }
    }

    /// Makes room for one more.
    fileprivate func admit(_ file: LimitedFile) {
        let startsSyncing = state.withLock { state in
            var tries = 32
            while state.entries.count >= limit, tries > 0 {
                tries -= 1
                closeOne(&state)
            }
            state.entries.append(Entry(file: file))
            guard state.entries.count > limit, !state.isSyncing else { return false }
            state.isSyncing = true
            return true
        }
        if startsSyncing { startSyncing() }
    }

    /// Looks at one file, and closes it if it was not used lately and may be closed.
    private func closeOne(_ state: inout State) {
        guard !state.entries.isEmpty else { return }
        if state.hand >= state.entries.count { state.hand = 0 }
        let file = state.entries[state.hand].file
        if let file, file.wasUsed() || !file.closeIfDurable() {
            state.hand += 1
        } else {
            state.entries.swapAt(state.hand, state.entries.count - 1)
            state.entries.removeLast()
        }
    }

    /// Closes files until a call that found no descriptor left may go better.
    fileprivate func makeRoom() {
        state.withLock { state in
            let count = state.entries.count
            for _ in 0..<(count * 2) where state.entries.count + 64 > count { closeOne(&state) }
        }
    }

    /// Syncs files until few enough are left that may not be closed.
    private func startSyncing() {
        let argument = Unmanaged.passRetained(self)
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<FileHandles>.fromOpaque(argument).takeRetainedValue().syncSome()
                return nil
            }, argument.toOpaque())
        guard code == 0 else {
            argument.release()
            return state.withLock { $0.isSyncing = false }
        }
        pthread_detach(thread)
    }

    private func syncSome() {
        // A little more than has to be, so that the next file doesn't need the same again.
        let target = limit - limit / 8
        var mayGoOn = true
        while true {
            let files = state.withLock { state -> [LimitedFile]? in
                state.entries.removeAll { !($0.file?.isOpen ?? false) }
                state.hand = 0
                // More may have come meanwhile, and nobody after them.
                guard mayGoOn, state.entries.count > limit else {
                    state.isSyncing = false
                    return nil
                }
                // The oldest are first, but for those that took the place of another.
                return state.entries.prefix(state.entries.count - target).compactMap(\.file)
            }
            guard let files else { return }
            mayGoOn = false
            for file in files {
                file.syncForRoom()
                if file.closeIfDurable() { mayGoOn = true }
            }
        }
    }
}

/// A file system whose segment files are open only while `handles` has room for them.
package struct LimitedFileSystem: FileSystem {
    fileprivate let base: any FileSystem
    fileprivate let handles: FileHandles

    package init(_ base: any FileSystem, handles: FileHandles) {
        self.base = base
        self.handles = handles
    }

    package func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File {
        guard path.hasSuffix(".log") else {
            return try withRoom { () throws(FileError) in try base.open(path, mode) }
        }
        return try LimitedFile(path, mode, of: self)
    }

    /// Tries again when there is no descriptor left, which passes; at first after closing others.
    fileprivate func withRoom<T>(_ body: () throws(FileError) -> T) throws(FileError) -> T {
        var tries = 0
        while true {
            do throws(FileError) {
                return try body()
            } catch {
                tries += 1
                guard error.isOutOfDescriptors, tries < 50 else { throw error }
                handles.makeRoom()
                // Other parts of the process have them, and give some back in time.
                if tries > 2 { usleep(10_000) }
            }
        }
    }

    package func size(of path: String) throws(FileError) -> Int? { try base.size(of: path) }
    package func contents(of directory: String) throws(FileError) -> [String] {
        try withRoom { () throws(FileError) in try base.contents(of: directory) }
    }
    package func isDirectory(_ path: String) throws(FileError) -> Bool {
        try base.isDirectory(path)
    }
    package func makeDirectory(_ path: String) throws(FileError) { try base.makeDirectory(path) }
    package func rename(_ path: String, to newPath: String) throws(FileError) {
        try base.rename(path, to: newPath)
    }
    package func remove(_ path: String) throws(FileError) { try base.remove(path) }
    package func removeDirectory(_ path: String) throws(FileError) {
        try base.removeDirectory(path)
    }
    package func syncDirectory(_ path: String) throws(FileError) {
        try withRoom { () throws(FileError) in try base.syncDirectory(path) }
    }
    package func space(at path: String) throws(FileError) -> FileSystemSpace? {
        try base.space(at: path)
    }
    package func syncFileSystem(_ path: String) throws(FileError) -> Bool {
        try withRoom { () throws(FileError) in try base.syncFileSystem(path) }
    }
    package func volume(of directory: String) throws(FileError) -> (any Volume)? {
        try base.volume(of: directory)
    }
    package func lock(_ path: String) throws(FileError) -> (any FileLock)? {
        try base.lock(path)
    }
}

/// A file that is closed while it isn't used, as long as nobody can tell.
private final class LimitedFile: File {
    private struct State {
        /// `nil` while it is closed.
        var file: (any File)?
        /// Counts what has been changed, and how much of that is durable.
        var changes: UInt64 = 0
        var durable: UInt64 = 0
        /// How many calls are under way that change it.
        var writers = 0
        /// All that there was in it has been made durable once.
        var wasSynced = false
        /// What a sync met that nobody asked for; told to all who ask later.
        var failure: FileError?
    }

    private let path: String
    private let system: LimitedFileSystem
    let identity: FileIdentity?
    private let state: Mutex<State>
    private let isInUse = Atomic<Bool>(true)

    init(_ path: String, _ mode: FileMode, of system: LimitedFileSystem) throws(FileError) {
        let file = try system.withRoom { () throws(FileError) in try system.base.open(path, mode) }
        self.path = path
        self.system = system
        identity = file.identity
        // One that was just made may have been emptied.
        state = Mutex(State(file: file, changes: mode == .create ? 1 : 0))
        system.handles.admit(self)
    }

    /// Without waiting, since whoever is about to open it may wait for the handles.
    var isOpen: Bool { state.withLockIfAvailable { $0.file != nil } ?? true }

    /// Whether it was used since this was asked last.
    func wasUsed() -> Bool { isInUse.exchange(false, ordering: .relaxed) }

    /// Returns whether the file is closed now; whoever uses it at this moment keeps it for so long.
    func closeIfDurable() -> Bool {
        state.withLockIfAvailable { state in
            guard state.changes == state.durable, state.writers == 0, state.failure == nil else {
                return false
            }
            state.file = nil
            return true
        } ?? false
    }

    func syncForRoom() {
        do throws(FileError) {
            try sync(ifOpen: true) { file throws(FileError) in try file.syncData() }
        } catch {
            state.withLock { $0.failure = $0.failure ?? error }
        }
    }

    private func open() throws(FileError) -> (file: any File, changes: UInt64) {
        isInUse.store(true, ordering: .relaxed)
        var isNew = false
        let opened = try state.withLock { state throws(FileError) in
            if let failure = state.failure { throw failure }
            if let file = state.file { return (file, state.changes) }
            let file = try system.withRoom { () throws(FileError) in
                try system.base.open(path, .readWrite)
            }
            // Another file has its name now.
            guard file.identity == identity else {
                throw FileError("open", path, code: ESTALE)
            }
            state.file = file
            isNew = true
            return (file, state.changes)
        }
        if isNew { system.handles.admit(self) }
        return opened
    }

    private func noteDurable(_ changes: UInt64) {
        state.withLock { state in
            state.durable = max(state.durable, changes)
            state.wasSynced = true
        }
    }

    private func change(_ body: (any File) throws(FileError) -> Void) throws(FileError) {
        // Before, lest the file is closed meanwhile.
        state.withLock { $0.writers += 1 }
        defer {
            // Afterwards, since a sync that has begun before covers nothing of it; nor is it known what a
            // call has changed that failed.
            state.withLock { state in
                state.writers -= 1
                state.changes += 1
            }
        }
        try body(open().file)
    }

    func size() throws(FileError) -> Int { try open().file.size() }

    func read(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int {
        try open().file.read(into: buffer, at: position)
    }

    func readCached(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int? {
        try open().file.readCached(into: buffer, at: position)
    }

    func prefetch(_ range: Range<Int>) {
        (try? open())?.file.prefetch(range)
    }

    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(FileError) {
        try change { file throws(FileError) in try file.write(bytes, at: position) }
    }

    func truncate(to size: Int) throws(FileError) {
        try change { file throws(FileError) in try file.truncate(to: size) }
    }

    func reserve(_ range: Range<Int>) {
        (try? open())?.file.reserve(range)
    }

    func syncData() throws(FileError) {
        try sync { file throws(FileError) in try file.syncData() }
    }

    func sync() throws(FileError) {
        try sync { file throws(FileError) in try file.sync() }
    }

    /// - Parameter ifOpen: only what was changed here counts, of which a closed file has none.
    private func sync(
        ifOpen: Bool = false, _ body: (any File) throws(FileError) -> Void
    ) throws(FileError) {
        let (open, changes, isKnown) = try state.withLock { state throws(FileError) in
            if let failure = state.failure { throw failure }
            return (state.file, state.changes, state.wasSynced)
        }
        // It is closed only when all that was changed here is durable. But if nothing has synced it so
        // far there may be what an earlier process has written.
        if open == nil, isKnown || ifOpen { return }
        let file = if let open { open } else { try self.open().file }
        try body(file)
        noteDurable(changes)
    }

    func dropCache() {
        (try? open())?.file.dropCache()
    }
}

/// What tells a file from another that has got its name.
package struct FileIdentity: Hashable, Sendable {
    package var device: UInt64
    package var number: UInt64
    /// Differs when the number is given to another file.
    package var generation: UInt64

    package init(device: UInt64, number: UInt64, generation: UInt64) {
        self.device = device
        self.number = number
        self.generation = generation
    }
}
