#include "sandbox/udp_peers.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

namespace casemate::sandbox {

namespace {

constexpr size_t kMostAtOnce = 64;  // datagrams of the listener, and so peers
constexpr size_t kMostOfSocket = 512;
constexpr size_t kLargest = 64 << 10;
constexpr size_t kMostBytes = 1 << 20;  // kept of all

struct Address {
    sockaddr_storage storage{};
    socklen_t size = sizeof(storage);

    // SAFETY: the way the C interface takes addresses.
    sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
    bool operator==(const Address& other) const {
        return size == other.size && memcmp(&storage, &other.storage, size) == 0;
    }
};

Address loopback(uint16_t port, bool v6) {
    Address address;
    if (v6) {
        sockaddr_in6 value{};
        value.sin6_family = AF_INET6;
        value.sin6_port = htons(port);
        value.sin6_addr = in6addr_loopback;
        memcpy(&address.storage, &value, address.size = sizeof(value));
    } else {
        sockaddr_in value{};
        value.sin_family = AF_INET;
        value.sin_port = htons(port);
        value.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        memcpy(&address.storage, &value, address.size = sizeof(value));
    }
    return address;
}

SysResult<UniqueFd> make_socket(uint16_t port, bool v6, bool shares_port) {
    UniqueFd fd(socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return last_errno();
    int on = 1;
    if (v6 && setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) != 0) return last_errno();
    if (shares_port && setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0) return last_errno();
    Address address = loopback(port, v6);
    if (bind(fd.get(), address.raw(), address.size) != 0) return last_errno();
    // Only once it has the port, so that it never shares one that was another's.
    if (!shares_port && setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0) return last_errno();
    return fd;
}

class Arrivals {
  public:
    Arrivals(uint16_t port, bool v6) : port_(port), v6_(v6), buffer_(kLargest, '\0') {}

    // What waits at `socket`, at most so many. Once a peer has a socket of its own nothing of it comes anywhere else,
    // but what came just before may lie in the listener's queue, or in that of a socket which was bound and not
    // connected yet. False: there is more.
    bool read(int socket, const Address* peer, size_t most) {
        for (size_t i = 0; i < most; i++) {
            Address from;
            ssize_t got = recvfrom(socket, buffer_.data(), buffer_.size(), 0, from.raw(), &from.size);
            if (got < 0) return true;
            auto size = static_cast<size_t>(got);
            bool late = peer != nullptr && from == *peer;
            One* one = find(from);
            if (one == nullptr || bytes_ + size > kMostBytes) continue;
            bytes_ += size;
            (late ? one->late : one->early).emplace_back(buffer_.data(), size);
        }
        return false;
    }

    // False: every peer has one.
    bool make_a_socket() {
        for (size_t i = 0; i < peers_.size(); i++) {
            if (peers_[i].tried) continue;
            peers_[i].tried = true;
            auto made = make_socket(port_, v6_, true);
            Address address = peers_[i].address;
            if (!made.ok() || connect(made->get(), address.raw(), address.size) != 0) continue;
            // What is left of others' may not become this peer's: where it does not come to an end there is no socket.
            if (read(made->get(), &address, kMostOfSocket)) peers_[i].socket = std::move(*made);
            return true;
        }
        return false;
    }

    std::vector<UdpPeer> take() {
        std::vector<UdpPeer> taken;
        for (One& one : peers_) {
            if (!one.socket) continue;
            for (std::string& datagram : one.late) one.early.push_back(std::move(datagram));
            taken.push_back({std::move(one.socket), std::move(one.early)});
        }
        return taken;
    }

  private:
    struct One {
        Address address;
        UniqueFd socket;
        bool tried = false;
        std::vector<std::string> early, late;  // before it was connected, and after
    };
    One* find(const Address& address) {
        for (One& one : peers_)
            if (one.address == address) return &one;
        if (peers_.size() >= kMostAtOnce) return nullptr;
        peers_.push_back({.address = address});
        return &peers_.back();
    }

    const uint16_t port_;
    const bool v6_;
    std::string buffer_;
    std::vector<One> peers_;
    size_t bytes_ = 0;
};

}  // namespace

SysResult<UniqueFd> bind_loopback_datagrams(uint16_t port, bool v6) { return make_socket(port, v6, false); }

std::vector<UdpPeer> accept_udp_peers(int listener, uint16_t port, bool v6) {
    Arrivals arrivals(port, v6);
    do {
        arrivals.read(listener, nullptr, kMostAtOnce);
    } while (arrivals.make_a_socket());
    return arrivals.take();
}

}  // namespace casemate::sandbox
