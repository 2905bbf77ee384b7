#include "vmm/image.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "vmm/boot.h"
#include "vmm/layout.h"
#include "vmm/tiny_guest.h"

namespace casemate::vmm {
namespace {

Result<KernelImage> read(const std::string& bytes) { return read_kernel(BufferImage(bytes)); }

template <typename T, typename Change>
std::string changed(std::string bytes, size_t offset, Change&& change) {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    change(value);
    std::memcpy(bytes.data() + offset, &value, sizeof value);
    return bytes;
}

std::string good_elf() { return TinyCode().spin().image(); }

TEST(Elf, FindsPvhEntryAndPieces) {
    auto image = read(good_elf());
    ASSERT_TRUE(image.ok()) << image.error().message();
    EXPECT_EQ(image->protocol, Protocol::kPvh);
    EXPECT_EQ(image->entry, kTinyGuestAddress);
    ASSERT_EQ(image->pieces.size(), 1u);
    EXPECT_EQ(image->pieces[0].file_offset, 0x1000u);
    EXPECT_EQ(image->end, kTinyGuestAddress + 0x4000);
}

TEST(Elf, WithoutNoteIsEnteredAs64BitLinux) {
    auto image = read(changed<Elf64_Phdr>(good_elf(), sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr),
                                          [](Elf64_Phdr& note) { note.p_type = PT_NULL; }));
    ASSERT_TRUE(image.ok());
    EXPECT_EQ(image->protocol, Protocol::kLinux64);
}

TEST(Elf, TruncatedAnywhereIsRefused) {
    std::string whole = good_elf();
    for (size_t size = 0; size < whole.size(); size += size < 512 ? 1 : 509)
        EXPECT_FALSE(read(whole.substr(0, size)).ok()) << size;
}

TEST(Elf, AbsurdHeadersAreRefused) {
    auto header = [&](auto change) { return read(changed<Elf64_Ehdr>(good_elf(), 0, change)); };
    auto segment = [&](auto change) { return read(changed<Elf64_Phdr>(good_elf(), sizeof(Elf64_Ehdr), change)); };
    EXPECT_FALSE(header([](Elf64_Ehdr& h) { h.e_machine = EM_AARCH64; }).ok());
    EXPECT_FALSE(header([](Elf64_Ehdr& h) { h.e_ident[EI_CLASS] = ELFCLASS32; }).ok());
    EXPECT_FALSE(header([](Elf64_Ehdr& h) { h.e_type = ET_REL; }).ok());
    EXPECT_FALSE(header([](Elf64_Ehdr& h) { h.e_phnum = 0; }).ok());
    EXPECT_FALSE(header([](Elf64_Ehdr& h) { h.e_phnum = 0xffff; }).ok());
    EXPECT_FALSE(header([](Elf64_Ehdr& h) { h.e_phentsize = 1; }).ok());
    EXPECT_FALSE(header([](Elf64_Ehdr& h) { h.e_phoff = ~uint64_t{0}; }).ok());
    EXPECT_FALSE(segment([](Elf64_Phdr& p) { p.p_offset = ~uint64_t{0} - 4; }).ok());
    EXPECT_FALSE(segment([](Elf64_Phdr& p) { p.p_filesz = p.p_memsz + 1; }).ok());
    EXPECT_FALSE(segment([](Elf64_Phdr& p) { p.p_paddr = 0x1000; }).ok());
    EXPECT_FALSE(segment([](Elf64_Phdr& p) { p.p_paddr = ~uint64_t{0} - 8; }).ok());
    EXPECT_FALSE(segment([](Elf64_Phdr& p) { p.p_memsz = ~uint64_t{0}; }).ok());
    EXPECT_FALSE(segment([](Elf64_Phdr& p) { p.p_paddr = uint64_t{1} << 50; }).ok());
    EXPECT_FALSE(segment([](Elf64_Phdr& p) { p.p_paddr += 0x100000; }).ok()) << "the entry lies outside";
    EXPECT_FALSE(segment([](Elf64_Phdr& p) { p.p_type = PT_NULL; }).ok());
    EXPECT_FALSE(read(changed<Elf64_Phdr>(
                          good_elf(), sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr),
                          [](Elf64_Phdr& p) { p = {PT_LOAD, 7, 0x1000, 0, kTinyGuestAddress + 8, 8, 8, 0x1000}; })
                          .c_str())
                     .ok());
}

