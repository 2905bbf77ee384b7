#include "sentry/platform/seccomp/stub_image.h"

#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cstring>
#include <initializer_list>

#include "base/result.h"

namespace casemate::sentry::seccomp {
namespace {

constexpr uint32_t kNr = offsetof(seccomp_data, nr);
constexpr uint32_t kArch = offsetof(seccomp_data, arch);
constexpr uint32_t kIpLow = offsetof(seccomp_data, instruction_pointer);
constexpr uint32_t kIpHigh = kIpLow + 4;
constexpr uint32_t arg_low(int index) { return offsetof(seccomp_data, args) + 8 * index; }

sock_filter load(uint32_t offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset); }
sock_filter give(uint32_t action) { return BPF_STMT(BPF_RET | BPF_K, action); }
sock_filter skip_if(uint16_t operation, uint32_t value, uint8_t if_true, uint8_t if_false) {
    return BPF_JUMP(BPF_JMP | BPF_K | operation, value, if_true, if_false);
}

void append(std::vector<sock_filter>& program, std::initializer_list<sock_filter> part) {
    program.insert(program.end(), part);
}

// ALLOW where the call comes from one of `places` (the accumulator is lost), else `otherwise`: 6 instructions and one
// for each place.
void append_from_places(std::vector<sock_filter>& program, std::initializer_list<const char*> places,
                        uint32_t otherwise) {
    append(program, {load(kIpLow)});
    auto left = static_cast<uint8_t>(places.size());
    for (const char* place : places)
        append(program, {skip_if(BPF_JEQ, static_cast<uint32_t>(stub_address(place)), left--, 0)});
    append(program,
           {give(otherwise), load(kIpHigh), skip_if(BPF_JEQ, static_cast<uint32_t>(uint64_t{STUB_CODE} >> 32), 1, 0),
            give(otherwise), give(SECCOMP_RET_ALLOW)});
}

void place_filter(StubImage& image, size_t offset, size_t end, const std::vector<sock_filter>& filter) {
    sock_fprog program{};
    CHECK(offset + sizeof(program) + filter.size() * sizeof(sock_filter) <= end);
    program.len = static_cast<unsigned short>(filter.size());
    // The address that the program will have in the stub.
    program.filter = reinterpret_cast<sock_filter*>(STUB_CODE + offset + sizeof(program));
    std::memcpy(image.data() + offset, &program, sizeof(program));
    std::memcpy(image.data() + offset + sizeof(program), filter.data(), filter.size() * sizeof(sock_filter));
}

}  // namespace

std::vector<sock_filter> app_filter() {
    std::vector<sock_filter> program;
    append(program, {load(kArch), skip_if(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0), give(SECCOMP_RET_USER_NOTIF), load(kNr)});
    // Needs all registers, or sets them. Who exits is ready for the next application then (HostThread::renew).
    for (uint32_t nr : {SYS_clone, SYS_fork, SYS_vfork, SYS_execve, SYS_sigaltstack, SYS_arch_prctl, SYS_execveat,
                        SYS_clone3, SYS_exit, SYS_exit_group}) {
        append(program, {skip_if(BPF_JEQ, nr, 0, 1), give(SECCOMP_RET_TRAP)});
    }
    // These may come from the vsyscall page, whose emulation would answer an interrupted notification wrongly.
    append(program, {skip_if(BPF_JEQ, SYS_gettimeofday, 2, 0), skip_if(BPF_JEQ, SYS_time, 1, 0),
                     skip_if(BPF_JEQ, SYS_getcpu, 0, 4), load(kIpHigh), skip_if(BPF_JEQ, 0xffffffff, 0, 1),
                     give(SECCOMP_RET_TRAP), give(SECCOMP_RET_USER_NOTIF)});
    append(program, {skip_if(BPF_JEQ, SYS_rt_sigreturn, 0, 7)});
    append_from_places(program, {casemate_stub_sigreturn_return}, SECCOMP_RET_TRAP);
    append(program, {skip_if(BPF_JEQ, SYS_sched_yield, 0, 8)});
    append_from_places(program, {casemate_stub_call_yield_return, casemate_stub_call_park_yield_return},
                       SECCOMP_RET_USER_NOTIF);
    append(program, {skip_if(BPF_JEQ, SYS_futex, 1, 0), give(SECCOMP_RET_USER_NOTIF), load(arg_low(1)),
                     skip_if(BPF_JEQ, FUTEX_WAIT_BITSET, 0, 7)});
    append_from_places(program, {casemate_stub_call_park_return}, SECCOMP_RET_USER_NOTIF);
    append(program, {skip_if(BPF_JEQ, FUTEX_WAKE, 1, 0), give(SECCOMP_RET_USER_NOTIF)});
    append_from_places(program, {casemate_stub_wake_return}, SECCOMP_RET_USER_NOTIF);
    return program;
}

std::vector<sock_filter> map_filter() {
    std::vector<sock_filter> program;
    append(program,
           {load(kArch), skip_if(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0), give(SECCOMP_RET_KILL_PROCESS), load(kNr)});
    append(program, {skip_if(BPF_JEQ, STUB_CALL_MAP, 0, 1), give(SECCOMP_RET_USER_NOTIF)});
    for (uint32_t nr : {SYS_mmap, SYS_munmap, SYS_mprotect, SYS_madvise, SYS_close, SYS_recvmsg}) {
        append(program, {skip_if(BPF_JEQ, nr, 0, 1), give(SECCOMP_RET_ALLOW)});
    }
    append(program, {skip_if(BPF_JEQ, SYS_futex, 1, 0), give(SECCOMP_RET_KILL_PROCESS), load(arg_low(1)),
                     skip_if(BPF_JEQ, FUTEX_WAKE, 0, 1), give(SECCOMP_RET_ALLOW), give(SECCOMP_RET_KILL_PROCESS)});
    return program;
}

StubImage build_stub_image() {
    StubImage image{};
    const size_t size = static_cast<size_t>(casemate_stub_end - casemate_stub_begin);
    CHECK(size <= STUB_APP_FILTER);
    std::memcpy(image.data(), casemate_stub_begin, size);
    place_filter(image, STUB_APP_FILTER, STUB_MAP_FILTER, app_filter());
    place_filter(image, STUB_MAP_FILTER, STUB_CODE_SIZE, map_filter());
    return image;
}

}  // namespace casemate::sentry::seccomp
