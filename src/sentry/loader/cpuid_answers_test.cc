#include "sentry/loader/cpuid_answers.h"

#include <cpuid.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <iterator>

#include "base/unique_map.h"

namespace casemate::sentry {
namespace {

constexpr size_t kPage = 4096;

// Not what any CPU says, so that it is seen who answered.
CpuidAnswer made_up(uint32_t leaf, uint32_t part) { return {leaf + 1, part + 2, leaf ^ 0x1234, 0xfedcba98}; }

// A page of code that is called with a register's value for CPUID's part and the flags to begin with; after its CPUID,
// the registers are there as 64 bits, and the flags.
class Code {
  public:
    struct State {
        uint64_t ax, bx, cx, dx, flags;
    };

    void bytes(std::initializer_list<int> bytes) {
        for (int byte : bytes) page_[used_++] = static_cast<std::byte>(byte);
    }
    std::span<std::byte> page() { return page_; }
    size_t used() const { return used_; }

    // The sequence is put between a prologue, which loads what it starts with, and an epilogue.
    void begin() {
        bytes({0x53, 0x55, 0x56});                    // push %rbx, %rbp, %rsi
        bytes({0x48, 0x89, 0xfd});                    // mov %rdi, %rbp
        bytes({0x48, 0x89, 0xf7});                    // mov %rsi, %rdi
        bytes({0x48, 0xc7, 0xc0, -1, -1, -1, -1});    // mov $-1, %rax
        bytes({0x48, 0x89, 0xc3, 0x48, 0x89, 0xc2});  // mov %rax, %rbx and %rdx
        bytes({0x48, 0x89, 0xf1});                    // mov %rsi, %rcx
        bytes({0xff, 0x75, 0x20, 0x9d});              // push 32(%rbp); popf
    }
    void end() {
        bytes({0x9c, 0x8f, 0x45, 0x20});  // pushf; pop 32(%rbp)
        bytes({0x48, 0x89, 0x45, 0x00, 0x48, 0x89, 0x5d, 0x08, 0x48, 0x89, 0x4d, 0x10, 0x48, 0x89, 0x55, 0x18});
        bytes({0x5e, 0x5d, 0x5b, 0xc3});  // pop %rsi, %rbp, %rbx; ret
    }
    State run(uint64_t part, uint64_t flags) {
        auto map =
            UniqueMap::create(kPage, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS).take_value();
        std::memcpy(map.data(), page_.data(), kPage);
        State state{0, 0, 0, 0, flags};
        reinterpret_cast<void (*)(State*, uint64_t)>(map.data())(&state, part);
        return state;
    }

