#include "sentry/platform/seccomp/template_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/rseq.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstring>

#include "sentry/platform/seccomp/await_word.h"
#include "sentry/platform/seccomp/host_vdso.h"
#include "sentry/platform/seccomp/signal_frame.h"
#include "sentry/platform/seccomp/stub_image.h"

namespace casemate::sentry::seccomp {
namespace {

// The kernel's own struct sigaction.
struct KernelSigaction {
    uint64_t handler;
    uint64_t flags;
    uint64_t restorer;
    uint64_t mask;
};
constexpr uint64_t kSaRestorer = 0x04000000;

constexpr const char* kSteps[] = {"",
                                  "watch the sentry",
                                  "forget the sentry's privileges to gain",
                                  "be traceable by the sentry",
                                  "take the memory file",
                                  "take the control file",
                                  "close the sentry's descriptors",
                                  "leave restartable sequences",
                                  "set signal handlers",
                                  "map the stub's code",
                                  "keep the host's clocks"};

// Undoes what the C library registered, since the memory it points at goes away. The kernel wants the length that was
// registered: 32 by the glibc of today, or the feature size.
bool leave_rseq() {
    if (__rseq_size == 0) return true;
    auto* area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
    for (unsigned length : {32U, static_cast<unsigned>(__rseq_size)}) {
        if (syscall(SYS_rseq, area, length, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0) return true;
    }
    return false;
}

bool set_signals() {
    const uint64_t all = ~uint64_t{0};
    if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, sizeof(all)) != 0) return false;
    for (int signo = 1; signo <= 64; ++signo) {
        if (signo == SIGKILL || signo == SIGSTOP) continue;
        KernelSigaction action{};
        if ((handled_signals() >> (signo - 1) & 1) != 0) {
            action.handler = stub_address(casemate_stub_handler);
            action.flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART | kSaRestorer;
            action.restorer = action.handler;
            action.mask = all;
        }
        if (syscall(SYS_rt_sigaction, signo, &action, nullptr, sizeof(all)) != 0) return false;
    }
    return true;
}

struct TemplateInputs {
    int memory_file;
    int control_file;
    pid_t parent;
    const StubImage* image;
};

// Everything up to the jump; false at the first step that fails.
// SAFETY: runs in the forked child of a single-threaded process; system calls only.
bool prepare_template(const TemplateInputs& inputs, int& step) {
    step = 1;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != inputs.parent) return false;
    step = 2;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
    step = 3;
    if (prctl(PR_SET_DUMPABLE, 1) != 0) return false;
    prctl(PR_SET_NAME, "casemate-stub");
    // No core files of guest memory; as many listeners as the host allows.
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    rlimit files{};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    step = 4;
    const int memory_file = fcntl(inputs.memory_file, F_DUPFD, 3);
    const int control_file = fcntl(inputs.control_file, F_DUPFD, 3);
    if (memory_file < 0 || dup2(memory_file, STUB_FD_MEMORY) < 0) return false;
    step = 5;
    if (control_file < 0 || dup2(control_file, STUB_FD_CONTROL) < 0) return false;
    step = 6;
    if (syscall(SYS_close_range, STUB_FD_CONTROL + 1, ~0U, 0) != 0) return false;
    step = 7;
    if (!leave_rseq()) return false;
    step = 8;
    if (!set_signals()) return false;
    return true;
}

// A copy of the stub's code, anywhere.
void* map_code(const StubImage& image) {
    void* code = mmap(nullptr, image.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) return nullptr;
    std::memcpy(code, image.data(), image.size());
    return mprotect(code, image.size(), PROT_READ | PROT_EXEC) == 0 ? code : nullptr;
}

[[noreturn]] void run_template(const TemplateInputs& inputs) {
    // The order page first: failures are told through it.
    void* const page =
        mmap(nullptr, STUB_TEMPLATE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, inputs.control_file,
             static_cast<off_t>(ControlArea::offset(ControlArea::kTemplateBlock) + STUB_TEMPLATE - STUB_BLOCK_BASE));
    if (page == MAP_FAILED) _exit(1);
    auto* order = static_cast<SpawnOrder*>(page);
    bool prepared = prepare_template(inputs, order->step);
    void* first = nullptr;
    void* second = nullptr;
    if (prepared) {
        order->step = 9;
        first = map_code(*inputs.image);
        second = map_code(*inputs.image);
        prepared = first != nullptr && second != nullptr;
    }
    if (prepared) {
        order->step = 10;
        prepared = take_host_vdso_aside(*order);
    }
    if (!prepared) {
        order->ready.store(errno != 0 ? -errno : -EIO);
        wake_word(&order->ready);
        _exit(1);
    }
    // SAFETY: a complete copy of the stub's code, whose entry takes these arguments; it needs nothing of this program.
    reinterpret_cast<void (*)(void*, void*)>(first)(second, page);
    __builtin_unreachable();
}

SpawnOrder& template_order(ControlArea& control) {
    return *control.block(ControlArea::kTemplateBlock).at<SpawnOrder>(STUB_TEMPLATE);
}

}  // namespace

void OwnedProcess::kill() const {
    if (pidfd_) syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
}

bool OwnedProcess::is_dead() const {
    pollfd entry{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
    return poll(&entry, 1, 0) != 0;
}

void OwnedProcess::end() {
    if (!pidfd_) return;
    kill();
    siginfo_t info;
    while (waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED) != 0 && errno == EINTR) {
    }
    pidfd_.reset();
}

Result<TemplateProcess> TemplateProcess::create(ControlArea& control, int memory_file) {
    const StubImage image = build_stub_image();
    const TemplateInputs inputs{memory_file, control.fd(), getpid(), &image};
    SpawnOrder& order = template_order(control);
    const pid_t pid = fork();
    if (pid < 0) return sys_error("fork the stub template");
    if (pid == 0) run_template(inputs);

    UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (!pidfd) return sys_error("open the stub template's pidfd");
    TemplateProcess result;
    result.process_ = OwnedProcess(pid, std::move(pidfd));
    const auto ready = await_word(order.ready, [&] { return result.process_.is_dead(); });
    if (!ready) return Error("the stub template died while it set itself up", EIO);
    if (*ready < 0) {
        const size_t step = static_cast<size_t>(order.step);
        return sys_error(std::string("stub template: cannot ") + (step < std::size(kSteps) ? kSteps[step] : "start"),
                         -*ready);
    }
    result.clocks_ = find_host_clocks(order.clock_image);
    return result;
}

SysResult<OwnedProcess> TemplateProcess::spawn(ControlArea& control, uint32_t block) {
    SpawnOrder& order = template_order(control);
    order.ready.store(0);
    order.child.store(0);
    order.parent = getpid();
    order.block = ControlArea::offset(block);
    order.sequence.fetch_add(1, std::memory_order_release);
    wake_word(&order.sequence);
    const auto ready = await_word(order.ready, [&] {
        if (process_.is_dead()) return true;
        const pid_t child = order.child.load();
        siginfo_t info{};
        return child > 0 && waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
               info.si_pid == child;
    });
    if (ready && *ready < 0) return Errno(-*ready);
    const pid_t child = order.child.load();
    if (child <= 0) return Errno(EIO);
    UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
    if (!pidfd) {
        const Errno error = last_errno();
        ::kill(child, SIGKILL);
        siginfo_t info{};
        waitid(P_PID, static_cast<id_t>(child), &info, WEXITED);
        return error;
    }
    OwnedProcess process(child, std::move(pidfd));
    if (!ready || *ready != STUB_FD_MAP_LISTENER) return Errno(EIO);
    return process;
}

}  // namespace casemate::sentry::seccomp
