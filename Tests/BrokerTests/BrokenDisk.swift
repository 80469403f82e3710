import Glibc
import Storage
import Synchronization

/// This machine's disk, of which parts can break.
final class BrokenDisk: FileSystem {
    private let disk = LocalFileSystem()
    private let state = Mutex(State())

    private struct State {
        /// Nothing below these paths works any more.
        var dead: Set<String> = []
        /// Below these, the next sync of a file fails, once.
        var failsNextSync: Set<String> = []
        var spaces: [String: FileSystemSpace] = [:]
    }

    func kill(_ path: String, _ isDead: Bool = true) {
        state.withLock { state in
            if isDead { state.dead.insert(path) } else { state.dead.remove(path) }
        }
    }

    func failNextSync(below path: String) {
        state.withLock { state in _ = state.failsNextSync.insert(path) }
    }

    func set(_ space: FileSystemSpace, at path: String) {
        state.withLock { $0.spaces[path] = space }
    }

    fileprivate func check(_ operation: String, _ path: String) throws(FileError) {
        let fails = state.withLock { state in
            state.dead.contains { path.hasPrefix($0) }
        }
        if fails { throw FileError(operation, path, code: EIO) }
    }

    fileprivate func checkSync(_ path: String) throws(FileError) {
        try check("sync", path)
        let failing = state.withLock { state in
            let failing = state.failsNextSync.first { path.hasPrefix($0) }
            if let failing { state.failsNextSync.remove(failing) }
            return failing
        }
        if failing != nil { throw FileError("sync", path, code: EIO) }
    }

    func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File {
        try check("open", path)
        return BrokenFile(file: try disk.open(path, mode), path: path, disk: self)
    }
    func size(of path: String) throws(FileError) -> Int? {
        try check("look at", path)
        return try disk.size(of: path)
    }
    func contents(of directory: String) throws(FileError) -> [String] {
        try check("list", directory)
        return try disk.contents(of: directory)
    }
    func isDirectory(_ path: String) throws(FileError) -> Bool {
        try check("look at", path)
        return try disk.isDirectory(path)
    }
    func makeDirectory(_ path: String) throws(FileError) {
        try check("make the directory", path)
        try disk.makeDirectory(path)
    }
    func rename(_ path: String, to newPath: String) throws(FileError) {
        try check("rename", path)
        try disk.rename(path, to: newPath)
    }
    func remove(_ path: String) throws(FileError) {
        try check("remove", path)
        try disk.remove(path)
    }
    func removeDirectory(_ path: String) throws(FileError) {
        try check("remove", path)
        try disk.removeDirectory(path)
    }
    func syncDirectory(_ path: String) throws(FileError) {
        try check("sync", path)
        try disk.syncDirectory(path)
    }
    func space(at path: String) throws(FileError) -> FileSystemSpace? {
        try check("look at", path)
        return state.withLock { $0.spaces[path] }
    }
    func lock(_ path: String) throws(FileError) -> (any FileLock)? {
        try check("lock", path)
        return try disk.lock(path)
    }
}

private final class BrokenFile: File {
    private let file: any File
    private let path: String
    private let disk: BrokenDisk

    init(file: any File, path: String, disk: BrokenDisk) {
        self.file = file
        self.path = path
        self.disk = disk
    }

    func size() throws(FileError) -> Int {
        try disk.check("look at", path)
        return try file.size()
    }
    func read(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int {
        try disk.check("read", path)
        return try file.read(into: buffer, at: position)
    }
    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(FileError) {
        try disk.check("write", path)
        try file.write(bytes, at: position)
    }
    func truncate(to size: Int) throws(FileError) {
        try disk.check("truncate", path)
        try file.truncate(to: size)
    }
    func syncData() throws(FileError) {
        try disk.checkSync(path)
        try file.syncData()
    }
    func sync() throws(FileError) {
        try disk.checkSync(path)
        try file.sync()
    }
    func dropCache() { file.dropCache() }
}
