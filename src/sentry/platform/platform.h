// The platform: how application code runs on this host's CPU and how its syscalls, faults and interrupts come back.
//
// The cut between the sentry and the host, kept narrow so that another platform (KVM ring 3 on hosts where exits are
// cheap) is one more folder beside seccomp/. The platform knows nothing of Linux semantics; the sentry knows nothing of
// stubs, seccomp or listeners. Everything a stop carries was written by the application: hostile.
//
// Threads: an AppThread is driven by one sentry thread at a time (its task's); only interrupt() may come from any
// thread. A HostAddressSpace is thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/result.h"

namespace casemate::sentry {

// The general registers of an application thread, with the segment bases that x86-64 user code owns.
struct Registers {
    uint64_t r8 = 0, r9 = 0, r10 = 0, r11 = 0, r12 = 0, r13 = 0, r14 = 0, r15 = 0;
    uint64_t di = 0, si = 0, bp = 0, bx = 0, dx = 0, ax = 0, cx = 0, sp = 0, ip = 0, flags = 0;
    uint64_t fs_base = 0, gs_base = 0;
};

enum class StopReason {
    kSyscall,      // a syscall instruction: `syscall` is set; registers only if has_registers
    kFault,        // a host signal that an instruction raised: `fault` is set; registers are there
    kInterrupted,  // interrupt() was called, or complete_and_stop() is done; registers are there
    kDead,         // the host thread is gone (killed from outside, or it broke its own stub): nothing can be resumed
    kTimeout,      // wait() only: the deadline came first, its own or that of a parked call
};

struct SyscallStop {
    uint32_t arch = 0;  // AUDIT_ARCH_*: anything but x86-64 is 32-bit code (`int 0x80`) and is refused
    uint64_t nr = 0;
    uint64_t args[6] = {};
    uint64_t ip = 0;  // behind the syscall instruction
    // So many calls came from this place that HostAddressSpace::patch_call_site() may be worth it; said once.
    bool often = false;
};

struct FaultStop {
    int signo = 0;  // SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP
    int code = 0;   // si_code
    uint64_t address = 0;
    uint64_t trap_number = 0;  // x86 exception vector
    uint64_t error_code = 0;   // of the page fault: bit 1 = write, bit 4 = instruction fetch
};

struct Stop {
    StopReason reason = StopReason::kDead;
    bool has_registers = false;  // AppThread::registers() and fp_state() are valid and may be changed
    SyscallStop syscall;
    FaultStop fault;
};

// Answers some calls of one application thread at once, on a thread of the platform's, instead of a Stop. It is asked
// only while the application runs as far as the thread's driver knows, and the next Stop comes after it is done.
struct QuickAnswer {
    int64_t result = 0;     // a value or -errno
    bool and_stop = false;  // the application is to be stopped before its next instruction, as by interrupt()
    // There is no result yet: the application waits for AppThread::answer(). wait() tells kTimeout at `deadline`.
    bool parked = false;
    std::optional<int64_t> deadline;
};
class QuickCalls {
  public:
    // Nothing, and nothing done: it is to come as a Stop. May not wait for anything.
    virtual std::optional<QuickAnswer> answer_now(const SyscallStop& call) = 0;
    // The application of a call that is parked waits: from here on it can be answered.
    virtual void parked() = 0;
    // The application has the result.
    virtual void answered() = 0;

