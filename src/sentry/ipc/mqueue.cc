#include "sentry/ipc/mqueue.h"

#include <dirent.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

constexpr long kMqueueMagic = 0x19800202;
constexpr uint64_t kMostTotal = 64 << 20;   // of a namespace: messages lie in the sentry's memory
constexpr uint64_t kMessageOverhead = 128;  // Linux counts its list nodes likewise

uint64_t cost_of(long messages, long size) {
    return static_cast<uint64_t>(messages) * (static_cast<uint64_t>(size) + kMessageOverhead);
}

}  // namespace

// The root: names are the queues.
class MqueueDirectory final : public SyntheticDirectory {
  public:
    explicit MqueueDirectory(Ref<MqueueFileSystem> files) : SyntheticDirectory(files, 01777), files_(*files) {}
    SysResult<Ref<Inode>> lookup(std::string_view name) override {
        if (auto queue = files_.find(name)) return Ref<Inode>(queue);
        return Errno(ENOENT);
    }
    bool revalidate_child(std::string_view name, Inode* child) override { return files_.find(name).get() == child; }
    SysResult<Ref<Inode>> create(std::string_view name, const NewInode& properties) override {
        if (!S_ISREG(properties.mode)) return Errno(EPERM);
        auto made = TRY(files_.make(name, properties, files_.default_messages(), files_.default_size(), ~0ull));
        return Ref<Inode>(made);
    }
    SysResult<void> unlink(std::string_view name, Inode& target) override {
        Ref<MqueueInode> gone;
        std::lock_guard lock(files_.mutex_);
        auto it = files_.queues_.find(name);
        if (it == files_.queues_.end() || it->second.get() != &target) return Errno(ENOENT);
        gone = std::move(it->second);
        files_.queues_.erase(it);
        return {};
    }

  protected:
    void list(Task*, std::vector<Listing::Entry>& into) override {
        std::lock_guard lock(files_.mutex_);
        for (auto& [name, queue] : files_.queues_) into.push_back({name, queue->number(), DT_REG});
    }

  private:
    MqueueFileSystem& files_;
};

Ref<MqueueFileSystem> MqueueFileSystem::create() { return make_ref<MqueueFileSystem>(); }

SysResult<Ref<Inode>> MqueueFileSystem::root() {
    std::lock_guard lock(mutex_);
    if (!root_) root_ = Ref<Inode>(make_ref<MqueueDirectory>(Ref<MqueueFileSystem>(this)));
    return root_;
}

SysResult<void> MqueueFileSystem::statfs(struct statfs& out) {
    out = {};
    out.f_type = kMqueueMagic;
    out.f_bsize = 4096;
    out.f_namelen = 255;
    return {};
}

Ref<MqueueInode> MqueueFileSystem::find(std::string_view name) {
    std::lock_guard lock(mutex_);
    auto it = queues_.find(name);
    return it == queues_.end() ? nullptr : it->second;
}

void MqueueFileSystem::dissolve() {
    std::map<std::string, Ref<MqueueInode>, std::less<>> queues;
    Ref<Inode> root;
    std::lock_guard lock(mutex_);
    queues.swap(queues_);
    std::swap(root, root_);
}

SysResult<void> MqueueFileSystem::charge(uint32_t uid, uint64_t bytes, uint64_t limit) {
    std::lock_guard lock(charge_mutex_);
    uint64_t& mine = charged_[uid];
    if (bytes > kMostTotal || charged_total_ + bytes > kMostTotal || mine + bytes > limit) return Errno(EMFILE);
    mine += bytes;
    charged_total_ += bytes;
    return {};
}
void MqueueFileSystem::give_back(uint32_t uid, uint64_t bytes) {
    std::lock_guard lock(charge_mutex_);
    auto it = charged_.find(uid);
    if ((it->second -= bytes) == 0) charged_.erase(it);
    charged_total_ -= bytes;
}

SysResult<Ref<MqueueInode>> MqueueFileSystem::make(std::string_view name, const NewInode& properties, long messages,
                                                   long size, uint64_t limit) {
    uint64_t bytes = cost_of(messages, size);
    TRY(charge(properties.uid, bytes, limit));
    auto fresh = make_ref<MqueueInode>(Ref<FileSystem>(this), properties, messages, size, bytes);
    std::lock_guard lock(mutex_);
    if (queues_.size() >= static_cast<size_t>(settings.queues_max)) return Errno(ENOSPC);
    if (!queues_.try_emplace(std::string(name), fresh).second) return Errno(EEXIST);
    return fresh;
}

