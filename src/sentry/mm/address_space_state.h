// The inside of an AddressSpace: its sorted VMAs, the batch of host orders a change makes, and the steps that the
// public operations are composed of. Included by mm/address_space_*.cc only.
#pragma once

#include <deque>
#include <optional>
#include <shared_mutex>
#include <vector>

#include "base/checked.h"
#include "sentry/mm/address_space.h"
#include "sentry/mm/guarded_copy.h"
#include "sentry/mm/vma.h"

namespace casemate::sentry {

constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr GuestAddr kMinAddress = 0x10000;  // vm.mmap_min_addr
constexpr size_t kMaxVmas = 65530;          // vm.max_map_count
constexpr uint64_t kStackPiece = 64 << 10;  // the least that a touch of a stack backs
constexpr uint64_t kCopyLimit = uint64_t{4}
                                << 20;  // private file pages that become writable: copied at once up to here

// Host orders and what is to be freed once the host has carried them out.
struct Changes {
    std::vector<MapOrder> orders;
    std::vector<FileRange> to_free;
    std::vector<Vma> dropped;  // keeps files and objects alive until after the lock
};

class AddressSpace::State {
  public:
    State(Platform& platform, MemoryFile& memory, std::unique_ptr<HostAddressSpace> host)
        : platform_(platform), memory_(memory), host_(std::move(host)), top_(platform.max_user_address()) {}

    Platform& platform_;
    MemoryFile& memory_;
    std::unique_ptr<HostAddressSpace> host_;
    const GuestAddr top_;
    AddressSpace* self_ = nullptr;

    mutable std::shared_mutex mutex_;
    // Sorted, disjoint; guarded by mutex_, as is all below. Addresses are given downwards: most of what comes and goes
    // is near the front, where a deque moves little.
    std::deque<Vma> vmas_;
    GuestAddr mmap_top_ = 0;  // addresses are given downwards from here
    // Where find_gap() came to: above this, up to mmap_top_, no gap is larger than `largest_above_`. 0: not known.
    GuestAddr searched_to_ = 0;
    uint64_t largest_above_ = 0;
    GuestAddr brk_start_ = 0, brk_end_ = 0;
    // What the host process has mapped behind the heap's end, of the memory file (address_space_heap.cc); the
    // application may have written to it up to `written_to`.
    struct KeptHeap {
        GuestAddr start = 0, end = 0;
        uint64_t memory_offset = 0;
        GuestAddr written_to = 0;
        uint64_t size() const { return end - start; }
    };
    KeptHeap kept_;
    Layout layout_;
    Ref<AddressSpace> held_parent_;
    uint64_t last_fault_ = 0;
    int repeated_faults_ = 0;
    // Pages of kFile Vmas that the host process has a patched copy of instead, and the ranges of those.
    struct PatchedPage {
        GuestAddr address;
        FileRange copy;
        bool shown = false;  // by show_code(): such pages jump into each other, so they go together
    };
    std::vector<PatchedPage> patched_;
    bool had_traps_ = false;  // some patch had a breakpoint in it
    // Orders that the host process has not seen yet: all while batching_, else those of [deferred_start_,
    // deferred_end_), where nothing is mapped in it.
    bool batching_ = false;
    std::vector<MapOrder> batch_;
    std::vector<FileRange> batch_frees_;
    std::vector<Vma> batch_dropped_;  // keeps their descriptors, which orders name
    GuestAddr deferred_start_ = 0, deferred_end_ = 0;

    // Index of the first VMA that ends above `address`.
    size_t find_index(GuestAddr address) const {
        size_t low = 0, high = vmas_.size();
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (vmas_[middle].end > address)
                high = middle;
            else
                low = middle + 1;
        }
        return low;
    }
    Vma* find(GuestAddr address) {
        size_t i = find_index(address);
        return i < vmas_.size() && vmas_[i].start <= address ? &vmas_[i] : nullptr;
    }
    bool range_free(GuestAddr start, GuestAddr end) const {
        size_t i = find_index(start);
        return i == vmas_.size() || vmas_[i].start >= end;
    }
    bool valid_range(GuestAddr address, uint64_t size) const { return size <= top_ && address <= top_ - size; }
    // True if [start, end) is mapped without a hole.
    bool covered(GuestAddr start, GuestAddr end) const;
    std::optional<GuestAddr> find_gap(uint64_t size, GuestAddr hint, bool low, uint64_t congruent);
    // Some Vma is gone that covered `at`.
    void note_gap(GuestAddr at);

