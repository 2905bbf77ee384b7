#include "sentry/fs/host/client.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <bit>
#include <cstring>

#include "base/scope_exit.h"
#include "linux/event_fds.h"
#include "linux/unix_message.h"

namespace casemate::sentry {

using fileserver::NodeId;
using fileserver::Op;
using fileserver::PostRing;
using fileserver::Reply;
using fileserver::Request;
using fileserver::SharedArea;
using fileserver::Slot;

namespace {

// The descriptor of a message, if it brought one.
UniqueFd descriptor_of(const msghdr& message) {
    const cmsghdr* c = CMSG_FIRSTHDR(&message);
    if (c == nullptr || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
        c->cmsg_len != CMSG_LEN(sizeof(int)))
        return UniqueFd();
    int fd;
    std::memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return UniqueFd(fd);
}

}  // namespace

HostFiles::HostFiles(UniqueFd socket) : socket_(std::move(socket)), buffer_(fileserver::kMaxMessage) {}

SysResult<void> HostFiles::prepare_sharing() {
    UniqueFd memory = TRY(linux::create_memfd("casemate-files"));
    if (::ftruncate(memory.get(), sizeof(SharedArea)) != 0) return last_errno();
    if (::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return last_errno();
    map_ = TRY(UniqueMap::create(sizeof(SharedArea), PROT_READ | PROT_WRITE, MAP_SHARED, memory.get()));
    memory_ = std::move(memory);
    return {};
}

SysResult<void> HostFiles::share(UniqueFd listener) {
    const uint32_t hello = fileserver::kHello;
    TRY(linux::send_message(socket_.get(), std::string_view(reinterpret_cast<const char*>(&hello), sizeof(hello)),
                            {memory_.get(), listener.get()}));
    memory_.reset();
    buffer_ = {};
    shared_ = true;
    return {};
}

// SAFETY: a mapping of sizeof(SharedArea) bytes whose file cannot shrink; it begins as zeros, which is what its members
// begin as.
SharedArea& HostFiles::area() const { return *reinterpret_cast<SharedArea*>(map_.data()); }

SysResult<size_t> HostFiles::measure(Request& request, const Parts& parts) {
    size_t size = sizeof(Request) + parts.path.size() + parts.path2.size() + parts.data.size();
    if (size > fileserver::kMaxMessage) return Errno(E2BIG);
    request.path_size = static_cast<uint32_t>(parts.path.size());
    request.path2_size = static_cast<uint32_t>(parts.path2.size());
    request.data_size = static_cast<uint32_t>(parts.data.size());
    return size;
}

bool HostFiles::ring(uint64_t number) {
    // Interrupted, it may be done or not; without a server there is no such call.
    return ::syscall(fileserver::kRingCall, number) >= 0 || errno == EINTR;
}

// --- Through shared memory ---

SysResult<UniqueFd> HostFiles::take_descriptor(uint32_t tag) {
    std::lock_guard lock(descriptors_mutex_);
    for (size_t i = 0; i < descriptors_.size(); ++i)
        if (descriptors_[i].first == tag) {
            UniqueFd fd = std::move(descriptors_[i].second);
            descriptors_.erase(descriptors_.begin() + static_cast<ptrdiff_t>(i));
            return fd;
        }
    // It was sent before the reply was there: it lies in the socket, perhaps behind those of others.
    while (descriptors_.size() < SharedArea::kSlots) {
        uint32_t whose = 0;
        iovec piece{&whose, sizeof(whose)};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        ssize_t n = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n != sizeof(whose)) break;
        UniqueFd fd = descriptor_of(message);
        if (whose == tag) return fd;
        descriptors_.emplace_back(whose, std::move(fd));
    }
    return Errno(EIO);
}

SysResult<void> HostFiles::exchange(Slot& slot, uint64_t number) {
    slot.state.store(Slot::kRequest, std::memory_order_release);
    while (slot.state.load(std::memory_order_acquire) != Slot::kDone)
        if (!ring(number)) return Errno(EIO);
    return {};
}

SysResult<HostFiles::Answer> HostFiles::call_shared(Request& request, const Parts& parts) {
    size_t size = TRY(measure(request, parts));
    slots_.acquire();
    uint32_t taken = slots_taken_.load(std::memory_order_relaxed), bit;
    do bit = ~taken & (taken + 1);
    while (!slots_taken_.compare_exchange_weak(taken, taken | bit, std::memory_order_acquire));
    auto give_back = ScopeExit([&] {
        slots_taken_.fetch_and(~bit, std::memory_order_release);
        slots_.release();
    });
    const auto number = static_cast<uint64_t>(std::countr_zero(bit));
    Slot& slot = area().slots[number];
    request.tag = tags_.fetch_add(1, std::memory_order_relaxed);
    char* at = slot.message;
    auto put = [&](const void* bytes, size_t count) {
        std::memcpy(at, bytes, count);
        at += count;
    };
    put(&request, sizeof(request));
    put(parts.path.data(), parts.path.size());
    put(parts.path2.data(), parts.path2.size());
    put(parts.data.data(), parts.data.size());
    slot.size.store(static_cast<uint32_t>(size), std::memory_order_relaxed);
    uint32_t forgets = 0;
    if (forgets_waiting_.load(std::memory_order_relaxed) != 0) {
        std::lock_guard lock(mutex_);
        for (; forgets < Slot::kMaxForgets && !forgets_.empty(); forgets_.pop_back())
            slot.forgotten[forgets++] = forgets_.back();
        forgets_waiting_.store(forgets_.size(), std::memory_order_relaxed);
    }
    slot.forgets.store(forgets, std::memory_order_relaxed);
    uint64_t posted = posted_.load(std::memory_order_acquire);
    TRY(exchange(slot, number));
    size_t answered = slot.size.load(std::memory_order_relaxed);
    if (answered > fileserver::kMaxMessage) return Errno(EIO);
    bool descriptor = slot.descriptor.load(std::memory_order_relaxed) != 0;
    UniqueFd fd;
    if (descriptor) fd = TRY(take_descriptor(request.tag));
    Answer answer = TRY(take_reply(slot.message, answered, request.tag, posted));
    answer.fd = std::move(fd);
    return answer;
}

SysResult<HostFiles::Answer> HostFiles::take_reply(const char* bytes, size_t size, uint32_t tag, uint64_t posted) {
    Answer answer;
    if (size < sizeof(Reply)) return Errno(EIO);
    std::memcpy(&answer.reply, bytes, sizeof(Reply));
    if (answer.reply.tag != tag || answer.reply.data_size != size - sizeof(Reply)) return Errno(EIO);
    // Of several at once the one that saw more posts counts.
    uint64_t done = done_.load(std::memory_order_relaxed);
    while (done < posted && !done_.compare_exchange_weak(done, posted, std::memory_order_release)) continue;
    round_trips_.fetch_add(1, std::memory_order_relaxed);
    if (answer.reply.error != 0) {
        int error = answer.reply.error;
        return Errno(error > 0 && error < 512 ? error : EIO);
    }
    answer.number = posted + 1;
    answer.data.assign(bytes + sizeof(Reply), size - sizeof(Reply));
    return answer;
}

void HostFiles::put_post(uint64_t at, const void* bytes, size_t size) {
    size_t place = at % PostRing::kBytes, first = std::min<size_t>(size, PostRing::kBytes - place);
    std::memcpy(area().posts.bytes + place, bytes, first);
    std::memcpy(area().posts.bytes, static_cast<const char*>(bytes) + first, size - first);
}

void HostFiles::post_locked(Request& request, const Parts& parts) {
    auto measured = measure(request, parts);
    if (!measured.ok()) return;
    auto size = static_cast<uint32_t>(*measured);
    if (!shared_) {
        (void)send_locked(request, parts);
        return;
    }
    PostRing& posts = area().posts;
    uint64_t at = posts.written.load(std::memory_order_relaxed);
    uint64_t end = at + sizeof(size) + size;
    while (end - posts.read.load(std::memory_order_acquire) > PostRing::kBytes)
        if (!ring(fileserver::kRingPosts)) return;
    auto put = [&](const void* bytes, size_t count) {
        put_post(at, bytes, count);
        at += count;
    };
    put(&size, sizeof(size));
    put(&request, sizeof(request));
    put(parts.path.data(), parts.path.size());
    put(parts.path2.data(), parts.path2.size());
    put(parts.data.data(), parts.data.size());
    posts.written.store(end, std::memory_order_seq_cst);
    if (posts.asleep.exchange(0, std::memory_order_seq_cst) != 0)
        (void)linux::send_message(socket_.get(), std::string_view("!"));
}

// --- Either way ---

void HostFiles::send_forgets_locked() {
    if (forgets_.empty()) return;
    Request request;
    request.op = static_cast<uint16_t>(Op::kForget);
    request.flags = fileserver::kFlagNoReply;
    post_locked(request, Parts{{},
                               {},
                               std::string_view(reinterpret_cast<const char*>(forgets_.data()),
                                                forgets_.size() * sizeof(NodeId))});
    forgets_.clear();
    forgets_waiting_.store(0, std::memory_order_relaxed);
}

void HostFiles::forget(NodeId node) {
    if (node == 0) return;
    std::lock_guard lock(mutex_);
    forgets_.push_back(node);
    forgets_waiting_.store(forgets_.size(), std::memory_order_relaxed);
    if (forgets_.size() >= 64) send_forgets_locked();
}

uint64_t HostFiles::post(Request& request, std::string_view path, std::string_view path2, std::string_view data) {
    std::lock_guard lock(mutex_);
    request.flags |= fileserver::kFlagNoReply;
    post_locked(request, Parts{path, path2, data});
    return posted_.fetch_add(1, std::memory_order_release) + 1;
}

void HostFiles::flush() {
    if (!shared_) return;
    PostRing& posts = area().posts;
    uint64_t until = posts.written.load(std::memory_order_acquire);
    while (static_cast<int64_t>(until - posts.read.load(std::memory_order_acquire)) > 0)
        if (!ring(fileserver::kRingPosts)) return;
}

SysResult<HostFiles::Answer> HostFiles::call(Request& request, std::string_view path, std::string_view path2,
                                             std::string_view data) {
    Parts parts{path, path2, data};
    if (request.op < kKinds) kinds_[request.op].fetch_add(1, std::memory_order_relaxed);
    return shared_ ? call_shared(request, parts) : call_by_socket(request, parts);
}

std::string HostFiles::round_trips_by_kind() const {
    constexpr std::string_view kNames[] = {"",
                                           "attach",
                                           "lookup",
                                           "open",
                                           "create",
                                           "mkdir",
                                           "mknod",
                                           "symlink",
                                           "link",
                                           "unlink",
                                           "rmdir",
                                           "rename",
                                           "readlink",
                                           "list",
                                           "attributes",
                                           "set attributes",
                                           "statfs",
                                           "get xattr",
                                           "set xattr",
                                           "remove xattr",
                                           "list xattrs",
                                           "sync",
                                           "forget",
                                           "create unnamed",
                                           "attributes of several"};
    std::string text;
    for (size_t i = 0; i < std::size(kNames); ++i) {
        uint64_t count = kinds_[i].load(std::memory_order_relaxed);
        if (count == 0) continue;
        if (!text.empty()) text += ", ";
        text.append(kNames[i]).append(" ").append(std::to_string(count));
    }
    return text;
}

// --- Over the socket ---

SysResult<void> HostFiles::send_locked(Request& request, const Parts& parts) {
    TRY(measure(request, parts));
    request.tag = tags_.fetch_add(1, std::memory_order_relaxed);
    iovec pieces[4] = {{&request, sizeof(request)},
                       {const_cast<char*>(parts.path.data()), parts.path.size()},
                       {const_cast<char*>(parts.path2.data()), parts.path2.size()},
                       {const_cast<char*>(parts.data.data()), parts.data.size()}};
    msghdr message{};
    message.msg_iov = pieces;
    message.msg_iovlen = 4;
    while (::sendmsg(socket_.get(), &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR) return Errno(EIO);
    return {};
}

SysResult<HostFiles::Answer> HostFiles::call_by_socket(Request& request, const Parts& parts) {
    std::lock_guard lock(mutex_);
    send_forgets_locked();
    TRY(send_locked(request, parts));
    uint64_t posted = posted_.load(std::memory_order_relaxed);
    iovec piece{buffer_.data(), buffer_.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    ssize_t n;
    while ((n = receiver_.receive(socket_.get(), message, MSG_CMSG_CLOEXEC)) < 0)
        if (errno != EINTR) return Errno(EIO);
    UniqueFd fd = descriptor_of(message);
    Answer answer = TRY(take_reply(buffer_.data(), static_cast<size_t>(n), request.tag, posted));
    answer.fd = std::move(fd);
    return answer;
}

}  // namespace casemate::sentry
