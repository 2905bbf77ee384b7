// A guest of one page that counts down in ring 0: tells a KVM that runs guest kernels from one that emulates them.
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include <cstring>

#include "base/unique_fd.h"
#include "base/unique_map.h"
#include "host/check.h"
#include "host/probe_child.h"
#include "linux/path.h"

namespace casemate::host {

namespace {

struct Outcome {
    const char* step = nullptr;  // that failed; a literal, so that it is valid in the parent too
    int code = 0;
    uint64_t instructions_per_second = 0;
};

Outcome failed(const char* step) {
    Outcome outcome;
    outcome.step = step;
    outcome.code = errno;
    return outcome;
}

// dec ecx; jnz -3; hlt
constexpr unsigned char kCode[] = {0x49, 0x75, 0xfd, 0xf4};
constexpr uint64_t kCodeAddress = 0x1000;

// Flat 32-bit protected mode without paging, ring 0: what needs the fewest structures.
bool enter_protected_mode(int vcpu) {
    kvm_sregs sregs;
    if (::ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0) return false;
    kvm_segment code = {};
    code.limit = 0xffffffff;
    code.selector = 8;
    code.type = 11;
    code.present = code.s = code.db = code.g = 1;
    kvm_segment data = code;
    data.selector = 16;
    data.type = 3;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 |= 1;
    return ::ioctl(vcpu, KVM_SET_SREGS, &sregs) == 0;
}

// Nanoseconds of this thread, guest time included: other load on the host does not make KVM slower.
int64_t cpu_time() {
    timespec now;
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

Outcome measure() {
    UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!kvm) return failed("open /dev/kvm");
    UniqueFd vm(::ioctl(kvm.get(), KVM_CREATE_VM, 0));
    if (!vm) return failed("KVM_CREATE_VM");
    auto memory = UniqueMap::create(0x3000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    if (!memory.ok()) return failed("mmap");
    std::memcpy(memory->data() + kCodeAddress, kCode, sizeof kCode);
    kvm_userspace_memory_region region = {};
    region.memory_size = memory->size();
    region.userspace_addr = reinterpret_cast<uint64_t>(memory->data());
    // Needed by Intel processors without unrestricted guests, harmless elsewhere.
    (void)::ioctl(vm.get(), KVM_SET_TSS_ADDR, 0xfffbd000);
    if (::ioctl(vm.get(), KVM_SET_USER_MEMORY_REGION, &region) < 0) return failed("KVM_SET_USER_MEMORY_REGION");
    UniqueFd vcpu(::ioctl(vm.get(), KVM_CREATE_VCPU, 0));
    if (!vcpu) return failed("KVM_CREATE_VCPU");
    int run_size = ::ioctl(kvm.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < 0) return failed("KVM_GET_VCPU_MMAP_SIZE");
    auto run = UniqueMap::create(static_cast<size_t>(run_size), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.get());
    if (!run.ok()) return failed("mmap of the vcpu");
    if (!enter_protected_mode(vcpu.get())) return failed("KVM_SET_SREGS");

    // From 10,000 instructions on, four times as many each round until a round is long enough to be told from its
    // entry and exit: 5 ms where ring 0 is emulated.
    for (uint64_t loops = 5'000;; loops *= 4) {
        kvm_regs registers = {};
        registers.rip = kCodeAddress;
        registers.rcx = loops;
        registers.rflags = 2;
        if (::ioctl(vcpu.get(), KVM_SET_REGS, &registers) < 0) return failed("KVM_SET_REGS");
        int64_t start = cpu_time();
        if (::ioctl(vcpu.get(), KVM_RUN, 0) < 0) return failed("KVM_RUN");
        int64_t elapsed = cpu_time() - start;
        if (run->as<kvm_run>()->exit_reason != KVM_EXIT_HLT) {
            errno = EIO;
            return failed("KVM_RUN (the guest did not halt)");
        }
        if (elapsed < 2'000'000 && loops < 100'000'000) continue;
        Outcome outcome;
        outcome.instructions_per_second = loops * 2 * 1'000'000'000 / static_cast<uint64_t>(elapsed > 0 ? elapsed : 1);
        return outcome;
    }
}

}  // namespace

KvmProbe probe_kvm() {
    KvmProbe probe;
    auto outcome = run_probe<Outcome>(2000, measure);
    if (!outcome.ok()) {
        probe.failure = outcome.error().value == ETIMEDOUT ? "a small guest did not end within 2 s" : "the probe died";
        return probe;
    }
    if (outcome->step != nullptr) {
        probe.failure = sys_error(outcome->step, outcome->code).message();
        return probe;
    }
    probe.present = true;
    probe.ring0_instructions_per_second = outcome->instructions_per_second;
    return probe;
}

HostCheck describe(const KvmProbe& probe) {
    HostCheck check;
    check.name = "kvm";
    check.title = "KVM";
    if (!probe.present) {
        check.status = CheckStatus::kWarning;
        check.found = probe.failure;
        check.remedy = probe.failure.starts_with("open /dev/kvm: Permission")
                           ? "let this user open /dev/kvm (group kvm) to use the microvm engine"
                           : "enable virtualization in the firmware, or nested virtualization on the host of this "
                             "machine, and load kvm-intel or kvm-amd, to use the microvm engine";
        return check;
    }
    double millions = static_cast<double>(probe.ring0_instructions_per_second) / 1e6;
    check.found =
        fmt::format("guest ring 0 runs {:.{}f} million instructions a second", millions, millions < 100 ? 1 : 0);
    if (probe.runs_at_speed()) {
        check.status = CheckStatus::kOk;
    } else {
        check.status = CheckStatus::kWarning;
        check.found += " (emulated)";
        check.remedy =
            "the microvm engine is not chosen here: this KVM emulates guest kernels; use a host with hardware "
            "virtualization for it";
    }
    return check;
}

}  // namespace casemate::host
