// System V shared memory: a segment is an object that address spaces map. It goes when it is removed and nobody has it
// mapped any more.
#pragma once

#include <functional>

#include "sentry/ipc/ipc_object.h"
#include "sentry/mm/shared_memory.h"

namespace casemate::sentry {

class SharedSegment;

class SegmentTable final : public RefCounted {
  public:
    explicit SegmentTable(size_t most) : table(most) {}
    ~SegmentTable() override { force_removal(false); }
    IpcTable<SharedSegment> table;
    std::atomic<uint64_t> most_size{UINT64_MAX - (1 << 24)};   // kernel.shmmax, in bytes
    std::atomic<uint64_t> most_pages{UINT64_MAX - (1 << 24)};  // kernel.shmall

    // kernel.shm_rmid_forced: a segment that nobody has mapped goes with its last detach, or its creator's end.
    bool removal_is_forced() const { return forced_.load(std::memory_order_acquire); }
    void force_removal(bool on);
    // Segments that nobody has mapped and whose creator is such a one.
    void remove_orphans(const std::function<bool(const Pid& creator)>& orphaned);

    static bool any_forced() { return forced_tables_.load(std::memory_order_acquire) != 0; }

  private:
    std::atomic<bool> forced_{false};
    static std::atomic<int> forced_tables_;
};
// A process has ended, and its memory with it.
void remove_orphaned_segments(Task& last);

class SharedSegment final : public Mappable, public IpcObject {
  public:
    // `size` as asked for; the memory is whole pages. ENOMEM.
    static SysResult<Ref<SharedSegment>> create(Task& task, Ref<SegmentTable> home, uint64_t size);

    uint64_t size() const { return size_; }
    uint64_t attached() const { return attached_.load(std::memory_order_acquire); }
    // IPC_RMID: gone now, or with the last mapping.
    void remove();
    bool marked() const { return marked_.load(std::memory_order_acquire); }

    // For shmid_ds.
    std::atomic<int64_t> attach_time{0}, detach_time{0}, change_time{0};
    const Ref<Pid> creator;
    void set_last_user(Task& task);
    Ref<Pid> last_user();

    SysResult<Piece> backing(uint64_t offset, uint64_t size, bool write) override;
    uint64_t mappable_size() override { return memory_->mappable_size(); }
    SysResult<void> punch(uint64_t offset, uint64_t size) override { return memory_->punch(offset, size); }
    void add_mapping(AddressSpace&) override;
    void remove_mapping(AddressSpace&) override;

  private:
    SharedSegment(Ref<Pid> creator, Ref<SegmentTable> home, Ref<SharedMemory> memory, uint64_t size);
    const Ref<SegmentTable> home_;
    const Ref<SharedMemory> memory_;
    const uint64_t size_;
    std::atomic<uint64_t> attached_{0};
    std::atomic<bool> marked_{false};  // removed, but still mapped
    SmallMutex pid_mutex_;
    Ref<Pid> last_user_;  // guarded by pid_mutex_
};

}  // namespace casemate::sentry
