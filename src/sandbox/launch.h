// Starting a pod: the command becomes, by fork without exec, the parent of the sandbox host, which goes on alone.
//
//   parent (the command)                       child (the sandbox host, pod.h)
//   launch_pod()  ------------- fork --------> session, network namespace, cgroup, engine, trees
//        <------------------------------------ "hooks", if there are any
//   prestart, createRuntime hooks -----------> "go"; createContainer hooks
//        <------------------------------------ "created", or what went wrong
//   pid file, exit                             serves until the first container ends; its exit code is the container's
//
// Until "created" the child dies with its parent. Afterwards it is reparented to whoever supervises the command
// (PR_SET_CHILD_SUBREAPER) and is what that one waits for.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/bundle.h"
#include "sandbox/config.h"
#include "sandbox/control.h"
#include "sandbox/engine.h"
#include "sandbox/state_dir.h"

namespace casemate::sandbox {

struct LaunchOptions {
    std::string id;
    const oci::Spec* spec = nullptr;
    std::string_view config_json;
    std::string bundle;  // absolute; empty: none
    int bundle_fd = -1;
    int root_fd = -1;        // O_PATH
    bool host_root = false;  // instead: the host's own root, without its kernel's file systems
    std::string rootfs;      // for the record
    const Config* config = nullptr;
    bool systemd_cgroup = false;
    bool rootless = false;      // a cgroup that may not be made is done without
    bool no_cgroup = false;     // the pod stays where the command is
    bool own_terminal = false;  // the console is a pty made for this pod, not the caller's terminal
    bool debug = false;
    int log_fd = -1;
    bool start = false;          // start the program at once, without waiting to be told
    bool remove_at_end = false;  // the pod cleans up after itself
    bool leash = false;          // the pod ends when the command dies
};

struct Launched {
    pid_t pid = -1;
    UniqueFd pidfd;
    UniqueFd channel;  // the leash, if there is one
};

// `dir` is new and locked by the caller. On failure nothing is left but the folder.
Result<Launched> launch_pod(const LaunchOptions& options, StreamFds streams, StateDir& dir);

// Which engine the configuration asks for, `auto` decided.
Result<EngineKind> choose_engine(const Config& config);

// Processors and memory that the specification gives the pod; 0 where it says nothing.
uint32_t cpus_of(const oci::Spec& spec);
uint64_t memory_of(const oci::Spec& spec);

}  // namespace casemate::sandbox
