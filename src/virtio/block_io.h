// How block requests reach a file: io_uring, or plain calls where the host has none (or the caller wants none).
//
// One request is one operation on one range of the file; a slot number comes back when it is done. Not thread-safe:
// under the device's lock.
//
// What goes through a ring no seccomp list sees: so a ring takes these few operations only, and of files only the disk.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/result.h"

struct io_uring;

namespace casemate::virtio {

struct BlockOperation {
    enum class Kind : uint8_t { kRead, kWrite, kFlush, kPunch, kZero };
    Kind kind = Kind::kFlush;
    uint64_t offset = 0;
    uint64_t length = 0;       // of kPunch and kZero
    std::vector<iovec> parts;  // of kRead and kWrite; stays valid until it is done
};

class BlockIo {
  public:
    // `result`: bytes, or a negative errno, as of the system call. May be called from within start() or poll().
    using Done = std::function<void(uint16_t slot, int64_t result)>;

    // Borrows the descriptor. `depth`: operations in flight, and the number of slots.
    static std::unique_ptr<BlockIo> create(int fd, uint16_t depth, bool use_uring, Done done);
    virtual ~BlockIo() = default;

    virtual const char* name() const = 0;
    // Readable when poll() has something to do; -1 if everything is done within start().
    virtual int event_fd() const = 0;
    // Prepares; submit() sends. The operation stays where it is until it is done.
    virtual void start(uint16_t slot, const BlockOperation& operation) = 0;
    virtual void submit() = 0;
    // Reports what is done.
    virtual void poll() = 0;
    // Waits until nothing is in flight.
    virtual void drain() = 0;
};

// Starts a ring that was made with IORING_SETUP_R_DISABLED and binds it, for good, to reads, writes, flushes and
// fallocate of the disk, which is its file 0. False if the kernel cannot (before Linux 5.10).
bool bind_block_ring(io_uring& ring, int disk);

// One attempt at the operation by a plain call: bytes or a negative errno.
int64_t run_block_operation(int fd, const BlockOperation& operation);

}  // namespace casemate::virtio
