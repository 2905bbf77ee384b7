// Where things lie in the guest's physical address space.
//
//   0x0000'0000  memory: tables for the boot below 640 KiB, the kernel from 1 MiB (usually 16 MiB), the initrd at the
//   top 0xc000'0000  no memory: registers of virtio devices, I/O APIC, local APIC, KVM's own pages 0x1'0000'0000  the
//   rest of the memory
#pragma once

#include <cstdint>

namespace casemate::vmm {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

constexpr uint64_t kGdt = 0x500;
constexpr uint64_t kPvhStartInfo = 0x6000;
constexpr uint64_t kPvhModules = 0x6100;
constexpr uint64_t kPvhMemoryMap = 0x6200;
constexpr uint64_t kZeroPage = 0x7000;  // Linux' struct boot_params
constexpr uint64_t kBootStack = 0x8ff0;
constexpr uint64_t kPageTables = 0x9000;  // PML4, PDPT, four page directories
constexpr uint64_t kCommandLine = 0x20000;
constexpr uint64_t kLowMemoryEnd = 0x9fc00;  // of the old BIOS data area

// Reserved for the guest: what the monitor puts there stays.
constexpr uint64_t kAcpiTables = 0xe0000;
constexpr uint64_t kAcpiTablesEnd = 0xff000;
constexpr uint64_t kGenerationId = 0xff000;
constexpr uint64_t kHighMemory = 0x100000;
// Little is ever used below: it gets no huge page (memory.cc).
constexpr uint64_t kSmallPagesEnd = 0x200000;

constexpr uint64_t kHole = 3 * kGiB;  // to 4 GiB: no memory
constexpr uint64_t kVirtioRegisters = 0xd0000000;
constexpr uint64_t kVirtioRegistersSize = 0x1000;
constexpr uint64_t kIoApic = 0xfec00000;
constexpr uint64_t kLocalApic = 0xfee00000;
constexpr uint64_t kIdentityMap = 0xfffbc000;  // a page, for Intel processors without unrestricted guests
constexpr uint64_t kTss = 0xfffbd000;          // three pages, the same
constexpr uint64_t kAfterHole = 4 * kGiB;

constexpr uint32_t kSerialIrq = 4;
constexpr uint32_t kGenerationIrq = 5;
constexpr uint32_t kFirstVirtioIrq = 6;
constexpr uint32_t kLastIrq = 23;  // of the I/O APIC
constexpr uint32_t kMaxVirtioDevices = kLastIrq - kFirstVirtioIrq + 1;

constexpr uint16_t kSerialPort = 0x3f8;
constexpr uint16_t kPciAddressPort = 0xcf8;  // nothing answers
constexpr uint16_t kKeyboardPort = 0x64;     // only its reset line
constexpr uint16_t kPanicPort = 0x505;       // pvpanic
constexpr uint16_t kSleepControlPort = 0x600;
constexpr uint16_t kSleepStatusPort = 0x601;
constexpr uint16_t kResetPort = 0x602;

// The word in which a PC's firmware finds whether a reboot is a warm one. Linux writes it right before any reset; with
// `reboot=panic_warm` a reset after a panic says so here, however early the panic came.
constexpr uint64_t kWarmRebootWord = 0x472;
constexpr uint16_t kWarmReboot = 0x1234;

constexpr uint32_t kMaxVcpus = 64;
constexpr uint64_t kMinMemory = 16 * kMiB;
constexpr uint64_t kMaxMemory = 1024 * kGiB;
constexpr uint64_t kMaxCommandLine = 2047;  // COMMAND_LINE_SIZE of Linux on x86, less the end

}  // namespace casemate::vmm