// A segment of 8 MiB behind the headers with two sections in it, of 16 bytes and of 1 MiB, and one without data.
std::string elf_with_sections() {
    constexpr uint64_t kSize = 8 * kMiB;
    std::string bytes = changed<Elf64_Phdr>(good_elf(), sizeof(Elf64_Ehdr), [](Elf64_Phdr& p) {
        p.p_filesz = kSize;
        p.p_memsz = kSize + 0x1000;
    });
    bytes.resize(0x1000 + kSize, '.');
    Elf64_Shdr sections[4] = {};
    sections[1] = {.sh_type = SHT_PROGBITS, .sh_flags = SHF_ALLOC, .sh_offset = 0x1010, .sh_size = 16};
    sections[2] = {.sh_type = SHT_NOBITS, .sh_flags = SHF_ALLOC, .sh_offset = 0x2000, .sh_size = 4 * kMiB};
    sections[3] = {.sh_type = SHT_PROGBITS, .sh_flags = SHF_ALLOC, .sh_offset = 0x1000 + 5 * kMiB, .sh_size = kMiB};
    bytes = changed<Elf64_Ehdr>(bytes, 0, [&](Elf64_Ehdr& h) {
        h.e_shoff = bytes.size();
        h.e_shnum = 4;
        h.e_shentsize = sizeof(Elf64_Shdr);
    });
    return bytes.append(reinterpret_cast<const char*>(sections), sizeof sections);
}

TEST(Elf, WhatNoSectionHasIsNotCopied) {
    auto image = read(elf_with_sections());
    ASSERT_TRUE(image.ok()) << image.error().message();
    ASSERT_EQ(image->data.size(), 2u);
    EXPECT_EQ(image->data[0].offset, 0x1000u);  // a small gap in front costs less than it saves
    EXPECT_EQ(image->data[0].size, 32u);
    EXPECT_EQ(image->data[0].address, kTinyGuestAddress);
    EXPECT_EQ(image->data[1].offset, 0x1000 + 5 * kMiB);
    EXPECT_EQ(image->data[1].size, kMiB);
    EXPECT_EQ(image->data[1].address, kTinyGuestAddress + 5 * kMiB);
    EXPECT_EQ(image->end, kTinyGuestAddress + 8 * kMiB + 0x1000);
}

TEST(Elf, WithoutAUsableSectionTableAllIsCopied) {
    std::string good = elf_with_sections();
    auto whole = [&](auto change) {
        auto image = read(changed<Elf64_Ehdr>(good, 0, change));
        ASSERT_TRUE(image.ok()) << image.error().message();
        ASSERT_EQ(image->data.size(), 1u);
        EXPECT_EQ(image->data[0].size, 8 * kMiB);
        EXPECT_EQ(image->data[0].holes, Holes::kAnywhere);
    };
    whole([](Elf64_Ehdr& h) { h.e_shnum = 0; });
    whole([](Elf64_Ehdr& h) { h.e_shnum = 0xffff; });
    whole([](Elf64_Ehdr& h) { h.e_shentsize = 63; });
    whole([](Elf64_Ehdr& h) { h.e_shoff += 1; });
    whole([](Elf64_Ehdr& h) { h.e_shoff = ~uint64_t{0} - 8; });
    // Sections that end past every number, or lie in no segment.
    for (uint64_t offset : {~uint64_t{0} - 3, uint64_t{64} << 20}) {
        std::string bytes = good;
        for (size_t i = 1; i < 4; ++i)
            bytes = changed<Elf64_Shdr>(bytes, 0x1000 + 8 * kMiB + i * sizeof(Elf64_Shdr),
                                        [&](Elf64_Shdr& section) { section.sh_offset = offset; });
        good = bytes;
        whole([](Elf64_Ehdr&) {});
    }
}

