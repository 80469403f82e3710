internal import Essentials
package import NIOCore
package import SwiftProtobuf

/// How the message of a call is written.
package enum PayloadEncoding: Sendable, Hashable {
    case protobuf
    /// Protobuf's JSON mapping.
    case json
}

extension PayloadEncoding {
    /// Reads a request.
    ///
    /// - Throws: `invalidArgument` that names the field or position at fault.
    package func decode<M: Message>(_ type: M.Type, from bytes: ByteBuffer) throws(RPCError) -> M {
        do {
            switch self {
            case .protobuf: return try M(serializedBytes: ProtobufBytes(bytes))
            case .json:
                // An empty body is an empty message: `curl -X POST` alone should do.
                if bytes.readableBytes == 0 { return M() }
                return try M(jsonUTF8Bytes: ProtobufBytes(bytes))
            }
        } catch {
            throw RPCError(
                .invalidRequest, "the request is not a \(M.protoMessageName): \(describe(error))")
        }
    }

    /// - Throws: `internalError`; a message of ours that cannot be written is a fault of ours.
    package func encode(_ message: some Message) throws(RPCError) -> ByteBuffer {
        do {
            switch self {
            case .protobuf:
                let bytes: ProtobufBytes = try message.serializedBytes()
                return bytes.buffer
            case .json:
                let bytes: ProtobufBytes = try message.jsonUTF8Bytes()
                return bytes.buffer
            }
        } catch {
            throw RPCError(
                status: .internalError, code: .unknownServerError,
                "cannot write a \(type(of: message).protoMessageName): \(error)")
        }
    }

    private func describe(_ error: any Error) -> String {
        if let error = error as? JSONDecodingError, case .unknownField(let name) = error {
            return "unknown field \"\(name)\""
        }
        return "\(error)"
    }
}
