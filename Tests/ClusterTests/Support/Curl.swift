import Foundation
import Testing

/// A JSON call with the `curl` of the system, as a user would make it.
struct CurlAnswer {
    var status: Int
    var body: [String: Any]

    /// Kafka's name of what went wrong.
    var error: String? {
        let details = body["details"] as? [[String: Any]]
        return (details?.first?["debug"] as? [String: Any])?["error"] as? String
    }

    var message: String { body["message"] as? String ?? "" }
}

extension Cluster {
    /// - Parameter broker: which broker is asked, from 1.
    func curl(_ method: String, _ json: String, broker: Int = 1) async throws -> CurlAnswer {
        let body = directory.appendingPathComponent("request.json")
        try Data(json.utf8).write(to: body)
        let result = try await RunningProcess.run(
            "/usr/bin/env",
            [
                "curl", "--silent", "--show-error", "--http2-prior-knowledge", "--max-time", "30",
                "--header", "content-type: application/json", "--data-binary", "@\(body.path)",
                "--write-out", "\n%{http_code}",
                "http://127.0.0.1:\(port + broker - 1)/millrace.v1.\(method)",
            ], in: directory)
        guard result.exitCode == 0 else {
            throw RunningProcess.Failure(description: "curl: \(result.errors)")
        }
        let end = try #require(result.output.lastIndex(of: "\n"))
        let status = try #require(Int(result.output[result.output.index(after: end)...]))
        let object = try JSONSerialization.jsonObject(with: Data(result.output[..<end].utf8))
        return CurlAnswer(status: status, body: try #require(object as? [String: Any]))
    }
}
