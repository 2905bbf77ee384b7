// ptrace(2): the tracer's requests. The tracee's side is kernel/task_trace.cc.
#include "sentry/syscalls/ptrace.h"

#include <elf.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/ptrace.h>
#include <sys/reg.h>
#include <sys/uio.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/permissions.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"
#include "sentry/kernel/tracing.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
                              PTRACE_O_TRACEEXEC | PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXIT |
                              PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL;
constexpr uint16_t kUserCs = 0x33, kUserSs = 0x2b;
constexpr uint64_t kUserFlags = 0x50dd5;  // what a program may set
// Of the FXSAVE area and what follows it: where the features of the image are told, and its header.
constexpr size_t kSoftwareBytes = 464, kLegacySize = 512, kFeaturesInSoftwareBytes = 8;
constexpr uint64_t kStatusReserved = 0xffff0ff0;  // bits of DR6 that are 1
constexpr int kGetRegs = 12, kSetRegs = 13, kGetFpRegs = 14, kSetFpRegs = 15, kArchPrctl = 30, kSysEmu = 31;
constexpr int kSysEmuSingleStep = 32;

// A tracee that is stopped for its tracer: nobody else touches its registers while this lives.
class StoppedTask {
  public:
    // ESRCH: not the caller's, or not stopped.
    static SysResult<StoppedTask> hold(Task& tracer, Task& tracee) {
        std::unique_lock all(tracer.kernel().tasks().mutex);
        std::unique_lock lock(tracee.process().signal_mutex);
        Tracing& tracing = tracee.parts().tracing;
        if (tracing.tracer.load(std::memory_order_relaxed) != &tracer) return Errno(ESRCH);
        if (!tracing.stopped || tracing.listening) return Errno(ESRCH);
        return StoppedTask(tracee, std::move(lock));
    }
    Tracing& tracing() { return task_->parts().tracing; }
    Registers& registers() { return task_->registers(); }
    std::span<std::byte> fp() { return task_->app().fp_state(); }
    Task& task() { return *task_; }
    void go_on(Tracing::Mode mode, int signo) {
        Tracing& t = tracing();
        t.mode = mode;
        t.resume_signal = signo;
        t.stopped = false;
        task_->process().stop_changed.notify_all();
    }

  private:
    StoppedTask(Task& task, std::unique_lock<std::mutex> lock) : task_(&task), lock_(std::move(lock)) {}
    Task* task_;
    std::unique_lock<std::mutex> lock_;
};

// ------------------------------------------------------------------------------------------------------- registers

user_regs_struct to_user(const Registers& r, int64_t original_ax) {
    user_regs_struct u{};
    u.r15 = r.r15, u.r14 = r.r14, u.r13 = r.r13, u.r12 = r.r12, u.rbp = r.bp, u.rbx = r.bx, u.r11 = r.r11;
    u.r10 = r.r10, u.r9 = r.r9, u.r8 = r.r8, u.rax = r.ax, u.rcx = r.cx, u.rdx = r.dx, u.rsi = r.si, u.rdi = r.di;
    u.orig_rax = static_cast<uint64_t>(original_ax);
    u.rip = r.ip, u.eflags = r.flags, u.rsp = r.sp, u.fs_base = r.fs_base, u.gs_base = r.gs_base;
    u.cs = kUserCs;
    u.ss = kUserSs;
    return u;
}

// EIO: a segment base that is no address of an application.
SysResult<void> from_user(const user_regs_struct& u, StoppedTask& stopped) {
    uint64_t top = stopped.task().kernel().platform().max_user_address();
    if (u.fs_base >= top || u.gs_base >= top) return Errno(EIO);
    Registers& r = stopped.registers();
    r.r15 = u.r15, r.r14 = u.r14, r.r13 = u.r13, r.r12 = u.r12, r.bp = u.rbp, r.bx = u.rbx, r.r11 = u.r11;
    r.r10 = u.r10, r.r9 = u.r9, r.r8 = u.r8, r.ax = u.rax, r.cx = u.rcx, r.dx = u.rdx, r.si = u.rsi, r.di = u.rdi;
    r.ip = u.rip, r.sp = u.rsp, r.fs_base = u.fs_base, r.gs_base = u.gs_base;
    r.flags = (r.flags & ~kUserFlags) | (u.eflags & kUserFlags);
    stopped.tracing().original_ax = static_cast<int64_t>(u.orig_rax);
    return {};
}