SysResult<Ref<File>> MqueueFileSystem::open_queue(Task& task, std::string_view name, int flags, uint32_t mode,
                                                  const mq_attr* attributes) {
    if (name.empty()) return Errno(ENOENT);
    if (name.size() > 255) return Errno(ENAMETOOLONG);
    if (name.find('/') != name.npos || name == "." || name == "..") return Errno(EACCES);
    bool created = false;
    Ref<MqueueInode> queue = find(name);
    if (queue && (flags & O_CREAT) && (flags & O_EXCL)) return Errno(EEXIST);
    if (!queue) {
        if (!(flags & O_CREAT)) return Errno(ENOENT);
        long messages = default_messages(), size = default_size();
        if (attributes != nullptr) {
            bool privileged = task.has_capability(CAP_SYS_RESOURCE);
            messages = attributes->mq_maxmsg;
            size = attributes->mq_msgsize;
            if (messages <= 0 || size <= 0) return Errno(EINVAL);
            if (messages > (privileged ? kHardMessages : settings.msg_max.load())) return Errno(EINVAL);
            if (size > (privileged ? kHardSize : settings.msgsize_max.load())) return Errno(EINVAL);
        }
        const Credentials& credentials = task.credentials();
        NewInode properties;
        properties.mode = S_IFREG | (mode & 0777 & ~task.fs().umask());
        properties.uid = credentials.fsuid;
        properties.gid = credentials.fsgid;
        auto made = make(name, properties, messages, size, task.limit(RLIMIT_MSGQUEUE));
        if (made.ok()) {
            queue = made.take_value();
            created = true;
        } else {
            if (made.error().value != EEXIST || (flags & O_EXCL)) return made.take_error();
            queue = find(name);
            if (!queue) return Errno(ENOENT);
        }
    }
    if (!created) {
        if ((flags & O_ACCMODE) == (O_RDWR | O_WRONLY)) return Errno(EINVAL);
        int mask = (flags & O_ACCMODE) == O_RDONLY   ? kMayRead
                   : (flags & O_ACCMODE) == O_WRONLY ? kMayWrite
                                                     : kMayRead | kMayWrite;
        TRY(check_permission(task, *queue, mask));
    }
    Path place(nullptr, Dentry::create_disconnected(Ref<Inode>(queue), "/" + std::string(name)));
    return queue->open(task, place, flags);
}

SysResult<void> MqueueFileSystem::unlink_queue(Task& task, std::string_view name) {
    Ref<MqueueInode> gone;
    std::lock_guard lock(mutex_);
    auto it = queues_.find(name);
    if (it == queues_.end()) return Errno(ENOENT);
    // The directory is sticky: only the owner's.
    const Credentials& credentials = task.credentials();
    if (credentials.fsuid != it->second->uid() && credentials.fsuid != 0 && !credentials.has(CAP_FOWNER))
        return Errno(EPERM);
    gone = std::move(it->second);
    queues_.erase(it);
    return {};
}

MqueueInode::MqueueInode(Ref<FileSystem> files, const NewInode& properties, long messages, long size, uint64_t charged)
    : SyntheticInode(std::move(files), properties.mode, properties.uid, properties.gid),
      most_messages(messages),
      message_size(size),
      charged_(charged),
      charged_uid_(properties.uid) {}

MqueueInode::~MqueueInode() { static_cast<MqueueFileSystem&>(file_system()).give_back(charged_uid_, charged_); }

SysResult<void> MqueueInode::stat(struct stat& out) {
    TRY(SyntheticInode::stat(out));
    out.st_size = 80;
    return {};
}

SysResult<Ref<File>> MqueueInode::open(Task&, const Path& path, int flags) {
    return Ref<File>(make_ref<MessageQueueFile>(path, flags, Ref<MqueueInode>(this)));
}

SysResult<void> MqueueInode::change(const AttributeChange& change) {
    if (change.mode) set_mode(*change.mode);
    if (change.uid || change.gid) set_owner(change.uid.value_or(uid()), change.gid.value_or(gid()));
    return {};
}

long MqueueInode::messages() {
    std::lock_guard lock(mutex_);
    return count_;
}

