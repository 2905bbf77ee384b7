#include "linux/event_loop.h"

#include <sys/syscall.h>
#include <unistd.h>

#include "linux/event_fds.h"

namespace casemate::linux {

namespace {

// What epoll hands back: the descriptor and the generation of its watch, so that an event fetched for a watch that was
// replaced meanwhile is not given to the new one.
uint64_t pack(int fd, uint32_t generation) { return uint64_t{generation} << 32 | static_cast<uint32_t>(fd); }

}  // namespace

SysResult<std::unique_ptr<EventLoop>> EventLoop::create() {
    std::unique_ptr<EventLoop> loop(new EventLoop);
    int epoll = ::epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) return last_errno();
    loop->epoll_.reset(epoll);
    ::sigemptyset(&loop->signals_);
    loop->wake_ = TRY(create_eventfd());
    EventLoop* self = loop.get();
    TRY(loop->watch(loop->wake_.get(), EPOLLIN, [self](uint32_t) {
        drain_eventfd(self->wake_.get());
        std::vector<Callback> posted;
        posted.swap(*self->posted_.lock());
        for (Callback& callback : posted) self->deferred_.push_back(std::move(callback));
    }));
    return loop;
}

EventLoop::~EventLoop() = default;

SysResult<void> EventLoop::watch(int fd, uint32_t events, FdCallback callback) {
    if (watches_.contains(fd)) return Errno(EEXIST);
    auto watch = std::make_shared<Watch>();
    watch->generation = next_generation_++;
    watch->callback = std::move(callback);
    epoll_event event = {};
    event.events = events;
    event.data.u64 = pack(fd, watch->generation);
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return last_errno();
    watches_.emplace(fd, std::move(watch));
    return {};
}

SysResult<void> EventLoop::change(int fd, uint32_t events) {
    auto found = watches_.find(fd);
    if (found == watches_.end()) return Errno(ENOENT);
    epoll_event event = {};
    event.events = events;
    event.data.u64 = pack(fd, found->second->generation);
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) < 0) return last_errno();
    return {};
}

void EventLoop::remove(int fd) {
    if (watches_.erase(fd) != 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::after(std::chrono::nanoseconds delay, Callback callback) {
    TimerId id = next_timer_++;
    Clock::time_point due = Clock::now() + delay;
    timers_.emplace(std::make_pair(due, id), std::move(callback));
    timer_times_.emplace(id, due);
    return id;
}

void EventLoop::cancel(TimerId id) {
    auto found = timer_times_.find(id);
    if (found == timer_times_.end()) return;
    timers_.erase({found->second, id});
    timer_times_.erase(found);
}

void EventLoop::defer(Callback callback) { deferred_.push_back(std::move(callback)); }

void EventLoop::post(Callback callback) {
    posted_.lock()->push_back(std::move(callback));
    signal_eventfd(wake_.get());
}

SysResult<void> EventLoop::on_signals(std::initializer_list<int> signals, SignalCallback callback) {
    auto shared = std::make_shared<SignalCallback>(std::move(callback));
    sigset_t wanted = signals_;
    for (int signo : signals) ::sigaddset(&wanted, signo);
    if (int failure = ::pthread_sigmask(SIG_BLOCK, &wanted, nullptr); failure != 0) return Errno(failure);
    UniqueFd created = TRY(create_signalfd(wanted, signal_fd_.get()));
    if (created) {
        signal_fd_ = std::move(created);
        TRY(watch(signal_fd_.get(), EPOLLIN, [this](uint32_t) { read_signals(); }));
    }
    signals_ = wanted;
    for (int signo : signals) signal_callbacks_[signo] = shared;
    return {};
}

void EventLoop::read_signals() {
    signalfd_siginfo info;
    while (::read(signal_fd_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        auto found = signal_callbacks_.find(static_cast<int>(info.ssi_signo));
        if (found == signal_callbacks_.end()) continue;
        std::shared_ptr<SignalCallback> callback = found->second;
        (*callback)(info);
    }
}

SysResult<int> EventLoop::on_exit(UniqueFd pidfd, ExitCallback callback) {
    int number = pidfd.get();
    TRY(watch(number, EPOLLIN, [this, number](uint32_t) {
        auto status = wait_pidfd(number, false);
        if (status.ok() && !status->has_value()) return;  // only a thread group that is not empty yet
        auto found = children_.find(number);
        if (found == children_.end()) return;
        Child child = std::move(found->second);
        children_.erase(found);
        remove(number);
        // Somebody else reaped it, or it is not our child: that it ended is all that can be told.
        child.callback(status.ok() ? **status : ExitStatus{true, SIGKILL});
    }));
    Child child;
    child.pidfd = std::move(pidfd);
    child.callback = std::move(callback);
    children_.emplace(number, std::move(child));
    return number;
}

UniqueFd EventLoop::forget_exit(int pidfd) {
    auto found = children_.find(pidfd);
    if (found == children_.end()) return UniqueFd();
    UniqueFd owned = std::move(found->second.pidfd);
    children_.erase(found);
    remove(pidfd);
    return owned;
}

std::chrono::nanoseconds EventLoop::time_to_next(std::chrono::nanoseconds timeout) const {
    if (!deferred_.empty() || quit_.load()) return std::chrono::nanoseconds(0);
    if (timers_.empty()) return timeout;
    auto left =
        std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(timers_.begin()->first.first - Clock::now()));
    return timeout.count() < 0 ? left : std::min(left, timeout);
}

void EventLoop::run_deferred() {
    // What these defer runs on the next turn, so that they cannot keep descriptors waiting.
    std::vector<Callback> due;
    due.swap(deferred_);
    for (Callback& callback : due) callback();
}

void EventLoop::run_timers() {
    Clock::time_point now = Clock::now();
    while (!timers_.empty() && timers_.begin()->first.first <= now) {
        auto first = timers_.begin();
        Callback callback = std::move(first->second);
        timer_times_.erase(first->first.second);
        timers_.erase(first);
        callback();
    }
}

void EventLoop::run_once(std::chrono::nanoseconds timeout) {
    std::chrono::nanoseconds wait = time_to_next(timeout);
    timespec spec = {wait.count() / 1'000'000'000, wait.count() % 1'000'000'000};
    epoll_event events[32];
    // epoll_pwait2 for its nanoseconds: milliseconds would round timers.
    long count = ::syscall(SYS_epoll_pwait2, epoll_.get(), events, 32, wait.count() < 0 ? nullptr : &spec, nullptr, 0);
    for (long i = 0; i < count; i++) {
        auto found = watches_.find(static_cast<int>(static_cast<uint32_t>(events[i].data.u64)));
        if (found == watches_.end() || found->second->generation != events[i].data.u64 >> 32) continue;
        std::shared_ptr<Watch> watch = found->second;  // the callback may remove itself
        watch->callback(events[i].events);
    }
    run_timers();
    run_deferred();
}

int EventLoop::run() {
    while (!quit_.load()) run_once(std::chrono::nanoseconds(-1));
    quit_.store(false);
    return quit_code_.load();
}

void EventLoop::quit(int code) {
    quit_code_.store(code);
    quit_.store(true);
    signal_eventfd(wake_.get());
}

}  // namespace casemate::linux
