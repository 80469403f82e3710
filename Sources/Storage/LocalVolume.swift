import Glibc

// Linux has these; the module of its C library leaves them out.
@_silgen_name("syncfs")
private func syncfs(_ descriptor: Int32) -> Int32
/// `status` has room for a `struct statfs`, of 120 bytes on 64-bit systems.
@_silgen_name("fstatfs")
private func fstatfs(_ descriptor: Int32, _ status: UnsafeMutablePointer<Int>) -> Int32

/// One of this machine's file systems, by a descriptor of a directory that stays open: the kernel
/// reports through it what failed since it was opened.
package final class LocalVolume: Volume {
    private let descriptor: Int32
    private let path: String
    private let device: dev_t
    private let needsFlush: Bool

    /// - Returns: `nil` unless the kernel and the file system are known to report errors.
    package init?(of directory: String) throws(FileError) {
        guard Self.kernelReportsErrors else { return nil }
        let descriptor = Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FileError("open", directory, code: errno) }
        var status = stat()
        // The first number in it says what kind of file system it is.
        var kind = [Int](repeating: 0, count: 64)
        guard fstatfs(descriptor, &kind) == 0, Self.fileSystems.contains(kind[0]),
            fstat(descriptor, &status) == 0
        else {
            close(descriptor)
            return nil
        }
        self.descriptor = descriptor
        path = directory
        device = status.st_dev
        needsFlush = kind[0] == Self.ext4
    }

    deinit {
        close(descriptor)
    }

    package func sync() throws(FileError) {
        while syncfs(descriptor) != 0 {
            let code = errno
            // Nothing has been looked at yet.
            if code == EINTR { continue }
            throw FileError("sync file system", path, code: code)
        }
        // Without a journal ext4 empties the disk's own cache first, and then writes what it knows of
        // files: sizes and places. The directory's sync empties it once more.
        while needsFlush, fsync(descriptor) != 0 {
            let code = errno
            if code == EINTR { continue }
            throw FileError("sync file system", path, code: code)
        }
    }

    package func contains(_ directory: String) -> Bool {
        var status = stat()
        return stat(directory, &status) == 0 && status.st_dev == device
    }

    /// ext2 to ext4, XFS and Btrfs.
    ///
    /// Others need not pass on what the file system below them says (overlayfs), or ask it at all
    /// (FUSE).
    private static let fileSystems: Set<Int> = [ext4, 0x5846_5342, 0x9123_683e]
    /// Of ext2 and ext3 as well.
    private static let ext4 = 0xef53

    /// Since Linux 5.8 `syncfs` tells what could not be written; before, only that it was tried.
    private static let kernelReportsErrors: Bool = {
        var name = utsname()
        guard uname(&name) == 0 else { return false }
        let release = withUnsafeBytes(of: &name.release) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        return reportsErrors(release: release)
    }()

    package static func reportsErrors(release: String) -> Bool {
        let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        guard numbers.count == 2 else { return false }
        return (numbers[0], numbers[1]) >= (5, 8)
    }
}
