// The serial port's two ends on the event loop. Neither waits: output goes where poll(2) says that a pipe's or
// terminal's buffer has room, and the port drops what the reader does not take in time.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "linux/event_fds.h"
#include "vmm/machine.h"

namespace casemate::vmm {

namespace {

// What poll(2) promises room for.
constexpr size_t kPiece = 4096;

bool writable_now(int fd) {
    pollfd poll = {fd, POLLOUT, 0};
    return ::poll(&poll, 1, 0) == 1;
}

}  // namespace

Result<void> Machine::connect_serial(int input, int output) {
    serial_input_ = input;
    serial_output_ = output;
    auto event = linux::create_eventfd();
    if (!event.ok()) return sys_error("eventfd of the serial port", event.error().value);
    serial_event_ = event.take_value();
    auto watched = loop_.watch(serial_event_.get(), EPOLLIN, [this](uint32_t) {
        linux::drain_eventfd(serial_event_.get());
        write_serial_output();
        if (serial_wants_input_.exchange(false)) read_serial_input();
    });
    if (!watched.ok()) return sys_error("watch the serial port", watched.error().value);
    if (input < 0) return {};
    // A file cannot be watched (EPERM): it is the port's emptiness that asks for more then.
    serial_input_watched_ = loop_.watch(input, EPOLLIN, [this](uint32_t) { read_serial_input(); }).ok();
    if (!serial_input_watched_) read_serial_input();
    return {};
}

void Machine::write_serial_output() {
    while (true) {
        if (serial_pending_.empty()) serial_pending_ = serial_->take_output();
        if (serial_pending_.empty()) break;
        if (serial_output_ < 0) {
            serial_pending_.clear();
            continue;
        }
        if (!writable_now(serial_output_)) {
            if (!serial_waits_)
                serial_waits_ = loop_.watch(serial_output_, EPOLLOUT, [this](uint32_t) { write_serial_output(); }).ok();
            return;
        }
        ssize_t written = ::write(serial_output_, serial_pending_.data(), std::min(serial_pending_.size(), kPiece));
        if (written < 0 && (errno == EINTR || errno == EAGAIN)) return;
        if (written < 0) {
            // Nobody reads any more: the guest goes on without.
            if (serial_waits_) loop_.remove(serial_output_);
            serial_waits_ = false;
            serial_output_ = -1;
            continue;
        }
        serial_pending_.erase(0, static_cast<size_t>(written));
    }
    if (serial_waits_) loop_.remove(serial_output_);
    serial_waits_ = false;
}

void Machine::flush_serial() { write_serial_output(); }

void Machine::read_serial_input() {
    if (serial_typed_.empty() && serial_input_ >= 0) {
        pollfd poll = {serial_input_, POLLIN, 0};
        if (::poll(&poll, 1, 0) == 1) {
            char bytes[Serial::kInputLimit];
            ssize_t got = ::read(serial_input_, bytes, sizeof bytes);
            if (got > 0) {
                serial_typed_.assign(bytes, static_cast<size_t>(got));
            } else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
                if (serial_input_watched_) loop_.remove(serial_input_);
                serial_input_watched_ = false;
                serial_input_ = -1;
            }
        }
    }
    serial_typed_.erase(0, serial_->give_input(serial_typed_));
    if (serial_input_watched_) (void)loop_.change(serial_input_, serial_typed_.empty() ? uint32_t{EPOLLIN} : 0);
}

}  // namespace casemate::vmm
