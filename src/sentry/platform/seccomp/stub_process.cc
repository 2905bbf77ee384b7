#include "sentry/platform/seccomp/stub_process.h"

#include <linux/audit.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/checked.h"
#include "sentry/platform/seccomp/await_word.h"

namespace casemate::sentry::seccomp {
namespace {

// Newer than the headers we build with (Linux 6.1).
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
constexpr int kAllProtections = PROT_READ | PROT_WRITE | PROT_EXEC;
constexpr int kMapFlags = MAP_SHARED | MAP_PRIVATE | MAP_POPULATE | MAP_ANONYMOUS | MAP_NORESERVE;
// How often 50 ms are waited for a new thread of a stub that may be hostile, on a host that may be busy.
constexpr int kThreadPatience = 200;

bool is_allowed_advice(int advice) {
    switch (advice) {
        case MADV_NORMAL:
        case MADV_RANDOM:
        case MADV_SEQUENTIAL:
        case MADV_WILLNEED:
        case MADV_DONTNEED:
        case MADV_FREE:
        case MADV_REMOVE:
        case MADV_HUGEPAGE:
        case MADV_NOHUGEPAGE:
        case MADV_COLD:
        case MADV_PAGEOUT:
        case MADV_POPULATE_READ:
        case MADV_POPULATE_WRITE:
        case MADV_COLLAPSE:
            return true;
        default:
            return false;
    }
}

// The stub's own pages must stay what they are, whoever errs above.
bool is_valid(const MapOrder& order) {
    const auto end = checked_add(order.address, order.size);
    if (!page_aligned(order.address) || !page_aligned(order.size) || order.size == 0 || !end ||
        *end > STUB_BLOCK_BASE) {
        return false;
    }
    switch (order.kind) {
        case MapOrder::Kind::kMap:
            return (order.protection & ~kAllProtections) == 0 && (order.flags & ~kMapFlags) == 0 &&
                   page_aligned(order.offset) &&
                   ((order.flags & MAP_ANONYMOUS) != 0 || order.fd >= 0 || order.fd == MapOrder::kMemoryFile);
        case MapOrder::Kind::kProtect:
            return (order.protection & ~kAllProtections) == 0;
        case MapOrder::Kind::kAdvise:
            return is_allowed_advice(order.advice);
        case MapOrder::Kind::kUnmap:
            return true;
    }
    return false;
}

BatchEntry compile(const MapOrder& order, int remote_fd) {
    switch (order.kind) {
        case MapOrder::Kind::kMap:
            return {.nr = SYS_mmap,
                    .args = {order.address, order.size, static_cast<uint64_t>(order.protection),
                             static_cast<uint64_t>(order.flags | MAP_FIXED),
                             static_cast<uint64_t>(static_cast<int64_t>(remote_fd)), order.offset}};
        case MapOrder::Kind::kUnmap:
            return {.nr = SYS_munmap, .args = {order.address, order.size}};
        case MapOrder::Kind::kProtect:
            return {.nr = SYS_mprotect, .args = {order.address, order.size, static_cast<uint64_t>(order.protection)}};
        case MapOrder::Kind::kAdvise:
            return {.nr = SYS_madvise, .args = {order.address, order.size, static_cast<uint64_t>(order.advice)}};
    }
    __builtin_unreachable();
}

bool needs_passing(const MapOrder& order) {
    return order.kind == MapOrder::Kind::kMap && (order.flags & MAP_ANONYMOUS) == 0 &&
           order.fd != MapOrder::kMemoryFile;
}

}  // namespace

// Descriptors of ours that lie in the stub for the length of a batch.
struct StubProcess::PassedFds {
    std::array<int, kMaxPassed> local;
    std::array<int, kMaxPassed> remote;
    size_t count = 0;