  protected:
    ~QuickCalls() = default;
};

// The result of a call without arguments, as long as nothing changes it.
struct CallFact {
    uint32_t nr = 0;
    uint32_t result = 0;
};

// A call that has the same result as long as nothing changes that it asks for: made again with this number and
// descriptor, as a read of at least a byte, without flags, or as a seek to the very end.
struct StandingAnswer {
    uint32_t nr = 0;  // SYS_read, SYS_recvfrom, SYS_lseek
    uint32_t fd = 0;
    int64_t result = 0;
};
// Where it is put up, by storing `value`, and taken down, by storing 0: at any time, by any thread, as long as the
// platform lives. Null: nowhere.
struct StandingPlace {
    std::atomic<uint64_t>* word = nullptr;
    uint64_t value = 0;
};

// Bytes that the application may take by itself: the result of its next call with this number and descriptor, made as a
// read of `size` bytes or more, without flags or an address to be told. The offer comes before what stands for them.
struct ReadOffer {
    uint32_t nr = 0;  // SYS_read, SYS_recvfrom
    uint32_t fd = 0;
    size_t size = 0;
};
// Where it is made, by who has the application in hand: the bytes at `data`, then `value`. It is taken back by
// exchanging `value` for 0, by any thread, as long as the application's thread lives. What is found instead: 0, and
// nobody took it, or anything else, and the application did. Applications may lie. Null: nowhere.
struct OfferPlace {
    std::atomic<uint64_t>* word = nullptr;
    std::byte* data = nullptr;
    size_t room = 0;
    uint64_t value = 0;
};

// Where an application thread that is answered goes on.
enum class WakeOn {
    kThisCpu,  // the caller is about to wait
    kAnyCpu,   // the caller goes on working: on an idle CPU, if there is one
};

// One application thread: a host thread whose every step out of application code is a Stop.
class AppThread {
  public:
    // Parks the host thread for later use by its address space. The thread must not be running.
    virtual ~AppThread() = default;

    // Each of the three runs the application until its next stop.
    // Goes on with registers() as they are now. Allowed when the last stop had registers, and for the first start.
    virtual Stop resume() = 0;
    // Ends the syscall of the last stop with `result` (a value or -errno) in rax. Allowed after any syscall stop.
    virtual Stop complete_syscall(int64_t result) = 0;
    // The same, but stops again before the next application instruction, with registers (reason kInterrupted): for
    // signal delivery and syscall restart. A fault or death may come instead.
    virtual Stop complete_and_stop(int64_t result) = 0;

    // The halves of the above: the application goes on at once, and wait() tells its next stop. answer() and
    // answer_and_stop() may come from another thread than the one that waits, once for each stop.
    virtual void go_on() = 0;
    virtual void answer(int64_t result, WakeOn where) = 0;
    virtual void answer_and_stop(int64_t result) = 0;
    // Before answer() from another thread than the one that waits, while that is held up should it be back: if the
    // application of a parked call (QuickAnswer) was stopped meanwhile, the result becomes part of its registers, and
    // it goes on with resume(). False: it was not; answer() it.
    virtual bool answer_stopped(int64_t result) {
        (void)result;
        return false;
    }
    // The thread that waits: an unanswered parked call is its own to end from now on, by what its last stop allows.
    virtual void take_parked() {}
    // `deadline`: nanoseconds of CLOCK_MONOTONIC.
    virtual Stop wait(std::optional<int64_t> deadline) = 0;

    // Valid as Stop::has_registers says, and before the first resume(). Values that the application may not set
    // (non-canonical bases, system flags, reserved MXCSR bits) are cleaned by the platform when it goes on.
    virtual Registers& registers() = 0;
    // The XSAVE image in the standard format of the kernel's signal frame (FXSAVE area with fpx_sw_bytes at offset
    // 464, XSAVE header at 512, the magic2 word behind it excluded). Its size is Platform::fp_state_size().
    virtual std::span<std::byte> fp_state() = 0;

    // Makes the present run, or the next one, end soon with kInterrupted. Spurious interrupts are allowed.
    virtual void interrupt() = 0;

    // From here on the application may be told so without a stop, and without anybody hearing of it: a call with one of
    // these numbers, made in the usual way from a place that calls often, has this result. From any thread; the
    // platform may take as few of them as it likes. Replaces what was said before.
    virtual void set_facts(std::span<const CallFact> facts) { (void)facts; }
    // Calls of one descriptor, or of those with the same last three bits, share a place. set_facts() takes all down.
    virtual StandingPlace place_for(const StandingAnswer& answer) {
        (void)answer;
        return {};
    }
    // The same, of an offer.
    virtual OfferPlace offer_place(const ReadOffer& offer) {
        (void)offer;
        return {};
    }
    // From here on it is asked, where the platform can; null: nobody is. While the application is stopped.
    virtual void set_quick_calls(QuickCalls* calls) { (void)calls; }

