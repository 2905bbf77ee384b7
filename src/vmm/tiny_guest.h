// Guests of a few instructions, as ELF images with the PVH note, for tests.
#pragma once

#include <elf.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "linux/event_fds.h"
#include "linux/file.h"

namespace casemate::vmm {

constexpr uint64_t kTinyGuestAddress = 0x100000;

// 32-bit code that runs at 1 MiB in flat protected mode with interrupts off.
class TinyCode {
  public:
    TinyCode& out(uint16_t port, uint8_t value) {  // mov dx, port; mov al, value; out dx, al
        return raw({0x66, 0xba, low(port), high(port), 0xb0, value, 0xee});
    }
    TinyCode& print(std::string_view text) {
        for (char c : text) out(0x3f8, static_cast<uint8_t>(c));
        return *this;
    }
    // mov word [address], value
    TinyCode& store16(uint32_t address, uint16_t value) {
        raw({0x66, 0xc7, 0x05}).number(address);
        return raw({low(value), high(value)});
    }
    // A division by zero without a table of interrupts.
    TinyCode& triple_fault() {
        return raw({0x0f, 0x01, 0x1d}).number(kTinyGuestAddress + kZeros).raw({0x31, 0xc9, 0xf7, 0xf1});  // lidt; div 0
    }
    TinyCode& spin() { return raw({0xeb, 0xfe}); }
    // inc dword [address], for ever
    TinyCode& count_at(uint32_t address) { return raw({0xff, 0x05}).number(address).raw({0xeb, 0xf8}); }
    TinyCode& raw(std::initializer_list<uint8_t> bytes) {
        for (uint8_t byte : bytes) bytes_.push_back(static_cast<char>(byte));
        return *this;
    }

    // An ELF file with one segment: this code, and some zeros behind it.
    std::string image() const {
        std::string code = bytes_;
        code.resize(kCodeSize);
        struct {
            Elf64_Nhdr header = {4, 8, 18};
            char name[4] = {'X', 'e', 'n', 0};
            uint64_t entry = kTinyGuestAddress;
        } note;
        Elf64_Ehdr header = {};
        std::memcpy(header.e_ident, "\177ELF\2\1\1", 7);
        header.e_type = ET_EXEC;
        header.e_machine = EM_X86_64;
        header.e_version = 1;
        header.e_entry = kTinyGuestAddress;
        header.e_phoff = sizeof header;
        header.e_ehsize = sizeof header;
        header.e_phentsize = sizeof(Elf64_Phdr);
        header.e_phnum = 2;
        Elf64_Phdr load = {PT_LOAD,   PF_R | PF_W | PF_X, 0x1000, 0, kTinyGuestAddress,
                           kCodeSize, kCodeSize + 0x1000, 0x1000};
        Elf64_Phdr notes = {PT_NOTE, PF_R, sizeof header + 2 * sizeof load, 0, 0, sizeof note, sizeof note, 4};
        std::string file;
        append(file, header);
        append(file, load);
        append(file, notes);
        append(file, note);
        file.resize(0x1000);
        return file + code;
    }
    UniqueFd file() const {
        UniqueFd fd = MUST(linux::create_memfd("tiny-guest"));
        MUST(linux::write_all(fd.get(), image()));
        return fd;
    }

  private:
    static constexpr uint32_t kCodeSize = 0x3000;
    static constexpr uint32_t kZeros = 0x2ff0;
    static uint8_t low(uint16_t value) { return static_cast<uint8_t>(value); }
    static uint8_t high(uint16_t value) { return static_cast<uint8_t>(value >> 8); }
    TinyCode& number(uint64_t value) {
        for (int i = 0; i < 4; ++i) bytes_.push_back(static_cast<char>(value >> (8 * i)));
        return *this;
    }
    template <typename T>
    static void append(std::string& to, const T& value) {
        to.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    std::string bytes_;
};

}  // namespace casemate::vmm
