#include "host/cgroup_v2.h"

#include <dirent.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/scope_exit.h"
#include "host/cgroup_devices_bpf.h"
#include "host/cgroup_settings.h"
#include "host/systemd_scope.h"
#include "linux/file.h"
#include "linux/path.h"

namespace casemate::host {

namespace {

void enable_controllers(const std::string& directory) {
    auto available = linux::read_file(directory + "/cgroup.controllers");
    if (!available.ok()) return;
    // One by one: a single one that is refused (EBUSY while processes are in it) must not keep the others.
    std::string name;
    for (char c : *available + "\n") {
        if (c != ' ' && c != '\n') {
            name += c;
            continue;
        }
        if (!name.empty()) (void)linux::write_existing(directory + "/cgroup.subtree_control", "+" + name);
        name.clear();
    }
}

}  // namespace

Result<void> make_cgroup_v2(const std::string& mount_point, const std::string& path) {
    std::string parent = mount_point;
    for (size_t at = 1; at <= path.size();) {
        size_t end = std::min(path.find('/', at), path.size());
        std::string directory = mount_point + path.substr(0, end);
        enable_controllers(parent);
        if (::mkdir(directory.c_str(), 0755) < 0 && errno != EEXIST) return sys_error("making cgroup " + directory);
        parent = directory;
        at = end + 1;
    }
    return {};
}

Result<void> CgroupV2::apply(const oci::Resources& resources, bool devices) {
    TRY(apply_resources_v2(record_, resources));
    if (!record_.systemd_unit.empty()) {
        CgroupSettings files(record_);
        std::string quota = files.read("cpu", "cpu.max");
        TRY(SystemdScope::set_limits(record_.systemd_unit, record_.systemd_user, systemd_limits(files)));
        if (!quota.empty()) TRY(files.write("cpu.quota", "cpu", "cpu.max", quota));  // systemd rounds it
    }
    return devices ? apply_devices(resources.devices) : Result<void>();
}

Result<void> CgroupV2::apply_devices(const std::vector<oci::DeviceRule>& rules) {
    return rules.empty() ? Result<void>() : attach_device_program(directory(), rules);
}

Result<CgroupStats> CgroupV2::stats() const {
    CgroupSettings files(record_);
    auto number = [&](const std::string& file) { return parse_limit(files.read("", file)); };
    CgroupStats stats;
    auto cpu_stat = parse_flat_keyed(files.read("", "cpu.stat"));
    if (!cpu_stat.empty()) {
        CpuStats& cpu = stats.cpu.emplace();
        cpu.usage_ns = cpu_stat["usage_usec"] * 1000;
        cpu.user_ns = cpu_stat["user_usec"] * 1000;
        cpu.system_ns = cpu_stat["system_usec"] * 1000;
        cpu.periods = cpu_stat["nr_periods"];
        cpu.throttled_periods = cpu_stat["nr_throttled"];
        cpu.throttled_ns = cpu_stat["throttled_usec"] * 1000;
    }
    if (files.has("", "memory.current")) {
        MemoryStats& memory = stats.memory.emplace();
        memory.memory.usage = number("memory.current");
        memory.memory.max_usage = number("memory.peak");
        memory.memory.limit = number("memory.max");
        memory.stat = parse_flat_keyed(files.read("", "memory.stat"));
        memory.events = parse_flat_keyed(files.read("", "memory.events"));
        memory.memory.failures = memory.events["max"];
        if (files.has("", "memory.swap.current")) {
            MemoryCounter& swap = memory.swap.emplace();
            swap.usage = number("memory.swap.current");
            swap.max_usage = number("memory.swap.peak");
            swap.limit = number("memory.swap.max");
            swap.failures = parse_flat_keyed(files.read("", "memory.swap.events"))["max"];
        }
    }
    if (files.has("", "pids.current")) {
        PidsStats& pids = stats.pids.emplace();
        pids.current = number("pids.current");
        pids.limit = number("pids.max");
    }
    stats.io = parse_io_stat(files.read("", "io.stat"));
    stats.rdma = parse_rdma(files.read("", "rdma.current"));
    if (DIR* dir = ::opendir(directory().c_str())) {
        ScopeExit close([dir] { ::closedir(dir); });
        while (dirent* entry = ::readdir(dir)) {
            std::string_view name = entry->d_name;
            if (!name.starts_with("hugetlb.") || !name.ends_with(".current") || name.find(".rsvd.") != name.npos)
                continue;
            HugepageStats pages;
            pages.page_size = name.substr(8, name.size() - 16);
            pages.usage = number(std::string(name));
            pages.failures = parse_flat_keyed(files.read("", "hugetlb." + pages.page_size + ".events"))["max"];
            stats.hugepages.push_back(std::move(pages));
        }
    }
    return stats;
}

Result<void> CgroupV2::set_frozen(bool frozen) {
    // Opened before, so that no change is missed. POLLPRI tells of each.
    auto events = linux::open(directory() + "/cgroup.events", O_RDONLY);
    if (!events.ok()) return sys_error("open " + directory() + "/cgroup.events", events.error().value);
    auto written = linux::write_existing(directory() + "/cgroup.freeze", frozen ? "1" : "0");
    if (!written.ok()) return sys_error("writing " + directory() + "/cgroup.freeze", written.error().value);
    for (int attempt = 0; attempt < 100; attempt++) {
        char text[256] = {};
        if (::pread(events->get(), text, sizeof text - 1, 0) < 0)
            return sys_error("read " + directory() + "/cgroup.events");
        auto values = parse_flat_keyed(text);
        // An empty cgroup may say that it is not frozen though it was told to.
        if ((values["frozen"] == 1) == frozen || values["populated"] == 0) return {};
        pollfd poll = {events->get(), POLLPRI, 0};
        ::poll(&poll, 1, 50);
    }
    if (frozen) (void)linux::write_existing(directory() + "/cgroup.freeze", "0");
    return Error("cgroup " + directory() + (frozen ? " does not freeze" : " does not thaw"), EBUSY);
}

Result<void> CgroupV2::freeze() { return set_frozen(true); }
Result<void> CgroupV2::thaw() { return set_frozen(false); }

Result<bool> CgroupV2::is_frozen() const { return CgroupSettings(record_).read("", "cgroup.freeze") == "1\n"; }

Result<OomWatch> CgroupV2::watch_oom() const {
    OomWatch watch;
    watch.directory_ = directory();
    watch.inotify_ = true;
    watch.fd_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    std::string path = directory() + "/memory.events";
    if (!watch.fd_) return sys_error("inotify");
    if (::inotify_add_watch(watch.fd_.get(), path.c_str(), IN_MODIFY) < 0) {
        if (errno == ENOENT)
            return Error("OOM events need the cgroup controller memory, which is not enabled in " + directory(),
                         ENOTSUP);
        return sys_error("watching " + path);
    }
    auto text = linux::read_file(path);
    if (text.ok()) watch.seen_ = parse_flat_keyed(*text)["oom_kill"];
    return watch;
}

Result<void> CgroupV2::kill_all(pid_t except, std::chrono::milliseconds patience) {
    // One write kills everything at once (5.14), forks under way included; it spares nobody.
    if (except == 0) (void)linux::write_existing(directory() + "/cgroup.kill", "1");
    if (CgroupSettings(record_).read("", "cgroup.freeze") == "1\n") TRY(thaw());
    return kill_by_signal(except, patience);
}

}  // namespace casemate::host
