import Glibc

/// The disk as storage sees it; nothing here touches files in any other way.
///
/// Each call blocks until it is done. Only what was synced outlives a power loss.
package protocol FileSystem: Sendable {
    func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File
    /// The bytes in the regular file at `path`; `nil` when nothing is there.
    func size(of path: String) throws(FileError) -> Int?
    /// The names in a directory, sorted; `.` and `..` are left out.
    func contents(of directory: String) throws(FileError) -> [String]
    func isDirectory(_ path: String) throws(FileError) -> Bool
    /// Makes one directory; it is no error when it is there already.
    func makeDirectory(_ path: String) throws(FileError)
    /// Renames a file, replacing one of the new name, or a directory.
    func rename(_ path: String, to newPath: String) throws(FileError)
    /// Removes a file; it is no error when there is none.
    func remove(_ path: String) throws(FileError)
    /// Removes a directory that is empty.
    func removeDirectory(_ path: String) throws(FileError)
    /// Makes the directory's entries durable: files made, renamed and removed.
    func syncDirectory(_ path: String) throws(FileError)
    /// How much room there is where `path` is; `nil` where that is not known.
    func space(at path: String) throws(FileError) -> FileSystemSpace?
    /// Makes everything durable that was written to the file system which `path` is on, by whomever.
    ///
    /// `false` if nobody would hear of a failure; then nothing may be taken to be durable.
    func syncFileSystem(_ path: String) throws(FileError) -> Bool
    /// Opens the file system that `directory` is on, for syncing all of it at once.
    ///
    /// - Returns: `nil` where errors would go unnoticed, or where it isn't known that they don't.
    func volume(of directory: String) throws(FileError) -> (any Volume)?
    /// Locks the file, making it if need be; `nil` while another process, or lock, holds it.
    func lock(_ path: String) throws(FileError) -> (any FileLock)?
}

/// The room of a file system, in bytes.
package struct FileSystemSpace: Hashable, Sendable {
    /// What this process may still use.
    package var free: Int
    package var total: Int

    package init(free: Int, total: Int) {
        self.free = free
        self.total = total
    }

    /// Whether less than a twentieth is left.
    package var isScarce: Bool { free < total / 20 }
}

extension FileSystem {
    package func space(at path: String) throws(FileError) -> FileSystemSpace? { nil }
}

/// How a file is opened.
package enum FileMode: Sendable {
    case readOnly
    case readWrite
    /// Made anew, and emptied if it was there.
    case create
}

