// /proc/PID and /proc/PID/task/TID: which files there are. Inodes hold the process or task; once it is gone they answer
// ESRCH (or ENOENT for names). A directory in the root may be that of a thread which does not lead its process: then
// its files tell of the thread.
#include <dirent.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <charconv>
#include <mutex>

#include "sentry/fs/proc/namespace_files.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

using About = std::function<Ref<Task>()>;

// exe, cwd, root: links that jump.
class JumpLink final : public SyntheticInode {
  public:
    using Find = std::function<SysResult<Path>(Task&)>;
    JumpLink(Ref<FileSystem> files, About about, Find find)
        : SyntheticInode(std::move(files), S_IFLNK | 0777), about_(std::move(about)), find_(std::move(find)) {}

    SysResult<std::optional<Path>> magic_link(Task& reader) override {
        return std::optional<Path>(TRY(target(reader)));
    }
    SysResult<std::string> read_link(Task& reader) override {
        Path path = TRY(target(reader));
        return path_text(reader, path);
    }
    SysResult<Ref<File>> open(Task&, const Path&, int) override { return Errno(ELOOP); }

  private:
    SysResult<Path> target(Task& reader) {
        Ref<Task> task = about_();
        if (!task) return Errno(ESRCH);
        if (!may_inspect(reader, *task)) return Errno(EACCES);
        return find_(*task);
    }
    About about_;
    Find find_;
};

class NamespaceLink final : public SyntheticInode {
  public:
    NamespaceLink(Ref<FileSystem> files, About about, const char* kind)
        : SyntheticInode(std::move(files), S_IFLNK | 0777), about_(std::move(about)), kind_(kind) {}
    SysResult<std::optional<Path>> magic_link(Task& reader) override {
        return std::optional<Path>(TRY(target(reader)));
    }
    SysResult<std::string> read_link(Task& reader) override {
        Path place = TRY(target(reader));
        return place.dentry->name();
    }
    SysResult<Ref<File>> open(Task&, const Path&, int) override { return Errno(ELOOP); }

  private:
    SysResult<Path> target(Task& reader) {
        Ref<Task> task = about_();
        if (!task) return Errno(ESRCH);
        if (!may_inspect(reader, *task)) return Errno(EACCES);
        return namespace_place(reader, *task, kind_);
    }
    const About about_;
    const char* const kind_;
};

SysResult<Path> executable_of(Task& task) {
    Ref<AddressSpace> memory = task.memory_of();
    if (!memory) return Errno(ENOENT);
    Ref<File> file = memory->layout().executable;
    if (!file) return Errno(ENOENT);
    return file->path();
}
SysResult<Path> working_directory_of(Task& task) {
    Ref<FsContext> fs = task.fs_of();
    if (!fs) return Errno(ENOENT);
    return fs->working_directory();
}
SysResult<Path> root_of(Task& task) {
    Ref<FsContext> fs = task.fs_of();
    if (!fs) return Errno(ENOENT);
    return fs->root();
}

class TaskListDirectory final : public SyntheticDirectory {
  public:
    TaskListDirectory(Ref<ProcFileSystem> files, Ref<Process> process)
        : SyntheticDirectory(files), files_(std::move(files)), process_(std::move(process)) {}
    SysResult<Ref<Inode>> lookup(std::string_view name) override {
        Ref<Task> task = find(name);
        if (!task) return Errno(ENOENT);
        return make_thread_directory(files_, std::move(task));
    }
    bool revalidate_child(std::string_view name, Inode* child) override { return child != nullptr && find(name); }

  protected:
    void list(Task*, std::vector<Listing::Entry>& into) override {
        for (auto& task : files_->kernel().tasks().threads_of(*process_)) {
            int number = task->pid().number_in(files_->space());
            into.push_back({std::to_string(number), static_cast<uint64_t>(number) + 0x20000, DT_DIR});
        }
    }

  private:
    Ref<Task> find(std::string_view name) {
        int number = 0;
        auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
        if (error != std::errc() || end != name.data() + name.size()) return nullptr;
        Ref<Task> task = files_->kernel().tasks().find_task(files_->space(), number);
        return task && &task->process() == process_.get() ? task : nullptr;
    }
    Ref<ProcFileSystem> files_;
    Ref<Process> process_;
};

