#include "vmm/vcpu.h"

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace casemate::vmm {

namespace {

// SIGUSR2 and not a real-time one: those are ours to share with libraries.
constexpr int kKickSignal = SIGUSR2;
constexpr size_t kThreadStack = 128 << 10;

void ignore_signal(int) {}

std::string internal_error(const kvm_run& run) {
    std::string out = fmt::format("KVM could not go on (internal error {})", run.internal.suberror);
    for (uint32_t i = 0; i < std::min<uint32_t>(run.internal.ndata, 4); ++i)
        out += fmt::format(" {:#x}", run.internal.data[i]);
    return out;
}

}  // namespace

void RunGate::set(State state) {
    std::lock_guard guard(lock_);
    if (state_.load() == State::kStopped) return;
    state_.store(state, std::memory_order_release);
    changed_.notify_all();
}

bool RunGate::pass() {
    if (open()) return true;
    std::unique_lock guard(lock_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(guard, [&] { return state_.load() != State::kPaused; });
    --waiting_;
    return state_.load() == State::kRunning;
}

void RunGate::wait_for(size_t count) {
    std::unique_lock guard(lock_);
    changed_.wait(guard, [&] { return waiting_ >= count; });
}

void RunGate::leave() {
    std::lock_guard guard(lock_);
    ++waiting_;
    changed_.notify_all();
}

Result<void> Vcpu::install_kick_signal() {
    struct sigaction action = {};
    action.sa_handler = ignore_signal;
    if (::sigaction(kKickSignal, &action, nullptr) < 0) return sys_error("sigaction of the vCPU's signal");
    return {};
}

Result<void> Vcpu::start(std::function<Result<void>()> prepare) {
    prepare_ = std::move(prepare);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kThreadStack);
    int error = pthread_create(&thread_, &attributes, thread_main, this);
    pthread_attr_destroy(&attributes);
    if (error != 0) return sys_error(fmt::format("start the thread of vCPU {}", id_), error);
    started_ = true;
    return {};
}

void* Vcpu::thread_main(void* self) {
    auto& vcpu = *static_cast<Vcpu*>(self);
    char name[16];
    std::snprintf(name, sizeof name, "vcpu %u", vcpu.id_);
    pthread_setname_np(pthread_self(), name);
    vcpu.alive_.store(true);
    auto prepared = vcpu.prepare_ ? vcpu.prepare_() : Result<void>();
    if (!prepared.ok())
        vcpu.fail(prepared.error().message());
    else
        vcpu.run_guest();
    vcpu.alive_.store(false);
    vcpu.gate_.leave();
    return nullptr;
}

void Vcpu::kick() {
    // Order: the gate is closed before this, the thread clears the flag before it looks at the gate. So either it sees
    // the gate closed or KVM_RUN sees the flag; the signal is for a guest that runs already.
    __atomic_store_n(&kvm_.state()->immediate_exit, uint8_t{1}, __ATOMIC_SEQ_CST);
    if (started_ && alive_.load()) (void)pthread_kill(thread_, kKickSignal);
}

void Vcpu::join() {
    if (!started_) return;
    pthread_join(thread_, nullptr);
    started_ = false;
}

void Vcpu::fail(std::string why) { handler_.ended(GuestEnd::kFailed, fmt::format("vCPU {}: {}", id_, why)); }

// An access to a port or register is complete only when KVM_RUN is entered again.
void Vcpu::finish_pending() {
    __atomic_store_n(&kvm_.state()->immediate_exit, uint8_t{1}, __ATOMIC_SEQ_CST);
    (void)kvm_.run();
}

void Vcpu::run_guest() {
    while (true) {
        if (!gate_.open()) {
            finish_pending();
            if (!gate_.pass()) return;
        }
        __atomic_store_n(&kvm_.state()->immediate_exit, uint8_t{0}, __ATOMIC_SEQ_CST);
        if (!gate_.open()) continue;
        auto ran = kvm_.run();
        handler_.delayed_writes(kvm_);
        if (ran.ok()) {
            if (!handle_exit()) return;
            continue;
        }
        if (ran.error().value == EINTR || ran.error().value == EAGAIN) continue;
        if (ran.error().value == EFAULT)
            return fail("the host cannot give memory that the guest touched (out of memory, or a file was cut)");
        return fail(sys_error("KVM_RUN", ran.error().value).message());
    }
}

bool Vcpu::handle_exit() {
    kvm_run& run = *kvm_.state();
    switch (run.exit_reason) {
        case KVM_EXIT_IO: {
            auto* data = reinterpret_cast<uint8_t*>(&run) + run.io.data_offset;
            size_t size = run.io.size;
            if (size > 4) return true;
            for (uint32_t i = 0; i < run.io.count; ++i, data += size) {
                if (run.io.direction == KVM_EXIT_IO_OUT)
                    handler_.port_write(run.io.port, {data, size});
                else
                    handler_.port_read(run.io.port, {data, size});
            }
            return true;
        }
        case KVM_EXIT_MMIO: {
            size_t size = std::min<size_t>(run.mmio.len, sizeof run.mmio.data);
            if (run.mmio.is_write)
                handler_.register_write(run.mmio.phys_addr, {run.mmio.data, size});
            else
                handler_.register_read(run.mmio.phys_addr, {run.mmio.data, size});
            return true;
        }
        case KVM_EXIT_INTR:
        case KVM_EXIT_IRQ_WINDOW_OPEN:
            return true;
        case KVM_EXIT_SHUTDOWN:
            handler_.ended(GuestEnd::kTripleFault, "");
            return false;
        case KVM_EXIT_SYSTEM_EVENT:
            handler_.ended(run.system_event.type == KVM_SYSTEM_EVENT_RESET   ? GuestEnd::kReboot
                           : run.system_event.type == KVM_SYSTEM_EVENT_CRASH ? GuestEnd::kPanic
                                                                             : GuestEnd::kPowerOff,
                           "");
            return false;
        case KVM_EXIT_HLT:
            fail("it halted for good");
            return false;
        case KVM_EXIT_FAIL_ENTRY:
            fail(fmt::format("the processor refused to enter the guest (reason {:#x})",
                             static_cast<uint64_t>(run.fail_entry.hardware_entry_failure_reason)));
            return false;
        case KVM_EXIT_INTERNAL_ERROR:
            fail(internal_error(run));
            return false;
        default:
            fail(fmt::format("KVM came back for a reason that is not known here ({})", run.exit_reason));
            return false;
    }
}

}  // namespace casemate::vmm
