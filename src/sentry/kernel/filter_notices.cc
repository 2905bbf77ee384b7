#include "sentry/kernel/filter_notices.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstring>

#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"

// Linux 5.14 and 5.9.
#ifndef SECCOMP_ADDFD_FLAG_SEND
#define SECCOMP_ADDFD_FLAG_SEND (1UL << 1)
#endif

namespace casemate::sentry {
namespace {

class ListenerFile final : public File {
  public:
    ListenerFile(Path place, Ref<FilterNotices> notices)
        : File(std::move(place), O_RDWR), notices_(std::move(notices)) {}
    ~ListenerFile() override { notices_->supervisor_gone(); }

    uint32_t poll_events(Task*) override { return notices_->poll_events(); }
    WaitQueue* waiters() override { return &notices_->waiters(); }
    bool seekable() const override { return false; }
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override {
        switch (command) {
            case SECCOMP_IOCTL_NOTIF_RECV:
                return notices_->receive(task, argument);
            case SECCOMP_IOCTL_NOTIF_SEND:
                return notices_->answer(task, argument);
            case SECCOMP_IOCTL_NOTIF_ID_VALID:
            case SECCOMP_IOR(2, __u64):  // the number it had at first, which Linux keeps
                return notices_->check_id(task, argument);
            default:
                break;
        }
        // ADDFD grows with its structure: the size in the number is what the application knows.
        if (_IOC_TYPE(command) == SECCOMP_IOC_MAGIC && _IOC_NR(command) == _IOC_NR(SECCOMP_IOCTL_NOTIF_ADDFD) &&
            _IOC_DIR(command) == _IOC_DIR(SECCOMP_IOCTL_NOTIF_ADDFD))
            return notices_->add_descriptor(task, argument, _IOC_SIZE(command));
        return Errno(EINVAL);
    }

