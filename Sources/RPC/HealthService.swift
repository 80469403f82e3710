internal import NIOCore

/// `grpc.health.v1.Health/Check`: a process that answers at all is serving.
enum HealthService {
    static let checkPath = "/grpc.health.v1.Health/Check"

    @Sendable
    static func check(_ call: ServerCall) {
        switch call.encoding {
        // Field 1, `status`: 1 is SERVING.
        case .protobuf: call.respond([ByteBuffer(bytes: [0x08, 0x01])])
        case .json: call.respond([ByteBuffer(string: #"{"status":"SERVING"}"#)])
        }
    }
}
