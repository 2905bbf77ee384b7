// What the stub's assembly and the sentry agree on: addresses, orders, magic call numbers. Included by stub.S too, so
// everything above the C++ part is plain #define.
//
// The top of every stub's address space (applications get what lies below STUB_BLOCK_BASE):
//
//   STUB_AREAS_BASE   rw-  thread areas, thread i at i * STUB_AREA_SIZE below STUB_AREAS_TOP (hostile: applications
//                          can write them all)
//   STUB_ORDERS       r--  one page of clone order, then the map thread's batch, then standing answers; only the sentry
//                          writes
//   STUB_TEMPLATE     rw-  the template's order page; gone before the first application instruction
//   STUB_CODE         r-x  the stub's code and its two filters
//   STUB_CLOCK        r-x  the host's vDSO and its data: clocks without a system call (outside the block)
//
// The same bytes, in the same arrangement, are a block of the control file, which the sentry maps as a whole.
#pragma once

#define STUB_TASK_TOP 0x7ffffffff000
#define STUB_BLOCK_BASE 0x7ffffb000000
#define STUB_AREAS_BASE 0x7ffffb1f0000
#define STUB_AREAS_TOP 0x7fffff1f0000
#define STUB_AREAS_SIZE 0x4000000
#define STUB_ORDERS 0x7fffff1f0000
#define STUB_ORDERS_SIZE 0x6000
#define STUB_BATCH 0x7fffff1f1000
// Behind the clone order, for the first threads: results of calls that only tell a thread about itself, by the last
// bits of their number.
#define STUB_FACTS 0x7fffff1f0100
#define STUB_FACT_MASK 7
// For the first threads: results of calls that stay the same for a while (StandingAnswer), by the last bits of their
// descriptor. A word: the number, the descriptor, the result, each in so many bits; 0: none.
#define STUB_STANDING 0x7fffff1f5000
#define STUB_STANDING_MASK 7
#define STUB_STANDING_NR_BITS 9
#define STUB_STANDING_FD_BITS 15
#define STUB_TEMPLATE 0x7fffff1f8000
#define STUB_TEMPLATE_SIZE 0x1000
#define STUB_CODE 0x7fffff1fc000
#define STUB_CODE_SIZE 0x1000
#define STUB_BLOCK_SIZE 0x4200000
#define STUB_CLOCK 0x7fffff200000
#define STUB_CLOCK_SIZE 0x20000

// A thread area: the alternate signal stack, and a header at its end.
#define STUB_AREA_SIZE 0x4000
#define STUB_AREA_HEADER 0x3600
#define STUB_HEADER_FS 0
#define STUB_HEADER_GS 8
#define STUB_HEADER_READY 16
#define STUB_HEADER_YIELDS 0x14
#define STUB_HEADER_YIELD_CPU 0x18
#define STUB_HEADER_STANDING 0x20
#define STUB_HEADER_FACTS 0x30
#define STUB_HEADER_SELF 0x38
// Behind the header, in a cache line of its own: a call handed over in shared memory (call_slot.h). %gs points to it.
#define STUB_SLOT 0x40
#define STUB_SLOT_STATE 0
#define STUB_SLOT_NR 4
#define STUB_SLOT_ARGS 8
#define STUB_SLOT_IP 56
// Bits of the state.
#define STUB_SLOT_ASKED 1
#define STUB_SLOT_ASKED_BIT 0
#define STUB_SLOT_TAKEN 2
#define STUB_SLOT_ANSWERED 4
#define STUB_SLOT_REFUSED 8
#define STUB_SLOT_WATCHED 16
#define STUB_SLOT_STOPPING 32 /* there is an answer, but the application is to be stopped before it sees it */
#define STUB_SLOT_PARKED 64   /* with ANSWERED: the answer comes later, when this bit goes */
#define STUB_SLOT_ASLEEP 128  /* the application of a parked call is to be woken */
// Behind the slot: what a parked call needs.
#define STUB_PARK 0x80
#define STUB_PARK_SECONDS 0 /* of CLOCK_MONOTONIC, with nanoseconds behind it; 0: for ever */
#define STUB_PARK_RDI 16
#define STUB_PARK_YIELDS 24 /* so often the CPU is given away before the thread sleeps */
#define STUB_PARK_LATE 28   /* set by the stub: the answer was there, but the CPU for long not */
// Behind that, in the first area: the message that brings the map thread descriptors.
#define STUB_PASS 0xc0
// Behind that, for each place of an answer that stands: a read that the application may take by itself (ReadOffer), a
// word as there, with a size instead of a result, and the bytes. The stub exchanges the word for STUB_OFFER_TAKEN.
#define STUB_OFFERS 0x200
#define STUB_OFFER_SHIFT 8
#define STUB_OFFER_DATA 8
#define STUB_OFFER_SIZE_SHIFT 56
#define STUB_OFFER_TAKEN 1
// So many cycles are long: some tenths of a millisecond.
#define STUB_PARK_LONG 600000
// How often an application looks for its answer before it takes the slow way.
#define STUB_SLOT_PATIENCE 300
// How often it gives its CPU away for one.
#define STUB_SLOT_YIELDS 2