uint64_t features_of(std::span<const std::byte> fp) {
    uint64_t features;
    std::memcpy(&features, fp.data() + kSoftwareBytes + kFeaturesInSoftwareBytes, sizeof(features));
    return features;
}

// As NT_X86_XSTATE has it: the first of the bytes that are software's tells the features.
std::vector<std::byte> fp_to_user(std::span<const std::byte> fp, size_t size) {
    std::vector<std::byte> image(fp.begin(), fp.begin() + static_cast<ptrdiff_t>(std::min(size, fp.size())));
    uint64_t features = features_of(fp);
    std::memset(image.data() + kSoftwareBytes, 0, kLegacySize - kSoftwareBytes);
    if (size > kLegacySize) std::memcpy(image.data() + kSoftwareBytes, &features, sizeof(features));
    return image;
}

SysResult<void> fp_from_user(std::span<std::byte> fp, std::span<const std::byte> image) {
    uint32_t mxcsr;
    std::memcpy(&mxcsr, image.data() + 24, sizeof(mxcsr));
    if ((mxcsr & ~0xffffu) != 0) return Errno(EINVAL);
    uint64_t present = 0, features = features_of(fp);
    std::memcpy(&present, fp.data() + kLegacySize, sizeof(present));
    if (image.size() > kLegacySize) {
        if (image.size() < kLegacySize + 64) return Errno(EINVAL);
        std::memcpy(&present, image.data() + kLegacySize, sizeof(present));
        if ((present & ~features) != 0) return Errno(EINVAL);
        std::memcpy(fp.data() + kLegacySize + 64, image.data() + kLegacySize + 64,
                    std::min(image.size(), fp.size()) - kLegacySize - 64);
    } else {
        present |= 3;  // x87 and SSE
    }
    std::memcpy(fp.data(), image.data(), kSoftwareBytes);
    std::memcpy(fp.data() + kLegacySize, &present, sizeof(present));
    return {};
}

// PTRACE_GETREGSET and PTRACE_SETREGSET.
SysResult<int64_t> register_set(Task& task, Task& tracee, bool set, uint64_t kind, GuestAddr vector) {
    iovec place = TRY(task.read(UserPtr<iovec>(vector)));
    auto address = reinterpret_cast<GuestAddr>(place.iov_base);
    std::vector<std::byte> image;
    if (set) {
        constexpr size_t kMost = 64 << 10;
        image.resize(std::min(place.iov_len, kMost));
        TRY(task.memory().copy_in(address, image.data(), image.size()));
    }
    {
        StoppedTask stopped = TRY(StoppedTask::hold(task, tracee));
        if (kind == NT_PRSTATUS) {
            user_regs_struct user = to_user(stopped.registers(), stopped.tracing().original_ax);
            if (place.iov_len % 8 != 0) return Errno(EINVAL);
            if (set) {
                std::memcpy(static_cast<void*>(&user), image.data(), std::min(image.size(), sizeof(user)));
                TRY(from_user(user, stopped));
                image.resize(std::min(image.size(), sizeof(user)));
            } else {
                auto* bytes = reinterpret_cast<const std::byte*>(&user);
                image.assign(bytes, bytes + sizeof(user));
            }
        } else if (kind == NT_PRFPREG || kind == NT_X86_XSTATE) {
            size_t size = kind == NT_PRFPREG ? kLegacySize : stopped.fp().size();
            if (set) {
                if (image.size() < size) return Errno(kind == NT_PRFPREG ? EINVAL : EFAULT);
                image.resize(size);
                TRY(fp_from_user(stopped.fp(), image));
            } else {
                image = fp_to_user(stopped.fp(), size);
            }
        } else {
            return Errno(EINVAL);
        }
    }
    if (!set) {
        image.resize(std::min(image.size(), place.iov_len));
        TRY(task.memory().copy_out(address, image.data(), image.size()));
    }
    place.iov_len = image.size();
    TRY(task.write(UserPtr<iovec>(vector), place));
    return 0;
}

