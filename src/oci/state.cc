#include "oci/state.h"

#include <nlohmann/json.hpp>

#include "oci/json_node.h"

namespace casemate::oci {
namespace {

constexpr Name<ContainerStatus> kStatuses[] = {
    {"creating", ContainerStatus::kCreating}, {"created", ContainerStatus::kCreated},
    {"running", ContainerStatus::kRunning},   {"paused", ContainerStatus::kPaused},
    {"stopped", ContainerStatus::kStopped},
};
constexpr std::span<const Name<ContainerStatus>> kStatusNames = kStatuses;

Result<State> read_state(const JsonNode& root) {
    TRY(root.check_object());
    ObjectReader reader(root);
    State state;
    TRY(reader.required("ociVersion", state.oci_version));
    JsonNode id = TRY(reader.required_member("id"));
    state.id = TRY(id.to_string());
    auto valid = validate_container_id(state.id);
    if (!valid.ok()) return id.error(valid.error().message());
    TRY(reader.required_name("status", kStatusNames, state.status));
    if (auto pid = reader.member("pid")) {
        int64_t value = TRY(pid->to_signed(0, INT32_MAX));
        state.pid = static_cast<int>(value);
    }
    JsonNode bundle = TRY(reader.required_member("bundle"));
    state.bundle = TRY(bundle.to_string());
    if (!state.bundle.starts_with('/')) return bundle.must_be("an absolute path");
    TRY(reader.optional("annotations", state.annotations));
    TRY(reader.optional("rootfs", state.rootfs));
    TRY(reader.optional("created", state.created));
    TRY(reader.optional("owner", state.owner));
    return state;
}

}  // namespace

std::string_view status_name(ContainerStatus status) { return name_of(kStatusNames, status); }

std::optional<ContainerStatus> status_from_name(std::string_view name) {
    const ContainerStatus* status = find_value(kStatusNames, name);
    if (status == nullptr) return std::nullopt;
    return *status;
}

std::string state_to_json(const State& state) {
    nlohmann::ordered_json document;
    document["ociVersion"] = state.oci_version;
    document["id"] = state.id;
    document["status"] = status_name(state.status);
    // Required while there is a process; runc writes 0 afterwards, and readers rely on the key.
    document["pid"] = state.pid;
    document["bundle"] = state.bundle;
    if (!state.rootfs.empty()) document["rootfs"] = state.rootfs;
    if (!state.created.empty()) document["created"] = state.created;
    if (!state.owner.empty()) document["owner"] = state.owner;
    if (!state.annotations.empty()) document["annotations"] = state.annotations;
    // Paths need not be UTF-8; JSON must be.
    return document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

Result<State> parse_state(std::string_view json) {
    auto document = JsonDocument::parse(json);
    if (!document.ok()) return document.take_error().with_context("container state");
    ParseNotes notes;
    auto state = read_state(document->root(notes));
    if (!state.ok()) return state.take_error().with_context("container state");
    return state;
}

Result<void> validate_container_id(std::string_view id) {
    if (id.empty()) return Error("container id is empty, must be 1 or more of A-Z a-z 0-9 _ + - .", EINVAL);
    if (id.size() > kMaxContainerId)
        return Error(
            fmt::format("container id is {} characters long, at most {} are possible", id.size(), kMaxContainerId),
            EINVAL);
    for (unsigned char c : id) {
        bool good = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
                    c == '+' || c == '-' || c == '.';
        if (good) continue;
        std::string shown =
            c > 0x20 && c < 0x7f ? fmt::format("\"{}\"", static_cast<char>(c)) : fmt::format("byte {:#04x}", c);
        return Error(fmt::format("container id holds {}, must be of A-Z a-z 0-9 _ + - . only", shown), EINVAL);
    }
    if (id == "." || id == "..")
        return Error(fmt::format("container id is \"{}\", which names a directory", id), EINVAL);
    return {};
}

}  // namespace casemate::oci
