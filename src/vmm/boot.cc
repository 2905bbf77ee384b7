#include "vmm/boot.h"

#include <asm/bootparam.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/checked.h"
#include "vmm/layout.h"
#include "vmm/pvh.h"

namespace casemate::vmm {

namespace {

constexpr uint32_t kRam = 1, kReserved = 2;

// The boot tables' memory is there in every guest: a failure is our bug.
template <typename T>
void put(const Memory& memory, uint64_t address, const T& object) {
    MUST(memory.write_object(address, object));
}

// Sizes and addresses were checked before.
Error load_error(const char* what, Errno error) {
    if (error.value == ENODATA) return Error(fmt::format("the {} was cut while it was read", what), error.value);
    if (error.value == EFAULT || error.value == ENOMEM || error.value == ENOSPC)
        return Error(fmt::format("the host has no memory for the guest's {}", what), ENOMEM);
    return sys_error(fmt::format("read the {}", what), error.value);
}

struct Initrd {
    uint64_t address = 0;
    uint64_t size = 0;
};

Result<Initrd> load_initrd(Memory& memory, int fd, const KernelImage& kernel) {
    struct stat st;
    if (::fstat(fd, &st) < 0) return sys_error("stat of the initrd");
    if (!S_ISREG(st.st_mode)) return Error("the initrd must be a regular file", EINVAL);
    if (st.st_size == 0) return Error("the initrd is empty", EINVAL);
    Initrd initrd;
    initrd.size = static_cast<uint64_t>(st.st_size);
    uint64_t limit = std::min(memory.low_end(), page_down(kernel.initrd_max) + (kernel.initrd_max + 1) % kPageSize);
    uint64_t floor = page_up(kernel.end);
    if (initrd.size > limit || page_down(limit - initrd.size) < floor)
        return Error(fmt::format("kernel and initrd ({} MiB) do not fit into {} MiB of memory", initrd.size / kMiB + 1,
                                 memory.size() / kMiB),
                     ENOMEM);
    initrd.address = page_down(limit - initrd.size);
    // A small one finds room in front of the kernel, in the pages of 4 KiB that the boot tables lie in (memory.h): at
    // the top it would cost a huge page of its own.
    if (initrd.size <= kSmallPagesEnd - kHighMemory && kernel.pieces.front().address >= kSmallPagesEnd)
        initrd.address = kHighMemory;
    FilePart whole{0, initrd.size, initrd.address, Holes::kNone};
    auto loaded = memory.load(fd, {&whole, 1});
    if (!loaded.ok()) return load_error("initrd", loaded.error());
    return initrd;
}

void put_pvh(const Memory& memory, const Initrd& initrd) {
    auto map = guest_memory_map(memory);
    for (size_t i = 0; i < map.size(); ++i)
        put(memory, kPvhMemoryMap + i * sizeof(PvhMemoryMapEntry),
            PvhMemoryMapEntry{map[i].address, map[i].size, map[i].type, 0});
    PvhStartInfo info = {};
    info.magic = kPvhMagic;
    info.version = 1;
    info.command_line = kCommandLine;
    info.rsdp = kAcpiTables;
    info.memory_map = kPvhMemoryMap;
    info.memory_map_entries = static_cast<uint32_t>(map.size());
    if (initrd.size > 0) {
        put(memory, kPvhModules, PvhModule{initrd.address, initrd.size, 0, 0});
        info.modules = 1;
        info.module_list = kPvhModules;
    }
    put(memory, kPvhStartInfo, info);
}

void put_zero_page(const Memory& memory, const KernelImage& kernel, const Initrd& initrd, size_t command_line) {
    boot_params params = {};
    std::memcpy(&params.hdr, kernel.setup_header.data(), std::min(kernel.setup_header.size(), sizeof params.hdr));
    params.hdr.type_of_loader = 0xff;
    params.hdr.boot_flag = 0xaa55;
    params.hdr.header = 0x53726448;
    params.hdr.cmd_line_ptr = kCommandLine;
    params.hdr.cmdline_size = static_cast<uint32_t>(command_line);
    params.hdr.ramdisk_image = static_cast<uint32_t>(initrd.address);
    params.hdr.ramdisk_size = static_cast<uint32_t>(initrd.size);
    if (params.hdr.kernel_alignment == 0) params.hdr.kernel_alignment = 0x1000000;
    params.acpi_rsdp_addr = kAcpiTables;
    auto map = guest_memory_map(memory);
    for (size_t i = 0; i < map.size(); ++i) params.e820_table[i] = {map[i].address, map[i].size, map[i].type};
    params.e820_entries = static_cast<uint8_t>(map.size());
    put(memory, kZeroPage, params);

    // The first 4 GiB, each at its own address, in pages of 2 MiB.
    constexpr uint64_t kPresentWritable = 3, kLarge = 0x80;
    std::array<uint64_t, 512> table = {};
    table[0] = (kPageTables + 0x1000) | kPresentWritable;
    put(memory, kPageTables, table);
    table = {};
    for (uint64_t i = 0; i < 4; ++i) table[i] = (kPageTables + 0x2000 + i * 0x1000) | kPresentWritable;
    put(memory, kPageTables + 0x1000, table);
    for (uint64_t i = 0; i < 4; ++i) {
        for (uint64_t j = 0; j < 512; ++j) table[j] = (i << 30 | j << 21) | kPresentWritable | kLarge;
        put(memory, kPageTables + 0x2000 + i * 0x1000, table);
    }
}

Result<void> put_command_line(const Memory& memory, std::string_view text, uint64_t limit) {
    limit = std::min(limit, kMaxCommandLine);
    if (text.size() > limit)
        return Error(fmt::format("the command line has {} bytes; this kernel takes {}", text.size(), limit), E2BIG);
    for (char c : text)
        if (static_cast<unsigned char>(c) < 0x20 && c != '\t')
            return Error("the command line must be text in one line", EINVAL);
    std::string bytes(text);
    bytes.push_back('\0');
    MUST(memory.write(kCommandLine, bytes));
    return {};
}

kvm_segment flat_segment(uint16_t selector, uint8_t type) {
    kvm_segment segment = {};
    segment.limit = 0xffffffff;
    segment.selector = selector;
    segment.type = type;
    segment.present = segment.s = segment.g = 1;
    return segment;
}

}  // namespace

std::vector<MapEntry> guest_memory_map(const Memory& memory) {
    std::vector<MapEntry> map = {{0, kLowMemoryEnd, kRam},
                                 {kLowMemoryEnd, kHighMemory - kLowMemoryEnd, kReserved},
                                 {kHighMemory, memory.low_end() - kHighMemory, kRam}};
    for (const MemoryRegion& region : memory.regions().subspan(1))
        map.push_back({region.guest_address, region.size, kRam});
    return map;
}

Result<BootEntry> load_kernel(Memory& memory, const BootFiles& files) {
    auto source = FileImage::open(files.kernel);
    if (!source.ok()) return sys_error("the kernel image must be a regular file", source.error().value);
    KernelImage kernel = TRY(read_kernel(*source));
    for (const ImagePiece& piece : kernel.pieces)
        if (memory.at(piece.address, piece.memory_size) == nullptr)
            return Error(fmt::format("the kernel wants memory up to {} MiB and the guest has {} MiB",
                                     (piece.address + piece.memory_size) / kMiB + 1, memory.size() / kMiB),
                         ENOMEM);
    auto loaded = memory.load(files.kernel, kernel.data);
    if (!loaded.ok()) return load_error("kernel image", loaded.error());
    Initrd initrd;
    if (files.initrd >= 0) initrd = TRY(load_initrd(memory, files.initrd, kernel));
    memory.finish_load();
    TRY(put_command_line(memory, files.command_line, kernel.command_line_max));
    if (kernel.protocol == Protocol::kPvh)
        put_pvh(memory, initrd);
    else
        put_zero_page(memory, kernel, initrd, files.command_line.size());
    return BootEntry{kernel.protocol, kernel.entry};
}

void set_entry_registers(const BootEntry& entry, kvm_regs& regs, kvm_sregs& sregs) {
    regs = {};
    regs.rflags = 2;
    regs.rip = entry.entry;
    kvm_segment code = flat_segment(0x10, 11);
    kvm_segment data = flat_segment(0x18, 3);
    data.db = 1;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.tr = {};
    sregs.tr.selector = 0x20;
    sregs.tr.limit = 0x67;
    sregs.tr.type = 11;
    sregs.tr.present = 1;
    sregs.ldt = {};
    sregs.ldt.unusable = 1;
    sregs.gdt = {};
    sregs.idt = {};
    if (entry.protocol == Protocol::kPvh) {
        code.db = 1;
        sregs.cs = code;
        sregs.cr0 = 0x11;  // PE, ET
        sregs.cr4 = 0;
        sregs.efer = 0;
        regs.rbx = kPvhStartInfo;
        return;
    }
    code.l = 1;
    sregs.cs = code;
    sregs.cr3 = kPageTables;
    sregs.cr4 = 0x20;        // PAE
    sregs.cr0 = 0x80000011;  // PG, PE, ET
    sregs.efer = 0x500;      // LME, LMA
    regs.rsi = kZeroPage;
    regs.rsp = regs.rbp = kBootStack;
}

}  // namespace casemate::vmm
