import Configuration
import Essentials
import Foundation
import Protocol
import Storage
import Testing

@testable import Broker

@Suite struct BrokerRegistrationTests {
    private func withDirectories(
        _ count: Int, _ body: ([String], [DirectoryID]) throws -> Void
    ) throws {
        let root = NSTemporaryDirectory() + "registration-\(UniqueID.random())"
        defer { try? FileManager.default.removeItem(atPath: root) }
        let ids = (0..<count).map { _ in DirectoryID.random() }
        let paths = ids.indices.map { "\(root)/\($0)" }
        for (path, id) in zip(paths, ids) {
            try FileManager.default.createDirectory(
                atPath: path, withIntermediateDirectories: true)
            try MetaProperties(clusterID: "c", nodeID: 7, directoryID: id).write(to: path)
        }
        try body(paths, ids)
    }

    private func configuration(_ paths: [String]) -> NodeConfiguration {
        var configuration = NodeConfiguration(nodeID: 7)
        configuration.logDirectories = paths
        configuration.advertisedListener = Endpoint(host: "h", port: 0)
        configuration.rack = "r1"
        return configuration
    }

    @Test("A broker registers every one of its log directories, its rack and where it is reached")
    func everyDirectoryIsRegistered() throws {
        try withDirectories(3) { paths, ids in
            let directories = RegisteredDirectories(online: [ids[2], ids[0]], offline: [ids[1]])
            let request = WireRegisterBrokerRequest(
                configuration(paths), clusterID: "c", directories: directories, port: 4711,
                previousEpoch: 9)
            #expect(request.logDirectoryIds == [ids[2], ids[0]].map { Data($0.bytes) })
            #expect(request.offlineLogDirectoryIds == [Data(ids[1].bytes)])
            #expect(request.missingLogDirectories == 0)
            #expect(request.clusterID == "c" && request.brokerID == 7)
            #expect(request.host == "h" && request.port == 4711 && request.rack == "r1")
            #expect(request.previousBrokerEpoch == 9)
            #expect(request.minFeatureLevel == 1 && request.maxFeatureLevel == 3)
            let second = WireRegisterBrokerRequest(
                configuration(paths), clusterID: "c",
                directories: RegisteredDirectories(missing: 3), port: 4711, previousEpoch: 9)
            #expect(second.missingLogDirectories == 3)
            #expect(request.incarnationID.count == 16)
            #expect(request.incarnationID != second.incarnationID)
        }
    }

    private func survey(
        _ paths: [String], required: Int = 0
    ) throws(MetaPropertiesError) -> LogDirectorySurvey {
        try LogDirectorySurvey(
            of: paths, required: paths[required], nodeID: 7, clusterID: "c", checksWriting: true)
    }

    @Test("S13: a directory of another node or cluster keeps the broker from starting")
    func foreignDirectories() throws {
        try withDirectories(2) { paths, _ in
            try MetaProperties(clusterID: "other", nodeID: 7, directoryID: .random())
                .write(to: paths[1])
            #expect(throws: MetaPropertiesError.self) { try survey(paths) }
            try MetaProperties(clusterID: "c", nodeID: 8, directoryID: .random())
                .write(to: paths[1])
            #expect(throws: MetaPropertiesError.self) { try survey(paths) }
            try "x".write(
                toFile: paths[1] + "/meta.properties", atomically: true, encoding: .utf8)
            #expect(throws: MetaPropertiesError.self) { try survey(paths) }
        }
    }

    @Test("B9: a broker does without directories that are not there, but not without its metadata")
    func missingDirectories() throws {
        try withDirectories(3) { paths, ids in
            // As with a file system that is not mounted, and with a disk that does not answer.
            try FileManager.default.removeItem(atPath: paths[1] + "/meta.properties")
            try FileManager.default.removeItem(atPath: paths[2])
            try "".write(toFile: paths[2], atomically: true, encoding: .utf8)
            let found = try survey(paths)
            #expect(found.usable.map(\.path) == [paths[0]])
            #expect(found.usable.map(\.properties.directoryID) == [ids[0]])
            #expect(found.unusable.map(\.path) == [paths[1], paths[2]])
            #expect(throws: MetaPropertiesError.self) { try survey(paths, required: 1) }
            #expect(throws: MetaPropertiesError.self) { try survey([paths[1], paths[2]]) }
        }
    }
}
