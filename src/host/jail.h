// Starts a helper process (sentry, file server) in its jail: namespaces of its own, a root that shows nothing of the
// host, only the descriptors that were given to it, no privileges but the listed ones.
//
// The program is executed by a descriptor opened outside, so its file is not in the jail either. It must be linked
// statically and be executable by the jail's uid. Between clone and exec the child does raw syscalls only; the step at
// which it fails comes back as the Error of finish().
//
// What exec undoes the program does first thing itself: linux::set_dumpable(false); then its seccomp filter
// (host/seccomp_filter.h).
//
// Works as root and, with a new user namespace, as any user as far as the kernel allows: the jail's one id is then the
// caller's own, and the caller's supplementary groups stay.
#pragma once

#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::host {

constexpr uid_t kNobody = 65534;

// A set of capabilities, by CAP_* numbers.
class CapabilitySet {
  public:
    constexpr CapabilitySet() = default;
    constexpr CapabilitySet(std::initializer_list<int> capabilities) {
        for (int capability : capabilities) bits_ |= uint64_t{1} << capability;
    }
    constexpr bool has(int capability) const { return (bits_ >> capability & 1) != 0; }
    constexpr uint64_t bits() const { return bits_; }

  private:
    uint64_t bits_ = 0;
};

// What the file server needs to act on the pod's files as the pod's root would: nothing that reaches beyond files.
extern const CapabilitySet kFileServerCapabilities;

struct JailBind {
    std::string source;  // a path of the caller's; it is opened before the jail closes
    int mount_fd =
        -1;  // instead of a path: a detached mount (linux::clone_mount, linux::fsmount), which moves into the jail
    std::string target;  // absolute path in the jail
    bool read_only = true;
    bool recursive = true;
};

struct JailTmpfs {
    std::string target;
    bool huge = false;  // huge=always
    uint64_t size = 0;  // bytes; 0: no limit but the cgroup's
    mode_t mode = 0700;
};

struct JailRlimit {
    int resource = 0;  // RLIMIT_*
    rlim_t soft = 0;
    rlim_t hard = 0;
};

struct JailSpec {
    std::string program;            // path of the executable
    int program_fd = -1;            // or an open descriptor of it, borrowed
    std::vector<std::string> args;  // from argv[0]
    std::vector<std::string> environment;

    // Borrowed; the program sees them as 3, 4, ... and nothing else but 0 to 2. A -1 leaves that number unused.
    std::vector<int> fds;
    int stdin_fd = -1, stdout_fd = -1, stderr_fd = -1;  // -1: /dev/null
    // Adds one more descriptor behind `fds`: an unlinked file for guest memory on a private tmpfs with huge pages (a
    // plain memfd where the kernel has none), owned by the jail, so that also a rootless one gets it.
    bool memory_file = false;
    uint64_t memory_limit = 0;  // bytes the memory file may hold: a touch beyond is SIGBUS; 0: no limit of its own

    // CLONE_NEW*. Without CLONE_NEWNS the root stays as it is.
    uint64_t namespaces =
        CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    // The only ids mapped in a new user namespace (to themselves, or to the caller's where the caller has no such id);
    // without one, the ids to change to.
    uid_t uid = kNobody;
    gid_t gid = kNobody;
    CapabilitySet capabilities;  // kept over exec: in the new user namespace if there is one

    std::string root;  // a directory that becomes the root; empty: an empty tmpfs
    bool root_read_only = true;
    // Mount points are made in an empty root, and must exist in a given one.
    std::vector<JailTmpfs> tmpfs;
    std::vector<JailBind> binds;

    int cgroup_fd = -1;                           // cgroup v2: the child is born in this directory (CLONE_INTO_CGROUP)
    std::vector<std::string> cgroup_procs_files;  // cgroup v1: each hierarchy's cgroup.procs
    std::vector<JailRlimit> rlimits;
    std::optional<int> oom_score_adj;
    int death_signal = SIGKILL;  // when the *thread* that started the jail ends; 0: none
};

struct JailedProcess {
    pid_t pid = -1;
    UniqueFd pidfd;
    UniqueFd memory_control;  // with JailSpec::memory_file: for set_memory_limit; none where that is a memfd
};

// Changes what the memory file of a jail may hold. ENOTSUP without a control descriptor; 0: no limit.
Result<void> set_memory_limit(const UniqueFd& memory_control, uint64_t bytes);

// A start under way: several helpers can be started side by side. Without finish() the child is killed and reaped.
class JailStart {
  public:
    JailStart(JailStart&&) = default;
    JailStart& operator=(JailStart&&) = delete;
    ~JailStart();

    // Waits until the program runs. On failure the child is gone and the Error names the step.
    Result<JailedProcess> finish();
    // Readable when finish() will not block.
    int fd() const { return report_.get(); }
    pid_t pid() const { return process_.pid; }

  private:
    friend Result<JailStart> begin_jailed(const JailSpec& spec);
    JailStart() = default;

    JailedProcess process_;
    UniqueFd report_;
    std::string program_;
    std::vector<std::string> mount_names_;
};

Result<JailStart> begin_jailed(const JailSpec& spec);
// begin_jailed() and finish().
Result<JailedProcess> spawn_jailed(const JailSpec& spec);

}  // namespace casemate::host
