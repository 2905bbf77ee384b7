// linux.resources in the files of cgroups v2: the values are those of v1, converted as runc and crun do.
#include <fmt/core.h>

#include <set>

#include "host/cgroup_settings.h"
#include "host/cgroup_v2.h"

namespace casemate::host {

namespace {

std::string bytes(int64_t value) { return value < 0 ? "max" : std::to_string(value); }

Result<void> apply_memory(const CgroupSettings& files, const oci::MemoryResources& memory) {
    if (memory.check_before_update.value_or(false) && given(memory.limit) && *memory.limit > 0) {
        uint64_t usage = parse_limit(files.read("memory", "memory.current"));
        if (static_cast<uint64_t>(*memory.limit) < usage)
            return Error(fmt::format("linux.resources.memory.limit is {}, below the present usage of {} bytes",
                                     *memory.limit, usage),
                         EBUSY);
    }
    // No limit for memory takes the limit of swap away as well, as on v1.
    std::optional<int64_t> swap = memory.swap;
    if (memory.limit == -1 && !given(swap) && files.has("memory", "memory.swap.max")) swap = -1;
    if (given(swap)) {
        std::string value = TRY(swap_max(*swap, memory.limit.value_or(0)));
        // Without swap accounting there is nothing to limit, unless the sum is more than memory alone.
        if (files.has("memory", "memory.swap.max") || (value != "0" && value != "max"))
            TRY(files.write("memory.swap", "memory", "memory.swap.max", value));
    }
    if (given(memory.limit)) TRY(files.write("memory.limit", "memory", "memory.max", bytes(*memory.limit)));
    if (given(memory.reservation))
        TRY(files.write("memory.reservation", "memory", "memory.low", bytes(*memory.reservation)));
    if (given(memory.kernel) && *memory.kernel != -1)
        return CgroupSettings::unsupported("memory.kernel", "cgroups v2 count kernel memory in memory.limit");
    if (given(memory.kernel_tcp) && *memory.kernel_tcp != -1)
        return CgroupSettings::unsupported("memory.kernelTCP", "cgroups v2 count TCP buffers in memory.limit");
    if (memory.swappiness) return CgroupSettings::unsupported("memory.swappiness", "cgroups v2 have no swappiness");
    if (memory.disable_oom_killer.value_or(false))
        return CgroupSettings::unsupported("memory.disableOOMKiller", "cgroups v2 cannot disable the OOM killer");
    if (memory.use_hierarchy.has_value() && !*memory.use_hierarchy)
        return CgroupSettings::unsupported("memory.useHierarchy", "cgroups v2 always count the whole hierarchy");
    return {};
}

Result<void> apply_cpu(const CgroupSettings& files, const oci::CpuResources& cpu) {
    if (given(cpu.realtime_runtime) || cpu.realtime_period.value_or(0) != 0)
        return CgroupSettings::unsupported(given(cpu.realtime_runtime) ? "cpu.realtimeRuntime" : "cpu.realtimePeriod",
                                           "cgroups v2 do not control real-time scheduling");
    if (cpu.idle) TRY(files.write("cpu.idle", "cpu", "cpu.idle", std::to_string(*cpu.idle)));
    // An idle cgroup has no weight of its own and refuses one.
    if (cpu.shares.value_or(0) != 0 && cpu.idle.value_or(0) != 1)
        TRY(files.write("cpu.shares", "cpu", "cpu.weight", std::to_string(cpu_weight_of_shares(*cpu.shares))));
    PendingSettings settings;
    bool period = cpu.period.value_or(0) != 0;
    if (given(cpu.quota) || period) {
        settings.push_back([&files, &cpu, period] {
            std::string value = cpu.quota.value_or(0) > 0 ? std::to_string(*cpu.quota) : "max";
            if (!given(cpu.quota)) {  // an update of the period alone keeps the quota
                std::string now = files.read("cpu", "cpu.max");
                if (!now.empty()) value = now.substr(0, now.find_first_of(" \n"));
            }
            if (period) value += " " + std::to_string(*cpu.period);
            return files.write(given(cpu.quota) ? "cpu.quota" : "cpu.period", "cpu", "cpu.max", value);
        });
    }
    if (cpu.burst)
        settings.push_back(
            [&] { return files.write("cpu.burst", "cpu", "cpu.max.burst", std::to_string(*cpu.burst)); });
    TRY(apply_in_any_order(std::move(settings)));
    if (!cpu.cpus.empty()) TRY(files.write("cpu.cpus", "cpuset", "cpuset.cpus", cpu.cpus));
    if (!cpu.mems.empty()) TRY(files.write("cpu.mems", "cpuset", "cpuset.mems", cpu.mems));
    return {};
}

Result<void> apply_block_io(const CgroupSettings& files, const oci::BlockIoResources& io) {
    bool bfq = files.has("io", "io.bfq.weight");
    const char* file = bfq ? "io.bfq.weight" : "io.weight";
    // BFQ's scale is that of v1.
    auto weight = [&](uint16_t value) {
        return std::to_string(bfq ? value : io_weight_of_blkio_weight(std::max<uint16_t>(value, 10)));
    };
    if (io.weight.value_or(0) != 0)
        TRY(files.write("blockIO.weight", "io", file, (bfq ? "" : "default ") + weight(*io.weight)));
    if (io.leaf_weight.value_or(0) != 0)
        return CgroupSettings::unsupported("blockIO.leafWeight", "cgroups v2 have no leaf weights");
    for (size_t i = 0; i < io.weight_device.size(); i++) {
        const oci::BlockWeight& device = io.weight_device[i];
        std::string field = fmt::format("blockIO.weightDevice[{}].", i);
        if (device.leaf_weight.value_or(0) != 0)
            return CgroupSettings::unsupported(field + "leafWeight", "cgroups v2 have no leaf weights");
        if (device.weight)
            TRY(files.write(field + "weight", "io", file,
                            fmt::format("{}:{} {}", device.major, device.minor, weight(*device.weight))));
    }
    auto throttle = [&](const char* field, const char* key,
                        const std::vector<oci::BlockThrottle>& devices) -> Result<void> {
        for (size_t i = 0; i < devices.size(); i++) {
            // 0 takes the limit away, as on v1.
            std::string rate = devices[i].rate == 0 ? "max" : std::to_string(devices[i].rate);
            TRY(files.write(fmt::format("blockIO.{}[{}].rate", field, i), "io", "io.max",
                            fmt::format("{}:{} {}={}", devices[i].major, devices[i].minor, key, rate)));
        }
        return {};
    };
    TRY(throttle("throttleReadBpsDevice", "rbps", io.throttle_read_bps));
    TRY(throttle("throttleWriteBpsDevice", "wbps", io.throttle_write_bps));
    TRY(throttle("throttleReadIOPSDevice", "riops", io.throttle_read_iops));
    return throttle("throttleWriteIOPSDevice", "wiops", io.throttle_write_iops);
}

}  // namespace

Result<void> apply_resources_v2(const CgroupRecord& record, const oci::Resources& resources) {
    CgroupSettings files(record);
    TRY(apply_memory(files, resources.memory));
    TRY(apply_cpu(files, resources.cpu));
    TRY(apply_pids(files, resources.pids_limit));
    TRY(apply_block_io(files, resources.block_io));
    TRY(apply_hugepages(files, resources.hugepage_limits, ".max"));
    if (resources.network.class_id.value_or(0) != 0)
        return CgroupSettings::unsupported("network.classID", "cgroups v2 have no net_cls controller");
    if (!resources.network.priorities.empty())
        return CgroupSettings::unsupported("network.priorities", "cgroups v2 have no net_prio controller");
    for (const auto& [device, limit] : resources.rdma) {
        std::string value = device;
        if (limit.hca_handles) value += fmt::format(" hca_handle={}", *limit.hca_handles);
        if (limit.hca_objects) value += fmt::format(" hca_object={}", *limit.hca_objects);
        TRY(files.write("rdma." + device, "rdma", "rdma.max", value));
    }
    // Last: what is written here overrules the rest.
    for (const auto& [file, value] : resources.unified) {
        std::string field = "unified[\"" + file + "\"]", controller = file.substr(0, file.find('.'));
        // Files with several keyed lines ("io.max") take one a write.
        for (size_t at = 0; at < value.size();) {
            size_t end = std::min(value.find('\n', at), value.size());
            if (end > at) TRY(files.write(field, controller, file, value.substr(at, end - at)));
            at = end + 1;
        }
    }
    return {};
}

}  // namespace casemate::host
