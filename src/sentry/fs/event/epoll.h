// epoll(7): an interest list and the files of it that are ready.
//
// Locks: file_observers_mutex() > EpollFile::mutex_ (interest list) > waitables' locks and WaitQueues > ready_mutex_. A
// file's last reference may go at any moment, but before it is destroyed its Items are told (file_gone), which takes
// mutex_: so an item's file is whole while mutex_ is held.
#pragma once

#include <sys/epoll.h>

#include <list>
#include <map>
#include <mutex>
#include <vector>

#include "sentry/kernel/clock.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/file_observer.h"

namespace casemate::sentry {

class EpollFile final : public File {
  public:
    EpollFile(Path path, int flags);
    ~EpollFile() override;

    // epoll_ctl: EEXIST, ENOENT, EPERM (a file that is always ready), EINVAL (itself), ELOOP (a circle or too deep).
    SysResult<void> add(Task& task, int fd, const Ref<File>& file, const epoll_event& event);
    SysResult<void> modify(Task& task, int fd, const Ref<File>& file, const epoll_event& event);
    SysResult<void> remove(int fd, const Ref<File>& file);
    // Up to `most` ready events; blocks until the deadline. The answer may be empty at the deadline.
    SysResult<std::vector<epoll_event>> wait(Task& task, size_t most, Deadline deadline);

    uint32_t poll_events(Task* task) override;
    WaitQueue* waiters() override { return &waiters_; }
    bool seekable() const override { return false; }
    EpollFile* as_epoll() override { return this; }
    std::string fdinfo(Task& task) override;

  private:
    class Item;
    using Key = std::pair<File*, int>;
    std::vector<epoll_event> collect(Task& task, size_t most);
    void queue_ready(Item& item);
    void unqueue(Item& item);
    int depth_locked(int limit);
    bool reaches(EpollFile& target, int limit);
    void drop(std::map<Key, std::unique_ptr<Item>>::iterator it, bool observing);

    std::mutex mutex_;
    std::map<Key, std::unique_ptr<Item>> items_;  // guarded by mutex_
    std::mutex ready_mutex_;
    std::list<Item*> ready_;  // guarded by ready_mutex_
    WaitQueue waiters_;
};

}  // namespace casemate::sentry
