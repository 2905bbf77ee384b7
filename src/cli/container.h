// What several commands need of a container: finding it, talking to its sandbox, making it, taking it away.
#pragma once

#include <signal.h>

#include <optional>
#include <string>

#include "base/result.h"
#include "cli/commands.h"
#include "host/id_map.h"
#include "oci/bundle.h"
#include "sandbox/control.h"
#include "sandbox/launch.h"
#include "sandbox/state_dir.h"

namespace casemate::cli {

struct Found {
    sandbox::StateDir dir;
    sandbox::Record record;
    oci::ContainerStatus status;
};
// `lock`: for commands that change the container.
Result<Found> find_container(const Context& context, std::string_view id, bool lock);
// A connection to the pod of a container that is not stopped.
Result<sandbox::ControlClient> connect_to_pod(const Context& context, const Found& container);
// The same whatever the status: the pod may be there still.
Result<sandbox::ControlClient> connect_to_pod_of_stopped(const Context& context, const Found& container);

// Before a sandbox is made: a user who is not root goes on as root of a user namespace, where the own files are root's.
// With these maps, or those that the user can have if they are empty.
Result<void> ensure_root(host::IdMaps maps = {});

// Signal by number or name ("9", "KILL", "SIGRTMIN+3").
Result<int> parse_signal(std::string_view text);

Result<void> write_pid_file(std::string_view path, pid_t pid);

// Standard streams of a process that a command starts.
struct StreamRequest {
    bool terminal = false;
    bool detach = false;
    std::string console_socket;
    int preserve_fds = 0;
};
struct CommandStreams {
    sandbox::StreamFds streams;
    bool callers_terminal = false;  // the console is the terminal of the command itself
    bool own_pty = false;           // it is a pty whose master was sent away
};
Result<CommandStreams> open_streams(const StreamRequest& request, const std::optional<oci::ConsoleSize>& size);

// The signals that a command passes on to what it runs wait from here on: one that comes when the program runs already
// and the command does not know yet is not lost.
sigset_t hold_passed_signals();
// Waits for the end of a child and passes them on to it. Returns its exit code.
int wait_and_forward(int pidfd, const sigset_t& held);

// Kills what is left of the container where `force` allows, and removes everything of it; runs the poststop hooks.
Result<void> remove_container(const Context& context, Found container, bool force);

}  // namespace casemate::cli