  private:
    std::vector<std::byte> page_ = std::vector<std::byte>(kPage);
    size_t used_ = 0;
};

struct Form {
    const char* name;
    std::vector<int> bytes;
    uint32_t leaf;
    std::vector<uint32_t> parts;  // that are answered, by the register or the constant
};

class Forms : public testing::TestWithParam<Form> {};

TEST_P(Forms, AnswersAsTheCpu) {
    const Form& form = GetParam();
    Code code;
    code.begin();
    for (int byte : form.bytes) code.bytes({byte});
    code.end();
    code.bytes({0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc});
    Code patched = code, unheard = code;
    ASSERT_TRUE(answer_cpuid(patched.page(), patched.used(), made_up));
    ASSERT_TRUE(answer_cpuid(unheard.page(), unheard.used()));
    for (uint64_t flags : {0x202ul, 0xad7ul}) {
        constexpr uint64_t kArithmetic = 0x8d5;
        for (uint32_t part : form.parts) {
            const auto state = patched.run(part, flags);
            const CpuidAnswer is = made_up(form.leaf, part);
            EXPECT_EQ(state.ax, is.a) << part;
            EXPECT_EQ(state.bx, is.b) << part;
            EXPECT_EQ(state.cx, is.c) << part;
            EXPECT_EQ(state.dx, is.d) << part;
            EXPECT_EQ(state.flags & kArithmetic, code.run(part, flags).flags & kArithmetic);
        }
        const auto real = code.run(form.parts[0], flags), same = unheard.run(form.parts[0], flags);
        EXPECT_EQ(real.ax, same.ax);
        EXPECT_EQ(real.cx, same.cx);
        EXPECT_EQ(real.dx, same.dx);
        if (form.leaf != 1) {  // the CPU's own number
            EXPECT_EQ(real.bx, same.bx);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(
    All, Forms,
    testing::Values(Form{"plain", {0xb8, 0, 0, 0, 0x80, 0x0f, 0xa2}, 0x80000000, {0}},
                    Form{"leaf1", {0xb8, 1, 0, 0, 0, 0x0f, 0xa2}, 1, {0}},
                    Form{"xor", {0xb8, 7, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2}, 7, {0}},
                    Form{"constant", {0xb8, 0x1d, 0, 0, 0x80, 0xb9, 3, 0, 0, 0, 0x0f, 0xa2}, 0x8000001d, {3}},
                    Form{"behind_branch", {0x7c, 0x43, 0xb8, 6, 0, 0, 0x80, 0x0f, 0xa2}, 0x80000006, {0}},
                    Form{"register", {0xb8, 0x14, 0, 0, 0, 0x89, 0xf9, 0x0f, 0xa2}, 0x14, {0, 1}},
                    Form{"parts", {0xb8, 0xd, 0, 0, 0, 0x89, 0xf9, 0x0f, 0xa2}, 0xd, {0, 1, 2, 5, 7}},
                    Form{"loop",
                         {0x41, 0x54, 0x41, 0xbc, 0xd,  0,    0,    0,    0x0f,
                          0x8c, 0,    0,    0,    0,  // push %r12; mov $13, %r12d; jl
                          0x44, 0x89, 0xe0, 0x89, 0xf9, 0x0f, 0xa2, 0x41, 0x5c},
                         0xd,
                         {0, 1, 2, 7}}),
    [](const auto& info) { return std::string(info.param.name); });

void expect_asked(Code& code, uint32_t leaf, uint32_t part) {
    ASSERT_TRUE(answer_cpuid(code.page(), code.used(), made_up));
    const auto state = code.run(part, 0x202);
    const CpuidAnswer is = ask_cpuid(leaf, part);
    EXPECT_EQ(state.ax, is.a);
    EXPECT_EQ(state.bx, is.b);
    EXPECT_EQ(state.cx, is.c);
    EXPECT_EQ(state.dx, is.d);
}

TEST(CpuidAnswers, OtherPartsAreAskedFor) {
    Code code;
    code.begin();
    code.bytes({0xb8, 0xd, 0, 0, 0, 0x89, 0xf9, 0x0f, 0xa2});  // mov %edi, %ecx
    code.end();
    expect_asked(code, 0xd, 8);
}

TEST(CpuidAnswers, OtherLeavesAreAskedFor) {
    Code code;
    code.begin();
    code.bytes({0x41, 0x54, 0x41, 0xbc, 7, 0, 0, 0, 0x0f, 0x80, 0, 0, 0, 0});  // push %r12; mov $7, %r12d; jo
    code.bytes({0x44, 0x89, 0xe0, 0x89, 0xf9, 0x0f, 0xa2, 0x41, 0x5c});
    code.end();
    expect_asked(code, 7, 0);
}

TEST(CpuidAnswers, BranchesGoWhereTheyWent) {
    Code code;
    code.begin();
    code.bytes({0x41, 0x54, 0x41, 0xbc, 0xd, 0, 0, 0, 0x0f, 0x80, 7, 0, 0, 0});  // over the cpuid
    code.bytes({0x44, 0x89, 0xe0, 0x89, 0xf9, 0x0f, 0xa2, 0x41, 0x5c});
    code.end();
    ASSERT_TRUE(answer_cpuid(code.page(), code.used(), made_up));
    EXPECT_EQ(code.run(1, 0xa02).ax, ~uint64_t{0});
    EXPECT_EQ(code.run(1, 0x202).ax, made_up(0xd, 1).a);
}

TEST(CpuidAnswers, LeavesOtherCodeAlone) {
    const std::vector<std::vector<int>> others = {
        {0x0f, 0xa2},                                  // of a leaf that is not told
        {0xb8, 7, 0, 0, 0, 0x0f, 0xa2},                // of a part that is not told
        {0xb8, 0xb, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2},  // of the CPU it runs on
        {0xb8, 0, 0, 0, 0x40, 0x0f, 0xa2},             // the hypervisor's own
        {0x48, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0, 0},    // a constant of eight bytes
        {0x41, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2},          // to %r8d
        {0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2},          // two instructions
        {0xb8, 0xd, 0, 0, 0, 0x89, 0xc1, 0x0f, 0xa2},  // mov %eax, %ecx
        {0xb8, 1, 0, 0, 0, 0x0f},                      // the code ends
    };
    for (const auto& other : others) {
        Code code;
        code.bytes({0x90});
        for (int byte : other) code.bytes({byte});
        for (int i = 0; i < 16; ++i) code.bytes({0xcc});
        const std::vector<std::byte> before(code.page().begin(), code.page().end());
        EXPECT_FALSE(answer_cpuid(code.page(), code.used(), made_up)) << other[0] << ' ' << other[1];
        EXPECT_TRUE(std::equal(before.begin(), before.end(), code.page().begin()));
    }
}

TEST(CpuidAnswers, NeedsRoomThatNobodyUses) {
    Code full;
    full.bytes({0x90, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2});
    while (full.used() < kPage - 20) full.bytes({0x90});
    EXPECT_FALSE(answer_cpuid(full.page(), full.used(), made_up));

    Code used;
    used.bytes({0x90, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2});
    while (used.used() < 100) used.bytes({0x90});
    used.page()[kPage - 1] = std::byte{1};
    EXPECT_FALSE(answer_cpuid(used.page(), used.used(), made_up));
    used.page()[kPage - 1] = std::byte{0};
    EXPECT_TRUE(answer_cpuid(used.page(), used.used(), made_up));
}

int asked;

TEST(CpuidAnswers, HostileCodeAsksNoMoreThanFits) {
    std::vector<std::byte> code(256 * kPage);
    const size_t used = code.size() - kPage / 2;
    constexpr std::array<unsigned char, 7> kSite = {0xb8, 1, 0, 0, 0, 0x0f, 0xa2};
    for (size_t i = 1; i + kSite.size() <= used; i += kSite.size()) std::memcpy(&code[i], kSite.data(), kSite.size());
    asked = 0;
    EXPECT_TRUE(answer_cpuid(code, used, [](uint32_t leaf, uint32_t part) {
        ++asked;
        return made_up(leaf, part);
    }));
    EXPECT_LE(asked, 100);
}

// Of what is behind the code nothing is run but what was put there, and of the code only jumps are new.
TEST(CpuidAnswers, ChangesOnlyMovesToJumps) {
    std::ifstream file("/lib64/ld-linux-x86-64.so.2", std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    if (bytes.empty()) GTEST_SKIP() << "no ld.so here";
    std::vector<std::byte> code((bytes.size() / kPage + 3) * kPage);
    std::memcpy(code.data(), bytes.data(), bytes.size());
    const std::vector<std::byte> before = code;
    answer_cpuid(code, bytes.size(), made_up);
    for (size_t i = 0; i < bytes.size(); ++i) {
        if (code[i] == before[i]) continue;
        ASSERT_EQ(code[i], std::byte{0xe9}) << i;
        ASSERT_TRUE(before[i] == std::byte{0xb8} || before[i] == std::byte{0x0f}) << i;
        i += 4;
    }
}

}  // namespace
}  // namespace casemate::sentry
