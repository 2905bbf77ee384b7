#include "sentry/net/packet/packet_socket.h"

#include <linux/capability.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/in.h>

#include <algorithm>

#include "sentry/kernel/classic_bpf.h"
#include "sentry/kernel/kernel.h"
#include "sentry/mm/address_space.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/link/wire.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

constexpr size_t kOverhead = 768;  // what a frame costs beside its bytes
constexpr size_t kMostMemberships = 64;
constexpr uint8_t kHardwareBytes = 6;
constexpr int kIgnoreOutgoing = 23;  // PACKET_IGNORE_OUTGOING

}  // namespace

PacketSocket::PacketSocket(int type, uint16_t protocol, Ref<Network> network, uint32_t uid)
    : Socket(AF_PACKET, type, 0, std::move(network)), uid_(uid), protocol_seen_(protocol) {
    this->network().taps().add(*this);
}

void PacketSocket::closed() {
    network().taps().remove(*this);
    {
        std::lock_guard lock(mutex_);
        closed_ = true;
        queue_.clear();
        queued_ = 0;
    }
    drop_ring();
}

// What is mapped stays with whoever maps it.
void PacketSocket::drop_ring() {
    TimerThread* timers;
    {
        std::lock_guard lock(mutex_);
        ring_.reset();
        kept_some_ = false;
        timers = timers_;
    }
    if (timers != nullptr) timers->cancel(*this);
}

void PacketSocket::expired() {
    {
        std::lock_guard lock(mutex_);
        kept_some_ = false;
        if (!ring_ || !ring_->show_kept(drops_ != 0)) return;
    }
    waiters()->readable();
}

SysResult<void> PacketSocket::bind(Task&, const SocketAddress& address) {
    if (address.size < sizeof(sockaddr_ll)) return Errno(EINVAL);
    auto wanted = address.as<sockaddr_ll>();
    if (wanted.sll_family != AF_PACKET) return Errno(EINVAL);
    bool up = true;
    if (wanted.sll_ifindex != 0) {
        auto link = network().interfaces().link(wanted.sll_ifindex);
        if (!link) return Errno(ENODEV);
        up = link->up();
    }
    {
        std::lock_guard lock(mutex_);
        if (wanted.sll_protocol != 0) protocol_seen_ = ntohs(wanted.sll_protocol);
        link_ = wanted.sll_ifindex;
    }
    if (!up) {
        set_error(ENETDOWN);
        waiters()->everything();
    }
    return {};
}

SysResult<SocketAddress> PacketSocket::local_address() {
    sockaddr_ll own{};
    own.sll_family = AF_PACKET;
    {
        std::lock_guard lock(mutex_);
        own.sll_protocol = htons(protocol_seen_);
        own.sll_ifindex = link_;
    }
    if (auto link = network().interfaces().link(own.sll_ifindex)) {
        own.sll_hatype = link->type;
        own.sll_halen = kHardwareBytes;
        std::copy(link->hardware.begin(), link->hardware.end(), own.sll_addr);
    }
    SocketAddress address = SocketAddress::of(own);
    address.size = offsetof(sockaddr_ll, sll_addr) + own.sll_halen;
    return address;
}

