// Socket: the base of all families: kind, options, wait queue, and the operations of the socket syscalls. SocketFile is
// the open file around one.
//
// A family is a folder here (unix/, inet/) and a row in family.cc. Sockets exist without a file too: a connection that
// nobody has accepted yet. Operations are thread-safe. Locks: a socket's mutex, then those of buffers (StreamDirection,
// PacketQueue), then AddressSpace and wait queues; two sockets' mutexes are taken together by std::scoped_lock.
// Passed files (SCM_RIGHTS) are dropped without any of these held: they may be the last reference to another socket.
#pragma once

#include <linux/filter.h>
#include <sys/socket.h>

#include <atomic>
#include <mutex>
#include <span>
#include <vector>

#include "sentry/kernel/task.h"
#include "sentry/net/address.h"
#include "sentry/net/control.h"
#include "sentry/net/network.h"
#include "sentry/net/stream.h"
#include "sentry/net/waiters.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

constexpr uint32_t kDefaultBuffer = 212'992;  // net.core.{r,w}mem_{default,max}
constexpr uint32_t kMostBuffer = 212'992;

// An option's value; nullopt: the family has nothing to say about it.
using OptionBytes = std::optional<std::vector<std::byte>>;

// SOL_SOCKET's state. Atomics: data paths read them without a lock.
struct SocketOptions {
    std::atomic<uint32_t> flags{0};  // of SocketFlag
    std::atomic<uint32_t> send_buffer{kDefaultBuffer}, receive_buffer{kDefaultBuffer};
    std::atomic<Nanoseconds> send_timeout{0}, receive_timeout{0};  // 0: none
    std::atomic<uint32_t> receive_low_water{1};
    std::atomic<int> linger_seconds{-1};  // -1: off
    std::atomic<uint32_t> priority{0}, mark{0}, max_pacing_rate{~0u};
    std::atomic<int> bound_device{0};
    std::atomic<uint32_t> timestamping{0};  // SOF_TIMESTAMPING_*
    std::atomic<int> incoming_cpu{-1}, busy_poll{0}, busy_poll_budget{8}, buffer_lock{0}, transmit_rehash{1};
};
enum SocketFlag : uint32_t {
    kReuseAddress = 1 << 0,
    kReusePort = 1 << 1,
    kKeepAlive = 1 << 2,
    kBroadcast = 1 << 3,
    kPassCredentials = 1 << 4,
    kTimestamp = 1 << 5,
    kTimestampNs = 1 << 6,
    kOobInline = 1 << 7,
    kDontRoute = 1 << 8,
    kNoCheck = 1 << 9,
    kDebug = 1 << 10,
    kPassSecurity = 1 << 11,
    kTellDrops = 1 << 12,  // SO_RXQ_OVFL
    kZeroCopy = 1 << 13,
    kSelectErrors = 1 << 14,  // SO_SELECT_ERR_QUEUE
    kNoFcs = 1 << 15,
    kReceiveMark = 1 << 16,
    kPreferBusyPoll = 1 << 17,
};

// sendmsg's arguments behind the descriptor. `flags`: MSG_*, with MSG_DONTWAIT if the file is non-blocking.
struct SendRequest {
    IoBuffer& data;
    int flags = 0;
    const SocketAddress* to = nullptr;     // null: none given
    const SentControl* control = nullptr;  // null: none given
};
// recvmsg's. `flags` comes back with MSG_TRUNC, MSG_CTRUNC, MSG_EOR, MSG_OOB.
struct ReceiveRequest {
    IoBuffer& data;
    int flags = 0;
    SocketAddress* from = nullptr;       // null: not asked for
    ReceivedControl* control = nullptr;  // null: not asked for
    int out_flags = 0;
};

class Socket : public RefCounted {
  public:
    Socket(int family, int type, int protocol, Ref<Network> network);
    ~Socket() override;

