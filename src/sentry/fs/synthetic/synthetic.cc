#include "sentry/fs/synthetic/synthetic.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <mutex>

#include "sentry/kernel/task.h"
#include "sentry/vfs/dentry.h"

namespace casemate::sentry {
namespace {

uint64_t next_number() {
    static std::atomic<uint64_t> next{0xf0000000};
    return next.fetch_add(1, std::memory_order_relaxed);
}

timespec present() {
    timespec time{};
    clock_gettime(CLOCK_REALTIME, &time);
    return time;
}

constexpr size_t kWriteLimit = 64 << 10;

}  // namespace

SyntheticInode::SyntheticInode(Ref<FileSystem> file_system, uint32_t mode, uint32_t uid, uint32_t gid)
    : Inode(std::move(file_system)), number_(next_number()), mode_(mode), uid_(uid), gid_(gid), made_(present()) {}

SysResult<void> SyntheticInode::stat(struct stat& out) {
    out = {};
    out.st_dev = file_system().device();
    out.st_ino = number_;
    out.st_mode = mode();
    out.st_nlink = S_ISDIR(mode()) ? 2 : 1;
    out.st_uid = uid();
    out.st_gid = gid();
    out.st_blksize = 1024;
    out.st_atim = out.st_mtim = out.st_ctim = made_;
    return {};
}

// The listing at the first read; a rewind makes it anew.
class SyntheticDirectoryFile final : public File {
  public:
    SyntheticDirectoryFile(Path path, int flags, Ref<SyntheticDirectory> directory)
        : File(std::move(path), flags), directory_(std::move(directory)) {}

    SysResult<int64_t> seek(Task&, int64_t offset, int whence) override {
        return seek_within(offset, whence, INT64_MAX);
    }
    SysResult<void> read_directory(Task& task, const EmitEntry& emit) override {
        std::lock_guard lock(position_mutex_);
        if (position_ == 0) {
            entries_.clear();
            directory_->list_all(&task, entries_);
        }
        auto number_of = [](const Path& place) -> uint64_t {
            struct stat status {};
            return place && place.inode().stat(status).ok() ? status.st_ino : 1;
        };
        while (true) {
            DirectoryEntry entry;
            entry.cookie = position_ + 1;
            if (position_ < 2) {
                entry.name = position_ == 0 ? "." : "..";
                entry.type = DT_DIR;
                entry.inode = number_of(path());
            } else {
                auto index = static_cast<size_t>(position_ - 2);
                if (index >= entries_.size()) return {};
                entry.name = entries_[index].name;
                entry.inode = entries_[index].inode;
                entry.type = entries_[index].type;
            }
            if (!emit(entry)) return {};
            position_++;
        }
    }

  private:
    Ref<SyntheticDirectory> directory_;
    std::vector<Listing::Entry> entries_;  // guarded by position_mutex_
};

SysResult<Ref<Inode>> SyntheticDirectory::lookup(std::string_view name) {
    auto it = fixed_.find(name);
    if (it == fixed_.end()) return Errno(ENOENT);
    return it->second;
}

bool SyntheticDirectory::revalidate_child(std::string_view name, Inode* child) {
    auto it = fixed_.find(name);
    return it != fixed_.end() && it->second.get() == child;
}

void SyntheticDirectory::list(Task*, std::vector<Listing::Entry>&) {}

void SyntheticDirectory::list_all(Task* task, std::vector<Listing::Entry>& into) {
    for (auto& [name, inode] : fixed_) {
        struct stat status {};
        uint64_t number = inode->stat(status).ok() ? status.st_ino : 1;
        into.push_back({name, number, static_cast<uint8_t>(inode->type() >> 12)});
    }
    list(task, into);
}

SysResult<std::shared_ptr<const Listing>> SyntheticDirectory::listing() {
    auto all = std::make_shared<Listing>();
    list_all(nullptr, all->entries);
    return std::shared_ptr<const Listing>(std::move(all));
}

SysResult<Ref<File>> SyntheticDirectory::open(Task&, const Path& path, int flags) {
    return Ref<File>(make_ref<SyntheticDirectoryFile>(path, flags, Ref<SyntheticDirectory>(this)));
}

class TextFileHandle final : public File {
  public:
    TextFileHandle(Path path, int flags, Ref<TextFile> inode)
        : File(std::move(path), flags), inode_(std::move(inode)) {}

    SysResult<int64_t> seek(Task&, int64_t offset, int whence) override { return seek_within(offset, whence, 0); }

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override {
        std::lock_guard lock(mutex_);
        if (offset == 0 || !made_) {
            text_ = TRY(inode_->make_(task));
            made_ = true;
        }
        if (offset < 0 || static_cast<size_t>(offset) >= text_.size() || into.remaining() == 0) return size_t{0};
        return into.copy_to(text_.data() + offset, text_.size() - static_cast<size_t>(offset));
    }
    SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t& offset, bool) override {
        if (!inode_->take_) return Errno(EINVAL);
        if (from.remaining() > kWriteLimit) return Errno(EINVAL);
        std::string text(from.remaining(), '\0');
        size_t got = TRY(from.copy_from(text.data(), text.size()));
        text.resize(got);
        TRY(inode_->take_(task, text));
        offset += static_cast<int64_t>(got);
        return got;
    }

  private:
    Ref<TextFile> inode_;
    std::mutex mutex_;
    std::string text_;   // guarded by mutex_
    bool made_ = false;  // guarded by mutex_
};

SysResult<Ref<File>> TextFile::open(Task&, const Path& path, int flags) {
    if ((flags & O_ACCMODE) != O_RDONLY && !take_) return Errno(EACCES);
    if ((flags & O_ACCMODE) != O_WRONLY && !make_) return Errno(EACCES);
    return Ref<File>(make_ref<TextFileHandle>(path, flags, Ref<TextFile>(this)));
}

SysResult<void> TextFile::change(const AttributeChange& change) {
    if (change.size && !change.mode && !change.uid && !change.gid) return {};
    return Errno(EPERM);
}

SysResult<void> SyntheticFileSystem::statfs(struct statfs& out) {
    out = {};
    out.f_type = magic_;
    out.f_bsize = 4096;
    out.f_namelen = 255;
    return {};
}

}  // namespace casemate::sentry
