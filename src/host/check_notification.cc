// Seccomp user notification between two processes on one core, as the sentry's platform uses it.
#include <fmt/core.h>
#include <linux/audit.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>

#include "host/check.h"
#include "host/probe_child.h"
#include "host/seccomp_filter.h"
#include "linux/seccomp_fd.h"

namespace casemate::host {

namespace {

constexpr int kCalls = 200;

struct Outcome {
    const char* step = nullptr;  // a literal, so that it is valid in the parent too
    int code = 0;
    bool synchronous = false;
    double round_trip_us = 0;
};

Outcome failed(const char* step) {
    Outcome outcome;
    outcome.step = step;
    outcome.code = errno;
    return outcome;
}

// The notified side's child: puts the filter on itself, tells the listener's number (the descriptor table is shared)
// and makes calls that only the notified side can answer.
[[noreturn]] void make_calls(int write_fd) {
    SeccompFilter filter(SeccompFilter::kAllow);
    filter.add_rule(SYS_getppid, {}, SECCOMP_RET_USER_NOTIF);
    auto program = filter.build();
    int number = -1;
    if (program.ok() && linux::set_no_new_privs().ok()) {
        auto listener = linux::install_seccomp_filter(*program, SECCOMP_FILTER_FLAG_NEW_LISTENER);
        number = listener.ok() ? listener->release() : -listener.error().value;
    }
    (void)!::write(write_fd, &number, sizeof number);
    for (int i = 0; number >= 0 && i < kCalls; i++)
        if (::syscall(SYS_getppid) != 4711) ::_exit(1);
    ::_exit(0);
}

Outcome measure() {
    using Clock = std::chrono::steady_clock;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(::sched_getcpu()), &one);
    ::sched_setaffinity(0, sizeof one, &one);
    auto pipe = linux::create_pipe();
    if (!pipe.ok()) return failed("pipe");
    struct clone_args args = {};
    args.flags = CLONE_FILES;
    args.exit_signal = SIGCHLD;
    auto pid = linux::clone3(args);
    if (!pid.ok()) return failed("clone");
    if (*pid == 0) {
        (void)linux::set_death_signal(SIGKILL);
        make_calls(pipe->write_end.get());
    }
    int listener = -1;
    if (::read(pipe->read_end.get(), &listener, sizeof listener) != sizeof listener) return failed("filter");
    if (listener < 0) {
        errno = -listener;
        return failed("seccomp filter with a listener");
    }
    Outcome outcome;
    outcome.synchronous = linux::set_synchronous_wake_up(listener).ok();
    Clock::time_point start;
    for (int i = 0; i < kCalls; i++) {
        if (i == 20) start = Clock::now();
        seccomp_notif call;
        if (!linux::receive_notification(listener, call).ok()) return failed("receiving a notification");
        seccomp_notif_resp answer = {};
        answer.id = call.id;
        answer.val = 4711;
        if (!linux::answer_notification(listener, answer).ok()) return failed("answering a notification");
    }
    std::chrono::duration<double, std::micro> elapsed = Clock::now() - start;
    outcome.round_trip_us = elapsed.count() / (kCalls - 20);
    int status = 0;
    ::waitpid(*pid, &status, 0);
    errno = EIO;
    if (status != 0) return failed("the answer of a notification");
    return outcome;
}

}  // namespace

NotificationProbe probe_user_notification() {
    NotificationProbe probe;
    auto outcome = run_probe<Outcome>(3000, measure);
    if (!outcome.ok()) {
        probe.failure = outcome.error().value == ETIMEDOUT ? "a call was not answered within 3 s" : "the probe died";
        return probe;
    }
    if (outcome->step != nullptr) {
        probe.failure = sys_error(outcome->step, outcome->code).message();
        return probe;
    }
    probe.works = true;
    probe.synchronous_wake_up = outcome->synchronous;
    probe.round_trip_us = outcome->round_trip_us;
    return probe;
}

HostCheck describe(const NotificationProbe& probe) {
    HostCheck check;
    check.name = "user_notification";
    check.title = "seccomp user notification";
    if (!probe.works) {
        check.status = CheckStatus::kMissing;
        check.found = probe.failure;
        check.remedy =
            "the sentry engine needs a kernel with CONFIG_SECCOMP_FILTER, and no outer seccomp filter that forbids "
            "a listener (run outside of other sandboxes)";
        return check;
    }
    check.found = fmt::format("{} wake-up, {:.1f} us a call on one core",
                              probe.synchronous_wake_up ? "synchronous" : "no synchronous", probe.round_trip_us);
    check.status = probe.synchronous_wake_up ? CheckStatus::kOk : CheckStatus::kWarning;
    if (!probe.synchronous_wake_up)
        check.remedy =
            "use Linux 6.6 or later: without synchronous wake-up a syscall in the sentry takes ten times as long";
    return check;
}

}  // namespace casemate::host
