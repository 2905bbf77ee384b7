// Taps: the packet sockets of a network namespace, and what they get to see: each frame that comes or goes by a link,
// and the datagrams of the loopback, put into frames for them. TCP on the loopback never becomes packets, so nobody
// sees it.
//
// Without packet sockets it costs one load per frame. Thread-safe.
#pragma once

#include <linux/if_packet.h>
#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "base/ref.h"
#include "sentry/net/inet/endpoint.h"
#include "sentry/net/stack/frame.h"

namespace casemate::sentry {

class PacketSocket;
struct Packet;

// One frame, from its Ethernet header on. Borrowed for the call.
struct SeenFrame {
    int link = 0;
    uint16_t hardware_type = 1;  // ARPHRD_*
    uint8_t type = PACKET_HOST;  // PACKET_*
    uint16_t protocol = 0;       // ETH_P_*, host order
    std::span<const uint8_t> bytes;
    uint32_t status = 0;  // TP_STATUS_CSUM*
};

class Taps {
  public:
    void add(PacketSocket& socket);
    void remove(PacketSocket& socket);
    bool active() const { return count_.load(std::memory_order_relaxed) != 0; }
    std::vector<Ref<PacketSocket>> sockets();

    void came_in(int link, const std::array<uint8_t, 6>& own, std::span<stack::InFrame> frames);
    // `sender`: does not see its own frame; may be null.
    void goes_out(int link, const stack::OutFrame& frame, const PacketSocket* sender);
    // What went over the loopback: out, and in again.
    void looped(std::span<const uint8_t> frame, const PacketSocket* sender);
    // The same of a datagram of `protocol`; for UDP the header is made of its ports, else the packet has it.
    void looped(uint8_t protocol, bool with_udp_header, const Packet& packet);

  private:
    void show(const SeenFrame& frame, const PacketSocket* sender);

    std::mutex mutex_;
    std::vector<PacketSocket*> sockets_;  // guarded by mutex_
    std::atomic<size_t> count_{0};
};

// ETH_P_* of a frame: its type, or what lengths mean.
uint16_t frame_protocol(std::span<const uint8_t> frame);

}  // namespace casemate::sentry
