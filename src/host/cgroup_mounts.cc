#include "host/cgroup_mounts.h"

#include <algorithm>

#include "linux/file.h"

namespace casemate::host {

namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    while (true) {
        size_t end = text.find(separator);
        parts.push_back(text.substr(0, end));
        if (end == std::string_view::npos) return parts;
        text.remove_prefix(end + 1);
    }
}

// mountinfo writes blanks, tabs, newlines and backslashes as \ooo.
std::string unescape(std::string_view text) {
    std::string result;
    for (size_t i = 0; i < text.size(); i++) {
        auto digit = [&](size_t k) { return i + k < text.size() && text[i + k] >= '0' && text[i + k] <= '7'; };
        if (text[i] == '\\' && digit(1) && digit(2) && digit(3)) {
            result += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
            i += 3;
        } else {
            result += text[i];
        }
    }
    return result;
}

// `path` of the hierarchy as seen below a mount that shows the hierarchy from `root` on.
std::string below_root(std::string_view path, std::string_view root) {
    if (root != "/" && path.starts_with(root) && (path.size() == root.size() || path[root.size()] == '/'))
        path.remove_prefix(root.size());
    return path.empty() ? "/" : std::string(path);
}

}  // namespace

Result<CgroupMounts> CgroupMounts::parse(std::string_view mountinfo, std::string_view cgroup) {
    // "4:memory:/path", "1:name=systemd:/", "0::/" for v2.
    std::map<std::string, std::string, std::less<>> own;
    for (std::string_view line : split(cgroup, '\n')) {
        size_t first = line.find(':');
        size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
        if (second == std::string_view::npos) continue;
        for (std::string_view name : split(line.substr(first + 1, second - first - 1), ','))
            own.emplace(name, line.substr(second + 1));
    }
    CgroupMounts mounts;
    for (std::string_view line : split(mountinfo, '\n')) {
        // 35 31 0:32 ROOT MOUNT_POINT OPTIONS [FIELDS] - TYPE SOURCE SUPER_OPTIONS
        size_t dash = line.find(" - ");
        if (dash == std::string_view::npos) continue;
        auto before = split(line.substr(0, dash), ' ');
        auto after = split(line.substr(dash + 3), ' ');
        if (before.size() < 6 || after.size() < 3) continue;
        std::string root = unescape(before[3]);
        CgroupHierarchy hierarchy;
        hierarchy.mount_point = unescape(before[4]);
        if (after[0] == "cgroup2") {
            auto found = own.find("");
            hierarchy.own_path = below_root(found == own.end() ? "/" : found->second, root);
            if (mounts.v2.mount_point.empty()) mounts.v2 = hierarchy;
        } else if (after[0] == "cgroup") {
            for (std::string_view option : split(after[2], ',')) {
                auto found = own.find(option);  // tells controllers from mount options
                if (option.empty() || found == own.end()) continue;
                hierarchy.own_path = below_root(found->second, root);
                mounts.v1.emplace(option, hierarchy);
            }
        }
    }
    if (mounts.v1.empty() && mounts.v2.mount_point.empty())
        return Error("no cgroup file system is mounted on this host; mount cgroup2 at /sys/fs/cgroup", ENOENT);
    // A named v1 hierarchy alone, with the controllers in v2, is no reason to work with v1.
    bool has_controller = std::any_of(mounts.v1.begin(), mounts.v1.end(),
                                      [](const auto& entry) { return !entry.first.starts_with("name="); });
    if (!has_controller && !mounts.v2.mount_point.empty()) mounts.v1.clear();
    return mounts;
}

Result<CgroupMounts> CgroupMounts::discover() {
    auto mountinfo = linux::read_file("/proc/self/mountinfo", 16 << 20);
    if (!mountinfo.ok()) return sys_error("read /proc/self/mountinfo", mountinfo.error().value);
    auto cgroup = linux::read_file("/proc/self/cgroup");
    if (!cgroup.ok()) return sys_error("read /proc/self/cgroup", cgroup.error().value);
    return parse(*mountinfo, *cgroup);
}

std::string CgroupMounts::controller_names() const {
    std::string names;
    for (const auto& [name, hierarchy] : v1)
        if (!name.starts_with("name=")) names += (names.empty() ? "" : ", ") + name;
    if (unified()) {
        auto text = linux::read_file(v2.mount_point + "/cgroup.controllers");
        if (text.ok()) names = *text;
        std::replace(names.begin(), names.end(), '\n', ' ');
    }
    return names;
}

}  // namespace casemate::host
