#include "vmm/acpi.h"

#include <gtest/gtest.h>

#include <cstring>

#include "vmm/aml.h"
#include "vmm/layout.h"

namespace casemate::vmm {
namespace {

uint8_t sum(std::string_view bytes) {
    uint8_t total = 0;
    for (char c : bytes) total = static_cast<uint8_t>(total + static_cast<uint8_t>(c));
    return total;
}

template <typename T>
T at(const std::string& bytes, size_t offset) {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

TEST(Acpi, EveryTableIsFoundFromTheRootWithItsChecksum) {
    std::vector<AcpiVirtioDevice> devices;
    for (uint32_t i = 0; i < kMaxVirtioDevices; ++i)
        devices.push_back({kVirtioRegisters + i * 0x1000, kFirstVirtioIrq + i});
    std::string tables = make_acpi_tables({64, devices, kAcpiTables});
    ASSERT_LT(tables.size(), kAcpiTablesEnd - kAcpiTables);
    EXPECT_EQ(tables.substr(0, 8), "RSD PTR ");
    EXPECT_EQ(sum(std::string_view(tables).substr(0, 20)), 0);
    EXPECT_EQ(sum(std::string_view(tables).substr(0, 36)), 0);
    auto table = [&](uint64_t address) {
        size_t offset = address - kAcpiTables;
        return tables.substr(offset, at<uint32_t>(tables, offset + 4));
    };
    std::string xsdt = table(at<uint64_t>(tables, 24));
    ASSERT_EQ(xsdt.size(), 36 + 16u);
    std::string fadt = table(at<uint64_t>(xsdt, 36)), madt = table(at<uint64_t>(xsdt, 44));
    std::string dsdt = table(at<uint64_t>(fadt, 140));
    for (const std::string& one : {xsdt, fadt, madt, dsdt}) EXPECT_EQ(sum(one), 0) << one.substr(0, 4);
    EXPECT_EQ(fadt.substr(0, 4), "FACP");
    EXPECT_EQ(fadt.size(), 276u);
    EXPECT_EQ(at<uint64_t>(fadt, 120), kResetPort);
    EXPECT_EQ(at<uint64_t>(fadt, 248), kSleepControlPort);
    EXPECT_EQ(madt.size(), 44 + 64 * 8 + 12u);
    EXPECT_NE(dsdt.find("LNRO0005"), std::string::npos);
}

TEST(Aml, LengthsCountThemselves) {
    EXPECT_EQ(aml::scope("_SB_", ""), std::string("\x10\x05_SB_", 6));
    std::string middle = aml::scope("_SB_", std::string(100, 'x'));
    EXPECT_EQ(middle.substr(0, 3), std::string("\x10\x4a\x06", 3));  // 106 bytes behind the opcode
    EXPECT_EQ(middle.size(), 107u);
    std::string large = aml::scope("_SB_", std::string(5000, 'x'));
    EXPECT_EQ(large.size(), 5008u);
    EXPECT_EQ(static_cast<uint8_t>(large[1]), 0x80 | (5007 & 0xf));
}

TEST(Aml, Names) {
    EXPECT_EQ(aml::path("\\_SB_.VGEN"), "\\\x2e_SB_VGEN");
    EXPECT_EQ(aml::eisa_id("PNP0501"), std::string("\x0c\x41\xd0\x05\x01", 5));
    EXPECT_EQ(aml::integer(1), std::string("\x01", 1));
    EXPECT_EQ(aml::integer(0x1234), "\x0b\x34\x12");
}

}  // namespace
}  // namespace casemate::vmm
