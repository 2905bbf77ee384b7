#include "sentry/ipc/message_queue.h"

#include <sys/epoll.h>
#include <sys/msg.h>

#include <algorithm>

#include "sentry/kernel/process.h"

namespace casemate::sentry {

MessageQueue::MessageQueue() { touch_locked(); }

MessageQueue::Status MessageQueue::status_locked() {
    return {messages_.size(), bytes_,       most_bytes_,  send_time_,
            receive_time_,    change_time_, last_sender_, last_receiver_};
}

SysResult<void> MessageQueue::send(Task& task, Message message, bool nonblocking) {
    auto result = task.wait_on(waiters_, EPOLLOUT, std::nullopt, [&]() -> std::optional<SysResult<void>> {
        std::lock_guard lock(mutex);
        if (removed) return SysResult<void>(Errno(EIDRM));
        if (auto allowed = check_access_locked(task.credentials(), kIpcWrite); !allowed.ok())
            return SysResult<void>(allowed.take_error());
        if (bytes_ + message.text.size() > most_bytes_ || messages_.size() + 1 > most_bytes_) {
            if (nonblocking) return SysResult<void>(Errno(EAGAIN));
            return std::nullopt;
        }
        bytes_ += message.text.size();
        messages_.push_back(std::move(message));
        send_time_ = realtime_now() / kSecond;
        last_sender_ = task.process().pid;
        return SysResult<void>();
    });
    if (!result.ok()) return Errno(result.error().value == kRestartSys ? EINTR : result.error().value);
    waiters_.notify(EPOLLIN, ~0u);
    return {};
}

SysResult<MessageQueue::Message> MessageQueue::receive(Task& task, int64_t type, size_t room, int flags) {
    auto matches = [&](const Message& message) {
        if (type == 0) return true;
        if (type < 0) return message.type <= (type == INT64_MIN ? INT64_MAX : -type);
        return (flags & MSG_EXCEPT) ? message.type != type : message.type == type;
    };
    auto result = task.wait_on(waiters_, EPOLLIN, std::nullopt, [&]() -> std::optional<SysResult<Message>> {
        std::lock_guard lock(mutex);
        if (removed) return SysResult<Message>(Errno(EIDRM));
        if (auto allowed = check_access_locked(task.credentials(), kIpcRead); !allowed.ok())
            return SysResult<Message>(allowed.take_error());
        auto found = std::find_if(messages_.begin(), messages_.end(), matches);
        if (found == messages_.end()) {
            if (flags & IPC_NOWAIT) return SysResult<Message>(Errno(ENOMSG));
            return std::nullopt;
        }
        // Of the types up to -type: the lowest.
        if (type < 0)
            for (auto it = found; it != messages_.end(); ++it)
                if (it->type < found->type) found = it;
        if (found->text.size() > room && !(flags & MSG_NOERROR)) return SysResult<Message>(Errno(E2BIG));
        Message taken = std::move(*found);
        messages_.erase(found);
        bytes_ -= taken.text.size();
        if (taken.text.size() > room) taken.text.resize(room);
        receive_time_ = realtime_now() / kSecond;
        last_receiver_ = task.process().pid;
        return SysResult<Message>(std::move(taken));
    });
    if (!result.ok()) return Errno(result.error().value == kRestartSys ? EINTR : result.error().value);
    waiters_.notify(EPOLLOUT, ~0u);
    return result;
}

}  // namespace casemate::sentry
