// AddressSpace over a platform that maps into the test's own process, so that what an application would see can be
// compared with what the sentry copies.
#include "sentry/mm/address_space.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "base/checked.h"
#include "sentry/mm/guarded_copy.h"
#include "sentry/mm/io_buffer.h"
#include "sentry/mm/shared_memory.h"

namespace casemate::sentry {
namespace {

constexpr GuestAddr kTop = 0x100000000000;

class SelfSpace final : public HostAddressSpace {
  public:
    SelfSpace(int memory_fd, GuestAddr slide) : memory_fd_(memory_fd), slide_(slide) {}
    ~SelfSpace() override {
        for (auto [address, size] : mapped_) munmap(at(address), size);
    }
    SysResult<void> apply(std::span<const MapOrder> orders) override {
        for (const MapOrder& order : orders) {
            int result = 0;
            switch (order.kind) {
                case MapOrder::Kind::kMap: {
                    int fd = order.fd == MapOrder::kMemoryFile ? memory_fd_ : order.fd;
                    void* got = mmap(at(order.address), order.size, order.protection, order.flags | MAP_FIXED, fd,
                                     static_cast<off_t>(order.offset));
                    result = got == MAP_FAILED ? -1 : 0;
                    mapped_.push_back({order.address, order.size});
                    break;
                }
                case MapOrder::Kind::kUnmap:
                    result = munmap(at(order.address), order.size);
                    break;
                case MapOrder::Kind::kProtect:
                    result = mprotect(at(order.address), order.size, order.protection);
                    break;
                case MapOrder::Kind::kAdvise:
                    madvise(at(order.address), order.size, order.advice);
                    break;
            }
            if (result != 0) return last_errno();
        }
        return {};
    }
    SysResult<std::unique_ptr<AppThread>> create_thread() override { return Errno(ENOSYS); }
    SysResult<size_t> read_memory(uint64_t address, std::span<std::byte> into) override {
        if (!guarded_copy(into.data(), at(address), into.size())) return Errno(EFAULT);
        return into.size();
    }
    SysResult<size_t> write_memory(uint64_t address, std::span<const std::byte> from) override {
        if (!guarded_copy(at(address), from.data(), from.size())) return Errno(EFAULT);
        return from.size();
    }
    void kill() override {}
    int host_process_id() const override { return 0; }
    void* at(uint64_t address) const { return reinterpret_cast<void*>(address + slide_); }

  private:
    int memory_fd_;
    GuestAddr slide_;  // a second space lies elsewhere in the test's process
    std::vector<std::pair<uint64_t, uint64_t>> mapped_;
};

class SelfPlatform final : public Platform {
  public:
    explicit SelfPlatform(int memory_fd) : memory_fd_(memory_fd) {}
    SysResult<std::unique_ptr<HostAddressSpace>> create_address_space() override {
        return std::unique_ptr<HostAddressSpace>(new SelfSpace(memory_fd_, kTop * spaces_++));
    }
    uint64_t max_user_address() const override { return kTop; }
    size_t fp_state_size() const override { return 512; }

  private:
    int memory_fd_;
    uint64_t spaces_ = 0;
};

class AddressSpaceTest : public testing::Test {
  protected:
    void SetUp() override {
        install_fault_guard();
        memory_ = MUST(MemoryFile::create(UniqueFd(memfd_create("test", MFD_CLOEXEC)), 0));
        platform_ = std::make_unique<SelfPlatform>(memory_->fd());
        space_ = MUST(AddressSpace::create(*platform_, *memory_));
    }
    GuestAddr map(uint64_t size, int protection = PROT_READ | PROT_WRITE) {
        return MUST(space_->map({.size = size, .protection = protection}));
    }
    static char* app(GuestAddr address) { return reinterpret_cast<char*>(address); }

