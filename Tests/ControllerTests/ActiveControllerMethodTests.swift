import Foundation
import Quorum
import Testing

/// The list of methods that any node takes, against the contract they come from.
@Suite struct ActiveControllerMethodTests {
    @Test func everyMethodOfTheContractIsServedOrForwarded() throws {
        let root = URL(fileURLWithPath: #filePath)
            .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        var paths: [String] = []
        for (file, service) in [("admin", "Admin"), ("quorum", "Quorum")] {
            let text = try String(
                contentsOf: root.appending(path: "Protocols/millrace/v1/\(file).proto"),
                encoding: .utf8)
            for line in text.split(separator: "\n") {
                let words = line.split { $0 == " " || $0 == "(" }
                guard words.first == "rpc", words.count > 1 else { continue }
                // Brokers serve these themselves.
                if ["DeleteRecords", "DescribeLogDirs", "AlterReplicaLogDirs"].contains(words[1]) {
                    continue
                }
                paths.append("/millrace.v1.\(service)/\(words[1])")
            }
        }
        #expect(paths.count > 10)
        #expect(ActiveControllerMethod.allCases.map(\.path) == paths)
    }
}
