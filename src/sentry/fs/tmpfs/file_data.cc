#include "sentry/fs/tmpfs/file_data.h"

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <memory>

#include "base/checked.h"
#include "sentry/mm/address_space.h"
#include "sentry/mm/guarded_copy.h"

namespace casemate::sentry {

namespace {

constexpr size_t kPieces = 32;
constexpr size_t kBounceSize = 64 * 1024;
constexpr uint64_t kMaxGrowth = uint64_t{8} << 20;  // of an extent beyond what is asked for
constexpr uint64_t kMapAhead = uint64_t{2} << 20;   // pages made by one backing()

}  // namespace

SysResult<void> SpaceAccount::charge(uint64_t bytes) {
    uint64_t now = used_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    uint64_t limit = limit_.load(std::memory_order_relaxed);
    if (limit == 0 || now <= limit) return {};
    release(bytes);
    return Errno(ENOSPC);
}

FileData::~FileData() {
    for (const Extent& extent : extents_) {
        memory_.free(FileRange{extent.memory, extent.capacity}, extent.used);
        if (account_) account_->release(extent.used);
    }
}

// The first extent that ends behind `offset`, by capacity.
size_t FileData::first_ending_after(uint64_t offset) const {
    auto found = std::upper_bound(extents_.begin(), extents_.end(), offset, [](uint64_t at, const Extent& extent) {
        return at < extent.start + extent.capacity;
    });
    return static_cast<size_t>(found - extents_.begin());
}

// Gives every page of [offset, offset+size) a place in the memory file.
SysResult<void> FileData::back_locked(uint64_t offset, uint64_t size) {
    uint64_t at = page_down(offset), end = page_up(offset + size);
    size_t index = first_ending_after(at);
    while (at < end) {
        if (index < extents_.size() && extents_[index].start <= at) {
            Extent& extent = extents_[index];
            uint64_t reach = std::min(end, extent.start + extent.capacity);
            if (reach > extent.end()) {
                uint64_t more = reach - extent.end();
                if (account_) TRY(account_->charge(more));
                charged_.fetch_add(more, std::memory_order_relaxed);
                extent.used += more;
            }
            at = reach;
            ++index;
            continue;
        }
        uint64_t room = (index < extents_.size() ? extents_[index].start : kMaxSize) - at;
        uint64_t wanted = std::min(end - at, room);
        uint64_t capacity = wanted;
        if (index == extents_.size()) {
            // Growing at its end: as much again as there is, so that extents stay few.
            uint64_t so_far = index > 0 ? extents_.back().start + extents_.back().capacity : 0;
            capacity = std::max(wanted, std::min(std::max<uint64_t>(so_far, kPageSize), kMaxGrowth));
        }
        if (account_) TRY(account_->charge(wanted));
        auto range = memory_.allocate(page_up(capacity), at);
        if (!range.ok()) {
            if (account_) account_->release(wanted);
            return Errno(ENOSPC);
        }
        charged_.fetch_add(wanted, std::memory_order_relaxed);
        extents_.insert(extents_.begin() + static_cast<ptrdiff_t>(index),
                        Extent{at, range->size, range->offset, wanted});
        at += wanted;
        ++index;
    }
    return {};
}

bool FileData::copy_out_locked(uint64_t offset, std::byte* into, size_t size) const {
    size_t index = first_ending_after(offset);
    while (size > 0) {
        if (index >= extents_.size() || extents_[index].start >= offset + size) return guarded_zero(into, size);
        const Extent& extent = extents_[index];
        if (extent.start > offset) {
            size_t hole = extent.start - offset;
            if (!guarded_zero(into, hole)) return false;
            into += hole;
            offset += hole;
            size -= hole;
        }
        // Behind `used` the file is a hole, whatever the memory file holds.
        size_t part = std::min<uint64_t>(size, extent.start + extent.capacity - offset);
        uint64_t within = offset - extent.start;
        size_t real = within < extent.used ? std::min<uint64_t>(part, extent.used - within) : 0;
        if (real > 0 && !memory_.read(extent.memory + within, into, real)) return false;
        if (part > real && !guarded_zero(into + real, part - real)) return false;
        into += part;
        offset += part;
        size -= part;
        ++index;
    }
    return true;
}

bool FileData::copy_in_locked(uint64_t offset, const std::byte* from, size_t size) {
    size_t index = first_ending_after(offset);
    while (size > 0) {
        const Extent& extent = extents_[index++];
        uint64_t within = offset - extent.start;
        size_t part = std::min<uint64_t>(size, extent.capacity - within);
        if (!memory_.write(extent.memory + within, from, part)) return false;
        from += part;
        offset += part;
        size -= part;
    }
    return true;
}

SysResult<size_t> FileData::read(IoBuffer& into, int64_t position) {
    uint64_t offset = static_cast<uint64_t>(position);
    size_t total = 0;
    while (into.remaining() > 0) {
        iovec pieces[kPieces];
        auto found = into.host_pieces(pieces, true);
        if (!found.ok()) {
            if (total > 0) break;
            return found.error();
        }
        size_t moved = 0;
        bool whole = true;
        if (found->count > 0) {
            {
                std::shared_lock lock(mutex_);
                uint64_t end = size();
                for (size_t i = 0; i < found->count && offset < end; ++i) {
                    size_t part = std::min<uint64_t>(pieces[i].iov_len, end - offset);
                    whole = copy_out_locked(offset, static_cast<std::byte*>(pieces[i].iov_base), part);
                    if (!whole) break;
                    offset += part;
                    moved += part;
                }
            }
            into.advance(moved);
            total += moved;
            if (!whole && total == 0) return Errno(EFAULT);
            if (moved < found->bytes) break;
            continue;
        }
        into.release();
        if (!found->bounce) break;
        size_t want = std::min(kBounceSize, into.remaining());
        auto bounce = std::make_unique_for_overwrite<std::byte[]>(want);
        {
            std::shared_lock lock(mutex_);
            uint64_t end = size();
            if (offset < end) {
                moved = std::min<uint64_t>(want, end - offset);
                if (!copy_out_locked(offset, bounce.get(), moved)) moved = 0;
            }
        }
        if (moved == 0) break;
        auto copied = into.copy_to(bounce.get(), moved);
        if (!copied.ok()) {
            if (total > 0) break;
            return copied.error();
        }
        offset += *copied;
        total += *copied;
        if (*copied < moved) break;
    }
    return total;
}

// With an address space's lock held by the caller's IoBuffer, or nothing.
SysResult<void> FileData::write_piece(const std::byte* from, size_t length, int64_t& offset, bool append) {
    std::unique_lock lock(mutex_);
    uint64_t end = size();
    if (append) offset = static_cast<int64_t>(end);
    uint64_t at = static_cast<uint64_t>(offset);
    if (at >= kMaxSize || length > kMaxSize - at) return Errno(EFBIG);
    uint32_t seals = seals_.load(std::memory_order_relaxed);
    if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) return Errno(EPERM);
    if ((seals & F_SEAL_GROW) && at + length > end) return Errno(EPERM);
    TRY(back_locked(at, length));
    if (!copy_in_locked(at, from, length)) return Errno(ENOSPC);
    if (at + length > end) size_.store(at + length, std::memory_order_release);
    offset += static_cast<int64_t>(length);
    return {};
}

