// Messages between sockets of the pod, borders kept: Unix datagrams and seqpackets, loopback UDP.
//
// Who pays for a message that waits: the sender, by a SendBudget (Unix), or the receiver, by the queue's byte limit
// (UDP drops what does not fit).
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "sentry/kernel/clock.h"
#include "sentry/net/inet/endpoint.h"
#include "sentry/net/passenger.h"
#include "sentry/net/waiters.h"

namespace casemate::sentry {

// Bytes that a socket has under way in queues of others.
class SendBudget final : public RefCounted {
  public:
    explicit SendBudget(Ref<SocketWaiters> owner) : owner_(std::move(owner)) {}
    size_t used() const { return used_.load(std::memory_order_acquire); }
    void wake() { owner_->everything(); }
    void charge(size_t bytes) { used_.fetch_add(bytes, std::memory_order_acq_rel); }
    void give_back(size_t bytes) {
        used_.fetch_sub(bytes, std::memory_order_acq_rel);
        owner_->writable();
    }

  private:
    std::atomic<size_t> used_{0};
    Ref<SocketWaiters> owner_;
};

struct Packet {
    static constexpr size_t kOverhead = 512;  // what a message costs beside its bytes

    std::unique_ptr<std::byte[]> data;
    size_t size = 0;
    Ref<Passenger> passenger;
    Ref<RefCounted> sender;  // Unix: the sender's UnixName; null: unnamed
    InetEndpoint from, to;   // UDP
    int hop_limit = 64, traffic_class = 0;
    int link = 1;             // that it came by
    uint32_t drops = 0;       // of the queue, when it came
    Nanoseconds arrived = 0;  // CLOCK_REALTIME

    Packet() = default;
    Packet(Packet&&) = default;
    Packet& operator=(Packet&&) = default;
    ~Packet() {
        if (budget_) budget_->give_back(charge_);
    }
    void charge(const Ref<SendBudget>& budget) {
        budget_ = budget;
        charge_ = size + kOverhead;
        budget_->charge(charge_);
    }
    bool charged() const { return static_cast<bool>(budget_); }
    // `size` bytes out of `from`. EFAULT, ENOBUFS.
    static SysResult<Packet> copy_from(IoBuffer& from, size_t size);
    // The same to somebody else; what rides on it and who pays stay behind.
    Packet duplicate() const;
    size_t cost() const { return size + kOverhead; }

  private:
    Ref<SendBudget> budget_;
    size_t charge_ = 0;
};

class PacketQueue {
  public:
    explicit PacketQueue(Ref<SocketWaiters> reader) : reader_(std::move(reader)) {}

    enum class Put { kDone, kFull, kClosed };
    // Full at `most_packets` or `most_bytes`; the packet is moved from only when done.
    Put put(Packet& packet, size_t most_packets, size_t most_bytes);
    // Takes the first packet, or (peek) hands it to `look` under the lock and leaves it.
    std::optional<Packet> take();
    bool peek(const std::function<void(Packet&)>& look);
    // The packet that the byte at `offset` of the queue lies in, and how far in.
    bool peek_at(size_t offset, const std::function<void(Packet&, size_t)>& look);

    // Nothing more will come; what is there can be read.
    void end();
    // Drops everything; true if there was something.
    bool close_reader();
    size_t count();
    size_t first_size();  // 0: empty
    size_t bytes();
    bool ended();
    bool reader_gone();
    void for_each_passed(const std::function<void(PassedFiles&)>& visit);
    void take_passed(std::vector<Ref<PassedFiles>>& into);

  private:
    std::mutex mutex_;
    std::deque<Packet> packets_;  // guarded by mutex_, as is all below
    size_t bytes_ = 0;            // with overhead
    bool ended_ = false, reader_gone_ = false;
    const Ref<SocketWaiters> reader_;
};

}  // namespace casemate::sentry
