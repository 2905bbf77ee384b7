// AddressSpace: the memory of a process as Linux shows it (VMAs), kept in step with the host process that the platform
// runs it in.
//
// Every mapped piece has a state: in the memory file (the sentry reads and writes it by memcpy), a host file mapped
// shared or read-only, or host-private (copy-on-write pages that only the stub has; reached by
// HostAddressSpace::read_memory). One access function, resolve(), picks. docs/decisions/0003-memory.md.
//
// Locking: mutex_ (shared for access, exclusive for change of VMAs) is taken after TaskSet and file-system locks and
// before Mappable and MemoryFile locks; never held while blocking.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/user.h"
#include "sentry/mm/mappable.h"
#include "sentry/platform/platform.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

struct MapRequest {
    GuestAddr address = 0;  // hint, or exact with `fixed`
    uint64_t size = 0;      // bytes, > 0
    int protection = 0;     // PROT_*
    bool shared = false;    // MAP_SHARED
    bool fixed = false;     // MAP_FIXED
    bool fixed_no_replace = false;
    bool grows_down = false;
    bool stack = false;  // MAP_STACK: mostly little of it is ever touched
    bool populate = false;
    bool more_follow = false;  // MAP_DENYWRITE, the mark of a program's parts: the host process may learn of it later
    bool below_4g = false;     // MAP_32BIT: below 2 GiB
    bool locked = false;
    bool no_reserve = false;
    int max_protection = PROT_READ | PROT_WRITE | PROT_EXEC;  // what mprotect may grant later (file opened read-only)
    Ref<Mappable> object;                                     // null: anonymous
    uint64_t offset = 0;                                      // in the object, page-aligned
    Ref<File> file;                                           // for /proc/PID/maps and lifetime; may be null
    std::string name;  // shown when there is no file: "[heap]", "[stack]", "/dev/zero (deleted)"
};

// A page fault or access that failed, as Linux would signal it.
struct FaultSignal {
    int signo;  // SIGSEGV or SIGBUS
    int code;   // SEGV_MAPERR, SEGV_ACCERR, BUS_ADRERR
};

class AddressSpace : public RefCounted {
  public:
    static SysResult<Ref<AddressSpace>> create(Platform& platform, MemoryFile& memory);

    HostAddressSpace& host();
    MemoryFile& memory();
    GuestAddr top() const;  // first address that applications may not use
    // Where new mappings are given addresses from, downwards: the loader sets it below the stack and its gap.
    void set_mmap_top(GuestAddr top);

    // mmap, munmap, mprotect, mremap, madvise, msync, mincore, mlock as the syscalls of these names; arguments are
    // checked here, limits (RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK) are passed in.
    SysResult<GuestAddr> map(const MapRequest& request);
    SysResult<void> unmap(GuestAddr address, uint64_t size);
    SysResult<void> unmap_all();
    // Between the two, what map() asks of the host process is gathered and done at once by end_batch(): for the loader,
    // whose application does not run yet. When it fails, the space is good for nothing but its end.
    void begin_batch();
    SysResult<void> end_batch();
    SysResult<void> protect(GuestAddr address, uint64_t size, int protection);
    SysResult<GuestAddr> remap(GuestAddr old_address, uint64_t old_size, uint64_t new_size, int flags,
                               GuestAddr target);
    SysResult<void> advise(GuestAddr address, uint64_t size, int advice);
    SysResult<void> sync(GuestAddr address, uint64_t size, int flags);
    SysResult<void> resident(GuestAddr address, uint64_t size, std::span<uint8_t> pages);  // mincore
    SysResult<void> lock_pages(GuestAddr address, uint64_t size, bool lock);

    // The heap. set_brk_start is the loader's; brk returns the new (or, on failure, the old) end.
    void set_brk_start(GuestAddr start);
    GuestAddr brk(GuestAddr end, uint64_t limit);

    // fork: a child with the same contents. `parent_held` in the answer, only if `may_hold`: the child uses the
    // parent's big ranges, copy-on-write, and the caller must not resume the parent's application threads, nor write to
    // its memory, until the child has exec'd, exited or called release_held_parent().
    struct ForkResult {
        Ref<AddressSpace> child;
        bool parent_held = false;
    };
    SysResult<ForkResult> fork(bool may_hold);
    // Ends the hold of a parent (called with the child's space, while its application is stopped): both sides own their
    // pages afterwards. A child whose pages cannot be copied loses its host process.
    void release_held_parent();

    // An application fault. nullopt: resolved, run on. Else the signal to deliver.
    std::optional<FaultSignal> handle_fault(const FaultStop& fault);

