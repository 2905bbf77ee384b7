// The sandbox host of one pod: owns the engine, the streams, the records on disk and the control socket, and tells each
// container's supervisor how it ended.
//
// It lives exactly as long as the pod's first container and ends with that one's exit code: so it is itself the process
// that stands for it. Further containers, and detached execs, have an anchor process each (anchor_protocol.h). All that
// a pod has on the host dies with this process.
//
// Threads: run() is the main loop (signals, anchors, ends of processes, new connections); each control connection has
// a thread of its own, because calls to the guest kernel block; the guest client has one. No answer of the guest kernel
// can stall the main loop.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/guarded.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "linux/event_loop.h"
#include "sandbox/control.h"
#include "sandbox/engine.h"
#include "sandbox/pod_network.h"
#include "sandbox/port_mirror.h"
#include "sandbox/prepare.h"
#include "sandbox/state_dir.h"
#include "sandbox/terminal.h"

namespace casemate::sandbox {

class Pod {
  public:
    struct Options {
        EngineKind engine = EngineKind::kSentry;
        EngineOptions engine_options;
        guest::CreateSandboxRequest sandbox;
        bool remove_at_end = false;  // the state folder vanishes with the pod
        int leash = -1;              // borrowed: when its other end is closed the pod ends; -1: it stands alone
    };
    // Starts the engine; its processes come up in the background. Call from the thread that will call run(): the
    // helpers die with that thread.
    static Result<std::unique_ptr<Pod>> create(Options options);
    ~Pod();

    // Makes a container in the guest kernel. The first one decides the life of the pod. `anchor` is the socket of its
    // anchor process; none for the first. The record is saved as created.
    Result<void> create_container(PreparedContainer prepared, StreamFds streams, StateDir dir, Record record,
                                  UniqueFd anchor);
    Result<void> start_container(const std::string& id);

    std::vector<pid_t> processes() const { return engine_->processes(); }
    // Opens the control socket in the first container's folder.
    Result<void> listen(const StateDir& dir);
    // Until the first container ends. Returns its exit code; every process of the engine is gone then.
    int run();
    // Kills everything without waiting for the guest kernel: when creation failed.
    void stop();

  private:
    struct Container;
    struct Anchor;

    explicit Pod(Options options) : options_(std::move(options)) {}
    Result<void> run_hooks_in(Container& container);
    void in_background(std::function<void()> work);
    // In the background, after what came here before: a size or a stop must not overtake the one before it. The thread
    // lasts as long as there is work.
    void in_order(std::function<void()> work);
    Result<void> watch_everything();

    std::shared_ptr<Container> find(const std::string& id);
    Result<std::shared_ptr<Container>> get(const std::string& id);
    void container_ended(const std::shared_ptr<Container>& container, int exit_code);
    void everything_ended(int exit_code);
    void set_status(const std::shared_ptr<Container>& container, v1::Status status);
    void watch_events(uint64_t after);
    // pod_oom.cc. Kills in a container that has a cgroup of its own become the host kernel's, for who watches that.
    void hear_of_oom_locked(const std::shared_ptr<Container>& container);
    void echo_oom(const std::shared_ptr<Container>& container);
    void container_ended_after_oom(const std::shared_ptr<Container>& container, int exit_code);

    void on_signal(int signo);
    void watch_anchor(std::shared_ptr<Anchor> anchor);
    void on_anchor(const std::shared_ptr<Anchor>& anchor);
    void signal_guest(const std::string& container, const std::string& exec, int signo);
    void resize_guest(const std::string& container, const std::string& exec, TerminalSize size);
    void resize(const std::string& container, const std::string& exec, TerminalSize size);
    void take_over_size(Container& container);
    Result<void> fill_stdio(StreamFds& streams, guest::Stdio& stdio);

    // control_server.cc
    void serve_connection(UniqueFd connection);
    Result<v1::Reply> handle(const std::shared_ptr<ControlConnection>& connection, v1::Request& request,
                             std::vector<UniqueFd>& fds);
    Result<v1::Reply> handle_join(v1::Join& join, std::vector<UniqueFd>& fds);
    Result<v1::Reply> handle_exec(const std::shared_ptr<ControlConnection>& connection, v1::Exec& exec,
                                  std::vector<UniqueFd>& fds);
    // The pod's memory follows the limit of its first container.
    Result<void> update_memory(const std::string& resources);
    Result<v1::Reply> handle_wait(const v1::Wait& wait);
    Result<v1::Reply> handle_delete(const v1::Delete& request);

    Options options_;
    std::unique_ptr<Engine> engine_;
    std::unique_ptr<PodNetwork> network_;  // null: loopback only
    std::unique_ptr<PortMirror> ports_;    // with network_
    std::unique_ptr<linux::EventLoop> loop_;
    UniqueFd listener_;
    std::string first_;  // id; immutable once the container is there

    struct Orders {
        std::deque<std::function<void()>> waiting;
        bool served = false;  // a thread is at it
    };
    Guarded<Orders> orders_;
    std::mutex oom_mutex_;  // one echo at a time; before mutex_
    std::mutex mutex_;
    std::condition_variable changed_;                               // a container ended, or memory ran out
    std::map<std::string, std::shared_ptr<Container>> containers_;  // guarded by mutex_
    unsigned connections_ = 0;                                      // guarded by mutex_
    bool ended_ = false;                                            // main loop only
    int exit_code_ = 0;                                             // main loop only
    std::atomic<unsigned> next_exec_{1};
};

}  // namespace casemate::sandbox
