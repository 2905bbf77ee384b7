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
constexpr std::chrono::seconds kBrokerPatience{2};

// Between the vsock device and its broker. The answer repeats the question's number: one that comes too late must not
// be taken for that to the next question, or a guest gets the stream of another port.
struct BrokerQuestion {
    uint32_t number;
    uint32_t port;
};
struct BrokerAnswer {
    uint32_t number;
    int32_t error;
};

template <typename T>
std::string_view bytes_of(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
}

}  // namespace

SysResult<UniqueFd> ask_vsock_broker(int broker, uint32_t number, uint32_t port, std::chrono::milliseconds patience) {
    using Clock = std::chrono::steady_clock;
    TRY(linux::send_message(broker, bytes_of(BrokerQuestion{number, port})));
    auto end = Clock::now() + patience;
    while (true) {
        auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
        pollfd poll = {broker, POLLIN, 0};
        if (left.count() <= 0 || ::poll(&poll, 1, static_cast<int>(left.count())) != 1) return Errno(ETIMEDOUT);
        BrokerAnswer answer = {};
        auto got = TRY(linux::receive_message(broker, std::as_writable_bytes(std::span(&answer, 1)), 1, MSG_DONTWAIT));
        if (got.size != sizeof answer) return Errno(ECONNREFUSED);
        if (answer.number != number) continue;
        if ((answer.error == 0) != (got.fds.size() == 1)) return Errno(ECONNREFUSED);
        if (answer.error != 0) return Errno(answer.error);
        return std::move(got.fds[0]);
    }
}

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
        UniqueFd file = TRY(options.owned(disk.fd, "disk"));
        TRY(machine.add_device(TRY(virtio::BlockDevice::create(loop, std::move(file), "the disk", std::move(block)))));
    }
    for (const MonitorOptions::Net& net : options.nets) {
        virtio::NetDevice::Options card;
        card.tap = TRY(options.owned(net.tap, "tap"));
        card.mtu = net.mtu;
        card.receive_frames.per_second = card.transmit_frames.per_second = net.frames;
        card.receive_bytes.per_second = card.transmit_bytes.per_second = net.bytes;
        for (size_t i = 0; i < card.mac.size(); ++i) card.mac[i] = static_cast<uint8_t>(net.mac >> (8 * (5 - i)));
        TRY(machine.add_device(std::make_unique<virtio::NetDevice>(loop, std::move(card))));
    }
    for (const MonitorOptions::Share& share : options.shares) {
        auto link = std::make_unique<virtio::FuseLink>(TRY(options.owned(share.socket, "shared directory's socket")));
        // Not a restored guest's, which is a private copy, nor one that images are mapped into: the file lacks both.
        std::vector<virtio::FuseLink::SharedMemory> parts;
        if (!machine.memory().is_private() && !options.map_images)
            for (const MemoryRegion& region : machine.memory().regions())
                parts.push_back({region.host, region.size, region.file_offset});
        auto shared = link->share_memory(parts.empty() ? -1 : machine.memory().file(), parts);
        if (!shared.ok()) return sys_error("tell casemate-share of the guest's memory", shared.error().value);
        TRY(machine.add_device(TRY(virtio::FsDevice::create(loop, share.tag, std::move(link)))));
    }
    if (options.vsock_listener >= 0) {
        virtio::VsockDevice::Options vsock;
        vsock.guest_cid = options.vsock_cid;
        vsock.listener = TRY(options.owned(options.vsock_listener, "vsock's socket"));
        vsock.connect = [broker = options.vsock_broker, path = options.vsock_path, asked = 0u](uint32_t port) mutable {
            return broker >= 0 ? ask_vsock_broker(broker, ++asked, port, kBrokerPatience)
                               : virtio::connect_vsock_port(path, port);
        };
        TRY(machine.add_device(std::make_unique<virtio::VsockDevice>(loop, std::move(vsock))));
    }
    return {};
}

void answer_vsock_broker(int broker, const std::string& path) {
    while (true) {
        BrokerQuestion question = {};
        auto request = linux::receive_message(broker, std::as_writable_bytes(std::span(&question, 1)), 0, MSG_DONTWAIT);
        if (!request.ok() || request->size != sizeof question) return;
        auto socket = virtio::connect_vsock_port(path, question.port);
        BrokerAnswer answer = {question.number, socket.ok() ? 0 : socket.error().value};
        if (socket.ok())
            (void)linux::send_message(broker, bytes_of(answer), {socket->get()});
        else
            (void)linux::send_message(broker, bytes_of(answer));
    }
}

}  // namespace casemate::vmm
