#include "fileserver/shared_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "fileserver/connection.h"
#include "linux/seccomp_fd.h"

namespace casemate::fileserver {

namespace {

// How long posts may lie there while nobody asks anything.
constexpr int kPostDelayMs = 4;

}  // namespace

SysResult<std::shared_ptr<SharedServer>> SharedServer::create(UniqueFd memory, UniqueFd listener) {
    // Were it to shrink, touching it would end us.
    int seals = ::fcntl(memory.get(), F_GET_SEALS);
    struct stat info;
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || ::fstat(memory.get(), &info) != 0 ||
        info.st_size < static_cast<off_t>(sizeof(SharedArea)))
        return Errno(EINVAL);
    auto set = linux::set_synchronous_wake_up(listener.get());
    if (!set.ok()) return Errno(EINVAL);
    UniqueMap map = TRY(UniqueMap::create(sizeof(SharedArea), PROT_READ | PROT_WRITE, MAP_SHARED, memory.get()));
    return std::shared_ptr<SharedServer>(new SharedServer(std::move(map), std::move(listener)));
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

SysResult<void> SharedServer::work_off_posts_locked(Connection& connection) {
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

SysResult<void> SharedServer::work_off_locked(Connection& connection, int socket, Slot& slot) {
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

SysResult<void> SharedServer::answer_rings(Connection& connection, int socket) {
    while (true) {
        seccomp_notif ring;
        auto received = linux::receive_notification(listener_.get(), ring);
        if (!received.ok()) {
            if (received.error() != Errno(ENOENT) && received.error() != Errno(EINTR)) return received;
            // The thread that rang was interrupted before we looked, and will ring again; or there is none any more.
            pollfd look{listener_.get(), POLLIN, 0};
            if (::poll(&look, 1, 0) > 0 && (look.revents & (POLLHUP | POLLERR)) != 0) return {};
            continue;
        }
        rung_.store(true, std::memory_order_relaxed);
        {
            std::lock_guard lock(mutex_);
            TRY(work_off_posts_locked(connection));
            const uint64_t number = ring.data.args[0];
            if (number < SharedArea::kSlots) {
                Slot& slot = area().slots[number];
                // Rung again after an interruption, it may be done.
                if (slot.state.load(std::memory_order_acquire) == Slot::kRequest)
                    TRY(work_off_locked(connection, socket, slot));
            }
        }
        seccomp_notif_resp response{};
        response.id = ring.id;
        (void)linux::answer_notification(listener_.get(), response);
    }
}

SysResult<void> SharedServer::serve(Connection& connection, int socket, SpareThread& rings) {
    rings.run([self = shared_from_this(), &connection, socket] {
        auto answered = self->answer_rings(connection, socket);
        if (answered.ok() || answered.error() != Errno(EPROTO)) return;  // nobody is there any more
        log::error("the guest kernel broke the file protocol");
        ::_exit(1);
    });
    PostRing& posts = area().posts;
    bool awake = true;
    while (true) {
        pollfd wait{socket, POLLIN, 0};
        const int ready = ::poll(&wait, 1, awake ? kPostDelayMs : -1);
        if (ready < 0 && errno != EINTR) return last_errno();
        char bytes[64];
        const ssize_t n = ready > 0 ? ::recv(socket, bytes, sizeof(bytes), MSG_DONTWAIT) : 1;
        const bool ended = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
        // Who posts while we sleep wakes us; what came before is looked for once more.
        if (ready > 0)
            awake = true;
        else if (!rung_.exchange(false, std::memory_order_relaxed))
            awake = false;
        posts.asleep.store(!awake, std::memory_order_seq_cst);
        std::lock_guard lock(mutex_);
        TRY(work_off_posts_locked(connection));
        if (ended) return {};
    }
}

}  // namespace casemate::fileserver
