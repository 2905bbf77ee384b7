// NETLINK_SOCK_DIAG: the sockets of the namespace, as `ss` asks for them.
#include <linux/inet_diag.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

#include <unordered_map>

#include "sentry/net/host/host_sockets.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/ports.h"
#include "sentry/net/netlink/diag_filter.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/network.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/unix/unix_socket.h"

namespace casemate::sentry {
namespace {

template <typename Header>
SysResult<Header> read_header(const NetlinkRequest& request) {
    Header header;
    if (request.payload.size() < sizeof(header)) return Errno(EINVAL);
    memcpy(&header, request.payload.data(), sizeof(header));
    return header;
}

void put_address(__be32 (&into)[4], const InetAddress& address, bool v6) {
    memset(into, 0, sizeof(into));
    if (v6)
        memcpy(into, address.bytes.data(), 16);
    else
        memcpy(into, address.bytes.data() + 12, 4);
}

void put_cookie(uint32_t (&into)[2], uint64_t cookie) {
    into[0] = static_cast<uint32_t>(cookie);
    into[1] = static_cast<uint32_t>(cookie >> 32);
}

bool asks(uint8_t extensions, int which) { return extensions & 1 << (which - 1); }

NetlinkMessage inet_message(const NetlinkRequest& request, InetSocket& socket, const InetSocket::Status& status,
                            uint8_t extensions) {
    bool v6 = socket.v6();
    NetlinkMessage message(SOCK_DIAG_BY_FAMILY, 0, request.header.nlmsg_seq, request.socket.port());
    inet_diag_msg body{};
    body.idiag_family = static_cast<uint8_t>(socket.family());
    body.idiag_state = static_cast<uint8_t>(status.state);
    body.id.idiag_sport = htons(status.local.port);
    body.id.idiag_dport = htons(status.peer.port);
    put_address(body.id.idiag_src, status.local.address, v6);
    put_address(body.id.idiag_dst, status.peer.address, v6);
    body.id.idiag_if = static_cast<uint32_t>(socket.options().bound_device.load());
    put_cookie(body.id.idiag_cookie, socket.inode_number());
    body.idiag_rqueue = static_cast<uint32_t>(status.receiving);
    body.idiag_wqueue = static_cast<uint32_t>(status.sending);
    body.idiag_uid = socket.uid();
    body.idiag_inode = static_cast<uint32_t>(socket.inode_number());
    message.put(body);
    message.attribute<uint8_t>(INET_DIAG_SHUTDOWN, 0);
    auto add_option = [&](uint16_t type, int level, int name) {
        auto value = socket.get_option(request.task, level, name, 512);
        if (value.ok()) message.attribute(type, value->data(), value->size());
    };
    auto add_number = [&](uint16_t type, int level, int name) {
        auto value = socket.get_option(request.task, level, name, sizeof(int));
        if (value.ok() && !value->empty()) message.attribute(type, value->data(), 1);
    };
    if (asks(extensions, INET_DIAG_TOS)) add_number(INET_DIAG_TOS, IPPROTO_IP, IP_TOS);
    if (v6) {
        if (asks(extensions, INET_DIAG_TCLASS)) add_number(INET_DIAG_TCLASS, IPPROTO_IPV6, IPV6_TCLASS);
        if (status.state == TCP_LISTEN || status.state == TCP_CLOSE)
            message.attribute<uint8_t>(INET_DIAG_SKV6ONLY, socket.v6_only() ? 1 : 0);
    }
    if (asks(extensions, INET_DIAG_MEMINFO))
        message.attribute(INET_DIAG_MEMINFO, inet_diag_meminfo{body.idiag_rqueue, body.idiag_wqueue, 0, 0});
    if (asks(extensions, INET_DIAG_SKMEMINFO)) {
        uint32_t values[SK_MEMINFO_VARS] = {};
        values[SK_MEMINFO_RMEM_ALLOC] = body.idiag_rqueue;
        values[SK_MEMINFO_RCVBUF] = socket.options().receive_buffer;
        values[SK_MEMINFO_SNDBUF] = socket.options().send_buffer;
        message.attribute(INET_DIAG_SKMEMINFO, values);
    }
    if (socket.protocol() == IPPROTO_TCP) {
        if (asks(extensions, INET_DIAG_INFO)) add_option(INET_DIAG_INFO, IPPROTO_TCP, TCP_INFO);
        if (asks(extensions, INET_DIAG_CONG)) {
            auto name = socket.get_option(request.task, IPPROTO_TCP, TCP_CONGESTION, 16);
            // SAFETY: sixteen characters with a NUL among them.
            if (name.ok()) message.text(INET_DIAG_CONG, reinterpret_cast<const char*>(name->data()));
        }
    }
    return message;
}

NetlinkMessage orphan_message(const NetlinkRequest& request, const Network::Orphan& one, bool v6) {
    NetlinkMessage message(SOCK_DIAG_BY_FAMILY, 0, request.header.nlmsg_seq, request.socket.port());
    inet_diag_msg body{};
    body.idiag_family = v6 ? AF_INET6 : AF_INET;
    body.idiag_state = static_cast<uint8_t>(one.state);
    if (one.state == TCP_TIME_WAIT) body.idiag_timer = 3;
    body.idiag_expires = static_cast<uint32_t>(std::max<int64_t>(one.left_ms, 0));
    body.id.idiag_sport = htons(one.local.port);
    body.id.idiag_dport = htons(one.peer.port);
    put_address(body.id.idiag_src, one.local.address, v6);
    put_address(body.id.idiag_dst, one.peer.address, v6);
    put_cookie(body.id.idiag_cookie, ~uint64_t{0});
    message.put(body);
    return message;
}

NetlinkMessage host_message(const NetlinkRequest& request, const HostSockets::Status& one) {
    NetlinkMessage message(SOCK_DIAG_BY_FAMILY, 0, request.header.nlmsg_seq, request.socket.port());
    inet_diag_msg body{};
    body.idiag_family = one.v6 ? AF_INET6 : AF_INET;
    body.idiag_state = static_cast<uint8_t>(one.state);
    body.id.idiag_sport = htons(one.local.port);
    body.id.idiag_dport = htons(one.peer.port);
    put_address(body.id.idiag_src, one.local.address, one.v6);
    put_address(body.id.idiag_dst, one.peer.address, one.v6);
    put_cookie(body.id.idiag_cookie, one.inode);
    body.idiag_rqueue = one.receiving;
    body.idiag_wqueue = one.sending;
    body.idiag_uid = one.uid;
    body.idiag_inode = static_cast<uint32_t>(one.inode);
    message.put(body);
    return message;
}

SysResult<void> answer_inet(const NetlinkRequest& request, NetlinkReply& reply) {
    auto wanted = TRY(read_header<inet_diag_req_v2>(request));
    bool v6 = wanted.sdiag_family == AF_INET6;
    auto attributes = TRY(NetlinkAttributes::parse(request.payload.subspan(sizeof(wanted)), false));
    DiagFilter filter;
    if (auto program = attributes.find(INET_DIAG_REQ_BYTECODE)) filter = TRY(DiagFilter::create(*program));
    Network& network = request.socket.network();
    PortTable* table = wanted.sdiag_protocol == IPPROTO_TCP       ? &network.tcp_ports()
                       : wanted.sdiag_protocol == IPPROTO_UDP     ? &network.udp_ports()
                       : wanted.sdiag_protocol == IPPROTO_UDPLITE ? &network.udplite_ports()
                                                                  : nullptr;
    if (wanted.sdiag_protocol == IPPROTO_RAW) table = &network.raw_sockets();
    if (table == nullptr) return Errno(ENOENT);
    reply.dump = request.is_dump();
    table->for_each([&](InetSocket& socket) {
        if (socket.v6() != v6) return;
        InetSocket::Status status = socket.status();
        if (wanted.sdiag_protocol == IPPROTO_TCP && status.state == TCP_CLOSE)
            return;  // at most its TIME_WAIT is shown
        if (!reply.dump) {
            __be32 local[4], peer[4];
            put_address(local, status.local.address, v6);
            put_address(peer, status.peer.address, v6);
            bool same = wanted.id.idiag_sport == htons(status.local.port) &&
                        wanted.id.idiag_dport == htons(status.peer.port) &&
                        memcmp(local, wanted.id.idiag_src, v6 ? 16 : 4) == 0 &&
                        memcmp(peer, wanted.id.idiag_dst, v6 ? 16 : 4) == 0;
            if (!same || !reply.messages.empty()) return;
        } else {
            if (!(wanted.idiag_states & 1u << status.state)) return;
            if (wanted.id.idiag_sport != 0 && wanted.id.idiag_sport != htons(status.local.port)) return;
            if (wanted.id.idiag_dport != 0 && wanted.id.idiag_dport != htons(status.peer.port)) return;
            int device = socket.options().bound_device;
            if (!filter.passes({v6, status.local, status.peer, device, status.chose_port})) return;
        }
        reply.messages.push_back(inet_message(request, socket, status, wanted.idiag_ext));
    });
    if (wanted.sdiag_protocol == IPPROTO_TCP && reply.dump) {
        for (const Network::Orphan& one : network.orphans()) {
            if (one.local.address.is_v4() == v6 || !(wanted.idiag_states & 1u << one.state)) continue;
            if (wanted.id.idiag_sport != 0 && wanted.id.idiag_sport != htons(one.local.port)) continue;
            if (wanted.id.idiag_dport != 0 && wanted.id.idiag_dport != htons(one.peer.port)) continue;
            if (!filter.passes({v6, one.local, one.peer, 0, true})) continue;
            reply.messages.push_back(orphan_message(request, one, v6));
        }
    }
    if (network.host() != nullptr && reply.dump && wanted.sdiag_protocol != IPPROTO_RAW) {
        for (const HostSockets::Status& one : network.host()->list()) {
            if (one.v6 != v6 || one.stream != (wanted.sdiag_protocol == IPPROTO_TCP)) continue;
            if (!(wanted.idiag_states & 1u << one.state)) continue;
            if (wanted.id.idiag_sport != 0 && wanted.id.idiag_sport != htons(one.local.port)) continue;
            if (wanted.id.idiag_dport != 0 && wanted.id.idiag_dport != htons(one.peer.port)) continue;
            if (!filter.passes({v6, one.local, one.peer, 0, true})) continue;
            reply.messages.push_back(host_message(request, one));
        }
    }
    if (!reply.dump && reply.messages.empty()) return Errno(ENOENT);
    return {};
}

SysResult<void> answer_packet(const NetlinkRequest& request, NetlinkReply& reply) {
    auto wanted = TRY(read_header<packet_diag_req>(request));
    if (wanted.sdiag_protocol != 0) return Errno(EINVAL);
    if (!request.is_dump()) return Errno(EOPNOTSUPP);
    reply.dump = true;
    for (auto& socket : request.socket.network().taps().sockets()) {
        PacketSocket::Status status = socket->status();
        NetlinkMessage message(SOCK_DIAG_BY_FAMILY, 0, request.header.nlmsg_seq, request.socket.port());
        packet_diag_msg body{};
        body.pdiag_family = AF_PACKET;
        body.pdiag_type = static_cast<uint8_t>(socket->type());
        body.pdiag_num = status.protocol;
        body.pdiag_ino = static_cast<uint32_t>(socket->inode_number());
        put_cookie(body.pdiag_cookie, socket->inode_number());
        message.put(body);
        if (wanted.pdiag_show & PACKET_SHOW_INFO) {
            packet_diag_info info{};
            info.pdi_index = static_cast<uint32_t>(status.link);
            message.attribute(PACKET_DIAG_INFO, info);
            message.attribute(PACKET_DIAG_UID, status.uid);
        }
        if (wanted.pdiag_show & PACKET_SHOW_MEMINFO) {
            uint32_t values[SK_MEMINFO_VARS] = {};
            values[SK_MEMINFO_RMEM_ALLOC] = static_cast<uint32_t>(status.waiting);
            values[SK_MEMINFO_RCVBUF] = socket->options().receive_buffer;
            message.attribute(PACKET_DIAG_MEMINFO, values);
        }
        reply.messages.push_back(std::move(message));
    }
    return {};
}

SysResult<void> answer_unix(const NetlinkRequest& request, NetlinkReply& reply) {
    auto wanted = TRY(read_header<unix_diag_req>(request));
    reply.dump = request.is_dump();
    if (!reply.dump && wanted.udiag_ino == 0) return Errno(EINVAL);
    struct Found {
        Ref<UnixSocket> socket;
        UnixSocket::Diagnosis diagnosis;
    };
    std::vector<Found> all;
    // The two ends of a connection, by its identity.
    std::unordered_map<const void*, std::pair<uint64_t, uint64_t>> ends;
    for (Ref<UnixSocket>& socket : request.socket.network().unix_sockets()) {
        Found one{std::move(socket), {}};
        one.diagnosis = one.socket->diagnosis();
        if (one.diagnosis.connection != nullptr) {
            auto& pair = ends[one.diagnosis.connection];
            (one.diagnosis.side == 0 ? pair.first : pair.second) = one.socket->inode_number();
        }
        all.push_back(std::move(one));
    }
    for (auto& [socket, diagnosis] : all) {
        uint64_t inode = socket->inode_number();
        if (!reply.dump && inode != wanted.udiag_ino) continue;
        if (reply.dump && !(wanted.udiag_states & 1u << diagnosis.state)) continue;
        NetlinkMessage message(SOCK_DIAG_BY_FAMILY, 0, request.header.nlmsg_seq, request.socket.port());
        unix_diag_msg body{};
        body.udiag_family = AF_UNIX;
        body.udiag_type = static_cast<uint8_t>(socket->type());
        body.udiag_state = static_cast<uint8_t>(diagnosis.state);
        body.udiag_ino = static_cast<uint32_t>(inode);
        put_cookie(body.udiag_cookie, inode);
        message.put(body);
        Ref<UnixName> name = socket->name();
        if (wanted.udiag_show & UDIAG_SHOW_NAME && name)
            message.attribute(UNIX_DIAG_NAME, name->path().data(), name->path().size());
        uint64_t peer = diagnosis.peer_inode;
        if (diagnosis.connection != nullptr) {
            auto& pair = ends[diagnosis.connection];
            peer = diagnosis.side == 0 ? pair.second : pair.first;
        }
        if (wanted.udiag_show & UDIAG_SHOW_PEER && peer != 0)
            message.attribute(UNIX_DIAG_PEER, static_cast<uint32_t>(peer));
        if (wanted.udiag_show & UDIAG_SHOW_RQLEN)
            message.attribute(UNIX_DIAG_RQLEN, unix_diag_rqlen{static_cast<uint32_t>(diagnosis.receiving),
                                                               static_cast<uint32_t>(diagnosis.sending)});
        if (wanted.udiag_show & UDIAG_SHOW_MEMINFO) {
            uint32_t values[SK_MEMINFO_VARS] = {};
            values[SK_MEMINFO_RMEM_ALLOC] = static_cast<uint32_t>(diagnosis.receiving);
            values[SK_MEMINFO_RCVBUF] = socket->options().receive_buffer;
            values[SK_MEMINFO_SNDBUF] = socket->options().send_buffer;
            message.attribute(UNIX_DIAG_MEMINFO, values);
        }
        message.attribute<uint8_t>(UNIX_DIAG_SHUTDOWN, diagnosis.shutdown);
        reply.messages.push_back(std::move(message));
    }
    if (!reply.dump && reply.messages.empty()) return Errno(ENOENT);
    return {};
}

}  // namespace

SysResult<void> answer_diag_request(const NetlinkRequest& request, NetlinkReply& reply) {
    if (request.header.nlmsg_type != SOCK_DIAG_BY_FAMILY) return Errno(EINVAL);
    auto wanted = TRY(read_header<sock_diag_req>(request));
    switch (wanted.sdiag_family) {
        case AF_INET:
        case AF_INET6:
            return answer_inet(request, reply);
        case AF_UNIX:
            return answer_unix(request, reply);
        case AF_PACKET:
            return answer_packet(request, reply);
        default:
            return Errno(wanted.sdiag_family >= AF_MAX ? EINVAL : ENOENT);
    }
}

}  // namespace casemate::sentry
