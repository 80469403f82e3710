/// The file system that a directory is on, as far as it can be synced as a whole.
///
/// A failure names no file: nothing on it can be relied on afterwards.
package protocol Volume: AnyObject, Sendable {
    /// Makes durable all that was written to any of its files, and all names made, changed or removed.
    ///
    /// One thread at a time, since only one is told of an error.
    /// - Throws: also when anything written since the volume was opened could not be brought to the
    ///   disk, whoever wrote it.
    func sync() throws(FileError)
    /// Whether the files in `directory` are on it.
    func contains(_ directory: String) -> Bool
}

extension FileSystem {
    /// None: each file is synced on its own.
    package func volume(of directory: String) throws(FileError) -> (any Volume)? { nil }
}
