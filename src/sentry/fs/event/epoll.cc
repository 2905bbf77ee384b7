#include "sentry/fs/event/epoll.h"

#include <fmt/core.h>

#include <algorithm>

#include "sentry/kernel/task.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kAlways = EPOLLERR | EPOLLHUP;
constexpr int kMaxDepth = 5;
}  // namespace

// One watched file: queued on the file, listed in ready_ when something may have happened.
class EpollFile::Item final : public Waiter, public FileObserver {
  public:
    Item(EpollFile& owner, File& file, int fd, const epoll_event& event)
        : Waiter(event.events | kAlways), owner_(owner), file_(file), fd_(fd), event_(event) {
        set_exclusive(event.events & EPOLLEXCLUSIVE);
    }
    bool notified(uint32_t) override {
        if (disabled_.load(std::memory_order_relaxed)) return false;
        owner_.queue_ready(*this);
        return true;
    }
    void file_gone() override {
        std::lock_guard lock(owner_.mutex_);
        auto it = owner_.items_.find({&file_, fd_});
        if (it != owner_.items_.end()) owner_.drop(it, false);
    }

    EpollFile& owner_;
    File& file_;
    const int fd_;
    epoll_event event_;                  // guarded by owner's mutex_
    std::atomic<bool> disabled_{false};  // EPOLLONESHOT has fired
    bool listed_ = false;                // guarded by owner's ready_mutex_
    std::list<Item*>::iterator place_;
};

EpollFile::EpollFile(Path path, int flags) : File(std::move(path), flags) {}

EpollFile::~EpollFile() {
    std::lock_guard observers(file_observers_mutex());
    std::lock_guard lock(mutex_);
    while (!items_.empty()) drop(items_.begin(), true);
}

void EpollFile::drop(std::map<Key, std::unique_ptr<Item>>::iterator it, bool observing) {
    Item& item = *it->second;
    if (observing) item.file_.remove_observer(item);
    if (WaitQueue* queue = item.file_.waiters()) queue->remove(item);
    unqueue(item);
    items_.erase(it);
}

void EpollFile::queue_ready(Item& item) {
    {
        std::lock_guard lock(ready_mutex_);
        if (!item.listed_) {
            item.place_ = ready_.insert(ready_.end(), &item);
            item.listed_ = true;
        }
    }
    waiters_.notify(EPOLLIN);
}

void EpollFile::unqueue(Item& item) {
    std::lock_guard lock(ready_mutex_);
    if (item.listed_) ready_.erase(item.place_);
    item.listed_ = false;
}

// How many levels of epoll lie below this one; more than `limit` ends the search.
int EpollFile::depth_locked(int limit) {
    if (limit < 0) return 1;
    int deepest = 0;
    std::lock_guard lock(mutex_);
    for (auto& [key, item] : items_)
        if (auto* inner = key.first->as_epoll()) deepest = std::max(deepest, 1 + inner->depth_locked(limit - 1));
    return deepest;
}

SysResult<void> EpollFile::add(Task& task, int fd, const Ref<File>& file, const epoll_event& event) {
    if (file.get() == this) return Errno(EINVAL);
    if (file->waiters() == nullptr) return Errno(EPERM);
    constexpr uint32_t kExclusiveAllowed =
        EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
    if ((event.events & EPOLLEXCLUSIVE) && ((event.events & ~kExclusiveAllowed) || file->as_epoll() != nullptr))
        return Errno(EINVAL);
    // This lock also keeps two epolls from making a circle at once.
    std::lock_guard observers(file_observers_mutex());
    if (EpollFile* inner = file->as_epoll()) {
        if (inner->reaches(*this, kMaxDepth) || inner->depth_locked(kMaxDepth) + 1 >= kMaxDepth) return Errno(ELOOP);
    }
    std::lock_guard lock(mutex_);
    auto [it, fresh] = items_.try_emplace({file.get(), fd}, nullptr);
    if (!fresh) return Errno(EEXIST);
    it->second = std::make_unique<Item>(*this, *file, fd, event);
    Item& item = *it->second;
    file->add_observer(item);
    file->waiters()->add(item);
    if (file->poll_events(&task) & (event.events | kAlways)) queue_ready(item);
    return {};
}

