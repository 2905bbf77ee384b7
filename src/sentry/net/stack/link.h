// A link: a device with its hardware address, its neighbours and its counters.
#pragma once

#include <atomic>

#include "sentry/net/stack/neighbours.h"
#include "sentry/net/stack/stack.h"

namespace casemate::sentry::stack {

class Link final : public RefCounted {
  public:
    Link(Stack& stack, uint32_t index, const MacAddress& mac, uint32_t mtu, std::shared_ptr<Device> device)
        : index(index), mac(mac), mtu(mtu), neighbours(stack, *this), device_(std::move(device)) {}

    const uint32_t index;
    const MacAddress mac;
    std::atomic<uint32_t> mtu;
    NeighbourTable neighbours;
    struct {
        std::atomic<uint64_t> rx_bytes{0}, rx_packets{0}, rx_dropped{0}, tx_bytes{0}, tx_packets{0}, tx_dropped{0};
    } counters;

    // Puts the Ethernet header on and sends. False: no room now.
    bool send(const MacAddress& to, uint16_t type, OutFrame& frame) {
        uint8_t* head = frame.head.data();
        memcpy(head, to.data(), 6);
        memcpy(head + 6, mac.data(), 6);
        store16(head + 12, type);
        size_t size = frame.head_size + frame.payload_size;
        if (!device_->send(frame)) {
            counters.tx_dropped.fetch_add(1, std::memory_order_relaxed);
            return false;
        }
        counters.tx_packets.fetch_add(1, std::memory_order_relaxed);
        counters.tx_bytes.fetch_add(size, std::memory_order_relaxed);
        return true;
    }
    // To the next hop, or into its queue until its hardware address is known. EHOSTUNREACH, ENOBUFS.
    SysResult<void> send_to(const InetAddress& next_hop, uint16_t type, OutFrame& frame);
    Device& device() { return *device_; }

  private:
    const std::shared_ptr<Device> device_;
};

}  // namespace casemate::sentry::stack
