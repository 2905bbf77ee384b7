#include "sentry/mm/memory_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "sentry/mm/guarded_copy.h"

namespace casemate::sentry {
namespace {

class MemoryFileTest : public testing::TestWithParam<MemoryFile::Kind> {
  protected:
    void SetUp() override {
        install_fault_guard();
        UniqueFd file(GetParam() == MemoryFile::Kind::kMemory ? memfd_create("test", MFD_CLOEXEC)
                                                              : open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
        if (!file) GTEST_SKIP() << "/tmp has no unnamed files";
        memory_ = MUST(MemoryFile::create(std::move(file), 0, GetParam()));
    }
    FileRange allocate(uint64_t size) { return MUST(memory_->allocate(size)); }
    bool holds(FileRange range, char c) {
        std::vector<std::byte> bytes(range.size, std::byte{'?'});
        if (!memory_->read(range.offset, bytes.data(), bytes.size())) return false;
        return std::all_of(bytes.begin(), bytes.end(), [&](std::byte b) { return b == static_cast<std::byte>(c); });
    }
    bool fill(FileRange range, char c) {
        std::vector<std::byte> bytes(range.size, static_cast<std::byte>(c));
        return memory_->write(range.offset, bytes.data(), bytes.size());
    }
    std::unique_ptr<MemoryFile> memory_;
};

TEST_P(MemoryFileTest, HoldsWhatIsWritten) {
    for (uint64_t size : {uint64_t{4096}, uint64_t{300} << 10, uint64_t{5} << 20}) {
        FileRange one = allocate(size), two = allocate(size);
        EXPECT_TRUE(holds(one, 0));
        EXPECT_TRUE(fill(one, 'a') && fill(two, 'b'));
        EXPECT_TRUE(holds(one, 'a') && holds(two, 'b'));
        // Whoever maps the file sees the same.
        void* map = mmap(nullptr, size, PROT_READ, MAP_SHARED, memory_->fd(), static_cast<off_t>(two.offset));
        ASSERT_NE(map, MAP_FAILED);
        EXPECT_EQ(*static_cast<char*>(map), 'b');
        munmap(map, size);
        EXPECT_TRUE(memory_->zero(one.offset + 10, size - 20));
        std::byte edge[11];
        EXPECT_TRUE(memory_->read(one.offset, edge, sizeof edge));
        EXPECT_EQ(edge[9], std::byte{'a'});
        EXPECT_EQ(edge[10], std::byte{0});
        memory_->free(one);
        memory_->free(two);
    }
}

TEST_P(MemoryFileTest, WhatWasFreedReadsAsZero) {
    for (uint64_t size : {uint64_t{4096}, uint64_t{64} << 10, uint64_t{300} << 10, uint64_t{4} << 20}) {
        std::vector<FileRange> ranges;
        for (int i = 0; i < 20; i++) ranges.push_back(allocate(size));
        for (FileRange range : ranges) ASSERT_TRUE(fill(range, 'x'));
        for (FileRange range : ranges) memory_->free(range);
        ranges.clear();
        for (int i = 0; i < 20; i++) ranges.push_back(allocate(size));
        for (FileRange range : ranges) {
            EXPECT_TRUE(holds(range, 0));
            memory_->free(range);
        }
    }
}

TEST_P(MemoryFileTest, OnlyWhatWasTouchedIsCleared) {
    FileRange range = allocate(256 << 10);
    ASSERT_TRUE(fill(FileRange{range.offset, 5000}, 'x'));
    memory_->free(range, 5000);
    EXPECT_TRUE(holds(allocate(256 << 10), 0));
}

TEST_P(MemoryFileTest, LargePiecesGiveTheirBytesBack) {
    const uint64_t before = memory_->bytes_used();
    FileRange range = allocate(8 << 20);
    ASSERT_TRUE(fill(range, 'x'));
    EXPECT_GE(memory_->bytes_used(), before + (8 << 20));
    memory_->free(range);
    EXPECT_LE(memory_->bytes_used(), before + (64 << 10));
}

INSTANTIATE_TEST_SUITE_P(Kinds, MemoryFileTest, testing::Values(MemoryFile::Kind::kMemory, MemoryFile::Kind::kStore),
                         [](const auto& info) { return info.param == MemoryFile::Kind::kMemory ? "Memory" : "Store"; });

}  // namespace
}  // namespace casemate::sentry
