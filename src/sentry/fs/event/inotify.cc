#include "sentry/fs/event/inotify.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/vfs/events.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kMostWatches = 524'288;  // of the pod
constexpr uint32_t kMostInstances = 1024;
std::atomic<uint32_t> watch_total{0};
std::atomic<uint32_t> instance_total{0};

}  // namespace

// The watches of one inode, of all inotify files.
class WatchList final : public InodeWatches {
  public:
    void happened(uint32_t mask, uint32_t cookie, std::string_view name) override {
        std::vector<Ref<InotifyFile::Watch>> over;  // dropped behind the lock
        // A directory's own end and move carry no IN_ISDIR.
        if (mask & (IN_DELETE_SELF | IN_MOVE_SELF)) mask &= ~static_cast<uint32_t>(IN_ISDIR);
        std::lock_guard lock(mutex_);
        for (size_t i = 0; i < watches_.size();) {
            InotifyFile::Watch& watch = *watches_[i];
            uint32_t wanted = watch.mask.load(std::memory_order_relaxed);
            bool ends = mask & (IN_DELETE_SELF | IN_UNMOUNT);
            if ((wanted & mask & IN_ALL_EVENTS) || (mask & IN_UNMOUNT)) {
                watch.owner->queue(watch.descriptor, mask, cookie, name);
                ends = ends || (wanted & IN_ONESHOT);
            }
            if (!ends) {
                i++;
                continue;
            }
            if (auto gone = watch.owner->forget(watch.descriptor)) over.push_back(std::move(gone));
            over.push_back(std::move(watches_[i]));
            watches_.erase(watches_.begin() + static_cast<ptrdiff_t>(i));
        }
    }
    void add(Ref<InotifyFile::Watch> watch) {
        std::lock_guard lock(mutex_);
        watches_.push_back(std::move(watch));
    }
    // After this the owner hears of nothing any more.
    void remove(InotifyFile::Watch& watch) {
        Ref<InotifyFile::Watch> gone;
        std::lock_guard lock(mutex_);
        auto it = std::find_if(watches_.begin(), watches_.end(), [&](auto& one) { return one.get() == &watch; });
        if (it == watches_.end()) return;
        gone = std::move(*it);
        watches_.erase(it);
    }
    Ref<InotifyFile::Watch> find(InotifyFile& owner) {
        std::lock_guard lock(mutex_);
        for (auto& watch : watches_)
            if (watch->owner == &owner) return watch;
        return nullptr;
    }

  private:
    std::mutex mutex_;
    std::vector<Ref<InotifyFile::Watch>> watches_;  // guarded by mutex_
};

SysResult<Ref<File>> InotifyFile::create(Path path, int flags) {
    if (instance_total.fetch_add(1) >= kMostInstances) {
        instance_total.fetch_sub(1);
        return Errno(EMFILE);
    }
    return Ref<File>(Ref<InotifyFile>::adopt(new InotifyFile(std::move(path), flags)));
}

InotifyFile::~InotifyFile() {
    std::map<int, Ref<Watch>> watches;
    {
        std::lock_guard lock(mutex_);
        watches.swap(watches_);
    }
    for (auto& [descriptor, watch] : watches) {
        watch->list->remove(*watch);
        watch->inode->file_system().watch_count.fetch_sub(1);
        watch_total.fetch_sub(1);
    }
    instance_total.fetch_sub(1);
}

SysResult<int> InotifyFile::add_watch(Inode& inode, uint32_t mask) {
    uint32_t kept = mask & (IN_ALL_EVENTS | IN_ONESHOT | IN_EXCL_UNLINK);
    // SAFETY: only inotify installs watches.
    auto* list = static_cast<WatchList*>(inode.watches());
    if (list == nullptr) list = static_cast<WatchList*>(inode.install_watches(std::make_unique<WatchList>()));
    if (auto known = list->find(*this)) {
        if (mask & IN_MASK_CREATE) return Errno(EEXIST);
        if (mask & IN_MASK_ADD)
            known->mask.fetch_or(kept);
        else
            known->mask.store(kept);
        return known->descriptor;
    }
    if (watch_total.fetch_add(1) >= kMostWatches) {
        watch_total.fetch_sub(1);
        return Errno(ENOSPC);
    }
    auto watch = make_ref<Watch>();
    watch->owner = this;
    watch->mask = kept;
    watch->inode = Ref<Inode>(&inode);
    watch->list = list;
    {
        std::lock_guard lock(mutex_);
        do {
            last_descriptor_ = last_descriptor_ == INT32_MAX ? 1 : last_descriptor_ + 1;
        } while (watches_.contains(last_descriptor_));
        watch->descriptor = last_descriptor_;
        watches_.emplace(watch->descriptor, watch);
    }
    inode.file_system().watch_count.fetch_add(1);
    list->add(watch);
    return watch->descriptor;
}