SysResult<size_t> FileData::write(IoBuffer& from, int64_t& offset, bool append) {
    size_t total = 0;
    std::optional<Errno> failed;
    while (from.remaining() > 0 && !failed) {
        iovec pieces[kPieces];
        auto found = from.host_pieces(pieces, false);
        if (!found.ok()) {
            failed = found.error();
            break;
        }
        if (found->count > 0) {
            size_t moved = 0;
            for (size_t i = 0; i < found->count && !failed; ++i) {
                auto written =
                    write_piece(static_cast<const std::byte*>(pieces[i].iov_base), pieces[i].iov_len, offset, append);
                if (written.ok())
                    moved += pieces[i].iov_len;
                else
                    failed = written.error();
            }
            from.advance(moved);
            total += moved;
            continue;
        }
        from.release();
        if (!found->bounce) break;
        auto bounce = std::make_unique_for_overwrite<std::byte[]>(std::min(kBounceSize, from.remaining()));
        auto copied = from.copy_from(bounce.get(), std::min(kBounceSize, from.remaining()));
        if (!copied.ok()) {
            failed = copied.error();
            break;
        }
        auto written = write_piece(bounce.get(), *copied, offset, append);
        if (written.ok())
            total += *copied;
        else
            failed = written.error();
    }
    if (total == 0 && failed) return *failed;
    return total;
}