// The cloner's order.
#define STUB_CLONE_SEQUENCE 0
#define STUB_CLONE_HEADER 8
#define STUB_CLONE_FRAME 16
#define STUB_CLONE_STACK 24

// The template's order.
#define STUB_SPAWN_SEQUENCE 0
#define STUB_SPAWN_READY 4
#define STUB_SPAWN_CHILD 8
#define STUB_SPAWN_PARENT 12
#define STUB_SPAWN_BLOCK 16
#define STUB_SPAWN_STEP 24
#define STUB_SPAWN_SOCKETS 0x100
#define STUB_SPAWN_MOVES 40
#define STUB_MOVE_SIZE 8
#define STUB_MOVE_TO 16
#define STUB_MOVE_ENTRY 24

// Filters lie in the code page behind the code; a struct sock_fprog starts each.
#define STUB_APP_FILTER 0x800
#define STUB_MAP_FILTER 0xc00

// Descriptors of a stub.
#define STUB_FD_MEMORY 0
#define STUB_FD_CONTROL 1
#define STUB_FD_MAP_LISTENER 1
#define STUB_FD_SOCKET 2     /* the map thread's end, */
#define STUB_FD_SENTRY_END 3 /* and the sentry's, until it has it */
#define STUB_FD_FIRST_THREAD 3

// Syscall numbers that no kernel has: the stub's own notifications.
#define STUB_CALL_FRAME 0x3a5e0001
#define STUB_CALL_MAP 0x3a5e0002
#define STUB_CALL_WAIT 0x3a5e0003

#ifndef __ASSEMBLER__

#include <sys/socket.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace casemate::sentry::seccomp {

constexpr uint32_t kMaxThreads = STUB_AREAS_SIZE / STUB_AREA_SIZE;

// At the end of a thread area. Application-controlled.
struct AreaHeader {
    uint64_t fs_base;
    uint64_t gs_base;
    std::atomic<int32_t> ready;       // the new thread's listener number, or -errno of clone
    int32_t yields;                   // the application's own
    std::atomic<uint32_t> yield_cpu;  // the CPU, plus 1, to be given away to who answers; 0: that has another one
    uint32_t unused1;
    uint64_t standing;  // the address of the thread's StandingWords; 0: none
    uint64_t unused2;
    uint64_t facts;  // the address of the thread's ThreadFacts; 0: none
    uint64_t self;   // the address of the slot behind this
};

// A call in shared memory. Application-controlled.
struct CallSlot {
    std::atomic<uint32_t> state;
    uint32_t nr;
    uint64_t args[6];  // the first one becomes the result
    uint64_t ip;       // behind the site's syscall instruction
};
// What a parked call needs, behind the slot. Application-controlled.
struct ParkLine {
    int64_t seconds, nanoseconds;  // when the application shall stop waiting
    uint64_t rdi;                  // saved by the stub
    uint32_t yields;
    uint32_t late;
};
static_assert(offsetof(ParkLine, seconds) == STUB_PARK_SECONDS && offsetof(ParkLine, rdi) == STUB_PARK_RDI &&
              offsetof(ParkLine, yields) == STUB_PARK_YIELDS && offsetof(ParkLine, late) == STUB_PARK_LATE &&
              STUB_PARK == STUB_SLOT + 64 && STUB_PARK + sizeof(ParkLine) <= STUB_PASS);
