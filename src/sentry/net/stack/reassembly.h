// Fragments of IPv4 and IPv6 packets until they are whole. Bounded in number, bytes and time; pieces that overlap drop
// the packet (RFC 5722), for IPv4 too: nobody honest sends them.
#pragma once

#include <list>
#include <mutex>
#include <vector>

#include "sentry/kernel/clock.h"
#include "sentry/net/stack/wire.h"

namespace casemate::sentry::stack {

class Reassembly {
  public:
    static constexpr size_t kMostPackets = 64, kMostBytes = 1 << 20, kMostPieces = 64;
    static constexpr Nanoseconds kPatience = 30 * kSecond;

    struct Key {
        InetAddress from, to;
        uint32_t id;
        uint8_t protocol;
        friend bool operator==(const Key&, const Key&) = default;
    };
    struct Whole {
        std::vector<uint8_t> bytes;  // empty: not whole yet
        bool failed = false;         // it was given up
    };
    Whole add(const Key& key, size_t offset, bool more, Bytes piece, Nanoseconds now);

  private:
    struct Piece {
        size_t offset;
        std::vector<uint8_t> bytes;
    };
    struct Packet {
        Key key;
        Nanoseconds until;
        std::vector<Piece> pieces;  // by offset
        size_t bytes = 0;
        size_t end = 0;  // known with the last piece; 0: not yet
    };
    void drop_locked(std::list<Packet>::iterator packet);

    std::mutex mutex_;
    std::list<Packet> packets_;  // oldest first; guarded by mutex_
    size_t bytes_ = 0;           // guarded by mutex_
};

}  // namespace casemate::sentry::stack