    std::unique_ptr<MemoryFile> memory_;
    std::unique_ptr<SelfPlatform> platform_;
    Ref<AddressSpace> space_;
};

TEST_F(AddressSpaceTest, CopiesMeetWhatTheApplicationSees) {
    GuestAddr at = map(3 * kPageSize);
    ASSERT_TRUE(space_->copy_out(at + 4090, "hello world", 12).ok());
    EXPECT_STREQ(app(at + 4090), "hello world");
    strcpy(app(at + 8000),
           "from the application, over a page border ............................................."
           "..............................................................................................");
    EXPECT_EQ(*space_->copy_in_string(at + 8000, 4096), app(at + 8000));
    EXPECT_EQ(space_->copy_in_string(at + 8000, 5).error().value, ENAMETOOLONG);
}

TEST_F(AddressSpaceTest, HolesAndProtectionsGiveEfault) {
    GuestAddr at = map(2 * kPageSize);
    char buffer[2 * kPageSize];
    EXPECT_EQ(space_->copy_in_partial(at + kPageSize, buffer, sizeof(buffer)), kPageSize);
    EXPECT_FALSE(space_->copy_in(at + kPageSize, buffer, sizeof(buffer)).ok());
    ASSERT_TRUE(space_->protect(at, kPageSize, PROT_READ).ok());
    EXPECT_TRUE(space_->copy_in(at, buffer, 8).ok());
    EXPECT_FALSE(space_->copy_out(at, buffer, 8).ok());
    ASSERT_TRUE(space_->protect(at, kPageSize, PROT_NONE).ok());
    EXPECT_FALSE(space_->copy_in(at, buffer, 8).ok());
    for (GuestAddr bad : {GuestAddr{0}, kTop - 1, kTop, ~GuestAddr{0}, ~GuestAddr{0} - 4095})
        EXPECT_FALSE(space_->copy_in(bad, buffer, 16).ok()) << bad;
}

TEST_F(AddressSpaceTest, UnmappedPagesComeBackAsZero) {
    for (int round = 0; round < 3; round++) {
        GuestAddr at = map(64 * kPageSize);
        for (int page = 0; page < 64; page++) EXPECT_EQ(app(at)[page * kPageSize + 7], 0);
        memset(app(at), 0xaa, 64 * kPageSize);
        ASSERT_TRUE(space_->unmap(at + kPageSize, 62 * kPageSize).ok());
        EXPECT_EQ(app(at)[63 * kPageSize], static_cast<char>(0xaa));
        ASSERT_TRUE(space_->unmap(at, 64 * kPageSize).ok());
    }
}

TEST_F(AddressSpaceTest, ReservationsOpenPieceByPiece) {
    GuestAddr at = map(uint64_t{64} << 20, PROT_NONE);
    uint64_t before = memory_->bytes_used();
    for (uint64_t page = 0; page < 4; page++) {
        ASSERT_TRUE(space_->protect(at + page * kPageSize, kPageSize, PROT_READ | PROT_WRITE).ok());
        app(at)[page * kPageSize] = 'x';
    }
    EXPECT_LE(memory_->bytes_used() - before, uint64_t{4} << 20);
    EXPECT_EQ(space_->snapshot().size(), 2u);  // the open part and the rest
    EXPECT_EQ(space_->handle_fault({.signo = SIGSEGV, .address = at + (32 << 20)})->code, SEGV_ACCERR);
}

TEST_F(AddressSpaceTest, BrkGrowsAndShrinks) {
    space_->set_brk_start(0x5000000);
    EXPECT_EQ(space_->brk(0, ~uint64_t{0}), 0x5000000u);
    EXPECT_EQ(space_->brk(0x5000000 + 100000, ~uint64_t{0}), 0x5000000u + 100000);
    app(0x5000000)[99999] = 'b';
    EXPECT_EQ(space_->brk(0x5000000 + 200000, ~uint64_t{0}), 0x5000000u + 200000);
    EXPECT_EQ(app(0x5000000)[99999], 'b');
    EXPECT_EQ(space_->brk(0x5000000, ~uint64_t{0}), 0x5000000u);
    EXPECT_TRUE(space_->snapshot().empty());
    EXPECT_EQ(space_->brk(0x5000000 + 4096, 10), 0x5000000u);  // over the limit: unchanged
}

TEST_F(AddressSpaceTest, WhatBrkGaveBackIsGoneUntilItIsTheHeapsAgain) {
    constexpr GuestAddr kStart = 0x5000000;
    constexpr uint64_t kNoLimit = ~uint64_t{0};
    auto grow_to = [&](uint64_t pages) { return space_->brk(kStart + pages * kPageSize, kNoLimit) - kStart; };
    auto all = [&](uint64_t from, uint64_t to, char wanted) {
        for (uint64_t page = from; page < to; ++page)
            for (uint64_t at : {uint64_t{0}, kPageSize - 1})
                if (app(kStart)[page * kPageSize + at] != wanted) return false;
        return true;
    };
    space_->set_brk_start(kStart);
    for (uint64_t most : {64, 600, 3000, 90}) {
        ASSERT_EQ(grow_to(most), most * kPageSize);
        EXPECT_TRUE(all(8, most, 0));
        memset(app(kStart), 0x5a, most * kPageSize);
        ASSERT_EQ(grow_to(most - 20), (most - 20) * kPageSize);
        ASSERT_EQ(grow_to(8), 8 * kPageSize);
        ASSERT_EQ(space_->snapshot().size(), 1u);
        EXPECT_EQ(space_->snapshot()[0].end, kStart + 8 * kPageSize);
        char byte;
        EXPECT_EQ(space_->copy_in(kStart + 8 * kPageSize, &byte, 1).error(), Errno(EFAULT));
        ASSERT_EQ(grow_to(30), 30 * kPageSize);
        EXPECT_TRUE(all(0, 8, 0x5a));
        EXPECT_TRUE(all(8, 30, 0));
        // A child's heap ends here as well, and its growth is its own.
        memset(app(kStart), 0x33, 30 * kPageSize);
        ASSERT_EQ(grow_to(20), 20 * kPageSize);
        auto child = MUST(space_->fork(false)).child;
        ASSERT_EQ(child->brk(kStart + 40 * kPageSize, kNoLimit), kStart + 40 * kPageSize);
        ASSERT_TRUE(child->copy_in(kStart + 25 * kPageSize, &byte, 1).ok());
        EXPECT_EQ(byte, 0);
        ASSERT_EQ(grow_to(40), 40 * kPageSize);
        EXPECT_TRUE(all(20, 40, 0));
        memset(app(kStart), 0x44, 40 * kPageSize);
        ASSERT_EQ(grow_to(8), 8 * kPageSize);
        // Something else comes to the place: it has pages of its own, and the heap cannot grow past it.
        GuestAddr place = kStart + 12 * kPageSize;
        MapRequest request{
            .address = place, .size = 2 * kPageSize, .protection = PROT_READ | PROT_WRITE, .fixed_no_replace = true};
        ASSERT_EQ(MUST(space_->map(request)), place);
        EXPECT_TRUE(all(12, 14, 0));
        memset(app(place), 0x77, 2 * kPageSize);
        EXPECT_EQ(grow_to(13), 8 * kPageSize);
        ASSERT_EQ(grow_to(12), 12 * kPageSize);
        EXPECT_TRUE(all(8, 12, 0));
        EXPECT_TRUE(all(12, 14, 0x77));
        ASSERT_TRUE(space_->unmap(place, 2 * kPageSize).ok());
        ASSERT_EQ(grow_to(16), 16 * kPageSize);
        EXPECT_TRUE(all(12, 16, 0));
        // Unmapped behind its back.
        memset(app(kStart), 0x44, 16 * kPageSize);
        ASSERT_EQ(grow_to(14), 14 * kPageSize);
        ASSERT_TRUE(space_->unmap(kStart + 13 * kPageSize, 2 * kPageSize).ok());
        ASSERT_EQ(grow_to(16), 16 * kPageSize);
        EXPECT_TRUE(all(14, 16, 0));
        ASSERT_EQ(grow_to(0), 0u);
        EXPECT_TRUE(space_->snapshot().empty());
    }
}

TEST_F(AddressSpaceTest, AddressesAreTheHighestFreeOnes) {
    // Pages of the topmost part, counted from the top down; what find_gap() remembers may never show.
    constexpr size_t kPages = 16384;
    std::vector<bool> used(kPages);
    std::mt19937 chance(7);
    auto pick = [&](size_t most) { return static_cast<size_t>(chance() % most); };
    auto address_of = [](size_t page, size_t count) { return kTop - (page + count) * kPageSize; };
    auto mark = [&](size_t page, size_t count, bool to) {
        for (size_t i = page; i < page + count; ++i) used[i] = to;
    };
    for (int round = 0; round < 4000; ++round) {
        const size_t count = 1 + pick(6), page = pick(kPages / 8);
        switch (pick(4)) {
            case 0:
                ASSERT_TRUE(space_->unmap(address_of(page, count), count * kPageSize).ok());
                mark(page, count, false);
                break;
            case 1:
                ASSERT_TRUE(space_
                                ->map({.address = address_of(page, count),
                                       .size = count * kPageSize,
                                       .protection = PROT_READ,
                                       .fixed = true})
                                .ok());
                mark(page, count, true);
                break;
            default: {
                size_t first = 0;
                while (std::find(used.begin() + static_cast<ptrdiff_t>(first),
                                 used.begin() + static_cast<ptrdiff_t>(first + count),
                                 true) != used.begin() + static_cast<ptrdiff_t>(first + count))
                    ++first;
                ASSERT_EQ(map(count * kPageSize), address_of(first, count)) << "round " << round;
                mark(first, count, true);
            }
        }
    }
}

TEST_F(AddressSpaceTest, RemapMovesPagesWithoutCopying) {
    GuestAddr at = map(kPageSize);
    GuestAddr wall = MUST(space_->map({.address = at + kPageSize, .size = kPageSize, .protection = PROT_READ}));
    strcpy(app(at), "moved");
    EXPECT_EQ(space_->remap(at, kPageSize, 3 * kPageSize, 0, 0).error().value, ENOMEM);
    GuestAddr now = MUST(space_->remap(at, kPageSize, 3 * kPageSize, MREMAP_MAYMOVE, 0));
    EXPECT_NE(now, at);
    EXPECT_STREQ(app(now), "moved");
    EXPECT_EQ(app(now)[2 * kPageSize], 0);
    static_cast<void>(wall);
}

TEST_F(AddressSpaceTest, ForkCopiesPrivateAndSharesShared) {
    GuestAddr own = map(kPageSize), big = map(uint64_t{8} << 20);
    auto object = MUST(SharedMemory::create(*memory_, kPageSize));
    GuestAddr shared = MUST(space_->map(
        {.size = kPageSize, .protection = PROT_READ | PROT_WRITE, .shared = true, .object = Ref<Mappable>(object)}));
    strcpy(app(own), "parent");
    strcpy(app(big + (5 << 20)), "deep");
    strcpy(app(shared), "both");
    auto child = MUST(space_->fork(false)).child;
    strcpy(app(own), "changed");
    strcpy(app(shared), "seen");
    EXPECT_EQ(*child->copy_in_string(own, 64), "parent");
    EXPECT_EQ(*child->copy_in_string(big + (5 << 20), 64), "deep");
    EXPECT_EQ(*child->copy_in_string(shared, 64), "seen");
    EXPECT_STREQ(app(own + kTop), "parent");
    EXPECT_EQ(*child->share_key(shared), *space_->share_key(shared));
    EXPECT_NE(*child->share_key(own), *space_->share_key(own));
}

TEST_F(AddressSpaceTest, ForkedChildOfHeldParentGetsItsOwnPages) {
    constexpr uint64_t kSize = uint64_t{4} << 20;
    GuestAddr small = map(kPageSize), big = map(kSize), dropped = map(kSize), locked = map(kSize);
    for (GuestAddr at : {big, dropped, locked}) memset(app(at), 'p', kSize);
    strcpy(app(small), "small");
    auto fork = MUST(space_->fork(true));
    ASSERT_TRUE(fork.parent_held);
    AddressSpace& child = *fork.child;
    auto seen = [&](GuestAddr at) { return app(at + kTop); };
    // Both of the child's ways to write, and none of them reaches the parent.
    seen(big)[100] = 'c';
    ASSERT_TRUE(child.copy_out(big + kPageSize, "sentry", 7).ok());
    EXPECT_EQ(app(big)[100], 'p');
    EXPECT_EQ(app(big)[kPageSize], 'p');
    char byte = 0;
    ASSERT_TRUE(child.copy_in(big + kSize - 1, &byte, 1).ok());
    EXPECT_EQ(byte, 'p');
    ASSERT_TRUE(child.advise(dropped + kPageSize, kPageSize, MADV_DONTNEED).ok());
    EXPECT_EQ(seen(dropped)[kPageSize], 0);
    EXPECT_EQ(seen(dropped)[0], 'p');
    ASSERT_TRUE(child.protect(locked, kSize, PROT_NONE).ok());
    GuestAddr moved = MUST(child.remap(dropped + 2 * kPageSize, kPageSize, 2 * kPageSize, MREMAP_MAYMOVE, 0));
    EXPECT_EQ(seen(moved)[0], 'p');
    ASSERT_TRUE(child.unmap(big + 8 * kPageSize, kPageSize).ok());
    EXPECT_EQ(app(big)[8 * kPageSize], 'p');

    child.release_held_parent();
    memset(app(big), 'q', kSize);
    memset(app(dropped), 'q', kSize);
    memset(app(locked), 'q', kSize);
    EXPECT_EQ(seen(big)[100], 'c');
    EXPECT_STREQ(seen(big) + kPageSize, "sentry");
    EXPECT_EQ(seen(big)[kSize - 1], 'p');
    EXPECT_EQ(seen(dropped)[kPageSize], 0);
    EXPECT_EQ(seen(dropped)[kSize - 1], 'p');
    ASSERT_TRUE(child.protect(locked, kSize, PROT_READ).ok());
    EXPECT_EQ(seen(locked)[kSize - 1], 'p');
    EXPECT_STREQ(seen(small), "small");
    EXPECT_EQ(*child.compare_exchange_word(big, 0x70707070, 1), 0x70707070u);
}

TEST_F(AddressSpaceTest, BorrowedWordsChangeAtomically) {
    constexpr uint64_t kSize = uint64_t{4} << 20;
    GuestAddr big = map(kSize);
    memset(app(big), 'p', kSize);
    auto fork = MUST(space_->fork(true));
    ASSERT_TRUE(fork.parent_held);
    EXPECT_EQ(*fork.child->load_word(big), 0x70707070u);
    EXPECT_EQ(*fork.child->compare_exchange_word(big, 0x70707070, 1), 0x70707070u);
    EXPECT_EQ(*fork.child->load_word(big), 1u);
    EXPECT_EQ(app(big)[0], 'p');
}

TEST_F(AddressSpaceTest, HeldParentMayGoFirst) {
    constexpr uint64_t kSize = uint64_t{4} << 20;
    GuestAddr big = map(kSize);
    memset(app(big), 'p', kSize);
    Ref<AddressSpace> child = MUST(space_->fork(true)).child;
    space_.reset();
    EXPECT_EQ(app(big + kTop)[kSize - 1], 'p');
    child->release_held_parent();
    EXPECT_EQ(app(big + kTop)[kSize - 1], 'p');
}

TEST_F(AddressSpaceTest, LittleMemoryIsCopiedAtOnce) {
    GuestAddr at = map(uint64_t{512} << 10), sparse = map(uint64_t{64} << 20);
    memset(app(at), 'p', 512 << 10);
    auto fork = MUST(space_->fork(true));
    EXPECT_FALSE(fork.parent_held);
    app(at)[0] = 'q';
    EXPECT_EQ(app(at + kTop)[0], 'p');
    EXPECT_EQ(app(sparse + kTop)[0], 0);
}

TEST_F(AddressSpaceTest, StacksAreBackedWhenTouched) {
    constexpr uint64_t kSize = uint64_t{8} << 20;
    GuestAddr at = MUST(space_->map({.size = kSize, .protection = PROT_READ | PROT_WRITE, .stack = true}));
    GuestAddr top = at + kSize;
    EXPECT_EQ(space_->usage().resident_bytes, 0u);
    // By the application, from the top; by the sentry, deep below and over a piece's border.
    EXPECT_FALSE(space_->handle_fault({.signo = SIGSEGV, .address = top - 8, .error_code = 2}).has_value());
    app(top)[-8] = 's';
    ASSERT_TRUE(space_->copy_out(at + (1 << 20) - 3, "border", 7).ok());
    EXPECT_STREQ(app(at + (1 << 20) - 3), "border");
    EXPECT_EQ(*space_->load_word(at + (2 << 20)), 0u);
    EXPECT_EQ(*space_->compare_exchange_word(at + (2 << 20), 0, 5), 0u);
    EXPECT_EQ(*space_->load_word(at + (2 << 20)), 5u);
    iovec host[4];
    IoBuffer buffer = IoBuffer::user(*space_, at + (3 << 20), 16);
    EXPECT_EQ(MUST(buffer.host_pieces(host, true)).bytes, 16u);
    buffer.release();
    EXPECT_LT(space_->usage().resident_bytes, uint64_t{1} << 20);
    // One mapping still, whatever lies behind its pieces.
    auto list = space_->snapshot();
    ASSERT_EQ(list.size(), 1u);
    EXPECT_EQ(list[0].end - list[0].start, kSize);
    auto child = MUST(space_->fork(true)).child;
    EXPECT_EQ(app(top + kTop)[-8], 's');
    EXPECT_EQ(child->snapshot().size(), 1u);
    // A guard below, and all of it away.
    ASSERT_TRUE(space_->protect(at, kPageSize, PROT_NONE).ok());
    EXPECT_TRUE(space_->handle_fault({.signo = SIGSEGV, .address = at, .error_code = 2}).has_value());
    EXPECT_FALSE(space_->copy_out(at, "x", 1).ok());
    ASSERT_TRUE(space_->unmap(at, kSize).ok());
    EXPECT_TRUE(space_->snapshot().empty());
}

TEST_F(AddressSpaceTest, BatchIsDoneAtItsEnd) {
    space_->begin_batch();
    GuestAddr at = map(4 * kPageSize);
    ASSERT_TRUE(space_->copy_out(at, "early", 6).ok());
    MUST(space_->map({.address = at + kPageSize, .size = kPageSize, .protection = PROT_READ, .fixed = true}));
    ASSERT_TRUE(space_->end_batch().ok());
    EXPECT_STREQ(app(at), "early");
    EXPECT_EQ(app(at)[kPageSize], 0);
}

TEST_F(AddressSpaceTest, PartsOfAProgramAreMappedTogether) {
    auto object = MUST(SharedMemory::create(*memory_, 8 * kPageSize));
    GuestAddr whole = MUST(space_->map(
        {.size = 8 * kPageSize, .protection = PROT_READ, .more_follow = true, .object = Ref<Mappable>(object)}));
    auto part = [&](uint64_t page, int protection) {
        return space_->map({.address = whole + page * kPageSize,
                            .size = kPageSize,
                            .protection = protection,
                            .fixed = true,
                            .more_follow = true,
                            .object = Ref<Mappable>(object),
                            .offset = page * kPageSize});
    };
    ASSERT_TRUE(part(2, PROT_READ | PROT_EXEC).ok());
    // Data comes at once and brings all of them along.
    ASSERT_TRUE(part(1, PROT_READ | PROT_WRITE).ok());
    EXPECT_EQ(app(whole)[0], 0);
    ASSERT_TRUE(space_->copy_out(whole + kPageSize, "old", 4).ok());
    ASSERT_TRUE(part(1, PROT_READ | PROT_WRITE).ok());
    EXPECT_EQ(app(whole)[kPageSize], 0);
    ASSERT_TRUE(space_->copy_out(whole + kPageSize, "data", 5).ok());
    // So does whatever else comes next.
    ASSERT_TRUE(part(4, PROT_READ).ok());
    ASSERT_TRUE(space_
                    ->map({.address = whole + 2 * kPageSize,
                           .size = kPageSize,
                           .protection = PROT_READ | PROT_WRITE,
                           .fixed = true})
                    .ok());
    EXPECT_EQ(app(whole)[0], 0);
    EXPECT_STREQ(app(whole + kPageSize), "data");
    EXPECT_EQ(app(whole + 2 * kPageSize)[0], 0);
    // Or a touch does.
    GuestAddr again = MUST(space_->map(
        {.size = 8 * kPageSize, .protection = PROT_READ, .more_follow = true, .object = Ref<Mappable>(object)}));
    EXPECT_FALSE(space_->handle_fault({.signo = SIGSEGV, .address = again}).has_value());
    EXPECT_EQ(app(again)[0], 0);
    ASSERT_TRUE(part(3, PROT_READ).ok());  // over what is mapped: at once
    EXPECT_EQ(app(whole + 3 * kPageSize)[0], 0);
}

// Pages that the application sees instead of a file's code.
class ShownCodeTest : public AddressSpaceTest {
  protected:
    void SetUp() override {
        AddressSpaceTest::SetUp();
        object_ = MUST(SharedMemory::create(*memory_, kPages * kPageSize));
        for (uint64_t page = 0; page < kPages; ++page)
            memset(object_->bytes(page * kPageSize, kPageSize), static_cast<int>('a' + page), kPageSize);
        at_ = MUST(space_->map(
            {.size = kPages * kPageSize, .protection = PROT_READ | PROT_EXEC, .object = Ref<Mappable>(object_)}));
        const std::vector<std::byte> first(2 * kPageSize, std::byte{'X'}), last(kPageSize, std::byte{'Y'});
        const AddressSpace::ShownCode pieces[] = {{at_ + kPageSize, first}, {at_ + 4 * kPageSize, last}};
        space_->show_code(pieces);
        ASSERT_EQ(seen(0, kPages), "aXXdYf");
    }
    void TearDown() override {
        space_ = nullptr;
        object_ = nullptr;
    }
    std::string seen(uint64_t first, uint64_t end) const {
        std::string pages;
        for (uint64_t page = first; page < end; ++page) pages += app(at_)[page * kPageSize + 100];
        return pages;
    }

