#include "virtio/queue.h"

#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

namespace casemate::virtio {

namespace {

// Rings are little-endian, and so are we. SAFETY: the pointers lie in checked, aligned ring memory (Queue::create).
uint16_t load16(const char* at) { return __atomic_load_n(reinterpret_cast<const uint16_t*>(at), __ATOMIC_ACQUIRE); }
void store16(char* at, uint16_t value) { __atomic_store_n(reinterpret_cast<uint16_t*>(at), value, __ATOMIC_RELEASE); }
void store32(char* at, uint32_t value) { __atomic_store_n(reinterpret_cast<uint32_t*>(at), value, __ATOMIC_RELAXED); }

constexpr size_t kFlags = 0, kIndex = 2, kRing = 4;  // of the available and the used ring

}  // namespace

ChainBuffer::ChainBuffer(void* data, size_t size) { append(data, size); }

void ChainBuffer::append(void* data, size_t size) {
    CHECK(size <= UINT32_MAX);
    if (size > 0) slices_.push_back(GuestSlice::host_memory(static_cast<char*>(data), static_cast<uint32_t>(size)));
    remaining_ += size;
}

template <typename F>
size_t ChainBuffer::advance(size_t length, F&& piece) {
    size_t done = 0;
    length = std::min(length, remaining_);
    while (done < length) {
        const GuestSlice& slice = slices_[index_];
        size_t part = std::min<size_t>(length - done, slice.size() - offset_);
        piece(slice, offset_, part, done);
        done += part;
        offset_ += part;
        if (offset_ == slice.size()) {
            ++index_;
            offset_ = 0;
        }
    }
    remaining_ -= done;
    return done;
}

size_t ChainBuffer::read(void* to, size_t length) {
    return advance(length, [&](const GuestSlice& slice, size_t offset, size_t part, size_t done) {
        slice.copy_out(offset, static_cast<char*>(to) + done, part);
    });
}

size_t ChainBuffer::write(const void* from, size_t length) {
    return advance(length, [&](const GuestSlice& slice, size_t offset, size_t part, size_t done) {
        slice.copy_in(offset, static_cast<const char*>(from) + done, part);
    });
}

size_t ChainBuffer::skip(size_t length) {
    return advance(length, [](const GuestSlice&, size_t, size_t, size_t) {});
}

size_t ChainBuffer::take(size_t length, std::vector<iovec>& into) {
    return advance(length, [&](const GuestSlice& slice, size_t offset, size_t part, size_t) {
        iovec piece = slice.part(offset, part).for_host_call();
        // A driver's pages often adjoin; the host's calls are cheaper for fewer pieces.
        if (!into.empty() && static_cast<char*>(into.back().iov_base) + into.back().iov_len == piece.iov_base)
            into.back().iov_len += piece.iov_len;
        else
            into.push_back(piece);
    });
}

bool ChainBuffer::split_tail(size_t length, ChainBuffer& tail) {
    if (length > remaining_) return false;
    tail.clear();
    if (length == 0) return true;
    // From the back: whole slices go over, the one at the border is cut.
    size_t index = slices_.size();
    size_t left = length;
    while (left > slices_[index - 1].size()) left -= slices_[--index].size();
    --index;
    GuestSlice border = slices_[index];
    size_t kept = border.size() - left;
    tail.slices_.push_back(border.part(kept, left));
    tail.slices_.insert(tail.slices_.end(), slices_.begin() + static_cast<ptrdiff_t>(index) + 1, slices_.end());
    tail.remaining_ = length;
    slices_.erase(slices_.begin() + static_cast<ptrdiff_t>(index), slices_.end());
    if (kept > 0) slices_.push_back(border.part(0, kept));
    remaining_ -= length;
    return true;
}

void ChainBuffer::rewind() {
    index_ = offset_ = remaining_ = 0;
    for (const GuestSlice& slice : slices_) remaining_ += slice.size();
}

void ChainBuffer::clear() {
    slices_.clear();
    index_ = offset_ = remaining_ = 0;
}

SysResult<Queue> Queue::create(std::shared_ptr<const GuestMemory> memory, const QueueConfig& config, uint16_t max_size,
                               bool event_index, bool indirect) {
    if (!std::has_single_bit(config.size) || config.size > max_size || config.size > kMaxQueueSize)
        return Errno(EINVAL);
    Queue queue;
    size_t size = config.size;
    // With the event index fields behind the rings, whether negotiated or not: the layout has them.
    queue.descriptors_ = TRY(memory->contiguous(config.descriptors, size * sizeof(Descriptor), 16));
    queue.available_ = TRY(memory->contiguous(config.available, kRing + size * 2 + 2, 2));
    queue.used_ = TRY(memory->contiguous(config.used, kRing + size * 8 + 2, 4));
    queue.memory_ = std::move(memory);
    queue.size_ = config.size;
    queue.event_index_ = event_index;
    queue.indirect_ = indirect;
    queue.busy_.resize(size);
    return queue;
}

void Queue::set_position(QueuePosition position) {
    next_available_ = position.next_available;
    next_used_ = published_ = position.next_used;
}

Errno Queue::fail(const char* why) {
    if (broken_ == nullptr) broken_ = why;
    return Errno(EPROTO);
}

bool Queue::has_more() const {
    return size_ != 0 && broken_ == nullptr && load16(available_ + kIndex) != next_available_;
}

SysResult<bool> Queue::pop(Chain& chain) {
    if (size_ == 0) return false;
    if (broken_ != nullptr) return Errno(EPROTO);
    uint16_t offered = static_cast<uint16_t>(load16(available_ + kIndex) - next_available_);
    if (offered == 0) return false;
    if (offered > size_ || offered + in_flight_ > size_) return fail("more requests offered than the queue has places");
    uint16_t head = load16(available_ + kRing + size_t{2} * (next_available_ & (size_ - 1)));
    if (head >= size_) return fail("head of a chain beyond the queue");
    if (busy_[head]) return fail("head of a chain that is in flight");
    chain.readable.clear();
    chain.writable.clear();
    TRY(walk(head, chain));
    chain.head_ = head;
    if (chain.memory_ != memory_) chain.memory_ = memory_;
    busy_[head] = true;
    ++in_flight_;
    ++next_available_;
    return true;
}

SysResult<void> Queue::walk(uint16_t head, Chain& chain) {
    const char* table = descriptors_;
    bool direct = true;
    std::vector<GuestSlice> table_slices;  // of an indirect table that crosses regions: then there is no `table`
    uint32_t table_size = size_;
    uint32_t index = head;
    uint64_t bytes = 0;
    bool writing = false;
    for (uint32_t left = size_; left > 0; --left) {
        Descriptor d;
        if (table != nullptr) {
            std::memcpy(&d, table + size_t{index} * sizeof(d), sizeof(d));
        } else {
            size_t offset = size_t{index} * sizeof(d), copied = 0;
            for (const GuestSlice& slice : table_slices) {
                if (offset >= slice.size()) {
                    offset -= slice.size();
                    continue;
                }
                size_t part = std::min(sizeof(d) - copied, slice.size() - offset);
                slice.copy_out(offset, reinterpret_cast<char*>(&d) + copied, part);
                copied += part;
                offset = 0;
                if (copied == sizeof(d)) break;
            }
        }
        if ((d.flags & VRING_DESC_F_INDIRECT) != 0) {
            if (!indirect_) return fail("indirect descriptor that was not negotiated");
            if (!direct) return fail("indirect descriptor in an indirect table");
            if ((d.flags & VRING_DESC_F_NEXT) != 0) return fail("indirect descriptor that has a next one");
            if (d.length == 0 || d.length % sizeof(Descriptor) != 0) return fail("odd size of an indirect table");
            if (d.length / sizeof(Descriptor) > size_) return fail("indirect table larger than the queue");
            auto whole = memory_->contiguous(GuestAddr{d.address}, d.length, 1);
            table = whole.ok() ? *whole : nullptr;
            if (table == nullptr && !memory_->append_slices(GuestAddr{d.address}, d.length, table_slices))
                return fail("indirect table that is not in RAM");
            direct = false;
            table_size = static_cast<uint32_t>(d.length / sizeof(Descriptor));
            index = 0;
            ++left;  // it holds no data: as many descriptors may follow as the queue has
            continue;
        }
        bool writable = (d.flags & VRING_DESC_F_WRITE) != 0;
        if (writing && !writable) return fail("readable descriptor behind a writable one");
        writing = writable;
        bytes += d.length;
        if (bytes > kMaxChainBytes) return fail("chain of too many bytes");
        ChainBuffer& buffer = writable ? chain.writable : chain.readable;
        if (!memory_->append_slices(GuestAddr{d.address}, d.length, buffer.slices_))
            return fail("descriptor of memory that is not RAM");
        buffer.remaining_ += d.length;
        if ((d.flags & VRING_DESC_F_NEXT) == 0) return {};
        if (d.next >= table_size) return fail("next descriptor beyond the table");
        index = d.next;
    }
    return fail("chain longer than the queue");
}

void Queue::undo_pop(const Chain& chain) {
    CHECK(in_flight_ > 0 && busy_[chain.head_]);
    busy_[chain.head_] = false;
    --in_flight_;
    --next_available_;
}

void Queue::push(const Chain& chain, uint32_t written) {
    CHECK(in_flight_ > 0 && busy_[chain.head_]);
    char* element = used_ + kRing + size_t{8} * (next_used_ & (size_ - 1));
    store32(element, chain.head_);
    store32(element + 4, written);
    busy_[chain.head_] = false;
    --in_flight_;
    ++next_used_;
}

bool Queue::publish() {
    if (size_ == 0 || published_ == next_used_) return false;
    uint16_t before = published_;
    published_ = next_used_;
    store16(used_ + kIndex, published_);
    // The index must be out before we look whether the driver sleeps (2.7.7.2, 2.7.10).
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!event_index_) return (load16(available_ + kFlags) & VRING_AVAIL_F_NO_INTERRUPT) == 0;
    uint16_t event = load16(available_ + kRing + size_t{2} * size_);
    return static_cast<uint16_t>(published_ - event - 1) < static_cast<uint16_t>(published_ - before);
}

void Queue::disable_notifications() {
    // With the event index there is nothing to do: it stays where it was.
    if (size_ != 0 && !event_index_) store16(used_ + kFlags, VRING_USED_F_NO_NOTIFY);
}

bool Queue::enable_notifications() {
    if (size_ == 0) return false;
    if (event_index_)
        store16(used_ + kRing + size_t{8} * size_, next_available_);
    else
        store16(used_ + kFlags, 0);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return has_more();
}

}  // namespace casemate::virtio