SysResult<void> FileData::drop_locked(uint64_t offset, uint64_t length, std::vector<Freed>& freed) {
    // Whole pages go; the edges are zeroed in place.
    uint64_t end = offset + length;
    uint64_t first = page_up(offset), last = page_down(end);
    auto zero = [&](uint64_t from, uint64_t to) -> bool {
        size_t index = first_ending_after(from);
        if (from >= to || index >= extents_.size() || extents_[index].start > from) return true;
        const Extent& extent = extents_[index];
        uint64_t within = from - extent.start;
        if (within >= extent.used) return true;
        uint64_t size = std::min(to - from, extent.used - within);
        return memory_.zero(extent.memory + within, size);
    };
    if (first > last) {
        if (!zero(offset, end)) return Errno(ENOSPC);
        return {};
    }
    if (!zero(offset, first) || !zero(last, end)) return Errno(ENOSPC);
    std::vector<Extent> kept;
    kept.reserve(extents_.size() + 1);
    for (Extent& extent : extents_) {
        uint64_t stop = extent.start + extent.capacity;
        if (stop <= first || extent.start >= last) {
            kept.push_back(extent);
            continue;
        }
        uint64_t used_end = extent.end();
        uint64_t gone = used_end > first ? std::min(used_end, last) - std::max(extent.start, first) : 0;
        if (used_end <= extent.start) gone = 0;
        charged_.fetch_sub(gone, std::memory_order_relaxed);
        if (account_) account_->release(gone);
        uint64_t cut_begin = std::max(extent.start, first), cut_end = std::min(stop, last);
        freed.push_back({FileRange{extent.memory + (cut_begin - extent.start), cut_end - cut_begin}, gone});
        if (extent.start < cut_begin) {
            Extent before = extent;
            before.capacity = cut_begin - extent.start;
            before.used = std::min(before.used, before.capacity);
            kept.push_back(before);
        }
        if (stop > cut_end) {
            Extent behind;
            behind.start = cut_end;
            behind.capacity = stop - cut_end;
            behind.memory = extent.memory + (cut_end - extent.start);
            behind.used = used_end > cut_end ? used_end - cut_end : 0;
            kept.push_back(behind);
        }
    }
    extents_.swap(kept);
    return {};
}

// Tells the mappings, then gives the memory back: nobody sees a page that belongs to somebody else by now.
void FileData::finish_drop(uint64_t offset, uint64_t length, const std::vector<Freed>& freed) {
    std::vector<Ref<AddressSpace>> spaces;
    {
        std::lock_guard lock(mappings_mutex_);
        for (const Mapping& mapping : mappings_)
            if (mapping.space->try_ref()) spaces.push_back(Ref<AddressSpace>::adopt(mapping.space));
    }
    uint64_t first = page_up(offset);
    uint64_t end = page_up_checked(offset + length).value_or(kMaxSize);
    for (Ref<AddressSpace>& space : spaces)
        if (end > first) space->invalidate(*this, first, end - first);
    for (const Freed& one : freed) memory_.free(one.range, one.touched);
}

SysResult<void> FileData::resize(int64_t wanted) {
    uint64_t target = static_cast<uint64_t>(wanted);
    if (wanted < 0) return Errno(EINVAL);
    if (target > kMaxSize) return Errno(EFBIG);
    std::vector<Freed> freed;
    uint64_t old;
    {
        std::unique_lock lock(mutex_);
        old = size();
        uint32_t seals = seals_.load(std::memory_order_relaxed);
        if ((target < old && (seals & F_SEAL_SHRINK)) || (target > old && (seals & F_SEAL_GROW))) return Errno(EPERM);
        if (target < old) TRY(drop_locked(target, page_up(kMaxSize) - target, freed));
        size_.store(target, std::memory_order_release);
    }
    if (target < old) finish_drop(target, page_up(old) - target, freed);
    return {};
}

SysResult<void> FileData::punch(uint64_t offset, uint64_t length) {
    auto end = checked_add(offset, length);
    if (!end || *end > kMaxSize) return Errno(EINVAL);
    if (seals_.load(std::memory_order_relaxed) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) return Errno(EPERM);
    std::vector<Freed> freed;
    {
        std::unique_lock lock(mutex_);
        TRY(drop_locked(offset, length, freed));
    }
    finish_drop(offset, length, freed);
    return {};
}

