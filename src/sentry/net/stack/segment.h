// A TCP segment as it came in: header fields and options (RFC 9293, 7323, 2018), checked for their lengths only.
#pragma once

#include "sentry/net/stack/stack.h"

namespace casemate::sentry::stack {

enum TcpFlag : uint8_t { kFin = 1, kSyn = 2, kRst = 4, kPsh = 8, kAck = 16, kUrg = 32, kEce = 64, kCwr = 128 };
// The lower bits of the traffic class (RFC 3168).
enum EcnMark : uint8_t { kNotCapable = 0, kCapable = 2, kCongested = 3, kEcnMask = 3 };

struct TcpSegment {
    Tuple tuple;
    uint32_t link = 0;
    uint32_t sequence = 0, acknowledged = 0;
    uint16_t window = 0;
    uint16_t urgent = 0;  // with kUrg: one past the urgent byte, from `sequence` on
    uint8_t flags = 0;
    uint8_t mark = kNotCapable;  // EcnMark
    uint16_t mss = 0;            // 0: not said
    int scale = -1;              // -1: not said
    bool sack_permitted = false, has_timestamp = false;
    uint32_t timestamp = 0, echo = 0;
    unsigned sack_count = 0;
    struct {
        uint32_t begin, end;
    } sacks[4];
    uint16_t part = 0;        // size of the segments it was put together from; 0: it is one
    Ref<FrameBuffer> buffer;  // that `payload` lies in
    Bytes payload;

    uint32_t begin_at = 0;  // of a SYN behind an old connection: our first sequence number; 0: any

    bool opens() const { return (flags & (kSyn | kAck | kRst)) == kSyn; }
    uint32_t length() const {
        return static_cast<uint32_t>(payload.size()) + ((flags & kSyn) != 0) + ((flags & kFin) != 0);
    }
    // `tcp`: header and payload. False: malformed.
    bool parse(Bytes tcp);
};

// "a is before b", modulo 2^32.
inline bool before(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }

}  // namespace casemate::sentry::stack
