// "linux.seccomp" of config.json: runtime-spec 1.2, config-linux.md "Seccomp".
#include "oci/config_read.h"

namespace casemate::oci {

// What the error number of an action may be; nothing if the action takes none. Errno: the kernel's MAX_ERRNO; trace: 16
// bits of event message.
static std::optional<uint16_t> most_errno(SeccompAction action) {
    if (action == SeccompAction::kErrno) return 4095;
    if (action == SeccompAction::kTrace) return 65535;
    return std::nullopt;
}

static Result<void> read_errno(ObjectReader& reader, std::string_view name, SeccompAction action,
                               std::optional<uint16_t>& out) {
    auto node = reader.member(name);
    if (!node) return {};
    auto most = most_errno(action);
    if (!most)
        return node->error(fmt::format("{} returns no error number: only SCMP_ACT_ERRNO and SCMP_ACT_TRACE do",
                                       name_of(seccomp_action_names(), action)));
    uint64_t number = TRY(node->to_unsigned(*most));
    out = static_cast<uint16_t>(number);
    return {};
}

static Result<void> read(const JsonNode& node, SeccompArgument& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    JsonNode index = TRY(reader.required_member("index"));
    uint64_t number = TRY(index.to_unsigned(5));
    out.index = static_cast<uint32_t>(number);
    TRY(reader.required("value", out.value));
    TRY(reader.optional("valueTwo", out.value_two));
    TRY(reader.required_name("op", seccomp_operator_names(), out.op));
    return {};
}

static Result<void> read(const JsonNode& node, SeccompSyscall& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    JsonNode names = TRY(reader.required_member("names"));
    TRY(read(names, out.names));
    if (out.names.empty()) return names.must_be("a list that names a syscall at least");
    TRY(reader.required_name("action", seccomp_action_names(), out.action));
    TRY(read_errno(reader, "errnoRet", out.action, out.errno_ret));
    TRY(reader.optional("args", out.args));
    return {};
}

static bool notifies(const Seccomp& seccomp) {
    if (seccomp.default_action == SeccompAction::kNotify) return true;
    for (const SeccompSyscall& rule : seccomp.syscalls)
        if (rule.action == SeccompAction::kNotify) return true;
    return false;
}

Result<void> read(const JsonNode& node, Seccomp& out) {
    TRY(node.check_object());
    ObjectReader reader(node);
    TRY(reader.required_name("defaultAction", seccomp_action_names(), out.default_action));
    TRY(read_errno(reader, "defaultErrnoRet", out.default_action, out.default_errno_ret));
    if (auto list = reader.member("architectures")) {
        TRY(read(*list, out.architectures));
        for (size_t i = 0; i < out.architectures.size(); i++) TRY(read_name(list->element(i), seccomp_arch_names()));
    }
    if (auto list = reader.member("flags")) {
        size_t size = TRY(list->list_size());
        for (size_t i = 0; i < size; i++) {
            uint32_t flag = TRY(read_name(list->element(i), seccomp_flag_names()));
            out.flags |= flag;
        }
    }
    TRY(reader.optional("listenerPath", out.listener_path));
    TRY(reader.optional("listenerMetadata", out.listener_metadata));
    TRY(reader.optional("syscalls", out.syscalls));
    if (out.listener_path.empty() && !out.listener_metadata.empty())
        return node.error("has listenerMetadata without listenerPath");
    if (notifies(out)) {
        if (out.listener_path.empty())
            return node.error("uses SCMP_ACT_NOTIFY without listenerPath, the socket that gets the notifications");
        if (!out.listener_path.starts_with('/')) return reader.member("listenerPath")->must_be("an absolute path");
    }
    return {};
}

}  // namespace casemate::oci
