// Packet sockets (packet(7)): frames as they come and go by a link, for whoever has CAP_NET_RAW: tcpdump, DHCP, arping.
// Raw: with the Ethernet header; datagrams: without. What is received waits in a queue, or in a ring that the
// application maps. A filter (SO_ATTACH_FILTER) says how much of which frame.
#pragma once

#include <deque>
#include <set>

#include "sentry/kernel/timers.h"
#include "sentry/net/packet/packet_ring.h"
#include "sentry/net/packet/taps.h"
#include "sentry/net/socket.h"

namespace casemate::sentry {

class PacketSocket final : public Socket, private Timer {
  public:
    // `protocol`: ETH_P_*, host order; 0: receives nothing before it is bound.
    PacketSocket(int type, uint16_t protocol, Ref<Network> network, uint32_t uid);

    SysResult<void> bind(Task& task, const SocketAddress& address) override;
    SysResult<size_t> send(Task& task, SendRequest& request) override;
    SysResult<size_t> receive(Task& task, ReceiveRequest& request) override;
    SysResult<SocketAddress> local_address() override;
    SysResult<SocketAddress> peer_address() override { return Errno(EOPNOTSUPP); }
    SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value) override;
    SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room) override;
    SysResult<void> prepare_map(MapRequest& request) override;
    bool has_messages() const override { return true; }
    uint32_t poll_events() override;
    SysResult<size_t> unread() override;
    void closed() override;

    // A frame that a link has moved: taken if it is one of those that are wanted. Any thread.
    void see(const SeenFrame& frame);

    struct Status {
        uint16_t protocol;
        int link;
        size_t waiting;
        uint32_t uid;
    };
    Status status();

  private:
    struct Captured {
        std::vector<uint8_t> bytes;  // as far as they are kept
        uint32_t length;             // of the whole
        uint32_t status;
        sockaddr_ll from;
        Nanoseconds when;
    };
    // A ring's frames have been kept for long enough.
    void expired() override;
    SysResult<void> set_ring(Task& task, std::span<const std::byte> value);
    void drop_ring();
    SysResult<void> change_membership(std::span<const std::byte> value, bool add);
    void describe(const Captured& frame, ReceiveRequest& request);

    const uint32_t uid_;
    std::mutex mutex_;
    uint16_t protocol_seen_;  // guarded by mutex_, as is all below
    int link_ = 0;            // 0: all
    std::deque<Captured> queue_;
    size_t queued_ = 0;                 // bytes, with overhead
    uint32_t packets_ = 0, drops_ = 0;  // since they were last asked for
    bool aux_data_ = false, ignore_outgoing_ = false, closed_ = false;
    int version_ = TPACKET_V1;
    unsigned reserve_ = 0;
    std::map<std::pair<int, int>, unsigned> memberships_;  // link and PACKET_MR_*, counted
    std::unique_ptr<PacketRing> ring_;
    TimerThread* timers_ = nullptr;  // where this is armed; none before there was a ring
    bool kept_some_ = false;         // in the ring, and the timer is armed for it
};

SysResult<Ref<Socket>> create_packet_socket(Ref<Network> network, Task& task, int domain, int type, int protocol);

}  // namespace casemate::sentry
