// A 16550 serial port, for debugging: the console of guests whose drivers do not run yet.
//
// What the guest writes is kept up to kOutputLimit bytes until the reader takes it; more is dropped and counted, so a
// guest can neither fill the host's memory nor be held up by a slow reader. Input waits here up to the size of the
// hardware's FIFO; the caller keeps the rest. Registers are guest-controlled in every order (serial_fuzz.cc).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace casemate::vmm {

class Serial {
  public:
    static constexpr size_t kOutputLimit = 64 << 10;
    static constexpr size_t kInputLimit = 64;
    // FIFO, line and modem control: writing them has no effect but on later accesses.
    static constexpr unsigned kFirstSettings = 2, kSettings = 3;

    // Called with the lock held, from any thread; they must not call back.
    struct Wires {
        std::function<void()> interrupt;     // a new reason for an interrupt
        std::function<void()> output_ready;  // there is output where there was none
        std::function<void()> input_wanted;  // the input FIFO has become empty
    };
    explicit Serial(Wires wires) : wires_(std::move(wires)) {}

    uint8_t read(unsigned offset);  // 0 to 7
    void write(unsigned offset, uint8_t value);

    std::string take_output();
    // How many bytes were taken.
    size_t give_input(std::string_view bytes);
    uint64_t dropped() const;

    // The registers, for snapshots. Input and output that wait here are not part of it.
    struct State {
        uint8_t interrupt_enable = 0, fifo_control = 0, line_control = 0, modem_control = 0, scratch = 0;
        uint8_t divisor_low = 12, divisor_high = 0;
        uint8_t transmit_pending = 0;  // the guest has not yet been told that it may write
    };
    State state() const;
    // An interrupt that was due at the snapshot is raised again.
    void restore(const State& state);

  private:
    bool divisor_selected() const { return (state_.line_control & 0x80) != 0; }
    bool loops() const { return (state_.modem_control & 0x10) != 0; }
    uint8_t interrupt_reason_locked() const;
    void interrupt_locked();
    void transmit_locked(uint8_t byte);

    Wires wires_;
    mutable std::mutex lock_;
    State state_;  // guarded by lock_, as everything below
    std::deque<char> input_;
    std::string output_;
    uint64_t dropped_ = 0;
};

}  // namespace casemate::vmm