void PacketSocket::see(const SeenFrame& frame) {
    bool raw = type() == SOCK_RAW;
    size_t skip = raw ? 0 : stack::kEthernetHeader;
    std::unique_lock lock(mutex_);
    if (closed_ || protocol_seen_ == 0) return;
    if (protocol_seen_ != ETH_P_ALL && protocol_seen_ != frame.protocol) return;
    if (link_ != 0 && link_ != frame.link) return;
    if (frame.type == PACKET_OUTGOING && (protocol_seen_ != ETH_P_ALL || ignore_outgoing_)) return;
    std::span<const uint8_t> bytes = frame.bytes.subspan(skip);
    size_t kept = bytes.size();
    if (auto program = filter()) {
        BpfPacket about{bytes,
                        stack::kEthernetHeader - skip,
                        skip == 0 ? 0 : SIZE_MAX,
                        frame.protocol,
                        frame.type,
                        frame.link,
                        frame.hardware_type};
        kept = std::min<size_t>(kept, run_packet_bpf(program->code, about));
        if (kept == 0) return;
    }
    sockaddr_ll from{};
    from.sll_family = AF_PACKET;
    from.sll_protocol = htons(frame.protocol);
    from.sll_ifindex = frame.link;
    from.sll_hatype = frame.hardware_type;
    from.sll_pkttype = frame.type;
    from.sll_halen = kHardwareBytes;
    memcpy(from.sll_addr, frame.bytes.data() + 6, kHardwareBytes);
    auto length = static_cast<uint32_t>(bytes.size());
    Nanoseconds now = realtime_now();
    if (ring_) {
        PacketRing::Frame entry{bytes.first(kept), length, static_cast<uint32_t>(stack::kEthernetHeader - skip),
                                frame.status,      now,    from};
        if (drops_ != 0) entry.status |= TP_STATUS_LOSING;
        PacketRing::Put put = ring_->put(entry, raw);
        if (put == PacketRing::Put::kFull) {
            drops_++;
            return;
        }
        if (ring_->patience() != 0 && !std::exchange(kept_some_, true))
            timers_->arm(*this, monotonic_now() + ring_->patience());
        if (put == PacketRing::Put::kKept) {
            packets_++;
            return;
        }
    } else {
        if (queued_ + kept + kOverhead > options_.receive_buffer) {
            drops_++;
            return;
        }
        queue_.push_back(
            {{bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(kept)}, length, frame.status, from, now});
        queued_ += kept + kOverhead;
    }
    packets_++;
    lock.unlock();
    waiters()->readable();
}

void PacketSocket::describe(const Captured& frame, ReceiveRequest& request) {
    if (request.from != nullptr) *request.from = SocketAddress::of(frame.from);
    if (request.control == nullptr) return;
    ReceivedControl& control = *request.control;
    if (has(kTimestampNs))
        control.add(SOL_SOCKET, SCM_TIMESTAMPNS, timespec{frame.when / kSecond, frame.when % kSecond});
    else if (has(kTimestamp))
        control.add(SOL_SOCKET, SCM_TIMESTAMP, timeval{frame.when / kSecond, frame.when % kSecond / 1000});
    if (!aux_data_) return;
    tpacket_auxdata aux{};
    aux.tp_status = TP_STATUS_USER | frame.status;
    aux.tp_len = frame.length;
    aux.tp_snaplen = static_cast<uint32_t>(frame.bytes.size());
    aux.tp_net = type() == SOCK_RAW ? stack::kEthernetHeader : 0;
    control.add(SOL_PACKET, PACKET_AUXDATA, aux);
}

SysResult<size_t> PacketSocket::receive(Task& task, ReceiveRequest& request) {
    if (request.flags & ~(MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_ERRQUEUE | MSG_CMSG_CLOEXEC | MSG_WAITALL))
        return Errno(EINVAL);
    if (request.flags & MSG_ERRQUEUE) return Errno(EAGAIN);
    return block(task, waiters()->queue, EPOLLIN | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                 options_.receive_timeout, [&]() -> std::optional<SysResult<size_t>> {
                     if (int error = take_error(); error != 0) return SysResult<size_t>(Errno(error));
                     std::unique_lock lock(mutex_);
                     if (queue_.empty()) return std::nullopt;
                     Captured taken;
                     if (request.flags & MSG_PEEK) {
                         taken = queue_.front();
                     } else {
                         taken = std::move(queue_.front());
                         queue_.pop_front();
                         queued_ -= taken.bytes.size() + kOverhead;
                     }
                     lock.unlock();
                     size_t part = std::min(taken.bytes.size(), request.data.remaining());
                     if (part > 0) {
                         auto copied = request.data.copy_to(taken.bytes.data(), part);
                         if (!copied.ok()) return SysResult<size_t>(copied.take_error());
                         if (*copied < part) return SysResult<size_t>(Errno(EFAULT));
                     }
                     if (part < taken.bytes.size()) request.out_flags |= MSG_TRUNC;
                     describe(taken, request);
                     return SysResult<size_t>(request.flags & MSG_TRUNC ? taken.bytes.size() : part);
                 });
}

