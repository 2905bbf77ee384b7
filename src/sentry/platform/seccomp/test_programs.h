// What the platform's tests and its benchmark run: small programs in a memory file.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "sentry/platform/platform.h"

extern "C" const char prog_begin[], prog_end[], prog_syscalls[], prog_two[], prog_load[], prog_store[], prog_spin[],
    prog_divide[], prog_int80[], prog_sysenter[], prog_bases[], prog_fp[], prog_jump[], prog_call_vsyscall[],
    prog_scribble[], prog_getpid_loop[], prog_call[];

namespace casemate::sentry::seccomp {

constexpr uint64_t kCode = 0x400000;
constexpr uint64_t kData = 0x600000;
constexpr uint64_t kStackTop = kData + 0x3000;
constexpr uint64_t kFileCode = 0;
constexpr uint64_t kFileData = 0x10000;
constexpr uint64_t kFileSize = 0x100000;

inline uint64_t at(const char* program) { return kCode + static_cast<uint64_t>(program - prog_begin); }

inline UniqueFd make_memory_file() {
    UniqueFd fd(memfd_create("test-memory", MFD_CLOEXEC));
    CHECK(ftruncate(fd.get(), kFileSize) == 0);
    CHECK(pwrite(fd.get(), prog_begin, prog_end - prog_begin, kFileCode) == prog_end - prog_begin);
    return fd;
}

inline MapOrder map_order(uint64_t address, uint64_t size, int protection, uint64_t offset,
                          int fd = MapOrder::kMemoryFile) {
    return {.kind = MapOrder::Kind::kMap,
            .address = address,
            .size = size,
            .protection = protection,
            .flags = MAP_SHARED,
            .fd = fd,
            .offset = offset};
}

}  // namespace casemate::sentry::seccomp
