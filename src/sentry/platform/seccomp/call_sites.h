// Call sites: `syscall` instructions of programs and libraries that are made to hand over in shared memory.
//
// One instruction in front of the `syscall`, of five bytes or more, becomes a jump to a thunk near the code, which does
// what it and all behind it did and goes on in the stub (casemate_stub_call). The `syscall` itself stays: who jumps to
// it, or to anything behind the changed instruction, makes an ordinary call. Where there are only moves of three bytes,
// the jump covers two, and its thunk lies so far away that the byte where the second began is a breakpoint: a thread
// that stood there, or jumps there, goes on in the thunk (behind_trap). Known forms:
//
//   mov $number, %eax; REST; syscall       most of the C library, Go's runtime, musl
//   mov 8(%rsp), %r9; syscall              syscall(2)
//   mov %r11, 8(%rsp); syscall             what musl's calls that can be cancelled go through
//   mov N(%rsp), %r64; REST;               read(2) in a program with threads
//     xor %eax, %eax; syscall
//   cmpb $0, flag(%rip); je elsewhere;     read(2) in one without: the compare becomes the jump
//     xor %eax, %eax; syscall
//   mov %r64, %r64 three times; syscall    Go's Syscall6, which all its os and net packages call
//   mov 8(%rsp), %rax; syscall             Go's rawSyscallNoError: getppid, getuid and the like
//
// REST is nothing, or some moves between registers, from the stack and of constants, xor of a register.
//
// Everything else is left alone. Whose page is patched, and that nobody writes it meanwhile, is the caller's business
// (mm/address_space_sites.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "sentry/platform/platform.h"

namespace casemate::sentry::seccomp {

constexpr size_t kThunkSize = 64;

struct CallSite {
    enum class Kind {
        kStraight,  // instructions that can stand anywhere
        kCompare,   // read(2)'s compare and branch
    } kind;
    uint64_t start;  // of the instruction that becomes the jump
    uint64_t end;    // behind the syscall instruction
    // Of a second instruction that the jump covers, from the start; 0: there is none.
    size_t trap = 0;
};

// What call `number`, which came from `ip`, says about `page`, the code at `page_address`. Nothing: no known form.
std::optional<CallSite> recognise_site(std::span<const std::byte> page, uint64_t page_address, uint64_t ip,
                                       uint64_t number);
ThunkPlaces places_for_thunk(const CallSite& site);
// Writes the thunk and the jump to it. False, with nothing written: not from there.
bool patch_site(const CallSite& site, std::span<std::byte> page, uint64_t page_address,
                std::span<std::byte, kThunkSize> thunk, uint64_t thunk_address);

// Which sites the thunks of one address space belong to. Thread-safe.
class CallSites {
  public:
    // As HostAddressSpace's.
    PatchOutcome patch(const SyscallStop& call, const SitePatch& patch);
    void forget(uint64_t thunks_address);
    void clear();
    // `ip` lies in a thunk: where its site goes on with the same registers. Else 0.
    uint64_t place_of(uint64_t ip);
    // As HostAddressSpace's behind_planted_trap.
    uint64_t behind_trap(uint64_t trap);

  private:
    struct Area {
        uint64_t start;
        uint64_t size;
        std::vector<CallSite> sites;
    };
    std::mutex mutex_;
    std::vector<Area> areas_;  // guarded by mutex_
};

}  // namespace casemate::sentry::seccomp
