internal import CCRC32C

/// CRC-32C (Castagnoli), the checksum of record batches.
package enum CRC32C {
    /// The checksum of `bytes`, or of what came before and `bytes`, given that one's as `crc`.
    package static func checksum(_ bytes: UnsafeRawBufferPointer, continuing crc: UInt32 = 0)
        -> UInt32
    {
        millrace_crc32c(crc, bytes.baseAddress, bytes.count)
    }

    /// The same by table only; slower, and there to check the other against.
    package static func tableChecksum(
        _ bytes: UnsafeRawBufferPointer, continuing crc: UInt32 = 0
    ) -> UInt32 {
        millrace_crc32c_table(crc, bytes.baseAddress, bytes.count)
    }

    /// Whether the processor's own instruction is in use.
    package static var isHardware: Bool { millrace_crc32c_is_hardware() }
}
