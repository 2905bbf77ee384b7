#include "sandbox/state_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "host/namespaces.h"
#include "linux/path.h"
#include "linux/process.h"

namespace casemate::sandbox {

namespace {

constexpr const char* kRecordFile = "record";
constexpr const char* kConfigFile = "config.json";

Result<void> check_owner(const std::string& path, const struct stat& status) {
    if (status.st_uid != geteuid())
        return Error(fmt::format("{} belongs to uid {}, not to you: it is not used", path, status.st_uid), EPERM);
    if ((status.st_mode & 0022) != 0)
        return Error(
            fmt::format("{} can be written by others (mode {:o}): it is not used", path, status.st_mode & 07777),
            EPERM);
    return {};
}

Result<void> check_owner(const std::string& path) {
    struct stat status;
    if (lstat(path.c_str(), &status) != 0) return sys_error(path);
    if (!S_ISDIR(status.st_mode)) return Error(path + " is not a folder", ENOTDIR);
    return check_owner(path, status);
}

std::string created_text(int64_t ns) {
    time_t seconds = ns / 1'000'000'000;
    struct tm parts;
    gmtime_r(&seconds, &parts);
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                       parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, ns % 1'000'000'000);
}

// From /etc/passwd itself: getpwuid() of a statically linked program would load the host's NSS modules.
std::string user_name(uid_t uid) {
    if (uid == 0) return "root";
    auto content = linux::read_file("/etc/passwd");
    if (content.ok()) {
        std::string needle = fmt::format(":{}:", uid);
        size_t line = 0;
        while (line < content->size()) {
            size_t end = std::min(content->find('\n', line), content->size());
            std::string_view text = std::string_view(*content).substr(line, end - line);
            size_t first = text.find(':');
            size_t second = first == text.npos ? text.npos : text.find(':', first + 1);
            if (second != text.npos && text.substr(second).starts_with(needle))
                return std::string(text.substr(0, first));
            line = end + 1;
        }
    }
    return std::to_string(uid);
}

Error missing(const std::string& id) {
    return Error(fmt::format("container {}: container does not exist", id), ENOENT);
}

}  // namespace

Result<StateDir> StateDir::create(const std::string& root, const std::string& id) {
    TRY(oci::validate_container_id(id));
    auto made = linux::mkdir_p(root, 0711);
    if (!made.ok()) return sys_error("make the state folder " + root, made.error().value);
    TRY(check_owner(root));
    StateDir dir(root + "/" + id);
    if (mkdir(dir.path_.c_str(), 0711) != 0) {
        if (errno == EEXIST) return Error(fmt::format("container with id exists: {}", id), EEXIST);
        return sys_error("make the state folder " + dir.path_);
    }
    auto fd = linux::open(dir.path_, O_RDONLY | O_DIRECTORY);
    if (!fd.ok()) return sys_error("open " + dir.path_, fd.error().value);
    auto lock = linux::FileLock::acquire(std::move(*fd), true);
    if (!lock.ok()) return sys_error("lock " + dir.path_, lock.error().value);
    dir.lock_ = std::move(*lock);
    return dir;
}

Result<StateDir> StateDir::open(const std::string& root, const std::string& id, Lock lock) {
    TRY(oci::validate_container_id(id));
    StateDir dir(root + "/" + id);
    auto fd = linux::open(dir.path_, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!fd.ok()) {
        if (fd.error() == Errno(ENOENT)) return missing(id);
        return sys_error("open " + dir.path_, fd.error().value);
    }
    struct stat opened, now;
    if (fstat(fd->get(), &opened) != 0) return sys_error(dir.path_);
    TRY(check_owner(dir.path_, opened));
    if (lock == Lock::kExclusive) {
        auto locked = linux::FileLock::acquire(std::move(*fd), true);
        if (!locked.ok()) return sys_error("lock " + dir.path_, locked.error().value);
        // While this waited, the container may have been deleted, even made anew.
        if (stat(dir.path_.c_str(), &now) != 0 || now.st_ino != opened.st_ino) return missing(id);
        dir.lock_ = std::move(*locked);
    }
    return dir;
}

Result<Record> StateDir::load() const {
    auto content = linux::read_file(file(kRecordFile));
    if (!content.ok()) return sys_error("read " + file(kRecordFile), content.error().value);
    Record record;
    if (!record.ParseFromString(*content)) return Error(file(kRecordFile) + " is damaged", EBADMSG);
    return record;
}

Result<void> StateDir::save(const Record& record) const {
    auto done = linux::write_file_atomic(file(kRecordFile), record.SerializeAsString(), 0600);
    if (!done.ok()) return sys_error("write " + file(kRecordFile), done.error().value);
    return {};
}

Result<std::string> StateDir::load_config() const {
    auto content = linux::read_file(file(kConfigFile), 16 << 20);
    if (!content.ok()) return sys_error("read " + file(kConfigFile), content.error().value);
    return std::move(*content);
}

Result<void> StateDir::save_config(const std::string& json) const {
    auto done = linux::write_file_atomic(file(kConfigFile), json, 0600);
    if (!done.ok()) return sys_error("write " + file(kConfigFile), done.error().value);
    return {};
}

Result<void> StateDir::remove() {
    auto done = linux::remove_tree(path_);
    if (!done.ok()) return sys_error("remove " + path_, done.error().value);
    return {};
}

std::vector<std::string> list_containers(const std::string& root) {
    std::vector<std::string> ids;
    DIR* folder = opendir(root.c_str());
    if (folder == nullptr) return ids;
    while (dirent* entry = readdir(folder))
        if (entry->d_type == DT_DIR && oci::validate_container_id(entry->d_name).ok()) ids.emplace_back(entry->d_name);
    closedir(folder);
    std::sort(ids.begin(), ids.end());
    return ids;
}

bool is_alive(const v1::HostProcess& process) {
    if (process.pid() <= 0) return false;
    auto start = linux::process_start_time(process.pid());
    if (!start.ok() || *start != process.start_time()) return false;
    // A zombie waits for its supervisor: it has ended.
    auto stat = linux::read_file(fmt::format("/proc/{}/stat", process.pid()));
    if (!stat.ok()) return false;
    size_t name_end = stat->rfind(')');
    return name_end == std::string::npos || name_end + 2 >= stat->size() ||
           ((*stat)[name_end + 2] != 'Z' && (*stat)[name_end + 2] != 'X');
}

v1::HostProcess this_process() {
    v1::HostProcess process;
    process.set_pid(getpid());
    auto start = linux::process_start_time(getpid());
    if (start.ok()) process.set_start_time(*start);
    return process;
}

oci::ContainerStatus real_status(const Record& record) {
    if (record.status() == v1::STATUS_STOPPED) return oci::ContainerStatus::kStopped;
    if (!is_alive(record.process()) || !is_alive(record.sandbox_host())) {
        // Before there are processes, the command that creates the container is at work.
        if (record.status() == v1::STATUS_CREATING && record.process().pid() == 0)
            return oci::ContainerStatus::kCreating;
        return oci::ContainerStatus::kStopped;
    }
    switch (record.status()) {
        case v1::STATUS_CREATED:
            return oci::ContainerStatus::kCreated;
        case v1::STATUS_RUNNING:
            return oci::ContainerStatus::kRunning;
        case v1::STATUS_PAUSED:
            return oci::ContainerStatus::kPaused;
        default:
            return oci::ContainerStatus::kCreating;
    }
}

oci::State state_of(const Record& record) {
    oci::State state;
    state.id = record.id();
    state.status = real_status(record);
    state.pid = state.status == oci::ContainerStatus::kStopped ? 0 : record.process().pid();
    state.bundle = record.bundle();
    state.rootfs = record.rootfs();
    for (const auto& [key, value] : record.annotations()) state.annotations.emplace(key, value);
    state.created = created_text(record.created_ns());
    state.owner = user_name(record.owner());
    return state;
}

std::string default_state_root() {
    if (!host::is_rootless()) return "/run/casemate";
    const char* runtime = getenv("XDG_RUNTIME_DIR");
    if (runtime != nullptr && *runtime == '/') return std::string(runtime) + "/casemate";
    return fmt::format("/run/user/{}/casemate", host::outer_uid());
}

}  // namespace casemate::sandbox
