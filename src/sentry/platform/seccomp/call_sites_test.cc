#include "sentry/platform/seccomp/call_sites.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cstring>
#include <vector>

#include "base/unique_map.h"
#include "sentry/platform/seccomp/platform_fixture.h"

namespace casemate::sentry::seccomp {
namespace {

constexpr uint64_t kPage = 0x7f1234567000;
constexpr uint64_t kThunks = kPage - 0x100000;
using Bytes = std::vector<uint8_t>;

class CallSitesTest : public testing::Test {
  protected:
    // Puts code so that it ends at `end` and tells where that is.
    uint64_t place(const Bytes& code, size_t end = 0x100) {
        std::memcpy(page_ + end - code.size(), code.data(), code.size());
        return kPage + end;
    }
    std::optional<CallSite> recognise(uint64_t ip, uint64_t number) { return recognise_site(page_, kPage, ip, number); }
    int32_t jump_distance(size_t offset) {
        int32_t distance;
        std::memcpy(&distance, page_ + offset + 1, sizeof(distance));
        return distance;
    }

    std::byte page_[4096] = {};
    std::byte thunks_[4096] = {};
};

const Bytes kWrite = {0x90, 0xb8, 1, 0, 0, 0, 0x0f, 0x05};
const Bytes kSyscall2 = {0x4d, 0x89, 0xc8, 0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05};
const Bytes kRead = {0x80, 0x3d, 0x31, 0x33, 0x0e, 0, 0, 0x74, 0x17, 0x31, 0xc0, 0x0f, 0x05};

// mov $202, %eax; xor $0x81, %sil; syscall
const Bytes kFutexWake = {0x90, 0xb8, 202, 0, 0, 0, 0x40, 0x80, 0xf6, 0x81, 0x0f, 0x05};
// mov $44, %eax; mov 8(%rsp), %edi; syscall
const Bytes kThreadsSend = {0x90, 0xb8, 44, 0, 0, 0, 0x8b, 0x7c, 0x24, 0x08, 0x0f, 0x05};
// mov 24(%rsp), %rdx; mov 16(%rsp), %rsi; mov %eax, %r8d; mov 8(%rsp), %edi; xor %eax, %eax; syscall
const Bytes kThreadsRead = {0x90, 0x48, 0x8b, 0x54, 0x24, 0x18, 0x48, 0x8b, 0x74, 0x24, 0x10,
                            0x41, 0x89, 0xc0, 0x8b, 0x7c, 0x24, 0x08, 0x31, 0xc0, 0x0f, 0x05};
// mov 16(%rsp), %r9; mov %r11, 8(%rsp); syscall
const Bytes kMuslCancel = {0x4c, 0x8b, 0x4c, 0x24, 0x10, 0x4c, 0x89, 0x5c, 0x24, 0x08, 0x0f, 0x05};
// mov 32(%rsp), %rdx; mov 8(%rsp), %rax; syscall
const Bytes kGoNoError = {0x48, 0x8b, 0x54, 0x24, 0x20, 0x48, 0x8b, 0x44, 0x24, 0x08, 0x0f, 0x05};

// mov %rsi, %r10; mov %rdi, %rdx; mov %rcx, %rsi; mov %rbx, %rdi; syscall
const Bytes kMoves = {0x49, 0x89, 0xf2, 0x48, 0x89, 0xfa, 0x48, 0x89, 0xce, 0x48, 0x89, 0xdf, 0x0f, 0x05};

TEST_F(CallSitesTest, KnowsTheForms) {
    const uint64_t ip = place(kWrite);
    auto site = recognise(ip, 1);
    ASSERT_TRUE(site);
    EXPECT_EQ(site->kind, CallSite::Kind::kStraight);
    EXPECT_EQ(site->start, ip - 7);
    site = recognise(place(kSyscall2), SYS_getpid);
    ASSERT_TRUE(site);
    EXPECT_EQ(site->start, ip - 7);
    site = recognise(place(kRead), SYS_read);
    ASSERT_TRUE(site);
    EXPECT_EQ(site->kind, CallSite::Kind::kCompare);
    EXPECT_EQ(site->start, ip - 13);
    struct {
        const Bytes& code;
        uint64_t number, size;
    } const others[] = {{kFutexWake, 202, 11},
                        {kThreadsSend, 44, 11},
                        {kThreadsRead, 0, 16},
                        {kMuslCancel, 7, 7},
                        {kGoNoError, 110, 7}};
    for (const auto& other : others) {
        site = recognise(place(other.code), other.number);
        ASSERT_TRUE(site) << other.number;
        EXPECT_EQ(site->kind, CallSite::Kind::kStraight);
        EXPECT_EQ(site->start, ip - other.size);
    }
}

TEST_F(CallSitesTest, LeavesAloneWhatIsNotCertain) {
    EXPECT_FALSE(recognise(place(kWrite), 2));  // another number was in rax
    EXPECT_FALSE(recognise(place(kRead), 1));
    Bytes other = kWrite;
    other[0] = 0x41;  // mov $1, %r8d
    EXPECT_FALSE(recognise(place(other), 1));
    other = kSyscall2;
    other[2] = 0xc0;
    EXPECT_FALSE(recognise(place(other), 39));
    EXPECT_FALSE(recognise(place({0x31, 0xc0, 0x0f, 0x05}), 0));
    EXPECT_FALSE(recognise(place({0xb8, 1, 0, 0, 0, 0x0f, 0x34}), 1));  // sysenter
    // Between the number and the syscall: a branch, a call, what changes %rax, what depends on where it stands.
    for (const Bytes& rest :
         {Bytes{0x74, 0x02}, Bytes{0xe8, 0, 0, 0, 0}, Bytes{0x31, 0xc0}, Bytes{0x89, 0xf8},
          Bytes{0x8b, 0x44, 0x24, 0x08}, Bytes{0x48, 0x8d, 0x35, 1, 2, 3, 4}, Bytes{0x8b, 0x3d, 1, 2, 3, 4},
          Bytes{0xb8, 2, 0, 0, 0}, Bytes{0xff, 0xd0}, Bytes{0x8b, 0x7c, 0x24}}) {
        std::memset(page_, 0x90, sizeof(page_));
        Bytes code = {0x0f, 0x05};
        code.insert(code.begin(), rest.begin(), rest.end());
        place(code);
        const Bytes number = {0x90, 0xb8, 1, 0, 0, 0};
        place(number, 0x100 - code.size());
        EXPECT_FALSE(recognise(kPage + 0x100, 1)) << int{rest[0]};
    }
}

TEST_F(CallSitesTest, MovesAloneNeedATrapBetweenThem) {
    const uint64_t ip = place(kMoves);
    const auto site = recognise(ip, 17);
    ASSERT_TRUE(site);
    EXPECT_EQ(site->start, ip - 8);
    EXPECT_EQ(site->trap, 3u);
    CallSites sites;
    const SyscallStop call{.nr = 17, .ip = ip};
    EXPECT_EQ(sites.patch(call, {.page_address = kPage, .page = page_, .thunks_address = kThunks, .thunks = thunks_}),
              PatchOutcome::kFull);
    const ThunkPlaces places = places_for_thunk(*site);
    EXPECT_FALSE(places.contain(kThunks, 4096));
    size_t tried = 0;
    for (uint64_t i = 0; i < places.count; i += 40, ++tried) {
        const uint64_t thunks = (places.first + i * places.step + 4095) & ~uint64_t{4095};
        ASSERT_TRUE(places.contain(thunks, 4096));
        EXPECT_FALSE(places.contain(thunks - 4096, 4096));
        EXPECT_FALSE(places.contain(thunks + places.size, 4096));
        place(kMoves);
        CallSites own;
        ASSERT_EQ(own.patch(call, {.page_address = kPage, .page = page_, .thunks_address = thunks, .thunks = thunks_}),
                  PatchOutcome::kDone);
        EXPECT_EQ(page_[0x100 - 8], std::byte{0xe9});
        EXPECT_EQ(page_[0x100 - 5], std::byte{0xcc});
        EXPECT_EQ(page_[0x100 - 2], std::byte{0x0f});
        EXPECT_EQ(ip - 3 + static_cast<uint64_t>(int64_t{jump_distance(0x100 - 8)}), thunks);
        EXPECT_EQ(own.behind_trap(ip - 5), thunks + 3);
        EXPECT_EQ(own.behind_trap(ip - 8), 0u);
        EXPECT_EQ(own.place_of(thunks), ip - 8);
        EXPECT_EQ(own.place_of(thunks + 3), ip - 5);
        EXPECT_EQ(own.place_of(thunks + 6), ip - 2);
    }
    EXPECT_GT(tried, 4u);
    // Two moves are too few to be sure, and a move to %rax would be lost.
    Bytes other = kMoves;
    other[4] = 0x90;
    EXPECT_FALSE(recognise(place(other), 17));
    other = kMoves;
    other[11] = 0xd8;  // mov %rbx, %rax
    EXPECT_FALSE(recognise(place(other), 17));
    // Low addresses have no places below them.
    const auto low =
        places_for_thunk({.kind = CallSite::Kind::kStraight, .start = 0x401000, .end = 0x401008, .trap = 3});
    EXPECT_LT(low.first, uint64_t{1} << 30);
    EXPECT_GT(low.first + (low.count - 1) * low.step, uint64_t{0x401000} + (uint64_t{1} << 30));
}

TEST_F(CallSitesTest, NothingOutsideOfThePageIsRead) {
    place(kWrite, kWrite.size());
    EXPECT_TRUE(recognise(kPage + kWrite.size(), 1));
    std::memcpy(page_, kWrite.data() + 1, kWrite.size() - 1);
    EXPECT_FALSE(recognise(kPage + kWrite.size() - 1, 1));  // the byte before the instruction is on another page
    EXPECT_TRUE(recognise(place(kWrite, sizeof(page_)), 1));
    for (uint64_t ip : {uint64_t{0}, kPage - 1, kPage, kPage + 1, kPage + 6, kPage + 4097, ~uint64_t{0}})
        EXPECT_FALSE(recognise(ip, 1)) << ip;
    std::memcpy(page_, kRead.data() + 1, kRead.size() - 1);
    EXPECT_FALSE(recognise(kPage + kRead.size() - 1, 0));
}

TEST_F(CallSitesTest, OneInstructionChangesAndTheSyscallStays) {
    const uint64_t ip = place(kWrite);
    std::byte before[4096];
    std::memcpy(before, page_, sizeof(before));
    CallSites sites;
    SyscallStop call{.nr = 1, .ip = ip};
    const SitePatch patch{.page_address = kPage, .page = page_, .thunks_address = kThunks, .thunks = thunks_};
    EXPECT_EQ(sites.patch(call, {.page_address = kPage, .page = page_}), PatchOutcome::kFull);
    EXPECT_EQ(std::memcmp(before, page_, sizeof(before)), 0);
    ASSERT_EQ(sites.patch(call, patch), PatchOutcome::kDone);
    EXPECT_EQ(page_[0x100 - 7], std::byte{0xe9});
    EXPECT_EQ(kPage + 0x100 - 2 + static_cast<uint64_t>(int64_t{jump_distance(0x100 - 7)}), kThunks);
    std::memcpy(before + 0x100 - 7, page_ + 0x100 - 7, 5);
    EXPECT_EQ(std::memcmp(before, page_, sizeof(before)), 0);
    // Patched already: no known form any more.
    EXPECT_EQ(sites.patch(call, patch), PatchOutcome::kUnknown);
    EXPECT_EQ(sites.place_of(kThunks), ip - 7);
    EXPECT_EQ(sites.place_of(kThunks + 5), ip - 2);  // the number is in %rax
    EXPECT_EQ(sites.place_of(kThunks + kThunkSize - 1), ip - 2);
    EXPECT_EQ(sites.place_of(kThunks + kThunkSize), 0u);
    EXPECT_EQ(sites.place_of(kThunks - 1), 0u);
    sites.forget(kThunks);
    EXPECT_EQ(sites.place_of(kThunks), 0u);
}

// Who is stopped in a thunk goes on at the site with what is still to be done.
TEST_F(CallSitesTest, NothingOfAThunkIsDoneTwice) {
    CallSites sites;
    const SitePatch patch{.page_address = kPage, .page = page_, .thunks_address = kThunks, .thunks = thunks_};
    uint64_t ip = place(kFutexWake);
    ASSERT_EQ(sites.patch({.nr = 202, .ip = ip}, patch), PatchOutcome::kDone);
    EXPECT_EQ(sites.place_of(kThunks), ip - 11);
    EXPECT_EQ(sites.place_of(kThunks + 5), ip - 6);
    EXPECT_EQ(sites.place_of(kThunks + 9), ip - 2);
    EXPECT_EQ(sites.place_of(kThunks + 16), ip - 2);
    ip = place(kRead);
    ASSERT_EQ(sites.patch({.nr = 0, .ip = ip}, patch), PatchOutcome::kDone);
    EXPECT_EQ(sites.place_of(kThunks + kThunkSize + 20), ip - 13);
}

TEST_F(CallSitesTest, ThunksRunOutAndMayBeTooFar) {
    CallSites sites;
    const SitePatch patch{.page_address = kPage, .page = page_, .thunks_address = kThunks, .thunks = thunks_};
    const SyscallStop call{.nr = 1, .ip = place(kWrite)};
    for (size_t i = 0; i < sizeof(thunks_) / kThunkSize; ++i) {
        place(kWrite);
        ASSERT_EQ(sites.patch(call, patch), PatchOutcome::kDone) << i;
    }
    place(kWrite);
    EXPECT_EQ(sites.patch(call, patch), PatchOutcome::kFull);
    for (uint64_t far : {kPage + (uint64_t{3} << 30), kPage - (uint64_t{3} << 30), uint64_t{0x400000}})
        EXPECT_EQ(sites.patch(call, {.page_address = kPage, .page = page_, .thunks_address = far, .thunks = thunks_}),
                  PatchOutcome::kFull);
}

// The thunks executed for real, with a trampoline that tells what it was given.
TEST_F(CallSitesTest, ThunksDoWhatTheyReplace) {
    auto map = *UniqueMap::create(3 * 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    auto* base = reinterpret_cast<std::byte*>(map.data());
    const uint64_t address = reinterpret_cast<uint64_t>(base);
    const std::span<std::byte> page(base, 4096);
    std::byte* thunk = base + 4096;
    std::byte* flag = base + 8192;
    // The trampoline: mov %rcx, %rdx; ret
    std::memcpy(base + 8192 + 64, "\x48\x89\xca\xc3", 4);
    struct Answer {
        uint64_t number, behind;
    };
    auto go = [&](const Bytes& code, uint64_t number) {
        std::memset(base, 0xcc, 4096);
        std::memcpy(base + 0x100 - code.size(), code.data(), code.size());
        auto site = recognise_site(page, address, address + 0x100, number);
        EXPECT_TRUE(site);
        EXPECT_TRUE(
            patch_site(*site, page, address, std::span<std::byte, kThunkSize>(thunk, kThunkSize), address + 4096));
        const uint64_t trampoline = address + 8192 + 64;
        for (size_t i = 0; i + 8 <= kThunkSize; ++i) {
            uint64_t word;
            std::memcpy(&word, thunk + i, 8);
            if (word == stub_address(casemate_stub_call)) std::memcpy(thunk + i, &trampoline, 8);
        }
        Answer answer{number, 0};
        // SAFETY: code made above, which returns by the trampoline's ret.
        asm volatile("sub $136, %%rsp; call *%[site]; add $136, %%rsp"
                     : "+a"(answer.number), "=d"(answer.behind)
                     : [site] "r"(site->start)
                     : "rcx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
        return answer;
    };
    Answer answer = go(kWrite, 1);
    EXPECT_EQ(answer.number, 1u);
    EXPECT_EQ(answer.behind, address + 0x100);
    answer = go(kThreadsSend, 44);
    EXPECT_EQ(answer.number, 44u);
    EXPECT_EQ(answer.behind, address + 0x100);
    answer = go(kThreadsRead, 0);
    EXPECT_EQ(answer.number, 0u);
    EXPECT_EQ(answer.behind, address + 0x100);
    answer = go(kSyscall2, 39);
    EXPECT_EQ(answer.number, 39u);
    EXPECT_EQ(answer.behind, address + 0x100);
    answer = go(kGoNoError, 110);  // the number is whatever lies on the stack
    EXPECT_EQ(answer.behind, address + 0x100);
    // read(2): the flag says whether the branch is taken; what it leads to is a `ret` with another answer.
    Bytes read = kRead;
    const int32_t distance = static_cast<int32_t>(8192 - (0x100 - 6));
    std::memcpy(read.data() + 2, &distance, 4);
    *flag = std::byte{1};
    answer = go(read, 0);
    EXPECT_EQ(answer.number, 0u);
    EXPECT_EQ(answer.behind, address + 0x100);
    *flag = std::byte{0};
    read[8] = 0xe0;  // elsewhere: in front of the site
    std::memset(base, 0xcc, 4096);
    std::memcpy(base + 0x100 - read.size(), read.data(), read.size());
    auto site = recognise_site(page, address, address + 0x100, 0);
    ASSERT_TRUE(site);
    ASSERT_TRUE(patch_site(*site, page, address, std::span<std::byte, kThunkSize>(thunk, kThunkSize), address + 4096));
    const uint64_t elsewhere = site->start + 9 - 0x20;
    std::memcpy(base + (elsewhere - address), "\xb8\x4d\x00\x00\x00\xc3", 6);  // mov $77, %eax; ret
    uint64_t number = 0;
    asm volatile("sub $136, %%rsp; call *%[site]; add $136, %%rsp"
                 : "+a"(number)
                 : [site] "r"(site->start)
                 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    EXPECT_EQ(number, 77u);
}

}  // namespace
}  // namespace casemate::sentry::seccomp
