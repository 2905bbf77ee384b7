// EmptyPlatform: a platform for tests and fuzz targets that call the kernel's own code. Address spaces take every order
// and keep nothing, and no application can run: there is no host process.
#pragma once

#include "sentry/platform/platform.h"

namespace casemate::sentry {

class EmptySpace final : public HostAddressSpace {
  public:
    SysResult<void> apply(std::span<const MapOrder>) override { return {}; }
    SysResult<std::unique_ptr<AppThread>> create_thread() override { return Errno(ENOSYS); }
    SysResult<size_t> read_memory(uint64_t, std::span<std::byte>) override { return Errno(EFAULT); }
    SysResult<size_t> write_memory(uint64_t, std::span<const std::byte>) override { return Errno(EFAULT); }
    void kill() override {}
    int host_process_id() const override { return 0; }
};

class EmptyPlatform final : public Platform {
  public:
    SysResult<std::unique_ptr<HostAddressSpace>> create_address_space() override {
        return std::unique_ptr<HostAddressSpace>(new EmptySpace());
    }
    uint64_t max_user_address() const override { return uint64_t{1} << 46; }
    size_t fp_state_size() const override { return 512; }
};

}  // namespace casemate::sentry
