// Pod: the guest API served by the sentry: containers and their processes on the application kernel.
//
// Functions of the service run one after another on the server's thread; processes end on threads of their own, so what
// both touch is guarded by mutex_. container_root.cc builds root and mounts, process_setup.cc makes processes,
// pod_inspect.cc answers questions.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "guest_api/guest_server.h"
#include "guest_api/guest_service.h"
#include "oci/spec.h"
#include "sentry/boot/console.h"
#include "sentry/fs/host/client.h"
#include "sentry/fs/host_stream.h"
#include "sentry/fs/tty/pts_files.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/oom_killer.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/syscall_filter.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

namespace v1 = casemate::guest::v1;
using guest_api::Answer;
using guest_api::RequestStreams;

// Why a request failed, as the guest API tells it.
using BootError = rpc::Status;
template <typename T>
using BootResult = detail::BasicResult<T, BootError>;

class HostSockets;  // net/host/host_sockets.h
class Network;
class Pod;
class PodPorts;  // boot/pod_ports.h

// An init or exec process that the host knows by name.
class PodProcess final : public ProcessObserver {
  public:
    PodProcess(Pod& pod, std::string container, std::string exec)
        : container_id(std::move(container)), exec_id(std::move(exec)), pod_(pod) {}
    void process_ended(Process& process, int wait_status) override;

    const std::string container_id, exec_id;
    // --- Guarded by Pod::mutex_ ---
    Ref<Process> process;
    Ref<Task> task;  // until it is started
    std::unique_ptr<Console> console;
    bool started = false, ended = false;
    int killed_unstarted = 0;  // the signal that ended it before it ran
    v1::ExitInfo exit;
    std::vector<Answer<v1::WaitProcessReply>> waiting;
    int pid = 0;

  private:
    Pod& pod_;
};

struct PodContainer {
    std::string id;
    oci::Spec spec;
    Ref<Container> kernel_container;
    Ref<PidNamespace> pid_namespace;
    Ref<Namespaces> namespaces;
    Ref<UserNamespace> user_namespace;
    Ref<FsContext> fs;
    Ref<PtsFileSystem> terminals;  // the container's own devpts, or one of the sentry's for a root without
    std::unique_ptr<PodProcess> init;
    std::map<std::string, std::unique_ptr<PodProcess>> execs;
    Ref<SyscallFilter> filter;  // linux.seccomp, for all its processes; null: none
    bool paused = false;
};

class Pod final : public guest_api::GuestService, private OomObserver {
  public:
    Pod(Kernel& kernel, HostFiles& files, HostPoller& poller);
    ~Pod() override;
    void set_server(guest_api::GuestServer& server) { server_ = &server; }
    void set_host_sockets(HostSockets& sockets) { host_sockets_ = &sockets; }

    void get_version(v1::GetVersionRequest, Answer<v1::GetVersionReply>) override;
    void create_sandbox(v1::CreateSandboxRequest, Answer<v1::CreateSandboxReply>) override;
    void destroy_sandbox(v1::DestroySandboxRequest, Answer<v1::DestroySandboxReply>) override;
    void create_container(v1::CreateContainerRequest, RequestStreams, Answer<v1::CreateContainerReply>) override;
    void start_container(v1::StartContainerRequest, Answer<v1::StartContainerReply>) override;
    void delete_container(v1::DeleteContainerRequest, Answer<v1::DeleteContainerReply>) override;
    void list_containers(v1::ListContainersRequest, Answer<v1::ListContainersReply>) override;
    void pause_container(v1::PauseContainerRequest, Answer<v1::PauseContainerReply>) override;
    void resume_container(v1::ResumeContainerRequest, Answer<v1::ResumeContainerReply>) override;
    void update_resources(v1::UpdateResourcesRequest, Answer<v1::UpdateResourcesReply>) override;
    void get_stats(v1::GetStatsRequest, Answer<v1::GetStatsReply>) override;
    void exec_process(v1::ExecProcessRequest, RequestStreams, Answer<v1::ExecProcessReply>) override;
    void signal_process(v1::SignalProcessRequest, Answer<v1::SignalProcessReply>) override;
    void wait_process(v1::WaitProcessRequest, Answer<v1::WaitProcessReply>) override;
    void delete_exec(v1::DeleteExecRequest, Answer<v1::DeleteExecReply>) override;
    void list_processes(v1::ListProcessesRequest, Answer<v1::ListProcessesReply>) override;
    void resize_terminal(v1::ResizeTerminalRequest, Answer<v1::ResizeTerminalReply>) override;
    void close_stdin(v1::CloseStdinRequest, Answer<v1::CloseStdinReply>) override;
    void update_network(v1::UpdateNetworkRequest, RequestStreams, Answer<v1::UpdateNetworkReply>) override;
    void get_network(v1::GetNetworkRequest, Answer<v1::GetNetworkReply>) override;
    void get_listeners(v1::GetListenersRequest, Answer<v1::GetListenersReply>) override;
    void connect_port(v1::ConnectPortRequest, RequestStreams, Answer<v1::ConnectPortReply>) override;
    void get_events(v1::GetEventsRequest, Answer<v1::GetEventsReply>) override;
    void get_metrics(v1::GetMetricsRequest, Answer<v1::GetMetricsReply>) override;
    void set_clock(v1::SetClockRequest, Answer<v1::SetClockReply>) override;
    void add_entropy(v1::AddEntropyRequest, Answer<v1::AddEntropyReply>) override;
    void get_diagnostics(v1::GetDiagnosticsRequest, Answer<v1::GetDiagnosticsReply>) override;
    void set_trace(v1::SetTraceRequest, RequestStreams, Answer<v1::SetTraceReply>) override;

