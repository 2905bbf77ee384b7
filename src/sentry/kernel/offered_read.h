// Bytes of a stream that its reader's application may take by itself, in its stub (AppThread::offer_place): who waited
// for a stream with epoll or poll reads it next.
//
// The stream keeps the bytes until it looks at itself again, and then ends the offer: what was taken is dropped. While
// the bytes are offered, that the stream is empty behind them stands (standing_answers.h); it is withdrawn first, so
// that whoever finds the offer gone finds that gone, too. The application's memory is not touched after the end.
#pragma once

#include <atomic>
#include <mutex>

#include "base/ref.h"
#include "sentry/platform/platform.h"
#include "sentry/vfs/small_mutex.h"

namespace casemate::sentry {

class OfferedRead final : public RefCounted {
  public:
    OfferedRead(const StandingPlace& behind, const OfferPlace& place, size_t size)
        : behind_(behind), size_(size), place_(place) {}

    // `copy`(to) brings the bytes; nothing happens if it has ended already.
    template <typename Copy>
    void make(Copy copy) {
        std::lock_guard lock(mutex_);
        if (place_.word == nullptr) return;
        made_ = true;
        copy(place_.data);
        behind_.word->store(behind_.value, std::memory_order_seq_cst);
        place_.word->store(place_.value, std::memory_order_seq_cst);
    }
    // From any thread, as often as one likes: how many bytes were taken, all or none.
    size_t end() {
        std::lock_guard lock(mutex_);
        if (place_.word != nullptr) {
            if (made_) {
                behind_.word->store(0, std::memory_order_seq_cst);
                uint64_t found = place_.value;
                taken_ = !place_.word->compare_exchange_strong(found, 0, std::memory_order_seq_cst) && found != 0;
            }
            place_.word = nullptr;
        }
        return taken_ ? size_ : 0;
    }

  private:
    SmallMutex mutex_;
    const StandingPlace behind_;
    const size_t size_;
    OfferPlace place_;   // guarded by mutex_, as is all below
    bool made_ = false;  // before that the word is an earlier offer's
    bool taken_ = false;
};

}  // namespace casemate::sentry
