import ArgumentParser
import Glibc
import Millrace

enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
    case text
    case json
}

struct OutputOptions: ParsableArguments {
    @Option(help: "Output for people (text) or for programs (json).")
    var output: OutputFormat = .text
}

/// How a client command finds the cluster.
struct ClientOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Brokers to begin with, commas between them. Else MILLRACE_BOOTSTRAP, else"
                + " 127.0.0.1:9092.",
            valueName: "host:port"))
    var bootstrap: String?

    func validate() throws {
        do throws(MillraceError) {
            _ = try BrokerAddress.list(list)
        } catch {
            throw ValidationError(error.message)
        }
    }

    private var list: String {
        if let bootstrap { return bootstrap }
        let value = processEnvironment()["MILLRACE_BOOTSTRAP"] ?? ""
        return value.isEmpty ? "127.0.0.1:9092" : value
    }

    /// Runs `body` with a client, and closes it whatever happens.
    func withClient<Result>(
        _ body: (MillraceClient) async throws -> Result
    ) async throws -> Result {
        let client = try MillraceClient(bootstrap: list)
        do {
            let result = try await body(client)
            await client.close()
            return result
        } catch {
            await client.close()
            throw error
        }
    }
}

extension Admin {
    /// Waits until every partition of a topic has a leader, for 10 seconds at most.
    func waitUntilLed(_ topic: String) async throws -> TopicDescription {
        let end = ContinuousClock.now + .seconds(10)
        while true {
            let description = try await describeTopic(topic)
            let isLed = description.partitions.allSatisfy { $0.leader != nil }
            if isLed || ContinuousClock.now > end { return description }
            try await Task.sleep(for: .milliseconds(20))
        }
    }
}
