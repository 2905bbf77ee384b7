// An engine: one way to run a guest kernel. Above the guest API nothing else knows which one runs.
//
// An engine starts the processes of one pod in their jails, hands file trees and streams to them, and tells when they
// are gone. Everything else goes through the guest API.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "guest_api/guest_client.h"
#include "host/cgroup.h"

namespace casemate::sandbox {

namespace guest = ::casemate::guest::v1;

enum class EngineKind { kSentry, kMicrovm };
std::string_view engine_name(EngineKind kind);

// A piece of the host's file system for a container: a detached mount, with its read-only flag and so on in force.
struct HostTree {
    UniqueFd mount;
    bool read_only = false;
    bool shared = false;  // others on the host may change it meanwhile
};

struct EngineOptions {
    std::string libexec;  // folder of the helper programs
    uint32_t cpus = 0;    // 0: as many as the host has
    uint64_t memory = 0;  // bytes; 0: no limit of its own
    bool debug = false;
    bool host_network = false;  // sockets are the host's, of the calling thread's network namespace
    bool low_ports = false;     // and may have ports below 1024
    int log_fd = -1;            // borrowed, where the helpers log; -1: nowhere
    // The guest kernel is born there, and so all that it begins; null: nowhere else.
    const host::Cgroup* cgroup = nullptr;
    std::function<void()> on_guest_gone;  // any thread, once
};

class Engine {
  public:
    // Kills and reaps every process of the engine.
    virtual ~Engine() = default;

    // Waits until the guest kernel answers. Called once, before anything below.
    virtual Result<void> connect() = 0;
    virtual guest_api::GuestClient& guest() = 0;
    // Gives the file server a tree, and fills in how the guest kernel is to name it. Any thread.
    virtual Result<void> add_tree(const HostTree& tree, guest::FileTree& name) = 0;
    // Takes it away when its container is gone. Any thread.
    virtual void remove_tree(const guest::FileTree& name) = 0;
    // Changes what the pod's memory may hold; the guest kernel is told by its own interface. 0: no limit.
    virtual Result<void> set_memory_limit(uint64_t bytes) = 0;
    // Its processes on the host.
    virtual std::vector<pid_t> processes() const = 0;
    // Readable when one of its processes has ended: the pod is then lost. Borrowed pidfds.
    virtual std::vector<int> process_fds() const = 0;
};

// Starts the helpers; they come up while the caller goes on to connect().
Result<std::unique_ptr<Engine>> start_sentry_engine(const EngineOptions& options);
Result<std::unique_ptr<Engine>> start_engine(EngineKind kind, const EngineOptions& options);

// The folder of the running program, where its helpers lie unless the configuration says otherwise.
std::string own_folder();

}  // namespace casemate::sandbox
