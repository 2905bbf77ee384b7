#include "oci/config_parser.h"

#include <algorithm>
#include <charconv>

#include "oci/config_read.h"

namespace casemate::oci {
namespace {

// SemVer 2.0.0: MAJOR.MINOR.PATCH[-prerelease][+build]; numbers without leading zeros.
struct Version {
    unsigned major, minor;
};

bool is_identifiers(std::string_view text) {
    if (text.empty() || text.front() == '.' || text.back() == '.' || text.find("..") != std::string_view::npos)
        return false;
    return std::ranges::all_of(text, [](unsigned char c) { return isalnum(c) || c == '-' || c == '.'; });
}

std::optional<Version> parse_version(std::string_view text) {
    if (size_t plus = text.find('+'); plus != std::string_view::npos) {
        if (!is_identifiers(text.substr(plus + 1))) return std::nullopt;
        text = text.substr(0, plus);
    }
    if (size_t dash = text.find('-'); dash != std::string_view::npos) {
        if (!is_identifiers(text.substr(dash + 1))) return std::nullopt;
        text = text.substr(0, dash);
    }
    unsigned numbers[3];
    for (int i = 0; i < 3; i++) {
        size_t dot = i < 2 ? text.find('.') : text.size();
        if (dot == std::string_view::npos) return std::nullopt;
        std::string_view part = text.substr(0, dot);
        auto [end, failure] = std::from_chars(part.data(), part.data() + part.size(), numbers[i]);
        if (failure != std::errc() || end != part.data() + part.size()) return std::nullopt;
        if (part.size() > 1 && part.front() == '0') return std::nullopt;
        if (i < 2) text.remove_prefix(dot + 1);
    }
    return Version{numbers[0], numbers[1]};
}

Result<void> read_version(const JsonNode& node, std::string& out) {
    TRY(read(node, out));
    auto version = parse_version(out);
    if (!version) return node.must_be("a version as in SemVer 2.0.0, such as \"1.2.0\"");
    if (version->major != 1) return node.must_be("a version 1.x.y of the runtime specification");
    if (version->minor > 2)
        node.warn(fmt::format("{} is newer than {}: what it added is not known here", in_quotes(out), kOciVersion));
    return {};
}

Result<void> read_name_of_host(const JsonNode& node, std::string& out) {
    TRY(read(node, out));
    if (out.size() > 64) return node.error(fmt::format("is {} bytes long, at most 64 are possible", out.size()));
    return {};
}

// What concerns more than one field.
Result<void> check_whole(const Spec& spec) {
    bool private_uts = spec.linux.find_namespace(NamespaceType::kUts) != nullptr;
    if (!spec.hostname.empty() && !private_uts)
        return Error("hostname: needs a namespace of type \"uts\" in linux.namespaces", EINVAL);
    if (!spec.domainname.empty() && !private_uts)
        return Error("domainname: needs a namespace of type \"uts\" in linux.namespaces", EINVAL);

    const Namespace* user = spec.linux.find_namespace(NamespaceType::kUser);
    bool container_mapped = user != nullptr && (!user->path.empty() || !spec.linux.uid_mappings.empty());
    for (size_t i = 0; i < spec.mounts.size(); i++) {
        const Mount& mount = spec.mounts[i];
        if (mount.parsed.idmap != IdmapScope::kNone && mount.uid_mappings.empty() && !container_mapped)
            return Error(fmt::format("mounts[{}].options: ask for an id-mapped mount, but neither the mount nor the "
                                     "container has uidMappings and gidMappings",
                                     i),
                         EINVAL);
    }
    return {};
}

Result<Spec> read_spec(const JsonNode& root, ParseNotes& notes) {
    TRY(root.check_object());
    Spec spec;
    {
        ObjectReader reader(root);
        JsonNode version = TRY(reader.required_member("ociVersion"));
        TRY(read_version(version, spec.oci_version));
        TRY(reader.optional("process", spec.process));
        JsonNode filesystem = TRY(reader.required_member("root"));
        TRY(filesystem.check_object());
        {
            ObjectReader fields(filesystem);
            JsonNode path = TRY(fields.required_member("path"));
            TRY(read(path, spec.root.path));
            if (spec.root.path.empty()) return path.must_be("the path of a directory");
            TRY(fields.optional("readonly", spec.root.readonly));
        }
        if (auto node = reader.member("hostname")) TRY(read_name_of_host(*node, spec.hostname));
        if (auto node = reader.member("domainname")) TRY(read_name_of_host(*node, spec.domainname));
        TRY(reader.optional("mounts", spec.mounts));
        TRY(reader.optional("hooks", spec.hooks));
        TRY(reader.optional("annotations", spec.annotations));
        TRY(reader.optional("linux", spec.linux));
        if (auto node = reader.member("vm"))
            return node->error("is not supported: the guest kernel is chosen by Casemate's own configuration");
    }
    TRY(check_whole(spec));
    spec.notes = std::move(notes);
    return spec;
}

}  // namespace

Result<Spec> parse_config(std::string_view json) {
    auto document = JsonDocument::parse(json);
    if (!document.ok()) return document.take_error().with_context("config.json");
    ParseNotes notes;
    auto spec = read_spec(document->root(notes), notes);
    if (!spec.ok()) return spec.take_error().with_context("config.json");
    return spec;
}

Result<Process> parse_process(std::string_view json, ParseNotes& notes) {
    auto document = JsonDocument::parse(json);
    if (!document.ok()) return document.take_error().with_context("process document");
    Process process;
    auto done = read(document->root(notes), process);
    if (!done.ok()) return done.take_error().with_context("process document");
    return process;
}

Result<Resources> parse_resources(std::string_view json, ParseNotes& notes) {
    auto document = JsonDocument::parse(json);
    if (!document.ok()) return document.take_error().with_context("resources document");
    Resources resources;
    auto done = read(document->root(notes), resources);
    if (!done.ok()) return done.take_error().with_context("resources document");
    return resources;
}

bool is_cpu_list(std::string_view text) {
    if (text.empty()) return true;
    auto number = [&](unsigned& out) {
        auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), out);
        if (failure != std::errc() || out > 65535) return false;
        text.remove_prefix(static_cast<size_t>(end - text.data()));
        return true;
    };
    for (;;) {
        unsigned first, last;
        if (!number(first)) return false;
        if (!text.empty() && text.front() == '-') {
            text.remove_prefix(1);
            if (!number(last) || last < first) return false;
        }
        if (text.empty()) return true;
        if (text.front() != ',') return false;
        text.remove_prefix(1);
    }
}

