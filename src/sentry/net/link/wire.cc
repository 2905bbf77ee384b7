#include "sentry/net/link/wire.h"

#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>

#include <algorithm>

#include "sentry/net/inet/local_ip.h"
#include "sentry/net/inet/ports.h"
#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/inet/udp_socket.h"
#include "sentry/net/network.h"
#include "sentry/net/packet/taps.h"
#include "sentry/net/stack/link.h"

namespace casemate::sentry {
namespace {

// As the sockets' queues keep it; without data: no memory.
Packet packet_of(const stack::InPacket& from) {
    Packet packet;
    packet.data.reset(new (std::nothrow) std::byte[std::max<size_t>(from.payload.size(), 1)]);
    if (!packet.data) return packet;
    if (!from.payload.empty()) memcpy(packet.data.get(), from.payload.data(), from.payload.size());
    packet.size = from.payload.size();
    packet.from = from.from;
    packet.to = from.to;
    packet.hop_limit = from.hop_limit;
    packet.traffic_class = from.traffic_class;
    packet.link = static_cast<int>(from.link);
    packet.arrived = realtime_now();
    return packet;
}

}  // namespace

// A link's device, with the packet sockets that watch it.
class Wire::WatchedDevice final : public stack::Device {
  public:
    WatchedDevice(std::shared_ptr<PacketDevice> device, Taps& taps, int link)
        : device_(std::move(device)), taps_(taps), link_(link) {}
    bool send(const stack::OutFrame& frame) override { return send(frame, nullptr); }
    bool send(const stack::OutFrame& frame, const PacketSocket* sender) {
        if (taps_.active()) [[unlikely]]
            taps_.goes_out(link_, frame, sender);
        return device_->send(frame);
    }
    bool can_segment() const override { return device_->can_segment(); }
    PacketDevice& device() { return *device_; }

  private:
    const std::shared_ptr<PacketDevice> device_;
    Taps& taps_;
    const int link_;
};

class Wire::Alarm final : public Timer {
  public:
    explicit Alarm(TimerThread& timers) : timers_(timers) {}
    void set(Nanoseconds deadline) { timers_.arm(*this, deadline); }
    void stop() { timers_.cancel(*this); }
    void expired() override { stack->run_timers(); }
    stack::Stack* stack = nullptr;

