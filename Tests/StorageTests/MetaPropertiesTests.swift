import Essentials
import Foundation
import Testing

@testable import Storage

@Suite struct MetaPropertiesTests {
    private let directory = FileManager.default.temporaryDirectory
        .appendingPathComponent("meta-\(UUID().uuidString)").path
    private let properties = MetaProperties(
        clusterID: "c1", nodeID: 3, directoryID: DirectoryID(high: 1, low: 2))

    @Test func whatIsWrittenIsReadBackAndMissingParentsAreMade() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let nested = directory + "/a/b"
        #expect(try MetaProperties.read(from: nested) == nil)
        try properties.write(to: nested)
        #expect(try MetaProperties.check(nested, nodeID: 3, clusterID: "c1") == properties)
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: nested) == ["meta.properties"])
    }

    @Test func aDirectoryOfAnotherNodeOrClusterIsRefusedWithBothNames() throws {
        defer { try? FileManager.default.removeItem(atPath: directory) }
        #expect(throws: MetaPropertiesError.notFormatted(directory: directory)) {
            try MetaProperties.check(directory, nodeID: 3)
        }
        try properties.write(to: directory)
        #expect(
            throws: MetaPropertiesError.otherNode(directory: directory, found: 3, expected: 4)
        ) { try MetaProperties.check(directory, nodeID: 4) }
        let other = MetaPropertiesError.otherCluster(
            directory: directory, found: "c1", expected: "c2")
        #expect(throws: other) {
            try MetaProperties.check(directory, nodeID: 3, clusterID: "c2")
        }
        #expect("\(other)".contains("cluster c1") && "\(other)".contains("cluster c2"))
    }

    @Test(
        arguments: [
            "", "version=1", "version=2\ncluster.id=a", "nonsense",
            "version=1\ncluster.id=\nnode.id=1\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAA",
            "version=1\ncluster.id=a\nnode.id=x\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAA",
            "version=1\ncluster.id=a\nnode.id=1\ndirectory.id=short",
        ])
    func aDamagedFileIsRefused(text: String) {
        #expect(throws: MetaPropertiesError.self) {
            try MetaProperties.parse(text, path: "meta.properties")
        }
    }

    @Test func aDirectoryThatCannotBeMadeIsNamed() {
        #expect(
            throws: MetaPropertiesError.failed(
                path: "/dev/null/x", doing: "make the directory", code: ENOTDIR)
        ) { try properties.write(to: "/dev/null/x") }
    }
}
