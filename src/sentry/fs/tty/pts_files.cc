#include "sentry/fs/tty/pts_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <charconv>
#include <cstring>

#include "sentry/kernel/credentials.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kMostTerminals = 4096;

// A node of devpts or /dev/ptmx there: chmod and chown are kept, open goes by device number.
class PtsNode final : public SyntheticInode {
  public:
    PtsNode(Ref<FileSystem> files, uint32_t mode, uint32_t uid, uint32_t gid, uint64_t device)
        : SyntheticInode(std::move(files), S_IFCHR | mode, uid, gid), device_(device) {}
    SysResult<void> stat(struct stat& out) override {
        TRY(SyntheticInode::stat(out));
        out.st_rdev = device_;
        return {};
    }
    SysResult<void> change(const AttributeChange& change) override {
        if (change.mode) set_mode(*change.mode);
        if (change.uid || change.gid) set_owner(change.uid.value_or(uid()), change.gid.value_or(gid()));
        return {};
    }
    SysResult<Ref<File>> open(Task&, const Path&, int) override { return Errno(ENXIO); }

  private:
    const uint64_t device_;
};

bool parse_number(std::string_view text, uint32_t& value, int base = 10) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

}  // namespace

class PtsRoot final : public SyntheticDirectory {
  public:
    explicit PtsRoot(Ref<PtsFileSystem> files) : SyntheticDirectory(files, 0755), files_(*files) {}
    SysResult<Ref<Inode>> lookup(std::string_view name) override {
        uint32_t number;
        if (parse_number(name, number)) {
            std::lock_guard lock(files_.mutex_);
            auto it = files_.terminals_.find(number);
            if (it != files_.terminals_.end()) return it->second.inode;
            return Errno(ENOENT);
        }
        return SyntheticDirectory::lookup(name);
    }
    bool revalidate_child(std::string_view name, Inode* child) override {
        auto now = lookup(name);
        return now.ok() ? now->get() == child : child == nullptr;
    }

  protected:
    void list(Task*, std::vector<Listing::Entry>& into) override {
        std::lock_guard lock(files_.mutex_);
        for (auto& [number, entry] : files_.terminals_) into.push_back({std::to_string(number), number + 3, DT_CHR});
    }

  private:
    PtsFileSystem& files_;  // outlives its inodes, which hold it
};

// The master end; the terminal's name goes with it.
class PtsMaster final : public File {
  public:
    PtsMaster(Path path, int flags, Ref<PtsFileSystem> files, Ref<Terminal> terminal)
        : File(path, flags),
          files_(std::move(files)),
          end_(make_ref<TtyMasterFile>(path, flags, std::move(terminal))) {}
    ~PtsMaster() override { files_->forget(end_->terminal().number); }

    SysResult<int64_t> seek(Task&, int64_t, int) override { return Errno(ESPIPE); }
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override {
        if (static_cast<uint32_t>(command) != TIOCGPTPEER) return end_->ioctl(task, command, argument);
        Ref<File> slave = TRY(files_->open_slave(task, path(), end_->terminal().number, static_cast<int>(argument)));
        return TRY(task.files().insert(std::move(slave), argument & O_CLOEXEC, task.limit(RLIMIT_NOFILE)));
    }
    uint32_t poll_events(Task* task) override { return end_->poll_events(task); }
    WaitQueue* waiters() override { return end_->waiters(); }
    bool seekable() const override { return false; }

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t) override {
        sync_flags();
        return end_->read(task, into);
    }
    SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t&, bool) override {
        sync_flags();
        return end_->write(task, from);
    }

  private:
    void sync_flags() {
        if (end_->nonblocking() != nonblocking()) end_->set_status_flags(flags());
    }
    Ref<PtsFileSystem> files_;
    Ref<TtyMasterFile> end_;
};

PtsFileSystem::PtsFileSystem(Kernel& kernel, uint32_t mode, uint32_t uid, uint32_t gid, bool own_gid,
                             uint32_t ptmx_mode, uint32_t most)
    : SyntheticFileSystem("devpts", DEVPTS_SUPER_MAGIC),
      kernel_(kernel),
      mode_(mode),
      uid_(uid),
      gid_(gid),
      own_gid_(own_gid),
      ptmx_mode_(ptmx_mode),
      most_(most) {}

