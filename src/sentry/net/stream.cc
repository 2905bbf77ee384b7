#include "sentry/net/stream.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace casemate::sentry {
namespace {

constexpr size_t kSmallestRing = 4096;
constexpr size_t kKeptRing = 64 << 10;   // a larger ring is given back when it runs empty
constexpr size_t kMostStored = 2 << 20;  // bytes of rings that are kept for the next who needs one

// Large rings that nobody uses: their pages are there, which new ones' are not.
class RingStore {
  public:
    std::shared_ptr<std::byte[]> take(size_t size) {
        std::byte* memory = nullptr;
        if (size > kKeptRing) {
            std::lock_guard lock(mutex_);
            auto found = std::ranges::find(rings_, size, &Stored::size);
            if (found != rings_.end()) {
                memory = found->memory;
                rings_.erase(found);
                stored_ -= size;
            }
        }
        if (memory == nullptr) memory = new std::byte[size];
        return {memory, [this, size](std::byte* ring) { give_back(ring, size); }};
    }

  private:
    struct Stored {
        size_t size;
        std::byte* memory;
    };
    void give_back(std::byte* ring, size_t size) {
        if (size > kKeptRing) {
            std::lock_guard lock(mutex_);
            if (stored_ + size <= kMostStored) {
                rings_.push_back({size, ring});
                stored_ += size;
                return;
            }
        }
        delete[] ring;
    }
    SmallMutex mutex_;
    std::vector<Stored> rings_;  // guarded by mutex_
    size_t stored_ = 0;          // guarded by mutex_
};

// Of the process, and never taken down: rings may outlive whoever would own it.
RingStore& ring_store() {
    static RingStore& store = *new RingStore;
    return store;
}

}  // namespace

void StreamDirection::reserve_locked(size_t size) {
    if (size_ + size <= allocated_) return;
    size_t wanted = std::max(kSmallestRing, std::bit_ceil(size_ + size));
    // Who filled a large one will do so again.
    if (wanted > kKeptRing) wanted = std::max(wanted, once_allocated_);
    once_allocated_ = std::max(once_allocated_, wanted);
    auto grown = ring_store().take(wanted);
    if (size_ > 0) {
        size_t first = std::min(size_, allocated_ - head_);
        memcpy(grown.get(), ring_.get() + head_, first);
        memcpy(grown.get() + first, ring_.get(), size_ - first);
    }
    ring_ = std::move(grown);
    allocated_ = wanted;
    head_ = 0;
}

void StreamDirection::drop_locked(size_t size) {
    size_ -= size;
    position_ += size;
    head_ = (head_ + size) & (allocated_ - 1);
    if (size_ > 0 || writing_) return;
    head_ = 0;
    if (allocated_ > kKeptRing) {
        ring_.reset();
        allocated_ = 0;
    }
}

bool StreamDirection::wakes_writer_locked() {
    if (!wake_wanted_ || size_ > wake_below_) return false;
    wake_wanted_ = false;
    return true;
}

template <typename Done>
StreamDirection::Progress StreamDirection::write_then(IoBuffer& from, size_t limit, Done done) {
    Progress progress;
    std::lock_guard one_writer(write_mutex_);
    std::shared_ptr<std::byte[]> ring;
    size_t want, tail, mask;
    {
        std::lock_guard lock(mutex_);
        end_offer_locked();
        if (ended_ || reader_gone_) return {.ended = true};
        if (size_ >= limit) {
            wake_wanted_ = true;
            wake_below_ = limit / 2;
            return {.would_block = true};
        }
        want = std::min(from.remaining(), limit - size_);
        reserve_locked(want);
        ring = ring_;
        mask = allocated_ - 1;
        tail = (head_ + size_) & mask;
        writing_ = true;
    }
    while (progress.bytes < want) {
        size_t at = (tail + progress.bytes) & mask;
        size_t part = std::min(want - progress.bytes, mask + 1 - at);
        auto copied = from.copy_from(ring.get() + at, part);
        if (!copied.ok()) {
            if (progress.bytes == 0) progress.error = copied.error().value;
            break;
        }
        progress.bytes += *copied;
        if (*copied < part) break;
    }
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (reader_gone_) {
        // It went meanwhile: what was written is lost, as what it had not read.
        position_ += progress.bytes;
        return progress;
    }
    size_ += progress.bytes;
    if (progress.bytes > 0) writes_++;
    done(progress);
    return progress;
}

