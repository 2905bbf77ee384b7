#include "sentry/net/packet_queue.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "sentry/mm/io_buffer.h"

namespace casemate::sentry {

SysResult<Packet> Packet::copy_from(IoBuffer& from, size_t size) {
    Packet packet;
    packet.size = size;
    if (size == 0) return packet;
    packet.data.reset(new (std::nothrow) std::byte[size]);
    if (!packet.data) return Errno(ENOBUFS);
    size_t copied = TRY(from.copy_from(packet.data.get(), size));
    if (copied < size) return Errno(EFAULT);
    return packet;
}

Packet Packet::duplicate() const {
    Packet copy;
    copy.size = size;
    copy.data.reset(new (std::nothrow) std::byte[std::max<size_t>(size, 1)]);
    if (!copy.data) copy.size = 0;
    if (copy.size > 0) memcpy(copy.data.get(), data.get(), copy.size);
    copy.from = from;
    copy.to = to;
    copy.hop_limit = hop_limit;
    copy.traffic_class = traffic_class;
    copy.link = link;
    copy.arrived = arrived;
    return copy;
}

PacketQueue::Put PacketQueue::put(Packet& packet, size_t most_packets, size_t most_bytes) {
    {
        std::lock_guard lock(mutex_);
        if (ended_ || reader_gone_) return Put::kClosed;
        if (packets_.size() >= most_packets || bytes_ >= most_bytes) return Put::kFull;
        bytes_ += packet.cost();
        packets_.push_back(std::move(packet));
    }
    reader_->readable();
    return Put::kDone;
}

std::optional<Packet> PacketQueue::take() {
    std::lock_guard lock(mutex_);
    if (packets_.empty()) return std::nullopt;
    std::optional<Packet> packet(std::move(packets_.front()));
    packets_.pop_front();
    bytes_ -= packet->cost();
    return packet;
}

bool PacketQueue::peek(const std::function<void(Packet&)>& look) {
    std::lock_guard lock(mutex_);
    if (packets_.empty()) return false;
    look(packets_.front());
    return true;
}

bool PacketQueue::peek_at(size_t offset, const std::function<void(Packet&, size_t)>& look) {
    std::lock_guard lock(mutex_);
    for (Packet& packet : packets_) {
        if (offset < packet.size || offset == 0) {
            look(packet, offset);
            return true;
        }
        offset -= packet.size;
    }
    return false;
}

void PacketQueue::end() {
    {
        std::lock_guard lock(mutex_);
        ended_ = true;
    }
    reader_->everything();
}

bool PacketQueue::close_reader() {
    std::deque<Packet> dropped;
    std::lock_guard lock(mutex_);
    ended_ = reader_gone_ = true;
    bytes_ = 0;
    dropped.swap(packets_);
    return !dropped.empty();
}

size_t PacketQueue::count() {
    std::lock_guard lock(mutex_);
    return packets_.size();
}
size_t PacketQueue::first_size() {
    std::lock_guard lock(mutex_);
    return packets_.empty() ? 0 : packets_.front().size;
}
size_t PacketQueue::bytes() {
    std::lock_guard lock(mutex_);
    return bytes_;
}
bool PacketQueue::ended() {
    std::lock_guard lock(mutex_);
    return ended_;
}
bool PacketQueue::reader_gone() {
    std::lock_guard lock(mutex_);
    return reader_gone_;
}

void PacketQueue::for_each_passed(const std::function<void(PassedFiles&)>& visit) {
    std::lock_guard lock(mutex_);
    for (Packet& packet : packets_)
        if (packet.passenger && packet.passenger->files) visit(*packet.passenger->files);
}

void PacketQueue::take_passed(std::vector<Ref<PassedFiles>>& into) {
    std::lock_guard lock(mutex_);
    for (Packet& packet : packets_) {
        if (!packet.passenger || !packet.passenger->files) continue;
        into.push_back(packet.passenger->files);
        auto bare = make_ref<Passenger>();
        bare->credentials = packet.passenger->credentials;
        packet.passenger = std::move(bare);
    }
}

}  // namespace casemate::sentry
