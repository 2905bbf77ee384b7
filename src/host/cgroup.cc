#include "host/cgroup.h"

#include <dirent.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/scope_exit.h"
#include "host/cgroup_v1.h"
#include "host/cgroup_v2.h"
#include "host/systemd_scope.h"
#include "linux/event_fds.h"
#include "linux/file.h"
#include "linux/path.h"

namespace casemate::host {

namespace {

using Clock = std::chrono::steady_clock;

void sleep_for(std::chrono::milliseconds time) { ::usleep(static_cast<useconds_t>(time.count() * 1000)); }

// cgroup.procs of `directory` and of all directories below.
SysResult<void> collect_processes(const std::string& directory, std::vector<pid_t>& pids, int depth = 0) {
    std::string text = TRY(linux::read_file(directory + "/cgroup.procs", 16 << 20));
    const char* at = text.data();
    const char* end = at + text.size();
    while (at < end) {
        pid_t pid = 0;
        at = std::from_chars(at, end, pid).ptr + 1;
        if (pid > 0) pids.push_back(pid);  // 0: of another pid namespace
    }
    DIR* dir = ::opendir(directory.c_str());
    if (dir == nullptr) return last_errno();
    ScopeExit close([dir] { ::closedir(dir); });
    while (dirent* entry = ::readdir(dir)) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.' || depth > 64) continue;
        // A cgroup that goes away meanwhile has no processes.
        (void)collect_processes(directory + "/" + entry->d_name, pids, depth + 1);
    }
    return {};
}

// Deepest first. EBUSY while a process, perhaps one that is just exiting, is in it.
SysResult<void> remove_directories(const std::string& directory, int depth = 0) {
    if (::rmdir(directory.c_str()) == 0 || errno == ENOENT) return {};
    Errno failure = last_errno();
    DIR* dir = ::opendir(directory.c_str());
    if (dir == nullptr) return errno == ENOENT ? SysResult<void>() : last_errno();
    ScopeExit close([dir] { ::closedir(dir); });
    while (dirent* entry = ::readdir(dir)) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.' || depth > 64) continue;
        TRY(remove_directories(directory + "/" + entry->d_name, depth + 1));
    }
    if (::rmdir(directory.c_str()) == 0 || errno == ENOENT) return {};
    return failure;
}

// Where the cgroup lies below each hierarchy's mount point: "/a/b".
Result<std::string> path_below_mount(const CgroupRequest& request, const CgroupHierarchy& hierarchy, bool unified) {
    std::string path = request.path.empty() ? "casemate-" + request.id : request.path;
    if (!path.starts_with('/')) {
        std::string own = hierarchy.own_path;
        if (unified && own != "/") own = own.substr(0, std::max<size_t>(own.rfind('/'), 1));
        path = own + "/" + path;
        // ".." would leave our own cgroup: checked before the two are joined.
        TRY(clean_cgroup_path(request.path));
    }
    auto cleaned = clean_cgroup_path(path);
    if (!cleaned.ok()) return cleaned.take_error();
    if (*cleaned == "/") return Error("linux.cgroupsPath is the root cgroup, must name one below it", EINVAL);
    return cleaned;
}

}  // namespace

Result<std::string> clean_cgroup_path(std::string_view path) {
    std::vector<std::string_view> parts;
    bool absolute = path.starts_with('/');
    std::string_view rest = path;
    while (!rest.empty()) {
        size_t end = rest.find('/');
        std::string_view part = rest.substr(0, end);
        rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            if (parts.empty())
                return Error(fmt::format("linux.cgroupsPath \"{}\" leaves its start by \"..\"", path), EINVAL);
            parts.pop_back();
            continue;
        }
        parts.push_back(part);
    }
    std::string cleaned = absolute ? "/" : "";
    for (std::string_view part : parts) cleaned += (cleaned.empty() || cleaned == "/" ? "" : "/") + std::string(part);
    return cleaned;
}

Result<std::unique_ptr<Cgroup>> Cgroup::create(const CgroupMounts& mounts, const CgroupRequest& request) {
    CgroupRequest resolved = request;
    CgroupRecord record;
    if (request.driver == CgroupDriver::kSystemd) {
        SystemdScope scope = TRY(SystemdScope::parse(request.path, request.id, request.rootless));
        resolved.path = TRY(scope.start(mounts, request.first_process));
        record.systemd_unit = scope.unit();
        record.systemd_user = request.rootless;
    }
    auto stop_scope = [&] {
        if (!record.systemd_unit.empty()) (void)SystemdScope::stop(record.systemd_unit, record.systemd_user);
    };
    ScopeExit undo(stop_scope);
    std::unique_ptr<Cgroup> cgroup;
    if (mounts.unified()) {
        std::string path = TRY(path_below_mount(resolved, mounts.v2, true));
        TRY(make_cgroup_v2(mounts.v2.mount_point, path));
        record.paths.emplace("", mounts.v2.mount_point + path);
    } else {
        for (const auto& [controller, hierarchy] : mounts.v1) {
            std::string path = TRY(path_below_mount(resolved, hierarchy, false));
            auto made = make_cgroup_v1(controller, hierarchy.mount_point, path);
            if (made.ok()) {
                record.paths.emplace(controller, hierarchy.mount_point + path);
                continue;
            }
            int code = made.error().code();
            if (request.rootless && (code == EACCES || code == EPERM || code == EROFS)) continue;
            for (const auto& [name, directory] : record.paths) ::rmdir(directory.c_str());
            return made.take_error();
        }
    }
    undo.dismiss();
    cgroup = open(record);
    // systemd moved it in its own hierarchy only.
    if (request.driver == CgroupDriver::kSystemd && !mounts.unified()) TRY(cgroup->add_process(request.first_process));
    return cgroup;
}