SysResult<size_t> PacketSocket::send(Task&, SendRequest& request) {
    int index;
    uint16_t protocol;
    sockaddr_ll to{};
    {
        std::lock_guard lock(mutex_);
        index = link_;
        protocol = protocol_seen_;
    }
    bool given = request.to != nullptr && request.to->size > 0;
    if (given) {
        if (request.to->size < sizeof(sockaddr_ll)) return Errno(EINVAL);
        to = request.to->as<sockaddr_ll>();
        if (to.sll_family != AF_PACKET && to.sll_family != 0) return Errno(EINVAL);
        index = to.sll_ifindex;
        protocol = ntohs(to.sll_protocol);
    }
    auto link = network().interfaces().link(index);
    if (!link) return Errno(ENXIO);
    if (!link->up()) return Errno(ENETDOWN);
    bool raw = type() == SOCK_RAW;
    size_t size = request.data.remaining();
    // A VLAN tag is room that the header may take beside it.
    if (size > size_t{link->mtu} + (raw ? stack::kEthernetHeader + 4 : 0)) return Errno(EMSGSIZE);
    if (raw && size < stack::kEthernetHeader) return Errno(EINVAL);
    std::vector<uint8_t> frame(raw ? size : size + stack::kEthernetHeader);
    if (!raw) {
        if (given && to.sll_halen > kHardwareBytes) return Errno(EINVAL);
        memcpy(frame.data(), to.sll_addr, to.sll_halen);
        std::copy(link->hardware.begin(), link->hardware.end(), frame.begin() + 6);
        frame[12] = static_cast<uint8_t>(protocol >> 8);
        frame[13] = static_cast<uint8_t>(protocol);
    }
    size_t copied = TRY(request.data.copy_from(frame.data() + (raw ? 0 : stack::kEthernetHeader), size));
    if (copied < size) return Errno(EFAULT);
    if (link->loopback()) {
        link->counters->sent(frame.size());
        link->counters->received(frame.size());
        network().taps().looped(frame, this);
        return size;
    }
    Wire* wire = network().wire();
    if (wire == nullptr || !wire->send_frame(index, frame, this)) return Errno(ENOBUFS);
    return size;
}

uint32_t PacketSocket::poll_events() {
    uint32_t events = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
    if (pending_error() != 0) events |= EPOLLERR;
    std::lock_guard lock(mutex_);
    if (!queue_.empty() || (ring_ && ring_->readable())) events |= EPOLLIN | EPOLLRDNORM;
    return events;
}

SysResult<size_t> PacketSocket::unread() {
    std::lock_guard lock(mutex_);
    return queue_.empty() ? size_t{0} : queue_.front().bytes.size();
}

PacketSocket::Status PacketSocket::status() {
    std::lock_guard lock(mutex_);
    return {protocol_seen_, link_, queued_, uid_};
}

SysResult<void> PacketSocket::change_membership(std::span<const std::byte> value, bool add) {
    // struct packet_mreq, whose address may be longer.
    auto wanted = TRY(option_value<packet_mreq>(value));
    if (wanted.mr_alen > sizeof(wanted.mr_address)) return Errno(EINVAL);
    if (add && !network().interfaces().link(wanted.mr_ifindex)) return Errno(ENODEV);
    if (wanted.mr_type > PACKET_MR_UNICAST) return Errno(EINVAL);
    // All of a link's frames are seen as it is: what is asked for is noted.
    std::lock_guard lock(mutex_);
    std::pair key(wanted.mr_ifindex, static_cast<int>(wanted.mr_type));
    if (!add) {
        auto it = memberships_.find(key);
        if (it == memberships_.end()) return {};  // as Linux
        if (--it->second == 0) memberships_.erase(it);
        return {};
    }
    if (memberships_.size() >= kMostMemberships && !memberships_.contains(key)) return Errno(ENOBUFS);
    memberships_[key]++;
    return {};
}

