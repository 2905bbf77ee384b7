// System V message queues.
#pragma once

#include <deque>
#include <string>

#include "sentry/ipc/ipc_object.h"
#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

class MessageQueue final : public RefCounted, public IpcObject {
  public:
    static constexpr size_t kMostMessage = 8192;  // kernel.msgmax
    static constexpr size_t kMostBytes = 16384;   // kernel.msgmnb

    MessageQueue();

    struct Message {
        int64_t type = 0;
        std::string text;
    };
    // EAGAIN, EACCES, EIDRM, EINTR.
    SysResult<void> send(Task& task, Message message, bool nonblocking);
    // `type` and MSG_* flags as msgrcv's; E2BIG if it is longer than `room` without MSG_NOERROR, ENOMSG.
    SysResult<Message> receive(Task& task, int64_t type, size_t room, int flags);
    void remove_locked() { removed = true; }
    void changed() { waiters_.notify(~0u, ~0u); }

    struct Status {
        uint64_t messages, bytes, most_bytes;
        int64_t send_time, receive_time, change_time;
        Ref<Pid> last_sender, last_receiver;
    };
    Status status_locked();
    void set_most_bytes_locked(uint64_t bytes) { most_bytes_ = bytes; }
    void touch_locked() { change_time_ = realtime_now() / kSecond; }

  private:
    std::deque<Message> messages_;  // guarded by mutex, as is all below
    size_t bytes_ = 0, most_bytes_ = kMostBytes;
    int64_t send_time_ = 0, receive_time_ = 0, change_time_ = 0;
    Ref<Pid> last_sender_, last_receiver_;
    WaitQueue waiters_;
};

}  // namespace casemate::sentry
