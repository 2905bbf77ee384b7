// HostStream: a host descriptor given to the pod as a standard stream (pipe, socket, terminal, file).
//
// The descriptor is shared with processes of the host, so its flags are not ours to change. Reads and writes never
// block in the host: readiness is asked first, and waiting is done in the task's own way, woken by HostPoller's thread,
// so that signals get through.
#pragma once

#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "base/unique_fd.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

class HostStream;

// One thread that waits for all streams of the pod at once. Made before the jail; outlives the streams.
class HostPoller {
  public:
    static SysResult<std::unique_ptr<HostPoller>> create();
    ~HostPoller();

    // 0: the descriptor cannot be waited for (a regular file, /dev/null).
    uint64_t add(int fd, WaitQueue& queue);
    // From now on the queue is notified when one of `events` holds, once for each event.
    void watch(uint64_t id, uint32_t events);
    void remove(uint64_t id);

  private:
    struct Watch {
        int fd;
        WaitQueue* queue;
        uint32_t armed;
    };
    HostPoller() = default;
    void run();
    void arm_locked(uint64_t id, const Watch& watch);
    UniqueFd epoll_, stop_;
    std::mutex mutex_;
    std::unordered_map<uint64_t, Watch> watches_;  // guarded by mutex_
    uint64_t last_id_ = 0;                         // guarded by mutex_
    std::thread thread_;
};

class HostStream final : public File {
  public:
    // `path`: what /proc/PID/fd and stat show it as; may be empty if `name` is not.
    static SysResult<Ref<HostStream>> create(HostPoller& poller, UniqueFd fd, Path path, int flags, std::string name);
    ~HostStream() override;

    int fd() const { return fd_.get(); }
    bool terminal() const { return terminal_; }
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override;
    SysResult<int64_t> seek(Task& task, int64_t offset, int whence) override;
    SysResult<void> stat(Task& task, struct stat& out) override;
    SysResult<void> sync(Task& task, bool data_only) override;
    SysResult<void> truncate(Task& task, int64_t size) override;
    uint32_t poll_events(Task* task) override;
    WaitQueue* waiters() override { return pollable_ ? &waiters_ : nullptr; }
    bool seekable() const override { return false; }
    std::string link_name(Task& task) override;

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;
    SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t& offset, bool append) override;

  private:
    HostStream(HostPoller& poller, UniqueFd fd, Path path, int flags, std::string name);
    uint32_t ready_now() const;
    SysResult<size_t> read_once(IoBuffer& into);
    SysResult<size_t> write_once(IoBuffer& from);

    HostPoller& poller_;
    const UniqueFd fd_;
    const std::string name_;
    bool regular_ = false, terminal_ = false, pollable_ = false;
    uint64_t id_ = 0;
    WaitQueue waiters_;
};

}  // namespace casemate::sentry
