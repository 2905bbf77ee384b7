#include "sentry/fs/pipe/pipe.h"

#include <sys/epoll.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace casemate::sentry {

// Makes room for `size` more bytes in the ring; the contents become contiguous from 0 when it grows.
void Pipe::reserve_locked(size_t size) {
    if (size_ + size <= allocated_) return;
    size_t wanted = std::max<size_t>(4096, std::bit_ceil(size_ + size));
    auto grown = std::make_unique_for_overwrite<std::byte[]>(wanted);
    size_t first = std::min(size_, allocated_ - head_);
    if (size_ > 0) {
        memcpy(grown.get(), ring_.get() + head_, first);
        memcpy(grown.get() + first, ring_.get(), size_ - first);
    }
    ring_ = std::move(grown);
    allocated_ = wanted;
    head_ = 0;
}

void Pipe::drop_locked(size_t size) {
    size_ -= size;
    head_ = size_ == 0 ? 0 : (head_ + size) & (allocated_ - 1);
    if (size_ == 0 && allocated_ > kDefaultCapacity) {
        ring_.reset();
        allocated_ = 0;
    }
}

Pipe::Outcome Pipe::read(IoBuffer& into) {
    Outcome outcome;
    {
        std::lock_guard lock(mutex_);
        if (size_ == 0) return {.would_block = writers_ != 0, .hung_up = writers_ == 0};
        size_t available = packets_.empty() ? size_ : packets_.front();
        size_t want = std::min(available, into.remaining());
        while (outcome.bytes < want) {
            size_t part = std::min(want - outcome.bytes, allocated_ - head_);
            auto copied = into.copy_to(ring_.get() + head_, part);
            if (!copied.ok()) {
                outcome.error = outcome.bytes == 0 ? copied.error().value : 0;
                break;
            }
            outcome.bytes += *copied;
            drop_locked(*copied);
            if (*copied < part) break;
        }
        if (!packets_.empty() && outcome.error == 0) {
            drop_locked(available - outcome.bytes);  // what did not fit is lost with its packet
            packets_.pop_front();
        }
    }
    if (outcome.bytes > 0) waiters.notify(EPOLLOUT | EPOLLWRNORM);
    return outcome;
}

Pipe::Outcome Pipe::write(IoBuffer& from, bool packet) {
    Outcome outcome;
    {
        std::lock_guard lock(mutex_);
        if (readers_ == 0) return {.hung_up = true};
        size_t room = capacity_ - std::min(size_, capacity_);
        size_t whole = std::min(from.remaining(), kAtomic);
        bool atomic = packet || from.remaining() <= kAtomic;
        if (room == 0 || (atomic && room < whole)) return {.would_block = true};
        size_t want = packet ? whole : std::min(from.remaining(), room);
        reserve_locked(want);
        while (outcome.bytes < want) {
            size_t tail = (head_ + size_) & (allocated_ - 1);
            size_t part = std::min(want - outcome.bytes, allocated_ - tail);
            auto copied = from.copy_from(ring_.get() + tail, part);
            if (!copied.ok()) {
                outcome.error = outcome.bytes == 0 ? copied.error().value : 0;
                break;
            }
            outcome.bytes += *copied;
            size_ += *copied;
            if (*copied < part) break;
        }
        if (outcome.bytes > 0 && (packet || !packets_.empty())) packets_.push_back(outcome.bytes);
    }
    if (outcome.bytes > 0) waiters.notify(EPOLLIN | EPOLLRDNORM);
    return outcome;
}

size_t Pipe::peek(std::span<std::byte> into) {
    std::lock_guard lock(mutex_);
    size_t want = std::min(into.size(), size_);
    if (want == 0) return 0;
    size_t first = std::min(want, allocated_ - head_);
    memcpy(into.data(), ring_.get() + head_, first);
    memcpy(into.data() + first, ring_.get(), want - first);
    return want;
}

void Pipe::consume(size_t size) {
    {
        std::lock_guard lock(mutex_);
        size = std::min(size, size_);
        drop_locked(size);
        while (size > 0 && !packets_.empty()) {
            size_t part = std::min(size, packets_.front());
            packets_.front() -= part;
            if (packets_.front() == 0) packets_.pop_front();
            size -= part;
        }
    }
    waiters.notify(EPOLLOUT | EPOLLWRNORM);
}

size_t Pipe::bytes() {
    std::lock_guard lock(mutex_);
    return size_;
}

size_t Pipe::capacity() {
    std::lock_guard lock(mutex_);
    return capacity_;
}

SysResult<size_t> Pipe::set_capacity(uint64_t size) {
    if (size > kMaxCapacity) return Errno(EPERM);
    size_t rounded = std::bit_ceil(std::max<size_t>(size, 4096));
    {
        std::lock_guard lock(mutex_);
        if (rounded < size_) return Errno(EBUSY);
        capacity_ = rounded;
    }
    waiters.notify(EPOLLOUT | EPOLLWRNORM);
    return rounded;
}

uint32_t Pipe::poll(bool reader, bool writer) {
    std::lock_guard lock(mutex_);
    uint32_t events = 0;
    if (reader) {
        if (size_ > 0) events |= EPOLLIN | EPOLLRDNORM;
        if (writers_ == 0 && writer_generation_ > 0) events |= EPOLLHUP;
    }
    if (writer) {
        if (capacity_ > size_ && capacity_ - size_ >= kAtomic) events |= EPOLLOUT | EPOLLWRNORM;
        if (readers_ == 0) events |= EPOLLERR;
    }
    return events;
}

void Pipe::open_end(bool reader, bool writer) {
    {
        std::lock_guard lock(mutex_);
        if (reader) readers_++, reader_generation_++;
        if (writer) writers_++, writer_generation_++;
    }
    waiters.notify(~0u, ~0u);
}

void Pipe::close_end(bool reader, bool writer) {
    {
        std::lock_guard lock(mutex_);
        if (reader) readers_--;
        if (writer) writers_--;
        if (readers_ == 0 && writers_ == 0) {
            ring_.reset();
            allocated_ = head_ = size_ = 0;
            packets_.clear();
        }
    }
    waiters.notify(~0u, ~0u);
}

uint64_t Pipe::reader_generation() {
    std::lock_guard lock(mutex_);
    return reader_generation_;
}
uint64_t Pipe::writer_generation() {
    std::lock_guard lock(mutex_);
    return writer_generation_;
}
uint32_t Pipe::readers() {
    std::lock_guard lock(mutex_);
    return readers_;
}
uint32_t Pipe::writers() {
    std::lock_guard lock(mutex_);
    return writers_;
}

}  // namespace casemate::sentry
