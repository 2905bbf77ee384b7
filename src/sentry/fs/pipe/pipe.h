// Pipes and FIFOs: a bounded byte queue with readers and writers.
//
// Writes of up to PIPE_BUF bytes are atomic. The buffer grows on demand up to the capacity (64 KiB, F_SETPIPE_SZ up to
// 1 MiB), so that an idle pipe costs little. O_DIRECT (packet mode) keeps the borders of writes.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>

#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/splice.h"

namespace casemate::sentry {

class Kernel;
struct Credentials;

class Pipe final : public RefCounted {
  public:
    static constexpr size_t kDefaultCapacity = 65536;
    static constexpr size_t kMaxCapacity = 1 << 20;
    static constexpr size_t kAtomic = 4096;  // PIPE_BUF

    WaitQueue waiters;  // readers, writers, openers of a FIFO, pollers

    // All of these lock by themselves. Transfers move what they can at once.
    struct Outcome {
        size_t bytes = 0;
        bool would_block = false;
        bool hung_up = false;  // reading: no writers and empty; writing: no readers
        int error = 0;
    };
    Outcome read(IoBuffer& into);
    // `done`: bytes of this write already moved; an atomic write goes in whole or not at all.
    Outcome write(IoBuffer& from, bool packet);
    size_t peek(std::span<std::byte> into);
    void consume(size_t size);

    size_t bytes();
    size_t capacity();
    SysResult<size_t> set_capacity(uint64_t size);
    uint32_t poll(bool reader, bool writer);

    // FIFOs: opening counts ends; the generations tell a blocked opener that the other end came (and perhaps went).
    void open_end(bool reader, bool writer);
    void close_end(bool reader, bool writer);
    uint64_t reader_generation();
    uint64_t writer_generation();
    uint32_t readers();
    uint32_t writers();

  private:
    void reserve_locked(size_t size);
    void drop_locked(size_t size);

    std::mutex mutex_;
    std::unique_ptr<std::byte[]> ring_;  // guarded by mutex_, as is all below
    size_t allocated_ = 0, head_ = 0, size_ = 0;
    size_t capacity_ = kDefaultCapacity;
    std::deque<size_t> packets_;  // sizes of what lies in the ring, in packet mode; else empty
    uint32_t readers_ = 0, writers_ = 0;
    uint64_t reader_generation_ = 0, writer_generation_ = 0;
};

class PipeFile final : public File, public PipeAccess {
  public:
    // Counts itself as an end of the pipe, by its access mode.
    PipeFile(Path path, int flags, Ref<Pipe> pipe);
    ~PipeFile() override;

    SysResult<int64_t> seek(Task&, int64_t, int) override { return Errno(ESPIPE); }
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override;
    SysResult<int64_t> control(Task& task, int command, uint64_t argument) override;
    uint32_t poll_events(Task* task) override;
    WaitQueue* waiters() override { return &pipe_->waiters; }
    bool seekable() const override { return false; }
    PipeAccess* pipe_access() override { return this; }

    SysResult<size_t> peek(Task& task, std::span<std::byte> into, bool nonblocking) override;
    void consume(size_t size) override { pipe_->consume(size); }
    SysResult<size_t> push(Task& task, std::span<const std::byte> from, bool nonblocking) override;
    const void* pipe() const override { return pipe_.get(); }

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;
    SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t& offset, bool append) override;

  private:
    SysResult<size_t> write_all(Task& task, IoBuffer& from, bool nonblocking);
    Ref<Pipe> pipe_;
};

// pipe2(2): the reading and the writing end. `flags`: O_NONBLOCK, O_DIRECT.
struct PipeEnds {
    Ref<File> reader, writer;
};
PipeEnds make_pipe(Kernel& kernel, const Credentials& owner, int flags);

}  // namespace casemate::sentry