    // Many calls came from one place: makes that faster, if the platform can and the code there is nobody's to change.
    // The application sees it only if it reads its own code (address_space_sites.cc).
    void patch_call_site(const SyscallStop& call);
    // A thread ran into a breakpoint instruction in front of `ip`. If that stands there for such a place's sake only:
    // where the thread goes on.
    std::optional<GuestAddr> behind_planted_trap(GuestAddr ip);
    // For the loader: whole pages of code that the application runs in place of a file's, all of them or none, from now
    // on until the first of those mappings is changed. Nothing happens if that cannot be. Seen only by who reads his
    // own code.
    struct ShownCode {
        GuestAddr address;
        std::span<const std::byte> code;
    };
    void show_code(std::span<const ShownCode> pieces);

    // Copies; EFAULT unless everything could be copied. Hostile addresses are fine.
    SysResult<void> copy_in(GuestAddr from, void* into, size_t size);
    SysResult<void> copy_out(GuestAddr into, const void* from, size_t size);
    // A NUL-terminated string of at most `max` bytes with the NUL: ENAMETOOLONG if longer, EFAULT.
    SysResult<std::string> copy_in_string(GuestAddr from, size_t max);
    // Bytes copied before the first bad address (0 is no error here).
    size_t copy_in_partial(GuestAddr from, void* into, size_t size);
    size_t copy_out_partial(GuestAddr into, const void* from, size_t size);

    // The same as copy_out_partial for who traces the application: private memory is written whatever its protection
    // says, as a copy of this address space's own.
    size_t write_by_force(GuestAddr into, const void* from, size_t size);

    // Atomic operations on an aligned 32-bit application word (futexes, robust lists). EFAULT, EINVAL if unaligned.
    SysResult<uint32_t> load_word(GuestAddr address);
    // Stores `desired` if the word is `expected`; returns the word that was there.
    SysResult<uint32_t> compare_exchange_word(GuestAddr address, uint32_t expected, uint32_t desired);

    // What a futex or shared lock is keyed by: the same for two mappings of one object, private otherwise.
    struct ShareKey {
        const void* object = nullptr;  // this address space for private memory, the Mappable for shared
        uint64_t offset = 0;           // address, or offset in the object
        friend bool operator==(const ShareKey&, const ShareKey&) = default;
    };
    SysResult<ShareKey> share_key(GuestAddr address);

    // One contiguous stretch of sentry memory behind a guest address, at most `size` bytes. Valid while the caller is
    // between lock_for_access() and unlock_for_access(), which keep VMAs from changing: for IoBuffer only.
    // ENXIO: not in the sentry's map (host-private pages, host files), use copy_in/copy_out. EAGAIN: not backed yet,
    // touch() and try again.
    SysResult<std::span<std::byte>> resolve(GuestAddr address, size_t size, bool for_write);
    // Backs what is backed only when used, from `address` on; the lock for access is not held. False: nothing to back.
    bool touch(GuestAddr address, size_t size);
    void lock_for_access();
    void unlock_for_access();

    // Objects changed below us: drop [offset, offset+size) of `object` from all mappings of it.
    void invalidate(Mappable& object, uint64_t offset, uint64_t size);

    // For /proc: maps in address order, and sums.
    struct VmaInfo {
        GuestAddr start, end;
        int protection;
        bool shared;
        uint64_t offset;
        Ref<File> file;
        std::string name;
        uint64_t resident;                 // bytes
        const Mappable* object = nullptr;  // identity only: null for anonymous memory
    };
    std::vector<VmaInfo> snapshot();
    struct Usage {
        uint64_t virtual_bytes = 0, resident_bytes = 0, shared_bytes = 0, text_bytes = 0, data_bytes = 0,
                 stack_bytes = 0, locked_bytes = 0;
    };
    Usage usage();
    bool usage_exceeds(uint64_t more, uint64_t limit);  // RLIMIT_AS: mapped bytes and `more` are over `limit`

    // Facts that the loader leaves for prctl and /proc: argument and environment areas, auxv, the executable.
    struct Layout {
        GuestAddr code_start = 0, code_end = 0, data_start = 0, data_end = 0, stack_start = 0;
        GuestAddr arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;
        std::vector<uint64_t> auxv;  // pairs
        Ref<File> executable;
    };
    Layout layout();
    void set_layout(Layout layout);

    // Implementation lives in mm/; see address_space_state.h.
    class State;

  private:
    explicit AddressSpace(std::unique_ptr<State> state);
    ~AddressSpace() override;
    std::unique_ptr<State> state_;
};

}  // namespace casemate::sentry
