#include "virtio/console.h"

#include <linux/virtio_console.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace casemate::virtio {

ConsoleDevice::ConsoleDevice(DeviceLoop& loop, int input, int output)
    : Device(loop),
      input_(input),
      output_(output),
      input_watch_(loop, mutex(), [this](uint32_t) { receive(); }),
      output_watch_(loop, mutex(), [this](uint32_t) { transmit(); }) {
    input_watch_.set_fd(input);
    output_watch_.set_fd(output);
}

ConsoleDevice::~ConsoleDevice() = default;

void ConsoleDevice::resize(uint16_t columns, uint16_t rows) {
    std::lock_guard lock(mutex());
    columns_ = columns;
    rows_ = rows;
    config_changed();
}

void ConsoleDevice::read_config(uint32_t offset, std::span<uint8_t> into) {
    virtio_console_config config{};
    config.cols = columns_;
    config.rows = rows_;
    config.max_nr_ports = 1;
    copy_config(&config, sizeof(config), offset, into);
}

void ConsoleDevice::save(StateWriter& writer) const {
    writer.number(columns_);
    writer.number(rows_);
    writer.number(skip_);
}

SysResult<void> ConsoleDevice::restore(StateReader& reader) {
    columns_ = TRY(reader.number<uint16_t>());
    rows_ = TRY(reader.number<uint16_t>());
    skip_ = TRY(reader.number<uint32_t>());
    return {};
}

void ConsoleDevice::on_activate() { input_ended_ = false; }

void ConsoleDevice::let_go() {
    input_watch_.want(0);
    output_watch_.want(0);
}

void ConsoleDevice::on_reset() {
    let_go();
    has_current_ = false;
    consumed_ = skip_ = 0;
    current_ = Chain();
}

void ConsoleDevice::on_quiesce() {
    let_go();
    if (!has_current_) return;
    queue(kTransmit).undo_pop(current_);
    skip_ = consumed_;
    has_current_ = false;
}

void ConsoleDevice::on_notify(uint16_t index) {
    if (index == kReceive)
        receive();
    else
        transmit();
}

void ConsoleDevice::receive() {
    Queue& buffers = queue(kReceive);
    if (!working() || input_ < 0 || input_ended_) return input_watch_.want(0);
    // Once: what is left in the descriptor reports again.
    if (!pop(kReceive, chain_)) {
        if (working() && buffers.enable_notifications() && pop(kReceive, chain_)) {
            // offered meanwhile
        } else {
            return input_watch_.want(0);
        }
    }
    if (input_watch_.wanted() == 0 && !input_watch_.always_ready()) {
        // Perhaps a blocking descriptor: not before poll says that there is something.
        buffers.undo_pop(chain_);
        return input_watch_.want(EPOLLIN);
    }
    parts_.clear();
    chain_.writable.take(kBytesPerWrite, parts_);
    ssize_t got =
        parts_.empty() ? 0 : ::readv(input_, parts_.data(), static_cast<int>(std::min<size_t>(parts_.size(), IOV_MAX)));
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        buffers.undo_pop(chain_);
        return input_watch_.want(EPOLLIN);
    }
    if (parts_.empty()) {
        buffers.push(chain_, 0);  // the guest's buffer has no room: that is no end of input
        return publish(kReceive);
    }
    if (got <= 0) {
        buffers.undo_pop(chain_);
        input_ended_ = true;
        return input_watch_.want(0);
    }
    buffers.push(chain_, static_cast<uint32_t>(got));
    publish(kReceive);
    if (input_watch_.always_ready()) input_watch_.want(EPOLLIN);
}

void ConsoleDevice::transmit() {
    Queue& requests = queue(kTransmit);
    if (!working()) return output_watch_.want(0);
    for (int i = 0; i < kWritesPerTurn; ++i) {
        if (!has_current_) {
            if (!pop(kTransmit, current_)) {
                publish(kTransmit);
                if (working() && requests.enable_notifications()) continue;
                return output_watch_.want(0);
            }
            has_current_ = true;
            consumed_ = static_cast<uint32_t>(current_.readable.skip(skip_));
            skip_ = 0;
        }
        size_t left = current_.readable.remaining();
        if (left > 0 && output_ >= 0) {
            parts_.clear();
            ChainBuffer rest = current_.readable;  // advanced by what is really written
            rest.take(kBytesPerWrite, parts_);
            ssize_t put = ::writev(output_, parts_.data(), static_cast<int>(std::min<size_t>(parts_.size(), IOV_MAX)));
            if (put < 0 && (errno == EAGAIN || errno == EINTR)) {
                publish(kTransmit);
                return output_watch_.want(EPOLLOUT);
            }
            // Nobody listens any more: as if written.
            size_t done = put < 0 ? left : static_cast<size_t>(put);
            current_.readable.skip(done);
            consumed_ += static_cast<uint32_t>(done);
            if (current_.readable.remaining() > 0) {
                publish(kTransmit);
                return output_watch_.want(EPOLLOUT);
            }
        }
        requests.push(current_, 0);
        has_current_ = false;
        consumed_ = 0;
    }
    publish(kTransmit);
    notify_again(kTransmit);
}

}  // namespace casemate::virtio