    static constexpr uint64_t kPages = 6;
    Ref<SharedMemory> object_;
    GuestAddr at_ = 0;
};

TEST_F(ShownCodeTest, WhoAsksTheSentryGetsTheObjects) {
    for (uint64_t page = 0; page < kPages; ++page) {
        char byte = 0;
        ASSERT_TRUE(space_->copy_in(at_ + page * kPageSize, &byte, 1).ok());
        EXPECT_EQ(byte, static_cast<char>('a' + page));
    }
    auto fork = MUST(space_->fork(false));
    char byte = 0;
    ASSERT_TRUE(fork.child->copy_in(at_ + kPageSize, &byte, 1).ok());
    EXPECT_EQ(byte, 'b');
}

TEST_F(ShownCodeTest, PiecesGoTogether) {
    ASSERT_TRUE(space_->unmap(at_ + 4 * kPageSize, 2 * kPageSize).ok());
    EXPECT_EQ(seen(0, 4), "abcd");
}

TEST_F(ShownCodeTest, WritersAndWhatChangesTheMappingGetTheObjects) {
    ASSERT_TRUE(space_->protect(at_ + kPageSize, kPageSize, PROT_READ | PROT_WRITE | PROT_EXEC).ok());
    app(at_)[kPageSize + 7] = '!';
    EXPECT_EQ(seen(0, kPages), "abcdef");
    EXPECT_EQ(*reinterpret_cast<const char*>(object_->bytes(kPageSize + 7, 1)), 'b');
}

TEST_F(ShownCodeTest, TheObjectsChangesAreSeen) {
    memset(object_->bytes(4 * kPageSize, kPageSize), 'z', kPageSize);
    space_->invalidate(*object_, 4 * kPageSize, kPageSize);
    EXPECT_FALSE(space_->handle_fault({.signo = SIGSEGV, .address = at_ + 4 * kPageSize}).has_value());
    EXPECT_EQ(seen(0, kPages), "abcdzf");
}

TEST_F(ShownCodeTest, OnlyCodeThatNobodyMayWrite) {
    GuestAddr data = map(2 * kPageSize);
    const std::vector<std::byte> code(kPageSize, std::byte{'X'});
    const AddressSpace::ShownCode anonymous[] = {{at_, code}, {data, code}};
    space_->show_code(anonymous);
    EXPECT_EQ(app(data)[0], 0);
    EXPECT_EQ(seen(0, 1), "a");
}

TEST_F(AddressSpaceTest, DontNeedReadsAsZero) {
    for (uint64_t size : {uint64_t{16} * kPageSize, uint64_t{4} << 20}) {
        GuestAddr at = map(size);
        memset(app(at), 1, size);
        ASSERT_TRUE(space_->advise(at, size - kPageSize, MADV_DONTNEED).ok());
        EXPECT_EQ(app(at)[0], 0);
        EXPECT_EQ(app(at)[size - 1], 1);
    }
    EXPECT_EQ(space_->advise(0x40000000, kPageSize, MADV_DONTNEED).error().value, ENOMEM);
}

TEST_F(AddressSpaceTest, FixedMapsReplaceAndRefuse) {
    GuestAddr at = map(4 * kPageSize);
    app(at)[kPageSize] = 'o';
    EXPECT_EQ(space_->map({.address = at, .size = kPageSize, .protection = PROT_READ, .fixed_no_replace = true})
                  .error()
                  .value,
              EEXIST);
    ASSERT_TRUE(
        space_->map({.address = at + kPageSize, .size = kPageSize, .protection = PROT_READ, .fixed = true}).ok());
    EXPECT_EQ(app(at)[kPageSize], 0);
    EXPECT_EQ(space_->map({.address = 0x1000, .size = kPageSize, .fixed = true}).error().value, EPERM);
    EXPECT_EQ(space_->map({.address = 12345, .size = kPageSize, .fixed = true}).error().value, EINVAL);
    EXPECT_EQ(space_->map({.size = ~uint64_t{0}}).error().value, ENOMEM);
}

TEST_F(AddressSpaceTest, WordsAreAtomicAndChecked) {
    GuestAddr at = map(kPageSize);
    EXPECT_EQ(*space_->compare_exchange_word(at, 0, 7), 0u);
    EXPECT_EQ(*space_->compare_exchange_word(at, 0, 9), 7u);
    EXPECT_EQ(*space_->load_word(at), 7u);
    EXPECT_EQ(space_->load_word(at + 2).error().value, EINVAL);
    EXPECT_EQ(space_->load_word(at + kPageSize).error().value, EFAULT);
}

TEST_F(AddressSpaceTest, IoBufferWalksPieces) {
    GuestAddr at = map(2 * kPageSize);
    iovec pieces[] = {{app(at), 3}, {app(at), 0}, {app(at + kPageSize), 4}};
    IoBuffer buffer = IoBuffer::user(*space_, pieces);
    EXPECT_EQ(buffer.remaining(), 7u);
    iovec host[4];
    auto got = MUST(buffer.host_pieces(host, true));
    EXPECT_EQ(got.count, 2u);
    EXPECT_EQ(got.bytes, 7u);
    buffer.advance(2);
    EXPECT_EQ(*buffer.copy_to("abcdef", 6), 5u);
    EXPECT_EQ(app(at)[2], 'a');
    EXPECT_EQ(memcmp(app(at + kPageSize), "bcde", 4), 0);
}

}  // namespace
}  // namespace casemate::sentry
