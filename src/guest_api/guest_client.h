// The sandbox host's side of the guest API: one typed function per method of guest.proto.
//
//   auto client = TRY(GuestClient::create(std::move(socket), std::make_unique<DescriptorSender>(std::move(channel))));
//   TRY(client->connect());
//   request.mutable_stdio()->set_stdout(TRY(client->send_stream(pipe.get())));
//   TRY(client->create_container(request));
//   client->wait_process(wait, [](GuestResult<v1::WaitProcessReply> reply) { ... });
//
// Thread-safe. Callbacks run on the client's reading thread and must not block or call synchronously: post what follows
// to your own loop. The guest is hostile: answers are bounded in bytes and fields before they are parsed, texts are
// made printable, and each call has a time-out (kDeadlineExceeded) except the waiting ones.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "base/result.h"
#include "base/unique_fd.h"
#include "guest_api/errors.h"
#include "guest_api/guest.pb.h"
#include "guest_api/streams.h"
#include "rpc/client.h"

namespace casemate::guest_api {

namespace v1 = casemate::guest::v1;

class GuestClient {
  public:
    struct Options {
        std::chrono::nanoseconds timeout = std::chrono::seconds(60);  // of each call that does not wait by nature
        std::function<void()> on_close = {};  // the guest kernel is gone; on the reading thread, once
    };
    template <typename Reply>
    using Callback = std::function<void(GuestResult<Reply>)>;

    static Result<std::unique_ptr<GuestClient>> create(UniqueFd connection, std::unique_ptr<StreamSender> streams,
                                                       Options options);
    static Result<std::unique_ptr<GuestClient>> create(UniqueFd connection, std::unique_ptr<StreamSender> streams) {
        return create(std::move(connection), std::move(streams), Options{});
    }

    // First call: GetVersion, and fails unless the guest speaks our version.
    GuestResult<v1::GetVersionReply> connect();
    // A token for a duplicate of `fd`, to be named in the next request that takes it.
    Result<StreamToken> send_stream(int fd) { return streams_->send(fd); }
    bool closed() const { return client_->closed(); }

    GuestResult<v1::CreateSandboxReply> create_sandbox(const v1::CreateSandboxRequest& request);
    GuestResult<v1::DestroySandboxReply> destroy_sandbox();

    GuestResult<v1::CreateContainerReply> create_container(const v1::CreateContainerRequest& request);
    GuestResult<v1::StartContainerReply> start_container(const v1::StartContainerRequest& request);
    GuestResult<v1::DeleteContainerReply> delete_container(const v1::DeleteContainerRequest& request);
    GuestResult<v1::ListContainersReply> list_containers();
    GuestResult<v1::PauseContainerReply> pause_container(const v1::PauseContainerRequest& request);
    GuestResult<v1::ResumeContainerReply> resume_container(const v1::ResumeContainerRequest& request);
    GuestResult<v1::UpdateResourcesReply> update_resources(const v1::UpdateResourcesRequest& request);
    GuestResult<v1::GetStatsReply> get_stats(const v1::GetStatsRequest& request);

    GuestResult<v1::ExecProcessReply> exec_process(const v1::ExecProcessRequest& request);
    GuestResult<v1::SignalProcessReply> signal_process(const v1::SignalProcessRequest& request);
    GuestResult<v1::DeleteExecReply> delete_exec(const v1::DeleteExecRequest& request);
    GuestResult<v1::ListProcessesReply> list_processes(const v1::ListProcessesRequest& request);
    GuestResult<v1::ResizeTerminalReply> resize_terminal(const v1::ResizeTerminalRequest& request);
    GuestResult<v1::CloseStdinReply> close_stdin(const v1::CloseStdinRequest& request);
    // Blocks this thread until the process ends; `timeout` 0: for ever.
    GuestResult<v1::WaitProcessReply> wait_process(const v1::WaitProcessRequest& request,
                                                   std::chrono::nanoseconds timeout = {});
    void wait_process(const v1::WaitProcessRequest& request, Callback<v1::WaitProcessReply> callback);

    GuestResult<v1::UpdateNetworkReply> update_network(const v1::UpdateNetworkRequest& request);
    GuestResult<v1::GetNetworkReply> get_network();
    void get_listeners(const v1::GetListenersRequest& request, Callback<v1::GetListenersReply> callback);
    GuestResult<v1::ConnectPortReply> connect_port(const v1::ConnectPortRequest& request);
    GuestResult<v1::GetEventsReply> get_events(const v1::GetEventsRequest& request,
                                               std::chrono::nanoseconds timeout = {});
    void get_events(const v1::GetEventsRequest& request, Callback<v1::GetEventsReply> callback);
    GuestResult<v1::GetMetricsReply> get_metrics();
    GuestResult<v1::SetClockReply> set_clock(const v1::SetClockRequest& request);
    GuestResult<v1::AddEntropyReply> add_entropy(const v1::AddEntropyRequest& request);
    GuestResult<v1::GetDiagnosticsReply> get_diagnostics(const v1::GetDiagnosticsRequest& request);
    GuestResult<v1::SetTraceReply> set_trace(const v1::SetTraceRequest& request);

  private:
    GuestClient(std::unique_ptr<rpc::Client> client, std::unique_ptr<StreamSender> streams,
                std::chrono::nanoseconds timeout)
        : streams_(std::move(streams)), timeout_(timeout), client_(std::move(client)) {}

    std::unique_ptr<StreamSender> streams_;
    const std::chrono::nanoseconds timeout_;
    std::unique_ptr<rpc::Client> client_;
};

}  // namespace casemate::guest_api
