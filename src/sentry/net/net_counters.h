// NetCounters: what the sockets of a network namespace have done inside the pod, for /proc/net/snmp and its like. What
// went over links, the stack counts (net/stack/stack.h). Loopback TCP has no segments: a write counts as one.
#pragma once

#include <atomic>
#include <cstdint>

namespace casemate::sentry {

struct NetCounters {
    using Counter = std::atomic<uint64_t>;
    static void add(Counter& counter, uint64_t by = 1) { counter.fetch_add(by, std::memory_order_relaxed); }

    // Index 1: IPv6.
    struct Udp {
        Counter in{0}, out{0}, no_port{0}, full{0};
    };
    struct Icmp {
        Counter in{0}, out{0}, echos_in{0}, echos_out{0}, replies_in{0}, replies_out{0}, unreachable_in{0},
            unreachable_out{0};
    };
    Udp udp[2];
    Icmp icmp[2];
    Counter packets[2] = {0, 0}, octets[2] = {0, 0};  // out, and in again
    Counter tcp_segments{0}, tcp_active_opens{0}, tcp_passive_opens{0}, tcp_failed{0}, tcp_resets{0}, tcp_overflows{0};
};

}  // namespace casemate::sentry
