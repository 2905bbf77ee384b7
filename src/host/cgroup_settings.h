// Control files by the field of config.json that they serve, so that every failure names both.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "host/cgroup.h"
#include "oci/spec.h"

namespace casemate::host {

class CgroupSettings {
  public:
    explicit CgroupSettings(const CgroupRecord& record) : record_(record) {}

    // The directory with the controller's files, or empty.
    std::string directory(std::string_view controller) const;
    bool has(std::string_view controller, const std::string& file) const;
    std::string read(std::string_view controller, const std::string& file) const;  // empty if missing

    // `field` without "linux.resources.": "memory.limit".
    Result<void> write(std::string_view field, std::string_view controller, const std::string& file,
                       const std::string& value) const;
    // For a field that this cgroup version has nothing for.
    static Error unsupported(std::string_view field, std::string_view why);

  private:
    const CgroupRecord& record_;
};

// A limit that says something: runc and its clients write 0 for none.
inline bool given(const std::optional<int64_t>& value) { return value.value_or(0) != 0; }

// What both versions have alike. `suffix` ends the name of a huge page limit's file.
Result<void> apply_pids(const CgroupSettings& files, const std::optional<int64_t>& limit);
Result<void> apply_hugepages(const CgroupSettings& files, const std::vector<oci::HugepageLimit>& limits,
                             const std::string& suffix);

// Settings that limit each other (quota, period and burst; limit and swap): tries them in turn, and those that failed
// again after others went through. The error is that of one which fails to the end.
using PendingSettings = std::vector<std::function<Result<void>()>>;
Result<void> apply_in_any_order(PendingSettings settings);

// The values of v2 for those of v1, as runc and crun convert them.
uint64_t cpu_weight_of_shares(uint64_t shares);       // 2..262144 to 1..10000, 1024 gives 100; 0 stays 0
uint64_t io_weight_of_blkio_weight(uint64_t weight);  // 10..1000 to 1..10000; 0 stays 0
// memory.swap.max of `swap` (memory and swap) and `limit`. An error if they contradict each other.
Result<std::string> swap_max(int64_t swap, int64_t limit);

}  // namespace casemate::host
