import Foundation
import Testing

/// Scenario files: a command, `----`, then what happened, up to an empty line.
///
/// `REWRITE=1 swift test` writes down what happens now; the difference is there to be reviewed.
struct ScenarioTests {
    private static let directory = URL(filePath: #filePath)
        .deletingLastPathComponent().appending(path: "Scenarios")

    static let names: [String] = {
        let files = try? FileManager.default.contentsOfDirectory(atPath: directory.path)
        return (files ?? []).filter { $0.hasSuffix(".txt") }.sorted()
    }()

    @Test func scenariosAreFound() {
        #expect(!Self.names.isEmpty)
    }

    @Test(arguments: names) func scenarioHolds(name: String) throws {
        let file = Self.directory.appending(path: name)
        let expected = try String(contentsOf: file, encoding: .utf8)
        let actual = Self.replay(expected)
        if ProcessInfo.processInfo.environment["REWRITE"] != nil {
            try Data(actual.utf8).write(to: file)
            return
        }
        let lines = actual.split(separator: "\n", omittingEmptySubsequences: false)
        let wanted = expected.split(separator: "\n", omittingEmptySubsequences: false)
        let difference = zip(lines, wanted).enumerated().first { $0.element.0 != $0.element.1 }
        #expect(
            actual == expected,
            "line \((difference?.offset ?? min(lines.count, wanted.count)) + 1) of \(name)")
    }

    /// The text with every command's output replaced by what happens when it is run.
    private static func replay(_ text: String) -> String {
        let runner = ScenarioRunner()
        var result: [String] = []
        var isOutput = false
        var command: String?
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.isEmpty {
                if let pending = command { result += ["----", runner.run(pending)] }
                (command, isOutput) = (nil, false)
                result.append("")
            } else if line == "----" {
                isOutput = true
            } else if line.hasPrefix("#") {
                result.append(String(line))
            } else if !isOutput {
                if let pending = command { result += ["----", runner.run(pending), ""] }
                command = String(line)
                result.append(String(line))
            }
        }
        if let pending = command { result += ["----", runner.run(pending), ""] }
        return result.joined(separator: "\n")
    }
}
