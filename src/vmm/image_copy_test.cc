#include "vmm/image_copy.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "linux/event_fds.h"
#include "linux/file.h"
#include "linux/mount_fd.h"
#include "linux/path.h"
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
    // All pieces through a pipe of that size.
    SysResult<void> write(std::span<const FilePart> pieces, int pipe_size = 0) {
        linux::Pipe pipe = MUST(create_image_pipe());
        if (pipe_size > 0) (void)::fcntl(pipe.write_end.get(), F_SETPIPE_SZ, pipe_size);
        return write_pieces(memory_.get(), image_.get(), pieces, pipe);
    }
    UniqueFd image_, memory_;
};

TEST_F(ImageCopyTest, PiecesComeToTheirAddressesThroughAnyPipe) {
    std::string a = numbered(5 * kMiB + 123, 1), b = numbered(700, 2), c = numbered(3 * kMiB, 3);
    put(0x1000, a);
    put(6 * kMiB + 5, b);
    put(7 * kMiB, c);
    FilePart pieces[] = {{0x1000, a.size(), 1 * kMiB + 17},
                         {6 * kMiB + 5, b.size(), 1 * kMiB + 17 + a.size()},  // one follows the other in memory only
                         {7 * kMiB, c.size(), 10 * kMiB}};
    for (int pipe_size : {0, 1 << 20, 64 << 10, 4096}) {
        SCOPED_TRACE(pipe_size);
        ASSERT_EQ(::ftruncate(memory_.get(), 0), 0);
        ASSERT_EQ(::ftruncate(memory_.get(), 16 * kMiB), 0);
        ASSERT_TRUE(write(pieces, pipe_size).ok());
        EXPECT_TRUE(memory(1 * kMiB + 17, a.size()) == a);
        EXPECT_EQ(memory(1 * kMiB, 17), std::string(17, '\0'));
        EXPECT_EQ(memory(1 * kMiB + 17 + a.size(), b.size()), b);
        EXPECT_EQ(memory(1 * kMiB + 17 + a.size() + b.size(), 40), std::string(40, '\0'));
        EXPECT_TRUE(memory(10 * kMiB, c.size()) == c);
        EXPECT_TRUE(memory(13 * kMiB, 3 * kMiB) == std::string(3 * kMiB, '\0'));
    }
}

TEST_F(ImageCopyTest, HolesAreNoPieces) {
    // Data, 4 MiB of hole, data, a small hole, data, a hole to the end.
    std::string data = numbered(8192, 4);
    put(0, data);
    put(4 * kMiB, data);
    put(4 * kMiB + 12288, data);
    ASSERT_EQ(::ftruncate(image_.get(), 12 * kMiB), 0);
    FilePart whole{0, 12 * kMiB, 2 * kMiB};
    std::vector<FilePart> pieces;
    ASSERT_TRUE(for_each_data(image_.get(), whole, [&](const FilePart& piece) -> SysResult<void> {
                    pieces.push_back(piece);
                    return {};
                }).ok());
    ASSERT_TRUE(write(pieces).ok());
    EXPECT_EQ(memory(2 * kMiB, 8192), data);
    EXPECT_EQ(memory(6 * kMiB, 8192), data);
    EXPECT_EQ(memory(6 * kMiB + 12288, 8192), data);
    EXPECT_TRUE(memory(2 * kMiB + 8192, 4 * kMiB - 8192) == std::string(4 * kMiB - 8192, '\0'));
    struct stat st;
    ASSERT_EQ(::fstat(memory_.get(), &st), 0);
    EXPECT_LE(static_cast<uint64_t>(st.st_blocks) * 512, 4 * kMiB);  // two huge pages at most
}

TEST_F(ImageCopyTest, AnImageThatWasCutIsAnError) {
    put(0, numbered(8192, 5));
    FilePart whole{0, 24 << 10, 0, Holes::kNone};  // as if it had been that long a moment ago
    auto written = write({&whole, 1});
    ASSERT_FALSE(written.ok());
    EXPECT_EQ(written.error().value, ENODATA);
}

TEST_F(ImageCopyTest, AFullMemoryIsAnError) {
    auto mount = linux::create_mount("tmpfs", {{"size", "1m"}}, 0);
    if (!mount.ok()) GTEST_SKIP() << "no mounts here";
    memory_ = MUST(linux::open_at(mount->get(), ".", O_TMPFILE | O_RDWR, 0600));
    ASSERT_EQ(::ftruncate(memory_.get(), 16 * kMiB), 0);
    put(0, numbered(4 * kMiB, 5));
    FilePart whole{0, 4 * kMiB, 0, Holes::kNone};
    auto written = write({&whole, 1});
    ASSERT_FALSE(written.ok());
    EXPECT_EQ(written.error().value, ENOSPC);
}

TEST_F(ImageCopyTest, ManySmallPiecesOfOnePage) {
    std::string data = numbered(kMiB, 6);
    put(0, data);
    std::vector<FilePart> pieces;
    for (uint64_t i = 0; i < 1500; ++i) pieces.push_back({i * 600, 100, i * 1300 + 7});
    ASSERT_TRUE(write(pieces).ok());
    for (const FilePart& piece : pieces) {
        ASSERT_EQ(memory(piece.address, 100), data.substr(piece.offset, 100)) << piece.address;
        ASSERT_EQ(memory(piece.address + 100, 1200), std::string(1200, '\0')) << piece.address;
    }
    // And one behind the other: each is a slot of the pipe, which is full long before its bytes are.
    ASSERT_EQ(::ftruncate(memory_.get(), 0), 0);
    for (size_t i = 0; i < pieces.size(); ++i) pieces[i].address = i * 100;
    ASSERT_TRUE(write(pieces, 64 << 10).ok());
    for (const FilePart& piece : pieces)
        ASSERT_EQ(memory(piece.address, 100), data.substr(piece.offset, 100)) << piece.address;
}

TEST(ImagePieces, SmallRestsHaveTheirHugePageToThemselves) {
    std::vector<FilePart> pieces = {{0, 2 * kMiB + 8192, 4 * kMiB},         // a rest
                                    {4 * kMiB, 2 * kMiB + 8192, 8 * kMiB},  // another piece in its last page
                                    {7 * kMiB, kMiB, 11 * kMiB},            // ends with a page
                                    {8 * kMiB, 4096, 12 * kMiB + 512},      // a rest as a whole
                                    {9 * kMiB, 3 * kMiB, 14 * kMiB},        // not little
                                    {12 * kMiB, 4096, 18 * kMiB - 2048}};   // over an edge
    uint64_t before = 0, after = 0;
    for (const FilePart& piece : pieces) before += piece.size;
    std::vector<FilePart> rests = take_small_rests(pieces);
    ASSERT_EQ(rests.size(), 3u);
    EXPECT_EQ(rests[0].address, 18 * kMiB);
    EXPECT_EQ(rests[0].offset, 12 * kMiB + 2048);
    EXPECT_EQ(rests[0].size, 2048u);
    EXPECT_EQ(rests[1].address, 12 * kMiB + 512);
    EXPECT_EQ(rests[1].size, 4096u);
    EXPECT_EQ(rests[2].address, 6 * kMiB);
    EXPECT_EQ(rests[2].offset, 2 * kMiB);
    ASSERT_EQ(pieces.size(), 5u);
    EXPECT_EQ(pieces[0].size, 2 * kMiB);
    for (const auto& list : {pieces, rests})
        for (const FilePart& piece : list) after += piece.size;
    EXPECT_EQ(before, after);
}

}  // namespace
}  // namespace casemate::vmm
