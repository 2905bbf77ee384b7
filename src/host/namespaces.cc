#include "host/namespaces.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <thread>

#include "linux/event_fds.h"
#include "linux/file.h"
#include "linux/path.h"
#include "linux/process.h"
#include "linux/unix_socket.h"

namespace casemate::host {

namespace {

using oci::NamespaceType;

struct TypeNames {
    NamespaceType type;
    int flag;
    const char* name;  // in config.json
    const char* file;  // in /proc/pid/ns
};
constexpr TypeNames kTypes[] = {
    {NamespaceType::kPid, CLONE_NEWPID, "pid", "pid_for_children"},
    {NamespaceType::kNetwork, CLONE_NEWNET, "network", "net"},
    {NamespaceType::kMount, CLONE_NEWNS, "mount", "mnt"},
    {NamespaceType::kIpc, CLONE_NEWIPC, "ipc", "ipc"},
    {NamespaceType::kUts, CLONE_NEWUTS, "uts", "uts"},
    {NamespaceType::kUser, CLONE_NEWUSER, "user", "user"},
    {NamespaceType::kCgroup, CLONE_NEWCGROUP, "cgroup", "cgroup"},
    {NamespaceType::kTime, CLONE_NEWTIME, "time", "time_for_children"},
};

const TypeNames& names_of(NamespaceType type) {
    for (const TypeNames& names : kTypes)
        if (names.type == type) return names;
    return kTypes[0];
}

// A child that writes the id maps of its parent, as only a process outside of the new user namespace can.
class MapWriter {
  public:
    ~MapWriter() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            ::waitpid(pid_, nullptr, 0);
        }
    }

    Result<void> start(const IdMaps& maps) {
        auto pair = linux::create_socket_pair(SOCK_SEQPACKET);
        if (!pair.ok()) return sys_error("socketpair", pair.error().value);
        socket_ = std::move(pair->first);
        pid_t parent = ::getpid();
        pid_ = ::fork();
        if (pid_ < 0) return sys_error("fork");
        if (pid_ == 0) {
            socket_.reset();
            char go;
            if (::read(pair->second.get(), &go, 1) != 1) ::_exit(0);
            auto written = write_id_maps(parent, maps);
            std::string answer = written.ok() ? "" : written.error().message();
            answer.insert(0, 1, written.ok() ? 'y' : 'n');
            (void)!::write(pair->second.get(), answer.data(), answer.size());
            ::_exit(0);
        }
        return {};
    }

    Result<void> write_maps() {
        char answer[512];
        ssize_t size = ::write(socket_.get(), "x", 1) == 1 ? ::read(socket_.get(), answer, sizeof answer) : 0;
        if (size < 1) return Error("the writer of the id maps died", ECHILD);
        if (answer[0] != 'y') return Error(std::string(answer + 1, static_cast<size_t>(size) - 1), EPERM);
        return {};
    }

  private:
    UniqueFd socket_;
    pid_t pid_ = -1;
};

bool is_installed(const char* program) {
    return linux::path_exists(std::string("/usr/bin/") + program) ||
           linux::path_exists(std::string("/usr/local/bin/") + program);
}

// The user's name from /etc/passwd; getpwuid() would pull the name services into a static program.
std::string user_name(uid_t uid) {
    std::string text = linux::read_file("/etc/passwd").value_or("");
    std::string field = ":" + std::to_string(uid) + ":";
    for (size_t at = 0; at < text.size();) {
        size_t end = std::min(text.find('\n', at), text.size());
        std::string_view line(text.data() + at, end - at);
        size_t name = line.find(':');
        size_t password = name == line.npos ? name : line.find(':', name + 1);
        if (password != line.npos && line.substr(password).starts_with(field)) return std::string(line.substr(0, name));
        at = end + 1;
    }
    return "";
}

}  // namespace

int clone_flag(NamespaceType type) { return names_of(type).flag; }
const char* namespace_name(NamespaceType type) { return names_of(type).name; }

Result<UniqueFd> open_namespace(NamespaceType type, const std::string& path) {
    auto fd = linux::open(path, O_RDONLY);
    if (!fd.ok())
        return sys_error(fmt::format("open the {} namespace {}", namespace_name(type), path), fd.error().value);
    int found = ::ioctl(fd->get(), NS_GET_NSTYPE);
    if (found < 0)
        return Error(fmt::format("{} is not a namespace, must be one of type {}", path, namespace_name(type)), EINVAL);
    if (found == clone_flag(type)) return fd.take_value();
    const char* actual = "unknown";
    for (const TypeNames& names : kTypes)
        if (names.flag == found) actual = names.name;
    return Error(fmt::format("{} is a namespace of type {}, must be {}", path, actual, namespace_name(type)), EINVAL);
}

Result<UniqueFd> open_process_namespace(NamespaceType type, pid_t pid) {
    std::string process = pid == 0 ? "self" : std::to_string(pid);
    return open_namespace(type, "/proc/" + process + "/ns/" + names_of(type).file);
}