    // The place of one; -1.
    int find(int fd) const {
        for (size_t i = 0; i < count; ++i)
            if (local[i] == fd) return static_cast<int>(i);
        return -1;
    }
};

SysResult<std::unique_ptr<StubProcess>> StubProcess::create(OwnedProcess process, uint32_t block_index, Block block,
                                                            const FrameLayout& layout, CallPoller& poller) {
    auto listener = TRY(Listener::take(process.pidfd(), STUB_FD_MAP_LISTENER));
    UniqueFd socket(static_cast<int>(syscall(SYS_pidfd_getfd, process.pidfd(), STUB_FD_SENTRY_END, 0)));
    if (!socket) return last_errno();
    auto stub = std::unique_ptr<StubProcess>(
        new StubProcess(std::move(process), block_index, block, layout, std::move(listener), poller));
    seccomp_notif notification;
    if (!stub->map_listener_.receive(notification)) return Errno(EIO);
    if (notification.data.nr != STUB_CALL_MAP) return Errno(EIO);
    stub->map_notification_ = notification.id;
    stub->socket_ = std::move(socket);
    *stub->block_.at<BatchEntry>(STUB_BATCH) = {.nr = SYS_close, .args = {STUB_FD_SENTRY_END}};
    int error = 0;
    std::lock_guard lock(stub->mutex_);
    if (TRY(stub->run_batch_locked(1, error)) != 1) return Errno(EIO);
    return stub;
}

StubProcess::StubProcess(OwnedProcess process, uint32_t block_index, Block block, const FrameLayout& layout,
                         Listener map_listener, CallPoller& poller)
    : process_(std::move(process)),
      block_index_(block_index),
      block_(block),
      layout_(layout),
      map_listener_(std::move(map_listener)),
      poller_(poller) {}

SysResult<size_t> StubProcess::run_batch_locked(size_t count, int& error) {
    seccomp_notif notification;
    if (!map_listener_.answer(map_notification_, static_cast<int64_t>(count)) || !map_listener_.receive(notification)) {
        return Errno(ESRCH);
    }
    map_notification_ = notification.id;
    // Registers of a thread that runs nothing but the stub's code: not the application's, but a broken stub is killed
    // sooner than believed.
    const uint64_t done = notification.data.args[0];
    const int64_t result = static_cast<int64_t>(notification.data.args[1]);
    if (notification.data.nr != STUB_CALL_MAP || done > count) {
        process_.kill();
        return Errno(EIO);
    }
    error = done < count ? static_cast<int>(-result) : 0;
    if (error < 0 || error >= 4096) error = EIO;
    return static_cast<size_t>(done);
}

// One message to the map thread's socket, which its batch receives: no switch to it for that.
SysResult<void> StubProcess::pass_locked(PassedFds& passed, BatchEntry& receipt) {
    const size_t size = passed.count * sizeof(int);
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(passed.local))];
    msghdr message{};
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(size);
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    *header = {.cmsg_len = CMSG_LEN(size), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    std::memcpy(CMSG_DATA(header), passed.local.data(), size);
    if (sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) != 0) return last_errno();
    // Nobody else makes descriptors there: these are the lowest free numbers.
    for (size_t i = 0; i < passed.count; ++i)
        passed.remote[i] = static_cast<int>(STUB_FD_FIRST_THREAD + threads_.size() + i);
    const uint64_t line = Block::area_address(0) + STUB_AREA_HEADER + STUB_PASS;
    msghdr& order = block_.at<PassLine>(line)->header;
    order = msghdr{};
    order.msg_control = reinterpret_cast<void*>(line + offsetof(PassLine, control));
    order.msg_controllen = CMSG_LEN(size);
    receipt = {.nr = SYS_recvmsg, .args = {STUB_FD_SOCKET, line, MSG_DONTWAIT}};
    return {};
}

SysResult<void> StubProcess::apply_some_locked(std::span<const MapOrder>& orders) {
    // What goes in one batch: room for the receipt of descriptors, and for the closes of all.
    PassedFds passed;
    SysResult<void> result;
    size_t taken = 0;
    for (; taken < orders.size() && taken + passed.count + 3 <= kBatchEntries; ++taken) {
        const MapOrder& order = orders[taken];
        if (!is_valid(order)) {
            result = Errno(EINVAL);
            break;
        }
        if (!needs_passing(order) || passed.find(order.fd) >= 0) continue;
        if (passed.count == kMaxPassed) break;
        passed.local[passed.count++] = order.fd;
    }
    auto* const batch = block_.at<BatchEntry>(STUB_BATCH);
    size_t first = 0;
    if (passed.count > 0) {
        auto sent = pass_locked(passed, batch[0]);
        if (!sent.ok()) return sent;
        first = 1;
    }
    for (size_t i = 0; i < taken; ++i) {
        const int remote =
            needs_passing(orders[i]) ? passed.remote[static_cast<size_t>(passed.find(orders[i].fd))] : STUB_FD_MEMORY;
        batch[first + i] = compile(orders[i], remote);
    }
    const size_t behind = first + taken, total = behind + passed.count;
    for (size_t i = 0; i < passed.count; ++i)
        batch[behind + i] = {.nr = SYS_close, .args = {static_cast<uint64_t>(passed.remote[i])}};
    if (total == 0) return result;
    int error = 0;
    const size_t done = TRY(run_batch_locked(total, error));
    if (done < total) {
        // The application may spoil what the receipt is written to. Then there are fewer descriptors than their numbers
        // say, and a map or a close fails: no number may ever stay behind to mean another file.
        bool intact = done >= first && done < behind;
        if (intact && passed.count > 0) {
            std::copy_n(batch + behind, passed.count, batch);
            int failure = 0;
            intact = TRY(run_batch_locked(passed.count, failure)) == passed.count;
        }
        if (!intact) {
            process_.kill();
            return Errno(ESRCH);
        }
        result = Errno(error);
    }
    orders = orders.subspan(taken);
    return result;
}

