#include "sandbox/port_mirror.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>
#include <thread>

#include "base/log.h"
#include "sandbox/udp_peers.h"

namespace casemate::sandbox {

namespace {

constexpr int kMostListeners = 256;
constexpr unsigned kMostHandingOver = 32;
constexpr int kBacklog = 64;
constexpr auto kPause = std::chrono::milliseconds(20);

// A listener on the loopback of the calling thread's network namespace, with `any` on all of the namespace's addresses.
SysResult<UniqueFd> listen_on_loopback(uint16_t port, bool v6, bool any) {
    UniqueFd fd(socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return last_errno();
    int on = 1;
    sockaddr_in address4{};
    address4.sin_family = AF_INET;
    address4.sin_port = htons(port);
    address4.sin_addr.s_addr = htonl(any ? INADDR_ANY : INADDR_LOOPBACK);
    sockaddr_in6 address6{};
    address6.sin6_family = AF_INET6;
    address6.sin6_port = htons(port);
    address6.sin6_addr = any ? in6addr_any : in6addr_loopback;
    if (setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0) return last_errno();
    if (v6 && setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) != 0) return last_errno();
    // SAFETY: the way the C interface takes addresses.
    const sockaddr* address = v6 ? reinterpret_cast<sockaddr*>(&address6) : reinterpret_cast<sockaddr*>(&address4);
    if (bind(fd.get(), address, v6 ? sizeof(address6) : sizeof(address4)) != 0) return last_errno();
    if (listen(fd.get(), kBacklog) != 0) return last_errno();
    return fd;
}

// Whether the namespace talks with itself here: what comes by a link is the guest's, also by one that it got later. Who
// dials an address of its own does so from the same one, or from loopback.
bool comes_from_inside(int connection) {
    sockaddr_storage from{}, to{};
    socklen_t from_size = sizeof(from), to_size = sizeof(to);
    // SAFETY: the way the C interface takes addresses.
    if (getpeername(connection, reinterpret_cast<sockaddr*>(&from), &from_size) != 0 ||
        getsockname(connection, reinterpret_cast<sockaddr*>(&to), &to_size) != 0 || from.ss_family != to.ss_family)
        return false;
    if (from.ss_family == AF_INET) {
        auto* peer = reinterpret_cast<sockaddr_in*>(&from);
        auto* own = reinterpret_cast<sockaddr_in*>(&to);
        return peer->sin_addr.s_addr == own->sin_addr.s_addr || ntohl(peer->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    }
    auto* peer = reinterpret_cast<sockaddr_in6*>(&from);
    auto* own = reinterpret_cast<sockaddr_in6*>(&to);
    return memcmp(&peer->sin6_addr, &own->sin6_addr, sizeof(in6_addr)) == 0 || IN6_IS_ADDR_LOOPBACK(&peer->sin6_addr);
}

}  // namespace

PortMirror::~PortMirror() {
    for (auto& [port, listener] : listeners_) loop_.remove(listener.get());
}

void PortMirror::ask(uint64_t generation) {
    guest::GetListenersRequest request;
    request.set_generation(generation);
    guest_.get_listeners(request, [this](guest_api::GuestResult<guest::GetListenersReply> reply) {
        if (!reply.ok()) return;  // an older guest kernel, or it is gone
        loop_.post([this, reply = std::move(*reply)] {
            update(reply);
            loop_.after(kPause, [this, generation = reply.generation()] { ask(generation); });
        });
    });
}

void PortMirror::update(const guest::GetListenersReply& reply) {
    std::set<Port> wanted;
    auto want = [&](const auto& list, bool datagrams) {
        for (int i = 0; i < std::min(list.size(), kMostListeners); ++i) {
            const guest::Listener& one = list[i];
            if (one.port() == 0 || one.port() > 65535) continue;
            auto number = static_cast<uint16_t>(one.port());
            if (one.v4()) wanted.insert({number, false, datagrams, one.any_v4() && !datagrams});
            if (one.v6()) wanted.insert({number, true, datagrams, one.any_v6() && !datagrams});
        }
    };
    want(reply.listeners(), false);
    want(reply.datagrams(), true);
    std::erase_if(listeners_, [&](auto& one) {
        if (wanted.contains(one.first)) return false;
        loop_.remove(one.second.get());
        return true;
    });
    for (Port port : wanted)
        if (!listeners_.contains(port)) open(port);
}

void PortMirror::open(Port port) {
    auto listener = port.datagrams ? bind_loopback_datagrams(port.number, port.v6)
                                   : listen_on_loopback(port.number, port.v6, port.any);
    if (!listener.ok()) {
        log::info("{} port {} of the pod is not reached by {} outside: {}", port.datagrams ? "UDP" : "TCP", port.number,
                  port.v6 ? "::1" : "127.0.0.1", strerrordesc_np(listener.error().value));
        return;
    }
    int fd = listener->get();
    auto done = loop_.watch(fd, EPOLLIN, [this, port, fd](uint32_t) {
        if (port.datagrams)
            accept_datagrams(port, fd);
        else
            accept(port, fd);
    });
    if (done.ok()) listeners_.emplace(port, std::move(*listener));
}

void PortMirror::accept(Port port, int listener) {
    UniqueFd connection(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    // Closed at once where the guest kernel is slow to take them.
    if (!connection || !comes_from_inside(connection.get()) || handing_over_->load() >= kMostHandingOver) return;
    // Its close is a reset, unless both ends have ended in order: so the guest kernel passes on resets without a call
    // to ask for them, and a pod that dies does not look like one that has finished.
    linger at_once{1, 0};
    setsockopt(connection.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    hand_over(port, std::move(connection), {});
}

void PortMirror::accept_datagrams(Port port, int listener) {
    for (UdpPeer& peer : accept_udp_peers(listener, port.number, port.v6)) {
        // As connections: what the guest kernel is too slow for is lost.
        if (handing_over_->load() < kMostHandingOver) hand_over(port, std::move(peer.socket), std::move(peer.first));
    }
}

void PortMirror::hand_over(Port port, UniqueFd socket, std::vector<std::string> first) {
    handing_over_->fetch_add(1);
    std::thread([&guest = guest_, port, socket = std::move(socket), first = std::move(first), count = handing_over_] {
        guest::ConnectPortRequest request;
        request.set_port(port.number);
        request.set_v6(port.v6);
        request.set_datagrams(port.datagrams);
        for (const std::string& one : first) request.add_first(one);
        auto stream = guest.send_stream(socket.get());
        if (stream.ok()) {
            request.set_stream(*stream);
            auto done = guest.connect_port(request);
            if (!done.ok()) log::info("port {} of the pod: {}", port.number, done.error().message());
        }
        count->fetch_sub(1);
    }).detach();
}

}  // namespace casemate::sandbox
