#include "sentry/kernel/pidfd.h"

#include <sys/epoll.h>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {
namespace {

class PidFile final : public File {
  public:
    PidFile(Kernel& kernel, Ref<Pid> pid, int flags)
        : File(Path(), flags | O_RDWR), kernel_(kernel), pid_(std::move(pid)) {}

    uint32_t poll_events(Task*) override {
        std::lock_guard lock(kernel_.tasks().mutex);
        if (pid_->process != nullptr && !pid_->process->zombie) return 0;
        if (pid_->process == nullptr && pid_->task != nullptr && pid_->task->parts().dead.load() == 0) return 0;
        uint32_t events = EPOLLIN | EPOLLRDNORM;
        if (pid_->process == nullptr && pid_->task == nullptr) events |= EPOLLHUP;
        return events;
    }
    WaitQueue* waiters() override { return &pid_->exit_waiters; }
    bool seekable() const override { return false; }
    std::string link_name(Task&) override { return "anon_inode:[pidfd]"; }
    std::string fdinfo(Task& reader) override {
        int number = pid_->number_in(reader.pid_namespace());
        return "Pid:\t" + std::to_string(number) + "\nNSpid:\t" + std::to_string(number) + "\n";
    }
    SysResult<void> stat(Task&, struct stat& out) override {
        out = {};
        out.st_mode = 0600;
        out.st_nlink = 1;
        out.st_ino = static_cast<ino_t>(pid_->root_number());
        out.st_blksize = 4096;
        return {};
    }
    Pid* pidfd_target() override { return pid_.get(); }

  private:
    Kernel& kernel_;
    const Ref<Pid> pid_;
};

}  // namespace

Ref<File> make_pidfd(Kernel& kernel, Ref<Pid> pid, int flags) {
    return make_ref<PidFile>(kernel, std::move(pid), flags);
}

SysResult<Ref<Pid>> pid_of(File& file) {
    Pid* pid = file.pidfd_target();
    if (pid == nullptr) return Errno(EBADF);
    return Ref<Pid>(pid);
}

}  // namespace casemate::sentry
