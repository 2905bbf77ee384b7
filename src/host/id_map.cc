#include "host/id_map.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "linux/file.h"

namespace casemate::host {

namespace {

std::string map_text(const std::vector<IdMapping>& mappings) {
    std::string text;
    for (const IdMapping& m : mappings)
        text += std::to_string(m.inside) + " " + std::to_string(m.outside) + " " + std::to_string(m.count) + "\n";
    return text;
}

// newuidmap or newgidmap PID (INSIDE OUTSIDE COUNT)...; found on PATH, set-user-ID root.
Result<void> run_map_tool(const char* tool, pid_t pid, const std::vector<IdMapping>& mappings) {
    std::vector<std::string> words = {tool, std::to_string(pid)};
    for (const IdMapping& m : mappings)
        for (uint32_t number : {m.inside, m.outside, m.count}) words.push_back(std::to_string(number));
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_t child;
    int failure = ::posix_spawnp(&child, tool, nullptr, nullptr, argv.data(), environ);
    if (failure != 0) {
        return sys_error(std::string(tool) + " (package uidmap), needed to map more ids than the caller's own",
                         failure);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return sys_error(std::string("waiting for ") + tool);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        return Error(std::string(tool) + " refused the mapping: the ids must be in /etc/sub" +
                         (tool[3] == 'u' ? "uid" : "gid") + " for this user",
                     EPERM);
    }
    return {};
}

}  // namespace

Result<void> write_id_maps(pid_t pid, const IdMaps& maps) {
    std::string proc = "/proc/" + std::to_string(pid) + "/";
    auto write = [&](const char* file, const std::string& text) -> Result<void> {
        auto written = linux::write_existing(proc + file, text);
        if (written.ok()) return {};
        return sys_error("writing \"" + text.substr(0, text.find('\n')) + "\" to " + file + " of a user namespace",
                         written.error().value);
    };
    auto only_own = [](const std::vector<IdMapping>& m, uint32_t own) {
        return m.size() == 1 && m[0].count == 1 && m[0].outside == own;
    };
    bool root = ::geteuid() == 0;
    if (!root && !only_own(maps.uids, ::geteuid())) {
        TRY(run_map_tool("newuidmap", pid, maps.uids));
    } else {
        TRY(write("uid_map", map_text(maps.uids)));
    }
    if (!root && !only_own(maps.gids, ::getegid())) return run_map_tool("newgidmap", pid, maps.gids);
    if (!root) TRY(write("setgroups", "deny"));
    return write("gid_map", map_text(maps.gids));
}

bool is_id_mapped(const char* map_file, uint32_t id) {
    auto text = linux::read_file(map_file);
    if (!text.ok()) return false;
    const char* at = text->c_str();
    unsigned inside, outside, count;
    int length = 0;
    while (std::sscanf(at, "%u %u %u%n", &inside, &outside, &count, &length) == 3) {
        if (id >= inside && id - inside < count) return true;
        at += length;
    }
    return false;
}

}  // namespace casemate::host