// A debug register, by its number. EIO: none; EINVAL: nothing that can be watched.
SysResult<void> set_debug_register(StoppedTask& stopped, size_t i, uint64_t value) {
    constexpr uint64_t kReserved = 0xffffffff'0000fc00;
    constexpr size_t kStatus = 6, kControl = 7;
    uint64_t top = stopped.task().kernel().platform().max_user_address();
    Watchpoints wanted = stopped.tracing().watchpoints;
    if (i < Watchpoints::kCount) {
        if (value >= top) return Errno(EINVAL);
        wanted.address[i] = value;
        TRY(check_watchpoint(wanted, i, top));
    } else if (i == kStatus) {
        wanted.status = value ^ kStatusReserved;
    } else if (i == kControl) {
        wanted.control = value & ~kReserved;
        for (size_t point = 0; point < Watchpoints::kCount; ++point) TRY(check_watchpoint(wanted, point, top));
    } else {
        return Errno(EIO);
    }
    stopped.tracing().watchpoints = wanted;
    return {};
}

uint64_t debug_register(StoppedTask& stopped, size_t i) {
    const Watchpoints& watch = stopped.tracing().watchpoints;
    if (i < Watchpoints::kCount) return watch.address[i];
    return i == 6 ? watch.status ^ kStatusReserved : i == 7 ? watch.control : 0;
}

// PTRACE_PEEKUSER and PTRACE_POKEUSR: struct user by its offsets.
SysResult<int64_t> user_area(Task& task, Task& tracee, bool poke, uint64_t offset, uint64_t value) {
    if (offset % 8 != 0 || offset >= sizeof(struct user)) return Errno(EIO);
    StoppedTask stopped = TRY(StoppedTask::hold(task, tracee));
    user_regs_struct user = to_user(stopped.registers(), stopped.tracing().original_ax);
    uint64_t word = 0;
    if (offset < sizeof(user)) {
        auto* at = reinterpret_cast<std::byte*>(&user) + offset;
        std::memcpy(&word, at, sizeof(word));
        if (poke) {
            std::memcpy(at, &value, sizeof(value));
            TRY(from_user(user, stopped));
            return 0;
        }
    } else if (offset >= offsetof(struct user, u_debugreg)) {
        size_t i = (offset - offsetof(struct user, u_debugreg)) / sizeof(uint64_t);
        if (poke) {
            TRY(set_debug_register(stopped, i, value));
            return 0;
        }
        word = debug_register(stopped, i);
    } else if (poke) {
        return Errno(EIO);
    }
    if (!poke) TRY(task.write(UserPtr<uint64_t>(value), word));
    return 0;
}

SysResult<int64_t> syscall_info(Task& task, Task& tracee, uint64_t size, GuestAddr into) {
    struct Info {
        uint8_t op;
        uint8_t padding[3];
        uint32_t arch;
        uint64_t ip, sp;
        union {
            struct {
                uint64_t number, arguments[6];
            } entry;
            struct {
                int64_t value;
                uint8_t is_error;
            } exit;
            struct {
                uint64_t number, arguments[6];
                uint32_t told;
            } filter;
        };
    } info{};
    size_t known = offsetof(Info, entry);
    {
        StoppedTask stopped = TRY(StoppedTask::hold(task, tracee));
        const Registers& r = stopped.registers();
        info.arch = AUDIT_ARCH_X86_64;
        info.ip = r.ip;
        info.sp = r.sp;
        switch (stopped.tracing().phase) {
            case Tracing::Phase::kNone:
                break;
            case Tracing::Phase::kFilter:
            case Tracing::Phase::kEntry: {
                bool filter = stopped.tracing().phase == Tracing::Phase::kFilter;
                info.op = filter ? PTRACE_SYSCALL_INFO_SECCOMP : PTRACE_SYSCALL_INFO_ENTRY;
                info.entry.number = static_cast<uint64_t>(stopped.tracing().original_ax);
                uint64_t arguments[] = {r.di, r.si, r.dx, r.r10, r.r8, r.r9};
                std::memcpy(info.entry.arguments, arguments, sizeof(arguments));
                known = offsetof(Info, entry) + sizeof(info.entry);
                if (filter) {
                    info.filter.told = static_cast<uint32_t>(stopped.tracing().message);
                    known = offsetof(Info, filter.told) + sizeof(info.filter.told);
                }
                break;
            }
            case Tracing::Phase::kExit:
                info.op = PTRACE_SYSCALL_INFO_EXIT;
                info.exit.value = static_cast<int64_t>(r.ax);
                info.exit.is_error = r.ax >= static_cast<uint64_t>(-4095);
                known = offsetof(Info, exit.is_error) + 1;
                break;
        }
    }
    TRY(task.memory().copy_out(into, &info, std::min(size, known)));
    return static_cast<int64_t>(known);
}

