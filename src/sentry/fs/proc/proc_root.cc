#include <dirent.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/stat.h>

#include <charconv>
#include <mutex>

#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {
namespace {

class ProcRoot final : public SyntheticDirectory {
  public:
    explicit ProcRoot(Ref<ProcFileSystem> files) : SyntheticDirectory(files), files_(*files) {}

    SysResult<Ref<Inode>> lookup(std::string_view name) override {
        int number = 0;
        auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
        if (error != std::errc() || end != name.data() + name.size()) return SyntheticDirectory::lookup(name);
        if (number <= 0 || name[0] == '0') return Errno(ENOENT);
        // Any thread's number works, as on Linux; only those of processes are listed.
        Ref<Task> task = files_.kernel().tasks().find_task(files_.space(), number);
        if (!task) return Errno(ENOENT);
        return make_process_directory(Ref<ProcFileSystem>(&files_), std::move(task));
    }
    bool revalidate_child(std::string_view name, Inode* child) override {
        if (child == nullptr) return false;
        if (name[0] < '0' || name[0] > '9') return true;
        int number = 0;
        std::from_chars(name.data(), name.data() + name.size(), number);
        Ref<Task> task = files_.kernel().tasks().find_task(files_.space(), number);
        return task && same_subject(*child, *task);
    }

  protected:
    void list(Task*, std::vector<Listing::Entry>& into) override {
        for (auto& process : files_.kernel().tasks().processes(files_.space())) {
            std::lock_guard lock(files_.kernel().tasks().mutex);
            int number = process->pid ? process->pid->number_in(files_.space()) : 0;
            if (number > 0) into.push_back({std::to_string(number), static_cast<uint64_t>(number) + 0x10000, DT_DIR});
        }
    }

  private:
    static bool same_subject(Inode& directory, Task& task);
    ProcFileSystem& files_;
};

}  // namespace

// Defined with the directory (process_directory.cc): whether an inode of proc's root is the directory of `task`.
bool is_directory_of(Inode& directory, Task& task);

bool ProcRoot::same_subject(Inode& directory, Task& task) { return is_directory_of(directory, task); }

ProcFileSystem::ProcFileSystem(Kernel& kernel, Ref<PidNamespace> space)
    : SyntheticFileSystem("proc", PROC_SUPER_MAGIC), kernel_(kernel), space_(std::move(space)) {}

SysResult<Ref<ProcFileSystem>> ProcFileSystem::create(Kernel& kernel, Ref<PidNamespace> space,
                                                      std::string_view options) {
    if (!options.empty() && options != "hidepid=0" && options != "hidepid=off") return Errno(EINVAL);
    auto files = Ref<ProcFileSystem>::adopt(new ProcFileSystem(kernel, std::move(space)));
    auto root = make_ref<ProcRoot>(files);
    root->add("self",
              Ref<Inode>(make_ref<SyntheticLink>(files, [raw = files.get()](Task& task) -> SysResult<std::string> {
                  std::lock_guard lock(raw->kernel().tasks().mutex);
                  int number = task.process().pid->number_in(raw->space());
                  if (number == 0) return Errno(ENOENT);
                  return std::to_string(number);
              })));
    root->add("thread-self",
              Ref<Inode>(make_ref<SyntheticLink>(files, [raw = files.get()](Task& task) -> SysResult<std::string> {
                  std::lock_guard lock(raw->kernel().tasks().mutex);
                  int process = task.process().pid->number_in(raw->space());
                  int thread = task.pid().number_in(raw->space());
                  if (process == 0) return Errno(ENOENT);
                  return fmt::format("{}/task/{}", process, thread);
              })));
    auto link = [&](const char* name, const char* target) {
        root->add(name, Ref<Inode>(make_ref<SyntheticLink>(
                            files, [target](Task&) -> SysResult<std::string> { return std::string(target); })));
    };
    link("mounts", "self/mounts");
    link("net", "self/net");
    root->add("sys", make_sys_directory(files));
    add_system_files(*root, files);
    files->set_root(Ref<Inode>(std::move(root)));
    return files;
}

Ref<Task> leader_of(Kernel& kernel, Process& process) {
    std::lock_guard lock(kernel.tasks().mutex);
    return Ref<Task>(process.leader);
}

}  // namespace casemate::sentry
