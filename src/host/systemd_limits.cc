#include "host/systemd_limits.h"

#include <charconv>

#include "host/cgroup_stats.h"

namespace casemate::host {
namespace {

constexpr uint64_t kNone = UINT64_MAX;

// systemd keeps a quota as a whole percentage of a CPU: rounded up, so that what it writes later is not less.
uint64_t quota_per_second(uint64_t quota, uint64_t period) {
    constexpr uint64_t kSecond = 1000000, kPercent = kSecond / 100;
    if (period == 0 || quota > kNone / kSecond) return kNone;
    uint64_t exact = (quota * kSecond + period - 1) / period;
    return (exact + kPercent - 1) / kPercent * kPercent;
}

}  // namespace

std::string mask_of_list(std::string_view list) {
    constexpr unsigned kMost = 65535;
    std::string mask;
    while (!list.empty()) {
        size_t end = std::min(list.find_first_of(",\n"), list.size());
        std::string_view range = list.substr(0, end);
        list.remove_prefix(std::min(end + 1, list.size()));
        unsigned first = 0, last = 0;
        auto one = std::from_chars(range.data(), range.data() + range.size(), first);
        if (one.ec != std::errc()) continue;
        last = first;
        if (one.ptr != range.data() + range.size() && *one.ptr == '-')
            std::from_chars(one.ptr + 1, range.data() + range.size(), last);
        for (unsigned at = first; at <= std::min(last, kMost); ++at) {
            if (mask.size() <= at / 8) mask.resize(at / 8 + 1);
            mask[at / 8] = static_cast<char>(static_cast<uint8_t>(mask[at / 8]) | 1u << at % 8);
        }
    }
    return mask;
}

SystemdProperties systemd_limits(const CgroupSettings& files) {
    SystemdProperties properties;
    auto limit = [&](const char* name, const char* controller, const char* file) {
        if (std::string text = files.read(controller, file); !text.empty())
            properties.numbers.emplace_back(name, parse_limit(text));
    };
    limit("MemoryMax", "memory", "memory.max");
    limit("MemoryHigh", "memory", "memory.high");
    limit("MemoryLow", "memory", "memory.low");
    limit("MemoryMin", "memory", "memory.min");
    limit("MemorySwapMax", "memory", "memory.swap.max");
    limit("TasksMax", "pids", "pids.max");
    if (parse_limit(files.read("cpu", "cpu.idle")) == 1)
        properties.numbers.emplace_back("CPUWeight", 0);  // since version 252: idle
    else
        limit("CPUWeight", "cpu", "cpu.weight");
    if (std::string quota = files.read("cpu", "cpu.max"); !quota.empty()) {
        uint64_t period = 100000;
        if (size_t space = quota.find(' '); space != std::string::npos) period = parse_limit(quota.substr(space + 1));
        uint64_t most = parse_limit(quota.substr(0, quota.find(' ')));
        properties.numbers.emplace_back("CPUQuotaPerSecUSec", most == kNone ? kNone : quota_per_second(most, period));
        properties.numbers.emplace_back("CPUQuotaPeriodUSec", period);
    }
    if (std::string weight = files.read("io", "io.weight"); weight.starts_with("default "))
        properties.numbers.emplace_back("IOWeight", parse_limit(weight.substr(8, weight.find('\n') - 8)));
    for (auto [name, file] : {std::pair("AllowedCPUs", "cpuset.cpus"), std::pair("AllowedMemoryNodes", "cpuset.mems")})
        if (std::string mask = mask_of_list(files.read("cpuset", file)); !mask.empty())
            properties.masks.emplace_back(name, mask);
    return properties;
}

}  // namespace casemate::host
