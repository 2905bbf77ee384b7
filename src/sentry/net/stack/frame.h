// Frames: what a device hands in, what it is handed to send. Between us and the host's kernel stands a virtio-net
// header, so that segmentation and checksums are left to it: a frame of TCP may carry 64 KiB.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <new>

#include "base/ref.h"
#include "sentry/net/stack/wire.h"

namespace casemate::sentry::stack {

// virtio_net_hdr as packet sockets speak it (linux/virtio_net.h is no C++).
struct VirtioHeader {
    static constexpr uint8_t kNeedsChecksum = 1, kDataValid = 2;                       // flags
    static constexpr uint8_t kNone = 0, kTcp4 = 1, kUdp = 3, kTcp6 = 4, kUdpPart = 5;  // gso_type
    static constexpr uint8_t kCwrOnce = 0x80;  // with gso_type: only the first segment carries the flag CWR
    uint8_t flags = 0, gso_type = kNone;
    uint16_t hdr_len = 0, gso_size = 0, csum_start = 0, csum_offset = 0;
};
static_assert(sizeof(VirtioHeader) == 10);

// Memory for bytes on their way in or out; shared by whoever still needs them. Large ones are kept for reuse, because
// fresh memory costs a page fault per page: more than copying the bytes.
class FrameBuffer final : public RefCounted {
  public:
    static constexpr size_t kLarge = 65536 + 128;  // a frame with its headers

    // Null: no memory.
    static Ref<FrameBuffer> create(size_t capacity);
    // SAFETY: create() allocated `capacity_` bytes behind the object.
    uint8_t* data() { return reinterpret_cast<uint8_t*>(this + 1); }
    size_t capacity() const { return capacity_; }

  private:
    explicit FrameBuffer(size_t capacity) : capacity_(capacity) {}
    ~FrameBuffer() override = default;
    void last_ref_dropped() override;
    const size_t capacity_;
};

constexpr size_t kMostFrame = FrameBuffer::kLarge;

struct InFrame {
    VirtioHeader virtio{};
    Ref<FrameBuffer> buffer;
    uint32_t offset = 0, size = 0;  // of the frame in the buffer
    Bytes bytes() const { return {buffer->data() + offset, size}; }
};

struct OutFrame {
    static constexpr size_t kMostHead = 160, kMostPieces = 32;
    VirtioHeader virtio{};
    std::array<uint8_t, kMostHead> head;  // Ethernet and everything up to the payload
    size_t head_size = 0;
    std::array<iovec, kMostPieces> pieces;  // of the payload: borrowed for the call
    size_t piece_count = 0;
    size_t payload_size = 0;

    bool add(const void* bytes, size_t size) {
        if (size == 0) return true;
        if (piece_count == kMostPieces) return false;
        pieces[piece_count++] = {const_cast<void*>(bytes), size};
        payload_size += size;
        return true;
    }
    uint8_t* ip() { return head.data() + kEthernetHeader; }
};

// A network interface as the stack sees it. send() may be called by any thread.
class Device {
  public:
    virtual ~Device() = default;
    // False: no room now; the frame is not sent, and nobody calls back.
    virtual bool send(const OutFrame& frame) = 0;
    virtual bool can_segment() const { return true; }
};

}  // namespace casemate::sentry::stack
