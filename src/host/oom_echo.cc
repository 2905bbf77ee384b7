#include "host/oom_echo.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "base/checked.h"
#include "base/scope_exit.h"
#include "host/cgroup_settings.h"
#include "linux/file.h"
#include "linux/path.h"
#include "linux/process.h"

namespace casemate::host {
namespace {

constexpr uint64_t kRoom = 1 << 20;  // left in the cgroup, in bytes, for what its other processes may do meanwhile
constexpr size_t kTaken = 16 << 20;  // more than that, and than the kernel takes at a time
constexpr int kPatience = 1000;      // milliseconds
constexpr char kWorst[] = "1000";    // oom_score_adj: whatever else is in the cgroup is not chosen

struct Files {
    std::string directory, usage, limit;
};

Result<Files> files_of(const Cgroup& cgroup) {
    bool unified = cgroup.record().unified();
    CgroupSettings settings(cgroup.record());
    Files files{.directory = settings.directory("memory"),
                .usage = unified ? "memory.current" : "memory.usage_in_bytes",
                .limit = unified ? "memory.max" : "memory.limit_in_bytes"};
    if (files.directory.empty() || !settings.has("memory", files.limit))
        return Error("an OOM kill cannot be told: the container has no cgroup with the controller memory", ENOTSUP);
    return files;
}

// SAFETY: runs in the forked child of a process with threads: system calls only.
[[noreturn]] void be_killed(int cgroup_procs) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "casemate-oom");
    if (::write(cgroup_procs, "0", 1) != 1) _exit(1);
    int score = ::open("/proc/self/oom_score_adj", O_WRONLY);
    if (score < 0 || ::write(score, kWorst, sizeof(kWorst) - 1) < 0) _exit(2);
    close_range(0, ~0U, 0);
    void* memory = mmap(nullptr, kTaken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) _exit(3);
    // So that nothing of it is swapped out; where that is not allowed there may be no swap.
    static_cast<void>(mlock(memory, kTaken));
    for (size_t at = 0; at < kTaken; at += kPageSize) static_cast<volatile char*>(memory)[at] = 1;
    _exit(0);
}

}  // namespace

Result<void> echo_oom(const Cgroup& cgroup) {
    Files files = TRY(files_of(cgroup));
    const std::string limit_file = files.directory + "/" + files.limit;
    auto usage = linux::read_file(files.directory + "/" + files.usage);
    auto limit = linux::read_file(limit_file);
    if (!usage.ok() || !limit.ok())
        return sys_error("read " + limit_file, limit.ok() ? usage.error().value : limit.error().value);
    const std::string procs_file = files.directory + "/cgroup.procs";
    auto procs = linux::open(procs_file, O_WRONLY);
    if (!procs.ok()) return sys_error("open " + procs_file, procs.error().value);

    const uint64_t lowered = page_up(parse_limit(*usage)) + kRoom;
    bool lower = parse_limit(*limit) > lowered;
    if (lower) {
        auto written = linux::write_existing(limit_file, std::to_string(lowered));
        if (!written.ok()) return sys_error("write " + limit_file, written.error().value);
    }
    ScopeExit restore([&] {
        if (lower) static_cast<void>(linux::write_existing(limit_file, *limit));
    });
    const pid_t pid = fork();
    if (pid < 0) return sys_error("fork");
    if (pid == 0) be_killed(procs->get());
    auto pidfd = linux::pidfd_open(pid);
    pollfd ended{.fd = pidfd.ok() ? pidfd->get() : -1, .events = POLLIN, .revents = 0};
    bool in_time = pidfd.ok() && poll(&ended, 1, kPatience) == 1;
    if (!in_time) ::kill(pid, SIGKILL);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (in_time && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return {};
    return Error(
        fmt::format("an OOM kill cannot be told: the process in {} ended with status {:#x}", files.directory, status),
        EIO);
}

}  // namespace casemate::host
