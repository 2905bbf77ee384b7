// /proc/PID/fd and fdinfo.
#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <charconv>

#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

using About = std::function<Ref<Task>()>;

SysResult<FdTable::Entry> entry_of(const Ref<Task>& about, int fd) {
    Ref<FdTable> table = about ? about->files_of() : nullptr;
    if (!table) return Errno(ENOENT);
    auto entry = table->get_entry(fd);
    if (!entry.ok()) return Errno(ENOENT);
    return entry;
}

class FdLink final : public SyntheticInode {
  public:
    FdLink(Ref<FileSystem> files, About about, int fd, uint32_t mode, uint32_t uid, uint32_t gid)
        : SyntheticInode(std::move(files), S_IFLNK | mode, uid, gid), about_(std::move(about)), fd_(fd) {}
    SysResult<std::optional<Path>> magic_link(Task& reader) override {
        auto entry = TRY(find(reader));
        return std::optional<Path>(entry.file->path());
    }
    SysResult<std::string> read_link(Task& reader) override {
        auto entry = TRY(find(reader));
        return entry.file->link_name(reader);
    }
    SysResult<Ref<File>> open(Task&, const Path&, int) override { return Errno(ELOOP); }

  private:
    SysResult<FdTable::Entry> find(Task& reader) {
        Ref<Task> task = about_();
        if (!task) return Errno(ENOENT);
        if (!may_inspect(reader, *task)) return Errno(EACCES);
        return entry_of(task, fd_);
    }
    const About about_;
    const int fd_;
};

class FdDirectory final : public SyntheticDirectory {
  public:
    FdDirectory(Ref<ProcFileSystem> files, About about, bool info, uint32_t uid, uint32_t gid)
        : SyntheticDirectory(files, info ? 0555 : 0500, uid, gid),
          files_(*files),
          about_(std::move(about)),
          info_(info) {}

    SysResult<Ref<Inode>> lookup(std::string_view name) override {
        int fd = 0;
        auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), fd);
        if (error != std::errc() || end != name.data() + name.size() || fd < 0) return Errno(ENOENT);
        auto entry = TRY(entry_of(about_(), fd));
        if (!info_) {
            uint32_t mode = 0100u | (entry.file->readable() ? 0400u : 0u) | (entry.file->writable() ? 0200u : 0u);
            return Ref<Inode>(make_ref<FdLink>(Ref<FileSystem>(&files_), about_, fd, mode, uid(), gid()));
        }
        return Ref<Inode>(make_ref<TextFile>(
            Ref<FileSystem>(&files_), 0400u, [about = about_, fd](Task& reader) -> SysResult<std::string> {
                Ref<Task> task = about();
                if (!task) return Errno(ENOENT);
                if (!may_inspect(reader, *task)) return Errno(EACCES);
                auto entry = TRY(entry_of(task, fd));
                int64_t position = 0;
                if (entry.file->seekable()) position = entry.file->seek(reader, 0, SEEK_CUR).value_or(0);
                const Path& path = entry.file->path();
                return fmt::format("pos:\t{}\nflags:\t0{:o}\nmnt_id:\t{}\n", position,
                                   entry.file->flags() | (entry.close_on_exec ? O_CLOEXEC : 0),
                                   path.mount ? path.mount->id() : 0) +
                       entry.file->fdinfo(reader);
            }));
    }
    bool revalidate_child(std::string_view, Inode*) override { return false; }

  protected:
    void list(Task*, std::vector<Listing::Entry>& into) override {
        Ref<Task> task = about_();
        Ref<FdTable> table = task ? task->files_of() : nullptr;
        if (!table) return;
        for (int fd : table->open_fds())
            into.push_back({std::to_string(fd), static_cast<uint64_t>(fd) + 0x30000,
                            static_cast<uint8_t>(info_ ? DT_REG : DT_LNK)});
    }

  private:
    ProcFileSystem& files_;
    const About about_;
    const bool info_;
};

}  // namespace

Ref<Inode> make_fd_directory(Ref<ProcFileSystem> files, About about, bool info) {
    Ref<Task> task = about();
    Ref<Credentials> owner = task ? task->credentials_of() : nullptr;
    return Ref<Inode>(
        make_ref<FdDirectory>(files, std::move(about), info, owner ? owner->euid : 0u, owner ? owner->egid : 0u));
}

}  // namespace casemate::sentry
