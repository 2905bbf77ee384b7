// Wire: a network namespace's way to the outside: the stack, its links' devices, and what joins them to the namespace's
// model (net/interfaces.h) and to its sockets. Made when the first link comes.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "base/unique_fd.h"
#include "sentry/kernel/timers.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/link/packet_device.h"
#include "sentry/net/stack/stack.h"

namespace casemate::sentry {

class Network;
class PacketSocket;

class Wire final : public stack::Sockets {
  public:
    // `network` owns it.
    Wire(Network& network, TimerThread& timers);
    ~Wire() override;

    stack::Stack& stack() { return *stack_; }
    // A link whose frames go through `socket`. The index. As Interfaces::add_link.
    SysResult<int> add_link(Link link, UniqueFd socket, bool virtio_header);

    // What its links know of their neighbours without having been told.
    std::vector<Neighbour> learned();
    // A whole frame of a packet socket's, which `sender` is. False: no such link, or no room now.
    bool send_frame(int link, std::span<const uint8_t> bytes, const PacketSocket* sender);

    stack::FoundListener tcp_listener(const InetEndpoint& to, const InetEndpoint& from, uint32_t link) override;
    bool udp_input(const stack::InPacket& packet) override;
    void udp_error(const InetEndpoint& local, const InetEndpoint& peer, int error) override;
    bool raw_input(const stack::InPacket& packet) override;
    int ecn() override;

  private:
    class Alarm;
    class WatchedDevice;

    void changed(const InterfaceChange& change);
    void push_settings();

    Network& network_;
    const std::unique_ptr<Alarm> alarm_;
    Ref<stack::Stack> stack_;
    int listener_ = 0;
    std::mutex mutex_;
    std::map<int, std::shared_ptr<WatchedDevice>> devices_;  // guarded by mutex_
};

}  // namespace casemate::sentry