SysResult<void> StubProcess::apply(std::span<const MapOrder> orders) {
    std::lock_guard lock(mutex_);
    while (!orders.empty()) TRY(apply_some_locked(orders));
    return {};
}

SysResult<HostThread*> StubProcess::take_thread() {
    std::lock_guard lock(mutex_);
    while (!parked_.empty()) {
        HostThread* thread = parked_.back();
        parked_.pop_back();
        if (thread->renew()) {
            ++taken_;
            return thread;
        }
        // Only a dead stub has dead threads, or one whose application broke its own signal handling.
        process_.kill();
        return Errno(ESRCH);
    }
    HostThread* thread = TRY(create_thread_locked());
    ++taken_;
    return thread;
}

SysResult<HostThread*> StubProcess::create_thread_locked() {
    const uint32_t index = static_cast<uint32_t>(threads_.size());
    if (index == kMaxThreads) return Errno(EAGAIN);
    const uint64_t stub_area = Block::area_address(index);
    auto* const area = block_.at<std::byte>(stub_area);
    auto* const header = reinterpret_cast<AreaHeader*>(area + STUB_AREA_HEADER);
    auto* const order = block_.at<CloneOrder>(STUB_ORDERS);
    header->ready.store(0);
    order->header = stub_area + STUB_AREA_HEADER;
    order->frame = stub_area + layout_.frame;
    order->stack_address = stub_area;
    order->stack_flags = 0;
    order->stack_size = STUB_AREA_HEADER;
    order->sequence.fetch_add(1, std::memory_order_release);
    wake_word(&order->sequence);
    // The word is the application's to forge: only the listener counts, and a word that never comes is no reason to
    // hang.
    SysResult<Listener> listener = Errno(EAGAIN);
    const int remote_fd = static_cast<int>(STUB_FD_FIRST_THREAD + index);
    int patience = kThreadPatience;
    const auto ready = await_word(header->ready, [&] {
        listener = Listener::take(process_.pidfd(), remote_fd);
        return listener.ok() || process_.is_dead() || --patience == 0;
    });
    if (ready && *ready < 0 && *ready > -4096) return Errno(-*ready);
    if (ready && !listener.ok()) listener = Listener::take(process_.pidfd(), remote_fd);
    if (!listener.ok()) {
        process_.kill();
        return listener.error();
    }
    auto thread = std::make_unique<HostThread>(std::move(*listener), process_.pidfd(), process_.pid(), layout_, area,
                                               stub_area, poller_, sites_);
    if (!thread->start()) {
        process_.kill();
        return Errno(EIO);
    }
    threads_.push_back(std::move(thread));
    return threads_.back().get();
}

void StubProcess::park_thread(HostThread* thread) {
    std::lock_guard lock(mutex_);
    parked_.push_back(thread);
    --taken_;
}

SysResult<size_t> StubProcess::transfer(bool write, uint64_t address, std::byte* local, size_t size) {
    const auto end = checked_add(address, size);
    if (!end || address >= STUB_BLOCK_BASE) return Errno(EFAULT);
    if (*end > STUB_BLOCK_BASE) size = STUB_BLOCK_BASE - address;
    const iovec ours{local, size};
    const iovec theirs{reinterpret_cast<void*>(address), size};
    const ssize_t copied =
        write ? process_vm_writev(pid(), &ours, 1, &theirs, 1, 0) : process_vm_readv(pid(), &ours, 1, &theirs, 1, 0);
    if (copied < 0) return last_errno();
    if (copied == 0 && size != 0) return Errno(EFAULT);
    return static_cast<size_t>(copied);
}

bool StubProcess::clear() {
    sites_.clear();
    const MapOrder everything{.kind = MapOrder::Kind::kUnmap, .address = 0, .size = STUB_BLOCK_BASE};
    return apply({&everything, 1}).ok();
}

}  // namespace casemate::sentry::seccomp
