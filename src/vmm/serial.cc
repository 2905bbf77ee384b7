#include "vmm/serial.h"

#include <algorithm>
#include <utility>

namespace casemate::vmm {

namespace {

enum Register {
    kData,
    kInterruptEnable,
    kInterruptId,
    kLineControl,
    kModemControl,
    kLineStatus,
    kModemStatus,
    kScratch
};
constexpr uint8_t kReceiveInterrupt = 1, kTransmitInterrupt = 2;
constexpr uint8_t kNoReason = 1, kTransmitReason = 2, kReceiveReason = 4;
constexpr uint8_t kDataReady = 1, kTransmitEmpty = 0x60;  // holding register and shift register

}  // namespace

uint8_t Serial::interrupt_reason_locked() const {
    if ((state_.interrupt_enable & kReceiveInterrupt) != 0 && !input_.empty()) return kReceiveReason;
    if ((state_.interrupt_enable & kTransmitInterrupt) != 0 && state_.transmit_pending != 0) return kTransmitReason;
    return kNoReason;
}

void Serial::interrupt_locked() {
    if (interrupt_reason_locked() != kNoReason && wires_.interrupt) wires_.interrupt();
}

uint8_t Serial::read(unsigned offset) {
    std::lock_guard guard(lock_);
    switch (offset) {
        case kData: {
            if (divisor_selected()) return state_.divisor_low;
            if (input_.empty()) return 0;
            uint8_t byte = static_cast<uint8_t>(input_.front());
            input_.pop_front();
            if (input_.empty() && wires_.input_wanted) wires_.input_wanted();
            return byte;
        }
        case kInterruptEnable:
            return divisor_selected() ? state_.divisor_high : state_.interrupt_enable;
        case kInterruptId: {
            uint8_t reason = interrupt_reason_locked();
            // Reading this is how the transmitter's interrupt is taken note of.
            if (reason == kTransmitReason) state_.transmit_pending = 0;
            return static_cast<uint8_t>(reason | ((state_.fifo_control & 1) != 0 ? 0xc0 : 0));
        }
        case kLineControl:
            return state_.line_control;
        case kModemControl:
            return state_.modem_control;
        case kLineStatus:
            return static_cast<uint8_t>(kTransmitEmpty | (input_.empty() ? 0 : kDataReady));
        case kModemStatus:
            if (loops())  // RTS, DTR, OUT1, OUT2 come back as CTS, DSR, RI, DCD
                return static_cast<uint8_t>((state_.modem_control & 2) << 3 | (state_.modem_control & 1) << 5 |
                                            (state_.modem_control & 0xc) << 4);
            return 0xb0;  // carrier, ready, clear to send
        default:
            return state_.scratch;
    }
}

void Serial::transmit_locked(uint8_t byte) {
    if (loops()) {
        if (input_.size() < kInputLimit) input_.push_back(static_cast<char>(byte));
    } else if (output_.size() < kOutputLimit) {
        output_.push_back(static_cast<char>(byte));
        if (output_.size() == 1 && wires_.output_ready) wires_.output_ready();
    } else {
        ++dropped_;
    }
    state_.transmit_pending = 1;
    interrupt_locked();
}

void Serial::write(unsigned offset, uint8_t value) {
    std::lock_guard guard(lock_);
    switch (offset) {
        case kData:
            if (divisor_selected())
                state_.divisor_low = value;
            else
                transmit_locked(value);
            break;
        case kInterruptEnable: {
            if (divisor_selected()) {
                state_.divisor_high = value;
                break;
            }
            uint8_t added = static_cast<uint8_t>(value & ~state_.interrupt_enable);
            state_.interrupt_enable = value & 0xf;
            if ((added & kTransmitInterrupt) != 0) state_.transmit_pending = 1;
            if (added != 0) interrupt_locked();
            break;
        }
        case kInterruptId:  // FIFO control
            if ((value & 3) == 3) input_.clear();
            state_.fifo_control = value;
            break;
        case kLineControl:
            state_.line_control = value;
            break;
        case kModemControl:
            state_.modem_control = value & 0x1f;
            break;
        case kScratch:
            state_.scratch = value;
            break;
        default:
            break;
    }
}

std::string Serial::take_output() {
    std::lock_guard guard(lock_);
    return std::exchange(output_, std::string());
}

size_t Serial::give_input(std::string_view bytes) {
    std::lock_guard guard(lock_);
    if (loops()) return 0;
    size_t room = kInputLimit - std::min(kInputLimit, input_.size());
    size_t taken = std::min(room, bytes.size());
    input_.insert(input_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(taken));
    if (taken > 0) interrupt_locked();
    return taken;
}

uint64_t Serial::dropped() const {
    std::lock_guard guard(lock_);
    return dropped_;
}

Serial::State Serial::state() const {
    std::lock_guard guard(lock_);
    return state_;
}

void Serial::restore(const State& state) {
    std::lock_guard guard(lock_);
    state_ = state;
    interrupt_locked();
}

}  // namespace casemate::vmm