std::unique_ptr<Cgroup> Cgroup::open(const CgroupRecord& record) {
    if (record.unified()) return std::make_unique<CgroupV2>(record);
    return std::make_unique<CgroupV1>(record);
}

std::vector<std::string> Cgroup::directories() const {
    // Two controllers of one mount lie in two paths that are one directory through a link at most: names decide.
    std::set<std::string> unique;
    for (const auto& [controller, directory] : record_.paths) unique.insert(directory);
    return std::vector<std::string>(unique.begin(), unique.end());
}

Result<void> Cgroup::add_process(pid_t pid) {
    for (const std::string& directory : directories()) {
        // EINVAL now and then means that the process is just starting or ending (runc retries too).
        SysResult<void> written;
        for (int attempt = 0; attempt < 5; attempt++) {
            written = linux::write_existing(directory + "/cgroup.procs", std::to_string(pid));
            if (written.ok() || written.error().value != EINVAL) break;
            sleep_for(std::chrono::milliseconds(10));
        }
        if (!written.ok())
            return sys_error(fmt::format("adding process {} to cgroup {}", pid, directory), written.error().value);
    }
    return {};
}

std::vector<std::string> Cgroup::procs_files() const {
    std::vector<std::string> files = directories();
    for (std::string& file : files) file += "/cgroup.procs";
    return files;
}

Result<std::vector<pid_t>> Cgroup::processes() const {
    std::vector<pid_t> pids;
    // Every hierarchy has all of them; the freezer's is the one whose content matters for pause and kill. Somebody may
    // have removed one, as may be done with what nothing runs in: then another tells.
    std::vector<std::string> all = directories();
    if (auto freezer = record_.paths.find("freezer"); freezer != record_.paths.end())
        all.insert(all.begin(), freezer->second);
    for (const std::string& directory : all) {
        auto collected = collect_processes(directory, pids);
        if (collected.ok()) break;
        pids.clear();
        if (collected.error().value != ENOENT && collected.error().value != ENODEV)
            return sys_error("listing the processes of cgroup " + directory, collected.error().value);
    }
    return pids;
}

bool Cgroup::exists() const {
    return std::any_of(record_.paths.begin(), record_.paths.end(),
                       [](const auto& entry) { return linux::path_exists(entry.second); });
}

Result<void> Cgroup::kill_by_signal(pid_t except, std::chrono::milliseconds patience) {
    Clock::time_point end = Clock::now() + patience;
    for (int round = 0;; round++) {
        if (!exists()) return {};
        std::vector<pid_t> pids = TRY(processes());
        std::erase(pids, except);
        if (pids.empty()) return {};
        if (Clock::now() > end)
            return Error(
                fmt::format("{} processes of cgroup {} do not end", pids.size(), record_.paths.begin()->second), EBUSY);
        for (pid_t pid : pids) ::kill(pid, SIGKILL);
        // Dying takes a moment; a fork bomb is met by the next round.
        sleep_for(std::chrono::milliseconds(std::min(1 + round, 20)));
    }
}

Result<void> Cgroup::destroy(std::chrono::milliseconds patience) {
    if (!record_.systemd_unit.empty()) TRY(SystemdScope::stop(record_.systemd_unit, record_.systemd_user));
    Clock::time_point end = Clock::now() + patience;
    auto delay = std::chrono::milliseconds(1);
    for (const std::string& directory : directories()) {
        while (true) {
            auto removed = remove_directories(directory);
            if (removed.ok()) break;
            if (removed.error().value != EBUSY || Clock::now() > end) {
                std::string who;
                std::vector<pid_t> pids;
                (void)collect_processes(directory, pids);
                if (!pids.empty()) who = fmt::format(" (process {} is in it)", pids[0]);
                return sys_error("removing cgroup " + directory + who, removed.error().value);
            }
            sleep_for(delay);
            delay = std::min(delay * 2, std::chrono::milliseconds(50));
        }
    }
    return {};
}

uint64_t OomWatch::drain() {
    if (!inotify_) {
        uint64_t count = linux::drain_eventfd(fd_.get());
        return linux::path_exists(directory_) ? count : 0;
    }
    char buffer[4096];
    while (::read(fd_.get(), buffer, sizeof buffer) > 0) continue;
    auto text = linux::read_file(directory_ + "/memory.events");
    if (!text.ok()) return 0;
    uint64_t kills = parse_flat_keyed(*text)["oom_kill"];
    uint64_t fresh = kills > seen_ ? kills - seen_ : 0;
    seen_ = std::max(seen_, kills);
    return fresh;
}

}  // namespace casemate::host
