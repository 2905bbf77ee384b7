#include "sentry/net/inet/host_connections.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "sentry/net/inet/host_datagrams.h"

namespace casemate::sentry {
namespace {

constexpr size_t kBuffer = 64 << 10;  // per direction
constexpr Nanoseconds kLookAgain = kSecond / 50;
constexpr size_t kLargestDatagram = 64 << 10;
constexpr Nanoseconds kMostLingering = 60 * kSecond;

// Bytes on their way; refilled only when it is empty.
struct Buffer {
    std::unique_ptr<std::byte[]> bytes;
    size_t begin = 0, end = 0;
    bool over = false;  // no more will come
    bool told = false;  // and the receiver knows

    bool empty() const { return begin == end; }
    bool wants() const { return empty() && !over; }
    std::span<std::byte> room() {
        if (!bytes) bytes = std::make_unique_for_overwrite<std::byte[]>(kBuffer);
        begin = end = 0;
        return {bytes.get(), kBuffer};
    }
    std::span<std::byte> content() { return {bytes.get() + begin, end - begin}; }
    // Idle connections hold no memory.
    void rest() {
        if (empty()) bytes.reset();
    }
};

}  // namespace

void Doorbell::ring() {
    if (rung_.exchange(true)) return;
    uint64_t one = 1;
    static_cast<void>(!::write(fd_.get(), &one, sizeof(one)));
}

void Doorbell::answer() {
    uint64_t count;
    static_cast<void>(!::read(fd_.get(), &count, sizeof(count)));
    rung_ = false;
}

// One connection.
class HostConnections::Pump final : public HostPassage {
  public:
    Pump(UniqueFd host, Ref<TcpSocket> client, Doorbell& bell, std::atomic<size_t>& count)
        : host_(std::move(host)), client_(std::move(client)), ring_(bell), count_(count) {
        client_->waiters()->queue.add(ring_);
    }
    ~Pump() override {
        count_.fetch_sub(1);
        client_->waiters()->queue.remove(ring_);
        if (reset_) client_->options().linger_seconds = 0;
        client_->closed();
    }

    pollfd wanted() const override {
        short events = 0;
        if (lingers()) return {-1, 0, 0};
        if (to_guest_.wants()) events |= POLLIN;
        if (!to_host_.empty()) events |= POLLOUT;
        return {host_.get(), events, 0};
    }
    Deadline look_again() const override {
        if (!lingers()) return std::nullopt;
        return monotonic_now() + kLookAgain;
    }
    bool step(short events, std::span<std::byte>) override {
        if (lingers()) return !all_sent() && monotonic_now() < lingering_until_;
        if (events & POLLERR) return reset();
        for (bool moved = true; moved;) {
            moved = false;
            if (to_guest_.wants()) {
                auto room = to_guest_.room();
                ssize_t got = ::read(host_.get(), room.data(), room.size());
                if (got < 0 && errno != EAGAIN && errno != EINTR) return reset();
                to_guest_.end = got > 0 ? static_cast<size_t>(got) : 0;
                to_guest_.over = got == 0;
            }
            if (!to_guest_.empty()) {
                auto done = client_->push(to_guest_.content());
                if (done.reset) return reset();
                to_guest_.begin += done.bytes;
                moved |= done.bytes > 0;
                // Nobody reads any more. What the host sends from now on stays unread, which makes close() a reset.
                if (done.over) {
                    to_guest_.begin = to_guest_.end;
                    to_guest_.over = to_guest_.told = true;
                }
            }
            if (to_host_.wants()) {
                auto done = client_->pull(to_host_.room());
                if (done.reset) return reset();
                to_host_.end = done.bytes;
                to_host_.over = done.over;
            }
            if (!to_host_.empty()) {
                ssize_t sent = ::write(host_.get(), to_host_.content().data(), to_host_.content().size());
                if (sent < 0 && errno != EAGAIN && errno != EINTR) return reset();
                to_host_.begin += sent > 0 ? static_cast<size_t>(sent) : 0;
                moved |= sent > 0;
            }
        }
        if (to_guest_.over && to_guest_.empty() && !std::exchange(to_guest_.told, true))
            static_cast<void>(client_->shutdown(SHUT_WR));
        if (to_host_.over && to_host_.empty() && !std::exchange(to_host_.told, true)) ::shutdown(host_.get(), SHUT_WR);
        to_guest_.rest();
        to_host_.rest();
        if (!to_guest_.told || !to_host_.told) return true;
        if (all_sent()) return false;
        lingering_until_ = monotonic_now() + kMostLingering;
        return true;
    }