SysResult<Ref<PtsFileSystem>> PtsFileSystem::create(Kernel& kernel, std::string_view options) {
    uint32_t mode = 0600, uid = 0, gid = 0, ptmx_mode = 0, most = kMostTerminals;
    bool own_gid = true;
    while (!options.empty()) {
        std::string_view one = options.substr(0, options.find(','));
        options.remove_prefix(std::min(options.size(), one.size() + 1));
        size_t equals = one.find('=');
        std::string_view key = one.substr(0, equals);
        std::string_view value = equals == std::string_view::npos ? "" : one.substr(equals + 1);
        if (key.empty() || key == "newinstance") continue;
        bool good = false;
        if (key == "mode")
            good = parse_number(value, mode, 8);
        else if (key == "ptmxmode")
            good = parse_number(value, ptmx_mode, 8);
        else if (key == "uid")
            good = parse_number(value, uid);
        else if (key == "gid")
            good = parse_number(value, gid), own_gid = false;
        else if (key == "max")
            good = parse_number(value, most);
        if (!good) return Errno(EINVAL);
    }
    auto files = Ref<PtsFileSystem>::adopt(
        new PtsFileSystem(kernel, mode & 0777, uid, gid, own_gid, ptmx_mode & 0777, std::min(most, kMostTerminals)));
    auto root = make_ref<PtsRoot>(files);
    root->add("ptmx", Ref<Inode>(make_ref<PtsNode>(files, files->ptmx_mode_, 0u, 0u, makedev(5, 2))));
    files->set_root(Ref<Inode>(std::move(root)));
    return files;
}

SysResult<PtsFileSystem::Pair> PtsFileSystem::open_master(Task* task, const Path& master_path, int flags) {
    Ref<Terminal> terminal;
    {
        std::lock_guard lock(mutex_);
        if (terminals_.size() >= most_) return Errno(ENOSPC);
        uint32_t number = 0;
        for (auto& [used, entry] : terminals_) {
            if (used != number) break;
            number++;
        }
        terminal = make_ref<Terminal>(kernel_, number);
        uint32_t uid = task != nullptr ? task->credentials().fsuid : uid_;
        uint32_t gid = own_gid_ && task != nullptr ? task->credentials().fsgid : gid_;
        auto inode = make_ref<PtsNode>(Ref<FileSystem>(this), mode_, uid, gid, makedev(136, number));
        terminals_[number] = {terminal.get(), Ref<Inode>(std::move(inode))};
    }
    Ref<File> master = make_ref<PtsMaster>(master_path, flags, Ref<PtsFileSystem>(this), terminal);
    return Pair{std::move(master), std::move(terminal)};
}

void PtsFileSystem::forget(uint32_t number) {
    std::lock_guard lock(mutex_);
    terminals_.erase(number);
}

SysResult<Ref<File>> PtsFileSystem::open_slave(Task& task, const Path& path, uint32_t number, int flags) {
    Ref<Terminal> terminal;
    {
        std::lock_guard lock(mutex_);
        auto it = terminals_.find(number);
        if (it == terminals_.end() || !it->second.terminal->try_ref()) return Errno(EIO);
        terminal = Ref<Terminal>::adopt(it->second.terminal);
    }
    if (terminal->locked()) return Errno(EIO);
    if (terminal->exclusive() && !task.has_capability(21 /* CAP_SYS_ADMIN */)) return Errno(EBUSY);
    Ref<File> file = make_ref<TtySlaveFile>(path, flags, terminal);
    if (!(flags & O_NOCTTY)) adopt_terminal(task, *terminal);
    return file;
}

Ref<PtsFileSystem> pts_of(Task& task) {
    Ref<PtsFileSystem> found;
    for (const auto& entry : task.namespaces().mount->snapshot())
        if (strcmp(entry.mount->file_system().type(), "devpts") == 0)
            return Ref<PtsFileSystem>(static_cast<PtsFileSystem*>(&entry.mount->file_system()));
    return nullptr;
}

}  // namespace casemate::sentry