StreamDirection::Progress StreamDirection::write_marked(IoBuffer& from, size_t limit, size_t rest,
                                                        const std::function<void(uint64_t, std::byte)>& mark) {
    bool marked = false;
    Progress progress = write_then(from, limit, [&](const Progress& written) {
        marked = written.bytes > 0 && written.bytes == rest;
        if (marked) mark(position_ + size_, ring_[(head_ + size_ - 1) & (allocated_ - 1)]);
    });
    if (progress.bytes > 0) reader_->queue.notify(EPOLLIN | EPOLLRDNORM | (marked ? uint32_t{EPOLLPRI} : 0u));
    return progress;
}

StreamDirection::Progress StreamDirection::write(IoBuffer& from, size_t limit, const Ref<Passenger>& passenger) {
    Progress progress = write_then(from, limit, [&](const Progress& written) {
        if (!passenger || written.bytes == 0) return;
        uint64_t end = position_ + size_;
        // Bytes of one sender in a row are one stretch.
        if (!marks_.empty() && marks_.back().end == end - written.bytes && !passenger->files &&
            !marks_.back().passenger->files && marks_.back().passenger->credentials == passenger->credentials)
            marks_.back().end = end;
        else
            marks_.push_back({end - written.bytes, end, passenger});
    });
    if (progress.bytes > 0) reader_->readable();
    return progress;
}

// Hands stretches of the ring to `move`(memory, size) -> SysResult<size_t> until `want` bytes or a border.
template <typename Move>
StreamDirection::Progress StreamDirection::read_by(size_t want, Reading& reading, Move move) {
    Progress progress;
    bool wake = false;
    std::vector<Ref<Passenger>> finished;  // released behind the lock: they may own the last references to files
    {
        std::lock_guard one_reader(read_mutex_);
        std::unique_lock lock(mutex_);
        end_offer_locked();
        size_t seen = reading.peek ? std::min(reading.peeked, size_) : 0;
        if (size_ == seen) return {.would_block = !ended_, .ended = ended_};
        size_t mark_index = 0;
        while (progress.bytes < want && size_ > seen && !reading.stop) {
            uint64_t at = position_ + seen;
            // The stretch that `at` lies in: up to where a mark begins or ends.
            size_t stretch = size_ - seen;
            Mark* mark = nullptr;
            while (mark_index < marks_.size() && marks_[mark_index].end <= at) mark_index++;
            if (mark_index < marks_.size()) {
                Mark& candidate = marks_[mark_index];
                if (candidate.begin <= at) {
                    mark = &candidate;
                    stretch = std::min<uint64_t>(stretch, candidate.end - at);
                } else {
                    stretch = std::min<uint64_t>(stretch, candidate.begin - at);
                }
            }
            Passenger* passenger = mark != nullptr ? mark->passenger.get() : nullptr;
            if (reading.started && reading.by_sender) {
                auto credentials_of = [](Passenger* p) { return p != nullptr ? p->credentials : std::nullopt; };
                if (credentials_of(passenger) != credentials_of(reading.sender.get())) {
                    reading.stop = true;
                    break;
                }
            }
            if (!reading.started) {
                reading.started = true;
                reading.sender = Ref<Passenger>(passenger);
            }
            size_t offset = (head_ + seen) & (allocated_ - 1);
            size_t part = std::min({want - progress.bytes, stretch, allocated_ - offset});
            // Without a border and a peek the copy needs no lock: what is read stays where it is until it is dropped.
            bool alone = !reading.peek && marks_.empty();
            std::shared_ptr<std::byte[]> ring = ring_;
            if (alone) lock.unlock();
            auto moved = move(ring.get() + offset, part);
            if (alone) lock.lock();
            if (alone && reader_gone_) {
                if (moved.ok()) progress.bytes += *moved;
                break;
            }
            if (!moved.ok()) {
                if (progress.bytes == 0) progress.error = moved.error().value;
                break;
            }
            progress.bytes += *moved;
            if (passenger != nullptr && passenger->files && !mark->files_taken) {
                reading.files = passenger->files;
                if (!reading.peek) mark->files_taken = true;
            }
            bool had_files = mark != nullptr && mark->passenger->files;
            bool at_end = mark != nullptr && at + *moved == mark->end;
            if (reading.peek) {
                seen += *moved;
                reading.peeked = seen;
                if (had_files) reading.stop = true;
            } else {
                if (at_end) {
                    // Only the first mark can end here: what lies before it has been read.
                    finished.push_back(std::move(mark->passenger));
                    marks_.pop_front();
                    mark_index = 0;
                    if (had_files) reading.stop = true;
                }
                drop_locked(*moved);
            }
            if (*moved < part) break;
        }
        wake = wakes_writer_locked();
    }
    if (wake) writer_->writable();
    return progress;
}