SysResult<void> PacketSocket::set_ring(Task& task, std::span<const std::byte> value) {
    std::unique_lock lock(mutex_);
    tpacket_req3 wanted{};
    if (version_ == TPACKET_V3) {
        wanted = TRY(option_value<tpacket_req3>(value));
    } else {
        auto shorter = TRY(option_value<tpacket_req>(value));
        memcpy(&wanted, &shorter, sizeof(shorter));
    }
    if (wanted.tp_block_nr == 0) {
        if (wanted.tp_frame_nr != 0) return Errno(EINVAL);
        lock.unlock();
        drop_ring();
        return {};
    }
    if (ring_) return Errno(EBUSY);
    timers_ = &task.kernel().timers();
    ring_ = TRY(PacketRing::create(task.kernel().memory(), wanted, version_, reserve_));
    queue_.clear();
    queued_ = 0;
    return {};
}

SysResult<void> PacketSocket::prepare_map(MapRequest& request) {
    std::lock_guard lock(mutex_);
    if (request.offset != 0 || !ring_ || request.size != ring_->size()) return Errno(EINVAL);
    request.object = ring_->memory();
    return {};
}

SysResult<bool> PacketSocket::set_family_option(Task& task, int level, int name, std::span<const std::byte> value) {
    if (level != SOL_PACKET) return false;
    auto flag = [&](bool& where) -> SysResult<bool> {
        int number = TRY(option_value<int>(value));
        std::lock_guard lock(mutex_);
        where = number != 0;
        return true;
    };
    switch (name) {
        case PACKET_ADD_MEMBERSHIP:
        case PACKET_DROP_MEMBERSHIP:
            TRY(change_membership(value, name == PACKET_ADD_MEMBERSHIP));
            return true;
        case PACKET_AUXDATA:
            return flag(aux_data_);
        case kIgnoreOutgoing: {
            int number = TRY(option_value<int>(value));
            if (number < 0 || number > 1) return Errno(EINVAL);
            return flag(ignore_outgoing_);
        }
        case PACKET_VERSION: {
            int number = TRY(option_value<int>(value));
            TRY(PacketRing::header_size(number));
            std::lock_guard lock(mutex_);
            if (ring_) return Errno(EBUSY);
            version_ = number;
            return true;
        }
        case PACKET_RESERVE: {
            auto number = TRY(option_value<unsigned>(value));
            if (number > INT32_MAX) return Errno(EINVAL);
            std::lock_guard lock(mutex_);
            if (ring_) return Errno(EBUSY);
            reserve_ = number;
            return true;
        }
        case PACKET_RX_RING:
            TRY(set_ring(task, value));
            return true;
        default:  // PACKET_TX_RING among them
            return Errno(ENOPROTOOPT);
    }
}

SysResult<OptionBytes> PacketSocket::get_family_option(Task& task, int level, int name, size_t room) {
    if (level != SOL_PACKET) return Socket::get_family_option(task, level, name, room);
    std::lock_guard lock(mutex_);
    switch (name) {
        case PACKET_STATISTICS: {
            tpacket_stats_v3 told{packets_ + drops_, drops_, 0};
            packets_ = drops_ = 0;
            if (version_ != TPACKET_V3) return OptionBytes(option_bytes(tpacket_stats{told.tp_packets, told.tp_drops}));
            if (ring_) told.tp_freeze_q_cnt = ring_->take_freezes();
            return OptionBytes(option_bytes(told));
        }
        case PACKET_AUXDATA:
            return OptionBytes(option_bytes<int>(aux_data_));
        case kIgnoreOutgoing:
            return OptionBytes(option_bytes<int>(ignore_outgoing_));
        case PACKET_VERSION:
            return OptionBytes(option_bytes<int>(version_));
        case PACKET_RESERVE:
            return OptionBytes(option_bytes<unsigned>(reserve_));
        default:
            return Errno(ENOPROTOOPT);
    }
}

SysResult<Ref<Socket>> create_packet_socket(Ref<Network> network, Task& task, int, int type, int protocol) {
    // The host's packets are not the pod's.
    if (network->host() != nullptr || !task.has_capability(CAP_NET_RAW)) return Errno(EPERM);
    if (type != SOCK_RAW && type != SOCK_DGRAM) return Errno(ESOCKTNOSUPPORT);
    return Ref<Socket>(make_ref<PacketSocket>(type, ntohs(static_cast<uint16_t>(protocol)), std::move(network),
                                              task.credentials().fsuid));
}

}  // namespace casemate::sentry
