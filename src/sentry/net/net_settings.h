// What /proc/sys/net sets for a network namespace and the sockets heed.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace casemate::sentry {

struct NetSettings {
    std::atomic<uint16_t> unprivileged_port_start{1024};
    std::atomic<uint32_t> most_backlog{4096};                          // net.core.somaxconn
    std::atomic<uint32_t> local_ports{uint32_t{32768} << 16 | 60999};  // first, last
    std::atomic<uint64_t> ping_group_range{uint64_t{1} << 32};         // first, last

    std::pair<uint16_t, uint16_t> port_range() const {
        uint32_t both = local_ports;
        return {static_cast<uint16_t>(both >> 16), static_cast<uint16_t>(both)};
    }
    std::pair<uint32_t, uint32_t> ping_groups() const {
        uint64_t both = ping_group_range;
        return {static_cast<uint32_t>(both >> 32), static_cast<uint32_t>(both)};
    }
};

}  // namespace casemate::sentry
