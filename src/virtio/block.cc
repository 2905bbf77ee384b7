#include "virtio/block.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/virtio_blk.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "virtio/io_parts.h"

namespace casemate::virtio {

namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr uint32_t kMaxRangeSectors = 1 << 22;  // 2 GiB in one discard

struct RequestHeader {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

}  // namespace

Result<std::unique_ptr<BlockDevice>> BlockDevice::create(DeviceLoop& loop, UniqueFd file, const std::string& path,
                                                         Options options) {
    struct stat info;
    if (::fstat(file.get(), &info) != 0) return sys_error("disk " + path);
    uint64_t bytes = 0;
    if (S_ISREG(info.st_mode)) {
        bytes = static_cast<uint64_t>(info.st_size);
    } else if (S_ISBLK(info.st_mode)) {
        if (::ioctl(file.get(), BLKGETSIZE64, &bytes) != 0) return sys_error("size of disk " + path);
    } else {
        return Error("disk " + path + ": neither a regular file nor a block device", EINVAL);
    }
    if (bytes < kSectorBytes) return Error("disk " + path + ": smaller than one sector of 512 bytes", EINVAL);
    int mode = ::fcntl(file.get(), F_GETFL);
    if (mode < 0) return sys_error("disk " + path);
    if (!options.read_only && (mode & O_ACCMODE) != O_RDWR)
        return Error("disk " + path + ": not open for writing, and not given as read-only", EACCES);
    if (options.serial.size() > VIRTIO_BLK_ID_BYTES)
        return Error("disk " + path + ": a serial has at most 20 bytes", EINVAL);
    return std::unique_ptr<BlockDevice>(
        new BlockDevice(loop, std::move(file), bytes / kSectorBytes * kSectorBytes, std::move(options)));
}

BlockDevice::BlockDevice(DeviceLoop& loop, UniqueFd file, uint64_t capacity, Options options)
    : Device(loop),
      file_(std::move(file)),
      capacity_(capacity),
      options_(std::move(options)),
      limiter_(options_.operations, options_.bytes),
      slots_(kQueueSize),
      io_(BlockIo::create(file_.get(), kQueueSize, options_.use_uring,
                          [this](uint16_t slot, int64_t result) { done(slot, result); })),
      io_watch_(loop, mutex(), [this](uint32_t) {
          io_->poll();
          io_->submit();
          if (working()) publish(0);
      }) {
    io_watch_.set_fd(io_->event_fd());
    io_watch_.want(EPOLLIN);
}

BlockDevice::~BlockDevice() { io_->drain(); }

uint64_t BlockDevice::features() const {
    uint64_t bits =
        feature_bit(VIRTIO_BLK_F_SEG_MAX) | feature_bit(VIRTIO_BLK_F_BLK_SIZE) | feature_bit(VIRTIO_BLK_F_FLUSH);
    if (options_.read_only) return bits | feature_bit(VIRTIO_BLK_F_RO);
    return bits | feature_bit(VIRTIO_BLK_F_DISCARD) | feature_bit(VIRTIO_BLK_F_WRITE_ZEROES);
}

void BlockDevice::read_config(uint32_t offset, std::span<uint8_t> into) {
    virtio_blk_config config{};
    config.capacity = capacity_ / kSectorBytes;
    config.seg_max = kQueueSize - 2;
    config.blk_size = kSectorBytes;
    config.num_queues = 1;
    config.max_discard_sectors = kMaxRangeSectors;
    config.max_discard_seg = 1;
    config.discard_sector_alignment = 4096 / kSectorBytes;
    config.max_write_zeroes_sectors = kMaxRangeSectors;
    config.max_write_zeroes_seg = 1;
    config.write_zeroes_may_unmap = 1;
    copy_config(&config, sizeof(config), offset, into);
}

void BlockDevice::on_notify(uint16_t) {
    Queue& requests = queue(0);
    requests.disable_notifications();
    for (int i = 0; working(); ++i) {
        auto wait = limiter_.wait();
        if (wait.count() > 0 || i == kRequestsPerTurn) {
            notify_again(0, wait);
            break;
        }
        if (!pop(0, chain_)) {
            if (working() && requests.enable_notifications()) continue;
            break;
        }
        Slot& slot = slots_[chain_.head()];
        CHECK(!slot.busy);  // the queue lets no head in twice
        slot.busy = slot.used = true;
        std::swap(slot.chain, chain_);
        begin(slot);
    }
    io_->submit();
    io_->poll();
    io_->submit();  // the rests of operations that were done in part
    if (active()) publish(0);
}

SysResult<uint64_t> BlockDevice::check_range(uint64_t sector, uint64_t length) const {
    auto offset = checked_mul(sector, kSectorBytes);
    if (!offset || length % kSectorBytes != 0 || *offset > capacity_ || length > capacity_ - *offset) return Errno(EIO);
    return *offset;
}

void BlockDevice::begin(Slot& slot) {
    slot.written = 0;
    slot.operation.parts.clear();
    slot.operation.length = 0;
    ChainBuffer& in = slot.chain.readable;
    ChainBuffer& out = slot.chain.writable;
    slot.status.clear();
    RequestHeader header;
    if (!out.split_tail(1, slot.status) || !in.read_all(header)) return finish(slot, VIRTIO_BLK_S_IOERR);
    limiter_.spend(in.remaining() + out.remaining());
    switch (header.type) {
        case VIRTIO_BLK_T_IN:
        case VIRTIO_BLK_T_OUT: {
            bool write = header.type == VIRTIO_BLK_T_OUT;
            ChainBuffer& data = write ? in : out;
            uint64_t length = data.remaining();
            auto offset = check_range(header.sector, length);
            if (!offset.ok() || (write && options_.read_only)) return finish(slot, VIRTIO_BLK_S_IOERR);
            if (length == 0) return finish(slot, VIRTIO_BLK_S_OK);
            data.take(length, slot.operation.parts);
            slot.operation.kind = write ? BlockOperation::Kind::kWrite : BlockOperation::Kind::kRead;
            slot.operation.offset = *offset;
            slot.left = length;
            break;
        }
        case VIRTIO_BLK_T_FLUSH:
            slot.operation.kind = BlockOperation::Kind::kFlush;
            break;
        case VIRTIO_BLK_T_DISCARD:
        case VIRTIO_BLK_T_WRITE_ZEROES:
            return begin_range(slot, header.type);
        case VIRTIO_BLK_T_GET_ID:
            return get_id(slot);
        default:
            return finish(slot, VIRTIO_BLK_S_UNSUPP);
    }
    io_->start(slot.chain.head(), slot.operation);
}

void BlockDevice::begin_range(Slot& slot, uint64_t type) {
    virtio_blk_discard_write_zeroes range;
    ChainBuffer& in = slot.chain.readable;
    bool zeroes = type == VIRTIO_BLK_T_WRITE_ZEROES;
    if (options_.read_only) return finish(slot, VIRTIO_BLK_S_IOERR);
    if (!in.read_all(range)) return finish(slot, VIRTIO_BLK_S_IOERR);
    // One range, as the configuration says, and no flag but "may unmap" for zeroes.
    uint32_t allowed = zeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
    if (in.remaining() != 0 || (range.flags & ~allowed) != 0 || range.num_sectors > kMaxRangeSectors)
        return finish(slot, VIRTIO_BLK_S_UNSUPP);
    uint64_t length = uint64_t{range.num_sectors} * kSectorBytes;
    auto offset = check_range(range.sector, length);
    if (!offset.ok()) return finish(slot, VIRTIO_BLK_S_IOERR);
    if (length == 0) return finish(slot, VIRTIO_BLK_S_OK);
    slot.operation.kind = zeroes && range.flags == 0 ? BlockOperation::Kind::kZero : BlockOperation::Kind::kPunch;
    slot.operation.offset = *offset;
    slot.operation.length = length;
    io_->start(slot.chain.head(), slot.operation);
}

void BlockDevice::get_id(Slot& slot) {
    char id[VIRTIO_BLK_ID_BYTES] = {};
    std::memcpy(id, options_.serial.data(), options_.serial.size());
    if (slot.chain.writable.remaining() < sizeof(id)) return finish(slot, VIRTIO_BLK_S_IOERR);
    slot.written = static_cast<uint32_t>(slot.chain.writable.write(id, sizeof(id)));
    finish(slot, VIRTIO_BLK_S_OK);
}

void BlockDevice::done(uint16_t number, int64_t result) {
    Slot& slot = slots_[number];
    BlockOperation& operation = slot.operation;
    switch (operation.kind) {
        case BlockOperation::Kind::kRead:
        case BlockOperation::Kind::kWrite: {
            if (result == -EAGAIN && io_->event_fd() >= 0) return io_->start(number, operation);
            // 0: the file ends before the capacity that it had when we opened it.
            if (result <= 0 || static_cast<uint64_t>(result) > slot.left) return finish(slot, VIRTIO_BLK_S_IOERR);
            uint64_t bytes = static_cast<uint64_t>(result);
            if (operation.kind == BlockOperation::Kind::kRead) slot.written += static_cast<uint32_t>(bytes);
            slot.left -= bytes;
            if (slot.left == 0) return finish(slot, VIRTIO_BLK_S_OK);
            operation.offset += bytes;
            advance_parts(operation.parts, bytes);
            return io_->start(number, operation);
        }
        case BlockOperation::Kind::kFlush:
            return finish(slot, result == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
        case BlockOperation::Kind::kZero:
            if (result == -EOPNOTSUPP) {  // tmpfs: a hole reads as zeros, too
                operation.kind = BlockOperation::Kind::kPunch;
                return io_->start(number, operation);
            }
            [[fallthrough]];
        case BlockOperation::Kind::kPunch:
            if (result == -EOPNOTSUPP) return finish(slot, VIRTIO_BLK_S_UNSUPP);
            return finish(slot, result == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
    }
}

void BlockDevice::finish(Slot& slot, uint8_t status) {
    uint32_t written = slot.written + static_cast<uint32_t>(slot.status.write(&status, 1));
    if (active()) queue(0).push(slot.chain, written);
    slot.busy = false;
}

void BlockDevice::on_reset() {
    io_->drain();
    for (Slot& slot : slots_)
        if (slot.used) slot = Slot();
}

void BlockDevice::on_quiesce() {
    io_->drain();
    publish(0);
}

}  // namespace casemate::virtio
