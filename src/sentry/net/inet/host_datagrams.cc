#include "sentry/net/inet/host_datagrams.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace casemate::sentry {
namespace {

constexpr int kMostAtOnce = 64;
// As Linux's connection tracking: a peer that got an answer is remembered for longer.
constexpr Nanoseconds kUnanswered = 30 * kSecond, kAnswered = 120 * kSecond;

}  // namespace

HostDatagrams::HostDatagrams(UniqueFd host, Ref<UdpSocket> client, Doorbell& bell, std::vector<std::string> first)
    : host_(std::move(host)), client_(std::move(client)), ring_(bell), first_(std::move(first)), timeout_(kUnanswered) {
    client_->waiters()->queue.add(ring_);
}

HostDatagrams::~HostDatagrams() {
    client_->waiters()->queue.remove(ring_);
    client_->closed();
}

pollfd HostDatagrams::wanted() const { return {host_.get(), static_cast<short>(held_ ? POLLIN | POLLOUT : POLLIN), 0}; }

bool HostDatagrams::step(short events, std::span<std::byte> scratch) {
    if (events & POLLERR) return false;
    more_ = false;
    if (!to_guest(scratch) || !to_host()) return false;
    return monotonic_now() < last_used_ + timeout_;
}

// False: nobody is bound to the port any more, or the peer's socket is broken.
bool HostDatagrams::to_guest(std::span<std::byte> scratch) {
    for (const std::string& one : first_) {
        if (!client_->push(std::as_bytes(std::span(one)))) return false;
    }
    first_.clear();
    for (int i = 0; i < kMostAtOnce; i++) {
        ssize_t got = ::read(host_.get(), scratch.data(), scratch.size());
        if (got < 0) return errno == EAGAIN || errno == EINTR;
        last_used_ = monotonic_now();
        if (!client_->push(scratch.first(static_cast<size_t>(got)))) return false;
    }
    more_ = true;
    return true;
}

bool HostDatagrams::to_host() {
    for (int i = 0; i < kMostAtOnce; i++) {
        if (!held_) held_ = client_->pull();
        if (!held_) return true;
        ssize_t sent = ::write(host_.get(), held_->data.get(), held_->size);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return true;
        // The peer has gone; what is too large for the host is lost, as on any way.
        if (sent < 0 && errno != EMSGSIZE) return false;
        held_.reset();
        last_used_ = monotonic_now();
        timeout_ = kAnswered;
    }
    more_ = true;
    return true;
}

}  // namespace casemate::sentry
