#include "sentry/mm/io_buffer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "sentry/mm/address_space.h"

namespace casemate::sentry {

IoBuffer IoBuffer::user(AddressSpace& space, std::span<const iovec> pieces) {
    IoBuffer buffer;
    buffer.space_ = &space;
    buffer.pieces_ = pieces;
    for (const iovec& piece : pieces) buffer.remaining_ += piece.iov_len;
    return buffer;
}

IoBuffer IoBuffer::user(AddressSpace& space, GuestAddr address, size_t size) {
    IoBuffer buffer;
    buffer.space_ = &space;
    // SAFETY: a guest address kept as a number; never dereferenced here.
    buffer.single_ = {reinterpret_cast<void*>(address), size};
    buffer.remaining_ = size;
    return buffer;
}

IoBuffer IoBuffer::kernel(std::span<std::byte> memory) {
    IoBuffer buffer;
    buffer.single_ = {memory.data(), memory.size()};
    buffer.remaining_ = memory.size();
    return buffer;
}

IoBuffer::IoBuffer(IoBuffer&& other) noexcept
    : space_(other.space_),
      single_(other.single_),
      pieces_(other.pieces_),
      index_(other.index_),
      offset_(other.offset_),
      remaining_(other.remaining_),
      moved_(other.moved_),
      locked_(std::exchange(other.locked_, false)) {}

// What is left of the current piece, bounded by remaining_.
iovec IoBuffer::current() const {
    iovec piece = pieces_.empty() ? single_ : pieces_[index_];
    return {static_cast<char*>(piece.iov_base) + offset_, std::min(piece.iov_len - offset_, remaining_)};
}

void IoBuffer::step(size_t bytes) {
    remaining_ -= bytes;
    moved_ += bytes;
    offset_ += bytes;
    while (!pieces_.empty() && index_ + 1 < pieces_.size() && offset_ >= pieces_[index_].iov_len) {
        offset_ -= pieces_[index_].iov_len;
        index_++;
    }
}

SysResult<size_t> IoBuffer::copy_to(const void* from, size_t size) {
    size = std::min(size, remaining_);
    size_t done = 0;
    while (done < size) {
        iovec piece = current();
        size_t part = std::min(piece.iov_len, size - done);
        if (part == 0) {
            step(0);
            if (current().iov_len == 0) break;
            continue;
        }
        const char* at = static_cast<const char*>(from) + done;
        size_t copied = part;
        if (space_ == nullptr)
            memcpy(piece.iov_base, at, part);
        else
            copied = space_->copy_out_partial(reinterpret_cast<GuestAddr>(piece.iov_base), at, part);
        step(copied);
        done += copied;
        if (copied < part) break;
    }
    if (done == 0 && size > 0) return Errno(EFAULT);
    return done;
}

SysResult<size_t> IoBuffer::copy_from(void* into, size_t size) {
    size = std::min(size, remaining_);
    size_t done = 0;
    while (done < size) {
        iovec piece = current();
        size_t part = std::min(piece.iov_len, size - done);
        if (part == 0) {
            step(0);
            if (current().iov_len == 0) break;
            continue;
        }
        char* at = static_cast<char*>(into) + done;
        size_t copied = part;
        if (space_ == nullptr)
            memcpy(at, piece.iov_base, part);
        else
            copied = space_->copy_in_partial(reinterpret_cast<GuestAddr>(piece.iov_base), at, part);
        step(copied);
        done += copied;
        if (copied < part) break;
    }
    if (done == 0 && size > 0) return Errno(EFAULT);
    return done;
}

SysResult<size_t> IoBuffer::fill_zero(size_t size) {
    static constexpr char kZeros[4096] = {};
    size = std::min(size, remaining_);
    size_t done = 0;
    while (done < size) {
        auto copied = copy_to(kZeros, std::min(sizeof(kZeros), size - done));
        if (!copied.ok()) break;
        done += *copied;
    }
    if (done == 0 && size > 0) return Errno(EFAULT);
    return done;
}

SysResult<IoBuffer::HostPieces> IoBuffer::host_pieces(std::span<iovec> into, bool for_write) {
    HostPieces result;
    if (space_ != nullptr && !locked_) {
        space_->lock_for_access();
        locked_ = true;
    }
    size_t index = index_, offset = offset_, left = remaining_;
    while (result.count < into.size() && left > 0) {
        iovec piece = pieces_.empty() ? single_ : pieces_[index];
        if (offset >= piece.iov_len) {
            if (pieces_.empty() || index + 1 >= pieces_.size()) break;
            offset -= piece.iov_len;
            index++;
            continue;
        }
        size_t part = std::min(piece.iov_len - offset, left);
        void* memory = static_cast<char*>(piece.iov_base) + offset;
        if (space_ != nullptr) {
            auto found = space_->resolve(reinterpret_cast<GuestAddr>(memory), part, for_write);
            if (!found.ok() && found.error().value == EAGAIN) {
                if (result.count > 0) break;
                release();
                bool backed = space_->touch(reinterpret_cast<GuestAddr>(memory), part);
                space_->lock_for_access();
                locked_ = true;
                found = backed ? space_->resolve(reinterpret_cast<GuestAddr>(memory), part, for_write) : Errno(EFAULT);
                if (!found.ok() && found.error().value == EAGAIN) found = Errno(EFAULT);
            }
            if (!found.ok()) {
                if (found.error().value == ENXIO) {
                    result.bounce = true;
                    break;
                }
                if (result.count > 0) break;
                release();
                return found.take_error();
            }
            memory = found->data();
            part = found->size();
        }
        into[result.count++] = {memory, part};
        result.bytes += part;
        offset += part;
        left -= part;
    }
    if (result.bounce && result.count == 0) release();
    return result;
}

void IoBuffer::advance(size_t bytes) {
    release();
    step(bytes);
}

void IoBuffer::release() {
    if (!locked_) return;
    space_->unlock_for_access();
    locked_ = false;
}

}  // namespace casemate::sentry
