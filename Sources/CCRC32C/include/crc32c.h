#ifndef MILLRACE_CRC32C_H
#define MILLRACE_CRC32C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Continues the CRC-32C (Castagnoli, RFC 3720 section B.4) `crc` over `length` bytes at `data`.
///
/// Start with 0. The result for a whole is the same however it is cut into pieces. The
/// processor's own instruction is used where it has one.
uint32_t millrace_crc32c(uint32_t crc, const void *data, size_t length);

/// The same, by table only: what runs where there is no such instruction.
uint32_t millrace_crc32c_table(uint32_t crc, const void *data, size_t length);

/// Whether `millrace_crc32c` uses the processor's instruction.
bool millrace_crc32c_is_hardware(void);

#endif