SysResult<void> FileData::allocate(int mode, int64_t offset, int64_t length) {
    uint64_t begin = static_cast<uint64_t>(offset), end = begin + static_cast<uint64_t>(length);
    if (end > kMaxSize) return Errno(EFBIG);
    if (mode & FALLOC_FL_PUNCH_HOLE) return punch(begin, end - begin);
    if (mode & FALLOC_FL_ZERO_RANGE) {
        TRY(punch(begin, end - begin));
    } else if (mode & ~FALLOC_FL_KEEP_SIZE) {
        return Errno(EOPNOTSUPP);
    }
    std::unique_lock lock(mutex_);
    uint64_t old = size();
    bool grows = end > old && !(mode & FALLOC_FL_KEEP_SIZE);
    if (grows && (seals_.load(std::memory_order_relaxed) & F_SEAL_GROW)) return Errno(EPERM);
    TRY(back_locked(begin, end - begin));
    if (grows) size_.store(end, std::memory_order_release);
    return {};
}

SysResult<int64_t> FileData::seek_data(int64_t position) {
    std::shared_lock lock(mutex_);
    uint64_t offset = static_cast<uint64_t>(position);
    if (position < 0 || offset >= size()) return Errno(ENXIO);
    for (size_t index = first_ending_after(offset); index < extents_.size(); ++index) {
        const Extent& extent = extents_[index];
        if (extent.end() <= offset) continue;
        uint64_t found = std::max(offset, extent.start);
        if (found >= size()) break;
        return static_cast<int64_t>(found);
    }
    return Errno(ENXIO);
}

SysResult<int64_t> FileData::seek_hole(int64_t position) {
    std::shared_lock lock(mutex_);
    uint64_t offset = static_cast<uint64_t>(position);
    if (position < 0 || offset >= size()) return Errno(ENXIO);
    for (size_t index = first_ending_after(offset); index < extents_.size(); ++index) {
        const Extent& extent = extents_[index];
        if (extent.start > offset) break;
        if (extent.end() > offset) offset = extent.end();
    }
    return static_cast<int64_t>(std::min(offset, size()));
}

SysResult<void> FileData::add_seals(uint32_t seals) {
    std::unique_lock lock(mutex_);
    uint32_t now = seals_.load(std::memory_order_relaxed);
    if (now & F_SEAL_SEAL) return Errno(EPERM);
    if ((seals & F_SEAL_WRITE) && !(now & F_SEAL_WRITE)) {
        std::lock_guard inner(mappings_mutex_);
        if (mapped_writable_ && !mappings_.empty()) return Errno(EBUSY);
    }
    seals_.store(now | seals, std::memory_order_release);
    return {};
}

SysResult<void> FileData::map_writable() {
    std::unique_lock lock(mutex_);
    if (seals_.load(std::memory_order_relaxed) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) return Errno(EPERM);
    std::lock_guard inner(mappings_mutex_);
    mapped_writable_ = true;
    return {};
}

SysResult<Mappable::Piece> FileData::backing(uint64_t offset, uint64_t length, bool) {
    std::unique_lock lock(mutex_);
    Piece piece;
    uint64_t end = page_up(size());
    if (offset >= end) return piece;
    length = std::min(length, end - offset);
    // Pages of a hole are made as they are touched, some at a time.
    TRY(back_locked(offset, std::min(length, kMapAhead)));
    const Extent& extent = extents_[first_ending_after(offset)];
    piece.offset = extent.memory + (offset - extent.start);
    if (memory_.kind() == MemoryFile::Kind::kStore) {
        piece.in_memory_file = false;
        piece.host_fd = memory_.fd();
        piece.lasting = false;
    }
    piece.size = std::min(length, extent.end() - offset);
    return piece;
}

void FileData::add_mapping(AddressSpace& space) {
    std::lock_guard lock(mappings_mutex_);
    for (Mapping& mapping : mappings_)
        if (mapping.space == &space) {
            mapping.count++;
            return;
        }
    mappings_.push_back(Mapping{&space, 1});
}

void FileData::remove_mapping(AddressSpace& space) {
    std::lock_guard lock(mappings_mutex_);
    for (size_t i = 0; i < mappings_.size(); ++i)
        if (mappings_[i].space == &space) {
            if (--mappings_[i].count == 0) mappings_.erase(mappings_.begin() + static_cast<ptrdiff_t>(i));
            break;
        }
    if (mappings_.empty()) mapped_writable_ = false;
}

}  // namespace casemate::sentry