SysResult<void> EpollFile::modify(Task& task, int fd, const Ref<File>& file, const epoll_event& event) {
    std::lock_guard lock(mutex_);
    auto it = items_.find({file.get(), fd});
    if (it == items_.end()) return Errno(ENOENT);
    Item& item = *it->second;
    if ((event.events | item.event_.events) & EPOLLEXCLUSIVE) return Errno(EINVAL);
    item.event_ = event;
    WaitQueue* queue = file->waiters();
    queue->remove(item);
    item.set_events(event.events | kAlways);
    item.disabled_.store(false, std::memory_order_relaxed);
    queue->add(item);
    if (file->poll_events(&task) & (event.events | kAlways)) queue_ready(item);
    return {};
}

SysResult<void> EpollFile::remove(int fd, const Ref<File>& file) {
    std::lock_guard observers(file_observers_mutex());
    std::lock_guard lock(mutex_);
    auto it = items_.find({file.get(), fd});
    if (it == items_.end()) return Errno(ENOENT);
    drop(it, true);
    return {};
}

bool EpollFile::reaches(EpollFile& target, int limit) {
    if (this == &target) return true;
    if (limit == 0) return false;
    std::lock_guard lock(mutex_);
    for (auto& [key, item] : items_)
        if (auto* inner = key.first->as_epoll())
            if (inner->reaches(target, limit - 1)) return true;
    return false;
}

std::vector<epoll_event> EpollFile::collect(Task& task, size_t most) {
    std::vector<epoll_event> events;
    std::lock_guard lock(mutex_);
    std::list<Item*> candidates;
    {
        std::lock_guard ready(ready_mutex_);
        candidates.swap(ready_);
        for (Item* item : candidates) item->listed_ = false;
    }
    std::vector<Item*> again;  // level-triggered: they stay ready, behind the others
    while (!candidates.empty()) {
        Item& item = *candidates.front();
        if (events.size() == most) break;
        candidates.pop_front();
        if (item.disabled_.load(std::memory_order_relaxed)) continue;
        uint32_t got = item.file_.poll_events(&task) & (item.event_.events | kAlways);
        if (got == 0) continue;
        events.push_back({.events = got, .data = item.event_.data});
        if (item.event_.events & EPOLLONESHOT)
            item.disabled_.store(true, std::memory_order_relaxed);
        else if (!(item.event_.events & EPOLLET))
            again.push_back(&item);
    }
    std::lock_guard ready(ready_mutex_);
    // What was not looked at stays in front.
    for (auto it = candidates.rbegin(); it != candidates.rend(); ++it) {
        Item* item = *it;
        if (item->listed_) continue;
        item->place_ = ready_.insert(ready_.begin(), item);
        item->listed_ = true;
    }
    for (Item* item : again) {
        if (item->listed_) continue;
        item->place_ = ready_.insert(ready_.end(), item);
        item->listed_ = true;
    }
    return events;
}

SysResult<std::vector<epoll_event>> EpollFile::wait(Task& task, size_t most, Deadline deadline) {
    using Events = std::vector<epoll_event>;
    auto result = task.wait_or_park(Ref<RefCounted>(this), waiters_, EPOLLIN, deadline,
                                    [&]() -> std::optional<SysResult<Events>> {
                                        Events events = collect(task, most);
                                        if (!events.empty()) return SysResult<Events>(std::move(events));
                                        return std::nullopt;
                                    });
    if (!result.ok() && result.error().value == ETIMEDOUT) return Events();
    return result;
}

uint32_t EpollFile::poll_events(Task* task) {
    std::lock_guard lock(mutex_);
    std::vector<Item*> listed;
    {
        std::lock_guard ready(ready_mutex_);
        listed.assign(ready_.begin(), ready_.end());
    }
    for (Item* item : listed) {
        if (item->disabled_.load(std::memory_order_relaxed)) continue;
        if (item->file_.poll_events(task) & (item->event_.events | kAlways)) return EPOLLIN | EPOLLRDNORM;
    }
    return 0;
}

std::string EpollFile::fdinfo(Task& task) {
    std::string text = File::fdinfo(task);
    std::lock_guard lock(mutex_);
    for (auto& [key, item] : items_) {
        uint32_t events = item->event_.events;
        uint64_t data = item->event_.data.u64;
        text += fmt::format("tfd: {:8} events: {:8x} data: {:16x}\n", item->fd_, events, data);
    }
    return text;
}

}  // namespace casemate::sentry
