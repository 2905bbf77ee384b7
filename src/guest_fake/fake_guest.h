// A guest kernel for tests of whatever lies above the guest API: containers and processes with states, streams, exits
// and events as the contract says, but programs are functions (fake_programs.h, or the test's own).
//
//   FakeGuestSession session;                       // guest on a thread, client connected
//   session.guest().program("crash", [](FakeProcess&) { return 139; });
//   session.client().create_container(...)
//
// Thread-safe. It is strict where a real guest kernel is: wrong states, unknown ids and duplicate ids are errors.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "guest_api/guest_client.h"
#include "guest_api/guest_server.h"
#include "guest_fake/fake_process.h"

namespace casemate::guest_fake {

using guest_api::Answer;
using guest_api::RequestStreams;
using guest_api::Status;

class FakeGuest : public guest_api::GuestService {
  public:
    FakeGuest();
    ~FakeGuest() override;

    void program(std::string name, Program program);
    // The next call of the method ("StartContainer") fails so.
    void fail_next(std::string method, Status status);
    // Methods called so far, in order.
    std::vector<std::string> calls() const;
    void add_oom_event(const std::string& container_id, uint32_t killed_pid);
    // Called after DestroySandbox was answered.
    void on_destroy(std::function<void()> callback) { on_destroy_ = std::move(callback); }

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
    struct Container {
        std::string id;
        std::shared_ptr<FakeProcess> init;
        std::map<std::string, std::shared_ptr<FakeProcess>> execs;
        bool paused = false;
        std::vector<UniqueFd> trees;  // the file-server connections it was given
    };
    struct EventWaiter {
        uint64_t after;
        Answer<v1::GetEventsReply> answer;
    };

    // Notes the call; true: a planned failure was the answer.
    template <typename Reply>
    bool intercept(const char* method, Answer<Reply>& answer) {
        auto planned = note_call(method);
        if (planned) answer.fail(*planned);
        return planned.has_value();
    }
    std::optional<Status> note_call(const char* method);
    Container* find_locked(const std::string& id);
    std::shared_ptr<FakeProcess> process_locked(const std::string& container, const std::string& exec, Status& status);
    std::shared_ptr<FakeProcess> make_process_locked(const std::string& container, const std::string& exec,
                                                     std::vector<std::string> args, const v1::Stdio& stdio,
                                                     RequestStreams& streams);
    v1::ContainerState state_locked(const Container& container) const;
    void add_event(v1::Event event);
    v1::GetEventsReply events_after_locked(uint64_t after) const;

    mutable std::mutex mutex_;  // guards all below; never held while a process is destroyed
    std::map<std::string, Program, std::less<>> programs_;
    std::map<std::string, std::deque<Status>> planned_failures_;
    std::vector<std::string> calls_;
    std::map<std::string, Container> containers_;
    bool sandbox_ = false;
    uint32_t next_pid_ = 1;
    std::deque<v1::Event> events_;
    uint64_t next_sequence_ = 1;
    std::vector<EventWaiter> event_waiters_;
    std::vector<Answer<v1::GetListenersReply>> listener_waiters_;
    std::map<std::string, v1::Interface> interfaces_;
    std::vector<v1::Route> routes_;
    std::vector<v1::Neighbour> neighbours_;
    std::function<void()> on_destroy_;
};

// A FakeGuest served on a thread of its own, with a client or with the bare descriptors for a client.
class FakeGuestSession {
  public:
    FakeGuestSession();
    ~FakeGuestSession();

    FakeGuest& guest() { return guest_; }
    // Made at the first call.
    guest_api::GuestClient& client();
    // The host's ends, for who makes a client of their own. Once, and not after client().
    UniqueFd take_connection() { return std::move(connection_); }
    UniqueFd take_descriptor_channel() { return std::move(channel_); }
    // As if the guest kernel had been killed.
    void kill();

  private:
    FakeGuest guest_;
    std::unique_ptr<guest_api::GuestServer> server_;
    UniqueFd connection_, channel_;
    std::thread thread_;
    std::unique_ptr<guest_api::GuestClient> client_;
};

}  // namespace casemate::guest_fake
