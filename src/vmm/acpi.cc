#include "vmm/acpi.h"

#include <fmt/core.h>

#include <cstring>

#include "base/result.h"
#include "vmm/aml.h"
#include "vmm/layout.h"

namespace casemate::vmm {

namespace {

struct [[gnu::packed]] TableHeader {
    char signature[4];
    uint32_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem[6];
    char oem_table[8];
    uint32_t oem_revision;
    char creator[4];
    uint32_t creator_revision;
};

struct [[gnu::packed]] Rsdp {
    char signature[8];
    uint8_t checksum;
    char oem[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum;
    uint8_t reserved[3];
};

struct [[gnu::packed]] Address {
    uint8_t space;  // 1: I/O ports
    uint8_t bits;
    uint8_t bit_offset;
    uint8_t access;  // 1: bytes
    uint64_t address;
};

// ACPI 6.4, table 5.9. What a hardware-reduced machine lacks is 0.
struct [[gnu::packed]] Fadt {
    TableHeader header;
    uint32_t facs;
    uint32_t dsdt;
    uint8_t reserved0;
    uint8_t profile;
    uint16_t sci_interrupt;
    uint8_t fixed_hardware[109 - 48];
    uint16_t boot_flags;
    uint8_t reserved1;
    uint32_t flags;
    Address reset;
    uint8_t reset_value;
    uint16_t arm_flags;
    uint8_t minor_revision;
    uint64_t x_facs;
    uint64_t x_dsdt;
    uint8_t x_fixed_hardware[244 - 148];
    Address sleep_control;
    Address sleep_status;
    char hypervisor[8];
};
static_assert(sizeof(Fadt) == 276);

constexpr uint16_t kNoVga = 1 << 2, kNoAspm = 1 << 4, kNoCmosClock = 1 << 5;
constexpr uint32_t kResetSupported = 1 << 10, kHardwareReduced = 1 << 20;

uint8_t checksum_of(std::string_view bytes) {
    uint8_t sum = 0;
    for (char c : bytes) sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(c));
    return static_cast<uint8_t>(-sum);
}

template <typename T>
void append(std::string& to, const T& value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

TableHeader header_of(const char* signature, uint8_t revision, size_t length) {
    TableHeader header = {};
    std::memcpy(header.signature, signature, 4);
    header.length = static_cast<uint32_t>(length);
    header.revision = revision;
    std::memcpy(header.oem, "CASEMT", 6);
    std::memcpy(header.oem_table, "CASEMATE", 8);
    header.oem_revision = 1;
    std::memcpy(header.creator, "CASE", 4);
    header.creator_revision = 1;
    return header;
}

std::string table(const char* signature, uint8_t revision, const std::string& body) {
    std::string out;
    append(out, header_of(signature, revision, sizeof(TableHeader) + body.size()));
    out += body;
    out[offsetof(TableHeader, checksum)] = static_cast<char>(checksum_of(out));
    return out;
}

std::string make_dsdt(const AcpiSpec& spec) {
    std::string devices;
    for (size_t i = 0; i < spec.virtio.size(); ++i) {
        const AcpiVirtioDevice& device = spec.virtio[i];
        devices += aml::device(
            fmt::format("VR{:02}", i),
            aml::name("_HID", aml::text("LNRO0005")) + aml::name("_UID", aml::integer(i)) +
                aml::name("_CRS", aml::resources(
                                      {aml::memory_range(static_cast<uint32_t>(device.registers), kVirtioRegistersSize),
                                       aml::interrupt(device.irq)})));
    }
    devices += aml::device(
        "COM1", aml::name("_HID", aml::eisa_id("PNP0501")) + aml::name("_UID", aml::integer(0)) +
                    aml::name("_CRS", aml::resources({aml::ports(kSerialPort, 8), aml::interrupt(kSerialIrq)})));
    devices += aml::device("PEVT", aml::name("_HID", aml::text("QEMU0001")) +
                                       aml::name("_CRS", aml::resources({aml::ports(kPanicPort, 1)})));
    devices +=
        aml::device("VGEN", aml::name("_HID", aml::text("CASEVGID")) + aml::name("_CID", aml::text("VM_Gen_Counter")) +
                                aml::name("_DDN", aml::text("VM_Gen_Counter")) +
                                aml::name("ADDR", aml::package({aml::integer(kGenerationId), aml::integer(0)})));
    // An interrupt here says that the generation id has changed.
    devices += aml::device("GED_", aml::name("_HID", aml::text("ACPI0013")) +
                                       aml::name("_CRS", aml::resources({aml::interrupt(kGenerationIrq)})) +
                                       aml::method("_EVT", 1, aml::notify("\\_SB_.VGEN", 0x80)));
    std::string off =
        aml::name("_S5_", aml::package({aml::integer(5), aml::integer(0), aml::integer(0), aml::integer(0)}));
    return table("DSDT", 6, aml::scope("\\_SB_", devices) + off);
}

std::string make_madt(uint32_t vcpus) {
    std::string body;
    append(body, static_cast<uint32_t>(kLocalApic));
    append(body, uint32_t{0});  // no PC interrupt controllers
    for (uint32_t i = 0; i < vcpus; ++i) {
        struct [[gnu::packed]] {
            uint8_t type = 0, length = 8, processor, id;
            uint32_t flags = 1;
        } local;
        local.processor = local.id = static_cast<uint8_t>(i);
        append(body, local);
    }
    struct [[gnu::packed]] {
        uint8_t type = 1, length = 12, id = 0, reserved = 0;
        uint32_t address = static_cast<uint32_t>(kIoApic);
        uint32_t first_gsi = 0;
    } io_apic;
    append(body, io_apic);
    return table("APIC", 6, body);
}

std::string make_fadt(uint64_t dsdt) {
    Fadt fadt = {};
    fadt.header = header_of("FACP", 6, sizeof fadt);
    fadt.boot_flags = kNoVga | kNoAspm | kNoCmosClock;
    fadt.flags = kResetSupported | kHardwareReduced;
    fadt.reset = {1, 8, 0, 1, kResetPort};
    fadt.reset_value = 1;
    fadt.minor_revision = 4;
    fadt.x_dsdt = dsdt;
    fadt.sleep_control = {1, 8, 0, 1, kSleepControlPort};
    fadt.sleep_status = {1, 8, 0, 1, kSleepStatusPort};
    std::memcpy(fadt.hypervisor, "CASEMATE", 8);
    std::string out;
    append(out, fadt);
    out[offsetof(TableHeader, checksum)] = static_cast<char>(checksum_of(out));
    return out;
}

}  // namespace

std::string make_acpi_tables(const AcpiSpec& spec) {
    std::string out(64, '\0');  // the RSDP comes when its XSDT is known
    auto place = [&](const std::string& bytes) {
        out.resize((out.size() + 15) & ~size_t{15});
        uint64_t address = spec.address + out.size();
        out += bytes;
        return address;
    };
    uint64_t fadt = place(make_fadt(place(make_dsdt(spec))));
    uint64_t madt = place(make_madt(spec.vcpus));
    std::string pointers;
    append(pointers, fadt);
    append(pointers, madt);
    Rsdp rsdp = {};
    std::memcpy(rsdp.signature, "RSD PTR ", 8);
    std::memcpy(rsdp.oem, "CASEMT", 6);
    rsdp.revision = 2;
    rsdp.length = sizeof rsdp;
    rsdp.xsdt = place(table("XSDT", 1, pointers));
    rsdp.checksum = checksum_of({reinterpret_cast<char*>(&rsdp), 20});
    rsdp.extended_checksum = checksum_of({reinterpret_cast<char*>(&rsdp), sizeof rsdp});
    std::memcpy(out.data(), &rsdp, sizeof rsdp);
    return out;
}

}  // namespace casemate::vmm
