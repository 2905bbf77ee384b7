#include "host/cgroup_v1.h"

#include <dirent.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/scope_exit.h"
#include "host/cgroup_settings.h"
#include "linux/event_fds.h"
#include "linux/file.h"
#include "linux/path.h"

namespace casemate::host {

namespace {

// cpuset.cpus and cpuset.mems of a fresh directory from its parent.
Result<void> inherit_cpuset(const std::string& directory) {
    std::string parent = directory.substr(0, directory.rfind('/'));
    for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
        auto text = linux::read_file(directory + file);
        if (text.ok() && text->size() > 1) continue;  // more than a newline
        auto inherited = linux::read_file(parent + file);
        if (!inherited.ok()) return sys_error("read " + parent + file, inherited.error().value);
        auto written = linux::write_existing(directory + file, *inherited);
        if (!written.ok()) return sys_error("write " + directory + file, written.error().value);
    }
    return {};
}

uint64_t number(const CgroupSettings& files, std::string_view controller, const std::string& file) {
    return parse_limit(files.read(controller, file));
}

std::optional<MemoryCounter> memory_counter(const CgroupSettings& files, const std::string& prefix) {
    if (!files.has("memory", prefix + "usage_in_bytes")) return std::nullopt;
    MemoryCounter counter;
    counter.usage = number(files, "memory", prefix + "usage_in_bytes");
    counter.max_usage = number(files, "memory", prefix + "max_usage_in_bytes");
    counter.limit = number(files, "memory", prefix + "limit_in_bytes");
    counter.failures = number(files, "memory", prefix + "failcnt");
    return counter;
}

std::vector<uint64_t> numbers(const std::string& text) {
    std::vector<uint64_t> values;
    const char* at = text.c_str();
    char* end = nullptr;
    for (uint64_t value = std::strtoull(at, &end, 10); end != at; value = std::strtoull(at, &end, 10)) {
        values.push_back(value);
        at = end;
    }
    return values;
}

// Names "hugetlb.2MB.<suffix>" give "2MB".
std::vector<std::string> page_sizes(const std::string& directory, std::string_view suffix) {
    std::vector<std::string> sizes;
    DIR* dir = ::opendir(directory.c_str());
    if (dir == nullptr) return sizes;
    ScopeExit close([dir] { ::closedir(dir); });
    while (dirent* entry = ::readdir(dir)) {
        std::string_view name = entry->d_name;
        if (!name.starts_with("hugetlb.") || !name.ends_with(suffix)) continue;
        name.remove_prefix(8);
        name.remove_suffix(suffix.size());
        if (name.find('.') == std::string_view::npos) sizes.emplace_back(name);
    }
    return sizes;
}

}  // namespace

Result<void> make_cgroup_v1(std::string_view controller, const std::string& mount_point, const std::string& path) {
    for (size_t at = 1; at != 0 && at <= path.size();) {
        size_t end = std::min(path.find('/', at), path.size());
        std::string directory = mount_point + path.substr(0, end);
        bool made = ::mkdir(directory.c_str(), 0755) == 0;
        if (!made && errno != EEXIST) return sys_error("making cgroup " + directory);
        if (controller == "cpuset") {
            auto inherited = inherit_cpuset(directory);
            if (!inherited.ok() && made) ::rmdir(directory.c_str());
            if (!inherited.ok()) return inherited;
        }
        at = end + 1;
    }
    return {};
}

Result<void> CgroupV1::apply(const oci::Resources& resources, bool devices) {
    TRY(apply_resources_v1(record_, resources));
    return devices ? apply_devices(resources.devices) : Result<void>();
}

Result<void> CgroupV1::apply_devices(const std::vector<oci::DeviceRule>& rules) {
    return apply_devices_v1(record_, rules);
}

