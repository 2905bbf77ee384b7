#include "vmm/memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "linux/event_fds.h"
#include "linux/file.h"
#include "linux/mount_fd.h"
#include "vmm/layout.h"

namespace casemate::vmm {
namespace {

Memory make(int file, bool private_copy = false) {
    MemoryOptions options;
    options.size = 32 * kMiB;
    options.file = MUST(linux::duplicate_fd(file));
    options.private_copy = private_copy;
    return MUST(Memory::create(std::move(options)));
}

TEST(Memory, AFileThatIsCutIsNotTheProcesssEnd) {
    for (bool private_copy : {false, true}) {
        UniqueFd file = MUST(linux::create_memfd("memory"));
        ASSERT_EQ(::ftruncate(file.get(), 32 << 20), 0);
        Memory memory = make(file.get(), private_copy);
        std::strcpy(memory.at(0x1000, 8), "here");
        EXPECT_FALSE(memory.lost() || memory.cut());
        ASSERT_EQ(::ftruncate(file.get(), 0), 0);
        EXPECT_TRUE(memory.cut());
        char bytes[8];
        std::memcpy(bytes, memory.at(0x5000, 8), 8);  // a device looks at a ring
        EXPECT_TRUE(memory.lost());
        EXPECT_EQ(bytes[0], 0);
        std::strcpy(memory.at(31 * kMiB, 8), "and");
        // Another machine of the process is not concerned.
        UniqueFd other = MUST(linux::create_memfd("other"));
        Memory second = make(other.get());
        std::strcpy(second.at(0, 8), "still");
        EXPECT_FALSE(second.lost());
    }
}

TEST(MemoryDeathTest, SigbusElsewhereIsABug) {
    UniqueFd file = MUST(linux::create_memfd("file"));
    ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
    auto map = MUST(UniqueMap::create(4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get()));
    UniqueFd own = MUST(linux::create_memfd("memory"));
    Memory memory = make(own.get());
    ASSERT_EQ(::ftruncate(file.get(), 0), 0);
    EXPECT_EXIT(*static_cast<volatile char*>(map.data()) = 1, testing::KilledBySignal(SIGABRT), "");
}

TEST(Memory, BootTablesCostNoHugePage) {
    auto huge = linux::create_huge_tmpfile();
    if (!huge.ok()) GTEST_SKIP() << "no file with huge pages here: " << strerror(huge.error().value);
    Memory memory = make(huge->get());
    auto used = [&] {
        struct stat st;
        EXPECT_EQ(::fstat(huge->get(), &st), 0);
        return static_cast<uint64_t>(st.st_blocks) * 512;
    };
    *memory.at(kCommandLine, 1) = 'x';
    *memory.at(kHighMemory, 1) = 'y';
    EXPECT_LE(used(), 64u << 10);
    *memory.at(kSmallPagesEnd, 1) = 'z';  // one page of either size
    EXPECT_LE(used(), 2 * kMiB + (64 << 10));
}

TEST(Memory, AnImageThatIsCutWhileItIsReadIsAnError) {
    UniqueFd own = MUST(linux::create_memfd("memory")), image = MUST(linux::create_memfd("image"));
    MUST(linux::write_all(image.get(), std::string(8192, 'x')));
    Memory memory = make(own.get());
    FilePart part{0, 8192 + 1, kHighMemory};  // as its size was when the headers were read
    auto loaded = memory.load(image.get(), {&part, 1});
    ASSERT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.error().value, ENODATA);
}

TEST(Memory, ALargeImageThatIsCutWhileItIsReadIsAnError) {
    UniqueFd own = MUST(linux::create_memfd("memory")), image = MUST(linux::create_memfd("image"));
    MUST(linux::write_all(image.get(), std::string(3 * kMiB, 'x')));
    Memory memory = make(own.get());
    FilePart part{0, 3 * kMiB + 1, kSmallPagesEnd, Holes::kNone};
    auto loaded = memory.load(image.get(), {&part, 1});
    ASSERT_FALSE(loaded.ok());
    EXPECT_EQ(loaded.error().value, ENODATA);
}

TEST(Memory, AFileWithoutSpliceIsRead) {
    std::string bytes(3 * kMiB, '\0');
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 + i / 4096);
    UniqueFd own = MUST(linux::create_memfd("memory"));
    UniqueFd image(::open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(image);
    Memory memory = make(own.get());
    FilePart part{reinterpret_cast<uintptr_t>(bytes.data()), bytes.size(), kSmallPagesEnd + 300, Holes::kNone};
    ASSERT_TRUE(memory.load(image.get(), {&part, 1}).ok());
    EXPECT_EQ(std::memcmp(memory.at(part.address, part.size), bytes.data(), bytes.size()), 0);
}

TEST(Memory, ImagesComeThroughTheGivenPipe) {
    std::string bytes(5 * kMiB + 777, '\0');
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 + i / 4096);
    UniqueFd image = MUST(linux::create_memfd("image"));
    MUST(linux::write_all(image.get(), bytes));
    MemoryOptions options;
    options.size = 32 * kMiB;
    options.image_pipe = MUST(create_image_pipe());
    Memory memory = MUST(Memory::create(std::move(options)));
    FilePart parts[] = {{0, 4 * kMiB + 100, 4 * kMiB}, {4 * kMiB + 100, kMiB + 677, 20 * kMiB + 5}};
    ASSERT_TRUE(memory.load(image.get(), parts).ok());
    ASSERT_TRUE(memory.load(image.get(), parts).ok());  // as an initrd behind a kernel
    memory.finish_load();
    for (const FilePart& part : parts)
        EXPECT_EQ(std::memcmp(memory.at(part.address, part.size), bytes.data() + part.offset, part.size), 0);
}

}  // namespace
}  // namespace casemate::vmm
