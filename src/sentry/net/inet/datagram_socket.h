// What UDP, raw and ping sockets share: a queue of packets, what is told beside them (control messages), groups,
// errors.
//
// Whoever has a packet for the pod, the pod's own sender or a link, gives it to receive_packet(); whoever hears of an
// error about one of its packets gives that to hear_error(). Both are thread-safe and never block.
#pragma once

#include "sentry/net/inet/error_queue.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/membership.h"
#include "sentry/net/packet_queue.h"

namespace casemate::sentry {

class DatagramSocket : public InetSocket {
  public:
    DatagramSocket(int family, int type, int protocol, Ref<Network> network, uint32_t uid);

    SysResult<void> connect(Task& task, const SocketAddress& address, bool nonblocking) override;
    SysResult<size_t> receive(Task& task, ReceiveRequest& request) override;
    SysResult<void> shutdown(int how) override;
    SysResult<SocketAddress> peer_address() override;
    SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value) override;
    SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room) override;
    uint32_t poll_events() override;
    SysResult<size_t> unread() override { return queue_.first_size(); }
    void closed() override;
    Status status() override;

    // Whether a packet for a group or a broadcast that came by `link` is for this socket too.
    bool takes_group(const Packet& packet);
    // Into the queue, or dropped if it is full.
    void receive_packet(Packet& packet);
    // About a packet that this socket sent. `hard`: a connected socket hears of it without having asked.
    void hear_error(QueuedError error, bool hard);

  protected:
    SysResult<void> connect_to(InetEndpoint peer, int link);
    // How a packet goes out: by options, or by a control message.
    struct Header {
        int hop_limit = 64, traffic_class = 0;
        int link = 0;        // 0: any
        InetAddress source;  // any: to be chosen
        int segment = 0;     // UDP_SEGMENT
    };
    SysResult<Header> header_for(const InetAddress& destination, const SentControl* control);
    // Where a packet goes to and comes from, with port 0 if this kind has none.
    struct Outgoing {
        InetEndpoint to, from;
        RouteChoice way;
        Header header;
        bool connected = false;
    };
    SysResult<Outgoing> prepare(const SendRequest& request);
    bool shut_for_sending() const { return send_shut_; }
    Packet make_packet(const Outgoing& out, Packet data) const;
    virtual SysResult<void> bind_for_sending() = 0;
    // A wildcard port is an error for UDP, and nothing to raw sockets.
    virtual bool has_ports() const { return true; }

    bool has_messages() const override { return true; }

    PacketQueue queue_;
    ErrorQueue errors_;
    Memberships memberships_;
    bool connected_ = false;         // guarded by mutex_
    bool bound_by_connect_ = false;  // guarded by mutex_
    InetAddress bound_address_;      // what bind() asked for, without a connection's choice; guarded by mutex_

  private:
    SysResult<size_t> receive_error(ReceiveRequest& request);
    bool passes(const Filter& program, Packet& packet);
    void describe(const Packet& packet, ReceiveRequest& request);
    void describe_v4(const Packet& packet, ReceivedControl& control);
    void describe_v6(const Packet& packet, ReceivedControl& control);
    // The whole of a group option; false: it is none.
    SysResult<bool> set_group_option(int level, int name, std::span<const std::byte> value);
    SysResult<int> group_link(const InetAddress& group, int index, const InetAddress& address);

    std::atomic<bool> receive_shut_{false}, send_shut_{false};
    std::atomic<uint32_t> drops_{0};
    std::atomic<int> peek_offset_{-1};
};

}  // namespace casemate::sentry
