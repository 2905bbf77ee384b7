// AF_NETLINK sockets: NETLINK_ROUTE (interfaces), NETLINK_SOCK_DIAG (sockets, for `ss`), NETLINK_KOBJECT_UEVENT (no
// device ever comes or goes) and NETLINK_GENERIC (nobody but its controller). Requests are answered at once, into the
// sender's own queue, which is bounded by SO_RCVBUF: what does not fit is lost, and the next receive says ENOBUFS.
// An answer to a dump waits beside the queue; there is one at a time.
#pragma once

#include <linux/netlink.h>

#include <deque>
#include <set>

#include "sentry/net/netlink/message.h"
#include "sentry/net/netlink/netlink_hub.h"
#include "sentry/net/socket.h"

namespace casemate::sentry {

struct NetlinkDatagram {
    NetlinkBytes bytes;
    uint32_t port = 0;   // of the sender; 0: the kernel
    uint32_t group = 0;  // it came by; 0: to this socket alone
    ucred credentials{};
};

// What a request is answered with.
struct NetlinkReply {
    std::vector<NetlinkMessage> messages;
    bool dump = false;             // many messages, then NLMSG_DONE
    uint16_t dump_flags = 0;       // NLM_F_DUMP_FILTERED
    const char* reason = nullptr;  // of an error, for NETLINK_EXT_ACK
};

// A request under way.
struct NetlinkRequest {
    Task& task;
    NetlinkSocket& socket;
    nlmsghdr header;
    std::span<const std::byte> payload;  // behind the header
    bool strict;                         // NETLINK_GET_STRICT_CHK
    bool is_dump() const { return (header.nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP; }
};

class NetlinkSocket final : public Socket {
  public:
    NetlinkSocket(int type, int protocol, Ref<Network> network);
    ~NetlinkSocket() override;

    SysResult<void> bind(Task& task, const SocketAddress& address) override;
    SysResult<void> connect(Task& task, const SocketAddress& address, bool nonblocking) override;
    SysResult<size_t> send(Task& task, SendRequest& request) override;
    SysResult<size_t> receive(Task& task, ReceiveRequest& request) override;
    SysResult<SocketAddress> local_address() override;
    SysResult<SocketAddress> peer_address() override;
    SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value) override;
    SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room) override;
    SysResult<size_t> unread() override { return Errno(ENOTTY); }
    SysResult<size_t> unsent() override { return Errno(ENOTTY); }
    uint32_t poll_events() override;
    void closed() override;

    uint32_t port() const { return port_.load(std::memory_order_acquire); }
    bool listens_to(uint32_t group);
    uint32_t first_groups();  // as a mask
    size_t queued_bytes();
    uint32_t drops() const { return drops_.load(std::memory_order_relaxed); }
    // Into the queue, or lost.
    void deliver(NetlinkDatagram datagram);

  protected:
    bool has_messages() const override { return true; }

  private:
    SysResult<void> bind_port(Task& task, uint32_t port);
    SysResult<void> check_groups(Task& task) const;
    uint32_t most_groups() const;
    SysResult<void> to_kernel(Task& task, std::span<const std::byte> bytes);
    NetlinkBytes explained(NetlinkBytes bytes, const char* reason);
    void answer(const nlmsghdr& to, std::span<const std::byte> whole, NetlinkReply reply, int error);
    void start_dump(const nlmsghdr& to, NetlinkReply reply);
    std::optional<NetlinkDatagram> take(bool peek);
    bool flag(int option);

    std::atomic<uint32_t> port_{0};
    std::atomic<bool> bound_{false};
    std::atomic<uint32_t> drops_{0};
    std::mutex mutex_;
    std::set<uint32_t> groups_;  // guarded by mutex_, as is all below
    std::set<int> flags_;        // options of SOL_NETLINK that are on
    std::deque<NetlinkDatagram> queue_, dump_;
    size_t queued_ = 0;
    bool congested_ = false, closed_ = false;
    uint32_t peer_port_ = 0, peer_groups_ = 0;
};

SysResult<Ref<Socket>> create_netlink_socket(Ref<Network> network, Task& task, int domain, int type, int protocol);

// The kernel's side of each protocol. An errno is the answer's.
SysResult<void> answer_route_request(const NetlinkRequest& request, NetlinkReply& reply);
SysResult<void> answer_diag_request(const NetlinkRequest& request, NetlinkReply& reply);
SysResult<void> answer_generic_request(const NetlinkRequest& request, NetlinkReply& reply);

}  // namespace casemate::sentry
