#include "sentry/fs/proc/namespace_files.h"

#include <fmt/core.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/stat.h>

#include "sentry/fs/anonymous/anonymous_files.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/dentry.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kNewTime = 0x80;  // CLONE_NEWTIME
const char kType[] = "nsfs";         // compared by its address: what kind of inode a file has

// All namespaces are files of one file system, so that their numbers mean something.
class NamespaceFiles final : public FileSystem {
  public:
    const char* type() const override { return kType; }
    SysResult<Ref<Inode>> root() override { return Errno(ENOENT); }
    SysResult<void> statfs(struct statfs& out) override {
        out = {};
        out.f_type = NSFS_MAGIC;
        out.f_bsize = 4096;
        out.f_namelen = 255;
        return {};
    }
};

class NamespaceFile final : public File {
  public:
    NamespaceFile(Path path, int flags, uint64_t kind) : File(std::move(path), flags), kind_(kind) {}
    SysResult<int64_t> ioctl(Task&, uint64_t command, uint64_t) override {
        if (command == NS_GET_NSTYPE) return static_cast<int64_t>(kind_);
        return Errno(ENOTTY);
    }

  private:
    const uint64_t kind_;
};

class NamespaceInode final : public AnonymousInode {
  public:
    NamespaceInode(Ref<FileSystem> files, HeldNamespace held, const Credentials& owner)
        : AnonymousInode(std::move(files), held.inode, S_IFREG | 0444, owner), held_(std::move(held)) {}
    SysResult<Ref<File>> open(Task&, const Path& path, int flags) override {
        if ((flags & O_ACCMODE) != O_RDONLY) return Errno(EPERM);
        return Ref<File>(make_ref<NamespaceFile>(path, flags, held_.kind));
    }
    const HeldNamespace& held() const { return held_; }

  private:
    const HeldNamespace held_;
};

}  // namespace

SysResult<HeldNamespace> namespace_of(Task& task, std::string_view name) {
    HeldNamespace held;
    held.set = task.namespaces_of();
    Ref<Credentials> credentials = task.credentials_of();
    if (!held.set || !credentials) return Errno(ESRCH);
    const Namespaces& set = *held.set;
    if (name == "mnt") {
        held.kind = CLONE_NEWNS;
        held.inode = set.mount->id();
    } else if (name == "uts") {
        held.kind = CLONE_NEWUTS;
        held.inode = set.uts->inode;
    } else if (name == "ipc") {
        held.kind = CLONE_NEWIPC;
        held.inode = set.ipc->inode;
    } else if (name == "net") {
        held.kind = CLONE_NEWNET;
        held.inode = set.network->inode;
    } else if (name == "cgroup") {
        held.kind = CLONE_NEWCGROUP;
        held.inode = set.cgroup->inode;
    } else if (name == "time" || name == "time_for_children") {
        held.kind = kNewTime;
        held.inode = set.time->inode;
    } else if (name == "user") {
        held.kind = CLONE_NEWUSER;
        held.user = credentials->user_namespace;
        held.inode = held.user->inode;
    } else {
        held.kind = CLONE_NEWPID;
        held.pid = name == "pid" ? Ref<PidNamespace>(&task.pid_namespace()) : set.pid_for_children;
        held.inode = held.pid->inode;
    }
    return held;
}

SysResult<Path> namespace_place(Task& reader, Task& task, std::string_view name) {
    static const Ref<FileSystem> files = make_ref<NamespaceFiles>();
    HeldNamespace held = TRY(namespace_of(task, name));
    std::string shown = fmt::format("{}:[{}]", name.substr(0, name.find("_for_children")), held.inode);
    auto inode = make_ref<NamespaceInode>(files, std::move(held), reader.credentials());
    return Path(nullptr, Dentry::create_disconnected(Ref<Inode>(std::move(inode)), std::move(shown)));
}

const HeldNamespace* held_namespace(File& file) {
    Inode* inode = file.inode();
    if (inode == nullptr || inode->file_system().type() != kType) return nullptr;
    return &static_cast<NamespaceInode*>(inode)->held();
}

}  // namespace casemate::sentry
