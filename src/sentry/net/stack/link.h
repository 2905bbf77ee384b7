// A link: a device with its hardware address, its neighbours and its counters.
#pragma once

#include <atomic>

#include "sentry/net/interfaces.h"
#include "sentry/net/stack/neighbours.h"
#include "sentry/net/stack/stack.h"

namespace casemate::sentry::stack {

class Link final : public RefCounted {
  public:
    Link(Stack& stack, uint32_t index, const MacAddress& mac, uint32_t mtu, std::shared_ptr<Device> device,
         Ref<LinkCounters> counters)
        : index(index),
          mac(mac),
          mtu(mtu),
          neighbours(stack, *this),
          counters(std::move(counters)),
          device_(std::move(device)) {}

    const uint32_t index;
    const MacAddress mac;
    std::atomic<uint32_t> mtu;
    NeighbourTable neighbours;
    const Ref<LinkCounters> counters;

    // Puts the Ethernet header on and sends. False: no room now.
    bool send(const MacAddress& to, uint16_t type, OutFrame& frame) {
        uint8_t* head = frame.head.data();
        memcpy(head, to.data(), 6);
        memcpy(head + 6, mac.data(), 6);
        store16(head + 12, type);
        size_t size = frame.head_size + frame.payload_size;
        if (!device_->send(frame)) {
            counters->send_dropped.fetch_add(1, std::memory_order_relaxed);
            return false;
        }
        counters->sent(size);
        return true;
    }
    // To the next hop, or into its queue until its hardware address is known. EHOSTUNREACH, ENOBUFS.
    SysResult<void> send_to(const InetAddress& next_hop, uint16_t type, OutFrame& frame);
    Device& device() { return *device_; }

  private:
    const std::shared_ptr<Device> device_;
};

}  // namespace casemate::sentry::stack
