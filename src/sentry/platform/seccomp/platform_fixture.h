// A platform over a memory file with the test programs in it.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "base/unique_map.h"
#include "sentry/platform/seccomp/seccomp_platform.h"
#include "sentry/platform/seccomp/test_programs.h"

namespace casemate::sentry::seccomp {

class SeccompPlatformTest : public testing::Test {
  protected:
    void SetUp() override {
        memory_file_ = make_memory_file();
        auto platform = SeccompPlatform::create(memory_file_.get());
        ASSERT_TRUE(platform.ok()) << platform.error().message();
        platform_ = std::move(*platform);
        auto map = UniqueMap::create(kFileSize, PROT_READ | PROT_WRITE, MAP_SHARED, memory_file_.get());
        memory_ = std::move(*map);
    }

    std::unique_ptr<HostAddressSpace> make_space() {
        auto space = platform_->create_address_space();
        EXPECT_TRUE(space.ok());
        const MapOrder orders[] = {map_order(kCode, 0x1000, PROT_READ | PROT_EXEC, kFileCode),
                                   map_order(kData, 0x4000, PROT_READ | PROT_WRITE, kFileData)};
        auto applied = (*space)->apply(orders);
        EXPECT_TRUE(applied.ok()) << applied.error().value;
        return std::move(*space);
    }
    std::unique_ptr<AppThread> make_thread(HostAddressSpace& space, const char* program) {
        auto thread = space.create_thread();
        EXPECT_TRUE(thread.ok()) << (thread.ok() ? 0 : thread.error().value);
        (*thread)->registers().ip = at(program);
        (*thread)->registers().sp = kStackTop;
        return std::move(*thread);
    }
    char* data() { return memory_.data() + kFileData; }

    UniqueFd memory_file_;
    UniqueMap memory_;
    std::unique_ptr<SeccompPlatform> platform_;
};

}  // namespace casemate::sentry::seccomp
