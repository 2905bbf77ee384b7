#include "vmm/cpu.h"

#include <algorithm>
#include <array>
#include <bit>

namespace casemate::vmm {

namespace {

constexpr uint32_t bit(unsigned n) { return uint32_t{1} << n; }
constexpr uint32_t kMsrMiscEnable = 0x1a0, kMsrMtrrDefaultType = 0x2ff;

// Bits of an APIC id that tell the cores of the socket apart.
uint32_t core_bits(uint32_t count) { return static_cast<uint32_t>(std::bit_width(count - 1)); }

// How many logical processors share the cache that leaf 4 or 0x8000001d describes: its own core, or all for level 3.
void set_cache_sharing(kvm_cpuid_entry2& entry, uint32_t count) {
    uint32_t level = entry.eax >> 5 & 7;
    uint32_t sharing = level >= 3 ? count : 1;
    entry.eax = (entry.eax & ~(uint32_t{0xfff} << 14)) | (sharing - 1) << 14;
}

void set_topology_leaf(std::vector<kvm_cpuid_entry2>& entries, uint32_t leaf, uint32_t id, uint32_t count) {
    bool present = std::erase_if(entries, [&](const auto& entry) { return entry.function == leaf; }) > 0;
    if (!present) return;
    for (uint32_t level = 0; level < 3; ++level) {
        kvm_cpuid_entry2 entry = {};
        entry.function = leaf;
        entry.index = level;
        entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        entry.ecx = level;
        entry.edx = id;
        if (level == 0) {  // threads of a core
            entry.ebx = 1;
            entry.ecx |= 1 << 8;
        } else if (level == 1) {  // cores
            entry.eax = core_bits(count);
            entry.ebx = count;
            entry.ecx |= 2 << 8;
        }
        entries.push_back(entry);
    }
}

}  // namespace

std::vector<kvm_cpuid_entry2> make_cpuid(std::vector<kvm_cpuid_entry2> supported, uint32_t id, uint32_t count,
                                         bool tsc_deadline) {
    std::vector<kvm_cpuid_entry2> entries = std::move(supported);
    for (kvm_cpuid_entry2& entry : entries) {
        switch (entry.function) {
            case 1:
                entry.ebx = (entry.ebx & 0xff) | id << 24 | count << 16 | 8 << 8;  // CLFLUSH: 64 bytes
                entry.ecx = (entry.ecx & ~bit(15) & ~bit(24)) | bit(31);           // no PDCM; there is a hypervisor
                if (tsc_deadline) entry.ecx |= bit(24);
                entry.edx = count > 1 ? entry.edx | bit(28) : entry.edx & ~bit(28);
                break;
            case 4:
                if ((entry.eax & 0x1f) == 0) break;
                set_cache_sharing(entry, count);
                entry.eax = (entry.eax & 0x3ffffff) | (count - 1) << 26;
                break;
            case 6:
                entry.eax &= ~bit(1);  // no turbo
                entry.ecx &= ~bit(3);  // no energy bias
                break;
            case 0xa:
                entry.eax = entry.ebx = entry.ecx = entry.edx = 0;  // no performance counters
                break;
            case 0x80000008:
                entry.ecx = (entry.ecx & ~uint32_t{0xf0ff}) | (count - 1) | core_bits(count) << 12;
                break;
            case 0x8000001d:
                if ((entry.eax & 0x1f) != 0) set_cache_sharing(entry, count);
                break;
            case 0x8000001e:
                entry.eax = id;
                entry.ebx = id;  // one thread a core
                entry.ecx = 0;
                break;
            default:
                break;
        }
    }
    set_topology_leaf(entries, 0xb, id, count);
    set_topology_leaf(entries, 0x1f, id, count);
    return entries;
}

SysResult<void> set_boot_msrs(KvmVcpu& vcpu) {
    // Everything else is 0 at reset, as it should be. Memory is write-back where no MTRR says otherwise.
    std::array<kvm_msr_entry, 2> msrs = {};
    msrs[0] = {.index = kMsrMtrrDefaultType, .data = 1 << 11 | 6};
    msrs[1] = {.index = kMsrMiscEnable, .data = 1};  // fast strings
    uint32_t refused = 0;
    auto set = vcpu.set_msrs(msrs, &refused);
    if (!set.ok() && refused != kMsrMiscEnable) return set;  // an Intel register: other processors may lack it
    return {};
}

}  // namespace casemate::vmm
