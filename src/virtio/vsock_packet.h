// The packets of virtio-vsock (virtio 1.2, section 5.10.6).
#pragma once

#include <cstdint>

namespace casemate::virtio {

constexpr uint64_t kHostCid = 2;

enum class VsockOp : uint16_t {
    kRequest = 1,
    kResponse = 2,
    kReset = 3,
    kShutdown = 4,
    kData = 5,
    kCreditUpdate = 6,
    kCreditRequest = 7,
};

constexpr uint16_t kVsockStream = 1;
constexpr uint32_t kVsockNoReceive = 1, kVsockNoSend = 2;  // flags of kShutdown: what the sender will not do any more

struct VsockHeader {
    uint64_t source_cid;
    uint64_t destination_cid;
    uint32_t source_port;
    uint32_t destination_port;
    uint32_t length;
    uint16_t type;
    uint16_t op;
    uint32_t flags;
    uint32_t buffer_bytes;  // of the sender's receive buffer
    uint32_t forwarded;     // bytes that the sender took out of it, modulo 2^32
} __attribute__((packed));
static_assert(sizeof(VsockHeader) == 44);

}  // namespace casemate::virtio
