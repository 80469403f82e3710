internal import Essentials
internal import HTTP2
internal import NIOCore

/// What a request's header fields say, read in one pass.
struct RequestHead {
    enum ContentType {
        case grpc
        case grpcJSON
        case json
        case protobuf
        case missing
        case other
    }

    var route: Route?
    var isPost = false
    var contentType = ContentType.missing
    var timeout: Duration?
    var isTimeoutMalformed = false
    /// The request's body, or its messages, are compressed.
    var isCompressed = false
    var contentLength: Int?

    init(_ headers: HTTP2Headers, routes: RouteTable) {
        headers.forEach { name, value in
            // By length first: most names are told apart by it alone.
            switch name.count {
            case 5 where Name.path.matches(name):
                route = routes.find(value)
            case 7 where Name.method.matches(name):
                isPost = Name.post.matches(value)
            case 12:
                if Name.contentType.matches(name) {
                    contentType = Self.contentType(value)
                } else if Name.grpcTimeout.matches(name) {
                    timeout = Self.grpcTimeout(value)
                    isTimeoutMalformed = timeout == nil
                }
            case 13 where Name.grpcEncoding.matches(name):
                isCompressed = isCompressed || !Name.identity.matches(value)
            case 14 where Name.contentLength.matches(name):
                contentLength = Self.number(value)
            case 16 where Name.contentEncoding.matches(name):
                isCompressed = isCompressed || !Name.identity.matches(value)
            case 18 where Name.connectTimeout.matches(name):
                timeout = Self.number(value).map { .milliseconds($0) }
                isTimeoutMalformed = timeout == nil
            default:
                break
            }
        }
    }

    var isGRPC: Bool { contentType == .grpc || contentType == .grpcJSON }

    private static func contentType(_ value: UnsafeRawBufferPointer) -> ContentType {
        let type = value.prefix { $0 != UInt8(ascii: ";") && $0 != UInt8(ascii: " ") }
        let bytes = UnsafeRawBufferPointer(rebasing: type)
        switch bytes.count {
        case 16 where Name.grpc.matches(bytes): return .grpc
        case 16 where Name.json.matches(bytes): return .json
        case 17 where Name.proto.matches(bytes): return .protobuf
        case 21 where Name.grpcJSON.matches(bytes): return .grpcJSON
        case 22 where Name.grpcProto.matches(bytes): return .grpc
        default: return .other
        }
    }

    /// A decimal number of at most ten digits; `nil` for anything else.
    private static func number(_ digits: some Collection<UInt8>) -> Int? {
        guard !digits.isEmpty, digits.count <= 10 else { return nil }
        var number = 0
        for digit in digits {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit) else { return nil }
            number = number * 10 + Int(digit - UInt8(ascii: "0"))
        }
        return number
    }

    /// gRPC's timeout: at most eight digits and a unit.
    private static func grpcTimeout(_ value: UnsafeRawBufferPointer) -> Duration? {
        guard let unit = value.last, value.count <= 9, let count = number(value.dropLast()) else {
            return nil
        }
        switch unit {
        case UInt8(ascii: "H"): return .seconds(count * 3600)
        case UInt8(ascii: "M"): return .seconds(count * 60)
        case UInt8(ascii: "S"): return .seconds(count)
        case UInt8(ascii: "m"): return .milliseconds(count)
        case UInt8(ascii: "u"): return .microseconds(count)
        case UInt8(ascii: "n"): return .nanoseconds(count)
        default: return nil
        }
    }
}

/// A header name or value to compare with, byte for byte.
private struct Name: Sendable {
    let text: StaticString

    static var path: Name { Name(text: ":path") }
    static var method: Name { Name(text: ":method") }
    static var post: Name { Name(text: "POST") }
    static var contentType: Name { Name(text: "content-type") }
    static var contentLength: Name { Name(text: "content-length") }
    static var contentEncoding: Name { Name(text: "content-encoding") }
    static var grpcTimeout: Name { Name(text: "grpc-timeout") }
    static var grpcEncoding: Name { Name(text: "grpc-encoding") }
    static var connectTimeout: Name { Name(text: "connect-timeout-ms") }
    static var identity: Name { Name(text: "identity") }
    static var grpc: Name { Name(text: "application/grpc") }
    static var grpcProto: Name { Name(text: "application/grpc+proto") }
    static var grpcJSON: Name { Name(text: "application/grpc+json") }
    static var json: Name { Name(text: "application/json") }
    static var proto: Name { Name(text: "application/proto") }

    func matches(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard bytes.count == text.utf8CodeUnitCount else { return false }
        return text.withUTF8Buffer { $0.elementsEqual(bytes) }
    }
}
