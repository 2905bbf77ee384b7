// Reading and writing application memory: the one access function, window(), and the copies made of it.
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/unique_map.h"
#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {

SysResult<AddressSpace::State::Window> AddressSpace::State::window(GuestAddr address, size_t size, bool for_write) {
    Vma* vma = find(address);
    if (vma == nullptr) return Errno(EFAULT);
    // Linux reads through PROT_READ or PROT_EXEC or PROT_WRITE alike on x86; a write needs PROT_WRITE.
    if (for_write ? !(vma->protection & PROT_WRITE) : vma->protection == PROT_NONE) return Errno(EFAULT);
    size = std::min<uint64_t>(size, vma->end - address);
    uint64_t delta = address - vma->start;
    switch (vma->backing) {
        case Backing::kMemory:
            return Window{.memory = memory_.at(vma->memory_offset + delta, size), .size = size, .vma = vma};
        case Backing::kShared:
        case Backing::kFile: {
            uint64_t offset = vma->object_offset + delta;
            uint64_t within = offset % kPageSize;
            auto piece = TRY(vma->object->backing(offset - within, page_up(size + within), for_write));
            if (piece.size <= within) return Errno(EFAULT);
            size = std::min<uint64_t>(size, piece.size - within);
            if (piece.in_memory_file)
                return Window{.memory = memory_.at(piece.offset + within, size), .size = size, .vma = vma};
            return Window{.size = size, .vma = vma, .host_fd = piece.host_fd, .host_offset = piece.offset + within};
        }
        case Backing::kHostPrivate:
        case Backing::kBorrowed:
            return Window{.size = size, .vma = vma};
        case Backing::kReserved:
            if (vma->stack) return Errno(EAGAIN);
            break;
    }
    return Errno(EFAULT);
}

size_t AddressSpace::State::transfer(GuestAddr address, std::byte* buffer, size_t size, bool write) {
    size_t done = 0;
    while (done < size) {
        auto found = window(address + done, size - done, write);
        if (!found.ok()) break;
        Window& w = *found;
        std::byte* at = buffer + done;
        if (w.memory != nullptr) {
            bool copied = write ? guarded_copy(w.memory, at, w.size) : guarded_copy(at, w.memory, w.size);
            if (!copied) break;
            done += w.size;
            continue;
        }
        ssize_t moved = -1;
        if (w.host_fd >= 0) {
            // The host's page cache keeps this coherent with what the application maps. A page past the end of the file
            // is no memory; the rest of its last page reads as zero and takes writes that nobody keeps.
            auto offset = static_cast<off_t>(w.host_offset);
            if (write) {
                uint64_t end = w.vma->object->mappable_size();
                uint64_t in_object = w.vma->object_offset + (address + done - w.vma->start);
                if (in_object >= end) break;
                size_t part = std::min<uint64_t>(w.size, end - in_object);
                moved = pwrite(w.host_fd, at, part, offset);
            } else if (const std::byte* bytes = w.vma->object->readable(w.host_offset, w.size);
                       bytes != nullptr && guarded_copy(at, bytes, w.size)) {
                moved = static_cast<ssize_t>(w.size);
            } else {
                moved = pread(w.host_fd, at, w.size, offset);
                if (moved >= 0 && static_cast<size_t>(moved) < w.size) {
                    size_t rest =
                        std::min<size_t>(w.size, page_up(w.host_offset + static_cast<size_t>(moved)) - w.host_offset);
                    if (rest <= static_cast<size_t>(moved) && moved == 0) break;
                    memset(at + moved, 0, rest - static_cast<size_t>(moved));
                    moved = static_cast<ssize_t>(rest);
                }
            }
        } else {
            auto result = write ? host_->write_memory(address + done, std::span<const std::byte>(at, w.size))
                                : host_->read_memory(address + done, std::span<std::byte>(at, w.size));
            if (result.ok()) moved = static_cast<ssize_t>(*result);
        }
        if (moved <= 0) break;
        done += static_cast<size_t>(moved);
    }
    return done;
}

bool AddressSpace::touch(GuestAddr address, size_t size) {
    std::unique_lock lock(state_->mutex_);
    return state_->find_unbacked(address) != nullptr && state_->back_unbacked(address, size).ok();
}

size_t AddressSpace::copy_in_partial(GuestAddr from, void* into, size_t size) {
    auto* buffer = static_cast<std::byte*>(into);
    size_t done = 0;
    do {
        std::shared_lock lock(state_->mutex_);
        done += state_->transfer(from + done, buffer + done, size - done, false);
    } while (done < size && touch(from + done, size - done));
    return done;
}

size_t AddressSpace::copy_out_partial(GuestAddr into, const void* from, size_t size) {
    // SAFETY: transfer() only reads its buffer when it writes guest memory.
    auto* buffer = static_cast<std::byte*>(const_cast<void*>(from));
    size_t done = 0;
    do {
        std::shared_lock lock(state_->mutex_);
        done += state_->transfer(into + done, buffer + done, size - done, true);
    } while (done < size && touch(into + done, size - done));
    return done;
}

