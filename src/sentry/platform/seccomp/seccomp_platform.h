// The platform on plain Linux: application code runs in stub processes under a seccomp filter that executes nothing,
// and every syscall, fault and signal comes here as a user notification.
//
//   sentry ---- template process (forked before the sentry confines itself; never runs application code)
//      |            | clones
//      |        stub process, one per guest address space
//      |            cloner        starts threads on order; no filter, reads only what the application cannot write
//      |            map thread    batches of mmap and the like, from read-only orders; own filter
//      |            app threads   own filter: rt_sigreturn and a futex wake from the stub's code, nothing else
//      +------- one listener per thread; the control file (control_area.h) shared with all
//
// Trusts the host kernel, and the stub's code page (r-x, the application cannot change mappings). Trusts nothing that
// application threads can write: thread areas, their registers, the arguments of their notifications. An application
// that breaks its stub loses its stub.
//
// Clocks are read without a stop, by the host's own vDSO, which every stub keeps (host_vdso.h).
//
// Two syscalls never come here: uretprobe and uprobe (335, 336), which the kernel exempts from every filter since 6.11.
// It refuses them itself where it did not place them (SIGILL, which stops as a fault, and ENXIO).
//
// Host syscalls that the platform makes after create(), for the sentry's own filter:
//
//   ioctl              SECCOMP_IOCTL_NOTIF_RECV, _SEND, _SET_FLAGS
//   futex              FUTEX_WAIT with a time limit, FUTEX_WAKE (shared), and what std::mutex uses (private)
//   pidfd_open         flags 0
//   pidfd_getfd        flags 0
//   sendmsg            descriptors, to the map thread's socket
//   pidfd_send_signal  signal SIGKILL, info null, flags 0
//   tgkill             signal SIGURG
//   kill               signal SIGKILL (only when pidfd_open fails)
//   waitid             P_PID or P_PIDFD; wait4 with a pid (only when pidfd_open fails)
//   poll               one entry, time limit 0 or in milliseconds
//   process_vm_readv, process_vm_writev    flags 0
//   madvise            MADV_REMOVE, in the control area
//   sched_getaffinity, sched_setaffinity    of the calling thread, and of stubs' threads
//   clone              a thread; prctl PR_SET_NAME
//   getpid, close, sched_yield
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/seccomp/control_area.h"
#include "sentry/platform/seccomp/signal_frame.h"
#include "sentry/platform/seccomp/stub_process.h"
#include "sentry/platform/seccomp/template_process.h"

namespace casemate::sentry::seccomp {

class SeccompPlatform final : public Platform {
  public:
    // Call it while single-threaded, without a seccomp filter, with the final identity, namespaces and limits, from the
    // thread that lives longest: the stubs die with it. The memory file is borrowed for the call.
    static Result<std::unique_ptr<SeccompPlatform>> create(int memory_file);
    ~SeccompPlatform() override;

    SysResult<std::unique_ptr<HostAddressSpace>> create_address_space() override;
    uint64_t max_user_address() const override { return STUB_BLOCK_BASE; }
    size_t fp_state_size() const override { return layout_.fp_size; }
    HostClocks host_clocks() const override { return template_.clocks(); }

    // CPUs that the pod may use, if fewer than its affinity says.
    void set_cpus(unsigned cpus) { poller_.set_cpus(static_cast<int>(cpus)); }
    // Calls that came in shared memory.
    bool polling() const { return poller_.polling(); }
    uint64_t calls_polled() const { return poller_.answered(); }

    // Makes stubs ahead of need, until `count` are waiting.
    SysResult<void> prepare(size_t count);

  private:
    friend class SeccompAddressSpace;
    SeccompPlatform(ControlArea control, TemplateProcess template_process, const FrameLayout& layout);

    SysResult<std::unique_ptr<StubProcess>> spawn_locked();
    // Takes a stub back when its address space ends.
    void recycle(std::unique_ptr<StubProcess> stub);

    const FrameLayout layout_;
    std::mutex mutex_;  // taken before any stub's
    ControlArea control_;
    TemplateProcess template_;
    CallPoller poller_;  // outlives all threads
    std::vector<std::unique_ptr<StubProcess>> pool_;
};

}  // namespace casemate::sentry::seccomp
