// The device side of a split virtqueue (virtio 1.2, section 2.7).
//
// Everything in the rings was written by the guest and may change while we look. So: the configuration is copied and
// checked when the queue is made and then never changes; a descriptor is copied once; heads and next fields are below
// the queue's size; a chain has at most as many descriptors as the queue (indirect ones included) and a bounded number
// of bytes; a head that is in flight is not taken again; readable parts come before writable ones. Whoever breaks these
// rules breaks the queue: pop() fails from then on, and the device asks for a reset. Nothing aborts.
//
// Not thread-safe: the device's lock is around it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "virtio/guest_memory.h"

namespace casemate::virtio {

constexpr uint16_t kMaxQueueSize = 1024;
constexpr uint64_t kMaxChainBytes = 32 << 20;

// Bytes of a chain in one direction, taken from the front like a stream.
class ChainBuffer {
  public:
    ChainBuffer() = default;
    // Over memory of our own, for handlers that also serve other transports. Borrowed; up to 4 GiB.
    ChainBuffer(void* data, size_t size);
    // More of it behind, perhaps a guest's that only host calls look at; up to 4 GiB. Not once reading began.
    void append(void* data, size_t size);

    size_t remaining() const { return remaining_; }
    // Copies up to `length` bytes; how many it were.
    size_t read(void* to, size_t length);
    size_t write(const void* from, size_t length);
    size_t skip(size_t length);
    // All or nothing, for structures. False if the guest made the buffer too short.
    template <typename T>
    bool read_all(T& to) {
        return remaining_ >= sizeof(T) && read(&to, sizeof(T)) == sizeof(T);
    }
    template <typename T>
    bool write_all(const T& from) {
        return remaining_ >= sizeof(T) && write(&from, sizeof(T)) == sizeof(T);
    }
    // Takes the next `length` bytes (fewer if there are fewer) as iovecs for host calls, appended to `into`; what
    // adjoins in memory is one.
    size_t take(size_t length, std::vector<iovec>& into);
    // Splits the last `length` bytes off: a trailer such as a status byte. False if there are fewer.
    bool split_tail(size_t length, ChainBuffer& tail);

    // Back to the front; not after split_tail().
    void rewind();
    void clear();

  private:
    friend class Queue;
    template <typename F>
    size_t advance(size_t length, F&& piece);

    std::vector<GuestSlice> slices_;
    size_t index_ = 0;      // the slice at the front
    size_t offset_ = 0;     // consumed of it
    size_t remaining_ = 0;  // bytes
};

// A request of the driver's. Reused from one pop() to the next to save allocations.
class Chain {
  public:
    uint16_t head() const { return head_; }
    ChainBuffer readable;  // driver to device
    ChainBuffer writable;  // device to driver

  private:
    friend class Queue;
    uint16_t head_ = 0;
    std::shared_ptr<const GuestMemory> memory_;
};

// As the driver wrote it into the registers: guest-controlled, unchecked.
struct QueueConfig {
    uint16_t size = 0;
    GuestAddr descriptors;
    GuestAddr available;
    GuestAddr used;
};

// Where a queue stands, for snapshots: taken while no chain is in flight.
struct QueuePosition {
    uint16_t next_available = 0;
    uint16_t next_used = 0;
};

class Queue {
  public:
    // A queue that the driver did not set up: never has a chain.
    Queue() = default;
    // EINVAL if the size is not a power of two up to `max_size` or an address is not aligned, EFAULT if a ring does not
    // lie in RAM.
    static SysResult<Queue> create(std::shared_ptr<const GuestMemory> memory, const QueueConfig& config,
                                   uint16_t max_size, bool event_index, bool indirect);

    bool ready() const { return size_ != 0; }
    uint16_t size() const { return size_; }

    // The next chain; false if there is none. EPROTO if the driver broke the rules, now or earlier; broken() says how.
    SysResult<bool> pop(Chain& chain);
    // Puts the chain that was popped last back: it will be the next one again.
    void undo_pop(const Chain& chain);
    // Gives a chain back with the number of bytes written into it. Seen by the driver after publish().
    void push(const Chain& chain, uint32_t written);
    // Shows the driver what was pushed; whether it wants an interrupt for that.
    bool publish();

    // While the device works on the queue it needs no notifications. enable_notifications() is true if more came
    // meanwhile: then look again.
    void disable_notifications();
    bool enable_notifications();
    // Whether the driver has offered more; without any check of it.
    bool has_more() const;

    const char* broken() const { return broken_; }  // null if it is not
    size_t in_flight() const { return in_flight_; }

    QueuePosition position() const { return {next_available_, next_used_}; }
    void set_position(QueuePosition position);

  private:
    struct Descriptor {
        uint64_t address;
        uint32_t length;
        uint16_t flags;
        uint16_t next;
    };
    SysResult<void> walk(uint16_t head, Chain& chain);
    Errno fail(const char* why);

    std::shared_ptr<const GuestMemory> memory_;
    uint16_t size_ = 0;
    bool event_index_ = false;
    bool indirect_ = false;
    // SAFETY: checked by create() to lie in RAM with their whole length, and kept by memory_.
    char* descriptors_ = nullptr;
    char* available_ = nullptr;
    char* used_ = nullptr;
    uint16_t next_available_ = 0;
    uint16_t next_used_ = 0;
    uint16_t published_ = 0;
    size_t in_flight_ = 0;
    std::vector<bool> busy_;  // by head
    const char* broken_ = nullptr;
};

}  // namespace casemate::virtio
