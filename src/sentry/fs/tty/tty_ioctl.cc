// ioctls of terminals: settings, window size, sessions and foreground groups (tty_ioctl(4)).
#include <asm/ioctls.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>

#include <cstring>

#include "sentry/fs/tty/pts_files.h"
#include "sentry/fs/tty/tty_file.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"

namespace casemate::sentry {
namespace {

// struct termios2 of TCGETS2: the same with two speeds behind.
struct KernelTermios2 {
    KernelTermios base;
    uint32_t input_speed = 38400, output_speed = 38400;
};

// A background process may not change a terminal's state: SIGTTOU unless ignored or blocked.
SysResult<void> check_change(Task& task, Terminal& terminal) {
    Process& process = task.process();
    std::lock_guard lock(task.kernel().tasks().mutex);
    if (!process.session || process.session->terminal.get() != &terminal || !terminal.foreground ||
        process.group == terminal.foreground)
        return {};
    bool ignored;
    {
        std::lock_guard signals(process.signal_mutex);
        std::lock_guard handlers(process.handlers->mutex);
        ignored = process.handlers->actions[SIGTTOU].handler == reinterpret_cast<uint64_t>(SIG_IGN);
    }
    if (ignored || (task.signal_mask() & signal_bit(SIGTTOU))) return {};
    if (task.kernel().tasks().group_is_orphaned_locked(*process.group, nullptr)) return Errno(EIO);
    send_to_group_locked(*process.group, kernel_signal(SIGTTOU));
    return Errno(kRestartSys);
}

// The waiting variants do not wait: a pty has no line to drain, output counts as sent (as on Linux).
SysResult<int64_t> set_termios(Task& task, Terminal& terminal, uint64_t argument, bool flush, bool second) {
    TRY(check_change(task, terminal));
    KernelTermios now;
    if (second)
        now = TRY(task.read(UserPtr<KernelTermios2>(argument))).base;
    else
        now = TRY(task.read(UserPtr<KernelTermios>(argument)));
    terminal.set_termios(now, flush);
    return 0;
}

SysResult<int64_t> take_controlling(Task& task, Terminal& terminal, bool steal) {
    Process& process = task.process();
    std::lock_guard lock(task.kernel().tasks().mutex);
    Session* session = process.session.get();
    if (session == nullptr || session->leader != &process) return Errno(EPERM);
    if (session->terminal.get() == &terminal) return 0;
    if (session->terminal) return Errno(EPERM);
    if (terminal.session != nullptr) {
        if (!steal || !task.has_capability(CAP_SYS_ADMIN)) return Errno(EPERM);
        Session* loser = terminal.session;
        terminal.session = nullptr;
        loser->terminal.reset();
    }
    session->terminal = Ref<ControllingTerminal>(&terminal);
    terminal.session = session;
    terminal.foreground = process.group;
    return 0;
}

SysResult<int64_t> give_up_controlling(Task& task, Terminal& terminal) {
    Process& process = task.process();
    std::lock_guard lock(task.kernel().tasks().mutex);
    Session* session = process.session.get();
    if (session == nullptr || session->terminal.get() != &terminal) return Errno(ENOTTY);
    if (session->leader != &process) return 0;
    Ref<Pid> group = terminal.foreground;
    terminal.session = nullptr;
    terminal.foreground.reset();
    session->terminal.reset();
    if (group) {
        send_to_group_locked(*group, kernel_signal(SIGHUP));
        send_to_group_locked(*group, kernel_signal(SIGCONT));
    }
    return 0;
}

SysResult<int64_t> get_foreground(Task& task, Terminal& terminal, bool master, uint64_t argument) {
    int32_t number = 0;
    {
        std::lock_guard lock(task.kernel().tasks().mutex);
        Process& process = task.process();
        if (!master && (!process.session || process.session->terminal.get() != &terminal)) return Errno(ENOTTY);
        if (terminal.foreground) number = terminal.foreground->number_in(task.pid_namespace());
    }
    TRY(task.write(UserPtr<int32_t>(argument), number));
    return 0;
}

SysResult<int64_t> set_foreground(Task& task, Terminal& terminal, uint64_t argument) {
    auto change = check_change(task, terminal);
    if (!change.ok()) return change.error().value == EIO ? Errno(ENOTTY) : change.take_error();
    int32_t number = TRY(task.read(UserPtr<int32_t>(argument)));
    if (number < 0) return Errno(EINVAL);
    TaskSet& tasks = task.kernel().tasks();
    std::lock_guard lock(tasks.mutex);
    Process& process = task.process();
    if (!process.session || process.session->terminal.get() != &terminal) return Errno(ENOTTY);
    Pid* group = tasks.find_pid_locked(task.pid_namespace(), number);
    if (group == nullptr || group->group_members.empty()) return Errno(ESRCH);
    if (group->group_members.front()->session != process.session) return Errno(EPERM);
    terminal.foreground = Ref<Pid>(group);
    return 0;
}

SysResult<int64_t> get_session(Task& task, Terminal& terminal, bool master, uint64_t argument) {
    int32_t number = 0;
    {
        std::lock_guard lock(task.kernel().tasks().mutex);
        if (!master && (!task.process().session || task.process().session->terminal.get() != &terminal))
            return Errno(ENOTTY);
        if (terminal.session == nullptr) return Errno(ENOTTY);
        number = terminal.session->id->number_in(task.pid_namespace());
    }
    TRY(task.write(UserPtr<int32_t>(argument), number));
    return 0;
}

SysResult<int64_t> control_flow(Task& task, Terminal& terminal, uint64_t action) {
    TRY(check_change(task, terminal));
    switch (action) {
        case 0:
            terminal.set_stopped(true);
            return 0;  // TCOOFF
        case 1:
            terminal.set_stopped(false);
            return 0;  // TCOON
        case 2:        // TCIOFF, TCION: the master is told by STOP and START
        case 3: {
            std::byte c{terminal.termios().characters[action == 2 ? 9 : 8]};
            static_cast<void>(terminal.slave_write({&c, 1}));
            return 0;
        }
        default:
            return Errno(EINVAL);
    }
}

}  // namespace

std::optional<SysResult<int64_t>> terminal_ioctl(Task& task, Terminal& terminal, bool master, uint64_t command,
                                                 uint64_t argument) {
    using R = SysResult<int64_t>;
    auto give = [&](auto value) -> R {
        TRY(task.write(UserPtr<decltype(value)>(argument), value));
        return 0;
    };
    auto take_int = [&] { return task.read(UserPtr<int32_t>(argument)); };
    switch (static_cast<uint32_t>(command)) {
        case TCGETS:
            return give(terminal.termios());
        case TCSETS:
            return set_termios(task, terminal, argument, false, false);
        case TCSETSW:
            return set_termios(task, terminal, argument, false, false);
        case TCSETSF:
            return set_termios(task, terminal, argument, true, false);
        case 0x802c542a /* TCGETS2 */:
            return give(KernelTermios2{terminal.termios()});
        case 0x402c542b /* TCSETS2 */:
            return set_termios(task, terminal, argument, false, true);
        case 0x402c542c /* TCSETSW2 */:
            return set_termios(task, terminal, argument, false, true);
        case 0x402c542d /* TCSETSF2 */:
            return set_termios(task, terminal, argument, true, true);
        case TIOCGWINSZ:
            return give(terminal.window());
        case TIOCSWINSZ: {
            auto size = task.read(UserPtr<winsize>(argument));
            if (!size.ok()) return R(size.take_error());
            terminal.set_window(*size);
            return R(0);
        }
        case FIONREAD:
            return give(static_cast<int32_t>(master ? terminal.output_bytes() : terminal.slave_bytes_ready()));
        case TIOCOUTQ:
            return give(static_cast<int32_t>(master ? terminal.slave_bytes_ready() : 0));
        case TCFLSH:
            if (argument > 2) return R(Errno(EINVAL));
            // Seen from the other end, input is output.
            terminal.flush(master ? argument != 0 : argument != 1, master ? argument != 1 : argument != 0);
            return R(0);
        case TCXONC:
            return control_flow(task, terminal, argument);
        case TCSBRK:
        case TCSBRKP:
            return R(0);
        case TIOCGPGRP:
            return get_foreground(task, terminal, master, argument);
        case TIOCSPGRP:
            return set_foreground(task, terminal, argument);
        case TIOCGSID:
            return get_session(task, terminal, master, argument);
        case TIOCSCTTY:
            return take_controlling(task, terminal, argument == 1);
        case TIOCNOTTY:
            return give_up_controlling(task, terminal);
        case TIOCEXCL:
            terminal.set_exclusive(true);
            return R(0);
        case TIOCNXCL:
            terminal.set_exclusive(false);
            return R(0);
        case TIOCGEXCL:
            return give(static_cast<int32_t>(terminal.exclusive()));
        case TIOCGETD:
            return give(int32_t{0});  // N_TTY
        case TIOCSETD: {
            auto line = take_int();
            if (!line.ok()) return R(line.take_error());
            return *line == 0 ? R(0) : R(Errno(EINVAL));
        }
        case TIOCSTI:
            return R(Errno(EIO));  // as Linux with dev.tty.legacy_tiocsti = 0
        default:
            break;
    }
    if (!master) return std::nullopt;
    switch (static_cast<uint32_t>(command)) {
        case TIOCGPTN:
            return give(terminal.number);
        case TIOCSPTLCK: {
            auto locked = take_int();
            if (!locked.ok()) return R(locked.take_error());
            terminal.set_locked(*locked != 0);
            return R(0);
        }
        case TIOCGPTLCK:
            return give(static_cast<int32_t>(terminal.locked()));
        case TIOCPKT: {
            auto on = take_int();
            if (!on.ok()) return R(on.take_error());
            terminal.set_packet_mode(*on != 0);
            return R(0);
        }
        case TIOCGPKT:
            return give(static_cast<int32_t>(terminal.packet_mode()));
        case TIOCSIG: {
            if (argument < 1 || argument > 64) return R(Errno(EINVAL));
            terminal.signal_foreground(static_cast<int>(argument));
            return R(0);
        }
        default:
            return std::nullopt;
    }
}

}  // namespace casemate::sentry