// Descriptors passed in one batch; their closes share the batch.
constexpr size_t kMaxPassed = 16;
// Where the map thread's recvmsg puts descriptors. Application-controlled: whoever spoils it gets fewer descriptors
// than the batch names, which ends the stub (StubProcess::apply_some_locked).
struct PassLine {
    msghdr header;
    char control[CMSG_SPACE(kMaxPassed * sizeof(int))];
};
static_assert(STUB_AREA_HEADER + STUB_PASS + sizeof(PassLine) <= STUB_AREA_SIZE && STUB_PASS % 8 == 0);
struct OfferLine {
    static constexpr uint64_t encode(uint32_t nr, uint32_t fd, size_t size) {
        return uint64_t{size} << STUB_OFFER_SIZE_SHIFT | uint64_t{fd} << STUB_STANDING_NR_BITS | nr;
    }
    std::atomic<uint64_t> word;
    std::byte data[(1 << STUB_OFFER_SHIFT) - STUB_OFFER_DATA];
};
static_assert(sizeof(OfferLine) == 1 << STUB_OFFER_SHIFT && offsetof(OfferLine, data) == STUB_OFFER_DATA &&
              sizeof(OfferLine::data) < 256 && STUB_PASS + sizeof(PassLine) <= STUB_OFFERS &&
              STUB_AREA_HEADER + STUB_OFFERS + (STUB_STANDING_MASK + 1) * sizeof(OfferLine) <= STUB_AREA_SIZE);
static_assert(sizeof(CallSlot) == 64 && offsetof(CallSlot, nr) == STUB_SLOT_NR &&
              offsetof(CallSlot, args) == STUB_SLOT_ARGS && offsetof(CallSlot, ip) == STUB_SLOT_IP);
static_assert(sizeof(AreaHeader) == STUB_SLOT && offsetof(AreaHeader, self) == STUB_HEADER_SELF &&
              offsetof(AreaHeader, facts) == STUB_HEADER_FACTS && offsetof(AreaHeader, yields) == STUB_HEADER_YIELDS &&
              offsetof(AreaHeader, yield_cpu) == STUB_HEADER_YIELD_CPU &&
              offsetof(AreaHeader, standing) == STUB_HEADER_STANDING);
static_assert((STUB_AREA_HEADER + STUB_SLOT) % 64 == 0);

// What is known about a thread; read-only to the stub. Each word: a call's number, and its result in the upper half.
struct ThreadFacts {
    // For a word without one: a number that is looked for elsewhere.
    static constexpr uint64_t none(size_t index) { return index == 0 ? 1 : 0; }
    std::atomic<uint64_t> words[STUB_FACT_MASK + 1];
};
static_assert(sizeof(ThreadFacts) == 64);
constexpr uint32_t kThreadsWithFacts = (STUB_BATCH - STUB_FACTS) / sizeof(ThreadFacts);

// Read-only to the stub.
struct StandingWords {
    static constexpr bool fits(uint32_t fd, int64_t result) {
        constexpr int64_t kEnd = int64_t{1} << (63 - STUB_STANDING_NR_BITS - STUB_STANDING_FD_BITS);
        return fd >> STUB_STANDING_FD_BITS == 0 && result >= -kEnd && result < kEnd;
    }
    static constexpr uint64_t encode(uint32_t nr, uint32_t fd, int64_t result) {
        return static_cast<uint64_t>(result) << (STUB_STANDING_NR_BITS + STUB_STANDING_FD_BITS) |
               uint64_t{fd} << STUB_STANDING_NR_BITS | nr;
    }
    std::atomic<uint64_t> words[STUB_STANDING_MASK + 1];
};
static_assert(STUB_STANDING + kThreadsWithFacts * sizeof(StandingWords) <= STUB_ORDERS + STUB_ORDERS_SIZE);

// What the cloner reads; read-only to the stub.
struct CloneOrder {
    std::atomic<uint32_t> sequence;
    uint64_t header;
    uint64_t frame;
    uint64_t stack_address;  // stack_t of the thread's alternate signal stack
    uint64_t stack_flags;
    uint64_t stack_size;
};

// One raw syscall of the map thread.
struct BatchEntry {
    uint64_t nr;
    uint64_t args[6];
    uint64_t unused;
};
constexpr size_t kBatchEntries = (STUB_STANDING - STUB_BATCH) / sizeof(BatchEntry);

constexpr size_t kMaxMoves = 4;

// What the template reads and writes. It is not hostile: no application ever runs in it.
struct SpawnOrder {
    std::atomic<uint32_t> sequence;
    std::atomic<int32_t> ready;  // the map thread's listener number, or -errno
    std::atomic<int32_t> child;
    int32_t parent;
    uint64_t block;  // the new stub's offset in the control file
    int32_t step;    // where the template's set-up failed
    // The host's vDSO: where its ELF header will lie in every stub, or 0; and how its pieces get there.
    uint64_t clock_image;
    struct Move {
        uint64_t from, size, to;
    } moves[kMaxMoves + 1];       // ends with size 0
    alignas(256) int sockets[2];  // what the new stub's socket pair got: not looked at, the numbers are known
};