bool is_same_namespace(int first, int second) {
    struct stat a, b;
    return ::fstat(first, &a) == 0 && ::fstat(second, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

Result<void> join_namespaces(std::vector<NamespaceFd> namespaces) {
    // The rights over the others may come with the user namespace; the mount namespace changes the paths for no one
    // here, since all are descriptors.
    std::stable_sort(namespaces.begin(), namespaces.end(), [](const NamespaceFd& a, const NamespaceFd& b) {
        return a.type == NamespaceType::kUser && b.type != NamespaceType::kUser;
    });
    for (const NamespaceFd& entry : namespaces) {
        auto joined = linux::setns(entry.fd, clone_flag(entry.type));
        if (!joined.ok())
            return sys_error(fmt::format("joining the {} namespace", namespace_name(entry.type)), joined.error().value);
    }
    return {};
}

Result<void> run_in_namespace(const NamespaceFd& where, const std::function<Result<void>()>& work) {
    std::optional<Error> failure;
    std::thread thread([&] {
        auto joined = join_namespaces({where});
        auto done = joined.ok() ? work() : std::move(joined);
        if (!done.ok()) failure = done.take_error();
    });
    thread.join();
    if (failure) return std::move(*failure);
    return {};
}

Result<UniqueFd> create_user_namespace(const IdMaps& maps) {
    int pidfd = -1;
    struct clone_args args = {};
    args.flags = CLONE_NEWUSER | CLONE_PIDFD;
    args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
    args.exit_signal = SIGCHLD;
    auto pid = linux::clone3(args);
    if (!pid.ok()) return sys_error("clone with a new user namespace", pid.error().value);
    if (*pid == 0) {
        // SAFETY: raw syscalls only. Killed by the parent, or with it.
        ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        for (;;) ::syscall(SYS_pause);
    }
    UniqueFd child(pidfd);
    auto mapped = write_id_maps(*pid, maps);
    Result<UniqueFd> opened =
        mapped.ok() ? open_process_namespace(NamespaceType::kUser, *pid) : Result<UniqueFd>(mapped.take_error());
    linux::kill_and_reap(child.get());
    return opened;
}

std::vector<IdMapping> parse_subordinate_ids(std::string_view text, std::string_view user, uid_t uid) {
    std::vector<IdMapping> ranges;
    std::string number = std::to_string(uid);
    uint64_t inside = 1;
    while (!text.empty()) {
        std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(line.size() + 1, text.size()));
        size_t first = line.find(':');
        size_t second = first == line.npos ? first : line.find(':', first + 1);
        if (second == line.npos) continue;
        std::string_view name = line.substr(0, first);
        if ((user.empty() || name != user) && name != number) continue;
        IdMapping range;
        const char* start = line.data() + first + 1;
        const char* count = line.data() + second + 1;
        const char* end = line.data() + line.size();
        if (std::from_chars(start, line.data() + second, range.outside).ptr != line.data() + second) continue;
        if (std::from_chars(count, end, range.count).ptr != end || range.count == 0) continue;
        if (uint64_t{range.outside} + range.count > UINT32_MAX || inside + range.count > UINT32_MAX) continue;
        range.inside = static_cast<uint32_t>(inside);
        inside += range.count;
        ranges.push_back(range);
    }
    return ranges;
}

bool is_rootless() {
    if (::geteuid() != 0) return true;
    // The host's own namespace is the only one that maps every id to itself.
    unsigned inside = 1, outside = 1, count = 0;
    auto map = linux::read_file("/proc/self/uid_map");
    return !map.ok() || std::sscanf(map->c_str(), "%u %u %u", &inside, &outside, &count) != 3 || inside != 0 ||
           outside != 0 || count != UINT32_MAX;
}

uid_t outer_uid() {
    uid_t own = ::geteuid();
    auto map = linux::read_file("/proc/self/uid_map");
    const char* at = map.ok() ? map->c_str() : "";
    unsigned inside, outside, count;
    int length = 0;
    while (std::sscanf(at, "%u %u %u%n", &inside, &outside, &count, &length) == 3) {
        if (own >= inside && own - inside < count) return outside + (own - inside);
        at += length;
    }
    return own;
}

IdMaps rootless_id_maps() {
    IdMaps maps;
    maps.uids = {{0, ::geteuid(), 1}};
    maps.gids = {{0, ::getegid(), 1}};
    if (!is_installed("newuidmap") || !is_installed("newgidmap")) return maps;
    uid_t uid = ::geteuid();
    std::string user = user_name(uid);
    auto uids = parse_subordinate_ids(linux::read_file("/etc/subuid").value_or(""), user, uid);
    auto gids = parse_subordinate_ids(linux::read_file("/etc/subgid").value_or(""), user, uid);
    if (uids.empty() || gids.empty()) return maps;
    maps.uids.insert(maps.uids.end(), uids.begin(), uids.end());
    maps.gids.insert(maps.gids.end(), gids.begin(), gids.end());
    return maps;
}

Result<void> enter_rootless(const IdMaps& maps) {
    MapWriter writer;
    TRY(writer.start(maps));
    // Not dumpable (a program that was not readable) would make /proc/self belong to root, and the maps unwritable.
    (void)linux::set_dumpable(true);
    auto unshared = linux::unshare(CLONE_NEWUSER | CLONE_NEWNS);
    if (!unshared.ok()) return sys_error("making a user namespace to work in without root", unshared.error().value);
    TRY(writer.write_maps());
    if (::setresgid(0, 0, 0) < 0 || ::setresuid(0, 0, 0) < 0) return sys_error("becoming root of the user namespace");
    return {};
}

}  // namespace casemate::host
