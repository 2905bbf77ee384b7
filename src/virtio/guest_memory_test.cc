#include "virtio/guest_memory.h"

#include <gtest/gtest.h>

#include <cstring>

#include "virtio/fake_driver.h"

namespace casemate::virtio {
namespace {

TEST(GuestMemory, RefusesRegionsThatCannotBe) {
    FakeMachine machine;
    char* host = machine.at(0);
    auto refused = [&](std::vector<MemoryRegion> regions) {
        auto made = GuestMemory::create(std::move(regions));
        return !made.ok() && made.error().value == EINVAL;
    };
    EXPECT_TRUE(refused({{0, 0, host}}));
    EXPECT_TRUE(refused({{0, 4096, nullptr}}));
    EXPECT_TRUE(refused({{1, 4096, host}}));
    EXPECT_TRUE(refused({{0, 4097, host}}));
    EXPECT_TRUE(refused({{0, 8192, host}, {4096, 4096, host}}));
    EXPECT_TRUE(refused({{~uint64_t{4095}, 8192, host}}));
}

TEST(GuestMemory, CopiesWithinAndAcrossRegions) {
    FakeMachine machine;
    const GuestMemory& memory = *machine.memory();
    char text[] = "across the border";
    uint64_t border = FakeMachine::kHigh + FakeMachine::kHighBytes;
    ASSERT_TRUE(memory.write(GuestAddr{border - 8}, text, sizeof(text)).ok());
    char back[sizeof(text)] = {};
    ASSERT_TRUE(memory.read(GuestAddr{border - 8}, back, sizeof(back)).ok());
    EXPECT_STREQ(back, text);
    std::vector<GuestSlice> slices;
    ASSERT_TRUE(memory.append_slices(GuestAddr{border - 8}, 16, slices).ok());
    EXPECT_EQ(slices.size(), 2u);
}

TEST(GuestMemory, WhatIsNotRamIsEfault) {
    FakeMachine machine;
    const GuestMemory& memory = *machine.memory();
    char byte = 0;
    std::vector<GuestSlice> slices;
    EXPECT_FALSE(memory.read(GuestAddr{FakeMachine::kLowBytes}, &byte, 1).ok());
    EXPECT_FALSE(memory.read(GuestAddr{~uint64_t{0}}, &byte, 1).ok());
    EXPECT_FALSE(memory.append_slices(GuestAddr{FakeMachine::kLowBytes - 1}, 2, slices).ok());
    EXPECT_FALSE(memory.append_slices(GuestAddr{1}, ~uint64_t{0}, slices).ok());
    EXPECT_FALSE(memory.append_slices(GuestAddr{0}, FakeMachine::kHigh + 1, slices).ok());
    EXPECT_TRUE(slices.empty());
    EXPECT_TRUE(memory.append_slices(GuestAddr{FakeMachine::kLowBytes - 1}, 1, slices).ok());
    EXPECT_TRUE(memory.append_slices(GuestAddr{~uint64_t{0}}, 0, slices).ok());
}

// The helper that rings are found with must check the whole length and not only the start.
TEST(GuestMemory, Cve2023_41051_RangeStartsInRamAndEndsOutside) {
    FakeMachine machine;
    const GuestMemory& memory = *machine.memory();
    EXPECT_TRUE(memory.contiguous(GuestAddr{FakeMachine::kLowBytes - 16}, 16, 16).ok());
    EXPECT_FALSE(memory.contiguous(GuestAddr{FakeMachine::kLowBytes - 16}, 17, 16).ok());
    EXPECT_FALSE(memory.contiguous(GuestAddr{FakeMachine::kLowBytes - 16}, ~uint64_t{0}, 16).ok());
    EXPECT_FALSE(memory.contiguous(GuestAddr{8}, 16, 16).ok());
    // Not in one piece of host memory.
    EXPECT_FALSE(memory.contiguous(GuestAddr{FakeMachine::kHigh + FakeMachine::kHighBytes - 16}, 32, 16).ok());
}

TEST(GuestMemory, OwnerLivesAsLongAsTheMap) {
    FakeMachine machine;
    auto owner = std::make_shared<int>(1);
    std::weak_ptr<int> watch = owner;
    auto memory = MUST(GuestMemory::create({{0, 4096, machine.at(0)}}, std::move(owner)));
    EXPECT_FALSE(watch.expired());
    memory.reset();
    EXPECT_TRUE(watch.expired());
}

}  // namespace
}  // namespace casemate::virtio
