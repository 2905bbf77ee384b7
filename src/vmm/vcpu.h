// A virtual processor with its thread: runs the guest, gives what it does to ports and registers to the machine, and
// can be stopped at an instruction's border.
//
// Guest-controlled: everything in kvm_run after an exit. Sizes in it are KVM's own and still checked.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>

#include "vmm/kvm.h"

namespace casemate::vmm {

// How a guest ended, each told apart.
enum class GuestEnd {
    kPowerOff,
    kReboot,
    kPanic,
    kTripleFault,
    kStopped,  // by us
    kFailed,   // KVM or the host could not go on; the reason is in words
};

// What a vCPU's thread hands on. Called from any vCPU's thread at any time.
class ExitHandler {
  public:
    virtual ~ExitHandler() = default;
    // An access that nobody answers to reads as ones and writes into nothing. At most 8 bytes.
    virtual void port_read(uint16_t port, std::span<uint8_t> data) = 0;
    virtual void port_write(uint16_t port, std::span<const uint8_t> data) = 0;
    virtual void register_read(uint64_t address, std::span<uint8_t> data) = 0;
    virtual void register_write(uint64_t address, std::span<const uint8_t> data) = 0;
    // Before anything else that an exit brings: writes to ports that KVM kept until now, in their order.
    virtual void delayed_writes(KvmVcpu& vcpu) = 0;
    // The machine stops. `why` is for kFailed.
    virtual void ended(GuestEnd end, std::string why) = 0;
};

// Stops and starts all vCPU threads of a machine.
class RunGate {
  public:
    enum class State { kPaused, kRunning, kStopped };

    void set(State state);
    // Waits while paused; false when stopped. Counts the caller among the waiting ones meanwhile.
    bool pass();
    // Whether a vCPU may go on right now.
    bool open() const { return state_.load(std::memory_order_acquire) == State::kRunning; }
    // Until `count` threads wait.
    void wait_for(size_t count);
    // A thread is gone for good; it counts as waiting.
    void leave();

  private:
    std::atomic<State> state_{State::kPaused};
    std::mutex lock_;
    std::condition_variable changed_;
    size_t waiting_ = 0;  // guarded by lock_
};

class Vcpu {
  public:
    Vcpu(uint32_t id, KvmVcpu kvm, RunGate& gate, ExitHandler& handler)
        : id_(id), kvm_(std::move(kvm)), gate_(gate), handler_(handler) {}
    ~Vcpu() { join(); }
    Vcpu(const Vcpu&) = delete;

    uint32_t id() const { return id_; }
    // Only while its thread waits at the gate, or has not started.
    KvmVcpu& kvm() { return kvm_; }

    // `prepare` runs first in the new thread (its seccomp filter); on its error the machine ends.
    Result<void> start(std::function<Result<void>()> prepare);
    // Makes KVM_RUN return soon, or not be entered. The gate was set before.
    void kick();
    void join();

    // Signals that interrupt KVM_RUN; installed once for the process.
    static Result<void> install_kick_signal();

  private:
    static void* thread_main(void* self);
    void run_guest();
    // False if the machine ended.
    bool handle_exit();
    void finish_pending();
    void fail(std::string why);

    uint32_t id_;
    KvmVcpu kvm_;
    RunGate& gate_;
    ExitHandler& handler_;
    std::function<Result<void>()> prepare_;
    pthread_t thread_ = {};
    bool started_ = false;
    std::atomic<bool> alive_{false};
};

}  // namespace casemate::vmm