StreamDirection::Progress StreamDirection::read(IoBuffer& into, Reading& reading, size_t most) {
    return read_by(std::min(into.remaining(), most), reading,
                   [&](const std::byte* memory, size_t size) { return into.copy_to(memory, size); });
}

StreamDirection::Progress StreamDirection::skip(size_t size, Reading& reading) {
    return read_by(size, reading, [](const std::byte*, size_t part) { return SysResult<size_t>(part); });
}

void StreamDirection::end_offer_locked() {
    if (!offer_) return;
    if (const size_t taken = std::exchange(offer_, nullptr)->end()) drop_locked(taken);
}

Ref<OfferedRead> StreamDirection::offer(size_t most, const OfferMaker& place) {
    std::unique_lock one_reader(read_mutex_, std::try_to_lock);
    if (!one_reader) return nullptr;
    std::lock_guard lock(mutex_);
    end_offer_locked();
    if (size_ == 0 || size_ > most || ended_ || reader_gone_ || writing_ || wake_wanted_ || !marks_.empty())
        return nullptr;
    offer_ = place(size_);
    if (!offer_) return nullptr;
    offer_->make([&](std::byte* to) {
        const size_t first = std::min(size_, allocated_ - head_);
        memcpy(to, ring_.get() + head_, first);
        memcpy(to + first, ring_.get(), size_ - first);
    });
    return offer_;
}

void StreamDirection::end() {
    {
        std::lock_guard one_writer(write_mutex_);  // what is being written comes before the end
        std::lock_guard lock(mutex_);
        ended_ = true;
    }
    reader_->everything();
    writer_->everything();
}

bool StreamDirection::close_reader() {
    std::deque<Mark> marks;
    std::shared_ptr<std::byte[]> ring;
    bool unread;
    {
        std::lock_guard lock(mutex_);
        end_offer_locked();
        unread = size_ > 0;
        reader_gone_ = ended_ = true;
        marks.swap(marks_);
        ring = std::move(ring_);
        position_ += size_;
        allocated_ = head_ = size_ = 0;
    }
    writer_->everything();
    return unread;
}

bool StreamDirection::readable() {
    std::lock_guard lock(mutex_);
    end_offer_locked();
    return size_ > 0 || ended_;
}
bool StreamDirection::ended() {
    std::lock_guard lock(mutex_);
    return ended_;
}
bool StreamDirection::reader_gone() {
    std::lock_guard lock(mutex_);
    return reader_gone_;
}
size_t StreamDirection::bytes() {
    std::lock_guard lock(mutex_);
    end_offer_locked();
    return size_;
}

uint64_t StreamDirection::position() {
    std::lock_guard lock(mutex_);
    end_offer_locked();
    return position_;
}

StreamDirection::Total StreamDirection::total() {
    std::lock_guard lock(mutex_);
    end_offer_locked();
    return {position_ + size_, writes_};
}

bool StreamDirection::writable(size_t limit) {
    std::lock_guard lock(mutex_);
    // Who writes looks here all the time: an offer ends only where that may tell something else.
    if (size_ <= limit / 2) return true;
    end_offer_locked();
    if (size_ <= limit / 2) return true;
    wake_wanted_ = true;
    wake_below_ = limit / 2;
    return false;
}

void StreamDirection::for_each_passed(const std::function<void(PassedFiles&)>& visit) {
    std::lock_guard lock(mutex_);
    for (Mark& mark : marks_)
        if (mark.passenger->files && !mark.files_taken) visit(*mark.passenger->files);
}

void StreamDirection::take_passed(std::vector<Ref<PassedFiles>>& into) {
    std::lock_guard lock(mutex_);
    for (Mark& mark : marks_) {
        if (!mark.passenger->files) continue;
        mark.files_taken = true;
        // The passenger may be shared with a peek under way; the mark gets one without files.
        auto bare = make_ref<Passenger>();
        bare->credentials = mark.passenger->credentials;
        into.push_back(mark.passenger->files);
        mark.passenger = std::move(bare);
    }
}

}  // namespace casemate::sentry
