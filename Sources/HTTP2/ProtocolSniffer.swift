/// Tells from a connection's first bytes what its peer speaks.
package struct ProtocolSniffer: Sendable {
    package enum Verdict: Sendable, Equatable {
        /// More bytes are needed.
        case undecided
        /// HTTP/2 with prior knowledge: the whole client preface has been seen.
        case http2
        /// A request of HTTP/1.x.
        case http1
        /// A TLS ClientHello.
        case tls
        case unknown
    }

    private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    /// No method is longer than this, nor is the space after it further away.
    private static let longestMethod = 16

    package init() {}

    /// Judges `bytes`, everything received so far.
    package func judge(_ bytes: some Collection<UInt8>) -> Verdict {
        let count = bytes.count
        if count == 0 { return .undecided }
        if Self.preface.starts(with: bytes.prefix(Self.preface.count)) {
            return count >= Self.preface.count ? .http2 : .undecided
        }
        let start = Array(bytes.prefix(Self.longestMethod + 1))
        if start[0] == 0x16 {
            guard start.count >= 2 else { return .undecided }
            return start[1] == 0x03 ? .tls : .unknown
        }
        // A method is upper-case letters, then a space: "GET /".
        for (index, byte) in start.enumerated() {
            if byte == UInt8(ascii: " "), index >= 3 { return .http1 }
            let isLetter = (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
            guard isLetter || byte == UInt8(ascii: "-") else { return .unknown }
        }
        return start.count > Self.longestMethod ? .unknown : .undecided
    }
}
