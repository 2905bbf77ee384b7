// inotify(7): a queue of what happened to watched inodes.
//
// A watch keeps its inode alive; the inode owns the list of its watches (vfs/events.h), through which events come.
// Locks: a list's mutex, then the InotifyFile's. Events may come with directory mutexes held, so nothing here calls the
// vfs back; references to inodes are dropped behind the locks.
#pragma once

#include <sys/inotify.h>

#include <deque>
#include <map>
#include <mutex>
#include <string>

#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {

class WatchList;

class InotifyFile final : public File {
  public:
    // EMFILE when the pod has too many.
    static SysResult<Ref<File>> create(Path path, int flags);
    ~InotifyFile() override;

    // The watch descriptor: that of a watch which is there already is changed. EEXIST (IN_MASK_CREATE), ENOSPC.
    SysResult<int> add_watch(Inode& inode, uint32_t mask);
    SysResult<void> remove_watch(int descriptor);  // EINVAL

    InotifyFile* as_inotify() override { return this; }
    bool seekable() const override { return false; }
    uint32_t poll_events(Task*) override;
    WaitQueue* waiters() override { return &waiters_; }
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override;
    std::string fdinfo(Task& task) override;

    struct Watch final : RefCounted {
        InotifyFile* owner = nullptr;
        int descriptor = 0;
        std::atomic<uint32_t> mask{0};
        Ref<Inode> inode;
        WatchList* list = nullptr;
    };

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;

  private:
    friend class WatchList;
    InotifyFile(Path path, int flags) : File(std::move(path), flags) {}

    struct Event {
        int descriptor;
        uint32_t mask, cookie;
        std::string name;
        // The name with its NULs, rounded up to the size of an event.
        size_t name_room() const {
            constexpr size_t kUnit = sizeof(inotify_event);
            return name.empty() ? 0 : (name.size() + kUnit) / kUnit * kUnit;
        }
        size_t size() const { return sizeof(inotify_event) + name_room(); }
        friend bool operator==(const Event&, const Event&) = default;
    };
    static constexpr size_t kMostEvents = 16384;  // fs.inotify.max_queued_events
    void queue(int descriptor, uint32_t mask, uint32_t cookie, std::string_view name);
    // Takes the watch out of the map and tells that it is gone. Null: somebody else did.
    Ref<Watch> forget(int descriptor);
    std::string encode_locked(size_t room);

    WaitQueue waiters_;
    std::mutex mutex_;
    std::deque<Event> events_;  // guarded by mutex_, as is all below
    size_t bytes_ = 0;
    std::map<int, Ref<Watch>> watches_;
    int last_descriptor_ = 0;
};

}  // namespace casemate::sentry
