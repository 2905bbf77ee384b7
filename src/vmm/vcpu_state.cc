// The order of the ioctls matters: CPUID before everything that depends on it, the APIC before the deadline of its
// timer, the TSC before that too.
//
// The TSC is set by KVM_VCPU_TSC_OFFSET and not by its MSR: KVM takes a write to the MSR that is within a second of the
// new machine's TSC for an attempt to synchronize processors and ignores it, so that a guest younger than a second
// loses its TSC and waits for the lost time. The same offset also keeps the processors synchronized.
#include "vmm/vcpu_state.h"

#include <cpuid.h>
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/log.h"
#include "vmm/state_values.h"

namespace casemate::vmm {

namespace {

constexpr uint32_t kMsrTsc = 0x10, kMsrTscDeadline = 0x6e0;
// Not in KVM's list of what to save, and the guest's all the same: how memory is cached. A guest that looks only after
// the snapshot, in its first moments, would find it switched off.
std::vector<uint32_t> with_mtrrs(std::span<const uint32_t> indexes) {
    std::vector<uint32_t> all(indexes.begin(), indexes.end());
    auto add = [&](uint32_t first, uint32_t last) {
        for (uint32_t index = first; index <= last; ++index)
            if (std::find(all.begin(), all.end(), index) == all.end()) all.push_back(index);
    };
    add(0x250, 0x250);  // fixed ranges
    add(0x258, 0x259);
    add(0x268, 0x26f);
    add(0x200, 0x20f);  // variable ones
    add(0x277, 0x277);  // PAT
    add(0x2ff, 0x2ff);  // default type, and the switch: after the ranges
    return all;
}

constexpr size_t kMaxMsrs = 4096, kMaxCpuid = 1024;

template <typename T>
Result<void> save_one(KvmVcpu& vcpu, unsigned long request, const char* name, virtio::StateWriter& writer) {
    auto value = vcpu.get<T>(request);
    if (!value.ok()) return sys_error(name, value.error().value);
    put(writer, *value);
    return {};
}

template <typename T>
Result<void> restore_one(KvmVcpu& vcpu, unsigned long request, const char* name, virtio::StateReader& reader) {
    T value = TRY(take<T>(reader));
    if (auto set = vcpu.set(request, value); !set.ok()) return sys_error(name, set.error().value);
    return {};
}

Result<void> check_same_processor(std::span<const kvm_cpuid_entry2> leaves) {
    for (const kvm_cpuid_entry2& leaf : leaves) {
        uint32_t eax, ebx, ecx, edx;
        if (leaf.function > 1 || __get_cpuid(leaf.function, &eax, &ebx, &ecx, &edx) == 0) continue;
        bool same = leaf.function == 0 ? leaf.ebx == ebx && leaf.ecx == ecx && leaf.edx == edx : leaf.eax == eax;
        if (!same) return Error("the snapshot was made on another kind of processor", EBADMSG);
    }
    return {};
}

void set_each(KvmVcpu& vcpu, std::span<const kvm_msr_entry> msrs) {
    while (!msrs.empty()) {
        uint32_t refused = 0;
        if (vcpu.set_msrs(msrs, &refused).ok()) return;
        auto at = std::find_if(msrs.begin(), msrs.end(), [&](const auto& msr) { return msr.index == refused; });
        if (at == msrs.end()) return;
        log::debug("KVM gave out MSR {:#x} and does not take it back", refused);
        msrs = msrs.subspan(static_cast<size_t>(at - msrs.begin()) + 1);
    }
}

}  // namespace

uint64_t host_tsc() { return __rdtsc(); }

Result<void> save_vcpu(KvmVcpu& vcpu, std::span<const uint32_t> indexes, size_t xsave_size,
                       virtio::StateWriter& writer) {
    KvmArray<KvmCount, kvm_cpuid_entry2> cpuid(kMaxCpuid);
    cpuid.header()->count = kMaxCpuid;
    if (auto got = vcpu.call(kKvmGetCpuid2, cpuid.header()); !got.ok())
        return sys_error("KVM_GET_CPUID2", got.error().value);
    writer.text({reinterpret_cast<const char*>(cpuid.entries()), cpuid.header()->count * sizeof(kvm_cpuid_entry2)});
    // Before the registers: it finishes what is half done on this processor.
    TRY(save_one<kvm_mp_state>(vcpu, KVM_GET_MP_STATE, "KVM_GET_MP_STATE", writer));
    TRY(save_one<kvm_sregs>(vcpu, KVM_GET_SREGS, "KVM_GET_SREGS", writer));
    TRY(save_one<kvm_regs>(vcpu, KVM_GET_REGS, "KVM_GET_REGS", writer));
    std::vector<char> xsave(std::max(xsave_size, kXsaveSize));
    unsigned long get_xsave = xsave_size > kXsaveSize ? kKvmGetXsave2 : kKvmGetXsave;
    if (auto got = vcpu.call(get_xsave, xsave.data()); !got.ok()) return sys_error("KVM_GET_XSAVE", got.error().value);
    writer.text({xsave.data(), xsave.size()});
    TRY(save_one<kvm_xcrs>(vcpu, KVM_GET_XCRS, "KVM_GET_XCRS", writer));
    TRY(save_one<kvm_debugregs>(vcpu, KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", writer));
    TRY(save_one<kvm_lapic_state>(vcpu, KVM_GET_LAPIC, "KVM_GET_LAPIC", writer));
    int khz = ::ioctl(vcpu.fd(), KVM_GET_TSC_KHZ, 0);
    writer.number(static_cast<int32_t>(khz));
    auto offset = vcpu.tsc_offset();
    writer.number(static_cast<uint8_t>(offset.ok()));
    writer.number(offset.ok() ? *offset : uint64_t{0});
    auto msrs = vcpu.get_msrs(with_mtrrs(indexes));
    if (!msrs.ok()) return sys_error("KVM_GET_MSRS", msrs.error().value);
    // What is 0 is so after a reset.
    std::erase_if(*msrs, [](const kvm_msr_entry& msr) { return msr.data == 0; });
    writer.text({reinterpret_cast<const char*>(msrs->data()), msrs->size() * sizeof(kvm_msr_entry)});
    TRY(save_one<kvm_vcpu_events>(vcpu, KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", writer));
    return {};
}

Result<void> restore_vcpu(KvmVcpu& vcpu, size_t xsave_size, const ClockShift& shift, virtio::StateReader& reader) {
    auto array = [&]<typename T>(std::vector<T>& into, size_t limit) -> Result<void> {
        auto bytes = reader.text();
        if (!bytes.ok() || bytes->size() % sizeof(T) != 0 || bytes->size() / sizeof(T) > limit)
            return Error("the snapshot is not whole", EBADMSG);
        into.resize(bytes->size() / sizeof(T));
        std::memcpy(into.data(), bytes->data(), bytes->size());
        return {};
    };
    std::vector<kvm_cpuid_entry2> cpuid;
    TRY(array(cpuid, kMaxCpuid));
    TRY(check_same_processor(cpuid));
    if (auto set = vcpu.set_cpuid(cpuid); !set.ok()) return sys_error("KVM_SET_CPUID2", set.error().value);
    auto mp_state = TRY(take<kvm_mp_state>(reader));
    TRY(restore_one<kvm_sregs>(vcpu, KVM_SET_SREGS, "KVM_SET_SREGS", reader));
    TRY(restore_one<kvm_regs>(vcpu, KVM_SET_REGS, "KVM_SET_REGS", reader));
    std::vector<char> xsave;
    TRY(array(xsave, 1 << 20));
    if (xsave.size() != std::max(xsave_size, kXsaveSize))
        return Error("the snapshot was made on another kind of processor", EBADMSG);
    if (auto set = vcpu.call(kKvmSetXsave, xsave.data()); !set.ok())
        return sys_error("KVM_SET_XSAVE", set.error().value);
    TRY(restore_one<kvm_xcrs>(vcpu, KVM_SET_XCRS, "KVM_SET_XCRS", reader));
    TRY(restore_one<kvm_debugregs>(vcpu, KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", reader));
    TRY(restore_one<kvm_lapic_state>(vcpu, KVM_SET_LAPIC, "KVM_SET_LAPIC", reader));

    auto khz = reader.number<int32_t>();
    auto has_offset = reader.number<uint8_t>();
    auto offset = reader.number<uint64_t>();
    std::vector<kvm_msr_entry> msrs;
    TRY(array(msrs, kMaxMsrs));
    if (!khz.ok() || !has_offset.ok() || !offset.ok()) return Error("the snapshot is not whole", EBADMSG);
    int khz_now = ::ioctl(vcpu.fd(), KVM_GET_TSC_KHZ, 0);
    // The clock a guest was told of cannot change; calibrations of one machine differ by parts in ten thousand.
    if (khz_now > 0 && *khz > 0 && std::abs(int64_t{khz_now} - *khz) > *khz / 1000)
        return Error(fmt::format("the snapshot's processor counts {} kHz and this one {}", *khz, khz_now), EBADMSG);
    auto ticks = static_cast<uint64_t>(static_cast<unsigned __int128>(shift.elapsed_ns) *
                                       static_cast<uint64_t>(std::max(*khz, 0)) / 1'000'000);
    bool tsc_set =
        *has_offset != 0 && vcpu.set_tsc_offset(*offset + shift.host_tsc_then + ticks - shift.host_tsc_now).ok();
    std::vector<kvm_msr_entry> deadline;
    for (kvm_msr_entry& msr : msrs)
        if (msr.index == kMsrTscDeadline) deadline.push_back(msr);
    std::erase_if(msrs, [&](const kvm_msr_entry& msr) {
        return msr.index == kMsrTscDeadline || (tsc_set && msr.index == kMsrTsc);
    });
    if (!tsc_set)  // a KVM before Linux 5.16
        for (kvm_msr_entry& msr : msrs)
            if (msr.index == kMsrTsc) msr.data += ticks;
    set_each(vcpu, msrs);
    set_each(vcpu, deadline);
    TRY(restore_one<kvm_vcpu_events>(vcpu, KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", reader));
    if (auto set = vcpu.set(KVM_SET_MP_STATE, mp_state); !set.ok())
        return sys_error("KVM_SET_MP_STATE", set.error().value);
    return {};
}

}  // namespace casemate::vmm
