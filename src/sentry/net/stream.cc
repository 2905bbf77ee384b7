#include "sentry/net/stream.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace casemate::sentry {
namespace {

constexpr size_t kSmallestRing = 4096;
constexpr size_t kKeptRing = 64 << 10;  // a larger ring is given back when it runs empty

}  // namespace

void StreamDirection::reserve_locked(size_t size) {
    if (size_ + size <= allocated_) return;
    size_t wanted = std::max(kSmallestRing, std::bit_ceil(size_ + size));
    auto grown = std::make_unique_for_overwrite<std::byte[]>(wanted);
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
    head_ = size_ == 0 ? 0 : (head_ + size) & (allocated_ - 1);
    if (size_ == 0 && allocated_ > kKeptRing) {
        ring_.reset();
        allocated_ = 0;
    }
}

bool StreamDirection::wakes_writer_locked() {
    if (!wake_wanted_ || size_ > wake_below_) return false;
    wake_wanted_ = false;
    return true;
}

StreamDirection::Progress StreamDirection::write_locked(IoBuffer& from, size_t limit) {
    Progress progress;
    if (ended_ || reader_gone_) return {.ended = true};
    if (size_ >= limit) {
        wake_wanted_ = true;
        wake_below_ = limit / 2;
        return {.would_block = true};
    }
    size_t want = std::min(from.remaining(), limit - size_);
    reserve_locked(want);
    while (progress.bytes < want) {
        size_t tail = (head_ + size_) & (allocated_ - 1);
        size_t part = std::min(want - progress.bytes, allocated_ - tail);
        auto copied = from.copy_from(ring_.get() + tail, part);
        if (!copied.ok()) {
            if (progress.bytes == 0) progress.error = copied.error().value;
            break;
        }
        progress.bytes += *copied;
        size_ += *copied;
        if (*copied < part) break;
    }
    if (progress.bytes > 0) writes_++;
    return progress;
}

StreamDirection::Progress StreamDirection::write_marked(IoBuffer& from, size_t limit, size_t rest,
                                                        const std::function<void(uint64_t, std::byte)>& mark) {
    Progress progress;
    {
        std::lock_guard lock(mutex_);
        progress = write_locked(from, limit);
        if (progress.bytes > 0 && progress.bytes == rest)
            mark(position_ + size_, ring_[(head_ + size_ - 1) & (allocated_ - 1)]);
    }
    if (progress.bytes > 0) reader_->queue.notify(EPOLLIN | EPOLLRDNORM | EPOLLPRI);
    return progress;
}

StreamDirection::Progress StreamDirection::write(IoBuffer& from, size_t limit, const Ref<Passenger>& passenger) {
    Progress progress;
    {
        std::lock_guard lock(mutex_);
        progress = write_locked(from, limit);
        if (passenger && progress.bytes > 0) {
            uint64_t end = position_ + size_;
            // Bytes of one sender in a row are one stretch.
            if (!marks_.empty() && marks_.back().end == end - progress.bytes && !passenger->files &&
                !marks_.back().passenger->files && marks_.back().passenger->credentials == passenger->credentials)
                marks_.back().end = end;
            else
                marks_.push_back({end - progress.bytes, end, passenger});
        }
    }
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
        std::lock_guard lock(mutex_);
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
            auto moved = move(ring_.get() + offset, part);
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

void StreamDirection::end() {
    {
        std::lock_guard lock(mutex_);
        ended_ = true;
    }
    reader_->everything();
    writer_->everything();
}

bool StreamDirection::close_reader() {
    std::deque<Mark> marks;
    std::unique_ptr<std::byte[]> ring;
    bool unread;
    {
        std::lock_guard lock(mutex_);
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
    return size_;
}

uint64_t StreamDirection::position() {
    std::lock_guard lock(mutex_);
    return position_;
}

StreamDirection::Total StreamDirection::total() {
    std::lock_guard lock(mutex_);
    return {position_ + size_, writes_};
}

bool StreamDirection::writable(size_t limit) {
    std::lock_guard lock(mutex_);
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
