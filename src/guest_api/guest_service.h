// What a guest kernel implements: one function per method of guest.proto.
//
// Functions run on the thread in GuestServer::run() (or its workers) and may keep the answer to give it later from any
// thread; wait_process, get_listeners and get_events have to. Streams that a function does not take are closed when it
// returns or drops them. Requests are parsed protobuf and nothing more: every field is still to be checked.
#pragma once

#include "guest_api/errors.h"
#include "guest_api/guest.pb.h"
#include "guest_api/streams.h"
#include "rpc/typed.h"

namespace casemate::guest_api {

namespace v1 = casemate::guest::v1;
using rpc::Answer;

constexpr const char* kServiceName = "casemate.guest.v1.Guest";
constexpr uint32_t kApiVersion = 1;

class GuestService {
  public:
    virtual ~GuestService() = default;

    virtual void get_version(v1::GetVersionRequest, Answer<v1::GetVersionReply>) = 0;
    virtual void create_sandbox(v1::CreateSandboxRequest, Answer<v1::CreateSandboxReply>) = 0;
    // After the answer: GuestServer::stop(), and run() returns once the answer has left.
    virtual void destroy_sandbox(v1::DestroySandboxRequest, Answer<v1::DestroySandboxReply>) = 0;

    virtual void create_container(v1::CreateContainerRequest, RequestStreams, Answer<v1::CreateContainerReply>) = 0;
    virtual void start_container(v1::StartContainerRequest, Answer<v1::StartContainerReply>) = 0;
    virtual void delete_container(v1::DeleteContainerRequest, Answer<v1::DeleteContainerReply>) = 0;
    virtual void list_containers(v1::ListContainersRequest, Answer<v1::ListContainersReply>) = 0;
    virtual void pause_container(v1::PauseContainerRequest, Answer<v1::PauseContainerReply>) = 0;
    virtual void resume_container(v1::ResumeContainerRequest, Answer<v1::ResumeContainerReply>) = 0;
    virtual void update_resources(v1::UpdateResourcesRequest, Answer<v1::UpdateResourcesReply>) = 0;
    virtual void get_stats(v1::GetStatsRequest, Answer<v1::GetStatsReply>) = 0;

    virtual void exec_process(v1::ExecProcessRequest, RequestStreams, Answer<v1::ExecProcessReply>) = 0;
    virtual void signal_process(v1::SignalProcessRequest, Answer<v1::SignalProcessReply>) = 0;
    virtual void wait_process(v1::WaitProcessRequest, Answer<v1::WaitProcessReply>) = 0;
    virtual void delete_exec(v1::DeleteExecRequest, Answer<v1::DeleteExecReply>) = 0;
    virtual void list_processes(v1::ListProcessesRequest, Answer<v1::ListProcessesReply>) = 0;
    virtual void resize_terminal(v1::ResizeTerminalRequest, Answer<v1::ResizeTerminalReply>) = 0;
    virtual void close_stdin(v1::CloseStdinRequest, Answer<v1::CloseStdinReply>) = 0;

    virtual void update_network(v1::UpdateNetworkRequest, RequestStreams, Answer<v1::UpdateNetworkReply>) = 0;
    virtual void get_network(v1::GetNetworkRequest, Answer<v1::GetNetworkReply>) = 0;
    virtual void get_listeners(v1::GetListenersRequest, Answer<v1::GetListenersReply>) = 0;
    virtual void connect_port(v1::ConnectPortRequest, RequestStreams, Answer<v1::ConnectPortReply>) = 0;
    virtual void get_events(v1::GetEventsRequest, Answer<v1::GetEventsReply>) = 0;
    virtual void get_metrics(v1::GetMetricsRequest, Answer<v1::GetMetricsReply>) = 0;
    virtual void set_clock(v1::SetClockRequest, Answer<v1::SetClockReply>) = 0;
    virtual void add_entropy(v1::AddEntropyRequest, Answer<v1::AddEntropyReply>) = 0;
    virtual void get_diagnostics(v1::GetDiagnosticsRequest, Answer<v1::GetDiagnosticsReply>) = 0;
    virtual void set_trace(v1::SetTraceRequest, RequestStreams, Answer<v1::SetTraceReply>) = 0;
};

}  // namespace casemate::guest_api
