// "linux" of config.json, without resources and seccomp: runtime-spec 1.2, config-linux.md.
#include <algorithm>
#include <unordered_set>

#include "oci/config_read.h"

namespace casemate::oci {

static Result<void> read(const JsonNode& node, Namespace& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.required_name("type", namespace_names(), out.type));
    if (auto path = reader.member("path")) {
        TRY(read(*path, out.path));
        if (!out.path.empty() && !out.path.starts_with('/')) return path->must_be("an absolute path");
    }
    return {};
}

static Result<void> read_namespaces(const JsonNode& node, std::vector<Namespace>& out) {
    TRY(read(node, out));
    unsigned seen = 0;
    for (size_t i = 0; i < out.size(); i++) {
        unsigned bit = 1U << static_cast<unsigned>(out[i].type);
        if (seen & bit)
            return node.element(i).error(
                fmt::format("has the type \"{}\" a second time", name_of(namespace_names(), out[i].type)));
        seen |= bit;
    }
    return {};
}

// Permission bits; the type may be repeated in them, as stat(2) or as Go's os.FileMode writes it.
static Result<void> read_file_mode(const JsonNode& node, std::optional<uint32_t>& out) {
    constexpr uint64_t kPermissions = 07777;
    constexpr uint64_t kStatType = 0170000;
    constexpr uint64_t kGoType = (1U << 26) | (1U << 25) | (1U << 21);  // ModeDevice, ModeNamedPipe, ModeCharDevice
    uint64_t mode = TRY(node.to_unsigned(UINT32_MAX));
    if (mode & ~(kPermissions | kStatType | kGoType)) return node.must_be("the permission bits of a file, 0 to 4095");
    out = static_cast<uint32_t>(mode & kPermissions);
    return {};
}

static Result<void> read(const JsonNode& node, Device& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    JsonNode type = TRY(reader.required_member("type"));
    std::string text = TRY(type.to_string());
    if (text != "c" && text != "b" && text != "u" && text != "p") return type.must_be("\"c\", \"b\", \"u\" or \"p\"");
    out.type = text == "u" ? 'c' : text[0];
    JsonNode path = TRY(reader.required_member("path"));
    TRY(read_absolute_path(path, out.path));
    if (out.type == 'p') {
        reader.member("major");  // without a meaning
        reader.member("minor");
    } else {
        JsonNode major = TRY(reader.required_member("major"));
        JsonNode minor = TRY(reader.required_member("minor"));
        TRY(read_device_number(major, kMaxMajor, out.major));
        TRY(read_device_number(minor, kMaxMinor, out.minor));
    }
    if (auto mode = reader.member("fileMode")) TRY(read_file_mode(*mode, out.file_mode));
    TRY(reader.optional("uid", out.uid));
    TRY(reader.optional("gid", out.gid));
    return {};
}

static Result<void> read_absolute_paths(const JsonNode& node, std::vector<std::string>& out) {
    size_t size = TRY(node.list_size());
    out.resize(size);
    for (size_t i = 0; i < size; i++) TRY(read_absolute_path(node.element(i), out[i]));
    return {};
}

// Which namespace keeps a kernel parameter to the container; nothing for a parameter of the whole kernel, which only an
// engine with a kernel of its own can set (engine_support.h).
static std::optional<NamespaceType> namespace_of_sysctl(std::string_view name) {
    if (name.starts_with("net.")) return NamespaceType::kNetwork;
    if (name.starts_with("fs.mqueue.")) return NamespaceType::kIpc;
    constexpr std::string_view kIpc[] = {"kernel.msgmax",      "kernel.msgmnb",          "kernel.msgmni",
                                         "kernel.sem",         "kernel.shmall",          "kernel.shmmax",
                                         "kernel.shmmni",      "kernel.shm_rmid_forced", "kernel.auto_msgmni",
                                         "kernel.msg_next_id", "kernel.sem_next_id",     "kernel.shm_next_id"};
    if (std::ranges::find(kIpc, name) != std::end(kIpc)) return NamespaceType::kIpc;
    if (name == "kernel.hostname" || name == "kernel.domainname") return NamespaceType::kUts;
    return std::nullopt;
}

// "net.ipv4.ip_forward", or the same with slashes, which sysctl(8) also takes and which are turned into dots here; as
// there, the first separator decides, and the other character then stands for itself ("net/ipv4/conf/eth0.1/mtu").
static Result<void> read_sysctl(const JsonNode& node, StringMap& out) {
    StringMap raw;
    TRY(read(node, raw));
    for (auto& [key, value] : raw) {
        std::string name = key;
        size_t first = name.find_first_of("./");
        if (first != std::string::npos && name[first] == '/')
            for (char& c : name) c = c == '/' ? '.' : c == '.' ? '/' : c;
        bool bad = name.empty() || name.front() == '.' || name.back() == '.' || name.front() == '/' ||
                   name.find("..") != std::string::npos || name.find("//") != std::string::npos ||
                   name.find("./") != std::string::npos || name.find("/.") != std::string::npos ||
                   !std::ranges::all_of(name, [](unsigned char c) { return c > 0x20 && c != 0x7f; });
        if (bad)
            return node.error(fmt::format("has {}, must have names such as \"net.ipv4.ip_forward\"", in_quotes(key)));
        if (!out.emplace(std::move(name), std::move(value)).second)
            return node.error(fmt::format("sets {} a second time, written differently", in_quotes(key)));
    }
    return {};
}

