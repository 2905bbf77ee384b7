#include "sentry/ipc/shared_segment.h"

#include "sentry/ipc/ipc_state.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"

namespace casemate::sentry {

std::atomic<int> SegmentTable::forced_tables_{0};

void SegmentTable::force_removal(bool on) {
    if (forced_.exchange(on, std::memory_order_acq_rel) != on) forced_tables_ += on ? 1 : -1;
}

void SegmentTable::remove_orphans(const std::function<bool(const Pid&)>& orphaned) {
    for (auto& segment : table.all())
        if (segment->attached() == 0 && orphaned(*segment->creator)) segment->remove();
}

void remove_orphaned_segments(Task& last) {
    if (!SegmentTable::any_forced()) return;
    Ref<SegmentTable> segments = ipc_of(last)->segments;
    if (!segments->removal_is_forced()) return;
    segments->remove_orphans([&](const Pid& creator) { return &creator == last.process().pid.get(); });
}

SharedSegment::SharedSegment(Ref<Pid> by, Ref<SegmentTable> home, Ref<SharedMemory> memory, uint64_t size)
    : creator(std::move(by)), home_(std::move(home)), memory_(std::move(memory)), size_(size) {
    change_time = realtime_now() / kSecond;
}

SysResult<Ref<SharedSegment>> SharedSegment::create(Task& task, Ref<SegmentTable> home, uint64_t size) {
    Ref<SharedMemory> memory = TRY(SharedMemory::create(task.kernel().memory(), size));
    return Ref<SharedSegment>::adopt(
        new SharedSegment(Ref<Pid>(task.process().pid), std::move(home), std::move(memory), size));
}

void SharedSegment::set_last_user(Task& task) {
    Ref<Pid> user(task.process().pid);
    std::lock_guard lock(pid_mutex_);
    std::swap(user, last_user_);
}
Ref<Pid> SharedSegment::last_user() {
    std::lock_guard lock(pid_mutex_);
    return last_user_;
}

SysResult<Mappable::Piece> SharedSegment::backing(uint64_t offset, uint64_t size, bool write) {
    return memory_->backing(offset, size, write);
}

void SharedSegment::add_mapping(AddressSpace&) {
    attached_.fetch_add(1, std::memory_order_acq_rel);
    attach_time = realtime_now() / kSecond;
}

void SharedSegment::remove_mapping(AddressSpace&) {
    detach_time = realtime_now() / kSecond;
    // The mapping that goes still holds a reference of its own.
    if (attached_.fetch_sub(1, std::memory_order_acq_rel) == 1 && (marked() || home_->removal_is_forced()))
        home_->table.remove(*this);
}

void SharedSegment::remove() {
    home_->table.forget_key(*this);
    marked_ = true;
    if (attached() == 0) home_->table.remove(*this);
}

}  // namespace casemate::sentry
