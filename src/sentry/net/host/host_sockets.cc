#include "sentry/net/host/host_sockets.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "host/socket_server.h"
#include "sentry/net/host/host_socket.h"

namespace casemate::sentry {

namespace {

constexpr size_t kMostTable = 4 << 20, kTablePart = 64 << 10;
constexpr uint32_t kWatched = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET;

}  // namespace

SysResult<std::unique_ptr<HostSockets>> HostSockets::create(UniqueFd channel, std::vector<UniqueFd> tables) {
    auto sockets = std::unique_ptr<HostSockets>(new HostSockets());
    sockets->channel_ = std::move(channel);
    sockets->tables_ = std::move(tables);
    sockets->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    sockets->stop_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!sockets->epoll_ || !sockets->stop_) return last_errno();
    epoll_event event{};
    event.events = EPOLLIN;
    if (::epoll_ctl(sockets->epoll_.get(), EPOLL_CTL_ADD, sockets->stop_.get(), &event) != 0) return last_errno();
    sockets->thread_ = std::thread([self = sockets.get()] { self->run(); });
    return sockets;
}

HostSockets::~HostSockets() {
    uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof(one));
    if (thread_.joinable()) thread_.join();
}

SysResult<UniqueFd> HostSockets::make(int family, int type, int protocol) {
    std::lock_guard lock(channel_mutex_);
    return host::ask_for_socket(channel_.get(), family, type, protocol);
}

SysResult<void> HostSockets::bind(int socket, const void* address, size_t size) {
    std::lock_guard lock(channel_mutex_);
    return host::ask_for_bind(channel_.get(), socket, address, size);
}

SysResult<uint64_t> HostSockets::watch(int socket, Ref<SocketWaiters> waiters) {
    uint64_t id;
    {
        std::lock_guard lock(mutex_);
        id = ++last_id_;
        watches_.emplace(id, std::move(waiters));
    }
    epoll_event event{};
    event.events = kWatched;
    event.data.u64 = id;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket, &event) == 0) return id;
    Errno error = last_errno();
    std::lock_guard lock(mutex_);
    watches_.erase(id);
    return error;
}

void HostSockets::remove(uint64_t id, int socket) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, socket, nullptr);
    Ref<SocketWaiters> gone;
    std::lock_guard lock(mutex_);
    auto found = watches_.find(id);
    if (found == watches_.end()) return;
    gone = std::move(found->second);
    watches_.erase(found);
}

void HostSockets::run() {
    epoll_event events[64];
    while (true) {
        int n = ::epoll_wait(epoll_.get(), events, 64, -1);
        if (n < 0 && errno != EINTR) return;
        for (int i = 0; i < n; ++i) {
            if (events[i].data.u64 == 0) return;
            Ref<SocketWaiters> waiters;
            {
                std::lock_guard lock(mutex_);
                auto found = watches_.find(events[i].data.u64);
                if (found == watches_.end()) continue;
                waiters = found->second;
            }
            uint32_t what = events[i].events;
            if (what & (EPOLLHUP | EPOLLERR)) {
                waiters->everything();
                continue;
            }
            if (what & EPOLLIN) what |= EPOLLRDNORM;
            if (what & EPOLLOUT) what |= EPOLLWRNORM;
            waiters->queue.notify(what);
        }
    }
}

std::string HostSockets::table(Table which) const {
    std::string text;
    if (static_cast<size_t>(which) >= tables_.size()) return text;
    // Read from its beginning, the host makes it anew.
    while (text.size() < kMostTable) {
        size_t at = text.size();
        text.resize(at + kTablePart);
        ssize_t n = ::pread(tables_[which].get(), text.data() + at, kTablePart, static_cast<off_t>(at));
        text.resize(at + static_cast<size_t>(std::max<ssize_t>(n, 0)));
        if (n <= 0) break;
    }
    return text;
}

void HostSockets::add(HostSocket& socket) {
    std::lock_guard lock(list_mutex_);
    sockets_.insert(&socket);
}

void HostSockets::forget(HostSocket& socket) {
    std::lock_guard lock(list_mutex_);
    sockets_.erase(&socket);
}

std::vector<HostSockets::Status> HostSockets::list() {
    std::vector<Status> all;
    std::lock_guard lock(list_mutex_);
    for (HostSocket* socket : sockets_) all.push_back(socket->status());
    return all;
}

}  // namespace casemate::sentry
