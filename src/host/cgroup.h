// A pod's or container's cgroup on this host: cgroups v1 (also the hybrid layout) and v2, made by us (cgroupfs) or by
// systemd.
//
// The order that works everywhere: create(), apply(), then add_process(). Errors name the field of config.json
// ("linux.resources.memory.limit") and the controller behind it; a controller that this host lacks is an error only
// when a field asks for it.
//
// The first add_process() of a v1 cgroup takes 6 to 27 ms here, asleep in the kernel (an RCU grace period per
// hierarchy lock), later ones 0.1 ms: start it early and beside other work. Children inherit for nothing.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "host/cgroup_mounts.h"
#include "host/cgroup_stats.h"
#include "oci/spec.h"

namespace casemate::host {

enum class CgroupDriver { kCgroupfs, kSystemd };

struct CgroupRequest {
    // linux.cgroupsPath. cgroupfs: absolute from the mount points, relative from our own cgroup (v2: from its parent,
    // since a cgroup with processes cannot hand out controllers). systemd: "slice:prefix:name". Empty: a default.
    std::string path;
    std::string id;  // of the sandbox or container: names the default
    CgroupDriver driver = CgroupDriver::kCgroupfs;
    // Without privileges: hierarchies where no cgroup can be made are left out, and only fields that need their
    // controllers fail. With systemd, the user's manager is asked.
    bool rootless = false;
    // systemd makes no scope without a process: it is moved there by create(). Ignored by cgroupfs.
    pid_t first_process = 0;
};

// All that a later command needs to open the cgroup again; kept in the state file.
struct CgroupRecord {
    // v1: directory by controller; v2: one directory under the name "".
    std::map<std::string, std::string, std::less<>> paths;
    std::string systemd_unit;  // empty: cgroupfs
    bool systemd_user = false;

    bool unified() const { return paths.size() == 1 && paths.begin()->first.empty(); }
};

// Becomes readable when the kernel ran out of memory in the cgroup.
class OomWatch {
  public:
    int fd() const { return fd_.get(); }
    // How many OOM kills (v1: out-of-memory events) came since the last call. v1 also wakes up once when the cgroup is
    // removed, which counts 0.
    uint64_t drain();

  private:
    friend class CgroupV1;
    friend class CgroupV2;
    UniqueFd fd_;
    bool inotify_ = false;
    std::string directory_;
    uint64_t seen_ = 0;
    UniqueFd control_;
};

class Cgroup {
  public:
    virtual ~Cgroup() = default;  // leaves the cgroup as it is

    // Makes the directories (one that exists is taken as it is).
    static Result<std::unique_ptr<Cgroup>> create(const CgroupMounts& mounts, const CgroupRequest& request);
    static std::unique_ptr<Cgroup> open(const CgroupRecord& record);

    const CgroupRecord& record() const { return record_; }

    Result<void> add_process(pid_t pid);
    // The files to write "0" to for entering, for JailSpec::cgroup_procs_files. On v2 prefer its directory's
    // descriptor and CLONE_INTO_CGROUP.
    std::vector<std::string> procs_files() const;
    // Processes in it and below, in no order.
    Result<std::vector<pid_t>> processes() const;
    bool exists() const;

    // Sets what `resources` asks for and leaves the rest: also for `update`. `devices` false leaves device rules out.
    virtual Result<void> apply(const oci::Resources& resources, bool devices = true) = 0;
    // linux.resources.devices alone, in the listed order.
    virtual Result<void> apply_devices(const std::vector<oci::DeviceRule>& rules) = 0;
    virtual Result<CgroupStats> stats() const = 0;
    virtual Result<void> freeze() = 0;
    virtual Result<void> thaw() = 0;
    virtual Result<bool> is_frozen() const = 0;
    virtual Result<OomWatch> watch_oom() const = 0;

    // SIGKILL to every process in it and below but `except`, until none is left (at most `patience`: EBUSY then).
    virtual Result<void> kill_all(pid_t except = 0, std::chrono::milliseconds patience = std::chrono::seconds(10)) = 0;
    // Removes it with everything below; processes must be gone, and their exit is waited for. Missing is fine.
    Result<void> destroy(std::chrono::milliseconds patience = std::chrono::seconds(5));

  protected:
    explicit Cgroup(CgroupRecord record) : record_(std::move(record)) {}
    std::vector<std::string> directories() const;  // each once
    Result<void> kill_by_signal(pid_t except, std::chrono::milliseconds patience);

    CgroupRecord record_;
};

// "/a/./b//c" as "/a/b/c" (relative stays relative). An error if ".." leaves the start.
Result<std::string> clean_cgroup_path(std::string_view path);

}  // namespace casemate::host
