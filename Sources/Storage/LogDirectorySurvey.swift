package import Essentials
import Glibc

/// Which of a broker's configured log directories it can use, by what formatting left in them.
package struct LogDirectorySurvey: Sendable {
    package struct Usable: Sendable {
        package var path: String
        package var properties: MetaProperties
    }

    /// A directory whose disk, most likely, is broken or not mounted.
    package struct Unusable: Sendable {
        package var path: String
        package var reason: String
        /// As far as it could be read.
        package var directoryID: DirectoryID?

        package init(path: String, reason: String, directoryID: DirectoryID? = nil) {
            self.path = path
            self.reason = reason
            self.directoryID = directoryID
        }
    }

    package private(set) var usable: [Usable] = []
    package private(set) var unusable: [Unusable] = []

    /// Looks at the directories.
    ///
    /// One that is not formatted counts as not mounted: nothing is made in it.
    /// - Parameters:
    ///   - required: the directory that the broker can't do without, as it holds its metadata log.
    ///   - checksWriting: whether to write to each, too.
    /// - Throws: when a directory is somebody else's, or says something that can't be read, when the
    ///   required one can't be used, and when none can.
    package init(
        of directories: [String], required: String, nodeID: NodeID, clusterID: String? = nil,
        checksWriting: Bool = false
    ) throws(MetaPropertiesError) {
        var clusterID = clusterID
        var first: MetaPropertiesError?
        for directory in directories {
            var properties: MetaProperties?
            do throws(MetaPropertiesError) {
                let found = try MetaProperties.check(
                    directory, nodeID: nodeID, clusterID: clusterID)
                clusterID = found.clusterID
                properties = found
                if checksWriting { try MetaProperties.verifyWritable(directory) }
                usable.append(Usable(path: directory, properties: found))
            } catch {
                guard error.mayBeTheDisk, directory != required else { throw error }
                first = first ?? error
                unusable.append(
                    Unusable(
                        path: directory, reason: "\(error)",
                        directoryID: properties?.directoryID))
            }
        }
        if usable.isEmpty, let first { throw first }
    }
}

extension MetaPropertiesError {
    /// Whether a disk that is broken or not mounted looks like this.
    fileprivate var mayBeTheDisk: Bool {
        switch self {
        case .notFormatted: true
        case .failed(_, _, let code): FileError.isOfOneDisk(code)
        case .otherCluster, .otherNode, .otherVersion, .damaged: false
        }
    }
}

extension FileError {
    /// Whether other directories may be all right although this call failed so, and waiting for room, or
    /// for other processes to need less, does not help.
    package var isOfOneDisk: Bool { Self.isOfOneDisk(code) }

    static func isOfOneDisk(_ code: Int32) -> Bool {
        switch code {
        case EIO, ENOENT, ENOTDIR, EACCES, EPERM, EROFS, ENODEV, ENXIO, ESTALE, ENOTCONN, ELOOP,
            EISDIR, EUCLEAN, ETIMEDOUT, EREMOTEIO:
            true
        default: false
        }
    }
}
