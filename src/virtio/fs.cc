#include "virtio/fs.h"

#include <linux/virtio_fs.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace casemate::virtio {

namespace {

bool without_reply(uint32_t opcode) {
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

}  // namespace

Result<std::unique_ptr<FsDevice>> FsDevice::create(DeviceLoop& loop, const std::string& tag, FuseHandler& handler) {
    if (tag.empty() || tag.size() > kTagBytes || tag.find('\0') != std::string::npos)
        return Error("virtio-fs: the tag \"" + tag + "\" must have 1 to 36 bytes", EINVAL);
    return std::unique_ptr<FsDevice>(new FsDevice(loop, tag, handler));
}

Result<std::unique_ptr<FsDevice>> FsDevice::create(DeviceLoop& loop, const std::string& tag,
                                                   std::unique_ptr<FuseHandler> handler) {
    auto device = TRY(create(loop, tag, *handler));
    device->owned_ = std::move(handler);
    return device;
}

FsDevice::FsDevice(DeviceLoop& loop, const std::string& tag, FuseHandler& handler)
    : Device(loop), tag_(tag), handler_(handler), slots_(kQueueSize) {
    handler_.attach(
        loop, mutex(), [this](uint16_t slot, int error, uint32_t bytes) { done(slot, error, bytes); },
        [this] { notify(kRequests); });
}

FsDevice::~FsDevice() { handler_.forget_all(); }

void FsDevice::read_config(uint32_t offset, std::span<uint8_t> into) {
    virtio_fs_config config{};
    std::memcpy(config.tag, tag_.data(), tag_.size());
    config.num_request_queues = 1;
    copy_config(&config, sizeof(config), offset, into);
}

void FsDevice::save(StateWriter& writer) const {
    if (active()) handler_.save(writer);
}

SysResult<void> FsDevice::restore(StateReader& reader) {
    if (!active()) return {};
    return handler_.restore(reader);
}

void FsDevice::on_activate() { handler_.forget_all(); }

void FsDevice::on_reset() {
    handler_.forget_all();
    for (Slot& slot : slots_)
        if (slot.used) slot = Slot();
}

void FsDevice::on_quiesce() {
    handler_.drain();
    publish(kRequests);
}

void FsDevice::on_notify(uint16_t index) {
    Queue& requests = queue(index);
    requests.disable_notifications();
    batching_ = true;
    for (int i = 0; working(); ++i) {
        if (handler_.full()) break;  // it calls when it has room
        if (i == kRequestsPerTurn) {
            notify_again(index);
            break;
        }
        if (!pop(index, chain_)) {
            if (working() && requests.enable_notifications()) continue;
            break;
        }
        handle(index);
    }
    batching_ = false;
    if (active()) publish(index);
}

void FsDevice::handle(uint16_t index) {
    ChainBuffer& in = chain_.readable;
    ChainBuffer& out = chain_.writable;
    fuse_in_header header;
    size_t length = in.remaining();
    // Who sends no header has no number that a reply could name.
    if (!in.read_all(header)) return queue(index).push(chain_, 0);
    int refused = 0;
    // Its own word for its length, and that of the descriptors, must agree.
    if (header.len != length) refused = EINVAL;
    if (header.opcode >= kOwnFuseOpcodes) refused = ENOSYS;
    if (without_reply(header.opcode)) {
        if (refused == 0) handler_.tell(header, in);
        return queue(index).push(chain_, 0);
    }
    // The queue for urgent messages has none with replies.
    if (index == kHighPriority) refused = EINVAL;
    if (out.remaining() < sizeof(fuse_out_header)) return queue(index).push(chain_, 0);
    if (refused != 0) return queue(index).push(chain_, write_reply(out, header.unique, refused, 0));
    uint16_t number = chain_.head();
    Slot& slot = slots_[number];
    CHECK(!slot.busy);  // the queue lets no head in twice
    std::swap(slot.chain, chain_);
    slot.unique = header.unique;
    slot.busy = slot.used = true;
    slot.chain.writable.skip(sizeof(fuse_out_header));
    handler_.start(number, header, slot.chain.readable, slot.chain.writable);
}

uint32_t FsDevice::write_reply(ChainBuffer& out, uint64_t unique, int error, uint32_t body) {
    out.rewind();
    fuse_out_header header{};
    header.len = static_cast<uint32_t>(sizeof(header)) + (error == 0 ? body : 0);
    header.error = -error;
    header.unique = unique;
    return out.write_all(header) ? header.len : 0;
}

void FsDevice::done(uint16_t number, int error, uint32_t bytes) {
    Slot& slot = slots_[number];
    CHECK(slot.busy && active());
    slot.busy = false;
    queue(kRequests).push(slot.chain, write_reply(slot.chain.writable, slot.unique, error, bytes));
    if (!batching_) publish(kRequests);
}

}  // namespace casemate::virtio
