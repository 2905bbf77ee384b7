#include "virtio/net.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>

#include <sys/ioctl.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "virtio/net_header.h"

namespace casemate::virtio {

namespace {
constexpr size_t kMinFrame = 14;
constexpr std::chrono::milliseconds kRetry{100};  // while the tap's interface is down
}  // namespace

Result<UniqueFd> open_tap(const std::string& name) {
    if (name.empty() || name.size() >= IFNAMSIZ)
        return Error("tap " + name + ": a name of an interface has 1 to 15 characters", EINVAL);
    UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!tap) return sys_error("open /dev/net/tun for tap " + name);
    ifreq request{};
    std::memcpy(request.ifr_name, name.data(), name.size());
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) return sys_error("attach to tap " + name);
    int size = 12;
    if (::ioctl(tap.get(), TUNSETVNETHDRSZ, &size) != 0) return sys_error("header size of tap " + name);
    return tap;
}

NetDevice::NetDevice(DeviceLoop& loop, Options options)
    : Device(loop),
      options_(std::move(options)),
      watch_(loop, mutex(),
             [this](uint32_t events) {
                 if (!working()) return watch_.want(0);
                 if ((events & (EPOLLOUT | EPOLLERR)) != 0 && wait_for_room_) transmit();
                 if (working() && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) receive();
                 show_work();
             }),
      receive_limit_(options_.receive_frames, options_.receive_bytes),
      transmit_limit_(options_.transmit_frames, options_.transmit_bytes),
      frame_(kHeaderBytes + kMaxFrame) {
    watch_.set_fd(options_.tap.get());
}

NetDevice::~NetDevice() = default;

uint64_t NetDevice::features() const {
    uint64_t bits = 0;
    for (unsigned bit :
         {VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MAC, VIRTIO_NET_F_GUEST_TSO4,
          VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MRG_RXBUF})
        bits |= feature_bit(bit);
    return options_.mtu != 0 ? bits | feature_bit(VIRTIO_NET_F_MTU) : bits;
}

void NetDevice::read_config(uint32_t offset, std::span<uint8_t> into) {
    virtio_net_config config{};
    std::memcpy(config.mac, options_.mac.data(), 6);
    config.status = VIRTIO_NET_S_LINK_UP;
    config.max_virtqueue_pairs = 1;
    config.mtu = options_.mtu;
    copy_config(&config, sizeof(config), offset, into);
}

void NetDevice::set_offloads() {
    if (!std::exchange(offloads_wanted_, false)) return;
    // What the tap may leave to the guest to finish.
    unsigned offloads = 0;
    if (negotiated(feature_bit(VIRTIO_NET_F_GUEST_CSUM))) {
        offloads |= TUN_F_CSUM;
        if (negotiated(feature_bit(VIRTIO_NET_F_GUEST_TSO4))) offloads |= TUN_F_TSO4;
        if (negotiated(feature_bit(VIRTIO_NET_F_GUEST_TSO6))) offloads |= TUN_F_TSO6;
    }
    // Not a tap but something like it: then it sends no such frames.
    if (::ioctl(options_.tap.get(), TUNSETOFFLOAD, offloads) != 0)
        log::debug("virtio net: offloads of the tap: {}", strerrordesc_np(errno));
}

void NetDevice::on_activate() {
    frame_bytes_ = 0;
    wait_for_room_ = false;
    // The first notification, which comes with the activation, does the rest on the loop's thread: so that no vCPU's
    // thread needs the right to change a tap.
    offloads_wanted_ = true;
}

void NetDevice::on_reset() {
    watch_.want(0);
    frame_bytes_ = 0;
}

void NetDevice::on_quiesce() { watch_.want(0); }

void NetDevice::watch() {
    watch_.want((wait_for_input_ ? static_cast<uint32_t>(EPOLLIN) : 0u) |
                (wait_for_room_ ? static_cast<uint32_t>(EPOLLOUT) : 0u));
}

void NetDevice::on_notify(uint16_t index) {
    if (index == kTransmit) transmit();
    // What was sent has often been answered by then (a stream's peer on this host: in the same call).
    if (working() && (index == kReceive || wait_for_input_)) receive();
    show_work();
}

void NetDevice::show_work() {
    if (!active()) return;
    publish({kTransmit, kReceive});
    watch();
}

