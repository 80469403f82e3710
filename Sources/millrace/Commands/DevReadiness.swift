import Essentials
import Logging
import NIOPosix
import Protocol
import RPC

/// Asks a starting cluster, over RPC, whether it can serve.
struct DevReadiness {
    let plan: DevPlan
    let events: DevSupervisor.Events

    /// Reports `ready` once a controller leads and every broker is unfenced.
    func waitUntilReady() async {
        let logger = Logger(label: "dev") { _ in SwiftLogNoOpLogHandler() }
        let clients = plan.controllers.map { node in
            RPCClient(
                host: DevPlan.host, port: node.port,
                eventLoop: MultiThreadedEventLoopGroup.singleton.next(), logger: logger)
        }
        defer { clients.forEach { $0.close() } }
        let clock = ContinuousClock()
        var nextReport = clock.now + .seconds(15)
        var missing = "a controller to lead"
        while !Task.isCancelled {
            for client in clients {
                if let answer = await whatIsMissing(client) { missing = answer }
                if missing.isEmpty {
                    events.yield(.ready)
                    return
                }
            }
            if clock.now > nextReport {
                events.yield(.waitingFor(missing))
                nextReport = clock.now + .seconds(15)
            }
            try? await Task.sleep(for: .milliseconds(50))
        }
    }

    /// What the cluster still lacks, empty if nothing; `nil` if this controller does not know.
    private func whatIsMissing(_ client: RPCClient) async -> String? {
        do {
            let quorum = try await client.call(
                "/millrace.v1.Quorum/DescribeQuorum", WireDescribeQuorumRequest(),
                returning: WireDescribeQuorumResponse.self, timeout: .seconds(2))
            guard quorum.hasLeaderID else { return "a controller to lead" }
            let cluster = try await client.call(
                "/millrace.v1.Admin/DescribeCluster", WireDescribeClusterRequest(),
                returning: WireDescribeClusterResponse.self, timeout: .seconds(2))
            let serving = Set(
                cluster.nodes.filter { $0.role == "broker" && !$0.fenced }.map(\.id))
            let waiting = plan.brokers.filter { !serving.contains($0.id) }
            return waiting.map { "\($0.name) (its log: \($0.logPath))" }.joined(separator: ", ")
        } catch {
            return nil
        }
    }
}
