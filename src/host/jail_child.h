// The child's side of a jail, between clone and exec. Everything that needs memory was prepared in a JailPlan.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "host/jail.h"

namespace casemate::host {

struct JailMount {
    enum class Kind { kTmpfs, kDetached, kPath } kind = Kind::kTmpfs;
    std::string target;
    std::string source;                                        // kPath; otherwise for messages
    int fd = -1;                                               // kDetached
    UniqueFd owned;                                            // holds `fd` where it is ours
    std::vector<std::pair<std::string, std::string>> options;  // kTmpfs
    uint64_t attributes = 0;                                   // MOUNT_ATTR_*
    bool recursive = true;
    bool directory = true;
};

struct JailPlan {
    const JailSpec* spec = nullptr;
    std::vector<char*> argv, envp;  // with a null at the end
    int program_fd = -1;
    UniqueFd owned_program;
    UniqueFd null_fd;
    std::vector<UniqueFd> cgroup_procs;
    std::string oom_score_adj;
    std::vector<JailMount> mounts;  // the first is the root, if the jail has a mount namespace
    bool make_mount_points = true;
    bool wait_for_parent = false;  // for JailGo
    std::string memory_size;       // JailSpec::memory_limit as tmpfs wants it
    int report_fd = -1;            // the child's end of the socket
    int parent_fd = -1;            // the parent's end, to be closed
};

enum class JailStep : int32_t {
    kMemoryControl,  // no failure: the message carries JailedProcess::memory_control
    kWaitForParent,
    kSession,
    kCgroup,
    kOomScore,
    kIds,
    kGroups,
    kHostname,
    kMemoryFile,
    kPrivateMounts,
    kMount,
    kMountPoint,
    kPivotRoot,
    kReadOnlyRoot,
    kDescriptors,
    kRlimit,
    kCapabilities,
    kNoNewPrivs,
    kDeathSignal,
    kExec,
};
const char* jail_step_name(JailStep step);

struct JailGo {
    bool may_keep_groups = false;
};
struct JailFailure {
    JailStep step;
    int32_t index;  // of the mount, or -1
    int32_t code;   // errno
};

[[noreturn]] void run_jail_child(const JailPlan& plan);

}  // namespace casemate::host
