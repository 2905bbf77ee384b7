// msgget, msgsnd, msgrcv, msgctl.
#include <linux/capability.h>
#include <sys/msg.h>

#include "sentry/ipc/ipc_state.h"
#include "sentry/syscalls/ipc.h"

namespace casemate::sentry {
namespace {

// The kernel's struct msqid64_ds.
struct QueueStatus {
    IpcPermissions permissions;
    int64_t send_time, receive_time, change_time;
    uint64_t bytes, messages, most_bytes;
    int32_t last_sender, last_receiver;
    uint64_t unused[2];
};
static_assert(sizeof(QueueStatus) == 120);

int number_of(Task& task, const Ref<Pid>& pid) { return pid ? pid->number_in(task.pid_namespace()) : 0; }

SysResult<int64_t> sys_msgget(Task& task, const SyscallArgs& args) {
    Ref<IpcState> ipc = ipc_of(task);
    return TRY(ipc->queues.get(
        task, args.i32(0), args.i32(1), [](MessageQueue&) { return SysResult<void>(); },
        []() -> SysResult<Ref<MessageQueue>> { return make_ref<MessageQueue>(); }));
}

SysResult<int64_t> sys_msgsnd(Task& task, const SyscallArgs& args) {
    uint64_t size = args.u64(2);
    MessageQueue::Message message;
    message.type = TRY(task.read(UserPtr<int64_t>(args.u64(1))));
    if (size > MessageQueue::kMostMessage || args.i32(0) < 0 || message.type < 1) return Errno(EINVAL);
    message.text.resize(size);
    TRY(task.memory().copy_in(args.u64(1) + sizeof(int64_t), message.text.data(), size));
    Ref<MessageQueue> queue = ipc_of(task)->queues.find(args.i32(0));
    if (!queue) return Errno(EINVAL);
    TRY(queue->send(task, std::move(message), args.i32(3) & IPC_NOWAIT));
    return 0;
}

SysResult<int64_t> sys_msgrcv(Task& task, const SyscallArgs& args) {
    auto room = args.i64(2);
    int flags = args.i32(4);
    if (args.i32(0) < 0 || room < 0) return Errno(EINVAL);
    if (flags & MSG_COPY) return Errno(ENOSYS);  // as a kernel without CONFIG_CHECKPOINT_RESTORE
    Ref<MessageQueue> queue = ipc_of(task)->queues.find(args.i32(0));
    if (!queue) return Errno(EINVAL);
    auto message = TRY(queue->receive(task, args.i64(3), static_cast<size_t>(room), flags));
    TRY(task.write(UserPtr<int64_t>(args.u64(1)), message.type));
    TRY(task.memory().copy_out(args.u64(1) + sizeof(int64_t), message.text.data(), message.text.size()));
    return static_cast<int64_t>(message.text.size());
}

SysResult<int64_t> msg_info(Task& task, IpcState& ipc, int command, GuestAddr into) {
    msginfo info{};
    info.msgmni = IpcState::kMostQueues;
    info.msgmax = MessageQueue::kMostMessage;
    info.msgmnb = MessageQueue::kMostBytes;
    info.msgssz = 16;
    info.msgseg = 0xffff;
    info.msgmap = info.msgtql = MessageQueue::kMostBytes;
    info.msgpool = IpcState::kMostQueues * MessageQueue::kMostBytes / 1024;
    if (command == MSG_INFO) {
        uint64_t messages = 0, bytes = 0;
        for (auto& queue : ipc.queues.all()) {
            std::lock_guard lock(queue->mutex);
            messages += queue->status_locked().messages;
            bytes += queue->status_locked().bytes;
        }
        info.msgpool = static_cast<int>(ipc.queues.count());
        info.msgmap = static_cast<int>(messages);
        info.msgtql = static_cast<int>(bytes);
    }
    TRY(task.write(UserPtr<msginfo>(into), info));
    return ipc.queues.last_index();
}

SysResult<int64_t> sys_msgctl(Task& task, const SyscallArgs& args) {
    int id = args.i32(0), command = args.i32(1) & ~0x100;  // IPC_64: the only form here
    GuestAddr into = args.u64(2);
    Ref<IpcState> ipc = ipc_of(task);
    if (id < 0 || command < 0) return Errno(EINVAL);
    if (command == IPC_INFO || command == MSG_INFO) return msg_info(task, *ipc, command, into);
    bool by_index = command == MSG_STAT || command == MSG_STAT_ANY;
    Ref<MessageQueue> queue = by_index ? ipc->queues.at(id) : ipc->queues.find(id);
    if (!queue) return Errno(EINVAL);
    const Credentials& credentials = task.credentials();
    switch (command) {
        case IPC_STAT:
        case MSG_STAT:
        case MSG_STAT_ANY: {
            QueueStatus status{};
            {
                std::lock_guard lock(queue->mutex);
                if (queue->removed) return Errno(EIDRM);
                if (command != MSG_STAT_ANY) TRY(queue->check_access_locked(credentials, kIpcRead));
                auto now = queue->status_locked();
                status.permissions = queue->permissions_locked();
                status.send_time = now.send_time;
                status.receive_time = now.receive_time;
                status.change_time = now.change_time;
                status.bytes = now.bytes;
                status.messages = now.messages;
                status.most_bytes = now.most_bytes;
                status.last_sender = number_of(task, now.last_sender);
                status.last_receiver = number_of(task, now.last_receiver);
            }
            TRY(task.write(UserPtr<QueueStatus>(into), status));
            return by_index ? queue->id() : 0;
        }
        case IPC_SET: {
            auto wanted = TRY(task.read(UserPtr<QueueStatus>(into)));
            {
                std::lock_guard lock(queue->mutex);
                TRY(queue->check_owner_locked(credentials));
                // Beyond the usual only with CAP_SYS_RESOURCE, and never without a bound.
                if (wanted.most_bytes > MessageQueue::kMostBytes &&
                    (!credentials.has(CAP_SYS_RESOURCE) || wanted.most_bytes > (1 << 20)))
                    return Errno(EPERM);
                TRY(queue->set_owner_locked(wanted.permissions));
                queue->set_most_bytes_locked(wanted.most_bytes);
                queue->touch_locked();
            }
            queue->changed();
            return 0;
        }
        case IPC_RMID: {
            {
                std::lock_guard lock(queue->mutex);
                TRY(queue->check_owner_locked(credentials));
                queue->remove_locked();
            }
            ipc->queues.remove(*queue);
            queue->changed();
            return 0;
        }
        default:
            return Errno(EINVAL);
    }
}

constexpr SyscallRow kRows[] = {
    {68, "msgget", sys_msgget, Support::kFull},
    {69, "msgsnd", sys_msgsnd, Support::kFull},
    {70, "msgrcv", sys_msgrcv, Support::kPartial, "no MSG_COPY"},
    {71, "msgctl", sys_msgctl, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> msg_syscalls() { return kRows; }

}  // namespace casemate::sentry
