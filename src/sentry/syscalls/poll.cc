// poll, ppoll, select and pselect6: waiting for several files at once.
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>

#include <deque>
#include <vector>

#include "sentry/kernel/task.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/syscalls/event.h"

namespace casemate::sentry {
namespace {

// Queues the task on one of several files.
class PollWaiter final : public Waiter {
  public:
    PollWaiter(Task::ThreadWaiter& sleeper, uint32_t events) : Waiter(events), sleeper_(sleeper) {}
    bool notified(uint32_t events) override { return sleeper_.notified(events); }

  private:
    Task::ThreadWaiter& sleeper_;
};

// With more files than these the thread sleeps itself: who wakes it should not have to look at them all.
constexpr size_t kMostParked = 64;

struct Watched {
    Ref<File> file;  // null: not polled
    uint32_t events = 0;
    uint32_t got = 0;
};

// Fills in `got`; the number of files with events. ETIMEDOUT is an answer of 0 here.
SysResult<int64_t> poll_files(Task& task, std::vector<Watched>& list, Deadline deadline, int64_t already) {
    auto look = [&] {
        int64_t ready = already;
        for (Watched& one : list) {
            if (!one.file) continue;
            one.got = one.file->poll_events(&task) & (one.events | EPOLLERR | EPOLLHUP);
            if (one.got != 0) ready++;
        }
        return ready;
    };
    if (int64_t ready = look(); ready > 0) return ready;
    if (deadline && *deadline <= 0) return 0;

    if (list.size() <= kMostParked && task.begin_park(deadline)) {
        for (Watched& one : list) {
            WaitQueue* queue = one.file ? one.file->waiters() : nullptr;
            if (queue != nullptr) task.park_at(one.file, *queue, one.events | EPOLLERR | EPOLLHUP);
        }
        int64_t ready = look();
        if (ready == 0) return Errno(kParked);
        task.cancel_park();
        return ready;
    }
    Task::ThreadWaiter sleeper(task, ~0u);
    std::deque<PollWaiter> waiters;
    std::vector<std::pair<WaitQueue*, PollWaiter*>> queued;
    for (Watched& one : list) {
        WaitQueue* queue = one.file ? one.file->waiters() : nullptr;
        if (queue == nullptr) continue;
        PollWaiter& waiter = waiters.emplace_back(sleeper, one.events | EPOLLERR | EPOLLHUP);
        queue->add(waiter);
        queued.push_back({queue, &waiter});
    }
    auto leave = [&] {
        for (auto [queue, waiter] : queued) queue->remove(*waiter);
    };
    while (true) {
        sleeper.arm();
        if (int64_t ready = look(); ready > 0) {
            leave();
            return ready;
        }
        auto slept = sleeper.sleep(deadline);
        if (slept.ok()) continue;
        leave();
        if (slept.error().value == ETIMEDOUT) return 0;
        return slept.take_error();
    }
}

// The deadline of a relative time-out; 0 ns stands for "do not wait".
SysResult<Deadline> deadline_after(const timespec& timeout) {
    if (timeout.tv_sec < 0 || timeout.tv_nsec < 0 || timeout.tv_nsec >= kSecond) return Errno(EINVAL);
    if (timeout.tv_sec == 0 && timeout.tv_nsec == 0) return Deadline(0);
    Nanoseconds total;
    if (__builtin_mul_overflow(timeout.tv_sec, kSecond, &total) ||
        __builtin_add_overflow(total, timeout.tv_nsec, &total) ||
        __builtin_add_overflow(total, monotonic_now(), &total))
        return Deadline();
    return Deadline(total);
}

// Linux leaves in the time-out what was left of it.
template <typename Time>
void write_rest(Task& task, UserPtr<Time> where, Deadline deadline) {
    if (!where || !deadline) return;
    Nanoseconds rest = std::max<Nanoseconds>(*deadline <= 0 ? 0 : *deadline - monotonic_now(), 0);
    Time time{};
    time.tv_sec = rest / kSecond;
    if constexpr (requires { time.tv_nsec; })
        time.tv_nsec = rest % kSecond;
    else
        time.tv_usec = rest % kSecond / 1000;
    static_cast<void>(task.write(where, time));  // a bad address is not told, as on Linux
}

SysResult<int64_t> do_poll(Task& task, UserPtr<pollfd> fds, uint64_t count, Deadline deadline) {
    if (count > task.limit(RLIMIT_NOFILE)) return Errno(EINVAL);
    std::vector<pollfd> list(count);
    TRY(task.memory().copy_in(fds.address, list.data(), count * sizeof(pollfd)));
    std::vector<Watched> watched(count);
    int64_t invalid = 0;
    for (size_t i = 0; i < count; i++) {
        list[i].revents = 0;
        if (list[i].fd < 0) continue;
        auto file = task.files().get(list[i].fd);
        if (!file.ok()) {
            list[i].revents = POLLNVAL;
            invalid++;
            continue;
        }
        watched[i] = {file.take_value(), static_cast<uint16_t>(list[i].events), 0};
    }
    auto ready = poll_files(task, watched, deadline, invalid);
    if (!ready.ok()) return ready;
    for (size_t i = 0; i < count; i++)
        if (watched[i].file) list[i].revents = static_cast<int16_t>(watched[i].got);
    for (size_t i = 0; i < count; i++)
        TRY(task.memory().copy_out(fds.address + i * sizeof(pollfd) + offsetof(pollfd, revents), &list[i].revents,
                                   sizeof(list[i].revents)));
    if (*ready > 0) task.parts().standing_answers.offer_reads(task);
    return ready;
}

SysResult<int64_t> sys_poll(Task& task, const SyscallArgs& args) {
    int timeout = args.i32(2);
    Deadline deadline;
    if (timeout == 0)
        deadline = 0;
    else if (timeout > 0)
        deadline = task.deadline_of_call(monotonic_now() + timeout * (kSecond / 1000));
    UserPtr<pollfd> fds(args.u64(0));
    uint64_t count = args.u32(1);
    auto result = do_poll(task, fds, count, deadline);
    if (!result.ok() && result.error().value == kRestartSys) {
        task.set_restart([=](Task& again) {
            auto more = do_poll(again, fds, count, deadline);
            if (!more.ok() && more.error().value == kRestartSys) return SysResult<int64_t>(Errno(kRestartBlock));
            return more;
        });
        return Errno(kRestartBlock);
    }
    return result;
}

SysResult<int64_t> sys_ppoll(Task& task, const SyscallArgs& args) {
    Deadline deadline;
    UserPtr<timespec> timeout(args.u64(2));
    if (timeout) {
        timespec value = TRY(task.read(timeout));
        deadline = TRY(deadline_after(value));
        deadline = task.deadline_of_call(deadline);
    }
    TRY(set_mask_for_wait(task, args.u64(3), args.u64(4)));
    auto result = do_poll(task, UserPtr<pollfd>(args.u64(0)), args.u32(1), deadline);
    if (!result.ok() && result.error().value == kParked) return result;
    write_rest(task, timeout, deadline);
    if (!result.ok() && result.error().value == kRestartSys) return Errno(kRestartNoHandler);
    return result;
}

// select's three sets of bits.
constexpr uint32_t kReadBits = EPOLLIN | EPOLLRDNORM | EPOLLRDBAND | EPOLLHUP | EPOLLERR;
constexpr uint32_t kWriteBits = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND | EPOLLERR;
constexpr uint32_t kExceptBits = EPOLLPRI;

SysResult<int64_t> do_select(Task& task, int64_t count, const uint64_t (&addresses)[3], Deadline deadline) {
    constexpr uint32_t kBits[3] = {kReadBits, kWriteBits, kExceptBits};
    if (count < 0) return Errno(EINVAL);
    count = std::min<int64_t>(count, static_cast<int64_t>(std::min<uint64_t>(task.limit(RLIMIT_NOFILE), 1 << 20)));
    auto words = static_cast<size_t>((count + 63) / 64);
    std::vector<uint64_t> wanted[3], found[3];
    for (int set = 0; set < 3; set++) {
        wanted[set].resize(words);
        found[set].resize(words);
        if (addresses[set] != 0) TRY(task.memory().copy_in(addresses[set], wanted[set].data(), words * 8));
    }
    std::vector<Watched> watched;
    std::vector<int> fds;
    for (int64_t fd = 0; fd < count; fd++) {
        uint32_t events = 0;
        for (int set = 0; set < 3; set++)
            if (wanted[set][static_cast<size_t>(fd / 64)] >> (fd % 64) & 1) events |= kBits[set];
        if (events == 0) continue;
        Ref<File> file = TRY(task.files().get(static_cast<int>(fd)));
        watched.push_back({std::move(file), events, 0});
        fds.push_back(static_cast<int>(fd));
    }
    TRY(poll_files(task, watched, deadline, 0));
    int64_t bits = 0;
    for (size_t i = 0; i < watched.size(); i++) {
        auto word = static_cast<size_t>(fds[i] / 64);
        uint64_t bit = uint64_t{1} << (fds[i] % 64);
        for (int set = 0; set < 3; set++) {
            if (!(wanted[set][word] & bit) || !(watched[i].got & kBits[set])) continue;
            found[set][word] |= bit;
            bits++;
        }
    }
    for (int set = 0; set < 3; set++)
        if (addresses[set] != 0) TRY(task.memory().copy_out(addresses[set], found[set].data(), words * 8));
    return bits;
}

SysResult<int64_t> sys_select(Task& task, const SyscallArgs& args) {
    Deadline deadline;
    UserPtr<timeval> timeout(args.u64(4));
    if (timeout) {
        timeval value = TRY(task.read(timeout));
        if (value.tv_usec < 0 || value.tv_sec < 0) return Errno(EINVAL);
        timespec time{value.tv_sec + value.tv_usec / 1000000, value.tv_usec % 1000000 * 1000};
        deadline = TRY(deadline_after(time));
    }
    auto result = do_select(task, args.i32(0), {args.u64(1), args.u64(2), args.u64(3)}, deadline);
    write_rest(task, timeout, deadline);
    if (!result.ok() && result.error().value == kRestartSys) return Errno(kRestartNoHandler);
    return result;
}

SysResult<int64_t> sys_pselect6(Task& task, const SyscallArgs& args) {
    Deadline deadline;
    UserPtr<timespec> timeout(args.u64(4));
    if (timeout) {
        timespec value = TRY(task.read(timeout));
        deadline = TRY(deadline_after(value));
    }
    if (args.u64(5) != 0) {
        struct MaskArgument {
            uint64_t address, size;
        };
        auto mask = TRY(task.read(UserPtr<MaskArgument>(args.u64(5))));
        TRY(set_mask_for_wait(task, mask.address, mask.size));
    }
    auto result = do_select(task, args.i32(0), {args.u64(1), args.u64(2), args.u64(3)}, deadline);
    write_rest(task, timeout, deadline);
    if (!result.ok() && result.error().value == kRestartSys) return Errno(kRestartNoHandler);
    return result;
}

constexpr SyscallRow kRows[] = {
    {7, "poll", sys_poll, Support::kFull},
    {23, "select", sys_select, Support::kFull},
    {270, "pselect6", sys_pselect6, Support::kFull},
    {271, "ppoll", sys_ppoll, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> poll_syscalls() { return kRows; }

SysResult<void> set_mask_for_wait(Task& task, uint64_t address, uint64_t size) {
    if (address == 0) return {};
    if (size != sizeof(SignalSet)) return Errno(EINVAL);
    SignalSet mask = TRY(task.read(UserPtr<SignalSet>(address)));
    task.set_temporary_mask(mask & ~kUnblockable);
    return {};
}

}  // namespace casemate::sentry