    int family() const { return family_; }
    int type() const { return type_; }
    int protocol() const { return protocol_; }
    Network& network() const { return *network_; }
    const Ref<SocketWaiters>& waiters() const { return waiters_; }
    SocketOptions& options() { return options_; }
    bool has(SocketFlag flag) const { return options_.flags.load(std::memory_order_relaxed) & flag; }
    // Of the inode of the file around it; 0 before there is one.
    uint64_t inode_number() const { return inode_number_.load(std::memory_order_relaxed); }
    void set_inode_number(uint64_t number) { inode_number_.store(number, std::memory_order_relaxed); }

    // The syscalls. Defaults: EOPNOTSUPP.
    virtual SysResult<void> bind(Task& task, const SocketAddress& address);
    virtual SysResult<void> connect(Task& task, const SocketAddress& address, bool nonblocking);
    virtual SysResult<void> listen(Task& task, int backlog);
    virtual SysResult<Ref<Socket>> accept(Task& task, bool nonblocking);
    virtual SysResult<void> connect_pair(Task& task, Socket& other);
    virtual SysResult<size_t> send(Task& task, SendRequest& request);
    // MSG_TRUNC in the flags: the answer may exceed the buffer.
    virtual SysResult<size_t> receive(Task& task, ReceiveRequest& request);
    virtual SysResult<void> shutdown(int how);
    virtual SysResult<SocketAddress> local_address();
    virtual SysResult<SocketAddress> peer_address();
    virtual bool listening() { return false; }
    // Levels other than SOL_SOCKET, and what a family has to say about SOL_SOCKET first (false, nullopt: nothing).
    virtual SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value);
    virtual SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room);
    virtual SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument);
    // After set_option() has changed something.
    virtual void options_changed() {}
    virtual uint32_t poll_events() = 0;
    // A stream whose waiters hear of each event before whoever caused it goes on.
    virtual bool tells_at_once() const { return false; }
    // Offers what can be read, if it is all and not more than `most` bytes, where `place`(size) says: to a reader that
    // does not ask who sent it.
    virtual Ref<OfferedRead> offer_read(size_t most, const OfferMaker& place);
    // mmap of its descriptor. ENODEV.
    virtual SysResult<void> prepare_map(MapRequest& request);
    // Bytes that SIOCINQ and SIOCOUTQ tell.
    virtual SysResult<size_t> unread() { return Errno(EOPNOTSUPP); }
    virtual SysResult<size_t> unsent() { return size_t{0}; }
    // The last descriptor is gone (or the connection was never accepted). Called once.
    virtual void closed() = 0;

    SysResult<void> set_option(Task& task, int level, int name, std::span<const std::byte> value);
    SysResult<std::vector<std::byte>> get_option(Task& task, int level, int name, size_t room);

    // SO_ERROR: what went wrong behind the application's back. take: and forgets it.
    int take_error() { return error_.exchange(0, std::memory_order_acq_rel); }
    int pending_error() const { return error_.load(std::memory_order_acquire); }
    void set_error(int error) { error_.store(error, std::memory_order_release); }

    // SO_ATTACH_FILTER: what a message must pass to get to this socket, of kinds that have messages. Null: none.
    struct Filter final : RefCounted {
        std::vector<sock_filter> code;
    };
    Ref<Filter> filter() {
        if (!filtered_.load(std::memory_order_acquire)) [[likely]]
            return nullptr;
        std::lock_guard lock(filter_mutex_);
        return filter_;
    }

  protected:
    // Waits on `queue` until `attempt` has an answer. SO_RCVTIMEO or SO_SNDTIMEO (0: none) ends in EAGAIN, and makes
    // interrupted calls end in EINTR, as on Linux.
    // `keep`, if given, owns the queue: the call may be parked as long as `unchanged()`.
    template <typename Attempt, typename Unchanged>
    static auto block(Task& task, const Ref<SocketWaiters>& keep, uint32_t events, bool nonblocking,
                      Nanoseconds timeout, Attempt attempt, Unchanged unchanged) ->
        typename std::invoke_result_t<Attempt>::value_type {
        if (nonblocking || timeout > 0) return block(task, keep->queue, events, nonblocking, timeout, attempt);
        return task.wait_or_park(keep, keep->queue, events, std::nullopt, attempt, unchanged);
    }
    template <typename Attempt>
    static auto block(Task& task, WaitQueue& queue, uint32_t events, bool nonblocking, Nanoseconds timeout,
                      Attempt attempt) -> typename std::invoke_result_t<Attempt>::value_type {
        using Answer = typename std::invoke_result_t<Attempt>::value_type;
        if (auto done = attempt()) return std::move(*done);
        if (nonblocking) return Answer(Errno(EAGAIN));
        Deadline deadline;
        if (timeout > 0) deadline = monotonic_now() + timeout;
        auto answer = task.wait_on(queue, events, deadline, attempt);
        if (answer.ok()) return answer;
        if (answer.error().value == ETIMEDOUT && timeout > 0) return Answer(Errno(EAGAIN));
        if (answer.error().value == kRestartSys && timeout > 0) return Answer(Errno(EINTR));
        return answer;
    }
    void set_flag(SocketFlag flag, bool on) {
        if (on)
            options_.flags.fetch_or(flag, std::memory_order_relaxed);
        else
            options_.flags.fetch_and(~static_cast<uint32_t>(flag), std::memory_order_relaxed);
    }
    void inherit_options(Socket& from);
    // MSG_FASTOPEN, as Linux does it for a peer that has given no cookie: connects, and what is sent follows.
    SysResult<void> connect_to_send(Task& task, SendRequest& request);
    // How many bytes of a message its filter lets in; 0: none of it.
    size_t kept_of(std::span<const std::byte> message);
    // Whether its kind looks at filter(), or Linux's takes one and never asks it (Unix streams).
    virtual bool has_messages() const { return false; }

    const int family_, type_, protocol_;
    const Ref<Network> network_;
    const Ref<SocketWaiters> waiters_;
    SocketOptions options_;

  private:
    SysResult<void> attach_filter(Task& task, std::span<const std::byte> value);
    SysResult<void> detach_filter();

    SmallMutex filter_mutex_;
    Ref<Filter> filter_;                      // guarded by filter_mutex_
    std::atomic<bool> filtered_{false};       // there is one
    std::atomic<bool> filter_locked_{false};  // SO_LOCK_FILTER
    std::atomic<int> error_{0};
    std::atomic<uint64_t> inode_number_{0};
};

