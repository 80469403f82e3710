import Configuration
import Glibc

/// `DIR/cluster.json`, which tells scripts what runs where.
enum ClusterFile {
    /// - Parameter pids: the process of each node, by the node's id; none for one that is not running.
    static func write(_ plan: DevPlan, pids: [Int32: pid_t]) throws(CommandFailure) {
        let processes = plan.nodes.map { node in
            """
            {"role": "\(node.role.rawValue)", "id": \(node.id), \
            "pid": \(pids[node.id].map { String($0) } ?? "null"), "port": \(node.port), \
            "rack": \(node.rack.map { jsonString($0) } ?? "null"), \
            "dataDir": \(jsonString(node.dataDirectory)), "log": \(jsonString(node.logPath)), \
            "config": \(jsonString(node.configurationPath))}
            """
        }
        let text = """
            {"bootstrap": "\(plan.bootstrap)", "processes": [
              \(processes.joined(separator: ",\n  "))
            ]}

            """
        try writeAtomically(text, to: plan.clusterFile)
    }

    /// Waits for the nodes of an earlier `dev` that was killed; they end by themselves soon after it.
    static func awaitLeftovers(of plan: DevPlan) {
        for _ in 0..<80 {
            let isAlive = plan.nodes.contains { node in
                // Only the processes that such a run starts have this pair of arguments.
                leftovers(at: plan.clusterFile).contains { pid in
                    commandLine(of: pid).contains(node.configurationPath)
                }
            }
            guard isAlive else { return }
            usleep(100_000)
        }
    }

    /// The pids in a cluster.json; none if there is no such file.
    private static func leftovers(at path: String) -> [pid_t] {
        guard let text = contents(of: path, limit: 1 << 20) else { return [] }
        return text.split(separator: "\"pid\": ").dropFirst().compactMap { part in
            pid_t(part.prefix { $0.isNumber })
        }
    }

    private static func commandLine(of pid: pid_t) -> [String] {
        contents(of: "/proc/\(pid)/cmdline", limit: 65_536)?
            .split(separator: "\0").map(String.init) ?? []
    }

    private static func contents(of path: String, limit: Int) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: limit)
        let count = read(descriptor, &bytes, limit)
        return count >= 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
    }

    /// The last line of a file, for a message; `nil` if there is none.
    static func lastLine(of path: String) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        let end = lseek(descriptor, 0, SEEK_END)
        var bytes = [UInt8](repeating: 0, count: 4_096)
        let count = pread(descriptor, &bytes, bytes.count, max(0, end - bytes.count))
        guard count > 0 else { return nil }
        let text = String(decoding: bytes[..<count], as: UTF8.self)
        return text.split(whereSeparator: \.isNewline).last.map(String.init)
    }
}
