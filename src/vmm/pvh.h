// The structures of the PVH boot protocol (Xen's public/arch-x86/hvm/start_info.h).
#pragma once

#include <cstdint>

namespace casemate::vmm {

constexpr uint32_t kPvhMagic = 0x336ec578;

struct PvhStartInfo {
    uint32_t magic;
    uint32_t version;  // 1: with a memory map
    uint32_t flags;
    uint32_t modules;
    uint64_t module_list;
    uint64_t command_line;
    uint64_t rsdp;
    uint64_t memory_map;
    uint32_t memory_map_entries;
    uint32_t reserved;
};

struct PvhModule {
    uint64_t address;
    uint64_t size;
    uint64_t command_line;
    uint64_t reserved;
};

struct PvhMemoryMapEntry {
    uint64_t address;
    uint64_t size;
    uint32_t type;
    uint32_t reserved;
};

}  // namespace casemate::vmm
