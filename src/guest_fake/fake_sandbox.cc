// The rest of the fake guest: what concerns the sandbox as a whole, and the session.
#include <fmt/core.h>
#include <sys/socket.h>

#include <algorithm>

#include "guest_fake/fake_guest.h"

namespace casemate::guest_fake {

namespace {

std::string route_key(const v1::Route& route) { return route.destination() + "|" + route.interface(); }
std::string neighbour_key(const v1::Neighbour& one) { return one.address() + "|" + one.interface(); }

}  // namespace

void FakeGuest::update_resources(v1::UpdateResourcesRequest request, Answer<v1::UpdateResourcesReply> answer) {
    if (intercept("UpdateResources", answer)) return;
    std::lock_guard lock(mutex_);
    if (request.container_id().empty() || find_locked(request.container_id()) != nullptr)
        answer.ok();
    else
        answer.fail(guest_api::not_found(fmt::format("container {} does not exist", request.container_id())));
}

void FakeGuest::get_stats(v1::GetStatsRequest request, Answer<v1::GetStatsReply> answer) {
    if (intercept("GetStats", answer)) return;
    std::lock_guard lock(mutex_);
    if (!request.container_id().empty() && find_locked(request.container_id()) == nullptr) {
        answer.fail(guest_api::not_found(fmt::format("container {} does not exist", request.container_id())));
        return;
    }
    v1::GetStatsReply reply;
    for (const auto& [id, container] : containers_) {
        if (!request.container_id().empty() && id != request.container_id()) continue;
        uint64_t running = container.init->running() ? 1 : 0;
        for (const auto& [exec, process] : container.execs) running += process->running() ? 1 : 0;
        reply.set_pids(reply.pids() + running);
    }
    reply.mutable_cpu()->set_usage_ns(1'000'000 * reply.pids());
    reply.mutable_memory()->set_usage_bytes(4096 * reply.pids());
    for (const auto& [name, interface] : interfaces_) reply.add_interfaces()->set_name(name);
    answer.ok(reply);
}

void FakeGuest::update_network(v1::UpdateNetworkRequest request, RequestStreams,
                               Answer<v1::UpdateNetworkReply> answer) {
    if (intercept("UpdateNetwork", answer)) return;
    std::lock_guard lock(mutex_);
    for (const auto& name : request.remove_interfaces())
        if (interfaces_.count(name) == 0) {
            answer.fail(guest_api::not_found(fmt::format("interface {} does not exist", name)));
            return;
        }
    for (const auto& interface : request.interfaces())
        if (interface.name().empty() || (interface.queues().empty() && interfaces_.count(interface.name()) == 0)) {
            answer.fail(guest_api::invalid("a new interface needs a name and a queue", "interfaces"));
            return;
        }
    for (const auto& name : request.remove_interfaces()) interfaces_.erase(name);
    for (auto& interface : *request.mutable_interfaces()) {
        interface.clear_queues();
        interfaces_[interface.name()] = interface;
    }
    if (request.replace_routes()) routes_.clear();
    for (const auto& gone : request.remove_routes())
        std::erase_if(routes_, [&](const auto& route) { return route_key(route) == route_key(gone); });
    routes_.insert(routes_.end(), request.routes().begin(), request.routes().end());
    for (const auto& gone : request.remove_neighbours())
        std::erase_if(neighbours_, [&](const auto& one) { return neighbour_key(one) == neighbour_key(gone); });
    neighbours_.insert(neighbours_.end(), request.neighbours().begin(), request.neighbours().end());
    answer.ok();
}

void FakeGuest::get_network(v1::GetNetworkRequest, Answer<v1::GetNetworkReply> answer) {
    if (intercept("GetNetwork", answer)) return;
    std::lock_guard lock(mutex_);
    v1::GetNetworkReply reply;
    for (const auto& [name, interface] : interfaces_) *reply.add_interfaces() = interface;
    for (const auto& route : routes_) *reply.add_routes() = route;
    for (const auto& neighbour : neighbours_) *reply.add_neighbours() = neighbour;
    answer.ok(reply);
}

// Nobody ever listens here.
void FakeGuest::get_listeners(v1::GetListenersRequest request, Answer<v1::GetListenersReply> answer) {
    if (intercept("GetListeners", answer)) return;
    v1::GetListenersReply reply;
    reply.set_generation(1);
    if (request.generation() != reply.generation()) return static_cast<void>(answer.ok(reply));
    std::lock_guard lock(mutex_);
    listener_waiters_.push_back(std::move(answer));
}

void FakeGuest::connect_port(v1::ConnectPortRequest, RequestStreams, Answer<v1::ConnectPortReply> answer) {
    if (intercept("ConnectPort", answer)) return;
    answer.fail(guest_api::failure(guest_api::Code::kUnavailable, ECONNREFUSED, "connect to a port"));
}

void FakeGuest::get_metrics(v1::GetMetricsRequest, Answer<v1::GetMetricsReply> answer) {
    if (intercept("GetMetrics", answer)) return;
    std::lock_guard lock(mutex_);
    v1::GetMetricsReply reply;
    reply.set_text(fmt::format("casemate_guest_containers {}\n", containers_.size()));
    answer.ok(reply);
}

void FakeGuest::set_clock(v1::SetClockRequest request, Answer<v1::SetClockReply> answer) {
    if (intercept("SetClock", answer)) return;
    if (request.realtime_ns() > 0)
        answer.ok();
    else
        answer.fail(guest_api::invalid("the clock cannot be set before 1970", "realtime_ns"));
}

void FakeGuest::add_entropy(v1::AddEntropyRequest request, Answer<v1::AddEntropyReply> answer) {
    if (intercept("AddEntropy", answer)) return;
    if (request.data().size() <= 4096)
        answer.ok();
    else
        answer.fail(guest_api::invalid("more than 4096 bytes of entropy", "data"));
}

void FakeGuest::get_diagnostics(v1::GetDiagnosticsRequest, Answer<v1::GetDiagnosticsReply> answer) {
    if (intercept("GetDiagnostics", answer)) return;
    std::lock_guard lock(mutex_);
    v1::GetDiagnosticsReply reply;
    v1::DiagnosticsSection* section = reply.add_sections();
    section->set_name("tasks");
    for (const auto& [id, container] : containers_)
        section->set_text(section->text() + fmt::format("{} init {}\n", id, container.init->pid));
    answer.ok(reply);
}

void FakeGuest::set_trace(v1::SetTraceRequest, RequestStreams, Answer<v1::SetTraceReply> answer) {
    if (intercept("SetTrace", answer)) return;
    answer.fail(guest_api::not_supported("the fake guest has nothing to trace", "kind"));
}

FakeGuestSession::FakeGuestSession() {
    int fds[2];
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    connection_.reset(fds[0]);
    UniqueFd theirs(fds[1]);
    auto channel = MUST(guest_api::DescriptorChannel::create());
    channel_ = std::move(channel.host);
    server_ = MUST(guest_api::GuestServer::create(
        guest_, std::move(theirs), std::make_unique<guest_api::DescriptorReceiver>(std::move(channel.guest))));
    guest_.on_destroy([this] { server_->stop(); });
    thread_ = std::thread([this] { MUST(server_->run()); });
}

FakeGuestSession::~FakeGuestSession() {
    kill();
    client_.reset();
}

void FakeGuestSession::kill() {
    server_->stop();
    if (thread_.joinable()) thread_.join();
}

guest_api::GuestClient& FakeGuestSession::client() {
    if (!client_)
        client_ = MUST(guest_api::GuestClient::create(
            std::move(connection_), std::make_unique<guest_api::DescriptorSender>(std::move(channel_))));
    return *client_;
}

}  // namespace casemate::guest_fake
