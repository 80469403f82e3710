import Essentials
import Logging
import NIOPosix
import Protocol
import RPC

/// Asks a starting cluster, over RPC, whether it can serve.
struct DevReadiness {
    let plan: DevPlan
    let events: DevSupervisor.Events

    /// What one controller knows.
    private enum Answer {
        /// What the cluster still lacks.
        case lacks(String)
        /// Nothing; which of its controllers have no vote.
        case ready(withoutVote: [DevPlan.Node])
    }

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
                switch await ask(client) {
                case .lacks(let what)?: missing = what
                case .ready(let withoutVote)?: return events.yield(.ready(withoutVote: withoutVote))
                case nil: break
                }
            }
            if clock.now > nextReport {
                events.yield(.waitingFor(missing))
                nextReport = clock.now + .seconds(15)
            }
            try? await Task.sleep(for: .milliseconds(50))
        }
    }

    /// `nil` if this controller does not know.
    private func ask(_ client: RPCClient) async -> Answer? {
        do {
            let quorum = try await client.call(
                "/millrace.v1.Quorum/DescribeQuorum", WireDescribeQuorumRequest(),
                returning: WireDescribeQuorumResponse.self, timeout: .seconds(2))
            guard quorum.hasLeaderID else { return .lacks("a controller to lead") }
            let cluster = try await client.call(
                "/millrace.v1.Admin/DescribeCluster", WireDescribeClusterRequest(),
                returning: WireDescribeClusterResponse.self, timeout: .seconds(2))
            let serving = Set(
                cluster.nodes.filter { $0.role == "broker" && !$0.fenced }.map(\.id))
            let waiting = plan.brokers.filter { !serving.contains($0.id) }
            guard waiting.isEmpty else {
                return .lacks(
                    waiting.map { "\($0.name) (its log: \($0.logPath))" }.joined(separator: ", "))
            }
            let voters = Set(quorum.voters.map(\.id))
            return .ready(withoutVote: plan.controllers.filter { !voters.contains($0.id) })
        } catch {
            return nil
        }
    }
}