std::string good_bzimage() {
    std::string bytes(0x1000 + 4 * 512, '\0');
    return changed<setup_header>(bytes, offsetof(boot_params, hdr), [](setup_header& header) {
        header.setup_sects = 3;
        header.boot_flag = 0xaa55;
        header.header = 0x53726448;
        header.jump = 0x66eb;
        header.version = 0x020f;
        header.loadflags = LOADED_HIGH;
        header.xloadflags = XLF_KERNEL_64;
        header.syssize = 0x1000 / 16;
        header.pref_address = 0x1000000;
        header.init_size = 0x10000;
        header.initrd_addr_max = 0x7fffffff;
        header.cmdline_size = 2047;
    });
}

TEST(BzImage, IsRead) {
    auto image = read(good_bzimage());
    ASSERT_TRUE(image.ok()) << image.error().message();
    EXPECT_EQ(image->protocol, Protocol::kLinux64);
    EXPECT_EQ(image->entry, 0x1000200u);
    EXPECT_EQ(image->pieces[0].file_offset, 4 * 512u);
    EXPECT_EQ(image->end, 0x1010000u);
    EXPECT_EQ(image->initrd_max, 0x7fffffffu);
}

TEST(BzImage, TruncatedOrAbsurdIsRefused) {
    std::string whole = good_bzimage();
    for (size_t size = 0; size < whole.size(); size += 61) EXPECT_FALSE(read(whole.substr(0, size)).ok()) << size;
    auto with = [&](auto change) { return read(changed<setup_header>(whole, offsetof(boot_params, hdr), change)); };
    EXPECT_FALSE(with([](setup_header& h) { h.boot_flag = 0; }).ok());
    EXPECT_FALSE(with([](setup_header& h) { h.header = 0; }).ok());
    EXPECT_FALSE(with([](setup_header& h) { h.version = 0x0200; }).ok());
    EXPECT_FALSE(with([](setup_header& h) { h.xloadflags = 0; }).ok());
    EXPECT_FALSE(with([](setup_header& h) { h.setup_sects = 0xff; }).ok());
    EXPECT_FALSE(with([](setup_header& h) { h.pref_address = 0; }).ok());
    EXPECT_FALSE(with([](setup_header& h) { h.pref_address = ~uint64_t{0} - 0xfff; }).ok());
    EXPECT_FALSE(with([](setup_header& h) { h.syssize = 0xffffffff; }).ok());
    EXPECT_FALSE(with([](setup_header& h) { h.jump = 0x00eb; }).ok());
}

TEST(Image, WhatIsNeitherIsRefused) {
    EXPECT_FALSE(read("").ok());
    EXPECT_FALSE(read("#!/bin/sh\n").ok());
    EXPECT_FALSE(read(std::string(1 << 16, '\xff')).ok());
}

class BootTest : public testing::Test {
  protected:
    UniqueFd file_of(const std::string& bytes) {
        UniqueFd fd = MUST(linux::create_memfd("file"));
        MUST(linux::write_all(fd.get(), bytes));
        return fd;
    }
    BootTest() { memory_ = MUST(Memory::create({.size = 32 * kMiB, .map_images = true})); }
    Memory memory_;
};

