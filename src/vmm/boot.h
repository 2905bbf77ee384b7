// Puts a kernel, its initrd, its command line and what a boot protocol wants into the guest's memory, and says with
// which registers the first vCPU enters it.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "vmm/image.h"
#include "vmm/memory.h"

namespace casemate::vmm {

struct BootFiles {
    int kernel = -1;  // borrowed
    int initrd = -1;  // -1: none
    std::string command_line;
};

struct BootEntry {
    Protocol protocol = Protocol::kPvh;
    uint64_t entry = 0;
};

// One sentence about the image if it cannot be booted in this memory.
Result<BootEntry> load_kernel(Memory& memory, const BootFiles& files);

// Registers at the entry: PVH is 32-bit protected mode without paging, Linux' 64-bit protocol wants long mode with the
// first 4 GiB mapped (load_kernel made the page tables). `sregs` is what KVM_GET_SREGS gave for a new vCPU.
void set_entry_registers(const BootEntry& entry, kvm_regs& regs, kvm_sregs& sregs);

// The memory map that a guest kernel is told: what is memory, what is reserved.
struct MapEntry {
    uint64_t address = 0;
    uint64_t size = 0;
    uint32_t type = 0;  // E820: 1 memory, 2 reserved
};
std::vector<MapEntry> guest_memory_map(const Memory& memory);

}  // namespace casemate::vmm
