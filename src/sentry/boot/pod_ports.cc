#include "sentry/boot/pod_ports.h"

#include <fmt/core.h>

#include "guest_api/errors.h"
#include "sentry/boot/pod.h"
#include "sentry/net/inet/ports.h"
#include "sentry/net/network.h"

namespace casemate::sentry {

using guest_api::invalid;
using guest_api::wrong_state;

namespace {

constexpr size_t kMostListeners = 256;
constexpr Nanoseconds kPause = kSecond / 200;  // several changes are told at once

}  // namespace

PodPorts::PodPorts(Ref<Network> network, TimerThread& timers) : network_(std::move(network)), timers_(timers) {
    network_->tcp_ports().listener_changes().add(*this);
    network_->udp_ports().listener_changes().add(of_datagrams_);
}

PodPorts::~PodPorts() {
    network_->tcp_ports().listener_changes().remove(*this);
    network_->udp_ports().listener_changes().remove(of_datagrams_);
    timers_.cancel(*this);
}

bool PodPorts::notified(uint32_t) {
    timers_.arm(*this, monotonic_now() + kPause);
    return true;
}

void PodPorts::get_listeners(uint64_t generation, Answer<v1::GetListenersReply> wanted) {
    {
        std::lock_guard lock(mutex_);
        asked_.push_back({generation, std::move(wanted)});
    }
    answer();
}

// Neither part ever becomes smaller.
uint64_t PodPorts::generation() {
    return network_->tcp_ports().listener_generation() + network_->udp_ports().listener_generation();
}

void PodPorts::answer() {
    std::lock_guard lock(mutex_);
    if (asked_.empty()) return;
    v1::GetListenersReply reply;
    reply.set_generation(generation());  // before the lists: a change between the two is told again
    auto tell = [](PortTable& ports, auto& list) {
        for (const PortTable::Reached& one : ports.loopback_listeners(kMostListeners)) {
            v1::Listener& listener = *list.Add();
            listener.set_port(one.port);
            listener.set_v4(one.v4);
            listener.set_v6(one.v6);
            listener.set_any_v4(one.any4);
            listener.set_any_v6(one.any6);
        }
    };
    tell(network_->tcp_ports(), *reply.mutable_listeners());
    tell(network_->udp_ports(), *reply.mutable_datagrams());
    std::erase_if(asked_, [&](Asked& one) {
        if (one.generation == reply.generation()) return false;
        one.answer.ok(reply);
        return true;
    });
}

void PodPorts::connect_port(const v1::ConnectPortRequest& request, UniqueFd stream,
                            Answer<v1::ConnectPortReply> answer) {
    if (request.port() == 0 || request.port() > 65535)
        return static_cast<void>(answer.fail(invalid("there is no such port", "port")));
    if (!stream) return static_cast<void>(answer.fail(invalid("the request brings no connection", "stream")));
    InetEndpoint peer{request.v6() ? InetAddress::loopback6() : InetAddress::v4(INADDR_LOOPBACK),
                      static_cast<uint16_t>(request.port())};
    auto done = request.datagrams() ? connections_.add_datagrams(std::move(stream), network_, peer,
                                                                 {request.first().begin(), request.first().end()})
                                    : connections_.add(std::move(stream), network_, peer);
    if (done.ok()) return static_cast<void>(answer.ok());
    bool many = done.error().value == EMFILE;
    answer.fail(guest_api::failure(many ? guest_api::Code::kResourceExhausted : guest_api::Code::kUnavailable,
                                   done.error().value, fmt::format("connect to port {} of the pod", request.port())));
}

void Pod::get_listeners(v1::GetListenersRequest request, Answer<v1::GetListenersReply> answer) {
    if (!created_) return static_cast<void>(answer.fail(wrong_state("CreateSandbox comes first")));
    if (!ports_) ports_ = std::make_unique<PodPorts>(Ref<Network>(&network()), kernel_.timers());
    ports_->get_listeners(request.generation(), std::move(answer));
}

void Pod::connect_port(v1::ConnectPortRequest request, RequestStreams streams, Answer<v1::ConnectPortReply> answer) {
    if (!created_) return static_cast<void>(answer.fail(wrong_state("CreateSandbox comes first")));
    if (!ports_) ports_ = std::make_unique<PodPorts>(Ref<Network>(&network()), kernel_.timers());
    ports_->connect_port(request, streams.take(request.stream()), std::move(answer));
}

}  // namespace casemate::sentry