class ProcessDirectory final : public SyntheticDirectory {
  public:
    ProcessDirectory(Ref<FileSystem> files, About about, Ref<Process> process, Ref<Task> thread)
        : SyntheticDirectory(std::move(files)),
          process(std::move(process)),
          thread(std::move(thread)),
          about_(std::move(about)) {
        Ref<Task> task = about_();
        if (Ref<Credentials> owner = task ? task->credentials_of() : nullptr) set_owner(owner->euid, owner->egid);
    }
    SysResult<Ref<Inode>> lookup(std::string_view name) override {
        if (!about_()) return Errno(ENOENT);
        return SyntheticDirectory::lookup(name);
    }
    bool revalidate_child(std::string_view name, Inode* child) override {
        return about_() && SyntheticDirectory::revalidate_child(name, child);
    }
    const Ref<Process> process;  // null: under task
    const Ref<Task> thread;      // null: the leader, whoever that is

  private:
    const About about_;
};

// Null once it has ended and nobody is to wait for it.
About about_thread(Ref<Task> task) {
    return [task = std::move(task)] {
        std::lock_guard lock(task->kernel().tasks().mutex);
        return task->parts().released ? Ref<Task>() : task;
    };
}

// Without a security module there is nothing to read or to set.
Ref<Inode> make_attr_directory(const Ref<FileSystem>& fs) {
    auto directory = make_ref<SyntheticDirectory>(fs);
    for (const char* name : {"current", "exec", "fscreate", "keycreate", "prev", "sockcreate"}) {
        auto make = [](Task&) -> SysResult<std::string> { return Errno(EINVAL); };
        if (name == std::string_view("prev"))
            directory->add(name, Ref<Inode>(make_ref<TextFile>(fs, 0444u, make)));
        else
            directory->add(
                name, Ref<Inode>(make_ref<TextFile>(
                          fs, 0666u, make, [](Task&, std::string_view) -> SysResult<void> { return Errno(EINVAL); })));
    }
    return Ref<Inode>(std::move(directory));
}

// oom_adj: the same from -17 to 15, as it was before Linux 2.6.36.
constexpr int kOldOomDisable = -17, kOldOomMax = 15;

int old_oom_value(int value) { return value == 1000 ? kOldOomMax : value * -kOldOomDisable / 1000; }

SysResult<void> set_oom_score_adj(Task& reader, Task& about, std::string_view text, bool old_scale) {
    int value = 0;
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return Errno(EINVAL);
    if (old_scale) {
        if (value < kOldOomDisable || value > kOldOomMax) return Errno(EINVAL);
        value = value == kOldOomMax ? 1000 : value * 1000 / -kOldOomDisable;
    }
    if (value < -1000 || value > 1000) return Errno(EINVAL);
    if (value < about.process().oom_score_adj.load() && !reader.has_capability(24 /* CAP_SYS_RESOURCE */))
        return Errno(EACCES);
    about.process().oom_score_adj.store(value);
    return {};
}