bool climbs(std::string_view path) {
    while (!path.empty()) {
        size_t slash = std::min(path.find('/'), path.size());
        if (path.substr(0, slash) == "..") return true;
        path.remove_prefix(std::min(slash + 1, path.size()));
    }
    return false;
}

Result<void> read_absolute_path(const JsonNode& node, std::string& out) {
    TRY(read(node, out));
    if (!out.starts_with('/')) return node.must_be("an absolute path");
    return {};
}

Result<void> read_cpu_list(const JsonNode& node, std::string& out) {
    TRY(read(node, out));
    if (!is_cpu_list(out)) return node.must_be("a list such as \"0-3,7\"");
    return {};
}

Result<void> read_device_number(const JsonNode& node, uint32_t most, uint32_t& out) {
    uint64_t number = TRY(node.to_unsigned(most));
    out = static_cast<uint32_t>(number);
    return {};
}

Result<void> read(const JsonNode& node, IdMapping& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.required("containerID", out.container_id));
    TRY(reader.required("hostID", out.host_id));
    TRY(reader.required("size", out.size));
    constexpr uint64_t kEnd = uint64_t{1} << 32;
    if (out.size == 0) return node.error("size is 0, must be 1 or more");
    if (uint64_t{out.container_id} + out.size > kEnd || uint64_t{out.host_id} + out.size > kEnd)
        return node.error("passes the last possible id, 4294967295");
    return {};
}

Result<void> check_mappings(const JsonNode& node, const std::vector<IdMapping>& mappings) {
    // The kernel takes 340 lines (user_namespaces(7)).
    if (mappings.size() > 340)
        return node.error(fmt::format("has {} entries, at most 340 are possible", mappings.size()));
    auto overlap = [](uint64_t a, uint64_t b, uint64_t a_size, uint64_t b_size) {
        return a < b + b_size && b < a + a_size;
    };
    for (size_t i = 0; i < mappings.size(); i++)
        for (size_t j = 0; j < i; j++) {
            const IdMapping &a = mappings[i], &b = mappings[j];
            if (overlap(a.container_id, b.container_id, a.size, b.size) ||
                overlap(a.host_id, b.host_id, a.size, b.size))
                return node.element(i).error(fmt::format("overlaps with entry {}", j));
        }
    return {};
}

}  // namespace casemate::oci