  private:
    TimerThread& timers_;
};

Wire::Wire(Network& network, TimerThread& timers) : network_(network), alarm_(std::make_unique<Alarm>(timers)) {
    stack_ = make_ref<stack::Stack>(
        *this, stack::Surroundings{monotonic_now, [this](Nanoseconds deadline) { alarm_->set(deadline); }});
    alarm_->stack = stack_.get();
    listener_ = network_.interfaces().add_listener([this](const InterfaceChange& change) { changed(change); });
}

Wire::~Wire() {
    network_.interfaces().remove_listener(listener_);
    for (auto& [index, device] : devices_) device->device().stop();
    stack_->stop();
    alarm_->stop();
}

SysResult<int> Wire::add_link(Link link, UniqueFd socket, bool virtio_header) {
    auto device = std::make_shared<PacketDevice>(std::move(socket), virtio_header);
    link.counters = make_ref<LinkCounters>();
    HardwareAddress mac = link.hardware;
    uint32_t mtu = link.mtu;
    Ref<LinkCounters> counters = link.counters;
    int index = TRY(network_.interfaces().add_link(std::move(link)));
    Taps& taps = network_.taps();
    auto watched = std::make_shared<WatchedDevice>(device, taps, index);
    auto made = stack_->add_link(static_cast<uint32_t>(index), mac, mtu, watched, counters);
    {
        std::lock_guard lock(mutex_);
        devices_[index] = watched;
    }
    auto started = device->start([this, made, mac, index, &taps](std::span<stack::InFrame> frames) {
        if (taps.active()) [[unlikely]]
            taps.came_in(index, mac, frames);
        stack_->input(*made, frames);
    });
    if (!started.ok()) {
        static_cast<void>(network_.interfaces().remove_link(index));
        return started.take_error();
    }
    push_settings();
    return index;
}

std::vector<Neighbour> Wire::learned() {
    using State = stack::NeighbourTable::State;
    std::vector<int> links;
    {
        std::lock_guard lock(mutex_);
        for (auto& [index, device] : devices_) links.push_back(index);
    }
    std::vector<Neighbour> all;
    for (int index : links) {
        auto link = stack_->link(static_cast<uint32_t>(index));
        if (!link) continue;
        for (const auto& entry : link->neighbours.entries()) {
            if (entry.state == State::kPermanent) continue;
            Neighbour one;
            one.link = index;
            one.address = entry.address;
            one.hardware = entry.mac;
            one.state = entry.state == State::kIncomplete  ? NUD_INCOMPLETE
                        : entry.state == State::kReachable ? NUD_REACHABLE
                        : entry.state == State::kStale     ? NUD_STALE
                        : entry.state == State::kProbe     ? NUD_PROBE
                                                           : NUD_FAILED;
            all.push_back(one);
        }
    }
    return all;
}

bool Wire::send_frame(int link, std::span<const uint8_t> bytes, const PacketSocket* sender) {
    std::shared_ptr<WatchedDevice> device;
    {
        std::lock_guard lock(mutex_);
        auto it = devices_.find(link);
        if (it != devices_.end()) device = it->second;
    }
    auto present = stack_->link(static_cast<uint32_t>(link));
    if (!device || !present || bytes.size() < stack::kEthernetHeader) return false;
    stack::OutFrame frame;
    memcpy(frame.head.data(), bytes.data(), stack::kEthernetHeader);
    frame.head_size = stack::kEthernetHeader;
    frame.add(bytes.data() + stack::kEthernetHeader, bytes.size() - stack::kEthernetHeader);
    if (!device->send(frame, sender)) return false;
    present->counters->sent(bytes.size());
    return true;
}

void Wire::changed(const InterfaceChange& change) {
    if (const auto* link = std::get_if<Link>(&change.what)) {
        if (change.removed) {
            std::shared_ptr<WatchedDevice> gone;
            {
                std::lock_guard lock(mutex_);
                auto it = devices_.find(link->index);
                if (it != devices_.end()) {
                    gone = std::move(it->second);
                    devices_.erase(it);
                }
            }
            stack_->remove_link(static_cast<uint32_t>(link->index));
            if (gone) gone->device().stop();
        } else if (auto present = stack_->link(static_cast<uint32_t>(link->index))) {
            present->mtu = link->mtu;
        }
    }
    if (const auto* neighbour = std::get_if<Neighbour>(&change.what)) {
        if (auto link = stack_->link(static_cast<uint32_t>(neighbour->link))) {
            if (change.removed)
                link->neighbours.remove(neighbour->address);
            else if (neighbour->state & (NUD_PERMANENT | NUD_NOARP))
                link->neighbours.set_permanent(neighbour->address, neighbour->hardware);
            else if (neighbour->state & (NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE))
                link->neighbours.learn(neighbour->address, neighbour->hardware, true, false);
        }
        return;
    }
    push_settings();
}

// The model's tables as the stack takes them.
void Wire::push_settings() {
    Interfaces& model = network_.interfaces();
    stack::Settings settings;
    auto on_wire = [&](int index) { return index > 0 && stack_->link(static_cast<uint32_t>(index)); };
    for (const LinkAddress& one : model.addresses()) {
        if (!on_wire(one.link)) continue;
        stack::AddressSetting address;
        address.link = static_cast<uint32_t>(one.link);
        address.address = one.address;
        address.prefix = static_cast<uint8_t>(one.v6() ? one.prefix : 96 + one.prefix);
        if (one.broadcast) address.broadcast = *one.broadcast;
        settings.addresses.push_back(address);
    }
    for (const Route& one : model.routes()) {
        if (one.type != RTN_UNICAST || one.table == RT_TABLE_LOCAL || !on_wire(one.link)) continue;
        stack::RouteSetting route;
        route.destination = one.destination;
        route.prefix = static_cast<uint8_t>(one.v6 ? one.prefix : 96 + one.prefix);
        route.link = static_cast<uint32_t>(one.link);
        if (one.gateway) route.gateway = *one.gateway;
        if (one.source) route.source = *one.source;
        route.metric = one.metric;
        route.mtu = one.mtu;
        settings.routes.push_back(route);
    }
    stack_->configure(std::move(settings));
}

// ----------------------------------------------------------------------------------------------- to the sockets

stack::FoundListener Wire::tcp_listener(const InetEndpoint& to, const InetEndpoint& from, uint32_t link) {
    Ref<InetSocket> found = network_.tcp_ports().find(to, from, false, static_cast<int>(link));
    if (!found) return {};
    auto* socket = static_cast<TcpSocket*>(found.get());
    return {std::move(found), socket};
}

bool Wire::udp_input(const stack::InPacket& from) {
    Packet packet = packet_of(from);
    if (!packet.data) return true;
    deliver_udp_to_raw(network_, packet);
    return deliver_datagram(network_.udp_ports(), packet, network_.interfaces().local_type(from.to.address));
}

void Wire::udp_error(const InetEndpoint& local, const InetEndpoint& peer, int error) {
    // The packet went out of any link: whoever has the port is asked.
    Ref<InetSocket> found = network_.udp_ports().find(local, peer, true, 0);
    if (!found) return;
    bool v4 = peer.address.is_v4();
    QueuedError queued;
    queued.what.ee_errno = static_cast<uint32_t>(error);
    queued.what.ee_origin = v4 ? SO_EE_ORIGIN_ICMP : SO_EE_ORIGIN_ICMP6;
    queued.what.ee_type = v4 ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH;
    queued.what.ee_code = v4 ? ICMP_PORT_UNREACH : ICMP6_DST_UNREACH_NOPORT;
    queued.to = peer;
    queued.offender = peer.address;
    queued.has_offender = true;
    static_cast<DatagramSocket&>(*found).hear_error(std::move(queued), error == ECONNREFUSED);
}

int Wire::ecn() {
    std::string setting = network_.kept_setting("ipv4/tcp_ecn", "2");
    return setting == "0" ? 0 : setting == "1" ? 1 : 2;
}

bool Wire::raw_input(const stack::InPacket& from) {
    Packet packet = packet_of(from);
    return !packet.data || deliver_from_link(network_, from.protocol, packet);
}

}  // namespace casemate::sentry
