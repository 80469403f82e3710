internal import Essentials
internal import HTTP2
internal import NIOCore
internal import SwiftProtobuf

extension RPCError {
    /// Trailers must stay within what a client takes of header fields.
    private static let maxMessageBytes = 4096

    /// Appends the error as gRPC's trailers.
    func addTrailers(to list: inout HTTP2Headers) {
        list.add("grpc-status", String(status.rawValue))
        if !message.isEmpty {
            let text = PercentCoding.encode(message, maxBytes: Self.maxMessageBytes)
            list.add("grpc-message", text, isIndexed: false)
        }
        if let code { list.add("millrace-error", code.name) }
    }

    /// The error that gRPC's trailers carry; `nil` if they say OK.
    static func fromTrailers(_ list: HTTP2Headers) -> RPCError? {
        guard let text = list["grpc-status"], let number = Int(text) else {
            return RPCError(
                status: .unknown, "the server ended the call without a grpc-status trailer")
        }
        let status = Status(rawValue: number) ?? .unknown
        if status == .ok { return nil }
        return RPCError(
            status: status, code: list["millrace-error"].flatMap { ErrorCode(name: $0) },
            PercentCoding.decode(list["grpc-message"] ?? ""))
    }

    /// The body of an error answer in Connect's form.
    var json: ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeString(#"{"code":"\#(status.name)","message":"#)
        buffer.writeJSONString(message)
        if let code {
            buffer.writeString(
                #","details":[{"type":"millrace.v1.ErrorInfo","debug":{"error":"\#(code.name)","#
                    + #""retriable":\#(code.isRetriable)}}]"#)
        }
        buffer.writeString("}\n")
        return buffer
    }

    /// Reads an error answer in Connect's form; an unreadable one is judged by its HTTP status.
    init(json: ByteBuffer, httpStatus: Int) {
        self.init(
            status: Status(httpStatus: httpStatus), "the server answered HTTP status \(httpStatus)")
        guard let body = try? Google_Protobuf_Struct(jsonUTF8Bytes: ProtobufBytes(json)) else {
            return
        }
        if let status = body.fields["code"].flatMap({ Status(name: $0.stringValue) }) {
            self.status = status
        }
        if let text = body.fields["message"]?.stringValue { message = text }
        for detail in body.fields["details"]?.listValue.values ?? [] {
            let debug = detail.structValue.fields["debug"]?.structValue
            guard let name = debug?.fields["error"]?.stringValue else { continue }
            code = ErrorCode(name: name)
        }
    }
}

extension ByteBuffer {
    /// Appends `text` as a JSON string, quotes included.
    fileprivate mutating func writeJSONString(_ text: String) {
        writeInteger(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                writeInteger(UInt8(ascii: "\\"))
                writeInteger(byte)
            case UInt8(ascii: "\n"):
                writeString("\\n")
            case 0..<0x20:
                writeString("\\u00")
                writeInteger(PercentCoding.digit(byte >> 4))
                writeInteger(PercentCoding.digit(byte & 0xf))
            default:
                writeInteger(byte)
            }
        }
        writeInteger(UInt8(ascii: "\""))
    }
}

/// gRPC's encoding of messages in header values: printable ASCII as it is, the rest as `%XX`.
enum PercentCoding {
    /// Encodes as much of `text` as fits in `maxBytes`, whole characters only.
    static func encode(_ text: String, maxBytes: Int = .max) -> String {
        var bytes: [UInt8] = []
        for character in text.unicodeScalars {
            let before = bytes.count
            for byte in UTF8.encode(character) ?? UTF8.encodedReplacementCharacter {
                if isUnescaped(byte) {
                    bytes.append(byte)
                } else {
                    appendEscape(byte, to: &bytes)
                }
            }
            if bytes.count > maxBytes - 4 {
                bytes.removeSubrange(before...)
                break
            }
        }
        // HTTP/2 takes no value that starts or ends with a space.
        if bytes.first == space { bytes.replaceSubrange(..<1, with: Array("%20".utf8)) }
        if bytes.last == space {
            bytes.replaceSubrange((bytes.count - 1)..., with: Array("%20".utf8))
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static let space = UInt8(ascii: " ")

    private static func appendEscape(_ byte: UInt8, to bytes: inout [UInt8]) {
        bytes += [UInt8(ascii: "%"), digit(byte >> 4), digit(byte & 0xf)]
    }

    /// Undoes `encode`; what is not a valid escape is kept as it is.
    static func decode(_ text: String) -> String {
        let source = Array(text.utf8)
        var bytes: [UInt8] = []
        var index = 0
        while index < source.count {
            if source[index] == UInt8(ascii: "%"), index + 2 < source.count,
                let high = value(source[index + 1]), let low = value(source[index + 2])
            {
                bytes.append(high << 4 | low)
                index += 3
            } else {
                bytes.append(source[index])
                index += 1
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    static func digit(_ value: UInt8) -> UInt8 {
        value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "A") + value - 10
    }

    private static func isUnescaped(_ byte: UInt8) -> Bool {
        (0x20...0x7e).contains(byte) && byte != UInt8(ascii: "%")
    }

    private static func value(_ digit: UInt8) -> UInt8? {
        switch digit {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
        case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
        case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
        default: nil
        }
    }
}
