// /proc/PID/mem: the memory of another process as a file, for those who may trace it.
#include <sys/stat.h>

#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/permissions.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {
namespace {

// It stands for the address space the process had when it was opened: after exec or exit it reads as empty.
class MemoryFileHandle final : public File {
  public:
    MemoryFileHandle(Path path, int flags, Ref<Task> task, Ref<AddressSpace> memory)
        : File(std::move(path), flags), task_(std::move(task)), memory_(std::move(memory)) {}

    SysResult<int64_t> seek(Task&, int64_t offset, int whence) override {
        std::lock_guard lock(position_mutex_);
        if (whence == SEEK_CUR)
            offset = static_cast<int64_t>(static_cast<uint64_t>(position_) + static_cast<uint64_t>(offset));
        else if (whence != SEEK_SET)
            return Errno(EINVAL);
        position_ = offset;
        return offset;
    }

  protected:
    SysResult<size_t> read_at(Task&, IoBuffer& into, int64_t offset) override {
        size_t moved = 0;
        while (into.remaining() != 0 && still_there()) {
            char bytes[4096];
            size_t wanted = std::min(sizeof(bytes), into.remaining());
            size_t got = memory_->copy_in_partial(static_cast<uint64_t>(offset) + moved, bytes, wanted);
            if (got == 0) return moved != 0 ? SysResult<size_t>(moved) : Errno(EIO);
            size_t copied = TRY(into.copy_to(bytes, got));
            moved += copied;
            if (copied < wanted) break;
        }
        return moved;
    }
    SysResult<size_t> write_at(Task&, IoBuffer& from, int64_t& offset, bool) override {
        size_t moved = 0;
        while (from.remaining() != 0 && still_there()) {
            char bytes[4096];
            size_t wanted = TRY(from.copy_from(bytes, std::min(sizeof(bytes), from.remaining())));
            size_t done = memory_->write_by_force(static_cast<uint64_t>(offset) + moved, bytes, wanted);
            if (done == 0) return moved != 0 ? SysResult<size_t>(moved) : Errno(EIO);
            moved += done;
            if (done < wanted) break;
        }
        return moved;
    }

  private:
    bool still_there() { return task_->memory_of() == memory_; }

    const Ref<Task> task_;
    const Ref<AddressSpace> memory_;
};

class MemoryInode final : public SyntheticInode {
  public:
    MemoryInode(Ref<FileSystem> files, std::function<Ref<Task>()> about)
        : SyntheticInode(std::move(files), S_IFREG | 0600), about_(std::move(about)) {}
    SysResult<Ref<File>> open(Task& reader, const Path& path, int flags) override {
        Ref<Task> task = about_();
        if (!task) return Errno(ESRCH);
        if (!may_inspect(reader, *task)) return Errno(EACCES);
        Ref<AddressSpace> memory = task->memory_of();
        if (!memory) return Errno(ESRCH);
        return Ref<File>(make_ref<MemoryFileHandle>(path, flags, std::move(task), std::move(memory)));
    }
    uint32_t uid() override { return owner(true); }
    uint32_t gid() override { return owner(false); }

  private:
    uint32_t owner(bool user) {
        Ref<Task> task = about_();
        Ref<Credentials> credentials = task ? task->credentials_of() : nullptr;
        if (!credentials) return 0;
        return user ? credentials->euid : credentials->egid;
    }
    const std::function<Ref<Task>()> about_;
};

}  // namespace

Ref<Inode> make_memory_file(Ref<ProcFileSystem> files, std::function<Ref<Task>()> about) {
    return Ref<Inode>(make_ref<MemoryInode>(std::move(files), std::move(about)));
}

}  // namespace casemate::sentry