  private:
    const Ref<FilterNotices> notices_;
};

}  // namespace

Ref<File> make_listener(Path place, Ref<FilterNotices> notices) {
    return make_ref<ListenerFile>(std::move(place), std::move(notices));
}

SysResult<std::optional<int64_t>> FilterNotices::ask(Task& task, const seccomp_data& data, bool wait_killable) {
    Call call;
    call.task = &task;
    call.data = data;
    {
        std::lock_guard lock(mutex_);
        if (!supervised_) return Errno(ENOSYS);
        call.id = ++last_id_;
        calls_.push_back(&call);
    }
    waiters_.notify(EPOLLIN | EPOLLRDNORM);
    Task::ThreadWaiter waiter(task, EPOLLIN);
    callers_.add(waiter);
    SysResult<void> slept;
    while (slept.ok()) {
        waiter.arm();
        auto how = Task::Interruptible::kYes;
        {
            std::lock_guard lock(mutex_);
            if (call.state == Call::State::kAnswered) break;
            if (wait_killable && call.state == Call::State::kSent) how = Task::Interruptible::kOnlyByDeath;
        }
        slept = waiter.sleep(std::nullopt, how);
    }
    callers_.remove(waiter);
    std::lock_guard lock(mutex_);
    calls_.remove(&call);
    if (call.state != Call::State::kAnswered) return slept.take_error();
    if (call.carry_out) return std::optional<int64_t>();
    return std::optional<int64_t>(call.error != 0 ? call.error : call.value);
}

void FilterNotices::filter_gone() {
    {
        std::lock_guard lock(mutex_);
        filter_gone_ = true;
    }
    waiters_.notify(EPOLLHUP | EPOLLIN);
}

void FilterNotices::supervisor_gone() {
    {
        std::lock_guard lock(mutex_);
        supervised_ = false;
        for (Call* call : calls_) {
            if (call->state == Call::State::kAnswered) continue;
            call->error = -ENOSYS;
            call->state = Call::State::kAnswered;
        }
    }
    callers_.notify(EPOLLIN);
}

uint32_t FilterNotices::poll_events() {
    std::lock_guard lock(mutex_);
    uint32_t events = filter_gone_ ? EPOLLHUP : 0u;
    for (const Call* call : calls_) {
        if (call->state == Call::State::kNew) events |= EPOLLIN | EPOLLRDNORM;
        if (call->state == Call::State::kSent) events |= EPOLLOUT | EPOLLWRNORM;
    }
    return events;
}

FilterNotices::Call* FilterNotices::find_locked(uint64_t id) {
    for (Call* call : calls_)
        if (call->id == id) return call;
    return nullptr;
}

SysResult<int64_t> FilterNotices::receive(Task& task, GuestAddr into) {
    auto given = TRY(task.read(UserPtr<seccomp_notif>(into)));
    seccomp_notif zero;
    std::memset(&zero, 0, sizeof(zero));
    if (std::memcmp(&given, &zero, sizeof(zero)) != 0) return Errno(EINVAL);
    seccomp_notif notice =
        TRY(task.wait_on(waiters_, EPOLLIN | EPOLLHUP, std::nullopt, [&]() -> std::optional<SysResult<seccomp_notif>> {
            std::lock_guard lock(mutex_);
            for (Call* call : calls_) {
                if (call->state != Call::State::kNew) continue;
                call->state = Call::State::kSent;
                seccomp_notif out;
                std::memset(&out, 0, sizeof(out));
                out.id = call->id;
                // The waiting task is in calls_, so it lives and keeps its number.
                out.pid = static_cast<uint32_t>(call->task->pid().number_in(task.pid_namespace()));
                out.data = call->data;
                return SysResult<seccomp_notif>(out);
            }
            if (filter_gone_) return SysResult<seccomp_notif>(Errno(ENOENT));
            return std::nullopt;
        }));
    callers_.notify(EPOLLIN);  // one that was sent may wait in another way
    waiters_.notify(EPOLLOUT | EPOLLWRNORM);
    auto written = task.write(UserPtr<seccomp_notif>(into), notice);
    if (!written.ok()) {
        // It can be received again, as in Linux.
        std::lock_guard lock(mutex_);
        Call* call = find_locked(notice.id);
        if (call != nullptr && call->state == Call::State::kSent) call->state = Call::State::kNew;
        return written.take_error();
    }
    return 0;
}

SysResult<int64_t> FilterNotices::answer(Task& task, GuestAddr from) {
    auto given = TRY(task.read(UserPtr<seccomp_notif_resp>(from)));
    if ((given.flags & ~static_cast<uint32_t>(SECCOMP_USER_NOTIF_FLAG_CONTINUE)) != 0) return Errno(EINVAL);
    bool carry_out = (given.flags & SECCOMP_USER_NOTIF_FLAG_CONTINUE) != 0;
    if (carry_out && (given.error != 0 || given.val != 0)) return Errno(EINVAL);
    {
        std::lock_guard lock(mutex_);
        Call* call = find_locked(given.id);
        if (call == nullptr) return Errno(ENOENT);
        if (call->state != Call::State::kSent) return Errno(EINPROGRESS);
        call->error = given.error;
        call->value = given.val;
        call->carry_out = carry_out;
        call->state = Call::State::kAnswered;
    }
    callers_.notify(EPOLLIN);
    return 0;
}

SysResult<int64_t> FilterNotices::check_id(Task& task, GuestAddr from) {
    auto id = TRY(task.read(UserPtr<uint64_t>(from)));
    std::lock_guard lock(mutex_);
    Call* call = find_locked(id);
    if (call == nullptr || call->state != Call::State::kSent) return Errno(ENOENT);
    return 0;
}

SysResult<int64_t> FilterNotices::add_descriptor(Task& task, GuestAddr from, size_t size) {
    struct AddFd {  // struct seccomp_notif_addfd
        uint64_t id;
        uint32_t flags, source, target, target_flags;
    } given;
    if (size < sizeof(given) || size >= 4096) return Errno(EINVAL);
    TRY(task.memory().copy_in(from, &given, sizeof(given)));
    for (size_t at = sizeof(given); at < size; ++at)
        if (TRY(task.read(UserPtr<uint8_t>(from + at))) != 0) return Errno(E2BIG);
    constexpr uint32_t kAt = SECCOMP_ADDFD_FLAG_SETFD, kSend = SECCOMP_ADDFD_FLAG_SEND;
    if ((given.flags & ~(kAt | kSend)) != 0 || (given.target_flags & ~static_cast<uint32_t>(O_CLOEXEC)) != 0)
        return Errno(EINVAL);
    if (given.target != 0 && (given.flags & kAt) == 0) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(static_cast<int>(given.source)));
    bool close_on_exec = (given.target_flags & O_CLOEXEC) != 0;
    Ref<Task> caller;
    {
        std::lock_guard lock(mutex_);
        Call* call = find_locked(given.id);
        if (call == nullptr) return Errno(ENOENT);
        if (call->state != Call::State::kSent) return Errno(EINPROGRESS);
        caller = Ref<Task>(call->task);
    }
    Ref<FdTable> table = caller->files_of();
    if (!table) return Errno(ENOENT);
    uint64_t limit = caller->process().limit(RLIMIT_NOFILE).soft;
    int number;
    Ref<File> replaced;
    if ((given.flags & kAt) != 0) {
        number = static_cast<int>(given.target);
        replaced = TRY(table->replace(number, std::move(file), close_on_exec, limit));
    } else {
        number = TRY(table->insert(std::move(file), close_on_exec, limit));
    }
    if (replaced) replaced->descriptor_closed(*caller);
    if ((given.flags & kSend) == 0) return number;
    {
        std::lock_guard lock(mutex_);
        Call* call = find_locked(given.id);
        if (call == nullptr || call->state != Call::State::kSent) return Errno(ENOENT);
        call->value = number;
        call->state = Call::State::kAnswered;
    }
    callers_.notify(EPOLLIN);
    return number;
}

}  // namespace casemate::sentry
