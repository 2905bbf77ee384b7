// proc: processes and the kernel as text, what ps, top, free, getconf, python, node and gcc read.
//
// proc_root.cc: the root and the files about the system; process_directory.cc: /proc/PID and /proc/PID/task/TID;
// process_text.cc: its files; process_fds.cc: fd and fdinfo; proc_sys.cc: /proc/sys.
#pragma once

#include <string>

#include "sentry/fs/synthetic/synthetic.h"
#include "sentry/kernel/permissions.h"
#include "sentry/kernel/pid.h"

namespace casemate::sentry {

class Container;
class Kernel;
class Process;
class Task;

class ProcFileSystem final : public SyntheticFileSystem {
  public:
    // Shows the processes of `space`. hidepid= and gid= are accepted with hidepid=0 only (EINVAL otherwise).
    static SysResult<Ref<ProcFileSystem>> create(Kernel& kernel, Ref<PidNamespace> space, std::string_view options);
    bool names_can_change() const override { return true; }

    Kernel& kernel() const { return kernel_; }
    PidNamespace& space() const { return *space_; }

  private:
    ProcFileSystem(Kernel& kernel, Ref<PidNamespace> space);
    Kernel& kernel_;
    const Ref<PidNamespace> space_;
};

// The parts of the tree, each made by its own file.
// In the root, for any thread; the leader's stays that of its process when another thread takes its place by execve.
Ref<Inode> make_process_directory(Ref<ProcFileSystem> files, Ref<Task> task);
Ref<Inode> make_thread_directory(Ref<ProcFileSystem> files, Ref<Task> task);
Ref<Inode> make_memory_file(Ref<ProcFileSystem> files, std::function<Ref<Task>()> about);
Ref<Inode> make_fd_directory(Ref<ProcFileSystem> files, std::function<Ref<Task>()> about, bool info);
Ref<Inode> make_sys_directory(Ref<ProcFileSystem> files);
void add_system_files(SyntheticDirectory& root, Ref<ProcFileSystem> files);

// Contents of /proc/PID files. EACCES where Linux asks for ptrace rights, ESRCH when the task is gone.
SysResult<std::string> process_stat_text(Task& about, ProcFileSystem& files, bool whole_process);
SysResult<std::string> process_status_text(Task& about, ProcFileSystem& files);
SysResult<std::string> process_statm_text(Task& about);
SysResult<std::string> process_maps_text(Task& reader, Task& about, bool detailed);
SysResult<std::string> process_smaps_rollup_text(Task& about);
SysResult<std::string> process_numa_maps_text(Task& reader, Task& about);
SysResult<std::string> process_area_text(Task& about, bool environment);  // cmdline, environ
SysResult<std::string> process_limits_text(Task& about);
SysResult<std::string> process_auxv_text(Task& about);
SysResult<std::string> mounts_text(Task& reader, Task& about, bool mountinfo);
SysResult<std::string> mount_statistics_text(Task& reader, Task& about);
SysResult<std::string> thread_children_text(Task& about, ProcFileSystem& files);

// /proc/PID/net, of the reading task's network namespace (process_net.cc).
void add_network_files(SyntheticDirectory& directory, Ref<ProcFileSystem> files);

// /proc/sys/net (net_sysctl.cc): of the network namespace of whoever reads or writes.
struct NetworkSetting {
    std::string path;
    TextFile::Make make;
    TextFile::Take take;  // null: read-only
};
std::vector<NetworkSetting> network_settings();
// Without white space around it.
std::string_view trimmed(std::string_view text);

// The process whose /proc/PID this is, or that of the thread; null: something else.
Ref<Process> process_of_directory(const Path& path);

// The task of a process that stands for it; null once it has ended.
Ref<Task> leader_of(Kernel& kernel, Process& process);

}  // namespace casemate::sentry
