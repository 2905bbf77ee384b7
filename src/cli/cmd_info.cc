// ps, events, update, spec, features.
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "base/log.h"
#include "cli/container.h"
#include "guest_api/guest.pb.h"
#include "linux/file.h"
#include "oci/config_parser.h"
#include "oci/default_config.h"
#include "oci/features.h"
#include "sandbox/engine_capabilities.h"
#include "sandbox/pod_cgroup.h"

namespace casemate::cli {

namespace {

namespace guest = casemate::guest::v1;

void print(std::string_view text) { (void)linux::write_all(1, text); }
int report(const Result<void>& result) { return result.ok() ? 0 : fail(result.error()); }

std::string cpu_time(uint64_t ns) {
    uint64_t seconds = ns / 1'000'000'000;
    return fmt::format("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

std::string start_time(int64_t ns) {
    time_t seconds = ns / 1'000'000'000;
    struct tm parts;
    localtime_r(&seconds, &parts);
    return fmt::format("{:02}:{:02}", parts.tm_hour, parts.tm_min);
}

Result<void> ps(Context& context, const Arguments& arguments) {
    if (arguments.positional().size() > 1)
        return Error(fmt::format("ps takes no options of ps(1), such as \"{}\": the processes are not the host's",
                                 arguments.positional()[1]),
                     EINVAL);
    Found container = TRY(find_container(context, arguments.positional()[0], false));
    auto client = TRY(connect_to_pod(context, container));
    sandbox::v1::Request request;
    request.mutable_processes()->set_container(container.record.id());
    auto reply = TRY(client.call(request));
    guest::ListProcessesReply list;
    if (!list.ParseFromString(reply.payload())) return Error("the sandbox sent a malformed list", EBADMSG);
    std::string out;
    if (arguments.value("format") == "json") {
        for (const guest::ProcessInfo& process : list.processes())
            out += fmt::format("{}{}", out.empty() ? "[" : ",", process.pid());
        out += out.empty() ? "[]\n" : "]\n";
    } else {
        out = fmt::format("{:<10} {:>7} {:>7} {:>5} {:<8} {:<8} {}\n", "UID", "PID", "PPID", "STIME", "TTY", "TIME",
                          "CMD");
        for (const guest::ProcessInfo& process : list.processes())
            out += fmt::format("{:<10} {:>7} {:>7} {:>5} {:<8} {:<8} {}\n", process.uid(), process.pid(),
                               process.parent_pid(), start_time(process.started_at_ns()),
                               process.terminal().empty() ? "?" : process.terminal(), cpu_time(process.cpu_ns()),
                               process.command());
    }
    print(out);
    return {};
}

std::string json_quote(std::string_view text) {
    std::string out = "\"";
    for (unsigned char c : text) {
        if (c == '"' || c == '\\')
            out += {'\\', static_cast<char>(c)};
        else if (c < 0x20)
            out += fmt::format("\\u{:04x}", c);
        else
            out += static_cast<char>(c);
    }
    return out + "\"";
}

// In the form of runc's, which containerd's shim and others read.
std::string stats_event(const std::string& id, const guest::GetStatsReply& stats) {
    const guest::CpuStats& cpu = stats.cpu();
    const guest::MemoryStats& memory = stats.memory();
    std::string per_cpu;
    for (uint64_t ns : cpu.per_cpu_ns()) per_cpu += fmt::format("{}{}", per_cpu.empty() ? "" : ",", ns);
    std::string interfaces;
    for (const guest::InterfaceStats& link : stats.interfaces())
        interfaces += fmt::format(
            R"({}{{"name":{},"rxBytes":{},"rxPackets":{},"rxErrors":{},"rxDropped":{},"txBytes":{},"txPackets":{},"txErrors":{},"txDropped":{}}})",
            interfaces.empty() ? "" : ",", json_quote(link.name()), link.rx_bytes(), link.rx_packets(),
            link.rx_errors(), link.rx_dropped(), link.tx_bytes(), link.tx_packets(), link.tx_errors(),
            link.tx_dropped());
    uint64_t limit = memory.limit_bytes() == 0 ? UINT64_MAX >> 1 & ~uint64_t{4095} : memory.limit_bytes();
    return fmt::format(
        R"({{"type":"stats","id":{},"data":{{"cpu":{{"usage":{{"total":{},"percpu":[{}],"kernel":{},"user":{}}},"throttling":{{"throttledPeriods":{},"throttledTime":{}}}}},"memory":{{"cache":{},"usage":{{"limit":{},"usage":{},"max":{},"failcnt":{}}},"swap":{{"limit":0,"failcnt":0}},"kernel":{{"usage":{},"limit":0,"failcnt":0}},"kernelTCP":{{"limit":0,"failcnt":0}},"raw":{{"cache":{},"rss":{},"shmem":{},"pgfault":{},"pgmajfault":{},"total_inactive_file":0}}}},"pids":{{"current":{},"limit":{}}},"blkio":{{"ioServiceBytesRecursive":[{{"major":0,"minor":0,"op":"Read","value":{}}},{{"major":0,"minor":0,"op":"Write","value":{}}}]}},"hugetlb":{{}},"intel_rdt":{{}},"network_interfaces":[{}]}}}})"
        "\n",
        json_quote(id), cpu.usage_ns(), per_cpu, cpu.system_ns(), cpu.user_ns(), cpu.throttled_periods(),
        cpu.throttled_ns(), memory.file_bytes(), limit, memory.usage_bytes(), memory.peak_bytes(), memory.oom_kills(),
        memory.kernel_bytes(), memory.file_bytes(), memory.anonymous_bytes(), memory.shared_bytes(),
        memory.page_faults(), memory.major_faults(), stats.pids(), stats.pids_limit(), stats.read_bytes(),
        stats.write_bytes(), interfaces);
}

// "5s", "500ms", "1m30s": Go's durations, as runc takes them.
Result<int64_t> parse_interval(std::string_view text) {
    double total = 0;
    std::string_view rest = text;
    bool good = !rest.empty();
    while (good && !rest.empty()) {
        double number = 0;
        auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
        good = error == std::errc() && number >= 0;
        rest.remove_prefix(static_cast<size_t>(end - rest.data()));
        std::pair<std::string_view, double> units[] = {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};
        auto unit = std::find_if(std::begin(units), std::end(units),
                                 [&](const auto& each) { return rest.starts_with(each.first); });
        good = good && unit != std::end(units);
        if (!good) break;
        total += number * unit->second;
        rest.remove_prefix(unit->first.size());
    }
    if (!good || total < 1 || total > 1e9)
        return Error(fmt::format("option --interval: \"{}\" is not a time such as 5s or 500ms", text), EINVAL);
    return static_cast<int64_t>(total);
}

Result<void> print_stats(Context& context, const Found& container) {
    auto client = TRY(connect_to_pod(context, container));
    sandbox::v1::Request request;
    request.mutable_statistics()->set_container(container.record.id());
    auto reply = TRY(client.call(request));
    guest::GetStatsReply stats;
    if (!stats.ParseFromString(reply.payload())) return Error("the sandbox sent malformed statistics", EBADMSG);
    print(stats_event(container.record.id(), stats));
    return {};
}

Result<void> events(Context& context, const Arguments& arguments) {
    int64_t interval = TRY(parse_interval(arguments.value_or("interval", "5s")));
    Found container = TRY(find_container(context, arguments.positional()[0], false));
    if (container.status == oci::ContainerStatus::kStopped)
        return Error(fmt::format("container with id {} is not running", container.record.id()), ESRCH);
    if (arguments.has("stats")) return print_stats(context, container);

    sandbox::v1::Request request;
    request.mutable_out_of_memory()->set_container(container.record.id());
    for (;;) {
        // The answer comes at the next out-of-memory event, or as an error when the container ends.
        auto client = connect_to_pod(context, container);
        if (!client.ok()) return {};
        TRY(client->send(request));
        pollfd wait = {client->fd(), POLLIN, 0};
        for (;;) {
            int ready = poll(&wait, 1, static_cast<int>(interval));
            if (ready < 0 && errno != EINTR) return sys_error("poll");
            if (ready > 0) break;
            if (!print_stats(context, container).ok()) return {};
        }
        if (!client->next_reply().ok()) return {};
        print(fmt::format(R"({{"type":"oom","id":{}}})"
                          "\n",
                          json_quote(container.record.id())));
    }
}

Result<std::string> resources_of_options(const Arguments& arguments) {
    struct Field {
        const char* option;
        const char* group;
        const char* name;
        bool text;
    };
    constexpr Field kFields[] = {{"memory", "memory", "limit", false},
                                 {"memory-reservation", "memory", "reservation", false},
                                 {"memory-swap", "memory", "swap", false},
                                 {"cpu-period", "cpu", "period", false},
                                 {"cpu-quota", "cpu", "quota", false},
                                 {"cpu-share", "cpu", "shares", false},
                                 {"cpu-rt-period", "cpu", "realtimePeriod", false},
                                 {"cpu-rt-runtime", "cpu", "realtimeRuntime", false},
                                 {"cpuset-cpus", "cpu", "cpus", true},
                                 {"cpuset-mems", "cpu", "mems", true},
                                 {"pids-limit", "pids", "limit", false},
                                 {"blkio-weight", "blockIO", "weight", false}};
    std::string out = "{";
    const char* open = nullptr;
    for (const Field& field : kFields) {
        if (!arguments.has(field.option)) continue;
        std::string_view value = arguments.value(field.option);
        std::string text = field.text ? json_quote(value) : std::to_string(TRY(parse_number(value, field.option)));
        if (open == nullptr || std::string_view(open) != field.group) {
            out += fmt::format("{}{}:{{", open == nullptr ? "" : "},", json_quote(field.group));
            open = field.group;
        } else {
            out += ",";
        }
        out += fmt::format("{}:{}", json_quote(field.name), text);
    }
    if (open == nullptr) return Error("update needs --resources or at least one of the other options", EINVAL);
    return out + "}}";
}

Result<void> update(Context& context, const Arguments& arguments) {
    std::string json;
    if (arguments.has("resources")) {
        std::string path(arguments.value("resources"));
        auto text = path == "-" ? linux::read_fd(STDIN_FILENO) : linux::read_file(path);
        if (!text.ok()) return sys_error("read " + path, text.error().value);
        json = std::move(*text);
    } else {
        json = TRY(resources_of_options(arguments));
    }
    oci::ParseNotes notes;
    oci::Resources resources = TRY(oci::parse_resources(json, notes));
    Found container = TRY(find_container(context, arguments.positional()[0], true));
    auto client = TRY(connect_to_pod(context, container));
    if (auto cgroup = sandbox::open_cgroup(container.record))
        TRY(cgroup->apply(sandbox::with_overhead(resources), false));
    sandbox::v1::Request request;
    request.mutable_update()->set_container(container.record.id());
    request.mutable_update()->set_resources(json);
    TRY(client.call(request));
    return {};
}

}  // namespace

int ps_command(Context& context, const Arguments& arguments) { return report(ps(context, arguments)); }
int events_command(Context& context, const Arguments& arguments) { return report(events(context, arguments)); }
int update_command(Context& context, const Arguments& arguments) { return report(update(context, arguments)); }

int spec_command(Context&, const Arguments& arguments) {
    std::string path = std::string(arguments.value_or("bundle", ".")) + "/config.json";
    UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!file) {
        if (errno == EEXIST) return fail(fmt::format("File {} exists. Remove it first", path));
        return fail(sys_error("write " + path));
    }
    auto done = linux::write_all(file.get(), oci::default_config(arguments.has("rootless")) + "\n");
    return done.ok() ? 0 : fail(sys_error("write " + path, done.error().value));
}

int features_command(Context&, const Arguments&) {
    oci::EngineCapabilities engine = sandbox::engine_capabilities(sandbox::EngineKind::kSentry);
    oci::FeatureSupport support;
    support.cgroup_v1 = true;
    support.cgroup_v2 = true;
    support.cgroup_systemd = true;
    support.cgroup_systemd_user = true;
    support.cgroup_rdma = true;
    support.seccomp = engine.seccomp;
    support.seccomp_flags = engine.seccomp_flags;
    support.apparmor = engine.apparmor;
    support.selinux = engine.selinux;
    support.intel_rdt = engine.intel_rdt;
    support.idmapped_mounts = engine.idmapped_mounts;
    support.annotations = {{"dev.casemate.version", "0.1.0"}};
    support.unsafe_annotations = {"dev.casemate.", "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id",
                                  "io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"};
    print(oci::features_document(support) + "\n");
    return 0;
}

}  // namespace casemate::cli