// ---------------------------------------------------------------------------------------------------------- bonds

SysResult<void> may_trace(Task& task, Task& target) {
    if (&task.process() == &target.process()) return Errno(EPERM);
    if (!may_inspect(task, target)) return Errno(EPERM);
    if (target.process().dumpable.load() != 1 && !task.has_capability(CAP_SYS_PTRACE)) return Errno(EPERM);
    return {};
}

SysResult<int64_t> trace_me(Task& task) {
    std::lock_guard lock(task.kernel().tasks().mutex);
    if (is_traced(task)) return Errno(EPERM);
    Process* parent = task.process().parent;
    if (parent == nullptr || parent->zombie) return Errno(EPERM);
    // The thread that made this process, if it is still there.
    Pid* creator = task.process().creator.get();
    Task* tracer = creator != nullptr ? creator->task : nullptr;
    if (tracer == nullptr || &tracer->process() != parent) tracer = parent->leader;
    if (tracer == nullptr || tracer->parts().dead.load() != 0) return Errno(EPERM);
    attach_tracer_locked(*tracer, task, false, 0);
    return 0;
}

SysResult<int64_t> attach(Task& task, Task& target, bool seize, uint64_t options) {
    TRY(may_trace(task, target));
    {
        std::lock_guard lock(task.kernel().tasks().mutex);
        if (target.parts().exiting || is_traced(target)) return Errno(EPERM);
        attach_tracer_locked(task, target, seize, options);
    }
    if (!seize) send_to_task(target, kernel_signal(SIGSTOP), SignalSource::kOutside);
    return 0;
}

SysResult<int64_t> go_on(Task& task, Task& tracee, Tracing::Mode mode, uint64_t signo) {
    if (signo > kSignalCount) return Errno(EIO);
    StoppedTask stopped = TRY(StoppedTask::hold(task, tracee));
    stopped.go_on(mode, static_cast<int>(signo));
    return 0;
}

SysResult<int64_t> detach(Task& task, Task& tracee, uint64_t signo) {
    if (signo > kSignalCount) return Errno(EIO);
    std::lock_guard lock(task.kernel().tasks().mutex);
    {
        std::lock_guard signal_lock(tracee.process().signal_mutex);
        Tracing& tracing = tracee.parts().tracing;
        if (tracing.tracer.load() != &task || !tracing.stopped || tracing.listening) return Errno(ESRCH);
    }
    detach_tracer_locked(tracee, static_cast<int>(signo));
    return 0;
}

// PTRACE_INTERRUPT and PTRACE_LISTEN, of tasks that were seized.
SysResult<int64_t> interrupt(Task& task, Task& tracee, bool listen) {
    std::lock_guard lock(task.kernel().tasks().mutex);
    std::lock_guard signal_lock(tracee.process().signal_mutex);
    Tracing& tracing = tracee.parts().tracing;
    if (tracing.tracer.load() != &task) return Errno(ESRCH);
    if (!tracing.seized) return Errno(EIO);
    if (listen) {
        if (!tracing.stopped) return Errno(ESRCH);
        if (tracing.code >> 8 != PTRACE_EVENT_STOP) return Errno(EIO);
        tracing.listening = true;
        if (!tracing.trap_wanted) return 0;
        // What it listens for came already.
        tracing.stopped = false;
        tracee.process().stop_changed.notify_all();
        return 0;
    }
    if (tracing.stopped && !tracing.listening) return 0;
    tracing.trap_wanted = true;
    if (tracing.listening) tracing.stopped = false;
    tracee.process().stop_changed.notify_all();
    tracee.interrupt();
    return 0;
}

