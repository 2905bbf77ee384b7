// The memory that a guest kernel and casemate-files share, so that a request costs neither side a copy through a
// socket.
//
// A request is written into a slot and the slot's number is rung: by a system call of the guest kernel (kRingCall) that
// its own seccomp filter turns into a notification to the file server, which the host delivers on the caller's core at
// once. The call returns when the reply stands in the slot. The descriptor of a reply, if any, went over the socket
// before. What nobody waits for (posts) lies in a ring that the server works off before each request, and a moment
// after the last one; only if it sleeps is it woken, by a byte on the socket.
//
// Either side may write here at any time: copied once, then checked.
#pragma once

#include <sys/syscall.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "fileserver/protocol.h"

namespace casemate::fileserver {

// Harmless should the host ever carry it out.
constexpr int kRingCall = SYS_getppid;
constexpr uint64_t kRingPosts = ~uint64_t{0};  // rung instead of a slot: only work off the posts

struct Slot {
    static constexpr uint32_t kIdle = 0, kRequest = 1, kDone = 2;
    static constexpr uint32_t kMaxForgets = 28;

    std::atomic<uint32_t> state{kIdle};
    std::atomic<uint32_t> size{0};        // of the message
    std::atomic<uint32_t> descriptor{0};  // the reply's tag and a descriptor lie in the socket
    std::atomic<uint32_t> forgets{0};     // how many of `forgotten` the request brings along
    NodeId forgotten[kMaxForgets] = {};
    char message[kMaxMessage] = {};  // a Request, then the Reply, each with its data
};

// Records of four bytes of size and that many of a request (kFlagNoReply), without gaps, wrapping round.
struct PostRing {
    static constexpr uint64_t kBytes = 64 * 1024;

    std::atomic<uint64_t> written{0}, read{0};  // bytes, ever
    std::atomic<uint32_t> asleep{0};            // the server must be woken
    alignas(64) char bytes[kBytes] = {};
};

struct SharedArea {
    static constexpr uint32_t kSlots = 8;

    alignas(4096) PostRing posts;
    struct alignas(4096) PaddedSlot : Slot {};
    PaddedSlot slots[kSlots];
};

// The first message on the socket with two descriptors, the area's memory (sealed against shrinking) and the listener,
// puts the area into use.
constexpr uint32_t kHello = 0x6c6c6568;

}  // namespace casemate::fileserver
