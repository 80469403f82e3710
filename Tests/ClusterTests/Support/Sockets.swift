import Foundation

/// A TCP socket on this machine that listens, and so takes its port.
final class ListeningSocket {
    private let descriptor: Int32

    init(port: Int) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var yes: Int32 = 1
        setsockopt(
            descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        let result = withLoopback(port) { bind(descriptor, $0, $1) }
        guard result == 0, listen(descriptor, 1) == 0 else {
            close(descriptor)
            throw RunningProcess.Failure(description: "port \(port) is taken")
        }
    }

    deinit { close(descriptor) }

    /// Called when the port need no longer be taken; keeps the socket open until then.
    func release() {}
}

/// Sends bytes to a port of this machine; what comes back until the peer closes, or a few seconds pass.
func exchange(_ bytes: [UInt8], port: Int) throws -> (answer: [UInt8], closed: Bool) {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    guard withLoopback(port, { connect(descriptor, $0, $1) }) == 0 else {
        throw RunningProcess.Failure(description: "cannot connect to port \(port)")
    }
    var limit = timeval(tv_sec: 5, tv_usec: 0)
    setsockopt(
        descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    _ = send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    var answer: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4_096)
    while true {
        let count = recv(descriptor, &chunk, chunk.count, 0)
        if count > 0 {
            answer += chunk[..<count]
        } else {
            // A reset is an end, too; only a time-out is none.
            return (answer, count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
        }
    }
}

private func withLoopback(
    _ port: Int, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
) -> Int32 {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(UInt16(port)).bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
}
