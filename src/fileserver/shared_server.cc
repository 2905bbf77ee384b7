#include "fileserver/shared_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "fileserver/connection.h"
#include "linux/seccomp_fd.h"

namespace casemate::fileserver {

namespace {

// How long posts may lie there while nobody asks anything.
constexpr int kPostDelayMs = 4;

}  // namespace

SysResult<SharedServer> SharedServer::create(UniqueFd memory, UniqueFd listener) {
    // Were it to shrink, touching it would end us.
    int seals = ::fcntl(memory.get(), F_GET_SEALS);
    struct stat info;
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || ::fstat(memory.get(), &info) != 0 ||
        info.st_size < static_cast<off_t>(sizeof(SharedArea)))
        return Errno(EINVAL);
    auto set = linux::set_synchronous_wake_up(listener.get());
    if (!set.ok()) return Errno(EINVAL);
    UniqueMap map = TRY(UniqueMap::create(sizeof(SharedArea), PROT_READ | PROT_WRITE, MAP_SHARED, memory.get()));
    return SharedServer(std::move(map), std::move(listener));
}

SharedServer::SharedServer(UniqueMap area, UniqueFd listener)
    : map_(std::move(area)), listener_(std::move(listener)), buffer_(kMaxMessage) {}

// SAFETY: a mapping of sizeof(SharedArea) bytes that cannot shrink; the other side's writes are expected.
SharedArea& SharedServer::area() const { return *reinterpret_cast<SharedArea*>(map_.data()); }

void SharedServer::copy_posts(uint64_t at, char* into, size_t size) const {
    size_t place = at % PostRing::kBytes, first = std::min<size_t>(size, PostRing::kBytes - place);
    std::memcpy(into, area().posts.bytes + place, first);
    std::memcpy(into + first, area().posts.bytes, size - first);
}

SysResult<void> SharedServer::work_off_posts(Connection& connection) {
    PostRing& ring = area().posts;
    uint64_t end = ring.written.load(std::memory_order_seq_cst);
    if (end - posts_read_ > PostRing::kBytes) return Errno(EPROTO);
    while (posts_read_ != end) {
        uint32_t size = 0;
        if (end - posts_read_ < sizeof(size)) return Errno(EPROTO);
        copy_posts(posts_read_, reinterpret_cast<char*>(&size), sizeof(size));
        if (size > buffer_.size() || size > end - posts_read_ - sizeof(size)) return Errno(EPROTO);
        copy_posts(posts_read_ + sizeof(size), buffer_.data(), size);
        posts_read_ += sizeof(size) + size;
        if (!connection.handle(std::string_view(buffer_.data(), size))) return Errno(EPROTO);
        ring.read.store(posts_read_, std::memory_order_release);
    }
    return {};
}

SysResult<void> SharedServer::work_off(Connection& connection, int socket, Slot& slot) {
    constexpr auto kOnce = std::memory_order_relaxed;
    for (uint32_t i = 0, count = std::min(slot.forgets.load(kOnce), Slot::kMaxForgets); i < count; ++i)
        connection.forget(slot.forgotten[i]);
    uint32_t size = slot.size.load(kOnce);
    if (size > kMaxMessage) return Errno(EPROTO);
    std::memcpy(buffer_.data(), slot.message, size);
    if (!connection.handle(std::string_view(buffer_.data(), size))) return Errno(EPROTO);
    std::string_view reply = connection.reply();
    std::memcpy(slot.message, reply.data(), reply.size());
    slot.size.store(static_cast<uint32_t>(reply.size()), kOnce);
    slot.descriptor.store(connection.has_descriptor(), kOnce);
    if (connection.has_descriptor()) TRY(connection.send_descriptor(socket));
    slot.state.store(Slot::kDone, std::memory_order_release);
    return {};
}

SysResult<void> SharedServer::answer_ring(Connection& connection, int socket) {
    seccomp_notif ring;
    auto received = linux::receive_notification(listener_.get(), ring);
    if (!received.ok()) {
        // The thread that rang was interrupted before we looked: it will ring again.
        if (received.error() == Errno(ENOENT) || received.error() == Errno(EINTR)) return {};
        return received;
    }
    TRY(work_off_posts(connection));
    uint64_t number = ring.data.args[0];
    if (number < SharedArea::kSlots) {
        Slot& slot = area().slots[number];
        // Rung again after an interruption, it may be done.
        if (slot.state.load(std::memory_order_acquire) == Slot::kRequest) TRY(work_off(connection, socket, slot));
    }
    seccomp_notif_resp response{};
    response.id = ring.id;
    (void)linux::answer_notification(listener_.get(), response);
    return {};
}

SysResult<void> SharedServer::serve(Connection& connection, int socket) {
    PostRing& posts = area().posts;
    bool awake = true;
    while (true) {
        pollfd waits[2] = {{listener_.get(), POLLIN, 0}, {socket, POLLIN, 0}};
        int ready = ::poll(waits, 2, awake ? kPostDelayMs : -1);
        if (ready < 0 && errno != EINTR) return last_errno();
        if (ready <= 0) {
            // Who posts from now on wakes us; what came before is looked for once more.
            posts.asleep.store(1, std::memory_order_seq_cst);
            awake = false;
            TRY(work_off_posts(connection));
            continue;
        }
        if (!awake) posts.asleep.store(0, std::memory_order_relaxed);
        awake = true;
        if (waits[0].revents & POLLIN) TRY(answer_ring(connection, socket));
        if (waits[1].revents != 0) {
            char bytes[64];
            ssize_t n = ::recv(socket, bytes, sizeof(bytes), MSG_DONTWAIT);
            TRY(work_off_posts(connection));
            if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return {};
        }
        if (waits[0].revents & (POLLHUP | POLLERR)) return work_off_posts(connection);
    }
}

}  // namespace casemate::fileserver