SysResult<int64_t> peek(Task& task, Task& tracee, GuestAddr at, GuestAddr into) {
    TRY(StoppedTask::hold(task, tracee));
    Ref<AddressSpace> memory = tracee.memory_of();
    uint64_t word;
    if (!memory || !memory->copy_in(at, &word, sizeof(word)).ok()) return Errno(EIO);
    TRY(task.write(UserPtr<uint64_t>(into), word));
    return 0;
}

SysResult<int64_t> poke(Task& task, Task& tracee, GuestAddr at, uint64_t word) {
    TRY(StoppedTask::hold(task, tracee));
    Ref<AddressSpace> memory = tracee.memory_of();
    if (!memory || memory->write_by_force(at, &word, sizeof(word)) != sizeof(word)) return Errno(EIO);
    return 0;
}

template <typename T, typename Use>
SysResult<int64_t> tell(Task& task, Task& tracee, GuestAddr into, Use use) {
    T value{};
    {
        StoppedTask stopped = TRY(StoppedTask::hold(task, tracee));
        TRY(use(stopped, value));
    }
    TRY(task.write(UserPtr<T>(into), value));
    return 0;
}

template <typename T, typename Use>
SysResult<int64_t> take(Task& task, Task& tracee, GuestAddr from, Use use) {
    T value = TRY(task.read(UserPtr<T>(from)));
    StoppedTask stopped = TRY(StoppedTask::hold(task, tracee));
    TRY(use(stopped, value));
    return 0;
}

