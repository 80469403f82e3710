import Glibc

// Linux has it; the module of its C library leaves it out.
@_silgen_name("fallocate")
private func fallocate(_ file: Int32, _ mode: Int32, _ start: off_t, _ length: off_t) -> Int32

/// This machine's file systems, by system calls.
package struct LocalFileSystem: FileSystem {
    package init() {}

    package func open(_ path: String, _ mode: FileMode) throws(FileError) -> any File {
        let flags =
            switch mode {
            case .readOnly: O_RDONLY
            case .readWrite: O_RDWR
            case .create: O_RDWR | O_CREAT | O_TRUNC
            }
        let descriptor = try call("open", path) { Glibc.open(path, flags | O_CLOEXEC, 0o644) }
        return LocalFile(descriptor: descriptor, path: path)
    }

    package func size(of path: String) throws(FileError) -> Int? {
        guard let status = try status(of: path) else { return nil }
        guard status.st_mode & S_IFMT == S_IFREG else {
            throw FileError("use as a file", path, code: EISDIR)
        }
        return Int(status.st_size)
    }

    package func isDirectory(_ path: String) throws(FileError) -> Bool {
        guard let status = try status(of: path) else { return false }
        return status.st_mode & S_IFMT == S_IFDIR
    }

    private func status(of path: String) throws(FileError) -> stat? {
        var status = stat()
        if stat(path, &status) == 0 { return status }
        let code = errno
        guard code == ENOENT || code == ENOTDIR else {
            throw FileError("look at", path, code: code)
        }
        return nil
    }

    package func contents(of directory: String) throws(FileError) -> [String] {
        guard let stream = opendir(directory) else {
            throw FileError("list", directory, code: errno)
        }
        defer { closedir(stream) }
        var names: [String] = []
        while true {
            errno = 0
            guard let entry = readdir(stream) else {
                let code = errno
                guard code == 0 else { throw FileError("list", directory, code: code) }
                break
            }
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    package func makeDirectory(_ path: String) throws(FileError) {
        if mkdir(path, 0o755) == 0 { return }
        let code = errno
        if code == EEXIST, try isDirectory(path) { return }
        throw FileError("make the directory", path, code: code)
    }

    package func rename(_ path: String, to newPath: String) throws(FileError) {
        try call("rename", path) { Glibc.rename(path, newPath) }
    }

    package func remove(_ path: String) throws(FileError) {
        if unlink(path) == 0 { return }
        let code = errno
        if code != ENOENT { throw FileError("remove", path, code: code) }
    }

    package func removeDirectory(_ path: String) throws(FileError) {
        try call("remove", path) { rmdir(path) }
    }

    package func syncDirectory(_ path: String) throws(FileError) {
        let descriptor = try call("open", path) {
            Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        }
        defer { close(descriptor) }
        try call("sync", path) { fsync(descriptor) }
    }

    package func space(at path: String) throws(FileError) -> FileSystemSpace? {
        var figures = statvfs()
        guard statvfs(path, &figures) == 0 else {
            throw FileError("look at the file system of", path, code: errno)
        }
        let block = Int(clamping: figures.f_frsize)
        let free = Int(clamping: figures.f_bavail).multipliedReportingOverflow(by: block)
        let total = Int(clamping: figures.f_blocks).multipliedReportingOverflow(by: block)
        return FileSystemSpace(
            free: free.overflow ? .max : free.partialValue,
            total: total.overflow ? .max : total.partialValue)
    }

    package func syncFileSystem(_ path: String) throws(FileError) -> Bool {
        guard let volume = try LocalVolume(of: path) else { return false }
        try volume.sync()
        return true
    }

    package func volume(of directory: String) throws(FileError) -> (any Volume)? {
        try LocalVolume(of: directory)
    }

    package func lock(_ path: String) throws(FileError) -> (any FileLock)? {
        let descriptor = try call("open", path) {
            Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        }
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            let code = errno
            if code == EINTR { continue }
            close(descriptor)
            if code == EWOULDBLOCK { return nil }
            throw FileError("lock", path, code: code)
        }
        return LocalFileLock(descriptor: descriptor)
    }
}

/// Repeats `body` while it is interrupted.
@discardableResult
private func call<T: SignedInteger>(
    _ operation: String, _ path: String, _ body: () -> T
) throws(FileError) -> T {
    while true {
        let result = body()
        if result >= 0 { return result }
        let code = errno
        if code != EINTR { throw FileError(operation, path, code: code) }
    }
}

/// `preadv2`, which Swift's view of the C library leaves out.
private enum CachedRead {
    typealias Function =
        @convention(c) (
            Int32, UnsafePointer<iovec>, Int32, off_t, Int32
        ) -> Int

    /// `RWF_NOWAIT`.
    static let noWait: Int32 = 8

    /// `nil` where the C library doesn't have it.
    static let function: Function? = dlsym(nil, "preadv2").map {
        unsafeBitCast($0, to: Function.self)
    }
}

private final class LocalFile: File {
    private let descriptor: Int32
    private let path: String

    init(descriptor: Int32, path: String) {
        self.descriptor = descriptor
        self.path = path
    }

    deinit {
        close(descriptor)
    }

    var identity: FileIdentity? {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { return nil }
        // FS_IOC_GETVERSION; where that is unknown, the number has to do.
        var generation: Int = 0
        if ioctl(descriptor, 0x8008_7601, &generation) != 0 { generation = 0 }
        return FileIdentity(
            device: UInt64(status.st_dev), number: UInt64(status.st_ino),
            generation: UInt64(truncatingIfNeeded: generation))
    }

    func size() throws(FileError) -> Int {
        var status = stat()
        try call("look at", path) { fstat(descriptor, &status) }
        return Int(status.st_size)
    }

    func read(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int {
        var done = 0
        while done < buffer.count {
            let count = try call("read", path) {
                pread(
                    descriptor, buffer.baseAddress?.advanced(by: done), buffer.count - done,
                    off_t(position + done))
            }
            if count == 0 { break }
            done += count
        }
        return done
    }

    func readCached(
        into buffer: UnsafeMutableRawBufferPointer, at position: Int
    ) throws(FileError) -> Int? {
        guard let read = CachedRead.function else { return nil }
        var done = 0
        while done < buffer.count {
            var piece = iovec(
                iov_base: buffer.baseAddress?.advanced(by: done), iov_len: buffer.count - done)
            let count = read(descriptor, &piece, 1, off_t(position + done), CachedRead.noWait)
            if count < 0 {
                switch errno {
                case EINTR: continue
                // Not in memory; or a file system that can't tell, and is then taken to be slow.
                case EAGAIN, EOPNOTSUPP, ENOSYS, EINVAL: return nil
                case let code: throw FileError("read", path, code: code)
                }
            }
            if count == 0 { break }
            done += count
        }
        return done
    }

    func prefetch(_ range: Range<Int>) {
        _ = posix_fadvise(
            descriptor, off_t(range.lowerBound), off_t(range.count), POSIX_FADV_WILLNEED)
    }

    func write(_ bytes: UnsafeRawBufferPointer, at position: Int) throws(FileError) {
        var done = 0
        while done < bytes.count {
            let count = try call("write", path) {
                pwrite(
                    descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done,
                    off_t(position + done))
            }
            // It is not said to happen, and must not become an endless loop.
            guard count > 0 else { throw FileError("write", path, code: EIO) }
            done += count
        }
    }

    func truncate(to size: Int) throws(FileError) {
        try call("truncate", path) { ftruncate(descriptor, off_t(size)) }
    }

    func reserve(_ range: Range<Int>) {
        let keepSize: Int32 = 1
        _ = fallocate(
            descriptor, keepSize, off_t(range.lowerBound), off_t(range.count))
    }

    func syncData() throws(FileError) {
        try call("sync", path) { fdatasync(descriptor) }
    }

    func sync() throws(FileError) {
        try call("sync", path) { fsync(descriptor) }
    }

    func dropCache() {
        // Some file systems can't, and then memory is all that there is to go by.
        _ = posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
    }
}

private final class LocalFileLock: FileLock, @unchecked Sendable {
    // Closed once: whoever unlocks also owns the only reference, or goes through `deinit`.
    private var descriptor: Int32

    init(descriptor: Int32) {
        self.descriptor = descriptor
    }

    deinit {
        unlock()
    }

    func unlock() {
        guard descriptor >= 0 else { return }
        close(descriptor)
        descriptor = -1
    }
}
