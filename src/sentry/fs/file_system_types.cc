#include "sentry/vfs/file_system_types.h"

#include "sentry/fs/cgroup/cgroup_view.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/sys/sysfs.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/fs/tty/pts_files.h"
#include "sentry/ipc/ipc_state.h"
#include "sentry/ipc/mqueue.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

namespace {

SysResult<Ref<FileSystem>> make_tmpfs(Task& task, std::string_view, std::string_view text) {
    MemoryFile& memory = task.kernel().memory();
    TmpfsOptions options = TRY(TmpfsOptions::parse(text, memory.limit()));
    if (text.find("uid=") == std::string_view::npos) options.uid = task.credentials().fsuid;
    if (text.find("gid=") == std::string_view::npos) options.gid = task.credentials().fsgid;
    return Ref<FileSystem>(TmpfsFileSystem::create(memory, options));
}

SysResult<Ref<FileSystem>> make_proc(Task& task, std::string_view, std::string_view options) {
    auto files = TRY(ProcFileSystem::create(task.kernel(), Ref<PidNamespace>(&task.pid_namespace()), options));
    return Ref<FileSystem>(files);
}

SysResult<Ref<FileSystem>> make_devpts(Task& task, std::string_view, std::string_view options) {
    auto files = TRY(PtsFileSystem::create(task.kernel(), options));
    return Ref<FileSystem>(files);
}

SysResult<Ref<FileSystem>> make_overlay(Task& task, std::string_view, std::string_view options) {
    return mount_overlay(task, options);
}

SysResult<Ref<FileSystem>> make_sys(Task& task, std::string_view, std::string_view options) {
    return make_sysfs(task.kernel(), options);
}

SysResult<Ref<FileSystem>> make_cgroup(Task& task, std::string_view, std::string_view) {
    return make_cgroup_view(task.kernel(), task.process().container);
}

SysResult<Ref<FileSystem>> make_mqueue(Task& task, std::string_view, std::string_view options) {
    if (!options.empty()) return Errno(EINVAL);
    return Ref<FileSystem>(&ipc_of(task)->posix_queues());
}

constexpr FileSystemType kTypes[] = {
    {"mqueue", make_mqueue}, {"sysfs", make_sys}, {"cgroup2", make_cgroup}, {"tmpfs", make_tmpfs},
    {"ramfs", make_tmpfs},   {"proc", make_proc}, {"devpts", make_devpts},  {"overlay", make_overlay},
};

}  // namespace

const FileSystemType* find_file_system_type(std::string_view name) {
    for (const FileSystemType& type : kTypes)
        if (name == type.name) return &type;
    return nullptr;
}

std::span<const FileSystemType> file_system_types() { return kTypes; }

}  // namespace casemate::sentry