SysResult<void> MqueueInode::send(Task& task, std::string message, uint32_t priority, bool nonblocking,
                                  Deadline deadline) {
    Ref<Process> told;
    sigevent event{};
    TRY(task.wait_on(waiters, EPOLLOUT, deadline, [&]() -> std::optional<SysResult<void>> {
        std::lock_guard lock(mutex_);
        if (count_ >= most_messages) {
            if (nonblocking) return SysResult<void>(Errno(EAGAIN));
            return std::nullopt;
        }
        bytes_ += message.size();
        queue_[priority].push_back(std::move(message));
        // Who asked is told of the first message in an empty queue that nobody waits for.
        if (++count_ == 1 && receivers_ == 0 && notified_) {
            told = std::move(notified_);
            event = event_;
        }
        return SysResult<void>();
    }));
    waiters.notify(EPOLLIN | EPOLLRDNORM);
    if (told && event.sigev_notify == SIGEV_SIGNAL) {
        siginfo_t info{};
        info.si_signo = event.sigev_signo;
        info.si_code = SI_MESGQ;
        info.si_value = event.sigev_value;
        info.si_pid = told->pid ? task.process().pid->number_in(told->pid->space()) : 0;
        info.si_uid = task.credentials().uid;
        told->send_signal(info);
    }
    return {};
}

SysResult<MqueueInode::Received> MqueueInode::receive(Task& task, bool nonblocking, Deadline deadline) {
    bool waits = false;
    auto stop_waiting_locked = [&] {
        if (std::exchange(waits, false)) receivers_--;
    };
    auto received = task.wait_on(waiters, EPOLLIN, deadline, [&]() -> std::optional<SysResult<Received>> {
        std::lock_guard lock(mutex_);
        stop_waiting_locked();
        if (count_ == 0) {
            if (nonblocking) return SysResult<Received>(Errno(EAGAIN));
            waits = true;
            receivers_++;
            return std::nullopt;
        }
        auto first = queue_.begin();
        Received taken{std::move(first->second.front()), first->first};
        first->second.pop_front();
        if (first->second.empty()) queue_.erase(first);
        count_--;
        bytes_ -= taken.message.size();
        return SysResult<Received>(std::move(taken));
    });
    {
        std::lock_guard lock(mutex_);
        stop_waiting_locked();
    }
    if (received.ok()) waiters.notify(EPOLLOUT | EPOLLWRNORM);
    return received;
}

SysResult<void> MqueueInode::notify(Task& task, const sigevent* event) {
    Ref<Process> dropped;
    std::lock_guard lock(mutex_);
    if (event == nullptr) {
        if (notified_.get() == &task.process()) dropped = std::move(notified_);
        return {};
    }
    if (notified_) return Errno(EBUSY);
    notified_ = Ref<Process>(&task.process());
    event_ = *event;
    return {};
}

void MqueueInode::forget_notify(Process& process) {
    Ref<Process> dropped;
    std::lock_guard lock(mutex_);
    if (notified_.get() == &process) dropped = std::move(notified_);
}

std::string MqueueInode::status_text(Task& task) {
    std::lock_guard lock(mutex_);
    int pid = notified_ && notified_->pid ? notified_->pid->number_in(task.pid_namespace()) : 0;
    int kind = notified_ ? event_.sigev_notify : 0;
    int signal = notified_ && event_.sigev_notify == SIGEV_SIGNAL ? event_.sigev_signo : 0;
    return fmt::format("QSIZE:{:<10} NOTIFY:{:<5} SIGNO:{:<5} NOTIFY_PID:{:<6}\n", bytes_, kind, signal, pid);
}

uint32_t MqueueInode::poll_events() {
    std::lock_guard lock(mutex_);
    return (count_ > 0 ? EPOLLIN | EPOLLRDNORM : 0u) | (count_ < most_messages ? EPOLLOUT | EPOLLWRNORM : 0u);
}

void MessageQueueFile::descriptor_closed(Task& task) {
    queue_->forget_notify(task.process());
    File::descriptor_closed(task);
}

SysResult<size_t> MessageQueueFile::read_at(Task& task, IoBuffer& into, int64_t offset) {
    std::string text = queue_->status_text(task);
    if (offset < 0 || static_cast<size_t>(offset) >= text.size()) return size_t{0};
    return into.copy_to(text.data() + offset, text.size() - static_cast<size_t>(offset));
}

}  // namespace casemate::sentry
