// "linux.resources" of config.json: runtime-spec 1.2, config-linux.md "Control groups" and its blocks.
#include <unordered_set>

#include "oci/config_read.h"

namespace casemate::oci {

// A device number where -1 and absence mean "all".
static Result<void> read_wildcard(ObjectReader& reader, std::string_view name, uint32_t most,
                                  std::optional<uint32_t>& out) {
    auto node = reader.member(name);
    if (!node) return {};
    int64_t number = TRY(node->to_signed(-1, most));
    if (number >= 0) out = static_cast<uint32_t>(number);
    return {};
}

static Result<void> read(const JsonNode& node, DeviceRule& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.required("allow", out.allow));
    if (auto type = reader.member("type")) {
        std::string text = TRY(type->to_string());
        if (text != "a" && text != "c" && text != "b" && !text.empty()) return type->must_be("\"a\", \"c\" or \"b\"");
        if (!text.empty()) out.type = text[0];
    }
    TRY(read_wildcard(reader, "major", kMaxMajor, out.major));
    TRY(read_wildcard(reader, "minor", kMaxMinor, out.minor));
    if (auto access = reader.member("access")) {
        std::string text = TRY(access->to_string());
        if (text.find_first_not_of("rwm") != std::string::npos)
            return access->must_be("made of the letters r, w and m");
        if (!text.empty()) out.access = text;
    }
    return {};
}

// Bytes, or -1 for no limit.
static Result<void> read_bytes(ObjectReader& reader, std::string_view name, std::optional<int64_t>& out) {
    auto node = reader.member(name);
    if (!node) return {};
    out = TRY(node->to_signed(-1, INT64_MAX));
    return {};
}

static Result<void> read(const JsonNode& node, MemoryResources& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(read_bytes(reader, "limit", out.limit));
    TRY(read_bytes(reader, "reservation", out.reservation));
    TRY(read_bytes(reader, "swap", out.swap));
    TRY(read_bytes(reader, "kernel", out.kernel));
    TRY(read_bytes(reader, "kernelTCP", out.kernel_tcp));
    if (auto swappiness = reader.member("swappiness")) out.swappiness = TRY(swappiness->to_unsigned(100));
    TRY(reader.optional("disableOOMKiller", out.disable_oom_killer));
    TRY(reader.optional("useHierarchy", out.use_hierarchy));
    TRY(reader.optional("checkBeforeUpdate", out.check_before_update));
    // 0 and -1 stand for "not set" and "no limit".
    auto set = [](const std::optional<int64_t>& value) { return value.value_or(0) > 0; };
    if (set(out.limit) && set(out.swap) && *out.swap < *out.limit)
        return node.error(
            fmt::format("swap, which counts memory and swap, is {}, below limit, which is {}", *out.swap, *out.limit));
    return {};
}

static Result<void> read(const JsonNode& node, CpuResources& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.optional("shares", out.shares));
    TRY(reader.optional("quota", out.quota));
    TRY(reader.optional("burst", out.burst));
    TRY(reader.optional("period", out.period));
    TRY(reader.optional("realtimeRuntime", out.realtime_runtime));
    TRY(reader.optional("realtimePeriod", out.realtime_period));
    if (auto list = reader.member("cpus")) TRY(read_cpu_list(*list, out.cpus));
    if (auto list = reader.member("mems")) TRY(read_cpu_list(*list, out.mems));
    if (auto idle = reader.member("idle")) out.idle = TRY(idle->to_signed(0, 1));
    if (out.burst && out.quota.value_or(0) > 0 && *out.burst > static_cast<uint64_t>(*out.quota))
        return node.error(fmt::format("burst is {}, above quota, which is {}", *out.burst, *out.quota));
    return {};
}

static Result<void> read(const JsonNode& node, BlockWeight& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    JsonNode major = TRY(reader.required_member("major"));
    JsonNode minor = TRY(reader.required_member("minor"));
    TRY(read_device_number(major, kMaxMajor, out.major));
    TRY(read_device_number(minor, kMaxMinor, out.minor));
    TRY(reader.optional("weight", out.weight));
    TRY(reader.optional("leafWeight", out.leaf_weight));
    if (!out.weight && !out.leaf_weight) return node.error("has neither weight nor leafWeight, must have one of them");
    return {};
}