SysResult<int64_t> sys_ptrace(Task& task, const SyscallArgs& args) {
    uint64_t request = args.u64(0), address = args.u64(2), data = args.u64(3);
    if (request == PTRACE_TRACEME) return trace_me(task);
    Ref<Task> found = task.kernel().tasks().find_task(task.pid_namespace(), args.i32(1));
    if (!found) return Errno(ESRCH);
    Task& tracee = *found;
    using Nothing = SysResult<void>;
    switch (request) {
        case PTRACE_ATTACH:
            return attach(task, tracee, false, 0);
        case PTRACE_SEIZE:
            if (address != 0 || (data & ~kOptions) != 0) return Errno(EIO);
            return attach(task, tracee, true, data);
        case PTRACE_INTERRUPT:
            return interrupt(task, tracee, false);
        case PTRACE_LISTEN:
            return interrupt(task, tracee, true);
        case PTRACE_DETACH:
            return detach(task, tracee, data);
        case PTRACE_CONT:
            return go_on(task, tracee, Tracing::Mode::kContinue, data);
        case PTRACE_SYSCALL:
            return go_on(task, tracee, Tracing::Mode::kSyscall, data);
        case PTRACE_SINGLESTEP:
            return go_on(task, tracee, Tracing::Mode::kStep, data);
        case kSysEmu:
            return go_on(task, tracee, Tracing::Mode::kEmulate, data);
        case kSysEmuSingleStep:
            return go_on(task, tracee, Tracing::Mode::kEmulateStep, data);
        case PTRACE_KILL: {
            auto stopped = StoppedTask::hold(task, tracee);
            if (!stopped.ok()) return stopped.error();
            stopped->task().process().begin_group_exit_locked(SIGKILL);
            return 0;
        }
        case PTRACE_PEEKTEXT:
        case PTRACE_PEEKDATA:
            return peek(task, tracee, address, data);
        case PTRACE_POKETEXT:
        case PTRACE_POKEDATA:
            return poke(task, tracee, address, data);
        case PTRACE_PEEKUSR:
            return user_area(task, tracee, false, address, data);
        case PTRACE_POKEUSR:
            return user_area(task, tracee, true, address, data);
        case kGetRegs:
            return tell<user_regs_struct>(task, tracee, data,
                                          [](StoppedTask& stopped, user_regs_struct& user) -> Nothing {
                                              user = to_user(stopped.registers(), stopped.tracing().original_ax);
                                              return {};
                                          });
        case kSetRegs:
            return take<user_regs_struct>(task, tracee, data, [](StoppedTask& stopped, const user_regs_struct& user) {
                return from_user(user, stopped);
            });
        case kGetFpRegs:
            return tell<user_fpregs_struct>(
                task, tracee, data, [](StoppedTask& stopped, user_fpregs_struct& user) -> Nothing {
                    std::memcpy(static_cast<void*>(&user), fp_to_user(stopped.fp(), sizeof(user)).data(), sizeof(user));
                    return {};
                });
        case kSetFpRegs:
            return take<user_fpregs_struct>(task, tracee, data,
                                            [](StoppedTask& stopped, const user_fpregs_struct& user) {
                                                return fp_from_user(stopped.fp(), std::as_bytes(std::span(&user, 1)));
                                            });
        case PTRACE_GETREGSET:
        case PTRACE_SETREGSET:
            return register_set(task, tracee, request == PTRACE_SETREGSET, address, data);
        case PTRACE_SETOPTIONS: {
            if ((data & ~kOptions) != 0) return Errno(EINVAL);
            StoppedTask stopped = TRY(StoppedTask::hold(task, tracee));
            stopped.tracing().options = data;
            return 0;
        }
        case PTRACE_GETEVENTMSG:
            return tell<uint64_t>(task, tracee, data, [](StoppedTask& stopped, uint64_t& message) -> Nothing {
                message = stopped.tracing().message;
                return {};
            });
        case PTRACE_GETSIGINFO:
            return tell<siginfo_t>(task, tracee, data, [](StoppedTask& stopped, siginfo_t& info) -> Nothing {
                if (!stopped.tracing().has_info) return Errno(EINVAL);
                info = stopped.tracing().info;
                return {};
            });
        case PTRACE_SETSIGINFO:
            return take<siginfo_t>(task, tracee, data, [](StoppedTask& stopped, const siginfo_t& info) -> Nothing {
                if (!stopped.tracing().has_info) return Errno(EINVAL);
                stopped.tracing().info = info;
                return {};
            });
        case PTRACE_GETSIGMASK:
            if (address != sizeof(SignalSet)) return Errno(EINVAL);
            return tell<SignalSet>(task, tracee, data, [](StoppedTask& stopped, SignalSet& mask) -> Nothing {
                Task::Parts& parts = stopped.task().parts();
                mask = parts.saved_mask ? *parts.saved_mask : parts.blocked;
                return {};
            });
        case PTRACE_SETSIGMASK:
            if (address != sizeof(SignalSet)) return Errno(EINVAL);
            return take<SignalSet>(task, tracee, data, [](StoppedTask& stopped, SignalSet mask) -> Nothing {
                Task::Parts& parts = stopped.task().parts();
                parts.saved_mask.reset();
                parts.blocked = mask & ~kUnblockable;
                look_at_signals_locked(stopped.task());
                return {};
            });
        case PTRACE_GET_SYSCALL_INFO:
            return syscall_info(task, tracee, address, data);
        case kArchPrctl: {
            constexpr uint64_t kSetGs = 0x1001, kSetFs = 0x1002, kGetFs = 0x1003, kGetGs = 0x1004;
            if (data == kGetFs || data == kGetGs)
                return tell<uint64_t>(task, tracee, address, [&](StoppedTask& stopped, uint64_t& base) -> Nothing {
                    base = data == kGetFs ? stopped.registers().fs_base : stopped.registers().gs_base;
                    return {};
                });
            if (data != kSetFs && data != kSetGs) return Errno(EINVAL);
            if (address >= task.kernel().platform().max_user_address()) return Errno(EPERM);
            StoppedTask stopped = TRY(StoppedTask::hold(task, tracee));
            (data == kSetFs ? stopped.registers().fs_base : stopped.registers().gs_base) = address;
            return 0;
        }
        default: {
            // Unknown ones are an error of the caller's who may make them.
            StoppedTask stopped = TRY(StoppedTask::hold(task, tracee));
            return Errno(EIO);
        }
    }
}

constexpr SyscallRow kRows[] = {
    {101, "ptrace", sys_ptrace, Support::kPartial, "no watchpoints on reading, block steps or checkpoints of filters"},
};

}  // namespace

std::span<const SyscallRow> ptrace_syscalls() { return kRows; }

}  // namespace casemate::sentry