static Result<void> check_sysctl(const JsonNode& node, const Linux& linux) {
    for (const auto& [name, value] : linux.sysctl) {
        auto needed = namespace_of_sysctl(name);
        if (needed && linux.find_namespace(*needed) == nullptr)
            return node.error(fmt::format("sets {}, which needs a namespace of type \"{}\" in linux.namespaces",
                                          in_quotes(name), name_of(namespace_names(), *needed)));
    }
    return {};
}

static Result<void> read_personality(const JsonNode& node, std::optional<PersonalityDomain>& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    PersonalityDomain domain{};
    TRY(reader.required_name("domain", personality_names(), domain));
    out = domain;
    if (auto flags = reader.member("flags")) {
        size_t size = TRY(flags->list_size());
        if (size != 0) return flags->error("has entries, but the specification defines no flag");
    }
    return {};
}

static Result<void> read(const JsonNode& node, TimeOffset& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.optional("secs", out.secs));
    if (auto nanosecs = reader.member("nanosecs")) {
        uint64_t value = TRY(nanosecs->to_unsigned(999'999'999));
        out.nanosecs = static_cast<uint32_t>(value);
    }
    return {};
}

static Result<void> read_time_offsets(const JsonNode& node, Linux& out) {
    auto clocks = TRY(node.member_names());
    for (std::string_view clock : clocks) {
        auto offset = node.member(clock);
        if (clock == "monotonic")
            TRY(read(*offset, out.monotonic_offset));
        else if (clock == "boottime")
            TRY(read(*offset, out.boottime_offset));
        else
            return offset->error("is no clock of a time namespace, must be monotonic or boottime");
    }
    const Namespace* time = out.find_namespace(NamespaceType::kTime);
    if (!clocks.empty() && (time == nullptr || !time->path.empty()))
        return node.error("needs a new namespace of type \"time\" in linux.namespaces");
    return {};
}

static Result<void> read(const JsonNode& node, IntelRdt& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    if (auto id = reader.member("closID")) {
        TRY(read(*id, out.clos_id));
        if (out.clos_id == "." || out.clos_id == ".." || out.clos_id.find_first_of("/\n") != std::string::npos)
            return id->must_be("the name of a directory in resctrl");
    }
    TRY(reader.optional("l3CacheSchema", out.l3_cache_schema));
    if (auto schema = reader.member("memBwSchema")) {
        TRY(read(*schema, out.mem_bw_schema));
        bool good = out.mem_bw_schema.starts_with("MB:") && out.mem_bw_schema.find('\n') == std::string::npos;
        if (!out.mem_bw_schema.empty() && !good) return schema->must_be("one line that starts with \"MB:\"");
    }
    TRY(reader.optional("enableCMT", out.enable_cmt));
    TRY(reader.optional("enableMBM", out.enable_mbm));
    return {};
}

static Result<void> read_user_mappings(ObjectReader& reader, Linux& out) {
    auto uids = reader.member("uidMappings");
    if (uids) {
        TRY(read(*uids, out.uid_mappings));
        TRY(check_mappings(*uids, out.uid_mappings));
    }
    auto gids = reader.member("gidMappings");
    if (gids) {
        TRY(read(*gids, out.gid_mappings));
        TRY(check_mappings(*gids, out.gid_mappings));
    }
    if (out.uid_mappings.empty() && out.gid_mappings.empty()) return {};
    const JsonNode& given = out.uid_mappings.empty() ? *gids : *uids;
    if (out.find_namespace(NamespaceType::kUser) == nullptr)
        return given.error("needs a namespace of type \"user\" in linux.namespaces");
    return {};
}

Result<void> read(const JsonNode& node, Linux& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    if (auto namespaces = reader.member("namespaces")) TRY(read_namespaces(*namespaces, out.namespaces));
    TRY(read_user_mappings(reader, out));
    if (auto devices = reader.member("devices")) {
        TRY(read(*devices, out.devices));
        std::unordered_set<std::string_view> paths;
        for (size_t i = 0; i < out.devices.size(); i++) {
            if (!paths.insert(out.devices[i].path).second)
                return devices->element(i).error(
                    fmt::format("has the path {} a second time", in_quotes(out.devices[i].path)));
        }
    }
    if (auto path = reader.member("cgroupsPath")) {
        TRY(read(*path, out.cgroups_path));
        if (climbs(out.cgroups_path)) return path->must_be("a path without \"..\"");
    }
    TRY(reader.optional("resources", out.resources));
    if (auto sysctl = reader.member("sysctl")) {
        TRY(read_sysctl(*sysctl, out.sysctl));
        TRY(check_sysctl(*sysctl, out));
    }
    TRY(reader.optional("seccomp", out.seccomp));
    if (auto propagation = reader.member("rootfsPropagation")) {
        std::string word = TRY(propagation->to_string());
        out.rootfs_propagation = propagation_flags(word);
        if (out.rootfs_propagation == 0 && !word.empty())
            return propagation->must_be(
                "shared, slave, private or unbindable, or one of these with an \"r\" before it");
    }
    if (auto paths = reader.member("maskedPaths")) TRY(read_absolute_paths(*paths, out.masked_paths));
    if (auto paths = reader.member("readonlyPaths")) TRY(read_absolute_paths(*paths, out.readonly_paths));
    TRY(reader.optional("mountLabel", out.mount_label));
    if (auto personality = reader.member("personality")) TRY(read_personality(*personality, out.personality));
    if (auto offsets = reader.member("timeOffsets")) TRY(read_time_offsets(*offsets, out));
    TRY(reader.optional("intelRdt", out.intel_rdt));
    return {};
}

}  // namespace casemate::oci