    // Makes `at` a border between VMAs, if it lies inside one.
    void cut(GuestAddr at);
    void insert(Vma vma);
    // Removes [start, end); the host orders and frees go to `changes`.
    void remove(GuestAddr start, GuestAddr end, Changes& changes, bool unmap_host = true);
    // address_space_heap.cc. Something else comes to [start, end): what is kept there is unmapped first.
    void give_up_kept(GuestAddr start, GuestAddr end, Changes& changes);
    // The end of the heap, from `from` to `to`, becomes what is kept. False: it cannot be, nothing happened.
    bool keep_heap(GuestAddr from, GuestAddr to);
    // The other way, as far as it reaches: returns its end.
    SysResult<GuestAddr> take_kept(GuestAddr from, GuestAddr to);
    SysResult<void> grow_heap(GuestAddr from, GuestAddr to);
    // Gives a Vma its backing and appends the orders that map it.
    SysResult<void> back(Vma& vma, Changes& changes, bool populate);
    // Orders that map an object's pages over `vma`.
    SysResult<void> map_object(const Vma& vma, GuestAddr start, GuestAddr end, Changes& changes);
    void map_memory(const Vma& vma, Changes& changes, bool populate) const;
    // Private pages of an object as a range of the memory file that `vma` owns from then on.
    SysResult<void> copy_object(Vma& vma);
    SysResult<void> read_object(Mappable& object, uint64_t offset, std::byte* into, uint64_t size);

    // Pages that only the stub has, copied into a range of the memory file (mapping it is the caller's order).
    SysResult<void> own_host_private(Vma& vma);
    // The same for pages of which some are the held parent's.
    SysResult<void> own_borrowed(Vma& vma);
    SysResult<void> own_all_borrowed();
    // The Vma at `address` if it is backed only when touched.
    Vma* find_unbacked(GuestAddr address);
    SysResult<void> back_unbacked(GuestAddr address, uint64_t size);
    // Makes one of anonymous neighbours that continue each other, around [start, end).
    void join_neighbours(GuestAddr start, GuestAddr end);

    // address_space_sites.cc. The patched pages of [start, end) are forgotten; `restore`: the object's own are mapped
    // again, else the caller's orders replace them.
    SysResult<void> unpatch(GuestAddr start, GuestAddr end, Changes& changes, bool restore);
    // Of the pages that go together: when some of them are in [start, end), the object's own for those that are not.
    void unpatch_shown(GuestAddr start, GuestAddr end, Changes& changes);
    // The same, at once: whatever becomes of the change that is under way.
    SysResult<void> restore_code(GuestAddr start, GuestAddr end);
    // A Vma of thunks goes: nothing may jump there any more.
    void drop_thunks(const Vma& vma, Changes& changes);
    // A new page for thunks of code at `near`, if there is a gap in one of the places.
    const Vma* make_thunks(GuestAddr near, const ThunkPlaces& places, Changes& changes);
    GuestAddr find_thunks_gap(GuestAddr near, const ThunkPlaces& places) const;

    SysResult<void> commit(Changes& changes);
    SysResult<void> flush_batch();
    void add_to_batch(Changes& changes);

    // The sentry's view of [address, ...) at most `size` bytes. Needs the lock (shared).
    struct Window {
        std::byte* memory = nullptr;  // in the sentry's map; null: by the host calls below
        size_t size = 0;
        const Vma* vma = nullptr;
        int host_fd = -1;  // a shared or clean private host file, with the offset in it
        uint64_t host_offset = 0;
    };
    SysResult<Window> window(GuestAddr address, size_t size, bool for_write);
    // Moves up to `size` bytes; returns how many. `write`: from `buffer` into guest memory.
    size_t transfer(GuestAddr address, std::byte* buffer, size_t size, bool write);
};

}  // namespace casemate::sentry