TEST_F(BootTest, MapsWholePagesAndCopiesTheRest) {
    UniqueFd kernel = file_of(good_elf());
    UniqueFd initrd = file_of(std::string(5000, 'i'));
    auto entry = load_kernel(memory_, {kernel.get(), initrd.get(), "quiet"});
    ASSERT_TRUE(entry.ok()) << entry.error().message();
    ASSERT_EQ(memory_.mapped().size(), 2u);
    EXPECT_EQ(memory_.mapped()[0].guest_address, kTinyGuestAddress);
    EXPECT_EQ(std::memcmp(memory_.at(kTinyGuestAddress, 2), "\xeb\xfe", 2), 0);
    EXPECT_EQ(*memory_.at(32 * kMiB - 8192 + 4999, 1), 'i');
    EXPECT_EQ(*memory_.at(32 * kMiB - 8192 + 5000, 1), '\0');
    EXPECT_STREQ(memory_.at(kCommandLine, 6), "quiet");
    // What the guest writes does not come to the file.
    *memory_.at(kTinyGuestAddress, 1) = 'x';
    char first;
    ASSERT_EQ(::pread(kernel.get(), &first, 1, 0x1000), 1);
    EXPECT_EQ(first, '\xeb');
}

TEST_F(BootTest, CopiesUnlessAskedToMap) {
    Memory plain = MUST(Memory::create({.size = 32 * kMiB}));
    UniqueFd kernel = file_of(good_elf());
    UniqueFd initrd = file_of(std::string(3 * kMiB + 5, 'i'));
    ASSERT_TRUE(load_kernel(plain, {kernel.get(), initrd.get(), ""}).ok());
    EXPECT_TRUE(plain.mapped().empty());
    EXPECT_EQ(std::memcmp(plain.at(kTinyGuestAddress, 2), "\xeb\xfe", 2), 0);
    EXPECT_EQ(*plain.at(32 * kMiB - 3 * kMiB - 4096 + 3 * kMiB + 4, 1), 'i');
}

TEST_F(BootTest, ASmallInitrdLiesInFrontOfTheKernel) {
    Memory plain = MUST(Memory::create({.size = 32 * kMiB}));
    std::string elf = changed<Elf64_Phdr>(good_elf(), sizeof(Elf64_Ehdr), [](Elf64_Phdr& p) { p.p_paddr = 16 * kMiB; });
    elf = changed<Elf64_Ehdr>(elf, 0, [](Elf64_Ehdr& h) { h.e_entry = 16 * kMiB; });
    elf = changed<Elf64_Phdr>(elf, sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr), [](Elf64_Phdr& p) { p.p_type = PT_NULL; });
    UniqueFd kernel = file_of(elf), initrd = file_of(std::string(5000, 'i'));
    auto entry = load_kernel(plain, {kernel.get(), initrd.get(), ""});
    ASSERT_TRUE(entry.ok()) << entry.error().message();
    EXPECT_EQ(*plain.at(kHighMemory + 4999, 1), 'i');
    EXPECT_EQ(*plain.at(32 * kMiB - 8192 + 4999, 1), '\0');
}

TEST_F(BootTest, WhatDoesNotFitIsRefused) {
    UniqueFd kernel = file_of(good_elf());
    UniqueFd large = MUST(linux::create_memfd("large"));
    ASSERT_EQ(::ftruncate(large.get(), 64 * kMiB), 0);
    EXPECT_EQ(load_kernel(memory_, {kernel.get(), large.get(), ""}).error().code(), ENOMEM);
    UniqueFd empty = MUST(linux::create_memfd("empty"));
    EXPECT_FALSE(load_kernel(memory_, {kernel.get(), empty.get(), ""}).ok());
    EXPECT_FALSE(load_kernel(memory_, {empty.get(), -1, ""}).ok());
    UniqueFd high =
        file_of(changed<Elf64_Phdr>(good_elf(), sizeof(Elf64_Ehdr), [](Elf64_Phdr& p) { p.p_memsz = 64 * kMiB; }));
    EXPECT_EQ(load_kernel(memory_, {high.get(), -1, ""}).error().code(), ENOMEM);
    EXPECT_FALSE(load_kernel(memory_, {kernel.get(), -1, std::string(3000, 'x')}).ok());
    EXPECT_FALSE(load_kernel(memory_, {kernel.get(), -1, "two\nlines"}).ok());
    UniqueFd folder(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    EXPECT_FALSE(load_kernel(memory_, {folder.get(), -1, ""}).ok());
}

}  // namespace
}  // namespace casemate::vmm
