#include "sentry/vfs/locks.h"

#include <algorithm>
#include <unordered_map>

#include "sentry/kernel/task.h"

namespace casemate::sentry {

namespace {

constexpr uint32_t kReleased = 1;  // the event of waiters_

// Which POSIX owner waits for which other one. A bounded graph: an entry per blocked task.
class WaitGraph {
  public:
    // False if `owner` waiting for `holder` closes a cycle.
    bool add(const void* owner, const void* holder) {
        std::lock_guard lock(mutex_);
        const void* at = holder;
        for (size_t hops = 0; hops <= waits_.size(); ++hops) {
            if (at == owner) return false;
            auto next = waits_.find(at);
            if (next == waits_.end()) break;
            at = next->second;
        }
        waits_.insert_or_assign(owner, holder);
        return true;
    }
    void remove(const void* owner) {
        std::lock_guard lock(mutex_);
        waits_.erase(owner);
    }

  private:
    std::mutex mutex_;
    std::unordered_map<const void*, const void*> waits_;  // guarded by mutex_
};

WaitGraph& wait_graph() {
    static WaitGraph graph;
    return graph;
}

bool overlaps(const InodeLocks::Range& a, const InodeLocks::Range& b) { return a.start < b.end && b.start < a.end; }

}  // namespace

std::optional<InodeLocks::Range> InodeLocks::conflict_locked(const Range& wanted) const {
    for (const Range& held : ranges_)
        if (held.owner != wanted.owner && overlaps(held, wanted) && (held.exclusive || wanted.exclusive)) return held;
    return std::nullopt;
}

std::optional<InodeLocks::Range> InodeLocks::conflict(const Range& wanted) {
    std::lock_guard lock(mutex_);
    return conflict_locked(wanted);
}

void InodeLocks::clear_locked(const Range& range) {
    std::vector<Range> kept;
    for (const Range& held : ranges_) {
        if (held.owner != range.owner || held.kind != range.kind || !overlaps(held, range)) {
            kept.push_back(held);
            continue;
        }
        if (held.start < range.start) {
            Range before = held;
            before.end = range.start;
            kept.push_back(before);
        }
        if (held.end > range.end) {
            Range behind = held;
            behind.start = range.end;
            kept.push_back(behind);
        }
    }
    ranges_.swap(kept);
}

SysResult<void> InodeLocks::set_range(Task& task, const Range& wanted, bool wait) {
    auto attempt = [&]() -> std::optional<SysResult<void>> {
        std::lock_guard lock(mutex_);
        if (auto held = conflict_locked(wanted)) {
            if (!wait) return SysResult<void>(Errno(EAGAIN));
            if (wanted.kind == Kind::kPosix && held->kind == Kind::kPosix &&
                !wait_graph().add(wanted.owner, held->owner))
                return SysResult<void>(Errno(EDEADLK));
            return std::nullopt;
        }
        clear_locked(wanted);
        Range merged = wanted;
        // Neighbours of the same kind grow together, as F_GETLK shows them.
        std::erase_if(ranges_, [&](const Range& held) {
            if (held.owner != merged.owner || held.kind != merged.kind || held.exclusive != merged.exclusive)
                return false;
            if (held.end != merged.start && held.start != merged.end) return false;
            merged.start = std::min(merged.start, held.start);
            merged.end = std::max(merged.end, held.end);
            return true;
        });
        auto place = std::lower_bound(ranges_.begin(), ranges_.end(), merged,
                                      [](const Range& a, const Range& b) { return a.start < b.start; });
        ranges_.insert(place, merged);
        return SysResult<void>();
    };
    auto result = task.wait_on(waiters_, kReleased, std::nullopt, attempt);
    if (wait && wanted.kind == Kind::kPosix) wait_graph().remove(wanted.owner);
    // A lock that shrank from exclusive to shared may let others in.
    if (result.ok()) waiters_.notify(kReleased);
    return result;
}

void InodeLocks::clear_range(const Range& range) {
    {
        std::lock_guard lock(mutex_);
        clear_locked(range);
    }
    waiters_.notify(kReleased);
}

bool InodeLocks::try_flock_locked(const void* owner, bool exclusive) {
    for (const Flock& held : flocks_)
        if (held.owner != owner && (held.exclusive || exclusive)) return false;
    std::erase_if(flocks_, [&](const Flock& held) { return held.owner == owner; });
    flocks_.push_back(Flock{owner, exclusive});
    return true;
}

SysResult<void> InodeLocks::flock(Task& task, const void* owner, bool exclusive, bool wait) {
    // A conversion drops the old lock first, as Linux does: two converting owners must not wait for each other.
    bool converting = false;
    {
        std::lock_guard lock(mutex_);
        for (const Flock& held : flocks_)
            if (held.owner == owner) {
                if (held.exclusive == exclusive) return {};
                converting = true;
            }
        if (try_flock_locked(owner, exclusive)) {
            if (!converting) return {};
        } else if (converting) {
            std::erase_if(flocks_, [&](const Flock& held) { return held.owner == owner; });
        }
    }
    if (converting) waiters_.notify(kReleased);
    auto attempt = [&]() -> std::optional<SysResult<void>> {
        std::lock_guard lock(mutex_);
        if (try_flock_locked(owner, exclusive)) return SysResult<void>();
        if (!wait) return SysResult<void>(Errno(EWOULDBLOCK));
        return std::nullopt;
    };
    return task.wait_on(waiters_, kReleased, std::nullopt, attempt);
}

void InodeLocks::unflock(const void* owner) {
    {
        std::lock_guard lock(mutex_);
        if (std::erase_if(flocks_, [&](const Flock& held) { return held.owner == owner; }) == 0) return;
    }
    waiters_.notify(kReleased);
}

void InodeLocks::release_owner(const void* table) {
    {
        std::lock_guard lock(mutex_);
        if (std::erase_if(ranges_, [&](const Range& r) { return r.kind == Kind::kPosix && r.owner == table; }) == 0)
            return;
    }
    waiters_.notify(kReleased);
}

void InodeLocks::release_description(const void* file) {
    {
        std::lock_guard lock(mutex_);
        size_t gone =
            std::erase_if(ranges_, [&](const Range& r) { return r.kind == Kind::kDescription && r.owner == file; });
        gone += std::erase_if(flocks_, [&](const Flock& held) { return held.owner == file; });
        if (gone == 0) return;
    }
    waiters_.notify(kReleased);
}

std::vector<InodeLocks::Shown> InodeLocks::snapshot() {
    std::vector<Shown> shown;
    std::lock_guard lock(mutex_);
    for (const Range& range : ranges_) shown.push_back(Shown{range, false});
    for (const Flock& held : flocks_) {
        Range range;
        range.end = INT64_MAX;
        range.exclusive = held.exclusive;
        range.owner = held.owner;
        shown.push_back(Shown{range, true});
    }
    return shown;
}

}  // namespace casemate::sentry
