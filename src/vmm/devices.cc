#include "vmm/devices.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>

#include "linux/event_fds.h"
#include "linux/unix_message.h"
#include "virtio/block.h"
#include "virtio/console.h"
#include "virtio/fs.h"
#include "virtio/fuse_link.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"

namespace casemate::vmm {

namespace {

// The parent answers at once or is gone; a guest waits at most that long for either.
constexpr int kBrokerMilliseconds = 2000;

Result<UniqueFd> duplicate(int fd, const char* what) {
    auto copy = linux::duplicate_fd(fd);
    if (!copy.ok()) return sys_error(fmt::format("dup of the {}", what), copy.error().value);
    return copy.take_value();
}

SysResult<UniqueFd> ask_broker(int broker, uint32_t port) {
    std::string_view request(reinterpret_cast<const char*>(&port), sizeof port);
    TRY(linux::send_message(broker, request));
    pollfd poll = {broker, POLLIN, 0};
    if (::poll(&poll, 1, kBrokerMilliseconds) != 1) return Errno(ETIMEDOUT);
    int32_t error = EIO;
    auto answer = TRY(linux::receive_message(broker, std::as_writable_bytes(std::span(&error, 1)), 1, MSG_DONTWAIT));
    if (answer.size != sizeof error || (error == 0) != (answer.fds.size() == 1)) return Errno(ECONNREFUSED);
    if (error != 0) return Errno(error);
    return std::move(answer.fds[0]);
}

}  // namespace

Result<void> add_devices(const MonitorOptions& options, Machine& machine) {
    virtio::DeviceLoop& loop = machine.device_loop();
    if (options.virtio_console)
        TRY(machine.add_device(
            std::make_unique<virtio::ConsoleDevice>(loop, options.serial_input, options.serial_output)));
    TRY(machine.add_device(std::make_unique<virtio::RngDevice>(loop)));
    for (const MonitorOptions::Disk& disk : options.disks) {
        virtio::BlockDevice::Options block;
        block.read_only = disk.read_only;
        block.operations.per_second = disk.operations;
        block.bytes.per_second = disk.bytes;
        UniqueFd file = TRY(duplicate(disk.fd, "disk"));
        TRY(machine.add_device(TRY(virtio::BlockDevice::create(loop, std::move(file), "the disk", std::move(block)))));
    }
    for (const MonitorOptions::Net& net : options.nets) {
        virtio::NetDevice::Options card;
        card.tap = TRY(duplicate(net.tap, "tap"));
        for (size_t i = 0; i < card.mac.size(); ++i) card.mac[i] = static_cast<uint8_t>(net.mac >> (8 * (5 - i)));
        TRY(machine.add_device(std::make_unique<virtio::NetDevice>(loop, std::move(card))));
    }
    for (const MonitorOptions::Share& share : options.shares) {
        auto link = std::make_unique<virtio::FuseLink>(TRY(duplicate(share.socket, "shared directory's socket")));
        TRY(machine.add_device(TRY(virtio::FsDevice::create(loop, share.tag, std::move(link)))));
    }
    if (options.vsock_listener >= 0) {
        virtio::VsockDevice::Options vsock;
        vsock.guest_cid = options.vsock_cid;
        vsock.listener = TRY(duplicate(options.vsock_listener, "vsock's socket"));
        vsock.connect = [broker = options.vsock_broker, path = options.vsock_path](uint32_t port) {
            return broker >= 0 ? ask_broker(broker, port) : virtio::connect_vsock_port(path, port);
        };
        TRY(machine.add_device(std::make_unique<virtio::VsockDevice>(loop, std::move(vsock))));
    }
    return {};
}

void answer_vsock_broker(int broker, const std::string& path) {
    while (true) {
        uint32_t port = 0;
        auto request = linux::receive_message(broker, std::as_writable_bytes(std::span(&port, 1)), 0, MSG_DONTWAIT);
        if (!request.ok() || request->size != sizeof port) return;
        auto socket = virtio::connect_vsock_port(path, port);
        int32_t error = socket.ok() ? 0 : socket.error().value;
        std::string_view answer(reinterpret_cast<const char*>(&error), sizeof error);
        if (socket.ok())
            (void)linux::send_message(broker, answer, {socket->get()});
        else
            (void)linux::send_message(broker, answer);
    }
}

}  // namespace casemate::vmm
