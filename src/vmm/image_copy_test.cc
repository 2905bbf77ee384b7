#include "vmm/image_copy.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "linux/event_fds.h"
#include "linux/file.h"
#include "linux/mount_fd.h"
#include "vmm/layout.h"

namespace casemate::vmm {
namespace {

std::string numbered(size_t size, uint32_t seed) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(1 + (i * 7 + i / 4096 + seed) % 255);
    return bytes;
}

class ImageCopyTest : public testing::Test {
  protected:
    ImageCopyTest() {
        image_ = MUST(linux::create_memfd("image"));
        // With huge pages where this process may mount, as in the jail.
        auto huge = linux::create_huge_tmpfile();
        memory_ = huge.ok() ? huge.take_value() : MUST(linux::create_memfd("memory"));
        EXPECT_EQ(::ftruncate(memory_.get(), 16 * kMiB), 0);
    }
    void put(uint64_t offset, const std::string& bytes) {
        ASSERT_EQ(::pwrite(image_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)),
                  static_cast<ssize_t>(bytes.size()));
    }
    std::string memory(uint64_t offset, size_t size) {
        std::string bytes(size, 'x');
        EXPECT_EQ(::pread(memory_.get(), bytes.data(), size, static_cast<off_t>(offset)), static_cast<ssize_t>(size));
        return bytes;
    }
    UniqueFd image_, memory_;
};

TEST_F(ImageCopyTest, PartsComeToTheirAddresses) {
    std::string a = numbered(5 * kMiB + 123, 1), b = numbered(700, 2), c = numbered(3 * kMiB, 3);
    put(0x1000, a);
    put(6 * kMiB + 5, b);
    put(7 * kMiB, c);
    FilePart parts[] = {{0x1000, a.size(), 1 * kMiB + 17},
                        {6 * kMiB + 5, b.size(), 1 * kMiB + 17 + a.size() + 40},
                        {7 * kMiB, c.size(), 10 * kMiB}};
    ASSERT_TRUE(write_parts(memory_.get(), image_.get(), parts).ok());
    EXPECT_EQ(memory(1 * kMiB + 17, a.size()), a);
    EXPECT_EQ(memory(1 * kMiB, 17), std::string(17, '\0'));
    EXPECT_EQ(memory(1 * kMiB + 17 + a.size(), 40), std::string(40, '\0'));
    EXPECT_EQ(memory(1 * kMiB + 17 + a.size() + 40, b.size()), b);
    EXPECT_EQ(memory(10 * kMiB, c.size()), c);
    EXPECT_EQ(memory(13 * kMiB, 3 * kMiB), std::string(3 * kMiB, '\0'));
}

TEST_F(ImageCopyTest, HolesCostNothing) {
    // Data, 4 MiB of hole, data, a small hole, data, a hole to the end.
    std::string data = numbered(8192, 4);
    put(0, data);
    put(4 * kMiB, data);
    put(4 * kMiB + 12288, data);
    ASSERT_EQ(::ftruncate(image_.get(), 12 * kMiB), 0);
    FilePart whole{0, 12 * kMiB, 2 * kMiB};
    ASSERT_TRUE(write_parts(memory_.get(), image_.get(), {&whole, 1}).ok());
    EXPECT_EQ(memory(2 * kMiB, 8192), data);
    EXPECT_EQ(memory(6 * kMiB, 8192), data);
    EXPECT_EQ(memory(6 * kMiB + 12288, 8192), data);
    EXPECT_EQ(memory(2 * kMiB + 8192, 4 * kMiB - 8192), std::string(4 * kMiB - 8192, '\0'));
    struct stat st;
    ASSERT_EQ(::fstat(memory_.get(), &st), 0);
    EXPECT_LE(static_cast<uint64_t>(st.st_blocks) * 512, 4 * kMiB);  // two huge pages at most
}

TEST_F(ImageCopyTest, AnImageThatWasCutIsAnErrorAndNoSignal) {
    put(0, numbered(8192, 5));
    FilePart whole{0, 24 << 10, 0};  // as if it had been that long a moment ago
    auto written = write_parts(memory_.get(), image_.get(), {&whole, 1});
    ASSERT_FALSE(written.ok());
    EXPECT_EQ(written.error().value, EFAULT);
}

TEST_F(ImageCopyTest, ManySmallPartsOfOnePage) {
    std::string data = numbered(kMiB, 6);
    put(0, data);
    std::vector<FilePart> parts;  // more than one call can take
    for (uint64_t i = 0; i < 1500; ++i) parts.push_back({i * 600, 100, i * 1300 + 7});
    ASSERT_TRUE(write_parts(memory_.get(), image_.get(), parts).ok());
    for (const FilePart& part : parts) {
        ASSERT_EQ(memory(part.address, 100), data.substr(part.offset, 100)) << part.address;
        ASSERT_EQ(memory(part.address + 100, 1200), std::string(1200, '\0')) << part.address;
    }
}

}  // namespace
}  // namespace casemate::vmm
