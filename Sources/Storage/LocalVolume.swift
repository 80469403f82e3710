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

    /// - Returns: `nil` unless the kernel and the file system are known to report errors.
    package init?(of directory: String) throws(FileError) {
        let descriptor = Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FileError("open", directory, code: errno) }
        var status = stat()
        // The first number in it says what kind of file system it is.
        var kind = [Int](repeating: 0, count: 64)
        guard fstatfs(descriptor, &kind) == 0, Self.fileSystems.contains(kind[0]),
            Self.reportsErrors(release: Self.release, isExt: kind[0] == Self.ext4),
            fstat(descriptor, &status) == 0
        else {
            close(descriptor)
            return nil
        }
        self.descriptor = descriptor
        path = directory
        device = status.st_dev
    }

    deinit {
        close(descriptor)
    }

    package func sync() throws(FileError) {
        // Whatever it says, an interruption too: a second call would not be told of it.
        guard syncfs(descriptor) == 0 else {
            throw FileError("sync file system", path, code: errno)
        }
        // Without a journal ext4 empties the disk's own cache first, and then writes what it knows of
        // files: sizes and places. The directory's sync empties it once more, and any file system that
        // could not write its journal says so here.
        guard fsync(descriptor) == 0 else {
            throw FileError("sync file system", path, code: errno)
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

    private static let release: String = {
        var name = utsname()
        guard uname(&name) == 0 else { return "" }
        return withUnsafeBytes(of: &name.release) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
    }()

    /// Since Linux 5.8 `syncfs` tells what could not be written; before, only that it was tried.
    ///
    /// Until 5.17 it doesn't pass on what the file system itself says; what matters of that the sync of
    /// the directory tells on ext2 to ext4.
    package static func reportsErrors(release: String, isExt: Bool) -> Bool {
        let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        guard numbers.count == 2 else { return false }
        return (numbers[0], numbers[1]) >= (5, isExt ? 8 : 17)
    }
}