// The files that a process and a thread have alike.
void fill(ProcessDirectory& directory, const Ref<ProcFileSystem>& files, const About& about, bool whole_process) {
    Ref<FileSystem> fs = files;
    auto with = [about](auto make) {
        return [about, make](Task& reader) -> SysResult<std::string> {
            Ref<Task> task = about();
            if (!task) return Errno(ESRCH);
            return make(reader, *task);
        };
    };
    auto text = [&](const char* name, uint32_t mode, auto make) {
        directory.add(name, Ref<Inode>(make_ref<TextFile>(fs, mode, with(make))));
    };
    auto guarded = [&](const char* name, uint32_t mode, auto make) {
        text(name, mode, [make](Task& reader, Task& task) -> SysResult<std::string> {
            if (!may_inspect(reader, task)) return Errno(EACCES);
            return make(reader, task);
        });
    };
    ProcFileSystem* raw = files.get();
    text("stat", 0444, [=](Task&, Task& task) { return process_stat_text(task, *raw, whole_process); });
    text("status", 0444, [=](Task&, Task& task) { return process_status_text(task, *raw); });
    text("statm", 0444, [](Task&, Task& task) { return process_statm_text(task); });
    text("cmdline", 0444, [](Task&, Task& task) { return process_area_text(task, false); });
    guarded("environ", 0400, [](Task&, Task& task) { return process_area_text(task, true); });
    guarded("auxv", 0400, [](Task&, Task& task) { return process_auxv_text(task); });
    guarded("maps", 0444, [](Task& reader, Task& task) { return process_maps_text(reader, task, false); });
    guarded("smaps", 0444, [](Task& reader, Task& task) { return process_maps_text(reader, task, true); });
    guarded("smaps_rollup", 0444, [](Task&, Task& task) { return process_smaps_rollup_text(task); });
    text("limits", 0444, [](Task&, Task& task) { return process_limits_text(task); });
    text("mounts", 0444, [](Task& reader, Task& task) { return mounts_text(reader, task, false); });
    text("mountinfo", 0444, [](Task& reader, Task& task) { return mounts_text(reader, task, true); });
    guarded("numa_maps", 0444, [](Task& reader, Task& task) { return process_numa_maps_text(reader, task); });
    text("cpuset", 0444, [](Task&, Task&) -> SysResult<std::string> { return std::string("/\n"); });
    text("projid_map", 0444,
         [](Task&, Task&) -> SysResult<std::string> { return fmt::format("{:10} {:10} {:10}\n", 0, 0, 4294967295u); });
    text("cgroup", 0444, [](Task&, Task&) -> SysResult<std::string> { return std::string("0::/\n"); });
    text("oom_score", 0444, [](Task&, Task& task) -> SysResult<std::string> {
        return fmt::format("{}\n", 666 + task.process().oom_score_adj.load() * 2 / 3);
    });
    text("loginuid", 0444, [](Task&, Task&) -> SysResult<std::string> { return std::string("4294967295"); });
    text("sessionid", 0444, [](Task&, Task&) -> SysResult<std::string> { return std::string("4294967295"); });
    guarded("wchan", 0444, [](Task&, Task&) -> SysResult<std::string> { return std::string("0"); });
    guarded("syscall", 0400, [](Task&, Task&) -> SysResult<std::string> { return std::string("running\n"); });
    guarded("personality", 0400, [](Task&, Task& task) -> SysResult<std::string> {
        return fmt::format("{:08x}\n", task.parts().personality);
    });
    text("schedstat", 0444, [](Task&, Task&) -> SysResult<std::string> { return std::string("0 0 0\n"); });
    guarded("timerslack_ns", 0666, [](Task&, Task& task) -> SysResult<std::string> {
        return fmt::format("{}\n", task.parts().timer_slack_ns.load());
    });
    for (const char* map : {"uid_map", "gid_map"})
        text(map, 0444, [uids = map[0] == 'u'](Task&, Task& task) -> SysResult<std::string> {
            Ref<Credentials> credentials = task.credentials_of();
            if (!credentials) return Errno(ESRCH);
            const IdMaps& ids = credentials->user_namespace->ids;
            const IdMap& ranges = uids ? ids.uids : ids.gids;
            if (ranges.identity()) return fmt::format("{:10} {:10} {:10}\n", 0, 0, 4294967295u);
            std::string lines;
            for (const IdRange& range : ranges.ranges)
                lines += fmt::format("{:10} {:10} {:10}\n", range.inside, range.outside, range.count);
            return lines;
        });
    text("setgroups", 0444, [](Task&, Task&) -> SysResult<std::string> { return std::string("allow\n"); });
    guarded("io", 0400, [](Task&, Task&) -> SysResult<std::string> {
        return std::string(
            "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\n"
            "cancelled_write_bytes: 0\n");
    });

    auto writable = [&](const char* name, uint32_t mode, auto make, auto take) {
        directory.add(
            name, Ref<Inode>(make_ref<TextFile>(fs, mode, with(make),
                                                [about, take](Task& writer, std::string_view value) -> SysResult<void> {
                                                    Ref<Task> task = about();
                                                    if (!task) return Errno(ESRCH);
                                                    return take(writer, *task, value);
                                                })));
    };
    writable(
        "comm", 0644, [](Task&, Task& task) -> SysResult<std::string> { return task.name() + "\n"; },
        [](Task& writer, Task& task, std::string_view value) -> SysResult<void> {
            if (&writer.process() != &task.process()) return Errno(EINVAL);
            while (!value.empty() && value.back() == '\n') value.remove_suffix(1);
            task.set_name(value.substr(0, 15));
            return {};
        });
    writable(
        "oom_score_adj", 0644,
        [](Task&, Task& task) -> SysResult<std::string> {
            return fmt::format("{}\n", task.process().oom_score_adj.load());
        },
        [](Task& writer, Task& task, std::string_view value) { return set_oom_score_adj(writer, task, value, false); });
    writable(
        "oom_adj", 0644,
        [](Task&, Task& task) -> SysResult<std::string> {
            return fmt::format("{}\n", old_oom_value(task.process().oom_score_adj.load()));
        },
        [](Task& writer, Task& task, std::string_view value) { return set_oom_score_adj(writer, task, value, true); });
    writable(
        "coredump_filter", 0644, [](Task&, Task&) -> SysResult<std::string> { return std::string("00000033\n"); },
        [](Task&, Task&, std::string_view) -> SysResult<void> { return Errno(EPERM); });

    if (whole_process) {
        guarded("mountstats", 0400, [](Task& reader, Task& task) { return mount_statistics_text(reader, task); });
        text("timens_offsets", 0444, [](Task&, Task&) -> SysResult<std::string> {
            return std::string("monotonic           0         0\nboottime            0         0\n");
        });
    } else {
        text("children", 0444, [=](Task&, Task& task) { return thread_children_text(task, *raw); });
    }

    directory.add("fd", make_fd_directory(files, about, false));
    directory.add("fdinfo", make_fd_directory(files, about, true));
    auto net = make_ref<SyntheticDirectory>(fs);
    add_network_files(*net, files);
    directory.add("net", Ref<Inode>(std::move(net)));
    directory.add("attr", make_attr_directory(fs));
    directory.add("mem", make_memory_file(files, about));
    directory.add("exe", Ref<Inode>(make_ref<JumpLink>(fs, about, executable_of)));
    directory.add("cwd", Ref<Inode>(make_ref<JumpLink>(fs, about, working_directory_of)));
    directory.add("root", Ref<Inode>(make_ref<JumpLink>(fs, about, root_of)));

    auto namespaces = make_ref<SyntheticDirectory>(fs, 0511u);
    for (const char* kind :
         {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"})
        namespaces->add(kind, Ref<Inode>(make_ref<NamespaceLink>(fs, about, kind)));
    directory.add("ns", Ref<Inode>(std::move(namespaces)));
}

}  // namespace

bool is_directory_of(Inode& directory, Task& task) {
    // Only directories of processes and threads have names of digits in the root.
    auto& of = static_cast<ProcessDirectory&>(directory);
    std::lock_guard lock(task.kernel().tasks().mutex);
    return of.process.get() == &task.process() && of.thread.get() == (task.process().leader == &task ? nullptr : &task);
}

Ref<Process> process_of_directory(const Path& path) {
    if (!path || path.dentry->negative() || path.inode().file_system().type() != std::string_view("proc"))
        return nullptr;
    std::string name = path.dentry->name();
    Ref<Dentry> parent = path.dentry->parent();
    if (!parent->is_root() || parent == path.dentry || name[0] < '0' || name[0] > '9') return nullptr;
    return static_cast<ProcessDirectory&>(path.inode()).process;
}

Ref<Inode> make_process_directory(Ref<ProcFileSystem> files, Ref<Task> task) {
    Kernel& kernel = files->kernel();
    Ref<Process> process(&task->process());
    bool leads = leader_of(kernel, *process) == task;
    About about = about_thread(task);
    if (leads) about = [&kernel, process] { return leader_of(kernel, *process); };
    auto directory = make_ref<ProcessDirectory>(files, about, process, leads ? Ref<Task>() : std::move(task));
    fill(*directory, files, about, true);
    directory->add("task", Ref<Inode>(make_ref<TaskListDirectory>(files, process)));
    return Ref<Inode>(std::move(directory));
}

Ref<Inode> make_thread_directory(Ref<ProcFileSystem> files, Ref<Task> task) {
    About about = about_thread(std::move(task));
    auto directory = make_ref<ProcessDirectory>(files, about, Ref<Process>(), Ref<Task>());
    fill(*directory, files, about, false);
    return Ref<Inode>(std::move(directory));
}

}  // namespace casemate::sentry