    // The host cpu this thread last ran on is not told; the host's thread id is, for statistics only.
    virtual int host_thread_id() const = 0;
};

// One change of an address space. Ranges are page-aligned and below Platform::max_user_address(): the caller checks.
struct MapOrder {
    enum class Kind { kMap, kUnmap, kProtect, kAdvise } kind = Kind::kMap;
    uint64_t address = 0;
    uint64_t size = 0;
    int protection = 0;   // PROT_*, kMap and kProtect
    int flags = 0;        // kMap: MAP_SHARED or MAP_PRIVATE, with MAP_POPULATE or MAP_ANONYMOUS; MAP_FIXED is implied
    int fd = -1;          // kMap: a descriptor of the sentry's, borrowed for the call; kMemoryFile: see below
    uint64_t offset = 0;  // kMap
    int advice = 0;       // kAdvise: MADV_*

    // Stands for the memory file given to Platform::create, which every address space holds already (no passing).
    static constexpr int kMemoryFile = -2;
};

// What patching a call site changes: our copies of the page with the site, which replaces the present one when it is
// patched, and of a page that is executable for the application, less than 2 GiB away from it.
struct SitePatch {
    uint64_t page_address = 0;
    std::span<std::byte> page;
    uint64_t thunks_address = 0;
    std::span<std::byte> thunks;
};
enum class PatchOutcome {
    kDone,
    kUnknown,  // no site that can be patched
    kFull,     // not with this page of thunks, or with none
};

// Where the thunk of a site may lie: `count` windows of `size` bytes, `step` from each other.
struct ThunkPlaces {
    uint64_t first = 0;
    uint64_t size = 0;
    uint64_t step = 0;
    uint64_t count = 1;
    bool contain(uint64_t start, uint64_t length) const {
        if (start < first || length > size) return false;
        const uint64_t offset = start - first, window = count == 1 ? 0 : offset / step;
        return window < count && offset - window * step <= size - length;
    }
};

// The host side of one guest address space.
class HostAddressSpace {
  public:
    // Unmaps everything and gives the host process back for reuse. All its AppThreads must be gone.
    virtual ~HostAddressSpace() = default;

    // Applies the orders in turn, in one hand-over where possible; stops at the first that fails and returns its errno.
    virtual SysResult<void> apply(std::span<const MapOrder> orders) = 0;
    // A new application thread at rest: all registers zero, FP state in its initial configuration.
    virtual SysResult<std::unique_ptr<AppThread>> create_thread() = 0;

    // Copies from or to application memory by address, for pages that the sentry does not map itself (host-private
    // copies). Bytes copied, which may be short at a hole; EFAULT if none.
    virtual SysResult<size_t> read_memory(uint64_t address, std::span<std::byte> into) = 0;
    virtual SysResult<size_t> write_memory(uint64_t address, std::span<const std::byte> from) = 0;

    // A place that calls come from often can be made to hand them over faster: with its thunk where? Nothing: it
    // cannot.
    virtual std::optional<ThunkPlaces> recognise_call_site(const SyscallStop& call, uint64_t page_address,
                                                           std::span<const std::byte> page) {
        (void)call, (void)page_address, (void)page;
        return std::nullopt;
    }
    // Does so; nothing is written unless kDone. Applications run meanwhile.
    virtual PatchOutcome patch_call_site(const SyscallStop& call, const SitePatch& patch) {
        (void)call, (void)patch;
        return PatchOutcome::kUnknown;
    }
    // No site jumps to these thunks any more.
    virtual void forget_thunks(uint64_t thunks_address) { (void)thunks_address; }
    // `trap` is a breakpoint instruction that a patched site has where the original has another instruction: where who
    // ran into it goes on. 0: it is none.
    virtual uint64_t behind_planted_trap(uint64_t trap) {
        (void)trap;
        return 0;
    }

    // Kills the host process at once (all threads stop with kDead). For tampering and for exit of a stuck space.
    virtual void kill() = 0;
    virtual int host_process_id() const = 0;
};

// Functions of the host that application code may call to read the host's clocks without a stop: System V ABI, as the
// vDSO functions of these names. Addresses in every address space; 0 where the host has none.
struct HostClocks {
    uint64_t clock_gettime = 0, gettimeofday = 0, time = 0, clock_getres = 0;
};

class Platform {
  public:
    virtual ~Platform() = default;

    virtual SysResult<std::unique_ptr<HostAddressSpace>> create_address_space() = 0;
    // First address that applications may not use; page-aligned, the platform's own pages lie above it.
    virtual uint64_t max_user_address() const = 0;
    virtual size_t fp_state_size() const = 0;
    virtual HostClocks host_clocks() const { return {}; }
};

}  // namespace casemate::sentry
