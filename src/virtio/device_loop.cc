#include "virtio/device_loop.h"

#include <sys/timerfd.h>

#include <system_error>

#include "linux/event_fds.h"

namespace casemate::virtio {

namespace {
constexpr uint64_t kTimerId = 1, kWakeId = 2;
}

SysResult<std::unique_ptr<DeviceLoop>> DeviceLoop::create() {
    std::unique_ptr<DeviceLoop> loop(new DeviceLoop);
    loop->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!loop->epoll_) return last_errno();
    loop->timer_fd_ = TRY(linux::create_timerfd());
    TRY(loop->add(loop->timer_fd_.get(), kTimerId));
    return loop;
}

SysResult<void> DeviceLoop::add(int fd, Id id) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = id;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return last_errno();
    return {};
}

DeviceLoop::~DeviceLoop() { stop(); }

SysResult<DeviceLoop::Id> DeviceLoop::watch(std::mutex& owner, int fd, uint32_t events,
                                            std::function<void(uint32_t)> callback) {
    auto entry = std::make_shared<Entry>();
    entry->owner = &owner;
    entry->fd = fd;
    entry->callback = std::move(callback);
    std::lock_guard lock(table_);
    Id id = next_id_++;
    epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return last_errno();
    entries_.emplace(id, std::move(entry));
    return id;
}

void DeviceLoop::change(Id id, uint32_t events) {
    std::lock_guard lock(table_);
    auto found = entries_.find(id);
    if (found == entries_.end()) return;
    epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second->fd, &event);
}

void DeviceLoop::remove(Id id) {
    std::lock_guard lock(table_);
    auto found = entries_.find(id);
    if (found == entries_.end()) return;
    found->second->removed = true;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second->fd, nullptr);
    entries_.erase(found);
}

DeviceLoop::Id DeviceLoop::after(std::mutex& owner, std::chrono::nanoseconds delay, std::function<void()> callback) {
    auto entry = std::make_shared<Entry>();
    entry->owner = &owner;
    entry->timer = std::move(callback);
    std::lock_guard lock(table_);
    Id id = next_id_++;
    entry->due = timers_.emplace(Clock::now() + delay, id);
    entries_.emplace(id, std::move(entry));
    arm_locked();
    return id;
}

void DeviceLoop::cancel(Id id) {
    std::lock_guard lock(table_);
    auto found = entries_.find(id);
    if (found == entries_.end()) return;
    found->second->removed = true;
    if (found->second->timer) timers_.erase(found->second->due);
    entries_.erase(found);
}

size_t DeviceLoop::timer_count() {
    std::lock_guard lock(table_);
    return timers_.size();
}

void DeviceLoop::arm_locked() {
    if (timers_.empty() || timers_.begin()->first >= armed_) return;
    armed_ = timers_.begin()->first;
    auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(armed_ - Clock::now());
    (void)linux::arm_timerfd(timer_fd_.get(), std::max(left, std::chrono::nanoseconds(1)));
}

std::shared_ptr<DeviceLoop::Entry> DeviceLoop::find(Id id) {
    std::lock_guard lock(table_);
    auto found = entries_.find(id);
    return found == entries_.end() ? nullptr : found->second;
}

void DeviceLoop::run_timers() {
    linux::drain_eventfd(timer_fd_.get());
    std::vector<std::shared_ptr<Entry>> due;
    {
        std::lock_guard lock(table_);
        armed_ = Clock::time_point::max();
        Clock::time_point now = Clock::now();
        while (!timers_.empty() && timers_.begin()->first <= now) {
            auto found = entries_.find(timers_.begin()->second);
            timers_.erase(timers_.begin());
            if (found == entries_.end()) continue;
            due.push_back(std::move(found->second));
            entries_.erase(found);
        }
        arm_locked();
    }
    for (const std::shared_ptr<Entry>& entry : due) {
        std::lock_guard owner(*entry->owner);
        if (!entry->removed) entry->timer();
    }
}

void DeviceLoop::turn(std::chrono::milliseconds timeout) {
    {
        std::lock_guard turn(turn_);
        if (paused_ && !own_thread_) return;
    }
    epoll_event events[32];
    int count = ::epoll_wait(epoll_.get(), events, 32, static_cast<int>(timeout.count()));
    std::unique_lock turn(turn_);
    resumed_.wait(turn, [this] { return !paused_ || stopping_; });
    if (stopping_) return;
    bool timers = false;
    for (int i = 0; i < count; ++i) {
        uint64_t id = events[i].data.u64;
        if (id == kTimerId) {
            timers = true;
            continue;
        }
        if (id == kWakeId) {
            linux::drain_eventfd(wake_.get());
            continue;
        }
        std::shared_ptr<Entry> entry = find(id);
        if (entry == nullptr) continue;
        std::lock_guard owner(*entry->owner);
        if (!entry->removed) entry->callback(events[i].events);
    }
    if (timers) run_timers();
}

Result<void> DeviceLoop::start(std::function<void()> prepare) {
    CHECK(!thread_.joinable());
    if (!wake_) {
        auto wake = linux::create_eventfd();
        if (!wake.ok()) return sys_error("eventfd of the devices' thread", wake.error().value);
        wake_ = wake.take_value();
        if (auto added = add(wake_.get(), kWakeId); !added.ok())
            return sys_error("watch the eventfd of the devices' thread", added.error().value);
    }
    stopping_ = false;
    own_thread_ = true;
    try {
        thread_ = std::thread([this, prepare = std::move(prepare)] {
            if (prepare) prepare();
            while (!stopping_) turn(std::chrono::milliseconds(-1));
        });
    } catch (const std::system_error& error) {  // the library's way to say that clone(2) failed
        return sys_error("starting the thread of the devices", error.code().value());
    }
    return {};
}

void DeviceLoop::stop() {
    if (!thread_.joinable()) return;
    {
        std::lock_guard turn(turn_);
        stopping_ = true;
    }
    resumed_.notify_all();
    linux::signal_eventfd(wake_.get());
    thread_.join();
    own_thread_ = false;
}

void DeviceLoop::pause() {
    std::lock_guard turn(turn_);
    paused_ = true;
}

void DeviceLoop::resume() {
    {
        std::lock_guard turn(turn_);
        paused_ = false;
    }
    resumed_.notify_all();
}

}  // namespace casemate::virtio