  private:
    friend class PodProcess;

    void oom_killed(Process& victim, OomScope scope) override;
    BootResult<std::unique_ptr<PodContainer>> build_container(const v1::CreateContainerRequest& request,
                                                              RequestStreams& streams);
    // The root file system and its mount namespace; then everything that is mounted on it, done by `builder`, a task
    // with all capabilities.
    BootResult<Ref<Mount>> make_root(const v1::RootFs& root, const IdMaps& ids, RequestStreams& streams);
    BootResult<void> add_mounts(PodContainer& container, const v1::CreateContainerRequest& request, Task& builder);
    // `source`: what /proc/mounts shows in the first column; empty: the type.
    BootResult<void> add_mount(Task& builder, const v1::Mount& mount, const std::string& source, size_t index);
    BootResult<void> add_devices(PodContainer& container, const v1::CreateContainerRequest& request, Task& builder);
    BootResult<void> hide_paths(PodContainer& container, Task& builder);
    BootResult<void> apply_sysctls(PodContainer& container, Task& builder);

    // A process that does not run yet, with streams, ids and limits of `process`.
    BootResult<std::unique_ptr<PodProcess>> make_process(PodContainer& container, const oci::Process& process,
                                                         const v1::Stdio& stdio, RequestStreams& streams,
                                                         const std::string& exec_id);
    // `executable`: the program's path; empty: args[0].
    BootResult<void> load_program(PodProcess& process, const oci::Process& wanted, const std::string& executable = "");
    BootResult<Ref<FdTable>> make_descriptors(PodContainer& container, Task& task, const v1::Stdio& stdio,
                                              RequestStreams& streams, PodProcess& process);

    Network& network();

    // A host descriptor as an open file of the pod.
    BootResult<Ref<File>> make_stream(Task& task, UniqueFd host, int flags, int number);

    PodContainer* find_locked(const std::string& id);
    PodProcess* find_process_locked(const std::string& container, const std::string& exec);
    v1::ContainerState state_of_locked(const PodContainer& container) const;
    void add_event_locked(v1::Event event);
    void answer_events_locked();

    Kernel& kernel_;
    HostFiles& files_;
    HostPoller& poller_;
    guest_api::GuestServer* server_ = nullptr;
    HostSockets* host_sockets_ = nullptr;  // null: there is no host network

    std::mutex mutex_;
    bool created_ = false;
    std::unique_ptr<PodPorts> ports_;  // made once, when it is asked for; of the server's thread
    Ref<Namespaces> namespaces_;       // the sandbox's own, without a mount namespace
    std::map<std::string, std::unique_ptr<PodContainer>> containers_;
    std::vector<v1::Event> events_;  // the last kKeptEvents
    uint64_t last_event_ = 0;
    struct EventWaiter {
        uint64_t after;
        Answer<v1::GetEventsReply> answer;
    };
    std::vector<EventWaiter> event_waiters_;
    static constexpr size_t kKeptEvents = 1024;
};

// "open /bin/sh: No such file or directory" as an invalid request about `field`.
BootError boot_error(Errno error, std::string what, std::string field = "");

}  // namespace casemate::sentry