void NetDevice::receive() {
    Queue& buffers = queue(kReceive);
    set_offloads();
    buffers.disable_notifications();
    wait_for_input_ = false;
    for (int i = 0; working(); ++i) {
        auto wait = receive_limit_.wait();
        if (wait.count() > 0 || i == kFramesPerTurn) {
            notify_again(kReceive, wait);
            break;
        }
        if (frame_bytes_ == 0) {
            ssize_t got = ::read(options_.tap.get(), frame_.data(), frame_.size());
            if (got < 0 && errno == EINTR) continue;
            if (got < 0 && errno == EAGAIN) {
                wait_for_input_ = true;
                break;
            }
            if (got < static_cast<ssize_t>(kHeaderBytes + kMinFrame)) {
                if (got > 0) continue;  // no frame at all
                notify_again(kReceive, kRetry);
                break;
            }
            frame_bytes_ = static_cast<size_t>(got);
        }
        Delivered delivered = deliver();
        if (delivered == Delivered::kNoRoom) {
            if (working() && buffers.enable_notifications()) continue;
            break;  // the guest rings when it has room
        }
        if (delivered == Delivered::kYes) receive_limit_.spend(frame_bytes_);
        frame_bytes_ = 0;
    }
}

NetDevice::Delivered NetDevice::deliver() {
    Queue& buffers = queue(kReceive);
    bool merge = negotiated(feature_bit(VIRTIO_NET_F_MRG_RXBUF));
    size_t used = 0, room = 0;
    auto put_back = [&] {
        while (used > 0) buffers.undo_pop(chains_[--used]);
    };
    while (room < frame_bytes_) {
        if (!merge && used == 1) {  // a frame larger than the guest's buffers: dropped, as on a wire
            put_back();
            return Delivered::kDropped;
        }
        if (used == chains_.size()) chains_.emplace_back();
        if (!pop(kReceive, chains_[used])) {
            bool never = used == buffers.size();  // all it has is too little
            put_back();
            return never ? Delivered::kDropped : Delivered::kNoRoom;
        }
        size_t size = chains_[used++].writable.remaining();
        if (size == 0 || (used == 1 && size < kHeaderBytes)) {
            fail("receive buffer shorter than a header");
            return Delivered::kDropped;
        }
        room += size;
    }
    // Into our copy of the header, before anything is given to the guest.
    uint16_t count = static_cast<uint16_t>(used);
    std::memcpy(frame_.data() + offsetof(virtio_net_hdr_mrg_rxbuf, num_buffers), &count, sizeof(count));
    size_t at = 0;
    for (size_t i = 0; i < used; ++i) {
        size_t put = chains_[i].writable.write(frame_.data() + at, frame_bytes_ - at);
        buffers.push(chains_[i], static_cast<uint32_t>(put));
        at += put;
    }
    return Delivered::kYes;
}

bool NetDevice::allowed(const void* bytes) const {
    virtio_net_hdr_mrg_rxbuf mergeable;
    std::memcpy(&mergeable, bytes, sizeof(mergeable));
    const virtio_net_hdr& header = mergeable.hdr;
    uint8_t flags = negotiated(feature_bit(VIRTIO_NET_F_CSUM)) ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0;
    if ((header.flags & ~flags) != 0) return false;
    switch (header.gso_type) {
        case VIRTIO_NET_HDR_GSO_NONE:
            return true;
        case VIRTIO_NET_HDR_GSO_TCPV4:
            return negotiated(feature_bit(VIRTIO_NET_F_HOST_TSO4)) && header.gso_size != 0;
        case VIRTIO_NET_HDR_GSO_TCPV6:
            return negotiated(feature_bit(VIRTIO_NET_F_HOST_TSO6)) && header.gso_size != 0;
        default:
            return false;
    }
}

void NetDevice::transmit() {
    Queue& frames = queue(kTransmit);
    frames.disable_notifications();
    wait_for_room_ = false;
    for (int i = 0; working(); ++i) {
        auto wait = transmit_limit_.wait();
        if (wait.count() > 0 || i == kFramesPerTurn) {
            notify_again(kTransmit, wait);
            break;
        }
        if (!pop(kTransmit, chain_)) {
            if (working() && frames.enable_notifications()) continue;
            break;
        }
        char header[kHeaderBytes];
        size_t frame = chain_.readable.read(header, sizeof(header)) == sizeof(header) ? chain_.readable.remaining() : 0;
        if (frame >= kMinFrame && frame <= kMaxFrame && allowed(header)) {
            parts_.clear();
            parts_.push_back({header, sizeof(header)});
            chain_.readable.take(frame, parts_);
            // More parts than the call takes: nobody's driver. The queue's size bounds them.
            ssize_t put = ::writev(options_.tap.get(), parts_.data(), static_cast<int>(parts_.size()));
            if (put < 0 && (errno == EAGAIN || errno == EINTR)) {
                frames.undo_pop(chain_);
                wait_for_room_ = true;
                break;
            }
            transmit_limit_.spend(frame);
        }
        // Sent, or refused by the tap, or no frame: gone in any case.
        frames.push(chain_, 0);
    }
}

}  // namespace casemate::virtio
