// As much of ACPI's machine language (ACPI 6.4, chapter 20) as acpi.cc needs to describe devices. Every function
// returns the bytes of one term.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace casemate::vmm::aml {

// "_SB_", "\\_SB_.GED_": segments of four characters.
std::string path(std::string_view name);
std::string integer(uint64_t value);
std::string text(std::string_view value);
// "PNP0501": the packed form of an EISA id.
std::string eisa_id(std::string_view id);
std::string package(std::initializer_list<std::string> elements);
std::string name(std::string_view where, const std::string& value);
std::string device(std::string_view where, const std::string& body);
std::string scope(std::string_view where, const std::string& body);
std::string method(std::string_view where, unsigned arguments, const std::string& body);
std::string notify(std::string_view object, uint64_t value);

// Resources of a device (_CRS): a buffer of the descriptors below.
std::string resources(std::initializer_list<std::string> descriptors);
std::string memory_range(uint32_t address, uint32_t size);
std::string interrupt(uint32_t gsi);  // edge-triggered, active high
std::string ports(uint16_t first, uint8_t count);

}  // namespace casemate::vmm::aml
