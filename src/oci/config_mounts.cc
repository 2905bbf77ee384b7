// "mounts" and "hooks" of config.json: runtime-spec 1.2, config.md "Mounts", "POSIX-platform Hooks".
#include <linux/mount.h>

#include "oci/config_read.h"

namespace casemate::oci {

Result<void> read(const JsonNode& node, Mount& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    JsonNode destination = TRY(reader.required_member("destination"));
    TRY(read(destination, out.destination));
    if (out.destination.empty()) return destination.must_be("a path in the container");
    if (!out.destination.starts_with('/')) out.destination = fmt::format("/{}", out.destination);
    TRY(reader.optional("type", out.type));
    TRY(reader.optional("source", out.source));
    TRY(reader.optional("options", out.options));

    auto parsed = parse_mount_options(out.options);
    if (!parsed.ok()) {
        std::string place = node.path();
        return Error(fmt::format("{}.{}", place, parsed.error().message()), EINVAL);
    }
    out.parsed = parsed.take_value();
    // The specification tells a bind mount by its options; "bind" is no file system, so as a type it means the same.
    if (out.type == "bind") out.parsed.flags |= MS_BIND;

    if (auto mappings = reader.member("uidMappings")) {
        TRY(read(*mappings, out.uid_mappings));
        TRY(check_mappings(*mappings, out.uid_mappings));
    }
    if (auto mappings = reader.member("gidMappings")) {
        TRY(read(*mappings, out.gid_mappings));
        TRY(check_mappings(*mappings, out.gid_mappings));
    }
    if (out.uid_mappings.empty() != out.gid_mappings.empty())
        return node.error("has only one of uidMappings and gidMappings, must have both or none");
    // The options only choose the scope, and their absence is tolerated ("SHOULD contain").
    if (!out.uid_mappings.empty() && out.parsed.idmap == IdmapScope::kNone) out.parsed.idmap = IdmapScope::kMount;

    if (out.parsed.is_bind()) {
        if (out.source.empty() && (out.parsed.flags & MS_REMOUNT) == 0)
            return node.error("is a bind mount without a source, must name a path of the host");
        // mount(2) takes no notice of them either, and there are tools that write them.
        if (!out.parsed.data.empty()) {
            node.warn(fmt::format("is a bind mount, which has no options of a file system: {} has no effect",
                                  in_quotes(out.parsed.data)));
            out.parsed.data.clear();
        }
    } else if (out.type.empty() && (out.parsed.flags & MS_REMOUNT) == 0 && out.parsed.propagation.empty()) {
        return node.error("has neither a type nor the option \"bind\" or \"rbind\"");
    }
    if (out.parsed.copy_up && out.type != "tmpfs")
        return node.error("has the option \"tmpcopyup\", which is for the type \"tmpfs\" only");
    return {};
}

Result<void> read(const JsonNode& node, Hook& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    JsonNode path = TRY(reader.required_member("path"));
    TRY(read_absolute_path(path, out.path));
    TRY(reader.optional("args", out.args));
    TRY(reader.optional("env", out.env));
    if (auto timeout = reader.member("timeout")) {
        int64_t seconds = TRY(timeout->to_signed(1, INT32_MAX));
        out.timeout = static_cast<uint32_t>(seconds);
    }
    return {};
}

Result<void> read(const JsonNode& node, Hooks& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.optional("prestart", out.prestart));
    TRY(reader.optional("createRuntime", out.create_runtime));
    TRY(reader.optional("createContainer", out.create_container));
    TRY(reader.optional("startContainer", out.start_container));
    TRY(reader.optional("poststart", out.poststart));
    TRY(reader.optional("poststop", out.poststop));
    return {};
}

}  // namespace casemate::oci
