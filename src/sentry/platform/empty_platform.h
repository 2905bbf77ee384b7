// EmptyPlatform: a platform for tests and fuzz targets that call the kernel's own code. Address spaces take every order
// and keep nothing, and no application can run: there is no host process.
#pragma once

#include <array>
#include <atomic>

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

// An application that never goes. What stands for it can be looked at.
class EmptyThread final : public AppThread {
  public:
    Stop resume() override { return {}; }
    Stop complete_syscall(int64_t) override { return {}; }
    Stop complete_and_stop(int64_t) override { return {}; }
    void go_on() override {}
    void answer(int64_t, WakeOn) override {}
    void answer_and_stop(int64_t) override {}
    Stop wait(std::optional<int64_t>) override { return {}; }
    Registers& registers() override { return registers_; }
    std::span<std::byte> fp_state() override { return fp_; }
    void interrupt() override {}
    // One word for each of eight descriptors: 0, or one more than the result.
    StandingPlace place_for(const StandingAnswer& answer) override {
        return {&words_[answer.fd % words_.size()], static_cast<uint64_t>(answer.result) + 1};
    }
    std::optional<int64_t> standing(int fd) const {
        const uint64_t word = words_[static_cast<size_t>(fd) % words_.size()].load();
        return word != 0 ? std::optional<int64_t>(static_cast<int64_t>(word) - 1) : std::nullopt;
    }
    int host_thread_id() const override { return 0; }

  private:
    Registers registers_;
    std::array<std::byte, 512> fp_{};
    std::array<std::atomic<uint64_t>, 8> words_{};
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
