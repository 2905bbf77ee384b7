// IpcState: what an IPC namespace holds: System V segments, semaphores and queues, and the POSIX queues' file system.
#pragma once

#include "sentry/ipc/ipc_object.h"
#include "sentry/ipc/message_queue.h"
#include "sentry/ipc/semaphores.h"
#include "sentry/ipc/shared_segment.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {

class MqueueFileSystem;

class IpcState final : public RefCounted {
  public:
    IpcState();
    ~IpcState() override;

    static constexpr size_t kMostSegments = 4096;  // kernel.shmmni
    static constexpr size_t kMostSets = 32000;     // kernel.sem's last
    static constexpr size_t kMostQueues = 4096;    // kernel.msgmni; their bytes are the sentry's memory

    // Shared with the segments: the last detach takes a removed one out, whoever holds the namespace.
    const Ref<SegmentTable> segments;
    IpcTable<SemaphoreSet> semaphores{kMostSets};
    const Ref<SemaphoreCount> semaphore_total = make_ref<SemaphoreCount>();
    IpcTable<MessageQueue> queues{kMostQueues};
    MqueueFileSystem& posix_queues() { return *posix_queues_; }

    // The texts of /proc/sysvipc/{shm,sem,msg}.
    std::string shm_text();
    std::string sem_text();
    std::string msg_text();

  private:
    Ref<MqueueFileSystem> posix_queues_;
};

// Of the task's IPC namespace; made when first asked for.
Ref<IpcState> ipc_of(Task& task);

}  // namespace casemate::sentry
