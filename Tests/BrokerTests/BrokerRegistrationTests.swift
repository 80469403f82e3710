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
            let request = try WireRegisterBrokerRequest(
                configuration(paths), clusterID: "c", port: 4711, previousEpoch: 9)
            #expect(request.logDirectoryIds == ids.map { Data($0.bytes) })
            #expect(request.clusterID == "c" && request.brokerID == 7)
            #expect(request.host == "h" && request.port == 4711 && request.rack == "r1")
            #expect(request.previousBrokerEpoch == 9)
            #expect(request.minFeatureLevel == 1 && request.maxFeatureLevel == 2)
            let second = try WireRegisterBrokerRequest(
                configuration(paths), clusterID: "c", port: 4711, previousEpoch: 9)
            #expect(request.incarnationID.count == 16)
            #expect(request.incarnationID != second.incarnationID)
        }
    }

    @Test("A directory of another node, another cluster or none keeps the broker from registering")
    func foreignDirectories() throws {
        try withDirectories(2) { paths, _ in
            try FileManager.default.removeItem(atPath: paths[1] + "/meta.properties")
            #expect(throws: MetaPropertiesError.self) {
                try WireRegisterBrokerRequest(
                    configuration(paths), clusterID: "c", port: 1, previousEpoch: .none)
            }
            try MetaProperties(clusterID: "other", nodeID: 7, directoryID: .random())
                .write(to: paths[1])
            #expect(throws: MetaPropertiesError.self) {
                try WireRegisterBrokerRequest(
                    configuration(paths), clusterID: "c", port: 1, previousEpoch: .none)
            }
        }
    }
}