Ref<InotifyFile::Watch> InotifyFile::forget(int descriptor) {
    Ref<Watch> watch;
    {
        std::lock_guard lock(mutex_);
        auto it = watches_.find(descriptor);
        if (it == watches_.end()) return nullptr;
        watch = std::move(it->second);
        watches_.erase(it);
    }
    watch->inode->file_system().watch_count.fetch_sub(1);
    watch_total.fetch_sub(1);
    queue(descriptor, IN_IGNORED, 0, {});
    return watch;
}

SysResult<void> InotifyFile::remove_watch(int descriptor) {
    Ref<Watch> watch = forget(descriptor);
    if (!watch) return Errno(EINVAL);
    watch->list->remove(*watch);
    return {};
}

void InotifyFile::queue(int descriptor, uint32_t mask, uint32_t cookie, std::string_view name) {
    Event event{descriptor, mask, cookie, std::string(name)};
    {
        std::lock_guard lock(mutex_);
        if (!events_.empty() && events_.back() == event) return;  // nothing new to whoever has not read the last
        if (events_.size() >= kMostEvents) {
            if (events_.back().mask == IN_Q_OVERFLOW) return;
            event = {-1, IN_Q_OVERFLOW, 0, {}};
        }
        bytes_ += event.size();
        events_.push_back(std::move(event));
    }
    waiters_.notify(EPOLLIN | EPOLLRDNORM);
}

// Takes the events that fit into `room` bytes.
std::string InotifyFile::encode_locked(size_t room) {
    std::string bytes;
    while (!events_.empty() && bytes.size() + events_.front().size() <= room) {
        Event& event = events_.front();
        inotify_event header{};
        header.wd = event.descriptor;
        header.mask = event.mask;
        header.cookie = event.cookie;
        header.len = static_cast<uint32_t>(event.name_room());
        bytes.append(reinterpret_cast<const char*>(&header), sizeof(header));
        bytes += event.name;
        bytes.append(event.name_room() - event.name.size(), '\0');
        bytes_ -= event.size();
        events_.pop_front();
    }
    return bytes;
}

SysResult<size_t> InotifyFile::read_at(Task& task, IoBuffer& into, int64_t) {
    std::string bytes =
        TRY(task.wait_on(waiters_, EPOLLIN, std::nullopt, [&]() -> std::optional<SysResult<std::string>> {
            std::lock_guard lock(mutex_);
            if (events_.empty()) {
                if (nonblocking()) return SysResult<std::string>(Errno(EAGAIN));
                return std::nullopt;
            }
            std::string taken = encode_locked(into.remaining());
            if (taken.empty()) return SysResult<std::string>(Errno(EINVAL));
            return SysResult<std::string>(std::move(taken));
        }));
    return into.copy_to(bytes.data(), bytes.size());
}

uint32_t InotifyFile::poll_events(Task*) {
    std::lock_guard lock(mutex_);
    return events_.empty() ? 0u : EPOLLIN | EPOLLRDNORM;
}

SysResult<int64_t> InotifyFile::ioctl(Task& task, uint64_t command, uint64_t argument) {
    if (command != FIONREAD) return File::ioctl(task, command, argument);
    int32_t bytes;
    {
        std::lock_guard lock(mutex_);
        bytes = static_cast<int32_t>(bytes_);
    }
    TRY(task.write(UserPtr<int32_t>(argument), bytes));
    return 0;
}

std::string InotifyFile::fdinfo(Task& task) {
    std::string text = File::fdinfo(task);
    std::lock_guard lock(mutex_);
    for (auto& [descriptor, watch] : watches_) {
        struct stat info {};
        static_cast<void>(watch->inode->stat(info));
        text += fmt::format("inotify wd:{:x} ino:{:x} sdev:{:x} mask:{:x} ignored_mask:0\n", descriptor, info.st_ino,
                            info.st_dev, watch->mask.load());
    }
    return text;
}

}  // namespace casemate::sentry
