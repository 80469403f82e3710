package import Essentials
import Glibc

/// What makes a directory one node's own: the `meta.properties` file that formatting leaves there.
package struct MetaProperties: Hashable, Sendable {
    package static let fileName = "meta.properties"

    package var clusterID: String
    package var nodeID: NodeID
    /// Differs from directory to directory, also on one node (KIP-858).
    package var directoryID: DirectoryID

    package init(clusterID: String, nodeID: NodeID, directoryID: DirectoryID) {
        self.clusterID = clusterID
        self.nodeID = nodeID
        self.directoryID = directoryID
    }

    /// Whether `text` may name a cluster: 1 to 64 letters, digits, dots, dashes and underscores.
    package static func isValidClusterID(_ text: String) -> Bool {
        (1...64).contains(text.utf8.count)
            && text.utf8.allSatisfy {
                switch UInt8($0) {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"),
                    UInt8(ascii: "."):
                    true
                default: false
                }
            }
    }

    /// The properties of a formatted directory that belongs to this node.
    ///
    /// - Parameter clusterID: the cluster it must belong to, where that is known.
    /// - Throws: `MetaPropertiesError` when it is not formatted, damaged, or someone else's.
    package static func check(
        _ directory: String, nodeID: NodeID, clusterID: String? = nil
    ) throws(MetaPropertiesError) -> MetaProperties {
        guard let properties = try read(from: directory) else {
            throw .notFormatted(directory: directory)
        }
        if let clusterID, properties.clusterID != clusterID {
            throw .otherCluster(
                directory: directory, found: properties.clusterID, expected: clusterID)
        }
        guard properties.nodeID == nodeID else {
            throw .otherNode(directory: directory, found: properties.nodeID, expected: nodeID)
        }
        return properties
    }

    /// The properties of `directory`; `nil` if it has none, or does not exist.
    package static func read(from directory: String) throws(MetaPropertiesError) -> MetaProperties?
    {
        let path = directory + "/" + fileName
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            let code = errno
            if code == ENOENT { return nil }
            throw .failed(path: path, doing: "open", code: code)
        }
        defer { close(descriptor) }
        // Ours is under 200 bytes; of anything larger, the start shows that it is not ours.
        var bytes = [UInt8](repeating: 0, count: 4_096)
        var count = 0
        while count < bytes.count {
            let result = bytes.withUnsafeMutableBytes {
                Glibc.read(descriptor, $0.baseAddress?.advanced(by: count), $0.count - count)
            }
            if result < 0 {
                let code = errno
                if code == EINTR { continue }
                throw .failed(path: path, doing: "read", code: code)
            }
            if result == 0 { break }
            count += result
        }
        return try parse(String(decoding: bytes[..<count], as: UTF8.self), path: path)
    }

    static func parse(
        _ text: String, path: String
    ) throws(MetaPropertiesError) -> MetaProperties {
        var values: [Substring: Substring] = [:]
        for line in text.split(whereSeparator: \.isNewline) where line.first != "#" {
            let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2 else { throw .damaged(path: path, reason: String(line)) }
            values[parts[0]] = parts[1]
        }
        guard let version = values["version"] else {
            throw .damaged(path: path, reason: "no version")
        }
        guard version == "1" else {
            throw .otherVersion(path: path, version: String(version))
        }
        guard let cluster = values["cluster.id"].map(String.init), isValidClusterID(cluster) else {
            throw .damaged(path: path, reason: "no valid cluster.id")
        }
        guard let node = values["node.id"].flatMap({ Int32($0) }), node >= 0 else {
            throw .damaged(path: path, reason: "no valid node.id")
        }
        guard let directory = values["directory.id"].flatMap({ DirectoryID(String($0)) }) else {
            throw .damaged(path: path, reason: "no valid directory.id")
        }
        return MetaProperties(
            clusterID: cluster, nodeID: NodeID(node), directoryID: directory)
    }

    /// Makes the directory if need be and writes the file there, replacing an older one whole.
    ///
    /// When this returns, the file is on stable storage.
    package func write(to directory: String) throws(MetaPropertiesError) {
        try makeDirectory(directory)
        let path = directory + "/" + Self.fileName
        let temporary = path + ".tmp"
        let text = """
            version=1
            cluster.id=\(clusterID)
            node.id=\(nodeID)
            directory.id=\(directoryID)

            """
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else {
            throw .failed(path: temporary, doing: "create", code: errno)
        }
        var failure: MetaPropertiesError?
        var rest = Array(text.utf8)[...]
        while failure == nil, !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Glibc.write(descriptor, $0.baseAddress, $0.count)
            }
            if count >= 0 {
                rest = rest.dropFirst(count)
            } else if errno != EINTR {
                failure = .failed(path: temporary, doing: "write", code: errno)
            }
        }
        if failure == nil, fsync(descriptor) != 0 {
            failure = .failed(path: temporary, doing: "sync", code: errno)
        }
        close(descriptor)
        if failure == nil, rename(temporary, path) != 0 {
            failure = .failed(path: path, doing: "rename", code: errno)
        }
        if let failure {
            unlink(temporary)
            throw failure
        }
        try syncDirectory(directory)
    }
}

