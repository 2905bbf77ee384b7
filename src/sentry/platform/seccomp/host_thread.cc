#include "sentry/platform/seccomp/host_thread.h"

#include <linux/audit.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace casemate::sentry::seccomp {
namespace {

constexpr int kSysSeccomp = 1;  // si_code of a SIGSYS that a filter raised

// The host would take these for orders to itself: restart the call. No Linux syscall returns them to user code.
int64_t clean_result(int64_t result) { return result <= -512 && result >= -516 ? -EINTR : result; }

}  // namespace

HostThread::HostThread(Listener listener, int pidfd, pid_t process, const FrameLayout& layout, std::byte* area,
                       uint64_t stub_area)
    : listener_(std::move(listener)),
      layout_(layout),
      area_(area),
      stub_area_(stub_area),
      pidfd_(pidfd),
      process_(process) {}

bool HostThread::start() {
    seccomp_notif notification;
    if (!listener_.receive(notification)) return false;
    const seccomp_data& data = notification.data;
    if (data.arch != AUDIT_ARCH_X86_64 || data.nr != STUB_CALL_FRAME ||
        data.instruction_pointer != stub_address(casemate_stub_frame_return) ||
        data.args[0] != stub_area_ + layout_.frame) {
        return false;
    }
    notification_ = notification.id;
    thread_id_ = static_cast<pid_t>(notification.pid);
    state_ = State::kAtFrame;
    clear();
    return true;
}

bool HostThread::renew() {
    // A thread that waits in a syscall of its former life: have the signal handler produce a frame.
    for (int attempt = 0; state_ == State::kAtSyscall && attempt < 3; ++attempt) complete_and_stop(-EINTR);
    if (state_ != State::kAtFrame) return false;
    clear();
    return true;
}

void HostThread::clear() {
    registers_ = Registers{};
    layout_.reset_fp(fp_image());
    fp_is_here_ = true;
}

std::span<std::byte> HostThread::fp_image() {
    if (!fp_image_) fp_image_ = std::make_unique<std::byte[]>(layout_.fp_size);
    return {fp_image_.get(), layout_.fp_size};
}

std::span<std::byte> HostThread::fp_state() {
    if (!fp_is_here_) {
        layout_.read_fp(area_, fp_image());
        fp_is_here_ = true;
    }
    return fp_image();
}

void HostThread::interrupt() const {
    // The stub is reaped only after its threads' objects are gone, so its id cannot have come to mean another process;
    // threads of a stub end only with it.
    syscall(SYS_tgkill, process_, thread_id_, interrupt_signal());
}

void HostThread::send(int64_t answer) {
    if (state_ == State::kDead || !listener_.answer(notification_, answer)) [[unlikely]] {
        unanswerable_.store(true, std::memory_order_relaxed);
    }
}

Stop HostThread::wait(std::optional<int64_t> deadline) {
    Stop stop;
    seccomp_notif notification;
    if (deadline && state_ != State::kDead && !listener_.wait_until(*deadline)) {
        stop.reason = StopReason::kTimeout;
        return stop;
    }
    if (state_ == State::kDead || unanswerable_.load(std::memory_order_relaxed) || !listener_.receive(notification))
        [[unlikely]] {
        state_ = State::kDead;
        return stop;
    }
    take_stop(notification, stop);
    return stop;
}

void HostThread::go_on() {
    if (state_ != State::kAtFrame) {
        CHECK(state_ == State::kDead);
        return;
    }
    layout_.write(area_, stub_area_, registers_);
    if (fp_is_here_) {
        layout_.clean_fp(fp_image());
        layout_.write_fp(area_, fp_image());
        fp_is_here_ = false;
    }
    send(0);
}

void HostThread::answer(int64_t result, WakeOn where) {
    if (where == WakeOn::kAnyCpu) listener_.set_same_cpu(false);
    if (state_ == State::kAtFrame) {
        registers_.ax = static_cast<uint64_t>(result);
        go_on();
    } else {
        send(clean_result(result));
    }
    if (where == WakeOn::kAnyCpu) listener_.set_same_cpu(true);
}

