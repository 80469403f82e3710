#include "crc32c.h"

#include <string.h>

// CRCs are held bit-reversed throughout: bit 31 is the coefficient of x^0.
#define POLYNOMIAL 0x82f63b78u

#if defined(__x86_64__)
#include <nmmintrin.h>
#define HARDWARE 1
#define HARDWARE_TARGET __attribute__((target("sse4.2")))
#define STEP8(crc, word) _mm_crc32_u64((crc), (word))
#define STEP1(crc, byte) _mm_crc32_u8((uint32_t)(crc), (byte))
static bool has_instruction(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") != 0;
}
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#define HARDWARE 1
#define HARDWARE_TARGET __attribute__((target("crc")))
#define STEP8(crc, word) __crc32cd((uint32_t)(crc), (word))
#define STEP1(crc, byte) __crc32cb((uint32_t)(crc), (byte))
static bool has_instruction(void) {
    const unsigned long crc32_capability = 1ul << 7;  // HWCAP_CRC32
    return (getauxval(AT_HWCAP) & crc32_capability) != 0;
}
#else
#define HARDWARE 0
static bool has_instruction(void) { return false; }
#endif

// tables[k][b] is the CRC of byte b followed by k zero bytes.
static uint32_t tables[8][256];

static bool uses_hardware = false;

#if HARDWARE
// The instruction takes three cycles, and one can start in each: so three runs of equal length are
// computed side by side, then joined. To join means to carry a CRC past the zero bytes that stand
// for the next run, which is linear: one table look-up a byte of the CRC.
enum { LONG_RUN = 4096, SHORT_RUN = 256 };
static uint32_t past_long[4][256];
static uint32_t past_short[4][256];

// The product of two polynomials, modulo POLYNOMIAL.
static uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        if (a & bit) product ^= b;
        b = (b & 1) ? (b >> 1) ^ POLYNOMIAL : b >> 1;
    }
    return product;
}

static void fill_past(uint32_t table[4][256], size_t zero_bytes) {
    uint32_t power = 1u << 31;    // x^0
    uint32_t square = 1u << 30;   // x^1, squared as often as there are bits
    for (size_t exponent = zero_bytes * 8; exponent != 0; exponent >>= 1) {
        if (exponent & 1) power = multiply(power, square);
        square = multiply(square, square);
    }
    for (unsigned k = 0; k < 4; k++) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            table[k][byte] = multiply(byte << (8 * k), power);
        }
    }
}

static inline uint32_t carry(uint32_t table[4][256], uint32_t crc) {
    return table[0][crc & 0xff] ^ table[1][(crc >> 8) & 0xff] ^ table[2][(crc >> 16) & 0xff]
        ^ table[3][crc >> 24];
}

static inline uint64_t load(const uint8_t *data) {
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

HARDWARE_TARGET
static uint32_t hardware(uint32_t crc, const uint8_t *data, size_t length) {
    uint64_t first = crc ^ 0xffffffffu;
    while (length >= 3 * LONG_RUN) {
        uint64_t second = 0, third = 0;
        for (size_t i = 0; i < LONG_RUN; i += 8) {
            first = STEP8(first, load(data + i));
            second = STEP8(second, load(data + LONG_RUN + i));
            third = STEP8(third, load(data + 2 * LONG_RUN + i));
        }
        first = carry(past_long, (uint32_t)first) ^ second;
        first = carry(past_long, (uint32_t)first) ^ third;
        data += 3 * LONG_RUN;
        length -= 3 * LONG_RUN;
    }
    while (length >= 3 * SHORT_RUN) {
        uint64_t second = 0, third = 0;
        for (size_t i = 0; i < SHORT_RUN; i += 8) {
            first = STEP8(first, load(data + i));
            second = STEP8(second, load(data + SHORT_RUN + i));
            third = STEP8(third, load(data + 2 * SHORT_RUN + i));
        }
        first = carry(past_short, (uint32_t)first) ^ second;
        first = carry(past_short, (uint32_t)first) ^ third;
        data += 3 * SHORT_RUN;
        length -= 3 * SHORT_RUN;
    }
    for (; length >= 8; data += 8, length -= 8) first = STEP8(first, load(data));
    for (; length != 0; data++, length--) first = STEP1(first, *data);
    return (uint32_t)first ^ 0xffffffffu;
}
#endif

// Before main, so that no call has to ask whether the tables are there.
__attribute__((constructor)) static void prepare(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = (crc & 1) ? (crc >> 1) ^ POLYNOMIAL : crc >> 1;
        tables[0][byte] = crc;
    }
    for (unsigned k = 1; k < 8; k++) {
        for (unsigned byte = 0; byte < 256; byte++) {
            uint32_t before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][before & 0xff];
        }
    }
#if HARDWARE
    fill_past(past_long, LONG_RUN);
    fill_past(past_short, SHORT_RUN);
    uses_hardware = has_instruction();
#endif
}

uint32_t millrace_crc32c_table(uint32_t crc, const void *data, size_t length) {
    const uint8_t *bytes = data;
    crc ^= 0xffffffffu;
    for (; length >= 8; bytes += 8, length -= 8) {
        uint32_t low = crc
            ^ ((uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16
               | (uint32_t)bytes[3] << 24);
        crc = tables[7][low & 0xff] ^ tables[6][(low >> 8) & 0xff] ^ tables[5][(low >> 16) & 0xff]
            ^ tables[4][low >> 24] ^ tables[3][bytes[4]] ^ tables[2][bytes[5]]
            ^ tables[1][bytes[6]] ^ tables[0][bytes[7]];
    }
    for (; length != 0; bytes++, length--) crc = (crc >> 8) ^ tables[0][(crc ^ *bytes) & 0xff];
    return crc ^ 0xffffffffu;
}

uint32_t millrace_crc32c(uint32_t crc, const void *data, size_t length) {
#if HARDWARE
    if (uses_hardware) return hardware(crc, data, length);
#endif
    return millrace_crc32c_table(crc, data, length);
}

bool millrace_crc32c_is_hardware(void) { return uses_hardware; }