static Result<void> read(const JsonNode& node, BlockThrottle& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    JsonNode major = TRY(reader.required_member("major"));
    JsonNode minor = TRY(reader.required_member("minor"));
    TRY(read_device_number(major, kMaxMajor, out.major));
    TRY(read_device_number(minor, kMaxMinor, out.minor));
    TRY(reader.required("rate", out.rate));
    return {};
}

static Result<void> read(const JsonNode& node, BlockIoResources& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.optional("weight", out.weight));
    TRY(reader.optional("leafWeight", out.leaf_weight));
    TRY(reader.optional("weightDevice", out.weight_device));
    TRY(reader.optional("throttleReadBpsDevice", out.throttle_read_bps));
    TRY(reader.optional("throttleWriteBpsDevice", out.throttle_write_bps));
    TRY(reader.optional("throttleReadIOPSDevice", out.throttle_read_iops));
    TRY(reader.optional("throttleWriteIOPSDevice", out.throttle_write_iops));
    return {};
}

static bool is_page_size(std::string_view text) {
    if (!text.ends_with("KB") && !text.ends_with("MB") && !text.ends_with("GB")) return false;
    std::string_view digits = text.substr(0, text.size() - 2);
    return !digits.empty() && digits.size() < 10 && digits.front() != '0' &&
           digits.find_first_not_of("0123456789") == std::string_view::npos;
}

static Result<void> read(const JsonNode& node, HugepageLimit& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    JsonNode size = TRY(reader.required_member("pageSize"));
    TRY(read(size, out.page_size));
    // It becomes a part of a control file's name.
    if (!is_page_size(out.page_size)) return size.must_be("a size such as \"64KB\", \"2MB\" or \"1GB\"");
    TRY(reader.required("limit", out.limit));
    return {};
}

static Result<void> read(const JsonNode& node, InterfacePriority& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    JsonNode name = TRY(reader.required_member("name"));
    TRY(read(name, out.name));
    if (out.name.empty() || out.name.size() > 15 || out.name.find_first_of("/ \t\n") != std::string::npos)
        return name.must_be("the name of a network interface");
    TRY(reader.required("priority", out.priority));
    return {};
}

static Result<void> read(const JsonNode& node, NetworkResources& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.optional("classID", out.class_id));
    TRY(reader.optional("priorities", out.priorities));
    return {};
}

static Result<void> read(const JsonNode& node, RdmaLimit& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.optional("hcaHandles", out.hca_handles));
    TRY(reader.optional("hcaObjects", out.hca_objects));
    if (!out.hca_handles && !out.hca_objects)
        return node.error("has neither hcaHandles nor hcaObjects, must have one of them");
    return {};
}

// Each key names a file of the container's cgroup directory and must not lead out of it.
static Result<void> read_unified(const JsonNode& node, StringMap& out) {
    TRY(read(node, out));
    for (const auto& [name, value] : out) {
        bool dotted = name.find('.') != std::string::npos && !name.starts_with('.') && !name.ends_with('.');
        if (!dotted || name.find('/') != std::string::npos)
            return node.error(
                fmt::format("has {}, must have names of control files, such as \"memory.max\"", in_quotes(name)));
    }
    return {};
}

Result<void> read(const JsonNode& node, Resources& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.optional("devices", out.devices));
    TRY(reader.optional("memory", out.memory));
    TRY(reader.optional("cpu", out.cpu));
    if (auto pids = reader.member("pids")) {
        TRY(pids->check_object());
        ObjectReader fields(*pids);
        int64_t limit = 0;
        TRY(fields.required("limit", limit));
        out.pids_limit = limit;
    }
    TRY(reader.optional("blockIO", out.block_io));
    if (auto limits = reader.member("hugepageLimits")) {
        TRY(read(*limits, out.hugepage_limits));
        std::unordered_set<std::string_view> sizes;
        for (size_t i = 0; i < out.hugepage_limits.size(); i++)
            if (!sizes.insert(out.hugepage_limits[i].page_size).second)
                return limits->element(i).error(
                    fmt::format("limits pages of {} a second time", out.hugepage_limits[i].page_size));
    }
    TRY(reader.optional("network", out.network));
    TRY(reader.optional("rdma", out.rdma));
    if (auto unified = reader.member("unified")) TRY(read_unified(*unified, out.unified));
    return {};
}

}  // namespace casemate::oci
