#include "sandbox/terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "linux/unix_message.h"
#include "linux/unix_socket.h"

namespace casemate::sandbox {

Result<HostPty> HostPty::create(TerminalSize size) {
    HostPty pty;
    pty.master.reset(::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!pty.master) return sys_error("open /dev/ptmx");
    int unlock = 0;
    if (ioctl(pty.master.get(), TIOCSPTLCK, &unlock) != 0) return sys_error("unlock a pseudoterminal");
    pty.slave.reset(ioctl(pty.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!pty.slave) return sys_error("open the slave of a pseudoterminal");
    termios settings;
    if (tcgetattr(pty.slave.get(), &settings) != 0) return sys_error("tcgetattr of a pseudoterminal");
    cfmakeraw(&settings);
    if (tcsetattr(pty.slave.get(), TCSANOW, &settings) != 0) return sys_error("tcsetattr of a pseudoterminal");
    if (size.rows != 0 || size.columns != 0) {
        winsize window = {};
        window.ws_row = static_cast<unsigned short>(size.rows);
        window.ws_col = static_cast<unsigned short>(size.columns);
        ioctl(pty.master.get(), TIOCSWINSZ, &window);
    }
    return pty;
}

std::optional<TerminalSize> terminal_size(int fd) {
    winsize window = {};
    if (ioctl(fd, TIOCGWINSZ, &window) != 0) return std::nullopt;
    return TerminalSize{window.ws_row, window.ws_col};
}

Result<void> send_console(const std::string& path, int master) {
    auto socket = linux::connect_unix(path);
    if (!socket.ok()) return sys_error("connect to the console socket " + path, socket.error().value);
    auto sent = linux::send_message(socket->get(), "/dev/ptmx", {master});
    if (!sent.ok()) return sys_error("send the terminal to the console socket " + path, sent.error().value);
    return {};
}

Result<RawTerminal> RawTerminal::create(int fd) {
    termios saved;
    if (tcgetattr(fd, &saved) != 0) return sys_error("tcgetattr of the terminal");
    termios raw = saved;
    cfmakeraw(&raw);
    if (tcsetattr(fd, TCSANOW, &raw) != 0) return sys_error("tcsetattr of the terminal");
    return RawTerminal(fd, saved);
}

RawTerminal::~RawTerminal() {
    if (fd_ >= 0) tcsetattr(fd_, TCSADRAIN, &saved_);
}

Result<UniqueFd> open_callers_terminal() {
    for (int fd = 0; fd < 3; ++fd) {
        if (isatty(fd) == 0) continue;
        std::string path = "/proc/self/fd/" + std::to_string(fd);
        UniqueFd terminal(::open(path.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
        if (terminal) return terminal;
    }
    UniqueFd terminal(::open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!terminal) return Error("a terminal is asked for, but the command has none", ENOTTY);
    return terminal;
}

}  // namespace casemate::sandbox
