// Two regions of one file. Small pieces (below 2 MiB) come from arenas of 2 MiB that the sentry touches once (but for
// the first), so that the host has a huge page there and an application's first touch only maps a present page; they
// are zeroed when freed and recycled. Large pieces are sparse: nothing is touched before the application does, and
// freeing punches a hole. Figures: docs/decisions/0003-memory.md.
//
// A store has the same regions; nothing of it is touched ahead, and what is freed is zeroed only where that is less
// than to punch a hole.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/checked.h"
#include "base/unique_map.h"
#include "sentry/mm/guarded_copy.h"
#include "sentry/mm/memory_file.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kHuge = uint64_t{2} << 20;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kFileSize = uint64_t{1} << 40;
#else
constexpr uint64_t kFileSize = uint64_t{1} << 45;
#endif
constexpr uint64_t kArenaRegion = uint64_t{1} << 38;  // the first 256 GiB of the file hold arenas
constexpr uint64_t kArenaPages = kHuge / kPageSize;
constexpr size_t kKeptArenas = 4;  // wholly free arenas that stay touched
// No file system's largest file is smaller, and a pod with hundreds of containers still has addresses for a store each.
constexpr uint64_t kStoreSize = uint64_t{1} << 39;
constexpr uint64_t kZeroed = 64 << 10;  // of a store: more is punched

alignas(kPageSize) constexpr std::byte kZeros[kZeroed] = {};

bool write_all(int fd, uint64_t offset, const std::byte* from, size_t size) {
    while (size > 0) {
        ssize_t n = ::pwrite(fd, from, size, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        from += n;
        offset += static_cast<uint64_t>(n);
        size -= static_cast<size_t>(n);
    }
    return true;
}

// 512 pages, one bit each; set = in use.
class Arena {
  public:
    explicit Arena(uint64_t offset) : offset_(offset) {}
    uint64_t offset() const { return offset_; }
    uint32_t used() const { return used_; }

    // A run of `pages` free pages, first fit; -1 if there is none.
    int take(uint32_t pages) {
        if (pages > kArenaPages - used_) return -1;
        uint32_t run = 0;
        for (uint32_t page = first_free_; page < kArenaPages; page++) {
            if (run == 0 && page % 64 == 0 && bits_[page / 64] == ~uint64_t{0}) {
                page += 63;
                continue;
            }
            run = test(page) ? 0 : run + 1;
            if (run == pages) {
                uint32_t start = page + 1 - pages;
                for (uint32_t i = start; i <= page; i++) bits_[i / 64] |= uint64_t{1} << (i % 64);
                used_ += pages;
                if (start == first_free_) first_free_ = page + 1;
                return static_cast<int>(start);
            }
        }
        return -1;
    }
    void give_back(uint32_t start, uint32_t pages) {
        for (uint32_t i = start; i < start + pages; i++) bits_[i / 64] &= ~(uint64_t{1} << (i % 64));
        used_ -= pages;
        if (start < first_free_) first_free_ = start;
    }

  private:
    bool test(uint32_t page) const { return bits_[page / 64] >> (page % 64) & 1; }
    uint64_t offset_;
    std::array<uint64_t, kArenaPages / 64> bits_{};
    uint32_t used_ = 0;
    uint32_t first_free_ = 0;
};

// Free extents of the large region, coalesced; first fit.
class Extents {
  public:
    Extents(uint64_t start, uint64_t end) { free_[start] = end - start; }

    std::optional<uint64_t> take(uint64_t size, uint64_t alignment_offset) {
        for (auto it = free_.begin(); it != free_.end(); ++it) {
            auto [start, length] = *it;
            uint64_t at = (start & ~(kHuge - 1)) + alignment_offset;
            if (at < start) at += kHuge;
            if (at + size > start + length) continue;
            free_.erase(it);
            if (at > start) free_[start] = at - start;
            if (start + length > at + size) free_[at + size] = start + length - (at + size);
            return at;
        }
        return std::nullopt;
    }
    void give_back(uint64_t start, uint64_t size) {
        auto next = free_.lower_bound(start);
        if (next != free_.end() && start + size == next->first) {
            size += next->second;
            next = free_.erase(next);
        }
        if (next != free_.begin()) {
            auto previous = std::prev(next);
            if (previous->first + previous->second == start) {
                previous->second += size;
                return;
            }
        }
        free_[start] = size;
    }

  private:
    std::map<uint64_t, uint64_t> free_;
};

}  // namespace

class MemoryFile::State {
  public:
    State(UniqueFd file, UniqueMap map, std::byte* base, uint64_t size, uint64_t limit, Kind kind)
        : file_(std::move(file)),
          map_(std::move(map)),
          base_(base),
          size_(size),
          kind_(kind),
          limit_(limit),
          large_(kArenaRegion, size) {}

