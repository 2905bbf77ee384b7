// HostInode: reading from a mapping of the file in the sentry, which costs a copy where a system call costs the host as
// much again (overlayfs asks itself what it is allowed for each).
//
// Only files of exclusive trees that were read or written as much as they are long: their pages are in the host's cache
// and are worth a map. Nobody but this process changes such a file's size, so it is known how far the map may be read;
// should a page be missing all the same, the copy ends there (mm/guarded_copy.h) and the descriptor tells why.
#include <algorithm>

#include "sentry/fs/host/host_fs.h"

namespace casemate::sentry {

namespace {

constexpr uint64_t kLeastTraffic = 256 << 10;
constexpr uint64_t kLeastMap = 1 << 20, kMostMap = 1 << 30;

}  // namespace

bool is_whole(const struct stat& info) { return info.st_blocks * 512 >= info.st_size; }

void HostInode::was_read(size_t bytes) {
    if (!settled_.load(std::memory_order_relaxed)) moved_.store(true, std::memory_order_release);
    traffic_.fetch_add(bytes, std::memory_order_relaxed);
}

void HostInode::was_written(size_t bytes) {
    traffic_.fetch_add(bytes, std::memory_order_relaxed);
    moved_.store(true, std::memory_order_release);
    may_have_grown_.store(true, std::memory_order_release);
    unread_.store(true, std::memory_order_release);
    end_changed();
}

Ref<FileEnd> HostInode::steady_end(uint64_t& version) {
    if (host().shared()) return nullptr;
    Ref<FileEnd> end;
    {
        std::lock_guard lock(mutex_);
        if (!kept_end_) {
            kept_end_ = make_ref<FileEnd>();
            end_.store(kept_end_.get(), std::memory_order_seq_cst);
        }
        end = kept_end_;
    }
    version = end->version();
    // After the version: who writes unseen says so before, and changes it.
    if (written_unseen_.load(std::memory_order_seq_cst)) return nullptr;
    return end;
}

void HostInode::was_cut() {
    Ref<HostWindow> window;
    std::lock_guard lock(mutex_);
    window = take_window_locked();
    window_wanted_ = traffic_.load(std::memory_order_relaxed) + kLeastTraffic;
    moved_.store(true, std::memory_order_release);
    may_have_grown_.store(true, std::memory_order_release);
    unread_.store(true, std::memory_order_release);
    end_changed();
}

Ref<HostWindow> HostInode::take_window_locked() {
    window_end_ = 0;
    return std::move(window_);
}

// A map with room for as much again; null: not worth it, or not to be had.
Ref<HostWindow> HostInode::make_window_locked() {
    const uint64_t traffic = traffic_.load(std::memory_order_relaxed);
    window_wanted_ = std::max(kLeastTraffic, traffic * 2);
    const Ref<HostFd>& fd = write_fd_ ? write_fd_ : read_fd_;
    struct stat info;
    if (!fd || no_window_ || ::fstat(fd->fd.get(), &info) != 0) return nullptr;
    const auto size = static_cast<uint64_t>(info.st_size);
    if (size > kMostMap || !is_whole(info)) return nullptr;
    if (traffic < size) {
        window_wanted_ = size;
        return nullptr;
    }
    auto map = UniqueMap::create(std::max(kLeastMap, size * 2), PROT_READ, MAP_SHARED, fd->fd.get());
    if (!map.ok()) return nullptr;
    window_end_ = size;
    may_have_grown_.store(false, std::memory_order_relaxed);
    return make_ref<HostWindow>(map.take_value());
}

size_t HostInode::read_mapped(IoBuffer& into, int64_t offset) {
    if (host().shared() || traffic_.load(std::memory_order_relaxed) < kLeastTraffic) return 0;
    // The first reading after a change shows in the time of access, which only the host sets.
    if (unread_.load(std::memory_order_acquire) && unread_.exchange(false, std::memory_order_acq_rel)) return 0;
    const uint64_t size = into.remaining(), begin = static_cast<uint64_t>(offset), end = begin + size;
    Ref<HostWindow> window, outgrown;
    {
        std::lock_guard lock(mutex_);
        if (!window_) {
            if (traffic_.load(std::memory_order_relaxed) < window_wanted_) return 0;
            window_ = make_window_locked();
            if (!window_) return 0;
        }
        if (end > window_end_) {
            // The end of the file, as far as was heard; what is behind it the descriptor knows.
            const Ref<HostFd>& fd = write_fd_ ? write_fd_ : read_fd_;
            struct stat info;
            if (!fd || !may_have_grown_.exchange(false, std::memory_order_acq_rel) || ::fstat(fd->fd.get(), &info) != 0)
                return 0;
            window_end_ = static_cast<uint64_t>(info.st_size);
            if (window_end_ > window_->map.size() || !is_whole(info)) {
                outgrown = take_window_locked();
                return 0;
            }
            if (end > window_end_) return 0;
        }
        window = window_;
    }
    auto copied = into.copy_to(window->map.data() + begin, size);
    return copied.ok() ? *copied : 0;
}

}  // namespace casemate::sentry
