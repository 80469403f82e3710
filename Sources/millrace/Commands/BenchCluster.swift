import FoundationEssentials
import Glibc

/// The processes that a `cluster.json` names.
struct BenchCluster: Decodable, Sendable {
    struct Process: Decodable, Sendable {
        var role: String
        var id: Int32
        /// `null` while it does not run.
        var pid: Int32?

        var name: String { "\(role)-\(id)" }
    }

    var processes: [Process]

    static func read(_ path: String) throws(CommandFailure) -> BenchCluster {
        do {
            let text = try Data(contentsOf: URL(filePath: path))
            return try JSONDecoder().decode(BenchCluster.self, from: text)
        } catch {
            throw CommandFailure(
                "cannot read \(path): \(error); give the cluster.json that `millrace dev` wrote")
        }
    }

    /// The running process of that role and id.
    func pid(of role: String, id: Int32) throws(CommandFailure) -> Int32 {
        let process = processes.first { $0.role == role && $0.id == id }
        guard let pid = process?.pid, pid > 1 else {
            throw CommandFailure("cluster.json names no running \(role) \(id)")
        }
        return pid
    }
}

/// CPU time and memory, of this process and of a cluster's, over a stretch of time.
struct BenchUsage {
    /// CPU seconds of this process.
    let client: Double
    /// CPU seconds of each role's processes together.
    let cluster: [(role: String, seconds: Double)]
    /// Resident megabytes of each process at the end.
    let memory: [(name: String, megabytes: Double)]

    /// What was used since the start; `end` gives the sum.
    struct Start {
        fileprivate let cluster: BenchCluster?
        fileprivate let client: Double
        fileprivate let processes: [Int32: Double]

        init(_ cluster: BenchCluster?) {
            self.cluster = cluster
            client = ownCPUSeconds()
            var processes: [Int32: Double] = [:]
            for process in cluster?.processes ?? [] {
                if let pid = process.pid { processes[pid] = cpuSeconds(of: pid) }
            }
            self.processes = processes
        }

        func end() -> BenchUsage {
            let running = cluster?.processes ?? []
            var seconds: [String: Double] = [:]
            var memory: [(String, Double)] = []
            for process in running {
                guard let pid = process.pid else { continue }
                let used = max(0, cpuSeconds(of: pid) - (processes[pid] ?? 0))
                seconds[process.role, default: 0] += used
                memory.append((process.name, residentMegabytes(of: pid)))
            }
            return BenchUsage(
                client: ownCPUSeconds() - client,
                cluster: seconds.sorted { $0.key < $1.key }.map { ($0.key, $0.value) },
                memory: memory)
        }
    }
}

private func ownCPUSeconds() -> Double { cpuSeconds(of: getpid()) }

/// User and system time of a process and its threads; 0 if it is gone.
private func cpuSeconds(of pid: Int32) -> Double {
    guard let text = contents(of: "/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else {
        return 0
    }
    // After the command in parentheses: state is field 3, so that utime and stime are 14 and 15.
    let fields = text[text.index(after: end)...].split(separator: " ")
    guard fields.count > 12, let user = Double(fields[11]), let system = Double(fields[12]) else {
        return 0
    }
    return (user + system) / Double(max(sysconf(Int32(_SC_CLK_TCK)), 1))
}

func residentMegabytes(of pid: Int32) -> Double {
    let fields = contents(of: "/proc/\(pid)/statm")?.split(separator: " ") ?? []
    guard fields.count > 1, let pages = Double(fields[1]) else { return 0 }
    return pages * Double(sysconf(Int32(_SC_PAGESIZE))) / 1e6
}

private func contents(of path: String) -> String? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = read(descriptor, &bytes, bytes.count)
    return count > 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
}
