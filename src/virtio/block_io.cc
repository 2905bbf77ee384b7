#include "virtio/block_io.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/unique_fd.h"
#include "linux/event_fds.h"

namespace casemate::virtio {

namespace {

constexpr int kPunchMode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZeroMode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

int part_count(const BlockOperation& operation) {
    return static_cast<int>(std::min<size_t>(operation.parts.size(), IOV_MAX));
}

class PlainIo final : public BlockIo {
  public:
    PlainIo(int fd, Done done) : fd_(fd), done_(std::move(done)) {}
    const char* name() const override { return "plain"; }
    int event_fd() const override { return -1; }
    void start(uint16_t slot, const BlockOperation& operation) override {
        done_(slot, run_block_operation(fd_, operation));
    }
    void submit() override {}
    void poll() override {}
    void drain() override {}

  private:
    const int fd_;
    Done done_;
};

class UringIo final : public BlockIo {
  public:
    UringIo(int fd, Done done) : fd_(fd), done_(std::move(done)) {}
    ~UringIo() override {
        if (!ring_made_) return;
        drain();
        ::io_uring_queue_exit(&ring_);
    }
    bool init(uint16_t depth) {
        // Made without life, so that it can be bound before its first operation.
        if (::io_uring_queue_init(depth, &ring_, IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED) != 0) return false;
        ring_made_ = true;
        auto event = linux::create_eventfd();
        if (!event.ok()) return false;
        event_ = std::move(*event);
        return ::io_uring_register_eventfd(&ring_, event_.get()) == 0 && bind_block_ring(ring_, fd_);
    }
    const char* name() const override { return "io_uring"; }
    int event_fd() const override { return event_.get(); }

    void start(uint16_t slot, const BlockOperation& operation) override {
        io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
        if (entry == nullptr) {
            submit();
            entry = ::io_uring_get_sqe(&ring_);
        }
        if (entry == nullptr) return done_(slot, -EBUSY);
        switch (operation.kind) {
            case BlockOperation::Kind::kRead:
                ::io_uring_prep_readv(entry, kDisk, operation.parts.data(),
                                      static_cast<unsigned>(part_count(operation)), operation.offset);
                break;
            case BlockOperation::Kind::kWrite:
                ::io_uring_prep_writev(entry, kDisk, operation.parts.data(),
                                       static_cast<unsigned>(part_count(operation)), operation.offset);
                break;
            case BlockOperation::Kind::kFlush:
                ::io_uring_prep_fsync(entry, kDisk, IORING_FSYNC_DATASYNC);
                break;
            case BlockOperation::Kind::kPunch:
            case BlockOperation::Kind::kZero:
                ::io_uring_prep_fallocate(entry, kDisk,
                                          operation.kind == BlockOperation::Kind::kPunch ? kPunchMode : kZeroMode,
                                          static_cast<off_t>(operation.offset), static_cast<off_t>(operation.length));
                break;
        }
        ::io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
        ::io_uring_sqe_set_data64(entry, slot);
        ++in_flight_;
    }
    void submit() override { ::io_uring_submit(&ring_); }
    void poll() override {
        linux::drain_eventfd(event_.get());
        reap();
    }
    void drain() override {
        while (in_flight_ > 0) {
            ::io_uring_submit_and_wait(&ring_, 1);
            reap();
        }
    }

  private:
    static constexpr int kDisk = 0;  // its number among the ring's files

    void reap() {
        io_uring_cqe* entry;
        while (::io_uring_peek_cqe(&ring_, &entry) == 0) {
            uint16_t slot = static_cast<uint16_t>(::io_uring_cqe_get_data64(entry));
            int64_t result = entry->res;
            ::io_uring_cqe_seen(&ring_, entry);
            --in_flight_;
            done_(slot, result);  // may start the rest of the operation
        }
    }

    const int fd_;
    Done done_;
    io_uring ring_{};
    bool ring_made_ = false;
    UniqueFd event_;
    size_t in_flight_ = 0;
};

}  // namespace

bool bind_block_ring(io_uring& ring, int disk) {
    // Debian's liburing has no symbols for two of these.
    auto call = [&](unsigned request, const void* argument, unsigned count) {
        return ::syscall(SYS_io_uring_register, ring.ring_fd, request, argument, count) == 0;
    };
    io_uring_restriction rules[8] = {};
    unsigned count = 0;
    for (uint8_t operation : {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE})
        rules[count++] = {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = operation, .resv = 0, .resv2 = {}};
    rules[count++] = {
        .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE, .resv = 0, .resv2 = {}};
    rules[count++] = {
        .opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE, .resv = 0, .resv2 = {}};
    return call(IORING_REGISTER_FILES, &disk, 1) && call(IORING_REGISTER_RESTRICTIONS, rules, count) &&
           call(IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
}

int64_t run_block_operation(int fd, const BlockOperation& operation) {
    int64_t result = -1;
    do {
        off_t offset = static_cast<off_t>(operation.offset);
        switch (operation.kind) {
            case BlockOperation::Kind::kRead:
                result = ::preadv(fd, operation.parts.data(), part_count(operation), offset);
                break;
            case BlockOperation::Kind::kWrite:
                result = ::pwritev(fd, operation.parts.data(), part_count(operation), offset);
                break;
            case BlockOperation::Kind::kFlush:
                result = ::fdatasync(fd);
                break;
            case BlockOperation::Kind::kPunch:
                result = ::fallocate(fd, kPunchMode, offset, static_cast<off_t>(operation.length));
                break;
            case BlockOperation::Kind::kZero:
                result = ::fallocate(fd, kZeroMode, offset, static_cast<off_t>(operation.length));
                break;
        }
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

std::unique_ptr<BlockIo> BlockIo::create(int fd, uint16_t depth, bool use_uring, Done done) {
    if (use_uring) {
        auto ring = std::make_unique<UringIo>(fd, done);
        if (ring->init(depth)) return ring;
    }
    return std::make_unique<PlainIo>(fd, std::move(done));
}

}  // namespace casemate::virtio
