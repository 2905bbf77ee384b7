// POSIX message queues and the file system that they are files of (mounted at /dev/mqueue).
#pragma once

#include <mqueue.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <string>

#include "sentry/fs/synthetic/synthetic.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

class MqueueInode;

class MqueueFileSystem final : public FileSystem {
  public:
    static Ref<MqueueFileSystem> create();
    const char* type() const override { return "mqueue"; }
    SysResult<Ref<Inode>> root() override;
    SysResult<void> statfs(struct statfs& out) override;
    // mq_open and mq_unlink come past the vfs.
    bool names_can_change() const override { return true; }

    // fs.mqueue.*: what a user without privileges may ask for, and gets without asking.
    struct Settings {
        std::atomic<long> queues_max{256};
        std::atomic<long> msg_max{10}, msg_default{10};
        std::atomic<long> msgsize_max{8192}, msgsize_default{8192};
    };
    Settings settings;
    static constexpr long kHardMessages = 65536, kHardSize = 16 << 20;
    // mq_open: the queue's file. `attributes` null: defaults.
    SysResult<Ref<File>> open_queue(Task& task, std::string_view name, int flags, uint32_t mode,
                                    const mq_attr* attributes);
    SysResult<void> unlink_queue(Task& task, std::string_view name);
    // The namespace is gone: nobody can name the queues any more.
    void dissolve();

  private:
    friend class MqueueDirectory;
    friend class MqueueInode;
    long default_messages() const { return std::min(settings.msg_default.load(), settings.msg_max.load()); }
    long default_size() const { return std::min(settings.msgsize_default.load(), settings.msgsize_max.load()); }
    SysResult<Ref<MqueueInode>> make(std::string_view name, const NewInode& properties, long messages, long size,
                                     uint64_t limit);
    Ref<MqueueInode> find(std::string_view name);
    SysResult<void> charge(uint32_t uid, uint64_t bytes, uint64_t limit);
    void give_back(uint32_t uid, uint64_t bytes);
    std::mutex mutex_;
    std::map<std::string, Ref<MqueueInode>, std::less<>> queues_;  // guarded by mutex_
    Ref<Inode> root_;                                              // guarded by mutex_; made on first use
    SmallMutex charge_mutex_;
    std::map<uint32_t, uint64_t> charged_;  // bytes by uid; guarded by charge_mutex_
    uint64_t charged_total_ = 0;            // guarded by charge_mutex_
};

// The queue itself.
class MqueueInode final : public SyntheticInode {
  public:
    static constexpr uint32_t kMostPriority = 32768;

    // `charged` bytes were taken from the owner's RLIMIT_MSGQUEUE.
    MqueueInode(Ref<FileSystem> files, const NewInode& properties, long messages, long size, uint64_t charged);
    ~MqueueInode() override;

    SysResult<void> stat(struct stat& out) override;
    SysResult<Ref<File>> open(Task& task, const Path& path, int flags) override;
    SysResult<void> change(const AttributeChange& change) override;

    const long most_messages, message_size;
    long messages();
    // EAGAIN, ETIMEDOUT, kRestartSys.
    SysResult<void> send(Task& task, std::string message, uint32_t priority, bool nonblocking, Deadline deadline);
    struct Received {
        std::string message;
        uint32_t priority;
    };
    SysResult<Received> receive(Task& task, bool nonblocking, Deadline deadline);
    // mq_notify; `event` null: no more. EBUSY.
    SysResult<void> notify(Task& task, const sigevent* event);
    void forget_notify(Process& process);
    std::string status_text(Task& task);
    uint32_t poll_events();
    WaitQueue waiters;

  private:
    std::mutex mutex_;
    std::map<uint32_t, std::deque<std::string>, std::greater<>> queue_;  // by priority; guarded by mutex_, as all below
    long count_ = 0;
    uint64_t bytes_ = 0;
    uint32_t receivers_ = 0;  // blocked in receive()
    Ref<Process> notified_;   // null: nobody asked
    sigevent event_{};
    const uint64_t charged_;
    const uint32_t charged_uid_;
};

class MessageQueueFile final : public File {
  public:
    MessageQueueFile(Path path, int flags, Ref<MqueueInode> queue)
        : File(std::move(path), flags), queue_(std::move(queue)) {}
    MqueueInode& queue() const { return *queue_; }
    MessageQueueFile* as_message_queue() override { return this; }
    uint32_t poll_events(Task*) override { return queue_->poll_events(); }
    WaitQueue* waiters() override { return &queue_->waiters; }
    void descriptor_closed(Task& task) override;

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;

  private:
    const Ref<MqueueInode> queue_;
};

}  // namespace casemate::sentry