  private:
    // Both ends have ended, but the host has not taken everything yet: closing would be a reset.
    bool lingers() const { return lingering_until_ != 0; }
    bool all_sent() const {
        int waiting = 0;
        return ::ioctl(host_.get(), SIOCOUTQ, &waiting) != 0 || waiting == 0;
    }
    bool reset() {
        reset_ = true;
        return false;
    }

    const UniqueFd host_;
    const Ref<TcpSocket> client_;
    Ring ring_;
    std::atomic<size_t>& count_;  // of connections, this one among them
    Buffer to_guest_, to_host_;
    bool reset_ = false;
    Nanoseconds lingering_until_ = 0;
};

HostConnections::HostConnections() = default;

HostConnections::~HostConnections() {
    stop_ = true;
    if (bell_) bell_->ring();
    if (thread_.joinable()) thread_.join();
}

SysResult<void> HostConnections::start_locked() {
    UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd) return last_errno();
    bell_ = std::make_unique<Doorbell>(std::move(fd));
    thread_ = std::thread([this] { run(); });
    return {};
}

SysResult<void> HostConnections::add(UniqueFd host, Ref<Network> network, const InetEndpoint& peer) {
    if (count_.fetch_add(1) >= kMost) {
        count_.fetch_sub(1);
        return Errno(EMFILE);
    }
    auto begin = [&]() -> SysResult<void> {
        Ref<TcpSocket> client = TRY(TcpSocket::dial(std::move(network), peer));
        std::lock_guard lock(mutex_);
        if (!bell_) TRY(start_locked());
        arrived_.push_back(std::make_unique<Pump>(std::move(host), std::move(client), *bell_, count_));
        bell_->ring();
        return {};
    };
    auto begun = begin();
    if (!begun.ok()) count_.fetch_sub(1);
    return begun;
}

SysResult<void> HostConnections::add_datagrams(UniqueFd host, Ref<Network> network, const InetEndpoint& peer,
                                               std::vector<std::string> first) {
    Ref<UdpSocket> client = TRY(UdpSocket::dial(std::move(network), peer));
    std::lock_guard lock(mutex_);
    auto begin = [&]() -> SysResult<void> {
        if (!bell_) TRY(start_locked());
        if (arrived_.size() >= kMostPeers) return Errno(EMFILE);
        return {};
    };
    auto begun = begin();
    if (!begun.ok()) {
        client->closed();
        return begun;
    }
    arrived_.push_back(std::make_unique<HostDatagrams>(std::move(host), std::move(client), *bell_, std::move(first)));
    bell_->ring();
    return {};
}

// UDP peers that came beyond what there may be push out those that have been silent for longest.
void HostConnections::forget_old_peers(std::vector<std::unique_ptr<HostPassage>>& passages) {
    auto peers = static_cast<size_t>(
        std::ranges::count_if(passages, [](const auto& one) { return one->last_used().has_value(); }));
    for (; peers > kMostPeers; peers--) {
        auto oldest = passages.end();
        for (auto it = passages.begin(); it != passages.end(); ++it) {
            Deadline used = (*it)->last_used();
            if (used && (oldest == passages.end() || *used < *(*oldest)->last_used())) oldest = it;
        }
        passages.erase(oldest);
    }
}

void HostConnections::run() {
    std::vector<std::unique_ptr<HostPassage>> passages;
    std::vector<pollfd> polled;
    auto scratch = std::make_unique_for_overwrite<std::byte[]>(kLargestDatagram);
    while (!stop_) {
        // New ones have not been polled: they are tried.
        for (size_t i = passages.size(); i-- > 0;) {
            if (passages[i]->step(i + 1 < polled.size() ? polled[i + 1].revents : 0, {scratch.get(), kLargestDatagram}))
                continue;
            passages.erase(passages.begin() + static_cast<ptrdiff_t>(i));
        }
        bool more = false;
        {
            std::lock_guard lock(mutex_);
            more = !arrived_.empty();
            for (auto& one : arrived_) passages.push_back(std::move(one));
            arrived_.clear();
        }
        forget_old_peers(passages);
        polled.assign(1, pollfd{bell_->fd(), POLLIN, 0});
        Deadline again;
        for (auto& passage : passages) {
            polled.push_back(passage->wanted());
            if (Deadline one = passage->look_again()) again = std::min(again.value_or(*one), *one);
        }
        int patience = more ? 0 : -1;
        if (again && !more)
            patience = static_cast<int>(std::clamp<Nanoseconds>((*again - monotonic_now()) / 1'000'000 + 1, 0, 60'000));
        if (poll(polled.data(), polled.size(), patience) < 0)
            for (pollfd& one : polled) one.revents = 0;
        // What rings from here on is seen by the next poll.
        bell_->answer();
    }
}

}  // namespace casemate::sentry
