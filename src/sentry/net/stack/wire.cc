#include "sentry/net/stack/wire.h"

namespace casemate::sentry::stack {

// Words as this machine stores them: the sum is byte-order independent once the result is stored the same way. Here the
// result is in network order as a number, so each word is swapped at the end.
uint64_t checksum_add(uint64_t sum, const void* bytes, size_t size) {
    const auto* p = static_cast<const uint8_t*>(bytes);
    // 32-bit words of this machine's order into a 64-bit sum; the fold's swap makes up for the order.
    uint64_t native = 0;
    while (size >= 16) {
        uint32_t words[4];
        memcpy(words, p, 16);
        native += uint64_t{words[0]} + words[1] + words[2] + words[3];
        p += 16;
        size -= 16;
    }
    while (size >= 2) {
        uint16_t word;
        memcpy(&word, p, 2);
        native += word;
        p += 2;
        size -= 2;
    }
    if (size == 1) native += *p;  // the byte that is missing is 0 and would come behind it
    while (native >> 16 != 0) native = (native & 0xffff) + (native >> 16);
    return sum + __builtin_bswap16(static_cast<uint16_t>(native));
}

uint16_t checksum_fold(uint64_t sum) {
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(sum);
}

uint64_t pseudo_header(const InetAddress& from, const InetAddress& to, uint8_t protocol, size_t length) {
    uint64_t sum = protocol + length / 65536 + length % 65536;
    size_t skip = from.is_v4() ? 12 : 0;
    sum = checksum_add(sum, from.bytes.data() + skip, 16 - skip);
    return checksum_add(sum, to.bytes.data() + skip, 16 - skip);
}

}  // namespace casemate::sentry::stack