/// One open file; closed when the last reference to it goes.
package protocol File: AnyObject, Sendable {
    /// What tells it from another file of its name; `nil` where that can't be told.
    var identity: FileIdentity? { get }
    func size() throws(FileError) -> Int
    /// Reads until `buffer` is full or the file ends; returns the bytes read.
    func read(into buffer: UnsafeMutableRawBufferPointer, at position: Int) throws(FileError) -> Int
    /// Reads like `read`, if all of it is in memory; `nil` when it would have to wait for the disk.
    func readCached(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int?
    /// Tells that these bytes will be wanted soon; doesn't wait for them.
    func prefetch(_ range: Range<Int>)
    /// Writes all of `bytes`; if it throws, any part of them may have been written.
    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(FileError)
    /// Cuts the file, or lets it grow by zeros; room that was set aside behind its end is given back.
    func truncate(to size: Int) throws(FileError)
    /// Sets room on the disk aside for what is to be written there; the file does not grow by it.
    ///
    /// Where that can't be done nothing happens: it is a matter of speed.
    func reserve(_ range: Range<Int>)
    /// Makes the file's bytes durable, and its size so far as they depend on it.
    func syncData() throws(FileError)
    /// Makes the file durable with all that is known about it.
    func sync() throws(FileError)
    /// Lets go of what is kept in memory of the file and not waiting to be written, so that the next
    /// read says what is on the disk.
    func dropCache()
}

extension FileSystem {
    /// Each file has to be synced.
    package func syncFileSystem(_ path: String) throws(FileError) -> Bool { false }
}

extension File {
    package var identity: FileIdentity? { nil }

    /// No room is set aside.
    package func reserve(_ range: Range<Int>) {}

    /// Nothing is kept in memory.
    package func dropCache() {}

    /// Nothing is known to have to wait.
    package func readCached(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int? {
        try read(into: buffer, at: position)
    }

    package func prefetch(_ range: Range<Int>) {}
}

/// A lock on a file; released by `unlock`, by the last reference, and by the end of the process.
package protocol FileLock: AnyObject, Sendable {
    func unlock()
}

/// A system call that failed.
package struct FileError: Error, Hashable, Sendable {
    /// What was tried, as a verb: "write"; all that makes something durable begins with "sync".
    package var operation: String
    package var path: String
    /// The `errno`.
    package var code: Int32

    package init(_ operation: String, _ path: String, code: Int32) {
        self.operation = operation
        self.path = path
        self.code = code
    }

    /// Whether the file is gone, or another has its name.
    var isOfLostFile: Bool { code == ENOENT || code == ESTALE }
    /// Whether the process, or the system, has as many files open as it may: that passes.
    package var isOutOfDescriptors: Bool { code == EMFILE || code == ENFILE }

    /// Whether it may succeed once there is space again.
    package var isOutOfSpace: Bool { code == ENOSPC || code == EDQUOT }

    /// Whether what was thought to be written may be lost, which no later sync would tell.
    ///
    /// A full disk that has no room for a file which is only being made says nothing of the others.
    package var isFailedSync: Bool {
        operation.hasPrefix("sync")
            && !(isOutOfSpace && (path.hasSuffix(".tmp") || path.hasSuffix(".cleaned")))
    }
}

extension FileError: CustomStringConvertible {
    package var description: String {
        "cannot \(operation) \(path): \(String(cString: strerror(code)))"
    }
}

extension FileSystem where Self == LocalFileSystem {
    /// This machine's disks.
    package static var local: LocalFileSystem { LocalFileSystem() }
}

extension FileSystem {
    /// The bytes of a small file; `nil` when there is none, or it is larger than `limit`.
    package func readFile(_ path: String, limit: Int = 64 << 20) throws(FileError) -> [UInt8]? {
        guard let size = try size(of: path), size <= limit else { return nil }
        let file = try open(path, .readOnly)
        var bytes = [UInt8](repeating: 0, count: size)
        let count = try file.read(intoArray: &bytes, at: 0)
        if count < size { bytes.removeLast(size - count) }
        return bytes
    }

    /// Replaces the file by one of these bytes; readers, and a restart, see the old or the new.
    ///
    /// The new one is durable when this returns.
    package func replaceFile(
        _ name: String, in directory: String, with bytes: [UInt8]
    ) throws(FileError) {
        let temporary = "\(directory)/\(name).tmp"
        do throws(FileError) {
            let file = try open(temporary, .create)
            try file.write(array: bytes, at: 0)
            try file.sync()
            try rename(temporary, to: "\(directory)/\(name)")
        } catch {
            try? remove(temporary)
            throw error
        }
        try syncDirectory(directory)
    }

    /// Makes the directory and those above it, each durable in the one above.
    package func makeDirectories(_ path: String) throws(FileError) {
        if try isDirectory(path) { return }
        let parent = parentDirectory(of: path)
        if parent != path { try makeDirectories(parent) }
        try makeDirectory(path)
        try syncDirectory(parent)
    }

    /// Removes a directory with the files in it.
    package func removeRecursively(_ path: String) throws(FileError) {
        for name in try contents(of: path) {
            let entry = "\(path)/\(name)"
            if try isDirectory(entry) {
                try removeRecursively(entry)
            } else {
                try remove(entry)
            }
        }
        try removeDirectory(path)
    }

}

/// The directory that `path` is in.
func parentDirectory(of path: String) -> String {
    var path = path[...]
    while path.count > 1, path.last == "/" { path.removeLast() }
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
}

extension File {
    func read(intoArray bytes: inout [UInt8], at position: Int) throws(FileError) -> Int {
        try bytes.withUnsafeMutableBytes { bytes -> Result<Int, FileError> in
            do throws(FileError) {
                return .success(try read(into: bytes, at: position))
            } catch {
                return .failure(error)
            }
        }.get()
    }

    func write(array bytes: [UInt8], at position: Int) throws(FileError) {
        try bytes.withUnsafeBytes { bytes -> Result<Void, FileError> in
            do throws(FileError) {
                return .success(try write(bytes, at: position))
            } catch {
                return .failure(error)
            }
        }.get()
    }
}
