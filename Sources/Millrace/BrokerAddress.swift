/// Where a node listens.
public struct BrokerAddress: Hashable, Sendable, CustomStringConvertible {
    public var host: String
    public var port: Int

    public init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    public var description: String {
        host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }

    /// Parses `host:port` or `[ipv6]:port`; `nil` for anything else.
    public init?(_ text: some StringProtocol) {
        guard let colon = text.lastIndex(of: ":"),
            let port = Int(text[text.index(after: colon)...]), (1...65535).contains(port)
        else { return nil }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        guard !host.isEmpty else { return nil }
        self.init(host: String(host), port: port)
    }

    /// Parses a bootstrap list: addresses with commas between them, spaces allowed.
    ///
    /// - Throws: `INVALID_ARGUMENT` when the list is empty or an entry is not `host:port`.
    public static func list(_ text: String) throws(MillraceError) -> [BrokerAddress] {
        var addresses: [BrokerAddress] = []
        for entry in text.split(separator: ",") {
            let trimmed = entry.trimmingSpaces()
            guard let address = BrokerAddress(trimmed) else {
                throw .invalidArgument(
                    "'\(trimmed)' in the bootstrap list is not host:port; write it like"
                        + " 127.0.0.1:9092,127.0.0.1:9093")
            }
            addresses.append(address)
        }
        guard !addresses.isEmpty else {
            throw .invalidArgument(
                "the bootstrap list is empty; name at least one broker, like 127.0.0.1:9092")
        }
        return addresses
    }
}

extension Substring {
    fileprivate func trimmingSpaces() -> Substring {
        var rest = self.drop { $0 == " " }
        while rest.last == " " { rest.removeLast() }
        return rest
    }
}
