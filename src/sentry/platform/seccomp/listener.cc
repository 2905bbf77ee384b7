#include "sentry/platform/seccomp/listener.h"

#include <poll.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

namespace casemate::sentry::seccomp {
namespace {

// Newer than the headers we build with (Linux 6.6).
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif
constexpr unsigned long kHwcap2FsGsBase = 2;

}  // namespace

SysResult<Listener> Listener::take(int pidfd, int remote_fd) {
    UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd, remote_fd, 0)));
    if (!fd) return last_errno();
    // Also shows that it is a listener at all.
    if (ioctl(fd.get(), SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) != 0) return last_errno();
    return Listener(std::move(fd));
}

bool Listener::thread_is_gone() {
    pollfd entry{.fd = fd_.get(), .events = 0, .revents = 0};
    return poll(&entry, 1, 0) > 0 && (entry.revents & (POLLHUP | POLLERR)) != 0;
}

bool Listener::receive(seccomp_notif& into) {
    for (;;) {
        std::memset(&into, 0, sizeof(into));
        if (ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_RECV, &into) == 0) return true;
        if (errno == EINTR) continue;
        if (errno != ENOENT) return false;
        // Either a signal took the thread out of its notification before we saw it, or nobody is left to notify.
        if (thread_is_gone()) return false;
    }
}

bool Listener::wait_until(int64_t deadline) {
    constexpr int64_t kSecond = 1'000'000'000;
    for (;;) {
        timespec now{};
        clock_gettime(CLOCK_MONOTONIC, &now);
        const int64_t left = (deadline - (now.tv_sec * kSecond + now.tv_nsec)) / 1'000'000;
        if (left <= 0) return false;
        pollfd entry{.fd = fd_.get(), .events = POLLIN, .revents = 0};
        const int ready = poll(&entry, 1, static_cast<int>(std::min<int64_t>(left, INT_MAX)));
        if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
    }
}

void Listener::set_same_cpu(bool same) {
    ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_SET_FLAGS, same ? SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP : 0);
}

bool Listener::answer(uint64_t id, int64_t value) {
    seccomp_notif_resp response{.id = id, .val = value, .error = 0, .flags = 0};
    for (;;) {
        if (ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_SEND, &response) == 0) return true;
        if (errno != EINTR) return false;
    }
}

Result<void> check_kernel() {
    if ((getauxval(AT_HWCAP2) & kHwcap2FsGsBase) == 0) {
        return Error("the seccomp platform needs FSGSBASE, which this CPU or kernel does not offer", ENOSYS);
    }
    // A null program: EFAULT when all flags are known, EINVAL when one is not.
    const unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, nullptr) != -1 || errno != EFAULT) {
        return Error("the seccomp platform needs user notifications that wait killably (Linux 5.19)", ENOSYS);
    }
    // Before, a thread that dies leaves its receiver waiting for ever.
    utsname names{};
    int major = 0, minor = 0;
    if (uname(&names) != 0 || sscanf(names.release, "%d.%d", &major, &minor) != 2 ||
        std::pair(major, minor) < std::pair(6, 11)) {
        return Error(std::string("the seccomp platform needs Linux 6.11 or newer, this is ") + names.release, ENOSYS);
    }
    return {};
}

}  // namespace casemate::sentry::seccomp
