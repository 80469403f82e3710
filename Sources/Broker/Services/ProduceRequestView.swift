internal import NIOCore
internal import Protocol
internal import RPC

/// A compact `ProduceRequest`, read in place: its record batches are a slice of the request.
///
/// Field numbers are those of `Protocols/millrace/v1/broker.proto`.
struct ProduceRequestView {
    var topic = ""
    var partition: Int32?
    var acks = WireAcks.unspecified
    var timeoutMilliseconds: Int32 = 0
    var recordBatches = ByteBuffer()

    /// The compact form of a decoded request.
    init(_ request: WireProduceRequest) {
        topic = request.topic
        partition = request.hasPartition ? request.partition : nil
        acks = request.acks
        timeoutMilliseconds = request.timeoutMs
        recordBatches = ByteBuffer(bytes: request.recordBatches)
    }

    /// Reads the compact form; `nil` when the bytes hold readable records, or are malformed, which
    /// the general decoder then says more about.
    init?(_ request: ByteBuffer) {
        var reader = ProtobufReader(request)
        while let field = reader.nextField() {
            switch (field.number, field.value) {
            case (1, .bytes(let bytes)):
                guard let text = bytes.getString(at: bytes.readerIndex, length: bytes.readableBytes)
                else { return nil }
                topic = text
            case (2, .varint(let value)):
                partition = Int32(truncatingIfNeeded: value)
            case (3, .varint(let value)):
                acks = WireAcks(rawValue: Int(truncatingIfNeeded: value)) ?? .unspecified
            case (4, .varint(let value)):
                timeoutMilliseconds = Int32(truncatingIfNeeded: value)
            case (5, _):
                return nil
            case (15, .bytes(let bytes)):
                recordBatches = bytes
            default:
                break
            }
        }
        if reader.isMalformed { return nil }
    }
}
