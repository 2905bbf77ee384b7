#include "guest_api/guest_server.h"

#include <fmt/core.h>

#include <vector>

namespace casemate::guest_api {

namespace {

using Tokens = std::vector<StreamToken>;

void collect(const v1::FileTree& tree, Tokens& tokens) { tokens.push_back(tree.token()); }

void collect(const v1::Stdio& stdio, Tokens& tokens) {
    tokens.insert(tokens.end(), {stdio.console(), stdio.stdin(), stdio.stdout(), stdio.stderr()});
    for (const auto& passed : stdio.passed()) tokens.push_back(passed.token());
}

void collect(const v1::CreateContainerRequest& request, Tokens& tokens) {
    collect(request.root().base(), tokens);
    for (const auto& tree : request.root().lower()) collect(tree, tokens);
    collect(request.root().upper(), tokens);
    tokens.push_back(request.root().store());
    for (const auto& mount : request.mounts()) collect(mount.tree(), tokens);
    for (const auto& device : request.devices()) tokens.push_back(device.token());
    collect(request.stdio(), tokens);
}

void collect(const v1::ExecProcessRequest& request, Tokens& tokens) { collect(request.stdio(), tokens); }

void collect(const v1::UpdateNetworkRequest& request, Tokens& tokens) {
    for (const auto& interface : request.interfaces())
        tokens.insert(tokens.end(), interface.queues().begin(), interface.queues().end());
}

void collect(const v1::ConnectPortRequest& request, Tokens& tokens) { tokens.push_back(request.stream()); }

void collect(const v1::SetTraceRequest& request, Tokens& tokens) { tokens.push_back(request.output()); }

// Registers the service's functions with the server; one overload for those that take streams.
class Registry {
  public:
    Registry(rpc::Server& server, GuestService& service, StreamSource& streams)
        : server_(server), service_(service), streams_(streams) {}

    template <typename Request, typename Reply>
    void add(const char* method, void (GuestService::*function)(Request, Answer<Reply>)) {
        rpc::handle_typed<Request, Reply>(server_, kServiceName, method,
                                          [&service = service_, function](Request request, Answer<Reply> answer) {
                                              (service.*function)(std::move(request), std::move(answer));
                                          });
    }

    template <typename Request, typename Reply>
    void add(const char* method, void (GuestService::*function)(Request, RequestStreams, Answer<Reply>)) {
        rpc::handle_typed<Request, Reply>(
            server_, kServiceName, method,
            [&service = service_, &streams = streams_, function](Request request, Answer<Reply> answer) {
                Tokens tokens;
                collect(request, tokens);
                auto opened = RequestStreams::open(streams, tokens);
                if (!opened.ok()) {
                    const char* why = opened.error().value == E2BIG ? "the request names more than 64 streams"
                                                                    : "the request names an unknown stream token";
                    answer.fail(failure(Code::kInvalidArgument, opened.error().value, why));
                    return;
                }
                (service.*function)(std::move(request), opened.take_value(), std::move(answer));
            });
    }

  private:
    rpc::Server& server_;
    GuestService& service_;
    StreamSource& streams_;
};

void register_all(Registry registry) {
    using S = GuestService;
    registry.add("GetVersion", &S::get_version);
    registry.add("CreateSandbox", &S::create_sandbox);
    registry.add("DestroySandbox", &S::destroy_sandbox);
    registry.add("CreateContainer", &S::create_container);
    registry.add("StartContainer", &S::start_container);
    registry.add("DeleteContainer", &S::delete_container);
    registry.add("ListContainers", &S::list_containers);
    registry.add("PauseContainer", &S::pause_container);
    registry.add("ResumeContainer", &S::resume_container);
    registry.add("UpdateResources", &S::update_resources);
    registry.add("GetStats", &S::get_stats);
    registry.add("ExecProcess", &S::exec_process);
    registry.add("SignalProcess", &S::signal_process);
    registry.add("WaitProcess", &S::wait_process);
    registry.add("DeleteExec", &S::delete_exec);
    registry.add("ListProcesses", &S::list_processes);
    registry.add("ResizeTerminal", &S::resize_terminal);
    registry.add("CloseStdin", &S::close_stdin);
    registry.add("UpdateNetwork", &S::update_network);
    registry.add("GetNetwork", &S::get_network);
    registry.add("GetListeners", &S::get_listeners);
    registry.add("ConnectPort", &S::connect_port);
    registry.add("GetEvents", &S::get_events);
    registry.add("GetMetrics", &S::get_metrics);
    registry.add("SetClock", &S::set_clock);
    registry.add("AddEntropy", &S::add_entropy);
    registry.add("GetDiagnostics", &S::get_diagnostics);
    registry.add("SetTrace", &S::set_trace);
}

}  // namespace

Result<std::unique_ptr<GuestServer>> GuestServer::create(GuestService& service, UniqueFd connection,
                                                         std::unique_ptr<StreamSource> streams, unsigned workers) {
    rpc::Server::Options options;
    options.workers = workers;
    // The server does not move: the pointer is filled in before run() can call back.
    auto own = std::make_shared<rpc::Server*>(nullptr);
    options.on_disconnect = [own](size_t) { (*own)->stop(); };
    auto server = TRY(rpc::Server::create(std::move(options)));
    *own = server.get();
    register_all(Registry(*server, service, *streams));
    server->add_connection(std::move(connection));
    return std::unique_ptr<GuestServer>(new GuestServer(std::move(server), std::move(streams)));
}

Result<void> GuestServer::run() { return server_->run(); }
void GuestServer::stop() { server_->stop(); }

Result<void> serve(GuestService& service, UniqueFd connection, UniqueFd descriptor_channel, unsigned workers) {
    auto streams = std::make_unique<DescriptorReceiver>(std::move(descriptor_channel));
    auto server = TRY(GuestServer::create(service, std::move(connection), std::move(streams), workers));
    return server->run();
}

}  // namespace casemate::guest_api
