#include "sentry/net/stack/timers.h"

#include <vector>

namespace casemate::sentry::stack {
namespace {

constexpr size_t kKeptRoom = 256;  // entries whose memory is never given back

}  // namespace

void TimerList::put_locked(size_t place, Entry entry) {
    entry.target->place_ = static_cast<uint32_t>(place);
    heap_[place] = std::move(entry);
}

void TimerList::rise_locked(size_t place) {
    Entry entry = std::move(heap_[place]);
    for (size_t above; place > 0 && entry.deadline < heap_[above = (place - 1) / 2].deadline; place = above)
        put_locked(place, std::move(heap_[above]));
    put_locked(place, std::move(entry));
}

void TimerList::sink_locked(size_t place) {
    Entry entry = std::move(heap_[place]);
    while (true) {
        size_t below = 2 * place + 1;
        if (below + 1 < heap_.size() && heap_[below + 1].deadline < heap_[below].deadline) below++;
        if (below >= heap_.size() || heap_[below].deadline >= entry.deadline) break;
        put_locked(place, std::move(heap_[below]));
        place = below;
    }
    put_locked(place, std::move(entry));
}

Ref<TimerTarget> TimerList::take_locked(size_t place) {
    Ref<TimerTarget> target = std::move(heap_[place].target);
    target->place_ = TimerTarget::kNowhere;
    Entry last = std::move(heap_.back());
    heap_.pop_back();
    if (place < heap_.size()) {
        Nanoseconds deadline = last.deadline;
        put_locked(place, std::move(last));
        if (place > 0 && deadline < heap_[(place - 1) / 2].deadline)
            rise_locked(place);
        else
            sink_locked(place);
    }
    if (heap_.capacity() > kKeptRoom && heap_.size() < heap_.capacity() / 4) {
        std::vector<Entry> smaller;
        smaller.reserve(heap_.capacity() / 2);
        for (Entry& entry : heap_) smaller.push_back(std::move(entry));
        heap_.swap(smaller);
    }
    return target;
}

void TimerList::arm(TimerTarget& target, Nanoseconds deadline) {
    std::lock_guard lock(mutex_);
    if (target.place_ == TimerTarget::kNowhere) {
        heap_.push_back({deadline, Ref<TimerTarget>(&target)});
        rise_locked(heap_.size() - 1);
    } else {
        Entry& entry = heap_[target.place_];
        if (entry.deadline <= deadline) return;
        entry.deadline = deadline;
        rise_locked(target.place_);
    }
    if (alarm_at_ == 0 || deadline < alarm_at_) alarm_(alarm_at_ = deadline);
}

void TimerList::disarm(TimerTarget& target) {
    Ref<TimerTarget> dropped;
    std::lock_guard lock(mutex_);
    if (target.place_ != TimerTarget::kNowhere) dropped = take_locked(target.place_);
}

void TimerList::run(Nanoseconds now) {
    std::vector<Ref<TimerTarget>> due;
    {
        std::lock_guard lock(mutex_);
        alarm_at_ = 0;
        while (!heap_.empty() && heap_.front().deadline <= now) due.push_back(take_locked(0));
    }
    for (auto& target : due) target->timer_fired(now);
    std::lock_guard lock(mutex_);
    if (!heap_.empty() && (alarm_at_ == 0 || heap_.front().deadline < alarm_at_))
        alarm_(alarm_at_ = heap_.front().deadline);
}

Nanoseconds TimerList::next() {
    std::lock_guard lock(mutex_);
    return heap_.empty() ? 0 : heap_.front().deadline;
}

void TimerList::clear() {
    std::vector<Entry> dropped;
    std::lock_guard lock(mutex_);
    for (Entry& entry : heap_) entry.target->place_ = TimerTarget::kNowhere;
    dropped.swap(heap_);
}

size_t TimerList::size() {
    std::lock_guard lock(mutex_);
    return heap_.size();
}
size_t TimerList::room() {
    std::lock_guard lock(mutex_);
    return heap_.capacity();
}

}  // namespace casemate::sentry::stack
