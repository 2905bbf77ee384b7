// Terminal: the two ends of a pty and the line discipline between them (Linux's N_TTY).
//
// What the master writes is input: edited line by line in canonical mode, turned into signals for the foreground group
// (ISIG), echoed. What the slave writes is output: post-processed (OPOST) and read by the master. Both queues are
// bounded. Session, foreground group and the controlling relation live in ControllingTerminal (kernel/session.h).
//
// Locks: TaskSet::mutex is never taken with mutex_ held; signals are sent after it is released.
#pragma once

#include <sys/ioctl.h>

#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "sentry/kernel/session.h"
#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

class Kernel;
class Task;

// struct termios of the kernel's TCGETS (glibc's is longer).
struct KernelTermios {
    uint32_t input = 0, output = 0, control = 0, local = 0;
    uint8_t line = 0;
    uint8_t characters[19] = {};
};
static_assert(sizeof(KernelTermios) == 36);
KernelTermios default_termios();

class Terminal final : public ControllingTerminal {
  public:
    Terminal(Kernel& kernel, uint32_t number);

    Kernel& kernel;
    const uint32_t number;  // of /dev/pts/N
    WaitQueue master_waiters, slave_waiters;

    // Each moves what it can now. `would_block`: nothing could be moved; `hung_up`: the other side is gone.
    struct Outcome {
        size_t bytes = 0;
        bool would_block = false;
        bool hung_up = false;
    };
    Outcome master_read(std::span<std::byte> into);
    Outcome master_write(std::span<const std::byte> from);
    Outcome slave_read(std::span<std::byte> into);
    Outcome slave_write(std::span<const std::byte> from);
    // Non-canonical reads wait for VMIN bytes or VTIME tenths of a second.
    struct ReadRule {
        bool canonical = true;
        size_t least = 1;
        int tenths = 0;
    };
    ReadRule read_rule();
    size_t slave_bytes_ready();
    size_t output_bytes();

    uint32_t poll_master();
    uint32_t poll_slave();

    KernelTermios termios();
    void set_termios(const KernelTermios& now, bool flush_input);
    winsize window();
    void set_window(const winsize& size);  // SIGWINCH to the foreground group when it changed
    void flush(bool input, bool output);
    void set_stopped(bool stopped);  // XOFF, XON
    void set_packet_mode(bool on);
    bool packet_mode();
    void set_locked(bool locked);
    bool locked();
    void set_exclusive(bool exclusive);
    bool exclusive();

    void slave_opened();
    void slave_closed();
    void master_closed();  // SIGHUP and SIGCONT to the session

    void signal_foreground(int signo);
    void session_ended() override;
    uint64_t device_number() const override;

  private:
    // All with mutex_ held. A signal that input asked for is left in `signals_` for the caller to send.
    void input_byte(unsigned char c);
    void canonical_byte(unsigned char c);
    void echo(unsigned char c);
    void erase_one();
    void output_byte(unsigned char c);
    void emit(std::string_view text);
    bool input_ready() const;
    size_t pending_input() const;
    void send_signals(std::unique_lock<std::mutex>& lock);

    std::mutex mutex_;
    KernelTermios termios_;  // guarded by mutex_, as is all below
    winsize window_{};
    std::deque<std::string> lines_;  // canonical: finished lines; an empty one is end-of-file
    std::string editing_;            // canonical: the line being typed
    std::string raw_;                // non-canonical input
    std::string output_;             // for the master
    std::string signals_;            // to be sent to the foreground group
    uint32_t column_ = 0;
    uint32_t slaves_ = 0;
    bool slave_was_open_ = false;
    bool master_open_ = true;
    bool stopped_ = false, locked_ = true, packet_ = false, exclusive_ = false, hung_up_ = false;
    bool literal_next_ = false;
};

}  // namespace casemate::sentry
