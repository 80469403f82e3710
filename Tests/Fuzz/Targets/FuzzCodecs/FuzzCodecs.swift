internal import CLibFuzzer
internal import Essentials
internal import NIOCore
internal import Records

private let limit = 1 << 20

@main
enum FuzzCodecs {
    static func main() {
        var count = CommandLine.argc
        var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
        _ = LLVMFuzzerRunDriver(&count, &arguments, fuzz)
    }
}

/// Decompresses the input, whose first byte names the codec, and compresses it.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = UnsafeRawBufferPointer(start: data, count: count)
    guard let first = input.first, let codec = Compression(rawValue: first % 5) else { return 0 }
    let bytes = UnsafeRawBufferPointer(rebasing: input[1...])
    if let output = try? codec.decompress(bytes, limit: limit) {
        invariant(output.readableBytes <= limit, "\(output.readableBytes) bytes came out")
        invariant(output.capacity <= 4 * limit, "\(output.capacity) bytes were taken")
    }
    var compressed = ByteBuffer()
    codec.compress(bytes, into: &compressed)
    let back = compressed.withUnsafeReadableBytes {
        try? codec.decompress($0, limit: bytes.count)
    }
    invariant(back == ByteBuffer(bytes: bytes), "\(codec) does not give back what it was given")
    return 0
}