static_assert(offsetof(AreaHeader, fs_base) == STUB_HEADER_FS && offsetof(AreaHeader, gs_base) == STUB_HEADER_GS &&
              offsetof(AreaHeader, ready) == STUB_HEADER_READY);
static_assert(offsetof(CloneOrder, sequence) == STUB_CLONE_SEQUENCE &&
              offsetof(CloneOrder, frame) == STUB_CLONE_FRAME && offsetof(CloneOrder, header) == STUB_CLONE_HEADER &&
              offsetof(CloneOrder, stack_address) == STUB_CLONE_STACK);
static_assert(offsetof(SpawnOrder, sequence) == STUB_SPAWN_SEQUENCE &&
              offsetof(SpawnOrder, ready) == STUB_SPAWN_READY && offsetof(SpawnOrder, child) == STUB_SPAWN_CHILD &&
              offsetof(SpawnOrder, parent) == STUB_SPAWN_PARENT && offsetof(SpawnOrder, block) == STUB_SPAWN_BLOCK &&
              offsetof(SpawnOrder, step) == STUB_SPAWN_STEP && offsetof(SpawnOrder, moves) == STUB_SPAWN_MOVES &&
              sizeof(SpawnOrder::Move) == STUB_MOVE_ENTRY && offsetof(SpawnOrder::Move, size) == STUB_MOVE_SIZE &&
              offsetof(SpawnOrder::Move, to) == STUB_MOVE_TO && offsetof(SpawnOrder, sockets) == STUB_SPAWN_SOCKETS);
static_assert(STUB_CLOCK >= STUB_CODE + STUB_CODE_SIZE && STUB_CLOCK + STUB_CLOCK_SIZE <= STUB_TASK_TOP);
static_assert(sizeof(BatchEntry) == 64);

// The blob of stub.S and places in it.
extern "C" {
extern const char casemate_stub_begin[], casemate_stub_end[];
extern const char casemate_stub_handler[];           // of every signal
extern const char casemate_stub_frame_return[];      // behind the syscall of STUB_CALL_FRAME
extern const char casemate_stub_sigreturn_return[];  // behind the one allowed rt_sigreturn
extern const char casemate_stub_wake_return[];       // behind the one allowed FUTEX_WAKE
extern const char casemate_stub_map_return[];        // behind the syscall of STUB_CALL_MAP
extern const char casemate_stub_call[];              // where patched call sites come to
extern const char casemate_stub_call_saved[];        // from here on the slot holds where the call returns to
extern const char casemate_stub_call_known[];        // from here on the result is there,
extern const char casemate_stub_call_known_end[];    // and from here on it is not known
extern const char casemate_stub_call_stands[];       // the same, of an answer that stands
extern const char casemate_stub_call_stands_end[];
extern const char casemate_stub_call_offer[];          // from here on the slot holds the number,
extern const char casemate_stub_call_offer_claimed[];  // the offer was taken, if the zero flag says so,
extern const char casemate_stub_call_offer_taken[];    // and the result is there;
extern const char casemate_stub_call_offer_taken_end[];
extern const char casemate_stub_call_offer_end[];     // the number is in rax again
extern const char casemate_stub_call_stored[];        // from here on the slot holds number and arguments
extern const char casemate_stub_call_yield_return[];  // behind the one allowed sched_yield
extern const char casemate_stub_call_asked[];         // from here on it is asked
extern const char casemate_stub_call_wait_return[];   // behind the syscall of STUB_CALL_WAIT
extern const char casemate_stub_call_back[];          // from here on the call goes the slow way
extern const char casemate_stub_call_park[];          // from here on a parked call's registers are in slot and ParkLine
extern const char casemate_stub_call_park_yield_return[];  // behind another allowed sched_yield
extern const char casemate_stub_call_park_return[];        // behind the one allowed FUTEX_WAIT_BITSET
extern const char casemate_stub_call_unparked[];           // they are back
extern const char casemate_stub_call_end[];
}

// Where a place of the blob lies in a stub.
inline uint64_t stub_address(const char* place) {
    return STUB_CODE + static_cast<uint64_t>(place - casemate_stub_begin);
}

}  // namespace casemate::sentry::seccomp

#endif
