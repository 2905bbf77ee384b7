#include "fileserver/receiver.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>

namespace casemate::fileserver {
namespace {

constexpr int kLooks = 64;
constexpr uint32_t kMaxPenalty = 256;

}  // namespace

Receiver::Receiver() {
    cpu_set_t cores;
    enabled_ = sched_getaffinity(0, sizeof(cores), &cores) == 0 && CPU_COUNT(&cores) > 1;
}

ssize_t Receiver::receive(int socket, msghdr& message, int flags) {
    if (!enabled_ || skip_ > 0) {
        if (skip_ > 0) --skip_;
        return ::recvmsg(socket, &message, flags);
    }
    const socklen_t name = message.msg_namelen;
    const size_t control = message.msg_controllen;
    for (int look = 0; look < kLooks; ++look) {
        ssize_t n = ::recvmsg(socket, &message, flags | MSG_DONTWAIT);
        if (n >= 0) {
            penalty_ = 0;
            return n;
        }
        if (errno != EAGAIN) return n;
        message.msg_namelen = name;
        message.msg_controllen = control;
        __builtin_ia32_pause();
    }
    penalty_ = std::min(penalty_ * 2 + 1, kMaxPenalty);
    skip_ = penalty_;
    return ::recvmsg(socket, &message, flags);
}

}  // namespace casemate::fileserver