extension MetaProperties {
    /// Shows, by doing so, that this process can write to `directory` and that there is room.
    package static func verifyWritable(_ directory: String) throws(MetaPropertiesError) {
        let path = directory + "/.writable-\(getpid())"
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw .failed(path: directory, doing: "write to", code: errno)
        }
        defer {
            close(descriptor)
            unlink(path)
        }
        // Enough to need a block of its own.
        let bytes = [UInt8](repeating: 0, count: 65_536)
        let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
        guard count == bytes.count, fsync(descriptor) == 0 else {
            throw .failed(path: directory, doing: "write to", code: count < 0 ? errno : ENOSPC)
        }
    }
}

/// Why a directory may not be used by a node; prints as one line that says what to do.
package enum MetaPropertiesError: Error, Hashable, Sendable {
    case notFormatted(directory: String)
    case otherCluster(directory: String, found: String, expected: String)
    case otherNode(directory: String, found: NodeID, expected: NodeID)
    case otherVersion(path: String, version: String)
    /// It is not what we write; `reason` says why.
    case damaged(path: String, reason: String)
    /// A system call failed; `code` is its `errno`.
    case failed(path: String, doing: String, code: Int32)
}

extension MetaPropertiesError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .notFormatted(let directory):
            "\(directory) is not formatted; run 'millrace storage format' with this node's "
                + "configuration first"
        case .otherCluster(let directory, let found, let expected):
            "\(directory) belongs to cluster \(found), but this is cluster \(expected); "
                + "point the node at its own directory"
        case .otherNode(let directory, let found, let expected):
            "\(directory) belongs to node \(found), but this is node \(expected); "
                + "point the node at its own directory, or correct node.id"
        case .otherVersion(let path, let version):
            "\(path) has version \(version.prefix(20)), and only version 1 is known here; "
                + "use the release that wrote it"
        case .damaged(let path, let reason):
            "\(path) is damaged (\(reason.prefix(60))); restore it from a copy, or empty the "
                + "directory and format it again"
        case .failed(let path, let doing, let code):
            "cannot \(doing) \(path): \(systemMessage(code)); \(Self.fix(code))"
        }
    }

    private static func fix(_ code: Int32) -> String {
        switch code {
        case EACCES, EPERM: "give this user the right to write there, or use another directory"
        case EROFS: "mount the file system for writing, or use another directory"
        case ENOSPC, EDQUOT: "free some space, or use another directory"
        default: "check the directory, or use another one"
        }
    }
}

private func systemMessage(_ code: Int32) -> String {
    String(cString: strerror(code))
}

/// Makes a directory and those above it; each is on stable storage when this returns.
private func makeDirectory(_ path: String) throws(MetaPropertiesError) {
    if mkdir(path, 0o755) == 0 {
        let parent = parent(of: path)
        return try syncDirectory(parent)
    }
    let code = errno
    switch code {
    case EEXIST: return
    case ENOENT:
        let parent = parent(of: path)
        guard parent != path, parent != "." else { break }
        try makeDirectory(parent)
        return try makeDirectory(path)
    default: break
    }
    throw .failed(path: path, doing: "make the directory", code: code)
}

private func parent(of path: String) -> String {
    var path = path[...]
    while path.count > 1, path.last == "/" { path.removeLast() }
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
}

private func syncDirectory(_ path: String) throws(MetaPropertiesError) {
    let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw .failed(path: path, doing: "open", code: errno) }
    defer { close(descriptor) }
    guard fsync(descriptor) == 0 else { throw .failed(path: path, doing: "sync", code: errno) }
}