void HostThread::answer_and_stop(int64_t result) {
    // The signal first: the thread waits killably (or in the handler, with signals blocked), so the answer is kept and
    // the frame holds everything.
    if (state_ != State::kDead) interrupt();
    answer(result, WakeOn::kThisCpu);
}

Stop HostThread::resume() {
    go_on();
    return wait();
}

Stop HostThread::complete_syscall(int64_t result) {
    answer(result, WakeOn::kThisCpu);
    return wait();
}

Stop HostThread::complete_and_stop(int64_t result) {
    if (state_ == State::kAtFrame) {
        registers_.ax = static_cast<uint64_t>(result);
        Stop stop;
        stop.reason = StopReason::kInterrupted;
        stop.has_registers = true;
        return stop;
    }
    answer_and_stop(result);
    return wait();
}

void HostThread::take_stop(const seccomp_notif& notification, Stop& stop) {
    const seccomp_data& data = notification.data;
    notification_ = notification.id;
    if (data.nr == STUB_CALL_FRAME && data.instruction_pointer == stub_address(casemate_stub_frame_return) &&
        data.arch == AUDIT_ARCH_X86_64) {
        // With the alternate stack as we set it, each frame lies at the same place.
        if (data.args[0] != stub_area_ + layout_.frame) return condemn(stop);
        return take_frame(static_cast<int>(data.args[3]), notification, stop);
    }
    state_ = State::kAtSyscall;
    stop.reason = StopReason::kSyscall;
    stop.syscall.arch = data.arch;
    stop.syscall.nr = static_cast<uint32_t>(data.nr);
    std::memcpy(stop.syscall.args, data.args, sizeof(data.args));
    stop.syscall.ip = data.instruction_pointer;
}

void HostThread::take_frame(int signo, const seccomp_notif& notification, Stop& stop) {
    SignalFrame frame;
    std::memcpy(&frame, area_ + layout_.frame, sizeof(frame));
    std::memcpy(static_cast<void*>(&registers_), frame.general, sizeof(frame.general));
    // These came in registers.
    registers_.fs_base = notification.data.args[1];
    registers_.gs_base = notification.data.args[2];
    fp_is_here_ = false;
    state_ = State::kAtFrame;
    stop.has_registers = true;
    stop.reason = StopReason::kInterrupted;

    switch (signo) {
        case SIGSYS:
            if (frame.si_code != kSysSeccomp) return;
            stop.reason = StopReason::kSyscall;
            stop.syscall.arch = frame.syscall_arch;
            stop.syscall.nr = static_cast<uint32_t>(frame.syscall_nr);
            stop.syscall.args[0] = registers_.di;
            stop.syscall.args[1] = registers_.si;
            stop.syscall.args[2] = registers_.dx;
            stop.syscall.args[3] = registers_.r10;
            stop.syscall.args[4] = registers_.r8;
            stop.syscall.args[5] = registers_.r9;
            stop.syscall.ip = frame.address;
            return;
        case SIGSEGV:
        case SIGBUS:
        case SIGFPE:
        case SIGILL:
        case SIGTRAP:
            if (frame.si_code <= 0) return;  // sent by somebody, not raised by an instruction
            stop.reason = StopReason::kFault;
            stop.fault.signo = signo;
            stop.fault.code = frame.si_code;
            stop.fault.address = frame.address;
            stop.fault.trap_number = frame.trap_number;
            stop.fault.error_code = frame.error_code;
            return;
        default:
            // interrupt(), or the application called the stub's code itself: nothing happened that needs an answer.
            return;
    }
}

void HostThread::condemn(Stop& stop) {
    syscall(SYS_pidfd_send_signal, pidfd_, SIGKILL, nullptr, 0);
    state_ = State::kDead;
    stop = Stop{};
}

}  // namespace casemate::sentry::seccomp
