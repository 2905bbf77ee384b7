#include "linux/event_fds.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>

namespace casemate::linux {

SysResult<UniqueFd> create_eventfd() {
    int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) return last_errno();
    return UniqueFd(fd);
}

void signal_eventfd(int fd) {
    uint64_t one = 1;
    // EAGAIN means the counter is full, so the reader has been told.
    while (::write(fd, &one, sizeof one) < 0 && errno == EINTR) continue;
}

uint64_t drain_eventfd(int fd) {
    uint64_t count = 0;
    while (::read(fd, &count, sizeof count) < 0)
        if (errno != EINTR) return 0;
    return count;
}

SysResult<UniqueFd> create_timerfd() {
    int fd = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0) return last_errno();
    return UniqueFd(fd);
}

SysResult<void> arm_timerfd(int fd, std::chrono::nanoseconds delay, std::chrono::nanoseconds period) {
    auto to_timespec = [](int64_t ns) { return timespec{ns / 1'000'000'000, ns % 1'000'000'000}; };
    itimerspec spec = {};
    spec.it_value = to_timespec(std::max<int64_t>(delay.count(), 1));  // 0 would disarm
    spec.it_interval = to_timespec(period.count());
    if (::timerfd_settime(fd, 0, &spec, nullptr) < 0) return last_errno();
    return {};
}

SysResult<void> disarm_timerfd(int fd) {
    itimerspec spec = {};
    if (::timerfd_settime(fd, 0, &spec, nullptr) < 0) return last_errno();
    return {};
}

SysResult<UniqueFd> create_signalfd(const sigset_t& set, int fd) {
    int created = ::signalfd(fd, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (created < 0) return last_errno();
    if (created == fd) return UniqueFd();  // changed in place: the caller keeps its own
    return UniqueFd(created);
}

sigset_t signal_set(std::initializer_list<int> signals) {
    sigset_t set;
    sigemptyset(&set);
    for (int signo : signals) sigaddset(&set, signo);
    return set;
}

SysResult<UniqueFd> create_memfd(const char* name, unsigned flags) {
    int fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    if (fd < 0) return last_errno();
    return UniqueFd(fd);
}

SysResult<void> seal_memfd(int fd) {
    if (::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0) return last_errno();
    return {};
}

SysResult<Pipe> create_pipe(int flags) {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC | flags) < 0) return last_errno();
    Pipe pipe;
    pipe.read_end.reset(fds[0]);
    pipe.write_end.reset(fds[1]);
    return pipe;
}

SysResult<UniqueFd> duplicate_fd(int fd) {
    int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return last_errno();
    return UniqueFd(copy);
}

SysResult<void> set_nonblocking(int fd, bool nonblocking) {
    int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0) return last_errno();
    int wanted = nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (wanted != flags && ::fcntl(fd, F_SETFL, wanted) < 0) return last_errno();
    return {};
}

SysResult<void> set_close_on_exec(int fd, bool close_on_exec) {
    if (::fcntl(fd, F_SETFD, close_on_exec ? FD_CLOEXEC : 0) < 0) return last_errno();
    return {};
}

}  // namespace casemate::linux
