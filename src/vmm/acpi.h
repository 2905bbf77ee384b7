// The ACPI tables of a machine, as bytes for kAcpiTables: the processors, one I/O APIC, the virtio devices, how to
// sleep and reset, the panic port and the generation id. "Hardware reduced": no PC timer, no PC interrupt controller,
// no CMOS clock, no keyboard controller to look for. ACPI 6.4.
//
// Debian's cloud kernel has no virtio_mmio.device= on its command line (CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES is not set),
// so the devices can only be told here (docs/decisions).
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace casemate::vmm {

struct AcpiVirtioDevice {
    uint64_t registers = 0;  // guest address, kVirtioRegistersSize bytes
    uint32_t irq = 0;
};

struct AcpiSpec {
    uint32_t vcpus = 1;
    std::span<const AcpiVirtioDevice> virtio;
    uint64_t address = 0;  // where the tables will lie; RSDP first
};

std::string make_acpi_tables(const AcpiSpec& spec);

}  // namespace casemate::vmm
