#include "sentry/net/stack/reassembly.h"

#include <algorithm>

namespace casemate::sentry::stack {

constexpr size_t kMostPacket = 65535;
constexpr size_t kPieceCost = 64;  // beside its bytes

void Reassembly::drop_locked(std::list<Packet>::iterator packet) {
    bytes_ -= packet->bytes + packet->pieces.size() * kPieceCost;
    packets_.erase(packet);
}

Reassembly::Whole Reassembly::add(const Key& key, size_t offset, bool more, Bytes piece, Nanoseconds now) {
    Whole whole;
    if (piece.empty() || offset + piece.size() > kMostPacket || (more && piece.size() % 8 != 0)) {
        whole.failed = true;
        return whole;
    }
    std::lock_guard lock(mutex_);
    while (!packets_.empty() && packets_.front().until <= now) drop_locked(packets_.begin());
    auto packet = std::find_if(packets_.begin(), packets_.end(), [&](auto& one) { return one.key == key; });
    if (packet == packets_.end()) {
        if (packets_.size() >= kMostPackets) drop_locked(packets_.begin());
        packet = packets_.insert(packets_.end(), Packet{key, now + kPatience, {}, 0, 0});
    }
    size_t end = offset + piece.size();
    auto at =
        std::find_if(packet->pieces.begin(), packet->pieces.end(), [&](auto& one) { return one.offset >= offset; });
    if (at != packet->pieces.end() && at->offset == offset && at->bytes.size() == piece.size()) return whole;  // again
    bool overlaps = (at != packet->pieces.end() && at->offset < end) ||
                    (at != packet->pieces.begin() && std::prev(at)->offset + std::prev(at)->bytes.size() > offset);
    bool contradicts = packet->end != 0 && (end > packet->end || (!more && end != packet->end));
    if (!more && !packet->pieces.empty() && packet->pieces.back().offset >= end) contradicts = true;
    if (overlaps || contradicts || packet->pieces.size() >= kMostPieces) {
        drop_locked(packet);
        whole.failed = true;
        return whole;
    }
    packet->pieces.insert(at, Piece{offset, {piece.begin(), piece.end()}});
    packet->bytes += piece.size();
    bytes_ += piece.size() + kPieceCost;
    if (!more) packet->end = end;
    if (packet->end != 0 && packet->bytes == packet->end) {
        whole.bytes.reserve(packet->end);
        for (auto& one : packet->pieces) whole.bytes.insert(whole.bytes.end(), one.bytes.begin(), one.bytes.end());
        drop_locked(packet);
        return whole;
    }
    while (bytes_ > kMostBytes && packets_.size() > 1)
        drop_locked(packets_.begin() == packet ? std::next(packets_.begin()) : packets_.begin());
    return whole;
}

}  // namespace casemate::sentry::stack