    UniqueFd file_;
    UniqueMap map_;
    std::byte* base_;
    const uint64_t size_;
    const Kind kind_;
    std::atomic<uint64_t> limit_;

    bool zero(uint64_t offset, size_t size) {
        if (kind_ == Kind::kMemory) return guarded_zero(base_ + offset, size);
        if (size > kZeroed && punch({offset, size})) return true;
        for (size_t part; size > 0; offset += part, size -= part) {
            part = std::min<uint64_t>(size, kZeroed);
            if (!write_all(file_.get(), offset, kZeros, part)) return false;
        }
        return true;
    }

    // Asks the host how much is in use; far below the limit only now and then, which small pieces cannot outrun.
    bool over(uint64_t limit, uint64_t size, const MemoryFile& file) {
        constexpr uint64_t kUnasked = 1 << 20, kFar = 64 << 20;
        uint64_t unasked = unasked_.fetch_add(size, std::memory_order_relaxed) + size;
        uint64_t used = last_used_.load(std::memory_order_relaxed);
        if (unasked < kUnasked && used < limit && limit - used > kFar) return false;
        used = file.bytes_used();
        unasked_.store(0, std::memory_order_relaxed);
        last_used_.store(used, std::memory_order_relaxed);
        return used >= limit;
    }

    SysResult<FileRange> allocate(uint64_t size, uint64_t align_hint) {
        std::lock_guard lock(mutex_);
        if (size < kHuge) return allocate_small(size);
        auto at = large_.take(size, align_hint & (kHuge - 1));
        if (!at) return Errno(ENOMEM);
        return FileRange{*at, size};
    }

    void free(FileRange range, uint64_t touched) {
        FileRange used{range.offset, std::min(range.size, page_up(std::min(touched, range.size)))};
        if (range.offset >= kArenaRegion) {
            // What a disk does not give back stays taken: nobody may read there what another wrote.
            if (used.size > 0 && !punch(used) && kind_ == Kind::kStore && !zero(used.offset, used.size)) return;
            std::lock_guard lock(mutex_);
            large_.give_back(range.offset, range.size);
            return;
        }
        if (!clear(used) && kind_ == Kind::kStore) return;
        std::lock_guard lock(mutex_);
        for_each_arena(range, [&](Arena& arena, uint32_t start, uint32_t pages) {
            bool was_full_free = arena.used() == pages;
            arena.give_back(start, pages);
            if (!was_full_free) return;
            if (free_arenas_ >= kKeptArenas)
                punch({arena.offset(), kHuge});
            else
                free_arenas_++;
        });
    }

    void decommit(FileRange range) {
        if (range.offset >= kArenaRegion)
            punch(range);
        else
            clear(range);
    }

  private:
    SysResult<FileRange> allocate_small(uint64_t size) {
        auto pages = static_cast<uint32_t>(size / kPageSize);
        for (size_t i = 0; i < arenas_.size(); i++) {
            size_t index = (hint_ + i) % arenas_.size();
            Arena& arena = *arenas_[index];
            bool was_free = arena.used() == 0;
            int start = arena.take(pages);
            if (start < 0) continue;
            if (was_free && free_arenas_ > 0) free_arenas_--;
            hint_ = index;
            return FileRange{arena.offset() + static_cast<uint64_t>(start) * kPageSize, size};
        }
        uint64_t offset = arenas_.size() * kHuge;
        if (offset + kHuge > kArenaRegion) return Errno(ENOMEM);
        if (kind_ == Kind::kStore) {
            // Nothing is touched ahead.
        } else if (arenas_.empty()) {
            // A pod with one small program needs a fraction of an arena: the first one gets single pages.
            madvise(base_ + offset, kHuge, MADV_NOHUGEPAGE);
        } else {
            // One touch gives the whole arena a huge page where the host has one.
            madvise(base_ + offset, kHuge, MADV_HUGEPAGE);
            if (!guarded_zero(base_ + offset, 1)) return Errno(ENOMEM);
        }
        arenas_.push_back(std::make_unique<Arena>(offset));
        hint_ = arenas_.size() - 1;
        int start = arenas_.back()->take(pages);
        return FileRange{offset + static_cast<uint64_t>(start) * kPageSize, size};
    }