class SocketFile final : public File {
  public:
    // `flags`: O_NONBLOCK.
    static Ref<File> create(Task& task, Ref<Socket> socket, int flags);
    SocketFile(Path path, int flags, Ref<Socket> socket)
        : File(std::move(path), O_RDWR | (flags & O_NONBLOCK)), socket_(std::move(socket)) {}
    ~SocketFile() override;

    Socket& socket() const { return *socket_; }
    Socket* as_socket() override { return socket_.get(); }
    bool seekable() const override { return false; }
    SysResult<int64_t> seek(Task&, int64_t, int) override { return Errno(ESPIPE); }
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override;
    uint32_t poll_events(Task*) override { return socket_->poll_events(); }
    SysResult<void> prepare_map(Task&, MapRequest& request) override { return socket_->prepare_map(request); }
    WaitQueue* waiters() override { return &socket_->waiters()->queue; }

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;
    SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t& offset, bool append) override;

  private:
    const Ref<Socket> socket_;
};

// Bytes of an option's value.
template <typename T>
std::vector<std::byte> option_bytes(const T& value) {
    std::vector<std::byte> bytes(sizeof(T));
    memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
}
// EINVAL if `value` is too short for a T.
template <typename T>
SysResult<T> option_value(std::span<const std::byte> value) {
    if (value.size() < sizeof(T)) return Errno(EINVAL);
    T result;
    memcpy(&result, value.data(), sizeof(T));
    return result;
}

}  // namespace casemate::sentry
