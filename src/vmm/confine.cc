#include "vmm/confine.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <span>

#include "linux/seccomp_fd.h"
#include "vmm/kvm.h"

namespace casemate::vmm {

namespace {

using host::ArgCheck;

// What both do: the heap, locks, the devices (a vCPU's thread activates and resets them), and the way out.
constexpr void allow_common(host::SeccompFilter& filter) {
    filter.allow({SYS_read, SYS_write, SYS_close, SYS_futex, SYS_munmap, SYS_brk, SYS_madvise, SYS_epoll_ctl,
                  SYS_timerfd_settime, SYS_exit_group, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_getpid, SYS_gettid,
                  SYS_tgkill, SYS_io_uring_enter});
    filter.allow_if(SYS_mmap, {ArgCheck::no_bits(2, PROT_EXEC)});
}

constexpr void allow_requests(host::SeccompFilter& filter, std::initializer_list<unsigned long> requests) {
    for (unsigned long request : requests)
        filter.allow_if(SYS_ioctl, {ArgCheck::equal32(1, static_cast<uint32_t>(request))});
}

constexpr host::SeccompFilter list_of(ThreadKind kind) {
    host::SeccompFilter filter;
    allow_common(filter);
    if (kind == ThreadKind::kVcpu) {
        filter.allow({SYS_exit});
        allow_requests(filter, {KVM_RUN});
        return filter;
    }
    // Devices: descriptors that are open already, and streams that a listening socket or the parent gives.
    filter.allow({SYS_epoll_wait, SYS_epoll_pwait2, SYS_poll, SYS_readv, SYS_writev, SYS_preadv, SYS_pwritev,
                  SYS_fdatasync, SYS_fallocate, SYS_accept4, SYS_recvmsg, SYS_sendmsg, SYS_sendto, SYS_recvfrom,
                  SYS_shutdown, SYS_getrandom});
    // Snapshots.
    filter.allow({SYS_lseek, SYS_pwrite64, SYS_ftruncate});
    allow_requests(filter, {TUNSETOFFLOAD});  // a guest's card, when its driver starts
    allow_requests(filter, {KVM_KVMCLOCK_CTRL, KVM_CHECK_EXTENSION, kKvmGetMsrIndexList, KVM_GET_CLOCK, kKvmGetCpuid2,
                            KVM_GET_MP_STATE, KVM_GET_SREGS, KVM_GET_REGS, kKvmGetXsave, kKvmGetXsave2, KVM_GET_XCRS,
                            KVM_GET_DEBUGREGS, KVM_GET_LAPIC, KVM_GET_TSC_KHZ, KVM_GET_DEVICE_ATTR, kKvmGetMsrs,
                            KVM_GET_VCPU_EVENTS, KVM_GET_IRQCHIP, KVM_GET_PIT2});
    return filter;
}

constexpr auto kMainProgram = host::compiled_filter<[] { return list_of(ThreadKind::kMain); }>();
constexpr auto kVcpuProgram = host::compiled_filter<[] { return list_of(ThreadKind::kVcpu); }>();

}  // namespace

host::SeccompFilter system_calls_of(ThreadKind kind) { return list_of(kind); }

Result<void> confine_thread(ThreadKind kind) {
    std::span<const sock_filter> program = kMainProgram;
    if (kind == ThreadKind::kVcpu) program = kVcpuProgram;
    auto installed = linux::install_seccomp_filter(program);
    if (!installed.ok()) return sys_error("install the monitor's seccomp list", installed.error().value);
    return {};
}

}  // namespace casemate::vmm
