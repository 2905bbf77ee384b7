// The limits of a cgroup as properties of systemd's unit. systemd writes the files of its units anew whenever it reads
// its configuration again (systemctl daemon-reload, which a package's installation does), delegated or not, with what
// it knows: a limit that it was not told of is gone then.
//
// Names and types are those of org.freedesktop.systemd1(5), "Properties2 of cgroups", since version 244.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "host/cgroup_settings.h"

namespace casemate::host {

struct SystemdProperties {
    std::vector<std::pair<std::string, uint64_t>> numbers;   // type "t"; UINT64_MAX is no limit
    std::vector<std::pair<std::string, std::string>> masks;  // type "ay": a bit for each CPU or node, the first is 1
};

// What the files of a v2 cgroup say now, so that it does not matter which field of config.json or of an update said it.
SystemdProperties systemd_limits(const CgroupSettings& files);

// "0-2,8" as bytes, the lowest numbers first; numbers past 65535 and what is no list are left out.
std::string mask_of_list(std::string_view list);

}  // namespace casemate::host
