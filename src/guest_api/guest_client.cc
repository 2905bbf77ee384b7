#include "guest_api/guest_client.h"

#include <fmt/core.h>

#include "guest_api/guest_service.h"
#include "rpc/frame.h"
#include "rpc/typed.h"

namespace casemate::guest_api {

namespace {

constexpr size_t kMaxReply = 1 << 20;
constexpr size_t kMaxTextReply = rpc::kMaxPayload;  // replies that are mostly text for people
constexpr size_t kMaxTextField = 1 << 20;

// Parses what a guest answered: bounded before, made fit to show after.
template <typename Reply>
GuestResult<Reply> decode(const char* method, rpc::CallResult result, size_t max_bytes) {
    if (!result.status.ok()) return GuestError::from_status(result.status);
    Reply reply;
    if (result.payload.size() > max_bytes || !rpc::parse_message(reply, result.payload))
        return GuestError(Code::kDataLoss, fmt::format("the guest kernel's answer to {} is malformed", method), EBADMSG,
                          "");
    return reply;
}

template <typename Reply, typename Request>
GuestResult<Reply> call(rpc::Client& client, const char* method, const Request& request,
                        std::chrono::nanoseconds timeout, size_t max_bytes = kMaxReply) {
    rpc::CallOptions options;
    options.timeout = timeout;
    return decode<Reply>(method, client.call(kServiceName, method, request.SerializeAsString(), std::move(options)),
                         max_bytes);
}

template <typename Reply, typename Request>
void call_async(rpc::Client& client, const char* method, const Request& request,
                std::function<void(GuestResult<Reply>)> callback) {
    client.call_async(kServiceName, method, request.SerializeAsString(), {},
                      [method, callback = std::move(callback)](rpc::CallResult result) {
                          callback(decode<Reply>(method, std::move(result), kMaxReply));
                      });
}

}  // namespace

Result<std::unique_ptr<GuestClient>> GuestClient::create(UniqueFd connection, std::unique_ptr<StreamSender> streams,
                                                         Options options) {
    rpc::Client::Options rpc_options;
    rpc_options.on_close = std::move(options.on_close);
    auto client = TRY(rpc::Client::create(std::move(connection), std::move(rpc_options)));
    return std::unique_ptr<GuestClient>(new GuestClient(std::move(client), std::move(streams), options.timeout));
}

GuestResult<v1::GetVersionReply> GuestClient::connect() {
    v1::GetVersionRequest request;
    request.set_api_version(kApiVersion);
    auto reply = call<v1::GetVersionReply>(*client_, "GetVersion", request, timeout_);
    if (reply.ok() && reply->api_version() != kApiVersion)
        return GuestError(Code::kUnimplemented,
                          fmt::format("the guest kernel speaks version {} of the guest API, not {}",
                                      reply->api_version(), kApiVersion),
                          EOPNOTSUPP, "");
    return reply;
}

GuestResult<v1::CreateSandboxReply> GuestClient::create_sandbox(const v1::CreateSandboxRequest& request) {
    return call<v1::CreateSandboxReply>(*client_, "CreateSandbox", request, timeout_);
}

GuestResult<v1::DestroySandboxReply> GuestClient::destroy_sandbox() {
    return call<v1::DestroySandboxReply>(*client_, "DestroySandbox", v1::DestroySandboxRequest(), timeout_);
}

GuestResult<v1::CreateContainerReply> GuestClient::create_container(const v1::CreateContainerRequest& request) {
    return call<v1::CreateContainerReply>(*client_, "CreateContainer", request, timeout_);
}

GuestResult<v1::StartContainerReply> GuestClient::start_container(const v1::StartContainerRequest& request) {
    return call<v1::StartContainerReply>(*client_, "StartContainer", request, timeout_);
}

GuestResult<v1::DeleteContainerReply> GuestClient::delete_container(const v1::DeleteContainerRequest& request) {
    return call<v1::DeleteContainerReply>(*client_, "DeleteContainer", request, timeout_);
}

GuestResult<v1::ListContainersReply> GuestClient::list_containers() {
    return call<v1::ListContainersReply>(*client_, "ListContainers", v1::ListContainersRequest(), timeout_);
}

GuestResult<v1::PauseContainerReply> GuestClient::pause_container(const v1::PauseContainerRequest& request) {
    return call<v1::PauseContainerReply>(*client_, "PauseContainer", request, timeout_);
}

GuestResult<v1::ResumeContainerReply> GuestClient::resume_container(const v1::ResumeContainerRequest& request) {
    return call<v1::ResumeContainerReply>(*client_, "ResumeContainer", request, timeout_);
}

GuestResult<v1::UpdateResourcesReply> GuestClient::update_resources(const v1::UpdateResourcesRequest& request) {
    return call<v1::UpdateResourcesReply>(*client_, "UpdateResources", request, timeout_);
}

GuestResult<v1::GetStatsReply> GuestClient::get_stats(const v1::GetStatsRequest& request) {
    return call<v1::GetStatsReply>(*client_, "GetStats", request, timeout_);
}

GuestResult<v1::ExecProcessReply> GuestClient::exec_process(const v1::ExecProcessRequest& request) {
    return call<v1::ExecProcessReply>(*client_, "ExecProcess", request, timeout_);
}

GuestResult<v1::SignalProcessReply> GuestClient::signal_process(const v1::SignalProcessRequest& request) {
    return call<v1::SignalProcessReply>(*client_, "SignalProcess", request, timeout_);
}

GuestResult<v1::WaitProcessReply> GuestClient::wait_process(const v1::WaitProcessRequest& request,
                                                            std::chrono::nanoseconds timeout) {
    return call<v1::WaitProcessReply>(*client_, "WaitProcess", request, timeout);
}

void GuestClient::wait_process(const v1::WaitProcessRequest& request, Callback<v1::WaitProcessReply> callback) {
    call_async<v1::WaitProcessReply>(*client_, "WaitProcess", request, std::move(callback));
}

GuestResult<v1::DeleteExecReply> GuestClient::delete_exec(const v1::DeleteExecRequest& request) {
    return call<v1::DeleteExecReply>(*client_, "DeleteExec", request, timeout_);
}

GuestResult<v1::ListProcessesReply> GuestClient::list_processes(const v1::ListProcessesRequest& request) {
    auto reply = call<v1::ListProcessesReply>(*client_, "ListProcesses", request, timeout_, kMaxTextReply);
    if (!reply.ok()) return reply;
    for (v1::ProcessInfo& process : *reply->mutable_processes()) {
        process.set_command(printable(process.command(), 4096));
        process.set_state(printable(process.state(), 8));
        process.set_terminal(printable(process.terminal(), 64));
    }
    return reply;
}

GuestResult<v1::ResizeTerminalReply> GuestClient::resize_terminal(const v1::ResizeTerminalRequest& request) {
    return call<v1::ResizeTerminalReply>(*client_, "ResizeTerminal", request, timeout_);
}

GuestResult<v1::CloseStdinReply> GuestClient::close_stdin(const v1::CloseStdinRequest& request) {
    return call<v1::CloseStdinReply>(*client_, "CloseStdin", request, timeout_);
}

GuestResult<v1::UpdateNetworkReply> GuestClient::update_network(const v1::UpdateNetworkRequest& request) {
    return call<v1::UpdateNetworkReply>(*client_, "UpdateNetwork", request, timeout_);
}

GuestResult<v1::GetNetworkReply> GuestClient::get_network() {
    return call<v1::GetNetworkReply>(*client_, "GetNetwork", v1::GetNetworkRequest(), timeout_);
}

void GuestClient::get_listeners(const v1::GetListenersRequest& request, Callback<v1::GetListenersReply> callback) {
    call_async<v1::GetListenersReply>(*client_, "GetListeners", request, std::move(callback));
}

GuestResult<v1::ConnectPortReply> GuestClient::connect_port(const v1::ConnectPortRequest& request) {
    return call<v1::ConnectPortReply>(*client_, "ConnectPort", request, timeout_);
}

GuestResult<v1::GetEventsReply> GuestClient::get_events(const v1::GetEventsRequest& request,
                                                        std::chrono::nanoseconds timeout) {
    return call<v1::GetEventsReply>(*client_, "GetEvents", request, timeout);
}

void GuestClient::get_events(const v1::GetEventsRequest& request, Callback<v1::GetEventsReply> callback) {
    call_async<v1::GetEventsReply>(*client_, "GetEvents", request, std::move(callback));
}

GuestResult<v1::GetMetricsReply> GuestClient::get_metrics() {
    auto reply = call<v1::GetMetricsReply>(*client_, "GetMetrics", v1::GetMetricsRequest(), timeout_, kMaxTextReply);
    if (reply.ok()) reply->set_text(printable(reply->text(), kMaxTextReply, true));
    return reply;
}

GuestResult<v1::SetClockReply> GuestClient::set_clock(const v1::SetClockRequest& request) {
    return call<v1::SetClockReply>(*client_, "SetClock", request, timeout_);
}

GuestResult<v1::AddEntropyReply> GuestClient::add_entropy(const v1::AddEntropyRequest& request) {
    return call<v1::AddEntropyReply>(*client_, "AddEntropy", request, timeout_);
}

GuestResult<v1::GetDiagnosticsReply> GuestClient::get_diagnostics(const v1::GetDiagnosticsRequest& request) {
    auto reply = call<v1::GetDiagnosticsReply>(*client_, "GetDiagnostics", request, timeout_, kMaxTextReply);
    if (!reply.ok()) return reply;
    for (v1::DiagnosticsSection& section : *reply->mutable_sections()) {
        section.set_name(printable(section.name(), 64));
        section.set_text(printable(section.text(), kMaxTextField, true));
    }
    return reply;
}

GuestResult<v1::SetTraceReply> GuestClient::set_trace(const v1::SetTraceRequest& request) {
    return call<v1::SetTraceReply>(*client_, "SetTrace", request, timeout_);
}

}  // namespace casemate::guest_api