    bool clear(FileRange range) { return zero(range.offset, range.size) || punch(range); }
    bool punch(FileRange range) {
        return fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.offset),
                         static_cast<off_t>(range.size)) == 0;
    }
    template <typename F>
    void for_each_arena(FileRange range, F f) {
        while (range.size > 0) {
            uint64_t index = range.offset / kHuge;
            uint64_t within = range.offset % kHuge;
            uint64_t part = std::min(range.size, kHuge - within);
            CHECK(index < arenas_.size());
            f(*arenas_[index], static_cast<uint32_t>(within / kPageSize), static_cast<uint32_t>(part / kPageSize));
            range.offset += part;
            range.size -= part;
        }
    }

    std::mutex mutex_;
    std::vector<std::unique_ptr<Arena>> arenas_;  // guarded by mutex_; arena i lies at i * 2 MiB
    size_t hint_ = 0;                             // guarded by mutex_: the arena that last had room
    size_t free_arenas_ = 0;                      // guarded by mutex_: wholly free and still touched
    Extents large_;                               // guarded by mutex_
    std::atomic<uint64_t> unasked_{0}, last_used_{~uint64_t{0}};
};

MemoryFile::MemoryFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
MemoryFile::~MemoryFile() = default;

Result<std::unique_ptr<MemoryFile>> MemoryFile::create(UniqueFd file, uint64_t limit, Kind kind) {
    const bool store = kind == Kind::kStore;
    const uint64_t size = store ? kStoreSize : kFileSize;
    if (ftruncate(file.get(), static_cast<off_t>(size)) != 0) return sys_error("grow the memory file");
    auto reserved = UniqueMap::create(size + kHuge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    if (!reserved.ok()) return sys_error("reserve addresses for the memory file", reserved.error().value);
    UniqueMap map = reserved.take_value();
    auto aligned = (reinterpret_cast<uintptr_t>(map.data()) + kHuge - 1) & ~(kHuge - 1);
    // SAFETY: inside the reservation above, which `map` owns.
    void* base = mmap(reinterpret_cast<void*>(aligned), size, store ? PROT_READ : PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file.get(), 0);
    if (base == MAP_FAILED) return sys_error("map the memory file");
    // No core dump of guest memory, none of it in a child.
    madvise(base, size, MADV_DONTDUMP);
    auto state =
        std::make_unique<State>(std::move(file), std::move(map), static_cast<std::byte*>(base), size, limit, kind);
    return std::unique_ptr<MemoryFile>(new MemoryFile(std::move(state)));
}

int MemoryFile::fd() const { return state_->file_.get(); }
MemoryFile::Kind MemoryFile::kind() const { return state_->kind_; }

SysResult<FileRange> MemoryFile::allocate(uint64_t size, uint64_t align_hint) {
    auto rounded = page_up_checked(size);
    if (!rounded || *rounded == 0 || *rounded > state_->size_) return Errno(ENOMEM);
    uint64_t limit = state_->limit_.load(std::memory_order_relaxed);
    if (limit != 0 && state_->over(limit, *rounded, *this)) return Errno(ENOMEM);
    return state_->allocate(*rounded, align_hint);
}

void MemoryFile::free(FileRange range, uint64_t touched) {
    if (range.size != 0) state_->free(range, touched);
}
void MemoryFile::decommit(FileRange range) {
    if (range.size != 0) state_->decommit(range);
}
std::byte* MemoryFile::at(uint64_t offset, uint64_t size) {
    CHECK(offset <= state_->size_ && size <= state_->size_ - offset);
    return state_->base_ + offset;
}
bool MemoryFile::read(uint64_t offset, std::byte* into, size_t size) const {
    CHECK(offset <= state_->size_ && size <= state_->size_ - offset);
    return guarded_copy(into, state_->base_ + offset, size);
}
bool MemoryFile::write(uint64_t offset, const std::byte* from, size_t size) {
    CHECK(offset <= state_->size_ && size <= state_->size_ - offset);
    if (kind() == Kind::kStore) return write_all(fd(), offset, from, size);
    return guarded_copy(state_->base_ + offset, from, size);
}
bool MemoryFile::zero(uint64_t offset, size_t size) {
    CHECK(offset <= state_->size_ && size <= state_->size_ - offset);
    return state_->zero(offset, size);
}
uint64_t MemoryFile::bytes_used() const {
    struct stat status {};
    if (fstat(state_->file_.get(), &status) != 0) return 0;
    return static_cast<uint64_t>(status.st_blocks) * 512;
}
bool MemoryFile::used_up() const {
    constexpr uint64_t kHardly = 64 << 10;
    uint64_t most = limit();
    return most != 0 && bytes_used() + kHardly >= most;
}
uint64_t MemoryFile::limit() const { return state_->limit_.load(std::memory_order_relaxed); }
void MemoryFile::set_limit(uint64_t limit) { state_->limit_.store(limit, std::memory_order_relaxed); }

}  // namespace casemate::sentry
