#include "sentry/kernel/async_notice.h"

#include <poll.h>
#include <sys/epoll.h>

#include <unordered_map>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/parked_call.h"
#include "sentry/kernel/permissions.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"
#include "sentry/kernel/timers.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/file_observer.h"

namespace casemate::sentry {
namespace {

// Waits at a file's queue for as long as O_ASYNC is set, and at a socket's for as long as somebody is to hear of urgent
// data (SIGURG). A queue tells it under locks that sending needs: the signal is
// sent by the task whose call caused the event, before that call ends, or by the timer thread where there is no such
// task.
class AsyncNotice final : public DeferredWork, public Waiter, public FileObserver, public Timer {
  public:
    AsyncNotice(Kernel& kernel, File& file) : kernel_(kernel), file_(file) {}

    void begin();
    void end();
    void set_owner(Task& task, int fd);
    void set_async(bool on) { async_.store(on, std::memory_order_relaxed); }

    bool notified(uint32_t events) override;
    void run() override { send(); }
    void expired() override { send(); }
    void file_gone() override;

  private:
    void send();
    siginfo_t info_of(uint32_t events) const;
    void tell_locked(const siginfo_t& info);
    bool may_tell(Task& target) const;

    Kernel& kernel_;
    File& file_;  // until end()
    std::atomic<bool> async_{false};
    std::atomic<uint32_t> pending_{0};
    std::mutex mutex_;  // guards what follows
    File::Owner owner_;
    int fd_ = -1;
    Ref<PidNamespace> space_;
    Ref<Credentials> credentials_;
};

// The notices of all files that have one.
struct Notices {
    std::mutex mutex;
    std::unordered_map<File*, Ref<AsyncNotice>> by_file;  // guarded by mutex
};
Notices& notices() {
    static Notices all;
    return all;
}

void AsyncNotice::begin() {
    std::lock_guard lock(file_observers_mutex());
    file_.add_observer(*this);
    file_.waiters()->add(*this);
}

// Not called from a queue. Who holds file_observers_mutex() and took it out of the observers sees to the rest.
void AsyncNotice::end() {
    {
        std::lock_guard lock(file_observers_mutex());
        file_.remove_observer(*this);
        file_.waiters()->remove(*this);
    }
    kernel_.timers().cancel(*this);
}

void AsyncNotice::file_gone() {
    file_.waiters()->remove(*this);
    kernel_.timers().cancel(*this);
    Ref<AsyncNotice> last;
    std::lock_guard lock(notices().mutex);
    auto it = notices().by_file.find(&file_);
    if (it == notices().by_file.end() || it->second.get() != this) return;
    last = std::move(it->second);
    notices().by_file.erase(it);
}

void AsyncNotice::set_owner(Task& task, int fd) {
    std::lock_guard lock(mutex_);
    owner_ = file_.owner();
    fd_ = fd;
    space_ = Ref<PidNamespace>(&task.pid_namespace());
    credentials_ = task.credentials_of();
}

bool AsyncNotice::notified(uint32_t events) {
    // "Anything may have changed" is no urgent byte.
    if (events == ~0u) events &= ~uint32_t{EPOLLPRI};
    if (!async_.load(std::memory_order_relaxed)) events &= EPOLLPRI;
    if (events == 0) return false;
    if (pending_.fetch_or(events, std::memory_order_acq_rel) != 0) return false;
    if (WakeBatch* batch = WakeBatch::current())
        batch->add_work(Ref<DeferredWork>(this));
    else
        kernel_.timers().arm(*this, 0);
    return false;
}

siginfo_t AsyncNotice::info_of(uint32_t events) const {
    if (owner_.signal == 0) return kernel_signal(SIGIO);
    siginfo_t info{};
    info.si_signo = owner_.signal;
    info.si_fd = fd_;
    if ((events & (EPOLLIN | EPOLLRDNORM)) != 0) {
        info.si_code = POLL_IN;
        info.si_band = POLLIN | POLLRDNORM;
    } else if ((events & (EPOLLOUT | EPOLLWRNORM)) != 0) {
        info.si_code = POLL_OUT;
        info.si_band = POLLOUT | POLLWRNORM | POLLWRBAND;
    } else if ((events & EPOLLPRI) != 0) {
        info.si_code = POLL_PRI;
        info.si_band = POLLPRI | POLLRDBAND;
    } else if ((events & EPOLLERR) != 0) {
        info.si_code = POLL_ERR;
        info.si_band = POLLERR;
    } else {
        info.si_code = POLL_HUP;
        info.si_band = POLLHUP | POLLERR;
    }
    return info;
}

// Linux's sigio_perm.
bool AsyncNotice::may_tell(Task& target) const {
    Ref<Credentials> theirs = target.credentials_of();
    if (!theirs || !credentials_) return false;
    const Credentials& mine = *credentials_;
    return mine.euid == 0 || mine.euid == theirs->suid || mine.euid == theirs->uid || mine.uid == theirs->suid ||
           mine.uid == theirs->uid;
}

void AsyncNotice::send() {
    uint32_t events = pending_.exchange(0, std::memory_order_acq_rel);
    std::lock_guard lock(mutex_);
    if (owner_.id == 0 || !space_) return;
    if (events & EPOLLPRI && file_.as_socket() != nullptr) tell_locked(kernel_signal(SIGURG));
    if (async_.load(std::memory_order_relaxed)) tell_locked(info_of(events));
}

void AsyncNotice::tell_locked(const siginfo_t& info) {
    std::vector<Ref<Process>> group;
    Ref<Task> one = owner_.type != F_OWNER_PGRP ? kernel_.tasks().find_task(*space_, owner_.id) : nullptr;
    if (owner_.type == F_OWNER_PGRP) {
        std::lock_guard tasks_lock(kernel_.tasks().mutex);
        if (Pid* pid = kernel_.tasks().find_pid_locked(*space_, owner_.id))
            for (Process* process : pid->group_members) group.emplace_back(process);
    }
    if (one && may_tell(*one)) {
        int failure = owner_.type == F_OWNER_TID ? send_to_task(*one, info, SignalSource::kInside)
                                                 : send_to_process(one->process(), info, SignalSource::kInside);
        // The queue of real-time signals is full: the program is to look at everything.
        if (failure != 0) send_to_process(one->process(), kernel_signal(SIGIO), SignalSource::kInside);
    }
    for (const Ref<Process>& process : group) {
        std::vector<Ref<Task>> threads = kernel_.tasks().threads_of(*process);
        if (!threads.empty() && may_tell(*threads[0])) send_to_process(*process, info, SignalSource::kInside);
    }
}

}  // namespace

void update_async_notice(Task& task, File& file, int fd) {
    if (file.waiters() == nullptr) return;
    bool async = (file.flags() & O_ASYNC) != 0;
    bool wanted = async || (file.as_socket() != nullptr && file.owner().id != 0);
    Ref<AsyncNotice> notice;
    bool begin = false, end = false;
    {
        std::lock_guard lock(notices().mutex);
        auto it = notices().by_file.find(&file);
        if (it != notices().by_file.end()) {
            notice = it->second;
            end = !wanted;
            if (end) notices().by_file.erase(it);
        } else if (wanted) {
            notice = make_ref<AsyncNotice>(task.kernel(), file);
            notices().by_file.emplace(&file, notice);
            begin = true;
        }
    }
    if (!notice) return;
    if (end) return notice->end();
    notice->set_owner(task, fd);
    notice->set_async(async);
    if (!begin) return;
    // A pipe's ends share a queue: each hears of its own direction.
    uint32_t events = EPOLLHUP | EPOLLERR | EPOLLPRI;
    if (file.readable()) events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
    if (file.writable()) events |= EPOLLOUT | EPOLLWRNORM;
    notice->set_events(events);
    notice->begin();
}

}  // namespace casemate::sentry
