#include "sentry/ipc/ipc_state.h"

#include <fmt/format.h>

#include "sentry/ipc/mqueue.h"
#include "sentry/kernel/namespaces.h"

namespace casemate::sentry {

IpcState::IpcState() : segments(make_ref<SegmentTable>(kMostSegments)), posix_queues_(MqueueFileSystem::create()) {}

IpcState::~IpcState() {
    // Segments and their table hold each other; queues and their file system too.
    for (auto& segment : segments->table.all()) segment->remove();
    posix_queues_->dissolve();
}

Ref<IpcState> ipc_of(Task& task) {
    IpcNamespace& space = *task.namespaces().ipc;
    std::lock_guard lock(space.mutex);
    if (!space.state) space.state = Ref<RefCounted>(make_ref<IpcState>());
    // SAFETY: nobody else hangs anything on an IPC namespace.
    return Ref<IpcState>(static_cast<IpcState*>(space.state.get()));
}

std::string IpcState::shm_text() {
    std::string text =
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      "
        "dtime      ctime                   rss                  swap\n";
    for (auto& segment : segments->table.all()) {
        std::lock_guard lock(segment->mutex);
        IpcPermissions owner = segment->permissions_locked();
        Ref<Pid> last = segment->last_user();
        text +=
            fmt::format("{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}\n",
                        owner.key, segment->id(), owner.mode, segment->size(), segment->creator->number(),
                        last ? last->number() : 0, segment->attached(), owner.uid, owner.gid, owner.cuid, owner.cgid,
                        segment->attach_time.load(), segment->detach_time.load(), segment->change_time.load(), 0, 0);
    }
    return text;
}

std::string IpcState::sem_text() {
    std::string text = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n";
    for (auto& set : semaphores.all()) {
        std::lock_guard lock(set->mutex);
        IpcPermissions owner = set->permissions_locked();
        text += fmt::format("{:10} {:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}\n", owner.key, set->id(),
                            owner.mode, set->count(), owner.uid, owner.gid, owner.cuid, owner.cgid,
                            set->operation_time.load(), set->change_time.load());
    }
    return text;
}

std::string IpcState::msg_text() {
    std::string text =
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime  "
        "    ctime\n";
    for (auto& queue : queues.all()) {
        std::lock_guard lock(queue->mutex);
        IpcPermissions owner = queue->permissions_locked();
        MessageQueue::Status status = queue->status_locked();
        text += fmt::format("{:10} {:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}\n",
                            owner.key, queue->id(), owner.mode, status.bytes, status.messages,
                            status.last_sender ? status.last_sender->number() : 0,
                            status.last_receiver ? status.last_receiver->number() : 0, owner.uid, owner.gid, owner.cuid,
                            owner.cgid, status.send_time, status.receive_time, status.change_time);
    }
    return text;
}

}  // namespace casemate::sentry
