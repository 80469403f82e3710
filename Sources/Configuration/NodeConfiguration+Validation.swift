import Essentials

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

extension NodeConfiguration {
    /// Fills in the defaults that follow from other settings.
    mutating func deriveDefaults() {
        let isSet = { [origins] (key: String) in origins[key] != nil }
        if !isSet("advertised.listeners") {
            advertisedListener = listener
            if listener.isWildcard { advertisedListener.host = hostName() }
        }
        if !isSet("metadata.log.dir"), let first = logDirectories.first {
            metadataLogDirectory = first
        }
        // The finer unit comes before the coarser; the bounds of the keys keep the products small.
        if !isSet("log.retention.ms") {
            let milliseconds =
                logRetentionMinutes.map { $0 * 60_000 } ?? logRetentionHours * 3_600_000
            logRetentionMilliseconds = max(milliseconds, -1)
        }
        if !isSet("log.roll.ms") { logRoll = .milliseconds(logRollHours * 3_600_000) }
    }

    /// Checks what only shows when the settings are seen together.
    func validate() throws(ConfigurationError) {
        try validateIdentity()
        try validateQuorum()
        try validateAddresses()
        try validateTimesAndSizes()
    }

    private func validateIdentity() throws(ConfigurationError) {
        if origins["process.roles"] == nil {
            throw .missingKey(
                "process.roles", fix: "set process.roles=broker or process.roles=controller")
        }
        if origins["node.id"] == nil {
            throw .missingKey(
                "node.id", fix: "set node.id to a number that no other node of the cluster has")
        }
        if origins["controller.quorum.bootstrap.servers"] == nil {
            throw .missingKey(
                "controller.quorum.bootstrap.servers",
                fix: "list some controllers: controller.quorum.bootstrap.servers=c1:9093,c2:9093")
        }
        if role == .controller, origins["listeners"] == nil {
            throw .missingKey(
                "listeners",
                fix: "set listeners=PLAINTEXT://:9093, or another port, for a controller")
        }
        var seen: Set<String> = []
        for directory in logDirectories where !seen.insert(directory).inserted {
            throw .contradiction(
                at: origin(of: "log.dirs"), problem: "log.dirs lists \(directory) twice",
                fix: "list every directory once")
        }
    }

    private func validateQuorum() throws(ConfigurationError) {
        var servers: Set<Endpoint> = []
        for server in bootstrapServers where !servers.insert(server).inserted {
            throw .contradiction(
                at: origin(of: "controller.quorum.bootstrap.servers"),
                problem: "controller.quorum.bootstrap.servers lists \(server) twice",
                fix: "list every controller once")
        }
    }

    private func validateAddresses() throws(ConfigurationError) {
        if advertisedListener.isWildcard {
            throw .contradiction(
                at: origin(of: "advertised.listeners"),
                problem: "advertised.listeners names no host that others can connect to",
                fix: "set advertised.listeners=PLAINTEXT://this-host:\(listener.port)")
        }
        if role == .controller, advertisedListener.port == 0 {
            throw .contradiction(
                at: origin(
                    of: origins["advertised.listeners"] == nil
                        ? "listeners" : "advertised.listeners"),
                problem: "port 0 leaves open where others reach controller \(nodeID)",
                fix: "choose a port, such as 9093")
        }
    }

    private func validateTimesAndSizes() throws(ConfigurationError) {
        try require(
            replicaLagTimeMax >= replicaFetchMaxWait,
            "replica.lag.time.max.ms", "must not be below replica.fetch.wait.max.ms",
            "raise it to \(replicaFetchMaxWait.milliseconds) or more")
        try require(
            brokerHeartbeatInterval * 2 <= brokerSessionTimeout,
            "broker.heartbeat.interval.ms",
            "leaves no room for a lost heartbeat in broker.session.timeout.ms",
            "use at most \(brokerSessionTimeout.milliseconds / 2)")
        try require(
            messageMaxBytes <= requestMaxBytes,
            "message.max.bytes", "must not be above socket.request.max.bytes",
            "use at most \(requestMaxBytes)")
        try require(
            messageMaxBytes <= logSegmentBytes,
            "message.max.bytes", "must not be above log.segment.bytes",
            "use at most \(logSegmentBytes)")
        let retentionKeys = ["log.retention.ms", "log.retention.minutes", "log.retention.hours"]
        try require(
            logRetentionMilliseconds != 0,
            retentionKeys.first { origins[$0] != nil } ?? "log.retention.ms",
            "must not be 0, which would keep no record of any topic", "use -1 for ever")
        if let minInSyncReplicas, let defaultReplicationFactor {
            try require(
                minInSyncReplicas <= defaultReplicationFactor,
                "min.insync.replicas", "must not be above default.replication.factor",
                "use at most \(defaultReplicationFactor)")
        }
    }

    private func require(
        _ condition: Bool, _ key: String, _ problem: String, _ fix: String
    ) throws(ConfigurationError) {
        guard !condition else { return }
        throw .contradiction(at: origin(of: key), problem: "\(key) \(problem)", fix: fix)
    }
}

/// This machine's name, as others may look it up.
private func hostName() -> String {
    var name = [CChar](repeating: 0, count: 256)
    guard gethostname(&name, name.count - 1) == 0 else { return "localhost" }
    let text = name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
    return text.isEmpty ? "localhost" : String(decoding: text, as: UTF8.self)
}

/// The cores this process may run on: its CPU affinity, bounded by its control group's quota.
package func availableCores() -> Int {
    var cores = max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))
    if let status = try? readFile("/proc/self/status"),
        let allowed = status.split(separator: "\n").first(where: {
            $0.hasPrefix("Cpus_allowed:")
        })
    {
        // A mask in hexadecimal, such as "Cpus_allowed:\tff,ffffffff".
        let bits = allowed.dropFirst("Cpus_allowed:".count)
            .reduce(0) { $0 + ($1.hexDigitValue ?? 0).nonzeroBitCount }
        if bits > 0 { cores = min(cores, bits) }
    }
    // "max 100000" without a quota, else microseconds of CPU time a period.
    if let quota = try? readFile("/sys/fs/cgroup/cpu.max") {
        let numbers = quota.split(whereSeparator: \.isWhitespace).map { Int($0) }
        if numbers.count == 2, let allowed = numbers[0], let period = numbers[1], period > 0 {
            cores = min(cores, max(1, (allowed + period - 1) / period))
        }
    }
    return cores
}

/// The text of a small file; a configuration of more than 1 MiB is a mistake.
func readFile(_ path: String) throws(ConfigurationError) -> String {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
        throw .unreadableFile(path: path, reason: String(cString: strerror(errno)))
    }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 16_384)
    while true {
        let count = read(descriptor, &chunk, chunk.count)
        if count < 0 {
            if errno == EINTR { continue }
            throw .unreadableFile(path: path, reason: String(cString: strerror(errno)))
        }
        if count == 0 { break }
        bytes += chunk[..<count]
        if bytes.count > 1 << 20 {
            throw .unreadableFile(path: path, reason: "it is larger than 1 MiB")
        }
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
        throw .unreadableFile(path: path, reason: "it is not UTF-8 text")
    }
    return text
}
