// mq_*: POSIX message queues.
#include <fcntl.h>
#include <mqueue.h>
#include <sys/resource.h>

#include "sentry/ipc/ipc_state.h"
#include "sentry/ipc/mqueue.h"
#include "sentry/syscalls/ipc.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

SysResult<MessageQueueFile*> queue_of(const Ref<File>& file) {
    MessageQueueFile* queue = file->as_message_queue();
    if (queue == nullptr) return Errno(EBADF);
    return queue;
}

// The absolute CLOCK_REALTIME time at `from`. EINVAL.
SysResult<Deadline> deadline_at(Task& task, GuestAddr from) {
    if (from == 0) return Deadline();
    auto time = TRY(task.read(UserPtr<timespec>(from)));
    if (time.tv_sec < 0 || time.tv_nsec < 0 || time.tv_nsec >= kSecond) return Errno(EINVAL);
    Nanoseconds until;
    if (__builtin_mul_overflow(time.tv_sec, kSecond, &until) || __builtin_add_overflow(until, time.tv_nsec, &until) ||
        __builtin_add_overflow(until - realtime_now(), monotonic_now(), &until))
        return Deadline();
    return Deadline(std::max<Nanoseconds>(until, 0));
}

SysResult<int64_t> sys_mq_open(Task& task, const SyscallArgs& args) {
    std::string name = TRY(task.read_path(args.u64(0)));
    int flags = args.i32(1);
    mq_attr attributes{};
    bool given = (flags & O_CREAT) && args.u64(3) != 0;
    if (given) attributes = TRY(task.read(UserPtr<mq_attr>(args.u64(3))));
    Ref<File> file =
        TRY(ipc_of(task)->posix_queues().open_queue(task, name, flags, args.u32(2), given ? &attributes : nullptr));
    return TRY(task.files().insert(std::move(file), flags & O_CLOEXEC, task.limit(RLIMIT_NOFILE)));
}

SysResult<int64_t> sys_mq_unlink(Task& task, const SyscallArgs& args) {
    std::string name = TRY(task.read_path(args.u64(0)));
    TRY(ipc_of(task)->posix_queues().unlink_queue(task, name));
    return 0;
}

SysResult<int64_t> sys_mq_timedsend(Task& task, const SyscallArgs& args) {
    uint32_t priority = args.u32(3);
    if (priority >= MqueueInode::kMostPriority) return Errno(EINVAL);
    Deadline deadline = TRY(deadline_at(task, args.u64(4)));
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    MessageQueueFile* it = TRY(queue_of(file));
    if (!file->writable()) return Errno(EBADF);
    uint64_t size = args.u64(2);
    if (size > static_cast<uint64_t>(it->queue().message_size)) return Errno(EMSGSIZE);
    std::string message(size, '\0');
    TRY(task.memory().copy_in(args.u64(1), message.data(), size));
    TRY(it->queue().send(task, std::move(message), priority, file->nonblocking(), deadline));
    return 0;
}

SysResult<int64_t> sys_mq_timedreceive(Task& task, const SyscallArgs& args) {
    Deadline deadline = TRY(deadline_at(task, args.u64(4)));
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    MessageQueueFile* it = TRY(queue_of(file));
    if (!file->readable()) return Errno(EBADF);
    if (args.u64(2) < static_cast<uint64_t>(it->queue().message_size)) return Errno(EMSGSIZE);
    auto received = TRY(it->queue().receive(task, file->nonblocking(), deadline));
    if (args.u64(3) != 0) TRY(task.write(UserPtr<uint32_t>(args.u64(3)), received.priority));
    TRY(task.memory().copy_out(args.u64(1), received.message.data(), received.message.size()));
    return static_cast<int64_t>(received.message.size());
}

SysResult<int64_t> sys_mq_notify(Task& task, const SyscallArgs& args) {
    sigevent event{};
    if (args.u64(1) != 0) {
        event = TRY(task.read(UserPtr<sigevent>(args.u64(1))));
        // SIGEV_THREAD is the C library's, over a netlink socket that is not there.
        if (event.sigev_notify != SIGEV_NONE && event.sigev_notify != SIGEV_SIGNAL) return Errno(EINVAL);
        if (event.sigev_notify == SIGEV_SIGNAL && !valid_signal(event.sigev_signo)) return Errno(EINVAL);
    }
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    MessageQueueFile* it = TRY(queue_of(file));
    TRY(it->queue().notify(task, args.u64(1) != 0 ? &event : nullptr));
    return 0;
}

SysResult<int64_t> sys_mq_getsetattr(Task& task, const SyscallArgs& args) {
    mq_attr wanted{};
    if (args.u64(1) != 0) {
        wanted = TRY(task.read(UserPtr<mq_attr>(args.u64(1))));
        if (wanted.mq_flags & ~static_cast<long>(O_NONBLOCK)) return Errno(EINVAL);
    }
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    MessageQueueFile* it = TRY(queue_of(file));
    mq_attr now{};
    now.mq_flags = file->flags() & O_NONBLOCK;
    now.mq_maxmsg = it->queue().most_messages;
    now.mq_msgsize = it->queue().message_size;
    now.mq_curmsgs = it->queue().messages();
    if (args.u64(1) != 0)
        file->set_status_flags((file->flags() & ~O_NONBLOCK) | static_cast<int>(wanted.mq_flags & O_NONBLOCK));
    if (args.u64(2) != 0) TRY(task.write(UserPtr<mq_attr>(args.u64(2)), now));
    return 0;
}

constexpr SyscallRow kRows[] = {
    {240, "mq_open", sys_mq_open, Support::kFull},
    {241, "mq_unlink", sys_mq_unlink, Support::kFull},
    {242, "mq_timedsend", sys_mq_timedsend, Support::kFull},
    {243, "mq_timedreceive", sys_mq_timedreceive, Support::kFull},
    {244, "mq_notify", sys_mq_notify, Support::kPartial, "no SIGEV_THREAD"},
    {245, "mq_getsetattr", sys_mq_getsetattr, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> mqueue_syscalls() { return kRows; }

}  // namespace casemate::sentry