Result<CgroupStats> CgroupV1::stats() const {
    CgroupSettings files(record_);
    CgroupStats stats;
    if (files.has("cpuacct", "cpuacct.usage") || files.has("cpu", "cpu.stat")) {
        CpuStats& cpu = stats.cpu.emplace();
        cpu.usage_ns = number(files, "cpuacct", "cpuacct.usage");
        cpu.user_ns = number(files, "cpuacct", "cpuacct.usage_user");
        cpu.system_ns = number(files, "cpuacct", "cpuacct.usage_sys");
        cpu.per_cpu_ns = numbers(files.read("cpuacct", "cpuacct.usage_percpu"));
        auto stat = parse_flat_keyed(files.read("cpu", "cpu.stat"));
        cpu.periods = stat["nr_periods"];
        cpu.throttled_periods = stat["nr_throttled"];
        cpu.throttled_ns = stat["throttled_time"];
    }
    if (auto memory = memory_counter(files, "memory.")) {
        MemoryStats& out = stats.memory.emplace();
        out.memory = *memory;
        out.swap = memory_counter(files, "memory.memsw.");
        out.kernel = memory_counter(files, "memory.kmem.");
        out.kernel_tcp = memory_counter(files, "memory.kmem.tcp.");
        out.stat = parse_flat_keyed(files.read("memory", "memory.stat"));
        out.events = parse_flat_keyed(files.read("memory", "memory.oom_control"));
    }
    if (files.has("pids", "pids.current")) {
        PidsStats& pids = stats.pids.emplace();
        pids.current = number(files, "pids", "pids.current");
        pids.limit = number(files, "pids", "pids.max");
    }
    // The BFQ scheduler counts only where it schedules; the throttle layer sees everything else.
    stats.io_service_bytes = parse_blkio(files.read("blkio", "blkio.bfq.io_service_bytes_recursive"));
    stats.io_serviced = parse_blkio(files.read("blkio", "blkio.bfq.io_serviced_recursive"));
    if (stats.io_serviced.empty()) {
        stats.io_service_bytes = parse_blkio(files.read("blkio", "blkio.throttle.io_service_bytes_recursive"));
        stats.io_serviced = parse_blkio(files.read("blkio", "blkio.throttle.io_serviced_recursive"));
    }
    for (const std::string& size : page_sizes(files.directory("hugetlb"), ".usage_in_bytes")) {
        HugepageStats pages;
        pages.page_size = size;
        pages.usage = number(files, "hugetlb", "hugetlb." + size + ".usage_in_bytes");
        pages.max_usage = number(files, "hugetlb", "hugetlb." + size + ".max_usage_in_bytes");
        pages.failures = number(files, "hugetlb", "hugetlb." + size + ".failcnt");
        stats.hugepages.push_back(std::move(pages));
    }
    stats.rdma = parse_rdma(files.read("rdma", "rdma.current"));
    return stats;
}

Result<void> CgroupV1::freeze() {
    CgroupSettings files(record_);
    std::string directory = files.directory("freezer");
    if (directory.empty())
        return Error("pausing needs the cgroup controller freezer, which is not available here", ENOTSUP);
    // The kernel may stay at FREEZING when a process forks or dies at the wrong moment; writing again goes on, and a
    // short thaw now and then lets the awkward ones move (as runc found).
    for (int attempt = 0; attempt < 500; attempt++) {
        if (attempt % 50 == 49) {
            (void)linux::write_existing(directory + "/freezer.state", "THAWED");
            ::usleep(10'000);
        }
        auto written = linux::write_existing(directory + "/freezer.state", "FROZEN");
        if (!written.ok()) return sys_error("freezing cgroup " + directory, written.error().value);
        if (files.read("freezer", "freezer.state") == "FROZEN\n") return {};
        ::usleep(attempt < 50 ? 100 : 2'000);
    }
    (void)linux::write_existing(directory + "/freezer.state", "THAWED");
    return Error("cgroup " + directory + " does not freeze", EBUSY);
}

Result<void> CgroupV1::thaw() {
    std::string directory = CgroupSettings(record_).directory("freezer");
    if (directory.empty())
        return Error("resuming needs the cgroup controller freezer, which is not available here", ENOTSUP);
    auto written = linux::write_existing(directory + "/freezer.state", "THAWED");
    if (!written.ok()) return sys_error("thawing cgroup " + directory, written.error().value);
    return {};
}

Result<bool> CgroupV1::is_frozen() const {
    return CgroupSettings(record_).read("freezer", "freezer.state") != "THAWED\n" &&
           CgroupSettings(record_).has("freezer", "freezer.state");
}

Result<OomWatch> CgroupV1::watch_oom() const {
    std::string directory = CgroupSettings(record_).directory("memory");
    if (directory.empty())
        return Error("OOM events need the cgroup controller memory, which is not available here", ENOTSUP);
    OomWatch watch;
    watch.directory_ = directory;
    auto control = linux::open(directory + "/memory.oom_control", O_RDONLY);
    if (!control.ok()) return sys_error("open " + directory + "/memory.oom_control", control.error().value);
    watch.control_ = control.take_value();
    auto event = linux::create_eventfd();
    if (!event.ok()) return sys_error("eventfd", event.error().value);
    watch.fd_ = event.take_value();
    auto written = linux::write_existing(directory + "/cgroup.event_control",
                                         fmt::format("{} {}", watch.fd_.get(), watch.control_.get()));
    if (!written.ok()) return sys_error("OOM events of cgroup " + directory, written.error().value);
    return watch;
}

Result<void> CgroupV1::kill_all(pid_t except, std::chrono::milliseconds patience) {
    // Frozen processes take no signal, not even SIGKILL, before they thaw.
    if (CgroupSettings(record_).has("freezer", "freezer.state")) TRY(thaw());
    return kill_by_signal(except, patience);
}

}  // namespace casemate::host
