package import Essentials

/// What is wrong with bytes that should be record batches.
package enum RecordError: Error, Hashable, Sendable {
    /// The bytes end before the batch does.
    case incomplete(needed: Int, available: Int)
    /// The batch's length field can't be true.
    case invalidLength(Int32)
    /// Another format than record batch v2.
    case unsupportedMagic(Int8)
    /// The bytes are not those that the checksum was made of.
    case checksumMismatch(stored: UInt32, computed: UInt32)
    /// A header field breaks the format's rules.
    case invalidHeader(String)
    /// Record `index` of its batch breaks the format's rules.
    case invalidRecord(index: Int, String)
    case invalidTimestamp(String)
    case tooLarge(bytes: Int, limit: Int)
    case unsupportedCompression(UInt8)
    /// The records are not what the codec makes.
    case invalidCompression(Compression, String)
    /// More comes out of the compressed records than a batch may hold.
    case decompressedTooLarge(limit: Int)
    /// Only the cluster itself writes control batches.
    case controlBatchRefused
    /// There is nothing to append.
    case noBatches
}

extension RecordError {
    /// The name under which a client hears of it.
    package var code: ErrorCode {
        switch self {
        case .incomplete, .invalidLength, .checksumMismatch: .corruptMessage
        case .unsupportedMagic, .invalidHeader, .invalidRecord, .invalidCompression,
            .controlBatchRefused, .noBatches:
            // Sent again they would be no better, so not CORRUPT_MESSAGE, after which clients do.
            .invalidRecord
        case .invalidTimestamp: .invalidTimestamp
        case .tooLarge, .decompressedTooLarge: .messageTooLarge
        case .unsupportedCompression: .unsupportedCompressionType
        }
    }
}

extension RecordError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .incomplete(let needed, let available):
            "the record batch is cut off: it needs \(needed) bytes, and \(available) are there"
        case .invalidLength(let length):
            "the record batch gives its length as \(length)"
        case .unsupportedMagic(let magic):
            "the record batch has format version \(magic); only version 2 is supported"
        case .checksumMismatch(let stored, let computed):
            "the record batch is damaged: its checksum is \(stored), and its bytes give \(computed)"
        case .invalidHeader(let flaw):
            "the record batch's header is invalid: \(flaw)"
        case .invalidRecord(let index, let flaw):
            "record \(index) of the batch is invalid: \(flaw)"
        case .invalidTimestamp(let flaw):
            "the record batch's timestamps are invalid: \(flaw)"
        case .tooLarge(let bytes, let limit):
            "the record batch has \(bytes) bytes, more than the limit of \(limit); "
                + "send smaller batches or raise max.message.bytes"
        case .unsupportedCompression(let codec):
            "compression type \(codec) is not supported; use gzip, snappy, lz4, zstd or none"
        case .invalidCompression(let codec, let flaw):
            "the batch's records are not valid \(codec.name): \(flaw)"
        case .decompressedTooLarge(let limit):
            "the batch's records have more than \(limit) bytes once decompressed; "
                + "send smaller batches"
        case .controlBatchRefused:
            "control batches may not be written by clients"
        case .noBatches:
            "there is no record batch in the request"
        }
    }
}
