// Contexts of asynchronous I/O (io_setup(2)): what has been done and not been asked for yet.
//
// A context is named by the address of its ring, a page that the application maps. Ours says nothing in there, so that
// C libraries ask the kernel. As an object that is mapped it ends with its last mapping.
#pragma once

#include <linux/aio_abi.h>

#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "sentry/kernel/wait_queue.h"
#include "sentry/mm/shared_memory.h"

namespace casemate::sentry {

class AioContexts;

class AioContext final : public Mappable {
  public:
    AioContext(AioContexts& home, Ref<SharedMemory> ring, const AddressSpace* owner, uint32_t capacity)
        : capacity(capacity), home_(home), ring_(std::move(ring)), owner_(owner) {}

    // Fork copies the mapping, not the context.
    bool belongs_to(const AddressSpace& space) const { return owner_ == &space; }
    // Room for one more event, which add() or cancel() uses. False: EAGAIN.
    bool reserve();
    void cancel();
    void add(const io_event& event);
    // Takes what there is, at most `most`.
    std::vector<io_event> take(size_t most);
    // Nobody is to wait any more.
    void end();
    bool ended();
    WaitQueue waiters;
    const uint32_t capacity;

    SysResult<Piece> backing(uint64_t offset, uint64_t size, bool write) override {
        return ring_->backing(offset, size, write);
    }
    uint64_t mappable_size() override { return ring_->mappable_size(); }
    void add_mapping(AddressSpace&) override { mappings_.fetch_add(1); }
    void remove_mapping(AddressSpace&) override;

  private:
    AioContexts& home_;
    const Ref<SharedMemory> ring_;
    const AddressSpace* const owner_;  // compared only
    std::atomic<int> mappings_{0};
    std::mutex mutex_;
    std::deque<io_event> done_;  // guarded by mutex_
    size_t reserved_ = 0;        // guarded by mutex_
    bool ended_ = false;         // guarded by mutex_
};

// All of them.
class AioContexts {
  public:
    static constexpr uint64_t kMostEvents = 65536;  // fs.aio-max-nr

    // EAGAIN: too many events.
    SysResult<Ref<AioContext>> create(MemoryFile& memory, const AddressSpace& owner, uint32_t events);
    // By what AddressSpace::share_key() tells; null.
    Ref<AioContext> find(const void* object);
    void remove(AioContext& context);
    uint64_t events();

  private:
    std::mutex mutex_;
    std::map<const void*, Ref<AioContext>> contexts_;  // guarded by mutex_
    uint64_t events_ = 0;                              // guarded by mutex_
};

// One process is one guest kernel.
AioContexts& aio_contexts();

}  // namespace casemate::sentry
