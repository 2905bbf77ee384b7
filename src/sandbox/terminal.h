// Terminals of the host, as the outer end of a guest's terminal.
//
// The line discipline, job control and window size that a program sees are the guest kernel's own pty. What is outside
// only carries bytes: either the caller's own terminal in raw mode, handed to the guest kernel as it is, or the slave
// of a host pty in raw mode whose master goes to whoever supervises the container (--console-socket).
#pragma once

#include <termios.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::sandbox {

struct TerminalSize {
    uint32_t rows = 0;
    uint32_t columns = 0;
    friend bool operator==(const TerminalSize&, const TerminalSize&) = default;
};

struct HostPty {
    UniqueFd master;
    UniqueFd slave;  // in raw mode
    static Result<HostPty> create(TerminalSize size);
};

// Empty if `fd` is no terminal.
std::optional<TerminalSize> terminal_size(int fd);

// Sends the master to the Unix socket at `path`, as runc does.
Result<void> send_console(const std::string& path, int master);

// A terminal in raw mode for as long as this lives.
class RawTerminal {
  public:
    static Result<RawTerminal> create(int fd);
    RawTerminal(RawTerminal&& other) noexcept : fd_(std::exchange(other.fd_, -1)), saved_(other.saved_) {}
    RawTerminal& operator=(RawTerminal&&) = delete;
    ~RawTerminal();

  private:
    RawTerminal(int fd, const termios& saved) : fd_(fd), saved_(saved) {}
    int fd_;  // borrowed
    termios saved_;
};

// The caller's terminal as one descriptor for both ways, with an open file description of its own (so that flags set on
// it do not reach the caller's shell): the first of the descriptors 0, 1 and 2 that is a terminal, else /dev/tty.
Result<UniqueFd> open_callers_terminal();

}  // namespace casemate::sandbox
