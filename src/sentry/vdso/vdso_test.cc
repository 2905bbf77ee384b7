#include "sentry/vdso/vdso.h"

#include <dlfcn.h>
#include <elf.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "base/unique_fd.h"

namespace casemate::sentry {
namespace {

// The image as a program sees it, loaded by the C library's own loader, with the host's functions behind it.
class VdsoTest : public testing::Test {
  protected:
    void SetUp() override {
        clocks_.clock_gettime = reinterpret_cast<uint64_t>(&::clock_gettime);
        clocks_.time = reinterpret_cast<uint64_t>(static_cast<time_t (*)(time_t*)>(&::time));
        memory_ = MUST(MemoryFile::create(UniqueFd(memfd_create("memory", MFD_CLOEXEC)), 0));
        vdso_ = Vdso::create(clocks_, *memory_, 64);
        ASSERT_NE(vdso_, nullptr);
    }
    std::byte* bytes() {
        auto piece = MUST(vdso_->image()->backing(0, vdso_->size(), false));
        return memory_->at(piece.offset, piece.size);
    }
    void load() {
        UniqueFd file(memfd_create("vdso", MFD_CLOEXEC));
        ASSERT_EQ(write(file.get(), bytes(), vdso_->size()), static_cast<ssize_t>(vdso_->size()));
        std::string path = "/proc/self/fd/" + std::to_string(file.get());
        handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        ASSERT_NE(handle_, nullptr) << dlerror();
    }
    void TearDown() override {
        if (handle_ != nullptr) dlclose(handle_);
    }
    template <typename F>
    F function(const char* name) {
        void* found = dlvsym(handle_, name, "LINUX_2.6");
        EXPECT_NE(found, nullptr) << name;
        return reinterpret_cast<F>(found);
    }

    HostClocks clocks_;
    std::unique_ptr<MemoryFile> memory_;
    std::unique_ptr<Vdso> vdso_;
    void* handle_ = nullptr;
};

TEST_F(VdsoTest, NeedsAPlatformWithClocks) { EXPECT_EQ(Vdso::create(HostClocks{}, *memory_, 1), nullptr); }

TEST_F(VdsoTest, IsOnePageWithoutWritableParts) {
    EXPECT_LE(vdso_->size(), 4096u);
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(bytes());
    ASSERT_EQ(std::memcmp(header->e_ident, ELFMAG, SELFMAG), 0);
    EXPECT_EQ(header->e_type, ET_DYN);
    const auto* segments = reinterpret_cast<const Elf64_Phdr*>(bytes() + header->e_phoff);
    for (int i = 0; i < header->e_phnum; ++i) EXPECT_EQ(segments[i].p_flags & PF_W, 0u);
}

TEST_F(VdsoTest, FunctionsAnswerAsTheSystemCalls) {
    load();
    auto gettime = function<int (*)(clockid_t, timespec*)>("__vdso_clock_gettime");
    auto getres = function<int (*)(clockid_t, timespec*)>("__vdso_clock_getres");
    auto gettimeofday = function<int (*)(timeval*, void*)>("__vdso_gettimeofday");
    auto time = function<time_t (*)(time_t*)>("__vdso_time");
    auto getcpu = function<int (*)(unsigned*, unsigned*, void*)>("__vdso_getcpu");
    for (clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI, CLOCK_PROCESS_CPUTIME_ID,
                            CLOCK_THREAD_CPUTIME_ID}) {
        timespec before{}, told{}, after{};
        syscall(SYS_clock_gettime, clock, &before);
        EXPECT_EQ(gettime(clock, &told), 0);
        syscall(SYS_clock_gettime, clock, &after);
        auto ns = [](const timespec& at) { return at.tv_sec * 1'000'000'000 + at.tv_nsec; };
        EXPECT_LE(ns(before), ns(told));
        EXPECT_LE(ns(told), ns(after));
        timespec resolution{}, expected{};
        EXPECT_EQ(getres(clock, &resolution), 0);
        syscall(SYS_clock_getres, clock, &expected);
        EXPECT_EQ(ns(resolution), ns(expected));
    }
    timespec at{};
    EXPECT_EQ(gettime(77, &at), -EINVAL);
    EXPECT_EQ(gettime(-1, &at), static_cast<int>(syscall(SYS_clock_gettime, -1, &at)) == 0 ? 0 : -errno);
    timeval now{};
    struct timezone zone {};
    EXPECT_EQ(gettimeofday(&now, nullptr), 0);
    EXPECT_LE(std::abs(now.tv_sec - ::time(nullptr)), 1);
    EXPECT_EQ(gettimeofday(&now, &zone), 0);
    time_t stored = 0;
    EXPECT_EQ(time(&stored), stored);
    unsigned cpu = ~0U, node = ~0U;
    EXPECT_EQ(getcpu(&cpu, &node, nullptr), 0);
    EXPECT_LT(cpu, 64u);
    EXPECT_EQ(node, 0u);
    EXPECT_EQ(getcpu(nullptr, nullptr, nullptr), 0);
}

}  // namespace
}  // namespace casemate::sentry
