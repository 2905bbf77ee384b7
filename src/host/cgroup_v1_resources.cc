// linux.resources in the files of cgroups v1 (runtime-spec config-linux.md, "Control groups").
#include <fmt/core.h>

#include "host/cgroup_settings.h"
#include "host/cgroup_v1.h"

namespace casemate::host {

namespace {

Result<void> apply_memory_limits(const CgroupSettings& files, const oci::MemoryResources& memory) {
    std::optional<int64_t> swap = memory.swap;
    // No limit for memory alone would leave the sum with swap limited, where the kernel counts it.
    if (memory.limit == -1 && !given(swap) && files.has("memory", "memory.memsw.limit_in_bytes")) swap = -1;
    if (memory.check_before_update.value_or(false) && given(memory.limit) && *memory.limit > 0) {
        uint64_t usage = parse_limit(files.read("memory", "memory.usage_in_bytes"));
        if (static_cast<uint64_t>(*memory.limit) < usage)
            return Error(fmt::format("linux.resources.memory.limit is {}, below the present usage of {} bytes",
                                     *memory.limit, usage),
                         EBUSY);
    }
    PendingSettings settings;
    if (given(memory.limit)) {
        settings.push_back([&files, limit = *memory.limit]() -> Result<void> {
            auto written = files.write("memory.limit", "memory", "memory.limit_in_bytes", std::to_string(limit));
            if (written.ok() || written.error().code() != EBUSY) return written;
            return written.take_error().with_context(
                fmt::format("{} bytes are in use", parse_limit(files.read("memory", "memory.usage_in_bytes"))));
        });
    }
    if (given(swap)) {
        settings.push_back([&files, limit = *swap] {
            return files.write("memory.swap", "memory", "memory.memsw.limit_in_bytes", std::to_string(limit));
        });
    }
    return apply_in_any_order(std::move(settings));
}

Result<void> apply_memory(const CgroupSettings& files, const oci::MemoryResources& memory) {
    TRY(apply_memory_limits(files, memory));
    if (given(memory.reservation))
        TRY(files.write("memory.reservation", "memory", "memory.soft_limit_in_bytes",
                        std::to_string(*memory.reservation)));
    if (given(memory.kernel))
        TRY(files.write("memory.kernel", "memory", "memory.kmem.limit_in_bytes", std::to_string(*memory.kernel)));
    if (given(memory.kernel_tcp))
        TRY(files.write("memory.kernelTCP", "memory", "memory.kmem.tcp.limit_in_bytes",
                        std::to_string(*memory.kernel_tcp)));
    if (memory.swappiness)
        TRY(files.write("memory.swappiness", "memory", "memory.swappiness", std::to_string(*memory.swappiness)));
    if (memory.disable_oom_killer && (*memory.disable_oom_killer || files.has("memory", "memory.oom_control")))
        TRY(files.write("memory.disableOOMKiller", "memory", "memory.oom_control",
                        *memory.disable_oom_killer ? "1" : "0"));
    if (memory.use_hierarchy)
        TRY(files.write("memory.useHierarchy", "memory", "memory.use_hierarchy", *memory.use_hierarchy ? "1" : "0"));
    return {};
}

Result<void> apply_cpu(const CgroupSettings& files, const oci::CpuResources& cpu) {
    if (cpu.shares.value_or(0) != 0) {
        TRY(files.write("cpu.shares", "cpu", "cpu.shares", std::to_string(*cpu.shares)));
        // The kernel rounds silently what is out of its range.
        uint64_t taken = parse_limit(files.read("cpu", "cpu.shares"));
        if (taken != *cpu.shares)
            return Error(fmt::format("linux.resources.cpu.shares is {}, but the kernel's {} is {}", *cpu.shares,
                                     taken > *cpu.shares ? "minimum" : "maximum", taken),
                         EINVAL);
    }
    if (cpu.idle) TRY(files.write("cpu.idle", "cpu", "cpu.idle", std::to_string(*cpu.idle)));
    PendingSettings settings;
    if (cpu.period.value_or(0) != 0)
        settings.push_back(
            [&] { return files.write("cpu.period", "cpu", "cpu.cfs_period_us", std::to_string(*cpu.period)); });
    if (given(cpu.quota))
        settings.push_back(
            [&] { return files.write("cpu.quota", "cpu", "cpu.cfs_quota_us", std::to_string(*cpu.quota)); });
    if (cpu.burst)
        settings.push_back(
            [&] { return files.write("cpu.burst", "cpu", "cpu.cfs_burst_us", std::to_string(*cpu.burst)); });
    if (cpu.realtime_period.value_or(0) != 0)
        settings.push_back([&] {
            return files.write("cpu.realtimePeriod", "cpu", "cpu.rt_period_us", std::to_string(*cpu.realtime_period));
        });
    if (given(cpu.realtime_runtime))
        settings.push_back([&] {
            return files.write("cpu.realtimeRuntime", "cpu", "cpu.rt_runtime_us",
                               std::to_string(*cpu.realtime_runtime));
        });
    TRY(apply_in_any_order(std::move(settings)));
    if (!cpu.cpus.empty()) TRY(files.write("cpu.cpus", "cpuset", "cpuset.cpus", cpu.cpus));
    if (!cpu.mems.empty()) TRY(files.write("cpu.mems", "cpuset", "cpuset.mems", cpu.mems));
    return {};
}

Result<void> apply_block_io(const CgroupSettings& files, const oci::BlockIoResources& io) {
    // The CFQ scheduler's files went with it; BFQ has its own.
    std::string prefix = files.has("blkio", "blkio.weight") ? "blkio." : "blkio.bfq.";
    if (io.weight.value_or(0) != 0)
        TRY(files.write("blockIO.weight", "blkio", prefix + "weight", std::to_string(*io.weight)));
    if (io.leaf_weight.value_or(0) != 0)
        TRY(files.write("blockIO.leafWeight", "blkio", "blkio.leaf_weight", std::to_string(*io.leaf_weight)));
    for (size_t i = 0; i < io.weight_device.size(); i++) {
        const oci::BlockWeight& device = io.weight_device[i];
        std::string field = fmt::format("blockIO.weightDevice[{}].", i);
        std::string number = fmt::format("{}:{} ", device.major, device.minor);
        if (device.weight)
            TRY(files.write(field + "weight", "blkio", prefix + "weight_device",
                            number + std::to_string(*device.weight)));
        if (device.leaf_weight)
            TRY(files.write(field + "leafWeight", "blkio", "blkio.leaf_weight_device",
                            number + std::to_string(*device.leaf_weight)));
    }
    auto throttle = [&](const char* field, const char* file,
                        const std::vector<oci::BlockThrottle>& devices) -> Result<void> {
        for (size_t i = 0; i < devices.size(); i++)
            TRY(files.write(fmt::format("blockIO.{}[{}].rate", field, i), "blkio",
                            std::string("blkio.throttle.") + file,
                            fmt::format("{}:{} {}", devices[i].major, devices[i].minor, devices[i].rate)));
        return {};
    };
    TRY(throttle("throttleReadBpsDevice", "read_bps_device", io.throttle_read_bps));
    TRY(throttle("throttleWriteBpsDevice", "write_bps_device", io.throttle_write_bps));
    TRY(throttle("throttleReadIOPSDevice", "read_iops_device", io.throttle_read_iops));
    return throttle("throttleWriteIOPSDevice", "write_iops_device", io.throttle_write_iops);
}

}  // namespace

Result<void> apply_resources_v1(const CgroupRecord& record, const oci::Resources& resources) {
    CgroupSettings files(record);
    TRY(apply_memory(files, resources.memory));
    TRY(apply_cpu(files, resources.cpu));
    TRY(apply_pids(files, resources.pids_limit));
    TRY(apply_block_io(files, resources.block_io));
    TRY(apply_hugepages(files, resources.hugepage_limits, ".limit_in_bytes"));
    if (resources.network.class_id.value_or(0) != 0)
        TRY(files.write("network.classID", "net_cls", "net_cls.classid", std::to_string(*resources.network.class_id)));
    for (size_t i = 0; i < resources.network.priorities.size(); i++) {
        const oci::InterfacePriority& priority = resources.network.priorities[i];
        TRY(files.write(fmt::format("network.priorities[{}]", i), "net_prio", "net_prio.ifpriomap",
                        fmt::format("{} {}", priority.name, priority.priority)));
    }
    for (const auto& [device, limit] : resources.rdma) {
        std::string value = device;
        if (limit.hca_handles) value += fmt::format(" hca_handle={}", *limit.hca_handles);
        if (limit.hca_objects) value += fmt::format(" hca_object={}", *limit.hca_objects);
        TRY(files.write("rdma." + device, "rdma", "rdma.max", value));
    }
    if (!resources.unified.empty())
        return CgroupSettings::unsupported("unified",
                                           "it is for cgroups v2, and this host has its controllers in cgroups v1");
    return {};
}

Result<void> apply_devices_v1(const CgroupRecord& record, const std::vector<oci::DeviceRule>& rules) {
    CgroupSettings files(record);
    for (size_t i = 0; i < rules.size(); i++) {
        const oci::DeviceRule& rule = rules[i];
        std::string field = fmt::format("devices[{}]", i);
        const char* file = rule.allow ? "devices.allow" : "devices.deny";
        auto number = [](const std::optional<uint32_t>& n) { return n ? std::to_string(*n) : "*"; };
        // To the kernel "a" means everything, whatever follows it: a narrower rule for both types is two rules.
        bool everything = rule.type == 'a' && !rule.major && !rule.minor &&
                          rule.access.find('r') != std::string::npos && rule.access.find('w') != std::string::npos &&
                          rule.access.find('m') != std::string::npos;
        if (everything) {
            TRY(files.write(field, "devices", file, "a"));
            continue;
        }
        for (char type : {'b', 'c'})
            if (rule.type == 'a' || rule.type == type)
                TRY(files.write(field, "devices", file,
                                fmt::format("{} {}:{} {}", type, number(rule.major), number(rule.minor), rule.access)));
    }
    return {};
}

}  // namespace casemate::host
