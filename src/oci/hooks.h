// Running the hooks of config.json (runtime-spec 1.2, config.md "POSIX-platform Hooks", runtime.md "Lifecycle").
//
// A hook is a program that the bundle's maker chose, with the rights of the runtime: trusted as the operator is, but
// allowed to hang, to write without end and to exit at any moment. Each gets the state document on standard input (a
// sealed memory file, so a hook that never reads it blocks nobody), its environment exactly as given, a process group
// of its own, and no other descriptor; what it writes is kept for the error message.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/names.h"
#include "oci/spec.h"

namespace casemate::oci {

enum class HookKind { kPrestart, kCreateRuntime, kCreateContainer, kStartContainer, kPoststart, kPoststop };

std::span<const Name<HookKind>> hook_names();  // in the order of the lifecycle
const std::vector<Hook>& hooks_of(const Hooks& hooks, HookKind kind);

// Up to the start of the program a failed hook stops the container; afterwards it is a warning.
bool hook_failure_is_fatal(HookKind kind);
// createContainer and startContainer run in the container's namespaces, the others in the runtime's.
bool hook_runs_in_container(HookKind kind);

// Where a hook runs. All descriptors are borrowed.
struct HookPlace {
    std::vector<int>
        namespaces;              // joined in this order (a user namespace first); a pid namespace holds the hook itself
    int root = -1;               // becomes "/"; -1: unchanged. startContainer: the container's root
    int working_directory = -1;  // -1: "/" if `root` is set, else unchanged
    std::optional<uint32_t> timeout;  // seconds, for hooks without one of their own; absent: no limit
};

// Runs the hooks of one kind in order, each with `state` (the document's text) on standard input. Of fatal kinds the
// first failure ends it and is returned; of others failures are logged as warnings and the rest still runs.
// The calling process must not reap children it does not know (waitpid(-1)) meanwhile.
Result<void> run_hooks(HookKind kind, const Hooks& hooks, std::string_view state, const HookPlace& place = {});

// One hook; the error says how it failed and the end of what it wrote.
Result<void> run_hook(const Hook& hook, std::string_view state, const HookPlace& place = {});

}  // namespace casemate::oci
