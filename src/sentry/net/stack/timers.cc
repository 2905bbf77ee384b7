#include "sentry/net/stack/timers.h"

#include <vector>

namespace casemate::sentry::stack {

void TimerList::arm(TimerTarget& target, Nanoseconds deadline) {
    Ref<TimerTarget> dropped;
    bool ring = false;
    {
        std::lock_guard lock(mutex_);
        if (target.armed_ != 0) {
            if (target.armed_ <= deadline) return;
            auto [it, end] = entries_.equal_range(target.armed_);
            while (it != end && it->second.get() != &target) ++it;
            if (it != end) {
                dropped = std::move(it->second);
                entries_.erase(it);
            }
        }
        target.armed_ = deadline;
        entries_.emplace(deadline, dropped ? dropped : Ref<TimerTarget>(&target));
        if (alarm_at_ == 0 || deadline < alarm_at_) {
            alarm_at_ = deadline;
            ring = true;
        }
    }
    if (ring) alarm_(deadline);
}

void TimerList::disarm(TimerTarget& target) {
    Ref<TimerTarget> dropped;
    std::lock_guard lock(mutex_);
    if (target.armed_ == 0) return;
    auto [it, end] = entries_.equal_range(target.armed_);
    while (it != end && it->second.get() != &target) ++it;
    if (it != end) {
        dropped = std::move(it->second);
        entries_.erase(it);
    }
    target.armed_ = 0;
}

void TimerList::run(Nanoseconds now) {
    std::vector<Ref<TimerTarget>> due;
    {
        std::lock_guard lock(mutex_);
        alarm_at_ = 0;
        while (!entries_.empty() && entries_.begin()->first <= now) {
            due.push_back(std::move(entries_.begin()->second));
            due.back()->armed_ = 0;
            entries_.erase(entries_.begin());
        }
    }
    for (auto& target : due) target->timer_fired(now);
    Nanoseconds next_deadline = 0;
    {
        std::lock_guard lock(mutex_);
        if (!entries_.empty() && (alarm_at_ == 0 || entries_.begin()->first < alarm_at_))
            next_deadline = alarm_at_ = entries_.begin()->first;
    }
    if (next_deadline != 0) alarm_(next_deadline);
}

Nanoseconds TimerList::next() {
    std::lock_guard lock(mutex_);
    return entries_.empty() ? 0 : entries_.begin()->first;
}

void TimerList::clear() {
    std::multimap<Nanoseconds, Ref<TimerTarget>> dropped;
    std::lock_guard lock(mutex_);
    for (auto& [deadline, target] : entries_) target->armed_ = 0;
    dropped.swap(entries_);
}

}  // namespace casemate::sentry::stack
