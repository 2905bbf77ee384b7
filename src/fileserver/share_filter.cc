// The seccomp list of casemate-share.
#include <fcntl.h>
#include <fmt/core.h>
#include <seccomp.h>
#include <sys/mman.h>

#include "fileserver/jail.h"

namespace casemate::fileserver {

namespace {

// One socket (recvfrom, sendmsg), files by descriptor or by a path under one, and the heap.
constexpr int kAllowed[] = {
    SCMP_SYS(recvfrom),   SCMP_SYS(sendmsg),   SCMP_SYS(close),     SCMP_SYS(openat),    SCMP_SYS(openat2),
    SCMP_SYS(statx),      SCMP_SYS(fstatfs),   SCMP_SYS(preadv),    SCMP_SYS(pwritev),   SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),  SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(lseek),     SCMP_SYS(copy_file_range),
    SCMP_SYS(getdents64), SCMP_SYS(mkdirat),   SCMP_SYS(mknodat),   SCMP_SYS(symlinkat), SCMP_SYS(linkat),
    SCMP_SYS(unlinkat),   SCMP_SYS(renameat2), SCMP_SYS(fchownat),  SCMP_SYS(fchmodat),  SCMP_SYS(utimensat),
    SCMP_SYS(readlinkat), SCMP_SYS(getxattr),  SCMP_SYS(setxattr),  SCMP_SYS(listxattr), SCMP_SYS(removexattr),
    SCMP_SYS(syncfs),     SCMP_SYS(write),     SCMP_SYS(brk),       SCMP_SYS(munmap),    SCMP_SYS(exit_group),
    SCMP_SYS(fcntl),      SCMP_SYS(mmap)};

}  // namespace

std::span<const int> share_system_calls() { return kAllowed; }

Result<void> install_share_filter() {
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (filter == nullptr) return Error("share: seccomp_init failed");
    struct Release {
        scmp_filter_ctx filter;
        ~Release() { seccomp_release(filter); }
    } release{filter};
    int failed = 0;
    for (int number : kAllowed) {
        if (number == SCMP_SYS(fcntl))
            failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1, SCMP_A1(SCMP_CMP_EQ, F_SETFL));
        else if (number == SCMP_SYS(mmap))  // memory and no files, never executable
            failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 2, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
                                       SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, MAP_ANONYMOUS));
        else
            failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
    }
    if (failed != 0) return Error("share: seccomp rule failed");
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    int error = seccomp_load(filter);
    if (error != 0) return Error(fmt::format("share: seccomp filter: {}", strerrordesc_np(-error)), -error);
    return {};
}

}  // namespace casemate::fileserver
