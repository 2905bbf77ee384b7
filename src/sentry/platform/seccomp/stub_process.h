// A stub process: the host process of one guest address space, with its cloner, its map thread and its application
// threads.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/seccomp/control_area.h"
#include "sentry/platform/seccomp/host_thread.h"
#include "sentry/platform/seccomp/listener.h"
#include "sentry/platform/seccomp/signal_frame.h"
#include "sentry/platform/seccomp/template_process.h"

namespace casemate::sentry::seccomp {

class StubProcess {
  public:
    // Takes over a process just spawned. The block stays the caller's.
    static SysResult<std::unique_ptr<StubProcess>> create(OwnedProcess process, uint32_t block_index, Block block,
                                                          const FrameLayout& layout, CallPoller& poller);

    SysResult<void> apply(std::span<const MapOrder> orders);
    // A thread in its initial state, parked or new. It stays owned by this object.
    SysResult<HostThread*> take_thread();
    void park_thread(HostThread* thread);

    CallSites& sites() { return sites_; }
    SysResult<size_t> transfer(bool write, uint64_t address, std::byte* local, size_t size);

    // Unmaps everything of the application's. False: this process cannot be used again.
    bool clear();
    void kill() { process_.kill(); }
    pid_t pid() const { return process_.pid(); }
    uint32_t block_index() const { return block_index_; }
    bool is_dead() const { return process_.is_dead(); }
    bool has_taken_threads() const { return taken_ != 0; }

  private:
    StubProcess(OwnedProcess process, uint32_t block_index, Block block, const FrameLayout& layout,
                Listener map_listener, CallPoller& poller);
    struct PassedFds;

    SysResult<HostThread*> create_thread_locked();
    // Lets the map thread do the first `count` entries. How many succeeded; errno of the next in `error`.
    SysResult<size_t> run_batch_locked(size_t count, int& error);
    SysResult<void> apply_some_locked(std::span<const MapOrder>& orders);
    // Sends the descriptors, and tells the entry that receives them and the numbers that they get.
    SysResult<void> pass_locked(PassedFds& passed, BatchEntry& receipt);

    // Lock order: this is a leaf, below everything of the sentry's.
    std::mutex mutex_;
    OwnedProcess process_;
    const uint32_t block_index_;
    const Block block_;
    const FrameLayout& layout_;
    Listener map_listener_;
    UniqueFd socket_;  // the other end of STUB_FD_SOCKET
    CallPoller& poller_;
    CallSites sites_;
    uint64_t map_notification_ = 0;
    std::vector<std::unique_ptr<HostThread>> threads_;
    std::vector<HostThread*> parked_;
    size_t taken_ = 0;
};

}  // namespace casemate::sentry::seccomp