size_t AddressSpace::write_by_force(GuestAddr into, const void* from, size_t size) {
    const auto* bytes = static_cast<const std::byte*>(from);
    size_t done = 0;
    while (done < size) {
        done += copy_out_partial(into + done, bytes + done, size - done);
        if (done == size) break;
        GuestAddr page = page_down(into + done);
        int protection;
        {
            std::shared_lock lock(state_->mutex_);
            const Vma* vma = state_->find(into + done);
            if (vma == nullptr || vma->shared || (vma->protection & PROT_WRITE) != 0) break;
            protection = vma->protection;
        }
        if (!protect(page, kPageSize, protection | PROT_WRITE).ok()) break;
        size_t part =
            copy_out_partial(into + done, bytes + done, std::min(size - done, page + kPageSize - into - done));
        done += part;
        if (!protect(page, kPageSize, protection).ok() || part == 0) break;
    }
    return done;
}

SysResult<void> AddressSpace::copy_in(GuestAddr from, void* into, size_t size) {
    if (copy_in_partial(from, into, size) != size) return Errno(EFAULT);
    return {};
}

SysResult<void> AddressSpace::copy_out(GuestAddr into, const void* from, size_t size) {
    if (copy_out_partial(into, from, size) != size) return Errno(EFAULT);
    return {};
}

SysResult<std::string> AddressSpace::copy_in_string(GuestAddr from, size_t max) {
    std::string text;
    char chunk[256];
    while (text.size() < max) {
        // Up to the page's end: a string may end right before a hole.
        size_t want = std::min({sizeof(chunk), max - text.size(), static_cast<size_t>(kPageSize - from % kPageSize)});
        size_t got = copy_in_partial(from, chunk, want);
        if (got == 0) return Errno(EFAULT);
        if (const void* end = memchr(chunk, 0, got)) {
            text.append(chunk, static_cast<size_t>(static_cast<const char*>(end) - chunk));
            return text;
        }
        text.append(chunk, got);
        from += got;
    }
    return Errno(ENAMETOOLONG);
}

SysResult<uint32_t> AddressSpace::load_word(GuestAddr address) {
    if (address % sizeof(uint32_t) != 0) return Errno(EINVAL);
    std::shared_lock lock(state_->mutex_);
    uint32_t value = 0;
    auto found = state_->window(address, sizeof(value), false);
    if (!found.ok() && found.error().value == EAGAIN) return value;  // not there yet: zero
    auto w = TRY(std::move(found));
    if (w.memory != nullptr) {
        if (!guarded_load(reinterpret_cast<const uint32_t*>(w.memory), value)) return Errno(EFAULT);
        return value;
    }
    if (state_->transfer(address, reinterpret_cast<std::byte*>(&value), sizeof(value), false) != sizeof(value))
        return Errno(EFAULT);
    return value;
}

SysResult<uint32_t> AddressSpace::compare_exchange_word(GuestAddr address, uint32_t expected, uint32_t desired) {
    if (address % sizeof(uint32_t) != 0) return Errno(EINVAL);
    std::shared_lock lock(state_->mutex_);
    auto found = state_->window(address, sizeof(uint32_t), true);
    if (!found.ok() && found.error().value == EAGAIN) {
        lock.unlock();
        if (!touch(address, sizeof(uint32_t))) return Errno(EFAULT);
        lock.lock();
        found = state_->window(address, sizeof(uint32_t), true);
    }
    if (found.ok() && found->vma->backing == Backing::kBorrowed) {
        // Only the sentry's map has words that change atomically.
        lock.unlock();
        release_held_parent();
        lock.lock();
        found = state_->window(address, sizeof(uint32_t), true);
    }
    if (!found.ok()) return Errno(EFAULT);
    State::Window w = *found;
    uint32_t value = 0;
    if (w.memory != nullptr) {
        if (!guarded_compare_exchange(reinterpret_cast<uint32_t*>(w.memory), expected, desired, value))
            return Errno(EFAULT);
        return value;
    }
    if (w.host_fd >= 0) {
        // A word in a shared host file: reached through a mapping of its page, so that it is one atomic operation.
        uint64_t page = page_down(w.host_offset);
        auto map =
            TRY(UniqueMap::create(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, w.host_fd, static_cast<off_t>(page)));
        if (!guarded_compare_exchange(map.as<uint32_t>(w.host_offset - page), expected, desired, value))
            return Errno(EFAULT);
        return value;
    }
    return Errno(EFAULT);
}

SysResult<AddressSpace::ShareKey> AddressSpace::share_key(GuestAddr address) {
    std::shared_lock lock(state_->mutex_);
    Vma* vma = state_->find(address);
    if (vma == nullptr || vma->protection == PROT_NONE) return Errno(EFAULT);
    if (vma->shared) return ShareKey{vma->object.get(), vma->object_offset + (address - vma->start)};
    return ShareKey{this, address};
}

SysResult<std::span<std::byte>> AddressSpace::resolve(GuestAddr address, size_t size, bool for_write) {
    auto w = TRY(state_->window(address, size, for_write));
    if (w.memory == nullptr) return Errno(ENXIO);
    return std::span<std::byte>(w.memory, w.size);
}

void AddressSpace::lock_for_access() { state_->mutex_.lock_shared(); }
void AddressSpace::unlock_for_access() { state_->mutex_.unlock_shared(); }

}  // namespace casemate::sentry
