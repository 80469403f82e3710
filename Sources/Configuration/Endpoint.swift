/// A host and a TCP port.
package struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    /// A name or an address, IPv6 without brackets; empty stands for every interface.
    package var host: String
    /// 0 to 65535; 0 asks the system for a free port.
    package var port: Int

    package init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    /// Parses `host:port`, `:port` or `[address]:port`; `nil` for anything else.
    package init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"),
            let port = UInt16(text[text.index(after: colon)...])
        else { return nil }
        var host = text[..<colon]
        if host.first == "[" {
            guard host.last == "]", host.count > 2 else { return nil }
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        guard !host.contains(where: { $0.isWhitespace || $0 == "/" || $0 == "," || $0 == "@" })
        else { return nil }
        self.init(host: String(host), port: Int(port))
    }

    /// Whether it means every interface of this machine, so that nobody can connect to it by name.
    package var isWildcard: Bool { host.isEmpty || host == "0.0.0.0" || host == "::" }

    /// Whether others can connect to it: a host and a port.
    package var isReachable: Bool { !isWildcard && port > 0 }

    /// The host to listen on, which every interface has a name for here.
    package var bindHost: String { host.isEmpty ? "0.0.0.0" : host }

    package var description: String {
        host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
}

extension NodeConfiguration {
    /// What a process is; exactly one of the two.
    package enum Role: String, Hashable, Sendable, CaseIterable {
        case broker
        case controller
    }

    /// When an append is made durable.
    package enum FlushPolicy: String, Hashable, Sendable, CaseIterable {
        /// Before it counts: one fdatasync covers all appends that are waiting for one.
        case commit
        /// Every `flush.ms`.
        case interval
        /// Whenever the operating system does it, as Kafka does by default.
        case os
    }

    /// What becomes of records that a topic keeps no longer.
    package enum CleanupPolicy: String, Hashable, Sendable, CaseIterable {
        case delete
        case compact
    }

    /// Which time a record's timestamp is.
    package enum TimestampType: String, Hashable, Sendable, CaseIterable {
        /// The one that its producer gave it.
        case create = "CreateTime"
        /// That of its append.
        case append = "LogAppendTime"
    }

    /// The least severe message that is logged; the names are those of swift-log.
    package enum LogLevel: String, Hashable, Sendable, CaseIterable {
        case trace, debug, info, notice, warning, error, critical
    }
}
