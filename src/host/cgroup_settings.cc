#include "host/cgroup_settings.h"

#include <fmt/core.h>

#include <cmath>

#include "linux/file.h"
#include "linux/path.h"

namespace casemate::host {

std::string CgroupSettings::directory(std::string_view controller) const {
    auto found = record_.paths.find(record_.unified() ? std::string_view() : controller);
    return found == record_.paths.end() ? "" : found->second;
}

bool CgroupSettings::has(std::string_view controller, const std::string& file) const {
    std::string at = directory(controller);
    return !at.empty() && linux::path_exists(at + "/" + file);
}

std::string CgroupSettings::read(std::string_view controller, const std::string& file) const {
    std::string at = directory(controller);
    if (at.empty()) return "";
    auto text = linux::read_file(at + "/" + file);
    return text.ok() ? text.take_value() : "";
}

Result<void> CgroupSettings::write(std::string_view field, std::string_view controller, const std::string& file,
                                   const std::string& value) const {
    std::string at = directory(controller);
    if (at.empty())
        return Error(fmt::format("linux.resources.{} needs the cgroup controller {}, which is not available here",
                                 field, controller),
                     ENOTSUP);
    auto written = linux::write_existing(at + "/" + file, value);
    if (written.ok()) return {};
    int code = written.error().value;
    if (code == ENOENT && !linux::path_exists(at))
        return Error(fmt::format("linux.resources.{}: the cgroup {} is gone", field, at), ENOENT);
    if (code == ENOENT) {
        return Error(
            fmt::format("linux.resources.{} needs {} of the cgroup controller {}, which this host {} ({})", field, file,
                        controller, record_.unified() ? "has not enabled here or does not have" : "does not have", at),
            ENOTSUP);
    }
    return sys_error(fmt::format("linux.resources.{}: writing \"{}\" to {}/{}", field, value, at, file), code);
}

Error CgroupSettings::unsupported(std::string_view field, std::string_view why) {
    return Error(fmt::format("linux.resources.{} cannot be honoured: {}", field, why), ENOTSUP);
}

Result<void> apply_in_any_order(PendingSettings settings) {
    while (!settings.empty()) {
        PendingSettings failed;
        std::optional<Error> error;
        for (auto& setting : settings) {
            auto result = setting();
            if (result.ok()) continue;
            if (!error) error = result.take_error();
            failed.push_back(std::move(setting));
        }
        if (failed.size() == settings.size()) return std::move(*error);
        settings = std::move(failed);
    }
    return {};
}

Result<void> apply_pids(const CgroupSettings& files, const std::optional<int64_t>& limit) {
    if (!given(limit)) return {};
    return files.write("pids.limit", "pids", "pids.max", *limit > 0 ? std::to_string(*limit) : "max");
}

Result<void> apply_hugepages(const CgroupSettings& files, const std::vector<oci::HugepageLimit>& limits,
                             const std::string& suffix) {
    for (size_t i = 0; i < limits.size(); i++) {
        std::string field = fmt::format("hugepageLimits[{}].limit", i), file = "hugetlb." + limits[i].page_size;
        TRY(files.write(field, "hugetlb", file + suffix, std::to_string(limits[i].limit)));
        // Reservations count apart, where the kernel does (5.7).
        if (files.has("hugetlb", file + ".rsvd" + suffix))
            TRY(files.write(field, "hugetlb", file + ".rsvd" + suffix, std::to_string(limits[i].limit)));
    }
    return {};
}

uint64_t cpu_weight_of_shares(uint64_t shares) {
    if (shares == 0) return 0;
    if (shares <= 2) return 1;
    if (shares >= 262144) return 10000;
    // A curve through (2, 1), (1024, 100) and (262144, 10000): the defaults meet, which a straight line misses.
    double l = std::log2(static_cast<double>(shares));
    double exponent = (l * l + 125 * l) / 612.0 - 7.0 / 34.0;
    // The small step down keeps 1024 at 100 whatever the last bit of pow() is.
    return static_cast<uint64_t>(std::ceil(std::pow(10, exponent) - 1e-9));
}

uint64_t io_weight_of_blkio_weight(uint64_t weight) {
    if (weight == 0) return 0;
    return 1 + (weight - 10) * 9999 / 990;
}

Result<std::string> swap_max(int64_t swap, int64_t limit) {
    if (swap == -1) return std::string("max");
    if (limit == -1)
        return Error(
            "linux.resources.memory.swap counts memory and swap, so it cannot be limited while memory.limit is not",
            EINVAL);
    if (limit == 0)
        return Error("linux.resources.memory.swap counts memory and swap, so it needs memory.limit beside it", EINVAL);
    if (swap < limit)
        return Error("linux.resources.memory.swap is below memory.limit; it counts memory and swap", EINVAL);
    return std::to_string(swap - limit);
}

}  // namespace casemate::host
